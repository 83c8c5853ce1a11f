"""`tierwave evaluate`: how well a trained network predicts recordings, and whether it follows its controls.

tierwave evaluate RUN --data_dir DIR
tierwave evaluate RUN --controls
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tierwave.cli.flags import JSON_FLAG, FlagParser, print_result
from tierwave.errors import UsageError
from tierwave.evaluation.controls import compare_sounds, evaluate_controls
from tierwave.evaluation.likelihood import evaluate
from tierwave.generation.load import load_run
from tierwave.generation.request import Request
from tierwave.nn.runtime import import_tensorflow
from tierwave.system.progress import ProgressLine, erase


def parser() -> FlagParser:
    """All flags."""
    flags = FlagParser(
        "tierwave evaluate",
        description="Measure how well a trained network predicts recordings and follows its controls.",
    )
    flags.add_argument("run", metavar="RUN", type=Path, help="a checkpoint, its .index file, a run or an id's folder")
    flags.add_argument("--data_dir", type=Path, help="folder of recordings, searched recursively")
    flags.add_argument(
        "--part", choices=("train", "valid", "test"), help="only this part of the run's split (default: all)"
    )
    flags.add_argument("--param_dir", type=Path, help="folder of the controls (default: that of the recordings)")
    flags.add_argument("--params", type=Path, help="manifest of controls")
    flags.add_argument(
        "--controls",
        nargs="*",
        metavar="NAME",
        help="measure whether the sound follows these controls (default: all that can be measured)",
    )
    flags.add_argument("--dur", type=float, default=2.0, help="seconds of each sound for --controls (default: 2)")
    flags.add_argument("--temperature", type=float, default=0.75, help="for --controls (default: 0.75)")
    flags.add_argument("--top_k", type=int, help="for --controls: draw from the k most likely values only")
    flags.add_argument("--top_p", type=float, help="for --controls: draw from the fewest values with this probability")
    flags.add_argument("--random_seed", type=int, default=0, help="for --controls (default: 0)")
    flags.add_argument("--output_dir", type=Path, help="for --controls: folder for the sounds and their pictures")
    flags.add_argument(
        "--sounds",
        type=Path,
        nargs="+",
        action="extend",
        help="generated sounds, whose average spectrum is compared with that of the recordings",
    )
    flags.add_switch(
        "--weights", help="also measure which type of weights plays fastest here, which --weights auto then takes"
    )
    flags.add_switch("--best", help="use the best checkpoint of a folder, not the newest")
    flags.add_argument("--batch_size", type=int, help="files read in parallel (default: as in training)")
    flags.add_argument("--json", **JSON_FLAG)
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, evaluate, return the exit code."""
    return parser().run(_evaluate, argv)


def _evaluate(arguments: Any) -> None:
    likelihood = arguments.data_dir is not None or arguments.part is not None
    if arguments.data_dir is not None and not arguments.data_dir.exists():
        raise UsageError(f"--data_dir {arguments.data_dir} does not exist: name a folder of recordings")
    if not likelihood and arguments.controls is None:
        raise UsageError("there is nothing to do: give --data_dir (likelihood of recordings), --part, or --controls")
    if arguments.weights and not likelihood:
        raise UsageError("--weights are compared on recordings: name them with --data_dir or --part")
    plain = Request(
        temperature=[arguments.temperature],
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        seconds=arguments.dur,
        random_seed=arguments.random_seed,
    )
    import_tensorflow(debug=arguments.debug)
    line = ProgressLine("stderr")  # stdout is the result's
    trained = load_run(arguments.run, best=arguments.best)
    about: dict[str, Any] = {
        "checkpoint": str(trained.path),
        "epoch": trained.entry.epoch,
        "step": trained.entry.step,
    }
    lines = []
    if likelihood:
        evaluation = evaluate(
            trained,
            arguments.data_dir,
            part=arguments.part,
            param_dir=arguments.param_dir,
            params=arguments.params,
            batch_size=arguments.batch_size,
            progress=line.count,
            weights=arguments.weights,
        )
        where = str(arguments.data_dir or trained.run.read("run.json")["data_dir"])
        about |= {"data_dir": where, **evaluation.document()}
        part = f" ({arguments.part})" if arguments.part else ""
        lines += [f"{about['checkpoint']} on {where}{part}, {trained.sample_rate} Hz", evaluation.table()]
        if evaluation.weights is not None:
            lines.append(evaluation.weights.table())
    if arguments.sounds is not None:
        if arguments.data_dir is None:
            raise UsageError("--sounds are compared with recordings: name them with --data_dir")
        found = compare_sounds(trained, arguments.data_dir, arguments.sounds)
        about["spectral_distance_db"] = found
        lines.append(
            f"average spectrum of the sounds: {found['generated']:.1f} dB from the recordings' (their two halves: "
            f"{found['halves']:.1f}, white noise: {found['white_noise']:.1f}, shuffled: {found['shuffled']:.1f})"
        )
    if arguments.controls is not None:
        summary = evaluate_controls(
            trained,
            names=arguments.controls,
            seconds=arguments.dur,
            plain=plain,
            output_dir=arguments.output_dir,
            progress=line.count,
        )
        about["following"] = summary.document()
        lines += [f"{about['checkpoint']}: does it follow?", summary.table()]
    erase()
    print_result(about, "\n".join(lines), arguments.json)
