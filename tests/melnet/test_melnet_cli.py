"""MelNet through the command lines, at a size that takes seconds."""

from __future__ import annotations

import contextlib
import io
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import generate
import train
from commands import load_once, tags_of, told
from tierwave.audio.writer import write_wav
from tierwave.cli import evaluate
from tierwave.runs.folder import Run, runs_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("loaded_once", "eager")]

RATE = 8000
CONFIG: dict[str, Any] = {
    "model": "melnet",
    "audio": {"n_fft": 128, "win_length": 128, "hop_length": 64, "mel_channels": 8},
    "tiers": 3,
    "layers": [1, 1, 1],
    "hidden_size": 6,
    "mixtures": 2,
    "seq_len": 16,
    "training": {"batch_size": 4, "num_steps": 2, "jit": False, "generate": False, "learning_rate": 0.01},
    "training_per_tier": [{}, {"num_steps": 1}, {}],
}
LEAST = ["--inversion", "griffin_lim", "--random_seed", "3"]


class Studio:
    """A corpus of short tones and the runs that were trained on it."""

    said = ""  # what the training of the first run printed

    def __init__(self, folder: Path) -> None:
        self.folder, self.corpus, self.logdir = folder, folder / "tones", folder / "logdir"
        rng = np.random.default_rng(0)
        for number in range(5):
            time = np.arange(round((0.25 + 0.05 * number) * RATE)) / RATE
            tone = 0.4 * np.sin(2 * np.pi * (300 + 150 * number) * time) + 0.01 * rng.standard_normal(len(time))
            write_wav(self.corpus / f"{number}.wav", tone.astype(np.float32), RATE)

    def train(self, identity: str, *words: Any, config: dict[str, Any] | None = None) -> Run:
        path = self.folder / f"{identity}.config.json"
        path.write_text(json.dumps(config or CONFIG))
        flags = ["--id", identity, "--data_dir", self.corpus, "--config_file", path, "--logdir_root", self.logdir]
        flags += ["--output_dir", self.folder / "generated", "--verbose"]
        assert train.main([str(word) for word in [*flags, *words]]) == 0
        return runs_of(self.logdir / identity)[-1]

    def sound(self, name: str, *words: Any, run: str = "tones") -> Path:
        path = self.folder / f"{name}.wav"
        command = ["--checkpoint_path", self.logdir / run, "--output_path", path, *LEAST, *words]
        assert generate.main([str(word) for word in command]) == 0
        return path


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    made = Studio(tmp_path_factory.mktemp("melnet"))
    with contextlib.redirect_stdout(io.StringIO()) as out:
        made.train("tones")
    made.said = out.getvalue()
    return made


def test_the_tiers_are_trained_in_turn_into_one_run(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(studio.logdir / "tones", studio.logdir / "again")
    run, told = runs_of(studio.logdir / "again")[-1], studio.said
    assert "linear_prediction_bits" not in run.read("statistics.json")  # it predicts no codes
    assert "To beat on held-out sound, in bits" not in told and "To beat on held-out sound, in nats" in told
    assert [line for line in told.splitlines() if line.startswith("Stage ")] == [
        "Stage tier1 (1 of 3):",
        "Stage tier2 (2 of 3):",
        "Stage tier3 (3 of 3):",
    ]
    assert told.count("a Gaussian per bin given the frame before") == 3
    assert [run.stage(f"tier{number}").latest().step for number in (1, 2, 3)] == [2, 1, 2]
    assert {path.name for path in run.folder.iterdir()} >= {"prepared.json", "split.json", "tier1", "tier2", "tier3"}
    assert len(run.read("prepared.json")["offset"]) == 8
    capsys.readouterr()
    studio.train("again")
    assert "tier1 is finished" in capsys.readouterr().out
    studio.train("again", "--stage", "tier2", "--num_steps", 3)
    assert [run.stage(f"tier{number}").latest().step for number in (1, 2, 3)] == [2, 3, 2]


def test_a_tier_that_was_stopped_goes_on_as_if_it_had_not_been(studio: Studio) -> None:
    def losses(run: Run) -> list[str]:
        rows = (run.stage("tier1").folder / "losses.csv").read_text().splitlines()
        return [row.split(",")[2] for row in rows if row.split(",")[5]]

    whole = studio.train("whole", "--stage", "tier1", "--num_steps", 4)
    studio.train("parts", "--stage", "tier1", "--num_steps", 2)
    parts = studio.train("parts", "--stage", "tier1", "--num_steps", 4)
    assert losses(whole) == losses(parts) and len(losses(whole)) == 5


def test_sounds_and_pictures_of_every_stage(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    path = studio.sound("two", "--frames", 21, "--num_seqs", 2, "--temperature", 0.8, 1.0)
    first, second = sorted(path.parent.glob("two_e=*.wav"))
    for each in (first, second):
        assert soundfile.info(each).frames == round(21 * 64)
        log_mel = np.load(each.with_suffix(".npy"))
        assert log_mel.shape == (21, 8) and np.isfinite(log_mel).all()
        assert each.with_name(f"{each.stem}_stages.png").exists()
    assert first.read_bytes() != second.read_bytes()
    told = json.loads(first.with_suffix(".json").read_text())
    assert set(told["checkpoints"]) == {"tier1", "tier2", "tier3"}
    again = studio.sound("again", "--dur", 0.1)
    assert soundfile.info(again).frames == 800
    same = studio.sound("same", "--dur", 0.1)
    assert same.read_bytes() == again.read_bytes()
    other = studio.sound("bias", "--dur", 0.1, "--bias", 2)
    assert other.read_bytes() != again.read_bytes()


def test_only_the_fine_tiers_are_sampled_on_top_of_a_recording(studio: Studio) -> None:
    recording = studio.corpus / "2.wav"
    path = studio.sound("fine", "--from_tier", 3, "--low_resolution", recording)
    trained = load_once(studio.logdir / "tones")
    from melnet.front_end import MelFrontEnd, Normaliser
    from melnet.multiscale import below
    from tierwave.audio.recordings import load

    whole = MelFrontEnd(trained.config.audio, RATE).analyse(load(recording)[0])
    normaliser = Normaliser.from_document(trained.dataset_state or {})
    made, real = np.load(path.with_suffix(".npy")), normaliser.denormalise(normaliser.normalise(whole))
    made, real = made[: len(made) // 2 * 2], real[: len(made) // 2 * 2]
    np.testing.assert_allclose(below(made, 3, 3)[1], below(real, 3, 3)[1], atol=1e-3)  # the low tiers are its own
    assert np.abs(below(made, 3, 3)[0] - below(real, 3, 3)[0]).max() > 0.1
    assert abs(soundfile.info(path).frames - soundfile.info(recording).frames) <= 64


def test_a_recording_is_continued(studio: Studio) -> None:
    seed = studio.corpus / "1.wav"
    path = studio.sound("on", "--seed", seed, "--prime", 0.1, "--dur", 0.1, "--include_seed")
    assert soundfile.info(path).frames == 1600
    plain = studio.sound("plain", "--dur", 0.1)
    assert not np.array_equal(soundfile.read(path)[0][-800:], soundfile.read(plain)[0])
    longer = studio.sound("longer", "--seed", seed, "--dur", 0.05)  # a seed longer than what is asked for
    assert soundfile.info(seed).frames > 5 * 400 and soundfile.info(longer).frames == 400


def test_likelihoods_of_every_tier_and_of_all(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    command = [str(studio.logdir / "tones"), "--part", "valid"]
    assert evaluate.main(command) == 0
    told = capsys.readouterr().out
    assert all(f"tier{number}: " in told for number in (1, 2, 3)) and "nats per dB" in told
    assert evaluate.main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["tiers"]
    values = [found[f"tier{number}"]["values"] for number in (1, 2, 3)]
    assert values[0] == pytest.approx(sum(values) / 4, rel=0.1) and values[2] == pytest.approx(sum(values) / 2, rel=0.1)
    assert all(math.isfinite(tier["nats_per_value"]) for tier in found.values())


def test_sounds_during_training_are_the_tier_on_real_low_ones(studio: Studio) -> None:
    words = ["--generate", "True", "--output_file_dur", 0.1, "--checkpoint_steps", 1]
    studio.train("heard", *words, "--stage", "tier2", "--num_steps", 1)
    made = studio.folder / "generated" / "heard"
    assert {path.name for path in made.glob("[!.]*")} == {
        f"heard_tier2_s=1_e=0_t=0.75{end}" for end in (".wav", ".png")
    }
    # Where the tiers below are trained too, the whole of it is generated as well.
    run = studio.train("heard", *words, "--stage", "tier1", "tier2", "--num_steps", 2)
    assert {path.name for path in made.glob("heard_tier1*")} >= {"heard_tier1_s=1_e=0_t=0.75.png"}
    whole = [made / f"heard_tier2_whole_s=2_e=0_t=0.75{end}" for end in (".wav", ".png")]
    assert all(path.exists() for path in whole), sorted(path.name for path in made.iterdir())
    tags = tags_of(run.stage("tier2").folder / "tensorboard")
    named = [f"{what}/heard_tier2{end}/0" for what in ("stages", "spectrogram", "generated") for end in ("", "_whole")]
    assert tags >= {*named, "config"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--top_k", "3"], ["--top_k 3", "leave it out"]),
        (["--frames", "0"], ["frames is 0"]),
        (["--bias", "-1"], ["bias (-1) 0 or more"]),
        (["--from_tier", "4", "--low_resolution", "x.wav"], ["--from_tier 4", "only 3 tiers"]),
        (["--from_tier", "2"], ["--from_tier and --low_resolution belong together"]),
        (["--tier_temperature", "tier4=1"], ["no tier tier4", "tier3"]),
        (["--control", "p=3"], ["--control p=3", "trained without controls"]),
        (["--seed", "short.wav"], ["the seed has 1 frames", "longer seed"]),
    ],
    ids=" ".join,
)
def test_what_cannot_be_asked(
    studio: Studio, capsys: pytest.CaptureFixture[str], words: list[str], expected: list[str], tmp_path: Path
) -> None:
    write_wav(tmp_path / "short.wav", np.full(20, 0.1, np.float32), RATE)
    words = [str(tmp_path / word) if word == "short.wav" else word for word in words]
    command = ["--checkpoint_path", studio.logdir / "tones", "--output_path", tmp_path / "x.wav", "--dur", "0.1"]
    capsys.readouterr()
    assert generate.main([str(word) for word in [*command, *words]]) == 2
    sentence = capsys.readouterr().err
    assert [part for part in expected if part not in sentence] == [], sentence


def test_a_tier_without_a_checkpoint_is_named(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(studio.logdir / "tones", studio.logdir / "half")
    shutil.rmtree(runs_of(studio.logdir / "half")[-1].folder / "tier2")
    command = ["--checkpoint_path", str(studio.logdir / "half"), "--output_path", str(studio.folder / "half.wav")]
    capsys.readouterr()
    assert generate.main(command) == 1
    assert "the stage tier2 has no checkpoint" in capsys.readouterr().err


def test_recordings_that_are_too_short_or_of_another_rate(
    studio: Studio, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_wav(tmp_path / "blip.wav", np.sin(np.arange(200)).astype(np.float32) * 0.3, RATE)
    path = tmp_path / "rate.config.json"
    path.write_text(json.dumps({**CONFIG, "audio": {**CONFIG["audio"], "sample_rate": 16000}}))
    flags = ["--data_dir", tmp_path, "--config_file", path, "--logdir_root", tmp_path / "logdir", "--verbose"]
    words = [*flags, "--id", "x", "--sample_rate", RATE]
    assert train.main([str(word) for word in words]) == 2
    assert "--sample_rate 8000 and the config's rate of audio, 16000, differ" in capsys.readouterr().err
    # Shorter than a window and than a frame of the first tier: padded, and learnt.
    words = [*flags, "--id", "y", "--set", "audio.sample_rate=8000", "--val_frac", 0, "--monitor", "loss"]
    assert train.main([str(word) for word in [*words, "--num_steps", 1]]) == 0


def test_a_silent_recording_among_others_and_alone(
    studio: Studio, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "some"
    shutil.copytree(studio.corpus, folder)
    write_wav(folder / "nothing.wav", np.zeros(RATE // 2, np.float32), RATE)
    studio.train("silent", "--data_dir", folder, "--num_steps", 1)
    log_mel = np.load(studio.sound("beside", "--dur", 0.1, run="silent").with_suffix(".npy"))
    assert np.isfinite(log_mel).all()
    for path in folder.iterdir():
        if path.name != "nothing.wav":
            path.unlink()
    flags = ["--id", "mute", "--data_dir", folder, "--config_file", studio.folder / "silent.config.json"]
    words = [*flags, "--logdir_root", tmp_path / "logdir", "--val_frac", 0, "--monitor", "loss"]
    sentence = told(capsys, train.main, words, 1)
    assert "silent" in sentence


def test_tiers_of_different_runs_are_not_mixed(
    studio: Studio, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(studio.logdir / "tones", mixed)
    other = studio.train("other", "--random_seed", 5, "--stage", "tier2", "--num_steps", 1)
    tier = runs_of(mixed)[-1].folder / "tier2"
    shutil.rmtree(tier)
    shutil.copytree(other.stage("tier2").folder, tier)
    words = ["--checkpoint_path", mixed, "--output_path", tmp_path / "x.wav", "--dur", 0.1]
    sentence = told(capsys, generate.main, words, 1)
    assert "tier2" in sentence and "another run" in sentence


def test_a_text_is_learnt_and_said(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"{number}|{text}" for number, text in enumerate(("one", "two", "three", "four", "five"))]
    (studio.corpus / "metadata.csv").write_text("\n".join([*lines, "nine|nobody says"]) + "\n")
    config = {**CONFIG, "text": {"column": 1, "components": 2}}
    words = ["--val_frac", 0, "--monitor", "loss", "--num_steps", 1]
    run = studio.train("said", *words, config=config)
    assert run.read("prepared.json")["text"]["longest"] == 5
    assert "metadata.csv has texts for nine, of which there is no recording" in (run.folder / "log.txt").read_text()
    path = studio.folder / "said.wav"
    command = ["--checkpoint_path", studio.logdir / "said", "--output_path", path, *LEAST, "--dur", 0.2]
    assert generate.main([str(word) for word in [*command, "--text", "Three"]]) == 0
    assert path.exists() and path.with_name("said_text.png").exists()
    capsys.readouterr()
    assert generate.main([str(word) for word in [*command, "--text", "six?"]]) == 2
    assert 'learned only "efhinortuvw"' in capsys.readouterr().err
    assert generate.main([str(word) for word in command]) == 2
    assert "text" in capsys.readouterr().err


def test_a_steered_network_renders_the_spectrogram(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    from melnet import bands

    run = str(studio.logdir / "tones")
    where = studio.folder / "bands"
    words = ["--checkpoint_path", run, "--data_dir", str(studio.corpus), "--param_dir", str(where), "--bands", "4"]
    assert bands.main(words) == 0
    assert "5 recordings, 4 bands each" in capsys.readouterr().out
    config = {
        "model": "conditioning",
        "conditioned_on": [f"mel{number}" for number in range(4)],
        **{"seq_len": 32, "hidden_size": 6, "num_layers": 1, "q_levels": 32},
        "training": {"num_steps": 2, "batch_size": 4, "jit": False, "generate": False},
    }
    studio.train("voice", "--param_dir", where, config=config)
    path = studio.sound("voiced", "--dur", 0.1, "--vocoder", studio.logdir / "voice")
    inverted = studio.sound("inverted", "--dur", 0.1)
    assert soundfile.info(path).frames == soundfile.info(inverted).frames == 800
    np.testing.assert_array_equal(np.load(path.with_suffix(".npy")), np.load(inverted.with_suffix(".npy")))
    assert not np.array_equal(soundfile.read(path)[0], soundfile.read(inverted)[0])
    command = ["--checkpoint_path", run, "--output_path", str(studio.folder / "x.wav"), "--vocoder", run]
    assert generate.main(command) == 2
    assert "is steered by nothing, not by the bands of a spectrogram" in capsys.readouterr().err
