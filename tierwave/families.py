"""The families by name: the only place that knows all three. A family is imported when it is asked for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from tierwave.config import validate
from tierwave.errors import UsageError

FAMILIES = {"samplernn": "samplernn", "conditioning": "conditioning", "cascade": "conditioning", "melnet": "melnet"}
"""The packages by what the config key `model` says."""


def load_family(name: Any) -> ModuleType:
    """The package of a family; what it exports is listed in CONTRIBUTING.md.

    Raises UsageError that lists the families, and the nearest, for an unknown name.
    """
    if not isinstance(name, str) or name not in FAMILIES:
        near = difflib.get_close_matches(str(name), FAMILIES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"model {name!r} is not a family: the config key model takes {', '.join(FAMILIES)}{hint}")
    return importlib.import_module(FAMILIES[name])


def load_config(document: Mapping[str, Any], source: str) -> tuple[ModuleType, Any]:
    """A config's family and the config itself; source: where it comes from. Raises UsageError as `validate`."""
    model = document.get("model", "samplernn")
    family = load_family(model)
    return family, validate(family.CONFIGS[model], document, source)
