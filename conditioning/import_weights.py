"""Weights of RNNControl and MTCRNN as a run of this project: `python -m conditioning.import_weights --weights ...`.

Both save PyTorch state dicts, which are pickled; this module takes their arrays by name from an .npz file, which
`RECIPE` makes where PyTorch is installed. Names and shapes say which network it is, and its sizes; flags say the rest:
the names of the controls in the order they were trained in, the rate, and which raw values became 0 and 1.

Their names                                  net here                        theirs
    i2h, gru, decoder (later decoders.0)     rnncontrol                      RNNControl
    i2d, gru | plstm_layer, h2o              baseline, audio                 MTCRNN 0
    i2d, gru | plstm_layer, h2n, h2v         baseline                        MTCRNN 0
    i2d, [gru,] mu1, mu2, sigma1, sigma2     [shared_]split                  MTCRNN 1, 2
    i2d, [gru,] out_pro.<k>.{rec, h2n, h2v}  [shared_]pathways               MTCRNN 3, 4
    i2d, gru, mu, sigma, pi                  mixture                         MTCRNN 5
    i2d, d2h, gru | plstm_layer, h2o         wide                            MTCRNN 6

`lstm` may stand in place of `gru`. PyTorch's kernels are transposed; its GRU's gates are r, z, n and here z, r, h; its
LSTM's order is the same, its two biases are one here; the phased LSTM's is i, f, o, c. MTCRNN's scalar input is
code / levels, here code / (levels - 1): the weight is scaled by the ratio. Its mixtures are ordered by component, here
by control; here `scale_floor` is added to their deviations.
"""

from __future__ import annotations

import argparse
import difflib
import math
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from conditioning.config import AUDIO, Config, parameters
from tierwave.cli.flags import REPEATABLE, FlagParser
from tierwave.config import validate
from tierwave.controls.schema import Parameter, Schema
from tierwave.errors import RunError, UsageError
from tierwave.files.writing import ArrayError, array_fault, load_array
from tierwave.nn.runtime import import_tensorflow
from tierwave.runs.imported import ForeignWeights, Imported, assign_all, check_identity, write_imported

if TYPE_CHECKING:
    from conditioning.model import ConditionalTier
    from tierwave.nn.linear import Linear
    from tierwave.nn.recurrent import Recurrent

PREFIX = "weights/"
MIXTURES = 3  # per control, written into MTCRNN's net 5
SAMPLE_RATE = 16000  # theirs, where nothing else is said
RECIPE = """how to make WEIGHTS.npz, where PyTorch is installed:
    import numpy, torch
    saved = torch.load("model_50000.pkl", map_location="cpu", weights_only=True)
    state = saved.get("model_state_dict", saved)
    arrays = {name: value.float().numpy() for name, value in state.items()}
    numpy.savez("weights.npz", **arrays)"""
_SEE_HELP = "save its arrays with numpy.savez, as --help shows"
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"

_Array = npt.NDArray[np.float32]


class StateDict(ForeignWeights):
    """The arrays of an .npz file by PyTorch's names, float32; those that begin with `weights/` only, if there are any.

    Raises UsageError where the file is no .npz, RunError where it is damaged or holds anything but finite numbers.
    """

    remedy = "make the file again from one whole state dict"

    def __init__(self, path: str | Path):
        self._arrays = _read(Path(path))
        super().__init__(Path(path), {name: array.shape for name, array in self._arrays.items()})

    def read(self, name: str) -> _Array:
        """An array."""
        return self._arrays[name]


def _read(path: Path) -> dict[str, _Array]:
    try:
        file = load_array(path)
    except (FileNotFoundError, IsADirectoryError):
        raise UsageError(f"there is no file {path}: name an .npz of the arrays of a state dict") from None
    except ArrayError as error:
        if isinstance(error.__cause__, zipfile.BadZipFile):
            raise _damaged(path, error.__cause__) from None
        raise UsageError(f"{path} is no .npz file: {_SEE_HELP}") from None  # which NumPy takes for pickled
    if isinstance(file, np.ndarray):
        raise UsageError(f"{path} holds a single array without a name: {_SEE_HELP}")
    arrays = {}
    with file:
        if any(Path(name).name == "data.pkl" for name in file.files):
            raise UsageError(f"{path} is a PyTorch checkpoint, which is pickled: {_SEE_HELP}")
        prefixed = [name for name in file.files if name.startswith(PREFIX)]
        for name in prefixed or file.files:
            try:
                array = file[name]
            except Exception as error:  # see load_array
                if "allow_pickle" in str(error):
                    raise RunError(f"{name} in {path} is pickled, and not read for that: {_SEE_HELP}") from None
                raise _damaged(path, error) from None
            if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or not np.isfinite(array).all():
                found = "no numbers with a fraction"
                if isinstance(array, np.ndarray) and array.dtype.kind == "f":
                    found = "NaN or infinity"
                raise RunError(f"{name} in {path} holds {found}, so it is no weight: {_SEE_HELP}")
            arrays[name.removeprefix(PREFIX)] = array.astype(np.float32)
    return arrays


def _damaged(path: Path, error: Exception) -> RunError:
    return RunError(f"{path} is damaged or cut short ({array_fault(error)}): use another copy of it")


# What the names say --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """A network of theirs: its `net` here, and the names of its parts in our order.

    first, second: linear maps in front; stacks: recurrent layers, the shared ones first; heads: linear maps behind.
    """

    net: str
    first: str
    second: str | None
    stacks: tuple[str, ...]
    heads: tuple[str, ...]
    makes_audio: bool

    @property
    def origin(self) -> str:
        """Where it comes from."""
        return "RNNControl" if self.net == "rnncontrol" else "MTCRNN"


def layout_of(state: StateDict) -> Layout:
    """Which network these arrays are. Raises UsageError where the names are neither RNNControl's nor MTCRNN's."""

    def has(*names: str) -> bool:
        return all(f"{name}.weight" in state.shapes for name in names)

    kinds = [name for name in ("plstm_layer", "lstm", "gru") if any(key.startswith(f"{name}.") for key in state.shapes)]
    main = (kinds or ["gru"])[0]
    shared = (main,) if kinds else ()
    pathways = [f"out_pro.{index}" for index in range(state.count(r"out_pro\.(\d+)\."))]
    if has("i2h"):
        return Layout("rnncontrol", "i2h", None, (main,), ("decoders.0" if has("decoders.0") else "decoder",), True)
    if has("i2d", "h2o"):
        wide = has("d2h")
        return Layout("wide" if wide else "baseline", "i2d", "d2h" if wide else None, (main,), ("h2o",), True)
    if has("i2d", "h2n"):
        return Layout("baseline", "i2d", None, (main,), ("h2n", "h2v"), False)
    if has("i2d", "mu2"):
        net = "shared_split" if shared else "split"
        return Layout(net, "i2d", None, (*shared, "mu1", "sigma1"), ("mu2", "sigma2"), False)
    if has("i2d") and pathways:
        net = "shared_pathways" if shared else "pathways"
        heads = tuple(f"{pathway}.{head}" for pathway in pathways for head in ("h2n", "h2v"))
        return Layout(net, "i2d", None, (*shared, *(f"{pathway}.rec" for pathway in pathways)), heads, False)
    if has("i2d", "mu"):
        return Layout("mixture", "i2d", None, (main,), ("pi", "mu", "sigma"), False)
    names = sorted(state.shapes)
    shown = f"{', '.join(names[:6])}{' ...' if len(names) > 6 else ''}" or "nothing"
    raise UsageError(
        f"{state.source} is a network of neither RNNControl nor MTCRNN (it holds {shown}): name a file of one of theirs"
    )


def architecture(state: StateDict, layout: Layout) -> dict[str, Any]:
    """The config keys that the shapes decide: net, cell, hidden_size, num_layers, and q_levels of audio."""
    hidden, _ = state.shape(f"{layout.second or layout.first}.weight", 2)
    stack = layout.stacks[0]
    if stack == "plstm_layer":
        cell, layers = "phased_lstm", state.count(r"plstm_layer\.cells\.(\d+)\.")
    else:
        rows, units = state.shape(f"{stack}.weight_hh_l0", 2)
        cell = "lstm" if rows == 4 * units else "gru"
        layers = state.count(re.escape(stack) + r"\.\w+_l(\d+)$")
    found = {"net": layout.net, "cell": cell, "hidden_size": hidden, "num_layers": layers}
    if layout.makes_audio:
        found["q_levels"] = state.shape(f"{layout.heads[0]}.weight", 2)[0]
    return found


def _names_fit(
    state: StateDict, layout: Layout, generates: Sequence[str], conditioned_on: Sequence[str], audio_input: str | None
) -> dict[str, Any]:
    """The config keys that names and widths decide together. Raises UsageError with the widths found."""
    _, inputs = state.shape(f"{layout.first}.weight", 2)
    outputs, _ = state.shape(f"{layout.heads[0]}.weight", 2)
    named = f"--conditioned_on names {len(conditioned_on)}"
    if layout.makes_audio:
        if list(generates) not in ([], [AUDIO]):
            raise UsageError(
                f"{state.source} makes audio of {outputs} levels, not {', '.join(generates)}: leave --generates out"
            )
        widths = {"scalar": 1} if layout.origin == "RNNControl" else {"scalar": 1, "onehot": outputs}
        possible = {kind: inputs - width for kind, width in widths.items() if inputs >= width}
        fitting = [kind for kind, rest in possible.items() if rest == len(conditioned_on)]
        told = ", or ".join(f"{kind} audio ({widths[kind]}) and {rest} controls" for kind, rest in possible.items())
        found = f"{state.source} has {inputs} inputs, which is {told}"
        if not fitting:
            raise UsageError(f"{found}, but {named}: name the controls it was trained with, in their order")
        if audio_input not in (None, fitting[0]):
            raise UsageError(f"{found}, but --audio_input is {audio_input}: leave it out")
        return {"generates": [AUDIO], "audio_input": fitting[0]}
    if audio_input is not None:
        raise UsageError(
            f"--audio_input {audio_input} is for audio, and {state.source} generates controls: leave it out"
        )
    features = outputs
    if layout.net == "mixture":
        features = outputs // MIXTURES
        if outputs % MIXTURES:
            raise RunError(
                f"{state.source} has {outputs} mixture components, and MTCRNN has {MIXTURES} for every control: name "
                "another file"
            )
    elif layout.net in ("pathways", "shared_pathways"):
        features = len(layout.heads) // 2
    if inputs < features:
        raise RunError(
            f"{state.source} has {inputs} inputs, fewer than the {features} controls it generates: {state.remedy}"
        )
    audio = " (audio, which it does not make)" if AUDIO in generates else ""
    if audio or (len(generates), len(conditioned_on)) != (features, inputs - features):
        raise UsageError(
            f"{state.source} generates {features} controls, and the other {inputs - features} of its {inputs} inputs "
            f"are what it is conditioned on, but --generates names {len(generates)}{audio} and {named}: name the "
            "controls it was trained with, in their order"
        )
    return {"generates": list(generates), **({} if layout.net == "mixture" else {"loss": "sampled_mse"})}


# The weights ---------------------------------------------------------------------------------------------------------


def _assignments(model: ConditionalTier, state: StateDict, layout: Layout) -> Iterator[tuple[Any, _Array]]:
    """(variable, value) of the whole network. Raises RunError where arrays are missing, do not fit or are left over."""
    stage = model.stage
    kernel, bias = _linear(model.first, state, layout.first)
    if layout.origin == "MTCRNN" and stage.makes_audio and stage.audio_input == "scalar":
        kernel = kernel.copy()
        kernel[0] *= (stage.q_levels - 1) / stage.q_levels
    yield from ((model.first.kernel, kernel), (model.first.bias, bias))
    if layout.second is not None and model.wide is not None:
        kernel, bias = _linear(model.wide, state, layout.second)
        yield from ((model.wide.kernel, kernel), (model.wide.bias, bias))
    for stack, name in zip(model.stacks, layout.stacks, strict=True):
        for index, layer in enumerate(stack.layers):
            yield from _recurrent(layer, state, name, index)
    for head, name in zip(model.heads, layout.heads, strict=True):
        kernel, bias = _linear(head, state, name)
        if stage.net == "mixture":
            kernel, bias = (
                part.reshape(-1, MIXTURES, model.features).swapaxes(1, 2).reshape(part.shape) for part in (kernel, bias)
            )
        yield from ((head.kernel, kernel), (head.bias, bias))
    if state.left:
        raise RunError(
            f"{state.source} holds {', '.join(state.left[:4])}, which {layout.origin}'s network does not have besides "
            "its other arrays: name a file of one of its own networks"
        )


def _linear(layer: Linear, state: StateDict, name: str) -> tuple[_Array, _Array]:
    """The kernel and bias of a linear map."""
    inputs, outputs = layer.kernel.shape
    return state.take(f"{name}.weight", outputs, inputs).T, state.take(f"{name}.bias", outputs)


def _recurrent(layer: Recurrent, state: StateDict, name: str, index: int) -> Iterator[tuple[Any, _Array]]:
    """A recurrent layer, its gates in Keras' order."""
    units, gates = layer.units, 3 if layer.cell == "gru" else 4
    order = {"gru": (1, 0, 2), "lstm": (0, 1, 2, 3), "phased_lstm": (0, 1, 3, 2)}[layer.cell]

    def reordered(part: str, *more: int) -> _Array:
        """An array `[gates * units, more]`, transposed."""
        split = np.split(state.take(f"{name}.{part}", gates * units, *more), gates)
        return np.concatenate([split[gate] for gate in order]).T

    if layer.cell == "phased_lstm":
        cell = f"cells.{index}"
        yield layer.kernel, reordered(f"{cell}.linear_ih.weight", layer.inputs)
        yield layer.recurrent_kernel, reordered(f"{cell}.linear_hh.weight", units)
        yield layer.bias, reordered(f"{cell}.bias")
        for part in ("period", "phase", "ratio_on"):
            yield getattr(layer, part), state.take(f"{name}.{cell}.{part}", units)
        return
    yield layer.kernel, reordered(f"weight_ih_l{index}", layer.inputs)
    yield layer.recurrent_kernel, reordered(f"weight_hh_l{index}", units)
    biases = [reordered(f"bias_{side}_l{index}") for side in ("ih", "hh")]
    if layer.recurrent_bias is None:
        yield layer.bias, biases[0] + biases[1]
    else:
        yield layer.bias, biases[0]
        yield layer.recurrent_bias, biases[1]


# The run -------------------------------------------------------------------------------------------------------------


def import_weights(
    path: str | Path,
    identity: str,
    *,
    generates: Sequence[str] = (),
    conditioned_on: Sequence[str] = (),
    rate: float | None = None,
    audio_input: str | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    units: Mapping[str, str] | None = None,
    logdir_root: str | Path = "logdir",
) -> Imported:
    """Make a run of a state dict, whole or not at all.

    path: see `StateDict`. identity: the id of the run, which must have none yet. generates: names of the controls it
    generates, none for audio; conditioned_on: of those it is conditioned on; both in the order of its inputs. rate: in
    Hz, for audio 16000 by default. audio_input: "scalar" or "onehot", by default what the widths say. ranges: by name
    the raw values that became 0 and 1 in training (RNNControl's parameter_specs), by default 0 and 1; MTCRNN's may then
    lie outside. units: by name, see `tierwave.controls.schema`. Raises UsageError and RunError.
    """
    from conditioning.model import ConditionalTier

    check_identity(identity, logdir_root)
    state = StateDict(path)
    layout = layout_of(state)
    fitted = _names_fit(state, layout, generates, conditioned_on, audio_input)
    if rate is None and not layout.makes_audio:
        raise UsageError(f"{state.source} generates controls and does not say how often: give --rate, such as 125")
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise UsageError(f"--rate {rate:g} must be values per second, more than 0")
    document = {
        "model": "conditioning",
        **fitted,
        "conditioned_on": list(conditioned_on),
        "rate": float(SAMPLE_RATE if rate is None else rate),
        **architecture(state, layout),
    }
    if layout.makes_audio and layout.origin == "MTCRNN":
        document["q_type"] = "mu-law-floor"
    config = validate(Config, document, str(state.source))
    controls = _controls(config, layout.origin, ranges or {}, units or {})
    config = validate(Config, {**document, "controls": controls}, str(state.source))
    bare = Schema(parameters=tuple(Parameter(name=name) for name in parameters(config)))
    schema = bare.updated(controls, "--units")
    model = ConditionalTier(config)
    assign_all(_assignments(model, state, layout))
    remarks = []
    unranged = [name for name in schema.names if name not in (ranges or {})]
    if unranged:
        what = "values from 0 to 1" if layout.origin == "RNNControl" else "the values it was trained on, as they are"
        remarks.append(f"Without --range the network takes {what}: {', '.join(unranged)}.")
    if config.cell == "phased_lstm":
        remarks.append(
            "MTCRNN's time gates go below 0 until their first phase, and here they do not: the first steps are others."
        )
    sample_rate = int(config.rate or 0) if config.makes_audio else SAMPLE_RATE
    documents: dict[str, Any] = {"statistics.json": {"gain": 1.0, "noise_floor": None}}
    if schema.names:
        documents["schema.json"] = {"parameters": schema.to_document(), "values": {}}
    return write_imported(
        model,
        config,
        identity,
        logdir_root,
        sample_rate=sample_rate,
        source=state.source,
        schema=schema,
        documents=documents,
        remarks=remarks,
    )


def _controls(
    config: Config, origin: str, ranges: Mapping[str, tuple[float, float]], units: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """The config key `controls`: how the raw values of every control map."""
    known = parameters(config)
    for flag, names in (("--range", ranges), ("--units", units)):
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known) or 'no parameters'}"
                raise UsageError(f"{flag} names {name}, which the network does not have; {hint}")
    controls: dict[str, dict[str, Any]] = {}
    for name in known:
        low, high = ranges.get(name, (0.0, 1.0))
        if not (math.isfinite(low) and math.isfinite(high)) or low == high:
            raise UsageError(f"--range {name}={low:g}:{high:g} must be two different numbers: what became 0 and 1")
        controls[name] = {"lo": low, "hi": high}
        if name in units:
            controls[name]["units"] = units[name]
        if origin == "MTCRNN" and name not in ranges:
            controls[name]["outside"] = "allow"
    return controls


# The command line ----------------------------------------------------------------------------------------------------


def _by_name(texts: Sequence[str], flag: str, example: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"{flag} {text} is not NAME=VALUE: write for example {flag} {example}")
        if name in found:
            raise UsageError(f"{flag} gives {name} twice: keep one of them")
        found[name] = value
    return found


def _ranges(texts: Sequence[str]) -> dict[str, tuple[float, float]]:
    found = {}
    for name, value in _by_name(texts, "--range", "p=64:76").items():
        match = re.fullmatch(f"({_NUMBER}):({_NUMBER})", value, re.ASCII)
        if not match:
            raise UsageError(f"--range {name}={value} is not NAME=LOW:HIGH: write for example --range {name}=64:76")
        found[name] = (float(match[1]), float(match[2]))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, import, return the exit code."""
    flags = FlagParser(
        prog="python -m conditioning.import_weights",
        description="Make a run of the weights of RNNControl or MTCRNN.",
        epilog=RECIPE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("--weights", type=Path, required=True, metavar="FILE", help="the state dict's arrays, an .npz")
    flags.add_argument("--id", required=True, help="name of the run that is made")
    flags.add_argument("--logdir_root", type=Path, default=Path("logdir"), help="where runs are kept (./logdir)")
    flags.add_argument("--generates", **REPEATABLE, metavar="NAME", help="controls it generates, in order")
    flags.add_argument("--conditioned_on", **REPEATABLE, metavar="NAME", help="what steers it, in order")
    flags.add_argument("--rate", type=float, help="values per second (of audio by default 16000)")
    flags.add_argument("--audio_input", choices=["scalar", "onehot"], help="default: what the number of inputs tells")
    flags.add_argument(
        "--range", **REPEATABLE, metavar="NAME=LO:HI", help="raw values that became 0 and 1 (default: 0:1)"
    )
    flags.add_argument("--units", **REPEATABLE, metavar="NAME=UNIT", help="such as p=midiPitch")

    def body(arguments: Any) -> None:
        ranges, units = _ranges(arguments.range), _by_name(arguments.units, "--units", "p=midiPitch")
        import_tensorflow(debug=arguments.debug)
        imported = import_weights(
            arguments.weights,
            arguments.id,
            generates=arguments.generates,
            conditioned_on=arguments.conditioned_on,
            rate=arguments.rate,
            audio_input=arguments.audio_input,
            ranges=ranges,
            units=units,
            logdir_root=arguments.logdir_root,
        )
        print("\n".join(_summary(imported)))

    return flags.run(body, argv)


def _summary(imported: Imported) -> list[str]:
    """What was imported, and commands that use it."""
    config = imported.config
    sound = f" of {config.q_levels} {config.q_type} levels, {config.audio_input}" if config.makes_audio else ""
    conditioned = f", conditioned on {', '.join(config.conditioned_on)}" if config.conditioned_on else ""
    examples = [f"{name}={imported.schema.of(name).span[0]:g}" for name in config.conditioned_on]
    return [
        *imported.remarks,
        f"Imported into {imported.run.folder}: net {config.net}, {config.num_layers} x {config.cell} of "
        f"{config.hidden_size}, {', '.join(config.generates)}{sound}, {config.rate:g} Hz{conditioned}",
        *imported.next_steps(f" --control {' '.join(examples)}" if examples else ""),
    ]


if __name__ == "__main__":
    sys.exit(main())
