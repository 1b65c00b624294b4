"""Everything public that a report or a release is made of."""

from dataclasses import dataclass
from typing import Any

from privcode.privacy.accounting import Spent
from privcode.privacy.plan import PrivacyPlan


@dataclass(frozen=True)
class Evidence:
    """Everything public that a report or a release is made of.

    Attributes:
        title: the run's name.
        plan: its privacy plan.
        spent: what its ledger says was spent; empty for a run without DP training.
        others: what other runs over the same data spent; composed unless the plan says not.
        sweep: {"settings", "score"} of the sweep whose best trial the run is, if there is one.
        prompts: name of the public prompts' file. None if the prompts came out of the mechanism.
        junior: name of the untuned junior model.
        premium: name of the untuned premium model.
        filters: "samples", "accepted", "reasons" (reason -> count), "execution", "round_trip",
            "surest".
        evaluation: task -> model -> {"pass@1", "tasks", "errors", …}.
        audit: {"samples_per_prompt", "places": {place: leaks}, "exposure":
            `audit.measure.exposures` or None}, where canaries were planted; {"one_run": {what was
            looked at: `audit.one_run.Bound`}}, where coins were thrown.
        versions: package -> version.
        public: whether the owner declares that the private data are public.
    """

    title: str
    plan: PrivacyPlan
    spent: tuple[Spent, ...]
    others: tuple[Spent, ...]
    prompts: str | None
    junior: str
    premium: str
    filters: dict[str, Any]
    evaluation: dict[str, dict[str, Any]]
    audit: dict[str, Any] | None
    versions: dict[str, str]
    sweep: dict[str, Any] | None = None
    public: bool = False
