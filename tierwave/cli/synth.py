"""`tierwave synth`: write a corpus of synthesised sound, as starting weights are trained on."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from tierwave.cli.flags import FlagParser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, write the corpus, return the exit code."""
    parser = FlagParser(
        prog="tierwave synth",
        description="Create a corpus of synthesised sound: scenes of many instruments, and melodies with controls.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="created if missing")
    parser.add_argument("--minutes", type=float, default=10.0, metavar="M", help="of sound (%(default)s)")
    parser.add_argument(
        "--melodies", type=float, default=0.5, metavar="SHARE", help="of the sounds that are melodies (%(default)s)"
    )
    parser.add_argument("--random_seed", type=int, default=0, metavar="N", help="same seed, same sound (%(default)s)")
    parser.add_argument("--sample_rate", type=int, default=16000, metavar="HZ", help="(%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (%(default)s)")

    def body(flags: Namespace) -> None:
        from tierwave.data.synthesis import SECONDS, write_corpus

        count = write_corpus(
            flags.folder,
            minutes=flags.minutes,
            melodies=flags.melodies,
            seed=flags.random_seed,
            sample_rate=flags.sample_rate,
            jobs=flags.jobs,
        )
        print(f"{count} sounds of {SECONDS:g} s, and their controls, in {flags.folder}")

    return parser.run(body, argv)
