"""Independent work over many items, in this process or in several processes of this machine (joblib)."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tierwave.errors import AudioWarning, RunError, UsageError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def parallel_map(work: Callable[[_Item], _Result], items: Sequence[_Item], *, jobs: int = 1) -> Iterator[_Result]:
    """`work` of every item, in the order of the items, each as soon as it and all before it are there.

    work: a function of a module, or a `functools.partial` of one; it, the items and the results are pickled if jobs,
    the number of processes, is more than 1. Raises UsageError for jobs below 1, RunError where a process was killed,
    and what `work` raises.
    """
    if jobs < 1:
        raise UsageError(f"--jobs {jobs} must be 1 or more")
    jobs = min(jobs, len(items))
    return _in_processes(work, items, jobs) if jobs > 1 else map(work, items)


def _in_processes(work: Callable[[_Item], _Result], items: Sequence[_Item], jobs: int) -> Iterator[_Result]:
    from joblib import Parallel, delayed
    from joblib.externals.loky import get_reusable_executor
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    if sys.platform == "win32":
        jobs = min(jobs, 61)  # Windows waits for no more at once
    parallel = Parallel(jobs, backend="loky", return_as="generator", max_nbytes=None, initializer=_begin)
    task = delayed(functools.partial(_with_warnings, work))
    try:
        for result, texts in parallel(task(item) for item in items):
            for text in texts:
                warnings.warn(AudioWarning(text), stacklevel=2)
            yield result
    except TerminatedWorkerError as error:
        raise RunError(
            "a worker process ended before its work was done, most often because the system killed it when memory ran "
            f"out: give fewer --jobs than {jobs}; what is finished is kept: run the same command again"
        ) from error
    finally:
        get_reusable_executor().shutdown(kill_workers=True)  # else they keep their memory for minutes


def _with_warnings(work: Callable[[_Item], _Result], item: _Item) -> tuple[_Result, list[str]]:
    """The result of an item, and the texts of its `AudioWarning`s, which are shown by the process that waits for it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AudioWarning)
        result = work(item)
    for each in caught:
        if not issubclass(each.category, AudioWarning):
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    return result, [str(each.message) for each in caught if issubclass(each.category, AudioWarning)]


def _begin() -> None:
    """Make a new process end with the one that started it, however that ends, and without a traceback."""
    for name in ("SIGINT", "SIGHUP"):  # a terminal sends these to all; the first process then stops the others
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
