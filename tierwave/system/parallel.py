"""Work over many items: in this process, in processes of this machine, or as tasks of a Ray cluster.

The items are independent, and what becomes of each does not depend on where it is done. Processes are started and
watched by `concurrent.futures` and by Ray, not here. Knows neither audio nor files.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from tierwave.errors import AudioWarning, RunError, UsageError
from tierwave.system.progress import SayLine, waiting

LOCAL = "local"  # a cluster of this machine alone, for as long as the work takes
INSTALL_RAY = 'pip install "ray[train]==2.60.*"'
TRIES = 4  # of a task on a cluster whose machine or process was lost under it

_LOST = "what is finished is kept: run the same command again"

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def spread(
    work: Callable[[_Item], _Result],
    items: Sequence[_Item],
    *,
    jobs: int = 1,
    cluster: str | None = None,
    finished: Callable[[int], None] | None = None,
    say_line: SayLine = lambda text, rewrite: None,
) -> Iterator[_Result]:
    """`work` of every item, in the order of the items, each as soon as it and all before it are there.

    Args:
        work: a function of a module, or a `functools.partial` of one; it, the items and the results are sent to other
            processes, unless all is done in this one.
        jobs: processes of this machine at the most; 1: this one. With the cluster "local", its size.
        cluster: "local", or the address of a Ray cluster ("auto", "HOST:PORT"), where Tierwave must be installed and
            the files be found under the same names; it decides itself how much is done at a time.
        finished: told the number of each item that is finished, in the order in which that happens.
        say_line: told that a cluster is started or joined, for as long as that takes.

    Raises:
        UsageError: jobs below 1; no Ray; no cluster at that address.
        RunError: a process was killed.
        Exception: what `work` raises, as it raises it, and as soon as that is known.
    """
    if jobs < 1:
        raise UsageError(f"--jobs {jobs} must be 1 or more")
    jobs = min(jobs, len(items))
    elsewhere = functools.partial(_heard, work)
    if cluster is not None and items:
        results = _told(_on_cluster(elsewhere, items, jobs, cluster, say_line))
    elif jobs > 1:
        results = _told(_in_processes(elsewhere, items, jobs))
    else:
        results = ((number, work(item)) for number, item in enumerate(items))
    return _in_order(results, finished or (lambda number: None))


def _heard(work: Callable[[_Item], _Result], item: _Item) -> tuple[_Result, list[str]]:
    """What `work` makes of an item, and what it found odd about recordings: another process has nobody to tell."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AudioWarning)
        result = work(item)
    for each in caught:
        if not issubclass(each.category, AudioWarning):
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    return result, [str(each.message) for each in caught if issubclass(each.category, AudioWarning)]


def _told(results: Iterator[tuple[int, tuple[_Result, list[str]]]]) -> Iterator[tuple[int, _Result]]:
    with contextlib.closing(results):  # type: ignore[type-var]  # they are all generators
        for number, (result, odd) in results:
            for text in odd:
                warnings.warn(AudioWarning(text), stacklevel=2)
            yield number, result


def _in_order(results: Iterator[tuple[int, _Result]], finished: Callable[[int], None]) -> Iterator[_Result]:
    early: dict[int, _Result] = {}
    turn = 0
    with contextlib.closing(results):  # type: ignore[type-var]  # they are all generators
        for number, result in results:
            finished(number)
            early[number] = result
            while turn in early:
                yield early.pop(turn)
                turn += 1


# Processes of this machine -------------------------------------------------------------------------------------------


def _in_processes(work: Callable[[_Item], _Result], items: Sequence[_Item], jobs: int) -> Iterator[tuple[int, _Result]]:
    if sys.platform == "win32":
        jobs = min(jobs, 61)  # Windows waits for no more at once
    # Not by fork, which would copy the threads' locks of the numerical libraries as they happen to be.
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin)
    numbers: dict[Future[_Result], int] = {}
    todo = iter(enumerate(items))
    try:
        while True:
            while len(numbers) < 4 * jobs and (following := next(todo, None)) is not None:
                numbers[pool.submit(work, following[1])] = following[0]
            if not numbers:
                return
            for future in wait(numbers, return_when=FIRST_COMPLETED).done:
                yield numbers.pop(future), future.result()
    except BrokenProcessPool as error:
        raise RunError(
            "a worker process ended before its work was done, most often because the system killed it when memory ran "
            f"out: give fewer --jobs than {jobs}; {_LOST}"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """What every process does first: see to it that it ends with this one, however that ends, and without a word."""
    for name in ("SIGINT", "SIGHUP"):  # which a terminal sends to all
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _leave)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave(*_: object) -> None:
    raise SystemExit(130)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # nobody is there to be told anything


# A Ray cluster -------------------------------------------------------------------------------------------------------


def _on_cluster(
    work: Callable[[_Item], _Result], items: Sequence[_Item], jobs: int, address: str, say_line: SayLine
) -> Iterator[tuple[int, _Result]]:
    with contextlib.ExitStack() as held:
        with waiting(say_line, starting(address)):
            ray = held.enter_context(connected(address, jobs))
        task = ray.remote(_call).options(scheduling_strategy="SPREAD", max_retries=TRIES - 1)
        shared = ray.put(work)
        at_once = 4 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        numbers: dict[Any, int] = {}
        todo = iter(enumerate(items))
        try:
            while True:
                while len(numbers) < at_once and (following := next(todo, None)) is not None:
                    numbers[task.remote(shared, following[1])] = following[0]
                if not numbers:
                    return
                for reference in ray.wait(list(numbers))[0]:
                    yield numbers.pop(reference), ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ray.exceptions.RayError):  # it has not come so far as to do any work
                raise RunError(
                    f"a task of the cluster {address} could not be started ({_first_line(error.cause)}): install "
                    "Tierwave on all of its machines, as it is installed here"
                ) from error
            if isinstance(error.cause, Exception):
                raise error.cause from None
            raise
        except ray.exceptions.RayError as error:
            raise RunError(f"a task of the cluster {address} was lost ({_first_line(error)}): {_LOST}") from error
        finally:
            for reference in numbers:
                ray.cancel(reference)


def _call(work: Callable[[_Item], _Result], item: _Item) -> _Result:
    return work(item)


def starting(address: str) -> str:
    """What goes on until a cluster is there."""
    return "Starting Ray" if address == LOCAL else f"Joining the Ray cluster {address}"


@contextlib.contextmanager
def connected(address: str, jobs: int) -> Iterator[Any]:
    """Ray, connected; to what it is connected to already, or else until the end of the block."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address == LOCAL:
        # What makes it listen on the loopback interface alone, as it does by itself on systems other than Linux.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError(f"--cluster {address} needs Ray ({error}): {INSTALL_RAY}") from error
    if ray.is_initialized():
        yield ray
        return
    _refuse_silent(address)
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == LOCAL:
        settings |= {"num_cpus": jobs, "include_dashboard": False}
    try:
        with _modules_found() if address == LOCAL else contextlib.nullcontext():
            ray.init(address=address, **settings)
    except Exception as error:  # Ray raises a plain Exception too, such as of a node that was too slow to start
        if address == LOCAL:
            ray.shutdown()  # what of it did start
        raise _no_cluster(address, _first_line(error)) from error
    try:
        yield ray
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _modules_found() -> Iterator[None]:
    """Processes that are started meanwhile look for modules where this one does, which may be where no other would."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
    try:
        yield
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _refuse_silent(address: str) -> None:
    """Raise UsageError where nobody answers at HOST:PORT: Ray itself would wait for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, str(error)) from error


def _no_cluster(address: str, reason: str) -> UsageError | RunError:
    if address == LOCAL:
        return RunError(
            f"Ray did not start on this machine ({reason}): run the same command again when the machine is less busy, "
            "ask for fewer processes, or do without --cluster"
        )
    return UsageError(
        f"--cluster {address}: there is no Ray cluster to work on ({reason}): start one with `ray start --head`, or "
        f"give --cluster {LOCAL}"
    )
