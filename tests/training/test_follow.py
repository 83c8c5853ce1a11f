"""train.py --follow: controls are measured, the run knows it, and a pitch that hardly ever is there is left out; and
what such a run plays to be heard."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tierwave.audio.recordings import load
from tierwave.audio.writer import write_wav
from tierwave.cli.hear import main as hear
from tierwave.errors import RunError, UsageError
from tierwave.evaluation.hearing import MOST_SECONDS, TRAINED, held_out_gesture, pieces_of
from tierwave.generation.load import load_run, seed_controls
from tierwave.training.plan import TrainingRequest
from tierwave.training.session import train

pytestmark = pytest.mark.usefixtures("eager")
RATE = 8000
CONFIG = {
    "model": "samplernn", "seq_len": 64, "frame_sizes": [2, 8], "dim": 4, "num_rnn_layers": 1, "emb_size": 2,
    "conditioned_on": ["midi", "level"],
    "controls": {"midi": {"units": "midiPitch", "lo": 0, "hi": 128, "encoding": "sinusoids"}},
}  # fmt: skip


def recordings(folder: Path, *, pitched: bool) -> Path:
    random, time = np.random.default_rng(1), np.arange(2 * RATE) / RATE
    swell = 0.3 + 0.2 * np.sin(2 * np.pi * 1.5 * time)
    for number, hertz in enumerate((220.0, 330.0)):
        sound = np.sin(2 * np.pi * hertz * time) if pitched else random.standard_normal(len(time))
        write_wav(folder / f"{number}.wav", (swell * sound / np.abs(sound).max()).astype(np.float32), RATE)
    return folder


def trained(place: Path, data: Path, document: dict | None = CONFIG, follow: bool = True, steps: int = 1) -> list[str]:
    said: list[str] = []
    typed = {"num_steps": steps, "batch_size": 4, "generate": False, "jit": False}
    request = TrainingRequest("one", data, document, typed=typed, logdir_root=place / "logdir", follow=follow)
    train(request, say_line=lambda text, rewrite: said.append(text))
    return said


def test_a_run_follows_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = recordings(tmp_path / "data", pitched=True)
    trained(tmp_path, data)
    run = load_run(tmp_path / "logdir" / "one", weights="auto")
    assert run.run.read("run.json")["measured"] == ["midi", "level"]
    assert run.schema.names == ("midi", "level") and run.schema.of("level").units == "dB"
    assert not list(data.glob("*.csv"))  # nothing is written among the recordings
    # A resumed run knows without being told, and takes what was measured.
    said = trained(tmp_path, data, None, follow=False, steps=2)
    assert any(text.startswith("Going on from") for text in said) and "Measuring: 1/1 recordings" not in said
    found = seed_controls(run, data / "0.wav", 0)
    assert found is not None and np.median(found["midi"].values) == pytest.approx(57.0, abs=0.2)

    gesture = held_out_gesture(run)
    assert gesture.recording is not None and 0 < gesture.seconds <= MOST_SECONDS
    assert len(gesture.recording) == round(gesture.seconds * RATE)
    for track in gesture.controls.values():
        assert track.times[0] >= 0 and track.times[-1] <= gesture.seconds + 1e-6
    assert [piece.name for piece in pieces_of(run)] == ["gesture", "free"]
    out = tmp_path / "sounds"
    capsys.readouterr()
    assert hear([str(run.run.folder), "--output_dir", str(out)]) == 0
    assert "correlation" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == [
        "free.png", "free.wav", "gesture.png", "gesture.wav", "recording.wav",
    ]  # fmt: skip
    for path in data.iterdir():
        path.unlink()
    with pytest.raises(RunError, match="the recording .*wav, of the training, is not there any more"):
        held_out_gesture(run)


def test_a_gesture_that_was_trained_on_is_played_where_what_was_held_out_is_silent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = recordings(tmp_path / "data", pitched=True)
    trained(tmp_path, data)
    run = load_run(tmp_path / "logdir" / "one", weights="auto")
    for name, start, stop in run.run.read("split.json")["valid"]:
        sound = load(data / name)[0].copy()
        sound[start:stop] = 0.0
        write_wav(data / name, sound, RATE)
    gesture = held_out_gesture(run)
    assert gesture.name == TRAINED and gesture.recording is not None and np.abs(gesture.recording).max() > 0.1
    assert hear([str(run.run.folder), "--output_dir", str(tmp_path / "sounds")]) == 0
    assert "what was held out is silent" in capsys.readouterr().out


def test_noise_is_followed_without_pitch(tmp_path: Path) -> None:
    data = recordings(tmp_path / "data", pitched=False)
    said = trained(tmp_path, data)
    assert any(text.startswith("Without midi, since ") and "% of the sound has a pitch" in text for text in said)
    run = load_run(tmp_path / "logdir" / "one", weights="auto")
    assert run.schema.names == ("level",) and run.run.read("run.json")["measured"] == ["level"]
    assert json.loads((run.run.folder / "run.config.json").read_text())["conditioned_on"] == ["level"]
    with pytest.raises(RunError, match="there is nothing to follow"):
        trained(tmp_path / "other", data, {**CONFIG, "conditioned_on": ["midi"]})


def test_there_must_be_something_to_follow(tmp_path: Path) -> None:
    data = recordings(tmp_path / "data", pitched=True)
    with pytest.raises(UsageError, match="--follow has nothing to measure"):
        trained(tmp_path, data, {"model": "samplernn"})
