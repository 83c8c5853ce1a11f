"""The benchmarks run at a tiny size, and what they reckon is right."""

import json
import math
import shutil

import numpy as np
import pytest

import samplernn
from bench import limits, run
from bench.cases import CONFIGS
from tierwave.engine.kernels import CATEGORICAL
from tierwave.engine.network import Builder, Matrix


def test_weights_of_generation_are_the_models():
    """Every matrix of the folded model is counted once: all weights but biases, lookups and what folding removes."""
    config = CONFIGS["B"]
    matrices = {matrix.name: matrix.size for matrix in limits.generation_matrices(config)}
    model = samplernn.FAMILY.build(config)
    dim = config.dim
    biases = sum(len(v.shape) == 1 and v.shape[0] for v in model.trainable_variables)
    lookup = config.q_levels * config.emb_size + config.sample_frame * config.emb_size * dim
    assert sum(matrices.values()) == model.count_params() - biases - lookup - dim * dim
    assert matrices["rnn 16"] == 6 * dim * dim and matrices["upsample 64"] == 4 * dim * dim


def test_training_arithmetic_by_hand():
    config = CONFIGS["A"]
    dim = 1024
    often = dim * dim + dim * 256
    low = (16 * dim + 24 * dim * dim + 16 * dim * dim) / 16
    top = (64 * dim + 24 * dim * dim + 4 * dim * dim) / 64
    table = 16 * 256 * 256 * dim / 4096
    first_hidden = dim * dim  # 4096 samples are too few for folding to pay
    assert limits.training_flops(config, 4096) == pytest.approx(6 * (often + low + top + table + first_hidden))


@pytest.mark.slow
@pytest.mark.parametrize(
    "benchmark",
    [
        *("generation", "training", "steered", "spectrograms", "pipeline", "play"),
        pytest.param("page", marks=pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium's")),
    ],
)
def test_small_benchmarks_run(benchmark):
    # A process imports TensorFlow for longer than it measures so little: one benchmark has one, the others have ours.
    measure = run.run_case if benchmark == "pipeline" else run.measured
    rows = [row for case in run.cases(benchmark, small=True) for row in measure(benchmark, case)]
    json.dumps(rows)
    shares = [row.get("share", row.get("share_waiting", row.get("ratio"))) for row in rows]
    most = math.inf if benchmark == "generation" else 50  # how much faster the engine is depends on the machine
    assert all(0 <= share < most for share in shares)
    shown = run.table(rows)
    assert all(name in shown for name in rows[0] if name not in ("benchmark", "limit_text"))


@pytest.mark.parametrize(("kind", "size", "scale"), [("float32", 4, 0), ("bfloat16", 2, 0), ("int8", 1, 4)])
def test_bytes_of_weights_by_hand(kind, size, scale):
    """A part that runs every other step with a matrix 8 x 32, and one of every step with three rows of a table."""
    rng = np.random.default_rng(0)
    builder = Builder(kind, origin="here", history=3)
    wide, narrow = builder.place(32), builder.place(8)
    builder.part(2)
    builder.multiply(wide, narrow, Matrix(8, 32, lambda: rng.normal(size=[8, 32]).astype(np.float32)))
    builder.part(1)
    builder.look_up(wide, rng.normal(size=[3, 16, 32]).astype(np.float32))
    network = builder.build(CATEGORICAL, wide, 32)
    assert network.multiplications == 8 * 32 / 2
    assert limits.weight_bytes(network) == (8 * 32 * size + 32 * scale) / 2 + 3 * (32 * size + scale)
    limit = limits.generation_limit(network, 2, repeats=1)
    assert math.isfinite(limit.samples_per_second) and limit.samples_per_second > 0 and kind in limit.text
