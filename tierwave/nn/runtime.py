"""How TensorFlow is imported and works in this process: log lines, GPUs, order of sums.

TensorFlow is imported by what is called here, not with this module, so that flags are answered without it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys


def import_tensorflow(*, debug: bool) -> None:
    """Import TensorFlow without the lines it logs about drivers and instruction sets; `debug` lets them through.

    Some of them are written before its log level is read, so the error stream itself is turned away meanwhile.
    """
    if debug:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # no error stream to keep clean
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        import tensorflow

        tensorflow.config.list_physical_devices()
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)


def has_gpu() -> bool:
    """Whether TensorFlow sees a GPU; it is not imported where there is no driver for one."""
    if shutil.which("nvidia-smi") is None:
        return False
    import_tensorflow(debug=False)
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def grow_gpu_memory() -> None:
    """Let TensorFlow take GPU memory as it needs it instead of all at once (no effect without a GPU)."""
    import tensorflow as tf

    for device in tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):  # already initialised
            tf.config.experimental.set_memory_growth(device, True)


def add_in_order() -> None:
    """Keep sums as they are written, so that the same step gives the same bits.

    TensorFlow's graph optimiser gathers additions into one AddN, which adds in whatever order its inputs' memory can be
    reused, another one from run to run. XLA has its own, fixed order.
    """
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})
