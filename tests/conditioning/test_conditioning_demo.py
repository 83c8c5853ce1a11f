"""The two things a person does first, on the demo corpus and at a small size: a network that follows its notes, and a
cascade over controls that were measured from the sound."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile

import generate
import train
from tierwave.cli import controls, evaluate
from tierwave.controls.files import read_control_file
from tierwave.data.demo import make_corpus

ROOT = Path(__file__).resolve().parents[2]
RATE = 8000


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    make_corpus(folder / "notes", sample_rate=RATE, pitches=[64, 69, 74], loudnesses=[0.5, 1.0], seconds=0.4)
    return folder


def trained(folder: Path, identity: str, *words: object) -> None:
    command = ["--id", identity, "--data_dir", folder / "notes", "--logdir_root", folder / "logdir", "--verbose"]
    command += ["--output_dir", folder / "generated", "--generate", "False", "--jit", "False", *words]
    assert train.main([str(word) for word in command]) == 0


@pytest.mark.slow
def test_the_notes_of_the_demo_corpus_are_asked_for_and_measured(
    demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = ROOT / "configs" / "steered_tiny.config.json"
    trained(demo, "notes", "--config_file", preset, "--num_steps", 6, "--batch_size", 16)
    told = capsys.readouterr().out
    assert (
        "inst plucked|bowed|blown (3 values), p 64 to 74 midiPitch (3 values), a 0.5 to 1 amplitude (2 values)" in told
    )
    run = str(demo / "logdir" / "notes")
    sound = demo / "note.wav"
    words = ["--output_path", str(sound), "--dur", "0.5", "--spectrogram"]
    words += ["--control", "inst=bowed", "p=64:74", "a=0.7"]
    assert generate.main(["--checkpoint_path", run, *words, "--random_seed", "1"]) == 0
    assert soundfile.info(sound).frames == RATE // 2 and sound.with_suffix(".png").exists()
    capsys.readouterr()
    assert evaluate.main([run, "--controls", "p", "--dur", "0.3", "--part", "valid", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    asked = [each for each in found["following"]["sounds"] if each["parameter"] == "p"]
    # Every pitch, both gaps and a sweep, with each of the three instruments.
    assert len(asked) == 3 * (3 + 2 + 1)
    assert {each["request"] for each in asked} == {"trained", "between", "sweep"}
    assert 0 < found["total"]["bits_per_sample"] < 12


@pytest.mark.slow
def test_a_cascade_over_measured_controls_is_trained_and_played(demo: Path) -> None:
    words = ["extract", demo / "notes", "--param_dir", demo / "curves", "--features", "level,centroid,midi,flatness"]
    assert controls.main([str(word) for word in [*words, "--jobs", 1, "--window", 40, "--hop", 16]]) == 0
    small = {"seq_len": 16, "hidden_size": 8, "num_layers": 1}
    config = {
        "model": "cascade",
        "tiers": [
            {"name": "pitch", "generates": ["midi"], "conditioned_on": ["level"], "rate": 62.5, "net": 0, **small},
            {
                "name": "colour",
                "generates": ["flatness", "centroid"],
                "conditioned_on": ["level", "midi"],
                "rate": 125,
                "net": "mixture",
                "exposure": {"noise": 0.02},
                **small,
            },
            {"name": "sound", "conditioned_on": ["level", "midi", "centroid", "flatness"], **small},
        ],
        "training": {"batch_size": 4, "num_steps": 3, "early_stopping_patience": None},
    }
    path = demo / "cascade.config.json"
    path.write_text(json.dumps(config))
    trained(demo, "cascade", "--config_file", path, "--param_dir", demo / "curves")
    command = ["--checkpoint_path", demo / "logdir" / "cascade", "--output_path", demo / "song.wav", "--dur", 0.5]
    assert generate.main([str(word) for word in [*command, "--control", "level=-40:-10", "--random_seed", 1]]) == 0
    assert soundfile.info(demo / "song.wav").frames == RATE // 2
    for tier, names in (("pitch", ["midi"]), ("colour", ["flatness", "centroid"]), ("controls", ["level"])):
        assert list(read_control_file(demo / f"song_{tier}.csv").tracks()) == names
    curve = read_control_file(demo / "song_pitch.csv").track("midi")
    measured = [read_control_file(each).track("midi").values for each in (demo / "curves").glob("*.csv")]
    assert min(map(min, measured)) - 1e-3 <= curve.values.min() <= curve.values.max() <= max(map(max, measured)) + 1e-3
