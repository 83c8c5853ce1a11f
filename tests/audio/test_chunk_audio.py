"""chunk_audio.py from end to end, and tierwave.audio.chunking, on sound made up here."""

from __future__ import annotations

import re
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

import chunk_audio
from tierwave.audio import chunking
from tierwave.audio.chunking import ChunkOptions, chunk_recordings, cut, find_sources, output_stems
from tierwave.errors import RunError, UsageError

RATE = 8000


def tone(seconds: float, *, channels: int = 1, seed: int = 0) -> np.ndarray:
    shape = (round(seconds * RATE), channels)
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape)


def record(path: Path, audio: np.ndarray, *, subtype: str | None = None, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, rate, subtype=subtype)
    return path


def run(*arguments: object) -> int:
    try:
        return chunk_audio.main([str(argument) for argument in arguments])
    except SystemExit as leaving:
        assert isinstance(leaving.code, int)
        return leaving.code


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".tierwave")


# ---- the command line ------------------------------------------------------------------------------------------------


def test_chunks_of_one_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audio = tone(3.5)
    audio[RATE : 2 * RATE] = 0
    source = record(tmp_path / "ä b.wav", audio)
    output = tmp_path / "new/out"
    assert run("--input_file", source, "--output_dir", output, "--chunk_length", 1000) == 0
    # The silent chunk has used up its number; the last complete chunk is there, the tail is not.
    assert names(output) == ["ä b_chunk_0.wav", "ä b_chunk_2.wav"]
    original, _ = soundfile.read(source, dtype="int16")
    for number in (0, 2):
        with wave.open(str(output / f"ä b_chunk_{number}.wav")) as wav:
            assert (wav.getnchannels(), wav.getsampwidth(), wav.getframerate()) == (1, 2, RATE)
            samples = np.frombuffer(wav.readframes(wav.getnframes()), "<i2")
        np.testing.assert_array_equal(samples, original[number * RATE : (number + 1) * RATE])
    said = capsys.readouterr()
    assert "ä b_chunk_1.wav is silent and left out" in said.out
    assert "3 chunks processed, 1 silent, 2 written" in said.out
    assert "1 incomplete last chunks (0.5 s) were not written" in said.out
    assert said.err == "" and "Chunking" not in said.out  # which took less than the seconds between two lines


def test_a_complete_last_chunk_is_kept_and_a_tail_on_request(tmp_path: Path) -> None:
    source = record(tmp_path / "a.wav", tone(2))
    run("--input_file", source, "--output_dir", tmp_path / "out", "--chunk_length", 1000)
    assert names(tmp_path / "out") == ["a_chunk_0.wav", "a_chunk_1.wav"]
    source = record(tmp_path / "b.wav", tone(2.25))
    run("--input_file", source, "--output_dir", tmp_path / "out", "--chunk_length", 1000, "--keep_tail")
    assert soundfile.info(tmp_path / "out/b_chunk_2.wav").frames == RATE // 4


def test_overlap(tmp_path: Path) -> None:
    source = record(tmp_path / "a.wav", tone(2))
    run("--input_file", source, "--output_dir", tmp_path / "out", "--chunk_length", 1000, "--overlap", 500)
    chunks = [soundfile.read(tmp_path / f"out/a_chunk_{number}.wav")[0] for number in range(3)]
    assert len(names(tmp_path / "out")) == 3
    np.testing.assert_array_equal(chunks[0][RATE // 2 :], chunks[1][: RATE // 2])
    np.testing.assert_array_equal(chunks[1][RATE // 2 :], chunks[2][: RATE // 2])


@pytest.mark.parametrize(
    ("suffix", "subtype", "kept"),
    [("wav", "PCM_U8", "PCM_U8"), ("wav", "PCM_24", "PCM_24"), ("wav", "FLOAT", "FLOAT"), ("wav", "PCM_32", "PCM_32"),
     ("flac", "PCM_24", "PCM_24"), ("flac", "PCM_S8", "PCM_U8"), ("ogg", "VORBIS", "PCM_16"), ("wav", "ULAW", "PCM_16"),
     ("mp3", None, "PCM_16")],
)  # fmt: skip
def test_the_depth_is_the_source_s(tmp_path: Path, suffix: str, subtype: str | None, kept: str) -> None:
    source = record(tmp_path / f"a.{suffix}", tone(1), subtype=subtype)
    assert run("--input_file", source, "--output_dir", tmp_path / "out", "--chunk_length", 500) == 0
    info = soundfile.info(tmp_path / "out/a_chunk_1.wav")
    assert (info.format, info.subtype, info.frames, info.samplerate) == ("WAV", kept, RATE // 2, RATE)


@pytest.mark.parametrize(("mono", "channels"), [("True", 1), ("f", 2)])
def test_mono_and_sample_rate(tmp_path: Path, mono: str, channels: int) -> None:
    source = record(tmp_path / "a.wav", tone(1, channels=2), rate=RATE)
    arguments = ["--chunk_length", 250, "--sample_rate", 11025, "--mono", mono, "--jobs", 1]
    assert run("--input_file", source, "--output_dir", tmp_path / "out", *arguments) == 0
    infos = [soundfile.info(tmp_path / "out" / name) for name in names(tmp_path / "out")]
    assert len(infos) == 4
    assert {(info.samplerate, info.channels, info.frames) for info in infos} == {(11025, channels, 2756)}


def test_folders_and_files_and_equal_stems(tmp_path: Path) -> None:
    record(tmp_path / "in/left/kick.wav", tone(1, seed=1))
    record(tmp_path / "in/right/kick.wav", tone(1, seed=2))
    record(tmp_path / "in/snare.wav", tone(1, seed=3))
    record(tmp_path / "in/snare.flac", tone(1, seed=4))
    more = record(tmp_path / "more.aiff", tone(1, seed=5))
    output = tmp_path / "out"
    assert run("--input_file", tmp_path / "in", more, "--output_dir", output, "--chunk_length", 1000) == 0
    stems = ["left_kick", "more", "right_kick", "snare_flac", "snare_wav"]
    assert names(output) == [f"{stem}_chunk_0.wav" for stem in stems]
    for stem, seed in zip(stems, (1, 5, 2, 4, 3), strict=True):
        written, _ = soundfile.read(output / f"{stem}_chunk_0.wav")
        np.testing.assert_allclose(written, tone(1, seed=seed)[:, 0], atol=1e-4)


def test_a_second_run_says_what_it_replaced_and_does_not_chunk_its_chunks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path / "a.wav", tone(2))
    for _ in range(2):
        assert run("--input_file", tmp_path, "--output_dir", tmp_path / "out", "--chunk_length", 1000) == 0
    assert names(tmp_path / "out") == ["a_chunk_0.wav", "a_chunk_1.wav"]
    first, second = re.split("2 chunks processed", capsys.readouterr().out)[1:]
    assert "took the place" not in first and "2 of them took the place" in second


def test_what_cannot_be_used_is_named_and_the_rest_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(tmp_path / "in/good.wav", tone(1))
    (tmp_path / "in/garbage.wav").write_bytes(b"no sound at all")
    bad = tone(3)
    bad[-1] = np.nan
    record(tmp_path / "in/nan.wav", bad, subtype="FLOAT")
    long = record(tmp_path / "in/broken.flac", tone(40))
    long.write_bytes(long.read_bytes()[:-100_000])
    assert run("--input_file", tmp_path / "in", "--output_dir", tmp_path / "out", "--chunk_length", 1000) == 0
    said = capsys.readouterr().out
    assert (
        "garbage.wav: " in said
        and "nan.wav: it holds NaN" in said
        and "broken.flac: it holds 40.0 s by its header" in said
    )
    assert "good.wav" not in said
    # What came before the fault is kept.
    assert {"good_chunk_0.wav", "broken_chunk_0.wav"} <= set(names(tmp_path / "out"))
    assert not any(name.startswith(("garbage", "nan", ".")) for name in names(tmp_path / "out"))


def test_an_mp3_that_ends_before_its_header_says_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = record(tmp_path / "a.mp3", tone(10))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert run("--input_file", path, "--output_dir", tmp_path / "out", "--chunk_length", 1000) == 0
    assert "by its header" in (said := capsys.readouterr().out) and "it is cut off" in said
    assert 3 <= len(names(tmp_path / "out")) <= 5


def test_nothing_usable_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "garbage.wav").write_bytes(b"no sound at all")
    assert run("--input_file", tmp_path / "garbage.wav", "--output_dir", tmp_path / "out") == 1
    said = capsys.readouterr()
    assert "garbage.wav" in said.out and "None of the 1 recordings could be used" in said.err
    assert "Traceback" not in said.err


def test_a_recording_shorter_than_a_chunk_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(tmp_path / "a.wav", tone(1))
    assert run("--input_file", tmp_path / "a.wav", "--output_dir", tmp_path / "out") == 0
    assert "a.wav is shorter than a chunk" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "--input_file"),
        (["--input_file", "{in}"], "--output_dir"),
        (["--input_file", "{in}", "--output_dir", "{out}", "--overlap", "8000"], "overlap"),
        (["--input_file", "{in}", "--output_dir", "{out}", "--overlap", "-1"], "overlap"),
        (["--input_file", "{in}", "--output_dir", "{out}", "--chunk_length", "0"], "chunk_length"),
        (["--input_file", "{in}", "--output_dir", "{out}", "--chunk_length", "nan"], "chunk_length"),
        (["--input_file", "{in}", "--output_dir", "{out}", "--chunk_length", "eight"], "eight"),
        (["--input_file", "{in}", "--output_dir", "{out}", "--sample_rate", "-5"], "sample_rate"),
        (["--input_file", "{in}", "--output_dir", "{out}", "--mono", "perhaps"], "perhaps"),
        (["--input_file", "{in}", "--output_dir", "{out}", "--jobs", "0"], "jobs"),
        (["--input_file", "{in}", "--output_dir", "{out}", "--silence_threshold", "nan"], "silence_threshold"),
        (["--input_file", "{in}", "--output_dir", "{out}", "--chunk_lenght", "5"], "did you mean --chunk_length"),
        (["--input_file", "{in}/missing", "--output_dir", "{out}"], "missing"),
        (["--input_file", "{in}", "--output_dir", "{in}"], "output_dir"),
        (["--input_file", "{empty}", "--output_dir", "{out}"], "no recordings"),
        (["--input_file", "{in}", "--output_dir", "{in}/a.wav"], "is a file"),
        (["--input_file", "{in}", "--output_dir", "{in}/a.wav/out"], "cannot be created"),
    ],
)
def test_wrong_use_is_told_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    folders = {"in": tmp_path / "in", "out": tmp_path / "out", "empty": tmp_path / "empty"}
    record(folders["in"] / "a.wav", tone(1))
    folders["empty"].mkdir()
    assert run(*(argument.format(**folders) for argument in arguments)) == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert told in sentence and "Traceback" not in sentence
    assert names(folders["in"]) == ["a.wav"] and not folders["out"].exists()


def test_it_runs_as_a_program(tmp_path: Path) -> None:
    record(tmp_path / "a.wav", tone(1))
    program = [sys.executable, chunk_audio.__file__]
    folders = ["--input_file", str(tmp_path / "a.wav"), "--output_dir", str(tmp_path / "out")]
    done = subprocess.run([*program, *folders, "--chunk_length", "1000"], capture_output=True, text=True)
    assert done.returncode == 0 and "1 written" in done.stdout
    done = subprocess.run([*program, *folders, "--overlap", "9000"], capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


# ---- the library -----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 50), st.integers(0, 49))
def test_cutting_a_stream_gives_the_spans_of_the_whole(lengths: list[int], chunk_frames: int, overlap: int) -> None:
    overlap = min(overlap, chunk_frames - 1)
    whole = np.arange(sum(lengths), dtype=np.float32)
    blocks = np.split(whole, np.cumsum(lengths)[:-1]) if lengths else []
    chunks = list(cut(blocks, chunk_frames, overlap))
    spans = [(start, start + chunk_frames) for start in range(0, len(whole) - chunk_frames + 1, chunk_frames - overlap)]
    if len(whole) > (spans[-1][1] if spans else 0):
        spans.append((len(spans) * (chunk_frames - overlap), len(whole)))
    assert [(int(chunk[0]), int(chunk[-1]) + 1) for chunk in chunks] == spans
    assert all(np.array_equal(chunk, whole[start:stop]) for chunk, (start, stop) in zip(chunks, spans, strict=True))


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["x", "y", "x/y", "x_y", "X"]),
            st.sampled_from(["a", "A", "x_a", "y_a", "a_0", "a_wav"]),
            st.sampled_from([".wav", ".flac", ".WAV"]),
        ),
        unique=True,
    )
)
def test_stems_are_distinct_and_unchanged_where_they_were(files: list[tuple[str, str, str]]) -> None:
    sources = [Path("/corpus") / folder / (stem + suffix) for folder, stem, suffix in files]
    stems = output_stems(sources)
    assert len({stem.lower() for stem in stems}) == len(sources)
    given_stems = [source.stem.lower() for source in sources]
    for source, stem in zip(sources, stems, strict=True):
        assert source.stem in stem
        if given_stems.count(source.stem.lower()) == 1:
            assert stem == source.stem
    assert output_stems(sources) == stems


def test_sources_leave_out_the_output_folder_unless_it_is_asked_for(tmp_path: Path) -> None:
    for name in ("corpus/a.wav", "corpus/out/a_chunk_0.wav", "corpus/out/raw/b.wav"):
        record(tmp_path / name, tone(0.1))
    corpus, output = tmp_path / "corpus", tmp_path / "corpus/out"
    chunk = output / "a_chunk_0.wav"
    assert [path.name for path in find_sources([corpus], output)[0]] == ["a.wav"]
    assert [path.name for path in find_sources([corpus, chunk], output)[0]] == ["a.wav", chunk.name]
    assert [path.name for path in find_sources([output / "raw"], output)[0]] == ["b.wav"]
    with pytest.raises(UsageError, match="folder of its own"):
        find_sources([output], output)


def test_chunks_of_an_earlier_cut_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, other = record(tmp_path / "a.wav", tone(2)), record(tmp_path / "b.wav", tone(2))
    folders = ["--output_dir", tmp_path / "out"]
    run("--input_file", source, other, *folders, "--chunk_length", 500)
    run("--input_file", source, *folders, "--chunk_length", 500)
    assert "an earlier cut" not in capsys.readouterr().out
    run("--input_file", source, *folders, "--chunk_length", 1000)
    said = capsys.readouterr().out
    assert "2 chunks of an earlier cut of these recordings (such as a_chunk_2.wav)" in said and "delete them" in said


def test_a_recording_is_not_overwritten_by_a_chunk(tmp_path: Path) -> None:
    sources = [record(tmp_path / name, tone(0.2)) for name in ("a.wav", "a_chunk_0.wav")]
    with pytest.raises(UsageError, match="overwritten"):
        list(chunk_recordings(sources, tmp_path, ChunkOptions(chunk_length=100)))


def test_reports_come_in_order_whatever_the_jobs_and_progress_adds_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunking, "SMALL_BYTES", 0)
    sources = [record(tmp_path / f"{number}.flac", tone(3 if number == 0 else 0.3)) for number in range(6)]
    (tmp_path / "6.wav").write_bytes(b"garbage")
    sources.append(tmp_path / "6.wav")
    options = ChunkOptions(chunk_length=100, keep_tail=True)
    told: list[int] = []
    reports = list(chunk_recordings(sources, tmp_path / "out", options, jobs=2, on_progress=told.append))
    assert [report.source for report in reports] == sources
    assert [report.processed for report in reports] == [30, 3, 3, 3, 3, 3, 0]
    assert sum(told) == sum(path.stat().st_size for path in sources) and min(told) > 0
    alone = list(chunk_recordings(sources, tmp_path / "out 1", options, jobs=1))
    assert alone == reports
    assert tree(tmp_path / "out") == tree(tmp_path / "out 1") and len(tree(tmp_path / "out")) == 45


def test_a_failure_to_write_stops_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [record(tmp_path / f"{number}.wav", tone(1)) for number in range(3)]

    def full(*_: object) -> None:
        raise RunError("the disk is full")

    monkeypatch.setattr("tierwave.audio.chunking.write_wav", full)
    with pytest.raises(RunError, match="full"):
        list(chunk_recordings(sources, tmp_path / "out", ChunkOptions(chunk_length=100)))


# ---- interrupted -----------------------------------------------------------------------------------------------------

KILLED = """
import os, sys
sys.path.insert(0, sys.argv[1])
import chunk_audio
from tierwave.audio import writer as audio
write = audio.SoundWriter.write

def killed(wav, block):
    write(wav, block)
    if sys.argv[2] in [path.name for path in sys_source]:
        os._exit(9)

from tierwave.audio import chunking
sys_source, chunk_file = [], chunking.chunk_file
chunking.chunk_file = lambda source, *a, **k: (sys_source.append(source), chunk_file(source, *a, **k))[1]
audio.SoundWriter.write = killed
chunk_audio.main(sys.argv[3:])
"""


@pytest.fixture
def interrupted(tmp_path: Path) -> list[object]:
    """A command whose run was killed while it wrote the first chunk of c.wav, after a.wav and b.wav."""
    for seed, name in enumerate("abcd"):
        record(tmp_path / "in" / f"{name}.wav", tone(2.5, seed=seed))
    (tmp_path / "in" / "0.wav").write_bytes(b"no sound")
    command = ["--input_file", tmp_path / "in", "--output_dir", tmp_path / "out", "--chunk_length", 1000, "--jobs", 1]
    program = [sys.executable, "-c", KILLED, str(Path(chunk_audio.__file__).parent), "c.wav", *map(str, command)]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    assert len(names(tmp_path / "out")) == 5  # four chunks, and one that is not whole
    return command


def test_a_run_that_was_killed_is_repeated_to_the_same_end(
    interrupted: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*interrupted) == 0
    said = capsys.readouterr()
    assert "8 written" in said.out and "4 of them took the place" in said.out
    assert said.err == "" and "Chunking" not in said.out  # which took less than the seconds between two lines
    interrupted[3] = tmp_path / "whole"
    assert run(*interrupted) == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "whole") and len(tree(tmp_path / "out")) == 8
