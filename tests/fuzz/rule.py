"""The rule that holds for every input, however damaged: it is right, or it is refused in one sentence.

Never a traceback, a hang, a gigabyte of memory, or a library that speaks for itself: on the process's error stream, in
a warning, in a log.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import logging
import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TextIO, TypeVar

from tierwave.errors import RunError, UsageError

ROOT = Path(__file__).resolve().parents[2]
REFUSALS = (UsageError, RunError, OSError)  # what `commandline.run` tells in a sentence
CPU_SECONDS = 5.0  # on a machine that is busy with something else, other seconds say nothing
COMMAND_SECONDS = 40.0  # of a command that computes
HANG_SECONDS = 120.0
LONGEST_SENTENCE = 1500
MOST_MEMORY = 400 << 20  # bytes by which one input may raise the most that the process has ever used

T = TypeVar("T")


@dataclass(frozen=True)
class Kind:
    """A kind of input. make(rng, folder): one of them, its files in the empty folder; attempt(it): what came of it, in
    a word or two, or Wrong; cost: how many times as long as others it takes, by which fewer of it are tried."""

    name: str
    make: Callable[[Random, Path], Any]
    attempt: Callable[[Any], str]
    cost: int = 1


class Wrong(Exception):
    """What came of an input and must not have. place: what tells one fault from another."""

    def __init__(self, told: str, place: str = "") -> None:
        super().__init__(told)
        self.place = place or told


@dataclass(frozen=True)
class Refusal:
    """An input that was refused."""

    error: Exception

    @property
    def sentence(self) -> str:
        return str(self.error)


class _Hang(BaseException):
    """Not an Exception, which somebody may catch."""


def judged(
    call: Callable[[], T], refusals: tuple[type[Exception], ...] = REFUSALS, *, seconds: float = CPU_SECONDS
) -> T | Refusal:
    """What `call` returns, or its refusal. Raises Wrong for everything else."""
    began, most = _seconds(), _most_memory()
    found: T | Refusal
    with _listened() as heard:
        try:
            with _limited():
                found = call()
        except refusals as error:
            found = Refusal(error)
        except _Hang as error:
            raise Wrong(
                f"hangs: nothing came in {HANG_SECONDS:g} s\n{_trace(error)}", f"hangs {_where(error)}"
            ) from None
        except Exception as error:
            raise Wrong(_trace(error), f"{type(error).__name__} {_where(error)}") from None
    if isinstance(found, Refusal):
        _check_sentence(found)
    if heard:
        raise Wrong(f"something else was said: {' | '.join(heard)[:2000]}", f"said {_without_numbers(heard[0])[:60]}")
    spent, grown = _seconds() - began, _most_memory() - most
    if spent > seconds:
        raise Wrong(f"takes {spent:.1f} s", "takes long")
    if grown > MOST_MEMORY:
        raise Wrong(f"takes {grown >> 20} MiB", "takes memory")
    return found


def _without_numbers(text: str) -> str:
    return re.sub(r"0x[0-9a-fA-F]+|\d+", "N", text)


def _check_sentence(found: Refusal) -> None:
    sentence = found.sentence
    if not sentence.strip():
        raise Wrong(f"refused without a word: {found.error!r}", f"no word {_where(found.error)}")
    if len(sentence) > LONGEST_SENTENCE:
        raise Wrong(f"refused in {len(sentence)} characters: {sentence[:200]}...", f"long {_where(found.error)}")
    if isinstance(found.error, OSError) and found.error.filename is None:
        raise Wrong(f"refused without saying where: {found.error!r}", f"nowhere {_where(found.error)}")
    if "Traceback" in sentence or "<class " in sentence or "object at 0x" in sentence:
        raise Wrong(f"refused in words of a program: {sentence}", f"no sentence {_where(found.error)}")


def _where(error: BaseException) -> str:
    """The innermost line of the project, and of all."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(ROOT) and "tests" not in frame.filename]
    return " ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in [*own[-1:], *frames[-1:]])


def _trace(error: BaseException) -> str:
    lines = traceback.format_exception(error)
    return "".join(lines[-8:])[-3000:]


def _seconds() -> float:
    """Processor time of this process and of those it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _most_memory() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """_Hang after HANG_SECONDS; where that cannot be raised, since a library does not come back, the process ends."""

    def hang(*_: Any) -> None:
        raise _Hang

    before = signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# What is said --------------------------------------------------------------------------------------------------------


class _Log(logging.Handler):
    """What is logged as a warning or worse."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(f"{record.name}: {record.getMessage()}")


_stream: TextIO | None = None


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """The error stream, of the process too, goes to a file that `judged` looks into; and what does not come back from a
    library ends the process."""
    global _stream
    with tempfile.TemporaryFile("w+", errors="replace", buffering=1) as stream:
        sys.stderr.flush()
        kept, before = os.dup(2), sys.stderr
        os.dup2(stream.fileno(), 2)
        _stream = sys.stderr = stream
        try:
            yield
        finally:
            _stream, sys.stderr = None, before
            os.dup2(kept, 2)
            os.close(kept)
            faulthandler.cancel_dump_traceback_later()


@contextlib.contextmanager
def _listened() -> Iterator[list[str]]:
    """All that is said meanwhile but not by us."""
    heard: list[str] = []
    _said()  # before
    log = _Log()
    logging.getLogger().addHandler(log)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            for unseen in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
                warnings.simplefilter("ignore", unseen)  # which nobody sees unless asked for
            warnings.filterwarnings("ignore", "Even though the `tf.config.experimental_run")  # of the tests' own mode
            yield heard
    finally:
        logging.getLogger().removeHandler(log)
    heard += [f"{each.category.__name__}: {each.message}" for each in warned if not _is_own(each)]
    heard += log.told
    heard += _said()


def _said() -> list[str]:
    """What stands in the error stream, and does not any more."""
    if _stream is None or not os.fstat(_stream.fileno()).st_size:
        return []
    _stream.flush()
    _stream.seek(0)
    told = _stream.read().splitlines()
    _stream.seek(0)
    _stream.truncate()
    return told


def _is_own(warning: warnings.WarningMessage) -> bool:
    """Whether it is one of ours, which command lines tell as a sentence."""
    plain = warning.category is UserWarning and Path(warning.filename).is_relative_to(ROOT)
    return plain or warning.category.__module__.startswith("tierwave.")


def commanded(main: Callable[[list[str]], int], words: Sequence[Any]) -> str:
    """What a command line, called in this process, says on its error stream at its end; "" where it exits with 0.
    Raises Wrong as `judged`, for any exit code but 0, 1 and 2, and for more than a sentence."""

    def call() -> tuple[int, str]:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
            try:
                code = main([str(word) for word in words])
            except SystemExit as left:  # argparse leaves by itself
                code = left.code if isinstance(left.code, int) else 70
        return code, errors.getvalue()

    found = judged(call, (), seconds=COMMAND_SECONDS)
    assert not isinstance(found, Refusal)
    code, told = found
    lines = told.strip().splitlines()
    if code not in (0, 1, 2) or "Traceback" in told or (code and not lines):
        raise Wrong(f"exits with {code}: {told[-2000:]}", f"exit code {code}")
    if code:
        _check_sentence(Refusal(RunError(lines[-1])))
    return lines[-1] if code else ""
