"""Sliders of a trained network in a notebook, in the units of its controls, and a curve drawn with the mouse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tierwave.controls.parse import parse_control
from tierwave.controls.schema import Parameter
from tierwave.controls.tracks import Controls, Track
from tierwave.errors import UsageError
from tierwave.notebook import Sound, play

try:
    import ipywidgets as widgets
    from IPython.display import display
except ImportError as error:
    raise ImportError("tierwave.notebook.sliders is for notebooks: pip install 'tierwave[notebooks]'") from error

if TYPE_CHECKING:
    from tierwave.generation.load import Trained

_STEPS = 500  # of a slider from one end to the other


class Sliders:
    """One slider for each control of a trained network, over the range that it was trained on, buttons for
    categories, and a button that plays. sound: what was played last; None before."""

    def __init__(self, trained: Trained, *, seconds: float = 2.0, temperature: float = 0.9) -> None:
        names = trained.family.steerable(trained.config)
        if not names:
            raise UsageError(f"{trained.run.folder} was trained without controls, so there is nothing to slide")
        self.trained = trained
        self.sound: Sound | None = None
        self.parameters = {name: _slider(trained.schema.of(name), trained.values.get(name, ())) for name in names}
        self.seconds = _number("seconds", seconds, 0.25, 10.0)
        self.temperature = _number("temperature", temperature, 0.0, 1.5)
        self.top_k = widgets.IntSlider(description="top k (0: off)", value=0, min=0, max=64, **_WIDE)
        self.seed = widgets.IntText(description="random seed", value=0, **_WIDE)
        self.button = widgets.Button(description="Play", icon="play", button_style="primary")
        self.button.on_click(lambda _: self.play())
        hidden = widgets.Layout(display="none")  # until there is something
        self.player = widgets.Audio(format="wav", autoplay=True, loop=False, layout=hidden)
        self.picture = widgets.Image(format="png", layout=hidden)
        asked = [self.seconds, self.temperature, self.top_k, self.seed]
        self.box = widgets.VBox([*self.parameters.values(), *asked, self.button, self.player, self.picture])

    def set(self, **values: float | str) -> None:
        """Move sliders, by the names of their controls; a category by its name or its number."""
        for name, value in values.items():
            if name not in self.parameters:
                raise UsageError(f"there is no slider {name}, only {', '.join(self.parameters)}")
            self.parameters[name].value = self.trained.schema.of(name).number(value)

    def controls(self, **curves: Track | str) -> Controls:
        """Where the sliders stand, in raw units; but for `curves`, which are tracks, or written as generate.py's
        --control takes them (`p="64:76"`)."""
        found = {name: Track.constant(name, float(slider.value)) for name, slider in self.parameters.items()}
        for name, curve in curves.items():
            if isinstance(curve, str):
                curve = parse_control(f"{name}={curve}", seconds=self.seconds.value, schema=self.trained.schema)
            found[name] = curve
        return found

    def play(self) -> Sound:
        """Sound what the sliders say, and show it below them."""
        self.sound = play(
            self.trained,
            self.controls(),
            seconds=self.seconds.value,
            temperature=self.temperature.value,
            top_k=self.top_k.value or None,
            random_seed=self.seed.value,
        )
        self.player.value, self.picture.value = self.sound.wav(), self.sound.picture()
        self.player.layout.display = self.picture.layout.display = None
        return self.sound

    def _ipython_display_(self) -> None:
        display(self.box)


class Drawing:
    """A curve of one control over time, drawn on upright sliders, one beside the other; straight lines join them, or
    steps where the control's values are held."""

    def __init__(self, parameter: Parameter, *, seconds: float = 4.0, points: int = 16) -> None:
        low, high = parameter.span
        if not (low < high and points >= 2 and seconds > 0):
            raise UsageError(f"to be drawn, {parameter.name} needs a range, and its curve 2 points and some time")
        self.parameter, self.seconds = parameter, seconds
        upright = {"orientation": "vertical", "readout": False, "layout": widgets.Layout(width="26px", height="180px")}
        step = (high - low) / _STEPS
        self.sliders = [
            widgets.FloatSlider(value=(low + high) / 2, min=low, max=high, step=step, **upright) for _ in range(points)
        ]
        unit = f" {parameter.units}" if parameter.units else ""
        title = widgets.HTML(f"<b>{parameter.name}</b>, {low:g} to {high:g}{unit}, over {seconds:g} s")
        self.box = widgets.VBox([title, widgets.HBox(self.sliders)])

    def draw(self, values: npt.ArrayLike) -> None:
        """Give the curve a form: values in raw units, spread evenly over the time, however many."""
        given = np.asarray(values, np.float64).ravel()
        places = np.linspace(0, max(1, len(given) - 1), len(self.sliders))
        for slider, value in zip(self.sliders, np.interp(places, np.arange(len(given)), given), strict=True):
            slider.value = float(np.clip(value, slider.min, slider.max))

    def track(self) -> Track:
        """The curve, the first point at 0 s and the last at the end."""
        times = np.linspace(0.0, self.seconds, len(self.sliders))
        return Track(self.parameter.name, times, np.array([slider.value for slider in self.sliders]))

    def _ipython_display_(self) -> None:
        display(self.box)


def steps(name: str, values: Sequence[float], seconds: float) -> Track:
    """A curve that stands on each of the values for the same time, `seconds` in all: RNNControl's `steps`."""
    if not len(values) or not seconds > 0:
        raise UsageError("steps need at least one value, and some time")
    edges = np.linspace(0.0, seconds, len(values) + 1)
    return Track(name, np.repeat(edges, 2)[1:-1], np.repeat(np.asarray(values, np.float64), 2))


_WIDE: dict[str, Any] = {
    "style": {"description_width": "120px"},
    "layout": widgets.Layout(width="560px"),
}


def _slider(parameter: Parameter, trained: Sequence[float]) -> Any:
    """The widget of a control; its value is raw."""
    unit = f" ({parameter.units})" if parameter.units and not parameter.is_category else ""
    description = f"{parameter.name}{unit}"
    low, high = parameter.span
    if parameter.is_category:
        numbers = trained or np.arange(low, high + 1)
        names = dict(enumerate(parameter.categories))
        options = [(names.get(int(number), f"{number:g}"), float(number)) for number in numbers]
        return widgets.ToggleButtons(options=options, description=description, style=_WIDE["style"])
    tooltip = f"trained from {low:g} to {high:g}"
    wide = {**_WIDE, "tooltip": tooltip}
    return widgets.FloatSlider(
        value=(low + high) / 2,
        min=low,
        max=high,
        step=(high - low) / _STEPS or 1.0,
        description=description,
        continuous_update=False,
        **wide,
    )


def _number(description: str, value: float, low: float, high: float) -> Any:
    return widgets.FloatSlider(value=value, min=low, max=high, step=0.05, description=description, **_WIDE)
