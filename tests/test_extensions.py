"""A package that is installed next to privcode adds one of each kind, in one file."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import privcode
from privcode.exercises.corpus import private_records, tasks
from privcode.files import write_jsonl

SOURCE = str(Path(privcode.__file__).parents[1])
PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "add-your-own.md"
NAMES = {
    "languages": "awk",
    "formats": "sums",
    "filters": "no_imports",
    "backends": "parrot",
    "audits": "names",
}


def shown(kind: str) -> str:
    """The file that the how-to page shows for a kind."""
    (found,) = re.findall(
        rf"^```python\n# more_{kind}\.py\n(.*?)^```", PAGE.read_text(), re.M | re.S
    )
    return str(found)


def install(folder: Path, kind: str, text: str | None = None, name: str | None = None) -> None:
    """What pip leaves of a package with one module and one entry point."""
    folder.mkdir(exist_ok=True)
    (folder / f"more_{kind}.py").write_text(shown(kind) if text is None else text)
    facts = folder / f"more_{kind}-1.0.dist-info"
    facts.mkdir(exist_ok=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: more-{kind}\nVersion: 1.0\n")
    entry = f"[privcode.{kind}]\n{name or NAMES[kind]} = more_{kind}:added\n"
    (facts / "entry_points.txt").write_text(entry)


def command(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "privcode", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([SOURCE, str(folder)])},
        cwd=folder.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_language_of_another_package_is_run(tmp_path: Path) -> None:
    rows = [
        {"id": 0, "language": "gawk", "code": "BEGIN { print 6 * 7 }"},
        {"id": 1, "language": "awk", "code": "BEGIN { exit 3 }"},
    ]
    write_jsonl(tmp_path / "programs.jsonl", rows)
    without = command(tmp_path / "more", "execute", "programs.jsonl", "-o", "out.jsonl")
    assert without.returncode == 0, without.stderr
    install(tmp_path / "more", "languages")
    done = command(tmp_path / "more", "execute", "programs.jsonl", "-o", "out.jsonl")
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["status"], row["stdout"], row["error"]) for row in found] == [
        ("ok", "42\n", ""),
        ("error", "", "ExitCode3"),
    ]


def test_a_benchmark_format_of_another_package_is_scored(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "tasks.jsonl", [{"sum_id": "S/1", "expect": "3"}])
    solutions = ["def total():\n    return 1 + 2", "def total():\n    return 4"]
    rows = [{"task_id": "S/1", "solution": text} for text in solutions]
    write_jsonl(tmp_path / "samples.jsonl", rows)
    install(tmp_path / "more", "formats")
    done = command(tmp_path / "more", "score", "tasks.jsonl", "samples.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["pass@1"], facts["conditions"]["format"]) == (0.5, "sums")


def test_a_run_uses_the_backend_the_filter_and_the_attack_of_other_packages(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "private.jsonl", private_records(40, seed=1))
    write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": f"Problem {n}"} for n in range(4)])
    write_jsonl(tmp_path / "tasks.jsonl", tasks(2, seed=1))
    (tmp_path / "privcode.yaml").write_text(
        """\
data: {source: private.jsonl, columns: {prompt: prompt, code: code}, language: python}
privacy: {epsilon: null, noise_multiplier: 1.0, delta: 1.0e-3, units: 40, batch: 2, steps: 1}
prompts: {source: public, file: prompts.jsonl}
junior: {model: "bundled:junior", lora: {r: 2, alpha: 4, targets: [q_proj]}, max_tokens: 64}
premium: {model: "bundled:premium", lora: {r: 2, alpha: 4, targets: [q_proj]}, max_tokens: 64}
synthesize: {backend: parrot}
validate: {round_trip: {method: "off"}, filters: [no_imports]}
boost: {batch_size: 2, micro_batch: 2, epochs: 1}
audit: {attacks: [names]}
"""
    )
    lacks = command(tmp_path / "more", "run", "privcode.yaml", "--out", "run")
    assert (lacks.returncode, lacks.stdout) == (2, "")
    assert "audit.attacks: names is unknown" in lacks.stderr
    assert not (tmp_path / "run" / "private" / "ledger.jsonl").exists()

    for kind in ("backends", "filters", "audits"):
        install(tmp_path / "more", kind)
    done = command(tmp_path / "more", "run", "privcode.yaml", "--out", "run")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    rows = [json.loads(x) for x in (run / "private" / "verdicts.jsonl").read_text().splitlines()]
    assert [row["reason"] for row in rows] == ["", "imports something"] * 2
    found = json.loads((run / "private" / "attack-names.json").read_text())
    assert found == {"targets": ["junior", "tuned model"]}
    released = command(tmp_path / "more", "release", "run")
    assert released.returncode == 0, released.stderr
    verified = command(tmp_path / "nothing", "verify", "run/release")
    assert verified.returncode == 0, verified.stderr
    stated = json.loads((run / "release" / "privacy.json").read_text())["stated"]
    assert stated["filters"]["others"] == ["no_imports"]
    assert "no_imports" in (run / "release" / "report.html").read_text()


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ("raise RuntimeError('secret')", None, "cannot be imported (RuntimeError)"),
        ("added = 1", None, "more_languages:added is no Language"),
        (None, "python", "python is taken"),
    ],
)
def test_an_extension_that_cannot_be_used_ends_in_one_line(
    tmp_path: Path, text: str | None, name: str | None, says: str
) -> None:
    install(tmp_path / "more", "languages", text, name)
    write_jsonl(tmp_path / "programs.jsonl", [{"id": 1, "code": "print(1)"}])
    done = command(tmp_path / "more", "execute", "programs.jsonl", "-o", "out.jsonl")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("privcode: extension privcode.languages:")
    assert "of more-languages" in line
    assert says in line
