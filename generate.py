"""Make sound with a trained network: `python generate.py --checkpoint_path logdir/default --output_path new.wav`."""

from __future__ import annotations

import gc
import json
import secrets
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from tierwave.cli.flags import REPEATABLE, FlagParser, optional
from tierwave.cli.running import loading, sentences
from tierwave.config import read_document, resolve_training
from tierwave.errors import UsageError
from tierwave.files.folders import refuse_file
from tierwave.nn.runtime import import_tensorflow
from tierwave.system.progress import ProgressLine, clock

# Flags that only one family knows: `Request.options`.
FAMILY_FLAGS = ("frames", "text", "bias", "from_tier", "inversion")


def parser() -> FlagParser:
    """All flags of generate.py."""
    flags = FlagParser("generate.py", description="Make sound with a trained network.")
    flags.add_argument(
        "--output_path", type=Path, required=True, help="a wav, flac, ogg or mp3; several sequences add (i) to the name"
    )
    flags.add_argument(
        "--checkpoint_path", type=Path, required=True, help="a checkpoint, its .index file, a run or an id's folder"
    )
    flags.add_switch("--best", help="use the best checkpoint of a folder, not the newest")
    flags.add_argument("--config_file", type=Path, help="config, only for checkpoints in a folder without one")
    flags.add_argument("--dur", type=float, default=3.0, help="duration in seconds, may be fractional (default: 3)")
    flags.add_argument("--num_seqs", type=int, default=1, help="number of sounds, generated in parallel (default: 1)")
    flags.add_argument("--sample_rate", type=int, help="sample rate of the file, Hz (default: the run's)")
    flags.add_argument(
        "--temperature", type=float, nargs="+", default=[0.75], help="one or more; 0: most likely (default: 0.75)"
    )
    flags.add_argument("--top_k", type=optional(int), help="draw from the k most likely values only")
    flags.add_argument("--top_p", type=optional(float), help="draw from the fewest values of this total probability")
    flags.add_argument(
        "--seed", type=optional(Path), help="audio to continue, any length, any rate; a folder: a random place in it"
    )
    flags.add_argument("--seed_offset", default="0", help="where to start in the seed: samples, or 1.5s")
    flags.add_switch("--include_seed", help="keep the seed in the output")
    flags.add_argument(
        "--prime",
        help="prime with so many seconds of the seed (default: all); or with noise: random, floor, random:0.5",
    )
    flags.add_argument("--controls", type=optional(Path), help="CSV of controls over time")
    flags.add_argument(
        "--control", **REPEATABLE, metavar="NAME=VALUE", help="controls: value 64, ramp 64:76, points 0:64,1.5:76"
    )
    flags.add_argument("--external_array", type=optional(Path), help="controls as .npy [batch, length, features]")
    flags.add_argument("--external_sr", type=optional(float), help="rate of the array in Hz")
    flags.add_argument("--override", **REPEATABLE, metavar="NAME=FILE", help="a CSV instead of what a tier generates")
    flags.add_argument("--tier_temperature", **REPEATABLE, metavar="TIER=T", help="temperature of a tier")
    flags.add_argument("--tier_seed", **REPEATABLE, metavar="TIER=N", help="random seed of a tier")
    flags.add_switch("--extrapolate", help="do not clip controls to the trained range")
    flags.add_argument("--random_seed", type=int, help="same seed, same sound (default: a new one, printed)")
    flags.add_switch("--spectrogram", help="also write a PNG")
    flags.add_argument(
        "--weights",
        choices=("auto", "float32", "bfloat16", "int8", "tensorflow"),
        default="auto",
        help="how weights are stored while sound is made; tensorflow: by TensorFlow, for many sounds on a GPU "
        "(default: auto)",
    )
    flags.add_argument("--frames", type=optional(int), help="MelNet: length in frames, instead of --dur")
    flags.add_argument("--text", help="MelNet with text: the text to speak")
    flags.add_argument("--bias", type=float, default=0.0, help="MelNet: sharpen the mixtures, 0 or more (default: 0)")
    flags.add_argument("--from_tier", type=optional(int), help="MelNet: sample from this tier on, over real low tiers")
    flags.add_argument("--low_resolution", type=optional(Path), help="MelNet: the recording whose low tiers are used")
    flags.add_argument(
        "--inversion",
        choices=("gradient", "griffin_lim"),
        default="gradient",
        help="MelNet: how to convert the spectrogram to sound (default: gradient)",
    )
    flags.add_argument(
        "--vocoder", type=optional(Path), help="MelNet: render with this run, whose controls are mel bands"
    )
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, generate, return the exit code."""
    return parser().run(_generate, argv)


def _generate(arguments: Any) -> None:
    if arguments.sample_rate is not None and arguments.sample_rate < 1:
        raise UsageError(f"--sample_rate {arguments.sample_rate} must be a positive number of Hz")
    if arguments.include_seed and arguments.seed is None:
        raise UsageError("--include_seed has no seed to keep: give --seed, or leave it out")
    seed_path = None if arguments.seed is None else str(arguments.seed)
    if arguments.seed_offset.isdigit():
        arguments.seed_offset = int(arguments.seed_offset)
    resolve_training({"seed": seed_path, "seed_offset": arguments.seed_offset}, {}, "")  # refuses what is no offset
    document = None if arguments.config_file is None else read_document(arguments.config_file)

    with loading():
        from tierwave.audio.writer import writable_suffix
        from tierwave.generation.prompt import PromptOptions, build_request
        from tierwave.generation.request import Request, sequence_paths, write_sounds

        if arguments.random_seed is None:
            arguments.random_seed = secrets.randbelow(2**31)
        typed, usual = vars(arguments), parser()
        plain = Request(
            sequences=arguments.num_seqs,
            seconds=arguments.dur,
            options={name: typed[name] for name in FAMILY_FLAGS if typed[name] != usual.get_default(name)},
            **{name: typed[name] for name in ("temperature", "top_k", "top_p", "random_seed")},
        )  # refuses wrong values before a model is loaded
        prompt = PromptOptions(**{field.name: typed[field.name] for field in fields(PromptOptions)})
        if arguments.output_path.suffix.lower() != ".csv":  # a run that generates controls writes CSVs
            writable_suffix(arguments.output_path)  # refuses another format
        refuse_file("--output_path", arguments.output_path)
        line = ProgressLine()
        from tierwave.analysis.issues import issues_of
        from tierwave.generation.load import hardly_trained, load_run, needs_tensorflow, weights_for
        from tierwave.generation.outputs import draw_sound, draw_stages, write_curves, write_spectrogram
        from tierwave.runs.folder import Run

        weights = weights_for(arguments.weights, arguments.num_seqs)
        if needs_tensorflow(arguments.checkpoint_path, weights, document):
            import_tensorflow(debug=arguments.debug)
        trained = load_run(arguments.checkpoint_path, best=arguments.best, config_document=document, weights=weights)
        trained, request, remarks = build_request(trained, plain, prompt)
        parts = {stage: Run(path.parent) for stage, path in trained.checkpoints.items()}
        hardly = hardly_trained(parts) if len(parts) > 1 else []
        for remark in [*remarks, *(f"Warning: {text}" for text in hardly)]:
            line.say(remark)
        trained.prepare(line.say)  # last, since it may take long: what is refused is refused at once
    with sentences(line.say):
        stream = trained.stream(request)
    stream.progress = line.count
    target = arguments.output_path
    if not stream.makes_audio and target.suffix.lower() == ".csv":
        target = target.with_suffix("")
    paths = sequence_paths(target, request, epoch=trained.entry.epoch if arguments.num_seqs > 1 else None)
    seconds = stream.duration()
    line.say(f"Generating {seconds:g} s x {arguments.num_seqs} from {trained.path}")
    line.say(f"Random seed: {arguments.random_seed}")
    if not stream.makes_audio:
        for name in ("spectrogram", "include_seed", "sample_rate", "top_k", "top_p"):
            if typed[name]:
                raise UsageError(f"--{name} belongs to sound, and this run generates controls: leave it out")
        for voice, path in enumerate(paths):
            for written in write_curves(stream, path, request, voice):
                line.say(f"Wrote {written}")
            _describe(path, request, trained, arguments, voice)
        return

    def progress(done: float, speed: float) -> None:
        left = clock((seconds - done) / max(speed, 1e-9))
        line.say(f"{done:.1f} of {seconds:g} s, {speed:.2f}x real time, {left} left", True)

    speed, sounds = write_sounds(
        stream,
        paths,
        seconds,
        sample_rate=arguments.sample_rate,
        before=request.seed_audio if arguments.include_seed else None,
        progress=progress,
    )
    rate = arguments.sample_rate or trained.sample_rate
    for voice, (path, sound) in enumerate(zip(paths, sounds, strict=True)):
        beside = write_curves(stream, path, request, voice) + write_spectrogram(stream, path, voice)
        beside += draw_stages(stream, path, voice)
        _describe(path, request, trained, arguments, voice)
        if arguments.spectrogram:
            draw_sound(path, sound, rate, stream, request, trained.schema, voice)
        line.say(f"Wrote {path}{issues_of(sound, rate)}" + "".join(f", {each.name}" for each in beside))
    line.say(f"{speed:.2f} x real time per sequence, {speed * len(paths):.2f} x for all together")


def _describe(path: Path, request: Any, trained: Any, arguments: Any, voice: int) -> None:
    """The JSON beside a sound: every flag, and what it came to."""
    from tierwave.files.writing import write_text

    skipped = ("output_path", "config_file", "debug", "spectrogram")
    about = {name: value for name, value in vars(arguments).items() if name not in skipped}
    about |= {
        "checkpoint": str(trained.path),
        "checkpoints": {stage: str(place) for stage, place in trained.checkpoints.items()},
        "epoch": trained.entry.epoch,
        "step": trained.entry.step,
        "temperature": request.temperatures[voice],
        "seconds": request.seconds,
        "sample_rate": arguments.sample_rate or trained.sample_rate,
        "tier_temperature": dict(request.tier_temperature),
        "tier_seed": dict(request.tier_seed),
    }
    write_text(path.with_suffix(".json"), json.dumps(about, indent=1, default=str) + "\n")


if __name__ == "__main__":
    code = main()
    gc.freeze()  # what is left ends with the process, and looking through it takes a third of a second
    sys.exit(code)
