"""JSON to config and back: what is accepted, what wins, and that each refusal names key, value and remedy."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from conditioning.config import Config as Conditioning
from melnet.config import Config as MelNet
from samplernn.config import Config as SampleRNN
from tierwave.config import (
    StrictModel,
    TrainingOptions,
    apply_overrides,
    difference,
    dumps,
    offset_in_samples,
    read_document,
    resolve_training,
    split_training,
    validate,
)
from tierwave.errors import UsageError
from tierwave.family import load_config


class Tier(StrictModel):
    name: str = Field(description="what the tier is called")
    rate: int = Field(125, ge=1)


class ByNorm(StrictModel):
    global_norm: float


class ByValue(StrictModel):
    value: float


class Network(StrictModel):
    model: Literal["network"] = "network"
    dim: int = Field(1024, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    frame_sizes: tuple[int, ...] = (16, 64)
    skip_conn: bool | Literal["prism"] = False
    logit_cap: float | None = None
    tiers: list[Tier] = []
    clip: ByNorm | ByValue | None = None
    training: dict[str, Any] = {}

    @model_validator(mode="after")
    def _divisible(self) -> Network:
        if self.dim % 2:
            raise ValueError(f"dim {self.dim} is odd; set dim to {self.dim + 1}")
        return self


def refusal(function: Any, *arguments: Any) -> str:
    with pytest.raises(UsageError) as caught:
        function(*arguments)
    sentence = str(caught.value)
    assert "\n" not in sentence and "pydantic" not in sentence
    return sentence


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
names = st.from_regex(r"[a-z_][a-z_0-9]{0,8}", fullmatch=True)


# Reading -----------------------------------------------------------------------------------------------------------


@given(document=st.dictionaries(st.text(), json_values, max_size=4))
def test_reads_any_object(tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("config") / "a.config.json"
    path.write_text(json.dumps(document))
    assert read_document(path) == document


def test_reads_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.config.json").write_bytes(b'\xef\xbb\xbf{"dim": 3}')
    assert read_document(tmp_path / "a.config.json") == {"dim": 3}


def test_missing_config_lists_those_beside_it(tmp_path: Path) -> None:
    (tmp_path / "small.config.json").write_text("{}")
    (tmp_path / "other.json").write_text("{}")
    for path in (tmp_path / "smal.config.json", tmp_path):
        sentence = refusal(read_document, path)
        assert str(path) in sentence and "small.config.json" in sentence and "other.json" not in sentence
    sentence = refusal(read_document, tmp_path / "absent" / "a.config.json")
    assert "absent/a.config.json" in sentence and "*.config.json" in sentence


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"dim": 3,\n "q": }', ["line 2", "column 7"]),
        ('{"dim": 3, "dim": 4}', ['"dim"', "2 times", "keep one"]),
        ('{"a": {"b": 1, "b": 1}}', ['"b"', "keep one"]),
        ('{"dim": NaN}', ["NaN", "finite"]),
        ("[1, 2]", ["[1, 2]", "{...}"]),
        ("", ["line 1"]),
    ],
)
def test_faulty_file_is_named_with_the_place(tmp_path: Path, text: str, named: list[str]) -> None:
    path = tmp_path / "a.config.json"
    path.write_text(text)
    sentence = refusal(read_document, path)
    assert all(part in sentence for part in [str(path), *named])


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.config.json"
    path.write_bytes(b"\xff\xfe\x00{}")
    assert str(path) in refusal(read_document, path)


# Overriding --------------------------------------------------------------------------------------------------------


@given(key=names, value=json_values)
def test_override_takes_any_json(key: str, value: Any) -> None:
    assert apply_overrides({key: 0}, [f"{key}={json.dumps(value)}"]) == {key: value}


@given(text=st.text())
def test_what_is_not_json_is_the_text_itself(text: str) -> None:
    try:
        json.loads(text)
    except ValueError:
        expected = {"None": None, "True": True, "False": False}.get(text, text)
        assert apply_overrides({}, [f"a={text}"]) == {"a": expected}


@given(path=st.lists(names, min_size=1, max_size=4), value=json_values, other=json_values)
def test_override_reaches_any_depth_and_leaves_the_rest(path: list[str], value: Any, other: Any) -> None:
    document = {"0kept": {"deep": [other]}}
    before = json.dumps(document)
    result = apply_overrides(document, [f"{'.'.join(path)}={json.dumps(value)}"])
    found: Any = result
    for step in path:
        found = found[step]
    assert found == value and result["0kept"] == document["0kept"]
    assert json.dumps(document) == before


def test_override_of_list_entries_and_order() -> None:
    document = {"tiers": [{"rate": 125}, {"rate": 16000}], "frame_sizes": [16, 64]}
    result = apply_overrides(document, ["tiers.0.rate=250", "frame_sizes.1=128", "dim=1", "dim=2", "name=a=b"])
    assert result == {"tiers": [{"rate": 250}, {"rate": 16000}], "frame_sizes": [16, 128], "dim": 2, "name": "a=b"}
    assert document["tiers"] == [{"rate": 125}, {"rate": 16000}]


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("dim", ["--set dim ", "KEY=VALUE"]),
        ("=3", ["--set =3", "KEY=VALUE"]),
        ("a..b=3", ["a..b=3", "KEY=VALUE"]),
        ("frame_sizes.2=3", ["frame_sizes.2=3", "list of 2", "'2'", "count from 0"]),
        ("frame_sizes.-1=3", ["list of 2", "'-1'", "whole list"]),
        ("dim.x=3", ["dim.x=3", "dim is 1024", "set dim itself"]),
    ],
)
def test_impossible_override_is_named(override: str, named: list[str]) -> None:
    sentence = refusal(apply_overrides, {"dim": 1024, "frame_sizes": [16, 64]}, [override])
    assert all(part in sentence for part in named)


# Validating --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"dimm": 3}, ["dimm", "3", "did you mean dim?"]),
        ({"zzzz": 3}, ["zzzz", "3", "the keys are model, dim,"]),
        ({"learning_rate": 3}, ["learning_rate", "3", "did you mean training.learning_rate?"]),
        ({"dim": "3"}, ["dim is", '"3"', "a whole number"]),
        ({"dim": True}, ["dim is", "true", "a whole number"]),
        ({"dim": 2.5}, ["dim is", "2.5", "a whole number"]),
        ({"dim": 0}, ["dim is", "0", "at least 1"]),
        ({"dim": 3}, ["dim 3 is odd", "set dim to 4"]),
        ({"dropout": "no"}, ["dropout is", '"no"', "a number"]),
        ({"dropout": False}, ["dropout is", "false", "a number"]),
        ({"dropout": 1}, ["dropout is", "1", "less than 1"]),
        ({"dropout": float("nan")}, ["dropout is", "NaN", "finite"]),
        ({"frame_sizes": 16}, ["frame_sizes is", "16", "a list"]),
        ({"frame_sizes": [16, "64"]}, ["frame_sizes.1 is", '"64"', "a whole number"]),
        ({"skip_conn": "prsm"}, ["skip_conn is", '"prsm"', "true or false or 'prism'"]),
        ({"logit_cap": "none"}, ["logit_cap is", '"none"', "a number or null"]),
        ({"model": "melnet"}, ["model is", '"melnet"', "'network'"]),
        ({"tiers": [{"name": "a"}, {"name": "b", "rat": 3}]}, ["tiers.1.rat", "3", "did you mean rate?"]),
        ({"tiers": [{}]}, ["tiers.0.name is missing", "what the tier is called"]),
        ({"tiers": [3]}, ["tiers.0 is", "3", "an object"]),
        ({"clip": 3}, ["clip is", "3", "an object or null"]),
        ({"clip": {"global_norm": 5, "value": 1}}, ["clip.", "write only one of global_norm, value"]),
        ({"clip": {"global": 5}}, ["clip.global", "5", "did you mean global_norm?"]),
        ({"training": 3}, ["training is", "3", "an object"]),
    ],
)
def test_refusal_names_source_key_value_and_remedy(document: dict[str, Any], named: list[str]) -> None:
    sentence = refusal(validate, Network, document, "a.config.json")
    assert all(part in sentence for part in ["a.config.json: ", *named]), sentence


def test_refusal_counts_the_other_faults() -> None:
    assert "and 2 more" in refusal(validate, Network, {"dim": "a", "dropout": 2, "frame_sizes": 3}, "a")
    assert "more" not in refusal(validate, Network, {"skip_conn": "x"}, "a")  # two types refuse the one value


def test_long_values_are_cut() -> None:
    assert len(refusal(validate, Network, {"dim": "x" * 1000}, "a")) < 200


def test_accepts_what_json_offers() -> None:
    document = {"dropout": 0, "frame_sizes": [8], "skip_conn": "prism", "clip": {"value": 1}, "tiers": [{"name": "a"}]}
    network = validate(Network, document, "a")
    assert network.frame_sizes == (8,) and network.skip_conn == "prism" and network.clip == ByValue(value=1)
    assert network.tiers == [Tier(name="a", rate=125)] and isinstance(network.dropout, float)


def test_configs_cannot_be_changed() -> None:
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        Network().dim = 4  # type: ignore[misc]


# Writing and comparing ---------------------------------------------------------------------------------------------

options = st.fixed_dictionaries(
    {},
    optional={
        "num_epochs": st.integers(1, 10**6),
        "max_minutes": st.none() | st.floats(0.01, 1e6) | st.integers(1, 100),
        "optimizer": st.sampled_from(["adam", "sgd", "rmsprop"]),
        "learning_rate": st.floats(1e-9, 10),
        "max_checkpoints": st.none() | st.integers(1, 100),
        "generate": st.booleans(),
        "temperature": st.floats(0, 2) | st.lists(st.floats(0, 2), min_size=1, max_size=3),
        "num_val_batches": st.none() | st.integers(1, 9),
        "test_frac": st.floats(0, 0.5),
        "jit": st.booleans() | st.just("auto"),
        "loss_cutoff": st.none() | st.floats(-100, 100),
    },
)


@given(document=options)
def test_training_options_round_trip(document: dict[str, Any]) -> None:
    first = validate(TrainingOptions, document, "a")
    text = dumps(first)
    again = validate(TrainingOptions, json.loads(text), "b")
    assert again == first
    assert dumps(again) == text
    for key, value in document.items():
        assert getattr(again, key) == ([value] if key == "temperature" and not isinstance(value, list) else value)


def test_dumps_is_indented_in_the_order_of_declaration() -> None:
    assert dumps(Tier(name="ä")) == '{\n  "name": "ä",\n  "rate": 125\n}\n'
    assert json.loads(dumps(Network()))["frame_sizes"] == [16, 64]


def test_difference_names_each_place() -> None:
    old = {"dim": 1024, "frames": [16, 64], "cell": {"type": "gru", "bias": True}, "tiers": [{"rate": 125}], "gone": 1}
    new = {"dim": 512, "frames": [16, 128], "cell": {"type": "lstm", "bias": 1}, "tiers": [{"rate": 250}, {}], "new": 2}
    assert difference(old, new) == [
        "dim: 1024 -> 512",
        "frames: [16, 64] -> [16, 128]",
        'cell.type: "gru" -> "lstm"',
        "cell.bias: true -> 1",
        "tiers.0.rate: 125 -> 250",
        "tiers.1: absent -> {}",
        "gone: 1 -> absent",
        "new: absent -> 2",
    ]


@given(value=st.dictionaries(st.text(), json_values, max_size=4))
def test_nothing_differs_from_itself(value: dict[str, Any]) -> None:
    assert difference(value, json.loads(json.dumps(value))) == []
    assert difference(value, {**value, "another": 1}) or value.get("another") == 1


# Training options --------------------------------------------------------------------------------------------------


def test_defaults_are_those_of_the_command_line() -> None:
    assert TrainingOptions().model_dump() == {
        "num_epochs": 100,
        "num_steps": None,
        "max_minutes": None,
        "batch_size": 64,
        "accumulate": 1,
        "optimizer": "adam",
        "learning_rate": 0.001,
        "epsilon": None,
        "reduce_learning_rate_after": None,
        "warmup_steps": 0,
        "learning_rate_decay": "none",
        "fresh_starts": 0.0,
        "joined": 0.0,
        "momentum": 0.9,
        "monitor": "val_loss",
        "checkpoint_every": 1,
        "checkpoint_steps": None,
        "checkpoint_minutes": 10,
        "checkpoint_policy": "Always",
        "max_checkpoints": 5,
        "early_stopping_patience": 3,
        "generate": True,
        "max_generate_per_epoch": 1,
        "sample_rate": None,
        "output_file_dur": 3,
        "temperature": [0.75],
        "seed": None,
        "seed_offset": 0,
        "val_frac": 0.1,
        "test_frac": 0.0,
        "num_val_batches": None,
        "random_seed": 0,
        "strategy": "one",
        "precision": "float32",
        "jit": "auto",
        "memory_check": True,
        "tfr": 1.0,
        "ss": None,
        "input_noise": 0,
        "loss_cutoff": None,
    }


def test_every_option_is_described() -> None:
    assert [name for name, field in TrainingOptions.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("typed", "training", "named"),
    [
        ({"learning_rate": 0.0}, {}, ["--learning_rate is 0.0", "greater than 0"]),
        ({"learning_rate": float("inf")}, {}, ["--learning_rate is Infinity", "finite"]),
        ({}, {"learning_rate": -1}, ["a.config.json: training.learning_rate is -1", "greater than 0"]),
        ({}, {"optimizer": "adm"}, ['training.optimizer is "adm"', "'adam', 'sgd' or 'rmsprop'"]),
        ({}, {"batchsize": 3}, ["training.batchsize", "3", "did you mean batch_size?"]),
        ({}, {"id": "x"}, ["training.id", '"x"', "the keys are num_epochs,"]),
        ({"temperature": [0.5, -1.0]}, {}, ["--temperature is -1.0", "at least 0"]),
        ({}, {"temperature": []}, ["training.temperature is []", "1 or more"]),
        ({}, {"temperature": "hot"}, ['training.temperature is "hot"', "a list"]),
        ({"sample_rate": 16}, {}, ["--sample_rate is 16", "at least 100 or null"]),
        ({"momentum": 1.0}, {}, ["--momentum is 1.0", "less than 1"]),
        ({}, {"max_checkpoints": 0}, ["training.max_checkpoints is 0", "at least 1 or null"]),
        ({}, {"jit": "yes"}, ['training.jit is "yes"', "true or false or 'auto'"]),
        ({"seed": "a.wav", "seed_offset": "1.5"}, {}, ['--seed_offset is "1.5"', "1.5s"]),
        ({"seed": "a.wav", "seed_offset": -1}, {}, ["--seed_offset is -1", "from 0 up"]),
        ({"seed_offset": 5}, {}, ["seed_offset 5", "give seed"]),
        ({"num_val_batches": 2, "val_frac": 0.2}, {}, ["num_val_batches 2", "val_frac 0.2", "leave one of them out"]),
        ({}, {"num_val_batches": 2, "val_frac": 0.1}, ["a.config.json", "num_val_batches 2", "leave one of them out"]),
        ({"val_frac": 0.6}, {"test_frac": 0.4}, ["val_frac 0.6", "test_frac 0.4", "below 1"]),
        ({"val_frac": 0}, {}, ["monitor val_loss", "val_frac is 0", "set monitor to loss"]),
        ({"tfr": 1.5}, {}, ["--tfr is 1.5", "at most 1"]),
        ({"random_seed": 2**32}, {}, ["--random_seed is 4294967296", "less than"]),
    ],
)
def test_impossible_training_is_refused(typed: dict[str, Any], training: dict[str, Any], named: list[str]) -> None:
    sentence = refusal(resolve_training, typed, {"dim": 3, "training": training}, "a.config.json")
    assert all(part in sentence for part in named), sentence


def test_possible_combinations_at_the_edge() -> None:
    assert resolve_training({"val_frac": 0, "monitor": "loss"}, {}, "a").val_frac == 0
    assert resolve_training({"num_val_batches": 2}, {"training": {"test_frac": 0.95}}, "a").num_val_batches == 2
    assert resolve_training({"seed": "a.wav", "seed_offset": "1.5s"}, {}, "a").seed_offset == "1.5s"
    assert resolve_training({"loss_cutoff": -3}, {}, "a").loss_cutoff == -3
    assert resolve_training({"max_checkpoints": None, "early_stopping_patience": None}, {}, "a").max_checkpoints is None


def test_what_is_typed_outweighs_the_other_way_to_hold_out() -> None:
    batches = resolve_training({"num_val_batches": 2}, {"training": {"val_frac": 0.3}}, "a")
    assert batches.num_val_batches == 2
    fraction = resolve_training({"val_frac": 0.3}, {"training": {"num_val_batches": 2}}, "a")
    assert fraction.num_val_batches is None and fraction.val_frac == 0.3


small = st.fixed_dictionaries(
    {},
    optional={
        "batch_size": st.integers(1, 99),
        "learning_rate": st.floats(1e-6, 1),
        "optimizer": st.sampled_from(["adam", "sgd"]),
        "num_steps": st.none() | st.integers(1, 99),
    },
)


@given(typed=small, overridden=small, written=small)
def test_typed_over_set_over_config_over_default(
    typed: dict[str, Any], overridden: dict[str, Any], written: dict[str, Any]
) -> None:
    overrides = [f"training.{key}={json.dumps(value)}" for key, value in overridden.items()]
    document = apply_overrides({"training": written}, overrides)
    options = resolve_training(typed, document, "a").model_dump()
    assert options == {**TrainingOptions().model_dump(), **written, **overridden, **typed}


def test_split_training() -> None:
    document = {"dim": 3, "training": {"batch_size": 2}}
    assert split_training(document) == ({"dim": 3}, {"batch_size": 2})
    assert split_training({"dim": 3}) == ({"dim": 3}, {})
    sentence = refusal(split_training, {"training": [1]})
    assert "training is [1]" in sentence and "batch_size" in sentence
    split_training(document)[1]["batch_size"] = 5
    assert document["training"] == {"batch_size": 2}


@pytest.mark.parametrize(("offset", "samples"), [(0, 0), (8000, 8000), ("1.5s", 24000), (".25s", 4000), ("2s", 32000)])
def test_offset_in_samples(offset: int | str, samples: int) -> None:
    assert offset_in_samples(offset, 16000) == samples


# Ends --------------------------------------------------------------------------------------------------------------


def numbers_of(annotation: Any, key: str = "") -> Iterator[tuple[str, type]]:
    """Every key of a config that takes a number, dotted, with 0 for an entry of a list; and which kind."""
    if annotation in (int, float):
        yield key, annotation
    elif isinstance(annotation, type) and issubclass(annotation, StrictModel):
        for name, field in annotation.model_fields.items():
            yield from numbers_of(field.annotation, f"{key}.{name}".lstrip("."))
    for inner in get_args(annotation) if get_origin(annotation) not in (dict, Literal) else ():
        yield from numbers_of(inner, f"{key}.0" if get_origin(annotation) in (list, tuple) else key)


@pytest.mark.parametrize(
    "model", [TrainingOptions, SampleRNN, MelNet, Conditioning], ids=lambda model: model.__module__
)
def test_every_number_has_an_end(model: type[StrictModel]) -> None:
    """A slip of the hand is refused at once, and does not fill the memory or count for hours."""
    found = dict.fromkeys(numbers_of(model))
    assert len(found) >= 10
    for key, kind in found:
        if key in ("loss_cutoff", "audio.ref_level_db", "audio.min_level_db", "audio.dither_dbfs", "seed_offset"):
            continue  # a loss to stop at, levels, and samples into a file, which cost nothing
        document: Any = 10**30 if kind is int else 1e300
        for step in reversed(key.split(".")):
            document = [document] if step == "0" else {step: document}
        with pytest.raises(UsageError, match=re.escape(key.removesuffix(".0").split(".")[-1])):
            validate(model, document, "here")


def test_a_billion_layers_are_refused_at_once() -> None:
    with pytest.raises(UsageError, match="num_rnn_layers is 1000000000, but must be at most 256"):
        load_config({"model": "samplernn", "num_rnn_layers": 1000000000}, "here")
