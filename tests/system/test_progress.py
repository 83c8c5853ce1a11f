"""What is seen of progress on a terminal and in a log, and what comes after it."""

from __future__ import annotations

import io
import os
import pty
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tierwave.cli.running import run
from tierwave.errors import RunError
from tierwave.system import progress
from tierwave.system.progress import ProgressLine, amounts


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Screen(io.StringIO):
    """A terminal: `rows` is what stands on it."""

    def isatty(self) -> bool:
        return True

    @property
    def rows(self) -> list[str]:
        rows: list[list[str]] = [[]]
        column = 0
        for character in self.getvalue():
            if character == "\n":
                rows.append([])
                column = 0
            elif character == "\r":
                column = 0
            else:
                rows[-1][column : column + 1] = [character]
                column += 1
        return ["".join(row).rstrip() for row in rows]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "monotonic", made)
    return made


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    monkeypatch.setenv("TERM", "xterm")
    yield Screen()
    progress.end()


def stand_for_both(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    """stdout and stderr on one terminal; in the test itself, before which pytest sets them."""
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)


def test_on_a_terminal_one_line_is_written_over_and_what_stays_takes_its_place(clock: Clock, screen: Screen) -> None:
    line = ProgressLine(screen)
    for done in range(4):
        clock.now += 1.0
        line.count("Decoding", done, 3)
        assert screen.rows == [f"Decoding: {done}/3"]
    line.say("ok")
    assert screen.rows == ["ok", ""]  # nothing is left of the longer line
    line.say("Epoch: 1", True)
    line.say("Epoch: 2", True)  # too soon to be drawn
    assert screen.rows == ["ok", "Epoch: 1"]
    progress.end()
    assert screen.rows == ["ok", "Epoch: 2", ""]


def test_an_error_stands_on_a_line_of_its_own(clock: Clock, screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_for_both(screen, monkeypatch)
    monkeypatch.setattr(sys, "argv", ["train.py"])

    def body() -> None:
        ProgressLine().count("Decoding", 2, 2)
        raise RunError("s1.wav has no control p")

    assert run(body, debug=False) == 1
    assert screen.rows == ["Decoding: 2/2", "train.py: s1.wav has no control p", ""]


def test_a_fault_of_the_program_stands_on_a_line_of_its_own(clock: Clock, screen: Screen) -> None:
    def body() -> None:
        with ProgressLine(screen) as line:
            line.count("Decoding", 1, 2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(body, debug=False)
    assert screen.rows == ["Decoding: 1/2", ""]


def test_two_lines_share_one_terminal(clock: Clock, screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_for_both(screen, monkeypatch)
    first, second = ProgressLine(), ProgressLine("stderr")
    first.count("Decoding", 1, 2)
    second.count("Measuring", 1, 2)
    assert screen.rows == ["Measuring: 1/2"]
    first.say("said")
    assert screen.rows == ["said", ""]


def test_a_line_is_never_wider_than_the_terminal(clock: Clock, screen: Screen) -> None:
    ProgressLine(screen).say("x" * 200 + "\n", True)
    assert len(screen.rows[0]) == 79


def test_a_terminal_that_cannot_go_back_gets_lines(
    clock: Clock, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    ProgressLine(screen).count("Decoding", 1, 2)
    assert screen.getvalue() == ""


def test_without_a_terminal_a_line_comes_every_few_seconds_of_silence(clock: Clock) -> None:
    log = io.StringIO()
    line = ProgressLine(log)
    for step in range(1600):  # of ten seconds
        clock.now = 100.0 + step / 160.0
        line.count("Chunking", step, 1600)
    assert log.getvalue().splitlines() == ["Chunking: 800/1600"]
    line.say("said")
    clock.now += 4.0
    line.count("Chunking", 1, 2)
    assert log.getvalue().splitlines()[1:] == ["said"]


def test_what_takes_no_time_is_not_told_and_what_stays_always_is(clock: Clock) -> None:
    log = io.StringIO()
    with ProgressLine(log) as line:
        for number in range(117):
            line.count("Decoding", number, 117)
        line.say("done")
    assert log.getvalue() == "done\n"


def test_amounts_have_speed_and_time_left(clock: Clock, screen: Screen) -> None:
    tell = amounts(ProgressLine(screen), "Fetching x")
    tell(1_000_000, 6_000_000)
    clock.now += 2.0
    tell(3_000_000, 6_000_000)
    assert screen.rows == ["Fetching x: 3.0 of 6.0 MB, 1.0 MB/s, 0:00:03 left"]
    clock.now += 1.0
    amounts(ProgressLine(screen), "Fetching y")(2_500_000, None)
    assert screen.rows == ["Fetching y: 2.5 MB"]


def test_a_pipe_that_is_closed_ends_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as stream:
        line = ProgressLine(stream)
        line.say("nobody reads this")
        line.say("nor this")  # and closing the stream, as Python does at its end, raises nothing either


def test_no_stream_at_all_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    line = ProgressLine()
    line.say("nobody reads this")
    line.count("nor this", 1, 2)


def test_a_full_disk_is_an_error() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    stream = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115 (closed below)
    with pytest.raises(OSError, match="No space left"):
        ProgressLine(stream).say("lost")
    with suppress(OSError):
        stream.close()


def test_what_the_encoding_does_not_have_is_escaped() -> None:
    raw = io.BytesIO()
    line = ProgressLine(io.TextIOWrapper(raw, encoding="ascii"))
    line.say("left out: \udcffä.wav")
    assert raw.getvalue() == b"left out: \\xff\\xe4.wav\n"


def test_a_real_terminal_is_known_as_one(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 20)) if hasattr(termios, "tcsetwinsize") else None
    with open(follower, "w", encoding="utf-8") as stream, ProgressLine(stream) as line:
        line.say("a line that is wider than the terminal", True)
        seen = os.read(leader, 1000)
        assert seen.startswith(b"\ra line that is wide")
        if hasattr(termios, "tcsetwinsize"):
            assert len(seen) == 20
    os.close(leader)


def test_what_only_lasts_is_told_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TICK", 0.001)
    told: list[tuple[str, bool]] = []
    ticked = threading.Event()

    def say_line(text: str, rewrite: bool) -> None:
        told.append((text, rewrite))
        if len(told) > 2:
            ticked.set()

    with progress.waiting(say_line, "Starting Ray"):
        assert ticked.wait(10)
    assert told[0] == ("Starting Ray ...", True) and told[1] == ("Starting Ray: 0:00:00", True)
    assert not any(thread.name == "waiting" for thread in threading.enumerate())
