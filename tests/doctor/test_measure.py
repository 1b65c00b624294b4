"""`privcode doctor --measure`: real models are timed, on made-up texts, for `plan` to use."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from privcode import cli
from privcode.config import parse_config
from privcode.doctor import measure as measuring
from privcode.doctor.measure import measure, pieces, wanted
from privcode.errors import UserError
from privcode.models import load_tokenizer
from privcode.models.tokens import answer_tokens
from privcode.pipeline.rates import read_rates
from tests.helpers.sandboxed import sandboxed

LORA = {"r": 2, "alpha": 4}
JUNIOR = {"model": "bundled:junior", "lora": LORA, "max_tokens": 64}
# No file of it is there.
VALUES: dict[str, Any] = {
    "data": {"source": "private.jsonl", "language": "python"},
    "privacy": {"epsilon": 4, "delta": 1e-5, "units": 64000, "batch": 8, "steps": 20},
    "prompts": {"source": "public", "file": "prompts.jsonl", "limit": 100},
    "junior": JUNIOR,
    "sanitize": {"micro_batch": 2},
    "synthesize": {"max_new_tokens": 16, "batch_size": 2},
    "validate": {"round_trip": {"method": "likelihood", "batch_size": 2}},
    "premium": JUNIOR,
    "boost": {"epochs": 1, "batch_size": 4, "micro_batch": 2},
}


@sandboxed
@pytest.mark.slow
def test_a_config_is_measured_and_its_plan_uses_every_rate(tmp_path: Path) -> None:
    at = tmp_path / "small.yaml"
    at.write_text(yaml.safe_dump(VALUES))
    state = torch.random.get_rng_state()
    done = CliRunner().invoke(cli.app, ["doctor", "--measure", str(at)])
    assert done.exit_code == 0, done.output
    assert torch.equal(torch.random.get_rng_state(), state)
    assert f"privcode plan {at}\n" in done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.rates.json", "small.yaml"]
    found = read_rates(tmp_path / "small.rates.json")
    assert sorted(rate.doing.what for rate in found.rates) == ["dp", "read", "sample", "tune"]
    for rate in found.rates:
        assert 10 < rate.read < 1e7
        assert (rate.written is not None) == (rate.doing.what == "sample")
        assert 1e-4 < rate.seconds < 100
        if rate.doing.what != "sample":
            assert rate.read == pytest.approx(rate.tokens / rate.seconds, rel=0.01)
    assert 0.5 < found.programs["python"] < 10_000
    planned = CliRunner().invoke(cli.app, ["plan", str(at), "--json"])
    (line,) = [line for line in planned.output.splitlines() if line.startswith("{")]
    cost = json.loads(line)["cost"]
    assert cost["not_measured"] == []
    assert cost["all"]["measured"] > 0
    assert cost["all"]["measured"] == pytest.approx(cost["all"]["seconds"])
    assert cost["rates"]["file"] == str(tmp_path / "small.rates.json")


def test_reading_and_sampling_are_measured_in_seconds() -> None:
    read = {"what": "read", "model": "bundled:junior", "dtype": "float32", "batch": 2}
    for what in ("read", "sample"):
        doing = measuring.Doing(**read | {"what": what})
        rate = measuring._MEASURES[what](doing, measuring.Sampled())
        assert rate.doing == doing
        assert rate.read > 10


def test_what_cannot_be_measured_is_named_and_the_rest_goes_on() -> None:
    server = {"backend": "endpoint", "endpoint": {"url": "http://127.0.0.1:9/v1"}}
    chosen = parse_config(
        VALUES
        | {
            "synthesize": VALUES["synthesize"] | server,
            "premium": {"model": "nobody/toy-1B"},
            "sanitize": {"micro_batch": 2},
            "validate": {"execution": {"enabled": False}, "round_trip": {"method": "off"}},
        }
    )
    found, languages, left_out = wanted(chosen)
    assert [doing.what for doing in found] == ["dp", "tune"]
    assert languages == []
    assert left_out == ["sample bundled:junior: a server does it"]
    assert pieces(chosen) == 2
    result = measure(chosen)
    assert [rate.doing.what for rate in result.rates] == ["dp"]
    assert result.left_out[1].startswith("tune nobody/toy-1B: ")


def test_nothing_measured_is_refused() -> None:
    nobody = {"model": "nobody/toy-1B"}
    quiet = {"execution": {"enabled": False}, "round_trip": {"method": "off"}}
    chosen = parse_config(VALUES | {"junior": nobody, "premium": nobody, "validate": quiet})
    with pytest.raises(UserError, match=r"nothing could be measured \(dp nobody/toy-1B: "):
        measure(chosen)


def test_all_arms_of_a_comparison_are_measured_once() -> None:
    compare = {"methods": ["privcode", "dpft"], "seeds": [0, 1]}
    found, _, _ = wanted(parse_config(VALUES | {"compare": compare, "sanitize": {}}))
    assert sorted(doing.what for doing in found) == ["dp", "read", "sample", "tune"]
    apart = compare | {"settings": {"dpft": {"sanitize.syntax.schedule": "off"}}}
    found, _, _ = wanted(parse_config(VALUES | {"compare": apart}))
    assert sorted(doing.what for doing in found) == ["dp", "dp", "read", "sample", "tune"]


@pytest.mark.parametrize("tokens", [40, 100, 500])
def test_made_up_code_is_about_as_long_as_asked(tokens: int) -> None:
    tokenizer = load_tokenizer("bundled:junior")
    length = len(answer_tokens(tokenizer, measuring._text(tokenizer, tokens)).ids)
    assert tokens - 40 < length <= tokens


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--measure", "c.yaml", "--model", "m"], "--measure and --model"),
        (["--out", "r.json"], "belongs to --measure"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: list[str], words: str) -> None:
    done = CliRunner().invoke(cli.app, ["doctor", *options])
    assert isinstance(done.exception, UserError)
    assert words in str(done.exception)
