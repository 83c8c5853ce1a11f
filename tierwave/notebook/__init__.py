"""What the notebooks call: files in and out, training that is watched, sounds that show themselves.

For Jupyter and Colab only; the library does the work. The sliders are in `tierwave.notebook.sliders`.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tierwave.audio.finding import find_audio
from tierwave.audio.recordings import load
from tierwave.audio.writer import write_wav
from tierwave.config import read_document
from tierwave.controls.parse import parse_controls
from tierwave.controls.schema import Schema
from tierwave.controls.tracks import Controls
from tierwave.errors import UsageError
from tierwave.files.names import printable
from tierwave.generation.request import Request
from tierwave.nn.runtime import import_tensorflow
from tierwave.runs.folder import Run
from tierwave.runs.history import losses_figure, read_history

try:
    from IPython.display import HTML, Audio, FileLink, Image, display
except ImportError as error:
    raise ImportError("tierwave.notebook is for notebooks: pip install 'tierwave[notebooks]'") from error

if TYPE_CHECKING:
    from tierwave.generation.load import Trained
    from tierwave.training.plan import TrainingRequest, TrainingResult

DRIVE = "/content/drive"
REDRAWN_SECONDS = 3.0  # between two pictures of the losses, at least
LINE_SECONDS = 0.5  # between two changes of the line
REDRAWN_SHARE = 0.05  # of the time, at most, goes into them


# Files ---------------------------------------------------------------------------------------------------------------


def colab() -> Any:
    """The module that Colab puts into its kernels; None elsewhere."""
    return sys.modules.get("google.colab")


def workspace(name: str = "tierwave-work", *, on_drive: bool = False) -> Path:
    """A folder for everything: `name` here; with `on_drive`, in Colab, on Google Drive, which outlives a disconnect.
    Raises UsageError for a name that could be a package's: Python would import the folder instead."""
    if name.isidentifier():
        raise UsageError(f"a folder {name} beside a notebook hides the package of that name: call it {name}-work")
    folder = Path(name)
    here = colab()
    if on_drive and here is not None:
        here.drive.mount(DRIVE)
        folder = Path(DRIVE) / "MyDrive" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def upload(folder: Path | str) -> Any:
    """Recordings from this computer into `folder`: Colab's dialogue, or a button."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    here = colab()
    if here is not None:
        _keep(folder, here.files.upload())
        return None
    from ipywidgets import FileUpload

    button = FileUpload(multiple=True, description="recordings")
    button.observe(lambda change: _keep(folder, {each["name"]: each["content"] for each in change["new"]}), "value")
    return button


def _keep(folder: Path, files: Mapping[str, Any]) -> None:
    for name, content in files.items():
        (folder / Path(name.replace("\\", "/")).name).write_bytes(bytes(content))
    print(f"{len(files)} files are in {folder}.")


def recordings(folder: Path | str, **demo: Any) -> Path:
    """`folder`, if there are recordings in it; else the synthetic demo corpus in a folder next to it, apart from later
    uploads. demo: its options."""
    folder = Path(folder)
    found = find_audio([folder]) if folder.is_dir() else []
    if not found:
        from tierwave.data.demo import make_corpus

        print(f"There are no recordings in {folder}: tones are made for a first try.")
        folder = folder.with_name(f"{folder.name}-demo")
        found = make_corpus(folder, **demo)
    print(f"{len(found)} recordings in {folder}, such as {printable(found[0].name)}")
    return folder


def download(path: Path | str) -> Any:
    """A file, or a folder as a zip, to this computer: Colab's dialogue, or a link to click."""
    path = Path(path)
    if path.is_dir():
        path = Path(shutil.make_archive(str(path), "zip", path))
    here = colab()
    if here is not None:
        return here.files.download(str(path))
    try:
        return FileLink(os.path.relpath(path))  # as seen from the notebook
    except ValueError:  # another drive of Windows
        return FileLink(str(path.resolve()))


def share(trained: Trained, path: Path | str) -> Any:
    """`download` of a trained network as a new zip, which generate.py takes anywhere (see `tierwave.export`)."""
    from tierwave.export.sharing import share as export

    path = Path(path).with_suffix(".zip")
    path.unlink(missing_ok=True)
    export(trained, path, sample=None)
    return download(path)


def preset(name: str) -> dict[str, Any]:
    """The config `configs/<name>.config.json` of the repository. Raises UsageError where there is none."""
    folder = Path(__file__).resolve().parents[2] / "configs"
    path = folder / f"{name}.config.json"
    if not path.exists():
        known = sorted(each.name.removesuffix(".config.json") for each in folder.glob("*.config.json"))
        raise UsageError(f"there is no preset {name} in {folder}, but {', '.join(known) or 'none at all'}")
    return read_document(path)


# Sounds --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sound:
    """A sound that a cell shows: a player, below it the picture. audio: float32 `[samples]`; controls: what steered it,
    by the schema; spectrograms: log-mel `[frames, channels]` by name, which are shown instead of its own."""

    audio: np.ndarray = field(repr=False)
    sample_rate: int
    title: str = ""
    controls: Controls = field(default_factory=dict, repr=False)
    schema: Schema = field(default_factory=Schema, repr=False)
    spectrograms: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.audio) / self.sample_rate

    def save(self, path: Path | str) -> Path:
        """Write it as a wav, in a folder that is made where it is missing."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_wav(path, np.clip(self.audio, -1.0, 1.0), self.sample_rate)
        return path

    def wav(self) -> bytes:
        """As a wav file at its own level; only what exceeds full scale is scaled down to it."""
        peak = float(np.abs(self.audio).max())
        return bytes(Audio(self.audio / max(1.0, peak), rate=self.sample_rate, normalize=False).data)

    def picture(self) -> bytes:
        """As a PNG: the waveform, the spectrogram, and what steered it; or the spectrograms of the way."""
        from tierwave.analysis.plots import controls_picture, stages_picture

        if self.spectrograms:
            return _png(lambda path: stages_picture(path, self.spectrograms, self.seconds, title=self.title))
        known = {name: track for name, track in self.controls.items() if name in self.schema.names}
        return _png(
            lambda path: controls_picture(path, self.audio, self.sample_rate, known, self.schema, title=self.title)
        )

    def show(self) -> None:
        """What a cell does with it at its end."""
        display(Audio(self.wav()))
        display(Image(self.picture()))

    def _ipython_display_(self) -> None:
        self.show()


def listen(source: Path | str | np.ndarray, sample_rate: int | None = None, title: str = "") -> Sound:
    """A recording, or float `[samples]` at `sample_rate`, as a sound that shows itself."""
    if isinstance(source, np.ndarray):
        if sample_rate is None:
            raise UsageError("an array has no sample rate: give it as the second argument, in Hz")
        return Sound(np.asarray(source, np.float32), sample_rate, title)
    audio, rate = load(source, sample_rate)
    return Sound(audio, rate, title or Path(source).name)


def seed(trained: Trained, path: Path | str) -> np.ndarray:
    """A recording, float32 `[samples]`, at the rate and level of a trained network: to go on from, or to build on."""
    from tierwave.generation.load import seed_audio

    return seed_audio(trained, path)


def play(
    trained: Trained,
    steering: str | Controls = "",
    *,
    seconds: float = 4.0,
    temperature: float = 0.9,
    random_seed: int = 0,
    title: str = "",
    **asked: Any,
) -> Sound:
    """A new sound of a trained network.

    steering: curves by name, or as generate.py's --control takes them, `p=64:76 a=0:0.3,2:1`. asked: further fields of
    `tierwave.generation.request.Request`, and of its options. Raises UsageError with what to do.
    """
    schema = trained.schema
    if isinstance(steering, str):
        steering = parse_controls(steering.split(), seconds=seconds, schema=schema)
    own = {field.name for field in fields(Request)}
    request = Request(
        seconds=seconds,
        temperature=[temperature],
        random_seed=random_seed,
        controls=(steering,) if steering else (),
        options={name: value for name, value in asked.items() if name not in own},
        **{name: value for name, value in asked.items() if name in own},
    )
    stream = trained.stream(request)
    length = stream.duration()
    audio = stream.render(max(1, round(length * stream.sample_rate)))[0]
    made = {name: track for curves in stream.curves(length).values() for name, track in curves.items()}
    return Sound(audio, stream.sample_rate, title, {**made, **steering}, schema, stream.stages())


def followed(sound: Sound) -> None:
    """Show how a sound follows what steered it: what was asked for dashed, what is measured solid, and in numbers."""
    from tierwave.analysis.control_accuracy import accuracy_picture, measure_controls

    measured = measure_controls(sound.audio, sound.sample_rate, sound.controls, sound.schema)
    if not measured:
        print("None of these controls can be measured in a sound.")
        return
    for name, each in measured.items():
        correlated = "" if each.correlation is None else f", correlation {each.correlation:.3f}"
        print(f"{name}: {each.words}{correlated}")
    display(Image(_png(lambda path: accuracy_picture(path, measured, sound.audio, sound.sample_rate))))


def spectrograms(stages: Mapping[str, np.ndarray], seconds: float, title: str = "") -> Image:
    """Log-mel spectrograms `[frames, channels]` by name, one below the other."""
    from tierwave.analysis.plots import stages_picture

    return Image(_png(lambda path: stages_picture(path, stages, seconds, title=title)))


def _png(draw: Callable[[Path], None]) -> bytes:
    """What `draw` writes into a file."""
    with tempfile.TemporaryDirectory(prefix="tierwave-") as folder:
        path = Path(folder) / "picture.png"
        draw(path)
        return path.read_bytes()


# Training ------------------------------------------------------------------------------------------------------------


def train(session: TrainingRequest) -> TrainingResult:
    """Train, and show a growing curve of the losses, the newest sound that training made, and the last line of what
    train.py would print; lines that stay are printed above.

    The stop button of the notebook stops with a checkpoint. The same call resumes from the newest one, also after a
    disconnect. Raises UsageError and RunError with what to do.
    """
    import_tensorflow(debug=False)
    from tierwave.training import session as sessions

    watched = _Watched(session.output_dir / session.identity)
    session = replace(session, rewrite=True, watch=watched.callbacks)
    outcome = sessions.train(session, lambda: {"model": "samplernn"}, watched.say_line)
    watched.redraw()
    return outcome


class _Watched:
    """What `train` displays: a line, the losses, the newest sound and its picture."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.part: Run | None = None
        self.unit = "nats"
        self.stage = ""
        self.line_at, self.drawn_at, self.drawing = -np.inf, -np.inf, 0.0
        self.shown: Path | None = None
        self.sounds_before = {path: path.stat().st_mtime_ns for path in self._sounds()}
        self.line, self.curve, self.player, self.picture = (display(HTML(""), display_id=True) for _ in range(4))

    def say_line(self, text: str, rewrite: bool) -> None:
        """Display a line that will be overwritten, print one that stays."""
        if not rewrite:
            print(text)
        elif time.monotonic() - self.line_at > LINE_SECONDS:
            self.line.update(HTML(f"<code>{escape(text)}</code>"))
            self.line_at = time.monotonic()

    def callbacks(self, stage: str) -> Sequence[Any]:
        """The callbacks for the training of a stage."""
        from tierwave.training.loop import Callback, Trainer

        watched = self

        class Watch(Callback):
            def on_train_begin(self, trainer: Trainer) -> None:
                watched.part, watched.stage, watched.unit = trainer.run, stage, trainer.learner.model.unit

            def on_step_end(self, trainer: Trainer, results: dict[str, float]) -> None:
                watched.redraw_when_due()

        return [Watch()]

    def redraw_when_due(self) -> None:
        """Redraw, but seldom enough that training does not suffer."""
        if time.monotonic() - self.drawn_at > max(REDRAWN_SECONDS, self.drawing / REDRAWN_SHARE):
            self.redraw()

    def redraw(self) -> None:
        """Draw the losses, and the newest sound if it is new."""
        from tierwave.analysis.plots import png

        started = time.monotonic()
        if self.part is not None:
            history = read_history(self.part)
            if len(history.steps):
                self.curve.update(Image(png(losses_figure(history, self.unit, self.stage))))
        new = [path for path in self._sounds() if self.sounds_before.get(path) != path.stat().st_mtime_ns]
        newest = max(new, key=lambda path: path.stat().st_mtime_ns, default=None)
        if newest is not None and newest != self.shown:
            sound = listen(newest)
            self.player.update(Audio(sound.wav()))
            self.picture.update(Image(sound.picture()))
            self.shown = newest
        self.drawn_at = time.monotonic()
        self.drawing = self.drawn_at - started

    def _sounds(self) -> list[Path]:
        return sorted(self.folder.glob("*.wav")) if self.folder.is_dir() else []
