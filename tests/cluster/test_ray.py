"""A cluster of two machines on this one: the same bytes as without it, whatever dies meanwhile.

Each machine of the cluster is a raylet with one processor, and each run a process of its own.
"""

import ast
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import pytest

from privcode.cluster import Scale, check_nodes, engine
from privcode.errors import UserError
from tests.helpers.sampled import begin, on_cluster

SOURCE = Path(__file__).parents[2] / "src"
needs_ray = pytest.mark.skipif(
    find_spec("ray") is None, reason="ray is not installed; pip install 'privcode[ray]'"
)
MADE = ("synthetic/raw.jsonl", "synthetic/accepted.jsonl", "private/verdicts.jsonl")
STORE = 100 << 20
CHUNKS = 6
ENDING = "samples.jsonl"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head with one processor. A test adds what it needs."""
    paths = [str(SOURCE), str(SOURCE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    here = {
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray's workers have a low priority otherwise, and are slow where others work too.
        "RAY_worker_niceness": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    with patch.dict(os.environ, here):  # later tests have the environment of before
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
        found = Cluster(initialize_head=True, head_node_args=head)
        yield found
        found.shutdown()


@pytest.fixture
def second(cluster: Any) -> Iterator[Any]:
    """The second machine."""
    node = cluster.add_node(num_cpus=1, object_store_memory=STORE)
    cluster.wait_for_nodes()
    yield node
    if node in cluster.worker_nodes:
        cluster.remove_node(node)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that one process did."""
    run = begin(tmp_path_factory.mktemp("alone"), prompts=256 * CHUNKS)
    shutil.copytree(run, run.parent / "begun")
    for stage in ("synthesize", "validate"):
        privcode(stage, run.parent / "privcode.yaml", "--out", run)
    return run


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "privcode", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )


def finished(process: subprocess.Popen[str], code: int = 0) -> str:
    _, said = process.communicate(timeout=900)
    assert process.returncode == code, said
    return said


def privcode(*arguments: str | Path) -> str:
    return finished(start(*arguments))


def sharing(alone: Path, name: str, cluster: Any, begun: str = "begun") -> tuple[Path, Path]:
    """A copy of the run in its beginnings, and its config, with the cluster."""
    copy = alone.parent / name
    scale = f"{{engine: ray, address: {cluster.address}}}"
    return on_cluster(alone.parent / begun, copy, scale), copy


def wait_for(sign: "Any", process: subprocess.Popen[str]) -> None:
    while not sign():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def chunks(partial: Path) -> int:
    return partial.read_bytes().count(b"\n") if partial.exists() else 0


def workers(node: Any, call: str) -> list[psutil.Process]:
    """The worker processes of a machine that are in the middle of this call."""
    raylet = next(info.process.pid for info in node.all_processes["raylet"])
    found = []
    for child in psutil.Process(raylet).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has ended since
            if call in " ".join(child.cmdline()):
                found.append(child)
    return found


def at_work(machines: tuple[Any, ...], process: subprocess.Popen[str]) -> bool:
    """Whether a worker of each works at some time before the process ends."""
    while process.poll() is None:
        if all(workers(machine, "_Worker.do") for machine in machines):
            return True
        time.sleep(0.05)
    return False


@needs_ray
@pytest.mark.slow
def test_a_killed_worker_and_a_killed_machine_change_nothing(
    alone: Path, cluster: Any, second: Any
) -> None:
    for number in count():  # until the other machine starts to work before all is done
        config, run = sharing(alone, f"killed{number}", cluster)
        partial = run / "synthetic" / ".raw.jsonl.partial"
        process = start("synthesize", config, "--out", run)
        machines = (cluster.head_node, second)
        if at_work(machines, process):
            break
        assert number < 4
    workers(cluster.head_node, "_Worker.do")[0].send_signal(signal.SIGKILL)
    wait_for(lambda: chunks(partial), process)  # of the other machine: a new worker starts slowly
    cluster.remove_node(second, allow_graceful=False)
    assert chunks(partial) < CHUNKS
    finished(process)
    other = cluster.add_node(num_cpus=1, object_store_memory=STORE)
    process = start("validate", config, "--out", run)
    wait_for(lambda: workers(other, "_Worker.do") or workers(other, "_piece"), process)
    cluster.remove_node(other, allow_graceful=False)
    assert "accepted" in finished(process)
    for name in MADE:
        assert (run / name).read_bytes() == (alone / name).read_bytes(), name
    assert (run / "private" / "verdicts.jsonl").stat().st_mode & 0o777 == 0o600


@needs_ray
@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_chunks_that_it_lacks(
    alone: Path, cluster: Any, second: Any
) -> None:
    config, run = sharing(alone, "again", cluster)
    partial = run / "synthetic" / ".raw.jsonl.partial"
    process = start("synthesize", config, "--out", run)
    wait_for(lambda: chunks(partial), process)
    process.kill()
    process.communicate()
    kept = partial.read_bytes()
    process = start("synthesize", config, "--out", run)
    wait_for(lambda: chunks(partial) > kept.count(b"\n"), process)
    assert partial.read_bytes().startswith(kept)
    process.send_signal(signal.SIGINT)
    assert finished(process, 130).strip().splitlines()[-1].startswith("privcode: interrupted")
    privcode("synthesize", alone.parent / "privcode.yaml", "--out", run)  # and without the cluster
    assert (run / MADE[0]).read_bytes() == (alone / MADE[0]).read_bytes()


@needs_ray
@pytest.mark.slow
def test_after_ctrl_c_nothing_of_the_run_is_left_on_the_cluster(
    alone: Path, cluster: Any, second: Any
) -> None:
    config, run = sharing(alone, "stopped", cluster)
    process = start("synthesize", config, "--out", run)
    wait_for(lambda: any(workers(n, "_Worker.do") for n in (cluster.head_node, second)), process)
    process.send_signal(signal.SIGINT)
    said = finished(process, 130)
    assert "Traceback" not in said
    deadline = time.monotonic() + 60
    while any(workers(node, "ray::_") for node in (cluster.head_node, second)):
        assert time.monotonic() < deadline
        time.sleep(0.2)


@needs_ray
@pytest.mark.slow
def test_an_arm_is_scored_on_the_cluster_as_without_it(
    alone: Path, cluster: Any, second: Any
) -> None:
    text = (alone.parent / "privcode.yaml").read_text() + "compare: {methods: [base]}\n"
    scales = {"here": "", "there": f"scale: {{engine: ray, address: {cluster.address}}}\n"}
    for name, scale in scales.items():
        (alone.parent / f"{name}.yaml").write_text(text + scale)
        privcode("compare", alone.parent / f"{name}.yaml", "--out", alone.parent / name)
    here, there = (alone.parent / name for name in scales)
    made = ["results.json", *(f"base/evaluation/house.base.{end}" for end in ("json", ENDING))]
    for name in made:
        assert (here / name).read_bytes() == (there / name).read_bytes(), name


def _fails() -> None:
    raise UserError("junior.model: cannot be loaded; name another")


@needs_ray
@pytest.mark.slow
def test_an_error_of_a_machine_is_the_one_line_that_it_was(cluster: Any, second: Any) -> None:
    scale = Scale(engine="ray", address=cluster.address)
    with pytest.raises(UserError, match=r"^machine [\d.]+: junior.model: cannot be loaded"):
        check_nodes(scale, _fails)
    with engine(scale) as chosen:
        with chosen.workers(_fails) as crew, pytest.raises(UserError, match=r"^junior.model: can"):
            crew(lambda thing: thing)
        with pytest.raises(UserError, match=r"^junior.model: can"):
            list(chosen.spread(lambda items, at_once: [_fails() for _ in items], range(3)))
        with chosen.workers(lambda: 7) as crew, pytest.raises(UserError, match=r"^junior.model"):
            crew(lambda thing: _fails())


@needs_ray
@pytest.mark.slow
def test_work_that_kills_every_worker_ends_in_one_line(cluster: Any, second: Any) -> None:
    with (
        engine(Scale(engine="ray", address=cluster.address)) as chosen,
        chosen.workers(lambda: 7) as crew,
        pytest.raises(UserError, match="keep dying"),
    ):
        crew(lambda thing: os.kill(os.getpid(), signal.SIGKILL))


@needs_ray
@pytest.mark.slow
def test_a_machine_with_other_packages_is_refused(
    cluster: Any, second: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from privcode.cluster import _ray

    other = _ray.packages() | {"torch": "1.0"}
    monkeypatch.setattr(_ray, "packages", lambda: other)
    scale = Scale(engine="ray", address=cluster.address)
    line = r"machine [\d.]+ of the cluster: torch is .*, and 1.0 where the run was started"
    with pytest.raises(UserError, match=line):
        check_nodes(scale, int)
    with engine(scale) as chosen:
        with chosen.workers(int) as crew, pytest.raises(UserError, match=line):
            crew(abs)
        with pytest.raises(UserError, match=line):
            list(chosen.spread(lambda items, _: list(items), range(3)))


@needs_ray
@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:9", "nothing answers"),
        ("ray://127.0.0.1:10001", "not supported"),
        ("somewhere", "write auto, or HOST:PORT"),
        ("auto", "nothing answers"),
    ],
)
def test_an_address_without_a_cluster_is_refused_in_one_line(
    address: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")  # what auto means then
    with pytest.raises(UserError, match=said):
        check_nodes(Scale(engine="ray", address=address), int)


def test_without_the_extra_one_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "privcode.cluster._ray", raising=False)
    with pytest.raises(UserError, match=r"pip install 'privcode\[ray\]'"):
        check_nodes(Scale(engine="ray"), int)


def test_only_stages_that_read_nothing_private_use_an_engine() -> None:
    """What trains on private records, or attacks with them, does not import the cluster."""
    using = set()
    for path in (SOURCE / "privcode").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            if any(n.startswith(("privcode.cluster", "privcode.pipeline.scale")) for n in names):
                using.add(path.relative_to(SOURCE / "privcode").as_posix())
    stages = {name for name in using if name.startswith("pipeline/stages/")}
    assert stages == {f"pipeline/stages/{s}.py" for s in ("synthesize", "validate", "evaluate")}
    assert not any(name.startswith(("training/", "privacy/", "data/", "audit/")) for name in using)


@needs_ray
def test_a_token_does_not_go_to_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    from privcode.cluster import _ray

    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "secret" not in _ray._environment().values()
    assert _ray._environment()["HF_HUB_OFFLINE"] == "1"
