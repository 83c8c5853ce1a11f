"""jgarciapueyo's YAML files as ours: `python -m melnet.convert_yaml train.yml --output_path my.config.json`.

A training file becomes a config, with its optimiser, rates and batch in `training`; a synthesis file becomes the
generate.py command that does the same. His weights, which are PyTorch's, are not converted. Nothing in the YAML is run.
"""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from melnet.config import Config
from melnet.multiscale import factors
from tierwave.cli.flags import FlagParser
from tierwave.config import dumps, validate
from tierwave.errors import RunError, UsageError
from tierwave.files.text import read_text
from tierwave.files.writing import write_text

_AUDIO = ("sample_rate", "n_fft", "mel_channels", "hop_length")  # the same keys in both configs
_NETWORK = ("n_tiers", "layers", "hidden_size", "gmm_size")
_LARGEST = 1e9  # bound on every number in the files


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UsageError that says what was found instead."""
    try:
        import yaml
    except ImportError:
        raise UsageError("reading YAML needs PyYAML: pip install 'tierwave[yaml]'") from None
    if not path.is_file():
        raise UsageError(f"there is no file {path}: name his training or synthesis file")
    try:
        document = yaml.safe_load(read_text(path))
    except RunError as error:  # no text
        raise UsageError(str(error)) from None
    except RecursionError:
        raise UsageError(f"{path} is nested without end, so it is none of his files: name one of those") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: numbers and dates that are none
        raise UsageError(f"{path} is not YAML ({str(error).splitlines()[0]}): correct it there") from None
    if not isinstance(document, dict):
        raise UsageError(f"{path} holds a {type(document).__name__}, but one of his files is a mapping of keys")
    return document


def config_of(document: Mapping[str, Any], source: str) -> tuple[Config, list[str]]:
    """A training file's config, and remarks on what was changed. Raises UsageError for what is missing or wrong."""
    for part in ("audio", "network", "training"):
        if not isinstance(document.get(part), Mapping):
            raise UsageError(f"{source} has no {part}, so it is none of his training files: name one of those")
    audio, network, training = document["audio"], document["network"], document["training"]
    missing = [key for key in _NETWORK if key not in network] + [key for key in _AUDIO if key not in audio]
    if missing:
        raise UsageError(f"{source} lacks {missing[0]}: add it there")
    if not isinstance(network["layers"], list):
        raise UsageError(f"{source} has the layers {network['layers']!r}: give a list, a number per tier")
    by_tier = dict(enumerate(network["layers"], 1))
    layers = [_whole(by_tier, tier, source) for tier in by_tier]
    tiers = _whole(network, "n_tiers", source)
    if len(layers) != tiers:
        raise UsageError(f"{source} has {tiers} tiers, but layers {layers}: give one number per tier")
    batch = _whole(training, "batch_size", source, 1)
    fewer = [max(1, count - 1) for count in layers]  # he counts one more than there are
    before, after = ("-".join(map(str, counts)) for counts in (layers, fewer))
    remarks = [f"his layers count one more than there are: {before} became {after}"]
    accumulation = _whole(training, "accumulation_steps", source, batch)
    accumulate = max(1, round(accumulation / batch))
    options: dict[str, Any] = {"batch_size": batch * accumulate, "num_epochs": _whole(training, "epochs", source, 100)}
    if accumulate > 1:
        options["accumulate"] = accumulate
        remarks.append(f"accumulation_steps {accumulation}: batch_size {batch * accumulate} in {accumulate} parts")
    if str(training.get("optimizer", "RMSprop")).lower() != "rmsprop":
        remarks.append(f"optimizer {training['optimizer']} was never used there, which is RMSprop; it is here too")
    options |= {"optimizer": "rmsprop", "epsilon": 1e-8}
    for theirs, ours in (("lr", "learning_rate"), ("momentum", "momentum")):
        if theirs in training:
            options[ours] = _number(training, theirs, source)
    if "save_iterations" in training:
        options["checkpoint_steps"] = max(1, round(_whole(training, "save_iterations", source) / accumulation))
    by_time, sizes = factors(tiers)[0], {key: _whole(audio, key, source) for key in _AUDIO}
    frames = max(1, round(4 * sizes["sample_rate"] / sizes["hop_length"] / by_time)) * by_time
    remarks.append(f"seq_len is {frames} frames, four seconds; he trains on whole recordings")
    found = {
        "model": "melnet",
        "audio": {
            **sizes,
            "win_length": _whole(audio, "win_length", source, audio["n_fft"]),
            "mel_scale": "htk",
            "normalise": "db",
            "ref_level_db": _number(audio, "ref_level_db", source, 20),
            "min_level_db": _number(audio, "min_level_db", source, -100),
        },
        "tiers": tiers,
        "layers": fewer,
        "hidden_size": _whole(network, "hidden_size", source),
        "mixtures": _whole(network, "gmm_size", source),
        "seq_len": frames,
        "training": options,
    }
    data = document.get("data", {})
    if isinstance(data, Mapping) and data.get("path"):
        remarks.append(f"data.path is --data_dir {shlex.quote(str(data['path']))}")
    return validate(Config, found, source), remarks


def _number(given: Mapping[Any, Any], key: Any, source: str, otherwise: Any = None) -> float:
    value = given.get(key, otherwise)
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # YAML 1.1 takes 4e-6 for a text
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) < _LARGEST:
        raise UsageError(f"{source} has {value!r} for {key}: write a number there")
    return number


def _whole(given: Mapping[Any, Any], key: Any, source: str, otherwise: Any = None) -> int:
    number = _number(given, key, source, otherwise)
    if number < 1 or not number.is_integer():
        raise UsageError(f"{source} has {number:g} for {key}: write a whole number from 1 up there")
    return int(number)


def command_of(document: Mapping[str, Any], source: str, frames: int) -> str:
    """The generate.py command for a synthesis file."""
    for key in ("checkpoints_path", "output_path"):
        if key not in document:
            raise UsageError(f"{source} has no {key}, so it is none of his synthesis files: name one of those")
    name = str(document.get("name", "melnet"))
    output = str(Path(str(document["output_path"])) / f"{name}.wav")
    words = ["python", "generate.py", "--checkpoint_path", f"logdir/{name}", "--output_path", output]
    return shlex.join([*words, "--frames", str(frames)])


def parser() -> FlagParser:
    """All flags."""
    flags = FlagParser("python -m melnet.convert_yaml", description="jgarciapueyo's MelNet files as ours.")
    flags.add_argument("yaml", type=Path, help="his training or synthesis file")
    flags.add_argument("--output_path", type=Path, help="the config to write (default: printed)")
    flags.add_argument("-t", "--frames", type=int, default=300, help="his -t, for a synthesis file (default: 300)")
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, convert, return the exit code."""
    return parser().run(_convert, argv)


def _convert(arguments: Any) -> None:
    document = read_yaml(arguments.yaml)
    if "checkpoints_path" in document:
        print(command_of(document, str(arguments.yaml), arguments.frames))
        return
    config, remarks = config_of(document, str(arguments.yaml))
    for remark in remarks:
        print(f"Note: {remark}", file=sys.stderr)
    if arguments.output_path is None:
        print(dumps(config))
    else:
        write_text(arguments.output_path, dumps(config) + "\n")
        print(f"Wrote {arguments.output_path}")


if __name__ == "__main__":
    sys.exit(main())
