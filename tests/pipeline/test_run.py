"""A run through the command line: resumable stages, and nothing private outside `private/`."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from privcode.config import load_config
from privcode.errors import UserError
from privcode.exercises.corpus import prelude, private_records, public_prompts, tasks
from privcode.files import PUBLIC_TIME, write_jsonl
from privcode.pipeline import results
from privcode.pipeline.methods import METHODS
from privcode.pipeline.run import Run
from privcode.privacy.ledger import read_ledger
from privcode.release.verify import verify_bundle

CONFIG = """\
data: {source: private.jsonl, language: python}
privacy: {epsilon: null, noise_multiplier: 1.0, delta: 1.0e-4, units: 200, batch: 16, steps: 6,
          noise: reproducible}
prompts: {source: public, file: prompts.jsonl}
junior: {model: "bundled:junior", lora: {r: 2, alpha: 4}}
sanitize: {checkpoint_every: 2, learning_rate: 0.01, syntax: {lambda_max: 1.0}}
synthesize: {max_new_tokens: 40}
validate:
  execution: {enabled: false}
  round_trip: {threshold: -9}
  surest: 0.5
premium: {model: "bundled:premium"}
boost: {epochs: 1, micro_batch: 4, batch_size: 4}
evaluate:
  tasks:
    - {name: one, file: tasks.jsonl, prelude: house.py, instruction: "{problem}"}
    - {name: two, file: tasks.jsonl, prelude: house.py, mode: complete}
  max_new_tokens: 40
audit: {repetitions: [2], samples: 2, candidates: 20, max_new_tokens: 40,
        gradient_canaries: 300, coin_canaries: 30}
"""


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}  # with this test's own registry


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return configure(tmp_path)


def configure(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "private.jsonl", private_records(200, seed=1))
    write_jsonl(tmp_path / "prompts.jsonl", public_prompts(600, seed=1))
    write_jsonl(tmp_path / "tasks.jsonl", tasks(6, seed=1))
    (tmp_path / "house.py").write_text(prelude())
    (tmp_path / "privcode.yaml").write_text(CONFIG)
    return tmp_path / "privcode.yaml"


def privcode(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "privcode", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment())


def start(*arguments: str | Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "privcode", *map(str, arguments)]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, stdout=quiet, stderr=quiet, env=environment())


def kill_when(process: subprocess.Popen[bytes], ready: "callable[[], bool]") -> None:  # type: ignore[valid-type]
    while not ready():
        assert process.poll() is None, "the process ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def files(run: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(run)): p.read_bytes()
        for p in sorted(run.rglob("*"))
        if p.is_file() and p != run / "private" / "manifest.json"  # it holds seconds
    }


def stages(run: Path) -> list[str]:
    path = run / "manifest.json"
    return list(json.loads(path.read_text())["stages"]) if path.exists() else []


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


TINY = """\
data: {source: private.jsonl, language: python}
privacy: {epsilon: null, noise_multiplier: 1.0, delta: 1.0e-2, units: 30, batch: 6, steps: 3}
prompts: {source: public, file: prompts.jsonl}
junior: {model: "bundled:junior", lora: {r: 2, alpha: 4}, max_tokens: 128}
premium: {model: "bundled:premium"}
"""


def tiny(folder: Path) -> Run:
    write_jsonl(folder / "private.jsonl", private_records(30, seed=1))
    (folder / "tiny.yaml").write_text(TINY)
    return Run(load_config(folder / "tiny.yaml"), folder / "run")


def test_killed_when_trained_but_not_noted_the_adapter_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    run = tiny(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "note", killed)
        with pytest.raises(KeyboardInterrupt):
            run.do("sanitize")
    run.close()
    adapter = run.junior / "adapter_model.safetensors"
    trained = adapter.read_bytes()
    adapter.write_bytes(b"half")
    again = Run.open(run.out)
    again.do("sanitize")
    assert adapter.read_bytes() == trained
    assert not (run.private / ".sanitize.partial").exists()
    assert len(read_ledger(run.ledger)) == 1 + 3
    assert results.verify(again)["steps"] == 3
    again.close()


def test_how_long_reading_took_is_in_private_alone(tmp_path: Path) -> None:
    run = tiny(tmp_path)
    run.do("sanitize")
    assert run.seconds()["sanitize"] > 0
    assert "seconds" not in run.manifest.read_text()
    assert (run.private / "manifest.json").stat().st_mode & 0o777 == 0o600
    run.close()


def times(root: Path) -> dict[str, int]:
    """Modification times of everything outside `private/`, that folder and `root` included."""
    return {
        str(path.relative_to(root)): path.stat().st_mtime_ns
        for path in (root, *root.rglob("*"))
        if "private" not in path.relative_to(root).parts[:-1]
    }


def test_no_time_outside_private_tells_when_a_stage_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny(tmp_path)
    run.do("sanitize")
    found = times(run.out)
    assert {"private", "models", "models/junior", "manifest.json", "."} <= set(found)
    assert set(found.values()) == {PUBLIC_TIME * 10**9}
    assert (run.private / "ledger.jsonl").stat().st_mtime > PUBLIC_TIME
    with monkeypatch.context() as patch:  # nor does one when it ended badly
        patch.setattr("privcode.pipeline.layout.prompts_of", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run.do("synthesize")
        assert set(times(run.out).values()) == {PUBLIC_TIME * 10**9}
    run.close()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of every stage that nothing interrupted."""
    path = configure(tmp_path_factory.mktemp("finished"))
    done = privcode("run", path, "--out", path.parent / "whole", "--json")
    assert done.returncode == 0, done.stderr
    shutil.copy(Path(os.environ["PRIVCODE_STATE"]) / "key", path.parent)
    assert json.loads(done.stdout)["stages"] == list(METHODS["privcode"].stages)
    return path


@pytest.fixture
def same_key(finished: Path, state: Path) -> None:
    """The secret that the finished run's sketch of the data was made with: it is in the ledger."""
    state.mkdir(mode=0o700)
    shutil.copy(finished.parent / "key", state / "key")


@pytest.mark.slow
@pytest.mark.usefixtures("same_key")
def test_killed_in_every_stage_and_run_again_gives_the_same_bytes(finished: Path) -> None:
    whole, cut = finished.parent / "whole", finished.parent / "cut" / "whole"
    private = cut / "private"
    arguments = ("run", finished, "--out", cut)
    moments = {  # stage -> a sign that it is half-way
        "sanitize": lambda: lines(private / "ledger.jsonl") >= 5,
        "synthesize": lambda: lines(cut / "synthetic" / ".raw.jsonl.partial") >= 1,
        "validate": lambda: lines(private / ".verdicts.jsonl.partial") >= 1,
        "boost": lambda: any(private.glob("premium-checkpoints/*/complete.json")),
        "evaluate": lambda: (cut / "evaluation" / "one.base.json").exists(),
        "audit": lambda: "evaluate" in stages(cut),
    }
    assert tuple(moments) == METHODS["privcode"].stages
    for stage, half_way in moments.items():
        kill_when(start(*arguments), half_way)
        assert stage not in stages(cut)
    assert privcode(*arguments).returncode == 0
    assert files(cut) == files(whole)
    assert lines(private / "ledger.jsonl") == 1 + 6  # the plan and every step
    assert "done already" in privcode("sanitize", cut).stderr


@pytest.mark.slow
def test_nothing_about_the_records_is_outside_private(finished: Path) -> None:
    run = finished.parent / "whole"
    assert oct((run / "private").stat().st_mode)[-3:] == "700"
    assert all(
        oct(p.stat().st_mode)[-3:] == "600" for p in (run / "private").rglob("*") if p.is_file()
    )
    outside = [p for p in run.rglob("*") if p.is_file() and "private" not in p.parts]
    written = "".join(p.read_text(errors="replace") for p in outside)
    ledger = (run / "private" / "ledger.jsonl").read_text()
    assert json.loads(ledger.splitlines()[0])["data"] not in written  # the fingerprint
    for row in private_records(200, seed=1):
        assert row["prompt"] not in written.replace(public_text(), "")
    done = privcode("run", finished, "--out", finished.parent / "loud")
    facts = json.loads((run / "private" / "data.json").read_text())
    counts = {facts["rows"], facts["kept"], facts["kept"] + facts["canaries"]}
    assert len(counts) == 2  # all rows are records
    shown = (done.stdout + done.stderr).replace(str(finished.parent), "")  # its name has numbers
    assert not {str(n) for n in counts} & set(re.findall(r"\d+", shown))
    shutil.rmtree(finished.parent / "loud")


@pytest.mark.slow
def test_the_lower_bounds_stand_beside_the_claim(finished: Path) -> None:
    run = finished.parent / "whole"
    assert privcode("release", run, "--allow-reproducible-noise").returncode == 0
    facts = json.loads((run / "release" / "privacy.json").read_text())
    bounds = facts["epsilon_lower_bounds"]
    assert bounds == json.loads((run / "evaluation" / "audit.json").read_text())["one_run"]
    assert set(bounds) == {"what training gives away", "junior", "tuned model"}
    for found in bounds.values():
        assert len(found["right"]) == len(found["guesses"])
        assert max(found["epsilon"], found["epsilon_same_shape"]) < facts["epsilon"]
    assert "What an attack showed" in (run / "release" / "report.html").read_text()
    assert bounds["what training gives away"]["canaries"] == 300
    assert bounds["junior"]["canaries"] == bounds["tuned model"]["canaries"] == 30
    shutil.rmtree(run / "release")


@pytest.mark.slow
def test_only_the_internal_part_of_the_audit_reads_records_after_sanitize(config: Path) -> None:
    """And what it computes from them is in `private/` alone."""
    config.write_text(CONFIG.replace("{repetitions: [2],", "{repetitions: [2], holdout: 80,"))
    run, records = config.parent / "run", config.parent / "private.jsonl"
    assert privcode("sanitize", config, "--out", run).returncode == 0
    kept = records.read_bytes()
    records.write_text("nobody reads this\n")
    refused = privcode("run", config, "--out", run)
    assert refused.returncode == 2
    assert "private.jsonl, row 1: not valid JSON" in refused.stderr.splitlines()[-1]
    assert set(stages(run)) == set(METHODS["privcode"].stages) - {"audit"}
    audit = (run / "evaluation" / "audit.json").read_bytes()  # made before records were asked for
    assert json.loads(audit)["exposure"]["candidates"] == 20

    records.write_bytes(kept)
    done = privcode("run", config, "--out", run, "--json")
    assert done.returncode == 0, done.stderr
    assert (run / "evaluation" / "audit.json").read_bytes() == audit
    assert "membership.json" in done.stderr
    assert privcode("report", run).returncode == 0
    assert privcode("release", run, "--allow-reproducible-noise").returncode == 0
    assert privcode("verify", run).returncode == 0
    found = json.loads((run / "private" / "membership.json").read_text())
    figures = set(re.findall(r"0\.\d{3,}", json.dumps(found)))
    assert len(figures) > 10
    counts = {str(found["members"]), str(found["non_members"])}
    outside = [p for p in run.rglob("*") if p.is_file() and "private" not in p.parts]
    assert not {"membership.json", "roc.png"} & {p.name for p in outside}
    for path in outside:  # the manifest of private/ is private too
        text = path.read_text(errors="replace")
        assert not figures & set(re.findall(r"(?<![\d.])0\.\d{3,}", text)), path
        assert "membership" not in text.lower() or path.suffix == ".yaml", path
    for text in (done.stdout, done.stderr):
        assert not (figures | counts) & set(re.findall(r"[\d.]+", text))
    assert "membership" not in done.stdout
    for name in ("membership.json", "roc.png"):
        assert oct((run / "private" / name).stat().st_mode)[-3:] == "600"


def public_text() -> str:
    return "".join(row["prompt"] for row in public_prompts(600, seed=1))


@pytest.mark.slow
def test_a_run_is_released_and_every_byte_of_it_verified(finished: Path) -> None:
    run = finished.parent / "whole"
    refused = privcode("release", run)
    assert refused.returncode == 2
    assert "--allow-reproducible-noise" in refused.stderr
    assert not (run / "release").exists()
    done = privcode("release", run, "--allow-reproducible-noise", "--json")
    assert done.returncode == 0, done.stderr
    epsilon = json.loads(done.stdout)["epsilon"]
    for folder in (run, run / "release"):
        verified = json.loads(privcode("verify", folder, "--json").stdout)
        assert verified["epsilon"] == epsilon
    for path in sorted(p for p in run.rglob("*") if p.is_file() and not p.name.startswith(".")):
        kept = path.read_bytes()
        path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        folder = run / "release" if "release" in path.parts else run
        with pytest.raises(UserError):
            verify_folder(folder)
        path.write_bytes(kept)
    verify_folder(run)
    shutil.rmtree(run / "release")


def verify_folder(folder: Path) -> None:
    if folder.name == "release":
        verify_bundle(folder)
        return
    run = Run.open(folder)
    try:
        results.verify(run)
    finally:
        run.close()


@pytest.mark.slow
def test_two_runs_over_the_same_data_compose(finished: Path) -> None:
    run = finished.parent / "whole"
    alone = json.loads(privcode("verify", run, "--json").stdout)["epsilon"]
    same = privcode("sanitize", finished, "--out", finished.parent / "same")
    assert "other run(s)" not in same.stderr  # the same seed, settings and data: the same bits
    other = finished.parent / "other.yaml"
    other.write_text(finished.read_text().replace("reproducible", "reproducible, seed: 1"))
    beside = privcode("sanitize", other, "--out", finished.parent / "again")
    assert "1 other run(s)" in " ".join(beside.stderr.split())
    together = json.loads(privcode("verify", run, "--json").stdout)["epsilon"]
    assert together > 1.2 * alone
    for name in ("same", "again"):
        shutil.rmtree(finished.parent / name)


@pytest.mark.slow
def test_a_changed_config_is_refused(finished: Path) -> None:
    other = finished.parent / "other.yaml"
    other.write_text(finished.read_text().replace("steps: 6", "steps: 7"))
    done = privcode("sanitize", other, "--out", finished.parent / "whole")
    assert done.returncode == 2
    assert "other settings" in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("private.jsonl", "none.jsonl", "none.jsonl"),
        ("bundled:junior", "bundled:none", "bundled:none"),
    ],
)
def test_a_wrong_data_or_model_name_is_one_line(
    config: Path, old: str, new: str, word: str
) -> None:
    config.write_text(CONFIG.replace(old, new, 1))
    done = privcode("sanitize", config, "--out", config.parent / "run")
    assert done.returncode == 2
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert not (config.parent / "run" / "models").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("same_key")
@pytest.mark.parametrize("kilobytes", [20, 600])
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    finished: Path, tmp_path: Path, kilobytes: int
) -> None:
    # No file may grow beyond the limit: the system refuses the write as it does on a full disk.
    command = [sys.executable, "-m", "privcode", "run", str(finished), "--out", "whole"]
    limited = f"ulimit -f {kilobytes}; exec {shlex.join(command)}"
    done = subprocess.run(
        ["bash", "-c", limited],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
        cwd=tmp_path,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "free space" in done.stderr.splitlines()[-1]
    subprocess.run(command, check=True, env=environment(), cwd=tmp_path, capture_output=True)
    assert files(tmp_path / "whole") == files(finished.parent / "whole")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("private.jsonl", "", ("private.jsonl", "no row")),
        ("private.jsonl", '{"prompt": "a", "code": ""}\n', ("row 1", "code")),
        ("private.jsonl", b'{"prompt": "a\xff", "code": "x"}\n', ("row 1", "UTF-8")),
        ("private.jsonl", '{"prompt": "\\ud800", "code": "x"}\n', ("row 1", "prompt")),
        ("private.jsonl", '{"prompt": "a", "code": "x"}\n', ("row 1", "author")),
        ("prompts.jsonl", '{"other": "a"}\n', ("prompts.jsonl", "column")),
        ("prompts.jsonl", None, ("prompts.jsonl",)),
        ("tasks.jsonl", '{"task_id": "a"}\n', ("tasks.jsonl", "row 1", "prompt")),
    ],
)
def test_wrong_input_is_refused_before_anything_is_trained(
    config: Path, name: str, content: str | bytes | None, words: tuple[str, ...]
) -> None:
    path = config.parent / name
    path.unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if "author" in words:
        config.write_text(
            CONFIG.replace(
                "language: python}",
                "language: python, columns: {prompt: prompt, code: code, unit: author}}",
            ).replace("units: 200", "units: 200, unit: column")
        )
    done = privcode("run", config, "--out", config.parent / "run")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr.splitlines()[-1]
    assert not (config.parent / "run" / "private" / "ledger.jsonl").exists()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("language: python}", "language: swift}", ("data.language swift", "swiftc", "install")),
        ("enabled: true", "files: [gone.py]", ("gone.py", "give a file")),
    ],
)
def test_what_validation_needs_is_looked_for_before_anything_is_trained(
    config: Path, old: str, new: str, words: tuple[str, ...]
) -> None:
    if "swift" in new and shutil.which("swiftc"):
        pytest.skip("a Swift compiler is installed here")
    text = config.read_text().replace("enabled: false", "enabled: true")
    assert old in text
    config.write_text(text.replace(old, new))
    done = privcode("run", config, "--out", config.parent / "run")
    assert done.returncode == 2
    for word in words:
        assert word in done.stderr.splitlines()[-1]
    assert not (config.parent / "run" / "private" / "ledger.jsonl").exists()
