"""Neural synthesis of sound with small recurrent networks that a person trains on their own recordings.

    import tierwave

    run = tierwave.load_run("logdir/birds")
    sound = run.generate(tierwave.Request(seconds=2.0))  # float32 [1, samples]

What a script needs has its name here and is imported when it is used; docs/python.md tells of each. The folders beside
this file are the library itself.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULES = {
    "Request": "tierwave.generation.request",
    "RunError": "tierwave.errors",
    "TrainingRequest": "tierwave.training.plan",
    "Track": "tierwave.controls.tracks",
    "UsageError": "tierwave.errors",
    "evaluate": "tierwave.evaluation.likelihood",
    "load_audio": "tierwave.audio.recordings",
    "load_run": "tierwave.generation.load",
    "train": "tierwave.training.session",
    "write_sounds": "tierwave.generation.request",
    "write_wav": "tierwave.audio.writer",
}
_OTHERWISE = {"load_audio": "load"}  # where the name says enough in its own module

__all__ = ["__version__", *_MODULES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), _OTHERWISE.get(name, name))


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
