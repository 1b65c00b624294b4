"""Audit: attack what a run made, with canaries planted before training and records held out of it.

Promises:
- What `leakage`, `exposures` and `black_box` ask of the models is made up. So with a model tuned
  under the plan, the result is post-processing, and it holds no secret.
- The input of `white_box` depends on no record.
- Numbers of guesses are fixed before a score is seen.
- `membership` is the exception: it scores real records outside the mechanism. What it returns is
  for `private/` alone.

Does not: bound the privacy loss from above, or choose which units are held out
(`records.hold_out` does).
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np

from privcode.audit.canaries import OF_THOSE, Canary, candidates, leaks, space_bits
from privcode.audit.coin_canaries import CoinCanary
from privcode.audit.exposure import exposure, summary
from privcode.audit.membership import SCORES, Curve, inference, roc, scores
from privcode.audit.one_run import CONFIDENCE, choose_guesses, lower_bound
from privcode.data.records import Record, units_of
from privcode.generation.local import LocalGenerator
from privcode.privacy.plan import PrivacyPlan
from privcode.training.likelihood import record_log_probabilities

Progress = Callable[[int], object]


@dataclass(frozen=True)
class Target:
    """A tuned model under attack, and the same model before tuning. Both are loaded when called.

    Attributes:
        name: "junior" or "tuned model".
        ask: prompts, and how the answer to each begins, to everything that the model answered.
        tuned, untuned: load the model.
        asking: puts a prompt to it; see `models.asking`.
        max_tokens: longer records were cut in training, or left out.
        batch_size: examples scored at a time.
    """

    name: str
    ask: Callable[[list[tuple[str, str]]], list[str]]
    tuned: Callable[[], LocalGenerator]
    untuned: Callable[[], LocalGenerator]
    asking: Callable[[str], str]
    max_tokens: int
    batch_size: int

    def score(
        self, generator: LocalGenerator, records: Sequence[Record], progress: Progress
    ) -> list[tuple[np.ndarray, bool]]:
        """`record_log_probabilities` under `generator`, of records as this target saw them."""
        return record_log_probabilities(
            generator, records, self.asking, self.max_tokens, self.batch_size, progress
        )


def leakage(
    planted: Sequence[Canary],
    places: Mapping[str, Sequence[str]],
    targets: Sequence[Target],
    opening: str,
) -> dict[str, Any]:
    """Which secrets come out, by place: `places` (name -> texts), and what the targets answer.

    Each model is asked for the secret of every canary (`Canary.asked`). If secrets were planted in
    prompts, too, what came out anywhere is also given for each of the places that they stood in.

    Args:
        planted: the canaries.
        places: texts that may hold secrets.
        targets: the models.
        opening: the public text that prompts are written after.
    """
    texts = {place: list(found) for place, found in places.items()}
    for target in targets:
        asked = [question for canary in planted for question in canary.asked(opening)]
        texts[f"{target.name}, asked for them"] = target.ask(asked)
    texts["anywhere"] = [text for found in texts.values() for text in found]
    found = {place: leaks(planted, found) for place, found in texts.items()}
    for words, some in _by_place(planted).items():
        found[f"anywhere{words}"] = leaks(some, texts["anywhere"])
    return found


def _by_place(planted: Sequence[Canary]) -> dict[str, list[Canary]]:
    """The canaries of each place, by words for it. Nothing is said if all are in the code."""
    if all(canary.place == "code" for canary in planted):
        return {"": list(planted)}
    words = {"": list(planted)}
    for place, name in OF_THOSE.items():
        words[name] = [canary for canary in planted if canary.place == place]
    return {name: some for name, some in words.items() if some}


def exposures(
    planted: Sequence[Canary],
    targets: Sequence[Target],
    opening: str,
    n: int,
    seed: int,
    progress: Progress,
) -> dict[str, Any] | None:
    """The exposure of every canary among `n` candidates, in the targets and before their tuning.

    A secret in a prompt is ranked by the likelihood of that prompt after `opening`. One in both is
    ranked by the likelihood of prompt and code together. `progress` is called with numbers of
    examples: there are 2 × (n + 1) × pairs of the canaries × targets.

    Returns:
        {"candidates": n, "models": {name: `exposure.summary`}}; None for no candidates.
    """
    if not n:
        return None
    models = {}
    for target in targets:
        forms = {target.name: target.tuned, f"{target.name}, before tuning": target.untuned}
        for name, load in forms.items():
            generator = load()
            found = {}
            for canary in planted:
                pairs = [one.pairs(opening) for one in [canary, *candidates(canary, n, seed)]]
                records = [pair for of_one in pairs for pair in of_one]
                sums = [float(p.sum()) for p, _ in target.score(generator, records, progress)]
                likely = np.reshape(sums, (n + 1, -1)).sum(1)
                one = exposure(-likely[0], -likely[1:], space_bits(canary.kind))
                found[canary] = (canary.kind, canary.repetitions, one)
            for words, some in _by_place(planted).items():
                models[f"{name}{words}"] = summary(found[canary] for canary in some)
    return {"candidates": n, "models": models}


def white_box(
    scores: Sequence[float], included: Sequence[bool], plan: PrivacyPlan
) -> dict[str, Any]:
    """Lower bounds on ε from the scores and coins of gradient canaries: `one_run.Bound` as JSON."""
    return _bound(np.array(scores), included, plan, choose_guesses(plan, len(scores)))


def black_box(
    thrown: Sequence[CoinCanary], targets: Sequence[Target], plan: PrivacyPlan, progress: Progress
) -> dict[str, dict[str, Any]]:
    """Lower bounds on ε from each target: what tuning added to the coin canaries' likelihood.

    Two numbers of guesses are used: one canary in ten, and all. The numbers of examples go
    to `progress`: there are 2 × canaries × targets.
    """
    records = [canary.record for canary in thrown]
    guesses = tuple(dict.fromkeys((-(-len(thrown) // 10), len(thrown))))
    bounds = {}
    for target in targets:
        after, before = (
            target.score(load(), records, progress) for load in (target.tuned, target.untuned)
        )
        gained = [
            a.mean() - b.mean() if len(a) else 0.0
            for (a, _), (b, _) in zip(after, before, strict=True)
        ]
        coins = [canary.included for canary in thrown]
        bounds[target.name] = _bound(np.array(gained), coins, plan, guesses)
    return bounds


def _bound(
    scores: np.ndarray, included: Sequence[bool], plan: PrivacyPlan, guesses: Sequence[int]
) -> dict[str, Any]:
    found = lower_bound(scores, np.array(included), plan, guesses)
    return asdict(found) | {"confidence": CONFIDENCE}


def sides(
    trained: Sequence[Record], held_out: Sequence[Record], seed: int
) -> tuple[list[list[Record]], list[list[Record]]]:
    """Members and non-members, by unit: a random sample of trained units, as many as held out."""
    units, others = units_of(trained), units_of(held_out)
    chosen = random.Random(seed).sample(range(len(units)), min(len(units), len(others)))
    return (
        [[trained[i] for i in units[unit]] for unit in chosen],
        [[held_out[i] for i in unit] for unit in others],
    )


def membership(
    members: Sequence[Sequence[Record]],
    others: Sequence[Sequence[Record]],
    targets: Sequence[Target],
    progress: Progress,
) -> tuple[dict[str, Any], dict[str, Curve]]:
    """How well units that were trained on can be distinguished from others: private figures.

    A unit's score is the mean over its records. Records longer than the context are left out on
    both sides, because some methods train on part of them and others skip them. The
    numbers of examples go to `progress`: there are 2 × records × targets.

    Returns:
        {"members": N, "non_members": N, "models": {target: {score: `membership.inference`}}}, and
        ROC curves by name.
    """
    records = [record for unit in (*members, *others) for record in unit]
    models: dict[str, Any] = {}
    curves: dict[str, Curve] = {}
    for target in targets:
        after, before = (
            target.score(load(), records, progress) for load in (target.tuned, target.untuned)
        )
        pairs = zip(after, before, strict=True)
        rows = []  # one per unit: the mean of its records' scores, or NaN for each
        for unit in (*members, *others):
            found = [scores(a, b) for (a, cut), (b, _) in islice(pairs, len(unit)) if not cut]
            rows.append(np.mean(found, axis=0) if found else np.full(len(SCORES), np.nan))
        models[target.name] = {}
        columns = np.reshape(rows, (-1, len(SCORES))).T  # also works without any unit
        for name, column in zip(SCORES, columns, strict=True):
            inside, outside = (part[~np.isnan(part)] for part in np.split(column, [len(members)]))
            if len(inside) and len(outside):
                models[target.name][name] = inference(inside, outside)
                curves[f"{target.name}, {name}"] = roc(inside, outside)
    facts = {"members": len(members), "non_members": len(others), "models": models}
    return facts, curves
