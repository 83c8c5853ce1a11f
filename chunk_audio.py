"""Cut recordings into chunks for training: `python chunk_audio.py --input_file FOLDER --output_dir FOLDER`.

Parses, calls `tierwave.audio.chunking`, prints.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tierwave.audio.chunking import ChunkOptions, chunk_recordings, earlier_chunks, find_sources
from tierwave.cli.flags import FlagParser, optional
from tierwave.errors import RunError
from tierwave.system.progress import ProgressLine, amounts


def make_parser() -> FlagParser:
    parser = FlagParser(
        prog="chunk_audio.py",
        description="Cut recordings into chunks of equal length for training, and leave out the silent ones.",
    )
    defaults = ChunkOptions()
    parser.add_argument(
        "--input_file", nargs="+", action="extend", required=True, metavar="PATH",
        help="one or more recordings or folders (searched recursively), any format that libsndfile or ffmpeg reads",
    )  # fmt: skip
    parser.add_argument("--output_dir", required=True, metavar="FOLDER", help="created if missing")
    parser.add_argument(
        "--chunk_length", type=float, default=defaults.chunk_length, metavar="MS", help="milliseconds (%(default)s)"
    )
    parser.add_argument(
        "--overlap", type=float, default=defaults.overlap, metavar="MS",
        help="milliseconds between consecutive chunks, less than the chunk length (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--sample_rate", type=optional(int), default=defaults.sample_rate, metavar="HZ",
        help="resample to this rate (default: the recording's)",
    )  # fmt: skip
    parser.add_argument(
        "--silence_threshold", type=float, default=defaults.silence_threshold, metavar="DBFS",
        help="a chunk is silent, and left out, if one stretch below this level fills half of it (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--highpass", type=optional(float), default=defaults.highpass, metavar="HZ",
        help="remove all frequencies below this, such as a DC offset; below 20 is inaudible (default: off)",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N",
        help="number of files processed in parallel (default: all cores)",
    )  # fmt: skip
    parser.add_switch("--mono", help="mix down", default=defaults.mono)
    parser.add_switch("--keep_tail", help="also write the last, shorter chunk", default=defaults.keep_tail)
    return parser


def chunk(flags: argparse.Namespace) -> None:
    options = ChunkOptions(
        flags.chunk_length, flags.overlap, flags.sample_rate, flags.mono, flags.silence_threshold, flags.keep_tail,
        flags.highpass,
    )  # fmt: skip
    sources, left_out = find_sources(flags.input_file, flags.output_dir)
    size = sum(source.stat().st_size for source in sources)
    reports = []
    with ProgressLine() as line:
        tell, done = amounts(line, "Chunking"), 0

        def on_progress(more: int) -> None:
            nonlocal done
            done += more
            tell(done, size)

        for report in chunk_recordings(
            sources, flags.output_dir, options, jobs=flags.jobs, on_progress=on_progress,
            searched=[path for path in map(Path, flags.input_file) if path.is_dir()],
        ):  # fmt: skip
            reports.append(report)
            for name in report.silent:
                line.say(f"{name} is silent and left out")
            if report.left_over and not report.processed:
                line.say(f"{report.source} is shorter than a chunk; --keep_tail keeps it")

    line.say(
        f"{sum(report.processed for report in reports)} chunks processed, "
        f"{sum(len(report.silent) for report in reports)} silent, "
        f"{sum(len(report.written) for report in reports)} written to {flags.output_dir}"
    )
    if replaced := sum(report.replaced for report in reports):
        line.say(f"{replaced} of them took the place of files of the same names")
    if tails := [report.left_over for report in reports if report.left_over]:
        line.say(f"{len(tails)} incomplete last chunks ({sum(tails):.1f} s) were not written; --keep_tail keeps them")
    if earlier := earlier_chunks(sources, flags.output_dir, reports):
        line.say(
            f"{len(earlier)} chunks of an earlier cut of these recordings (such as {earlier[0]}) are still in "
            f"{flags.output_dir}, and training on the folder would take the same sound twice: delete them, or cut into "
            "an empty folder"
        )
    for path, why in left_out:
        line.say(f"Left out: {path}: {why}")
    for report in reports:
        for remark in report.remarks:
            line.say(f"{report.source}: {remark}")
    problems = [report.problem for report in reports if report.problem]
    for problem in problems:
        line.say(problem)
    if len(problems) == len(reports) and not any(report.processed for report in reports):
        raise RunError(f"None of the {len(reports)} recordings could be used: see the reasons above")


def main(argv: list[str] | None = None) -> int:
    return make_parser().run(chunk, argv)


if __name__ == "__main__":
    sys.exit(main())
