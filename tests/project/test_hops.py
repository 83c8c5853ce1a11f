"""How many functions a reader opens from a command line to the gradient, and from a checkpoint to the wav.

Where work is done (by a library: decoding, gradients, writing) the functions of this project on the call stack are
noted. All of them together are what a reader opens; the last stack is how far one goes down. docs/house.md states both
numbers, of the plainest network.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import soundfile
import tensorflow as tf

import generate
import samplernn
import train
from samplernn.model import SampleRNN
from tierwave.audio.quantize import Quantizer
from tierwave.audio.writer import write_wav
from tierwave.data.windows import LaneWindows

ROOT = Path(__file__).resolve().parents[2]
PARTS = tuple(f"{ROOT / name}" for name in ("tierwave", "samplernn", "train.py", "generate.py"))
Function = tuple[str, str]

pytestmark = pytest.mark.usefixtures("eager")


class Walk:
    """The functions of the project on the stack, wherever a watched function was called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.monkeypatch = monkeypatch
        self.stacks: dict[str, list[Function]] = {}

    def watch(self, owner: Any, name: str) -> None:
        """Note the stack of the first call of `owner.name`."""
        called: Callable[..., Any] = getattr(owner, name)

        def noting(*given: Any, **named: Any) -> Any:
            self.stacks.setdefault(f"{owner.__name__}.{name}", self._here())
            return called(*given, **named)

        self.monkeypatch.setattr(owner, name, noting)

    @staticmethod
    def _here() -> list[Function]:
        found: list[Function] = []
        frame = sys._getframe(2)
        while frame is not None:
            code = frame.f_code
            function = (code.co_filename.removeprefix(f"{ROOT}/"), code.co_name)
            # A comprehension belongs to its function, and a function that calls itself is opened once.
            if code.co_filename.startswith(PARTS) and not code.co_name.startswith("<") and function not in found:
                found.append(function)
            frame = frame.f_back  # type: ignore[assignment]
        return found[::-1]

    def count(self, last: str) -> tuple[int, int]:
        """(functions to open, functions on the stack of `last`)."""
        opened = dict.fromkeys(function for stack in self.stacks.values() for function in stack)
        print(*(" ".join(function) for function in opened), sep="\n")  # pytest shows it where a number has grown
        return len(opened), len(self.stacks[last])


def stated(what: str) -> tuple[int, int]:
    text = (ROOT / "docs" / "house.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| {what} \| (\d+) \| (\d+) \|$", text, re.MULTILINE)
    assert row is not None, f"docs/house.md has no row for {what!r}"
    return int(row[1]), int(row[2])


def test_the_ways_are_as_long_as_the_house_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = tmp_path / "sound"
    sound.mkdir()
    write_wav(sound / "a.wav", np.sin(np.arange(8000) * 0.1).astype(np.float32), 4000)
    keys = ["frame_sizes=[2,8]", "dim=8", "num_rnn_layers=1", "q_levels=16", "emb_size=4", "seq_len=64"]
    flags = ["--data_dir", sound, "--id", "way", "--logdir_root", tmp_path / "logdir", "--num_steps", 1]
    flags += ["--batch_size", 2, "--generate", False, "--jit", False, "--set", *keys]
    with monkeypatch.context() as patch:
        walk = Walk(patch)
        walk.watch(samplernn.Config, "model_validate_json")  # the config is read,
        walk.watch(soundfile.SoundFile, "read")  # a recording decoded,
        walk.watch(Quantizer, "encode")  # encoded,
        walk.watch(keras.utils, "set_random_seed")  # the network made,
        walk.watch(LaneWindows, "batch")  # a batch read,
        walk.watch(tf, "while_loop")  # a recurrent layer computed,
        walk.watch(tf.nn, "sparse_softmax_cross_entropy_with_logits")  # its likelihood,
        walk.watch(tf.GradientTape, "gradient")
        walk.watch(keras.optimizers.Adam, "apply")
        assert train.main(list(map(str, flags))) == 0
    training = walk.count("GradientTape.gradient")
    run = next((tmp_path / "logdir" / "way").glob("*/checkpoints.json")).parent
    with monkeypatch.context() as patch:
        walk = Walk(patch)
        walk.watch(tf.train.Checkpoint, "read")  # weights are restored,
        walk.watch(tf, "while_loop")  # a block of samples computed,
        walk.watch(SampleRNN, "perceptron")  # and of one of them the logits,
        walk.watch(soundfile.SoundFile, "write")  # and the sound written
        flags = ["--checkpoint_path", run, "--output_path", tmp_path / "made.wav", "--dur", 0.05]
        assert generate.main(list(map(str, flags))) == 0
    generation = walk.count("SoundFile.write")
    bounds = stated("recording to gradient"), stated("checkpoint to wav")
    within = [
        found <= most
        for way in zip((training, generation), bounds, strict=True)
        for found, most in zip(*way, strict=True)
    ]
    assert all(within), f"functions to open, on the stack: {training}, {generation}; the house says {bounds}"
