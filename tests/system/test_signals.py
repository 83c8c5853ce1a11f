"""Handlers of signals for as long as a block lasts."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from tierwave.system.signals import ENDING, handled


@pytest.fixture
def came() -> Iterator[list[int]]:
    """What comes to the handlers of before, negative; they are put back."""
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *ENDING)}
    for number in before:
        signal.signal(number, lambda number, _: came.append(-number))
    yield came
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ENDING)
def test_a_handler_lasts_as_long_as_its_block(came: list[int], number: signal.Signals) -> None:
    with pytest.raises(ValueError), handled(ENDING, lambda number, _: came.append(number)):
        signal.raise_signal(number)
        raise ValueError
    signal.raise_signal(number)
    assert came == [number, -number]


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_that_is_ignored_stays_so(came: list[int], number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)
    with handled(ENDING, lambda number, _: came.append(number)):
        signal.raise_signal(number)
    assert came == [] and signal.getsignal(number) == signal.SIG_IGN


def test_ctrl_c_is_handled_even_where_a_shell_has_it_ignored(came: list[int]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with handled([signal.SIGINT], lambda number, _: came.append(number)):
        signal.raise_signal(signal.SIGINT)
    assert came == [signal.SIGINT] and signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_another_thread_leaves_the_handlers_as_they_are(came: list[int]) -> None:
    before = [signal.getsignal(number) for number in ENDING]

    def body() -> None:
        with handled(ENDING, lambda number, _: None):
            came.append([signal.getsignal(number) for number in ENDING] == before)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert came == [True]
