"""What the command lines share: their parser, flags made from a config model, and results as a table or JSON.

Imports neither NumPy nor TensorFlow, so that --help and a mistyped flag are answered at once.
"""

from __future__ import annotations

import argparse
import difflib
import itertools
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

from tierwave.cli.running import run
from tierwave.config import StrictModel
from tierwave.files.names import json_text, printable
from tierwave.system.progress import ProgressLine

# Values ----------------------------------------------------------------------------------------------------------


# Settings of a flag that takes several values and may be repeated; values accumulate.
REPEATABLE: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}


# Settings of the flag --json of a command that prints a table by `print_result`.
JSON_FLAG: dict[str, Any] = {
    "nargs": "?",
    "const": "-",
    "metavar": "FILE",
    "help": "write the result to FILE as JSON; without FILE print it as JSON instead of the table",
}


def boolean(text: str) -> bool:
    """True or False, from any prefix of either in any case."""
    for word in ("true", "false"):
        if text and word.startswith(text.lower()):
            return word == "true"
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False; write one of them")


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number; write one such as 64") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number; write one such as 0.5") from None


_NUMBERS: dict[Any, Callable[[str], Any]] = {int: _whole_number, float: _number}


def optional(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """A type for argparse that takes `None` besides whatever `read` takes."""
    read = _NUMBERS.get(read, read)

    def read_or_none(text: str) -> Any:
        if text == "None":
            return None
        try:
            return read(text)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{error}, or None") from None

    read_or_none.__name__ = getattr(read, "__name__", "value")  # argparse names it in its message
    return read_or_none


def _one_of(values: Sequence[Any]) -> Callable[[str], Any]:
    by_name = {str(value): value for value in values}

    def choose(text: str) -> Any:
        if text not in by_name:
            raise argparse.ArgumentTypeError(_not_a_choice(text, list(by_name)))
        return by_name[text]

    return choose


def _not_a_choice(text: str, names: Sequence[str]) -> str:
    near = [name for name in names if name.lower() == text.lower()] or difflib.get_close_matches(text, names, n=1)
    remedy = f"did you mean {near[0]}?" if near else "choose one of them"
    return f"{text!r} is none of {', '.join(names)}; {remedy}"


# Flags from a config model ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reader:
    """How the words after a flag become a value."""

    read: Callable[[str], Any]  # of one word
    metavar: str
    accepts: tuple[str, ...] = ()  # in words, for the message of a union
    several: bool = False  # words
    bare: bool = False  # the flag alone means True


_PLAIN = {
    bool: _Reader(boolean, "True|False", ("True", "False"), bare=True),
    int: _Reader(_whole_number, "N", ("a whole number",)),
    float: _Reader(_number, "X", ("a number",)),
    str: _Reader(str, "TEXT", ("a text",)),
}


def _reader(annotation: Any) -> _Reader:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _reader(get_args(annotation)[0])
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if origin is Literal:
        names = tuple(str(value) for value in get_args(annotation))
        return _Reader(_one_of(get_args(annotation)), "|".join(names), names)
    if origin is list or (origin is tuple and get_args(annotation)[1:] == (Ellipsis,)):
        entry = _reader(get_args(annotation)[0])
        return replace(entry, several=True, bare=False)
    if origin in (Union, types.UnionType):
        return _union_reader(get_args(annotation))
    raise TypeError(f"no flag can be made of the type {annotation}; name the field in skip")


def _union_reader(members: Sequence[Any]) -> _Reader:
    """One reader of several types. With a single type besides None its own message is the clearest."""
    readers = [_reader(member) for member in sorted(members, key=_strictness) if member is not types.NoneType]
    accepts = tuple(itertools.chain.from_iterable(reader.accepts for reader in readers))

    def first_that_takes(text: str) -> Any:
        for reader in readers:
            try:
                return reader.read(text)
            except argparse.ArgumentTypeError:
                continue
        raise argparse.ArgumentTypeError(_not_a_choice(text, accepts))

    read = readers[0].read if len(readers) == 1 else first_that_takes
    return _Reader(
        optional(read) if types.NoneType in members else read,
        "|".join([*(reader.metavar for reader in readers), *["None"] * (types.NoneType in members)]),
        accepts,
        several=any(reader.several for reader in readers),
        bare=any(reader.bare for reader in readers),
    )


def _strictness(annotation: Any) -> int:
    """The order in which members of a union are tried: one that accepts fewer texts comes first."""
    while get_origin(annotation) in (Annotated, list, tuple):
        annotation = get_args(annotation)[0]
    return (bool, int, float, str).index(annotation) if annotation in (bool, int, float, str) else -1


def add_model_flags(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
    model_class: type[StrictModel],
    *,
    skip: Sequence[str] = (),
) -> None:
    """A flag `--field` for each field of `model_class` but those in `skip`.

    Only flags that are typed appear in the namespace, and `typed_values` picks them out: a config has the rest. The
    flags check types and choices; bounds and combinations are for `config.validate`.
    Raises TypeError for a field that no flag can express, such as a nested model.
    """
    for name, field in model_class.model_fields.items():
        if name in skip:
            continue
        reader = _reader(field.annotation)
        about = field.description or name
        if not field.is_required():
            about += f" (default: {_written(field.get_default(call_default_factory=True))})"
        settings: dict[str, Any] = {
            "type": reader.read,
            "metavar": reader.metavar,
            "default": argparse.SUPPRESS,
            "help": about.replace("%", "%%"),
        }
        if reader.several:
            settings["nargs"] = "+"
        elif reader.bare:
            settings.update(nargs="?", const=True)
        parser.add_argument(f"--{name}", **settings)


def typed_values(namespace: argparse.Namespace, model_class: type[StrictModel]) -> dict[str, Any]:
    """The fields of `model_class` that were typed, as plain values for `config.validate`."""
    typed = {name: value for name, value in vars(namespace).items() if name in model_class.model_fields}
    return {name: None if value == [None] else value for name, value in typed.items()}  # `--list_flag None`


def _written(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(_written(entry) for entry in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


# Parsing ---------------------------------------------------------------------------------------------------------


class FlagParser(argparse.ArgumentParser):
    """An ArgumentParser with the flag --debug, whose errors are one sentence without the page of usage.

    Flags are never abbreviated: `--seed` must not come to mean another flag when one is added. A word that begins with
    a single - is a value (-1e-3, -1s, -well), unless it is -h.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **settings})
        for kind, read in _NUMBERS.items():
            self.register("type", kind, read)
        self.add_switch("--debug", help="show tracebacks")

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        """As argparse's; a word that is none of the `choices` is answered with the nearest one."""
        if "choices" in settings:
            settings.setdefault("type", _one_of(tuple(settings["choices"])))
        return super().add_argument(*names, **settings)

    def add_switch(self, name: str, *, help: str, default: bool = False) -> None:
        """A flag that means True when it stands alone, and takes True or False."""
        self.add_argument(
            name, nargs="?", const=True, default=default, type=boolean, metavar="True|False",
            help=f"{help} (default: {default})",
        )  # fmt: skip

    def run(self, body: Callable[[Any], int | None], argv: Sequence[str] | None) -> int:
        """Parse `argv` (None: the words that were typed) and run `body` on the result; the exit code."""
        arguments = self.parse_args(argv)
        return run(lambda: body(arguments), debug=arguments.debug, flags=self)

    def _parse_optional(self, arg_string: str) -> Any:  # None: a value
        is_value = not arg_string.startswith("--") and arg_string not in self._option_string_actions
        return None if is_value else super()._parse_optional(arg_string)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """As argparse's, but an unknown flag is reported first, with the nearest known one."""
        words = sys.argv[1:] if args is None else list(args)
        for word in itertools.takewhile(lambda word: word != "--", words):
            flag = word.partition("=")[0]
            if flag.startswith("--") and " " not in flag and flag not in self._option_string_actions:
                near = difflib.get_close_matches(flag, self._option_string_actions, n=1)
                self.error(f"{flag} is not a flag; {f'did you mean {near[0]}?' if near else '--help lists them'}")
        parsed, stray = self.parse_known_args(words, namespace)
        if stray:
            remedy = "--help lists the flags" if stray[0].startswith("-") else "put a value with spaces in quotes"
            self.error(f"{stray[0]!r} belongs to no flag; {remedy}")
        return parsed

    def print_help(self, file: Any = None) -> None:
        """As argparse's, to stdout, of which nobody may read the end (argparse before Python 3.11.4 raises)."""
        ProgressLine("stdout").say(self.format_help().rstrip("\n"))

    def error(self, message: str) -> NoReturn:
        """Print the sentence and leave with 2."""
        self.exit(2, f"{self.prog}: {printable(message.removeprefix('argument '))}\n")


def print_result(result: Mapping[str, Any], table: str, json_file: str | None) -> None:
    """Print a result as a table, or as JSON where `json_file` (see JSON_FLAG) is "-", or write it to that file."""
    text = json_text(result, allow_nan=False)
    if json_file == "-":
        print(text)
        return
    if json_file is not None:
        from tierwave.files.writing import write_text  # which imports NumPy

        write_text(Path(json_file), text + "\n")
    print(table)
