"""Text as people save it, and JSON as nobody should write it: read, or refused in a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierwave.config import apply_overrides, read_document
from tierwave.controls.files import read_control_file
from tierwave.errors import RunError, UsageError
from tierwave.files.text import MOST_NESTED, decode, parse_json, parse_typed, read_text
from tierwave.search.space import parse_search
from tierwave.system.tasks import task_of

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_text_is_decoded_by_its_mark(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.config.json"
    path.write_bytes('{\r\n "name": "flöte 笛"}'.encode(encoding))
    assert read_text(path) == '{\r\n "name": "flöte 笛"}'
    assert read_document(path) == {"name": "flöte 笛"}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("flöte".encode("latin-1"), "is not UTF-8 text"),
        ("flöte".encode("utf-16-le"), "is not UTF-8 text"),  # without its mark
        ("p".encode("utf-16-le"), r"is not UTF-8 text \(it has zero bytes"),
        ("p".encode("utf-16") + b"x", "is not UTF-16 text"),
    ],
)
def test_no_text_is_named_with_the_remedy(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "a.config.json"
    path.write_bytes(content)
    with pytest.raises(RunError, match=f"a.config.json {told}.*: save it as UTF-8"):
        read_text(path)
    with pytest.raises(UsageError, match=f"a.config.json {told}.*: save it as UTF-8"):
        read_document(path)


@given(st.binary())
def test_any_bytes_are_text_or_a_value_error(content: bytes) -> None:
    try:
        decode(content)
    except ValueError as error:
        assert not isinstance(error, UnicodeError)


@given(JSON)
def test_json_is_read_as_it_was_written(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value


@pytest.mark.parametrize("depth", [MOST_NESTED + 1, 400, 5_000, 100_000])
@pytest.mark.parametrize("ends", [("[", "]"), ('{"a":', "}"), ("[", ""), ('[{"a":', "}]")])
def test_json_nested_too_deep_is_refused(depth: int, ends: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="deep|Expecting") as refusal:
        parse_json(ends[0] * depth + "1" + ends[1] * depth)
    assert len(str(refusal.value)) < 120


def test_json_nested_as_deep_as_allowed_is_read() -> None:
    text = "[" * MOST_NESTED + "]" * MOST_NESTED
    assert json.dumps(parse_json(text)) == text


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "9" * 5_000])
def test_what_is_no_finite_number_is_refused_unless_it_is_asked_for(number: str) -> None:
    with pytest.raises(ValueError, match="write a") as refusal:
        parse_json(f'{{"a": {number}}}')
    assert len(str(refusal.value)) < 120
    if len(number) < 10:
        assert isinstance(parse_json(number, finite=False), float)


def test_a_key_that_stands_twice_is_refused_or_told() -> None:
    text = '{"b": 1, "a": 1, "b": 2, "b": 3}'
    with pytest.raises(ValueError, match='the key "b" stands 3 times in one object; keep one of them'):
        parse_json(text)
    told: list[tuple[str, int]] = []
    assert parse_json(text, repeated=lambda key, times: told.append((key, times))) == {"b": 3, "a": 1}
    assert told == [("b", 3)]


def test_a_config_that_is_nested_without_end_is_named(tmp_path: Path) -> None:
    path = tmp_path / "deep.config.json"
    path.write_text('{"dim": ' + "[" * 5_000 + "]" * 5_000 + "}", encoding="utf-8")
    with pytest.raises(UsageError, match="deep.config.json is not a config: .* more than 64 deep; write it flatter"):
        read_document(path)


DEEP = "[" * 5_000 + "]" * 5_000


def test_whatever_takes_json_bears_it_nested_without_end(tmp_path: Path) -> None:
    curves, table = tmp_path / "a.params", tmp_path / "a.csv"
    curves.write_text(f'{{"p": {DEEP}}}')
    table.write_text(f"#meta,{DEEP}\nname,time,value\np,0,1\n")
    refusals: list[tuple[type[Exception], Callable[[], Any]]] = [
        (UsageError, lambda: apply_overrides({}, [f"dim={DEEP}"])),
        (UsageError, lambda: apply_overrides({}, ["a" + ".a" * 5_000 + "=1"])),
        (UsageError, lambda: parse_search(f"dim={DEEP},1")),
        (UsageError, lambda: task_of({"TF_CONFIG": DEEP})),
        (RunError, lambda: read_control_file(curves)),
        (RunError, lambda: read_control_file(table)),
    ]
    for kind, read in refusals:
        with pytest.raises(kind, match="deep") as refusal:
            read()
        assert len(str(refusal.value)) < 400


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("[p]", ["p"]),
        ("[p, mel 0,2,1e-3,None,true,07]", ["p", "mel 0", 2, 1e-3, None, True, "07"]),
        ("{p:{lo:1,units:hertz}}", {"p": {"lo": 1, "units": "hertz"}}),
        ("['a,b',\"c\",d]", ["a,b", "c", "d"]),
        ("[[4,16],[]]", [[4, 16], []]),
        ("p", "p"),
        ("a[b]", "a[b]"),
        ("None", None),
        ("True", True),
        ("NaN", "NaN"),
    ],
)
def test_lists_and_objects_that_lost_their_quotes_are_read_as_meant(typed: str, meant: Any) -> None:
    assert parse_typed(typed) == meant
    assert apply_overrides({}, [f"key={typed}"]) == {"key": meant}
    assert parse_search(f"key={typed}").samples == (meant,)


@pytest.mark.parametrize("typed", ["[p", "[1,,2]", "{a b}", '["a]', "{p:}", "[it's]"])
def test_what_is_nearly_a_list_is_refused_with_how_to_write_it(typed: str) -> None:
    with pytest.raises(UsageError, match=r"--set key: .* is no JSON .* in PowerShell and cmd, such as"):
        apply_overrides({}, [f"key={typed}"])


@given(JSON)
def test_json_that_is_typed_means_itself(value: Any) -> None:
    assert parse_typed(json.dumps(value)) == value
    assert parse_typed(json.dumps([value], ensure_ascii=False)) == [value]
