"""A connection to a Ray cluster: one that runs, or one of this machine for as long as a block lasts."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

from tierwave.errors import RunError, UsageError

LOCAL = "local"  # a cluster of this machine alone
INSTALL_RAY = 'pip install "ray[train]==2.60.*"'


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
