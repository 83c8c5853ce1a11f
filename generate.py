"""Make sound with a trained network: `python generate.py --checkpoint_path logdir/default --output_path new.wav`.

Parses, calls, prints.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tierwave.commandline import FlagParser, boolean, import_tensorflow, optional, run
from tierwave.config import read_document, resolve_training
from tierwave.errors import UsageError

NOT_YET = {
    "controls": "parameters over time steer conditioned models",
    "control": "parameters over time steer conditioned models",
    "prime": "priming with noise or a part of the seed belongs to conditioned models; --seed continues a recording",
    "external_array": "parameters over time steer conditioned models",
    "external_sr": "parameters over time steer conditioned models",
    "override": "it replaces a tier of a cascade",
    "tier_temperature": "only cascades and MelNet have several tiers",
    "frames": "it belongs to MelNet",
    "from_tier": "it belongs to MelNet",
    "low_resolution": "it belongs to MelNet",
    "inversion": "it belongs to MelNet",
    "vocoder": "it belongs to MelNet",
}


def parser() -> FlagParser:
    """All flags of generate.py."""
    flags = FlagParser("generate.py", description="Make sound with a trained network.")
    flag: dict[str, Any] = {"nargs": "?", "const": True, "type": boolean}
    flags.add_argument("--output_path", type=Path, required=True, help="the wav; several sequences get (i) in the name")
    flags.add_argument(
        "--checkpoint_path", type=Path, required=True, help="a checkpoint, its .index file, a run or an id's folder"
    )
    flags.add_argument("--best", default=False, help="of a folder: the best checkpoint, not the newest", **flag)
    flags.add_argument("--config_file", type=Path, help="only for checkpoints without a config beside them")
    flags.add_argument("--dur", type=float, default=3.0, help="seconds, may be fractional (default: 3)")
    flags.add_argument("--num_seqs", type=int, default=1, help="sounds side by side (default: 1)")
    flags.add_argument("--sample_rate", type=int, help="Hz, of the file (default: the run's)")
    flags.add_argument(
        "--temperature", type=float, nargs="+", default=[0.75], help="one or more; 0 = most likely (default: 0.75)"
    )
    flags.add_argument("--top_k", type=optional(int), help="draw from the k most likely values only")
    flags.add_argument("--top_p", type=optional(float), help="draw from the fewest values holding this probability")
    flags.add_argument("--seed", type=optional(Path), help="audio to continue, any length, any rate")
    flags.add_argument("--seed_offset", default="0", help="where in the seed to start: samples, or 1.5s")
    flags.add_argument("--include_seed", default=False, help="keep the seed in the output (default: False)", **flag)
    flags.add_argument("--random_seed", type=int, help="same seed, same sound (default: fresh, and printed)")
    flags.add_argument("--spectrogram", default=False, help="also write a PNG (default: False)", **flag)
    for name, why in NOT_YET.items():
        flags.add_argument(f"--{name}", nargs="+", help=f"not yet: {why}")
    flags.add_argument("--debug", default=False, help="show tracebacks (default: False)", **flag)
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, generate, return the exit code."""
    arguments = parser().parse_args(argv)
    return run(lambda: _generate(arguments), debug=arguments.debug)


def _generate(arguments: Any) -> None:
    for name, why in NOT_YET.items():
        if getattr(arguments, name) is not None:
            raise UsageError(f"--{name} is not there for this model ({why}): leave it out")
    if arguments.sample_rate is not None and arguments.sample_rate < 1:
        raise UsageError(f"--sample_rate {arguments.sample_rate} must be a positive number of Hz")
    if arguments.include_seed and arguments.seed is None:
        raise UsageError("--include_seed has no seed to keep: give --seed, or leave it out")
    offset = int(arguments.seed_offset) if arguments.seed_offset.isdigit() else arguments.seed_offset
    seed_path = None if arguments.seed is None else str(arguments.seed)
    resolve_training({"seed": seed_path, "seed_offset": offset}, {}, "")  # refuses no offset, and one without a seed
    document = None if arguments.config_file is None else read_document(arguments.config_file)

    from tierwave.generation import Request, one_thread_per_call, sequence_paths, write_sounds
    from tierwave.sessions import load_trained, seed_audio

    random_seed = secrets.randbelow(2**31) if arguments.random_seed is None else arguments.random_seed
    shape = {
        "sequences": arguments.num_seqs,
        "seconds": arguments.dur,
        "temperature": arguments.temperature,
        "top_k": arguments.top_k,
        "top_p": arguments.top_p,
        "random_seed": random_seed,
    }
    Request(**shape)  # refuses wrong values before a model is loaded
    import_tensorflow(debug=arguments.debug)
    one_thread_per_call()
    from tierwave.callbacks import heard

    trained = load_trained(arguments.checkpoint_path, best=arguments.best, config_document=document)
    seed = seed_audio(arguments.seed, offset, trained.sample_rate, trained.config.normalize, trained.gain)
    request = Request(**shape, seed_audio=seed)
    paths = sequence_paths(
        arguments.output_path, request, epoch=trained.entry.epoch if arguments.num_seqs > 1 else None
    )
    print(f"Generating {arguments.dur:g} s x {arguments.num_seqs} from {trained.run.folder / trained.entry.name}")
    print(f"Random seed: {random_seed}")
    stream = trained.family.stream(trained.models, trained.config, request, sample_rate=trained.sample_rate)
    on_terminal = sys.stdout.isatty()

    def progress(done: float, speed: float) -> None:
        if on_terminal:
            left = (arguments.dur - done) / max(speed, 1e-9)
            line = f"\r\x1b[2K{done:.1f} of {arguments.dur:g} s, {speed:.2f}x real time, {left:.0f} s left"
            print(line, end="", flush=True)

    speed = write_sounds(
        stream,
        paths,
        arguments.dur,
        sample_rate=arguments.sample_rate,
        before=seed if arguments.include_seed else None,
        progress=progress,
    )
    if on_terminal:
        print()
    for path, temperature in zip(paths, request.temperatures, strict=True):
        _describe(path, temperature, request, trained, arguments)
        print(f"Wrote {path}{heard(path)}")
    print(f"{speed:.2f} x real time per sequence, {speed * len(paths):.2f} x for all together")


def _describe(path: Path, temperature: float, request: Any, trained: Any, arguments: Any) -> None:
    """The JSON beside a wav, and its picture."""
    from tierwave.runs import write_text

    about = {
        "checkpoint": str(trained.run.folder / trained.entry.name),
        "epoch": trained.entry.epoch,
        "step": trained.entry.step,
        "temperature": temperature,
        "top_k": request.top_k,
        "top_p": request.top_p,
        "seconds": request.seconds,
        "sample_rate": arguments.sample_rate or trained.sample_rate,
        "random_seed": request.random_seed,
        "seed": None if arguments.seed is None else str(arguments.seed),
        "seed_offset": arguments.seed_offset,
    }
    write_text(path.with_suffix(".json"), json.dumps(about, indent=1) + "\n")
    if arguments.spectrogram:
        from tierwave.audio import load
        from tierwave.pictures import sound_picture

        sound, rate = load(path)
        sound_picture(path.with_suffix(".png"), sound, rate, title=f"{path.stem} (temperature {temperature:g})")


if __name__ == "__main__":
    sys.exit(main())
