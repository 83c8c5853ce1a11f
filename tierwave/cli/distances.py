"""`tierwave distances`: how far a set of generated sounds is from a set of recordings.

tierwave distances --generated DIR --recordings DIR
tierwave distances --generated DIR --recordings DIR --embedding vggish.onnx --embedding_rate 16000
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tierwave.analysis.distances import Frames, common_rate, compare, embedding, load_sounds
from tierwave.cli.flags import JSON_FLAG, REPEATABLE, FlagParser, boolean, print_result, run
from tierwave.errors import UsageError


def parser() -> FlagParser:
    """All flags."""
    flags = FlagParser("tierwave distances", description="How far generated sounds are from recordings, as a set.")
    several: dict[str, Any] = {"type": Path, "required": True, **REPEATABLE}
    flags.add_argument("--generated", help="generated sounds, files or folders", **several)
    flags.add_argument("--recordings", help="recordings, files or folders", **several)
    flags.add_argument("--sample_rate", type=int, help="Hz, at which they are compared (default: the lowest of all)")
    flags.add_argument("--embedding", type=Path, help="an ONNX file, float32 [1, samples] to [frames, dimensions]")
    flags.add_argument("--embedding_rate", type=int, help="Hz, of what the embedding takes")
    flags.add_argument("--random_seed", type=int, default=0, help="of what is drawn (default: 0)")
    flags.add_argument("--json", **JSON_FLAG)
    flags.add_argument("--debug", nargs="?", const=True, default=False, type=boolean, help="show tracebacks")
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, compare, return the exit code."""
    flags = parser()
    arguments = flags.parse_args(argv)
    return run(lambda: _compare(arguments), debug=arguments.debug, flags=flags)


def _compare(arguments: Any) -> None:
    if (arguments.embedding is None) != (arguments.embedding_rate is None):
        raise UsageError("--embedding and --embedding_rate belong together: give both, or neither")
    for flag in ("sample_rate", "embedding_rate"):
        value = getattr(arguments, flag)
        if value is not None and value < 100:
            raise UsageError(f"--{flag} {value} must be 100 Hz or more")
    if arguments.random_seed < 0:
        raise UsageError(f"--random_seed {arguments.random_seed} must be 0 or more")
    for path in [*arguments.generated, *arguments.recordings]:
        if not path.exists():
            raise UsageError(f"{path} does not exist: name files or folders of sound")
    rate = arguments.sample_rate or common_rate([*arguments.generated, *arguments.recordings])
    kinds: dict[str, tuple[Frames | None, int]] = {"log-mel spectra": (None, rate)}
    if arguments.embedding is not None:
        kinds[f"embedding {arguments.embedding.name}"] = (embedding(arguments.embedding), arguments.embedding_rate)
    about, lines = {}, []
    for name, (frames, at) in kinds.items():
        made, real = load_sounds(arguments.generated, at), load_sounds(arguments.recordings, at)
        found = compare(made, real, at, frames=frames, seed=arguments.random_seed)
        about[name] = found.document()
        lines.append(
            f"{name}: {len(made)} sounds ({found.seconds[0]:.1f} s) against {len(real)} recordings "
            f"({found.seconds[1]:.1f} s) at {at} Hz"
        )
        lines.append(found.table("dB" if frames is None else ""))
    print_result(about, "\n".join(lines), arguments.json)
