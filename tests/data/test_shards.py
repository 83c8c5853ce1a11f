"""Codes in files: any part of any recording is that of the whole, however it is read."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierwave.data import shards
from tierwave.data.shards import Part, Shards
from tierwave.errors import RunError
from tierwave.files.places import Place, Url, make_folder, put_bytes


def made(folder: Place, lengths: list[int], dtype: type = np.uint16) -> tuple[Shards, list[np.ndarray]]:
    make_folder(folder)
    rng = np.random.default_rng(0)
    wholes = [rng.integers(0, 200, length).astype(dtype) for length in lengths]
    names = [f"{number}.codes" for number in range(len(lengths))]
    for name, whole in zip(names, wholes, strict=True):
        put_bytes(folder / name, whole.tobytes())
    return Shards(folder, names, lengths, np.dtype(dtype)), wholes


@st.composite
def requests(draw: st.DrawFn) -> tuple[list[int], list[list[Part]]]:
    """Lengths of recordings, and parts of them that are asked for in turns."""
    lengths = draw(st.lists(st.integers(1, 60), min_size=1, max_size=5))

    def part(number: int) -> st.SearchStrategy[Part]:
        edges = st.tuples(st.integers(0, lengths[number]), st.integers(0, lengths[number]))
        return edges.map(lambda pair: (number, min(pair), max(pair)))

    parts = st.lists(st.integers(0, len(lengths) - 1).flatmap(part), max_size=6)
    return lengths, draw(st.lists(parts, max_size=4))


@pytest.mark.parametrize("scheme", ["", "ram"])
@given(requests(), st.integers(2, 40), st.integers(1, 4), st.sampled_from([np.uint8, np.uint16]))
def test_any_part_is_that_of_the_whole(
    scheme: str, request: tuple[list[int], list[list[Part]]], block: int, kept: int, dtype: type
) -> None:
    lengths, turns = request
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        for place in ("LOCAL", "REMOTE"):
            patched.setattr(shards, f"{place}_BLOCK", block)
            patched.setattr(shards, f"{place}_KEPT", kept * block)
        codes, wholes = made(Url(f"ram:/{folder}") if scheme else Path(folder), lengths, dtype)
        for wanted in turns:
            found = codes.parts(wanted)
            assert len(found) == len(wanted)
            for (number, start, stop), part in zip(wanted, found, strict=True):
                assert part.dtype == dtype and np.array_equal(part, wholes[number][start:stop])
            assert len(codes._kept) <= codes._most
        for number, whole in enumerate(wholes):
            assert np.array_equal(codes.whole(number), whole)
            codes_of_it = codes.whole(number)
            del codes_of_it  # mapped: Windows does not remove it before


@pytest.mark.parametrize("scheme", ["", "ram"])
def test_a_file_is_read_a_block_at_a_time_and_never_whole(
    tmp_path: Path, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, f"{'REMOTE' if scheme else 'LOCAL'}_BLOCK", 1000)
    codes, wholes = made(Url(f"ram:/{tmp_path}") if scheme else tmp_path, [50_000, 50_000, 300], np.uint8)
    read: list[tuple[int, int, int]] = []
    fetch = codes._fetch

    def counted(number: int, first: int, count: int) -> np.ndarray:
        found = fetch(number, first, count)
        read.append((number, first, len(found)))
        return found

    monkeypatch.setattr(codes, "_fetch", counted)
    for start in range(0, 2400, 80):  # a lane that reads on
        (part,) = codes.parts([(1, start, start + 96)])
        assert np.array_equal(part, wholes[1][start : start + 96])
    assert sorted(read) == [(1, 0, 1000), (1, 1000, 1000), (1, 2000, 1000)]
    codes.parts([(2, 10, 20), (2, 250, 300)])
    assert read[3:] == [(2, 0, 300)]


def test_what_is_kept_is_bounded_but_enough_for_all_lanes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "LOCAL_BLOCK", 10)
    monkeypatch.setattr(shards, "LOCAL_KEPT", 40)
    codes, _ = made(tmp_path, [1000, 1000], np.uint8)
    for start in range(0, 1000, 5):
        codes.parts([(0, start, start + 5)])
    assert len(codes._kept) == 4
    lanes = [(number, start, start + 5) for number in (0, 1) for start in range(0, 500, 50)]
    codes.parts(lanes)
    fetch, read = codes._fetch, []
    monkeypatch.setattr(codes, "_fetch", lambda *what: (read.append(what), fetch(*what))[1])
    codes.parts([(number, start + 5, stop + 5) for number, start, stop in lanes])
    assert read == []


def test_threads_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "LOCAL_BLOCK", 64)
    monkeypatch.setattr(shards, "LOCAL_KEPT", 256)
    codes, wholes = made(tmp_path, [5000, 4000, 300])

    def read(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        wanted = [(number, start, start + 40) for number in range(3) for start in rng.integers(0, 200, 50).tolist()]
        found = codes.parts(wanted)
        return all(
            np.array_equal(part, wholes[number][start:stop])
            for (number, start, stop), part in zip(wanted, found, strict=True)
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(40)))


@pytest.mark.parametrize("scheme", ["", "ram"])
@pytest.mark.parametrize("damage", ["short", "gone"])
def test_a_file_that_was_damaged_since_is_told(tmp_path: Path, scheme: str, damage: str) -> None:
    folder: Place = Url(f"ram:/{tmp_path}") if scheme else tmp_path
    codes, _ = made(folder, [100, 100])
    if damage == "short":
        put_bytes(folder / "1.codes", b"x" * 50)
    else:
        codes = Shards(folder, ["0.codes", "none.codes"], [100, 100], np.dtype(np.uint16))
    codes.parts([(0, 0, 100)])
    for reading in (lambda: codes.parts([(1, 30, 60)]), lambda: codes.whole(1)):
        with pytest.raises(RunError, match=r"cache .* is damaged \((1|none)\.codes: .*\): delete it"):
            reading()
