"""The two kinds of mistake a person can be told about in one sentence, and what is odd but no mistake.

Everything else is a fault of the program and keeps its traceback. Knows nothing of command lines: they turn
these into exit codes (see `tierwave.commandline`).
"""


class UsageError(ValueError):
    """Wrong use: a flag, a config key or a value. The message names it and the remedy. Exit code 2."""


class RunError(RuntimeError):
    """A run that cannot go on: bad data, a full disk, no checkpoint. The message says what to do. Exit code 1."""


class AudioWarning(UserWarning):
    """Something odd about a recording that is used all the same. Command lines tell it as a sentence."""
