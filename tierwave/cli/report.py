"""One self-contained HTML page about a run.

    python -m tierwave report logdir/birds
    python -m tierwave report logdir/birds/26.11.2026_12.00.00 --output report.html --seconds 5 --controls

Parses, calls, prints. `tierwave.evaluation.report` says how it is laid out.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tierwave.cli.flags import FlagParser
from tierwave.cli.running import sentences
from tierwave.errors import UsageError
from tierwave.files.folders import refuse_file
from tierwave.nn.runtime import import_tensorflow
from tierwave.system.progress import ProgressLine


def parser() -> FlagParser:
    """All flags."""
    flags = FlagParser("tierwave report", description="One self-contained HTML page about a run.")
    flags.add_argument("run", metavar="RUN", type=Path, help="a run, or an id's folder (its newest run)")
    flags.add_argument("--output", type=Path, help="file to write (default: report.html in the run, or next to a zip)")
    flags.add_argument("--seconds", type=float, default=3.0, help="duration of each checkpoint's sound (default: 3)")
    flags.add_argument("--random_seed", type=int, default=0, help="random seed of all these sounds (default: 0)")
    flags.add_argument("--temperature", type=float, default=0.75, help="temperature of these sounds (default: 0.75)")
    flags.add_argument("--text", help="MelNet with text: the text to speak")
    flags.add_switch("--likelihood", help="measure the likelihood again, if the recordings are there", default=True)
    flags.add_switch("--controls", help="measure how well the sound follows every control")
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, write the page, return the exit code."""
    return parser().run(_report, argv)


def _report(arguments: Any) -> None:
    from tierwave.files.writing import write_text
    from tierwave.generation.request import Request
    from tierwave.runs.folder import CONFIG_NAME, Run, find_checkpoint

    if arguments.random_seed < 0:
        raise UsageError(f"--random_seed {arguments.random_seed} must be 0 or more")
    request = Request(
        seconds=arguments.seconds,
        temperature=[arguments.temperature],
        random_seed=arguments.random_seed,
        options={"text": arguments.text, "inversion": "griffin_lim"},
    )
    # A run that broke off before its first checkpoint has a report, too.
    path = arguments.run
    found = Run(path) if (path / CONFIG_NAME).exists() else find_checkpoint(path)[0].root
    import_tensorflow(debug=arguments.debug)
    from tierwave.evaluation.report.collect import ReportOptions, collect
    from tierwave.evaluation.report.page import html_page

    # A zip is unpacked for as long as this takes.
    target = arguments.output or (path.with_suffix(".html") if path.is_file() else found.folder / "report.html")
    refuse_file("--output", target)
    if target.is_dir():
        raise UsageError(f"--output {target} is a folder: name a file in it")
    if target.parent.is_dir() and not os.access(target.parent, os.W_OK):  # now, not after minutes
        raise UsageError(f"{target.parent} cannot be written to: name the page elsewhere, with --output")
    line = ProgressLine()
    with sentences(line.say):
        report = collect(found, ReportOptions(request, arguments.likelihood, arguments.controls), line.say)
    write_text(target, html_page(report))
    for where, issue in report.issues:
        line.say(f"Warning: {where}: {issue.sentence}")
    for remark in report.remarks:
        line.say(f"Warning: {remark}")
    line.say(f"Wrote {target}")
