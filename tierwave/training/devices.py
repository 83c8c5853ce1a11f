"""The devices and machines that train one model together: who is there, what is whose, and what all must agree on.

Every worker is a process with one or more replicas of the model, a device each. The lanes of a batch are dealt to the
replicas in order, so that a lane's recurrent state stays where the lane is. The chief, the first worker, alone writes
and prints; it decides whatever depends on a clock or on the disk, and sends the decision to the others.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tierwave.errors import RunError, UsageError
from tierwave.system.tasks import EXAMPLE, Task, task_of

_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.InternalError)


class WorkerLost(RunError):
    """Another worker is gone: all must start again, from the newest checkpoint."""


class Devices:
    """A distribution strategy and what follows from it; without one, a single device.

    replicas: copies of the model in all; local: those of this worker; rank, workers: see `Task`.
    """

    def __init__(self, strategy: tf.distribute.Strategy | None = None, task: Task | None = None):
        self.strategy = strategy or tf.distribute.get_strategy()
        task = task or Task()
        self.rank, self.workers = task.rank, task.workers
        self.replicas = int(self.strategy.num_replicas_in_sync)
        self.local = self.replicas // self.workers
        self._sum = tf.function(self._summed, autograph=False)

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes and prints."""
        return self.rank == 0

    # --- steps ------------------------------------------------------------------------------------------------------

    def graph(self, part: Callable[..., Any], *, jit: bool = False) -> Callable[..., Any]:
        """`part` of a replica's step as a graph of its own, compiled with XLA if `jit`; where several replicas share a
        process it stays part of the graph around it."""
        return tf.function(part, jit_compile=jit, autograph=False) if self.local == 1 else part

    def on_replicas(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """`step` run on every replica of this worker."""
        if self.replicas == 1:
            return step
        return tf.function(lambda *given: self.strategy.run(step, args=given), autograph=False)

    def initial_state(self, model: Any, lanes: int) -> Any:
        """Recurrent state of all `lanes` before their first window, sharded over this worker's replicas."""
        return self.on_replicas(lambda: model.initial_state(lanes // self.replicas))()

    # --- lanes ------------------------------------------------------------------------------------------------------

    def local_lanes(self, lanes: int) -> slice:
        """The lanes of this worker out of all (see `LaneWindows`)."""
        return slice(self.rank * lanes // self.workers, (self.rank + 1) * lanes // self.workers)

    def shard(self, structure: Any) -> Any:
        """Tensors `[lanes of this worker, ...]`, cut into those of its replicas."""
        if self.replicas == 1:
            return structure
        first = self.rank * self.local

        def cut(value: tf.Tensor) -> Any:
            pieces = tf.split(value, self.local)
            return self.strategy.experimental_distribute_values_from_function(
                lambda context: pieces[context.replica_id_in_sync_group - first]
            )

        return tf.nest.map_structure(cut, structure)

    def joined(self, shards: Any) -> tf.Tensor:
        """The tensor that `shard` cut."""
        parts = self.strategy.experimental_local_results(shards)
        return parts[0] if len(parts) == 1 else tf.concat(parts, axis=0)

    def all_lanes(self, shards: Any) -> tf.Tensor:
        """The same with the lanes of all workers; all of them must call."""
        return self.joined(shards) if self.workers == 1 else self.strategy.gather(shards, axis=0)

    # --- agreement --------------------------------------------------------------------------------------------------

    def total(self, value: Any) -> np.ndarray:
        """The sum over all workers of an array, as float64; all of them must call."""
        array = np.asarray(value, np.float64)
        if self.workers == 1:
            return array
        # Padded to a few sizes: the function is traced for each size, and TensorFlow warns where there are many.
        padded = np.zeros(16 * 8 ** math.ceil(math.log(max(array.size, 16) / 16, 8)))
        padded[: array.size] = array.ravel()
        first = self.strategy.experimental_local_results(self._sum(tf.constant(padded)))[0]
        return first.numpy()[: array.size].reshape(array.shape) / self.local

    def from_chief(self, value: Any) -> np.ndarray:
        """The chief's numbers, on every worker."""
        array = np.asarray(value, np.float64)
        return self.total(array if self.is_chief else np.zeros_like(array))

    def texts(self, text: str) -> list[str]:
        """Every worker's text, in order of their numbers."""
        if self.workers == 1:
            return [text]
        content = text.encode()
        lengths = np.zeros(self.workers)
        lengths[self.rank] = len(content)
        lengths = self.total(lengths).astype(int)
        table = np.zeros([self.workers, max(1, lengths.max())])
        table[self.rank, : len(content)] = np.frombuffer(content, np.uint8)
        rows = self.total(table).astype(np.uint8)
        return [bytes(row[:length]).decode() for row, length in zip(rows, lengths, strict=True)]

    def wait(self) -> None:
        """Until every worker has come here."""
        self.total(0.0)

    def _summed(self, value: tf.Tensor) -> Any:
        def add(mine: tf.Tensor) -> tf.Tensor:
            here = tf.identity(mine)  # on the replica's device, which an argument is not
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, here)

        return self.strategy.run(add, args=(value,))


@functools.cache  # a process can join the others only once
def _all_workers() -> tf.distribute.Strategy:
    return tf.distribute.MultiWorkerMirroredStrategy()


def has_joined() -> bool:
    """Whether this process and the other workers are together already."""
    return _all_workers.cache_info().currsize > 0


@functools.cache  # cached: two strategies would reuse the same collective keys
def _all_devices() -> tf.distribute.Strategy:
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy(devices)


def make_devices(name: str, environment: Mapping[str, str] | None = None) -> Devices:
    """The devices of `--strategy`: "one" (which costs nothing), "mirrored" (all of this machine), or "multiworker", the
    machines of TF_CONFIG. Under "multiworker" nothing else may have used TensorFlow before.

    Raises UsageError where TF_CONFIG names other machines and the strategy would leave them out, or names none.
    """
    task = task_of(os.environ if environment is None else environment)
    if name == "multiworker":
        if task.workers == 1:
            raise UsageError(
                "--strategy multiworker needs the environment variable TF_CONFIG, which names all workers: write for "
                f"example {EXAMPLE}, or let --cluster start them"
            )
        return Devices(_all_workers(), task)
    if task.workers > 1:
        raise UsageError(
            f"TF_CONFIG names {task.workers} workers, and --strategy {name} would train each by itself: use --strategy "
            "multiworker, or unset TF_CONFIG"
        )
    if name == "mirrored":
        return Devices(_all_devices())
    return Devices()


@contextlib.contextmanager
def lost_workers_told(devices: Devices) -> Iterator[None]:
    """Raises WorkerLost where other workers are waited for in vain."""
    try:
        yield
    except tf.errors.OpError as error:
        if devices.workers == 1 or not isinstance(error, _LOST):
            raise
        reason = str(error.message).splitlines()[0][:200]
        raise WorkerLost(
            f"worker {devices.rank} cannot go on, since another one is gone ({reason}): start all workers again, and "
            "training goes on from the newest checkpoint"
        ) from None
