"""A checkpoint of PRiSM SampleRNN as a run of this project: `python -m samplernn.import_prism --checkpoint ...`.

PRiSM saves its weights in TensorFlow's checkpoint format, `model.ckpt-<epoch>`. What the network is made of is read off
the shapes of the weights; the config that belongs to it says the rest (seq_len, q_type, rnn_dropout) and must not
contradict them. The run made here generates, and other trainings start from it with --init_from; its optimiser and its
corpus are not taken over, so it is not resumed itself. Nothing is unpickled.

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

Knows the network and the run folder; nothing of audio, corpora or training.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from natsort import natsorted

from samplernn.config import Config
from tierwave.cli.flags import FlagParser
from tierwave.config import read_document, resolve_training, validate
from tierwave.errors import RunError, UsageError
from tierwave.nn.runtime import import_tensorflow
from tierwave.runs.folder import CONFIG_NAME, CheckpointEntry, Run
from tierwave.runs.imported import check_identity, write_imported

if TYPE_CHECKING:
    from samplernn.model import SampleRNN

PRISM_KEYS = (
    "seq_len", "frame_sizes", "dim", "rnn_type", "num_rnn_layers", "q_type", "q_levels", "emb_size", "skip_conn",
    "rnn_dropout",
)  # fmt: skip
TIERS = ("big_frame_rnn", "frame_rnn")
_LEAF = "/.ATTRIBUTES/VARIABLE_VALUE"


class PrismCheckpoint:
    """The variables of a checkpoint by PRiSM's names.

    path: its prefix, one of its files, or a folder, of which the newest checkpoint is taken. Raises UsageError where
    there is none, RunError where it is damaged or lacks a variable.
    """

    def __init__(self, path: str | Path):
        import tensorflow as tf

        self.prefix = _prefix(Path(path))
        with self._reading():
            self._reader = tf.train.load_checkpoint(str(self.prefix))
            shapes = self._reader.get_variable_to_shape_map()
        self.shapes = {name.removesuffix(_LEAF): tuple(shape) for name, shape in shapes.items() if name.endswith(_LEAF)}
        self._taken: set[str] = set()

    @property
    def epoch(self) -> int:
        """The number at the end of its name, 0 if there is none."""
        number = re.search(r"-(\d+)$", self.prefix.name)
        return int(number[1]) if number else 0

    @property
    def step(self) -> int:
        """Updates the optimiser had made, 0 if it was not saved."""
        counters = [name for name in ("optimizer/_iterations", "optimizer/iter") if name in self.shapes]
        return int(self.value(counters[0])) if counters else 0

    @property
    def left(self) -> list[str]:
        """Variables of the network that nobody has asked the value of."""
        network = {name for name in self.shapes if name.startswith((*TIERS, "sample_mlp/")) and "/." not in name}
        return sorted(network - self._taken)

    def shape(self, name: str, rank: int) -> tuple[int, ...]:
        """The shape of a variable that must have `rank` dimensions."""
        if name not in self.shapes:
            raise RunError(
                f"the checkpoint {self.prefix} holds no {name}, so it is not one of PRiSM SampleRNN's three tiers: "
                "name a model.ckpt-<epoch> that its train.py has written"
            )
        if len(self.shapes[name]) != rank:
            raise RunError(
                f"{name} in the checkpoint {self.prefix} has the shape {list(self.shapes[name])}, and PRiSM's has "
                f"{rank} dimensions: name a model.ckpt-<epoch> that PRiSM SampleRNN's train.py has written"
            )
        return self.shapes[name]

    def value(self, name: str, rank: int = 0) -> np.ndarray:
        """A variable."""
        self.shape(name, rank)
        self._taken.add(name)
        with self._reading():
            return np.asarray(self._reader.get_tensor(name + _LEAF))

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        import tensorflow as tf

        try:
            yield
        except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:  # TensorFlow's reader raises each
            reason = str(getattr(error, "message", None) or error).strip().splitlines()[0]
            raise RunError(
                f"the checkpoint {self.prefix} is damaged or cut short ({reason}): use another copy of it"
            ) from None


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
    fed, gates = checkpoint.shape("big_frame_rnn/rnn/layer_0/cell/kernel", 2)
    skip: bool | str = "big_frame_rnn/rnn/layer_0_skip_out/kernel" in checkpoint.shapes
    if skip and fed == 2 * dim:
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
    """The config of this project for a PRiSM config and the architecture `found`, and remarks on what is otherwise.

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
        # PRiSM reads these two from the config, and does not do as they say.
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


def take_weights(model: SampleRNN, checkpoint: PrismCheckpoint) -> None:
    """Give `model`, built of the checkpoint's architecture, its weights. Raises RunError where one does not fit."""
    for variable, name, value in _assignments(model, checkpoint):
        if tuple(variable.shape) != value.shape:
            raise RunError(
                f"{name} in the checkpoint {checkpoint.prefix} does not fit its other weights (it makes "
                f"{list(value.shape)}, and {list(variable.shape)} are needed): name another checkpoint"
            )
        variable.assign(value)


def _assignments(model: SampleRNN, checkpoint: PrismCheckpoint) -> Iterator[tuple[Any, str, np.ndarray]]:
    """(variable of ours, PRiSM's name, value in our layout)."""

    def linear(layer: Any, name: str) -> Iterator[tuple[Any, str, np.ndarray]]:
        yield layer.kernel, f"{name}/kernel", checkpoint.value(f"{name}/kernel", 2)
        if layer.bias is not None:
            yield layer.bias, f"{name}/bias", checkpoint.value(f"{name}/bias", 1)

    for tier, above in zip(model.tiers, TIERS, strict=True):
        yield from linear(tier.project, f"{above}/inputs")
        for index, layer in enumerate(tier.stack.layers):
            cell = f"{above}/rnn/layer_{index}/cell"
            for part in ("kernel", "recurrent_kernel"):
                yield getattr(layer, part), f"{cell}/{part}", checkpoint.value(f"{cell}/{part}", 2)
            if layer.recurrent_bias is None:
                yield layer.bias, f"{cell}/bias", checkpoint.value(f"{cell}/bias", 1)
            else:
                both = checkpoint.value(f"{cell}/bias", 2)
                yield layer.bias, f"{cell}/bias", both[0]
                yield layer.recurrent_bias, f"{cell}/bias", both[-1]
        for index, output in enumerate(tier.stack.outputs):
            yield from linear(output, f"{above}/rnn/layer_{index}_skip_out")
        upsample = checkpoint.value(f"{above}/upsample", 3)
        yield tier.upsample, f"{above}/upsample", upsample.transpose(2, 0, 1).reshape(upsample.shape[2], -1)
    sample = model.sample_tier
    embeddings = "sample_mlp/embedding/embeddings"
    yield sample.embedding, embeddings, checkpoint.value(embeddings, 2)
    yield sample.window, "sample_mlp/inputs/kernel", checkpoint.value("sample_mlp/inputs/kernel", 3)
    for map_layer, name in zip([*sample.hidden, sample.to_logits], ("hidden1", "hidden2", "outputs"), strict=True):
        yield from linear(map_layer, f"sample_mlp/{name}")


@dataclass(frozen=True)
class Imported:
    """What became of a checkpoint: its run, entry and config, and remarks for the person who asked."""

    run: Run
    entry: CheckpointEntry
    config: Config
    remarks: tuple[str, ...]


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
    None takes the `*.config.json` beside the checkpoint. sample_rate: Hz; PRiSM does not store it. Raises UsageError
    and RunError with what to do.
    """
    from samplernn.model import SampleRNN

    check_identity(identity, logdir_root)
    training = resolve_training({"sample_rate": sample_rate}, {}, "")
    checkpoint = PrismCheckpoint(path)
    source = Path(config_file) if config_file is not None else _config_beside(checkpoint.prefix)
    config, remarks = prism_config(
        read_document(source), str(source), architecture(checkpoint), {"sample_rate": training.sample_rate}
    )
    model = SampleRNN(config)
    take_weights(model, checkpoint)
    if checkpoint.left:
        remarks.append(f"Not taken over, since PRiSM's model has no such weights: {', '.join(checkpoint.left)}.")
    run, entry = write_imported(
        model,
        config,
        identity,
        logdir_root,
        sample_rate=sample_rate,
        source=checkpoint.prefix,
        epoch=checkpoint.epoch,
        step=checkpoint.step,
    )
    return Imported(run, entry, config, tuple(remarks))


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
        for remark in imported.remarks:
            print(remark)
        print(
            f"Imported epoch {imported.entry.epoch} (step {imported.entry.step}) into {folder}: frames of "
            f"{config.frame_sizes} samples, {config.num_rnn_layers} x {config.rnn_type.upper()} of {config.dim}, "
            f"{config.q_levels} {config.q_type} levels, {arguments.sample_rate} Hz"
        )
        print(f"To hear it:       python generate.py --checkpoint_path {folder} --output_path new.wav")
        print(
            f"To train from it: python train.py --init_from {folder} --config_file {folder / CONFIG_NAME} "
            "--id NEW --data_dir FOLDER"
        )

    return flags.run(body, argv)


if __name__ == "__main__":
    sys.exit(main())
