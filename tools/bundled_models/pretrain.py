"""Pre-train the bundled models on public exercises: `python -m tools.bundled_models.pretrain`.

    train NAME --minutes M --out ROOT               one CPU thread; ROOT/NAME/{snapshot,final}
    sample ROOT/NAME/final                          answers to held-out public tasks, to be scored
    install ROOT                                    copies ROOT/*/final into the package's assets

Promises: public data only, loss on target tokens only, a loadable snapshot every few minutes, and
a run that is killed continues from its last snapshot. Does not: repeat bit for bit, because the
schedule follows the clock.
"""

import argparse
import copy
import functools
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch.nn import functional
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from privcode.exercises.corpus import Pair, public_documents
from privcode.files import write_json, write_with
from tools.bundled_models import bundle
from tools.bundled_models.tokenizer import CONTEXT, build_tokenizer, describe, solve, write

Example = tuple[list[int], list[int]]  # context ids, target ids

SNAPSHOT_SECONDS = 300.0
CHUNK = 1024
BATCH_TOKENS = 3072


@dataclass(frozen=True)
class Size:
    """Shape of a model, its peak learning rate, the shares of describe and of write documents."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    learning_rate: float
    describe_share: float
    seed: int
    write_share: float = 0.0


SIZES = {
    "junior": Size(128, 4, 4, 320, 4e-3, 0.0, 1),
    "premium": Size(192, 5, 6, 512, 3e-3, 0.3, 2),
    "writer": Size(128, 4, 4, 320, 4e-3, 0.0, 3, write_share=0.2),
}


@dataclass
class Progress:
    """What a run has done so far; `seconds` is training time over all its restarts."""

    steps: int = 0
    documents: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss: float = 0.0


def build_model(size: Size, tokenizer: Any) -> Any:
    """A fresh `LlamaForCausalLM` with tied embeddings and residual-scaled initial weights."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        intermediate_size=size.feed_forward,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(size.seed)
    model = LlamaForCausalLM(config)
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            scale = 0.02 if "embed" in name else 0.7 * size.hidden**-0.5
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                scale /= math.sqrt(2 * size.layers)
            torch.nn.init.normal_(weight, 0.0, scale)
    return model


def examples(documents: Iterator[Pair], size: Size, tokenizer: Any, rng: Random) -> list[Example]:
    """Tokenise the next documents, each in one direction; one describe in twenty has no code."""
    texts = []
    for pair in islice(documents, CHUNK):
        drawn = rng.random()
        if drawn >= size.describe_share + size.write_share:
            texts.append(solve(pair))
        elif drawn >= size.describe_share:
            texts.append(write(pair))
        elif rng.random() < 0.05:
            texts.append(describe(Pair(pair.prompt, "")))
        else:
            texts.append(describe(pair))
    encode = tokenizer.backend_tokenizer.encode_batch
    contexts = encode([context for context, _ in texts], add_special_tokens=False)
    targets = encode([target for _, target in texts], add_special_tokens=False)
    return [
        (c.ids, [*t.ids, tokenizer.eos_token_id]) for c, t in zip(contexts, targets, strict=True)
    ]


def batches(chunk: list[Example], rng: Random) -> list[list[Example]]:
    """Group examples of like length so that a padded batch holds about `BATCH_TOKENS`."""
    ordered = sorted(chunk, key=lambda e: len(e[0]) + len(e[1]) + 4 * rng.random())
    groups: list[list[Example]] = [[]]
    for example in ordered:
        width = len(example[0]) + len(example[1]) + 4
        if groups[-1] and width * (len(groups[-1]) + 1) > BATCH_TOKENS:
            groups.append([])
        groups[-1].append(example)
    rng.shuffle(groups)
    return groups


def target_loss(model: Any, batch: list[Example]) -> torch.Tensor:
    """Mean cross-entropy over the batch's target tokens.

    Padding is on the right: a causal model's real positions never see it, so no mask is needed.
    """
    width = max(len(c) + len(t) for c, t in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    wanted = torch.zeros(len(batch), width, dtype=torch.bool)
    for row, (context, target) in enumerate(batch):
        ids[row, : len(context) + len(target)] = torch.tensor(context + target)
        wanted[row, len(context) : len(context) + len(target)] = True
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        logits = model.lm_head(hidden[wanted[:, 1:]])
    return functional.cross_entropy(logits.float(), ids[:, 1:][wanted[:, 1:]])


def save_model(model: Any, tokenizer: Any, directory: Path) -> None:
    """Write a loadable fp16 folder; it appears whole, replacing what was there."""
    temporary = directory.with_name(f".{directory.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    half = copy.deepcopy(model).half()
    half.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=256,
    )
    half.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    shutil.rmtree(directory, ignore_errors=True)
    temporary.rename(directory)


def train(name: str, minutes: float, root: Path) -> Path:
    """Train one model for `minutes` of wall-clock time and return its final folder.

    AdamW, 100 steps of warm-up, then a cosine over the time budget down to 2 %.
    """
    torch.set_num_threads(1)
    size, out = SIZES[name], root / name
    tokenizer = _tokenizer(root / "tokenizer")
    model = build_model(size, tokenizer)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=size.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    progress, resume = Progress(), out / "resume.pt"
    if resume.exists():
        state = torch.load(resume)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        progress = Progress(**state["progress"])
    # A continued run takes a stream of its own instead of skipping what was already read.
    stream_seed = size.seed + 1000 * (progress.documents + 1)
    rng, documents = Random(stream_seed), public_documents(stream_seed)
    before, began, saved = progress.seconds, time.monotonic(), time.monotonic()
    done = progress.seconds / (60 * minutes)
    while done < 1:
        for batch in batches(examples(documents, size, tokenizer, rng), rng):
            decay = max(0.02, 0.5 * (1 + math.cos(math.pi * min(1.0, done))))
            for group in optimizer.param_groups:
                group["lr"] = size.learning_rate * min(1.0, (progress.steps + 1) / 100) * decay
            optimizer.zero_grad()
            loss = target_loss(model, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            progress.steps += 1
            progress.documents += len(batch)
            progress.tokens += sum(len(c) + len(t) for c, t in batch)
            progress.seconds = before + time.monotonic() - began
            smooth = min(0.99, 1 - 1 / progress.steps)
            progress.loss = smooth * progress.loss + (1 - smooth) * loss.item()
            done = progress.seconds / (60 * minutes)
            if progress.steps % 100 == 0:
                print(json.dumps({"done": round(done, 3), **asdict(progress)}), flush=True)
            if time.monotonic() - saved > (SNAPSHOT_SECONDS if progress.steps > 1000 else 120):
                saved = time.monotonic()
                save_model(model, tokenizer, out / "snapshot")
                state = {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "progress": asdict(progress),
                }
                write_with(resume, functools.partial(torch.save, state))
            if done >= 1:
                break
    save_model(model, tokenizer, out / "final")
    write_json(
        out / "training.json",
        {
            "model": name,
            "minutes": minutes,
            **asdict(size),
            "parameters": model.num_parameters(),
            **asdict(progress),
        },
    )
    return out / "final"


def _tokenizer(directory: Path) -> Any:
    """The run's tokenizer, built once and shared by both models."""
    if not (directory / "tokenizer.json").exists():
        directory.mkdir(parents=True, exist_ok=True)
        build_tokenizer().save_pretrained(directory)
    return AutoTokenizer.from_pretrained(directory)


def main() -> None:
    """Run one command of the module's docstring."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("train")
    command.add_argument("name", choices=SIZES)
    command.add_argument("--minutes", type=float, required=True)
    command.add_argument("--out", type=Path, required=True)
    command = commands.add_parser("sample")
    command.add_argument("folder", type=Path)
    command = commands.add_parser("install")
    command.add_argument("root", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "train":
        train(arguments.name, arguments.minutes, arguments.out)
    elif arguments.command == "sample":
        print(*bundle.sample(arguments.folder))
    else:
        print(bundle.install(arguments.root))


if __name__ == "__main__":
    main()
