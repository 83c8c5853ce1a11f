"""The families by name: the only place that knows all three. A family is imported when it is asked for."""

from __future__ import annotations

import difflib
import importlib
from types import ModuleType
from typing import Any

from tierwave.errors import UsageError

FAMILIES = ("samplernn",)


def load_family(name: Any) -> ModuleType:
    """The package of a family: `Config`, `stages`, `dataset`, `build`, `generate`, `stream` (see design notes there).

    Raises UsageError that lists the families, and the nearest, for an unknown name.
    """
    if name not in FAMILIES:
        near = difflib.get_close_matches(str(name), FAMILIES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"model {name!r} is not a family: the config key model takes {', '.join(FAMILIES)}{hint}")
    return importlib.import_module(name)
