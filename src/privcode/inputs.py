"""Files as other tools wrote them: packed, with a byte order mark, in UTF-16.

Promises:
- Only regular files are opened, so nothing hangs on a pipe or reads a device without end.
- The name says how a file is packed: .gz, .zst, whatever the case. A file that is packed in another
  way than its name says is refused in one line.
- Text is UTF-8, with a byte order mark or without. UTF-16 and UTF-32 are read where a byte order
  mark says so.

Does not: guess an encoding, or parse.
"""

import codecs
import gzip
import os
import stat
import zlib
from collections.abc import Iterator
from functools import partial
from io import BufferedReader, FileIO, TextIOWrapper
from pathlib import Path
from typing import cast

from privcode.errors import UserError, why
from privcode.outputs import kind_of

LINE = 64 << 20
"""The most bytes in one line."""
NOT_UTF8 = "not valid UTF-8; re-encode the file as UTF-8, with iconv -f ITS_ENCODING -t UTF-8"
NO_MARK = "has zero bytes, as UTF-16 without a byte order mark; re-encode the file as UTF-8"
UNPACKING = (OSError, EOFError, zlib.error)
"""What reading a packed file raises where it is damaged."""

_PACKED = {".gz": ("gzip", b"\x1f\x8b"), ".zst": ("zstd", b"\x28\xb5\x2f\xfd")}
_ARCHIVES = {"bzip2": b"BZh", "xz": b"\xfd7zXZ\0", "zip": b"PK\x03\x04"}
_MARKS = {  # UTF-32 first: its mark begins like that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def unpacked_name(path: Path) -> str:
    """The name of a file in lower case, without what says how it is packed."""
    name = path.name.lower()
    return next((name.removesuffix(end) for end in _PACKED if name.endswith(end)), name)


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file, or one that a link leads to, for reading. Nothing else is opened.

    Raises:
        UserError: it is missing, may not be read, or could keep the reader waiting or never end:
            a pipe, a device, a socket.
    """
    try:
        _regular(path, os.stat(path).st_mode)  # before opening, because opening may have an effect
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        file = open(descriptor, "rb")  # noqa: SIM115 (the caller closes it)
        try:
            _regular(path, os.fstat(descriptor).st_mode)
        except UserError:
            file.close()
            raise
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({why(error)})") from error
    return file


def _regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: is {kind_of(mode)}, not a regular file; name a file")


def open_input(path: Path) -> BufferedReader:
    """Open a regular file for reading what is packed in it.

    Raises:
        UserError: what `open_regular` raises; the file is packed in another way than its name says.
    """
    raw = open_regular(path)
    try:
        head = raw.peek(10)
        end = path.suffix.lower()
        if end in _PACKED:
            kind, magic = _PACKED[end]
            if head and not head.startswith(magic):
                raise UserError(
                    f"{path}: is not packed with {kind}; take {end} off its name, or pack it again"
                )
            return _unzipped(raw) if end == ".gz" else _unzstd(raw)
        for end, (kind, magic) in _PACKED.items():
            if head.startswith(magic):
                raise UserError(f"{path}: is packed with {kind}; add {end} to its name")
        for kind, magic in _ARCHIVES.items():
            if head.startswith(magic) and (kind != "bzip2" or head[4:] == b"1AY&SY"):
                raise UserError(f"{path}: is packed with {kind}; unpack it first")
    except BaseException:
        raw.close()
        raise
    return raw


def _unzipped(raw: BufferedReader) -> BufferedReader:
    file = gzip.GzipFile(fileobj=raw)
    file.myfileobj = cast(FileIO, raw)  # closed with it
    return cast(BufferedReader, file)


def _unzstd(raw: BufferedReader) -> BufferedReader:
    import pyarrow

    return BufferedReader(pyarrow.input_stream(raw, compression="zstd"))


def encoding_of(head: bytes) -> str:
    """The encoding that the byte order mark at the beginning says, else UTF-8."""
    return next((name for mark, name in _MARKS.items() if head.startswith(mark)), "utf-8-sig")


def decoded(data: bytes) -> str:
    """The text in bytes, without its byte order mark.

    Raises:
        UnicodeDecodeError: it is not UTF-8, nor what its byte order mark says.
    """
    return data.decode(encoding_of(data[:4]))


def open_text(path: Path) -> TextIOWrapper:
    """Open text for reading, with the ends of lines as they are.

    Raises:
        UserError: what `open_input` raises.
    """
    file = open_input(path)
    try:
        return TextIOWrapper(file, encoding=encoding_of(file.peek(4)), newline="")
    except UNPACKING as error:
        file.close()
        raise UserError(f"{path}: cannot be read ({why(error)})") from error


def text_lines(path: Path, each: str) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line with its end).

    Args:
        path: a file of text.
        each: what to do about a line that is too long.

    Raises:
        UserError: what `open_input` raises; a line is longer than `LINE` or wrongly encoded.
    """
    encoding, number = "utf-8-sig", 0
    try:
        with open_input(path) as file:
            encoding = encoding_of(file.peek(4))
            lines: Iterator[bytes | str]
            if encoding == "utf-8-sig":  # decoded line by line: an error then has its exact place
                lines = iter(partial(file.readline, LINE + 1), b"")
            else:
                text = TextIOWrapper(file, encoding=encoding, newline="\n")
                lines = iter(partial(text.readline, LINE + 1), "")
            for number, line in enumerate(lines, start=1):
                if len(line) > LINE:
                    raise UserError(f"{path}, row {number}: is longer than {LINE >> 20} MB; {each}")
                if isinstance(line, bytes):
                    line = line.decode("utf-8-sig" if number == 1 else "utf-8")
                yield number, line
    except UnicodeDecodeError:
        # In UTF-8, the line that could not be decoded is `number`.
        where = f"row {number}" if encoding == "utf-8-sig" else f"after row {number}"
        raise UserError(f"{path}, {where}: {NOT_UTF8}") from None
    except UNPACKING as error:
        raise UserError(f"{path}: cannot be read ({why(error)})") from error
