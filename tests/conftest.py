"""What all tests share: quiet TensorFlow, seeds, and hypothesis without deadlines and the same on every machine."""

from __future__ import annotations

import gc
import importlib
import os
import random
import signal
import sys
from collections.abc import Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before anything imports TensorFlow
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pytest
from hypothesis import settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell, and in what is started there
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("tierwave", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("tierwave")


def pytest_collection_finish() -> None:
    """What has been imported stays: looking through TensorFlow's half a million objects again and again takes a minute
    of a whole suite."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seed every global source of randomness but TensorFlow's own."""
    random.seed(0)
    np.random.seed(0)


@pytest.fixture(scope="module", autouse=True)
def seeded_tensorflow() -> None:
    """TensorFlow's own randomness, where a test module has imported it: once for the module, because it forgets with it
    what it has made of every graph, most of a second's work each. Models and draws here have seeds of their own."""
    if "tensorflow" in sys.modules:
        sys.modules["tensorflow"].random.set_seed(0)


@pytest.fixture
def loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model is loaded and its loops are compiled once for all calls of generate.py."""
    import tensorflow as tf

    from commands import load_once

    tf.get_logger().setLevel("ERROR")  # of many functions that are traced in one process
    monkeypatch.setattr("tierwave.generation.load.load_run", load_once)


@pytest.fixture(scope="module", autouse=True)
def without_xla(request: pytest.FixtureRequest) -> Iterator[None]:
    """XLA compiles for longer than most tests run: it is for those that ask, by `jit` or by the mark `xla`."""
    if request.node.get_closest_marker("xla") or "keras" not in sys.modules:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        for family, sampler in (("samplernn", "Sampler"), ("conditioning", "TierSampler"), ("melnet", "TierSampler")):
            made = getattr(importlib.import_module(f"{family}.sampler"), sampler).__init__
            patch.setitem(made.__kwdefaults__, "jit", False)
            patch.setattr(f"{family}.FAMILY.prefers_xla", lambda config, on_gpu: False)
        yield


@pytest.fixture(scope="module", autouse=True)
def patient(request: pytest.FixtureRequest) -> Iterator[None]:
    """On a slow machine a command says the same as on a fast one: how far it is, is the subject of one file only."""
    with pytest.MonkeyPatch.context() as patch:
        if request.node.name != "test_progress.py":
            patch.setattr("tierwave.system.progress.SECONDS", 1e9)
        yield


@pytest.fixture(scope="module")
def eager() -> Iterator[None]:
    """What a module's tests run a few times only is not traced first."""
    from commands import untraced

    with untraced():
        yield


@pytest.fixture
def eagerly() -> Iterator[None]:
    """The same for one test of a module whose other tests run a graph often enough."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module", autouse=True)
def forgotten() -> Iterator[None]:
    """What a module has compiled is let go of at its end: a whole suite's does not fit into a small machine."""
    yield
    if "keras" not in sys.modules:
        return
    import commands

    commands.load_once.cache_clear()
    for name in ("samplernn.sampler", "conditioning.sampler", "melnet.sampler"):
        if name in sys.modules:
            sys.modules[name].sampler_of.cache_clear()
    sys.modules["keras"].backend.clear_session()  # which collects garbage too
