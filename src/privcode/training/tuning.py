"""Boost (paper section 4.3): supervised fine-tuning of the premium model on the synthetic pairs.

Promises:
- The loss is on the completion and its end token only.
- Prompt and completion are tokenised apart, as generation will see them.
- A killed run that is called again with the same arguments continues from its last whole
  checkpoint. On one CPU with the same threads, it writes the same bytes as an uninterrupted run.
- `output` appears whole or not at all.

Does not:
- Touch private data.
- Pack or cut pairs.
- Evaluate.
- Check that the model given again is the same.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

from privcode.errors import UserError
from privcode.files import failed_write, read_json, write_json
from privcode.models import attach_lora, pair_tokens, save_model
from privcode.models.settings import Model
from privcode.training.settings import Boost

SAVE_EVERY = 100
"""Optimizer steps between checkpoints."""

_COMPLETE = "complete.json"


def encode(
    tokenizer: Any, pairs: Sequence[tuple[str, str]], max_tokens: int
) -> list[dict[str, list[int]]]:
    """`input_ids` and `labels` (-100 on the prompt) of every pair of at most `max_tokens` tokens.

    The prompt is already rendered.
    """
    rows = []
    for prompt, completion in pairs:
        ids, start = pair_tokens(tokenizer, prompt, completion)
        if len(ids) <= max_tokens:
            rows.append({"input_ids": ids, "labels": [-100] * start + ids[start:]})
    return rows


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Marks a checkpoint once all of it is on disk, and reports steps."""

    def __init__(self, key: str, progress: Callable[[int], None] | None) -> None:
        self.key, self.progress = key, progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.progress and state.global_step:
            self.progress(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.progress:
            self.progress(1)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        os.sync()
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        write_json(folder / _COMPLETE, {"key": self.key})


def _last_complete(checkpoints: Path, key: str) -> Path | None:
    """The newest whole checkpoint of this same training. All others are removed."""
    whole: dict[int, Path] = {}
    for folder in checkpoints.glob("checkpoint-*"):
        mark = folder / _COMPLETE
        if mark.exists() and read_json(mark) == {"key": key}:
            whole[int(folder.name.removeprefix("checkpoint-"))] = folder
        else:
            shutil.rmtree(folder)
    return whole[max(whole)] if whole else None


def boost(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[tuple[str, str]],
    section: Model,
    settings: Boost,
    checkpoints: Path,
    output: Path,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Tune `model` on (rendered prompt, completion) pairs and write the result to `output`.

    The model is changed in place, on the device it is on: in fp32 on a CPU, under bf16 autocast on
    a GPU that supports it.

    Args:
        model: the model that `section` names, loaded.
        tokenizer: the model's tokenizer.
        pairs: (rendered prompt, completion).
        section: the model's name, its context and its adapter. Only the method "lora" uses the
            adapter, and writes a plain PEFT adapter. "full" writes model and tokenizer.
        settings: how to tune.
        checkpoints: a folder to go on from and to write. It is removed once `output` exists.
        output: the folder to write.
        progress: called with optimizer steps, those before a resume included.

    Returns:
        How many pairs were left out because they are longer than `max_tokens`. A cut completion
        would teach code that stops half-way.

    Raises:
        UserError: `batch_size` is not a multiple of `micro_batch`, no pair is short enough, or the
            tokenizer has no end token.
    """
    batch_size, micro_batch = settings.batch_size, settings.micro_batch
    if batch_size % micro_batch:
        raise UserError(
            f"boost.batch_size: {batch_size} is not a multiple of boost.micro_batch {micro_batch}; "
            "change one of them"
        )
    if tokenizer.eos_token_id is None:
        raise UserError("premium.model: the tokenizer has no end token; choose another model")
    rows = encode(tokenizer, pairs, section.max_tokens)
    if not rows:
        raise UserError(
            f"premium.max_tokens: none of {len(pairs)} pairs has at most "
            f"{section.max_tokens} tokens; raise it"
        )
    on_cpu = model.device.type == "cpu"
    chosen: dict[str, Any] = {
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": batch_size // micro_batch,
        "warmup_steps": settings.warmup_ratio,  # below 1 it is a ratio
        "lr_scheduler_type": "cosine",
        "weight_decay": settings.weight_decay,
        "seed": settings.seed,
        "save_steps": SAVE_EVERY,
    }
    method, lora = settings.method, section.lora
    adapter = {
        "rank": lora.r,
        "alpha": lora.alpha,
        "dropout": lora.dropout,
        "targets": lora.targets,
    }
    trained = [chosen, method, adapter if method == "lora" else None, rows]
    key = hashlib.sha256(json.dumps(trained).encode()).hexdigest()
    resume = _last_complete(checkpoints, key)
    if method == "lora":
        set_seed(settings.seed)  # the adapter starts from random numbers
        model = attach_lora(model, lora.r, lora.alpha, lora.dropout, lora.targets)
        if section.quantization != "none":  # trl would make the adapter bf16
            base = model.get_base_model()
            base.is_loaded_in_4bit = base.is_loaded_in_8bit = False
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(checkpoints),
            use_cpu=on_cpu,
            bf16=not on_cpu and bool(torch.cuda.is_bf16_supported()),
            gradient_checkpointing=section.gradient_checkpointing,
            max_length=None,  # `encode` has left out the pairs that are too long
            dataset_kwargs={"skip_prepare_dataset": True},
            save_strategy="steps",
            # Two, so that the last whole checkpoint survives while the next is written.
            save_total_limit=2,
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            **chosen,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[_Watch(key, progress)],
    )
    trainer.remove_callback(PrinterCallback)  # it would print to stdout
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except Exception as error:
        if (reason := failed_write(error)) is None:
            raise
        raise UserError(f"{checkpoints}: cannot be written ({reason}); free space") from error
    save_model(trainer.model, output, tokenizer if method == "full" else None, section.model)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return len(pairs) - len(rows)
