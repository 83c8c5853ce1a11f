"""How a command line runs: its exit code, and what went wrong in one sentence on stderr."""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
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
    """Warnings of the block as sentences at its end, each once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for text in dict.fromkeys(str(each.message) for each in caught if issubclass(each.category, UserWarning)):
        say(f"Warning: {text}")


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """No garbage is looked for in the block: it imports and reads what stays, and looking through that again and again
    took a tenth of a command's start."""
    was_looked_for = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_looked_for:
            gc.enable()


_REMEDIES = {
    errno.ENOSPC: "free some space, and run the same command again",
    errno.EDQUOT: "free some space, and run the same command again",
    errno.EACCES: "change its permissions, or choose another place",
    errno.EPERM: "change its permissions, or choose another place",
    errno.EROFS: "choose another place",
    errno.ENOENT: "check the path",
}


class _Ended(KeyboardInterrupt):
    """A signal that ends a command as Ctrl-C does: half-written files are removed on the way out."""


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
    """A message with remedies that can be typed at the command of `flags`: a training flag that it lacks becomes --set,
    if it has that, and another flag gets the name of the command that has it. Flags behind a command's name stay."""
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
    """Run the `body` of a command; its exit code, or that of an error, which is one sentence on stderr.

    UsageError gives 2; RunError and OSError (a full disk, a missing permission) give 1; Ctrl-C gives 130, SIGTERM 143
    and SIGHUP 129. Any other exception is a fault of the program and keeps its traceback; `debug` shows that of the
    others too. flags: those of the command, for remedies that can be typed there (see `typed_here`). Characters that
    the terminal cannot show are escaped.
    """

    def worded(error: Exception) -> str:
        return str(error) if flags is None else typed_here(str(error), flags)

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ESCAPED)
    try:
        with handled(ENDING, _end), _audio_warnings_shown():
            try:
                return body() or 0
            finally:
                progress.end()  # before an error is reported
    except UsageError as error:
        return _report(worded(error), 2, debug)
    except RunError as error:
        return _report(worded(error), 1, debug)
    except OSError as error:
        return _report(_os_sentence(error), 1, debug)
    except _Ended as error:
        (number,) = error.args
        return _report(f"stopped by {signal.Signals(number).name}", 128 + number, debug)
    except KeyboardInterrupt:
        return _report("stopped by Ctrl-C", 130, debug)


def _os_sentence(error: OSError) -> str:
    fault = error.strerror or str(error)
    if error.strerror and isinstance(error.filename, (str, bytes)):
        fault = f"{os.fsdecode(error.filename)}: {fault}"
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{fault}; {remedy}" if remedy else fault


@contextlib.contextmanager
def _audio_warnings_shown() -> Iterator[None]:
    """An `AudioWarning` as a sentence on stderr at once, each only once."""
    shown = set()
    with warnings.catch_warnings():
        warnings.simplefilter("always", AudioWarning)
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, AudioWarning):
                progress.end()
                usual(message, category, *where, **more)
            elif str(message) not in shown:
                shown.add(str(message))
                progress.ProgressLine("stderr").say(f"{_program()}: {message}")

        warnings.showwarning = show
        yield


def _report(sentence: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    progress.ProgressLine("stderr").say(f"{_program()}: {sentence}".replace("\n", " "))
    return code


def _program() -> str:
    program = Path(sys.argv[0])
    ours = program.stem == "tierwave" or (program.name == "__main__.py" and program.parent.name == "tierwave")
    return " ".join(["tierwave", *sys.argv[1:2]]) if ours else program.name
