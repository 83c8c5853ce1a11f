"""Hand a trained run on: `python -m tierwave export RUN --output birds.zip`.

    python -m tierwave export RUN --output FOLDER|FILE.zip             a run to play and to train from, with a card
    python -m tierwave export RUN --output FOLDER --onnx --litert      and its generation step for other programs
    python -m tierwave export RUN --output FILE.html                   a page that plays it, without a server

Parses, calls, prints.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tierwave.cli.flags import REPEATABLE, FlagParser
from tierwave.cli.running import sentences
from tierwave.errors import UsageError
from tierwave.nn.runtime import import_tensorflow


def parser() -> FlagParser:
    """All flags."""
    flags = FlagParser(
        "tierwave export", description="Export a trained run: weights, documents, a sound, a model card."
    )
    flags.add_argument("run", metavar="RUN", type=Path, help="a checkpoint, its .index file, a run or an id's folder")
    flags.add_argument("--output", type=Path, required=True, help="a new folder, or a file that ends in .zip or .html")
    flags.add_argument(
        "--format",
        choices=("run", "html"),
        help="run: to play and to train from; html: a page that plays it (default: by the ending of --output)",
    )
    flags.add_switch("--best", help="use the best checkpoint of a folder, not the newest")
    flags.add_switch("--onnx", help="also export the generation step for ONNX Runtime")
    flags.add_switch("--litert", help="also export the generation step for LiteRT")
    flags.add_argument("--dur", type=float, default=3.0, help="seconds of the sample; 0: no sample (default: 3)")
    flags.add_argument("--temperature", type=float, default=0.75, help="temperature of the sample (default: 0.75)")
    flags.add_argument("--random_seed", type=int, default=0, help="random seed of the sample (default: 0)")
    flags.add_argument(
        "--control",
        **REPEATABLE,
        metavar="NAME=VALUE",
        help="controls of the sample, as for generate.py (default: the middle of the trained range)",
    )
    flags.add_argument("--text", help="text of the sample, for a MelNet with text")
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, export, return the exit code."""
    return parser().run(_export, argv)


def _export(arguments: Any) -> None:
    from tierwave.export.sharing import CARD, Sample, check_target, share
    from tierwave.generation.load import load_run
    from tierwave.generation.request import Request

    kind = arguments.format or ("html" if arguments.output.suffix.lower() == ".html" else "run")
    check_target(arguments.output)
    if kind == "html":
        _export_page(arguments)
        return
    sample = None
    if arguments.dur:
        plain = Request(
            seconds=arguments.dur,
            temperature=[arguments.temperature],
            random_seed=arguments.random_seed,
            options={"text": arguments.text} if arguments.text else {},
        )
        sample = Sample(plain, arguments.control)
    import_tensorflow(debug=arguments.debug)
    trained = load_run(arguments.run, best=arguments.best)
    formats = [name for name in ("onnx", "litert") if getattr(arguments, name)]
    with sentences(print):
        share(trained, arguments.output, sample=sample, formats=formats)
    print(f"Wrote {arguments.output}, from {trained.path}")
    print(f"Its card, {CARD}, leaves the licence and what the recordings are to be filled in.")
    print(f"To hear it: python generate.py --checkpoint_path {arguments.output} --output_path new.wav")


def _export_page(arguments: Any) -> None:
    from tierwave.export.webpage import SUFFIX, refuse, slowness, write_page
    from tierwave.generation.load import needs_tensorflow
    from tierwave.play.instrument import Instrument

    if arguments.output.suffix.lower() != SUFFIX:
        raise UsageError(f"--output {arguments.output} is a page with --format html: let its name end in {SUFFIX}")
    for name in ("onnx", "litert"):
        if getattr(arguments, name):
            raise UsageError(f"--{name} writes files into a folder, and a page is one file: leave one of them out")
    if needs_tensorflow(arguments.run, "int8"):
        raise refuse("MelNet")
    instrument = Instrument(arguments.run, best=arguments.best, weights="int8")
    if (remark := slowness(instrument)) is not None:
        print(f"Warning: {remark}")
    write_page(instrument, arguments.output)
    size = arguments.output.stat().st_size / 1e6
    print(f"Wrote {arguments.output}, {size:.1f} MB, from {instrument.trained.path}")
    print("To play it, open it in a browser. It holds the weights: give it only to those who may have them.")
