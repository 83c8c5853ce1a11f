import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from scipy.signal import chirp

from tierwave.analysis.plots import (
    Line,
    _smoothed,
    controls_picture,
    line_chart,
    png,
    sound_picture,
    spectra_chart,
    spectrogram_image,
    svg,
)
from tierwave.controls.schema import Parameter, Schema
from tierwave.controls.tracks import Track
from tierwave.errors import RunError
from tierwave.runs.history import Epoch, History, losses_figure

RATE = 8000


def sweep(seconds=2.0):
    times = np.arange(int(seconds * RATE)) / RATE
    return (0.5 * chirp(times, 100, seconds, 3900)).astype(np.float32)


def test_a_picture_is_a_png_without_remains(tmp_path):
    sound_picture(tmp_path / "sweep.png", sweep(), RATE, title=r"a_$\no{formula$")
    picture = imread(tmp_path / "sweep.png")
    assert picture.shape[0] > 500 and picture.shape[1] > 1000
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.png"]
    colours = np.unique((picture[..., :3] * 255).astype(int).reshape(-1, 3), axis=0)
    assert len(colours) > 200  # a spectrogram, not an empty frame


def test_each_curve_adds_a_strip_in_its_place(tmp_path):
    times = np.linspace(0.0, 2.0, 50)
    curves = {r"$\no{formula$": (times, 60 + times), "rms": (np.array([0.0, 2.0]), np.array([0.1, 0.1]))}
    sound_picture(tmp_path / "without.png", sweep(), RATE)
    sound_picture(tmp_path / "with.png", sweep(), RATE, curves=curves)
    without, with_curves = imread(tmp_path / "without.png"), imread(tmp_path / "with.png")
    assert with_curves.shape[1] == without.shape[1]
    assert with_curves.shape[0] > without.shape[0] + 150
    added = (with_curves[-int(with_curves.shape[0] * 0.3) :, :, :3] * 255).astype(int)
    for colour in ((0xC2, 0x41, 0x0C), (0x0F, 0x76, 0x6E)):
        assert (np.abs(added - colour).max(axis=-1) < 8).sum() > 200


@pytest.mark.parametrize(
    ("categories", "values", "rows"),
    [
        (("plucked", "bowed", r"$\no{formula$"), [0, 2], {0: "plucked", 1: "bowed", 2: r"$\no{formula$"}),
        ((), [1], {1: "1"}),
        ([f"{number} {'x' * 40}" for number in range(40)], [3, 5], {3: f"3 {'x' * 21}…", 5: f"5 {'x' * 21}…"}),
    ],
)
def test_a_category_is_drawn_as_steps_between_names(tmp_path, monkeypatch, categories, values, rows):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    parameters = [Parameter(name="inst", categories=tuple(categories), units="category"), Parameter(name="p")]
    controls = {"inst": Track("inst", np.arange(len(values)), np.array(values)), "p": Track.constant("p", 60)}
    controls_picture(tmp_path / "a.png", sweep(), RATE, controls, Schema(parameters=tuple(parameters)))
    inst, p = drawn[0].axes[2:4]
    assert {
        place: text.get_text() for place, text in zip(inst.get_yticks(), inst.get_yticklabels(), strict=True)
    } == rows
    assert inst.get_ylim() == (min(rows) - 0.5, max(rows) + 0.5)
    times, heights = inst.lines[0].get_data()
    assert set(heights) == set(values) and (np.diff(heights)[np.diff(times) > 0] == 0).all()
    assert inst.get_title(loc="left") == "inst" and len(p.get_yticks()) > 1


@pytest.mark.filterwarnings("error::UserWarning", "error::RuntimeWarning")
@pytest.mark.parametrize("audio", [np.zeros(4000), np.zeros(1), np.ones(3), sweep(0.01), sweep(20.0)])
def test_silent_short_and_long_sounds_are_drawn_without_complaint(tmp_path, audio):
    sound_picture(tmp_path / "sound.png", audio, RATE)
    assert imread(tmp_path / "sound.png").shape[1] > 1000


def test_the_image_shows_the_rising_tone():
    image = spectrogram_image(sweep(), RATE)
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    brightest = image.astype(int).sum(axis=-1)[:, 5:-5].argmax(axis=0)  # rows count from the top
    assert brightest[0] > 0.85 * image.shape[0] and brightest[-1] < 0.1 * image.shape[0]
    assert (np.diff(brightest) <= 1).all()


def test_the_image_is_black_where_nothing_sounds():
    image = spectrogram_image(np.concatenate([sweep(1.0), np.zeros(RATE, np.float32)]), RATE)
    half = image.shape[1] // 2
    assert image[:, half + 10 :].max() < 10 < 200 < image[:, :half].max()
    assert spectrogram_image(np.zeros(2000), RATE).max() < 10


def test_a_picture_that_cannot_be_written_says_so_and_leaves_nothing(tmp_path):
    with pytest.raises(RunError, match="missing"):
        sound_picture(tmp_path / "missing" / "sweep.png", sweep(), RATE)
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(RunError, match="taken.png"):
        sound_picture(tmp_path / "taken.png", sweep(), RATE)
    assert [path.name for path in tmp_path.iterdir()] == ["taken.png"]


@pytest.mark.parametrize("wrong", [np.zeros(0), np.zeros((10, 2)), np.array([0.0, np.nan])])
def test_unusable_audio_is_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match="one channel"):
        sound_picture(tmp_path / "sound.png", wrong, RATE)
    with pytest.raises(ValueError, match="one channel"):
        spectrogram_image(wrong, RATE)


def test_neither_pyplot_nor_heavy_modules_are_loaded():
    program = (
        "import sys, numpy, tierwave.analysis.plots, tierwave.analysis.statistics, tierwave.audio.quantize as q;"
        "q.Quantizer('mu-law', 256).encode(numpy.zeros(3));"
        "assert not {'matplotlib', 'librosa', 'tensorflow'} & set(sys.modules), 'at import';"
        "tierwave.analysis.plots.spectrogram_image(numpy.zeros(100), 8000);"
        "assert 'matplotlib.pyplot' not in sys.modules, 'pyplot'"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


# Charts


def polylines(drawn):
    return [line for line in drawn.axes[0].lines if len(line.get_xdata()) > 1]


def test_the_chart_of_the_losses_shows_what_there_is():
    rising = np.arange(1.0, 101.0)
    np.testing.assert_allclose(_smoothed(rising)[5:-5], rising[5:-5])
    assert len(_smoothed(np.ones(1))) == 1 and len(_smoothed(np.ones(0))) == 0
    np.testing.assert_allclose(_smoothed(np.array([np.nan, 1.0, np.inf, 3.0])), [1, 1, 2, 3])
    none = History(rising[:0], rising[:0], rising[:0], (), (), True)
    some = History(rising, 5 / rising, rising, (), (), True)
    held_out = (Epoch(1, 0.1, 0.2), Epoch(2, 0.05, None))
    baselines = {"code histogram": 4.0, "$Markov$": 0.3}
    whole = History(rising, 5 / rising, rising, held_out, (50, 100), True, baselines)
    pictures = [losses_figure(history, "bits", "x $ y") for history in (none, some, whole)]
    assert [len(polylines(each)) for each in pictures] == [0, 2, 4]  # and a point of held-out sound
    assert len({png(each) for each in pictures}) == 3
    assert "there is nothing to draw" in svg(pictures[0]) and "$Markov$" in svg(pictures[2])
    assert "x $ y, bits per sample" in svg(pictures[2])


def test_losses_far_above_the_baselines_are_cut_off():
    steps = np.arange(1.0, 11.0)
    history = History(steps, np.append(np.full(9, 1.0), 1e9), steps, (), (), False, {"mean": 2.0})
    assert losses_figure(history, "nats").axes[0].get_ylim() == (1.0, 6.0)


def test_a_chart_is_an_svg_whose_texts_are_escaped_and_that_fetches_nothing():
    evil = "<script>alert('x')</script>&\" $a^b$"
    lines = [Line(evil, np.arange(4.0), np.array([1.0, np.nan, 3.0, 2.0]))]
    drawn = svg(line_chart(lines, evil, evil))
    assert "<script" not in drawn and drawn.count("&lt;script&gt;alert('x')&lt;/script&gt;&amp;") == 3
    assert drawn.count("$a^b$") == 3 and "http" not in drawn.replace("http://www.w3.org/", "")
    assert drawn == svg(line_chart(lines, evil, evil))
    assert line_chart(lines, "", "").axes[0].lines[1].get_xdata() == [0.0]  # a point alone between gaps
    assert "there is nothing to draw" in svg(line_chart([Line("", np.zeros(1), np.full(1, np.nan))], "", ""))


def test_long_lines_are_thinned_without_losing_their_mean():
    x = np.arange(10_000.0)
    (line,) = polylines(line_chart([Line("", x, np.sin(x) + x)], "", ""))
    assert len(line.get_xdata()) < 1000 and line.get_ydata().mean() == pytest.approx(x.mean(), rel=0.01)


def test_spectra_are_drawn_over_frequency_as_the_ear_spaces_it():
    axis = spectra_chart({"recordings": np.zeros(513), "generated": np.ones(513)}, RATE).axes[0]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["100", "250", "500", "1k", "2k", "4k"]
    assert np.diff(axis.get_xticks())[-1] == pytest.approx(27 * np.log(2) / np.log(6.4))
