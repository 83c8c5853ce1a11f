"""The faults that pydantic finds in a config, as one sentence for whoever wrote it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

KeyPath = tuple[str | int, ...]

_ACCEPTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "literal_error": "{expected}",
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "too_short": "a list of {min_length} or more",
    "too_long": "a list of {max_length} or fewer",
}


def sentence(
    error: ValidationError,
    model_class: type[BaseModel],
    document: Mapping[str, Any],
    label: Callable[[KeyPath], str],
    moved: Mapping[str, str],
) -> str:
    """The first fault of `document`: its place, the value and what is accepted, and how many faults follow.

    `label` names a place; `moved` says of keys that are often written at the top of a config where they belong.
    """
    faults: dict[KeyPath, list[Mapping[str, Any]]] = {}
    for fault in error.errors(include_url=False):
        faults.setdefault(_key_path(fault, document), []).append(fault)
    # Report missing keys last: an unknown key is usually a misspelt one.
    path, same = min(faults.items(), key=lambda item: item[1][0]["type"] == "missing")
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"{label(path)} {_complaint(model_class, path, same, moved)}{more}".strip()


def _key_path(fault: Mapping[str, Any], document: Any) -> KeyPath:
    """pydantic's location without the names of union members in it, which nobody has written."""
    path: list[str | int] = []
    location = fault["loc"]
    for depth, step in enumerate(location):
        try:
            document = document[step]
            path.append(step)
        except (KeyError, IndexError, TypeError):
            if fault["type"] == "missing" and depth == len(location) - 1:
                path.append(step)
    return tuple(path)


def _complaint(
    model_class: type[BaseModel], path: KeyPath, faults: Sequence[Mapping[str, Any]], moved: Mapping[str, str]
) -> str:
    """What follows the name of the key: `is -1, but must be greater than 0`."""
    first = faults[0]
    value = shown(first["input"])
    if first["type"] == "extra_forbidden":
        return f"(value {value}) is not a key here; {_nearest_key(model_class, path, moved)}"
    if first["type"] == "missing":
        return f"is missing; add it{_description(model_class, path)}"
    if first["type"] in ("value_error", "assertion_error"):  # raised by a validator of ours, which says the remedy
        return f"is {value}: {first['ctx']['error']}" if path else str(first["ctx"]["error"])
    accepted = [_accepted(fault) for fault in faults]
    if _takes_none(model_class, path):
        accepted.append("null")
    return f"is {value}, but must be {' or '.join(dict.fromkeys(accepted))}"


def _accepted(fault: Mapping[str, Any]) -> str:
    if fault["type"] not in _ACCEPTED:
        return str(fault["msg"]).removeprefix("Input should be ")
    bounds = {name: f"{bound:g}" if isinstance(bound, float) else bound for name, bound in fault.get("ctx", {}).items()}
    return _ACCEPTED[fault["type"]].format_map(bounds)


def _nearest_key(model_class: type[BaseModel], path: KeyPath, moved: Mapping[str, str]) -> str:
    key, known = str(path[-1]), _fields_at(model_class, path[:-1])
    if key in known:  # it fits one model of a union, and other keys another
        return f"write only one of {', '.join(known)}"
    if len(path) == 1 and key in moved:
        return f"did you mean {moved[key]}?"
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {near[0]}?" if near else f"the keys are {', '.join(known)}"


def _description(model_class: type[BaseModel], path: KeyPath) -> str:
    field = _fields_at(model_class, path[:-1]).get(str(path[-1]))
    return f": {field.description}" if field is not None and field.description else ""


def _fields_at(model_class: type[BaseModel], path: KeyPath) -> dict[str, FieldInfo]:
    models = _models_in(_annotation_at(model_class, path))
    return {name: field for model in models for name, field in model.model_fields.items()}


def _annotation_at(annotation: Any, path: KeyPath) -> Any:
    """The type of the value at `path` within a value of the type `annotation`."""
    for step in path:
        fields = [model.model_fields[str(step)] for model in _models_in(annotation) if str(step) in model.model_fields]
        annotation = fields[0].annotation if fields else annotation
    return annotation


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _takes_none(model_class: type[BaseModel], path: KeyPath) -> bool:
    # An entry of a list that may be null as a whole is itself not null, so only a named field counts.
    return bool(path) and isinstance(path[-1], str) and type(None) in get_args(_annotation_at(model_class, path))


def dotted(path: KeyPath) -> str:
    return ".".join(str(step) for step in path)


def shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
