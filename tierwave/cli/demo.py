"""`tierwave demo`: write the made-up corpus of tones."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from tierwave.cli.flags import FlagParser
from tierwave.controls.sources import MANIFEST_NAME
from tierwave.data.demo import make_corpus


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, write the corpus, return the exit code."""
    parser = FlagParser(
        prog="tierwave demo",
        description="Create a small corpus of tones of known pitch, loudness and instrument.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="created if missing")
    parser.add_argument("--random_seed", type=int, default=0, metavar="N", help="same seed, same bytes (%(default)s)")
    parser.add_argument("--sample_rate", type=int, default=16000, metavar="HZ", help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=1.25, metavar="S", help="length of each tone (%(default)s)")

    def body(flags: Namespace) -> None:
        tones = make_corpus(flags.folder, seed=flags.random_seed, sample_rate=flags.sample_rate, seconds=flags.seconds)
        print(f"{len(tones)} tones, {len(tones) * flags.seconds:.0f} s, and {MANIFEST_NAME} in {flags.folder}")

    return parser.run(body, argv)
