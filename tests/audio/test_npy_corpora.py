"""The original SampleRNN's corpora: arrays of recordings are the same corpus as the recordings themselves."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

import train
from commands import told
from tierwave.audio import arrays as rows
from tierwave.audio.arrays import Row, find_rows, read_row
from tierwave.audio.quantize import Quantizer
from tierwave.data.cache import load_corpus
from tierwave.data.corpus import Corpus
from tierwave.errors import RunError, UsageError
from tierwave.runs.folder import runs_of
from tierwave.search.plan import digest_of

pytestmark = pytest.mark.usefixtures("eager")

RATE = 16000
SHORTEST = rows.SHORTEST
CODES = Quantizer("linear", 65536)


@pytest.fixture(autouse=True, scope="module")
def short_rows() -> Iterator[None]:
    """Recordings of a few samples, so that the tests are quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "SHORTEST", 2)
        yield


def sounds(recordings: int, samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.7, 0.7, (recordings, samples))


def loaded(folder: Path, cache: Path, **options: Any) -> Corpus:
    return load_corpus(folder, CODES, **{"sample_rate": RATE, "cache_dir": cache, **options})


@given(
    recordings=st.integers(1, 13),
    samples=st.integers(2, 700),
    dtype=st.sampled_from(["<f2", "<f4", ">f4", "<f8", "<i2"]),
    fortran=st.booleans(),
    normalize=st.sampled_from(["none", "corpus", "file"]),
    seed=st.integers(0, 99),
)
def test_rows_are_the_same_corpus_as_wave_files_of_them(
    tmp_path_factory: pytest.TempPathFactory,
    recordings: int,
    samples: int,
    dtype: str,
    fortran: bool,
    normalize: str,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("corpora")
    values = sounds(recordings, samples, seed)
    array = np.rint(values * 32768).astype(dtype) if dtype == "<i2" else values.astype(dtype)
    (folder / "rows").mkdir()
    np.save(folder / "rows" / "music_train.npy", np.asfortranarray(array) if fortran else array)
    (folder / "files").mkdir()
    floats = array.astype(np.float64) / (32768 if dtype == "<i2" else 1)
    for number, row in enumerate(floats):
        soundfile.write(folder / "files" / f"{number}.wav", row, RATE, subtype="DOUBLE")
    rows = loaded(folder / "rows", folder / "cache", normalize=normalize)
    files = loaded(folder / "files", folder / "cache", normalize=normalize)
    assert [each.name for each in rows.recordings] == [f"music_train.npy/{number}" for number in range(recordings)]
    assert rows.left_out == files.left_out == ()
    assert rows.gain == files.gain and rows.statistics() == files.statistics()
    for index in range(recordings):
        np.testing.assert_array_equal(rows.read(index), files.read(index))
        assert len(rows.read(index)) == samples


def test_recordings_and_arrays_lie_side_by_side_in_any_folder(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "more").mkdir(parents=True)
    (data / ".hidden").mkdir()
    soundfile.write(data / "take.wav", sounds(1, 900)[0], RATE)
    np.save(data / "music_valid.npy", sounds(11, 400, 1).astype(np.float16))
    np.save(data / "more" / "A.NPY.npy", sounds(2, 300, 2).astype(np.float16))
    np.save(data / ".hidden" / "x.npy", sounds(2, 300, 3))
    (data / "more" / "round").symlink_to(data, target_is_directory=True)
    names = [each.name for each in loaded(data, tmp_path / "cache").recordings]
    assert names == ["take.wav", "more/A.NPY.npy/0", "more/A.NPY.npy/1"] + [f"music_valid.npy/{n}" for n in range(11)]
    only = loaded(data / "music_valid.npy", tmp_path / "cache")  # the file itself
    assert [each.name for each in only.recordings] == [f"music_valid.npy/{n}" for n in range(11)]


def test_names_and_sound_stay_when_rows_are_appended(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    np.save(data / "x.npy", sounds(9, 50))
    before = loaded(data, tmp_path / "cache").identity
    np.save(data / "x.npy", np.concatenate([sounds(9, 50), sounds(3, 50, 1)]))
    after = loaded(data, tmp_path / "cache").identity
    assert len(after) == 12 and before.items() <= after.items()


def test_one_row_is_read_and_no_more(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", sounds(3, 50).astype(np.float16))
    np.testing.assert_array_equal(read_row(Row(tmp_path / "x.npy", 1)), sounds(3, 50).astype(np.float16)[1])
    import tierwave.audio.arrays as module

    assert isinstance(module._array(tmp_path / "x.npy"), np.memmap)


def archive() -> bytes:
    content = io.BytesIO()
    np.savez(content, a=np.zeros(3), b=np.zeros(3))
    assert zipfile.is_zipfile(content)
    return content.getvalue()


def saved(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("sprung"),)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (np.full((4, 64), -11.5, np.float32), "the values of row 3 reach 11.5, and those of sound lie within 1"),
        (np.full((4, 64), np.nan, np.float32), "row 3 holds NaN or infinity"),
        (np.full((4, 64), 1e300), "row 3 holds NaN or infinity"),  # as float32
        (np.zeros(100, np.float32), r"it is float32 \[100\], and recordings are"),
        (np.zeros((2, 3, 4), np.float32), r"it is float32 \[2, 3, 4\], and recordings are"),
        (np.zeros((0, 100), np.float32), r"it is float32 \[0, 100\]"),
        (np.zeros((3, 100), np.int64), r"it is int64 \[3, 100\]"),
        (np.zeros((3, 100), np.complex64), r"it is complex64"),
        (np.array([[Trap()]], object), "it cannot be read as an array"),
        (b"\x93NUMPY and no more", "it cannot be read as an array"),
        (saved(np.zeros((2, 80), np.float32)).replace(b"(2, 80)", b"\xd32, 80)"), "it cannot be read as an array"),
        (b"", "it cannot be read as an array"),
        (archive(), "it holds several arrays"),
    ],
    ids=[
        "mel",
        "nan",
        "huge",
        "vector",
        "cube",
        "empty",
        "whole",
        "complex",
        "objects",
        "cut",
        "header",
        "nothing",
        "archive",
    ],
)
def test_an_array_that_is_no_corpus_is_left_out_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    data.mkdir()
    if isinstance(content, bytes):
        (data / "x.npy").write_bytes(content)
    else:
        np.save(data / "x.npy", content)
    with pytest.raises(RunError, match=rf"no recording under .* can be used \(x.npy: {reason}"):
        loaded(data, tmp_path / "cache")
    soundfile.write(data / "take.wav", sounds(1, 900)[0], RATE)
    corpus = loaded(data, tmp_path / "cache", sample_rate=None)  # what is left out needs no rate
    assert [each.name for each in corpus.recordings] == ["take.wav"]
    ((name, why),) = corpus.left_out
    assert name == "x.npy" and re.match(reason, why)
    assert not (tmp_path / "sprung").exists()


def test_features_frame_by_frame_are_no_recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "SHORTEST", SHORTEST)
    np.save(tmp_path / "features.npy", sounds(40, 80))
    np.save(tmp_path / "music.npy", sounds(2, SHORTEST))
    found, left_out = find_rows(tmp_path)
    assert [row.path.name for row in found] == ["music.npy"] * 2
    assert [(path.name, "its rows have 80 values" in reason) for path, reason in left_out] == [("features.npy", True)]


def test_a_spectrogram_beside_its_sound_is_none(tmp_path: Path) -> None:
    """generate.py writes one for every sound of a MelNet, and a quiet one may well lie within 1."""
    data = tmp_path / "data"
    data.mkdir()
    soundfile.write(data / "new.flac", sounds(1, 900)[0], RATE)
    np.save(data / "new.npy", np.zeros((7, 64), np.float32))
    assert find_rows(data) == ([], [(data / "new.npy", "it belongs to the recording new.flac")])
    assert loaded(data, tmp_path / "cache").left_out == (("new.npy", "it belongs to the recording new.flac"),)


def test_a_bad_row_is_left_out_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    array = sounds(5, 60).astype(np.float32)
    array[1, 7], array[3], array[4, 0] = np.inf, 0.25, 1.5
    np.save(data / "x.npy", array)
    corpus = loaded(data, tmp_path / "cache")
    assert [each.name for each in corpus.recordings] == ["x.npy/0", "x.npy/2"]
    assert dict(corpus.left_out) == {
        "x.npy/1": "row 1 holds NaN or infinity",
        "x.npy/3": "it is silent",
        "x.npy/4": "the values of row 4 reach 1.5, and those of sound lie within 1",
    }


def test_the_rate_has_to_be_said(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    np.save(data / "music_train.npy", sounds(4, 200))
    soundfile.write(data / "take.wav", sounds(1, 900)[0], RATE)
    with pytest.raises(UsageError, match=r"music_train.npy does not tell its sample rate: say it with --sample_rate"):
        loaded(data, tmp_path / "cache", sample_rate=None)
    assert {each.file_rate for each in loaded(data, tmp_path / "cache", sample_rate=8000).recordings} == {8000, RATE}


def test_train_reads_them_by_data_dir(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "music"
    data.mkdir()
    np.save(data / "music_train.npy", sounds(32, 600).astype(np.float16))
    preset = Path(__file__).resolve().parents[2] / "configs" / "tiny.config.json"
    words = ["--data_dir", data, "--config_file", preset, "--logdir_root", tmp_path / "log", "--id", "music"]
    words += ["--output_dir", tmp_path / "new", "--num_steps", 1, "--batch_size", 2, "--generate", "False"]
    words += ["--jit", "False", "--verbose", "--set", "dim=8", "emb_size=4", "seq_len=64"]
    assert "does not tell its sample rate" in told(capsys, train.main, words, 2)
    assert train.main([str(word) for word in [*words, "--sample_rate", RATE]]) == 0
    assert "Corpus: 32 recordings, 1.2 s at 16000 Hz" in capsys.readouterr().out
    run = runs_of(tmp_path / "log" / "music")[-1]
    assert len(run.read("run.json")["corpus"]) == 32
    assert len(run.read("split.json")["valid"]) == 3
    assert train.main([str(word) for word in [*words, "--num_steps", 2]]) == 0  # a resumed run knows the rate


def test_tune_tells_corpora_of_arrays_apart(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no recordings"):
        digest_of(tmp_path)
    np.save(tmp_path / "x.npy", sounds(4, 200))
    before = digest_of(tmp_path)
    assert before.startswith("1 recordings ")
    np.save(tmp_path / "x.npy", sounds(5, 200))
    assert digest_of(tmp_path) != before
