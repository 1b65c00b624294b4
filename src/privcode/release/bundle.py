"""What a bundle holds: its files, and that each is what it has to be.

Promises:
- A bundle is a card, a page, `privacy.json`, one Parquet file of three text columns and the tuned
  model. It holds nothing else.
- A file of another kind under one of these names is refused. So is text hidden in what these kinds
  may carry next to their contents.

Does not: read the meaning of a tensor or a row.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open

from privcode.errors import UserError
from privcode.files import Row
from privcode.plain import hash_plain, open_plain, parse_object, read_object, read_plain, shown

FACTS, CARD, PAGE = "privacy.json", "README.md", "report.html"
DATA = "data/train-00000-of-00001.parquet"
MODEL = "adapter"
SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "prompt", "completion")])

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_WHOLE = re.compile(
    r"config\.json|generation_config\.json|tokenizer\.json|tokenizer_config\.json"
    r"|special_tokens_map\.json|added_tokens\.json|vocab\.json|merges\.txt|chat_template\.jinja"
    r"|model\.safetensors|model\.safetensors\.index\.json|model-\d{5}-of-\d{5}\.safetensors"
)
_TENSOR = re.compile(r"[A-Za-z0-9_.]{1,250}")
_LORA = re.compile(r"base_model\.model\.[A-Za-z0-9_.]+\.lora_([AB])\.weight")
_DTYPES = ("F32", "F16", "BF16")
_HEADER = 16 * 2**20
_FOOTER = 16 * 2**20
_TOKENIZER = 256 * 2**20
_BOMB = 2 * 2**30

# Text in the adapter config of a plain LoRA. All else in it is a number, a switch or empty.
_WORDS = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "bias": "none",
    "megatron_core": "megatron.core",
}
_NUMBERS = ("r", "lora_alpha", "lora_dropout")


def model_files(names: Iterable[str], where: str) -> tuple[str, ...]:
    """The files of a tuned model, where `names` are all of its files: an adapter, or a whole model.

    Raises:
        UserError: a file is missing or is none of them; begins with `where`.
    """
    found = sorted(names)
    if _CONFIG in found:
        expected = [_CONFIG, _WEIGHTS]
        foreign = [name for name in found if name not in expected]
    else:
        weights = [name for name in found if name.endswith(".safetensors")]
        expected = ["config.json", "tokenizer.json", *(weights or ["model.safetensors"])]
        foreign = [name for name in found if not _WHOLE.fullmatch(name)]
    if foreign:
        raise UserError(f"{where}/{shown(Path(foreign[0]))}: is not part of the bundle; remove it")
    if missing := [name for name in expected if name not in found]:
        raise UserError(f"{where}/{missing[0]}: is missing; get the bundle again")
    return tuple(found)


def check_model(folder: Path, names: Sequence[str], base: str) -> None:
    """Refuse a tuned model whose files are not what their names say. `base`: its model's name.

    Raises:
        UserError: names the file.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        path = folder / name
        if name.endswith(".safetensors"):
            shapes |= _tensors(path)
        elif name.endswith(".json"):
            facts = read_object(path, _TOKENIZER)
            if name == _CONFIG:
                _check_config(path, facts, base)
            elif "auto_map" in facts or "custom_pipelines" in facts:
                raise UserError(f"{path}: names code to be run; get the bundle again")
        else:
            _check_text(path)
    if _CONFIG in names:
        _check_lora(folder / _WEIGHTS, shapes, read_object(folder / _CONFIG))
    if not shapes:
        raise UserError(f"{folder}: holds no tensor; get the bundle again")


def _check_text(path: Path) -> None:
    try:
        read_plain(path, _TOKENIZER).decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not text; get the bundle again") from None


def _check_config(path: Path, facts: Row, base: str) -> None:
    """Refuse a config that is not that of a plain LoRA of `base`, or that carries text or code."""
    if facts.get("base_model_name_or_path") != base:
        raise UserError(f"{path}: is not an adapter of {base}; get the bundle again")
    targets = facts.get("target_modules")
    if not (isinstance(targets, list) and targets and all(map(_is_tensor_name, targets))):
        raise UserError(f"{path}, target_modules: names no layers; get the bundle again")
    for name in _NUMBERS:
        if type(facts.get(name)) not in (int, float):
            raise UserError(f"{path}, {name}: is no number; get the bundle again")
    for name, value in facts.items():
        known = name in ("base_model_name_or_path", "target_modules") or _WORDS.get(name) == value
        version = name == "peft_version" and re.fullmatch(r"[0-9][0-9a-z.+]{0,40}", str(value))
        plain = value is None or type(value) in (bool, int, float) or value in ({}, [])
        if not (known or version or plain) or not _is_tensor_name(name):
            raise UserError(
                f"{path}, {shown(Path(name))}: is not that of a plain LoRA adapter; "
                "get the bundle again"
            )
    if any(facts.get(name) != word for name, word in _WORDS.items() if name != "megatron_core"):
        raise UserError(f"{path}: is not that of a plain LoRA adapter; get the bundle again")


def _is_tensor_name(name: object) -> bool:
    return isinstance(name, str) and _TENSOR.fullmatch(name) is not None


def _check_lora(path: Path, shapes: dict[str, tuple[int, ...]], config: Row) -> None:
    """Refuse tensors that are not LoRA pairs of the rank and the layers in the config."""
    for name, shape in shapes.items():
        kind = _LORA.fullmatch(name)
        module = name.rpartition(".lora_")[0]
        other = f"{module}.lora_{'B' if kind and kind[1] == 'A' else 'A'}.weight"
        layer = any(f".{module}".endswith(f".{target}") for target in config["target_modules"])
        rank = len(shape) == 2 and shape[0 if kind and kind[1] == "A" else 1] == config["r"]
        if not (kind and layer and rank and other in shapes):
            raise UserError(f"{path}: holds what is no LoRA of its config; get the bundle again")


def _tensors(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes by name of a safetensors file that holds finite numbers and nothing else."""
    with open_plain(path) as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= _HEADER:
            raise UserError(f"{path}: is no safetensors file; get the bundle again")
        header = parse_object(file.read(length), f"{path}, header")
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if header.get("__metadata__", {"format": "pt"}) != {"format": "pt"}:
        raise UserError(f"{path}: carries more than tensors; get the bundle again")
    for name, entry in entries.items():
        fields = set(entry) if isinstance(entry, dict) else set()
        if not _is_tensor_name(name) or fields != {"dtype", "shape", "data_offsets"}:
            raise UserError(f"{path}: carries more than tensors; get the bundle again")
        if entry["dtype"] not in _DTYPES:
            raise UserError(f"{path}: holds a tensor of another type; get the bundle again")
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        with safe_open(path, "pt") as tensors:  # it refuses holes, overlaps and a wrong length
            for name in list(tensors.keys()):
                tensor = tensors.get_tensor(name)
                shapes[name] = tuple(tensor.shape)
                if not tensor.numel() or not bool(torch.isfinite(tensor).all()):
                    raise UserError(
                        f"{path}: tensor {name} is empty or not finite; get the bundle again"
                    )
    except (SafetensorError, ValueError, RuntimeError, OSError):
        raise UserError(f"{path}: is no safetensors file; get the bundle again") from None
    return shapes


def write_data(path: Path | IO[bytes], rows: Sequence[Row]) -> None:
    """Write rows {id, prompt, completion} as Parquet, without any other text."""
    columns = {name: [row[name] for row in rows] for name in SCHEMA.names}
    _write_table(path, pa.table(columns, SCHEMA))


def _write_table(path: Path | IO[bytes], table: pa.Table) -> None:
    pq.write_table(table, path, store_schema=False, write_statistics=False)


def check_data(path: Path, rows: int) -> None:
    """Refuse data of another shape or number of rows, and what hides between or below the rows.

    If the installed pyarrow is the one that wrote the data, the data are written again and
    compared.

    Raises:
        UserError: names the file.
    """
    with open_plain(path) as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 8))
        tail = file.read(8)
        footer = int.from_bytes(tail[:4], "little")
        if tail[4:] != b"PAR1" or not 0 < footer <= min(_FOOTER, size - 12):
            raise UserError(f"{path}: is no Parquet file; get the bundle again")
        try:
            _check_layout(path, pq.ParquetFile(file), size - 8 - footer)
            data = pq.ParquetFile(file, read_dictionary=SCHEMA.names)
            if data.metadata.num_rows != rows:
                raise UserError(
                    f"{path}: holds {data.metadata.num_rows} rows, and {rows} are stated; "
                    "get the bundle again"
                )
            decoded = 0
            for group in range(data.num_row_groups):
                for column in data.read_row_group(group).itercolumns():
                    column.validate(full=True)
                    if column.null_count:
                        raise UserError(f"{path}: holds a row without text; get the bundle again")
                    decoded += sum(map(_decoded, column.chunks))
            if decoded > max(_BOMB, 64 * size):
                raise UserError(f"{path}: is far larger inside than outside; do not load it")
            if data.metadata.created_by.endswith(f" {pa.cpp_version}"):
                table = data.read()
                text = [
                    pa.chunked_array(
                        [c.cast(pa.string()) for c in table[n].chunks] or [[]], pa.string()
                    )
                    for n in SCHEMA.names
                ]
                again = io.BytesIO()
                _write_table(again, pa.table(text, SCHEMA))
                if hashlib.sha256(again.getbuffer()).hexdigest() != hash_plain(path):
                    raise UserError(f"{path}: is not what its rows give; get the bundle again")
        except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError):
            raise UserError(f"{path}: is no whole Parquet file; get the bundle again") from None


def _decoded(part: pa.DictionaryArray) -> int:
    """Bytes of text in one chunk once each row has its own text. Refuses text that is not UTF-8."""
    part.dictionary.validate(full=True)
    lengths = pc.binary_length(part.dictionary).take(part.indices)
    return pc.sum(lengths.cast(pa.int64())).as_py() or 0


def _check_layout(path: Path, data: pq.ParquetFile, end: int) -> None:
    """Refuse other columns, text in the footer, and bytes that belong to no column."""
    facts = data.metadata
    texts = [data.schema.column(n) for n in range(min(len(data.schema), 4))]
    same = [(c.path, c.physical_type, str(c.logical_type)) for c in texts] == [
        (name, "BYTE_ARRAY", "String") for name in SCHEMA.names
    ]
    told = re.fullmatch(r"parquet-cpp-arrow version [0-9][0-9a-zA-Z.-]{0,30}", facts.created_by)
    if not same or facts.metadata or not told:
        raise UserError(f"{path}: has other columns than id, prompt, completion, or carries text")
    at = 4
    for group in range(facts.num_row_groups):
        for column in range(facts.num_columns):
            chunk = facts.row_group(group).column(column)
            first = chunk.data_page_offset
            if chunk.has_dictionary_page:
                first = min(first, chunk.dictionary_page_offset)
            if chunk.is_stats_set:  # it could hold text that is in no column
                raise UserError(f"{path}: carries text next to its rows; get the bundle again")
            if first != at or chunk.total_compressed_size < 0 or chunk.file_path:
                raise UserError(f"{path}: holds bytes of no column; get the bundle again")
            if chunk.compression not in ("SNAPPY", "UNCOMPRESSED"):  # bounded, unlike others
                raise UserError(f"{path}: is not compressed as privcode does; get it again")
            at += chunk.total_compressed_size
    if at != end:
        raise UserError(f"{path}: holds bytes of no column; get the bundle again")


def rows_of(path: Path) -> list[Row]:
    """The rows of checked data."""
    with open_plain(path) as file:
        rows: list[Row] = pq.read_table(file).to_pylist()
    return rows
