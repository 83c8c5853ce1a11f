"""Workers that wait for each other before TensorFlow does."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from tierwave.errors import RunError, UsageError
from tierwave.system import tasks
from tierwave.system.tasks import Task, meet


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "LOOKED_EVERY", 0.02)


@pytest.fixture
def addresses() -> tuple[str, ...]:
    """Three that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    found = tuple(f"127.0.0.1:{each.getsockname()[1]}" for each in sockets)
    for each in sockets:
        each.close()
    return found


def lines_to(found: list[str], stop: Callable[[], bool] = lambda: False) -> Callable[[str, bool], None]:
    def say_line(text: str, rewrite: bool) -> None:
        if not rewrite:
            found.append(text)
        if stop():
            raise RunError("enough")

    return say_line


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_all_go_on_when_the_last_has_come_and_say_who_is_missing(
    addresses: tuple[str, ...], order: tuple[int, ...]
) -> None:
    said: dict[int, list[str]] = {rank: [] for rank in order}
    heard = threading.Event()

    def say_line(rank: int) -> Callable[[str, bool], None]:
        def say(text: str, rewrite: bool) -> None:
            if not rewrite:
                said[rank].append(text)
            heard.set()

        return say

    with ThreadPoolExecutor(3) as threads:
        started = []
        for rank in order:
            if started:
                assert heard.wait(10)
                assert not any(each.done() for each in started)
            started.append(threads.submit(meet, Task(rank, 3, addresses), say_line(rank), 10.0))
        for each in started:
            each.result(10)
    first, last = order[0], order[-1]
    whom = f"worker {last} at {addresses[last]}" if first == 0 else f"worker 0 at {addresses[0]}"
    assert any(whom in text for text in said[first])
    socket.create_server(("127.0.0.1", int(addresses[0].rpartition(":")[2]))).close()  # is free for TensorFlow


def test_a_partner_that_never_comes_is_waited_for_as_long_as_was_said(addresses: tuple[str, ...]) -> None:
    for rank, other in ((0, 1), (1, 0)):
        said: list[str] = []
        with pytest.raises(RunError, match=rf"0\.1 s for worker {other} at {addresses[other]} in vain.*worker_timeout"):
            meet(Task(rank, 2, addresses[:2]), lines_to(said), 0.1)
        assert said == [f"Waiting for worker {other} at {addresses[other]}"]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_ends_the_waiting(addresses: tuple[str, ...], rank: int) -> None:
    def handler(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            meet(Task(rank, 2, addresses[:2]), lines_to([]))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_one_that_has_gone_again_and_strangers_are_not_counted(addresses: tuple[str, ...]) -> None:
    place = ("127.0.0.1", int(addresses[0].rpartition(":")[2]))
    with ThreadPoolExecutor(1) as threads:
        chief = threads.submit(meet, Task(0, 2, addresses[:2]), lines_to([]), 10.0)
        greetings = (b"GET / HTTP/1.1\r\n\r\n", b"tierwave worker 7\n", b"tierwave worker 1\n")
        for greeting in greetings:
            while True:
                with suppress(OSError), socket.create_connection(place, timeout=1) as line:
                    line.sendall(greeting)
                    if greeting == greetings[-1]:
                        line.settimeout(5)
                        assert line.recv(10) == b"go\n"  # there was nobody else to wait for
                    break
        chief.result(10)


def test_a_chief_that_cannot_listen_and_an_address_without_a_port_are_told(addresses: tuple[str, ...]) -> None:
    port = int(addresses[0].rpartition(":")[2])
    with socket.create_server(("", port)), pytest.raises(RunError, match="cannot listen on"):
        meet(Task(0, 2, addresses[:2]), lines_to([]))
    with pytest.raises(UsageError, match="HOST:PORT"):
        meet(Task(1, 2, ("here", "there")), lines_to([]), 0.1)


def test_one_alone_waits_for_nobody() -> None:
    meet(Task(), lines_to([]))
