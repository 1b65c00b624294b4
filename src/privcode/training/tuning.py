"""Boost (paper section 4.3): supervised fine-tuning of the premium model on the synthetic pairs.

Promises:
- The loss is on the completion and its end token only.
- Prompt and completion are tokenised apart, as generation will see them.
- Processes that a launcher started take the steps of one process, to rounding (`passes`). Each
  holds the whole model (DDP), or with `shard` a part of it (FSDP2, by accelerate).
- A killed run that is called again with the same arguments continues from its last whole
  checkpoint. On one CPU with the same threads, it writes the same bytes as an uninterrupted run.
- `output` appears whole or not at all, written by the first process.
- Pairs are tokenised once and lie on disk, in a file without a name, not in memory.

Does not:
- Touch private data.
- Pack or cut pairs.
- Evaluate.
- Check that the model given again is the same.
- Draw the same dropout in another number of processes.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from accelerate import DistributedType, PartialState
from datasets import Dataset
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

from privcode.data.arrow import write
from privcode.distributed import alike, everywhere, from_first, is_lost, rank, world
from privcode.errors import NothingLeft, UserError
from privcode.files import failed_write, read_json, write_json
from privcode.models import attach_lora, device_here, pair_tokens, save_model
from privcode.models.settings import Model
from privcode.models.sharding import layers_of, whole_weights
from privcode.training.loss import Head, split_head, token_losses
from privcode.training.passes import Passes
from privcode.training.settings import Boost

SAVE_EVERY = 100
"""Optimizer steps between checkpoints."""

_COMPLETE = "complete.json"
_ROWS = pa.schema([(name, pa.list_(pa.int32())) for name in ("input_ids", "labels")])


def encode(
    tokenizer: Any, pairs: Iterable[tuple[str, str]], max_tokens: int
) -> Iterator[dict[str, list[int]]]:
    """`input_ids` and `labels` (-100 on the prompt) of every pair of at most `max_tokens` tokens.

    The prompt is already rendered.
    """
    for prompt, completion in pairs:
        ids, start = pair_tokens(tokenizer, prompt, completion)
        if len(ids) <= max_tokens:
            yield {"input_ids": ids, "labels": [-100] * start + ids[start:]}


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
        everywhere(True)  # every process has written its part
        if rank() == 0:
            os.sync()
            folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
            write_json(folder / _COMPLETE, {"key": self.key})


class _Loader(DataLoader):  # type: ignore[type-arg]
    """Tells its passes the epoch, as the trainer expects it of a loader."""

    def set_epoch(self, epoch: int) -> None:
        """The epoch, from 0, that is read next."""
        passes: Any = self.batch_sampler
        passes.set_epoch(epoch)


class _Trainer(SFTTrainer):  # type: ignore[misc]
    """The trainer of trl, with our own passes. It would repeat pairs to fill the last of them.

    On a processor trl makes the logits of every position, and in fp32 on the way back. With `head`
    they are made where there is a label, as in DP training: half the time of a step. It is for one
    process, and not for experts, whose loss has one more term.
    """

    passes: Passes
    head: Head | None = None

    def get_train_dataloader(self) -> _Loader:
        return _Loader(self.train_dataset, batch_sampler=self.passes, collate_fn=self.data_collator)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], *others: Any, num_items_in_batch: Any = None
    ) -> Any:
        if self.head is None:
            return super().compute_loss(
                model, inputs, *others, num_items_in_batch=num_items_in_batch
            )
        labels = inputs.pop("labels")[:, 1:]
        hidden = self.head.trunk(**inputs, use_cache=False)[0][:, :-1]
        there = labels != -100
        count = there.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        return token_losses(hidden[there], self.head, labels[there]).sum() / count


@contextmanager
def _own_environment() -> Iterator[None]:
    """Hide what `accelerate launch` asks for in the environment: the config decides.

    What the trainer says there itself is taken back. Otherwise models that are loaded later would
    have no weights in some processes.
    """

    def taken() -> dict[str, str]:
        names = [n for n in os.environ if n.startswith(("ACCELERATE_", "FSDP_"))]
        return {name: os.environ.pop(name) for name in names}

    before = taken()
    try:
        yield
    finally:
        taken()
        os.environ.update(before)


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
    pairs: Iterable[tuple[str, str]],
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
        pairs: (rendered prompt, completion), read once.
        section: the model's name, its context and its adapter. Only the method "lora" uses the
            adapter, and writes a plain PEFT adapter. "full" writes model and tokenizer.
        settings: how to tune.
        checkpoints: a folder to go on from and to write. It is removed once `output` exists. The
            tokenised pairs lie next to it.
        output: the folder to write.
        progress: called with optimizer steps, those before a resume included.

    Returns:
        How many pairs were left out because they are longer than `max_tokens`. A cut completion
        would teach code that stops half-way.

    Raises:
        NothingLeft: no pair is short enough.
        UserError: the tokenizer has no end token, the processes hold different pairs, or the model
            has no layers to divide.
    """
    if tokenizer.eos_token_id is None:
        raise UserError("premium.model: the tokenizer has no end token; choose another model")
    rows, given, texts = _on_disk(tokenizer, pairs, section.max_tokens, checkpoints.parent)
    short = len(rows) - 1  # the last is the blank
    if not short:
        raise NothingLeft(
            f"premium.max_tokens: none of {given} pairs has at most "
            f"{section.max_tokens} tokens; raise it"
        )
    passes = Passes(
        short, settings.batch_size, settings.micro_batch, settings.seed, rank(), world()
    )
    divided = settings.shard and world() > 1
    chosen: dict[str, Any] = {
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "per_device_train_batch_size": settings.micro_batch,
        "gradient_accumulation_steps": passes.in_a_step,
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
    shared = [settings.batch_size, world(), divided]
    trained = [chosen, shared, method, adapter if method == "lora" else None, texts]
    key = hashlib.sha256(json.dumps(trained).encode()).hexdigest()
    if not alike(key):
        raise UserError(
            "boost: the processes do not hold the same pairs and settings; give every machine the "
            "same files and the same versions of privcode"
        )
    resume = from_first(lambda: _last_complete(checkpoints, key))
    if method == "lora":
        set_seed(settings.seed)  # the adapter starts from random numbers
        model = attach_lora(model, lora.r, lora.alpha, lora.dropout, lora.targets)
        if section.quantization != "none":  # trl would make the adapter bf16
            base = model.get_base_model()
            base.is_loaded_in_4bit = base.is_loaded_in_8bit = False
    on_cpu = (device_here() if divided else model.device.type) == "cpu"
    with _own_environment():
        args = SFTConfig(
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
            **(_dividing(model) if divided else {}),
            **chosen,
        )
        if divided and on_cpu:
            _let_processors_divide(args)
        trainer = _Trainer(
            model=model,
            args=args,
            train_dataset=rows,
            processing_class=tokenizer,
            callbacks=[_Watch(key, progress)],
        )
        assert trainer.is_fsdp_enabled == divided
        trainer.passes = passes
        if on_cpu and world() == 1 and not trainer.aux_loss_enabled:
            trainer.head = split_head(model)
        if divided and method == "full":
            _insist_on_a_whole_head(model)
        trainer.remove_callback(PrinterCallback)  # it would print to stdout
        if rank():
            set_seed(settings.seed + rank())  # of dropout: each process draws its own
        try:
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        except Exception as error:
            if is_lost(error) or (reason := failed_write(error)) is None:
                raise
            raise UserError(f"{checkpoints}: cannot be written ({reason}); free space") from error
        weights = whole_weights(trainer.model) if divided else None
    from_first(
        lambda: save_model(
            trainer.model, output, tokenizer if method == "full" else None, section.model, weights
        )
    )
    from_first(lambda: shutil.rmtree(checkpoints, ignore_errors=True))
    return given - short


def _on_disk(
    tokenizer: Any, pairs: Iterable[tuple[str, str]], max_tokens: int, folder: Path
) -> tuple[Dataset, int, str]:
    """The rows of `encode` and a blank one, in `folder`.

    Returns:
        The rows; the number of pairs; a digest of the rows.
    """
    given, digest = 0, hashlib.sha256()

    def counted() -> Iterator[tuple[str, str]]:
        nonlocal given
        for pair in pairs:
            given += 1
            yield pair

    def fields() -> Iterator[tuple[list[int], list[int]]]:
        for row in encode(tokenizer, counted(), max_tokens):
            digest.update(json.dumps(row).encode())
            yield row["input_ids"], row["labels"]
        yield [tokenizer.eos_token_id] * 2, [-100] * 2

    folder.mkdir(parents=True, exist_ok=True)
    table = write(fields(), _ROWS, folder).whole()
    # With no name given, the library would make one from a copy of all rows in memory.
    return Dataset(table, fingerprint=digest.hexdigest()), given, digest.hexdigest()


def _let_processors_divide(args: Any) -> None:
    """Make accelerate take the processors for accelerators: FSDP2 works there, but it does not ask.

    Otherwise it would leave out the division without a word.
    """
    assert args.device.type == "cpu"  # the state is there once the device is known
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_XPU


def _insist_on_a_whole_head(model: Any) -> None:
    """Refuse a model whose head is used in parts: its gradient would be of one process's pairs.

    trl uses the head's weights outside of its own pass. accelerate puts them together with those
    of the last norm, which it knows by the name of its class.
    """

    def check(*_: object) -> None:
        weight = model.get_output_embeddings().weight
        if weight.requires_grad and isinstance(weight, DTensor):
            raise UserError(
                "boost.shard: the head of this model cannot be divided while it is trained; write "
                "boost.method: lora, or boost.shard: false"
            )

    model.base_model.register_forward_hook(check)


def _dividing(model: Any) -> Mapping[str, Any]:
    """The trainer's settings that divide `model` over the processes."""
    return {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "transformer_layer_cls_to_wrap": sorted(
                {type(layer).__name__ for layer in layers_of(model, "boost.shard")}
            ),
            "state_dict_type": "FULL_STATE_DICT",
            "cpu_ram_efficient_loading": True,  # the weights of the first process are sent around
        },
        # Otherwise a process would hold whole gradients until the last pass of a step.
        "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}},
    }
