"""A run whose models are sampled at a server: what is sent, and what is refused beforehand."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from privcode.audit import canaries
from privcode.config import Config, parse_config
from privcode.errors import UserError
from privcode.exercises.corpus import prelude, private_records, public_prompts, tasks
from privcode.files import read_jsonl, write_jsonl
from privcode.generation import backends
from privcode.generation.backends import backend_of
from privcode.generation.settings import Sampled
from privcode.pipeline.preflight import refuse_early
from privcode.pipeline.run import Run
from tests.helpers.servers import Proxy, plain_folder, proxy, transformers_server

SERVER = {"backend": "endpoint", "endpoint": {"url": "http://127.0.0.1:9/v1"}}
VALUES: dict[str, Any] = {
    "data": {"source": "private.jsonl", "language": "python"},
    "privacy": {
        "epsilon": None,
        "noise_multiplier": 1.0,
        "delta": 1e-3,
        "units": 40,
        "batch": 2,
        "steps": 1,
    },
    "prompts": {"source": "public", "file": "prompts.jsonl"},
    "junior": {"model": "bundled:junior"},
    "premium": {"model": "bundled:premium"},
}


def config(**changes: Any) -> Config:
    sections = {name: VALUES.get(name, {}) | given for name, given in changes.items()}
    return parse_config(VALUES | sections)


@pytest.mark.parametrize(
    ("privacy", "why"),
    [
        ({"noise_multiplier": 0.0}, "has no guarantee"),
        ({"noise": "reproducible"}, "has reproducible noise"),
        ({"selection": "trials", "trials": 4.0}, "is one trial of a sweep"),
    ],
)
@pytest.mark.parametrize("section", ["synthesize", "evaluate", "validate"])
def test_a_run_of_which_nothing_may_be_shown_refuses_a_server(
    section: str, privacy: dict[str, Any], why: str
) -> None:
    trip = {"round_trip": {"method": "embeddings", "similarity_model": "x", **SERVER}}
    asks = {section: trip if section == "validate" else SERVER}
    named = "validate.round_trip" if section == "validate" else section
    with pytest.raises(UserError, match=f"^{named}.backend: is endpoint, and the run {why}"):
        refuse_early(config(privacy=privacy, **asks), [])
    refuse_early(config(privacy=privacy), [])
    refuse_early(config(**asks), [])
    refuse_early(config(privacy=privacy, data={"public": True}, **asks), [])


def test_a_stage_by_itself_refuses_a_server_too(tmp_path: Path) -> None:
    run = Run(config(privacy={"noise_multiplier": 0.0}, synthesize=SERVER), tmp_path / "run")
    with pytest.raises(UserError, match=r"^synthesize\.backend: is endpoint, and the run has no"):
        run.do("synthesize")
    run.close()


def test_likelihood_needs_the_local_backend() -> None:
    for backend in ({"backend": "vllm"}, SERVER):
        with pytest.raises(UserError, match="method likelihood reads probabilities, which only"):
            config(validate={"round_trip": backend})


def test_a_server_without_an_address_is_refused() -> None:
    with pytest.raises(UserError, match=r"synthesize: endpoint\.url: is missing"):
        config(synthesize={"backend": "endpoint"})


def test_one_name_cannot_stand_for_several_models() -> None:
    server = {"backend": "endpoint", "endpoint": {"url": "http://host/v1", "model": "one"}}
    with pytest.raises(UserError, match=r"endpoint\.model: names one model"):
        config(evaluate=server)
    assert config(evaluate=server | {"models": ["tuned"]}).evaluate.endpoint.model == "one"


def test_a_temperature_that_vllm_would_raise_is_refused() -> None:
    with pytest.raises(UserError, match=r"temperature: must be 0 or at least 0\.01"):
        config(synthesize={"backend": "vllm", "temperature": 0.005})


def test_a_missing_extra_is_one_line_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("vllm") is None:
        with pytest.raises(UserError, match=r"^synthesize\.backend: .*'privcode\[vllm\]'$"):
            backend_of(Sampled(backend="vllm"), "synthesize")
    monkeypatch.setattr(backends, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"^evaluate\.backend: .*'privcode\[endpoint\]'$"):
        backend_of(Sampled.model_validate(SERVER), "evaluate")


def test_a_key_that_is_not_set_is_missed_before_anything_is_trained() -> None:
    served = {"url": "http://host/v1", "key": "PRIVCODE_TEST_NO_KEY"}
    given = Sampled.model_validate({"backend": "endpoint", "endpoint": served})
    with pytest.raises(UserError, match=r"^evaluate\.endpoint\.key: the variable .* is not set"):
        backend_of(given, "evaluate")


RUN = """\
data: {{source: private.jsonl, language: python}}
privacy: {{epsilon: null, noise_multiplier: 1.0, delta: 1.0e-3, units: 40, batch: 2, steps: 1}}
prompts: {{source: public, file: prompts.jsonl}}
junior: {{model: "bundled:junior", lora: {{r: 2, alpha: 4, targets: [q_proj]}}, max_tokens: 128}}
premium: {{model: "bundled:junior", lora: {{r: 2, alpha: 4, targets: [q_proj]}}, max_tokens: 128}}
synthesize: {{max_new_tokens: 8, backend: endpoint, batch_size: 4, endpoint: {server}}}
validate:
  execution: {{enabled: false}}
  round_trip: {{method: embeddings, similarity_model: "bundled:premium", threshold: -1, samples: 2,
               max_new_tokens: 4, backend: endpoint, batch_size: 4, endpoint: {server}}}
boost: {{batch_size: 2, micro_batch: 2, epochs: 1}}
evaluate: {{tasks: [{{name: house, file: tasks.jsonl, prelude: house.py}}], models: [tuned],
           max_new_tokens: 4,
           backend: endpoint, batch_size: 4, endpoint: {server}}}
audit: {{repetitions: [2], samples: 1, candidates: 5, max_new_tokens: 4}}
"""


def privcode(folder: Path, *arguments: str) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "privcode", *arguments],
        cwd=folder,
        env=os.environ | {"SERVER_KEY": "sk-very-secret"},
        capture_output=True,
        text=True,
        check=False,
    )


def sent(seen: Proxy) -> list[str]:
    return [body["prompt"] for body, _ in seen.noted]


@pytest.mark.slow
def test_a_run_at_a_server_sends_nothing_private_and_ends_as_any_other(tmp_path: Path) -> None:
    records = list(private_records(40, seed=1))
    write_jsonl(tmp_path / "private.jsonl", records)
    public = list(public_prompts(6, seed=2))
    write_jsonl(tmp_path / "prompts.jsonl", public)
    write_jsonl(tmp_path / "tasks.jsonl", tasks(2, seed=1))
    (tmp_path / "house.py").write_text(prelude())
    served = plain_folder(tmp_path / "served")
    with transformers_server(served, tmp_path / "log") as server, proxy(server.port) as seen:
        options = json.dumps(
            {"url": seen.url, "model": str(served), "key": "SERVER_KEY", "patience": 60}
        )
        (tmp_path / "privcode.yaml").write_text(RUN.format(server=options))
        done = privcode(tmp_path, "run", "privcode.yaml", "--out", "run")
        assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    texts = sent(seen)
    assert len(seen.answered()) == len(set(seen.answered())) == len(texts)
    samples = [row for _, row in read_jsonl(run / "synthetic" / "raw.jsonl")]
    assert len(samples) == 6
    for row in samples:
        assert any(row["prompt"] in text for text in texts)
    assert len(texts) >= 6 + 2  # and the descriptions of what has code
    planted = canaries.plant([2], seed=0)
    private = [row["prompt"] for row in records] + [canary.prompt for canary in planted]
    private += [canary.secret for canary in planted]
    shown = {row["prompt"] for row in public}
    for text in texts:
        assert not any(own in text for own in private if own not in shown)
    assert not (run / "private" / ".answers.jsonl.partial").exists()
    assert seen.keys == {"Bearer sk-very-secret"}
    for path in run.rglob("*"):
        if path.is_file():
            assert b"sk-very-secret" not in path.read_bytes(), path
    assert "secret" not in done.stdout + done.stderr
    released = privcode(tmp_path, "release", "run")
    assert released.returncode == 0, released.stderr
    assert privcode(tmp_path, "verify", "run/release").returncode == 0
