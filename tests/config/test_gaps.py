"""What a config may ask of models that fill gaps in code."""

import re
from typing import Any

import pytest

from privcode.config import Config

GOOD: dict[str, Any] = {
    "data": {"source": "d.jsonl"},
    "privacy": {"epsilon": 4, "delta": 1e-5, "units": 1000, "batch": 10, "steps": 10},
    "prompts": {"source": "public", "file": "p.jsonl"},
    "junior": {"model": "a", "template": "fim"},
    "premium": {"model": "b", "template": "<PRE> {prefix} <SUF>{suffix} <MID>"},
    "validate": {"round_trip": {"method": "off"}},
    "evaluate": {"tasks": [{"name": "t", "file": "t.jsonl", "mode": "complete"}]},
}


def test_both_models_fill_gaps_and_code_alone_is_judged() -> None:
    config = Config.model_validate(GOOD)
    assert config.describer is None


@pytest.mark.parametrize(
    ("section", "value", "fault"),
    [
        ("premium", {"model": "b", "template": "chat"}, r"premium\.template: .* both fill gaps"),
        ("junior", {"model": "a"}, r"premium\.template: .* both fill gaps"),
        ("validate", {}, r'validate\.round_trip\.method: must be "off"'),
        ("evaluate", {"tasks": [{"name": "t", "file": "t.jsonl"}]}, r"mode must be complete"),
    ],
)
def test_what_makes_no_sense_with_gaps_is_refused(section: str, value: Any, fault: str) -> None:
    with pytest.raises(ValueError, match=re.compile(fault)):
        Config.model_validate(GOOD | {section: value})


def describer(premium: dict[str, Any], trip: dict[str, Any]) -> tuple[str, str, str | None]:
    plain = {"junior": {"model": "a"}, "evaluate": {}, "premium": {"model": "b"} | premium}
    config = Config.model_validate(GOOD | plain | {"validate": {"round_trip": trip}})
    assert config.describer
    return config.describer.model, config.describer.template, config.describer.system


def test_the_describer_is_asked_in_a_chat_where_its_template_is_one() -> None:
    chat = {"template": "chat", "system": "Be brief."}
    assert describer({}, {}) == ("b", "{prompt}", None)
    assert describer(chat, {}) == ("b", "chat", "Be brief.")
    assert describer(chat, {"chat": False}) == ("b", "{prompt}", None)
    assert describer(chat, {"describer": "c"}) == ("c", "{prompt}", None)
    assert describer({}, {"describer": "c", "chat": True}) == ("c", "chat", None)
    assert describer({}, {"chat": True}) == ("b", "chat", None)
