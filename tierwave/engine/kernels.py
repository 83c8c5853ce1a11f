"""What runs a network (`tierwave.engine.network`) sample by sample: one function that numba compiles, and its parts.

A voice is a row of `memory`, in which every value of its network has a fixed place. At each step the operations of the
program read places and write others: first those of the slowest part whose period divides the step, then of faster
ones, last of the head, and from what the head gives a value is drawn. All state is in `memory` and in what was drawn
last, so that blocks may have any length. Every sum is added up in one order, whatever the number of voices beside it.

All of it is in one file, since numba's cache on disk sees changes of the file of the compiled function only.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from tierwave.audio.lookback import BEFORE, LEAST, OFFSETS, PRICE, SHORTEST
from tierwave.system.compiling import compiled, contracted, inlined

LANES = 16  # floats that are multiplied at once
WIDEST = 5  # such groups, side by side, in a tile of a matrix
CACHE_LINE = 64  # bytes
AHEAD = 32  # inputs of which the weights are fetched beforehand: from memory, int8 is then three times as fast

# Operations: [code, target, source, count, first, second], of which `Builder` says what they mean.
SET, LINEAR, ADD, RELU, TANH, CAP = range(6)
GRU_AFTER, GRU_GATES, GRU_BLEND, LSTM, PHASED = range(6, 11)
CODES, LOOKUP, VALUES, CONTROLS, LOOKBACK, FIND = range(11, 17)

_TAPS, _BEFORE, _SHORTEST_LAG = len(OFFSETS), BEFORE, int(SHORTEST)

# Heads: what is drawn.
CATEGORICAL, GAUSSIANS, MIXTURES = range(3)

GREEDY = 1e-30  # temperatures below this mean 0
_SHORTEST_PERIOD = 1e-3
_SMALLEST_RATIO_ON = 1e-3


# --- views --------------------------------------------------------------------------------------------------------


@intrinsic
def _row(context, array, row, first, count):
    """`array[row, first : first + count]` of a C-contiguous array of two dimensions.

    numba counts references to what it cuts out itself, which takes longer than the work of a small layer.
    """
    result = types.Array(array.dtype, 1, "C")

    def generate(context, builder, signature, arguments):
        whole = context.make_array(signature.args[0])(context, builder, arguments[0])
        columns = cgutils.unpack_tuple(builder, whole.shape, 2)[1]
        at = builder.add(builder.mul(arguments[1], columns), arguments[2])
        return _uncounted(context, builder, result, builder.gep(whole.data, [at]), arguments[3])

    return result(array, types.int64, types.int64, types.int64), generate


@intrinsic
def _piece(context, array, first, count):
    """`array[first : first + count]` of one dimension, as `_row`."""
    result = types.Array(array.dtype, 1, "C")

    def generate(context, builder, signature, arguments):
        whole = context.make_array(signature.args[0])(context, builder, arguments[0])
        return _uncounted(context, builder, result, builder.gep(whole.data, [arguments[1]]), arguments[2])

    return result(array, types.int64, types.int64), generate


def _uncounted(context, builder, kind, data, count):
    """An array of type `kind` at `data` that keeps nothing alive."""
    item = ir.Constant(ir.IntType(64), kind.dtype.bitwidth // 8)
    view = context.make_array(kind)(context, builder)
    populate_array(view, data=data, shape=[count], strides=[item], itemsize=item, meminfo=None)
    return view._getvalue()


def aligned(shape: Sequence[int], kind: Any) -> np.ndarray:
    """Zeros that begin where a cache line does, so that a load of as many numbers is not one of two lines."""
    count = math.prod(shape)
    room = np.zeros(count + CACHE_LINE // np.dtype(kind).itemsize, kind)
    first = -room.ctypes.data % CACHE_LINE // room.itemsize
    return room[first : first + count].reshape(shape)


# --- products -----------------------------------------------------------------------------------------------------


def _loaded(context, builder, address, element):
    """LANES weights from an address, as floats. element: float32, uint16 (the upper halves of floats, bfloat16) or
    int8."""
    floats, whole = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(ir.IntType(32), LANES)
    stored = ir.VectorType(context.get_data_type(element), LANES)
    found = builder.load(builder.bitcast(address, stored.as_pointer()))
    found.align = element.bitwidth // 8
    if element == types.int8:
        return builder.sitofp(found, floats)
    if element == types.uint16:
        raised = builder.shl(builder.zext(found, whole), ir.Constant(whole, [16] * LANES))
        return builder.bitcast(raised, floats)
    return found


def _loaded_pair(builder, address):
    """Two groups of LANES bfloat16 that alternate (see `packed`), as floats: half as many instructions as `_loaded`
    takes for both."""
    floats, whole = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(ir.IntType(32), LANES)
    both = builder.load(builder.bitcast(address, whole.as_pointer()))
    both.align = 2
    halves = (
        builder.shl(both, ir.Constant(whole, [16] * LANES)),
        builder.and_(both, ir.Constant(whole, [0xFFFF0000] * LANES)),
    )
    return [builder.bitcast(half, floats) for half in halves]


def _tile(voices: int) -> Any:
    """`memory[row + v, target + i] = added + scale * (sum over j below count of memory[row + v, source + j] *
    weights[at + j ...])` for `voices` rows v and the first `left` outputs i of a tile, `width * LANES` wide.

    scale: only int8 has it, learnt[scales + i]; added: learnt[bias + i] or, where bias is -1, what is in the target. It
    is written in LLVM's language, because sums that stay in vector registers are several times as fast as what numba
    makes of loops. weights: of the types of `_loaded`.
    """

    @intrinsic
    def tile(context, width, weights, at, memory, row, source, count, learnt, scales, bias, target, left):
        def generate(context, builder, signature, arguments):
            width, *arrays_and_numbers = arguments
            done = builder.append_basic_block("done")
            switch = builder.switch(width, done)
            for groups in range(1, WIDEST + 1):
                switch.add_case(groups, builder.append_basic_block(f"width {groups}"))
                builder.position_at_end(switch.cases[-1][1])
                _tile_of(groups, voices, context, builder, signature.args[1:], arrays_and_numbers)
                builder.branch(done)
            builder.position_at_end(done)
            return context.get_dummy_value()

        given = (width, weights, at, memory, row, source, count, learnt, scales, bias, target, left)
        return types.void(*given), generate

    return tile


def _tile_of(groups, voices, context, builder, types_of, arguments):
    """The instructions of a `_tile` of so many groups of LANES outputs."""
    weights, at, memory, row, source, count, learnt, scales, bias, target, left = arguments
    weights = context.make_array(types_of[0])(context, builder, weights)
    memory = context.make_array(types_of[2])(context, builder, memory)
    learnt = context.make_array(types_of[6])(context, builder, learnt)
    element = types_of[0].dtype
    number, index, bit, void = ir.IntType(32), ir.IntType(64), ir.IntType(1), ir.VoidType()
    floats, wholes, chosen = (ir.VectorType(kind, LANES) for kind in (ir.FloatType(), number, bit))
    wide, byte, size = floats.as_pointer(), ir.IntType(8).as_pointer(), element.bitwidth // 8
    nothing = ir.Constant(floats, [0.0] * LANES)

    def function(name, result, *given):
        return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, given), f"llvm.{name}")

    def spread(value, kind):
        """A vector whose every number is this one."""
        undefined = ir.Constant(kind, ir.Undefined)
        alone = builder.insert_element(undefined, value, number(0))
        return builder.shuffle_vector(alone, undefined, ir.Constant(wholes, [0] * LANES))

    multiply_add = function(f"fmuladd.v{LANES}f32", floats, floats, floats, floats)
    prefetch = function("prefetch.p0", void, byte, number, number, number)
    first = builder.gep(weights.data, [at])
    columns = cgutils.unpack_tuple(builder, memory.shape, 2)[1]
    rows = [builder.gep(memory.data, [builder.mul(columns, builder.add(row, index(each)))]) for each in range(voices)]
    given = [builder.gep(each, [source]) for each in rows]
    before, loop, after = builder.block, builder.append_basic_block("sum"), builder.append_basic_block("summed")
    builder.branch(loop)
    builder.position_at_end(loop)
    step = builder.phi(index)
    step.add_incoming(index(0), before)
    sums = [[builder.phi(floats) for _ in range(groups)] for _ in range(voices)]
    factors = [spread(builder.load(builder.gep(each, [step])), floats) for each in given]
    offset = builder.mul(step, index(groups * LANES))
    loaded: list[Any] = []
    for group in range(groups):
        address = builder.gep(first, [builder.add(offset, index(group * LANES))])
        if group * LANES * size % CACHE_LINE == 0:
            far = builder.bitcast(builder.gep(address, [index(AHEAD * groups * LANES)]), byte)
            builder.call(prefetch, [far, number(0), number(3), number(1)])  # for reading, into every cache
        if element != types.uint16 or group == len(loaded) == groups - 1:
            loaded.append(_loaded(context, builder, address, element))
        elif group == len(loaded):
            loaded += _loaded_pair(builder, address)
    totals = [
        [builder.call(multiply_add, [factor, *both]) for both in zip(loaded, own, strict=True)]
        for factor, own in zip(factors, sums, strict=True)
    ]
    following = builder.add(step, index(1))
    step.add_incoming(following, loop)
    for own, total in zip(itertools.chain(*sums), itertools.chain(*totals), strict=True):
        own.add_incoming(nothing, before)
        own.add_incoming(total, loop)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
    builder.position_at_end(after)

    # Of the last group, what fills it up must not be written: another value may lie there.
    load = function(f"masked.load.v{LANES}f32.p0", floats, wide, number, chosen, floats)
    store = function(f"masked.store.v{LANES}f32.p0", void, floats, wide, number, chosen)
    limit = spread(builder.trunc(left, number), wholes)
    is_increased = builder.icmp_signed("<", bias, index(0))
    for group in range(groups):
        lanes = ir.Constant(wholes, [group * LANES + lane for lane in range(LANES)])
        wanted = builder.icmp_signed("<", lanes, limit)

        def place(data, at, group=group):
            return builder.bitcast(builder.gep(data, [builder.add(at, index(group * LANES))]), wide)

        def read(address, wanted=wanted):
            return builder.call(load, [address, number(4), wanted, nothing])

        for each, total in zip(rows, totals, strict=True):
            result, to = total[group], place(each, target)
            if element == types.int8:
                result = builder.fmul(result, read(place(learnt.data, scales)))
            added = read(builder.select(is_increased, to, place(learnt.data, bias)))
            builder.call(store, [builder.fadd(added, result), to, number(4), wanted])


_one, _two, _four = _tile(1), _tile(2), _tile(4)


def _width(left: int) -> int:
    """How many groups of LANES the next tile has, where so many are left: four, which suit pairs, or what leaves no
    group alone behind others, whose every sum would wait for the one before."""
    if left == WIDEST:
        return WIDEST
    return 3 if left == 6 else min(left, 4)


_width_of = inlined(_width)


def packed(kernel: np.ndarray, *, is_table: bool = False) -> np.ndarray:
    """A matrix `[inputs, outputs]` as `_linear` reads it: tiles of up to WIDEST * LANES outputs, one after another,
    each `[inputs, outputs of the tile]`, and of bfloat16 two groups of LANES outputs each alternate; a table, as
    `_add_row` reads it, is a single tile. Outputs are filled up with zeros to a multiple of LANES."""
    inputs, outputs = kernel.shape
    edges = _edges(outputs, is_table)
    result = np.zeros(inputs * edges[-1], kernel.dtype)
    for first, last in itertools.pairwise(edges):
        there = result[inputs * first : inputs * last].reshape(inputs, last - first)
        there[:, : max(0, min(last, outputs) - first)] = kernel[:, first:last]
        if kernel.dtype == np.uint16 and not is_table:
            _turn_pairs(there, 2, LANES)
    return result


def unpacked(weights: np.ndarray, inputs: int, outputs: int, *, is_table: bool = False) -> np.ndarray:
    """The matrix at the beginning of `weights` that `packed` has made, `[inputs, outputs and what fills them up]`."""
    edges = [inputs * edge for edge in _edges(outputs, is_table)]
    parts = [weights[first:last].reshape(inputs, -1).copy() for first, last in itertools.pairwise(edges)]
    if weights.dtype == np.uint16 and not is_table:
        for part in parts:
            _turn_pairs(part, LANES, 2)
    return np.concatenate(parts, axis=1)


def _turn_pairs(tile: np.ndarray, rows: int, columns: int) -> None:
    """Turn each `[rows, columns]` of a row of a tile, in place; what is left over stays."""
    whole = tile.shape[1] // (rows * columns) * rows * columns
    pairs = tile[:, :whole].reshape(len(tile), -1, rows, columns)
    tile[:, :whole] = pairs.swapaxes(2, 3).reshape(len(tile), whole)


def _edges(outputs: int, is_table: bool) -> list[int]:
    """Between which outputs the tiles of a matrix lie."""
    groups, edges = -(-outputs // LANES), [0]
    while edges[-1] < groups:
        left = groups - edges[-1]
        edges.append(edges[-1] + (left if is_table else _width(left)))
    return [LANES * edge for edge in edges]


@inlined
def _linear(matrix, bias, weights, vectors, memory, target, source):
    """`memory[:, target ...] = memory[:, source ...] @ matrix + bias`, or is increased by the product where there is no
    bias (-1). matrix: where it lies in `weights`, its inputs and outputs, and where its scales lie in `vectors` (-1: it
    has none). Four voices, and then two, read the weights of a tile once."""
    at, inputs, left, scales = matrix[0], matrix[1], matrix[2], matrix[3]
    voices = memory.shape[0]
    while left > 0:
        width, row = _width_of((left + LANES - 1) // LANES), 0
        while row < voices:
            if voices - row >= 4:
                _four(width, weights, at, memory, row, source, inputs, vectors, scales, bias, target, left)
                row += 4
            elif voices - row >= 2:
                _two(width, weights, at, memory, row, source, inputs, vectors, scales, bias, target, left)
                row += 2
            else:
                _one(width, weights, at, memory, row, source, inputs, vectors, scales, bias, target, left)
                row += 1
        done = width * LANES
        at, left, target, scales = at + done * inputs, left - done, target + done, scales + done
        bias = bias + done if bias >= 0 else bias


# --- rows of tables -----------------------------------------------------------------------------------------------


@intrinsic
def _add_lanes(context, result, place, scale, weights, at):
    """`result[place : place + LANES] += scale * weights[at : at + LANES]`."""

    def generate(context, builder, signature, arguments):
        result, place, scale, weights, at = arguments
        result = context.make_array(signature.args[0])(context, builder, result)
        weights = context.make_array(signature.args[3])(context, builder, weights)
        loaded = _loaded(context, builder, builder.gep(weights.data, [at]), signature.args[3].dtype)
        target = builder.bitcast(builder.gep(result.data, [place]), loaded.type.as_pointer())
        before = builder.load(target)
        before.align = 4
        undefined, number = ir.Constant(loaded.type, ir.Undefined), ir.IntType(32)
        alone = builder.insert_element(undefined, scale, ir.Constant(number, 0))
        spread = ir.Constant(ir.VectorType(number, LANES), [0] * LANES)
        factor = builder.shuffle_vector(alone, undefined, spread)
        builder.store(builder.fadd(before, builder.fmul(factor, loaded)), target).align = 4
        return context.get_dummy_value()

    return types.void(result, types.int64, types.float32, weights, types.int64), generate


@inlined
def _add_row(result, table, row, weights, vectors):
    """`result += table[row]`. table: where it lies in `weights`, its rows, how many numbers each has, and where the
    rows' scales lie in `vectors` (-1: they have none). result: filled up to a multiple of LANES, as the rows are."""
    width = (table[2] + LANES - 1) // LANES * LANES
    at = table[0] + row * width
    scale = vectors[table[3] + row] if table[3] >= 0 else _ONE
    for place in range(0, width, LANES):
        _add_lanes(result, place, scale, weights, at + place)


# --- functions of single numbers ----------------------------------------------------------------------------------


@intrinsic
def _as_float(context, bits):
    """The float32 with these 32 bits."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def _as_bits(context, value):
    """The 32 bits of a float32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


_F = np.float32
_LOG2_E, _ROUNDING = _F(1.44269504088896341), _F(12582912.0)
_LN2_HIGH, _LN2_LOW = _F(0.693359375), _F(-2.12194440e-4)
_LOWEST, _HIGHEST, _ONE, _TWO, _HALF = _F(-87.0), _F(88.0), _F(1.0), _F(2.0), _F(0.5)
_P0, _P1, _P2 = _F(1.9875691500e-4), _F(1.3981999507e-3), _F(8.3334519073e-3)
_P3, _P4 = _F(4.1665795894e-2), _F(1.6666665459e-1)
_ROUNDING_BITS = np.int32(0x4B400000)  # of 12582912


@contracted
def _exp(x):
    """e^x, float32, to about 1e-7 of itself (Cephes' expf); below -87 as there. It compiles to vector instructions."""
    x = min(max(x, _LOWEST), _HIGHEST)
    shifted = x * _LOG2_E + _ROUNDING  # whose lowest bits are the nearest whole number
    whole = shifted - _ROUNDING
    x = x - whole * _LN2_HIGH - whole * _LN2_LOW
    series = ((((_P0 * x + _P1) * x + _P2) * x + _P3) * x + _P4) * x + _HALF
    series = series * x * x + x + _ONE
    power = np.int32((np.int32(_as_bits(shifted) - _ROUNDING_BITS) + 127) << 23)
    return series * _as_float(power)


@contracted
def _sigmoid(x):
    return _ONE / (_ONE + _exp(-x))


@contracted
def _tanh(x):
    return _ONE - _TWO / (_exp(_TWO * x) + _ONE)


@inlined
def _softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


# --- random numbers -----------------------------------------------------------------------------------------------


@inlined
def _threefry(first_key, second_key, first, second):
    """Threefry-2x32 with 20 rounds, as `tierwave.nn.distributions`; all uint32."""
    parity = np.uint32(first_key ^ second_key ^ np.uint32(0x1BD11BDA))
    first, second = np.uint32(first + first_key), np.uint32(second + second_key)
    keys = (np.uint32(first_key), np.uint32(second_key), parity)
    for group in range(5):
        turns = (13, 15, 26, 6) if group % 2 == 0 else (17, 29, 16, 24)
        for turn in turns:
            first = np.uint32(first + second)
            second = np.uint32(np.uint32(second << np.uint32(turn)) | (second >> np.uint32(32 - turn))) ^ first
        first = np.uint32(first + keys[(group + 1) % 3])
        second = np.uint32(second + keys[(group + 2) % 3] + np.uint32(group + 1))
    return first, second


@compiled
def voice_seeds(seed, voices):
    """The key of each voice, uint32 `[voices, 2]`; seed: uint64."""
    keys = np.empty((voices, 2), np.uint32)
    for voice in range(voices):
        low, high = np.uint32(seed & np.uint64(0xFFFFFFFF)), np.uint32(seed >> np.uint64(32))
        first, second = _threefry(low, high, np.uint32(voice), np.uint32(0))
        keys[voice, 0] = first
        keys[voice, 1] = second
    return keys


@inlined
def _uniform(seeds, voice, position):
    """The number in [0, 1) of a voice at a position, float32, a multiple of 2^-24."""
    low, high = np.uint32(position & 0xFFFFFFFF), np.uint32(position >> 32)
    word, _ = _threefry(seeds[voice, 0], seeds[voice, 1], low, high)
    return np.float32(np.int32(word >> np.uint32(8))) * np.float32(2.0**-24)


_NDTRI_P0 = (-5.99633501014107895267e1, 9.80010754185999661536e1, -5.66762857469070293439e1, 1.39312609387279679503e1,
             -1.23916583867381258016e0)  # fmt: skip
_NDTRI_Q0 = (1.0, 1.95448858338141759834e0, 4.67627912898881538453e0, 8.63602421390890590575e1,
             -2.25462687854119370527e2, 2.00260212380060660359e2, -8.20372256168333339912e1, 1.59056225126211695515e1,
             -1.18331621121330003142e0)  # fmt: skip
_NDTRI_P1 = (4.05544892305962419923e0, 3.15251094599893866154e1, 5.71628192246421288162e1, 4.40805073893200834700e1,
             1.46849561928858024014e1, 2.18663306850790267539e0, -1.40256079171354495875e-1, -3.50424626827848203418e-2,
             -8.57456785154685413611e-4)  # fmt: skip
_NDTRI_Q1 = (1.0, 1.57799883256466749731e1, 4.53907635128879210584e1, 4.13172038254672030440e1,
             1.50425385692907503408e1, 2.50464946208309415979e0, -1.42182922854787788574e-1, -3.80806407691578277194e-2,
             -9.33259480895457427372e-4)  # fmt: skip


@inlined
def _polynomial(coefficients, x):
    total = 0.0
    for each in coefficients:
        total = total * x + each
    return total


@inlined
def _standard_normal(uniform):
    """A standard normal number from a uniform one, by the inverse of the distribution function (Cephes' ndtri).

    A uniform number stands for the middle of its step of 2^-24; the nearer tail, below 1/2, is at least 2^-25.
    """
    centred = (np.float64(uniform) - 0.5) + 2.0**-25
    tail = 0.5 - abs(centred)
    if tail > 0.13533528323661269189:  # e^-2
        x = tail - 0.5
        square = x * x
        found = (x + x * square * _polynomial(_NDTRI_P0, square) / _polynomial(_NDTRI_Q0, square)) * 2.50662827463100050
    else:  # e^-32 and less never comes
        x = math.sqrt(-2.0 * math.log(tail))
        inverse = 1.0 / x
        found = -(x - math.log(x) / x - inverse * _polynomial(_NDTRI_P1, inverse) / _polynomial(_NDTRI_Q1, inverse))
    return -found if centred > 0 else found


# --- what is drawn ------------------------------------------------------------------------------------------------


@inlined
def _keep_most_likely(shares, count, wanted):
    """Keep the fewest largest `shares` of which there are `count`, or that add up to `wanted` (count 0), and those
    equal to the smallest of them; the others become 0. Bit patterns order positive floats."""
    low, high = 0, 0x40000000  # 2.0, above every share
    for _ in range(30):
        middle = np.int32((low + high) // 2)
        total, kept = np.float32(0.0), 0
        for share in shares:
            if _as_bits(share) >= middle:
                total += share
                kept += share > 0.0
        if (kept >= count) if count > 0 else (total >= wanted):
            low = middle
        else:
            high = middle
    for index in range(len(shares)):
        if _as_bits(shares[index]) < low:
            shares[index] = 0.0


@inlined
def _search(shares, target):
    """The last entry with a share at which the running sum has not passed `target`."""
    start, found = np.float32(0.0), 0
    for index in range(len(shares)):
        if start > target:
            break
        if shares[index] > 0.0:
            found = index
        start += shares[index]
    return found


@inlined
def _draw_code(logits, uniform, temperature, top_k, top_p, shares):
    """A code from softmax(logits / temperature); see `tierwave.nn.distributions.sample_categorical`.

    shares: room for twice as many numbers.
    """
    levels = len(logits)
    highest = np.int32(-(2**31))
    for level in range(levels):  # whole numbers that are ordered as the floats, of which numba finds the largest fast
        bits = _as_bits(logits[level])
        highest = max(highest, bits ^ np.int32((bits >> 31) & 0x7FFFFFFF))
    peak = _as_float(highest ^ np.int32((highest >> 31) & 0x7FFFFFFF))
    if temperature < GREEDY:
        likeliest = 0
        while logits[likeliest] < peak:
            likeliest += 1
        return likeliest
    slope = _ONE / np.float32(temperature)
    for level in range(levels):
        # Far below the peak a share is 0, as exp's of TensorFlow is, not what _exp gives at its lowest.
        below = (logits[level] - peak) * slope
        share = _exp(below)
        shares[level] = share if below > _LOWEST else _F(0.0)
    if 0 < top_k < levels:
        there = 0
        for level in range(levels):
            there += shares[level] > 0.0
        _keep_most_likely(_piece(shares, 0, levels), min(top_k, there), _F(0.0))
    if top_p < 1.0:
        total = _F(0.0)
        for level in range(levels):
            total += shares[level]
        _keep_most_likely(_piece(shares, 0, levels), 0, np.float32(top_p) * total)
    # In two levels, blocks and one block, as there, so that sums round alike.
    width = int(math.sqrt(levels))
    blocks = (levels + width - 1) // width
    for index in range(levels, blocks * width):
        shares[index] = _F(0.0)
    sums = _piece(shares, blocks * width, blocks)
    total = _F(0.0)
    for block in range(blocks):
        inside = _F(0.0)
        for index in range(block * width, block * width + width):
            inside += shares[index]
        sums[block] = inside
        total += inside
    target = uniform * total
    start, chosen, before = _F(0.0), 0, _F(0.0)
    for block in range(blocks):
        if sums[block] > 0.0 and start <= target:
            chosen, before = block, start
        start += sums[block]
    return chosen * width + _search(_piece(shares, chosen * width, width), target - before)


@inlined
def _draw_mixture(logits, means, raw, floor, which, where, temperature, shares):
    """A value of a mixture of Gaussians by two uniform numbers; see `sample_mixture`."""
    count, peak = len(logits), logits[0]
    for index in range(count):
        peak = max(peak, logits[index])
    greedy = temperature < GREEDY
    total = _F(0.0)
    for index in range(count):
        shares[index] = np.float32(logits[index] >= peak) if greedy else _exp(logits[index] - peak)
        total += shares[index]
    chosen = _search(_piece(shares, 0, count), _F(0.0) if greedy else which * total)
    deviation = _softplus(np.float64(raw[chosen])) + floor
    return means[chosen] + temperature * deviation * _standard_normal(where)


@inlined
def _code_of(sound, edges):
    """The code of a sound: how many of the `edges` between codes lie at or below it."""
    low, high = 0, len(edges)
    while low < high:
        middle = (low + high) // 2
        if np.float64(edges[middle]) <= np.float64(sound):
            low = middle + 1
        else:
            high = middle
    return low


@inlined
def _without_mean(code, mean, kept):
    """The code that is left of a drawn one when the running mean, which `mean` `[1]` carries on, is taken from it.
    kept: the share of the newest sample in the mean, the amplitudes of codes, and the edges between these."""
    levels = len(kept) // 2
    sound = kept[1 + code]
    mean[0] += kept[0] * (sound - mean[0])
    return _code_of(sound - mean[0], _piece(kept, 1 + levels, levels - 1))


@inlined
def _draw(head, floor, vectors, memory, voice, step, codes, values, seeds, position, temperature, top_k, top_p, shares):
    """Draw the values of a step, behind those before it in `codes` or `values`."""
    kind, count, mixtures = head[0], head[1], head[2]
    at = _row(memory, voice, head[3], head[4])
    if kind == CATEGORICAL:
        history = codes.shape[1] - temperature.shape[1]
        uniform = _uniform(seeds, voice, position)
        limit, warmth = top_k[voice, step], temperature[voice, step]
        code = _draw_code(at, uniform, warmth, limit, top_p, shares)
        if head[5] >= 0:
            code = _without_mean(code, _row(memory, voice, head[6], 1), _piece(vectors, head[5], 2 * count))
        codes[voice, history + step] = code
    elif kind == GAUSSIANS:
        for feature in range(count):
            normal = _standard_normal(_uniform(seeds, voice, position * count + feature))
            deviation = _softplus(np.float64(at[count + feature])) + floor
            values[voice, 1 + step, feature] = at[feature] + temperature[voice, step] * deviation * normal
    else:
        total = count * mixtures
        for feature in range(count):
            first = feature * mixtures
            place = 2 * (position * count + feature)
            values[voice, 1 + step, feature] = _draw_mixture(
                _piece(at, first, mixtures), _piece(at, total + first, mixtures),
                _piece(at, 2 * total + first, mixtures), floor, _uniform(seeds, voice, place),
                _uniform(seeds, voice, place + 1), temperature[voice, step], shares,
            )  # fmt: skip


# --- operations ---------------------------------------------------------------------------------------------------


@contracted
def _gru(h, gates, inner):
    """Reset after the product: gates and inner `[3 units]` are sums over inputs and over h, in the order z, r, h."""
    units = len(h)
    for unit in range(units):
        z = _sigmoid(gates[unit] + inner[unit])
        r = _sigmoid(gates[units + unit] + inner[units + unit])
        candidate = _tanh(gates[2 * units + unit] + r * inner[2 * units + unit])
        h[unit] = z * (h[unit] - candidate) + candidate


@contracted
def _lstm(h, c, gates):
    """gates `[4 units]`: sums over inputs and over h, in the order i, f, c, o."""
    units = len(h)
    for unit in range(units):
        kept = _sigmoid(gates[units + unit]) * c[unit]
        c[unit] = kept + _sigmoid(gates[unit]) * _tanh(gates[2 * units + unit])
        h[unit] = _sigmoid(gates[3 * units + unit]) * _tanh(c[unit])


@inlined
def _phased_lstm(h, c, gates, gate, time):
    """A share of an LSTM's step; gate `[3 units]`: period, phase, share of it that is open (see `time_gate`)."""
    units = len(h)
    for unit in range(units):
        period = max(np.float64(gate[unit]), _SHORTEST_PERIOD)
        turns = (time - np.float64(gate[units + unit])) / period
        cycle = turns - math.floor(turns)
        opening = 2.0 * cycle / max(np.float64(gate[2 * units + unit]), _SMALLEST_RATIO_ON)
        share = np.float32(opening if opening < 1.0 else max(2.0 - opening, 0.0))
        kept = _sigmoid(gates[units + unit]) * c[unit]
        full = kept + _sigmoid(gates[unit]) * _tanh(gates[2 * units + unit])
        out = _sigmoid(gates[3 * units + unit]) * _tanh(full)
        h[unit] = share * out + (_ONE - share) * h[unit]
        c[unit] = share * full + (_ONE - share) * c[unit]


@inlined
def _between(share, levels, past):
    """What lies `share` (0 to 1) behind the fourth of eight samples, by the polynomial through all of them (see
    `tierwave.audio.lookback`). levels: amplitudes of codes; past: the eight codes."""
    a, b, c, d = share + 3.0, share + 2.0, share + 1.0, share
    e, f, g, h = share - 1.0, share - 2.0, share - 3.0, share - 4.0
    abc, fgh = a * b * c, f * g * h
    abcd, efgh = abc * d, e * fgh
    return (
        b * c * d * efgh / -5040.0 * levels[past[0]]
        + a * c * d * efgh / 720.0 * levels[past[1]]
        + a * b * d * efgh / -240.0 * levels[past[2]]
        + abc * efgh / 144.0 * levels[past[3]]
        + abcd * fgh / -144.0 * levels[past[4]]
        + abcd * e * g * h / 240.0 * levels[past[5]]
        + abcd * e * f * h / -720.0 * levels[past[6]]
        + abcd * e * f * g / 5040.0 * levels[past[7]]
    )


@inlined
def _find_lag(past, vectors, first, limit):
    """The lag by which the end of `past` is most like what was before; see `tierwave.audio.lookback.found_lag`.

    past: codes `[compared + limit + 1]`; the amplitudes of codes, whole numbers, begin at vectors[first].
    """
    width = len(past)
    count = width - limit - 1
    sound, alike = np.empty(width, np.float64), np.empty(limit + 2, np.float64)
    products = np.zeros(limit + 2, np.float64)  # the longest lag first
    for index in range(width):
        sound[index] = vectors[first + past[index]]
    energy = 0.0
    for index in range(limit + 1, width):
        energy += sound[index] * sound[index]
    own = math.sqrt(energy)
    for index in range(count):  # sums are exact in any order; in this one, several grow at once
        last = sound[limit + 1 + index]
        for begin in range(limit + 2):
            products[begin] += last * sound[begin + index]
    for lag in range(limit + 2):
        begin = limit + 1 - lag
        scale = math.sqrt(energy) * own
        alike[lag] = products[begin] / scale if scale > 0.0 else 0.0
        if lag <= limit:
            energy += sound[begin - 1] * sound[begin - 1] - sound[begin - 1 + count] * sound[begin - 1 + count]
    best, highest = 0, -1.0
    for lag in range(_SHORTEST_LAG, limit + 1):
        here = alike[lag]
        if here > alike[lag - 1] and here >= alike[lag + 1] and here > LEAST:
            score = here - PRICE * np.float64(lag) / np.float64(limit)
            if score > highest:
                best, highest = lag, score
    if best == 0:
        return _F(0.0)
    left, right = alike[best - 1], alike[best + 1]
    return np.float32(best + 0.5 * (left - right) / ((left - alike[best]) + (right - alike[best])))


@inlined
def _look_back(result, lag, amplitudes, edges, past, table, weights, vectors):
    """Add what stood one period ago. amplitudes: of codes `[levels]`; edges: between them `[levels - 1]`; past:
    codes from 6 samples behind the lag on, `[11]`; table: of rows `[offsets, levels]` (see `_add_row`)."""
    levels = len(amplitudes)
    share = 1.0 - (np.float64(lag) - math.floor(np.float64(lag)))
    for tap in range(_TAPS):
        sound = _between(share, amplitudes, _piece(past, tap, 8))
        _add_row(result, table, tap * levels + _code_of(sound, edges), weights, vectors)


@inlined
def _operate(operation, matrices, weights, vectors, memory, codes, values, controls, step, history, time):
    """An operation, other than a product, on all voices."""
    code, target, source, count = operation[0], operation[1], operation[2], operation[3]
    first, second = operation[4], operation[5]
    for voice in range(memory.shape[0]):
        result = _row(memory, voice, target, count)
        if code == SET:
            given = _piece(vectors, first, count)
            for index in range(count):
                result[index] = given[index]
        elif code == ADD:
            given = _row(memory, voice, source + (time // first) % second * count, count)
            for index in range(count):
                result[index] += given[index]
        elif code == RELU:
            for index in range(count):
                result[index] = max(result[index], _F(0.0))
        elif code == TANH:
            given = _row(memory, voice, source, count)
            for index in range(count):
                result[index] = _tanh(given[index])
        elif code == CAP:
            cap = vectors[first]
            for index in range(count):
                result[index] = cap * _tanh(result[index] / cap)
        elif code == GRU_AFTER:
            _gru(result, _row(memory, voice, source, 3 * count), _row(memory, voice, first, 3 * count))
        elif code == GRU_GATES:
            gates, h = _row(memory, voice, source, 2 * count), _row(memory, voice, first, count)
            for index in range(2 * count):
                gates[index] = _sigmoid(gates[index])
            for index in range(count):
                result[index] = gates[count + index] * h[index]
        elif code == GRU_BLEND:
            gates = _row(memory, voice, source, 3 * count)
            for index in range(count):
                candidate = _tanh(gates[2 * count + index])
                result[index] = gates[index] * (result[index] - candidate) + candidate
        elif code == LSTM:
            _lstm(result, _row(memory, voice, first, count), _row(memory, voice, source, 4 * count))
        elif code == PHASED:
            gates, c = _row(memory, voice, source, 4 * count), _row(memory, voice, first, count)
            _phased_lstm(result, c, gates, _piece(vectors, second, 3 * count), time)
        elif code == CODES:
            past = _row(codes, voice, history + step - count, count)
            for index in range(count):
                result[index] = vectors[first + past[index]]
        elif code == LOOKUP:
            past = _row(codes, voice, history + step - source, source)
            table = _row(matrices, first, 0, 4)
            levels = table[1] // source
            for tap in range(source):
                _add_row(result, table, tap * levels + past[tap], weights, vectors)
        elif code == LOOKBACK:
            lag = memory[voice, source] if memory[voice, source] > 0.0 else memory[voice, source + 1]
            if lag > 0.0:
                past = _row(codes, voice, history + step - int(math.floor(lag)) - _BEFORE, _TAPS + 7)
                table = _row(matrices, second, 0, 4)
                levels = table[1] // _TAPS
                amplitudes, edges = _piece(vectors, first, levels), _piece(vectors, first + levels, levels - 1)
                _look_back(result, lag, amplitudes, edges, past, table, weights, vectors)
        elif code == FIND:
            width = source + second + 1  # what is compared, and as far back as that may lie
            result[0] = _find_lag(_row(codes, voice, history + step - width, width), vectors, first, second)
        elif code == VALUES:
            for index in range(count):
                result[index] = values[voice, step, index]
        elif code == CONTROLS:
            for index in range(count):
                result[index] = controls[voice, step, index]


@compiled
def run(
    program, parts, head, floor, matrices, weights, vectors, memory, shares, codes, values, controls, seeds,
    temperature, top_k, top_p, predictions, age, position, given,
):  # fmt: skip
    """As many steps as `controls` has, for all voices.

    program: int64 `[operations, 6]`; parts: int64 `[parts, 3]`, of each its period in steps and its first and last
    operation + 1, the slowest first and the head last. head: int64 `[7]`, what is drawn, of how many levels or
    features, with how many mixtures, and from where in `memory`, how many numbers; then where in `vectors` lies what a
    running mean is taken by (-1: none is), and where in `memory` the mean; floor: of deviations.
    matrices: int64 `[matrices, 4]` (see `_linear` and `_add_row`); weights: all of them, packed; vectors: float32, all
    else that was learnt. memory: float32 `[voices, places]`; shares: room for intermediate results.
    codes: int32 `[voices, history + steps]` or values: float32 `[voices, 1 + steps, features]`: what came before, and
    room for what is drawn; given: it is there already. controls: float32 `[voices, steps, inputs]`; temperature, top_k:
    `[voices, steps]`; top_p: 1: off. predictions: float32 `[voices, steps, numbers]` takes what the head gives, or
    has no steps. age: steps before this block; position: of which how many drew random numbers.
    """
    voices, steps = controls.shape[0], controls.shape[1]
    history = codes.shape[1] - steps
    wanted = predictions.shape[1] > 0
    last = len(parts) - 1 if given and not wanted else len(parts)
    for step in range(steps):
        time = age + step
        for part in range(last):
            if time % parts[part, 0] != 0:
                continue
            for index in range(parts[part, 1], parts[part, 2]):
                if program[index, 0] == LINEAR:
                    matrix = _row(matrices, program[index, 3], 0, 4)
                    bias, target, source = program[index, 4], program[index, 1], program[index, 2]
                    _linear(matrix, bias, weights, vectors, memory, target, source)
                else:
                    _operate(
                        _row(program, index, 0, 6), matrices, weights, vectors, memory, codes, values, controls, step,
                        history, time,
                    )  # fmt: skip
        for voice in range(voices):
            if wanted:
                for index in range(head[4]):
                    predictions[voice, step, index] = memory[voice, head[3] + index]
            if not given:
                _draw(
                    head, floor, vectors, memory, voice, step, codes, values, seeds, position + step, temperature,
                    top_k, top_p, shares,
                )  # fmt: skip
