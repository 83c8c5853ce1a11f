"""The benchmark of learning: its measures find what was put there, and a whole small run gives a table."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import lfilter

from bench import learning
from tierwave.audio.writer import write_wav

RATE = 8000


def noise(seconds: float, level: float = 0.1, seed: int = 0) -> np.ndarray:
    """Coloured noise."""
    random = np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    return (level * lfilter([1.0], [1.0, -0.9], random) / 2.3).astype(np.float32)


def test_clicks_are_counted() -> None:
    sound = noise(4.0)
    assert learning.clicks(sound, RATE) == 0
    clicked = sound.copy()
    clicked[[4001, 11_003, 20_005]] += 0.9
    assert learning.clicks(clicked, RATE) == 3
    assert learning.clicks(np.zeros(3 * RATE, np.float32), RATE) == 0


def test_levels_are_apart_by_their_gain() -> None:
    first, second = (learning.frame_levels(gain * noise(4.0), RATE) for gain in (1.0, 0.5))
    assert learning.level_distance(first, first) == 0.0
    assert learning.level_distance(first, second) == pytest.approx(20 * np.log10(2), abs=1e-3)
    assert learning.frame_levels(np.zeros(RATE, np.float32), RATE).max() == learning.FLOOR_DBFS


def test_noise_is_white_and_colour_is_not() -> None:
    white = np.random.default_rng(1).uniform(-0.5, 0.5, 4 * RATE).astype(np.float32)
    assert learning.white_share(white, RATE) == 1.0
    assert learning.white_share(np.sin(np.arange(4 * RATE) * 0.3).astype(np.float32), RATE) == 0.0


def test_long_recordings_are_cut_and_of_short_ones_some_are_held_out(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write_wav(source / "a.wav", noise(10.0), RATE)
    for number in range(10):
        write_wav(source / f"short_{number}.wav", noise(0.5, seed=number), RATE)
    learning.cut(source, tmp_path / "cut", RATE)

    def seconds(place: str) -> dict[str, float]:
        return {path.name: soundfile.info(path).duration for path in (tmp_path / "cut" / place).iterdir()}

    train, held_out = seconds("train"), seconds("held_out")
    assert sum(train.values()) + sum(held_out.values()) == pytest.approx(15.0)
    assert sum(held_out.values()) == pytest.approx(1.4 + 0.5)
    assert len(train) == 3 + 9 and len(held_out) == 2 + 1


def test_a_variant_is_a_preset_with_keys_of_a_checkout(tmp_path: Path) -> None:
    variant = learning.Variant.of(f"small:dim=384:frame_sizes=[8,64]@{tmp_path}")
    assert (variant.preset, variant.keys) == ("small", ("dim=384", "frame_sizes=[8,64]"))
    assert variant.checkout == tmp_path.resolve() and learning.Variant.of("small").checkout == learning.ROOT


def test_a_learning_rate_that_falls_wants_a_training_for_each_mark(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    for name, training in (("steady", {}), ("falling", {"training": {"learning_rate_decay": "linear"}})):
        (tmp_path / "configs" / f"{name}.config.json").write_text(json.dumps(training))
    decays = {words: learning.Variant.of(f"{words}@{tmp_path}").decays for words in ("steady", "falling")}
    assert decays == {"steady": False, "falling": True}
    assert learning.Variant.of(f"steady:training.learning_rate_decay=linear@{tmp_path}").decays
    assert not learning.Variant.of(f"falling:training.learning_rate_decay=none@{tmp_path}").decays


def test_steps_are_read_from_what_is_printed_and_the_program_is_asked_to_end(tmp_path: Path) -> None:
    code = (
        "import signal, time\n"
        "over = []\n"
        "signal.signal(signal.SIGINT, lambda *_: over.append(1))\n"
        "for step in range(1000):\n"
        "    print(f'Step: {step}, Loss: 1.0, (0.{step % 10}500 sec/step)', flush=True); time.sleep(0.01)\n"
        "    if over:\n        break\n"
        "print('saved')\n"
    )
    steps = learning.steps_of([sys.executable, "-c", code], tmp_path, {}, tmp_path / "log.txt")
    assert [next(steps) for _ in range(3)] == [0.05, 0.15, 0.25]
    steps.close()
    assert (tmp_path / "log.txt").read_text().endswith("saved\n")


@pytest.mark.slow
def test_a_small_run_gives_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "tones"
    source.mkdir()
    for number in range(2):
        write_wav(source / f"{number}.wav", noise(12.0, seed=number), RATE)
    words = ["tiny", "tiny:seq_len=64", "--data", f"{source}@{RATE}", "--minutes", "0.002", "0.004", "--seeds", "1"]
    words += ["--seconds", "1", "--work", str(tmp_path / "work"), "--jsonl", str(tmp_path / "all.jsonl")]
    assert learning.main([*words, "--plot", str(tmp_path / "bits.png")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert [(row["variant"], row["minutes"]) for row in rows] == [
        (variant, minutes) for variant in ("tiny", "tiny:seq_len=64") for minutes in (0.002, 0.004)
    ]
    assert all(0 < row["bits"] < 9 and row["primed 0.9"]["levels_db"] >= 0 for row in rows)
    assert rows[1]["steps"] > rows[0]["steps"] and "tiny:seq_len=64" in capsys.readouterr().out
    assert (tmp_path / "bits.png").stat().st_size > 10_000
