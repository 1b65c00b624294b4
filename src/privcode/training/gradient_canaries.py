"""Gradient canaries: made-up units whose gradient is known, for the white-box one-run audit.

Promises: each canary is a unit with a coordinate of its own, which records keep out of, and a
gradient ten times the clip norm there, so that nothing but the engine's clipping bounds it. A fair
coin decides before training whether it takes part; then it is drawn, clipped and noised as any
unit. Coordinates, signs and coins follow from the seed alone and are public; what is seen of a
canary is its coordinate of each step's noised sum, which the accountant gives away anyhow, and
which no record has a part in.
Does not: read a record, or come for free: the coordinates learn nothing from the records, and get
the noise and, when a canary is drawn, a clip norm.
"""

import math
import random
from collections.abc import Iterator

import numpy as np
import torch

from privcode.errors import UserError
from privcode.privacy.plan import PrivacyPlan

_NORM = 10.0  # of a canary's gradient, in clip norms


class GradientCanaries:
    """Canaries of one run, and what was seen of them so far.

    Attributes:
        included: [canaries] bool, the coins.
        present: how many take part: units beside the private ones.
        scores: [canaries] float64, log-likelihood ratio of in against out under the plan, summed
            over the steps seen.
    """

    def __init__(self, plan: PrivacyPlan, parameters: int, count: int, seed: int) -> None:
        """Throw the coins.

        Args:
            plan: the claim: what the observations are scored under.
            parameters: how many trainable parameters there are to take coordinates from.
            count: how many canaries.
            seed: of coordinates, signs and coins; has nothing to do with the noise.

        Raises:
            UserError: there are more canaries than parameters.
        """
        if count > parameters:
            raise UserError(
                f"audit.gradient_canaries: {count} canaries need as many coordinates, and the "
                f"adapter has {parameters}; plant fewer"
            )
        rng = random.Random(f"privcode gradient canaries {seed}")
        self._plan, self._parameters = plan, parameters
        self.coordinates = torch.tensor(rng.sample(range(parameters), count))
        self.signs = torch.tensor([rng.choice((-1.0, 1.0)) for _ in range(count)])
        self.included = np.array([rng.random() < 0.5 for _ in range(count)], dtype=bool)
        self.scores = torch.zeros(count, dtype=torch.float64)
        self._in = np.flatnonzero(self.included)
        self.present = len(self._in)

    def gradients(
        self, drawn: np.ndarray, most: int, device: torch.device
    ) -> Iterator[torch.Tensor]:
        """Gradients [at most `most`, parameters] of the drawn ones, numbers below `present`."""
        size = _NORM * self._plan.clip_norm
        for start in range(0, len(drawn), most):
            chosen = self._in[drawn[start : start + most]]
            rows = torch.zeros(len(chosen), self._parameters)
            rows[range(len(chosen)), self.coordinates[chosen]] = size * self.signs[chosen]
            yield rows.to(device)

    def observe(self, noised: torch.Tensor) -> None:
        """Score one step by its noised sum, [parameters]."""
        projection = noised[self.coordinates.to(noised.device)].cpu() * self.signs
        seen = projection.double().numpy() / self._plan.clip_norm
        plan = self._plan
        step = log_likelihood_ratio(seen, plan.sampling_rate, plan.noise_multiplier)
        self.scores += torch.from_numpy(step)


def log_likelihood_ratio(seen: np.ndarray, sampling_rate: float, noise: float) -> np.ndarray:
    """log p(seen | in) − log p(seen | out) of one step, for 1 × drawn + noise × N(0, 1).

    Args:
        seen: observations in units of the clip norm.
        sampling_rate: probability with which a canary that is in is drawn.
        noise: the noise multiplier.
    """
    noise = max(noise, 0.05)  # no noise at all: any small one puts the scores in the right order
    drawn = math.log(sampling_rate) + (2 * seen - 1) / (2 * noise**2)
    not_drawn = math.log1p(-sampling_rate) if sampling_rate < 1 else -math.inf
    return np.logaddexp(not_drawn, drawn)
