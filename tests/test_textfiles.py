"""Text as people save it, and JSON as nobody should write it: read, or refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierwave.config import read_document
from tierwave.errors import RunError, UsageError
from tierwave.textfiles import MOST_NESTED, decode, parse_json, read_text

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
