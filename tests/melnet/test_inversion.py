import librosa
import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import run
from bench.inversion import RATE, made_up, spectral_convergence
from melnet.front_end import DB_PER_NAT, MelAudio, MelFrontEnd
from melnet.inversion import (
    COMPRESSION,
    MelInverse,
    Transform,
    griffin_lim,
    integrated_phase,
    invert,
    mel_error,
    refine,
)
from tierwave.analysis.statistics import log_spectral_distance
from tierwave.audio.spectrogram import power_spectrogram
from tierwave.errors import UsageError

AUDIO = MelAudio(n_fft=1024, win_length=768, hop_length=192, mel_channels=96)
ODD = MelAudio(n_fft=512, win_length=300, hop_length=77, mel_channels=24)
FRONT_END = MelFrontEnd(AUDIO, RATE)


def magnitudes(sound, audio=AUDIO):
    return np.sqrt(power_spectrogram(sound, audio.n_fft, audio.win_length, audio.hop_length))


def quality(sound, copy, front_end=FRONT_END):
    """Spectral convergence, and the root mean square difference of the log-mel spectrograms in dB."""
    first, second = (front_end.analyse(x, seed=None) * DB_PER_NAT for x in (sound, copy))
    convergence = spectral_convergence(magnitudes(sound, front_end.audio), magnitudes(copy, front_end.audio))
    return convergence, log_spectral_distance(first, second)


def sizes(front_end, samples):
    return Transform(front_end, front_end.frames(samples), samples)


# The transform


@pytest.mark.parametrize("audio", [AUDIO, ODD])
@pytest.mark.parametrize("samples", [1, 2, 76, 77, 500, 4000])
def test_the_transform_is_the_front_ends(audio, samples):
    rng = np.random.default_rng(0)
    sound = rng.normal(size=samples).astype(np.float32)
    spectrum = sizes(MelFrontEnd(audio, RATE), samples).forward(sound)
    np.testing.assert_allclose(np.abs(spectrum), magnitudes(sound, audio), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("audio", [AUDIO, ODD])
@pytest.mark.parametrize("samples", [77, 500, 4000, 4001])
def test_a_sounds_transform_gives_the_sound_back(audio, samples):
    rng = np.random.default_rng(0)
    sound = rng.normal(size=samples).astype(np.float32)
    transform = sizes(MelFrontEnd(audio, RATE), samples)
    np.testing.assert_allclose(transform.inverse(transform.forward(sound)), sound, atol=1e-4)


def test_the_inverse_is_librosas():
    rng = np.random.default_rng(0)
    spectrum = (rng.normal(size=(21, 513)) + 1j * rng.normal(size=(21, 513))).astype(np.complex64)
    expected = librosa.istft(spectrum.T, n_fft=1024, hop_length=192, win_length=768, length=20 * 192)
    np.testing.assert_allclose(Transform(FRONT_END, 21).inverse(spectrum), expected, atol=1e-5)


def test_a_length_without_so_many_frames_is_refused():
    with pytest.raises(ValueError, match="500 samples do not have 5 frames; ask for 768 to 959"):
        Transform(FRONT_END, 5, 500)


# From channels to bins


def test_fitted_power_has_the_channels_it_should():
    rng = np.random.default_rng(0)
    power = (10.0 ** rng.uniform(-3, 0, (30, 513))).astype(np.float32)
    mel = (power @ FRONT_END.filters.T).astype(np.float32)
    fitted = MelInverse(FRONT_END.filters).fit(mel, steps=1000)
    assert fitted.dtype == np.float32 and (fitted >= 0).all()
    np.testing.assert_allclose(fitted @ FRONT_END.filters.T, mel, rtol=0.02)
    assert (fitted[:, FRONT_END.filters.max(axis=0) == 0] == 0).all()  # what no channel hears


def test_least_squares_are_scipys():
    """Channels that no power can have: the weighted error comes down to the exact minimum."""
    rng = np.random.default_rng(0)
    filters = MelFrontEnd(MelAudio(n_fft=64, win_length=64, hop_length=16, mel_channels=20), RATE).filters
    mel = (10.0 ** rng.uniform(-3, 0, (5, 20))).astype(np.float32)
    fitted = MelInverse(filters).fit(mel, steps=3000).astype(np.float64)
    for power, wanted in zip(fitted, mel.astype(np.float64), strict=True):
        weights = 1.0 / np.sqrt(wanted)
        _, least = scipy.optimize.nnls(filters.astype(np.float64) * weights[:, None], wanted * weights)
        assert least > 0.1 * np.linalg.norm(wanted * weights)
        assert np.linalg.norm((filters @ power - wanted) * weights) <= 1.01 * least


def test_fitted_magnitudes_are_nearer_than_librosas():
    sound = made_up("strings", 1.0)
    true = magnitudes(sound)
    mel = (np.square(true) @ FRONT_END.filters.T).astype(np.float32)
    ours = np.sqrt(MelInverse(FRONT_END.filters).fit(np.maximum(mel, 1e-10)))
    theirs = np.sqrt(librosa.util.nnls(FRONT_END.filters, mel.T)).T
    assert spectral_convergence(true, ours) < spectral_convergence(true, theirs)


# First phases


def test_phases_of_a_steady_tone_advance_with_its_frequency():
    hertz = 1234.5
    sound = np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE).astype(np.float32)
    magnitude = magnitudes(sound)[20:60]
    phase = integrated_phase(magnitude, AUDIO)
    peak = int(magnitude[0].argmax())
    turned = np.diff(phase[:, peak]) - 2 * np.pi * hertz * AUDIO.hop_length / RATE
    np.testing.assert_allclose((turned + np.pi) % (2 * np.pi) - np.pi, 0.0, atol=0.1)


def test_first_phases_alone_are_better_than_random_ones():
    sound = made_up("strings", 1.0)
    magnitude = magnitudes(sound)
    transform = sizes(FRONT_END, len(sound))
    random = np.random.default_rng(0).uniform(0, 2 * np.pi, magnitude.shape)

    def convergence(phase):
        return spectral_convergence(magnitude, magnitudes(transform.inverse(magnitude * np.exp(1j * phase))))

    assert convergence(integrated_phase(magnitude, AUDIO)) < 0.5 * convergence(random)


# The gradient


@pytest.mark.parametrize(("audio", "samples"), [(AUDIO, 3000), (ODD, 2001), (ODD, 300), (AUDIO, 100)])
def test_error_and_gradient_are_tensorflows(audio, samples):
    front_end = MelFrontEnd(audio, RATE)
    rng = np.random.default_rng(0)
    sound = (0.01 * rng.normal(size=samples)).astype(np.float32)
    mel = (10.0 ** rng.uniform(-6, 0, (front_end.frames(samples), audio.mel_channels))).astype(np.float32)
    error, gradient = mel_error(sound, mel, sizes(front_end, samples), MelInverse(front_end.filters))

    places = np.pad(np.arange(samples), audio.n_fft // 2, mode="reflect")
    variable = tf.Variable(sound.astype(np.float64))
    with tf.GradientTape() as tape:
        spectrum = tf.signal.stft(
            tf.gather(variable, places),
            audio.n_fft,
            audio.hop_length,
            audio.n_fft,
            window_fn=lambda length, dtype: tf.cast(front_end.window, dtype),
        )
        power = tf.square(tf.math.real(spectrum)) + tf.square(tf.math.imag(spectrum))
        found = tf.matmul(power, front_end.filters.astype(np.float64), transpose_b=True) + 1e-10
        expected = tf.reduce_mean(tf.square(found**COMPRESSION - (mel.astype(np.float64) + 1e-10) ** COMPRESSION))
    slope = tf.convert_to_tensor(tape.gradient(expected, variable)).numpy()
    assert error == pytest.approx(float(expected), rel=1e-4)
    np.testing.assert_allclose(gradient, slope, atol=1e-4 * np.abs(slope).max())
    log_mel = front_end.analyse(sound, seed=None)
    np.testing.assert_allclose(log_mel, np.log(np.maximum(found - 1e-10, 1e-10)), atol=1e-3)


def test_refining_lowers_the_error_step_by_step():
    sound = made_up("bells", 0.5)
    log_mel = FRONT_END.analyse(sound)
    mel = np.exp(log_mel - log_mel.max())
    transform, bank = sizes(FRONT_END, len(sound)), MelInverse(FRONT_END.filters)
    first = griffin_lim(mel, transform, bank, 2, 0.99)
    errors = [mel_error(refine(first, mel, transform, bank, steps), mel, transform, bank)[0] for steps in (0, 5, 40)]
    assert errors[2] < 0.8 * errors[1] and errors[1] < 0.95 * errors[0]


# All of it


def test_more_iterations_are_nearer():
    front_end, sound = MelFrontEnd(MelAudio(), RATE), made_up("strings", 1.0)
    log_mel = front_end.analyse(sound)
    none, some, many = (
        quality(
            sound,
            invert(log_mel, front_end, method="griffin_lim", iterations=iterations, samples=len(sound)),
            front_end,
        )
        for iterations in (0, 4, 60)
    )
    assert many[0] < some[0] < none[0] and many[1] < some[1] < none[1]


@pytest.mark.parametrize("name", ["strings", "bells", "speech"])
def test_copies_are_nearer_than_librosas_at_as_many_iterations(name):
    sound = made_up(name, 1.0)
    log_mel = FRONT_END.analyse(sound)
    magnitude = librosa.feature.inverse.mel_to_stft(np.exp(log_mel.T), sr=RATE, n_fft=1024)
    theirs = librosa.griffinlim(
        magnitude, n_iter=32, hop_length=192, win_length=768, length=len(sound), pad_mode="reflect", random_state=0
    )
    settings = {"iterations": 32, "refinement": 30, "samples": len(sound)}
    phases = invert(log_mel, FRONT_END, method="griffin_lim", **settings)
    refined = invert(log_mel, FRONT_END, method="gradient", **settings)
    reference = quality(sound, theirs)
    assert quality(sound, phases)[0] < reference[0]
    assert quality(sound, refined)[0] < reference[0]
    assert quality(sound, refined)[1] < quality(sound, phases)[1] < reference[1]


def test_the_level_is_the_spectrograms():
    sound = made_up("strings", 0.5)
    log_mel = FRONT_END.analyse(sound)
    copy = invert(log_mel, FRONT_END, iterations=8, refinement=4)
    assert np.std(copy) == pytest.approx(np.std(sound), rel=0.1)
    louder = invert(log_mel + np.float32(2.0), FRONT_END, iterations=8, refinement=4)
    np.testing.assert_allclose(louder, np.e * copy, atol=0.02 * np.abs(louder).max())


@pytest.mark.parametrize("method", ["griffin_lim", "gradient"])
def test_silence_stays_silent(method):
    silence = MelFrontEnd(ODD, RATE).analyse(np.zeros(3000, np.float32), seed=None)
    copy = invert(silence, MelFrontEnd(ODD, RATE), method=method, iterations=5, refinement=5)
    assert np.isfinite(copy).all() and np.abs(copy).max() < 1e-3


@settings(deadline=None, max_examples=15)
@given(samples=st.integers(1, 1200), method=st.sampled_from(["griffin_lim", "gradient"]), loud=st.floats(-40, 40))
def test_every_length_and_level_comes_back_with_as_many_frames(samples, method, loud):
    front_end = MelFrontEnd(ODD, RATE)
    log_mel = front_end.analyse(made_up("bells", 0.1)[:samples]) + np.float32(loud)
    frames = len(log_mel)
    copy = invert(log_mel, front_end, method=method, iterations=3, refinement=2)
    assert copy.dtype == np.float32 and np.isfinite(copy).all()
    assert front_end.frames(len(copy)) == frames
    exact = invert(log_mel, front_end, method=method, iterations=1, refinement=1, samples=frames * 77 - 1)
    assert len(exact) == frames * 77 - 1


def test_one_frame_sounds():
    tone = (0.3 * np.sin(2 * np.pi * 1000.0 * np.arange(191) / RATE)).astype(np.float32)
    copy = invert(FRONT_END.analyse(tone), FRONT_END, samples=len(tone))
    assert quality(tone, copy)[0] < 0.5


def test_a_spectrogram_that_no_sound_has_still_sounds():
    rng = np.random.default_rng(0)
    wild = rng.normal(-5.0, 20.0, (12, 24))
    copy = invert(wild, MelFrontEnd(ODD, RATE), iterations=10, refinement=10)
    assert np.isfinite(copy).all() and np.abs(copy).max() > 0


def test_the_same_spectrogram_gives_the_same_sound_and_progress_is_told():
    log_mel = MelFrontEnd(ODD, RATE).analyse(made_up("bells", 0.1))
    told = []
    front_end = MelFrontEnd(ODD, RATE)
    first = invert(log_mel, front_end, iterations=3, refinement=4, progress=lambda *counts: told.append(counts))
    assert told == [(done, 7) for done in range(1, 8)]
    np.testing.assert_array_equal(invert(log_mel, front_end, iterations=3, refinement=4), first)


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"method": "vocoder"}, "vocoder"), ({"iterations": -1}, "-1 iterations"), ({"momentum": 1.5}, "momentum is 1.5")],
)
def test_wrong_wishes_are_answered(changed, words):
    with pytest.raises(UsageError, match=words):
        invert(np.zeros((3, 96)), FRONT_END, **changed)


@pytest.mark.parametrize("wrong", [np.zeros((0, 96)), np.zeros((3, 95)), np.zeros(96), np.full((3, 96), np.nan)])
def test_what_is_no_spectrogram_is_refused(wrong):
    with pytest.raises(ValueError, match="spectrogram"):
        invert(wrong, FRONT_END)


@pytest.mark.slow
def test_the_benchmark_runs_small():
    rows = [row for case in run.cases("inversion", small=True) for row in run.run_case("inversion", case)]
    assert [row["method"] for row in rows] == ["librosa mel_to_audio", "griffin_lim", "gradient"]
    assert all(0 < row["spectral_convergence"] < 1.5 for row in rows)
    assert [case["sound"] for case in run.cases("inversion", False, ["a.wav@3"])] == ["a.wav@3"]
