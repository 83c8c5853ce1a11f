"""What a training shows in TensorBoard: curves in bits, sounds, how near they come to the recordings, hyper-parameters.

docs/tensorboard.md says how to read it. Everything lies under `tensorboard/` in the run folder.
"""

from __future__ import annotations

import functools
import itertools
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from tierwave.analysis.control_accuracy import ControlAccuracy, accuracy_picture, measure_controls
from tierwave.analysis.control_summary import median_errors
from tierwave.analysis.statistics import average_spectrum, log_spectral_distance
from tierwave.audio.recordings import load
from tierwave.controls.schema import Schema
from tierwave.errors import UsageError
from tierwave.runs.folder import CheckpointEntry
from tierwave.training.hparams import hparams_of, write_hparams
from tierwave.training.loop import Callback, Trainer
from tierwave.training.previews import Generation, Sound
from tierwave.training.step import LN2

MOST_SECONDS = 30.0  # of recordings that generated sound is compared with
_FOLLOWED_SECONDS, _FOLLOWED_SOUNDS = 4.0, 2  # measuring pitch takes a few tenths of a second per second


@dataclass(eq=False)
class HeldAgainst:
    """What generated sounds are held against. recordings(): float [samples] each, as they are trained on; sample_rate:
    theirs; schema: of the parameters that steer."""

    recordings: Callable[[], Sequence[np.ndarray]]
    sample_rate: int
    schema: Schema

    @functools.cached_property
    def spectra(self) -> tuple[np.ndarray, float]:
        """The average spectrum of the recordings, and how far their two halves are apart, in dB."""
        whole = np.concatenate(list(self.recordings()))
        first, second = (average_spectrum(half, self.sample_rate) for half in np.array_split(whole, 2))
        return average_spectrum(whole, self.sample_rate), log_spectral_distance(first, second)


class TensorBoard(Callback):
    """Curves, sounds, spectrograms, spectra, parameters asked for and measured, the config and the hyper-parameters."""

    steps_between = 50

    def __init__(self, config_text: str, generation: Generation | None, held_against: HeldAgainst | None = None):
        self.config_text, self.generation, self.held_against = config_text, generation, held_against

    def on_train_begin(self, trainer: Trainer) -> None:
        self.writer = tf.summary.create_file_writer(str(trainer.run.folder / "tensorboard"))
        with self.writer.as_default(step=trainer.progress.step):
            tf.summary.text("config", f"```\n{self.config_text}\n```")
            options = trainer.options.model_dump(mode="json")
            root = trainer.run.root.folder
            name = " ".join(dict.fromkeys([root.parent.name, root.name, trainer.run.folder.name]))
            write_hparams(hparams_of(json.loads(self.config_text), options), name)

    def on_step_end(self, trainer: Trainer, results: dict[str, float]) -> None:
        if trainer.progress.step % self.steps_between == 0:
            with self.writer.as_default(step=trainer.progress.step):
                self._losses(trainer, "train/", "", results)
                tf.summary.scalar("train/gradient_norm", results["gradient_norm"])

    def on_epoch_end(self, trainer: Trainer, results: dict[str, float]) -> None:
        with self.writer.as_default(step=trainer.progress.step):
            self._losses(trainer, "epoch/", "", results)
            tf.summary.scalar("epoch/learning_rate", trainer.learning_rate)
            if "val_loss" in results:
                self._losses(trainer, "epoch/", "val_", results)
            self._best(trainer)
        self.writer.flush()

    @staticmethod
    def _losses(trainer: Trainer, group: str, part: str, results: dict[str, float]) -> None:
        """The loss by its unit, and the accuracy where there is one."""
        model = trainer.learner.model
        loss = results[f"{part}loss"]
        unit = model.unit.replace(" ", "_")
        tf.summary.scalar(f"{group}{part}{unit}", loss / LN2 if unit == "bits" else loss)
        if model.has_accuracy:
            tf.summary.scalar(f"{group}{part}accuracy", results[f"{part}accuracy"])

    @staticmethod
    def _best(trainer: Trainer) -> None:
        """The best value so far of what is monitored: of two trainings in the HParams tab this is what to compare."""
        monitor, unit = trainer.options.monitor, trainer.learner.model.unit
        best = trainer.run.best().value if trainer.run.checkpoints else None
        if best is not None:
            scale = LN2 if unit == "bits" and monitor.endswith("loss") else 1.0
            tf.summary.scalar(f"best/{monitor.replace('loss', unit.replace(' ', '_'))}", best / scale)

    def on_checkpoint(self, trainer: Trainer, entry: CheckpointEntry) -> None:
        if self.generation is None:
            return
        with self.writer.as_default(step=trainer.progress.step):
            for sound in self.generation.sounds:
                paths = self.generation.made.get(sound.name, [])
                loaded = [load(path) for path in paths]
                for index, (path, (audio, rate)) in enumerate(zip(paths, loaded, strict=True)):
                    self._sound(f"{sound.name}/{index}", path, audio, rate)
                if paths and self.held_against is not None:
                    self._spectrum(sound.name, [audio for audio, _ in loaded], loaded[0][1], self.held_against)
                    self._following(sound, loaded, self.held_against.schema)
        self.writer.flush()

    @staticmethod
    def _sound(name: str, path: Path, audio: np.ndarray, rate: int) -> None:
        from tierwave.analysis.plots import spectrogram_image

        tf.summary.audio(f"generated/{name}", audio[None, :, None], rate)
        tf.summary.image(f"spectrogram/{name}", spectrogram_image(audio, rate)[None])
        stages = path.with_suffix(".png")
        if stages.exists():
            _show(f"stages/{name}", stages.read_bytes())

    @staticmethod
    def _spectrum(name: str, sounds: Sequence[np.ndarray], rate: int, held_against: HeldAgainst) -> None:
        """The average spectrum of the sounds against the recordings', as a picture and in dB."""
        from tierwave.analysis.plots import png, spectra_chart

        if rate != held_against.sample_rate:
            return
        real, halves = held_against.spectra
        made = average_spectrum(np.concatenate(list(sounds)), rate)
        tf.summary.scalar(f"spectrum/{name}/distance_db", log_spectral_distance(made, real))
        tf.summary.scalar(f"spectrum/{name}/halves_of_the_recordings_db", halves)
        _show(f"spectrum/{name}", png(spectra_chart({"recordings": real, "generated": made}, rate)))

    @staticmethod
    def _following(sound: Sound, loaded: Sequence[tuple[np.ndarray, int]], schema: Schema) -> None:
        """What was asked for against what came: a picture of each sound, the median error over the sounds, and of pitch
        the share of voiced frames, of which the error is."""
        controls = sound.request.controls
        measured: list[dict[str, ControlAccuracy]] = []
        for index, (audio, rate) in enumerate(itertools.islice(loaded, _FOLLOWED_SOUNDS if controls else 0)):
            asked = controls[min(index, len(controls) - 1)]
            audio = audio[: round(_FOLLOWED_SECONDS * rate)]
            try:
                followed = measure_controls(audio, rate, asked, schema)
            except UsageError:  # pitches that cannot be measured at this sample rate
                return
            if followed:
                measured.append(followed)
                with tempfile.TemporaryDirectory(prefix="tierwave-") as folder:
                    picture = Path(folder) / "followed.png"
                    accuracy_picture(picture, followed, audio, rate, title=f"{sound.name}, {index}")
                    _show(f"controls/{sound.name}/{index}", picture.read_bytes())
        errors = median_errors(measured)
        for name, first in (measured[0] if measured else {}).items():
            if name in errors:
                unit = first.aspect.error_unit or "raw"
                tf.summary.scalar(f"controls/{sound.name}/{name}_error_{unit}", errors[name])
            if first.aspect.sound == "pitch":
                share = float(np.median([each[name].share for each in measured]))
                tf.summary.scalar(f"controls/{sound.name}/{name}_voiced_share", share)

    def on_train_end(self, trainer: Trainer) -> None:
        self.writer.close()


def _show(name: str, png: bytes) -> None:
    tf.summary.image(name, tf.io.decode_png(png, channels=3)[None])
