"""Small networks of every family and cell, with something to learn, for the tests of training."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tierwave.config import TrainingOptions
from tierwave.family import load_config
from tierwave.training.step import Learner

LANES, STEPS = 4, 20

AUDIO: dict[str, Any] = {"seq_len": 32, "q_levels": 16}
SAMPLE: dict[str, Any] = {"model": "samplernn", **AUDIO, "frame_sizes": [2, 8], "dim": 24, "num_rnn_layers": 2}
TIER: dict[str, Any] = {"model": "conditioning", **AUDIO, "conditioned_on": ["p"], "hidden_size": 24, "num_layers": 2}
VALUES: dict[str, Any] = {**TIER, "generates": ["x", "y"], "rate": 100, "q_levels": 256}
MEL: dict[str, Any] = {
    "model": "melnet",
    "audio": {"mel_channels": 16},
    "tiers": 3,
    "layers": [2, 1, 1],
    "hidden_size": 16,
    "mixtures": 2,
    "seq_len": 8,
    "scale_floor": 0.1,
}
NETWORKS: dict[str, tuple[dict[str, Any], str]] = {
    "samplernn-gru": ({**SAMPLE, "emb_size": 8}, "samplernn"),
    "samplernn-paper": ({**SAMPLE, "gru_reset": "before", "weight_norm": True, "convention": "paper"}, "samplernn"),
    "samplernn-lstm": ({**SAMPLE, "rnn_type": "lstm", "skip_conn": True, "conditioned_on": ["p"]}, "samplernn"),
    "samplernn-plain": ({**SAMPLE, "frame_sizes": [], "recompute": True}, "samplernn"),
    "conditioning-gru": ({**TIER, "recompute": True}, "conditioning"),
    "conditioning-lstm": ({**TIER, "cell": "lstm", "audio_input": "embedding", "net": "wide"}, "conditioning"),
    "conditioning-phased": ({**TIER, "cell": "phased_lstm", "audio_input": "onehot", "dropout": 0.2}, "conditioning"),
    "values-gaussian": ({**VALUES, "net": "shared_split", "scale_floor": 0.1}, "conditioning"),
    "values-phased": ({**VALUES, "cell": "phased_lstm", "net": "mixture", "scale_floor": 0.1}, "conditioning"),
    "melnet-lstm-1": (MEL, "tier1"),
    "melnet-lstm-3": ({**MEL, "recompute": True}, "tier3"),
    "melnet-gru-2": ({**MEL, "cell": "gru", "conditioned_on": ["p"]}, "tier2"),
    "melnet-text": ({**MEL, "text": {}}, "tier1"),
}


def learner(
    name: str | tuple[dict[str, Any], str], precision: Any, jit: bool, devices: Any = None, **options: Any
) -> Learner:
    document, stage = NETWORKS[name] if isinstance(name, str) else name
    family, config = load_config(document, "here")
    chosen = TrainingOptions(learning_rate=0.003, epsilon=1e-6, precision=precision, **options)
    dtype = precision.removeprefix("mixed_")
    return Learner(
        lambda: family.build(config, stage, compute_dtype=dtype),
        chosen,
        jit=jit,
        devices=devices,
        inputs=family.training_inputs(chosen, STEPS),
        **family.clipping(config, stage),
    )


def batch_of(name: str | dict[str, Any], lanes: int = LANES) -> dict[str, tf.Tensor]:
    """One batch of windows of something that can be learnt."""
    document = NETWORKS[name][0] if isinstance(name, str) else name
    _, config = load_config(document, "here")
    rng = np.random.default_rng(5)
    time = document["seq_len"]
    overlap = {"samplernn": lambda: config.top_frame, "melnet": lambda: config.time_factor}.get(
        document["model"], lambda: 1
    )()
    at = np.arange(overlap + time) + rng.integers(0, 50, lanes)[:, None]
    wave = np.sin(at * 0.7) + 0.1 * rng.normal(size=at.shape)
    batch: dict[str, Any] = {}
    if document["model"] == "melnet":
        bins = document["audio"]["mel_channels"]
        batch["inputs"] = wave[..., None] * np.linspace(0.5, 1.5, bins) + 0.5 * rng.normal(size=[*at.shape, bins])
        batch["text"] = rng.integers(1, 9, [lanes, 6])
    elif "generates" in document:
        batch["inputs"] = np.stack([0.5 + 0.3 * wave, 0.5 - 0.2 * wave], axis=-1)
    else:
        batch["inputs"] = np.clip(np.round(7.5 + 5 * wave), 0, 15).astype(np.int32)
        batch["targets"] = batch["inputs"][:, overlap:]
    batch["controls"] = np.repeat(rng.uniform(size=[lanes, 1, 1]), at.shape[1], axis=1)
    batch |= {"mask": np.ones([lanes, time]), "reset": np.zeros([lanes], bool)}
    kinds = {"f": tf.float32, "i": tf.int32, "b": tf.bool}
    return {key: tf.constant(value, kinds[value.dtype.kind]) for key, value in batch.items()}
