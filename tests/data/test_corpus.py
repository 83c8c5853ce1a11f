"""A folder as codes: decoded once, everything accounted for, statistics that are true; wherever it lies."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import soundfile
from corpora import recording_of, without_codes

from tierwave.audio.recordings import Reading, load
from tierwave.data import cache as cache_module
from tierwave.data import corpus as corpus_module
from tierwave.data import sources as sources_module
from tierwave.data.cache import load_corpus
from tierwave.data.corpus import Corpus, Normalize, Recording, summary
from tierwave.data.splits import Span
from tierwave.data.windows import Codes, LaneWindows
from tierwave.errors import RunError, UsageError
from tierwave.files.urls import Url

RATE = 8000


@dataclass(frozen=True)
class Steps:
    """Linear codes, 200 steps either side of zero: a float that an encoder sees can be told from its code."""

    name: str = "steps"

    def encode(self, audio: np.ndarray) -> np.ndarray:
        assert audio.dtype == np.float32
        return (np.clip(np.round(audio * 200), -200, 200) + 200).astype(np.uint16)


def noise(samples: int, seed: int = 0, level: float = 0.5) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-level, level, samples)


def write(path: Path, audio: np.ndarray, rate: int = RATE, subtype: str = "PCM_16") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, rate, subtype=subtype)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Mixed lengths, depths and channel counts; spaces, letters beyond ASCII, folders."""
    root = tmp_path / "My Recordings äöü"
    write(root / "take 2.wav", noise(4000, 1))
    write(root / "take 10.wav", noise(30_000, 2, 0.9), subtype="PCM_24")
    write(root / "Ordner ß" / "Übung 東京.flac", np.stack([noise(7001, 3), noise(7001, 4)], axis=1))
    write(root / "deep" / "er" / "x.wav", noise(2, 5), subtype="FLOAT")
    (root / "notes.txt").write_text("not a recording")
    return root


def loaded(folder: Path, tmp_path: Path, **options: object) -> Corpus:
    defaults: dict = {"cache_dir": tmp_path / "cache"}
    return load_corpus(folder, Steps(), **{**defaults, **options})


def tree(cache: Path) -> dict[str, bytes]:
    """Everything in the only corpus of a cache."""
    (place,) = cache.iterdir()
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def refuse_to_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("this was in the cache")

    monkeypatch.setattr(Reading, "blocks", refuse)


# ---- what is loaded --------------------------------------------------------------------------------------------------


def test_every_recording_is_encoded_in_natural_order(folder: Path, tmp_path: Path) -> None:
    corpus = loaded(folder, tmp_path)
    names = [recording.name for recording in corpus.recordings]
    assert names == ["Ordner ß/Übung 東京.flac", "deep/er/x.wav", "take 2.wav", "take 10.wav"]
    assert corpus.left_out == ()
    assert corpus.sample_rate == RATE
    assert corpus.dtype == np.uint16
    for index, recording in enumerate(corpus.recordings):
        audio, _ = load(folder / recording.name)
        assert recording.samples == len(audio)
        assert np.array_equal(corpus.read(index), Steps().encode(audio))
    assert corpus.samples == sum(recording.samples for recording in corpus.recordings)
    assert [recording.channels for recording in corpus.recordings] == [2, 1, 1, 1]


def test_a_recording_is_read_through_in_blocks(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = loaded(folder, tmp_path)
    monkeypatch.setattr(corpus_module, "BLOCK", 1000)
    blocks = list(corpus.blocks(3, 10, 4500))
    assert max(map(len, blocks)) == 1000 and np.array_equal(np.concatenate(blocks), corpus.read(3)[10:4500])


def test_the_document_is_written_when_the_codes_lie_on_the_disk(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    fsync = os.fsync

    def noted(number: int) -> None:
        synced.append(os.fstat(number).st_ino)
        fsync(number)

    monkeypatch.setattr(os, "fsync", noted)
    loaded(folder, tmp_path)
    (place,) = (tmp_path / "cache").iterdir()
    assert synced[:4] == [(place / f"{number:06d}.codes").stat().st_ino for number in range(4)]
    assert synced[4:] == [(place / "corpus.json").stat().st_ino]


def test_one_file_is_a_corpus_too(folder: Path, tmp_path: Path) -> None:
    corpus = loaded(folder / "take 2.wav", tmp_path)
    assert [recording.name for recording in corpus.recordings] == ["take 2.wav"]


def test_recordings_of_several_rates_need_one_to_be_chosen(folder: Path, tmp_path: Path) -> None:
    write(folder / "higher.wav", noise(3 * 44100), 44100)
    with pytest.raises(RunError, match=r"8000 Hz: 4 files, 44100 Hz: 1 files.*--sample_rate 8000"):
        loaded(folder, tmp_path)
    corpus = loaded(folder, tmp_path, sample_rate=16000)
    by_name = {recording.name: recording for recording in corpus.recordings}
    assert by_name["higher.wav"].samples == 3 * 16000 and by_name["higher.wav"].file_rate == 44100
    assert by_name["take 2.wav"].samples == 8000
    index = list(by_name).index("higher.wav")
    assert np.array_equal(corpus.read(index), Steps().encode(load(folder / "higher.wav", 16000)[0]))
    assert corpus.statistics()["file_rates"] == {"8000": 4, "44100": 1}
    assert any("such as" in warning and "8000 Hz" in warning for warning in corpus.warnings())


def test_progress_counts_files(folder: Path, tmp_path: Path) -> None:
    for normalize, passes in (("none", 1), ("corpus", 2)):
        told: list[tuple[int, ...]] = []
        loaded(folder, tmp_path, normalize=normalize, progress=lambda *counts, told=told: told.append(counts))
        assert told == [(1, 4), (2, 4), (3, 4), (4, 4)] * passes


# ---- what is left out ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", ["none", "corpus", "file"])
@pytest.mark.parametrize("sample_rate", [None, 4000])
def test_what_cannot_be_used_is_named_with_the_reason(
    folder: Path, tmp_path: Path, normalize: str, sample_rate: int | None
) -> None:
    holed = noise(5000)
    holed[4321] = np.nan
    write(folder / "bad" / "nan.wav", holed, subtype="FLOAT")
    write(folder / "bad" / "empty.wav", np.zeros(0))
    write(folder / "bad" / "one.wav", np.array([0.5]))
    write(folder / "bad" / "silent.wav", np.zeros(8000))
    write(folder / "bad" / "hiss.wav", noise(8000, level=0.0005), subtype="FLOAT")
    (folder / "bad" / "text.wav").write_text("this is no sound")
    (folder / "bad" / "nothing.wav").touch()
    corpus = loaded(folder, tmp_path, normalize=normalize, sample_rate=sample_rate)
    reasons = dict(corpus.left_out)
    assert list(reasons) == sorted(
        f"bad/{name}.wav" for name in ("empty", "hiss", "nan", "nothing", "one", "silent", "text")
    ) + (["deep/er/x.wav"] if sample_rate else [])
    assert reasons["bad/nan.wav"] == "it holds NaN or infinity at 0.5401 s"
    assert "0 samples" in reasons["bad/empty.wav"] and "1 samples" in reasons["bad/one.wav"]
    assert "is empty" in reasons["bad/nothing.wav"] and "read" in reasons["bad/text.wav"]
    assert reasons["bad/silent.wav"] == reasons["bad/hiss.wav"] == "it is silent"
    assert not any(str(tmp_path) in reason for reason in reasons.values())
    assert not any(recording.name in reasons for recording in corpus.recordings)
    assert [len(corpus.read(index)) for index in range(len(corpus.recordings))] == [
        recording.samples for recording in corpus.recordings
    ]
    text = summary(corpus)
    assert all(f"left out: {name}: {reason}" in text for name, reason in reasons.items())
    assert corpus.statistics()["left_out"] == [[name, reason] for name, reason in reasons.items()]


def test_a_folder_with_nothing_to_use_is_refused_in_a_sentence(tmp_path: Path) -> None:
    root = tmp_path / "sounds"
    with pytest.raises(UsageError, match="sounds"):
        loaded(root, tmp_path)
    root.mkdir()
    (root / "readme.txt").touch()
    with pytest.raises(RunError, match=r"no recording was found under .*sounds.*--data_dir"):
        loaded(root, tmp_path)
    for number in range(7):
        write(root / f"{number}.wav", np.zeros(100 if number else 0))
    for sample_rate in (None, 4000):
        with pytest.raises(RunError, match=r"0\.wav: it holds 0 samples; 1\.wav: it is silent.*; and 2 more"):
            loaded(root, tmp_path, sample_rate=sample_rate)
    assert list((tmp_path / "cache").iterdir()) == []


# ---- the cache -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample_rate", [None, 4000])
def test_the_second_call_decodes_nothing(
    folder: Path, tmp_path: Path, sample_rate: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "broken.wav").write_text("no sound")
    first = loaded(folder, tmp_path, sample_rate=sample_rate)
    refuse_to_decode(monkeypatch)
    if sample_rate is not None:  # then not even the headers are read, which ffmpeg would decode everything for
        monkeypatch.setattr(cache_module, "_rate_of", None)
    again = loaded(folder, tmp_path, sample_rate=sample_rate)
    assert again.recordings == first.recordings
    assert again.left_out == first.left_out and len(again.left_out) >= 1
    assert all(np.array_equal(again.read(index), first.read(index)) for index in range(len(first.recordings)))
    assert (again.sample_rate, again.gain, again.normalize) == (first.sample_rate, first.gain, first.normalize)


def test_a_rate_that_was_found_and_one_that_was_given_share_the_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded(folder, tmp_path)
    refuse_to_decode(monkeypatch)
    assert loaded(folder, tmp_path, sample_rate=RATE).sample_rate == RATE


def test_without_normalisation_every_file_is_decoded_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    open_recording = sources_module.open_recording

    def counted(path: Path) -> AbstractContextManager[Reading]:
        decoded.append(path)
        return open_recording(path)

    monkeypatch.setattr(sources_module, "open_recording", counted)
    loaded(folder, tmp_path, sample_rate=RATE)
    assert len(decoded) == len(set(decoded)) == 4


@pytest.mark.parametrize("change", ["content", "touch", "new", "gone", "renamed", "rate", "encoder", "normalize"])
def test_a_change_makes_the_cache_anew(folder: Path, tmp_path: Path, change: str) -> None:
    before = loaded(folder, tmp_path)
    path, encoder = folder / "take 2.wav", Steps()
    options: dict = {}
    if change == "content":
        write(path, noise(4000, 99))
        os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1))
    elif change == "touch":
        os.utime(path)
    elif change == "new":
        write(folder / "new.wav", noise(100))
    elif change == "gone":
        path.unlink()
    elif change == "renamed":
        path.rename(folder / "take 3.wav")
    elif change == "rate":
        options["sample_rate"] = 4000
    elif change == "encoder":
        encoder = Steps("other steps")
    else:
        options["normalize"] = "corpus"
    after = load_corpus(folder, encoder, cache_dir=tmp_path / "cache", **options)
    assert len(list((tmp_path / "cache").iterdir())) == 2
    same_sound = change in ("touch", "encoder")
    assert (after.identity == before.identity) == same_sound
    if change == "content":
        assert np.array_equal(after.read(2), Steps().encode(load(path)[0]))


def test_two_calls_at_once_do_not_collide(folder: Path, tmp_path: Path) -> None:
    barrier = threading.Barrier(4)

    @dataclass(frozen=True)
    class Meeting(Steps):
        def encode(self, audio: np.ndarray) -> np.ndarray:
            if len(audio) == 30_000:  # all are in the middle of building now
                barrier.wait(timeout=30)
            return super().encode(audio)

    results: list[Corpus] = []
    threads = [
        threading.Thread(target=lambda: results.append(load_corpus(folder, Meeting(), cache_dir=tmp_path / "cache")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = loaded(folder, tmp_path / "alone")
    assert len(results) == 4
    assert all(result.identity == expected.identity for result in results)
    assert all(np.array_equal(result.read(3), expected.read(3)) for result in results)
    assert tree(tmp_path / "cache") == tree(tmp_path / "alone" / "cache")  # nothing half-made is left


def test_nothing_half_made_stays_behind_a_failure(folder: Path, tmp_path: Path) -> None:
    class Failing(Steps):
        def encode(self, audio: np.ndarray) -> np.ndarray:
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        load_corpus(folder, Failing(), cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("damage", ["short codes", "no codes", "other codes", "cut json", "other json", "no key"])
def test_a_damaged_cache_is_told_in_a_sentence(folder: Path, tmp_path: Path, damage: str) -> None:
    loaded(folder, tmp_path)
    (place,) = (tmp_path / "cache").iterdir()
    codes, document = place / "000001.codes", place / "corpus.json"
    text = document.read_text(encoding="utf-8")
    if damage == "short codes":
        codes.write_bytes(codes.read_bytes()[:-2])
    elif damage == "no codes":
        codes.unlink()
    elif damage == "other codes":
        codes.write_bytes(codes.read_bytes()[:2] + b"\xff" * (codes.stat().st_size - 2))
    elif damage == "cut json":
        document.write_text(text[: len(text) // 2])
    elif damage == "other json":
        document.write_text("[1, 2]")
    else:
        document.write_text(json.dumps({key: value for key, value in json.loads(text).items() if key != "left_out"}))
    with pytest.raises(RunError, match=r"the cache .* is damaged .*: delete it") as caught:
        loaded(folder, tmp_path)
    assert str(place) in str(caught.value)
    shutil.rmtree(place)
    assert loaded(folder, tmp_path).samples == 41_003


# ---- interrupted -----------------------------------------------------------------------------------------------------

KILLED = """
import os, sys
sys.path[:0] = sys.argv[4:]
from test_corpus import Steps
from tierwave.data import cache
from tierwave.audio.recordings import Reading
blocks = Reading.blocks

def killed(reading, rate):
    for block in blocks(reading, rate, block_seconds=0.1):
        yield block
        if reading.info.path.name == "take 10.wav":
            os._exit(9)

Reading.blocks = killed
cache.load_corpus(sys.argv[1], Steps(), cache_dir=sys.argv[2], normalize=sys.argv[3])
"""


def kill(folder: Path, cache: Path, normalize: str) -> None:
    """Build the corpus in a process that is gone in the middle of the last recording."""
    here = Path(__file__).parent
    command = [
        sys.executable,
        "-c",
        KILLED,
        str(folder),
        str(cache),
        normalize,
        str(here),
        str(here.parent),
        str(here.parents[1]),
    ]
    assert subprocess.run(command).returncode == 9


@pytest.mark.parametrize("normalize", ["none", "corpus", "file"])
def test_after_a_kill_only_the_rest_is_decoded_and_the_cache_is_the_same(
    folder: Path, tmp_path: Path, normalize: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill(folder, tmp_path / "cache", normalize)
    whole = loaded(folder, tmp_path / "whole", normalize=normalize)
    decoded = []
    opened = sources_module.open_recording
    monkeypatch.setattr(sources_module, "open_recording", lambda path: (decoded.append(path.name), opened(path))[1])
    again = loaded(folder, tmp_path, normalize=normalize, sample_rate=RATE)
    if normalize == "corpus":  # the second pass had not begun
        assert decoded == ["Übung 東京.flac", "x.wav", "take 2.wav", "take 10.wav"] * 2
    else:
        assert decoded == ["take 10.wav"]
        assert again.taken_over == 3
        assert "3 of them had been encoded before a run was interrupted" in summary(again)
    assert tree(tmp_path / "cache") == tree(tmp_path / "whole" / "cache")
    assert "interrupted" not in summary(loaded(folder, tmp_path, normalize=normalize))
    assert again.recordings == whole.recordings and again.gain == whole.gain


@pytest.mark.parametrize("damage", ["codes", "short", "gone", "entry", "source"])
def test_what_an_interrupted_run_left_is_taken_only_if_it_is_whole_and_of_the_same_file(
    folder: Path, tmp_path: Path, damage: str
) -> None:
    kill(folder, tmp_path / "cache", "none")
    (place,) = (tmp_path / "cache").iterdir()
    shard, entry = place / "000002.codes", place / "000002.json"
    codes = shard.read_bytes()
    if damage == "codes":
        shard.write_bytes(codes[:-1] + bytes([codes[-1] ^ 1]))
    elif damage == "short":
        shard.write_bytes(codes[:-2])
    elif damage == "gone":
        shard.unlink()
    elif damage == "entry":
        entry.write_bytes(b"")
    else:
        os.utime(folder / "take 2.wav")
    again = loaded(folder, tmp_path)
    assert again.taken_over == (0 if damage == "source" else 2)
    assert np.array_equal(again.read(2), Steps().encode(load(folder / "take 2.wav")[0]))


def test_what_could_not_be_used_is_looked_at_again(folder: Path, tmp_path: Path) -> None:
    path = write(folder / "deep" / "late.wav", noise(500, level=0.0001))
    times = path.stat()
    kill(folder, tmp_path / "cache", "none")
    assert times.st_size == write(path, noise(500)).stat().st_size
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as if a missing ffmpeg had come
    assert loaded(folder, tmp_path).left_out == ()


# ---- by many ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", ["none", "corpus"])
def test_processes_make_the_same_cache(
    folder: Path, tmp_path: Path, normalize: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "broken.wav").write_text("no sound")
    monkeypatch.setattr(cache_module, "SMALL_BYTES", 0)
    told: list[tuple[int, int]] = []
    many = loaded(folder, tmp_path, normalize=normalize, jobs=2, progress=lambda *counts: told.append(counts))
    monkeypatch.setattr(cache_module, "parallel_map", None)  # from the cache, without a process
    assert loaded(folder, tmp_path, normalize=normalize, jobs=2, sample_rate=RATE).identity == many.identity
    monkeypatch.undo()
    loaded(folder, tmp_path / "one", normalize=normalize)
    assert tree(tmp_path / "cache") == tree(tmp_path / "one" / "cache")
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)] * (2 if normalize == "corpus" else 1)


def test_only_the_recordings_that_are_read_are_opened(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = loaded(folder, tmp_path)
    opened, fromfile = set(), np.fromfile

    def counted(path: Path, *rest: Any, **more: Any) -> np.ndarray:
        opened.add(path.name)
        return fromfile(path, *rest, **more)

    monkeypatch.setattr(np, "fromfile", counted)
    windows = LaneWindows(
        {"inputs": Codes(corpus, 200)}, [Span(2, 0, 4000), Span(3, 100, 20_000)], window=64, overlap=16, lanes=4
    )
    layout = windows.layout(0)
    for step in range(windows.steps):
        windows.batch(tuple(part[step] for part in layout))
    assert opened == {"000002.codes", "000003.codes"}


@pytest.mark.parametrize("damage", ["short", "gone"])
def test_a_file_that_was_damaged_since_is_told(folder: Path, tmp_path: Path, damage: str) -> None:
    corpus = loaded(folder, tmp_path)
    path = corpus.files[2]
    path.write_bytes(path.read_bytes()[:50]) if damage == "short" else path.unlink()
    assert len(corpus.read(3, 10, 50)) == 40
    with pytest.raises(RunError, match=r"cache .* is damaged \(000002\.codes: .*\): delete it"):
        corpus.read(2, 30, 60)


# ---- at a URL --------------------------------------------------------------------------------------------------------


def at_url(folder: Path, root: str) -> Url:
    """The files of a folder, copied to a URL."""
    fsspec.filesystem("memory" if root.startswith("memory:") else "file").put(f"{folder}/", f"{root}/", recursive=True)
    return Url(root)


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"memory://{tmp_path.name}" if request.param == "memory" else f"file://{tmp_path}/at url"


@pytest.mark.parametrize("sample_rate", [None, 4000])
def test_a_corpus_at_a_url_is_that_of_the_folder(
    folder: Path, tmp_path: Path, url: str, sample_rate: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "deep" / ".hidden.wav").write_bytes(b"")
    (folder / "broken.wav").write_text("no sound")
    here = loaded(folder, tmp_path, sample_rate=sample_rate)
    remote = at_url(folder, f"{url}/in")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    progress: list[tuple[int, int]] = []
    options: dict = {"sample_rate": sample_rate, "cache_dir": tmp_path / "other"}
    there = loaded(remote, tmp_path, **options, progress=lambda *counts: progress.append(counts))  # type: ignore[arg-type]
    assert (there.recordings, there.left_out, there.sample_rate) == (here.recordings, here.left_out, here.sample_rate)
    assert list((tmp_path / "temporary").iterdir()) == []  # no copy stays
    assert all(np.array_equal(there.read(index), here.read(index)) for index in range(len(here.recordings)))
    monkeypatch.setattr(sources_module, "fetched", None)  # nothing is fetched again, not even to see the rate
    assert loaded(remote, tmp_path, **options).recordings == here.recordings  # type: ignore[arg-type]
    assert progress[-1] == (5 if sample_rate else 4, 5 if sample_rate else 4)


def test_a_cache_in_a_folder_of_a_corpus_at_a_url_made_by_processes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = loaded(folder, tmp_path / "here")
    monkeypatch.setattr(cache_module, "SMALL_BYTES", 0)
    remote = Path(f"file://{folder}")  # as a flag makes of it
    there = loaded(remote, tmp_path, sample_rate=RATE, jobs=2)
    assert there.recordings == here.recordings
    assert tree(tmp_path / "cache") == tree(tmp_path / "here" / "cache")


def test_a_cache_at_a_url_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="memory://x/cache is no folder of this machine"):
        loaded(folder, tmp_path, cache_dir=Path("memory://x/cache"))


@pytest.mark.parametrize(
    ("root", "kind", "words"),
    [
        ("memory://nothing/there", UsageError, "no file or folder memory://nothing/there"),
        ("nope://x", UsageError, "nope://"),
    ],
)
def test_a_url_with_nothing_there_is_told(tmp_path: Path, root: str, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        loaded(Path(root), tmp_path)


# ---- the files -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_others_may_read_the_cache(folder: Path, tmp_path: Path) -> None:
    loaded(folder, tmp_path)
    mask = os.umask(0)
    os.umask(mask)
    (place,) = (tmp_path / "cache").iterdir()
    assert place.stat().st_mode & 0o777 == 0o777 & ~mask
    assert all(path.stat().st_mode & 0o777 == 0o666 & ~mask for path in place.iterdir())


def test_identity_does_not_depend_on_the_place(folder: Path, tmp_path: Path) -> None:
    before = loaded(folder, tmp_path).identity
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    after = loaded(moved, tmp_path).identity
    assert before == after
    write(moved / "take 2.wav", noise(4000, 99))
    changed = loaded(moved, tmp_path).identity
    assert {name for name in before if before[name] != changed[name]} == {"take 2.wav"}
    assert len(set(before.values())) == 4


# ---- levels ----------------------------------------------------------------------------------------------------------


def test_statistics_are_those_of_the_whole_signal(tmp_path: Path) -> None:
    root = tmp_path / "sounds"
    quiet = np.where(np.arange(90_000) < 30_000, 0.0005, 0.5) * np.sign(noise(90_000))
    hot = np.clip(noise(100_003, 1, 1.2) + 0.1, -1.0, 1.0)  # longer than a block
    write(root / "a.wav", quiet, subtype="FLOAT")
    write(root / "b.wav", hot, subtype="FLOAT")
    write(root / "c.wav", np.stack([hot, hot], 1)[:5000], subtype="FLOAT")
    corpus = loaded(root, tmp_path)
    everything = np.concatenate([quiet, hot, hot[:5000]]).astype(np.float32).astype(np.float64)
    found = corpus.statistics()
    assert found["files"] == 3 and found["samples"] == len(everything)
    assert found["hours"] == pytest.approx(len(everything) / RATE / 3600)
    assert found["peak"] == 1.0
    assert found["rms"] == pytest.approx(np.sqrt(np.mean(everything**2)))
    assert found["dc"] == pytest.approx(np.mean(everything))
    assert found["silent_share"] == pytest.approx(np.mean(np.abs(everything) < 0.001))
    assert found["clipped_share"] == pytest.approx(np.mean(np.abs(everything) >= 0.999))
    assert found["channels"] == {"1": 2, "2": 1}
    assert corpus.recordings[0].silent_share == pytest.approx(1 / 3, abs=1e-4)
    json.dumps(found, allow_nan=False)
    text = summary(corpus)
    for part in ("3 recordings", "24.4 s at 8000 Hz", "8000 Hz x 3", "peak 1.000", "DC +0.0", "silence 15"):
        assert part in text


@pytest.mark.parametrize(("seconds", "text"), [(59, "59.0 s"), (90, "1.5 min"), (5400, "1.50 h")])
def test_the_summary_tells_the_length_in_a_fitting_unit(seconds: int, text: str) -> None:
    assert text in summary(without_codes([recording(samples=seconds * RATE)], RATE))


def test_corpus_normalisation_is_one_gain(tmp_path: Path) -> None:
    root = tmp_path / "sounds"
    write(root / "loud.wav", noise(20_000, 1, 0.25), subtype="FLOAT")
    write(root / "soft.wav", noise(20_000, 2, 0.05), subtype="FLOAT")
    corpus = loaded(root, tmp_path, normalize="corpus")
    sounds = [load(root / name)[0] for name in ("loud.wav", "soft.wav")]
    assert corpus.gain == pytest.approx(1 / np.abs(sounds[0]).max())
    for index, sound in enumerate(sounds):
        assert np.array_equal(corpus.read(index), Steps().encode(sound * np.float32(corpus.gain)))
    assert np.abs(corpus.read(0).astype(int) - 200).max() == 200
    assert corpus.statistics()["peak"] == pytest.approx(0.25, abs=1e-3)  # as recorded
    assert not any("full scale" in warning for warning in corpus.warnings())


def test_file_normalisation_maps_each_file_to_the_whole_range(tmp_path: Path) -> None:
    root = tmp_path / "sounds"
    write(root / "a.wav", noise(100_000, 1, 0.02) + 0.3, subtype="FLOAT")
    write(root / "b.wav", np.where(np.arange(50_000) % 2, 0.5, -0.25), subtype="FLOAT")
    write(root / "constant.wav", np.full(8000, 0.25))
    corpus = loaded(root, tmp_path, normalize="file")
    sound = load(root / "a.wav")[0].astype(np.float64)
    low, high = sound.min(), sound.max()
    exact = (sound - low) / (high - low) * 2 - 1
    assert np.abs(corpus.read(0).astype(int) - 200 - exact * 200).max() <= 0.51
    assert set(np.unique(corpus.read(1))) == {0, 400}
    assert (corpus.read(0).min(), corpus.read(0).max()) == (0, 400)
    assert dict(corpus.left_out) == {"constant.wav": "it is silent"}
    assert not any("full scale" in warning for warning in corpus.warnings())


@pytest.mark.parametrize("sample_rate", [None, 4000])
@pytest.mark.parametrize("normalize", ["none", "corpus", "file"])
def test_a_constant_divides_nothing_by_zero(tmp_path: Path, normalize: str, sample_rate: int | None) -> None:
    root = tmp_path / "sounds"
    write(root / "a.wav", noise(8000))
    write(root / "constant.wav", np.full(8000, 0.25))
    with np.errstate(all="raise"):
        corpus = loaded(root, tmp_path, normalize=normalize, sample_rate=sample_rate)
    assert corpus.recordings[0].name == "a.wav"
    if sample_rate is None:  # resampling lets it start and end with a ripple
        assert dict(corpus.left_out) == {"constant.wav": "it is silent"}


def test_no_normalisation_leaves_levels_alone(tmp_path: Path) -> None:
    root = tmp_path / "sounds"
    write(root / "a.wav", noise(2000, 1, 0.05), subtype="FLOAT")
    corpus = loaded(root, tmp_path)
    assert corpus.gain == 1.0
    assert np.abs(corpus.read(0).astype(int) - 200).max() <= 10


# ---- warnings --------------------------------------------------------------------------------------------------------


def recording(**levels: Any) -> Recording:
    usual = {"peak": 0.9, "silent_share": 0.1, "samples": 600 * RATE}
    return recording_of("a.wav", rate=RATE, **{**usual, **levels})


def warnings_of(*recordings: Recording, normalize: Normalize = "none") -> list[str]:
    return without_codes(recordings, RATE, normalize).warnings()


def test_a_sound_corpus_is_not_warned_of() -> None:
    assert warnings_of(recording()) == []
    assert warnings_of(recording(peak=0.01), recording()) == []
    assert warnings_of(recording(peak=0.01), normalize="corpus") == []


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ({"peak": 0.05}, ("0.050", "normalize=corpus")),
        ({"dc": -0.02}, ("DC offset", "a.wav", "-0.020", "--highpass")),
        ({"silent_share": 0.4}, ("40%", "chunk_audio.py")),
        ({"clipped_share": 0.01}, ("1.00%", "clipped", "less hot")),
        ({"clipped_share": 0.6, "peak": 3.2}, ("60.00%", "a.wav", "3.20", "--set normalize=corpus")),
        ({"samples": 30 * RATE}, ("30.0 s", "by heart")),
        ({"file_rate": 4000}, ("4000 Hz", "treble")),
    ],
)
def test_what_spoils_training_is_warned_of(levels: dict, words: tuple[str, ...]) -> None:
    (warning,) = warnings_of(recording(**levels))
    assert all(word in warning for word in words)


def test_what_a_gain_brings_back_is_not_clipped() -> None:
    beyond, hot = recording(clipped_share=0.6, peak=3.2), recording(clipped_share=0.01, peak=1.0)
    assert warnings_of(beyond, normalize="corpus") == [] and warnings_of(beyond, normalize="file") == []
    assert len(warnings_of(beyond, hot, normalize="corpus")) == 1
    for normalize, share in (("none", "30.50%"), ("corpus", "0.50%"), ("file", "0.50%")):
        assert f"clipped {share}" in summary(without_codes([beyond, hot], RATE, normalize))


def test_what_is_odd_about_a_recording_is_kept_with_the_cache(tmp_path: Path) -> None:
    root = tmp_path / "sounds"
    write(root / "a.wav", noise(8000))
    half = write(root / "half.wav", noise(8000, 1))
    half.write_bytes(half.read_bytes()[:8044])
    left = noise(8000, 2)
    write(root / "inverted.wav", np.stack([left, -left], axis=1))
    slow = write(root / "slow.wav", noise(8000, 3))
    content = bytearray(slow.read_bytes())
    content[24:28] = (1).to_bytes(4, "little")
    slow.write_bytes(content)
    made, again = loaded(root, tmp_path), loaded(root, tmp_path)
    assert again.recordings == made.recordings and [each.name for each in again.recordings[1:]] == [
        "half.wav",
        "inverted.wav",
    ]
    np.testing.assert_array_equal(again.read(2), Steps().encode(load(root / "inverted.wav", mono=False)[0][:, 0]))
    assert dict(again.left_out)["slow.wav"].startswith("its header gives a sample rate of 1 Hz")
    text = summary(again)
    assert "  half.wav: it holds 1.0 s by its header, 0.500 s could be read: it is cut off\n" in text
    assert "  inverted.wav: its channels cancel when mixed down (one is inverted); its first channel is used\n" in text
    assert len(again.statistics()["remarks"]) == 2


def test_offsets_of_either_sign_do_not_cancel() -> None:
    assert len(warnings_of(recording(dc=0.02), recording(dc=-0.02))) == 1
    assert warnings_of(recording(dc=0.5, samples=RATE), recording()) == []  # one second of ten minutes
