"""Gradient canaries: made-up units with a known gradient, for the white-box one-run audit.

Promises:
- Each canary is a unit with its own coordinate. Records do not write to this coordinate.
- A canary's gradient there is ten times the clip norm, so only the engine's clipping bounds it.
- A fair coin decides before training whether a canary takes part. If it does, it is drawn, clipped
  and noised like any unit.
- Coordinates, signs and coins follow from the seed alone and are public.
- What is seen of a canary is its coordinate in each step's noised sum. The accountant counts this
  sum as released anyway, and no record has a part in the coordinate.

Does not:
- Read a record.
- Come for free. The coordinates learn nothing from the records. They get the noise and, when a
  canary is drawn, one clip norm.
"""

import math
import random
from collections.abc import Iterator

import numpy as np
import torch

from privcode.errors import UserError
from privcode.privacy.plan import PrivacyPlan

_NORM = 10.0  # norm of a canary's gradient, in clip norms


class GradientCanaries:
    """The canaries of one run, and their scores so far.

    Attributes:
        included: [canaries] bool, the coins.
        present: how many canaries take part, as units in addition to the private ones.
        scores: [canaries] float64, log-likelihood ratio of in against out under the plan, summed
            over the steps seen.
    """

    def __init__(self, plan: PrivacyPlan, parameters: int, count: int, seed: int) -> None:
        """Throw the coins.

        Args:
            plan: the claimed privacy plan. Observations are scored under it.
            parameters: number of trainable parameters. The coordinates are chosen among them.
            count: number of canaries.
            seed: seed of coordinates, signs and coins. It has nothing to do with the noise.

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
        """Gradients [at most `most`, parameters] of canaries `drawn`, numbers below `present`."""
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
        sampling_rate: the probability that a canary that takes part is drawn.
        noise: the noise multiplier.
    """
    noise = max(noise, 0.05)  # for no noise at all, any small value ranks the scores correctly
    drawn = math.log(sampling_rate) + (2 * seen - 1) / (2 * noise**2)
    not_drawn = math.log1p(-sampling_rate) if sampling_rate < 1 else -math.inf
    return np.logaddexp(not_drawn, drawn)
