"""What all tests share: quiet TensorFlow, seeds, and hypothesis without deadlines and the same on every machine."""

from __future__ import annotations

import os
import random
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before anything imports TensorFlow
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("tierwave", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("tierwave")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seed every global source of randomness, TensorFlow's only where a test module has imported it."""
    random.seed(0)
    np.random.seed(0)
    if "tensorflow" in sys.modules:
        sys.modules["tensorflow"].random.set_seed(0)


@pytest.fixture
def loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model is loaded and its loops are compiled once for all calls of generate.py."""
    import tensorflow as tf

    from commands import load_once

    tf.get_logger().setLevel("ERROR")  # of many functions that are traced in one process
    monkeypatch.setattr("tierwave.trained.load_trained", load_once)
