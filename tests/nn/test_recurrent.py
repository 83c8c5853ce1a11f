"""Recurrent layers: own gradients against Keras and finite differences, both forms, state in and out."""

import itertools
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from combinations import covering

from tierwave.nn import cells
from tierwave.nn.cells import LEAK, time_gate
from tierwave.nn.linear import Linear, linear
from tierwave.nn.recurrent import Recurrent, RecurrentStack, reset_lanes

CELLS = [("gru", "after"), ("gru", "before"), ("lstm", "after")]
PHASED = ("phased_lstm", "after")
GATE = ("period", "phase", "ratio_on")
MTCRNN = Path(__file__).parents[1] / "oracle" / "mtcrnn"


def by_xla(function, jit):
    """Compiled where XLA is the subject; else as it is, since tracing takes longer than a few calls."""
    return tf.function(function, jit_compile=True) if jit else function


def make_layer(cell, reset, *, weight_norm=False, **options):
    keras.utils.set_random_seed(1)
    layer = Recurrent(5, 7, cell=cell, reset=reset, weight_norm=weight_norm, **options)
    rng = np.random.default_rng(2)
    for variable in layer.trainable_variables:
        if not variable.path.endswith(("_gain", *GATE)):
            variable.assign(rng.normal(0, 0.5, variable.shape))
    inputs = tf.constant(rng.normal(size=[3, 11, 5]), tf.float32)
    state = tuple(
        tf.constant(rng.normal(size=[3, width]) if dtype.is_floating else rng.integers(0, 30, [3, width]), dtype)
        for width, dtype in layer.state_parts
    )
    return layer, inputs, state


def value_and_gradients(layer, inputs, state):
    return _value_and_gradients(
        lambda: layer.sequence(inputs, state, layer.effective_weights()), inputs, state, layer.trainable_variables
    )


def _value_and_gradients(sequence, inputs, state, variables):
    watched = [inputs, state, [variable.value for variable in variables]]
    with tf.GradientTape() as tape:
        tape.watch([inputs, state])
        outputs, last = sequence()
        loss = tf.reduce_sum(outputs * tf.cos(tf.range(7.0)))
        loss += tf.add_n([tf.reduce_sum(tf.sin(part)) for part in last])
    return tf.nest.flatten([outputs, last, tape.gradient(loss, watched)])


def of_keras(layer, inputs, state):
    """The same of Keras' own layer, the independent oracle."""
    kind, options = keras.layers.LSTM, {}
    biases = [layer.bias.numpy()]
    if layer.cell == "gru":
        kind, options = keras.layers.GRU, {"reset_after": layer.reset == "after"}
        biases += [layer.recurrent_bias.numpy()] if layer.reset == "after" else []
    oracle = kind(7, return_sequences=True, return_state=True, **options)
    oracle.build([None, None, 5])
    bias = np.stack(biases) if len(biases) > 1 else biases[0]
    oracle.set_weights([layer.kernel.numpy(), layer.recurrent_kernel.numpy(), bias])

    def sequence():
        outputs, *last = oracle(inputs, initial_state=list(state))
        return outputs, last

    *found, bias_gradient = _value_and_gradients(sequence, inputs, state, oracle.trainable_variables)
    return [*found, *(tf.unstack(bias_gradient) if len(biases) > 1 else [bias_gradient])]


@pytest.mark.parametrize(("cell", "reset"), CELLS)
@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_values_and_gradients_equal_keras(cell, reset, jit):
    layer, inputs, state = make_layer(cell, reset)
    expected = of_keras(layer, inputs, state)
    ours = by_xla(lambda: value_and_gradients(layer, inputs, state), jit)()
    assert len(expected) == len(ours)
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize(
    ("cell", "dtype"),
    [("gru", "float32"), ("lstm", "float32"), ("gru", "float16"), ("lstm", "bfloat16")]
    + [pytest.param(*case, marks=pytest.mark.slow) for case in (("gru", "bfloat16"), ("lstm", "float16"))],
)
def test_keras_layers_in_a_training_step_say_the_same(cell, dtype):
    """What a GPU runs, with cuDNN below: in a graph, with the same weights, in the precision that is asked for."""
    layer, inputs, state = make_layer(cell, "after")
    fused, _, _ = make_layer(cell, "after", fused=True, compute_dtype=dtype)
    assert [variable.name for variable in fused.variables] == [variable.name for variable in layer.variables]
    expected = value_and_gradients(layer, inputs, state)
    step = tf.function(lambda: value_and_gradients(fused, inputs, state))
    for one, other in zip(step(), expected, strict=True):
        assert one.dtype == tf.float32
        np.testing.assert_allclose(one, other, atol={"float32": 2e-5, "bfloat16": 0.25, "float16": 0.03}[dtype])
    assert dtype == "float32" or np.abs(step()[0] - expected[0]).max() > 1e-5


@pytest.mark.parametrize(("cell", "reset"), CELLS)
def test_gradient_against_finite_differences(cell, reset):
    layer, inputs, state = make_layer(cell, reset, weight_norm=True)

    def loss():
        outputs, last = layer.sequence(inputs, state, layer.effective_weights())
        return tf.reduce_sum(outputs**2) + tf.add_n([tf.reduce_sum(part**3) for part in last])

    with tf.GradientTape() as tape:
        value = loss()
    variables = [variable.value for variable in layer.trainable_variables]
    rng = np.random.default_rng(3)
    for variable, gradient in zip(variables, tape.gradient(value, variables), strict=True):
        direction = rng.normal(size=variable.shape).astype(np.float32)
        direction /= np.linalg.norm(direction)
        original, step = variable.numpy(), 1e-2
        variable.assign(original + step * direction)
        above = float(loss())
        variable.assign(original - step * direction)
        below = float(loss())
        variable.assign(original)
        expected = float(tf.reduce_sum(gradient * direction))
        assert (above - below) / (2 * step) == pytest.approx(expected, rel=2e-2, abs=2e-2)


@pytest.mark.parametrize(("cell", "reset"), [*CELLS, PHASED])
@pytest.mark.parametrize("weight_norm", [False, True])
def test_steps_equal_the_sequence(cell, reset, weight_norm):
    layer, inputs, state = make_layer(cell, reset, weight_norm=weight_norm)
    weights = layer.effective_weights()
    whole, last = layer.sequence(inputs, state, weights)
    for time in range(inputs.shape[1]):
        output, state = layer.step(inputs[:, time], state, weights)
        np.testing.assert_allclose(output, whole[:, time], atol=1e-5)
    for one, other in zip(state, last, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    ("cell", "skip", "learned"),
    covering(list(itertools.product(("gru", "lstm", "phased_lstm"), (False, True, "prism"), (False, True))), 2),
)
def test_stack_in_two_windows_and_in_steps(cell, skip, learned):
    keras.utils.set_random_seed(4)
    stack = RecurrentStack(5, 6, 3, cell=cell, skip=skip, learn_initial_state=learned)
    for variable in stack.trainable_variables:
        if not variable.path.endswith(GATE):
            variable.assign(np.random.default_rng(len(variable.path)).normal(0, 0.4, variable.shape))
    inputs = tf.constant(np.random.default_rng(5).normal(size=[2, 8, 5]), tf.float32)
    weights = stack.effective_weights()
    whole, last = stack.sequence(inputs, stack.initial_state(2), weights)
    first, state = stack.sequence(inputs[:, :3], stack.initial_state(2), weights)
    second, state = stack.sequence(inputs[:, 3:], state, weights)
    np.testing.assert_allclose(tf.concat([first, second], axis=1), whole, atol=1e-5)
    for one, other in zip(tf.nest.flatten(state), tf.nest.flatten(last), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    state = stack.initial_state(2)
    for time in range(8):
        output, state = stack.step(inputs[:, time], state, weights)
        np.testing.assert_allclose(output, whole[:, time], atol=1e-5)


def test_skip_wiring_is_the_papers():
    """Layers above the first see the stack's input too; the output sums one map per layer, biased in the first."""
    stack = RecurrentStack(5, 6, 3, skip=True)
    assert [layer.inputs for layer in stack.layers] == [5, 11, 11]
    assert [output.bias is not None for output in stack.outputs] == [True, False, False]
    prism = RecurrentStack(5, 6, 3, skip="prism")
    assert [layer.inputs for layer in prism.layers] == [10, 6, 6]


def test_weight_normalised_columns_have_their_gain_as_norm():
    layer = Linear(9, 4, weight_norm=True)
    kernel, _ = layer.effective_weights()
    np.testing.assert_allclose(kernel, layer.kernel.value, rtol=1e-5)  # gains start as the norms
    layer.kernel_gain.assign([1.0, 2.0, 3.0, 4.0])
    kernel, _ = layer.effective_weights()
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), [1, 2, 3, 4], rtol=1e-5)


def test_reduced_precision_is_near_and_state_stays_float32():
    keras.utils.set_random_seed(6)
    exact = RecurrentStack(5, 6, 2)
    rough = RecurrentStack(5, 6, 2, compute_dtype="bfloat16")
    for one, other in zip(exact.trainable_variables, rough.trainable_variables, strict=True):
        other.assign(one.value)
    inputs = tf.constant(np.random.default_rng(5).normal(size=[2, 8, 5]), tf.float32)
    expected, _ = exact.sequence(inputs, exact.initial_state(2), exact.effective_weights())
    found, state = rough.sequence(inputs, rough.initial_state(2), rough.effective_weights())
    assert all(part.dtype == tf.float32 for part in tf.nest.flatten(state))
    difference = np.abs(found - expected).max()
    assert 0 < difference < 0.03


def test_reset_lanes_takes_initial_values_only_where_told():
    state, initial = {"h": tf.ones([3, 2])}, {"h": tf.zeros([3, 2])}
    found = reset_lanes(state, initial, tf.constant([True, False, True]))
    np.testing.assert_array_equal(found["h"], [[0, 0], [1, 1], [0, 0]])


def test_linear_maps_the_last_axis_of_any_shape():
    layer = Linear(3, 2)
    inputs = tf.constant(np.random.default_rng(0).normal(size=[2, 4, 5, 3]), tf.float32)
    np.testing.assert_allclose(linear(inputs, layer.effective_weights()), inputs @ layer.kernel.value, atol=1e-5)


# --- phased LSTM --------------------------------------------------------------------------------------------------


def gate_in_numpy(time, period, phase, ratio_on, leak, origin=0, first_period=1.0):
    """Neil, Pfeiffer & Liu 2016, eq. 6 and 7, in float64: time `[batch, 1]` -> `[batch, units]`. The period has been
    `first_period` until the time `origin`."""
    cycle = np.mod(np.mod(origin, first_period) / first_period + (time - origin - phase) / period, 1.0)
    falling = np.where(cycle < ratio_on, 2 - 2 * cycle / ratio_on, leak * cycle)
    return np.where(cycle < ratio_on / 2, 2 * cycle / ratio_on, falling)


def phased_lstm_in_numpy(values, inputs, h, c, time, leak, first_period):
    """The whole cell in float64, eq. 1 to 10 without peepholes: outputs `[batch, time, units]`, last h and c."""

    def sigmoid(sums):
        return 1 / (1 + np.exp(-sums))

    kernels = [
        values[name] * values[f"{name}_gain"] / np.linalg.norm(values[name], axis=0)
        if f"{name}_gain" in values
        else values[name]
        for name in ("kernel", "recurrent_kernel")
    ]
    outputs = []
    for step in range(inputs.shape[1]):
        sums = inputs[:, step] @ kernels[0] + h @ kernels[1] + values["bias"]
        i, f, g, o = np.split(sums, 4, axis=-1)
        c_full = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h_full = sigmoid(o) * np.tanh(c_full)
        k = gate_in_numpy(time + step, *(values[name] for name in GATE), leak, time, first_period)
        h, c = k * h_full + (1 - k) * h, k * c_full + (1 - k) * c
        outputs.append(h)
    return np.stack(outputs, axis=1), h, c


def test_time_gate_in_closed_form():
    gate = time_gate(tf.range(14)[:, None], tf.constant([10.0]), tf.constant([3.0]), tf.constant([0.4]), 0.01)
    rest = [0.007, 0.008, 0.009]  # before the phase: the end of the period before it
    expected = [*rest, 0, 0.5, 1, 0.5, 0.004, 0.005, 0.006, *rest, 0]
    expected[7] = float(gate[7, 0])  # where the gate closes, rounding decides between 0 and the leak
    assert 0 <= expected[7] < 0.0041
    np.testing.assert_allclose(gate[:, 0], expected, atol=1e-6)


def test_time_gate_is_never_negative_and_repeats_to_both_sides_of_its_phase():
    period, phase, ratio_on = tf.constant([4.0, 16.0, 20.0]), tf.constant([3.5, 15.25, 0.75]), tf.fill([3], 0.3)
    times = tf.range(-200, 200)[:, None]
    gate = time_gate(times, period, phase, ratio_on, LEAK).numpy()
    assert gate.min() >= 0 and gate.max() <= 1
    np.testing.assert_allclose(gate, time_gate(times + 80, period, phase, ratio_on, LEAK), atol=1e-6)
    assert (gate[200:][times[200:, 0] < 15, 1] > 0).all()  # from a reset to the first phase


def test_time_gate_is_exact_after_hours():
    """37 hours at 16 kHz, where float32 would be 128 steps out."""
    late = tf.constant([[2_000_000_005]])
    gate = time_gate(late, tf.constant([10.0, 10.0]), tf.constant([4.5, 3.25]), tf.constant([0.4, 0.4]), LEAK)
    np.testing.assert_allclose(gate, [[0.25, 0.875]], atol=1e-6)


def test_time_gate_stays_finite_when_training_overshoots():
    for period, ratio_on in ((0.0, 0.2), (-3.0, 0.2), (10.0, 0.0), (10.0, -0.5)):
        watched = [tf.constant([period]), tf.constant([2.0]), tf.constant([ratio_on])]
        with tf.GradientTape() as tape:
            tape.watch(watched)
            gate = time_gate(tf.range(20)[:, None], *watched, LEAK)
        assert tf.reduce_all((gate >= 0) & (gate <= 1))
        assert all(np.isfinite(gradient).all() for gradient in tape.gradient(gate, watched))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_phased_lstm_and_its_gradients_equal_a_plain_reference(training, jit):
    """Every element of every variable, the inputs and the state: central differences of the float64 reference."""
    keras.utils.set_random_seed(7)
    layer = Recurrent(2, 3, cell="phased_lstm", weight_norm=True, fused=True)
    rng = np.random.default_rng(8)
    layer.bias.assign(rng.normal(size=12))
    layer.ratio_on.assign([0.3, 0.6, 0.9])
    watched = {variable.path.split("/")[-1]: variable.value for variable in layer.trainable_variables}
    watched |= {
        name: tf.constant(rng.normal(size=shape), tf.float32)
        for name, shape in (("inputs", [2, 9, 2]), ("h", [2, 3]), ("c", [2, 3]))
    }
    time = tf.constant([[0], [100]])
    weighting = rng.normal(size=[2, 9, 3])

    def ours():
        with tf.GradientTape() as tape:
            tape.watch([watched[name] for name in ("inputs", "h", "c")])
            state = (watched["h"], watched["c"], time)
            outputs, last = layer.sequence(watched["inputs"], state, layer.effective_weights(), training=training)
            loss = tf.reduce_sum(outputs * weighting) + tf.reduce_sum(tf.sin(last[0])) + tf.reduce_sum(last[1] ** 2)
        return outputs, last, tape.gradient(loss, watched)

    def reference(values):
        arrays = (values[name] for name in ("inputs", "h", "c"))
        first_period = np.asarray(watched["period"], np.float64)  # a window's gradient knows no earlier ones
        return phased_lstm_in_numpy(values, *arrays, time.numpy(), LEAK if training else 0.0, first_period)

    def reference_loss(values):
        outputs, h, c = reference(values)
        return (outputs * weighting).sum() + np.sin(h).sum() + (c**2).sum()

    outputs, last, gradients = by_xla(ours, jit)()
    values = {name: np.asarray(value, np.float64) for name, value in watched.items()}
    for one, other in zip((outputs, *last[:2]), reference(values), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)
    np.testing.assert_array_equal(last[2], time + 9)
    assert set(GATE) < set(values) and "recurrent_kernel_gain" in values
    for name, value in values.items():
        expected = np.zeros(value.shape)
        for index in np.ndindex(value.shape):
            above, below = value.copy(), value.copy()
            above[index] += 1e-6
            below[index] -= 1e-6
            expected[index] = (reference_loss(values | {name: above}) - reference_loss(values | {name: below})) / 2e-6
        scale = np.abs(expected).max()
        assert scale > 1e-3
        np.testing.assert_allclose(gradients[name] / scale, expected / scale, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_phased_steps_equal_the_sequence_with_a_reset_between(jit):
    keras.utils.set_random_seed(9)
    stack = RecurrentStack(5, 6, 2, cell="phased_lstm", learn_initial_state=True)
    for variable in stack.initial:
        variable.assign(np.random.default_rng(1).normal(size=variable.shape))
    inputs = tf.constant(np.random.default_rng(10).normal(size=[2, 20, 5]), tf.float32)
    weights, reset = stack.effective_weights(), tf.constant([True, False])
    sequence, step = by_xla(stack.sequence, jit), by_xla(stack.step, jit)

    first, state = sequence(inputs[:, :8], stack.initial_state(2), weights)
    second, last = sequence(inputs[:, 8:], reset_lanes(state, stack.initial_state(2), reset), weights)
    whole = tf.concat([first, second], axis=1)

    state = stack.initial_state(2)
    for index in range(20):
        if index == 8:
            state = reset_lanes(state, stack.initial_state(2), reset)
        output, state = step(inputs[:, index], state, weights)
        np.testing.assert_allclose(output, whole[:, index], atol=1e-6)
    for one, other in zip(tf.nest.flatten(state), tf.nest.flatten(last), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, atol=1e-6)
    for _, _, time in last:
        assert time.dtype == tf.int32
        np.testing.assert_array_equal(time, [[12], [20]])
    restarted, _ = sequence(inputs[:1, 8:], stack.initial_state(1), weights)
    np.testing.assert_allclose(second[:1], restarted, atol=1e-6)


def test_phased_initial_state_learns_all_but_the_time():
    stack = RecurrentStack(5, 6, 2, cell="phased_lstm", learn_initial_state=True)
    assert [variable.shape for variable in stack.initial] == [(6,)] * 4
    stack.initial[3].assign(np.arange(6))
    for _, c, time in stack.initial_state(3)[1:]:
        np.testing.assert_array_equal(c, [np.arange(6)] * 3)
        assert time.dtype == tf.int32
        np.testing.assert_array_equal(time, [[0]] * 3)


def test_leak_is_there_in_training_only():
    """While all gates are closed nothing moves, except by the leak in training."""
    keras.utils.set_random_seed(11)
    stack = RecurrentStack(2, 4, 1, cell="phased_lstm")
    layer = stack.layers[0]
    for name, value in zip(GATE, (10.0, 0.0, 0.2), strict=True):
        getattr(layer, name).assign([value] * 4)
    inputs, h = tf.ones([1, 5, 2]), tf.constant([[0.5, -0.5, 0.25, 0.75]])
    state, weights = ((h, 2 * h, tf.constant([[4]])),), stack.effective_weights()
    still, last = stack.sequence(inputs, state, weights)
    np.testing.assert_array_equal(still, tf.repeat(h[:, None], 5, axis=1))
    np.testing.assert_array_equal(last[0][1], 2 * h)
    output, _ = stack.step(inputs[:, 0], state, weights)
    np.testing.assert_array_equal(output, h)
    moved, _ = stack.sequence(inputs, state, weights, dropout_seed=tf.constant([1, 2]))
    plain = weights.cells[0]._replace(gate=None)
    full, _ = Recurrent(2, 4, cell="lstm").step(inputs[:, 0], state[0][:2], plain)
    np.testing.assert_allclose(moved[:, 0] - h, 0.4 * LEAK * (full - h), atol=1e-7)
    assert np.abs(moved[:, 0] - h).min() > 1e-6


def test_phased_gates_start_as_in_the_paper_and_by_the_global_seed():
    def made():
        keras.utils.set_random_seed(12)
        return RecurrentStack(2, 500, 2, cell="phased_lstm")

    stack, again = made(), made()
    for layer, same in zip(stack.layers, again.layers, strict=True):
        period, phase, ratio_on = (np.asarray(getattr(layer, name).value) for name in GATE)
        assert np.e <= period.min() < 3 and 18 < period.max() <= np.exp(3) * (1 + 1e-6)
        np.testing.assert_allclose(np.quantile(np.log(period), [0.25, 0.5, 0.75]), [1.5, 2, 2.5], atol=0.15)
        np.testing.assert_allclose(np.quantile(phase / period, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.08)
        assert abs(np.corrcoef(np.log(period), phase / period)[0, 1]) < 0.15
        np.testing.assert_array_equal(ratio_on, np.float32(0.2))
        for name in GATE:
            np.testing.assert_array_equal(getattr(layer, name).value, getattr(same, name).value)
    assert not np.array_equal(stack.layers[0].period.value, stack.layers[1].period.value)


def test_phased_lstm_equals_mtcrnn_but_for_its_negative_phases(monkeypatch):
    """MTCRNN's own run (net 0 with --plstm): of all orders of gates i, f, o, c fits, and its modulo truncates.

    All units of the file have t < phase at first (for 1 to 15 of the 15 steps), where the truncating modulo opens
    gates to as much as -9.9; its outputs therefore grow to 1.8e10, each step is compared on its own scale, and the
    leak is too small beside them to be seen.
    """
    with np.load(MTCRNN / "net0_plstm.npz") as file:
        oracle = dict(file)

    def weight(name):
        return oracle[f"weights/{name}"]

    def from_mtcrnn(name):
        i, f, o, c = np.split(weight(f"plstm_layer.cells.0.{name}"), 4)
        return np.concatenate([i, f, c, o]).T

    layer = Recurrent(8, 8, cell="phased_lstm")
    layer.kernel.assign(from_mtcrnn("linear_ih.weight"))
    layer.recurrent_kernel.assign(from_mtcrnn("linear_hh.weight"))
    layer.bias.assign(from_mtcrnn("bias"))
    for name in GATE:
        getattr(layer, name).assign(weight(f"plstm_layer.cells.0.{name}"))
    fed = tf.nn.relu(oracle["inputs"] @ weight("i2d.weight").T + weight("i2d.bias"))
    state = (tf.zeros([2, 8]), tf.zeros([2, 8]), tf.zeros([2, 1], tf.int32))

    def outputs():
        hidden, _ = layer.sequence(fed, state, layer.effective_weights(), training=True)
        return [hidden.numpy() @ weight(f"{head}.weight").T + weight(f"{head}.bias") for head in ("h2n", "h2v")]

    def differences(found):
        """Largest difference of both outputs at each step, of the largest value there (or of 1)."""
        expected = np.concatenate([oracle["output_0"], oracle["output_1"]], axis=-1)
        scale = np.maximum(1.0, np.abs(expected).max(axis=(0, 2)))
        return np.abs(np.concatenate(found, axis=-1) - expected).max(axis=(0, 2)) / scale

    before_phase = np.arange(15)[:, None] < layer.phase.numpy()
    assert before_phase.any(axis=0).all() and before_phase.sum() == 61
    assert np.abs(outputs()).max() < 10  # ours: nothing grows
    monkeypatch.setattr(cells, "_positive_modulo", tf.truncatemod)
    assert differences(outputs()).max() < 1e-5
