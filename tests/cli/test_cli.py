"""train.py and generate.py from end to end: what is typed, what is heard, what lies beside it.

In this process; one slow test has processes of their own.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tensorflow as tf
from scipy.signal import butter, resample_poly, sosfiltfilt

import generate
import samplernn
import train
from commands import eagerly, load_once, undrawn
from tierwave.config import TrainingOptions, read_document, resolve_training, validate
from tierwave.controls.schema import Parameter, Schema
from tierwave.errors import UsageError
from tierwave.family import load_config, load_family
from tierwave.files.folders import MARK
from tierwave.generation.load import load_run
from tierwave.generation.request import Request
from tierwave.runs.folder import Run, runs_of

pytestmark = pytest.mark.usefixtures("loaded_once")

ROOT = Path(__file__).resolve().parents[2]
RATE = 8000
LONG, SHORT = 0.03, 0.025  # seconds of the recordings
STEPS = 15  # of training, more than one epoch
TOP = 4  # samples of a top frame
CONFIG = {
    "model": "samplernn",
    "seq_len": 16,
    "frame_sizes": [2, TOP],
    "dim": 8,
    "num_rnn_layers": 1,
    "q_levels": 64,
    "emb_size": 4,
    "training": {"batch_size": 4, "jit": False, "learning_rate": 0.01, "num_steps": 99},
}
TRAINING = ["--sample_rate", str(RATE), "--num_epochs", "2", "--output_file_dur", "0.0101"]
TRAINING += ["--set", f"training.num_steps={STEPS}", "training.learning_rate=0.5", "--learning_rate", "0.02"]
TRAINING += ["--monitor", "loss", "--verbose"]


def tone(seconds: float, rate: int, frequency: float) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).standard_normal(len(time))
    return 0.5 * np.sin(2 * np.pi * frequency * time) + 0.02 * noise


class Studio:
    """A folder of recordings as people have them, and a run that was trained on it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.corpus, self.logdir = folder, folder / "recordings", folder / "logdir"
        self.config = folder / "tiny.config.json"
        self.config.write_text(json.dumps(CONFIG))
        (self.corpus / "deeper").mkdir(parents=True)
        stereo = np.stack([tone(LONG, RATE, 440), tone(LONG, RATE, 660)], axis=1)
        soundfile.write(self.corpus / "stereo.wav", stereo, RATE, "PCM_U8")
        soundfile.write(self.corpus / "deep.WAV", tone(SHORT, RATE, 500), RATE, "PCM_24")
        soundfile.write(self.corpus / "deeper" / "other rate.flac", tone(SHORT, 11025, 330), 11025, "PCM_16")
        self.output = ""

    @property
    def run(self) -> Run:
        (run,) = runs_of(self.logdir / "studio")
        return run

    def sound(self, target: Path, *words: Any, seconds: float | None = 0.02, seed: int | None = 7) -> np.ndarray:
        """Call generate.py; what it wrote to `target`, in 16-bit steps."""
        command = ["--checkpoint_path", self.logdir / "studio", "--output_path", target]
        command += [] if seconds is None else ["--dur", seconds]
        command += [] if seed is None else ["--random_seed", seed]
        assert generate.main([str(word) for word in [*command, *words]]) == 0
        return soundfile.read(target, dtype="int16")[0] if target.exists() else np.zeros(0, np.int16)


def training(identity: str) -> list[str]:
    """The words after train.py, in the folder of a studio."""
    return ["--id", identity, "--data_dir", "recordings", "--config_file", "tiny.config.json", *TRAINING]


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    made = Studio(tmp_path_factory.mktemp("studio"))
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output), eagerly():
        patch.chdir(made.folder)
        assert train.main(training("studio")) == 0
    made.output = output.getvalue()
    return made


# train.py ----------------------------------------------------------------------------------------------------------


def test_training_tells_what_it_learns_from_and_how_it_goes(studio: Studio) -> None:
    lines = studio.output.splitlines()
    assert any("Corpus: 3 recordings" in line and "8000 Hz x 2, 11025 Hz x 1" in line for line in lines)
    steps = [line for line in lines if "sec/step" in line]
    assert len(steps) == STEPS  # --set wins over the config
    assert steps[0].startswith("Epoch: 1/2, Step: 1/")
    (epoch,) = [line for line in lines if "Total Steps" in line]
    assert all(part in epoch for part in ("Val Loss: ", "Val Accuracy: ", "Val Bits: ", "left)"))
    assert lines[-1].startswith(f"Stopped: num_steps ({STEPS}) are done")
    log = (studio.run.folder / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in log if "Step" in line] == [line for line in lines if "Step" in line]


def test_a_run_explains_itself(studio: Studio) -> None:
    run = studio.run
    described, options = run.read("run.json"), run.read("run.config.json")["training"]
    assert described["sample_rate"] == RATE and described["id"] == "studio"
    assert sorted(described["corpus"]) == ["deep.WAV", "deeper/other rate.flac", "stereo.wav"]
    assert {"tensorflow", "keras", "numpy", "python", "tierwave"} <= described["versions"].keys()
    assert run.read("split.json")["method"] == "stretches"
    statistics = run.read("statistics.json")
    assert statistics["samples"] == round(LONG * RATE) + 2 * round(SHORT * RATE)
    assert {"histogram_bits", "markov_bits", "linear_prediction_bits"} <= statistics.keys()
    # What is typed wins over --set, that over the config, that over the defaults.
    expected = {"learning_rate": 0.02, "num_steps": STEPS, "batch_size": 4, "checkpoint_every": 1, "random_seed": 0}
    assert {name: options[name] for name in expected} == expected
    assert {path.name for path in run.folder.iterdir()} >= {"log.txt", "losses.csv", "tensorboard", "checkpoints.json"}


def test_a_run_is_a_config_that_trains_again(studio: Studio, tmp_path: Path) -> None:
    command = ["--data_dir", studio.corpus, "--config_file", studio.run.folder / "run.config.json"]
    command += ["--logdir_root", tmp_path / "logdir", "--output_dir", tmp_path / "generated", "--generate", "False"]
    with eagerly():  # as the run was trained
        assert train.main([str(word) for word in [*command, "--num_steps", "3"]]) == 0
    (again,) = runs_of(tmp_path / "logdir" / "default")

    def losses(run: Run) -> list[list[str]]:
        rows = (run.folder / "losses.csv").read_text(encoding="utf-8").splitlines()[1:4]
        return [row.split(",")[:5] for row in rows]

    assert losses(again) == losses(studio.run)  # the same seed, the same losses


@pytest.mark.slow
def test_the_demo_needs_no_recordings(
    studio: Studio, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--demo", "--config_file", str(studio.config), "--num_steps", "1", "--generate", "False"]
    with eagerly():
        assert train.main(words) == 0
    assert "Corpus: 117 recordings" in capsys.readouterr().out
    (run,) = runs_of(Path("logdir") / "default")
    assert run.latest().step == 1 and run.read("split.json")["method"] == "files"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logdir"]


def test_sounds_of_training_lie_in_a_folder_per_id_under_prisms_names(studio: Studio) -> None:
    folder = studio.folder / "generated" / "studio"
    (path,) = (path for path in folder.iterdir() if path.name != MARK)
    assert path.name == "studio_e=1_t=0.75.wav"
    found = soundfile.info(path)
    assert (found.samplerate, found.frames, found.channels, found.subtype) == (RATE, 81, 1, "PCM_16")


# generate.py -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_generating_by_the_real_command_line_repeats_training_bit_for_bit(studio: Studio, tmp_path: Path) -> None:
    """The sound that training made from the checkpoint of its first epoch, from the run alone, in another process."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}

    def called(program: str, *words: str) -> str:
        command = [sys.executable, str(ROOT / program), *words]
        done = subprocess.run(command, cwd=studio.folder, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    output = called("train.py", *training("apart"))
    assert output.splitlines()[-1].startswith(f"Stopped: num_steps ({STEPS}) are done")
    (run,) = runs_of(studio.logdir / "apart")
    checkpoint, target = str(run.folder / "model.ckpt-1.index"), str(tmp_path / "new" / "sound")
    words = ["--output_path", target, "--checkpoint_path", checkpoint, "--dur", "0.0101", "--random_seed", "0"]
    output = called("generate.py", *words)
    assert "Random seed: 0" in output and "x real time" in output
    made = (tmp_path / "new" / "sound.wav").read_bytes()
    assert made == (studio.folder / "generated" / "apart" / "apart_e=1_t=0.75.wav").read_bytes()


@pytest.mark.parametrize("seconds", [0.0001, 1 / 30, 0.0513, 0.001])
def test_a_sound_has_exactly_the_asked_samples(studio: Studio, tmp_path: Path, seconds: float) -> None:
    assert len(studio.sound(tmp_path / "x.wav", seconds=seconds)) == round(seconds * RATE)
    for rate in (11025, 6000):
        sound = studio.sound(tmp_path / f"{rate}.wav", "--sample_rate", rate, seconds=seconds)
        assert len(sound) == max(1, round(seconds * rate))
        assert soundfile.info(tmp_path / f"{rate}.wav").samplerate == rate


def test_a_sound_at_another_rate_is_the_same_sound(studio: Studio, tmp_path: Path) -> None:
    plain = studio.sound(tmp_path / "plain.wav", seconds=0.25) / 32768
    higher = studio.sound(tmp_path / "higher.wav", "--sample_rate", 3 * RATE, seconds=0.25) / 32768
    expected = np.clip(resample_poly(plain, 3, 1), -1, 1)
    # The two filters differ at the ends, and a little below half the rate, where such a sound has much noise.
    below = butter(8, 0.7 * RATE / 2, fs=3 * RATE, output="sos")
    higher, expected = (sosfiltfilt(below, sound)[600:-600] for sound in (higher, expected))
    assert np.corrcoef(higher, expected)[0, 1] > 0.999
    assert np.corrcoef(higher[3:], expected[:-3])[0, 1] < 0.98  # as it would be a sample too late


def test_several_sequences_have_numbers_epoch_and_temperatures_in_their_names(studio: Studio, tmp_path: Path) -> None:
    cases = {
        ("0.5",): ["0.5", "0.5", "0.5"],
        ("0.9", "0.1"): ["0.9", "0.1", "0.1"],
        ("1", "0.5", "0", "2"): ["1", "0.5", "0"],
    }
    for number, (given, used) in enumerate(cases.items()):
        folder = tmp_path / str(number)
        studio.sound(folder / "take.wav", "--num_seqs", 3, "--temperature", *given)
        expected = [f"take_e=1({index})_t={value}" for index, value in enumerate(used)]
        assert sorted(path.stem for path in folder.glob("*.wav")) == sorted(expected)
        for name, value in zip(expected, used, strict=True):
            about = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
            assert about["temperature"] == float(value)
    assert not (tmp_path / "0" / "take.wav").exists()


def codes_of(sound: np.ndarray) -> np.ndarray:
    return samplernn.FAMILY.encoder(validate(samplernn.Config, CONFIG, "here")).encode(sound / np.float32(32768))


def test_temperature_nought_takes_the_most_likely_value_of_the_trained_network(studio: Studio, tmp_path: Path) -> None:
    greedy = studio.sound(tmp_path / "greedy.wav", "--temperature", 0, seconds=0.05, seed=1)
    model = load_once(studio.logdir / "studio").models[0]
    codes = codes_of(greedy)
    context = np.concatenate([np.full(TOP, 32), codes])[None].astype(np.int32)
    logits, _ = model.logits(tf.constant(context), model.initial_state(1))
    best = logits[0].numpy()
    runner_up = np.sort(best, axis=1)[:, -2]
    clear = best.max(axis=1) - runner_up > 1e-4  # ties may fall either way
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(best.argmax(axis=1)[clear], codes[clear])


@pytest.mark.slow
def test_what_leaves_one_value_to_choose_from_is_temperature_nought(studio: Studio, tmp_path: Path) -> None:
    greedy = studio.sound(tmp_path / "greedy.wav", "--temperature", 0, seed=1)
    alone: list[list[Any]] = [["--temperature", 0], ["--top_k", 1], ["--top_p", 1e-6]]
    for words in alone:
        np.testing.assert_array_equal(studio.sound(tmp_path / "x.wav", *words, seed=2), greedy)
    free = studio.sound(tmp_path / "free.wav", "--temperature", 2, seed=2)
    assert not np.array_equal(free, greedy)
    everything: list[list[Any]] = [["--top_p", 1], ["--top_k", "None", "--top_p", "None"]]
    for words in everything:
        np.testing.assert_array_equal(studio.sound(tmp_path / "x.wav", "--temperature", 2, *words, seed=2), free)
    few = studio.sound(tmp_path / "few.wav", "--temperature", 2, "--top_k", 2, seed=2, seconds=0.1)
    many = studio.sound(tmp_path / "many.wav", "--temperature", 2, seed=2, seconds=0.1)
    assert len(np.unique(few)) < len(np.unique(many))


def test_temperatures_are_those_of_their_sequences(studio: Studio, tmp_path: Path) -> None:
    made = {}
    for seed in (1, 2):
        studio.sound(tmp_path / f"{seed}.wav", "--num_seqs", 3, "--temperature", 0, 1.5, seed=seed, seconds=0.03)
        made[seed] = [soundfile.read(tmp_path / f"{seed}_e=1({i})_t={t}.wav")[0] for i, t in ((0, "0"), (1, "1.5"))]
    np.testing.assert_array_equal(made[1][0], made[2][0])
    assert not np.array_equal(made[1][1], made[2][1])


def test_the_same_seed_gives_the_same_bytes_and_another_another_sound(
    studio: Studio, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "1.wav", tmp_path / "2.wav"
    studio.sound(first, seed=5)
    studio.sound(second, seed=5)
    assert first.read_bytes() == second.read_bytes()
    other = studio.sound(tmp_path / "3.wav", seed=6)
    assert not np.array_equal(other, studio.sound(first, seed=5))
    # Without one, a fresh one is drawn, told and kept.
    capsys.readouterr()
    fresh = studio.sound(tmp_path / "4.wav", seed=None)
    told = int(next(line for line in capsys.readouterr().out.splitlines() if "Random seed" in line).split(": ")[1])
    assert json.loads((tmp_path / "4.json").read_text())["random_seed"] == told
    np.testing.assert_array_equal(studio.sound(tmp_path / "5.wav", seed=told), fresh)
    again = studio.sound(tmp_path / "6.wav", seed=None)
    assert not np.array_equal(again, fresh)


def test_sequences_differ_from_each_other(studio: Studio, tmp_path: Path) -> None:
    studio.sound(tmp_path / "x.wav", "--num_seqs", 3, "--temperature", 1, seconds=0.03)
    sounds = {path.read_bytes() for path in tmp_path.glob("*.wav")}
    assert len(sounds) == 3


def test_a_seed_of_another_rate_is_continued_and_may_be_kept(studio: Studio, tmp_path: Path) -> None:
    seed = tmp_path / "seed.wav"
    heard = tone(0.04, 3 * RATE, 440)
    soundfile.write(seed, np.stack([heard, heard], axis=1), 3 * RATE, "PCM_24")
    plain = studio.sound(tmp_path / "plain.wav")
    after = studio.sound(tmp_path / "after.wav", "--seed", seed)
    kept = studio.sound(tmp_path / "kept.wav", "--seed", seed, "--include_seed")
    assert len(plain) == len(after) == 160 and len(kept) == round(0.04 * RATE) + 160
    assert not np.array_equal(plain, after)
    np.testing.assert_array_equal(kept[-160:], after)
    lead = kept[:-160] / 32768
    assert np.corrcoef(lead, resample_poly(heard, 1, 3)[: len(lead)])[0, 1] > 0.99
    for offset in ("200", "0.025s"):  # samples at the model's rate, or seconds
        late = studio.sound(tmp_path / "late.wav", "--seed", seed, "--include_seed", "--seed_offset", offset)
        np.testing.assert_array_equal(late[:-160], kept[200:-160])
    slow = studio.sound(tmp_path / "slow.wav", "--seed", seed, "--include_seed", "--sample_rate", RATE // 2)
    assert len(slow) == round(0.04 * RATE / 2) + 80


def test_what_is_beside_a_sound(studio: Studio, tmp_path: Path) -> None:
    seed = studio.corpus / "deep.WAV"
    words: list[Any] = ["--seed", seed, "--seed_offset", 3, "--top_k", 20, "--temperature", 0.9]
    words += ["--sample_rate", 16000]
    studio.sound(tmp_path / "x.wav", *words, "--spectrogram", seconds=0.03)
    about = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    expected: dict[str, Any] = {"epoch": 1, "step": STEPS, "temperature": 0.9, "top_k": 20, "top_p": None}
    expected |= {"seconds": 0.03, "sample_rate": 16000, "random_seed": 7, "seed": str(seed)}
    assert {name: about[name] for name in expected} == expected
    assert str(about["seed_offset"]) == "3"
    assert Path(about["checkpoint"]) == studio.run.folder / studio.run.latest().name
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "x.png", "x.wav"]


def test_a_checkpoint_may_be_named_in_many_ways(studio: Studio) -> None:
    run, newest, best = studio.run, studio.run.latest().name, studio.run.best().name
    assert newest != best
    for path in (run.folder / newest, run.folder / f"{newest}.index", run.folder, studio.logdir / "studio"):
        assert load_run(path).entry.name == newest
    for path in (run.folder, studio.logdir / "studio"):
        assert load_run(path, best=True).entry.name == best
    words = ["--checkpoint_path", run.folder / best, "--output_path", studio.folder / "x.wav", "--dur", 0.001]
    assert generate.main([str(word) for word in words]) == 0
    assert Path(json.loads((studio.folder / "x.json").read_text())["checkpoint"]).name == best


def test_a_seed_warms_the_state_with_all_of_it(studio: Studio) -> None:
    trained = load_once(studio.logdir / "studio")
    model, seed = trained.models[0], tone(0.0375, RATE, 300).astype(np.float32)
    codes = np.concatenate([np.full(TOP, 32), samplernn.FAMILY.encoder(trained.config).encode(seed)])[None].astype(
        np.int32
    )
    _, expected = model.logits(tf.constant(codes), model.initial_state(1))
    states = []
    for heard in (seed, seed[-2 * TOP :]):
        stream = stream_of(studio, seed_audio=heard)
        states.append([part.numpy() for part in tf.nest.flatten(stream._voices.state.recurrent)])
    for part, whole, last in zip(tf.nest.flatten(expected), *states, strict=True):
        np.testing.assert_allclose(whole, part, atol=1e-5)
        assert np.abs(last - part).max() > 1e-3


# stream ------------------------------------------------------------------------------------------------------------


def stream_of(studio: Studio, **asked: Any) -> Any:
    trained = load_once(studio.logdir / "studio")
    return trained.family.stream(trained.models, trained.config, Request(**asked), sample_rate=trained.sample_rate)


@pytest.mark.parametrize("sequences", [1, 3])
def test_a_stream_does_not_depend_on_the_size_of_its_blocks(
    studio: Studio, sequences: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tierwave.generation.voices.BLOCK", 256)  # of compiled calls, of which 301 samples take two
    asked = {"sequences": sequences, "temperature": [1.0], "random_seed": 3}
    whole = stream_of(studio, **asked).render(301)
    assert whole.shape == (sequences, 301) and whole.dtype == np.float32
    for block in (1, 7, 64, 250):
        stream = stream_of(studio, **asked)
        total = 53 if block == 1 else 301
        pieces = [stream.render(min(block, total - start)) for start in range(0, total, block)]
        np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole[:, :total])
    assert stream.render(0).shape == (sequences, 0)


def held(part: Any) -> Iterator[int]:
    """Sizes of all arrays and tensors that an object keeps."""
    if isinstance(part, np.ndarray):
        yield part.nbytes
    elif isinstance(part, tf.Tensor):
        yield int(np.prod(part.shape)) * part.dtype.size
    elif isinstance(part, (list, tuple)):
        for inside in part:
            yield from held(inside)


def test_a_stream_holds_no_more_however_long_it_runs(studio: Studio) -> None:
    stream = stream_of(studio, sequences=2)
    sizes = []
    for samples in (5, 700, 700, 3):
        stream.render(samples)
        parts = [*vars(stream).values(), *vars(stream._voices).values()]
        sizes.append(sum(size for part in parts for size in held(part)))
    assert sizes[0] > 0 and len(set(sizes)) == 1


def test_a_stream_that_has_no_parameters_can_be_steered_by_temperature_and_top_k(studio: Studio) -> None:
    stream, other = (stream_of(studio, sequences=2, temperature=[1.0], random_seed=3) for _ in range(2))
    np.testing.assert_array_equal(stream.render(64), other.render(64))
    stream.set(temperature=0.0)
    changed, unchanged = stream.render(400), other.render(400)
    assert not np.array_equal(changed, unchanged)
    greedy = stream_of(studio, sequences=2, temperature=[0.0], random_seed=9)
    greedy.render(64)
    stream.set(temperature=1.0)
    assert not np.array_equal(stream.render(400), greedy.render(400))
    with pytest.raises(UsageError, match="pitch.*temperature, top_k"):
        stream.set(pitch=60.0)
    with pytest.raises(UsageError, match="temperature is -1"):
        stream.set(temperature=-1.0)


def test_what_a_family_exports_is_still_there_after_generating(studio: Studio) -> None:
    stream_of(studio).render(1)
    trained = load_once(studio.logdir / "studio")
    request = Request(sequences=2, seconds=0.01, random_seed=3)
    sound = load_family("samplernn").generate(trained.models, trained.config, request, sample_rate=RATE)
    assert sound.shape == (2, 80)
    np.testing.assert_array_equal(sound, stream_of(studio, sequences=2, random_seed=3).render(80))


# Presets -----------------------------------------------------------------------------------------------------------

PRESETS = sorted([ROOT / "default.config.json", *(ROOT / "configs").glob("*.config.json")])


def narrowed(config: Any) -> Any:
    """A config of any family with the smallest network of its kind."""
    if config.model == "samplernn":
        return config.model_copy(update={"dim": 4})
    if config.model == "cascade":
        tiers = [tier.model_copy(update={"hidden_size": 4}) for tier in config.tiers]
        return config.model_copy(update={"tiers": tiers})
    if config.model == "melnet":  # of which nothing is run here; in full it is built by a slow test
        layers = config.layers if config.text is not None else [1] * config.tiers  # text enters at a layer of its own
        return config.model_copy(update={"hidden_size": 4, "layers": layers})
    return config.model_copy(update={"hidden_size": 4})


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.name)
def test_a_preset_is_valid_and_its_network_runs_when_made_narrow(path: Path) -> None:
    document = read_document(path)
    resolve_training({}, document, path.name)
    family, config = load_config(document, path.name)
    narrow = narrowed(config)
    for stage in family.stages(config):
        model = family.build(narrow, stage)
        assert model.count_params() > 0
        if path.parent.name == "configs" and config.model == "samplernn":  # its window is the one it trains with
            steering = Schema(
                parameters=tuple(Parameter(name=name, **about) for name, about in config.controls.items())
            )
            model = family.build(family.completed(narrow, steering, 16000), stage)
            codes = tf.zeros([1, config.history + config.seq_len], tf.int32)
            batch = {"inputs": codes, "targets": codes[:, config.history :], "reset": tf.constant([True])}
            batch["mask"] = tf.ones([1, config.seq_len])
            if config.conditioned_on:
                batch["controls"] = tf.zeros([1, codes.shape[1], len(config.conditioned_on)])
            outcome = model.loss_sums(batch, model.initial_state(1))
            expected = config.seq_len * math.log(config.q_levels)
            assert float(outcome.nats[0]) == pytest.approx(expected, rel=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.name)
def test_a_preset_builds_in_full(path: Path) -> None:
    family, config = load_config(read_document(path), path.name)
    with undrawn():
        for stage in family.stages(config):
            assert family.build(config, stage).count_params() > 1_000


def test_the_default_config_is_prisms() -> None:
    expected = {"model": "samplernn", "seq_len": 1024, "frame_sizes": [16, 64], "dim": 1024, "rnn_type": "gru"}
    expected |= {"num_rnn_layers": 4, "q_type": "mu-law", "q_levels": 256, "emb_size": 256, "skip_conn": False}
    assert read_document(ROOT / "default.config.json") == {**expected, "rnn_dropout": 0.0}
    config = samplernn.Config().model_dump(mode="json")
    assert {name: config[name] for name in expected} == expected


# Flags -------------------------------------------------------------------------------------------------------------

# The tables of the command lines' specification, with their defaults.
TRAIN_FLAGS: dict[str, Any] = {
    "id": "default", "data_dir": None, "demo": False, "verbose": False, "logdir_root": Path("logdir"),
    "output_dir": Path("generated"), "config_file": None, "set": [], "num_epochs": 100, "num_steps": None,
    "max_minutes": None, "batch_size": 64, "accumulate": 1, "optimizer": "adam", "learning_rate": 0.001,
    "reduce_learning_rate_after": None, "warmup_steps": 0, "learning_rate_decay": "none",
    "fresh_starts": 0.0, "joined": 0.0, "momentum": 0.9, "monitor": "val_loss",
    "checkpoint_every": 1, "checkpoint_steps": None,
    "checkpoint_minutes": 10, "checkpoint_policy": "Always", "max_checkpoints": 5, "resume": True, "init_from": None,
    "resume_from": None, "early_stopping_patience": 3, "generate": True,
    "max_generate_per_epoch": 1, "sample_rate": None, "output_file_dur": 3, "temperature": [0.75], "seed": None,
    "seed_offset": 0, "val_frac": 0.1, "test_frac": 0.0, "num_val_batches": None, "random_seed": 0, "strategy": "one",
    "precision": "float32", "jit": "auto", "memory_check": True, "param_dir": None, "params": None, "tfr": 1.0,
    "ss": None, "input_noise": 0, "loss_cutoff": None, "cluster": None, "max_failures": None, "cache_dir": None,
    "num_workers": None, "stage": None, "worker_timeout": None,
}  # fmt: skip
GENERATE_FLAGS: dict[str, Any] = {
    "output_path": None, "checkpoint_path": None, "best": False, "config_file": None, "dur": 3.0, "num_seqs": 1,
    "sample_rate": None, "temperature": [0.75], "top_k": None, "top_p": None, "seed": None, "include_seed": False,
    "random_seed": None, "controls": None, "control": [], "prime": None, "external_array": None, "external_sr": None,
    "override": [], "tier_temperature": [], "tier_seed": [], "extrapolate": False, "frames": None, "text": None,
    "bias": 0.0, "from_tier": None, "low_resolution": None, "inversion": "gradient", "vocoder": None,
    "spectrogram": False,
}  # fmt: skip


def test_every_flag_of_train_is_there_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    parsed = vars(train.parser().parse_args([]))
    for name, default in TRAIN_FLAGS.items():
        found = parsed[name] if name in parsed else TrainingOptions.model_fields[name].default
        assert found == default, name
    assert set(TrainingOptions.model_fields) <= {*TRAIN_FLAGS, "epsilon"}
    with pytest.raises(SystemExit):
        train.main(["--help"])
    told = capsys.readouterr().out
    assert [name for name in TRAIN_FLAGS if f"--{name}" not in told] == []


def test_every_flag_of_generate_is_there_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    parsed = vars(generate.parser().parse_args(["--output_path", "x", "--checkpoint_path", "y"]))
    for name, default in GENERATE_FLAGS.items():
        assert name in parsed
        if name not in ("output_path", "checkpoint_path"):
            assert parsed[name] == default, name
    assert int(parsed["seed_offset"]) == 0
    with pytest.raises(SystemExit):
        generate.main(["--help"])
    told = capsys.readouterr().out
    assert [name for name in GENERATE_FLAGS if f"--{name}" not in told] == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--demo"], {"demo": True}),
        (["--demo", "f"], {"demo": False}),
        (["--resume", "FALSE"], {"resume": False}),
        (["--generate", "tr"], {"generate": True}),
        (["--verbose"], {"verbose": True}),
        (["--max_checkpoints", "None"], {"max_checkpoints": None}),
        (["--early_stopping_patience", "None"], {"early_stopping_patience": None}),
        (["--checkpoint_minutes", "None"], {"checkpoint_minutes": None}),
        (["--resume_from", "None"], {"resume_from": None}),
        (["--temperature", "1", "0.5"], {"temperature": [1.0, 0.5]}),
        (["--jit", "auto"], {"jit": "auto"}),
        (["--jit"], {"jit": True}),
        (["--seed_offset", "1.5s"], {"seed_offset": "1.5s"}),
        (["--seed_offset", "-1s"], {"seed_offset": "-1s"}),  # refused by the config, in its own words
        (["--set", "-a=1", "-b=2"], {"set": ["-a=1", "-b=2"]}),
        (["--learning_rate", "1e-5"], {"learning_rate": 1e-5}),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_how_values_are_written(words: list[str], expected: dict[str, Any]) -> None:
    parsed = vars(train.parser().parse_args(words))
    assert {name: parsed[name] for name in expected} == expected


PRISM_COMMANDS: list[tuple[Callable[[], Any], str]] = [
    (
        train.parser,
        "--id test --data_dir ./chunks --num_epochs 100 --batch_size 128 --max_checkpoints 2 --checkpoint_every 10 "
        "--output_file_dur 3 --sample_rate 16000",
    ),
    (
        train.parser,
        "--id test --data_dir ./chunks --verbose True --logdir_root ./logdir --output_dir ./generated "
        "--config_file ./default.config.json --num_epochs 2 --batch_size 64 --optimizer adam --learning_rate 0.001 "
        "--reduce_learning_rate_after 50 --momentum 0.9 --monitor val_loss --checkpoint_every 1 "
        "--checkpoint_policy Best --max_checkpoints None --resume True --resume_from ./logdir/x/model.ckpt-3 "
        "--early_stopping_patience 3 --generate True --max_generate_per_epoch 1 --sample_rate 44100 "
        "--output_file_dur 3 --temperature 0.75 0.9 --seed ./seed.wav --seed_offset 500 --num_val_batches 1",
    ),
    (
        generate.parser,
        "--output_path ./generated/test.wav --checkpoint_path ./logdir/test/14.12.2019_11.32.16/model.ckpt-0 "
        "--config_file ./default.config.json --num_seqs 10 --dur 10 --sample_rate 44100 --seed ./seed.wav "
        "--seed_offset 500 --temperature .95 .8",
    ),
]


@pytest.mark.parametrize(("parser", "command"), PRISM_COMMANDS)
def test_commands_of_prisms_users_are_understood(parser: Callable[[], Any], command: str) -> None:
    parsed = parser().parse_args(command.split())
    assert parsed.sample_rate in (16000, 44100)
