import librosa
import numpy as np
import pytest

from tierwave.audio.spectrogram import log_mel, mel_filters, power_spectrogram
from tierwave.errors import UsageError

SIZES = [(1024, 1024, 256), (2048, 1536, 256), (512, 300, 77), (400, 400, 100)]


def audio(samples=12_345):
    rng = np.random.default_rng(0)
    return (0.3 * np.sin(np.arange(samples) * 0.05) + 0.05 * rng.normal(size=samples)).astype(np.float32)


@pytest.mark.parametrize(("n_fft", "win_length", "hop_length"), SIZES)
def test_power_is_librosas(n_fft, win_length, hop_length):
    stft = librosa.stft(audio(), n_fft=n_fft, win_length=win_length, hop_length=hop_length, pad_mode="reflect")
    expected = np.abs(stft.T.astype(np.complex128)) ** 2
    power = power_spectrogram(audio(), n_fft, win_length, hop_length)
    assert power.dtype == np.float32
    assert power.shape == (1 + len(audio()) // hop_length, n_fft // 2 + 1) == expected.shape
    np.testing.assert_allclose(power, expected, rtol=1e-4, atol=1e-4)


def test_long_audio_is_transformed_in_pieces_that_fit_together(monkeypatch):
    whole = power_spectrogram(audio(), 512, 512, 128)
    monkeypatch.setattr("tierwave.audio.spectrogram._CHUNK_SAMPLES", 5 * 512)
    np.testing.assert_array_equal(power_spectrogram(audio(), 512, 512, 128), whole)


@pytest.mark.parametrize("mel_scale", ["slaney", "htk"])
@pytest.mark.parametrize(
    ("rate", "n_fft", "channels", "fmin", "fmax"),
    [(16000, 1024, 80, 0.0, None), (22050, 2048, 256, 0.0, 11025.0), (44100, 2048, 128, 30.0, 16000.0)],
)
def test_filters_are_triangles_of_unit_area(rate, n_fft, channels, fmin, fmax, mel_scale):
    htk = mel_scale == "htk"
    ends = librosa.hz_to_mel([fmin, fmax or rate / 2], htk=htk)
    corners = librosa.mel_to_hz(np.linspace(*ends, channels + 2), htk=htk)[:, None]
    bins = np.fft.rfftfreq(n_fft, 1 / rate)
    rising = (bins - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - bins) / (corners[2:] - corners[1:-1])
    expected = 2 * np.maximum(0, np.minimum(rising, falling)) / (corners[2:] - corners[:-2])
    filters = mel_filters(rate, n_fft, channels, fmin, fmax, mel_scale)
    assert filters.dtype == np.float32
    np.testing.assert_allclose(filters, expected, rtol=1e-7, atol=1e-12)


def test_log_mel_is_librosas():
    mel = librosa.feature.melspectrogram(
        y=audio(),
        sr=22050,
        n_fft=2048,
        win_length=1536,
        hop_length=256,
        n_mels=100,
        pad_mode="reflect",
    )
    expected = librosa.power_to_db(mel.T, ref=1.0, amin=1e-10, top_db=None)
    decibels = log_mel(audio(), 22050, 2048, 1536, 256, 100)
    assert decibels.dtype == np.float32
    np.testing.assert_allclose(decibels, expected, atol=2e-3)


def test_silence_lies_on_a_floor_that_does_not_move():
    quiet = np.zeros(4000, np.float32)
    np.testing.assert_allclose(log_mel(quiet, 16000, 512, 512, 128, 40), -100.0, atol=1e-4)
    loud = np.concatenate([quiet, audio(8000)])
    np.testing.assert_allclose(log_mel(loud, 16000, 512, 512, 128, 40)[:20], -100.0, atol=1e-4)


@pytest.mark.parametrize("samples", [1, 2, 100])
def test_audio_shorter_than_a_window_has_a_spectrogram(samples):
    power = power_spectrogram(audio(samples), 512, 512, 128)
    assert power.shape == (1, 257) and np.isfinite(power).all()


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((0, 1, 1), "n_fft is 0"),
        ((512, 0, 1), "win_length is 0"),
        ((512, 512, 0), "hop_length"),
        ((256, 512, 1), "longer"),
    ],
)
def test_impossible_sizes_are_named(sizes, words):
    with pytest.raises(UsageError, match=words):
        power_spectrogram(audio(), *sizes)


def test_impossible_filters_are_named():
    with pytest.raises(UsageError, match="fmax 9000 Hz.* 8000 Hz"):
        mel_filters(16000, 512, 40, fmax=9000.0)
    with pytest.raises(UsageError, match="fmin 500 Hz"):
        mel_filters(16000, 512, 40, fmin=500.0, fmax=400.0)
    with pytest.raises(UsageError, match="mel_channels is 0"):
        mel_filters(16000, 512, 0)
    with pytest.raises(UsageError, match='mel_scale is "bark"'):
        mel_filters(16000, 512, 40, mel_scale="bark")


@pytest.mark.parametrize("wrong", [np.zeros(0), np.zeros((2, 100))])
def test_unusable_audio_is_refused(wrong):
    with pytest.raises(ValueError, match="one channel"):
        power_spectrogram(wrong, 512, 512, 128)
