"""From the command to something that is heard: from typing generate.py to one second of sound, against the time of
`import tensorflow` alone, and from `tierwave play` to its line "Play at"."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.play import _run, _server

ROOT = Path(__file__).resolve().parent.parent


def measure(config_file: str = "configs/small.config.json", *, repeats: int = 3) -> dict[str, Any]:
    """Trains a run of two steps first, then takes turns; what is played is RNNControl's network."""
    from tierwave.audio.writer import write_wav

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, 160000).astype(np.float32)
        write_wav(folder / "corpus" / "a.wav", noise, 16000)
        common = ["--data_dir", str(folder / "corpus"), "--logdir_root", str(folder / "log"), "--id", "a"]
        _timed("train.py", *common, "--config_file", str(ROOT / config_file), "--num_steps", "2", "--generate", "False")
        words = ["generate.py", "--checkpoint_path", str(folder / "log" / "a"), "--output_path", str(folder / "a.wav")]
        words += ["--dur", "1"]
        _timed(*words)  # which compiles the engine's kernels where no cache has them
        played = _run(folder, 48, 4)
        _seconds_to_play(played)  # in the same way
        importing, generating, by_tensorflow, playing = [], [], [], []
        for _ in range(repeats):
            importing.append(_timed("-c", "import tensorflow"))
            generating.append(_timed(*words))
            by_tensorflow.append(_timed(*words, "--weights", "tensorflow"))
            playing.append(_seconds_to_play(played))
    return {
        "benchmark": "startup",
        "config": config_file,
        "import_tensorflow_seconds": statistics.median(importing),
        "generate_one_second_seconds": statistics.median(generating),
        "by_tensorflow_seconds": statistics.median(by_tensorflow),
        "play_seconds": statistics.median(playing),
    }


def _timed(*words: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - started


def _seconds_to_play(run: Path) -> float:
    started = time.perf_counter()
    with _server(run, 1):
        return time.perf_counter() - started
