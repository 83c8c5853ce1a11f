import json
import math

import librosa
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melnet.front_end import DB_PER_NAT, MelAudio, MelFrontEnd, Normaliser, filter_warnings, reflected
from tierwave.config import validate
from tierwave.errors import RunError, UsageError

SMALL = MelAudio(n_fft=512, win_length=400, hop_length=100, mel_channels=40)


def sound(samples=6000, seed=0):
    rng = np.random.default_rng(seed)
    return (0.3 * np.sin(np.arange(samples) * 0.05) + 0.05 * rng.normal(size=samples)).astype(np.float32)


# The config


def test_the_config_has_the_defaults_of_the_paper_on_a_finer_transform():
    audio = validate(MelAudio, {}, "audio")
    assert (audio.n_fft, audio.win_length, audio.hop_length, audio.mel_channels) == (2048, 1536, 256, 256)
    assert audio.mel_scale == "slaney" and audio.normalise == "corpus" and audio.dither_dbfs == -90.0
    assert audio.frame_rate is None
    assert validate(MelAudio, {"sample_rate": 22050}, "audio").frame_rate == pytest.approx(86.13, abs=0.01)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"win_length": 1536, "n_fft": 1024}, "n_fft 1024; raise n_fft to 2048"),
        ({"hop_length": 1536}, "hop_length 1536.*lower it to 384"),
        ({"fmin": 500.0, "fmax": 400.0}, "fmin 500 Hz is not below fmax 400 Hz"),
        ({"sample_rate": 16000, "fmax": 9000.0}, "fmax 9000 Hz is above 8000 Hz"),
        ({"sample_rate": 16000, "fmin": 8000.0}, "fmin 8000 Hz is not below 8000 Hz"),
        ({"n_fft": 2047}, "multiple of 2"),
        ({"mel_scale": "bark"}, "'slaney' or 'htk'"),
        ({"min_level_db": 100.0}, "less than 0"),
        ({"dither_dbfs": 6.0}, "at most 0"),
        ({"mels": 80}, "mels"),
    ],
)
def test_impossible_configs_are_answered(document, words):
    with pytest.raises(UsageError, match=words):
        validate(MelAudio, document, "audio")


def test_a_front_end_for_sound_at_another_rate_is_refused():
    with pytest.raises(UsageError, match="16000 Hz, but the sound has 22050 Hz"):
        MelFrontEnd(MelAudio(sample_rate=16000), 22050)
    with pytest.raises(UsageError, match="fmax 9000 Hz"):
        MelFrontEnd(MelAudio(fmax=9000.0), 16000)


# Analysis


@pytest.mark.parametrize("mel_scale", ["slaney", "htk"])
@pytest.mark.parametrize(
    "sizes", [(2048, 1536, 256, 256, 0.0, None), (1024, 1000, 251, 80, 50.0, 7000.0), (512, 512, 128, 40, 0.0, 8000.0)]
)
def test_log_mel_is_librosas(sizes, mel_scale):
    n_fft, win_length, hop_length, channels, fmin, fmax = sizes
    audio = MelAudio(
        n_fft=n_fft,
        win_length=win_length,
        hop_length=hop_length,
        mel_channels=channels,
        fmin=fmin,
        fmax=fmax,
        mel_scale=mel_scale,
    )
    power = librosa.feature.melspectrogram(
        y=sound(),
        sr=22050,
        n_fft=n_fft,
        win_length=win_length,
        hop_length=hop_length,
        n_mels=channels,
        fmin=fmin,
        fmax=fmax,
        htk=mel_scale == "htk",
        pad_mode="reflect",
    )
    found = MelFrontEnd(audio, 22050).analyse(sound(), seed=None)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.log(np.maximum(power.T, 1e-10)), atol=2e-3)


def test_a_sine_is_as_loud_as_it_must_be():
    """A sine in the middle of a bin has power (A * sum of the window / 2)^2 there, and Hann leaks a quarter of the
    amplitude half of each neighbour's; all of it times the filters."""
    audio = MelAudio(n_fft=1024, win_length=1024, mel_channels=20)
    front_end = MelFrontEnd(audio, 16000)
    place = 100
    wave = (0.5 * np.sin(2 * np.pi * place * np.arange(16000) / 1024)).astype(np.float32)
    spectrum = np.zeros(513)
    spectrum[place - 1 : place + 2] = np.square(0.5 * 512 / 2 * np.array([0.5, 1.0, 0.5]))
    expected = front_end.filters @ spectrum
    loud = expected > 1.0
    found = front_end.analyse(wave, seed=None)[30]
    assert loud.any()
    np.testing.assert_allclose(found[loud], np.log(expected[loud]), atol=1e-3)


@settings(deadline=None, max_examples=30)
@given(samples=st.integers(1, 3000), seed=st.integers(0, 2**31), data=st.data())
def test_frames_alone_are_to_the_bit_what_they_are_among_all(samples, seed, data):
    front_end = MelFrontEnd(SMALL, 16000)
    whole = front_end.analyse(sound(samples), seed=seed)
    assert whole.shape == (front_end.frames(samples), 40) == (1 + samples // 100, 40)
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    alone = front_end.analyse(sound(samples), seed=seed, start=start, stop=stop)
    np.testing.assert_array_equal(alone, whole[start:stop])


def test_a_recording_on_disk_is_read_only_where_it_is_needed(tmp_path):
    class Counting(np.ndarray):
        read = 0

        def __getitem__(self, key):
            found = super().__getitem__(key)
            Counting.read = max(Counting.read, np.size(found))
            return found

    rng = np.random.default_rng(0)
    mapped = np.memmap(tmp_path / "sound", np.float32, "w+", shape=200_000)
    mapped[:] = 0.1 * rng.normal(size=200_000)
    front_end = MelFrontEnd(SMALL, 16000)
    whole = front_end.analyse(np.asarray(mapped))
    np.testing.assert_array_equal(front_end.analyse(mapped.view(Counting)), whole)
    assert 0 < Counting.read <= 256 * 100 + 512


@settings(deadline=None, max_examples=30)
@given(samples=st.integers(2, 50), left=st.integers(0, 200), right=st.integers(0, 200))
def test_reflection_is_numpys(samples, left, right):
    ramp = np.arange(samples)
    np.testing.assert_array_equal(
        ramp[reflected(np.arange(-left, samples + right), samples)], np.pad(ramp, (left, right), mode="reflect")
    )


@pytest.mark.parametrize("wrong", [np.zeros(0, np.float32), np.zeros((2, 100), np.float32), np.zeros(100, np.int16)])
def test_what_is_not_sound_is_refused(wrong):
    with pytest.raises(ValueError, match="floating-point"):
        MelFrontEnd(SMALL, 16000).analyse(wrong)


def test_frames_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="frames 0 to 12 are not among the 11"):
        MelFrontEnd(SMALL, 16000).analyse(sound(1000), stop=12)


# Dither


def test_dither_spreads_digital_silence_and_follows_the_seed():
    front_end = MelFrontEnd(SMALL, 16000)
    silence = np.zeros(16000, np.float32)
    dead = front_end.analyse(silence, seed=None)
    np.testing.assert_allclose(dead, math.log(1e-10), rtol=1e-6)
    lively = front_end.analyse(silence, seed=1)
    assert len(np.unique(lively)) > 0.99 * lively.size  # no point mass
    np.testing.assert_array_equal(front_end.analyse(silence, seed=1), lively)
    assert np.abs(front_end.analyse(silence, seed=2) - lively).mean() > 0.1
    undithered = MelFrontEnd(SMALL.model_copy(update={"dither_dbfs": None}), 16000)
    np.testing.assert_array_equal(undithered.analyse(silence, seed=1), dead)


def test_dither_has_its_level():
    """Mean power in a bin is the variance times the energy of the window; a filter of unit area passes one bin's
    worth per hertz."""
    front_end = MelFrontEnd(SMALL.model_copy(update={"dither_dbfs": -70.0}), 16000)
    power = np.exp(front_end.analyse(np.zeros(160_000, np.float32)).astype(np.float64))
    expected = 1e-7 * np.square(front_end.window).sum() * front_end.filters.sum(axis=1)
    np.testing.assert_allclose(power[10:-10, 3:].mean(axis=0), expected[3:], rtol=0.15)


def test_dither_hides_under_sound():
    front_end = MelFrontEnd(SMALL, 16000)
    loud = sound(seed=3)
    np.testing.assert_allclose(front_end.analyse(loud), front_end.analyse(loud, seed=None), atol=0.1)


# Warnings


def test_the_default_bank_needs_no_warning_and_the_originals_does():
    assert filter_warnings(MelAudio(), 22050) == []
    (warning,) = filter_warnings(MelAudio(n_fft=1536), 22050)
    assert "worth only 248" in warning and "raise n_fft to 3072" in warning


@pytest.mark.filterwarnings("ignore:Empty filters")  # librosa's
def test_empty_channels_are_counted_and_the_remedies_hold():
    narrow = MelAudio(n_fft=512, win_length=512, mel_channels=200)
    filters = librosa.filters.mel(sr=22050, n_fft=512, n_mels=200)
    empty = int((filters.max(axis=1) == 0).sum())
    (warning,) = filter_warnings(narrow, 22050)
    assert empty and warning.startswith(f"{empty} of the 200 mel channels hear nothing")
    finer = int(warning.split("raise n_fft to ")[1].split(" ")[0])
    fewer = int(warning.split("lower mel_channels to ")[1].rstrip("."))
    assert filter_warnings(narrow.model_copy(update={"n_fft": finer}), 22050) == []
    assert filter_warnings(narrow.model_copy(update={"mel_channels": fewer}), 22050) == []
    assert fewer > 64 and filter_warnings(narrow.model_copy(update={"mel_channels": fewer + 1}), 22050)


# Normalisation


def pieces(channels=7, seed=0):
    rng = np.random.default_rng(seed)
    level = rng.uniform(-15, 0, channels)
    return [(level + rng.normal(size=(frames, channels)) * 3).astype(np.float32) for frames in (50, 1, 0, 200)]


def test_fitting_is_mean_and_deviation_of_all_frames():
    normaliser = Normaliser.fit(iter(pieces()))
    everything = np.concatenate(pieces()).astype(np.float64)
    np.testing.assert_allclose(normaliser.offset, everything.mean(axis=0), rtol=1e-12)
    assert normaliser.scale == pytest.approx(math.sqrt(everything.var(axis=0).mean()), rel=1e-12)
    normalised = normaliser.normalise(everything)
    assert normalised.dtype == np.float32
    np.testing.assert_allclose(normalised.mean(axis=0), 0.0, atol=1e-6)
    assert np.square(normalised).mean() == pytest.approx(1.0, rel=1e-5)


def test_fitting_loses_nothing_far_from_zero():
    far = [piece.astype(np.float64) + 1e6 for piece in pieces()]
    assert Normaliser.fit(far).scale == pytest.approx(Normaliser.fit(pieces()).scale, rel=1e-6)


@pytest.mark.parametrize("normaliser", [Normaliser.fit(pieces()), Normaliser.decibels(30.0, -120.0)])
def test_normalisers_invert_and_survive_json(normaliser):
    log_mel = np.clip(pieces(seed=4)[3], -15.0, 5.0)
    again = Normaliser.from_document(json.loads(json.dumps(normaliser.to_document())))
    np.testing.assert_array_equal(again.normalise(log_mel), normaliser.normalise(log_mel))
    np.testing.assert_allclose(again.denormalise(normaliser.normalise(log_mel)), log_mel, atol=2e-5)
    assert again.nats_per_db_offset == normaliser.nats_per_db_offset


def test_the_top_is_not_clipped_by_corpus_normalisation():
    normaliser = Normaliser.fit(pieces())
    np.testing.assert_allclose(normaliser.denormalise(normaliser.normalise(np.full([1, 7], 40.0))), 40.0, rtol=1e-6)


def test_decibels_are_the_originals_formula():
    power = 10.0 ** np.linspace(-12, 6, 100)[:, None]
    decibels = 10.0 * np.log10(power)
    expected = np.clip((decibels - 20.0 - -100.0) / 100.0, 0.0, 1.0)
    normaliser = Normaliser.of(MelAudio(normalise="db"), [])
    np.testing.assert_allclose(normaliser.normalise(np.log(power)), expected, atol=1e-6)
    assert normaliser.denormalise(np.array([[-1.0], [2.0]])) * DB_PER_NAT == pytest.approx(np.array([[-80.0], [20.0]]))
    assert normaliser.nats_per_db_offset == pytest.approx(math.log(100.0))


def test_nats_per_db_do_not_depend_on_the_normalisation():
    """The entropy of a Gaussian of 5 dB, in nats per dB, reached from the normalised deviation."""
    for normaliser in (Normaliser.fit(pieces()), Normaliser.decibels()):
        deviation = 5.0 / DB_PER_NAT / normaliser.scale
        normalised_nats = 0.5 * math.log(2 * math.pi * math.e * deviation**2)
        in_db = 0.5 * math.log(2 * math.pi * math.e * 25.0)
        assert normalised_nats + normaliser.nats_per_db_offset == pytest.approx(in_db)


@pytest.mark.parametrize(
    ("log_mels", "words"), [([], "no frames"), ([np.zeros((0, 4))], "no frames"), ([np.ones((9, 4))], "all 9 frames")]
)
def test_nothing_to_normalise_by_is_said(log_mels, words):
    with pytest.raises(RunError, match=words):
        Normaliser.fit(log_mels)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"offset": [], "scale": 1.0, "clip": False},
        {"offset": [0.0], "scale": 0.0, "clip": False},
        {"offset": ["x"], "scale": 1.0, "clip": False},
        {"offset": [0.0], "scale": 1.0, "clip": 1},
        {"offset": [math.nan], "scale": 1.0, "clip": False},
        {"offset": [1e300], "scale": 1.0, "clip": False},
        {"offset": [0.0] * 3, "scale": 1.0, "clip": False},
    ],
)
def test_a_damaged_document_is_refused(document):
    with pytest.raises(RunError, match="backup"):
        Normaliser.from_document(document, 80)
