"""Text in the first tier: one frame at a time gives what whole windows give, the look never goes back, and what is read
from a corpus is what it says."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from corpora import corpus_of
from hypothesis import given, settings
from hypothesis import strategies as st

import melnet
import melnet.generation
from commands import eagerly
from melnet.attention import HOLD_FRAMES, TextAttention, attend, end_of, is_past
from melnet.config import Config
from melnet.data import ENCODER
from melnet.model import MelTier
from melnet.sampler import BLOCK_FRAMES, TierSampler
from melnet.text import Alphabet, Texts, find_transcripts, normalised, padded
from tierwave.analysis.plots import alignment_picture
from tierwave.config import TrainingOptions
from tierwave.controls.schema import Parameter, Schema
from tierwave.data.corpus import Corpus
from tierwave.data.splits import Span, Split
from tierwave.data.windows import Where
from tierwave.errors import RunError, UsageError
from tierwave.generation.request import Request
from tierwave.training.step import Learner

RATE = 8000
AUDIO = {"n_fft": 128, "win_length": 96, "hop_length": 64, "mel_channels": 8}
CODES = np.array([[3, 1, 2, 5, 4], [2, 2, 6, 0, 0], [1, 0, 0, 0, 0]], np.int32)


def config_of(**keys: Any) -> Config:
    document: dict[str, Any] = {
        "audio": AUDIO,
        "tiers": 3,
        "layers": [3, 1, 1],
        "hidden_size": 5,
        "mixtures": 2,
        "seq_len": 12,
        "text": {"components": 3},
        **keys,
    }
    return Config(**document)


def tier_of(config: Config, scale: float = 0.4) -> MelTier:
    """A first tier with random weights."""
    model = MelTier(config, 1)
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(0, scale, variable.shape))
    return model


# --- the attention ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "cell"),
    [(None, "lstm"), (1, "gru"), (3, "lstm")]
    + [pytest.param(*case, marks=pytest.mark.slow) for case in ((None, "gru"), (1, "lstm"), (3, "gru"))],
)
def test_steps_equal_the_sequence(layer: int | None, cell: str) -> None:
    config = config_of(text={"components": 3, "layer": layer}, cell=cell, conditioned_on=["p"])
    model = tier_of(config)
    rng, frames = np.random.default_rng(1), 4
    values = rng.normal(size=(3, frames, model.bins)).astype(np.float32)
    controls = tf.constant(rng.normal(size=(3, frames, 1)), tf.float32)
    weights = model.effective_weights()
    memory = model.encode_text(tf.constant(CODES), weights)
    conditions = model.conditioning(None, controls, weights)
    expected, after, alignment = model.stacks(
        tf.constant(values), tf.zeros([3, model.bins]), conditions, model.initial_state(3), weights, memory
    )
    seen: list[list[np.ndarray]] = []
    flat = values.transpose(1, 2, 0).reshape(-1, 3)

    def draw(*given: tf.Tensor) -> tf.Tensor:
        seen.append([part.numpy() for part in given[:3]])
        return tf.constant(flat[len(seen) - 1])

    sampler = TierSampler(model, sample=draw, jit=False)
    blocks: Any = tuple(
        None if part is None else tf.pad(part, [[0, 0], [0, BLOCK_FRAMES - frames], *[[0, 0]] * (len(part.shape) - 2)])
        for part in conditions
    )
    made, last = sampler.block(
        weights,
        sampler.start(3),
        blocks,
        tf.constant(frames),
        tf.zeros([3, 2], tf.int32),
        tf.ones([3]),
        tf.constant(0.0),
        memory,
    )
    for number, whole in enumerate(expected):
        stepped = np.stack([parts[number] for parts in seen]).reshape(frames, model.bins, 3, -1).transpose(2, 0, 1, 3)
        np.testing.assert_allclose(stepped, whole, atol=1e-5)
    assert made.alignment is not None and alignment is not None
    np.testing.assert_allclose(made.alignment.weights[:, :frames], alignment.weights, atol=1e-5)
    np.testing.assert_allclose(made.alignment.past[:, :frames], alignment.past, atol=1e-5)
    for stepped, whole in zip(tf.nest.flatten(last.recurrent), tf.nest.flatten(after), strict=True):
        np.testing.assert_allclose(stepped, whole, atol=1e-5)


def test_a_layer_with_text_hears_it() -> None:
    for layer in (1, 3):  # the last too
        model = tier_of(config_of(text={"layer": layer}))
        state, weights = model.initial_state(3), model.effective_weights()
        given = tf.zeros([3, 2, model.bins]), tf.zeros([3, model.bins]), None, None, state, weights
        one, _ = model.sequence(*given, tf.constant(CODES))
        other, _ = model.sequence(*given, tf.constant(CODES[::-1].copy()))
        assert np.abs(one[1] - other[1]).max() > 1e-4


def test_padding_changes_nothing() -> None:
    attention = TextAttention(6, 5, 3, name="text")
    weights = attention.effective_weights()
    h = tf.random.stateless_normal([1, 4, 5], [1, 2])
    results = []
    for codes in (CODES[1:2, :3], CODES[1:2], np.pad(CODES[1:2], [(0, 0), (0, 9)])):
        memory = attention.encode_text(tf.constant(codes), weights)
        added, alignment, state = attention.sequence(h, memory, attention.initial_state(1), weights)
        assert not np.any(alignment.weights[:, :, 3:])
        results.append([memory.values[:, :3], alignment.weights[:, :, :3], alignment.past, added, *state[1:]])
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_allclose(one, two, atol=1e-6)


def test_the_encoder_reads_both_ways() -> None:
    attention = TextAttention(6, 6, 2, name="text")
    weights = attention.effective_weights()

    def encoded(codes: list[int]) -> np.ndarray:
        return attention.encode_text(tf.constant([codes], tf.int32), weights).values.numpy()[0]

    last, first = encoded([1, 2, 3]) - encoded([1, 2, 4]), encoded([1, 2, 3]) - encoded([5, 2, 3])
    assert np.abs(last[0, :3]).max() == 0.0 and np.abs(last[0, 3:]).max() > 1e-6  # seen from behind only
    assert np.abs(first[2, 3:]).max() == 0.0 and np.abs(first[2, :3]).max() > 1e-6


def test_the_look_is_a_discretised_mixture_of_logistics() -> None:
    rng = np.random.default_rng(2)
    kappa, beta = rng.uniform(0, 6, (2, 3)), rng.uniform(0.2, 2, (2, 3))
    alpha = rng.dirichlet(np.ones(3), 2)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], np.float32)
    found = attend(*(tf.constant(part, tf.float32) for part in (kappa, beta, alpha, mask)))
    for lane, length in enumerate((5, 2)):
        for u in range(1, length + 1):
            upper, lower = (1 / (1 + np.exp(-(u + half - kappa[lane]) / beta[lane])) for half in (0.5, -0.5))
            np.testing.assert_allclose(found.weights[lane, u - 1], np.sum(alpha[lane] * (upper - lower)), atol=1e-6)
        beyond = 1 - np.sum(alpha[lane] / (1 + np.exp(-(length + 0.5 - kappa[lane]) / beta[lane])))
        np.testing.assert_allclose(found.past[lane], beyond, atol=1e-6)


@pytest.mark.slow
@given(st.integers(0, 2**31), st.sampled_from([0.3, 2.0, 8.0]))
def test_no_component_ever_goes_back(seed: int, scale: float) -> None:
    attention = TextAttention(6, 4, 3, name="text")
    rng = np.random.default_rng(seed)
    for variable in attention.trainable_variables:
        variable.assign(rng.normal(0, scale, variable.shape))
    weights = attention.effective_weights()
    memory = attention.encode_text(tf.constant(CODES), weights)
    state = attention.initial_state(3)
    for _ in range(8):
        before = state.kappa
        h = tf.constant(rng.normal(0, scale, (3, 4)), tf.float32)
        _, alignment, state = attention.step(h, memory, state, weights)
        assert np.all(state.kappa - before > 0.0)
        assert np.all(alignment.weights.numpy() >= 0.0)
        assert np.all(alignment.weights.numpy().sum(1) + alignment.past <= 1.0 + 1e-5)


def test_the_mean_position_goes_on_where_breadth_and_trust_stay() -> None:
    mask = tf.ones([1, 40])
    beta, alpha = tf.constant([[0.3, 0.9]]), tf.constant([[0.6, 0.4]])
    positions = []
    for step in np.linspace(2, 30, 60):
        weights, _ = attend(tf.constant([[step, 0.8 * step + 1]], tf.float32), beta, alpha, mask)
        positions.append(float(np.sum(weights * np.arange(1, 41))))
    assert np.all(np.diff(positions) > 0)
    np.testing.assert_allclose(positions[30], 0.6 * 16.237 + 0.4 * (0.8 * 16.237 + 1), atol=0.05)


@pytest.mark.parametrize("recompute, jit", [(False, False), pytest.param(True, True, marks=pytest.mark.slow)])
def test_gradients_are_those_of_finite_differences(recompute: bool, jit: bool) -> None:
    model = tier_of(config_of(recompute=recompute, layers=[1, 1, 1], hidden_size=4), 1.0)
    rng = np.random.default_rng(3)
    batch = {
        "inputs": tf.constant(rng.normal(size=(3, 14, 8)), tf.float32),
        "mask": tf.ones([3, 12]),
        "reset": tf.constant([True, False, True]),
        "text": tf.constant(CODES),
    }

    def nats() -> tf.Tensor:
        return tf.reduce_sum(model.loss_sums(batch, model.initial_state(3)).nats)

    def backward() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            total = nats()
        return [tf.convert_to_tensor(each) for each in tape.gradient(total, variables)]

    assert model.text is not None
    variables = [variable.value for variable in model.text.trainable_variables]
    # Compiled as in training: the gradient of the loop must be one that XLA takes.
    gradients = (tf.function(backward, jit_compile=True, autograph=False) if jit else backward)()
    traced = tf.function(nats, autograph=False)  # called twice for each variable
    for variable, gradient in zip(variables, gradients, strict=True):
        start = variable.numpy()
        direction = gradient.numpy() / np.linalg.norm(gradient)
        ends = []
        for side in (-1, 1):
            variable.assign(start + side * 1e-2 * direction)
            ends.append(float(traced()))
        variable.assign(start)
        assert np.linalg.norm(gradient) > 0.1
        np.testing.assert_allclose((ends[1] - ends[0]) / 2e-2, np.linalg.norm(gradient), rtol=0.03)


def test_without_text_nothing_is_there() -> None:
    model = MelTier(config_of(text=None), 1)
    assert model.text is None and model.initial_state(2).text == () and model.effective_weights().text is None
    assert not any("text" in variable.path for variable in model.variables)
    assert MelTier(config_of(), 2).text is None
    with pytest.raises(ValueError, match="needs a text"):
        reader = tier_of(config_of())
        reader.encode_text(None, reader.effective_weights())


# --- the end of the text ----------------------------------------------------------------------------------------------


def test_the_text_is_over_when_more_lies_past_it_than_on_any_character() -> None:
    mask, one = tf.ones([1, 6]), tf.ones([1, 1])
    passed = []
    for kappa in (1.0, 5.0, 6.0, 6.4, 6.6, 9.0):
        look = attend(tf.constant([[kappa]]), 0.3 * one, one, mask)
        passed.append(bool(is_past(look.weights.numpy(), look.past.numpy())[0]))
    assert passed == [False, False, False, False, True, True]


def test_the_end_is_held() -> None:
    assert HOLD_FRAMES == 3
    assert end_of(np.array([0, 1, 1, 0, 1, 1, 1, 1], bool)) == 7
    assert end_of(np.array([1, 1, 0, 1, 1], bool)) is None
    assert end_of(np.array([1, 1, 1], bool)) == 3


# --- transcripts and alphabet -----------------------------------------------------------------------------------------


def test_text_is_normalised() -> None:
    assert normalised("  A\u0308pfel,\n\tUND  E\u0301 ") == "äpfel, und é"


@settings(max_examples=15)
@given(st.lists(st.text(min_size=1).filter(lambda text: normalised(text)), min_size=1, max_size=4))
def test_an_alphabet_spells_what_it_was_fitted_to(texts: list[str]) -> None:
    said = [normalised(text) for text in texts]
    alphabet = Alphabet.fit(said)
    assert list(alphabet.characters) == sorted(set("".join(said)))
    for text in said:
        codes = alphabet.encode(text)
        if normalised(text) == text:  # a few characters change again when lower-cased twice
            assert "".join(alphabet.characters[code - 1] for code in codes) == text
        assert codes.min() >= 1


def test_an_unknown_character_is_named() -> None:
    with pytest.raises(UsageError, match=r'character "x" \(latin small letter x\).* only " abc"'):
        Alphabet(" abc").encode("cab x")
    with pytest.raises(UsageError, match="is empty"):
        Alphabet("a").encode(" \n")


def test_padded() -> None:
    codes = [np.array([1, 2, 3]), np.array([4])]
    assert padded(codes).tolist() == [[1, 2, 3], [4, 0, 0]]
    assert padded(codes, 4).shape == (2, 4)


@pytest.mark.parametrize("column, expected", [(1, 'he said "4 | no'), (2, "he said four")])
def test_metadata_of_ljspeech(tmp_path: Path, column: int, expected: str) -> None:
    lines = ['LJ001-0001|He said "4 \u00a6 no|He said four', "LJ001-0002|Two|two\n"]
    (tmp_path / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    path, found = find_transcripts(tmp_path, column)
    assert path.name == "metadata.csv"
    assert found["LJ001-0001"] == expected.replace("|", "\u00a6") and found["LJ001-0002"] == "two"


def test_a_manifest_with_the_named_column(tmp_path: Path) -> None:
    (tmp_path / "notes.csv").write_text("time,value\n0,1\n")
    (tmp_path / "odd.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "said.csv").write_text('# by hand\nfilename,speaker,text\nsub/a.wav,1,"One, two"\nb,2,Three\n')
    _, found = find_transcripts(tmp_path, "text")
    assert found == {"sub/a.wav": "one, two", "b": "three"}


def spoken_corpus(samples: list[int], names: list[str]) -> Corpus:
    rng = np.random.default_rng(4)
    sounds = [np.sin(0.2 * np.arange(n)) * 0.5 + rng.normal(0, 0.05, n) for n in samples]
    return corpus_of([ENCODER.encode(sound.astype(np.float32)) for sound in sounds], RATE, names)


@pytest.fixture
def spoken(tmp_path: Path) -> Iterator[tuple[Corpus, Path]]:
    """Two recordings, found by their bare id and by their path."""
    (tmp_path / "metadata.csv").write_text("a|Baa.\nwavs/b.wav|a b\n")
    yield spoken_corpus([640, 400], ["wavs/a.wav", "wavs/b.wav"]), tmp_path


def test_the_texts_of_a_corpus(spoken: tuple[Corpus, Path]) -> None:
    texts = Texts.of(*spoken, 1)
    assert texts.said == ("baa.", "a b") and texts.document == {"alphabet": " .ab", "longest": 4}
    assert texts.codes.tolist() == [[4, 3, 3, 2], [3, 1, 4, 0]]
    where = Where(np.array([1, 0, 1]), np.zeros([3, 5], int), np.ones([3, 5], bool), 0)
    assert texts.read(where).tolist() == texts.codes[[1, 0, 1]].tolist()
    with pytest.raises(UsageError, match='the text of wavs/a.wav has the character "."'):
        Texts.of(*spoken, 1, {"alphabet": " ab", "longest": 9})
    assert texts.remarks == ()


def test_texts_of_no_recording_are_named(spoken: tuple[Corpus, Path]) -> None:
    corpus, folder = spoken
    with open(folder / "metadata.csv", "a", encoding="utf-8") as file:
        file.write("c|x\nwavs/d.wav|x\n")
    corpus = replace(corpus, left_out=(("wavs/d.wav", "it is empty"),))
    dataset_state, _ = prepared_of((corpus, folder), config_of(text={"column": 1}))
    assert dataset_state.remarks == (
        f"{folder / 'metadata.csv'} has texts for c, of which there is no recording: correct the names, or delete the "
        "rows",
    )


@pytest.mark.parametrize(
    "name, content, column, message",
    [
        ("metadata.csv", "a|Baa\n", 1, "wavs/b.wav has no text in"),
        ("metadata.csv", "a|Baa\nb| \n", 1, "wavs/b.wav has an empty text"),
        ("metadata.csv", "a|Baa\na|Boo\nb|x\n", 1, "two texts for a, the second at line 2"),
        ("metadata.csv", "a|Baa\nb\n", 1, "line 2 of .* has 1 columns"),
        ("metadata.csv", "a|Baa\nb|x\n", 2, "text.column is 2"),
        ("metadata.csv", "a|Baa\nb|x\n", "text", "no CSV in .* give a number"),
        ("said.csv", "filename,text\na,x\nb,y\n", 1, "metadata.csv, and there is none"),
        ("said.csv", "filename,text\na,one, two\n", "text", "line 2 of .* quotes"),
        ("said.csv", "filename,text\na,x\n", "words", "no CSV in .* columns filename and words"),
    ],
)
def test_transcripts_that_do_not_fit(tmp_path: Path, name: str, content: str, column: int | str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(RunError, match=message):
        Texts.of(spoken_corpus([640, 400], ["wavs/a.wav", "wavs/b.wav"]), tmp_path, column)


# --- from the corpus to training --------------------------------------------------------------------------------------


def prepared_of(spoken: tuple[Corpus, Path], config: Config, stored: dict[str, Any] | None = None) -> Any:
    corpus, folder = spoken
    spans = [Span(number, 0, recording.samples) for number, recording in enumerate(corpus.recordings)]
    split = Split("files", tuple(spans), (), ())
    return melnet.FAMILY.prepare(corpus, split, config, stored, data_dir=folder), spans


def test_windows_bring_the_text_of_their_recording(spoken: tuple[Corpus, Path]) -> None:
    config = config_of(text={"column": 1, "components": 3})
    dataset_state, spans = prepared_of(spoken, config)
    stored = json.loads(json.dumps(dataset_state.to_json()))
    again, _ = prepared_of(spoken, config, stored)
    assert again.to_json() == stored and stored["text"] == {"alphabet": " .ab", "longest": 4}
    windows = melnet.FAMILY.dataset(
        spoken[0], spans, config, "tier1", lanes=2, dataset_state=dataset_state, shuffled=False
    )
    batch = next(iter(windows.epoch(0)))
    assert batch["text"].shape == (2, 4) and batch["text"].numpy().tolist() == dataset_state.texts.codes.tolist()
    assert batch["inputs"].shape == (2, 12, 8) and batch["reset"].numpy().all()
    assert "text" not in next(
        iter(melnet.FAMILY.dataset(spoken[0], spans, config, "tier2", lanes=2, dataset_state=dataset_state).epoch(0))
    )
    with pytest.raises(ValueError, match="data_dir"):
        melnet.FAMILY.prepare(spoken[0], Split("files", tuple(spans), (), ()), config, None)


def test_a_recording_is_one_window(spoken: tuple[Corpus, Path]) -> None:
    config = config_of(text={"column": 1}, seq_len=6)
    dataset_state, spans = prepared_of(spoken, config)
    windows = melnet.FAMILY.dataset(spoken[0], spans, config, "tier1", lanes=2, dataset_state=dataset_state)
    assert windows.window == 10 and windows.layout(0)[2].all()  # the longest recording; every window is a new one
    assert (
        melnet.FAMILY.dataset(spoken[0], spans[:1], config, "tier1", lanes=2, dataset_state=dataset_state).window == 10
    )
    assert melnet.FAMILY.dataset(spoken[0], spans, config, "tier2", lanes=2, dataset_state=dataset_state).window == 6
    with pytest.raises(UsageError, match=r"a part of wavs/b.wav is held out.*--val_frac 0 --monitor loss"):
        melnet.FAMILY.dataset(spoken[0], [Span(1, 128, 400)], config, "tier1", lanes=2, dataset_state=dataset_state)


numbers = keras.ops.convert_to_numpy


@pytest.mark.parametrize("steered_before", [True, False])
def test_weights_go_over_by_character_and_by_parameter(steered_before: bool) -> None:
    keras.utils.set_random_seed(1)
    texts = {"text": {"column": 1, "components": 2}, "layers": [1, 1, 1]}
    old = config_of(**texts, conditioned_on=["p"] if steered_before else [])
    new = config_of(**texts, conditioned_on=["q", "p"])
    source, target = melnet.FAMILY.build(old, "tier1"), melnet.FAMILY.build(new, "tier1")
    own, learned = (numbers(tier.text.embedding) for tier in (target, source))
    highest = [{"p": 10.0}, {"p": 5.0, "q": 1.0}]
    ranges = [Schema(parameters=tuple(Parameter(name=n, lo=0.0, hi=hi) for n, hi in each.items())) for each in highest]
    documents = [{"text": {"alphabet": "abc"}}, {"text": {"alphabet": "bcx"}}]
    melnet.FAMILY.take_weights(source, target, *ranges, source_state=documents[0], dataset_state=documents[1])
    now = numbers(target.text.embedding)
    np.testing.assert_array_equal(now[:3], learned[[0, 2, 3]])
    np.testing.assert_array_equal(now[3:], own[3:])
    for name in ("controls_to_time", "controls_to_frequency", "controls_to_central"):
        kernel = numbers(getattr(target, name).kernel)
        assert not kernel[0].any()  # q is new
        if steered_before:  # 5 is the top of the range now, and was the middle
            np.testing.assert_allclose(kernel[1], numbers(getattr(source, name).kernel)[0] / 2, rtol=1e-6)
        else:
            assert not kernel.any()
    np.testing.assert_array_equal(numbers(target.output_map.kernel), numbers(source.output_map.kernel))
    with pytest.raises(UsageError, match="steered by controls"):
        melnet.FAMILY.take_weights(
            target,
            melnet.FAMILY.build(config_of(**texts), "tier1"),
            *ranges,
            source_state=documents[0],
            dataset_state=documents[1],
        )


@pytest.mark.slow
def test_it_trains(spoken: tuple[Corpus, Path]) -> None:
    config = config_of(text={"column": 1, "components": 2}, layers=[1, 1, 1])
    dataset_state, spans = prepared_of(spoken, config)
    windows = melnet.FAMILY.dataset(spoken[0], spans, config, "tier1", lanes=2, dataset_state=dataset_state)
    options = TrainingOptions(optimizer="adam", learning_rate=0.01)
    learner = Learner(lambda: melnet.FAMILY.build(config, "tier1"), options, clip_norm=1.0)
    state = learner.initial_state(2)
    before = learner.model.text.embedding.numpy()
    losses = []
    for step, batch in enumerate(windows.epoch(0)):
        with eagerly():
            values, state = learner.train_step(batch, state, step)
        losses.append(values["loss"])
    assert np.isfinite(losses).all() and np.mean(losses[-3:]) < losses[0]
    moved = np.abs(learner.model.text.embedding.numpy() - before).max(axis=1)
    assert np.all(moved[1:5] > 0.0) and not np.any(moved[5:])


# --- generation -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models() -> list[MelTier]:
    """Compiled once for all tests."""
    return [MelTier(config_of(layers=[1, 1, 1]), tier) for tier in (1, 2, 3)]


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch, models: list[MelTier]) -> tuple[Config, list[MelTier], dict[str, Any]]:
    """A model with random weights; what turns spectrograms into sound is another module's matter."""

    def silence(log_mel: np.ndarray, front_end: Any, **options: Any) -> np.ndarray:
        return np.ones(len(log_mel) * AUDIO["hop_length"], np.float32)

    monkeypatch.setattr(melnet.generation, "invert", silence)
    rng = np.random.default_rng(0)
    for variable in models[0].trainable_variables:
        variable.assign(rng.normal(0, 0.2, variable.shape))
    stored = {"offset": [0.0], "scale": 1.0, "clip": False, "text": {"alphabet": " abc", "longest": 9}}
    return models[0].config, models, stored


def hurried(model: MelTier, step: float) -> None:
    """All components go on by `step` characters per frame, with a narrow look."""
    text: Any = model.text
    components, kernel, bias = text.components, text.mixture.kernel, text.mixture.bias
    kernel.assign(tf.zeros_like(kernel))
    ahead = np.log(np.expm1(step - 1e-3))
    bias.assign(np.repeat([ahead, -9.0, 0.0], components).astype(np.float32))


@pytest.mark.slow
def test_the_sound_ends_with_the_text(reader: tuple[Config, list[MelTier], dict[str, Any]]) -> None:
    config, models, stored = reader
    hurried(models[0], 0.49)
    texts = ("abc", "a cab cab")  # past 3.5 after frame 8, past 9.5 after frame 20 (of 0.49 characters each)
    request = Request(sequences=2, random_seed=3, options={"frames": 100, "text": texts})
    stream = melnet.FAMILY.stream(models, config, request, sample_rate=RATE, dataset_state=stored)
    log_mels = stream.log_mels()
    ends = [8 - 1 + HOLD_FRAMES, 20 - 1 + HOLD_FRAMES]
    assert [look.shape for look in stream.alignments] == [(ends[0], 3), (ends[1], 9)]
    assert stream.lengths == [2 * end for end in ends] and stream.texts == list(texts)
    assert log_mels.shape == (2, 2 * ends[1], 8)
    assert np.all(log_mels[0, 2 * ends[0] :] == np.float32(np.log(1e-10)))
    assert np.all(log_mels[0, : 2 * ends[0]] > -20.0)
    assert stream.duration() == 2 * ends[1] * AUDIO["hop_length"] / RATE
    sound = stream.render(100 * 64)
    assert [np.flatnonzero(each)[-1] + 1 for each in sound] == [2 * end * 64 for end in ends]
    for look in stream.alignments:
        position = look.argmax(axis=1)
        assert np.all(np.diff(position[look.max(axis=1) > 0.2]) >= 0) and position.max() == look.shape[1] - 1


def test_no_longer_than_asked_for(reader: tuple[Config, list[MelTier], dict[str, Any]]) -> None:
    config, models, stored = reader
    hurried(models[0], 0.01)
    request = Request(sequences=2, options={"frames": 37, "text": "abc"})
    stream = melnet.FAMILY.stream(models[:1], config, request, sample_rate=RATE, dataset_state=stored, stage="tier1")
    assert stream.log_mels().shape == (2, 37, 8) and stream.lengths == [37, 37]
    assert [look.shape for look in stream.alignments] == [(19, 3), (19, 3)]
    with pytest.raises(UsageError, match="before it begins"):
        stream.set(temperature=0.5)


def test_a_seed_has_been_read(reader: tuple[Config, list[MelTier], dict[str, Any]]) -> None:
    config, models, stored = reader
    hurried(models[0], 0.49)
    seed = np.sin(0.3 * np.arange(64 * 7)).astype(np.float32)  # 8 frames, 4 of the first tier
    request = Request(sequences=2, seed_audio=seed, options={"frames": 100, "text": "abc"})
    stream = melnet.FAMILY.stream(models[:1], config, request, sample_rate=RATE, dataset_state=stored, stage="tier1")
    assert stream.log_mels().shape == (2, 2 * (8 - 1 + HOLD_FRAMES - 4), 8)
    assert len(stream.alignments[0]) == 8 - 1 + HOLD_FRAMES - 4


def test_the_same_text_whatever_is_beside_it(reader: tuple[Config, list[MelTier], dict[str, Any]]) -> None:
    config, models, stored = reader
    made = []
    for texts in (("ab", "abc"), ("ab", "cab cab cab cab cab cab cab cab cab cab")):  # the second is padded further
        request = Request(sequences=2, random_seed=5, options={"frames": 12, "text": texts})
        stream = melnet.FAMILY.stream(
            models[:1], config, request, sample_rate=RATE, dataset_state=stored, stage="tier1"
        )
        sounds = stream.log_mels()
        made.append([(sounds[voice, : stream.lengths[voice]], stream.alignments[voice]) for voice in (0, 1)])
    for one, other in zip(made[0][0], made[1][0], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    assert np.abs(made[0][1][0] - made[1][1][0][: len(made[0][1][0])]).max() > 1e-4


def test_what_cannot_be_read(reader: tuple[Config, list[MelTier], dict[str, Any]]) -> None:
    config, models, stored = reader

    def ask(config: Config = config, sequences: int = 1, **options: Any) -> Any:
        request = Request(sequences=sequences, options=options)
        return melnet.FAMILY.stream(models, config, request, sample_rate=RATE, dataset_state=stored)

    with pytest.raises(UsageError, match="--text"):
        ask()
    with pytest.raises(UsageError, match='character "é"'):
        ask(text="ab\u00e9")
    with pytest.raises(UsageError, match="2 texts were given for 3 sequences"):
        ask(sequences=3, text=("a", "b"))
    with pytest.raises(UsageError, match="not learned to read"):
        ask(config_of(text=None), text="a")
    low = np.zeros(640, np.float32)
    assert ask(from_tier=2, low_audio=low).texts == []  # above a real first tier nothing is read


# --- the picture ------------------------------------------------------------------------------------------------------


def test_the_picture_of_an_alignment(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    for name, text in (("short.png", "a $b"), ("long.png", "words and " * 20)):
        alignment_picture(tmp_path / name, rng.uniform(size=(11, len(text))), text, 0.05)
        assert (tmp_path / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long.png", "short.png"]
    with pytest.raises(ValueError, match="column for each character"):
        alignment_picture(tmp_path / "x.png", np.ones([4, 3]), "ab", 0.1)
    assert unicodedata.name("\u2423") == "OPEN BOX"  # what a space is drawn as
