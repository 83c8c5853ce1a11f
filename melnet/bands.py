"""Recordings' mel bands as controls: `python -m melnet.bands --checkpoint_path RUN --data_dir DIR --param_dir DIR`.

The run's front end analyses the recordings; the bands train a network that renders spectrograms (`--vocoder` of
generate.py).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from melnet.front_end import MelFrontEnd
from tierwave.audio.finding import search_audio
from tierwave.audio.recordings import load
from tierwave.cli.flags import FlagParser
from tierwave.controls.files import write_controls
from tierwave.errors import AudioError, UsageError
from tierwave.family import load_config
from tierwave.files.folders import refuse_shared, told
from tierwave.generation.vocoder import band_tracks
from tierwave.runs.folder import CONFIG_NAME, find_checkpoint
from tierwave.system.progress import ProgressLine


def parser() -> FlagParser:
    """All flags."""
    flags = FlagParser("python -m melnet.bands", description="Measure mel bands of recordings as controls over time.")
    flags.add_argument("--checkpoint_path", type=Path, required=True, help="the MelNet run whose front end is used")
    flags.add_argument("--data_dir", type=Path, required=True, help="folder of recordings, searched recursively")
    flags.add_argument("--param_dir", type=Path, required=True, help="folder for the curves, a CSV per recording")
    flags.add_argument("--bands", type=int, default=20, help="how many controls (default: 20)")
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, write the curves, return the exit code."""
    return parser().run(_write, argv)


def _write(arguments: Any) -> None:
    root = find_checkpoint(arguments.checkpoint_path)[0].root
    _, config = load_config(root.read(CONFIG_NAME), str(root.folder / CONFIG_NAME))
    if config.model != "melnet":
        raise UsageError(f"{root.folder} is a {config.model}: name a MelNet run")
    rate = int(root.read("run.json")["sample_rate"])
    front_end = MelFrontEnd(config.audio, rate)
    files, left_out = search_audio([arguments.data_dir])
    for text in told(left_out, arguments.data_dir):
        print(text)
    if not files:
        raise UsageError(f"--data_dir {arguments.data_dir} holds no recording")
    base = arguments.data_dir if arguments.data_dir.is_dir() else arguments.data_dir.parent
    targets = {path: (arguments.param_dir / path.relative_to(base)).with_suffix(".csv") for path in files}
    refuse_shared(targets)
    written = 0
    with ProgressLine() as line:
        for number, path in enumerate(files, 1):
            try:
                sound, _ = load(path, rate)
            except AudioError as error:
                line.say(f"left out: {error}")
                continue
            tracks = band_tracks(front_end.analyse(sound), front_end.frame_rate, arguments.bands)
            target = targets[path]
            target.parent.mkdir(parents=True, exist_ok=True)
            write_controls(target, tracks)
            written += 1
            line.count("Measuring", number, len(files))
    print(f"{written} recordings, {arguments.bands} bands each, in {arguments.param_dir}")


if __name__ == "__main__":
    sys.exit(main())
