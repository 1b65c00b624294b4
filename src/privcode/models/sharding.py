"""One frozen model divided over several processes (FSDP2 of torch).

Promises:
- The weights of each layer are divided over the processes. A layer is put together for its own
  pass, forward, backward or recomputed, and divided again after it. So the bits of a pass stay.
- What lies outside the layers is whole in every process: embeddings, head and last norm. A head
  may be tied to the embeddings, and may be used outside of its own forward pass.
- The adapter is whole in every process, and no gradient passes between the processes.

Does not:
- Let one process run a pass by itself. Every pass needs all processes.
- Divide a model that has no list of layers, or whose weights are quantised.
"""

import ctypes
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from privcode.distributed import rank, world
from privcode.errors import UserError

_MMAP_THRESHOLD = -3
"""The option's number in malloc.h: what is at least so large is a mapping of its own."""


def mesh_of(device: str) -> DeviceMesh:
    """All processes in a row, for weights on a kind of device, "cpu" or "cuda"."""
    return init_device_mesh(device, (world(),))


def shard(model: Any, mesh: DeviceMesh) -> Any:
    """The peft model `model` with the layers of its frozen base divided over `mesh`, in place.

    The weights may lie on the processor. They move to the mesh's devices layer by layer, so no
    device ever holds all of them. No process waits for another here.

    Raises:
        UserError: the model has no layers, by transformers' class for them.
    """
    base = model.get_base_model()
    layers = layers_of(base, "sanitize.shard")
    if mesh.device_type == "cpu":
        _return_freed_memory()
    adapter = {p for p in model.parameters() if p.requires_grad}
    for layer in layers:
        fully_shard(layer, mesh=mesh, ignored_params=adapter)
    # The trunk has no weights of its own then. It orders the layers: they can be fetched early.
    fully_shard(base.base_model, mesh=mesh, ignored_params=set(base.parameters()))
    return model.to(mesh.device_type)


def layers_of(model: Any, field: str) -> list[Any]:
    """The layers of a model that can be divided, by transformers' class for them.

    Raises:
        UserError: it has none. The line names the setting `field`.
    """
    found = {n: m for n, m in model.named_modules() if isinstance(m, GradientCheckpointingLayer)}
    layers = [
        module
        for name, module in found.items()
        if not any(name.startswith(f"{outer}.") for outer in found)
    ]
    if not layers:
        raise UserError(
            f"{field}: the model has no layers that could be divided over the processes; "
            "set it to false, or choose another model"
        )
    return layers


def without_weights(model: Any) -> Any:
    """`model` with memory in place of its weights that is not written, and so takes none.

    For a process that is sent the weights later.
    """
    for parameter in model.parameters():
        parameter.data = torch.empty_like(parameter.data)
    return model


def whole_weights(model: Any) -> dict[str, torch.Tensor]:
    """The trained weights of a model that is divided, by name, on the first rank's processor.

    Every process must call it. The others get nothing.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    whole: dict[str, Any] = get_model_state_dict(model, options=options)
    if rank() > 0:
        return {}
    named = dict(model.named_parameters(remove_duplicate=False))
    found = {name: whole[name] for name in whole.keys() - named.keys()}  # buffers
    first: dict[int, str] = {}  # weights that are one stay one, and so are written once
    for name, parameter in named.items():
        if parameter.requires_grad:
            found[name] = whole[first.setdefault(id(parameter), name)]
    return found


def _return_freed_memory() -> None:
    """Let the C library (glibc) give a freed layer back to the system at once.

    Otherwise the layers that come and go leave holes in its heap. A process then holds more than
    the whole model (docs/evidence/engine.md).
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_MMAP_THRESHOLD, 1 << 18)


def is_sharded(model: Any) -> bool:
    """Whether a model's weights are divided over the processes."""
    return any(isinstance(p, DTensor) for p in model.parameters())
