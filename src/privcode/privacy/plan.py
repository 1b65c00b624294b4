"""The one object that decides privacy.

Promises:
- A frozen `PrivacyPlan` holds the neighbouring relation, the unit, the sampling rate, the steps,
  the clip norm, the noise multiplier and the event. If there is a histogram, it holds that one's
  noise multiplier, too.
- The sampler, the clipper, the noise and the accountant are all made from it, so they cannot
  disagree.
- Nothing else in privcode takes an ε, a noise multiplier or a batch size.

Does not: look at data. The sampling rate comes from the declared, public number of units.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from privcode.console import epsilon_text
from privcode.errors import UserError
from privcode.privacy import histogram
from privcode.privacy.accounting import (
    LEAST_NOISE,
    MOST_NOISE,
    MOST_STEPS,
    MOST_TRIALS,
    Cost,
    Spent,
    calibrate_noise_multiplier,
    group_epsilon,
    spend,
)
from privcode.privacy.clipping import MOST_UNITS, Clipper
from privcode.privacy.noise import gaussian
from privcode.privacy.randomness import Randomness
from privcode.privacy.sampling import poisson_sample

NEIGHBOURING: Literal["add or remove one unit"] = "add or remove one unit"
Selection = Literal["composition", "trials", "not-charged"]


MOST = {
    "units": 10**15,
    "max_records_per_unit": 10**9,
    "expected_batch": 10**9,
    "steps": MOST_STEPS,
}
"""The largest whole numbers of a plan, by field. The smallest is 1."""

LEAST_DELTA = 1e-100


def _short(number: object) -> str:
    """A number as a person may have typed it, cut where it is very long."""
    if isinstance(number, int) and abs(number) >= 10**30:
        return "a number of more than 30 digits"  # Python refuses to print very long ones
    text = f"{number}"
    return text if len(text) <= 40 else f"{text[:40]}…"


@dataclass(frozen=True)
class PrivacyPlan:
    """How one DP-SGD run samples, clips, adds noise and is accounted for.

    Attributes:
        owner_column: the column that names the owner. One neighbour adds or removes all records
            of one owner. None where the unit is one record. See `unit`.
        units: declared (public) number of units.
        max_records_per_unit: records of one unit that may take part at all.
        expected_batch: expected units per step; also the divisor of the clipped sum.
        steps: noised updates.
        clip_norm: bound on one unit's summed gradient (L2).
        noise_multiplier: noise's standard deviation over the clipper's sensitivity.
        delta: δ at which ε is quoted.
        reproducible_seed: None draws all randomness from the operating system's cryptographic
            generator. A number makes the run repeatable. The guarantee then holds only if nobody
            knows that number.
        selection: how other runs over the same data, and choosing settings by them, are charged:
            composed; as the best of `trials`; or not at all, which every output then states.
        trials: mean of the Poisson number of trials of which this run is the best. Must be at
            least 1. Otherwise the theorem (see `Spent`) does not cover drawing no trials.
        histogram_noise_multiplier: standard deviation of the noise on a histogram that is released
            once before the steps, over its sensitivity (`histogram.SENSITIVITY`). None for none.
    """

    units: int
    max_records_per_unit: int
    expected_batch: int
    steps: int
    clip_norm: float
    noise_multiplier: float
    delta: float
    reproducible_seed: int | None = None
    selection: Selection = "composition"
    trials: float | None = None
    owner_column: str | None = None
    neighbouring: Literal["add or remove one unit"] = NEIGHBOURING
    histogram_noise_multiplier: float | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that have no meaning as a mechanism, or that no accountant can handle."""
        for name, most in MOST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not 1 <= value <= most:
                raise UserError(
                    f"privacy.{name}: is {_short(value)}; must be a whole number from 1 to {most:,}"
                )
        if self.owner_column is None and self.max_records_per_unit != 1:
            raise UserError(
                f"privacy.max_records_per_unit: is {self.max_records_per_unit}; must be 1 when the "
                "unit is the record"
            )
        if not 1e-9 <= self.clip_norm <= 1e9:  # its square must be a number in fp32
            raise UserError(
                f"privacy.clip_norm: is {_short(self.clip_norm)}; must be from 1e-9 to 1e9"
            )
        if not 0 <= self.noise_multiplier <= MOST_NOISE:
            raise UserError(
                f"privacy.noise_multiplier: is {_short(self.noise_multiplier)}; must be from 0 to "
                f"{MOST_NOISE:,.0f}"
            )
        noise = self.histogram_noise_multiplier
        if noise is not None and not LEAST_NOISE <= noise <= MOST_NOISE:
            raise UserError(
                f"prompts.histogram.noise_multiplier: is {_short(noise)}; must be from "
                f"{LEAST_NOISE} to {MOST_NOISE:,.0f}"
            )
        if not LEAST_DELTA <= self.delta < 1:
            raise UserError(
                f"privacy.delta: is {_short(self.delta)}; must be from {LEAST_DELTA:g} to 1"
            )
        if self.delta > 1 / self.units:
            raise UserError(
                f"privacy.delta: {self.delta:g} is larger than 1/units = {1 / self.units:g}, which "
                f"would allow publishing a whole record; use at most {1 / (10 * self.units):.1g}"
            )
        if self.expected_batch > self.units:
            raise UserError(
                f"privacy.batch: {self.expected_batch} is more than privacy.units, {self.units}; "
                "lower the batch or correct the units"
            )
        if self.expected_batch > MOST_UNITS:
            raise UserError(
                f"privacy.batch: {self.expected_batch} is more than {MOST_UNITS}, beyond which "
                "sums are no longer exact; take smaller batches"
            )
        if self.selection not in get_args(Selection):
            names = ", ".join(get_args(Selection))
            raise UserError(f"privacy.selection: is {self.selection}; choose one of {names}")
        if (self.selection == "trials") != (self.trials is not None):
            raise UserError("privacy.trials: belongs to privacy.selection: trials; give both")
        if self.trials is not None and not 1 <= self.trials <= MOST_TRIALS:
            raise UserError(
                f"privacy.trials: is {_short(self.trials)}; the mean must be at least 1 "
                f"and at most {MOST_TRIALS:,}"
            )
        if self.trials is not None and self.reproducible_seed is not None:
            raise UserError(
                "privacy.noise: is reproducible, which would give every trial the same noise; "
                "privacy.selection: trials needs cryptographic noise"
            )

    @property
    def unit(self) -> Literal["record", "owner"]:
        """What one neighbour adds or removes. `owner_column` says which records an owner has."""
        return "record" if self.owner_column is None else "owner"

    @property
    def sampling_rate(self) -> float:
        """Probability with which each unit takes part in a step."""
        return self.expected_batch / self.units

    def spent(self, steps: int | None = None) -> Spent:
        """The accounting event of `steps` steps (default: all), and of the histogram."""
        taken = self.steps if steps is None else steps
        return Spent(
            self.sampling_rate,
            self.noise_multiplier,
            taken,
            self.trials,
            self.owner_column,
            self.histogram_noise_multiplier,
        )

    def cost(self, others: Sequence[Spent] = ()) -> Cost:
        """ε of the whole run, by PLD and RDP, composed with `others` over the same data."""
        return spend((self.spent(), *others), self.delta)

    def group_epsilon(self, units: int, others: Sequence[Spent] = ()) -> float:
        """ε at δ for `units` units together: that of a fact in the records of that many units.

        An upper bound by PLD, infinite where it is above `accounting.GROUP_CEILING`.
        """
        return group_epsilon((self.spent(), *others), self.delta, units)

    def charge(self, others: Sequence[Spent] = (), taken: Spent | None = None) -> "Charge":
        """What is quoted for this run, where `others` spent budget on the same data.

        `taken` is what the run has spent, by default, all of the plan.
        """
        own = (taken or self.spent(),)
        of_all = spend((*own, *others), self.delta)
        if self.selection != "not-charged":
            return Charge(of_all, (*own, *others), (), of_all, self.selection)
        alone = spend(own, self.delta)
        return Charge(alone, own, tuple(others), of_all, self.selection)

    def randomness(self) -> Randomness:
        """Where the bits of the sampler and of the noise come from."""
        return Randomness(self.reproducible_seed)

    def sample(self, present: int, step: int, randomness: Randomness) -> np.ndarray:
        """Indices of the units (of the `present` ones) that take part in `step`."""
        return poisson_sample(present, self.sampling_rate, randomness.stream("sampling", step))

    def clipper(self, model: nn.Module) -> Clipper:
        """The engine that bounds each unit's gradient by the clip norm."""
        return Clipper(model, self.clip_norm)

    def noise(self, clipper: Clipper, step: int, randomness: Randomness) -> torch.Tensor:
        """Gaussian noise for `step`, float64 on the sum's grid, one number per parameter."""
        stdev = self.noise_multiplier * clipper.sensitivity
        return clipper.round(gaussian(clipper.parameters, stdev, randomness.stream("noise", step)))

    def histogram_noise(self, bins: int, randomness: Randomness) -> np.ndarray:
        """[bins] int64: Gaussian noise for the histogram, in steps of its grid."""
        assert self.histogram_noise_multiplier is not None
        stdev = self.histogram_noise_multiplier * histogram.SENSITIVITY
        return histogram.on_grid(gaussian(bins, stdev, randomness.stream("histogram", 0)))

    def describe(self) -> dict[str, Any]:
        """All public facts of the plan as JSON values. A histogram only if there is one."""
        facts = asdict(self)
        if self.histogram_noise_multiplier is None:
            del facts["histogram_noise_multiplier"]
        seed = facts.pop("reproducible_seed")
        return facts | {
            "unit": self.unit,
            "sampling_rate": self.sampling_rate,
            "noise": "cryptographic" if seed is None else "reproducible",
        }


@dataclass(frozen=True)
class Charge:
    """The cost that is quoted, what it covers, and what it leaves out.

    Attributes:
        cost: what is quoted.
        spent: what `cost` covers: the run's own part, then what is composed with it.
        not_charged: what other runs over the same data spent and `cost` leaves out.
        of_all: the cost of everything.
    """

    cost: Cost
    spent: tuple[Spent, ...]
    not_charged: tuple[Spent, ...]
    of_all: Cost
    selection: Selection

    @property
    def words(self) -> str | None:
        """A warning that nobody may overlook: other runs, or choosing by them, are not charged."""
        if self.selection != "not-charged":
            return None
        others = len(self.not_charged)
        return (
            f"NOT CHARGED: {others} other run{'' if others == 1 else 's'} over the same data "
            f"{'was' if others == 1 else 'were'} made; settings chosen by looking at such runs are "
            f"not covered by this ε; with all of them ε = {epsilon_text(self.of_all.epsilon)}"
        )


def make_plan(
    *,
    epsilon: float | None,
    delta: float,
    units: int,
    batch: int,
    steps: int,
    clip_norm: float = 1.0,
    owner_column: str | None = None,
    max_records_per_unit: int = 1,
    noise_multiplier: float | None = None,
    reproducible_seed: int | None = None,
    selection: Selection = "composition",
    trials: float | None = None,
    histogram_noise_multiplier: float | None = None,
) -> PrivacyPlan:
    """A plan for a target `epsilon` (infinite allowed), or for a given noise multiplier.

    The target covers the histogram and the steps together.

    Raises:
        UserError: a number is out of range, or not exactly one of the two is given.
    """
    if (epsilon is None) == (noise_multiplier is None):
        raise UserError("privacy: give exactly one of epsilon and noise_multiplier")
    if epsilon is not None and not epsilon > 0:
        raise UserError(
            f"privacy.epsilon: is {_short(epsilon)}; must be positive, or .inf for no privacy"
        )

    def plan(noise: float) -> PrivacyPlan:
        return PrivacyPlan(
            owner_column=owner_column,
            units=units,
            max_records_per_unit=max_records_per_unit,
            expected_batch=batch,
            steps=steps,
            clip_norm=clip_norm,
            noise_multiplier=noise,
            delta=delta,
            reproducible_seed=reproducible_seed,
            selection=selection,
            trials=trials,
            histogram_noise_multiplier=histogram_noise_multiplier,
        )

    if noise_multiplier is not None:
        return plan(noise_multiplier)
    assert epsilon is not None
    checked = plan(0.0)  # refuses bad numbers before the calibration uses them
    return plan(
        calibrate_noise_multiplier(
            epsilon, delta, checked.sampling_rate, steps, trials, histogram_noise_multiplier
        )
    )
