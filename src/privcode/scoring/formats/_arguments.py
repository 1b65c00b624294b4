"""MBPP+ arguments as Python values, and how answers to single tasks are compared.

Promises: JSON has no tuples, sets or complex numbers. Where MBPP's functions take these, the lists
and strings of the file are converted, as in evalplus (`data/mbpp.py`).
Does not: apply to HumanEval+, whose arguments are JSON values.
"""

from collections.abc import Callable, Sequence
from typing import Any

from privcode.scoring.tasks import Task

_TUPLE_ARGUMENTS = {
    *(2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630),
    *(726, 740, 744, 809),
}
_LISTS_OF_TUPLES = {
    *(63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780),
    *(75, 413, 444, 753),
}
_TUPLES_OF_TUPLES = {259, 278, 401, 445}
_FIRST_A_TUPLE = {250, 307, 405, 446, 617, 720, 763, 808}
_SECOND_A_TUPLE = {106, 750}
_TUPLES_THROUGHOUT = {580, 615, 791}


def _tuples(value: Any, *depths: int, at: int = 1) -> Any:
    """`value` with its lists at `depths` made tuples. Depth 1 is the value itself."""
    if not isinstance(value, list) or at > max(depths):
        return value
    items = [_tuples(item, *depths, at=at + 1) for item in value]
    return tuple(items) if at in depths else items


_OTHER: dict[int, Callable[[Any], list[Any]]] = {
    115: lambda given: [
        [set(item) if isinstance(item, list) and item else {} for item in given[0]]
    ],
    124: lambda given: [float(given[0]), complex(given[1])],
    252: lambda given: [complex(given[0])],
    722: lambda given: [{key: tuple(item) for key, item in given[0].items()}, *given[1:]],
}


def _arguments(number: int, given: Sequence[Any]) -> list[Any]:
    if number in _OTHER:
        return _OTHER[number](given)
    if number in _FIRST_A_TUPLE:
        return [_tuples(given[0], 1), *given[1:]]
    if number in _SECOND_A_TUPLE:
        return [given[0], _tuples(given[1], 1), *given[2:]]
    if number in _TUPLE_ARGUMENTS:
        return [_tuples(item, 1) for item in given]
    if number in _LISTS_OF_TUPLES:
        return [_tuples(item, 2) for item in given]
    if number in _TUPLES_OF_TUPLES:
        return [_tuples(item, 1, 2) for item in given]
    if number in _TUPLES_THROUGHOUT:
        return [_tuples(item, *range(1, 100)) for item in given]
    return list(given)


def phases(task: Task) -> list[tuple[str, list[list[Any]]]]:
    """[("base", argument lists), ("plus", argument lists)] of a task with structured inputs."""
    assert task.cases is not None
    number = int(task.task_id.rpartition("/")[2]) if task.format == "mbpp+" else 0
    pairs = (("base", task.cases.base), ("plus", task.cases.plus))
    return [(name, [_arguments(number, given) for given in inputs]) for name, inputs in pairs]


_ORACLES = {
    "HumanEval/32": "root",  # any root of the polynomial
    "Mbpp/164": "any",  # the original tests do not distinguish right answers from wrong ones
    "Mbpp/295": "zero",
    "Mbpp/558": "digits",
    "Mbpp/581": "pyramid",
}
_VIEWS = {
    # The original tests compare sets.
    **dict.fromkeys([f"Mbpp/{n}" for n in (2, 7, 111, 140, 232, 249, 579, 769)], "set"),
    # The answer is a match of a regular expression, or None.
    **dict.fromkeys([f"Mbpp/{n}" for n in (737, 787, 794)], "not none"),
}


def comparison(task: Task) -> dict[str, Any]:
    """How the judge compares answers to this task: {"oracle", "view", "atol"}."""
    assert task.cases is not None
    oracle = _ORACLES.get(task.task_id, "none")
    return {
        "oracle": oracle,
        "view": _VIEWS.get(task.task_id, "plain"),
        "atol": task.cases.atol,
    }
