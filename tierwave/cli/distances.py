"""`tierwave distances`: how far a set of generated sounds is from a set of recordings.

tierwave distances --generated DIR --recordings DIR
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tierwave.analysis.distances import common_rate, compare, load_sounds
from tierwave.cli.flags import JSON_FLAG, REPEATABLE, FlagParser, print_result
from tierwave.errors import UsageError


def parser() -> FlagParser:
    """All flags."""
    flags = FlagParser(
        "tierwave distances", description="Measure how far a set of generated sounds is from a set of recordings."
    )
    several: dict[str, Any] = {"type": Path, "required": True, **REPEATABLE}
    flags.add_argument("--generated", help="generated sounds, files or folders", **several)
    flags.add_argument("--recordings", help="recordings, files or folders", **several)
    flags.add_argument("--sample_rate", type=int, help="sample rate of the comparison, Hz (default: the lowest of all)")
    flags.add_argument("--random_seed", type=int, default=0, help="seed for drawing parts at random (default: 0)")
    flags.add_argument("--json", **JSON_FLAG)
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, compare, return the exit code."""
    return parser().run(_compare, argv)


def _compare(arguments: Any) -> None:
    if arguments.sample_rate is not None and arguments.sample_rate < 100:
        raise UsageError(f"--sample_rate {arguments.sample_rate} must be 100 Hz or more")
    if arguments.random_seed < 0:
        raise UsageError(f"--random_seed {arguments.random_seed} must be 0 or more")
    for path in [*arguments.generated, *arguments.recordings]:
        if not path.exists():
            raise UsageError(f"{path} does not exist: name files or folders of sound")
    rate = arguments.sample_rate or common_rate([*arguments.generated, *arguments.recordings])
    generated, recordings = load_sounds(arguments.generated, rate), load_sounds(arguments.recordings, rate)
    found = compare(generated, recordings, rate, seed=arguments.random_seed)
    words = (
        f"log-mel spectra: {len(generated)} sounds ({found.seconds[0]:.1f} s) against {len(recordings)} recordings "
        f"({found.seconds[1]:.1f} s) at {rate} Hz"
    )
    print_result({"log-mel spectra": found.document()}, f"{words}\n{found.table()}", arguments.json)
