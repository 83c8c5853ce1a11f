"""Memory: what is estimated, what there is, and what a person is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import train
from commands import told
from networks import batch_of, learner
from tierwave.audio.writer import write_wav
from tierwave.cli.memory import main
from tierwave.config import TrainingOptions, read_document
from tierwave.errors import RunError, UsageError
from tierwave.family import load_config
from tierwave.nn.footprint import Footprint
from tierwave.nn.recompute import recomputed, zero_after
from tierwave.training import memory
from tierwave.training.memory import Demand, Estimate, Room, demands, estimate, judged, machine_memory

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = [ROOT / f"configs/{name}.config.json" for name in ("tiny", "vocoder", "melnet_tiny")]
S: dict[str, Any] = {
    "model": "samplernn",
    "seq_len": 64,
    "frame_sizes": [4, 16],
    "dim": 8,
    "num_rnn_layers": 2,
    "emb_size": 6,
    "q_levels": 16,
}
C: dict[str, Any] = {"model": "conditioning", "conditioned_on": ["a", "b"], "hidden_size": 8, "num_layers": 2}
P: dict[str, Any] = {**C, "generates": ["x", "y", "z"], "rate": 100}
M: dict[str, Any] = {
    "model": "melnet",
    "audio": {"mel_channels": 16},
    "tiers": 3,
    "layers": [2, 1, 1],
    "hidden_size": 8,
    "mixtures": 2,
    "seq_len": 8,
}
NETWORKS = [
    S,
    {**S, "rnn_type": "lstm", "skip_conn": True, "weight_norm": True, "learn_h0": True},
    {**S, "skip_conn": "prism", "emb_size": 0, "rnn_dropout": 0.1},
    {**S, "gru_reset": "before", "convention": "paper", "weight_norm": True, "conditioned_on": ["a"]},
    {**S, "frame_sizes": [8], "convention": "paper", "learn_h0": True},
    {**S, "frame_sizes": [], "conditioned_on": ["a", "b"], "recompute": True},
    C,
    {**C, "cell": "lstm", "audio_input": "onehot", "net": "baseline", "recompute": True},
    {**C, "cell": "phased_lstm", "audio_input": "embedding", "net": "wide", "dropout": 0.1},
    *({**P, "net": net} for net in ("baseline", "split", "shared_split", "pathways", "shared_pathways", "mixture")),
    M,
    {**M, "cell": "gru", "conditioned_on": ["a"], "recompute": True},
    {**M, "text": {}},
]


@pytest.mark.parametrize("document", NETWORKS, ids=str)
def test_weights_are_counted_exactly(document: dict[str, Any]) -> None:
    family, config = load_config(document, "here")
    for stage in family.stages(config):
        assert family.count_weights(config, stage) == family.build(config, stage).count_params()


def floats(footprint: Footprint) -> int:
    return footprint.stored + footprint.recurrent + footprint.transient


@pytest.mark.parametrize("document", NETWORKS, ids=str)
def test_longer_and_wider_takes_more_and_recomputing_keeps_less(document: dict[str, Any]) -> None:
    family, config = load_config(document, "here")
    width = {"samplernn": "dim"}.get(document["model"], "hidden_size")
    for stage in family.stages(config):
        one = family.footprint(config, stage)
        longer = family.footprint(config.model_copy(update={"seq_len": 2 * config.seq_len}), stage)
        wider = family.footprint(config.model_copy(update={width: 16}), stage)
        assert floats(longer) == pytest.approx(2 * floats(one), rel=0.3)
        assert floats(wider) > floats(one)
        deep = {"num_rnn_layers": 6} if document["model"] == "samplernn" else {"num_layers": 6}
        deep = {"layers": [6, 6, 6]} if document["model"] == "melnet" else deep
        if document.get("frame_sizes"):
            continue
        keeps, again = (
            family.footprint(config.model_copy(update={**deep, "recompute": recompute}), stage)
            for recompute in (False, True)
        )
        assert floats(again) < 0.8 * floats(keeps)


@settings(deadline=None, max_examples=30)
@given(
    lanes=st.integers(1, 500),
    parts=st.integers(1, 8),
    optimizer=st.sampled_from(["adam", "sgd", "rmsprop"]),
    jit=st.booleans(),
)
def test_bytes_are_those_of_the_closed_form(lanes: int, parts: int, optimizer: Any, jit: bool) -> None:
    footprint = Footprint(stored=10**5, recurrent=10**5, transient=10**4, loops=3)
    options = TrainingOptions(optimizer=optimizer, accumulate=parts)
    need = estimate(10**6, footprint, options, lanes, jit=jit)
    assert need.weights == 4e6
    assert need.total == pytest.approx(need.weights + need.optimizer + need.activations + need.process)
    whole = estimate(10**6, footprint, options.model_copy(update={"accumulate": 1}), lanes, jit=jit)
    assert need.activations == pytest.approx(whole.activations * -(-lanes // parts) / lanes)
    assert estimate(10**6, footprint, options, lanes + parts, jit=jit).total > need.total
    adam = estimate(10**6, footprint, options.model_copy(update={"optimizer": "adam"}), lanes, jit=jit)
    assert need.optimizer <= adam.optimizer


def test_footprints_add_up() -> None:
    one, other = Footprint(10, 100, 5, 1), Footprint(20, 200, 3, 1)
    assert one + other == Footprint(30, 300, 5, 2)
    assert one.again(4) == Footprint(4, 0, 115, 2)


# What there is ---------------------------------------------------------------------------------------------------


def files(root: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


MEMINFO = "MemTotal:       16000 kB\nMemFree:   1000 kB\nMemAvailable:    9000 kB\nHugePages_Total:       0\n"


def test_the_machine_says_what_it_has(tmp_path: Path) -> None:
    files(tmp_path, proc__meminfo=MEMINFO)
    assert machine_memory(tmp_path) == Room(16000 * 1024.0, 9000 * 1024.0, "this machine")


@pytest.mark.parametrize("group", ["/", "/docker/abc", "/../../outside"])
def test_a_container_of_version_2_has_its_limit(tmp_path: Path, group: str) -> None:
    files(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup=f"0::{group}\n")
    folder = tmp_path / "sys" / "fs" / "cgroup"
    files(folder, **{"memory.max": "8192000\n", "memory.current": "5000000\n"})
    files(folder, **{"memory.stat": "anon 3000000\ninactive_file 1000000\n"})
    assert machine_memory(tmp_path) == Room(8192000.0, 4192000.0, "this container")
    files(folder, **{"memory.max": "max\n"})
    room = machine_memory(tmp_path)
    assert room is not None and room.place == "this machine"


def test_the_tightest_group_around_counts(tmp_path: Path) -> None:
    files(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup="0::/user/session\n")
    folder = tmp_path / "sys" / "fs" / "cgroup" / "user"
    files(folder, **{"memory.max": "4000000", "memory.current": "1000000"})
    files(folder / "session", **{"memory.max": "8000000", "memory.current": "1000000"})
    assert machine_memory(tmp_path) == Room(4000000.0, 3000000.0, "this container")


def test_a_container_of_version_1_has_its_limit(tmp_path: Path) -> None:
    text = "11:cpu,cpuacct:/x\n5:memory:/docker/abc\n0::/\n"
    files(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup=text)
    folder = tmp_path / "sys" / "fs" / "cgroup" / "memory" / "docker" / "abc"
    files(folder, **{"memory.limit_in_bytes": "6000000\n", "memory.usage_in_bytes": "3000000\n"})
    files(folder, **{"memory.stat": "cache 2500000\ntotal_inactive_file 2000000\n"})
    assert machine_memory(tmp_path) == Room(6000000.0, 5000000.0, "this container")
    files(folder, **{"memory.limit_in_bytes": "9223372036854771712\n"})  # version 1's "none"
    room = machine_memory(tmp_path)
    assert room is not None and room.place == "this machine"


def test_without_proc_the_system_is_asked(tmp_path: Path) -> None:
    room, real = machine_memory(tmp_path), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert room is not None and room.total == real and 0 < room.free <= room.total


SMI = """#!/bin/sh
echo "0, GPU-aaaa-1, 24576, 20000"
echo "1, GPU-bbbb-2, 8192, 8000"
"""


@pytest.mark.parametrize(("visible", "total"), [(None, 8192), ("0", 24576), ("GPU-bbbb", 8192), ("", None)])
def test_the_smallest_gpu_that_is_seen_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, total: int | None
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(SMI)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    room = memory.gpu_memory()
    assert (None if room is None else room.total / 2**20) == total
    tool.write_text("#!/bin/sh\necho broken\n")
    assert memory.gpu_memory() is None


# What a person is told -------------------------------------------------------------------------------------------


def demand(document: dict[str, Any], stage: str | None = None, **options: Any) -> Demand:
    family, config = load_config(document, "here")
    chosen = TrainingOptions(**options)
    return Demand(family, config, stage or family.stages(config)[-1], chosen, jit=False)


BIG = {**C, "hidden_size": 512, "num_layers": 6, "seq_len": 4096}


@pytest.mark.parametrize(
    ("document", "lanes"), [(BIG, 64), ({**M, "hidden_size": 256, "seq_len": 512}, 64), ({**S, "dim": 2048}, 4096)]
)
def test_every_remedy_fits_and_none_is_smaller_than_it_must_be(document: dict[str, Any], lanes: int) -> None:
    wanted = demand(document, batch_size=lanes)
    base = wanted.estimate(batch_size=1).total
    limit = base + 0.3 * (wanted.estimate().total - base)
    found = dict(text.removeprefix("--set ").replace("=", " ").split(" ")[:2] for text in wanted.remedies(limit))
    batch, parts = int(found.pop("--batch_size")), int(found.pop("--accumulate"))
    assert wanted.estimate(batch_size=batch).total <= limit < wanted.estimate(batch_size=batch + 1).total
    assert wanted.estimate(accumulate=parts).total <= limit < wanted.estimate(accumulate=parts - 1).total
    assert set(found) >= {"seq_len"}
    for key, value in found.items():
        changed = demand({**document, key: value == "true" or int(value)}, batch_size=lanes)
        assert changed.estimate().total <= limit


def test_what_clearly_does_not_fit_is_refused_with_the_remedies_in_order() -> None:
    wanted = demand(BIG, batch_size=64)
    need = wanted.estimate().total
    with pytest.raises(UsageError) as caught:
        judged(wanted, Room(need / 2, need / 2.1))
    text = str(caught.value)
    names = ["--batch_size", "--accumulate", "--set seq_len", "--memory_check False"]
    if "recompute" in text:  # where that alone is enough
        names.insert(2, "--set recompute=true")
    places = [text.index(name) for name in names]
    assert places == sorted(places) and f"about {need / 1e9:.1f} GB" in text
    tried = demand(BIG, batch_size=64, memory_check=False)
    assert "--batch_size" in str(judged(tried, Room(need / 2, need / 3)))  # a warning
    with pytest.raises(UsageError, match="not even one lane"):
        judged(wanted, Room(1e6, 1e6))


def test_between_free_and_total_there_is_a_warning_and_below_nothing() -> None:
    wanted = demand(C)
    need = wanted.estimate().total
    assert judged(wanted, Room(4 * need, 2 * need)) is None and judged(wanted, None) is None
    warned = judged(wanted, Room(4 * need, 0.9 * need))
    assert warned is not None and "if it runs out" in warned


def test_a_tier_of_a_cascade_is_named_by_its_key() -> None:
    tiers = [{**P, "name": "slow"}, {**BIG, "name": "audio", "conditioned_on": ["x", "y", "z"]}]
    for tier in tiers:
        tier.pop("model")
    wanted = demand({"model": "cascade", "tiers": tiers}, batch_size=64)
    assert any(text == "--set tiers.1.recompute=true" for text in wanted.remedies(0.5 * wanted.estimate().total))


def test_running_out_in_training_becomes_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = demand(BIG, batch_size=64)
    monkeypatch.setattr(memory, "machine_memory", lambda: None)
    with pytest.raises(RunError) as caught, memory.told_when_it_runs_out(wanted):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating\na tensor")
    text = str(caught.value)
    assert "OOM when allocating" in text and "--batch_size" in text and "\n" not in text
    with pytest.raises(ValueError), memory.told_when_it_runs_out(wanted):
        raise ValueError("another matter")


def test_what_never_fits_is_refused_before_a_run_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound = tmp_path / "sound"
    sound.mkdir()
    write_wav(sound / "a.wav", np.sin(np.arange(40000) * 0.1).astype(np.float32), 16000)
    keys = ["frame_sizes=[4,16]", "seq_len=64", "dim=20000", "num_rnn_layers=8", "emb_size=32"]
    arguments = ["--data_dir", str(sound), "--id", "x", "--logdir_root", str(tmp_path / "logdir"), "--set", *keys]
    text = told(capsys, train.main, arguments, 2)
    assert "GB of memory" in text and "take a smaller network" in text
    assert not [path for path in (tmp_path / "logdir").glob("x/*") if path.is_dir()]


def test_the_presets_are_estimated_in_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config_file", *map(str, CONFIGS)]) == 0
    lines = capsys.readouterr().out.splitlines()
    stages = [demand for path in CONFIGS for demand in demands(read_document(path), str(path))]
    assert len(lines) == len(stages) and all(line.endswith(" GB") for line in lines)


# What saves memory -----------------------------------------------------------------------------------------------


PLAIN = {**S, "frame_sizes": [], "rnn_dropout": 0.2}
PHASED = {**C, "seq_len": 12, "cell": "phased_lstm", "dropout": 0.2}


@pytest.mark.parametrize(
    ("document", "stage", "how"),
    [
        (PHASED, "conditioning", "eager"),
        *(
            pytest.param(*network, how, marks=pytest.mark.slow)
            for network, how in (
                ((PLAIN, "samplernn"), "graph"),
                ((PLAIN, "samplernn"), "xla"),
                ((PHASED, "conditioning"), "xla"),
                ((M, "tier3"), "graph"),
                ((M, "tier3"), "xla"),
            )
        ),
    ],
)
def test_layers_computed_again_have_the_same_gradients(document: Any, stage: str, how: str) -> None:
    found = []
    for recompute in (False, True):
        tf.keras.utils.set_random_seed(3)
        family, config = load_config({**document, "recompute": recompute}, "here")
        model = family.build(config, stage)
        rng = np.random.default_rng(1)
        steps = config.seq_len
        batch = {"mask": tf.ones([2, steps]), "reset": tf.constant([True, False])}
        if document["model"] == "melnet":
            batch["inputs"] = tf.constant(rng.normal(size=[2, steps + config.time_factor, 16]), tf.float32)
        else:
            codes = rng.integers(0, 16, [2, steps + 1])
            batch |= {"inputs": tf.constant(codes, tf.int32), "targets": tf.constant(codes[:, 1:], tf.int32)}
            batch["controls"] = tf.constant(rng.uniform(size=[2, steps + 1, 2]), tf.float32)

        def gradients(model: Any = model, batch: Any = batch) -> Any:
            with tf.GradientTape() as tape:
                outcome = model.loss_sums(batch, model.initial_state(2), dropout_seed=tf.constant([1, 2]))
                loss = tf.reduce_sum(outcome.nats) / tf.reduce_sum(outcome.elements)
            return tape.gradient(loss, [variable.value for variable in model.trainable_variables]), outcome

        compiled = tf.function(gradients, jit_compile=how == "xla")
        found.append(gradients() if how == "eager" else compiled())
    (plain, first), (again, second) = found
    assert len(plain) > 10 and all(part is not None for part in plain)
    for one, other in zip(plain, again, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    for one, other in zip(tf.nest.flatten(first), tf.nest.flatten(second), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_a_value_that_waits_is_0_whatever_it_waits_for() -> None:
    tensors = [tf.constant([np.inf, 1.0]), tf.constant([[-np.inf]]), tf.constant(np.nan)]
    assert [float(zero_after(tensors[:count])) for count in (1, 2, 3)] == [0.0, 0.0, 0.0]
    assert float(zero_after([tf.constant([3.0])])) == 0.0


def test_recomputing_takes_any_nest_and_leaves_whole_numbers_alone() -> None:
    calls = []

    def run(parts: dict[str, Any], nothing: None, count: tf.Tensor) -> tuple[Any, ...]:
        calls.append(1)
        return {"y": parts["x"] ** 2 * tf.cast(count, tf.float32)}, None, count + 1

    x, count = tf.constant([1.0, 2.0]), tf.constant(3)
    with tf.GradientTape() as tape:
        tape.watch(x)
        made, nothing, after = recomputed(run)({"x": x}, None, count)
        loss = tf.reduce_sum(made["y"])
    np.testing.assert_allclose(tape.gradient(loss, x), 6.0 * x)
    assert nothing is None and int(after) == 4 and len(calls) == 2


def test_an_estimate_is_the_sum_of_its_parts() -> None:
    assert Estimate(1.0, 2.0, 3.0, 4.0).total == 10.0
    text = memory.announced(Estimate(3e8, 6e8, 2.1e9, 2e8), Room(23e9, 21e9))
    assert text.startswith("Needs about 3.2 GB of memory (weights 0.3, optimiser 0.6, activations 2.1")
    assert text.endswith("; 21.0 GB are free.")


# A batch in parts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "jit"),
    [
        ("conditioning-gru", False),
        *(
            pytest.param(name, jit, marks=pytest.mark.slow)
            for name, jit in (("samplernn-lstm", True), ("values-phased", True), ("melnet-text", False))
        ),
    ],
)
def test_a_batch_in_parts_is_the_same_also_where_they_are_not_equal(name: str, jit: bool) -> None:
    found = []
    for parts in (1, 3):  # of four lanes
        made = learner(name, "float32", jit, accumulate=parts)
        batch, state = batch_of(name), made.initial_state(4)
        for step in range(3):
            results, state = made.train_step(batch, state, step)
        found.append((results, state))
    (whole, first), (parted, second) = found
    for key in ("loss", "accuracy", "elements", "gradient_norm"):
        assert parted[key] == pytest.approx(whole[key], rel=1e-5)
    for one, other in zip(tf.nest.flatten(first), tf.nest.flatten(second), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


MEASURED = """
import json, sys
import networks as tests
document, stage, lanes, parts, jit = json.loads(sys.argv[1])
made = tests.learner((document, stage), "float32", jit, accumulate=parts)
batch, state = tests.batch_of(document, lanes), made.initial_state(lanes)
for step in range(2):
    _, state = made.train_step(batch, state, step)
# Not ru_maxrss, which begins with that of the process that this one was forked from.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
# Every family with and without XLA, a batch in parts with one of them.
WIDE_S = {**S, "seq_len": 1024, "frame_sizes": [16, 64], "dim": 256, "q_levels": 256}
WIDE_C = {**C, "conditioned_on": ["p"], "hidden_size": 256, "num_layers": 3, "seq_len": 1000}
WIDE_M = {**M, "layers": [2, 2, 3], "audio": {"mel_channels": 64}, "hidden_size": 64, "seq_len": 64}
LARGE: list[tuple[dict[str, Any], str, int, int, bool]] = [
    (WIDE_S, "samplernn", 128, 1, True),
    (WIDE_S, "samplernn", 256, 4, False),
    (WIDE_C, "conditioning", 48, 1, False),
    (WIDE_C, "conditioning", 48, 1, True),
    (WIDE_M, "tier3", 8, 1, False),
    (WIDE_M, "tier3", 8, 1, True),
]


@pytest.mark.slow
@pytest.mark.parametrize(("document", "stage", "lanes", "parts", "jit"), LARGE)
def test_estimates_are_near_to_what_is_measured(
    document: dict[str, Any], stage: str, lanes: int, parts: int, jit: bool
) -> None:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, json.dumps([document, stage, lanes, parts, jit])],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
    measured = 1024.0 * int(done.stdout.split()[-1])
    family, config = load_config(document, "here")
    options = TrainingOptions(batch_size=lanes, accumulate=parts)
    assert Demand(family, config, stage, options, jit).estimate().total == pytest.approx(measured, rel=0.3)
