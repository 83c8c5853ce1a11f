"""Let a steered network play, and measure whether it follows.

    python -m tierwave hear logdir/birds --output_dir sounds

Parses, calls, prints. `tierwave.evaluation.hearing` says what is played.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tierwave.cli.flags import FlagParser
from tierwave.system.progress import ProgressLine


def parser() -> FlagParser:
    """All flags."""
    flags = FlagParser(
        "tierwave hear",
        description="Let a steered network play held-out gestures (one of the demo corpus: melodies), and measure it.",
    )
    flags.add_argument("run", metavar="RUN", type=Path, help="a checkpoint, a run, or an id's folder (its newest run)")
    flags.add_argument(
        "--output_dir", type=Path, required=True, help="for a sound and a picture of each, made if missing"
    )
    flags.add_switch("--best", help="use the best checkpoint, not the newest")
    flags.add_argument("--temperature", type=float, default=1.0, help="of the sounds (default: 1)")
    flags.add_argument("--random_seed", type=int, default=0, help="same seed, same sounds (default: 0)")
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, write sounds and pictures, return the exit code."""
    return parser().run(_hear, argv)


def _hear(arguments: Any) -> None:
    from tierwave.analysis.control_accuracy import accuracy_picture
    from tierwave.analysis.issues import issues_of
    from tierwave.audio.writer import write_wav
    from tierwave.evaluation.hearing import IN_TUNE_CENTS, TRAINED, pieces_of, play
    from tierwave.generation.load import load_run, needs_tensorflow
    from tierwave.nn.runtime import import_tensorflow

    line = ProgressLine()
    if needs_tensorflow(arguments.run, "auto"):
        import_tensorflow(debug=arguments.debug)
    trained = load_run(arguments.run, best=arguments.best, weights="auto")
    pieces = pieces_of(trained)
    trained.prepare(line.say)
    folder: Path = arguments.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    notes: list[bool] = []
    for heard in play(trained, pieces, temperature=arguments.temperature, random_seed=arguments.random_seed):
        path, rate = folder / f"{heard.piece.name}.wav", trained.sample_rate
        write_wav(path, heard.sound, rate)
        accuracy_picture(path.with_suffix(".png"), heard.accuracies, heard.sound, rate, title=heard.piece.name)
        line.say(f"{path}: {heard.words}{issues_of(heard.sound, rate)}")
        if heard.piece.recording is not None:
            recording = folder / "recording.wav"
            write_wav(recording, heard.piece.recording, rate)
            which = "the held-out recording whose gesture that is"
            if heard.piece.name == TRAINED:
                which = "a recording that it was trained on, whose gesture that is: what was held out is silent"
            line.say(f"{recording}: {which}")
        notes += heard.in_tune
    if notes:
        line.say(
            f"In tune (voiced, within {IN_TUNE_CENTS:g} cents): {sum(notes)} of {len(notes)} notes, "
            f"{sum(notes) / len(notes):.0%}"
        )
