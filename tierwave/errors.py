"""The two kinds of mistake a person can be told about in one sentence, and what is odd but no mistake.

Everything else is a fault of the program and keeps its traceback. Knows nothing of command lines: they turn
these into exit codes (see `tierwave.cli.running`).
"""

from __future__ import annotations

from pathlib import Path

LONGEST = 1200  # characters of a message: a value that it tells may be a stranger's megabytes


class _Told(Exception):
    """An error whose message is meant for a person: of a very long one the beginning and the remedy at its end."""

    def __str__(self) -> str:
        text = super().__str__()
        return text if len(text) <= LONGEST else f"{text[:800]} ... {text[-300:]}"


class UsageError(_Told, ValueError):
    """Wrong use: a flag, a config key or a value. The message names it and the remedy. Exit code 2."""


class RunError(_Told, RuntimeError):
    """A run that cannot go on: bad data, a full disk, no checkpoint. The message says what to do. Exit code 1."""


class AudioError(RunError):
    """A recording that cannot be used. Says which file and why."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"Cannot use {self.path}: {self.reason}"


class AudioWarning(UserWarning):
    """Something odd about a recording that is used all the same. Command lines tell it as a sentence."""
