"""What is held out: never trained on under any name, spread over everything, the same every time."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pytest
from corpora import recording_of, without_codes
from hypothesis import given, settings
from hypothesis import strategies as st

from tierwave.audio.chunking import cut
from tierwave.audio.resample import resample
from tierwave.data.corpus import Corpus
from tierwave.data.splits import FEWEST_SOURCES, Span, Split, find_sources, make_split
from tierwave.errors import RunError

RATE = 16000


@dataclass
class Folder:
    """A corpus in the making: sounds by name, and where in which original each begins, in samples."""

    sounds: dict[str, np.ndarray] = field(default_factory=dict)
    origins: dict[str, tuple[str, float]] = field(default_factory=dict)

    def add(self, name: str, sound: np.ndarray, original: str | None = None, start: float = 0.0) -> None:
        self.sounds[name] = sound
        self.origins[name] = (original or name, start)

    def corpus(self, order: Sequence[int] | None = None) -> Corpus:
        names = sorted(self.sounds)
        names = [names[number] for number in order] if order is not None else names
        sounds = {name: self.sounds[name] for name in names}
        recordings = [recording_of(name, len(sound), str(hash(sound.tobytes()))) for name, sound in sounds.items()]
        return without_codes(recordings, RATE)

    def reader(self, corpus: Corpus) -> Callable[[int], np.ndarray]:
        return lambda index: self.sounds[corpus.recordings[index].name]

    def split(self, **options: object) -> tuple[Corpus, Split]:
        corpus = self.corpus()
        defaults: dict = {"valid_fraction": 0.1, "test_fraction": 0.1}
        return corpus, make_split(corpus, self.reader(corpus), **{**defaults, **options})


def never(index: int) -> np.ndarray:
    raise AssertionError("a corpus without chunks need not be read")


def lengths_only(lengths: Sequence[int], names: Sequence[str] | None = None) -> Corpus:
    return without_codes(
        [
            recording_of(names[number] if names else f"{number:04d}.wav", length, str(number), RATE)
            for number, length in enumerate(lengths)
        ],
        RATE,
    )


@cache
def noise(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, int(seconds * rate)).astype(np.float32)


@cache
def music(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """Notes of a few partials, each dying away, over a steady drone: much in it is like itself."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    sound = 0.1 * np.sin(2 * np.pi * 110 * time)
    for start in np.arange(0.0, seconds, 0.25):
        pitch = rng.choice([220.0, 247.0, 262.0, 330.0]) * rng.uniform(0.995, 1.005)
        since = np.maximum(time - start, 0.0)
        envelope = np.where(time >= start, np.exp(-6 * since), 0.0)
        sound += sum(0.1 / k * envelope * np.sin(2 * np.pi * k * pitch * since) for k in (1, 2, 3))
    return (sound / np.abs(sound).max() * 0.9).astype(np.float32)


def eight_bits(sound: np.ndarray) -> np.ndarray:
    """As codes bring it back."""
    return (np.round(sound * 127) / 127).astype(np.float32)


def chunked(
    folder: Folder,
    stem: str,
    sound: np.ndarray,
    length: int,
    overlap: int,
    *,
    rate: int = RATE,
    silent: Sequence[int] = (),
    keep_tail: bool = False,
) -> None:
    """Chunks as chunk_audio.py cuts them at `rate` Hz, then at the corpus' rate."""
    for number, chunk in enumerate(cut([sound], length, overlap)):
        if number not in silent and (keep_tail or len(chunk) == length):
            start = number * (length - overlap)
            folder.add(f"{stem}_chunk_{number}.wav", eight_bits(resample(chunk, rate, RATE)), stem, start * RATE / rate)


def on_timeline(folder: Folder, corpus: Corpus, spans: Sequence[Span]) -> dict[str, list[tuple[float, float]]]:
    """The spans as intervals of the originals."""
    intervals = defaultdict(list)
    for span in spans:
        original, start = folder.origins[corpus.recordings[span.recording].name]
        intervals[original].append((start + span.start, start + span.stop))
    return intervals


def nearest(held: Sequence[tuple[float, float]], trained: Sequence[tuple[float, float]]) -> float:
    """The smallest gap in samples between the two; negative if they share some."""
    return min(max(a[0] - b[1], b[0] - a[1]) for a in held for b in trained)


def smallest_gap(folder: Folder, corpus: Corpus, split: Split) -> float:
    """The smallest gap on the originals between held-out and trained sound, and between the two held-out parts."""
    parts = [on_timeline(folder, corpus, spans) for spans in (split.train, split.valid, split.test)]
    return min(
        nearest(parts[one][original], parts[other][original])
        for one, other in ((0, 1), (0, 2), (1, 2))
        for original in parts[one].keys() & parts[other].keys()
    )


def share(spans: Sequence[Span], corpus: Corpus) -> float:
    return sum(span.stop - span.start for span in spans) / corpus.samples


# ---- any corpus ------------------------------------------------------------------------------------------------------


fractions = st.sampled_from([0.0, 0.05, 0.1, 0.2, 0.4])


@given(
    st.lists(st.integers(1, 20 * RATE), min_size=1, max_size=80),
    fractions,
    fractions,
    st.integers(0, 2**32),
    st.sampled_from([0, 16, 1024]),
)
def test_parts_are_disjoint_and_a_guard_apart(
    lengths: list[int], valid: float, test: float, seed: int, guard: int
) -> None:
    corpus = lengths_only(lengths)
    options: dict = {"valid_fraction": valid, "test_fraction": test, "seed": seed, "smallest_guard": guard}
    try:
        split = make_split(corpus, never, **options)
    except RunError as error:
        assert "too short" in str(error) and "_frac 0" in str(error)
        # Only where not even the longest recording has room for a stretch and its guards beside what is trained on.
        held, smallest = valid + test, min(fraction for fraction in (valid, test) if fraction)
        assert smallest * (1 - held) / held * max(lengths) / 5 < 2 * guard + 8
        return
    assert split == make_split(corpus, never, **options)
    assert split.train
    assert bool(split.valid) == (valid > 0) and bool(split.test) == (test > 0)
    parts = {"train": split.train, "valid": split.valid, "test": split.test}
    by_recording = defaultdict(list)
    for part, spans in parts.items():
        for span in spans:
            assert 0 <= span.start < span.stop <= corpus.recordings[span.recording].samples
            by_recording[span.recording].append((span.start, span.stop, part))
    for found in by_recording.values():
        found.sort()
        for (_, stop, part), (start, _, next_part) in zip(found, found[1:], strict=False):
            assert start - stop >= guard and part != next_part
    # Nothing is left out but guards.
    assert set(by_recording) == set(range(len(lengths)))
    if split.method == "files":
        assert sum(map(lambda spans: share(spans, corpus), parts.values())) == pytest.approx(1.0)
        assert len(lengths) >= FEWEST_SOURCES


@given(st.integers(0, 2**32), st.sampled_from([0.02, 0.1, 0.3]), st.sampled_from([0.0, 0.1, 0.3]))
def test_fractions_are_held_by_stretches_in_every_recording(seed: int, valid: float, test: float) -> None:
    corpus = lengths_only([seconds * RATE for seconds in (60, 61, 75, 90, 300)])
    split = make_split(corpus, never, valid_fraction=valid, test_fraction=test, seed=seed, smallest_guard=64)
    assert split.method == "stretches"
    for fraction, spans in ((valid, split.valid), (test, split.test)):
        for number, recording in enumerate(corpus.recordings):
            own = [span for span in spans if span.recording == number]
            held = sum(span.stop - span.start for span in own)
            assert held == pytest.approx(fraction * recording.samples, abs=8)
            wanted = 0 if fraction == 0 else max(1, min(5, int(min(valid, test or 1) * recording.samples / RATE)))
            assert len(own) == wanted
            # Each stretch lies in its own stretch of the recording: none is a tail only.
            places = [(span.start + span.stop) / 2 / recording.samples for span in own]
            assert [int(place * wanted) for place in places] == list(range(wanted))
    assert share(split.train, corpus) > 0.85 * (1 - valid - test)  # guards do not eat the corpus


def test_a_fraction_that_leaves_little_still_leaves_something() -> None:
    corpus = lengths_only([100 * RATE])
    for valid, test in ((0.9, 0.0), (0.45, 0.45), (0.1, 0.8), (0.98, 0.01)):
        split = make_split(corpus, never, valid_fraction=valid, test_fraction=test, smallest_guard=64)
        assert share(split.valid, corpus) == pytest.approx(valid, abs=0.01)
        assert share(split.test, corpus) == pytest.approx(test, abs=0.01)
        assert 0 < share(split.train, corpus) <= 1 - valid - test + 0.01


@given(
    st.lists(st.integers(RATE // 10, 20 * RATE), min_size=FEWEST_SOURCES, max_size=200),
    st.integers(0, 2**32),
    st.sampled_from([0.05, 0.1, 0.3]),
)
def test_whole_files_where_there_are_enough(lengths: list[int], seed: int, valid: float) -> None:
    corpus = lengths_only(lengths)
    split = make_split(corpus, never, valid_fraction=valid, test_fraction=0.1, seed=seed)
    if split.method == "stretches":  # only where whole files cannot make up the fraction
        assert sorted(lengths)[0] > min(valid, 0.1) * sum(lengths) or max(lengths) > 0.05 * sum(lengths) / 2
    else:
        spans = [*split.train, *split.valid, *split.test]
        assert sorted(spans) == [Span(number, 0, length) for number, length in enumerate(lengths)]
    for fraction, held in ((valid, split.valid), (0.1, split.test)):
        assert fraction / 2 <= share(held, corpus) <= fraction + max(lengths) / sum(lengths) / 2


def test_480_short_files() -> None:
    rng = np.random.default_rng(0)
    corpus = lengths_only(rng.integers(int(0.2 * RATE), int(0.6 * RATE), 480).tolist())
    split = make_split(corpus, never, valid_fraction=0.1, test_fraction=0.1, smallest_guard=64)
    assert split.method == "files"
    assert share(split.valid, corpus) == pytest.approx(0.1, abs=0.002)
    assert share(split.test, corpus) == pytest.approx(0.1, abs=0.002)


def test_one_file_that_is_most_of_the_corpus_is_cut() -> None:
    corpus = lengths_only([3600 * RATE] + [RATE] * 40)
    split = make_split(corpus, never, valid_fraction=0.1)
    assert split.method == "stretches"
    assert share(split.valid, corpus) == pytest.approx(0.1, abs=0.001)


@given(st.integers(0, 50))
def test_control_values_stay_in_training(seed: int) -> None:
    corpus = lengths_only([RATE] * 40)
    rare = ["usual"] * 40
    rare[7] = "rare"
    everywhere = ["left", "right"] * 20
    lonely = list(range(40))
    methods = []
    for values in (rare, everywhere, lonely):
        split = make_split(corpus, never, valid_fraction=0.2, seed=seed, values=values)
        assert {values[span.recording] for span in split.train} == set(values)
        assert split.valid
        methods.append(split.method)
    assert methods[2] == "stretches"  # every file is the only one of its value
    without = make_split(corpus, never, valid_fraction=0.2, seed=seed)
    assert (methods[0] == "stretches") == any(span.recording == 7 for span in without.valid)


@given(st.integers(0, 20))
def test_control_values_of_single_chunks_stay_in_training(seed: int) -> None:
    # A held-out stretch of 2 s covers whole chunks of half a second, and each has a value of its own in one recording.
    folder = Folder()
    for stem in ("a", "b"):
        chunked(folder, stem, noise(20, seed=ord(stem)), RATE // 2, 0)
    corpus = folder.corpus()
    names = [recording.name for recording in corpus.recordings]
    values = [name if name.startswith("a") else "b" for name in names]
    split = make_split(corpus, folder.reader(corpus), valid_fraction=0.1, seed=seed, values=values)
    assert {values[span.recording] for span in split.train} == set(values)
    assert split.valid


@given(st.permutations(range(12)), st.integers(0, 9))
def test_the_order_of_the_files_does_not_matter(order: list[int], seed: int) -> None:
    folder = Folder()
    for number in range(8):
        folder.add(f"take {number}.wav", noise(1.5, seed=number))
    chunked(folder, "deep/song", noise(2.5, seed=9), RATE, RATE // 2)
    documents = []
    for corpus in (folder.corpus(), folder.corpus(order)):
        split = make_split(corpus, folder.reader(corpus), valid_fraction=0.1, seed=seed)
        document = split.to_document(corpus)
        documents.append({part: sorted(document[part]) for part in ("train", "valid", "test")})
    assert len(folder.sounds) == 12
    assert documents[0] == documents[1]


def test_another_seed_is_another_split() -> None:
    for lengths in ([60 * RATE] * 3, [RATE] * 50):
        corpus = lengths_only(lengths)
        splits = {make_split(corpus, never, valid_fraction=0.1, seed=seed).valid for seed in range(5)}
        assert len(splits) == 5


def test_without_fractions_everything_is_trained_on() -> None:
    for count in (1, 50):
        corpus = lengths_only([RATE] * count)
        split = make_split(corpus, never, valid_fraction=0.0, smallest_guard=1024)
        assert split.train == tuple(Span(number, 0, RATE) for number in range(count))
        assert split.valid == split.test == ()


def test_too_short_a_corpus_is_refused_in_a_sentence() -> None:
    corpus = lengths_only([500])
    with pytest.raises(RunError, match=r"corpus of 0\.03 s is too short to hold out 10% .*--val_frac 0 --monitor loss"):
        make_split(corpus, never, valid_fraction=0.1, smallest_guard=512)
    with pytest.raises(RunError, match=r"too short to hold out 1% .*--test_frac 0"):
        make_split(lengths_only([50]), never, valid_fraction=0.1, test_fraction=0.01)


@given(st.integers(0, 9), st.sampled_from([4, 50]))
def test_the_stored_split_comes_back(seed: int, count: int) -> None:
    names = [f"ordner {number}/Übung_ß {number}.wav" for number in range(count)]
    corpus = lengths_only([3 * RATE] * count, names)
    split = make_split(corpus, never, valid_fraction=0.1, test_fraction=0.05, seed=seed)
    document = json.loads(json.dumps(split.to_document(corpus)))
    assert Split.from_document(document, corpus) == split
    # By name: more files and another order change nothing but the numbers.
    moved = lengths_only([RATE, *[3 * RATE] * count], ["a new one.wav", *reversed(names)])
    again = Split.from_document(document, moved)
    assert again.to_document(moved) == split.to_document(corpus)
    with pytest.raises(RunError, match="split is damaged"):
        Split.from_document(document, lengths_only([RATE], ["another.wav"]))


# ---- chunks ----------------------------------------------------------------------------------------------------------


def two_cuts(names: Sequence[str], seconds: float = 8.0) -> Folder:
    """Recordings cut into chunks of 2 s, among those of an earlier cut into chunks of 1 s."""
    folder = Folder()
    for seed, name in enumerate(names):
        sound = noise(seconds, seed=seed)
        for number in range(int(seconds)):
            length = 2 if number < seconds / 2 else 1
            part = sound[number * length * RATE : (number + 1) * length * RATE]
            folder.add(f"{name}_chunk_{number}.wav", part, f"{name}.wav", number * length * RATE)
    return folder


def test_chunks_of_two_cuts_are_held_out_together_or_not_at_all() -> None:
    folder = two_cuts(["a", "b"])
    for number in range(3):
        folder.add(f"{number}.wav", noise(8.0, seed=10 + number))
    corpus, split = folder.split(test_fraction=0.0)
    train, valid = ({corpus.recordings[span.recording].name for span in spans} for spans in (split.train, split.valid))
    chunks = {name for name in folder.sounds if "chunk" in name}
    assert chunks <= train and not chunks & valid and valid
    assert len(split.remarks) == 1 and split.remarks[0].startswith("The chunks of a and 1 more are of several lengths")
    spans = {corpus.recordings[span.recording].name: span for span in split.train}
    assert all((spans[name].start, spans[name].stop) == (0, len(folder.sounds[name])) for name in chunks)


def test_many_recordings_of_two_cuts_are_held_out_whole() -> None:
    corpus, split = two_cuts([f"{number:02d}" for number in range(FEWEST_SOURCES)]).split(test_fraction=0.0)
    stems = [{corpus.recordings[span.recording].name[:2] for span in spans} for spans in (split.train, split.valid)]
    assert split.method == "files" and stems[1] and not stems[0] & stems[1]


def test_nothing_but_chunks_of_two_cuts_is_refused_with_the_reason() -> None:
    with pytest.raises(RunError, match="several cuts.*delete those of the earlier cut.*--val_frac 0"):
        two_cuts(["a"]).split()


def test_a_shorter_chunk_is_the_rest_only_if_it_is_the_last() -> None:
    for lengths, apart in (((2, 2, 1), False), ((2, 1, 2), True), ((1, 1, 2), True), ((2,), False), ((2, 1), False)):
        folder = Folder()
        for number, length in enumerate(lengths):
            folder.add(f"a_chunk_{number}.wav", noise(length, seed=number), "a.wav")
        corpus = folder.corpus()
        (source,) = find_sources(corpus, folder.reader(corpus))
        assert (source.apart is not None) == apart, lengths


def starts_of(folder: Folder) -> dict[str, int]:
    corpus = folder.corpus()
    (source,) = find_sources(corpus, folder.reader(corpus))
    return {
        corpus.recordings[recording].name: start
        for recording, start in zip(source.recordings, source.starts, strict=True)
    }


@pytest.mark.parametrize("sound", [noise, music])
@pytest.mark.parametrize("overlap", [0.0, 0.02, 0.25, 0.5, 0.75, 0.9])
def test_chunks_are_put_back_where_they_came_from(sound: Callable[..., np.ndarray], overlap: float) -> None:
    folder = Folder()
    chunked(folder, "song", sound(12), 2 * RATE, int(overlap * 2 * RATE), keep_tail=True)
    expected = {name: start for name, (_, start) in folder.origins.items()}
    found = starts_of(folder)
    assert found == expected


@pytest.mark.parametrize("normalized", [False, True])
def test_chunks_that_were_normalised_one_by_one_are_put_back(normalized: bool) -> None:
    folder = Folder()
    chunked(folder, "song", music(12), 2 * RATE, RATE // 2)
    expected = {name: start for name, (_, start) in folder.origins.items()}
    if normalized:
        for name, sound in folder.sounds.items():
            low, high = sound.min(), sound.max()
            folder.sounds[name] = eight_bits((sound - low) * (2 / (high - low)) - 1)
    assert starts_of(folder) == expected


def test_gaps_left_by_silent_chunks_are_closed() -> None:
    folder = Folder()
    chunked(folder, "song", noise(40), 2 * RATE, RATE, silent=[0, 1, *range(4, 30)])
    starts = starts_of(folder)
    numbers = sorted(int(name.split("_")[-1].split(".")[0]) for name in starts)
    assert numbers == [2, 3, *range(30, 39)]
    assert [starts[f"song_chunk_{number}.wav"] for number in numbers] == [
        0, RATE, 3 * RATE, *(RATE * (3 + step) for step in range(1, 9))
    ]  # fmt: skip


def test_a_quiet_beginning_does_not_hide_an_overlap() -> None:
    sound = noise(12).copy()
    for second in range(12):
        sound[second * RATE : second * RATE + RATE * 3 // 4] = 0.0
    folder = Folder()
    chunked(folder, "song", sound, 2 * RATE, RATE)
    assert starts_of(folder) == {name: start for name, (_, start) in folder.origins.items()}


def test_a_loop_of_equal_chunks_is_no_reason_to_fail() -> None:
    folder = Folder()
    loop = eight_bits(noise(1))
    for number in range(6):
        folder.add(f"loop_chunk_{number}.wav", loop)
    corpus, split = folder.split()
    assert len(find_sources(corpus, folder.reader(corpus))) == 1
    assert split.valid and split.test


chunkings = st.fixed_dictionaries(
    {
        "overlap": st.sampled_from([0.0, 0.25, 0.5, 0.75]),
        "rate": st.sampled_from([RATE, 44100]),
        "length": st.sampled_from([0.4, 1.0, 1.2345, 2.0]),
        "missing": st.sampled_from(["none", "some", "every second"]),
        "sound": st.sampled_from([noise, music]),
        "keep_tail": st.booleans(),
        "odd": st.integers(0, 40),
        "seed": st.integers(0, 5),
    }
)


@settings(max_examples=15)  # each makes, cuts and searches half a minute of sound
@given(chunkings, st.integers(0, 99))
def test_no_held_out_sample_is_in_any_training_chunk(chunking: dict, seed: int) -> None:
    folder = Folder()
    rate = chunking["rate"]
    for number, seconds in enumerate((6.0, 11.3)):
        sound = chunking["sound"](seconds, rate, chunking["seed"] + 10 * number)
        length = int(chunking["length"] * rate) + chunking["odd"]  # in samples, so not whole at the other rate
        overlap = int(chunking["overlap"] * length)
        count = sum(chunking["keep_tail"] or len(chunk) == length for chunk in cut([sound], length, overlap))
        rng = np.random.default_rng(seed)
        silent = {
            "none": [],
            "some": rng.choice(count, count // 3, replace=False).tolist(),
            "every second": list(range(1, count, 2)),
        }[chunking["missing"]]
        chunked(
            folder, f"song {number}", sound, length, overlap, rate=rate, silent=silent, keep_tail=chunking["keep_tail"]
        )
    corpus, split = folder.split(seed=seed, smallest_guard=64)
    assert split.method == "stretches"
    # Chunks that share nothing may seem to, and then only the guards suffer.
    assert smallest_gap(folder, corpus, split) >= (32 if chunking["overlap"] else 0)
    for held in (split.valid, split.test):
        assert 0.02 < share(held, corpus) < 0.25


def test_chunks_of_many_recordings_are_held_out_with_their_recording() -> None:
    folder = Folder()
    for number in range(40):
        chunked(folder, f"song {number}", noise(3, seed=number), RATE, RATE // 2)
    corpus, split = folder.split()
    assert split.method == "files"
    parts = [on_timeline(folder, corpus, spans).keys() for spans in (split.train, split.valid, split.test)]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])


def test_equal_stems_in_different_folders_are_different_recordings() -> None:
    folder = Folder()
    for number in range(2):
        chunked(folder, f"{number}/song", noise(6, seed=number), RATE, 0)
    corpus = folder.corpus()
    sources = find_sources(corpus, folder.reader(corpus))
    assert sorted(len(source.recordings) for source in sources) == [6, 6]
    assert {source.length for source in sources} == {6 * RATE}


@pytest.mark.parametrize("place", ["song", "chunks/song"])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_a_recording_beside_its_own_chunks_is_held_out_with_them(place: str, overlap: float) -> None:
    folder = Folder()
    sound = noise(20)
    folder.add("song.flac", eight_bits(sound), place)
    chunked(folder, place, sound, RATE, int(overlap * RATE), silent=[3, 4, 5, 6])
    for seed in range(5):
        corpus, split = folder.split(seed=seed)
        assert len(find_sources(corpus, folder.reader(corpus))) == 1
        assert smallest_gap(folder, corpus, split) > 0
        assert any(corpus.recordings[span.recording].name == "song.flac" for span in split.valid)


def test_a_copy_is_held_out_with_what_it_copies() -> None:
    folder = Folder()
    for number in range(4):
        folder.add(f"{number}.wav", noise(20, seed=number), str(number))
        folder.add(f"copies/another name {number}.wav", noise(20, seed=number), str(number))
    for seed in range(5):
        corpus, split = folder.split(seed=seed)
        assert smallest_gap(folder, corpus, split) > 0
    for number in range(4, 60):
        folder.add(f"{number}.wav", noise(1, seed=number), str(number))
        folder.add(f"copies/{number}.wav", noise(1, seed=number), str(number))
    corpus, split = folder.split()
    parts = [on_timeline(folder, corpus, spans) for spans in (split.train, split.valid, split.test)]
    gaps = [nearest(parts[0][name], part[name]) for part in parts[1:] for name in part.keys() & parts[0].keys()]
    assert min(gaps, default=1) > 0
