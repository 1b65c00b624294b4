"""How work spreads over several devices: wall-clock time, device-hours, traffic.

Promises:
- A stage that cannot use more devices is given one. The device-hours count those that work.
- Traffic is added to the time of the passes, as if none of it were hidden.
- What a GPU computes in vain, because a micro-batch is always filled up, is counted.

Does not: measure anything. `LINK` is an assumption. `DRAW` and `START` are measured on processors
(docs/evidence/scale.md). Workers of a cluster are taken to be equally busy.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privcode.config import Config
from privcode.pipeline.work import WIDTH, Demand, lessons_of, records_of, size

if TYPE_CHECKING:
    from privcode.pipeline.cost import Work

LINK = 25e9
"""Bytes a second between two devices: 200 Gbit/s for each, as in a usual GPU cluster."""
CHUNK = 256
"""Prompts or samples that a worker of a cluster gets at a time."""
DRAW = 24e-9
"""Seconds a unit, in each step, to draw who takes part: on one core, by the first process."""
START = 14e-6
"""Seconds a record to read it before the first step, on one core, in every process."""
_ADAPTER = 80
"""A model whose adapter is not known is taken to be so many times as large: r 16 on 1.5B is 83."""


@dataclass(frozen=True)
class Wall:
    """Time by the clock of a stage.

    Attributes:
        devices: the most that work.
        seconds: by the clock, everything included.
        traffic: seconds of them in which bytes travel between processes.
        host: seconds of them that one processor core reads records and draws units.
        busy: device-seconds: devices that work, times the clock.
    """

    devices: int = 1
    seconds: float = 0
    traffic: float = 0
    host: float = 0
    busy: float = 0

    def __add__(self, other: "Wall") -> "Wall":
        """One after the other."""
        return Wall(
            max(self.devices, other.devices),
            self.seconds + other.seconds,
            self.traffic + other.traffic,
            self.host + other.host,
            self.busy + other.busy,
        )


def wall(stage: str, config: Config, done: Sequence[tuple[Demand, "Work"]], devices: int) -> Wall:
    """The time of a stage by the clock: of its demands, with what each costs on one device.

    Args:
        stage: its name.
        config: the run's.
        done: what it does.
        devices: GPUs. `sanitize` has a process on each, and `boost` up to one for each pair of a
            step. With Ray, `scale.workers` says how many hold a model, or one for each device.
    """
    if stage == "sanitize":
        return sum((_trained(config, work, devices) for _, work in done), Wall())
    if stage == "boost":
        return sum((_tuned(config, demand, work, devices) for demand, work in done), Wall())
    found = Wall()
    for demand, work in done:
        workers = workers_of(config, demand, devices) if demand.spread else 1
        used = workers * demand.doing.gpus
        found += Wall(used, work.seconds / used, busy=work.seconds)
    return found


def workers_of(config: Config, demand: Demand, devices: int) -> int:
    """How many workers share a demand: one without Ray, and no more than there are chunks."""
    if config.scale.engine != "ray":
        return 1
    each = max(demand.doing.gpus, math.ceil(config.scale.gpus or 1))
    workers = config.scale.workers or max(1, devices // each)
    return max(1, min(workers, math.ceil(demand.texts / CHUNK)))


def share_of(config: Config, devices: int) -> tuple[int, int]:
    """Records of a step that a process has, as expected, and rows that it computes for them."""
    privacy = config.privacy
    records = privacy.batch * records_of(config) / privacy.units * lessons_of(config)
    share = math.ceil(records / devices)
    most = config.sanitize.micro_batch
    most = share if most == "auto" else most
    return share, share if devices == 1 else -(-share // most) * most


def traffic_of(config: Config, devices: int) -> float:
    """Bytes that each process of `sanitize` sends in one step.

    The clipped sum is float64, and goes around a ring twice. With `sanitize.shard`, the layers
    are put together once for each pass: forward, back, and forward of the untuned model. What
    checkpointing computes again is part of going back.

    Raises:
        UserError: the size of the model is not known.
    """
    section, settings = config.sanitized, config.sanitize
    known = size(section)
    others = (devices - 1) / devices
    total = 2 * others * 8 * (known.adapter or known.base / _ADAPTER)
    if settings.shard:
        _, rows = share_of(config, devices)
        most = rows if settings.micro_batch == "auto" else settings.micro_batch
        passes = -(-rows // most) * (2 + (settings.syntax.schedule != "off"))
        layers = (known.adapted or known.base) * WIDTH[section.dtype]
        total += passes * others * layers
    return total


def _trained(config: Config, work: "Work", devices: int) -> Wall:
    steps = config.privacy.steps
    rows, _ = share_of(config, 1)
    _, each = share_of(config, devices)
    computing = work.seconds * each / rows
    traffic = steps * traffic_of(config, devices) / LINK if devices > 1 else 0.0
    host = START * records_of(config) + steps * DRAW * config.privacy.units
    seconds = computing + traffic + host
    return Wall(devices, seconds, traffic, host, devices * seconds)


def _tuned(config: Config, demand: Demand, work: "Work", devices: int) -> Wall:
    """Of boost. Gradients of what is trained are fp32, and go around a ring twice in a step.

    With `boost.shard` they go once in each pass, and the layers are put together twice: forward
    and back.

    Raises:
        UserError: the size of the model is not known.
    """
    section, settings = config.premium, config.boost
    world = min(devices, settings.batch_size)
    each = math.ceil(settings.batch_size / world)
    seconds = work.seconds * each / settings.batch_size
    if world == 1:
        return Wall(1, seconds, busy=seconds)
    known = size(section)
    trained = (known.adapter or known.base / _ADAPTER) if settings.method == "lora" else known.base
    sent = 2 * 4 * trained
    if settings.shard:
        layers = known.base * WIDTH[section.dtype]
        sent = math.ceil(each / settings.micro_batch) * (4 * trained + 2 * layers)
    steps = math.ceil(demand.texts / settings.batch_size)
    traffic = steps * sent * (world - 1) / world / LINK
    return Wall(world, seconds + traffic, traffic, busy=world * (seconds + traffic))
