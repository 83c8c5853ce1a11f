"""Every command that writes, disturbed at its writes: nothing is lost, nothing half stands under a final name, one
sentence tells what went wrong, and the same command goes on to the same end."""

from __future__ import annotations

import errno
import functools
import gc
import io
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from desk import COMMANDS, Command, lay, prepare, training
from disturbances import Disk, Killed, files_no_longer_than, full, killed, read_only, watched

import train
from commands import Capture, call

Desk = Callable[[Command], Path]
Undisturbed = Callable[[Command], tuple[list[str], Any]]

pytestmark = pytest.mark.usefixtures("loaded_once")

FEW = 4
MANY = {"chunk": 40, "train": 24, "generate": 24, "report": 4, "export": 24, "tune": 4}
SIZES = (0, 50, 1000, 20_000)  # bytes


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run."""
    folder = tmp_path_factory.mktemp("run")
    lay(folder)
    assert call(train.main, training(folder)) == 0
    return folder


@pytest.fixture(scope="module")
def desk(run: Path) -> Iterator[Desk]:
    """Makes the folder anew in which a command works, always at the same place, so that all it writes is the same."""

    def made(command: Command) -> Path:
        # A few steps are not worth tracing; loops of generation are, once for all sounds of one network.
        tf.config.run_functions_eagerly(command.name in ("train", "tune"))
        prepare(run / "desk", command, run)
        return run / "desk"

    yield made
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def undisturbed(desk: Desk) -> Undisturbed:
    """The writes and the result of a command that nothing disturbs, each of which is tried once."""

    @functools.cache
    def of(name: str) -> tuple[list[str], Any]:
        command = next(each for each in COMMANDS if each.name == name)
        folder = desk(command)
        with watched(Disk(folder)) as disk:
            assert command(folder) == 0
        return disk.writes, command.result(folder)

    return lambda command: of(command.name)


def some(writes: list[str], most: int) -> list[int]:
    """At most so many places among the writes: the first, the last, and in between the same way apart."""
    if len(writes) <= most:
        return list(range(len(writes)))
    return sorted({round(index * (len(writes) - 1) / (most - 1)) for index in range(most)})


def finished(command: Command, folder: Path, expected: Any, place: str, capsys: Capture) -> None:
    """The same command, typed again, ends with what it would have made undisturbed."""
    gc.collect()  # with the frames of what was killed go its locks
    if command.name == "export" and (folder / "run.zip").exists():
        return  # whole, as was looked at before; it is never replaced
    assert command(folder) == 0, f"{place}: {capsys.readouterr().err}"
    assert command.result(folder) == expected, place


def whole_or_absent(command: Command, folder: Path, expected: Any, place: str) -> None:
    """Nothing stands under its final name that is not what the command makes."""
    if command.name == "chunk":
        for name, content in command.result(folder).items():
            assert content == expected[name], (place, name)
    elif command.name != "train" and command.name != "tune":
        try:
            found = command.result(folder)
        except FileNotFoundError:
            return
        assert found == expected, place


def each(quick: tuple[str, ...]) -> pytest.MarkDecorator:
    """All commands, those that take long with the mark `slow`."""
    rows = [pytest.param(c, id=c.name, marks=() if c.name in quick else pytest.mark.slow) for c in COMMANDS]
    return pytest.mark.parametrize("command", rows)


QUICK = ("chunk", "generate")


KILLS = [pytest.param(each, FEW, id=f"{each.name}-some") for each in COMMANDS if each.name in (*QUICK, "train")]
KILLS += [pytest.param(each, MANY[each.name], id=f"{each.name}-many", marks=pytest.mark.slow) for each in COMMANDS]


@pytest.mark.parametrize(("command", "most"), KILLS)
def test_a_command_that_is_killed_at_a_write_goes_on_to_the_same_end(
    command: Command, most: int, desk: Desk, undisturbed: Undisturbed, capsys: Capture
) -> None:
    writes, expected = undisturbed(command)
    assert len(writes) > 2
    for number in some(writes, most):
        folder, place = desk(command), f"killed at write {number}, {writes[number]}"
        with watched(Disk(folder, number, killed)), pytest.raises(Killed):
            command(folder)
        whole_or_absent(command, folder, expected, place)
        finished(command, folder, expected, place, capsys)


@each(QUICK)
def test_what_cannot_be_written_is_told_in_a_sentence_and_the_command_goes_on_later(
    command: Command, desk: Desk, undisturbed: Undisturbed, capsys: Capture
) -> None:
    writes, expected = undisturbed(command)
    for number, fault in zip(some(writes, FEW), itertools.cycle([full, read_only])):
        folder, place = desk(command), f"{fault.__name__} from write {number} on, {writes[number]}"
        capsys.readouterr()
        with watched(Disk(folder, number, fault)):
            code = command(folder)
        told = capsys.readouterr().err
        assert "Traceback" not in told and (code in (1, 2) or command.result(folder) == expected), f"{place}: {told}"
        assert code == 0 or os.strerror(fault("").errno or 0) in told, f"{place}: {told}"
        whole_or_absent(command, folder, expected, place)
        finished(command, folder, expected, place, capsys)


@each(QUICK)
def test_a_disk_that_is_full_within_a_file_is_told(
    command: Command, desk: Desk, undisturbed: Undisturbed, capsys: Capture
) -> None:
    expected = undisturbed(command)[1]
    for size in SIZES:
        folder, place = desk(command), f"no more than {size} bytes"
        capsys.readouterr()
        with files_no_longer_than(size):
            code = command(folder)
        told = capsys.readouterr().err
        assert "Traceback" not in told and len(told) < 2000, f"{place}: {told}"
        assert code in (1, 2) or (code == 0 and command.result(folder) == expected), f"{place}: {code} {told}"
        whole_or_absent(command, folder, expected, place)
        finished(command, folder, expected, place, capsys)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP")
@each(QUICK)
def test_a_closed_terminal_ends_a_command_which_goes_on_later(
    command: Command, desk: Desk, undisturbed: Undisturbed, capsys: Capture
) -> None:
    writes, expected = undisturbed(command)
    for number in some(writes, 3):
        folder, place, sent = desk(command), f"SIGHUP at write {number}, {writes[number]}", []

        def hang_up(path: str, sent: list[str] = sent) -> None:
            if not sent:
                sent.append(path)
                signal.raise_signal(signal.SIGHUP)

        with watched(Disk(folder, number, hang_up)):
            code = command(folder)
        told = capsys.readouterr().err
        assert code in (0, 129) and "Traceback" not in told, f"{place}: {code} {told}"
        whole_or_absent(command, folder, expected, place)
        finished(command, folder, expected, place, capsys)


class ClosedPipe(io.StringIO):
    """Nobody reads any more: `command | head -1`."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    def flush(self) -> None:
        self.write("")


@each(QUICK)
def test_nobody_has_to_read_what_a_command_prints(
    command: Command, desk: Desk, undisturbed: Undisturbed, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, folder = undisturbed(command)[1], desk(command)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", ClosedPipe())
        command(folder)
    assert "Traceback" not in capsys.readouterr().err
    assert command.result(folder) == expected


@each(QUICK)
def test_a_clock_may_jump(
    command: Command, desk: Desk, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, folder = undisturbed(command)[1], desk(command)
    real, jumps = time.time, itertools.cycle([0, -90_000, 40_000_000, -5, 3600])
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    assert command(folder) == 0
    assert command.result(folder) == expected
