"""The attack table of docs/evidence/sandbox.md: every attack, in every sandbox, as root and not.

    sudo python benchmarks/attacks.py > table.md

Promises: a cell says "held" only if every variant of the attack was made here, and failed.
"""

import re
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1] / "tests" / "execution"
FILES = {
    "test_reach.py": "Reaching out",
    "test_bounds.py": "Using up, leaving behind",
    "test_stores.py": "Memory that the kernel holds",
    "test_verdicts.py": "Faking a verdict",
    "test_neighbours.py": "Changing the next program",
}
LAYERS = ("bubblewrap", "namespaces", "landlock", "landlock1", "podman")
USERS = ("root", "ordinary")
_WORST = ("", "held", "not here", "**FAILS**")


class Table:
    """What pytest reports, by file, attack and column."""

    def __init__(self) -> None:
        self.cells: dict[tuple[str, str, str], str] = {}
        self.variants: dict[tuple[str, str, str], int] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        column = re.search(rf"({'|'.join(LAYERS)})-({'|'.join(USERS)})", report.nodeid)
        if column is None or (report.when != "call" and report.outcome == "passed"):
            return
        file, name = re.findall(r"(test_\w+\.py)::test_(\w+)", report.nodeid)[0]
        if file == "test_stores.py":  # one test, a store each
            name = report.nodeid.partition(f"{column[0]}-")[2].rstrip("]")
        key = file, name.replace("_", " "), column[0]
        said = {"passed": "held", "skipped": "not here", "failed": "**FAILS**"}[report.outcome]
        self.cells[key] = max(self.cells.get(key, ""), said, key=_WORST.index)
        self.variants[key] = self.variants.get(key, 0) + 1

    def lines(self) -> list[str]:
        columns = [f"{layer}-{user}" for layer in LAYERS for user in USERS]
        titles = {"landlock1": "landlock (5.13)"}
        head = " | ".join(
            f"{titles.get(layer, layer)}, {user}" for layer in LAYERS for user in USERS
        )
        lines = []
        for file, title in FILES.items():
            lines += [f"\n| {title} | {head} |", "|---" * (1 + len(columns)) + "|"]
            for attack in dict.fromkeys(name for found, name, _ in self.cells if found == file):
                cells = [self.cells.get((file, attack, column), "") for column in columns]
                most = max(self.variants.get((file, attack, column), 0) for column in columns)
                times = f" (× {most})" if most > 1 else ""
                lines.append(f"| {attack}{times} | {' | '.join(cells)} |")
        return lines


def main() -> int:
    table = Table()
    stdout, sys.stdout = sys.stdout, sys.stderr
    code = pytest.main(["-q", *(str(TESTS / name) for name in FILES)], plugins=[table])
    sys.stdout = stdout
    print("\n".join(table.lines()))
    return int(code)


if __name__ == "__main__":
    raise SystemExit(main())
