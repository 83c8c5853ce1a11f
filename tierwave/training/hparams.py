"""Hyper-parameters as TensorBoard's HParams tab shows them, where trainings are compared side by side.

Summaries go to TensorFlow's default writer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

# What changes nothing about what is learnt.
_HOUSEKEEPING = (
    "checkpoint_every", "checkpoint_minutes", "checkpoint_policy", "checkpoint_steps", "generate", "jit",
    "max_checkpoints", "max_generate_per_epoch", "max_minutes", "memory_check", "output_file_dur", "seed",
    "seed_offset", "strategy", "temperature",
)  # fmt: skip


def plain(value: Any) -> bool | int | float | str:
    """What TensorBoard takes: a number, a text or a truth value."""
    return value if isinstance(value, (bool, int, float, str)) else json.dumps(value)


def hparams_of(config: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The hyper-parameters of a training: the keys of its config, objects in it as `audio.hop_length`, and the training
    options that change what is learnt."""
    found: dict[str, Any] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                add(f"{name}.{key}", inner)
        else:
            found[name] = plain(value)

    for name, value in config.items():
        if name not in ("training", "controls"):
            add(name, value)
    for name, value in options.items():
        if name not in _HOUSEKEEPING:
            add(name, value)
    return found


def write_hparams(values: Mapping[str, Any], name: str) -> None:
    """Say with which values the training was made whose scalars are in the same folder as the default writer."""
    from tensorboard.plugins.hparams import api

    api.hparams({key: plain(value) for key, value in values.items()}, trial_id=name)
