"""The lines that training prints, also written to the run's log.txt."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TextIO

from tierwave.files.names import ESCAPED
from tierwave.system.progress import ProgressLine, SayLine


@dataclass
class Log:
    """What a session says, said at once, and kept in the file `path` once that is opened; what was said before too."""

    path: Path
    say_line: SayLine
    _before: list[str] = field(default_factory=lambda: [f"{_now()}: {shlex.join(sys.argv)}"])
    _file: TextIO | None = None
    _lines: ProgressLine | None = None

    @property
    def is_open(self) -> bool:
        return self._file is not None

    def open(self) -> None:
        """Write what was said so far, and from now on each line as it is said."""
        self._file = open(self.path, "a", encoding="utf-8", errors=ESCAPED)  # noqa: SIM115 (closed by close)
        self._lines = ProgressLine(self._file)
        for line in self._before:
            self._lines.say(line)

    def say(self, text: str, rewrite: bool) -> None:
        """Print a line and log it; of progress lines, as many as a growing log shows."""
        if self._lines is not None:
            self._lines.say(text, rewrite)
        elif not rewrite:
            self._before.append(text)
        self.say_line(text, rewrite)

    def close(self) -> None:
        """Close the file, if it was opened."""
        if self._file is not None:
            self._file.write(f"{_now()}: ended\n")
            self._file.close()


def _now() -> str:
    return f"{datetime.now():%Y-%m-%d %H:%M:%S}"
