"""How much memory the training of a stage will need, how much there is, and what helps where it is too little.

Weights are counted on the model itself; a family says in numbers what a stage stores of a lane (`Footprint`), and
`estimate` makes bytes of both, with factors that were measured (bench/README.md).
"""

from __future__ import annotations

import contextlib
import csv
import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tierwave.config import TrainingOptions, apply_overrides
from tierwave.errors import RunError, UsageError
from tierwave.family import Family
from tierwave.nn.footprint import Footprint

if TYPE_CHECKING:
    from tierwave.data.windows import LaneWindows

GIGABYTE = 1e9


class Factors(NamedTuple):
    """What was measured (bench/README.md): bytes of the process with TensorFlow in it, and for each loop that is
    compiled; and how many times over each part of a `Footprint` is there at the highest."""

    process: float
    loop: float
    stored: float
    recurrent: float
    transient: float


_XLA = Factors(1.0e9, 32e6, 1.0, 1.0, 1.2)
_GRAPH = Factors(0.9e9, 14e6, 0.5, 1.5, 2.0)
_ROUNDED = 1.2  # half precision takes rounded copies for its products; what is kept stays as it is
_GPU_LIBRARIES = 0.6e9


@dataclass(frozen=True)
class Estimate:
    """Bytes at the highest: of the weights, of gradients and optimiser, of activations, and of TensorFlow itself."""

    weights: float
    optimizer: float
    activations: float
    process: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.optimizer + self.activations + self.process


def estimate(
    weights: int,
    footprint: Footprint,
    options: TrainingOptions,
    lanes: int,
    *,
    jit: bool,
    on_gpu: bool = False,
    copies: int = 1,
) -> Estimate:
    """What training will take. lanes: of a batch, on this machine (or GPU); copies: of the model on it."""
    factors = _XLA if jit else _GRAPH
    slots = {"adam": 2, "rmsprop": 1 + (options.momentum > 0), "sgd": int(options.momentum > 0)}[options.optimizer]
    gradients = 1 + (options.accumulate > 1)
    size = 4.0 * weights * copies
    floats = footprint.stored * factors.stored + footprint.recurrent * factors.recurrent
    floats += footprint.transient * factors.transient
    activations = 4.0 * floats * -(-lanes // options.accumulate)
    if options.precision != "float32":
        activations *= _ROUNDED
    # On a GPU the process itself is elsewhere, and what it loads of its libraries is here.
    process = _GPU_LIBRARIES if on_gpu else factors.process + factors.loop * footprint.loops
    return Estimate(size, size * (slots + gradients), activations, process)


# --- what there is ------------------------------------------------------------------------------------------------


class Room(NamedTuple):
    """Bytes in all and free, and of what."""

    total: float
    free: float
    place: str = "this machine"


def machine_memory(root: Path = Path("/")) -> Room | None:
    """Memory of this machine, or of the container that limits it (cgroups 1 and 2); None where nothing says it."""
    described = dict(_meminfo(root / "proc" / "meminfo"))
    if "MemTotal" in described:
        free = described.get("MemAvailable", described.get("MemFree", described["MemTotal"]))
        room = Room(described["MemTotal"], free)
    else:
        try:
            page = os.sysconf("SC_PAGE_SIZE")
            total = float(page * os.sysconf("SC_PHYS_PAGES"))
        except (AttributeError, ValueError, OSError):
            return None
        try:
            free = float(page * os.sysconf("SC_AVPHYS_PAGES"))
        except (ValueError, OSError):
            free = total
        room = Room(total, free)
    for limit, used in _cgroups(root):
        free = min(room.free, max(0.0, limit - used))
        room = Room(limit, free, "this container") if limit < room.total else room._replace(free=free)
    return room


def _meminfo(path: Path) -> Iterator[tuple[str, float]]:
    for line in _lines(path):
        name, _, value = line.partition(":")
        number = value.split()
        if number and number[0].isdigit():
            yield name, float(number[0]) * 1024.0


def _cgroups(root: Path) -> Iterator[tuple[float, float]]:
    """(limit, used) of every group around this process that has a limit."""
    for line in _lines(root / "proc" / "self" / "cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        mount = root / "sys" / "fs" / "cgroup"
        names = ("memory.max", "memory.current", "inactive_file")
        if number != "0" or controllers:
            if "memory" not in controllers.split(","):
                continue
            mount /= "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        inside = [part for part in path.split("/") if part and part != ".."]
        # In a container the path is often that of the host, and its own group lies at the mount.
        for depth in range(len(inside), -1, -1):
            folder = mount.joinpath(*inside[:depth])
            limit, used = (_number(folder / name) for name in names[:2])
            if limit is None or limit >= 2.0**60:  # "max", or version 1's largest number
                continue
            fields = (entry.split() for entry in _lines(folder / "memory.stat"))
            cache = sum(float(entry[1]) for entry in fields if len(entry) == 2 and entry[0] == names[2])
            yield limit, max(0.0, (used or 0.0) - cache)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _number(path: Path) -> float | None:
    text = "".join(_lines(path)).strip()
    return float(text) if text.isdigit() else None


def gpu_memory() -> Room | None:
    """Memory of the smallest GPU that TensorFlow sees, by NVIDIA's own tool; None where that is missing."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=index,uuid,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        rows = [[field.strip() for field in row] for row in csv.reader(done.stdout.splitlines()) if row]
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None:
            wanted = visible.split(",")
            rows = [row for row in rows if row[0] in wanted or any(each and row[1].startswith(each) for each in wanted)]
        found = [Room(float(row[2]) * 2**20, float(row[3]) * 2**20, "the GPU") for row in rows]
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
    return min(found, default=None)


# --- what to do ---------------------------------------------------------------------------------------------------


def room_of(demand: Demand) -> Room | None:
    """The memory that a demand is on."""
    return gpu_memory() if demand.on_gpu else machine_memory()


def memory_kills() -> list[Any] | None:
    """Which start of this machine it is since, and how many processes its system has killed for want of memory; None
    where it does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        counters = Path("/proc/vmstat").read_text(encoding="ascii").split()
        return [boot, int(counters[counters.index("oom_kill") + 1])]
    except (OSError, ValueError, IndexError):
        return None


CLEARLY = 1.3  # estimates lie within this factor of what was measured


class TooLarge(UsageError):
    """What is asked for clearly does not fit into the memory there is."""


@dataclass(frozen=True)
class Demand:
    """A stage that is to be trained: its family, config and options, and where. windows: what it is trained on, where
    that is known. replicas: of the model in all, and local: those that share this machine (GPUs have one each)."""

    family: Family
    config: Any
    stage: str
    options: TrainingOptions
    jit: bool
    on_gpu: bool = False
    windows: LaneWindows | None = None
    replicas: int = 1
    local: int = 1

    @functools.cached_property
    def weights(self) -> int:
        """How many weights the model has."""
        return self.family.count_weights(self.config, self.stage)

    def estimate(self, config: Any = None, **changes: Any) -> Estimate:
        """What it needs; of another config, with other options."""
        options = self.options.model_copy(update=changes)
        footprint = self.family.footprint(config or self.config, self.stage, None if config else self.windows)
        lanes = options.batch_size
        if self.windows is not None:
            lanes = min(lanes, self.windows.lanes)
        copies = 1 if self.on_gpu else self.local
        lanes = -(-lanes * copies // self.replicas)
        return estimate(self.weights, footprint, options, lanes, jit=self.jit, on_gpu=self.on_gpu, copies=copies)

    def remedies(self, limit: float) -> list[str]:
        """What brings it below `limit` bytes, the most harmless first."""
        found = []
        lanes = self.options.batch_size if self.windows is None else min(self.options.batch_size, self.windows.lanes)
        batch = _largest(lanes - 1, lambda size: self.estimate(batch_size=size).total <= limit)
        if batch:
            found.append(f"--batch_size {batch}")
        parts = next((n for n in _parts(lanes) if self.estimate(accumulate=n).total <= limit), None)
        if parts is not None and parts > self.options.accumulate:
            found.append(f"--accumulate {parts} (the same steps, in {parts} parts)")
        now = self.estimate(self.config).total
        for key, values in (("recompute", (True,)), ("seq_len", _halves(self._value("seq_len")))):
            for value in values:
                changed = self._changed(key, value)
                if changed is not None and self.estimate(changed).total <= min(limit, 0.95 * now):
                    found.append(f"--set {self.family.key_of(self.config, self.stage, key)}={str(value).lower()}")
                    break
        return found

    def _document(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json", exclude={"training", "training_per_tier"})

    def _value(self, key: str) -> Any:
        value: Any = self._document()
        for step in self.family.key_of(self.config, self.stage, key).split("."):
            value = value[int(step)] if isinstance(value, list) else value.get(step)
        return value

    def _changed(self, key: str, value: Any) -> Any:
        """The config with another value, None where it cannot have it."""
        if self._value(key) in (None, value):
            return None
        where = self.family.key_of(self.config, self.stage, key)
        document = apply_overrides(self._document(), [f"{where}={str(value).lower()}"])
        try:
            return type(self.config).model_validate(document)
        except ValueError:
            return None


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number from 1 to `most` that fits, where all smaller ones do too; 0 if none does."""
    low, high = 0, max(0, most)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _parts(lanes: int) -> list[int]:
    """Numbers of parts that differ in the lanes of the largest, ascending."""
    return sorted({-(-lanes // size) for size in range(1, lanes + 1)})


def _halves(length: Any) -> list[int]:
    return [length >> power for power in range(1, 8) if length >> power >= 16] if isinstance(length, int) else []


def announced(need: Estimate, room: Room | None) -> str:
    """One line: what training will take, and what is free."""
    parts = (("weights", need.weights), ("optimiser", need.optimizer), ("activations", need.activations))
    listed = ", ".join(f"{name} {size / GIGABYTE:.1f}" for name, size in parts)
    text = f"Needs about {need.total / GIGABYTE:.1f} GB of memory ({listed})"
    return text + ("." if room is None else f"; {room.free / GIGABYTE:.1f} GB are free.")


def judged(demand: Demand, room: Room | None) -> str | None:
    """A warning where memory may not be enough. Raises TooLarge where it clearly is not, unless the options say
    `memory_check` False."""
    if room is None:
        return None
    need = demand.estimate().total
    if need > CLEARLY * room.total and demand.options.memory_check:
        raise TooLarge(
            f"training {demand.stage} needs about {need / GIGABYTE:.1f} GB of memory, and {room.place} has "
            f"{room.total / GIGABYTE:.1f}: {_advice(demand, room.free, room.total)}; --memory_check False tries it all "
            "the same"
        )
    if need <= room.free:
        return None
    return (
        f"{demand.stage} needs about {need / GIGABYTE:.1f} GB of memory, and {room.free / GIGABYTE:.1f} of "
        f"{room.total / GIGABYTE:.1f} GB of {room.place} are free: if it runs out, {_advice(demand, room.free)}"
    )


def _advice(demand: Demand, *limits: float) -> str:
    """What brings a demand below the first of the limits that can be met."""
    remedies = next((found for found in map(demand.remedies, limits) if found), None)
    if not remedies:
        return "not even one lane at a time would fit, so take a smaller network"
    return "try " + ", or ".join(remedies)


@contextlib.contextmanager
def told_when_it_runs_out(demand: Demand) -> Iterator[None]:
    """Where TensorFlow cannot have the memory it asks for, RunError says what helps."""
    import tensorflow as tf

    try:
        yield
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        need, room = demand.estimate().total, room_of(demand)
        limit = need / CLEARLY if room is None else min(room.total, need / CLEARLY)
        lines = [line.strip() for line in str(error).splitlines() if "alloc" in line or "memory" in line]
        reason = lines[0] if lines else "it was not said for what"
        raise RunError(
            f"there was not enough memory to train {demand.stage} ({reason}); "
            f"checkpoints that were written are good: {_advice(demand, limit)}"
        ) from None


def demands(document: dict[str, Any], source: str, *, on_gpu: bool = False) -> list[Demand]:
    """The stages of a config with the options it has itself."""
    from tierwave.config import resolve_training, split_training
    from tierwave.family import load_config

    family, config = load_config(document, source)
    found = []
    for stage in family.stages(config):
        training = {**split_training(document)[1], **family.training_of(config, stage)}
        options = resolve_training({}, {"training": training}, source)
        jit = family.uses_xla(config, stage, options, on_gpu)
        found.append(Demand(family, config, stage, options, jit, on_gpu))
    return found
