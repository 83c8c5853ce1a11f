"""Recurrent layers: own gradients against Keras and finite differences, both forms, state in and out."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tierwave.recurrent import Linear, Recurrent, RecurrentStack, linear, reset_lanes

CELLS = [("gru", "after"), ("gru", "before"), ("lstm", "after")]


def make_layer(cell, reset, *, weight_norm=False):
    keras.utils.set_random_seed(1)
    layer = Recurrent(5, 7, cell=cell, reset=reset, weight_norm=weight_norm)
    rng = np.random.default_rng(2)
    for variable in layer.trainable_variables:
        if not variable.path.endswith("_gain"):
            variable.assign(rng.normal(0, 0.5, variable.shape))
    inputs = tf.constant(rng.normal(size=[3, 11, 5]), tf.float32)
    state = tuple(tf.constant(rng.normal(size=[3, 7]), tf.float32) for _ in layer.state_sizes)
    return layer, inputs, state


def value_and_gradients(layer, inputs, state, *, fused):
    layer.fused = fused
    watched = [inputs, state, [variable.value for variable in layer.trainable_variables]]
    with tf.GradientTape() as tape:
        tape.watch([inputs, state])
        outputs, last = layer.sequence(inputs, state, layer.weights_in_effect())
        loss = tf.reduce_sum(outputs * tf.cos(tf.range(7.0)))
        loss += tf.add_n([tf.reduce_sum(tf.sin(part)) for part in last])
    return tf.nest.flatten([outputs, last, tape.gradient(loss, watched)])


@pytest.mark.parametrize(("cell", "reset"), CELLS)
@pytest.mark.parametrize("jit", [False, True])
def test_values_and_gradients_equal_keras(cell, reset, jit):
    """Keras' own layers are the independent oracle; they are also what a GPU runs."""
    layer, inputs, state = make_layer(cell, reset)
    expected = value_and_gradients(layer, inputs, state, fused=True)
    ours = tf.function(lambda: value_and_gradients(layer, inputs, state, fused=False), jit_compile=jit)()
    assert len(expected) == len(ours)
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize(("cell", "reset"), CELLS)
def test_gradient_against_finite_differences(cell, reset):
    layer, inputs, state = make_layer(cell, reset, weight_norm=True)

    def loss():
        outputs, last = layer.sequence(inputs, state, layer.weights_in_effect())
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


@pytest.mark.parametrize(("cell", "reset"), CELLS)
@pytest.mark.parametrize("weight_norm", [False, True])
def test_steps_equal_the_sequence(cell, reset, weight_norm):
    layer, inputs, state = make_layer(cell, reset, weight_norm=weight_norm)
    weights = layer.weights_in_effect()
    whole, last = layer.sequence(inputs, state, weights)
    for time in range(inputs.shape[1]):
        output, state = layer.step(inputs[:, time], state, weights)
        np.testing.assert_allclose(output, whole[:, time], atol=1e-5)
    for one, other in zip(state, last, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    ("cell", "skip", "learned"), list(itertools.product(("gru", "lstm"), (False, True, "prism"), (False, True)))
)
def test_stack_in_two_windows_and_in_steps(cell, skip, learned):
    keras.utils.set_random_seed(4)
    stack = RecurrentStack(5, 6, 3, cell=cell, skip=skip, learn_initial_state=learned)
    for variable in stack.trainable_variables:
        variable.assign(np.random.default_rng(len(variable.path)).normal(0, 0.4, variable.shape))
    inputs = tf.constant(np.random.default_rng(5).normal(size=[2, 8, 5]), tf.float32)
    weights = stack.weights_in_effect()
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
    kernel, _ = layer.weights_in_effect()
    np.testing.assert_allclose(kernel, layer.kernel.value, rtol=1e-5)  # gains start as the norms
    layer.kernel_gain.assign([1.0, 2.0, 3.0, 4.0])
    kernel, _ = layer.weights_in_effect()
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), [1, 2, 3, 4], rtol=1e-5)


def test_reduced_precision_is_near_and_state_stays_float32():
    keras.utils.set_random_seed(6)
    exact = RecurrentStack(5, 6, 2)
    rough = RecurrentStack(5, 6, 2, compute_dtype="bfloat16")
    for one, other in zip(exact.trainable_variables, rough.trainable_variables, strict=True):
        other.assign(one.value)
    inputs = tf.constant(np.random.default_rng(5).normal(size=[2, 8, 5]), tf.float32)
    expected, _ = exact.sequence(inputs, exact.initial_state(2), exact.weights_in_effect())
    found, state = rough.sequence(inputs, rough.initial_state(2), rough.weights_in_effect())
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
    np.testing.assert_allclose(linear(inputs, layer.weights_in_effect()), inputs @ layer.kernel.value, atol=1e-5)
