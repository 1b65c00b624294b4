"""The command line: figures as JSON, and one clear line with exit code 2 for bad input."""

import io
import json
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from privcode import __version__
from privcode.cli import main
from privcode.config import load_config
from privcode.console import NOT_SHOWN
from privcode.pipeline.budget import begin
from privcode.pipeline.private import private_records
from privcode.pipeline.run import Run

CONFIG = """\
data: {source: private.jsonl}
privacy: {epsilon: 4, delta: 1.0e-6, units: 16000, batch: 256, steps: 60}
prompts: {source: public, file: prompts.jsonl}
junior: {model: "bundled:junior"}
premium: {model: "bundled:premium"}
"""


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def privcode(*arguments: str | Path) -> Done:
    """Run the command in this process: importing torch anew takes seconds."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["privcode", *map(str, arguments)]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv = before
    return Done(code, out.getvalue(), err.getvalue())


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stderr passes for a terminal, so that what is for the owner's eyes is said."""
    monkeypatch.setattr("privcode.console.at_terminal", lambda: True)


def refused(done: Done, *words: str) -> None:
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_version_is_one_line() -> None:
    done = privcode("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"privcode {version('privcode')}\n"
    assert done.stdout == f"privcode {__version__}\n"


def account(*more: str) -> Done:
    return privcode("account", "--records", "19500", "--batch", "256", "--steps", "100", *more)


def test_account_prints_one_json_document() -> None:
    done = account("--epsilon", "4", "--delta", "1e-5", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["noise_multiplier"] == pytest.approx(0.623, rel=0.01)
    assert facts["epsilon"] <= 4 < facts["epsilon_rdp"]
    assert facts["sampling_rate"] == pytest.approx(256 / 19_500)
    assert (facts["steps"], facts["delta"]) == (100, 1e-5)


def test_account_gives_epsilon_for_a_noise_multiplier() -> None:
    done = account("--noise", "0.98", "--delta", "1e-5", "--json")
    assert json.loads(done.stdout)["epsilon"] == pytest.approx(1, rel=0.01)


def test_account_without_privacy_is_still_json() -> None:
    done = account("--epsilon", "inf", "--delta", "1e-5", "--json")
    assert json.loads(done.stdout)["epsilon"] == "inf"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--epsilon", "-1", "--delta", "1e-5"), "epsilon"),
        (("--epsilon", "nan", "--delta", "1e-5"), "epsilon"),
        (("--epsilon", "4", "--delta", "0.5"), "delta"),
        (("--epsilon", "4", "--delta", "0"), "delta"),
        (("--epsilon", "4", "--noise", "1", "--delta", "1e-5"), "exactly one"),
        (("--delta", "1e-5"), "exactly one"),
    ],
)
def test_account_refuses_nonsense_in_one_line(arguments: tuple[str, ...], word: str) -> None:
    done = account(*arguments)
    refused(done, word)
    assert len(done.stderr.strip().splitlines()) == 1


def test_plan_needs_no_data_and_states_the_guarantee(tmp_path: Path) -> None:
    (tmp_path / "privcode.yaml").write_text(CONFIG)
    done = privcode("plan", tmp_path / "privcode.yaml", "--json")
    assert done.stderr == f"{NOT_SHOWN}\n"
    facts = json.loads(done.stdout)
    assert facts["epsilon"] <= 4
    assert facts["memory_bytes"] > 4e6
    groups = facts["group_epsilon"]
    assert list(groups) == ["2", "5", "10"]
    assert 4 < groups["2"] < groups["5"] < groups["10"]
    assert facts["neighbouring"] == "add or remove one unit"
    assert facts["noise"] == "cryptographic"
    assert "reproducible_seed" not in facts


def test_plan_tells_what_share_of_a_model_its_adapter_covers(tmp_path: Path) -> None:
    (tmp_path / "privcode.yaml").write_text(CONFIG)
    text = privcode("plan", tmp_path / "privcode.yaml").stdout
    found = json.loads(privcode("plan", tmp_path / "privcode.yaml", "--json").stdout)["adapters"]
    assert set(found) == {"junior", "premium"}
    for label, facts in found.items():
        assert 0.5 < facts["share"] < 1
        assert list(facts["left_out"]) == ["embed_tokens"]
        assert (
            f"\n{label:<17} its adapted layers hold {facts['share']:.0%} of the weights; " in text
        )
    wrong = CONFIG.replace('bundled:junior"', 'bundled:junior", lora: {targets: [q_prj]}')
    (tmp_path / "privcode.yaml").write_text(wrong)
    refused(privcode("plan", tmp_path / "privcode.yaml"), ".lora.targets: q_prj is no linear layer")


def test_plan_tells_what_one_run_takes(tmp_path: Path) -> None:
    (tmp_path / "privcode.yaml").write_text(CONFIG)
    text = privcode("plan", tmp_path / "privcode.yaml").stdout
    cost = json.loads(privcode("plan", tmp_path / "privcode.yaml", "--json").stdout)["cost"]
    assert [row["name"] for row in cost["rows"]] == ["privcode"]
    assert cost["all"]["stages"]["sanitize"] > 0
    assert "by arithmetic, not measured" in " ".join(text.split())
    assert "DP trainings" not in text
    assert "prompts.jsonl is not here; prompts.limit would tell how many" in text


def test_plan_tells_what_each_method_of_a_comparison_takes(tmp_path: Path) -> None:
    """The released settings of the paper: no model and no file of theirs is here."""
    done = privcode("plan", Path(__file__).parents[1] / "configs" / "paper" / "ablations.yaml")
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.split()}
    # Runs, and trainings under the plan: the four that differ after it share one.
    assert lines["privcode"][1:3] == ["1", "1"]
    for name, trained in (("no-privsa", "1"), ("constant-lambda", "1"), ("no-filters", "0")):
        assert lines[name][1:3] == ["1", trained]
    assert lines["all"][1:3] == ["6", "3"]
    assert "size taken from the model's name: Qwen/Qwen2.5-Coder-1.5B" in done.stdout


def test_plan_refuses_a_comparison_that_compare_would_refuse(tmp_path: Path) -> None:
    config = tmp_path / "privcode.yaml"
    config.write_text(CONFIG + "compare: {published: [{method: privcode, mbpp: 0.5}]}\n")
    refused(privcode("plan", config), "compare.published, row 1, field mbpp")


UNREAD = """\
! columns with text that are not read: author
These figures were not computed under the guarantee: keep them to yourself.
"""


def repeated(path: Path, shared: int) -> None:
    """Records of which `shared` have one e-mail address and one code, owned by 3 people."""
    rows = [
        {"prompt": f"Write {n}.", "code": f"f{'(' * n}a{')' * n}", "author": f"owner{n}"}
        for n in range(60)
    ]
    for n in range(shared):
        rows[n] |= {"code": f"send(to='ann@corp.example', n={n})", "author": f"owner{n % 3}"}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.usefixtures("terminal")
def test_plan_tells_the_terminal_alone_what_stands_in_many_records(
    tmp_path: Path,
) -> None:
    config = tmp_path / "privcode.yaml"
    config.write_text(CONFIG)
    without = privcode("plan", config), privcode("plan", config, "--json")
    repeated(tmp_path / "private.jsonl", 37)
    within = privcode("plan", config), privcode("plan", config, "--json")
    # The same with and without the data: nothing in it can come from them.
    assert [done.stdout for done in within] == [done.stdout for done in without]
    for done in within:
        assert done.stderr.count("occurs in 37 records: protected at ε = ") == 2
        assert "keep them to yourself" in done.stderr
        assert "ann@corp.example" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"privcode.yaml", "private.jsonl"}
    columns = "columns: {prompt: prompt, code: code, unit: author}"
    by_owner = CONFIG.replace("jsonl}", f"jsonl, {columns}}}", 1)
    config.write_text(by_owner.replace("units: 16000", "units: 16000, unit: column"))
    assert privcode("plan", config).stderr.count("occurs in 3 owners") == 2


@pytest.mark.usefixtures("terminal")
def test_plan_tells_the_terminal_alone_how_many_prompts_are_private(
    tmp_path: Path,
) -> None:
    (tmp_path / "privcode.yaml").write_text(CONFIG)
    repeated(tmp_path / "private.jsonl", 0)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Write 7."}\n{"prompt": "Add."}\n')
    done = privcode("plan", tmp_path / "privcode.yaml")
    assert "1 of the prompts occur word for word in the private data" in done.stderr
    assert "word for word" not in done.stdout


@pytest.mark.usefixtures("terminal")
def test_plan_tells_the_terminal_alone_of_units_and_runs_that_it_must_not_count_in_public(
    tmp_path: Path,
) -> None:
    few = CONFIG.replace("units: 16000, batch: 256", "units: 20, batch: 4").replace("e-6", "e-3")
    (tmp_path / "privcode.yaml").write_text(few)
    repeated(tmp_path / "private.jsonl", 0)
    (tmp_path / "copy.jsonl").write_text((tmp_path / "private.jsonl").read_text())
    (tmp_path / "copy.yaml").write_text(few.replace("private.jsonl", "copy.jsonl"))
    other = Run(load_config(tmp_path / "copy.yaml"), tmp_path / "run")
    begin(other.config, other.plan, other.ledger, private_records(other.config)[2])
    other.close()
    done = privcode("plan", tmp_path / "privcode.yaml")
    assert "60 units are there and 20 are declared: a step takes 3.0 times" in done.stderr
    assert "1 more run(s) read the same records from another file" in done.stderr
    assert "0 other run(s) over this source" in done.stdout


def test_the_private_data_are_no_prompts(tmp_path: Path) -> None:
    text = CONFIG.replace("file: prompts.jsonl", "file: ./private.jsonl")
    assert text != CONFIG
    (tmp_path / "privcode.yaml").write_text(text)
    refused(privcode("plan", tmp_path / "privcode.yaml"), "prompts.file: is the private data")
    data = tmp_path / "private.jsonl"
    repeated(data, 0)
    whole = CONFIG.replace("source: private", f"source: {tmp_path}/private")
    (tmp_path / "whole.yaml").write_text(whole.replace("file: prompts", "file: private"))
    refused(privcode("plan", tmp_path / "whole.yaml"), "prompts.file: is the private data")
    (tmp_path / "other.jsonl").hardlink_to(data)
    linked = whole.replace("file: prompts", "file: other")
    (tmp_path / "linked.yaml").write_text(linked)
    refused(privcode("plan", tmp_path / "linked.yaml"), "prompts.file: is the private data")
    execution = 'validate: {execution: {prelude: "private.jsonl"}}\n'
    (tmp_path / "prelude.yaml").write_text(whole + execution)
    refused(privcode("plan", tmp_path / "prelude.yaml"), "prelude: is the private data")
    made = privcode("init", data, "--prompts", data, "-o", tmp_path / "new.yaml")
    refused(made, "is the private data")
    assert not (tmp_path / "new.yaml").exists()


def test_init_takes_columns_of_any_name_and_says_what_is_left_to_decide(tmp_path: Path) -> None:
    data, out = tmp_path / "d.jsonl", tmp_path / "new.yaml"
    data.write_text('{"foo": "Add.", "bar": "a + b"}\n')
    refused(privcode("init", data, "-o", out), "d.jsonl", "2 columns", "--prompt-column")
    refused(privcode("init", data, "-o", out, "--prompt-column", "foo"), "give both")
    named = ("--prompt-column", "foo", "--code-column", "bar")
    done = privcode("init", data, "-o", out, *named)
    assert done.returncode == 0, done.stderr
    assert "type privacy's units, delta and batch" in done.stdout
    assert "name the prompts" not in done.stdout  # the junior writes them
    assert "in place of CHANGE_ME" in done.stdout
    again = privcode("init", data, "-o", tmp_path / "n.yaml", *named, "--units", "50", "--json")
    assert json.loads(again.stdout) == {"config": str(tmp_path / "n.yaml")}
    assert yaml.safe_load((tmp_path / "n.yaml").read_text())["privacy"]["batch"] == 12
    assert yaml.safe_load(out.read_text())["data"]["columns"]["prompt"] == "foo"


def test_without_prompts_init_names_a_junior_that_can_write_them(tmp_path: Path) -> None:
    data, prompts = tmp_path / "d.jsonl", tmp_path / "p.txt"
    data.write_text('{"prompt": "Add.", "code": "a + b"}\n')
    prompts.write_text("Subtract.\n")
    for given, junior in (
        ((), "bundled:writer"),
        (("--prompts", prompts), "bundled:junior"),
        (("--junior", "bundled:premium"), "bundled:premium"),
    ):
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.yaml"
        done = privcode("init", data, "-o", out, *given)
        assert done.returncode == 0, done.stderr
        assert yaml.safe_load(out.read_text())["junior"]["model"] == junior


def test_verify_says_what_it_can_check(tmp_path: Path) -> None:
    refused(privcode("verify", tmp_path), "neither a release bundle", "nor a run")


def test_what_execute_and_score_read_they_do_not_write_over(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    for kept in ('{"id": 1, "language": "bash", "code": "true"}\n', ""):
        rows.write_text(kept)
        refused(privcode("execute", rows, "-o", rows), "choose another -o")
        refused(privcode("score", tmp_path / "t.jsonl", rows, "-o", rows), "choose another -o")
        assert rows.read_text() == kept
    refused(privcode("execute", rows, "-o", tmp_path / "out.jsonl"), "holds no programs")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.usefixtures("terminal")
def test_plan_says_nothing_where_records_share_nothing_and_why_where_it_cannot_look(
    tmp_path: Path,
) -> None:
    (tmp_path / "privcode.yaml").write_text(CONFIG)
    repeated(tmp_path / "private.jsonl", 0)
    assert privcode("plan", tmp_path / "privcode.yaml").stderr == UNREAD
    (tmp_path / "private.jsonl").write_text("{}\n")
    done = privcode("plan", tmp_path / "privcode.yaml")
    assert done.returncode == 0
    assert done.stderr.startswith("the data were not looked at: ")
    assert done.stderr.count("\n") == 1
    (tmp_path / "private.jsonl").unlink()
    assert "private.jsonl: not here" in privcode("plan", tmp_path / "privcode.yaml").stderr


@pytest.mark.usefixtures("terminal")
def test_a_plan_without_privacy_protects_no_group(tmp_path: Path) -> None:
    (tmp_path / "privcode.yaml").write_text(CONFIG.replace("epsilon: 4", "epsilon: .inf"))
    repeated(tmp_path / "private.jsonl", 37)
    done = privcode("plan", tmp_path / "privcode.yaml", "--json")
    assert set(json.loads(done.stdout)["group_epsilon"].values()) == {"more than 1000"}
    assert done.stderr == UNREAD


def test_a_model_that_is_not_here_has_unknown_memory(tmp_path: Path) -> None:
    config = tmp_path / "privcode.yaml"
    config.write_text(CONFIG.replace("bundled:junior", "nobody/no-such-model"))
    done = privcode("plan", config)
    assert done.returncode == 0
    assert "memory            unknown" in done.stdout


@pytest.mark.usefixtures("terminal")
def test_planted_canaries_are_not_taken_for_repeated_secrets(tmp_path: Path) -> None:
    (tmp_path / "privcode.yaml").write_text(CONFIG + "audit: {repetitions: [50]}\n")
    repeated(tmp_path / "private.jsonl", 0)
    assert privcode("plan", tmp_path / "privcode.yaml").stderr == UNREAD


@pytest.mark.usefixtures("terminal")
def test_init_tells_the_terminal_alone_what_stands_in_many_records(
    tmp_path: Path,
) -> None:
    repeated(tmp_path / "private.jsonl", 37)
    config = tmp_path / "privcode.yaml"
    done = privcode("init", tmp_path / "private.jsonl", "-o", config)
    assert done.stderr.count("occurs in 37 records: protected at ε = ") == 2
    assert "37" not in done.stdout.replace(str(tmp_path), "") + config.read_text()
    config.unlink()
    done = privcode("init", tmp_path / "private.jsonl", "-o", config, "--json")
    assert done.stderr.count("occurs in 37 records: protected at ε = ") == 2
    assert json.loads(done.stdout) == {"config": str(config)}
    assert {path.name for path in tmp_path.iterdir()} == {"privcode.yaml", "private.jsonl"}


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("steps: 60", "step: 60", "privacy.step:"),
        ("delta: 1.0e-6, ", "", "privacy.delta"),
        ("delta: 1.0e-6", "delta: 0.1", "privacy.delta"),
        ("batch: 256", "batch: 0", "privacy.batch"),
        ("units: 16000", "units: many", "privacy.units"),
        ("units: 16000", "units: 16000, unit: column", "data.columns.unit"),
        ("units: 16000", "units: 16000, max_records_per_unit: 2", "max_records_per_unit"),
        ("source: public", "source: private", "prompts.source"),
        ("data: {", "data: {{", "not valid YAML"),
    ],
)
def test_a_wrong_config_names_file_and_field(tmp_path: Path, old: str, new: str, word: str) -> None:
    assert old in CONFIG
    (tmp_path / "privcode.yaml").write_text(CONFIG.replace(old, new, 1))
    refused(privcode("plan", tmp_path / "privcode.yaml"), word)


def test_a_missing_config_is_one_line(tmp_path: Path) -> None:
    refused(privcode("plan", tmp_path / "none.yaml"), "none.yaml", "cannot be read")


def test_the_command_itself_exits_with_two_and_no_traceback() -> None:
    command = [sys.executable, "-m", "privcode", "plan", "none.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "privcode: none.yaml: cannot be read (No such file or directory)\n"


def test_the_line_that_an_error_ends_with_is_said_also_if_a_launcher_stops_the_process_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ending(error: Exception) -> tuple[int, str]:
        os.kill(os.getpid(), signal.SIGTERM)
        return 2, str(error)

    monkeypatch.setattr(sys.modules["privcode.cli.app"], "_ending", ending)
    before = signal.getsignal(signal.SIGTERM)
    refused(privcode("plan", "nowhere.yaml"), "nowhere.yaml")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_process_of_several_that_is_told_to_stop_twice_says_so_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_: object, **__: object) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return True

    monkeypatch.setattr(sys.modules["privcode.cli.app"], "app", stop)
    monkeypatch.setattr(sys.modules["privcode.cli.app"], "_several", lambda: True)
    monkeypatch.setattr("privcode.distributed.first_to_tell", stop)
    done = privcode("boost", "privcode.yaml")
    assert done.returncode == 143
    assert done.stderr.count("another process of this run ended") == 1
