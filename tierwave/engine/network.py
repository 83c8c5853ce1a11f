"""A network as the kernels run it: a program, and its weights as a few long arrays.

A family describes its networks to a `Builder`: places for values, and operations between them in the order in which
they are carried out. Weights come by name from a checkpoint (`tierwave.runs.tensors`) or from a model in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from tierwave.audio.lookback import WHOLE, compared
from tierwave.audio.quantize import edges
from tierwave.engine import kernels
from tierwave.errors import RunError

WeightKind = Literal["float32", "bfloat16", "int8"]
Floats = npt.NDArray[np.float32]
_TYPES: dict[str, Any] = {"float32": np.float32, "bfloat16": np.uint16, "int8": np.int8}
_EMPTY = np.zeros(0, np.float32)
_ROWS = 64  # inputs that are rounded at a time


def share_of(samples: float) -> np.float32:
    """The share of the newest sample in a running mean whose time constant is so many `samples`."""
    return np.float32(1.0 - np.exp(-1.0 / samples))


class Named(Protocol):
    """Arrays by name, whose shapes are known before they are read."""

    def __contains__(self, name: object) -> bool: ...

    def __len__(self) -> int: ...

    def __getitem__(self, name: str) -> Floats: ...

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one."""
        ...


class InMemory(dict[str, Floats]):
    """Arrays of a model in memory as a `Named`."""

    def shape(self, name: str) -> tuple[int, ...]:
        return self[name].shape


class Matrix(NamedTuple):
    """A kernel `[inputs, outputs]` that is read, or computed, when its place is known; float32. is_table: its rows are
    looked up, one for each input, instead of multiplied."""

    inputs: int
    outputs: int
    read: Callable[[], Floats]
    is_table: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        return self.inputs, self.outputs

    def rows(self, first: int, stop: int) -> Matrix:
        """The part of it that inputs from `first` to `stop` are multiplied by."""
        return Matrix(stop - first, self.outputs, lambda: self.read()[first:stop])

    def folded(self) -> Matrix:
        """What it does to inputs that are given twice."""
        return Matrix(self.inputs // 2, self.outputs, lambda: np.add(*np.split(self.read(), 2)))

    def columns(self, first: int, stop: int) -> Matrix:
        """The part of it that makes outputs from `first` to `stop`."""
        return Matrix(self.inputs, stop - first, lambda: self.read()[:, first:stop])


class Arrays:
    """The weights of a part of a network by their names; `at` leads to a smaller part.

    Raises RunError where one is missing or of another shape than asked for.
    """

    def __init__(self, source: Named, *, origin: str, weight_norm: bool = False, way: tuple[str, ...] = ()):
        self.source, self.origin, self.weight_norm, self.way = source, origin, weight_norm, way
        self.taken: set[str] = set()

    def at(self, *way: str | int) -> Arrays:
        """A part: an attribute of the model, or a number in a list of such."""
        inner = Arrays(self.source, origin=self.origin, weight_norm=self.weight_norm, way=(*self.way, *map(str, way)))
        inner.taken = self.taken
        return inner

    def plain(self) -> Arrays:
        """The same part, whose weights are not normalised even where others are."""
        inner = self.at()
        inner.weight_norm = False
        return inner

    def has(self, name: str) -> bool:
        """Whether there is an array of this name."""
        return self._full(name) in self.source

    def vector(self, name: str, *shape: int) -> Floats:
        """An array that is taken as it is."""
        full = self._checked(name, shape)
        return self.source[full]

    def optional(self, name: str, *shape: int) -> Floats | None:
        """An array that a network need not have."""
        return self.vector(name, *shape) if self.has(name) else None

    def kernel(self, name: str, *shape: int) -> Callable[[], Floats]:
        """A function that reads a kernel, whose columns have the norms `<name>_gain` where weights are normalised
        (see `tierwave.nn.linear.column_normalised`)."""
        full = self._checked(name, shape)
        if not self.weight_norm:
            return lambda: self.source[full]
        gain = self._checked(f"{name}_gain", shape[-1:])

        def read() -> Floats:
            found = self.source[full]
            squares = np.square(found).sum(axis=tuple(range(found.ndim - 1)))
            return np.asarray(found * (self.source[gain] / np.sqrt(squares)), np.float32)

        return read

    def matrix(self, name: str, inputs: int, outputs: int) -> Matrix:
        """A kernel `[inputs, outputs]`."""
        return Matrix(inputs, outputs, self.kernel(name, inputs, outputs))

    def refuse_others(self) -> None:
        """RunError where there are arrays that nobody has asked for: a smaller network than they are of."""
        if len(self.taken) != len(self.source):
            raise self._other(f"it holds {len(self.source)} weights, and the network has {len(self.taken)}")

    def _full(self, name: str) -> str:
        return "-".join((*self.way, name))

    def _checked(self, name: str, shape: Sequence[int]) -> str:
        full = self._full(name)
        if full not in self.source:
            raise self._other(f"it holds no {full}")
        if self.source.shape(full) != tuple(shape):
            raise self._other(f"{full} has the shape {list(self.source.shape(full))}, and {list(shape)} is needed")
        self.taken.add(full)
        return full

    def _other(self, reason: str) -> RunError:
        return RunError(f"{self.origin} is of another architecture than its config says ({reason})")


class Place(NamedTuple):
    """Where in a voice's memory a value lies, and how many numbers it has."""

    at: int
    size: int

    def part(self, first: int, stop: int) -> Place:
        """Its numbers from `first` to `stop`."""
        return Place(self.at + first, stop - first)


@dataclass(frozen=True)
class Network:
    """A network that can be run (see `kernels.run` for the arrays).

    kind: of its weights; history: how many earlier values a step may see; features: of the values of a step, 0 where
    they are codes; inputs: how many numbers of controls a step takes; initial: float32 `[places]`, the memory of a new
    voice; multiplications: per step, on average; about: what the family knows of it: silence, the code before
    the first; controls, how each enters, and lookback, the `Lag` that enters last; controls_ahead, how many steps
    before a code lie the controls that lead to it.
    """

    kind: WeightKind
    program: npt.NDArray[np.int64]
    parts: npt.NDArray[np.int64]
    head: npt.NDArray[np.int64]
    floor: float
    matrices: npt.NDArray[np.int64]
    weights: npt.NDArray[Any]
    vectors: Floats
    initial: Floats
    history: int
    features: int
    inputs: int
    widest: int
    multiplications: float
    about: Mapping[str, Any] = field(default_factory=dict)

    def fits(self, other: Network) -> bool:
        """Whether the two differ in nothing but the values of their weights, so that a voice of one may go on with the
        other."""
        arrays, plain = ("program", "parts", "head", "matrices"), ("kind", "floor", "history", "features", "inputs")
        return (
            all(np.array_equal(getattr(self, name), getattr(other, name)) for name in arrays)
            and all(getattr(self, name) == getattr(other, name) for name in (*plain, "widest", "about"))
            and all(getattr(self, name).shape == getattr(other, name).shape for name in ("vectors", "initial"))
        )

    @property
    def are_tables(self) -> npt.NDArray[np.bool_]:
        """Of each matrix, whether its rows are looked up: nothing is multiplied by it."""
        multiplied = self.program[self.program[:, 0] == kernels.LINEAR, 3]
        return ~np.isin(np.arange(len(self.matrices)), multiplied)

    @property
    def choices(self) -> int:
        """Of how many alternatives one is drawn: levels or mixtures."""
        return int(self.head[1] if self.head[0] == kernels.CATEGORICAL else self.head[2])


class Builder:
    """Describes a network, part by part, the slowest first and last the head (`part`).

    kind: how matrices and tables are stored; int8: each output of a matrix and each row of a table has a scale; all
    else stays float32. origin: what errors call the weights. history: how many earlier values a step may see.
    """

    def __init__(self, kind: WeightKind, *, origin: str, history: int = 1):
        self.kind, self.origin, self.history = kind, origin, history
        self._program: list[list[int]] = []
        self._parts: list[list[int]] = []
        self._matrices: list[Matrix] = []
        self._vectors: list[Floats] = []
        self._initial: dict[int, Floats] = {}
        self._places = self._numbers = self._inputs = 0
        self._features = 0
        self._mean = [-1, 0]  # what it takes, among vectors, and where it lies
        self._multiplications = 0.0

    # ---- what values and weights are kept in -------------------------------------------------------------------------

    def place(self, size: int, initial: Floats | None = None) -> Place:
        """Room for a value of each voice; initial: before the first step, None: zeros."""
        found = Place(self._places, size)
        self._places += -(-size // kernels.LANES) * kernels.LANES
        if initial is not None:
            self._initial[found.at] = initial
        return found

    def keep(self, array: Floats) -> int:
        """Where a vector lies among all."""
        flat = np.ascontiguousarray(array, np.float32).reshape(-1)
        self._refuse_nan(flat)
        at = self._numbers
        self._vectors.append(flat)
        self._numbers += flat.size
        return at

    def part(self, period: int) -> None:
        """What follows is carried out at every `period`-th step."""
        self._parts.append([period, len(self._program), len(self._program)])

    def _add(self, code: int, target: Place, source: int = 0, first: int = 0, second: int = 0) -> None:
        self._program.append([code, target.at, source, target.size, first, second])
        self._parts[-1][2] = len(self._program)

    # ---- operations --------------------------------------------------------------------------------------------------

    def set(self, target: Place, value: Floats | None) -> None:
        """target = value; None: zeros."""
        self._add(kernels.SET, target, first=self.keep(np.zeros(target.size, np.float32) if value is None else value))

    def multiply(self, target: Place, source: Place, matrix: Matrix) -> None:
        """target += source @ matrix."""
        self._product(target, source, matrix, -1)

    def linear(self, target: Place, source: Place, matrix: Matrix, bias: Floats | None) -> None:
        """target = source @ matrix + bias."""
        self._product(target, source, matrix, self.keep(np.zeros(target.size, np.float32) if bias is None else bias))

    def _product(self, target: Place, source: Place, matrix: Matrix, bias: int) -> None:
        if matrix.shape != (source.size, target.size):
            raise ValueError(f"a matrix {matrix.shape} is no map from {source.size} to {target.size}")
        if target.at < source.at + source.size and source.at < target.at + target.size:
            raise ValueError("a product cannot replace what it is made of: a part of it is written before all is read")
        self._program.append([kernels.LINEAR, target.at, source.at, len(self._matrices), bias, 0])
        self._parts[-1][2] = len(self._program)
        self._matrices.append(matrix)
        self._multiplications += matrix.inputs * matrix.outputs / self._parts[-1][0]

    def logits(self, target: Place, source: Place, matrix: Matrix, bias: Floats) -> None:
        """target = source @ matrix + bias, from which a code is drawn. As int8, what rounding took from the matrix is
        a second one: here it would cost 0.03 bits per sample, anywhere else hardly 0.001."""
        self.linear(target, source, matrix, bias)
        if self.kind == "int8":
            self.multiply(target, source, matrix._replace(read=lambda: _lost(matrix.read())))

    def add(self, target: Place, source: Place, period: int = 1) -> None:
        """target += a piece of source, the next one after every `period` steps, and after its last the first."""
        self._add(kernels.ADD, target, source.at, period, source.size // target.size)

    def relu(self, target: Place) -> None:
        """target = max(target, 0)."""
        self._add(kernels.RELU, target)

    def tanh(self, target: Place, source: Place) -> None:
        """target = tanh(source)."""
        self._add(kernels.TANH, target, source.at)

    def cap(self, target: Place, cap: float) -> None:
        """target = cap * tanh(target / cap)."""
        self._add(kernels.CAP, target, first=self.keep(np.array([cap], np.float32)))

    def codes(self, target: Place, values: Floats) -> None:
        """target = values[code] of the last codes, oldest first; values: `[levels]`."""
        self._add(kernels.CODES, target, first=self.keep(values))

    def look_up(self, target: Place, table: Floats) -> None:
        """target += table[position, code] of the last codes, oldest first; table: `[positions, levels, numbers]`."""
        self._add(kernels.LOOKUP, target, len(table), self._table(table))

    def _table(self, table: Floats) -> int:
        """The number of a table `[positions, levels, numbers]` among the matrices."""
        rows = table.reshape(-1, table.shape[-1])
        self._matrices.append(Matrix(*rows.shape, lambda: rows, is_table=True))
        return len(self._matrices) - 1

    def find_lag(self, target: Place, amplitudes: Floats, limit: int) -> None:
        """target = the lag found in the last codes, 0 where there is none (see `tierwave.audio.lookback.found_lag`);
        amplitudes: of the codes."""
        count, whole = compared(limit), np.rint(amplitudes * np.float32(WHOLE))
        self._add(kernels.FIND, target, count, self.keep(whole), limit)
        self._multiplications += (limit + 2) * count / self._parts[-1][0]

    def look_back(self, target: Place, lags: Place, amplitudes: Floats, table: Floats) -> None:
        """target += table[offset, code] of what stood one of two `lags` ago, the second where the first is 0, nothing
        where both are (see `tierwave.audio.lookback`); amplitudes: of the codes; table: `[offsets, levels, numbers]`.
        """
        kept = self.keep(np.concatenate([amplitudes, edges(amplitudes)]))
        self._add(kernels.LOOKBACK, target, lags.at, kept, self._table(table))

    def take_mean(self, amplitudes: Floats, samples: float) -> None:
        """Take their running mean over so many `samples` from what is drawn, and draw the nearest code of what is left;
        amplitudes: of the codes."""
        kept = self.keep(np.concatenate([[share_of(samples)], amplitudes, edges(amplitudes)]))
        self._mean = [kept, self.place(1).at]

    def values(self, target: Place) -> None:
        """target = the values of the step before."""
        self._features = target.size
        self._add(kernels.VALUES, target)

    def controls(self, target: Place) -> None:
        """target = the controls."""
        self._inputs = target.size
        self._add(kernels.CONTROLS, target)

    # ---- recurrent layers --------------------------------------------------------------------------------------------

    def gru(self, h: Place, gates: Place, recurrent: Matrix, bias: Floats | None, *, scratch: Place) -> None:
        """A step of a GRU whose `gates` (z, r, h) hold what its inputs give, with their bias. bias: of the recurrent
        product, for a reset after it; None: the reset is before it. scratch: room for 3 units."""
        units = h.size
        if bias is not None:
            self.linear(scratch, h, recurrent, bias)
            self._add(kernels.GRU_AFTER, h, gates.at, scratch.at)
            return
        self.multiply(gates.part(0, 2 * units), h, recurrent.columns(0, 2 * units))
        held = scratch.part(0, units)
        self._add(kernels.GRU_GATES, held, gates.at, h.at)
        self.multiply(gates.part(2 * units, 3 * units), held, recurrent.columns(2 * units, 3 * units))
        self._add(kernels.GRU_BLEND, h, gates.at)

    def lstm(
        self, h: Place, c: Place, gates: Place, recurrent: Matrix, gate: tuple[Floats, Floats, Floats] | None = None
    ) -> None:
        """A step of an LSTM whose `gates` (i, f, c, o) hold what its inputs give, with their bias. gate: period, phase
        and open share of a phased one."""
        self.multiply(gates, h, recurrent)
        if gate is None:
            self._add(kernels.LSTM, h, gates.at, c.at)
        else:
            self._add(kernels.PHASED, h, gates.at, c.at, self.keep(np.concatenate(gate)))

    def stack(
        self,
        arrays: Arrays,
        inputs: Place,
        units: int,
        layers: int,
        *,
        cell: str = "gru",
        reset: str = "after",
        skip: bool | str = False,
        enter: Callable[[Place, Floats, Floats], None] | None = None,
    ) -> Place:
        """A `tierwave.nn.recurrent.RecurrentStack` over `inputs`; its output.

        enter: gives the gates of the first layer instead of `inputs`, for its kernel `[inputs, gates]` and its bias.
        """
        gates_per_unit = 3 if cell == "gru" else 4
        width, size = gates_per_unit * units, inputs.size
        gates, scratch = self.place(width), self.place(width)
        total = self.place(units) if skip else None
        initials = 0
        below = inputs
        for layer in range(layers):
            own = arrays.at("layers", layer)
            states = []
            for _ in range(1 if cell == "gru" else 2):
                states.append(self.place(units, arrays.optional(f"initial-{initials}", units)))
                initials += 1
            bias = own.vector("bias", width)
            if layer == 0 and enter is not None:
                enter(gates, own.kernel("kernel", size, width)(), bias)
            elif layer == 0 and skip == "prism":  # it sees its input twice
                twice = own.matrix("kernel", 2 * size, width)
                self.linear(gates, below, twice.folded(), bias)
            elif layer > 0 and skip is True:
                both = own.matrix("kernel", units + size, width)
                self.linear(gates, below, both.rows(0, units), bias)
                self.multiply(gates, inputs, both.rows(units, units + size))
            else:
                self.linear(gates, below, own.matrix("kernel", below.size, width), bias)
            recurrent = own.matrix("recurrent_kernel", units, width)
            if cell == "gru":
                after = own.vector("recurrent_bias", width) if reset == "after" else None
                self.gru(states[0], gates, recurrent, after, scratch=scratch)
            else:
                gate = None
                if cell == "phased_lstm":
                    gate = own.vector("period", units), own.vector("phase", units), own.vector("ratio_on", units)
                self.lstm(states[0], states[1], gates, recurrent, gate)
            below = states[0]
            if total is not None:
                output = arrays.at("outputs", layer)
                if layer == 0:
                    self.set(total, output.vector("bias", units))
                self.multiply(total, below, output.matrix("kernel", units, units))
        return below if total is None else total

    # ---- the whole ---------------------------------------------------------------------------------------------------

    def build(
        self, head: int, output: Place, count: int, *, mixtures: int = 0, floor: float = 0.0, **about: Any
    ) -> Network:
        """The network. head: what is drawn from `output`, a constant of `kernels`; count: levels, or features."""
        blocks = [-(-matrix.outputs // kernels.LANES) * kernels.LANES for matrix in self._matrices]
        sizes = [matrix.inputs * block for matrix, block in zip(self._matrices, blocks, strict=True)]
        weights = kernels.aligned([sum(sizes)], _TYPES[self.kind])
        rows, at = [], 0
        for matrix, size in zip(self._matrices, sizes, strict=True):  # one at a time, since they may be large
            kernel = matrix.read()
            self._refuse_nan(kernel)
            stored, scales = _stored(kernel, self.kind, by_rows=matrix.is_table)
            weights[at : at + size] = kernels.packed(stored, is_table=matrix.is_table)
            rows.append([at, matrix.inputs, matrix.outputs, -1 if scales is None else self.keep(scales)])
            at += size
        initial = np.zeros(max(self._places, kernels.LANES), np.float32)
        for place, value in self._initial.items():
            initial[place : place + value.size] = value
        return Network(
            kind=self.kind,
            program=np.array(self._program, np.int64),
            parts=np.array(self._parts, np.int64),
            head=np.array([head, count, mixtures, output.at, output.size, *self._mean], np.int64),
            floor=floor,
            matrices=np.array(rows, np.int64),
            weights=weights,
            vectors=np.concatenate([*self._vectors, _EMPTY]),
            initial=initial,
            history=self.history,
            features=self._features,
            inputs=self._inputs,
            widest=max(blocks),
            multiplications=self._multiplications,
            about=about,
        )

    def _refuse_nan(self, array: Floats) -> None:
        if not np.isfinite(array).all():
            raise RunError(
                f"{self.origin} holds weights that are not finite (NaN or infinity), so that there is nothing to "
                "hear: use an earlier checkpoint, or train again with a lower learning rate"
            )


def _stored(kernel: Floats, kind: WeightKind, *, by_rows: bool) -> tuple[npt.NDArray[Any], Floats | None]:
    """A kernel `[inputs, outputs]` in a type of weights, and for int8 the scale of each output, or of each row."""
    if kind == "float32":
        return np.asarray(kernel, np.float32), None
    if kind == "bfloat16":
        return bfloat16(kernel), None
    axis = 1 if by_rows else 0
    largest = np.maximum(kernel.max(axis, keepdims=True), -kernel.min(axis, keepdims=True))
    scales = np.asarray(np.maximum(largest, np.float32(1e-30)) / np.float32(127), np.float32)
    result = np.empty(kernel.shape, np.int8)
    for first in range(0, len(kernel), _ROWS):  # so that there is no second copy of a large one
        rows = slice(first, first + _ROWS)
        result[rows] = np.rint(kernel[rows] / (scales[rows] if by_rows else scales))
    return result, scales.ravel()


def _lost(kernel: Floats) -> Floats:
    """What a kernel loses as int8."""
    stored, scales = _stored(kernel, "int8", by_rows=False)
    return np.asarray(kernel - stored * scales, np.float32)


def bfloat16(values: Floats) -> npt.NDArray[np.uint16]:
    """The upper halves of floats, which are rounded to the nearest of those that have no lower half, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bfloat16(halves: npt.NDArray[np.uint16]) -> Floats:
    """The floats whose upper halves these are."""
    return (halves.astype(np.uint32) << 16).view(np.float32)
