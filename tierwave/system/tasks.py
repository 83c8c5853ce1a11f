"""Processes that train together: which one this is, by TF_CONFIG, and waiting until all have started.

TensorFlow waits too, but silently, without a timeout and without handling signals, so the workers meet here first.
TensorFlow's own reader of TF_CONFIG checks nothing, so mistakes in it are reported here too.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tierwave.errors import RunError, UsageError
from tierwave.files.text import parse_json
from tierwave.system.progress import SayLine, clock

TF_CONFIG = "TF_CONFIG"
EXAMPLE = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'


@dataclass(frozen=True)
class Task:
    """This process among those of TF_CONFIG: its number, how many there are, and their addresses, HOST:PORT. The chief
    is number 0."""

    rank: int = 0
    workers: int = 1
    addresses: tuple[str, ...] = field(default=(), compare=False)


def task_of(environment: Mapping[str, str]) -> Task:
    """Which process TF_CONFIG says this is; alone where it says nothing. Raises UsageError where it is not what
    TensorFlow reads."""
    text = environment.get(TF_CONFIG, "")
    if not text.strip():
        return Task()
    try:
        document = parse_json(text)
    except ValueError as error:
        raise UsageError(
            f"the environment variable TF_CONFIG is not JSON ({error}): write for example {EXAMPLE}"
        ) from None
    cluster = document.get("cluster") if isinstance(document, dict) else None
    if not cluster:
        return Task()
    task = document.get("task")
    if not isinstance(cluster, dict) or not isinstance(task, dict):
        raise UsageError(f"TF_CONFIG must hold the objects cluster and task: write for example {EXAMPLE}")
    unknown = sorted(cluster.keys() - {"chief", "worker"})
    if unknown:
        raise UsageError(f'TF_CONFIG has tasks of the type "{unknown[0]}", and only chief and worker can train')
    chiefs, workers = (cluster.get(kind, []) for kind in ("chief", "worker"))
    if not all(isinstance(each, list) and all(isinstance(name, str) for name in each) for each in (chiefs, workers)):
        raise UsageError(f"TF_CONFIG must list the workers as HOST:PORT: write for example {EXAMPLE}")
    kind, index = task.get("type"), task.get("index")
    listed = {"chief": chiefs, "worker": workers}.get(kind if isinstance(kind, str) else "", [])
    if not isinstance(index, int) or not 0 <= index < len(listed):
        raise UsageError(
            f"TF_CONFIG says that this is the task {kind} {index}, and its cluster has {len(chiefs)} chief and "
            f"{len(workers)} workers: give every process its own type and index, from 0"
        )
    return Task(index + (len(chiefs) if kind == "worker" else 0), len(chiefs) + len(workers), (*chiefs, *workers))


# Meeting -------------------------------------------------------------------------------------------------------------

LOOKED_EVERY = 0.5  # seconds between looks whether a worker has come
GREETING, GO = b"tierwave worker ", b"go"  # each ended by a new line
_LONGEST = 256  # bytes of a message


def meet(task: Task, say_line: SayLine, timeout: float | None = None) -> None:
    """Wait until all workers have come here: each tells the chief, at its address, who it is, and the chief sends them
    all on when the last has come, or says meanwhile who is missing.

    timeout: seconds; None: as long as it takes. Raises RunError when it is over, or where the chief cannot listen.
    """
    if task.workers == 1:
        return
    begun, told = time.monotonic(), ""

    def wait(missing: str) -> None:
        nonlocal told
        waited = time.monotonic() - begun
        if timeout is not None and waited >= timeout:
            raise RunError(
                f"waited {timeout:g} s for {missing} in vain: start every worker of TF_CONFIG, look whether its "
                "address can be reached from here, or wait longer with --worker_timeout"
            )
        if missing != told:
            told = missing
            say_line(f"Waiting for {missing}", False)
        say_line(f"Waiting for {missing}: {clock(waited)}", True)

    if task.rank == 0:
        _gather(task, wait)
    else:
        _join(task, wait)


def _gather(task: Task, wait: Callable[[str], None]) -> None:
    """The chief's part."""
    there: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as sockets:
        try:
            door = sockets.enter_context(socket.create_server(("", _place(task.addresses[0])[1]), backlog=task.workers))
        except (OSError, OverflowError) as error:
            raise RunError(
                f"the chief cannot listen on {task.addresses[0]} ({error}): end what listens there, or name another "
                "port in the TF_CONFIG of all workers"
            ) from None
        while len(there) < task.workers - 1:
            missing = [rank for rank in range(1, task.workers) if rank not in there]
            named = ", ".join(f"worker {rank} at {task.addresses[rank]}" for rank in missing)
            # One that has gone again is missing again: it says nothing more after its greeting.
            ready = select.select([door, *there.values()], [], [], LOOKED_EVERY)[0]
            gone = [rank for rank, line in there.items() if line in ready]
            gone += [rank for rank, line in there.items() if rank not in gone and not _sent(line, named.encode())]
            for rank in gone:
                there.pop(rank).close()
            if door in ready:
                line = sockets.enter_context(door.accept()[0])
                come = _greeted(line, task)
                if come is not None:
                    there[come] = line
            elif len(there) < task.workers - 1:
                wait(named)
        for line in there.values():
            _sent(line, GO)
        for line in there.values():  # they leave first, so that the port is free at once
            with contextlib.suppress(OSError):
                line.settimeout(LOOKED_EVERY)
                line.recv(1)


def _greeted(line: socket.socket, task: Task) -> int | None:
    """Who has come; None for somebody else."""
    line.settimeout(LOOKED_EVERY)
    try:
        words = line.recv(_LONGEST)
    except OSError:
        words = b""
    number = words.removeprefix(GREETING).strip()
    if words.startswith(GREETING) and number.isdigit() and 0 < int(number) < task.workers:
        return int(number)
    line.close()
    return None


def _join(task: Task, wait: Callable[[str], None]) -> None:
    """The part of all others."""
    chief, place = f"worker 0 at {task.addresses[0]}", _place(task.addresses[0])
    while True:
        with contextlib.suppress(OSError, OverflowError), contextlib.ExitStack() as sockets:
            line = sockets.enter_context(socket.create_connection(place, timeout=LOOKED_EVERY))
            line.sendall(GREETING + b"%d\n" % task.rank)
            line.settimeout(10 * LOOKED_EVERY)
            heard = b""
            while more := line.recv(_LONGEST):
                *lines, heard = (heard + more).split(b"\n")
                if GO in lines:
                    return
                for missing in lines[-1:]:
                    wait(missing.decode(errors="replace"))
        wait(chief)
        time.sleep(LOOKED_EVERY)


def _sent(line: socket.socket, text: bytes) -> bool:
    try:
        line.sendall(text + b"\n")
    except OSError:
        return False
    return True


def _place(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"TF_CONFIG names the worker {address!r}: write its address as HOST:PORT")
    return host.strip("[]"), int(port)
