"""Sounds of the model in training, after each checkpoint, and what is wrong with them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tierwave.analysis.issues import Issue, find_issues, named
from tierwave.controls.files import write_controls
from tierwave.controls.schema import ControlWarning
from tierwave.errors import RunError
from tierwave.generation.request import Request, Stream, sequence_paths, write_sounds
from tierwave.runs.folder import CheckpointEntry
from tierwave.system.progress import SayLine
from tierwave.training.loop import Callback, Trainer

Print = Callable[[str], None]


class Sound(NamedTuple):
    """What to generate after a checkpoint: its name in the file's, a function from the request to a stream of the model
    in training, and the request."""

    name: str
    start: Callable[[Request], Stream]
    request: Request


class Generation(Callback):
    """Sounds after each new checkpoint, from the model in memory: `<output_dir>/<id>/<id>_e=<epoch>_t=<T>.wav`.

    A stream that makes no audio gives its curves as CSV. made: what was generated last, by the sound's name. What is
    wrong with it is named beside it, and the first time explained.
    """

    def __init__(self, sounds: Sequence[Sound], folder: Path, say_line: SayLine):
        self.sounds, self.folder, self.say_line = sounds, folder, say_line
        self.made: dict[str, list[Path]] = {}
        self.told: set[str] = set()

    def on_checkpoint(self, trainer: Trainer, entry: CheckpointEntry) -> None:
        for sound in self.sounds:
            self._generate(sound, entry)

    def say(self, text: str) -> None:
        """A line that stays."""
        self.say_line(text, False)

    def _generate(self, sound: Sound, entry: CheckpointEntry) -> None:
        request = sound.request
        with warnings.catch_warnings():  # the log names what lies beyond the trained range
            warnings.simplefilter("ignore", ControlWarning)
            try:
                stream = sound.start(request)
            except RunError as error:  # of weights that are no numbers; what to do about those, training says
                self.say(f"Warning: nothing was generated, since {error}")
                return
        stream.progress = lambda what, done, total: self.say_line(f"Generating: {what} {done}/{total}", True)
        step = f"_s={entry.step}" if entry.name.startswith("model.ckpt-step") else ""
        paths = sequence_paths(self.folder / f"{sound.name}{step}.wav", request, epoch=entry.epoch)
        if not stream.makes_audio:
            for voice, path in enumerate(paths):
                for curves in stream.curves(request.seconds, voice).values():
                    path = path.with_suffix(".csv")
                    write_controls(path, curves)
                    self.say(f"Generated {path}")
            return
        seconds = stream.duration()

        def progress(done: float, speed: float) -> None:
            self.say_line(f"Generating: {done:.1f} of {seconds:g} s, {speed:.2f}x real time", True)

        speed, written = write_sounds(stream, paths, seconds, progress=progress)
        self.made[sound.name] = paths
        for voice, (path, audio) in enumerate(zip(paths, written, strict=True)):
            stages = stream.stages(voice)
            if stages:
                from tierwave.analysis.plots import stages_picture

                stages_picture(path.with_suffix(".png"), stages, stream.duration(), title=path.stem)
            issues = find_issues(audio, stream.sample_rate)
            self.say(f"Generated {path} ({speed:.2f}x real time){named(issues)}")
            say_once(issues, self.told, self.say)


def say_once(issues: Sequence[Issue], told: set[str], say: Print) -> None:
    """Say the issues whose names are not in `told`, which then holds them."""
    for issue in issues:
        if issue.name not in told:
            told.add(issue.name)
            say(f"Warning: {issue.sentence}")
