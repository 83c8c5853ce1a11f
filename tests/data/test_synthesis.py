"""Synthesised sound: the same for the same seed, within bounds, and melodies at the pitch that stands beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tierwave.analysis.features import Analysis, measure
from tierwave.audio.recordings import load
from tierwave.cli.synth import main
from tierwave.controls.files import read_control_file
from tierwave.data.synthesis import UNKNOWN, make_melody, make_scene, write_corpus
from tierwave.errors import UsageError

RATE = 16000


@pytest.mark.parametrize("seed", range(8))
def test_a_scene_is_sound_within_bounds_and_the_same_for_a_seed(seed: int) -> None:
    scene = make_scene(seed, seconds=2.0, sample_rate=8000)
    assert scene.shape == (16000,) and np.isfinite(scene).all() and np.abs(scene).max() <= 1.0
    assert np.sqrt(np.mean(scene**2)) > 1e-4 and abs(scene.mean()) < 0.02
    np.testing.assert_array_equal(scene, make_scene(seed, seconds=2.0, sample_rate=8000))
    assert not np.array_equal(scene, make_scene(seed + 100, seconds=2.0, sample_rate=8000))


def test_melodies_are_at_their_pitch() -> None:
    deviations, voiced = [], []
    for seed in range(4):
        sound, pitch = make_melody(seed, seconds=4.0, sample_rate=RATE)
        analysis = Analysis(features=("midi", "level"), lowest_pitch=50.0, highest_pitch=2000.0)
        found = measure(sound.astype(np.float32), RATE, analysis)
        at = np.minimum((found["midi"].times * RATE).astype(int), len(pitch) - 1)
        sounding = found["voicing"].values > 0.5
        # A tone without its fundamental, or with a stronger octave, is heard by pYIN an octave away.
        distance = found["midi"].values[sounding] - pitch[at][sounding]
        deviations.append(np.abs(distance - 12.0 * np.round(distance / 12.0)))
        voiced.append(sounding.mean())
    assert np.median(np.concatenate(deviations)) < 0.2 and np.mean(voiced) > 0.3


def test_a_corpus_has_controls_beside_every_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = tmp_path / "corpus"
    assert main([str(corpus), "--minutes", "1", "--sample_rate", "4000", "--random_seed", "5"]) == 0
    assert "2 sounds of 30 s" in capsys.readouterr().out
    assert sorted(path.name for path in corpus.iterdir()) == [
        "melody_000001.csv", "melody_000001.wav", "scene_000000.csv", "scene_000000.wav",
    ]  # fmt: skip
    scene = {track.name: track for track in read_control_file(corpus / "scene_000000.csv").tracks().values()}
    assert {name: float(track.values[0]) for name, track in scene.items()} == UNKNOWN
    melody = read_control_file(corpus / "melody_000001.csv").tracks()
    sound, rate = load(corpus / "melody_000001.wav")
    assert rate == 4000 and len(sound) == 120_000
    level = measure(sound, rate, Analysis(features=("level",)))["level"]
    np.testing.assert_allclose(melody["level"].values, level.values, atol=0.1)
    before = (corpus / "melody_000001.wav").read_bytes()
    assert write_corpus(corpus, minutes=1.5, seed=5, sample_rate=4000) == 3  # what is there is kept
    assert (corpus / "melody_000001.wav").read_bytes() == before and (corpus / "scene_000002.wav").exists()


@pytest.mark.parametrize(
    "wrong",
    [{"minutes": 0.1}, {"melodies": 1.5}, {"seed": -1}, {"sample_rate": 100}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_what_cannot_be_synthesised_is_refused(tmp_path: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        write_corpus(tmp_path, **{"minutes": 1.0, **wrong})  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
