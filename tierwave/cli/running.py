"""How a command line runs: its exit code, and what went wrong in one sentence on stderr."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from tierwave.config import TrainingOptions
from tierwave.errors import AudioWarning, RunError, UsageError
from tierwave.files.names import ESCAPED
from tierwave.system import progress
from tierwave.system.signals import ENDING, handled


@contextlib.contextmanager
def sentences(say: Callable[[str], None]) -> Iterator[None]:
    """Warnings about controls that were changed, told as sentences, each once, instead of Python's way."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for text in dict.fromkeys(str(each.message) for each in caught if issubclass(each.category, UserWarning)):
        say(f"Warning: {text}")


_REMEDIES = {
    errno.ENOSPC: "free some space, and run the same command again",
    errno.EDQUOT: "free some space, and run the same command again",
    errno.EACCES: "change its permissions, or choose another place",
    errno.EPERM: "change its permissions, or choose another place",
    errno.EROFS: "choose another place",
    errno.ENOENT: "check the path",
}


class _Ended(KeyboardInterrupt):
    """A signal that ends a command as Ctrl-C does: what was half written is removed on the way out."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


def _end(number: int, _: object) -> NoReturn:
    raise _Ended(number)


_FLAG = re.compile(
    r"--(?P<name>[a-z]\w*)"
    r"(?:[ =](?P<value>True|False|None|\d+(?:\.\d+)?\b|float32|mixed_\w+|(?:val_)?(?:loss|accuracy)\b))?"
)
_OWNERS = {
    **dict.fromkeys((*TrainingOptions.model_fields, "resume_from", "init_from", "set"), "train.py"),
    "lenient": "python -m tierwave controls convert",
    "name_params": "python -m tierwave controls manifest",
}


def typed_here(message: str, flags: argparse.ArgumentParser) -> str:
    """A message of another command, whose remedies can be typed at the command of `flags`: a training flag that it does
    not have is set in its config, if it has --set, and any other is named with the command that has it.

    What follows the name of a command in the message is meant for that command, and stays.
    """
    known = flags._option_string_actions

    def here(found: re.Match[str]) -> str:
        name, value = found["name"], found["value"]
        if f"--{name}" in known or re.search(r"\w\.py\b|python -m", message[: found.start()]):
            return found[0]
        if "--set" in known and name in TrainingOptions.model_fields:
            return f"--set training.{name}" + (f"={value}" if value else "")
        return f"{_OWNERS[name]} {found[0]}" if name in _OWNERS else found[0]

    return _FLAG.sub(here, message)


def run(body: Callable[[], int | None], *, debug: bool, flags: argparse.ArgumentParser | None = None) -> int:
    """Run a command line's `body`; its exit code, or that of what went wrong, which is told on stderr in one sentence.

    UsageError gives 2; RunError and OSError (a full disk, a missing permission) give 1; Ctrl-C gives 130, SIGTERM 143
    and SIGHUP 129. Any other exception is a fault of the program and keeps its traceback; `debug` shows that of the
    others too. flags: those of the command, for remedies that can be typed there (see `typed_here`). What the terminal
    cannot show, odd bytes of names above all, is escaped.
    """

    def told(error: Exception) -> str:
        return str(error) if flags is None else typed_here(str(error), flags)

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ESCAPED)
    try:
        with handled(ENDING, _end), _oddities_told():
            try:
                return body() or 0
            finally:
                progress.end()  # before anything is said of an error
    except UsageError as error:
        return _tell(told(error), 2, debug)
    except RunError as error:
        return _tell(told(error), 1, debug)
    except OSError as error:
        return _tell(_os_sentence(error), 1, debug)
    except _Ended as error:
        return _tell(f"stopped by {signal.Signals(error.number).name}", 128 + error.number, debug)
    except KeyboardInterrupt:
        return _tell("stopped by Ctrl-C", 130, debug)


def _os_sentence(error: OSError) -> str:
    place = f" {os.fsdecode(error.filename)}" if isinstance(error.filename, (str, bytes)) else ""
    fault = f"{place[1:]}: {error.strerror}" if place and error.strerror else (error.strerror or str(error))
    remedy = _REMEDIES.get(error.errno) if error.errno is not None else None
    return f"{fault}; {remedy}" if remedy else fault


@contextlib.contextmanager
def _oddities_told() -> Iterator[None]:
    """What is odd about a recording as a sentence on stderr, once, instead of Python's way."""
    told = set()
    with warnings.catch_warnings():
        warnings.simplefilter("always", AudioWarning)
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, AudioWarning):
                progress.end()
                usual(message, category, *where, **more)
            elif str(message) not in told:
                told.add(str(message))
                progress.ProgressLine("stderr").say(f"{_program()}: {message}")

        warnings.showwarning = show
        yield


def _tell(sentence: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    progress.ProgressLine("stderr").say(f"{_program()}: {sentence}".replace("\n", " "))
    return code


def _program() -> str:
    program = Path(sys.argv[0])
    ours = program.stem == "tierwave" or (program.name == "__main__.py" and program.parent.name == "tierwave")
    return " ".join(["tierwave", *sys.argv[1:2]]) if ours else program.name
