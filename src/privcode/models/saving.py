"""Models and adapters, written whole or not at all.

Promises:
- What is written is read back and compared with the model in memory before it has its name.
- A merged model computes what the model and its adapter computed, to rounding.

Does not: load a model by name (`models.loading`).
"""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch.distributed.fsdp import FSDPModule

from privcode.errors import UserError
from privcode.files import failed_write, read_json, write_json
from privcode.models.latent import Latent, load_latent, save_latent
from privcode.models.loading import public_name


def save_model(
    model: Any,
    output: Path,
    tokenizer: Any | None = None,
    base: str = "",
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write an adapter, or a whole model, to a temporary folder and rename it to `output`.

    An adapter's config names `base` as its model: the name that the owner gave, not a path on disk.
    For a local folder it is only the last part, because a path tells about the owner's machine.
    What was written is read back, and compared with the model in memory. Of a model that is divided
    over processes, `weights` are its trained ones (`sharding.whole_weights`).

    Raises:
        UserError: the disk is full, the folder cannot be written, or what is read back differs.
    """
    temporary = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        plain = {"save_embedding_layers": False} if isinstance(model, PeftModel) else {}
        own = None if weights is None else dict(weights)  # the library empties what it gets
        model.save_pretrained(temporary, state_dict=own, **plain)
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
        (temporary / "README.md").unlink(missing_ok=True)  # peft's model card, a blank form
        adapter = temporary / "adapter_config.json"
        if adapter.exists():  # peft writes sets of names in the order of the process's hash seed
            config = read_json(adapter)
            for name in ("target_modules", "exclude_modules", "modules_to_save"):
                if isinstance(config.get(name), list):
                    config[name].sort()
            config["base_model_name_or_path"] = public_name(base)
            write_json(adapter, config)
        if latent := getattr(model, "latent", None):
            save_latent(latent, temporary)
        _refuse_other(model, temporary, output, weights)
        os.sync()
        shutil.rmtree(output, ignore_errors=True)
        os.replace(temporary, output)
    except Exception as error:
        if (reason := failed_write(error)) is None:
            raise
        raise UserError(f"{output}: cannot be written ({reason}); free space") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def save_merged(model: PeftModel, output: Path, tokenizer: Any) -> None:
    """Write `model` with its adapter merged into its weights, as a whole model.

    Raises:
        UserError: as for `save_model`; also if the merged model computes something else than the
            model with its adapter.
    """
    ids = _public_tokens(model)
    with torch.no_grad():
        expected = model.eval()(input_ids=ids).logits
        whole: Any = model.merge_and_unload()
        found = whole(input_ids=ids).logits
    expected, found = expected.double(), found.double()
    if not float((found - expected).norm() / expected.norm()) <= _ROUNDING[whole.dtype]:  # or NaN
        raise UserError(
            f"{output}: merging changed what the model computes, so it was not written; use the "
            "adapter, and set merge to false"
        )
    save_model(whole, output, tokenizer)


# Share of the logits' norm by which merging in a type may move them.
_ROUNDING = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}


def _public_tokens(model: Any) -> torch.Tensor:
    size: int = model.get_input_embeddings().weight.shape[0]
    ids: torch.Tensor = (torch.arange(64, device=model.device) * 17 % size)[None]
    return ids


def _same_latent(ours: Latent | None, read: Latent | None) -> bool:
    if ours is None or read is None:
        return ours is read
    found = read.state_dict()
    return all(torch.equal(found[n], part.cpu()) for n, part in ours.state_dict().items())


def _refuse_other(
    model: Any, written: Path, output: Path, weights: dict[str, torch.Tensor] | None
) -> None:
    """Refuse a folder that holds other weights than `model`."""
    if isinstance(model, PeftModel):
        training = model.training
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            found = model.load_adapter(str(written), "written", is_trainable=False)
        pairs = dict(model.named_parameters())
        ours = {
            n: p for n, p in (pairs if weights is None else weights).items() if ".default." in n
        }
        same = not (found.missing_keys or found.unexpected_keys) and all(
            torch.equal(own, pairs[name.replace(".default.", ".written.")].to(own.device))
            for name, own in ours.items()
        )
        model.delete_adapter("written")
        model.train(training)
        same = same and _same_latent(getattr(model, "latent", None), load_latent(written))
    else:
        kind: Any = next(k for k in type(model).__mro__ if not issubclass(k, FSDPModule))
        loaded = kind.from_pretrained(written, dtype=model.dtype).state_dict()
        own = model.state_dict() if weights is None else weights
        same = own.keys() == loaded.keys() and all(
            weight.dtype == loaded[name].dtype and torch.equal(weight.cpu(), loaded[name])
            for name, weight in own.items()
        )
    if not same:
        raise UserError(
            f"{output}: what was written is not the model in memory; choose other lora.targets, "
            "or another model"
        )
