"""Lanes of windows: every sample of the spans once, in its place, after its context, and nothing else."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from corpora import corpus_of, recording_of, without_codes
from hypothesis import given
from hypothesis import strategies as st

from tierwave.data.corpus import Corpus
from tierwave.data.splits import Span
from tierwave.data.windows import IDLE, Codes, LaneWindows, lane_warnings

SILENCE = -1  # no code, so that silence cannot be taken for sound


def positions(lengths: Sequence[int], dtype: type = np.int64) -> Corpus:
    """Recordings whose codes are their own positions, were all recordings one."""
    starts = np.cumsum([0, *lengths])
    return corpus_of([np.arange(*ends).astype(dtype) for ends in pairwise(starts)])


def whole(corpus: Corpus) -> list[Span]:
    return [Span(number, 0, recording.samples) for number, recording in enumerate(corpus.recordings)]


def windows_of(corpus: Corpus, spans: Sequence[Span], **options: object) -> LaneWindows:
    defaults: dict = {"window": 8, "overlap": 4, "lanes": 3}
    silence = options.pop("silence", SILENCE)
    return LaneWindows({"inputs": Codes(corpus, silence)}, spans, **{**defaults, **options})


@st.composite
def readers(draw: st.DrawFn, **fixed: object) -> tuple[Corpus, list[Span], LaneWindows]:
    """Lanes over disjoint spans, in any order, of recordings of any lengths."""
    corpus = positions(draw(st.lists(st.integers(1, 90), min_size=1, max_size=6)))
    spans = []
    for number, recording in enumerate(corpus.recordings):
        cuts = draw(st.lists(st.integers(0, recording.samples), max_size=6, unique=True))
        edges = sorted(cuts)
        spans += [Span(number, start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=False)]
    spans = draw(st.permutations(spans or [Span(0, 0, corpus.recordings[0].samples)]))
    options: dict = {
        "window": draw(st.sampled_from([1, 4, 8, 16])),
        "overlap": draw(st.sampled_from([1, 2, 4, 20])),
        "lanes": draw(st.integers(1, 9)),
        "seed": draw(st.integers(0, 2**40)),
        "shuffled": draw(st.booleans()),
        "whole_spans": draw(st.booleans()),
        "multiple_of": draw(st.integers(1, 3)),
    }
    return corpus, spans, windows_of(corpus, spans, **{**options, **fixed})


def batches_of(windows: LaneWindows, epoch: int) -> list[tuple[np.ndarray, ...]]:
    layout = windows.layout(epoch)
    batches = [windows.batch(tuple(part[step] for part in layout)) for step in range(windows.steps)]
    return [(batch["inputs"], batch["mask"], batch["reset"]) for batch in batches]


def flat(corpus: Corpus, span: Span) -> range:
    offset = sum(recording.samples for recording in corpus.recordings[: span.recording])
    return range(offset + span.start, offset + span.stop)


@given(readers(), st.integers(0, 5))
def test_every_sample_is_a_target_once_after_its_context(
    reader: tuple[Corpus, list[Span], LaneWindows], epoch: int
) -> None:
    corpus, spans, windows = reader
    span_of = {position: flat(corpus, span) for span in spans for position in flat(corpus, span)}
    seen: list[int] = []
    for inputs, mask, _ in batches_of(windows, epoch):
        assert inputs.shape == (windows.lanes, windows.overlap + windows.window)
        assert inputs.dtype == np.int32 and mask.dtype == np.float32 and mask.shape == (windows.lanes, windows.window)
        targets = inputs[:, windows.overlap :]
        assert np.array_equal(mask == 1, targets != SILENCE)  # masked is what is padding, and only that
        assert set(np.unique(mask)) <= {0.0, 1.0}
        for lane in range(windows.lanes):
            real = targets[lane][mask[lane] == 1]
            assert np.array_equal(mask[lane], np.arange(windows.window) < len(real))  # padding comes last
            seen += real.tolist()
            if not len(real):
                assert (inputs[lane] == SILENCE).all()
                continue
            span = span_of[int(real[0])]
            expected = np.arange(real[0] - windows.overlap, real[0] + windows.window)
            expected[(expected < span.start) | (expected >= span.stop)] = SILENCE
            assert np.array_equal(inputs[lane], expected)
    assert sorted(seen) == sorted(span_of)
    assert windows.samples == len(span_of)


@given(readers(), st.integers(0, 5))
def test_state_is_carried_where_sound_goes_on_and_reset_where_it_does_not(
    reader: tuple[Corpus, list[Span], LaneWindows], epoch: int
) -> None:
    corpus, spans, windows = reader
    beginnings = {flat(corpus, span).start for span in spans}
    end: list[int | None] = [None] * windows.lanes
    for inputs, mask, reset in batches_of(windows, epoch):
        for lane in range(windows.lanes):
            real = inputs[lane, windows.overlap :][mask[lane] == 1]
            if not len(real):
                assert not reset[lane]
                continue
            assert reset[lane] == (end[lane] is None or real[0] in beginnings)
            assert reset[lane] or real[0] == end[lane]
            end[lane] = int(real[-1]) + 1


@pytest.mark.parametrize("epoch", [0, 3])
def test_some_windows_begin_from_silence_and_all_samples_stay_targets(epoch: int) -> None:
    corpus = positions([4000])
    plain, fresh = (windows_of(corpus, whole(corpus), fresh_starts=share) for share in (0.0, 0.2))
    begun = 0
    for before, after in zip(plain.epoch(epoch), fresh.epoch(epoch), strict=True):
        reset = after["reset"].numpy()
        begun += int((reset & ~before["reset"].numpy()).sum())
        assert (reset | ~before["reset"].numpy()).all()
        np.testing.assert_array_equal(after["targets"], before["targets"])
        np.testing.assert_array_equal(after["mask"], before["mask"])
        context = after["inputs"].numpy()[:, :4]
        assert (context[reset] == SILENCE).all()
        np.testing.assert_array_equal(context[~reset], before["inputs"].numpy()[~reset, :4])
    assert 0.1 < begun / 500 < 0.3
    again = [batch["reset"].numpy() for batch in windows_of(corpus, whole(corpus), fresh_starts=0.2).epoch(epoch)]
    np.testing.assert_array_equal(again, [batch["reset"].numpy() for batch in fresh.epoch(epoch)])


def test_lanes_can_begin_with_silence_behind_them_in_the_middle_of_a_recording() -> None:
    corpus = positions([4000])
    plain, silent = (
        windows_of(corpus, whole(corpus), shuffled=False, silent_starts=silent) for silent in (False, True)
    )
    for step, (before, after) in enumerate(zip(plain.epoch(0), silent.epoch(0), strict=True)):
        inputs = before["inputs"].numpy().copy()
        if step == 0:
            assert after["reset"].numpy().all() and (inputs[1:, :4] != SILENCE).all()
            inputs[:, :4] = SILENCE
        np.testing.assert_array_equal(after["inputs"], inputs)
        for name in ("targets", "mask", "reset"):
            np.testing.assert_array_equal(after[name], before[name])


def test_some_recordings_go_on_from_another_ones_state() -> None:
    corpus = positions([100] * 50)
    plain, joined = (windows_of(corpus, whole(corpus), joined=share) for share in (0.0, 0.5))
    kept = begun = 0
    for step, (before, after) in enumerate(zip(plain.epoch(2), joined.epoch(2), strict=True)):
        resets, still = before["reset"].numpy(), after["reset"].numpy()
        assert not (still & ~resets).any()
        if step == 0:
            np.testing.assert_array_equal(still, resets)  # nothing came before
            continue
        kept, begun = kept + int(still.sum()), begun + int(resets.sum())
        for name in ("inputs", "targets", "mask"):
            np.testing.assert_array_equal(after[name], before[name])
    assert 0.3 < kept / begun < 0.7


@given(readers(whole_spans=False), st.integers(0, 5))
def test_lanes_differ_by_at_most_one_window_of_work(reader: tuple[Corpus, list[Span], LaneWindows], epoch: int) -> None:
    _, _, windows = reader
    busy = windows.layout(epoch)[0] != IDLE
    work = busy.sum(axis=0)
    assert work.max() - work.min() <= 1 and work.sum() == windows.windows
    assert windows.steps == work.max()
    assert np.array_equal(busy, np.arange(windows.steps)[:, None] < work)  # idle only at the end


@given(readers(whole_spans=True), st.integers(0, 5))
def test_whole_spans_are_read_by_one_lane_from_their_start(
    reader: tuple[Corpus, list[Span], LaneWindows], epoch: int
) -> None:
    _, spans, windows = reader
    span, place, reset = windows.layout(epoch)
    for number in range(len(spans)):
        steps, lanes = np.nonzero(span == number)
        assert len(set(lanes)) == 1
        assert np.array_equal(steps, np.arange(steps[0], steps[0] + len(steps)))
        assert np.array_equal(place[steps, lanes], np.arange(len(steps)))
    assert np.array_equal(reset, (span != IDLE) & (place == 0))
    # A greedy deal, longest first, is never more than a third above the best one (Graham 1969).
    lengths = np.bincount(span[span != IDLE], minlength=len(spans))
    best = max(lengths.max(), -(-lengths.sum() // windows.lanes))
    assert windows.steps <= best * 4 / 3 + 1


@given(readers(), st.integers(0, 5))
def test_lanes_are_as_many_as_asked_for_or_as_there_is_work(
    reader: tuple[Corpus, list[Span], LaneWindows], epoch: int
) -> None:
    corpus, spans, _ = reader
    for whole_spans, most in ((False, sum(-(-(span.stop - span.start) // 8) for span in spans)), (True, len(spans))):
        for lanes, multiple_of in ((1, 1), (4, 1), (4, 3), (200, 1), (200, 8)):
            windows = windows_of(corpus, spans, lanes=lanes, multiple_of=multiple_of, whole_spans=whole_spans)
            wanted = min(lanes, most)
            assert windows.lanes % multiple_of == 0 and wanted <= windows.lanes < wanted + multiple_of


def test_five_long_files_keep_64_lanes_busy() -> None:
    corpus = positions([100_003, 90_001, 120_000, 80_500, 110_250])
    windows = windows_of(corpus, whole(corpus), window=1024, overlap=64, lanes=64)
    span, _, reset = windows.layout(0)
    assert windows.lanes == 64
    assert np.mean(span != IDLE) > 0.95
    assert reset.sum() <= 64 + 5  # the state is lost where a lane or a file begins, nowhere else


def test_a_file_shorter_than_a_window_is_one_masked_window() -> None:
    corpus = positions([5])
    windows = windows_of(corpus, whole(corpus), lanes=64)
    assert (windows.lanes, windows.steps, windows.windows) == (1, 1, 1)
    inputs, mask, reset = batches_of(windows, 0)[0]
    assert inputs.tolist() == [[SILENCE] * 4 + [0, 1, 2, 3, 4] + [SILENCE] * 3]
    assert mask.tolist() == [[1] * 5 + [0] * 3] and reset.tolist() == [True]


def test_codes_of_any_dtype_become_int32() -> None:
    for dtype, silence in ((np.uint8, 128), (np.uint16, 32768)):
        corpus = positions([20], dtype)
        windows = windows_of(corpus, whole(corpus), silence=silence, lanes=1, shuffled=False)
        inputs = windows.batch(tuple(part[0] for part in windows.layout(0)))["inputs"]
        assert inputs.dtype == np.int32
        assert inputs.tolist() == [[silence] * 4 + list(range(8))]


@given(readers(), st.integers(0, 5))
def test_the_order_is_a_function_of_seed_and_epoch(reader: tuple[Corpus, list[Span], LaneWindows], epoch: int) -> None:
    corpus, spans, windows = reader
    names = ("window", "overlap", "lanes", "seed", "shuffled", "whole_spans")
    options = {name: getattr(windows, name) for name in names}
    again = windows_of(corpus, spans, multiple_of=windows.lanes, **options)
    again.layout(epoch + 1)
    np.random.seed(epoch)
    for here, there in zip(windows.layout(epoch), again.layout(epoch), strict=True):
        assert np.array_equal(here, there)


@pytest.mark.parametrize("lengths", [[400] * 20, [4000]])
def test_epochs_and_seeds_differ_even_over_one_span(lengths: list[int]) -> None:
    corpus = positions(lengths)
    orders = {
        tuple(map(bytes, windows_of(corpus, whole(corpus), seed=seed).layout(epoch)))
        for seed in range(2)
        for epoch in range(3)
    }
    assert len(orders) == 6
    still = windows_of(corpus, whole(corpus), shuffled=False)
    assert all(np.array_equal(a, b) for a, b in zip(still.layout(0), still.layout(1), strict=True))


def test_unshuffled_lanes_read_the_spans_in_their_order() -> None:
    corpus = positions([40, 24, 16])
    windows = windows_of(corpus, [Span(2, 0, 16), Span(0, 0, 40), Span(1, 0, 24)], lanes=2, shuffled=False)
    span, place, _ = windows.layout(7)
    assert span.T.ravel().tolist() == [0, 0, 1, 1, 1, 1, 1, 2, 2, 2]
    assert place.T.ravel().tolist() == [0, 1, 0, 1, 2, 3, 4, 0, 1, 2]
    spans_read = windows.layout(0)[0]
    assert [spans_read[0, 0], spans_read[4, 1]] == [0, 2]


def test_an_epoch_from_a_step_on_is_the_tail_of_the_epoch() -> None:
    corpus = positions([37, 90, 64, 8])
    windows = windows_of(corpus, whole(corpus), lanes=4)
    everything = [{name: part.numpy() for name, part in batch.items()} for batch in windows.epoch(2)]
    assert len(everything) == windows.steps
    for batch, (inputs, mask, reset) in zip(everything, batches_of(windows, 2), strict=True):
        assert np.array_equal(batch["inputs"], inputs) and np.array_equal(batch["mask"], mask)
        assert np.array_equal(batch["reset"], reset) and np.array_equal(batch["targets"], inputs[:, 4:])
    for first_step in (1, windows.steps - 1, windows.steps):
        tail = list(windows.epoch(2, first_step))
        assert len(tail) == windows.steps - first_step
        for batch, expected in zip(tail, everything[first_step:], strict=True):
            assert all(np.array_equal(batch[name], expected[name]) for name in expected)
    assert any(
        not np.array_equal(batch["inputs"], other["inputs"])
        for batch, other in zip(everything, windows.epoch(3), strict=True)
    )


def test_an_epoch_knows_its_shapes_before_it_is_read() -> None:
    corpus = positions([300])
    windows = windows_of(corpus, whole(corpus), lanes=4)
    described = {name: (tuple(spec.shape), spec.dtype.name) for name, spec in windows.epoch(0).element_spec.items()}
    assert described == {
        "inputs": ((4, 12), "int32"),
        "targets": ((4, 8), "int32"),
        "mask": ((4, 8), "float32"),
        "reset": ((4,), "bool"),
    }


def test_past_epochs_leave_no_layout_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = positions([300, 300])
    windows = windows_of(corpus, whole(corpus))
    made = []
    layout = windows.layout

    def watched(epoch: int) -> tuple[np.ndarray, ...]:
        result = layout(epoch)
        made.append(weakref.ref(result[0]))
        return result

    monkeypatch.setattr(windows, "layout", watched)
    for epoch in range(3):
        list(windows.epoch(epoch))
    gc.collect()
    assert len(made) >= 3
    assert sum(reference() is not None for reference in made) <= 1


def test_a_ten_hour_corpus_is_laid_out_in_a_few_megabytes(tmp_path: Path) -> None:
    samples = 10 * 3600 * 16000
    with open(tmp_path / "long.codes", "wb") as file:
        file.truncate(samples)  # all zeros, and no space on most disks
    corpus = replace(without_codes([recording_of("long.wav", samples)]), files=(tmp_path / "long.codes",))
    windows = windows_of(corpus, [Span(0, 0, samples)], window=1024, overlap=64, lanes=64, silence=128)
    layout = windows.layout(0)
    assert windows.windows == 562_500
    assert sum(part.nbytes for part in layout) < 20e6
    batch = windows.batch(tuple(part[windows.steps - 2] for part in layout))
    inputs, mask = batch["inputs"], batch["mask"]
    assert (inputs[:, 64:] == 0).all() and mask.all()


def test_warnings_of_lanes() -> None:
    corpus = positions([300])
    few = windows_of(corpus, whole(corpus), lanes=64)
    assert len(lane_warnings(few, 64)) == 1
    assert f"{few.windows} windows" in lane_warnings(few, 64)[0] and "batch_size 64" in lane_warnings(few, 64)[0]
    short = windows_of(corpus, whole(corpus), lanes=16)
    assert len(lane_warnings(short, 16)) == 1 and "--batch_size" in lane_warnings(short, 16)[0]
    assert lane_warnings(windows_of(corpus, whole(corpus), lanes=2), 2) == []
