"""A checkpoint of PRiSM SampleRNN as a run of this project: `python -m samplernn.import_prism --checkpoint ...`.

PRiSM saves its weights in TensorFlow's checkpoint format, `model.ckpt-<epoch>`. The shapes of the weights say the
architecture; the config says the rest (seq_len, q_type, rnn_dropout) and must not contradict them.

PRiSM's name                                 shape                   here
    big_frame_rnn, frame_rnn                                         the tiers, top first
      inputs/{kernel, bias}                  [frame, dim], [dim]     project
      rnn/layer_<i>/cell/kernel              [in, gates * dim]       the same, gates in the same order
      rnn/layer_<i>/cell/recurrent_kernel    [dim, gates * dim]      the same
      rnn/layer_<i>/cell/bias                LSTM [4 * dim]          bias
                                             GRU [2, 3 * dim]        bias, recurrent_bias
      rnn/layer_<i>_skip_out/{kernel, bias}  [dim, dim], [dim]       outputs, with a bias in the first only
      upsample                               [ratio, out, in]        [in, ratio * out]
    sample_mlp
      embedding/embeddings                   [levels, levels]        embedding (PRiSM ignores emb_size)
      inputs/kernel                          [frame, levels, dim]    window
      hidden1, hidden2, outputs                                      hidden, to_logits
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from natsort import natsorted

from samplernn.config import Config
from tierwave.cli.flags import FlagParser
from tierwave.config import read_document, resolve_training, validate
from tierwave.errors import RunError, UsageError
from tierwave.nn.runtime import import_tensorflow
from tierwave.runs.imported import ForeignWeights, Imported, assign_all, check_identity, write_imported

if TYPE_CHECKING:
    from samplernn.model import SampleRNN
    from tierwave.nn.recurrent import Recurrent

PRISM_KEYS = (
    "seq_len", "frame_sizes", "dim", "rnn_type", "num_rnn_layers", "q_type", "q_levels", "emb_size", "skip_conn",
    "rnn_dropout",
)  # fmt: skip
TIERS = ("big_frame_rnn", "frame_rnn")
_LEAF = "/.ATTRIBUTES/VARIABLE_VALUE"


class PrismCheckpoint(ForeignWeights):
    """The variables of a checkpoint by PRiSM's names.

    path: its prefix, one of its files, or a folder, of which the newest checkpoint is taken. Raises UsageError where
    there is none, RunError where it is damaged.
    """

    remedy = "name a model.ckpt-<epoch> that PRiSM SampleRNN's train.py has written, of three tiers"

    def __init__(self, path: str | Path):
        import tensorflow as tf

        prefix = _prefix(Path(path))
        with _reading(prefix):
            self._reader = tf.train.load_checkpoint(str(prefix))
            shapes = self._reader.get_variable_to_shape_map()
        leaves = {name.removesuffix(_LEAF): tuple(shape) for name, shape in shapes.items() if name.endswith(_LEAF)}
        super().__init__(prefix, leaves)

    @property
    def epoch(self) -> int:
        """The number at the end of its name, 0 if there is none."""
        number = re.search(r"-(\d+)$", self.source.name)
        return int(number[1]) if number else 0

    @property
    def step(self) -> int:
        """Updates the optimiser had made, 0 if it was not saved."""
        counters = [name for name in ("optimizer/_iterations", "optimizer/iter") if name in self.shapes]
        return int(self.take(counters[0])) if counters else 0

    @property
    def left(self) -> list[str]:
        """The variables of the network that were not taken."""
        return [name for name in super().left if name.startswith((*TIERS, "sample_mlp/")) and "/." not in name]

    def read(self, name: str) -> np.ndarray:
        """The value of a variable. Raises RunError where it is damaged."""
        with _reading(self.source):
            return np.asarray(self._reader.get_tensor(name + _LEAF))


@contextlib.contextmanager
def _reading(prefix: Path) -> Iterator[None]:
    """RunError in place of any error of TensorFlow's reader."""
    import tensorflow as tf

    try:
        yield
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
        reason = str(getattr(error, "message", None) or error).strip().splitlines()[0]
        raise RunError(f"the checkpoint {prefix} is damaged or cut short ({reason}): use another copy of it") from None


def _prefix(path: Path) -> Path:
    if path.is_dir():
        found = natsorted(path.glob("*.index"), key=lambda index: index.name)
        if not found:
            deeper = natsorted({str(index.parent) for index in path.rglob("*.index")})
            hint = f"one lies in {deeper[-1]}" if deeper else "a checkpoint is model.ckpt-<epoch>.index and .data-..."
            raise UsageError(f"no checkpoint in TensorFlow's format was found in the folder {path}: {hint}")
        return found[-1].with_suffix("")
    prefix = path.with_name(re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", path.name))
    if not prefix.with_name(f"{prefix.name}.index").is_file():
        there = natsorted(index.stem for index in path.parent.glob("*.index")) if path.parent.is_dir() else []
        raise UsageError(
            f"{path} is no checkpoint in TensorFlow's format, since there is no {prefix.name}.index; found in "
            f"{path.parent}: {', '.join(there) or 'no checkpoint'}"
        )
    return prefix


def architecture(checkpoint: PrismCheckpoint) -> dict[str, Any]:
    """The config keys that the shapes of the weights decide."""
    top, dim = checkpoint.shape("big_frame_rnn/inputs/kernel", 2)
    frame, _ = checkpoint.shape("frame_rnn/inputs/kernel", 2)
    levels, width = checkpoint.shape("sample_mlp/embedding/embeddings", 2)
    layers = 1
    while f"big_frame_rnn/rnn/layer_{layers}/cell/kernel" in checkpoint.shapes:
        layers += 1
    inputs, gates = checkpoint.shape("big_frame_rnn/rnn/layer_0/cell/kernel", 2)
    skip: bool | str = "big_frame_rnn/rnn/layer_0_skip_out/kernel" in checkpoint.shapes
    if skip and inputs == 2 * dim:
        # PRiSM's last version feeds the first layer its input twice; earlier ones were wired as the original is.
        skip = "prism"
    return {
        "frame_sizes": [frame, top],
        "dim": dim,
        "rnn_type": "lstm" if gates == 4 * dim else "gru",
        "num_rnn_layers": layers,
        "q_levels": levels,
        "emb_size": width,
        "skip_conn": skip,
    }


def prism_config(
    document: Mapping[str, Any], source: str, found: Mapping[str, Any], training: Mapping[str, Any]
) -> tuple[Config, list[str]]:
    """The config for a PRiSM config and the architecture `found`, and remarks on differences that do not matter.

    Raises UsageError that names the keys in which the two contradict each other.
    """
    said = {key: document[key] for key in PRISM_KEYS if document.get(key) is not None}
    if isinstance(said.get("rnn_type"), str):
        said["rnn_type"] = said["rnn_type"].lower()
    remarks, contradictions = [], []
    others = [key for key in document if key not in (*PRISM_KEYS, "model")]
    if others:
        remarks.append(f"PRiSM's model has no {', '.join(others)}: ignored.")
    for key, value in said.items():
        same = bool(value) == bool(found[key]) if key == "skip_conn" else value == found.get(key, value)
        # PRiSM reads these two from the config and does not use them.
        ignored = key == "emb_size" or (key == "q_levels" and said.get("q_type", "mu-law") == "mu-law")
        if not same and ignored:
            remarks.append(f"{key} is {value} in the config, but PRiSM ignores it there: it is {found[key]}.")
        elif not same:
            contradictions.append(f"{key} is {value} in the config and {found[key]} in the checkpoint")
    if contradictions:
        raise UsageError(
            f"{source} is not the config of this checkpoint ({'; '.join(contradictions)}): name the right one with "
            "--config_file"
        )
    whole = {"model": "samplernn", **said, **found, "training": dict(training)}
    return validate(Config, whole, source), remarks


def _assignments(model: SampleRNN, checkpoint: PrismCheckpoint) -> Iterator[tuple[Any, np.ndarray]]:
    """(variable, value) of the whole network. Raises RunError where a variable is missing or does not fit."""
    for tier, name in zip(model.tiers, TIERS, strict=True):
        yield from _linear(tier.project, checkpoint, f"{name}/inputs")
        for index, layer in enumerate(tier.stack.layers):
            yield from _cell(layer, checkpoint, f"{name}/rnn/layer_{index}/cell")
        for index, output in enumerate(tier.stack.outputs):
            yield from _linear(output, checkpoint, f"{name}/rnn/layer_{index}_skip_out")
        upsample = checkpoint.take(f"{name}/upsample", tier.ratio, tier.dim, tier.dim)
        yield tier.upsample, upsample.transpose(2, 0, 1).reshape(tier.dim, -1)
    sample = model.sample_tier
    yield _same(sample.embedding, checkpoint, "sample_mlp/embedding/embeddings")
    yield _same(sample.window, checkpoint, "sample_mlp/inputs/kernel")
    for layer, name in zip([*sample.hidden, sample.to_logits], ("hidden1", "hidden2", "outputs"), strict=True):
        yield from _linear(layer, checkpoint, f"sample_mlp/{name}")


def _same(variable: Any, checkpoint: PrismCheckpoint, name: str) -> tuple[Any, np.ndarray]:
    """A variable that has the same layout in both."""
    return variable, checkpoint.take(name, *variable.shape)


def _linear(layer: Any, checkpoint: PrismCheckpoint, name: str) -> Iterator[tuple[Any, np.ndarray]]:
    """A linear map, with its bias if it has one."""
    yield _same(layer.kernel, checkpoint, f"{name}/kernel")
    if layer.bias is not None:
        yield _same(layer.bias, checkpoint, f"{name}/bias")


def _cell(layer: Recurrent, checkpoint: PrismCheckpoint, name: str) -> Iterator[tuple[Any, np.ndarray]]:
    """A recurrent layer; both biases of a GRU are one array of Keras'."""
    yield _same(layer.kernel, checkpoint, f"{name}/kernel")
    yield _same(layer.recurrent_kernel, checkpoint, f"{name}/recurrent_kernel")
    if layer.recurrent_bias is None:
        yield _same(layer.bias, checkpoint, f"{name}/bias")
    else:
        both = checkpoint.take(f"{name}/bias", 2, *layer.bias.shape)
        yield from zip((layer.bias, layer.recurrent_bias), both, strict=True)


def import_checkpoint(
    path: str | Path,
    identity: str,
    *,
    config_file: str | Path | None = None,
    logdir_root: str | Path = "logdir",
    sample_rate: int = 16000,
) -> Imported:
    """Make a run of a PRiSM checkpoint, whole or not at all.

    path: see `PrismCheckpoint`. identity: the id of the run, which must have none yet. config_file: PRiSM's config;
    None takes the `*.config.json` beside the checkpoint. sample_rate: Hz, which PRiSM does not store. Raises UsageError
    and RunError.
    """
    from samplernn.model import SampleRNN

    check_identity(identity, logdir_root)
    training = resolve_training({"sample_rate": sample_rate}, {}, "")
    checkpoint = PrismCheckpoint(path)
    source = Path(config_file) if config_file is not None else _config_beside(checkpoint.source)
    config, remarks = prism_config(
        read_document(source), str(source), architecture(checkpoint), {"sample_rate": training.sample_rate}
    )
    model = SampleRNN(config)
    assign_all(_assignments(model, checkpoint))
    if checkpoint.left:
        remarks.append(f"Not taken over, since PRiSM's model has no such weights: {', '.join(checkpoint.left)}.")
    return write_imported(
        model,
        config,
        identity,
        logdir_root,
        sample_rate=sample_rate,
        source=checkpoint.source,
        epoch=checkpoint.epoch,
        step=checkpoint.step,
        remarks=remarks,
    )


def _config_beside(prefix: Path) -> Path:
    found = natsorted(prefix.parent.glob("*.config.json"))
    if len(found) != 1:
        there = f"there are {', '.join(path.name for path in found)}" if found else "there is no *.config.json"
        raise UsageError(f"beside the checkpoint {prefix} {there}: name the config it was trained with, --config_file")
    return found[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, import, return the exit code."""
    flags = FlagParser(
        prog="python -m samplernn.import_prism", description="Make a run of a checkpoint of PRiSM SampleRNN."
    )
    flags.add_argument(
        "--checkpoint", type=Path, required=True, help="model.ckpt-<epoch>, its .index file, or the folder it is in"
    )
    flags.add_argument("--config_file", type=Path, help="PRiSM's config (default: the *.config.json beside it)")
    flags.add_argument("--id", required=True, help="name of the run that is made")
    flags.add_argument("--logdir_root", type=Path, default=Path("logdir"), help="where runs are kept (./logdir)")
    flags.add_argument("--sample_rate", type=int, default=16000, help="Hz it was trained at (default: 16000)")

    def body(arguments: Any) -> None:
        import_tensorflow(debug=arguments.debug)
        imported = import_checkpoint(
            arguments.checkpoint,
            arguments.id,
            config_file=arguments.config_file,
            logdir_root=arguments.logdir_root,
            sample_rate=arguments.sample_rate,
        )
        config, folder = imported.config, imported.run.folder
        summary = (
            f"Imported epoch {imported.entry.epoch} (step {imported.entry.step}) into {folder}: frames of "
            f"{config.frame_sizes} samples, {config.num_rnn_layers} x {config.rnn_type.upper()} of {config.dim}, "
            f"{config.q_levels} {config.q_type} levels, {arguments.sample_rate} Hz"
        )
        print("\n".join([*imported.remarks, summary, *imported.next_steps()]))

    return flags.run(body, argv)


if __name__ == "__main__":
    sys.exit(main())
