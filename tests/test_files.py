"""The rows of a file, read when they are asked for."""

from pathlib import Path

import pytest

from privcode.files import Lines, jsonl_line


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 700])
def test_rows_of_a_file_are_read_when_they_are_asked_for(tmp_path: Path, count: int) -> None:
    rows = [{"n": n, "text": "ü\n" * (n % 7)} for n in range(count)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n \n".join(map(jsonl_line, rows)))
    lines = Lines(path)
    assert (len(lines), list(lines)) == (count, rows)
    for cut in (slice(0, 256), slice(256, 512), slice(250, 260), slice(-3, None), slice(9, 2)):
        assert lines[cut] == rows[cut]
    if count:
        assert lines[-1] == lines[count - 1] == rows[-1]
    with pytest.raises(IndexError):
        lines[count]
