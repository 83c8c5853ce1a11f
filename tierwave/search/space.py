"""The space of a search: keys of a config with their values (`KEY=V1,V2`, `KEY=lo..hi`), and the configs they make.

A combination of values is possible if its config is valid, which takes a millisecond to find out.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from tierwave.config import TrainingOptions, apply_overrides, resolve_training, split_training
from tierwave.errors import UsageError
from tierwave.family import Family, load_config, load_family
from tierwave.files.text import parse_typed

PREDICTED = ("q_type", "q_levels", "normalize", "loss", "rate")
"""Keys that decide what is predicted and in which unit it is measured; MelNet's `audio` is another."""

SEARCHABLE = (
    "batch_size",
    "accumulate",
    "optimizer",
    "learning_rate",
    "epsilon",
    "reduce_learning_rate_after",
    "warmup_steps",
    "learning_rate_decay",
    "momentum",
    "precision",
    "jit",
    "tfr",
    "ss",
    "input_noise",
)
"""Training options that may differ between trials; the others decide how a trial is judged, or do not matter."""

EQUAL_TIME = "val_loss_at_equal_time"
OBJECTIVES = {
    "val_loss": "min",
    "val_bits": "min",
    "val_accuracy": "max",
    "loss": "min",
    "bits": "min",
    "accuracy": "max",
    EQUAL_TIME: "min",
}
"""What a search can optimise, and whether less or more of it is better."""

MOST_DRAWS = 10_000  # combinations drawn at random before a space counts as exhausted
_GUARD_DRAWS = 300
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"\s*({_NUMBER})?\s*\.\.\s*({_NUMBER})?\s*(:\s*log)?\s*")


@dataclass(frozen=True)
class Choices:
    """A key that takes one of some values."""

    key: str
    values: tuple[Any, ...]

    def draw(self, chance: random.Random) -> Any:
        """One of the values."""
        return self.values[int(chance.random() * len(self.values))]

    @property
    def samples(self) -> tuple[Any, ...]:
        """Values that must each be of the right type."""
        return self.values


@dataclass(frozen=True)
class Range:
    """A key that takes any number from lo to hi, both included; whole numbers if both are. log: as many below as above
    the geometric mean."""

    key: str
    lo: float
    hi: float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.lo, int) and isinstance(self.hi, int)

    def draw(self, chance: random.Random) -> Any:
        """A number of the range."""
        if self.whole and not self.log:
            return chance.randint(int(self.lo), int(self.hi))
        share = chance.random()
        value = self.lo * (self.hi / self.lo) ** share if self.log else self.lo + share * (self.hi - self.lo)
        return self.rounded(value)

    def rounded(self, value: float) -> Any:
        """Rounded to four digits, which are easy to read, or to a whole number."""
        near = round(value) if self.whole else float(f"{value:.4g}")
        return min(max(near, self.lo), self.hi)

    @property
    def samples(self) -> tuple[Any, ...]:
        """Values that must each be of the right type."""
        return (self.lo, self.hi)


Axis = Choices | Range


# Reading ---------------------------------------------------------------------------------------------------------


def parse_search(text: str) -> Axis:
    """The axis `KEY=V1,V2,...`, `KEY=lo..hi` or `KEY=lo..hi:log`. Raises UsageError with an example."""
    key, equals, values = text.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise UsageError(f"--search {text} is not KEY=VALUES: write for example --search dim=64,128 or dim=64..256:log")
    found = _RANGE.fullmatch(values)
    if found:
        return _range(key, text, *found.groups())
    parts = [part.strip() for part in _parts(values)]
    if not all(parts):
        raise UsageError(
            f"--search {text} has {'no' if not any(parts) else 'an empty'} value: write for example {key}=64,128"
        )
    try:
        return choices(key, [parse_typed(part) for part in parts], f"--search {text}")
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"--search {key}: {error}") from None


def _range(key: str, text: str, lo: str | None, hi: str | None, log: str | None) -> Range:
    if lo is None or hi is None:
        raise UsageError(f"--search {text} lacks an end: write both, such as {key}=1..8")
    whole = all(re.fullmatch(r"[-+]?\d+", end) for end in (lo, hi))
    low, high = (int(lo), int(hi)) if whole else (float(lo), float(hi))
    if not low < high:
        raise UsageError(f"--search {text} is an empty range, since {lo} is not below {hi}: write the lower end first")
    if log and low <= 0:
        raise UsageError(
            f"--search {text}: a logarithmic range begins above 0, not at {lo}; leave :log out, or raise it"
        )
    return Range(key, low, high, bool(log))


def choices(key: str, values: Sequence[Any], source: str) -> Choices:
    """An axis of values, numbers in rising order. Raises UsageError for a value that occurs twice."""
    for first, second in itertools.combinations(values, 2):
        if json.dumps(first) == json.dumps(second):
            raise UsageError(f"{source}: {json.dumps(first)} stands twice; leave one of them out")
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        values = sorted(values)
    return Choices(key, tuple(values))


def _parts(text: str) -> Iterable[str]:
    """The text split at its commas, except those within brackets, braces and quotes."""
    depth, start = 0, 0
    for found in re.finditer(r'"(?:[^"\\]|\\.)*"|[][{},]', text):  # a quoted text is one piece
        letter = found.group()
        depth += (letter in ("[", "{")) - (letter in ("]", "}"))
        if letter == "," and depth == 0:
            yield text[start : found.start()]
            start = found.end()
    yield text[start:]


# Spaces ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Space:
    """All configs of a search. document: the config in which the keys of `axes` are set; source: its name in messages;
    typed: training options of every trial; stage: the only one to train of several, None: all."""

    document: dict[str, Any]
    source: str
    axes: tuple[Axis, ...]
    typed: Mapping[str, Any] = field(default_factory=dict)
    stage: str | None = None
    _refusals: dict[str, str | None] = field(default_factory=dict, repr=False, compare=False)

    @staticmethod
    def of(
        document: dict[str, Any],
        source: str,
        axes: Sequence[Axis],
        typed: Mapping[str, Any],
        stage: str | None = None,
    ) -> Space:
        """The space, with complete keys (`learning_rate` is `training.learning_rate`).

        Raises UsageError for a key that is unknown, repeated or cannot be searched, for an impossible value, and if no
        combination is possible.
        """
        model = document.get("model", "samplernn")
        family = load_family(model)
        fields = family.configs[model].model_fields
        full: list[Axis] = []
        for axis in axes:
            key = axis.key
            if key.split(".")[0] not in fields:
                if key not in TrainingOptions.model_fields:
                    raise UsageError(f"--search {key}: there is no such key; {_nearest(key, [*fields, *SEARCHABLE])}")
                key = f"training.{key}"
            _refuse_unsearchable(key, family)
            if any(other.key == key for other in full):
                raise UsageError(f"{key} is searched twice: give all its values in one place")
            full.append(replace(axis, key=key))
        if not full:
            raise UsageError("there is nothing to search: name keys and their values, such as --search dim=64,128")
        resolve_training(typed, {}, source)
        space = Space(document, source, tuple(full), dict(typed), stage)
        for axis in space.axes:
            space._check_alone(axis)
        if not space.possible():
            why = next(why for why in reversed(space._refusals.values()) if why is not None)
            raise UsageError(f"no combination of what is searched can be trained; of the last one: {why}")
        return space

    def document_of_search(self) -> dict[str, Any]:
        """All of it as JSON."""
        axes = {axis.key: asdict(axis) for axis in self.axes}
        return {"config": self.document, "search": axes, "training": dict(self.typed), "stage": self.stage}

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> Space:
        """What `document_of_search` made. Raises KeyError, TypeError and AttributeError for anything else."""
        axes: list[Axis] = []
        for axis in document["search"].values():
            axes.append(Choices(axis["key"], tuple(axis["values"])) if "values" in axis else Range(**axis))
        return Space(document["config"], "the search's config", tuple(axes), document["training"], document["stage"])

    def config_document(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The config of a trial, as train.py takes it; without starting weights where these fit some trials only."""
        document = {**self.document, "start": False} if self.keys_of_sizes else self.document
        try:
            return apply_overrides(document, [f"{key}={json.dumps(value)}" for key, value in values.items()])
        except UsageError as error:
            raise UsageError(str(error).replace("--set", "--search", 1)) from None

    @functools.cached_property
    def keys_of_sizes(self) -> list[str]:
        """The searched keys on which starting weights depend, if the config asks for those."""
        if not self.document.get("start"):
            return []
        family, config = load_config(split_training(self.document)[0], self.source)
        sizes = family.architecture(config, family.stages(config)[0])
        return [axis.key for axis in self.axes if axis.key in sizes]

    def check(self, values: Mapping[str, Any]) -> tuple[Family, Any]:
        """Family and config of a combination. Raises UsageError with the reason if it cannot be trained."""
        document = self.config_document(values)
        family, config = load_config(document, self.source)
        stages = family.stages(config)
        if self.stage is not None and self.stage not in stages:
            raise UsageError(f"--stage {self.stage}: the config has {', '.join(stages)}")
        for stage in stages if self.stage is None else [self.stage]:
            training = {**split_training(document)[1], **family.training_of(config, stage)}
            options = resolve_training(self.typed, {"training": training}, self.source)
            for name, why in family.foreign_options.items():
                if getattr(options, name) != TrainingOptions.model_fields[name].default:
                    raise UsageError(f"training.{name} does nothing for this model ({why}): leave it out")
            if options.monitor.endswith("accuracy") and not family.has_accuracy(config, stage):
                raise UsageError(
                    f"--objective {options.monitor}: {stage} generates values, of which none is right or wrong; take "
                    f"{options.monitor.replace('accuracy', 'loss')}"
                )
        return family, config

    def stages(self, values: Mapping[str, Any]) -> list[str]:
        """The stages of a combination that are trained."""
        family, config = self.check(values)
        return list(family.stages(config)) if self.stage is None else [self.stage]

    def refusal_of(self, values: Mapping[str, Any]) -> str | None:
        """Why a combination cannot be trained, None if it can."""
        text = json.dumps(values)
        if text not in self._refusals:
            try:
                self.check(values)
                self._refusals[text] = None
            except UsageError as error:
                self._refusals[text] = str(error)
        return self._refusals[text]

    def possible(self, count: int = 1, draws: int = MOST_DRAWS) -> list[dict[str, Any]]:
        """Up to `count` possible combinations among `draws` random ones, always the same."""
        chance, found = random.Random(0), []
        for _ in range(draws):
            values = {axis.key: axis.draw(chance) for axis in self.axes}
            if self.refusal_of(values) is None:
                found.append(values)
            if len(found) == count:
                break
        return found

    def remarks(self) -> list[str]:
        """What makes the trials unlike a training, or their likelihoods unlike each other."""
        keys = [axis.key for axis in self.axes]
        found = [key for key in keys if key.split(".")[0] == "audio" or key.split(".")[-1] in PREDICTED]
        said = []
        if self.keys_of_sizes:
            said.append(
                f"All trials begin from random weights, since starting weights have one {self.keys_of_sizes[0]} only."
            )
        if not found:
            return said
        return [
            *said,
            f"Warning: {' and '.join(found)} {'decides' if len(found) == 1 else 'decide'} what is predicted, and "
            "likelihoods of different things cannot be compared (coarser codes are easier to predict): compare such "
            "trials by ear, or search the other keys for each value by itself.",
        ]

    def guard(self) -> int:
        """Samples between training and held-out sound that suffice for all trials, so that they share one split."""
        draws = self.possible(_GUARD_DRAWS, _GUARD_DRAWS) or self.possible()
        return max(family.overlap(config) for family, config in map(self.check, draws))

    def _check_alone(self, axis: Axis) -> None:
        """Refuse a key that is wrong whatever the others are: it is unknown, or a value's type or bounds are wrong."""
        for value in axis.samples:
            try:
                self.check({axis.key: value})
            except UsageError as error:
                cause = error.__cause__
                if not isinstance(cause, ValidationError):
                    if str(error).startswith("--search"):
                        raise
                    continue  # it may be right in another combination
                path = axis.key.removeprefix("training.").split(".")
                wrong = [fault for fault in cause.errors() if fault["type"] not in ("value_error", "missing")]
                if any([str(step) for step in fault["loc"]][:1] == path[:1] for fault in wrong):
                    raise UsageError(f"--search {axis.key}: {error}") from None


def _nearest(key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {near[0]}?" if near else f"the keys are {', '.join(known)}"


def _refuse_unsearchable(key: str, family: Family) -> None:
    steps = key.split(".")
    if steps[0] == "model":
        raise UsageError("--search model: a search is of one family; search each, and compare what they reach")
    if not any(step.startswith("training") for step in steps[:-1]):
        return
    if steps[-1] in family.foreign_options:
        why = family.foreign_options[steps[-1]]
        raise UsageError(f"--search {key}: it does nothing for this model ({why}): leave it out")
    if steps[-1] in TrainingOptions.model_fields and steps[-1] not in SEARCHABLE:
        raise UsageError(
            f"--search {key}: all trials are split, judged and stopped alike, so that only {', '.join(SEARCHABLE)} of "
            f"the training options can be searched; set it for all with --set {key}=VALUE, if tune.py has no flag of "
            "that name"
        )
