"""What the command lines share: flags made from a config model, errors in one sentence, exit codes.

The only module of the package that parses flags, prints errors and knows exit codes; it knows no command line in
particular, nor audio, nor TensorFlow.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import io
import itertools
import os
import re
import signal
import sys
import traceback
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

from tierwave.config import StrictModel, TrainingOptions
from tierwave.errors import AudioWarning, RunError, UsageError
from tierwave.files.names import ESCAPED, json_text, printable
from tierwave.system import progress
from tierwave.system.signals import ENDING, handled

# Values ----------------------------------------------------------------------------------------------------------


# Of a flag that takes several words and may be typed several times: all of them count.
REPEATABLE: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}


# Of a command that prints a table: `print_result` does what it asks for.
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


def optional(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """A type for argparse that takes `None` besides whatever `read` takes."""

    def read_or_none(text: str) -> Any:
        if text == "None":
            return None
        try:
            return read(text)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{error}, or None") from None

    read_or_none.__name__ = getattr(read, "__name__", "value")  # argparse names it in its message
    return read_or_none


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
    """How the words after a flag become a value: `read` one word, of which there may be `several`."""

    read: Callable[[str], Any]
    metavar: str
    accepts: tuple[str, ...] = ()  # in words, for the message of a union
    several: bool = False
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
    """Where a member of a union comes in turn: one that takes fewer texts comes before one that takes more."""
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

    Only flags that are typed appear in the namespace, so that a config can say the rest; `typed_values` picks them
    out. The flags check types and choices; bounds and combinations are for `config.validate`.
    Raises TypeError for a field of which no flag can be made, such as a nested model.
    """
    for name, field in model_class.model_fields.items():
        if name in skip:
            continue
        reader = _reader(field.annotation)
        told = [] if field.is_required() else [f"default: {_written(field.get_default(call_default_factory=True))}"]
        settings: dict[str, Any] = {
            "type": reader.read,
            "metavar": reader.metavar,
            "default": argparse.SUPPRESS,
            "help": " ".join([field.description or name, *(f"({text})" for text in told)]).replace("%", "%%"),
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
    """An ArgumentParser whose errors are one sentence with flag, value and remedy, without the page of usage.

    Flags are never abbreviated: `--seed` must not come to mean another flag when one is added. A word that begins with
    a single - is a value (-1e-3, -1s, -well), unless it is -h.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **settings})

    def _parse_optional(self, arg_string: str) -> Any:  # None: a value
        is_value = not arg_string.startswith("--") and arg_string not in self._option_string_actions
        return None if is_value else super()._parse_optional(arg_string)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """As argparse's, but an unknown flag is named, with the nearest known one, before anything else is missed."""
        words = sys.argv[1:] if args is None else list(args)
        for word in itertools.takewhile(lambda word: word != "--", words):
            flag = word.partition("=")[0]
            if flag.startswith("--") and " " not in flag and flag not in self._option_string_actions:
                self.error(f"{flag} is not a flag; {self._nearest(flag)}")
        parsed, stray = self.parse_known_args(words, namespace)
        if stray:
            remedy = "--help lists the flags" if stray[0].startswith("-") else "put a value with spaces in quotes"
            self.error(f"{stray[0]!r} belongs to no flag; {remedy}")
        return parsed

    def error(self, message: str) -> NoReturn:
        """Print the sentence and leave with 2."""
        self.exit(2, f"{self.prog}: {printable(_sentence(message))}\n")

    def _nearest(self, flag: str) -> str:
        near = difflib.get_close_matches(flag, self._option_string_actions, n=1)
        return f"did you mean {near[0]}?" if near else "--help lists them"


_KINDS = {"int": "whole number", "float": "number"}


def _sentence(message: str) -> str:
    """argparse's message with the remedy in it; what this module's own types have said is kept."""
    if required := re.fullmatch(r"the following arguments are required: (.*)", message):
        flags = required[1].split(", ")
        are, them = ("is", "it") if len(flags) == 1 else ("are", "them")
        return f"{' and '.join(flags)} {are} required; add {them}"
    if not (named := re.fullmatch(r"argument (\S+): (.*)", message, re.DOTALL)):
        return message
    flag, fault = named[1], named[2]
    if fault in ("expected one argument", "expected at least one argument"):
        return f"{flag} has no value; write one after it"
    if wrong := re.fullmatch(r"invalid (\w+) value: (.*)", fault, re.DOTALL):
        kind = _KINDS.get(wrong[1], wrong[1])
        return f"{flag}: {wrong[2]} is not a {kind}; write a {kind}"
    if wrong := re.fullmatch(r"invalid choice: '?(.*?)'? \(choose from (.*)\)", fault, re.DOTALL):
        return f"{flag}: {_not_a_choice(wrong[1], [name.strip(chr(39)) for name in wrong[2].split(', ')])}"
    return f"{flag}: {fault}"


# Running ---------------------------------------------------------------------------------------------------------


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


def print_result(result: Mapping[str, Any], table: str, json_file: str | None) -> None:
    """Print a result as a table, or do what JSON_FLAG asks for: None, a file's name, or "-"."""
    text = json_text(result, allow_nan=False)
    if json_file == "-":
        print(text)
        return
    if json_file is not None:
        from tierwave.files.writing import write_text  # which needs NumPy: flags are answered without

        write_text(Path(json_file), text + "\n")
    print(table)


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
