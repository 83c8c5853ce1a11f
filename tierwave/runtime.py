"""How TensorFlow works in this process: memory of GPUs, order of sums, threads."""

from __future__ import annotations

import contextlib

import tensorflow as tf


def grow_gpu_memory() -> None:
    """Let TensorFlow take GPU memory as it needs it instead of all at once (no effect without a GPU)."""
    for device in tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):  # already initialised
            tf.config.experimental.set_memory_growth(device, True)


def add_in_order() -> None:
    """Keep sums as they are written, so that the same step gives the same bits.

    TensorFlow's graph optimiser gathers additions into one AddN, which adds in whatever order its inputs' memory can be
    reused, another one from run to run. XLA has its own, fixed order.
    """
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})


def one_thread_per_call() -> None:
    """Give every TensorFlow call one core, for a process that only generates; before TensorFlow does anything.

    XLA cuts products up for TensorFlow's threads, and in a loop over single samples that costs more than it gives: with
    one stream of a small model half the speed. Streams are shared out to threads of our own instead.
    """
    with contextlib.suppress(RuntimeError):  # already started: slower, but right
        tf.config.threading.set_intra_op_parallelism_threads(1)
