"""`privcode verify` finds what was changed in a run or a bundle, and says where."""

import io
import json
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from privcode import cli
from privcode.errors import UserError
from privcode.exercises.corpus import private_records
from privcode.files import (
    Row,
    jsonl_line,
    read_json,
    read_sealed,
    sha256_file,
    write_jsonl,
    write_sealed,
)
from privcode.pipeline import directory, results
from privcode.pipeline.run import Run
from privcode.privacy import ledger, make_plan
from privcode.release.bundle import write_data
from privcode.release.verify import verify_bundle
from tests.helpers import bundles
from tests.helpers.bundles import forge

CONFIG = """\
data: {source: private.jsonl, language: python}
privacy: {epsilon: null, noise_multiplier: 1.0, delta: 1.0e-3, units: 40, batch: 2, steps: 3}
prompts: {source: public, file: prompts.jsonl}
junior: {model: "bundled:junior", lora: {r: 2, alpha: 4}}
premium: {model: "bundled:premium"}
sanitize: {syntax: {schedule: "off"}}
"""
ROWS = [{"id": f"{n}-0", "prompt": f"Problem {n}", "completion": f"x = {n}"} for n in range(3)]
PARQUET = "data/train-00000-of-00001.parquet"
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that trained three steps, released; its premium model is the junior's copy."""
    root = tmp_path_factory.mktemp("made")
    write_jsonl(root / "private.jsonl", private_records(40, seed=1))
    (root / "privcode.yaml").write_text(CONFIG)
    run = Run(cli_config(root), root / "whole")
    run.do("sanitize")
    with run.stage("validate", [], [run.accepted]):
        write_jsonl(run.accepted, ROWS)
        verdicts = [{"id": row["id"], "accepted": True, "reason": ""} for row in ROWS]
        write_jsonl(run.verdicts, verdicts, mode=0o600)
    with run.stage("boost", [run.accepted], [run.premium]):
        shutil.copytree(run.junior, run.premium)
        named(run.premium / "adapter_config.json", "bundled:premium")
    with run.stage("synthesize", [], []):
        pass
    run.release()
    run.close()
    return root / "whole"


def named(config: Path, base: str) -> None:
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": base})
    )


def cli_config(root: Path) -> Any:
    from privcode.config import load_config

    return load_config(root / "privcode.yaml")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of the run to spoil."""
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def verify(folder: Path) -> dict[str, Any]:
    return results.verify(Run.open(folder, look=True))


def lines(folder: Path) -> list[Row]:
    return [json.loads(x) for x in (folder / "private/ledger.jsonl").read_text().splitlines()]


def rewrite(folder: Path, entries: list[Row], chained: bool = False) -> None:
    """Write the ledger, its rows linked again if `chained`, and note it as the right one."""
    previous = "0" * 64
    for entry in entries:
        if chained:
            entry["previous"] = previous
            entry["hash"] = ledger._digest(entry)
            previous = entry["hash"]
    text = "".join(json.dumps(entry, sort_keys=True) + "\n" for entry in entries)
    (folder / "private/ledger.jsonl").write_text(text)
    seal(folder, "private/ledger.jsonl")


def seal(folder: Path, name: str) -> None:
    """What somebody does who knows the manifests: enter the changed file's hash."""
    for manifest in (folder / "manifest.json", folder / "private" / "manifest.json"):
        facts = read_sealed(manifest)
        held = [facts.get("config", {}), facts.get("files", {})]
        held += [stage["outputs"] for stage in facts.get("stages", {}).values()]
        for hashes in held:
            if name in hashes:
                hashes[name] = sha256_file(folder / name)
        write_sealed(manifest, facts)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_an_untouched_run_and_its_bundle_verify(folder: Path) -> None:
    facts = verify(folder)
    assert facts["epsilon"] == verify_bundle(folder / "release")["epsilon"] > 0
    assert facts["versions"] == directory.versions()


def ledger_line_changed(folder: Path) -> None:
    edit(folder / "private/ledger.jsonl", '"step": 1', '"step": 7')


def ledger_line_changed_and_noted(folder: Path) -> None:
    entries = lines(folder)
    entries[2]["step"] = 7
    rewrite(folder, entries)


def ledger_line_removed_in_the_middle(folder: Path) -> None:
    entries = lines(folder)
    rewrite(folder, entries[:2] + entries[3:])


def ledger_lines_removed_at_the_end(folder: Path) -> None:
    rewrite(folder, lines(folder)[:-1])


def ledger_line_added(folder: Path) -> None:
    entries = lines(folder)
    rewrite(folder, [*entries, {"kind": "step", "step": 3}], chained=True)


def ledger_of_another_plan(folder: Path) -> None:
    entries = lines(folder)
    entries[0]["plan"]["noise_multiplier"] = 9.0
    rewrite(folder, entries, chained=True)


def ledger_deleted(folder: Path) -> None:
    (folder / "private/ledger.jsonl").unlink()


def config_value(folder: Path) -> None:
    edit(folder / "config.yaml", "noise_multiplier: 1.0", "noise_multiplier: 2.0")


def config_value_noted(folder: Path) -> None:
    config_value(folder)
    seal(folder, "config.yaml")


def adapter_byte(folder: Path) -> None:
    flip(folder / "models/junior" / WEIGHTS)


def synthetic_row(folder: Path) -> None:
    edit(folder / "synthetic/accepted.jsonl", "x = 1", "x = 2")


def version_in_the_manifest(folder: Path) -> None:
    edit(folder / "manifest.json", '"privcode": "', '"privcode": "9')


def file_added(folder: Path) -> None:
    (folder / "models/junior/more.bin").write_bytes(b"")


def hidden_file_added(folder: Path) -> None:
    (folder / "models/junior/.more").write_bytes(b"")


def link_added(folder: Path) -> None:
    (folder / "models/elsewhere").symlink_to("/")


def file_removed(folder: Path) -> None:
    (folder / "models/junior/adapter_config.json").unlink()


def manifest_removed(folder: Path) -> None:
    (folder / "private/manifest.json").unlink()


def bundle_adapter_byte(folder: Path) -> None:
    flip(folder / "release/adapter" / WEIGHTS)


def bundle_data_row(folder: Path) -> None:
    path = folder / "release" / PARQUET
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[1]["completion"] = "x = 2"
    pq.write_table(type(table).from_pylist(rows, table.schema), path)


def bundle_version(folder: Path) -> None:
    edit(folder / "release/privacy.json", '"privcode": "', '"privcode": "9')


def bundle_file_added(folder: Path) -> None:
    (folder / "release/.more").write_bytes(b"")


def bundle_with_a_lower_epsilon_sealed_again(folder: Path) -> None:
    reseal(folder, epsilon=0.1)


def bundle_with_fewer_steps_sealed_again(folder: Path) -> None:
    reseal(folder, steps=1)


def reseal(folder: Path, **changes: Any) -> None:
    path = folder / "release/privacy.json"
    write_sealed(path, read_sealed(path) | changes)


def consistent_forgery(folder: Path) -> None:
    """One step instead of three, and everything that follows from it."""
    plan = make_plan(epsilon=None, noise_multiplier=1.0, delta=1e-3, units=40, batch=2, steps=1)
    forge(folder / "release", plan=plan, spent=(plan.spent(),))


def bundle_of_other_files(folder: Path) -> None:
    flip(folder / "release/adapter" / WEIGHTS)
    bundles.reseal(folder / "release")


def bundle_of_other_rows(folder: Path) -> None:
    write_data(folder / "release" / PARQUET, [*ROWS[:2], ROWS[2] | {"completion": "x = 9"}])
    bundles.reseal(folder / "release")


CHANGES: dict[Callable[[Path], None], tuple[str, ...]] = {
    ledger_line_changed: ("ledger.jsonl", "restore"),
    ledger_line_changed_and_noted: ("ledger.jsonl, row 3", "altered", "restore"),
    ledger_line_removed_in_the_middle: ("ledger.jsonl, row 3", "does not follow", "restore"),
    ledger_lines_removed_at_the_end: ("ledger.jsonl", "2 of 3 steps", "restore"),
    ledger_line_added: ("ledger.jsonl", "4 of 3 steps", "restore"),
    ledger_of_another_plan: ("ledger.jsonl", "not written under the plan"),
    ledger_deleted: ("ledger.jsonl", "restore"),
    config_value: ("config.yaml", "restore"),
    config_value_noted: ("ledger.jsonl", "not written under the plan of config.yaml"),
    adapter_byte: (f"models/junior/{WEIGHTS}", "restore"),
    synthetic_row: ("accepted.jsonl", "restore"),
    version_in_the_manifest: ("manifest.json", "restore"),
    file_added: ("more.bin", "move it elsewhere"),
    hidden_file_added: ("models/junior/.more", "move it elsewhere"),
    link_added: ("models/elsewhere", "symbolic link"),
    file_removed: ("adapter_config.json", "restore"),
    manifest_removed: ("private/manifest.json",),
    bundle_adapter_byte: (f"release/adapter/{WEIGHTS}", "get the bundle again"),
    bundle_data_row: (f"release/{PARQUET}", "get the bundle again"),
    bundle_version: ("release/privacy.json", "restore"),
    bundle_file_added: ("release/.more", "remove it"),
    bundle_with_a_lower_epsilon_sealed_again: ("privacy.json", "states epsilon 0.1"),
    bundle_with_fewer_steps_sealed_again: ("privacy.json", "get the bundle again"),
    consistent_forgery: ("release/privacy.json", "states steps 1, the run 3", "privcode release"),
    bundle_of_other_files: (f"release/adapter/{WEIGHTS}", "not the run's", "privcode release"),
    bundle_of_other_rows: ("release/data", "other rows", "privcode release"),
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_is_found_and_named(folder: Path, change: Callable[[Path], None]) -> None:
    change(folder)
    with pytest.raises(UserError) as caught:
        verify(folder)
    for word in CHANGES[change]:
        assert word in str(caught.value)


def privcode(*arguments: str | Path) -> tuple[int, str, str]:
    """The command, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr("sys.argv", ["privcode", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    return code, out.getvalue(), err.getvalue()


def test_the_digest_published_elsewhere_tells_a_bundle_that_was_sealed_again(folder: Path) -> None:
    bundle = folder / "release"
    published = read_json(bundle / "privacy.json")["digest"]
    assert privcode("verify", bundle, "--digest", published)[0] == 0
    consistent_forgery(folder)
    verify_bundle(bundle)  # nothing in it contradicts itself
    code, out, err = privcode("verify", bundle, "--digest", published)
    assert (code, out) == (2, "")
    assert "not what its maker published" in " ".join(err.split())


def test_a_recipient_is_told_the_digest_and_the_versions_that_differ(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = folder / "release"
    code, out, _ = privcode("verify", bundle)
    assert code == 0
    assert read_json(bundle / "privacy.json")["digest"] in out
    assert "other versions" not in out
    here = directory.versions() | {"dp-accounting": "99.0"}
    monkeypatch.setattr(directory, "versions", lambda: here)
    code, out, _ = privcode("verify", bundle)
    assert code == 0
    assert f"dp-accounting {read_json(bundle / 'privacy.json')['versions']['dp-accounting']}" in out
    assert "(here 99.0)" in out
    _, out, _ = privcode("verify", bundle, "--json")
    assert json.loads(out)["verified_with"]["dp-accounting"] == "99.0"


def test_a_figure_that_another_accountant_made_is_not_called_damage(folder: Path) -> None:
    versions = read_json(folder / "release/privacy.json")["versions"]
    reseal(folder, epsilon=0.1, versions=versions | {"dp-accounting": "0.1"})
    with pytest.raises(UserError, match=r"made with dp-accounting 0\.1 and this is"):
        verify_bundle(folder / "release")


def test_the_files_that_privcode_leaves_for_a_while_are_no_change(folder: Path) -> None:
    (folder / "synthetic/.raw.jsonl.partial").write_text(jsonl_line({}))
    (folder / ".release.tmp").mkdir()
    (folder / ".release.tmp/README.md").write_text("")
    verify(folder)
