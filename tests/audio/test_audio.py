"""tierwave.audio.recordings against closed forms, scipy and broken files."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import signal

from tierwave.audio import recordings as audio
from tierwave.audio.chunking import is_silent
from tierwave.audio.finding import find_audio
from tierwave.audio.recordings import AudioInfo
from tierwave.audio.resample import resample
from tierwave.audio.writer import SoundWriter, writable_suffix, write_wav
from tierwave.errors import AudioError, AudioWarning, RunError, UsageError


def noise(samples: int, *, channels: int | None = None, level: float = 0.1, seed: int = 0) -> np.ndarray:
    shape = (samples,) if channels is None else (samples, channels)
    return np.clip(np.random.default_rng(seed).standard_normal(shape) * level, -1, 1).astype(np.float32)


def sine(frequency: float, samples: int, sample_rate: int, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * np.pi * frequency * np.arange(samples) / sample_rate)).astype(np.float32)


def on_grid(samples: int, bits: int) -> np.ndarray:
    """Values that an integer format of so many bits holds exactly, both ends included."""
    steps = np.random.default_rng(1).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), samples)
    steps[:2] = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return (steps / 2 ** (bits - 1)).astype(np.float32)


def read_blocks(path: Path, sample_rate: int | None = None, **how: float) -> Iterator[np.ndarray]:
    with audio.open_recording(path) as reading:
        yield from reading.blocks(sample_rate, **how)


# ---- find ------------------------------------------------------------------------------------------------------------


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_find_is_recursive_natural_and_blind_to_hidden_and_other_files(tmp_path: Path) -> None:
    names = ["take 2.wav", "take 10.WAV", "ähm/ÖL.Flac", "deep/er/x.m4a", "z.opus"]
    touch(*(tmp_path / name for name in names))
    touch(tmp_path / ".hidden.wav", tmp_path / ".git/a.wav", tmp_path / "notes.txt", tmp_path / "wav")
    found = [str(path.relative_to(tmp_path)) for path in find_audio([tmp_path])]
    assert sorted(found) == sorted(names)
    assert found.index("take 2.wav") < found.index("take 10.WAV")
    assert found == [str(path.relative_to(tmp_path)) for path in find_audio([str(tmp_path)])]


def test_find_takes_a_named_file_whatever_its_suffix_and_each_file_once(tmp_path: Path) -> None:
    touch(tmp_path / "a.wav", tmp_path / "b.wav", tmp_path / "odd.xyz")
    found = find_audio([tmp_path / "odd.xyz", tmp_path / "b.wav", tmp_path, tmp_path / "." / "a.wav"])
    assert [path.name for path in found] == ["a.wav", "b.wav", "odd.xyz"]


def test_find_survives_a_circle_of_links(tmp_path: Path) -> None:
    touch(tmp_path / "in/a.wav")
    try:
        (tmp_path / "in/again").symlink_to(tmp_path, target_is_directory=True)
    except OSError:
        pytest.skip("no links on this file system")
    assert len(find_audio([tmp_path])) == 1


def test_find_names_a_missing_path(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        find_audio([tmp_path, tmp_path / "nowhere"])


# ---- probe and load --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subtype", "bits"), [("PCM_U8", 8), ("PCM_16", 16), ("PCM_24", 24), ("PCM_32", 24), ("FLOAT", 24), ("DOUBLE", 24)]
)
def test_wav_round_trip_is_exact_at_every_depth(tmp_path: Path, subtype: str, bits: int) -> None:
    path, samples = tmp_path / "a.wav", on_grid(5000, bits)
    write_wav(path, samples, 22050, subtype)
    assert audio.probe(path) == AudioInfo(path, 22050, 1, 5000, subtype)
    loaded, rate = audio.load(path)
    assert (loaded.dtype, rate) == (np.float32, 22050)
    np.testing.assert_array_equal(loaded, samples)


@pytest.mark.parametrize(
    ("suffix", "subtype", "tolerance"),
    [("flac", "PCM_16", 1e-4), ("flac", "PCM_24", 1e-6), ("aiff", "PCM_16", 1e-4), ("caf", "PCM_24", 1e-6),
     ("w64", "FLOAT", 1e-7), ("au", "PCM_16", 1e-4), ("ogg", "VORBIS", 0.05), ("mp3", "MPEG_LAYER_III", 0.05)],
)  # fmt: skip
def test_other_formats(tmp_path: Path, suffix: str, subtype: str, tolerance: float) -> None:
    path, samples = tmp_path / f"ä b.{suffix}", sine(440, 16000, 16000)
    soundfile.write(path, samples, 16000, subtype=subtype)
    info = audio.probe(path)
    assert (info.sample_rate, info.channels, info.frames, info.seconds) == (16000, 1, 16000, 1.0)
    loaded, _ = audio.load(path)
    np.testing.assert_allclose(loaded[1000:-1000], samples[1000:-1000], atol=tolerance)


def test_mono_is_the_mean_and_channels_are_kept_on_request(tmp_path: Path) -> None:
    path, samples = tmp_path / "a.wav", noise(3000, channels=3)
    write_wav(path, samples, 8000, "FLOAT")
    mono, _ = audio.load(path)
    kept, _ = audio.load(path, mono=False)
    assert mono.shape == (3000,)
    np.testing.assert_allclose(mono, samples.astype(np.float64).mean(axis=1), atol=1e-7)
    np.testing.assert_array_equal(kept, samples)
    resampled, rate = audio.load(path, 16000, mono=False)
    assert (resampled.shape, rate) == ((6000, 3), 16000)
    np.testing.assert_array_equal(resampled[:, 1], resample(samples[:, 1], 8000, 16000))


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    frames=st.integers(1, 30_000),
    rates=st.tuples(*[st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000, 96000])] * 2),
    block_seconds=st.floats(0.001, 2),
    channels=st.sampled_from([1, 2]),
)
def test_streaming_gives_what_one_go_gives_and_exactly_the_right_length(
    tmp_path: Path, frames: int, rates: tuple[int, int], block_seconds: float, channels: int
) -> None:
    path, (file_rate, sample_rate) = tmp_path / "a.wav", rates
    write_wav(path, noise(frames, channels=channels), file_rate)
    whole, _ = audio.load(path, sample_rate)
    blocks = list(read_blocks(path, sample_rate, block_seconds=max(block_seconds, frames / file_rate / 50)))
    assert sum(map(len, blocks)) == len(whole) == round(frames * sample_rate / file_rate)
    assert all(block.dtype == np.float32 and block.ndim == 1 for block in blocks)
    if blocks:
        np.testing.assert_array_equal(np.concatenate(blocks), whole)


def test_blocks_are_bounded_however_long_the_recording(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    write_wav(path, noise(200_000), 8000)
    lengths = [len(block) for block in read_blocks(path, block_seconds=1.0)]
    assert lengths == [8000] * 25
    assert max(len(block) for block in read_blocks(path, 16000, block_seconds=1.0)) < 3 * 16000


# ---- resample --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("from_rate", "to_rate"), [(44100, 16000), (16000, 44100), (8000, 48000), (48000, 22050)])
def test_resampled_sine_is_the_sine_of_the_other_rate(from_rate: int, to_rate: int) -> None:
    frequency = 0.35 * min(from_rate, to_rate)
    resampled = resample(sine(frequency, from_rate, from_rate), from_rate, to_rate)
    expected = sine(frequency, to_rate, to_rate)
    inner = slice(to_rate // 10, -to_rate // 10)
    np.testing.assert_allclose(resampled[inner], expected[inner], atol=1e-4)


def test_what_the_lower_rate_cannot_hold_does_not_fold_back() -> None:
    resampled = resample(sine(11_000, 44100, 44100), 44100, 16000)
    assert np.abs(resampled[1600:-1600]).max() < 1e-4


def test_resampling_agrees_with_scipy_on_band_limited_noise() -> None:
    low_passed = signal.sosfiltfilt(signal.butter(10, 2500, fs=16000, output="sos"), noise(32000).astype(np.float64))
    expected = signal.resample_poly(low_passed, 1, 2, window=("kaiser", 12.0))
    np.testing.assert_allclose(resample(low_passed, 16000, 8000)[500:-500], expected[500:-500], atol=2e-3)


def test_resampling_edge_cases() -> None:
    samples = noise(100)
    np.testing.assert_array_equal(resample(samples, 8000, 8000), samples)
    assert resample([], 8000, 16000).shape == (0,)
    assert resample(np.zeros((0, 2)), 8000, 16000).shape == (0, 2)
    with pytest.raises(UsageError, match="at least 1 Hz"):
        resample(samples, 8000, 0)


def test_a_rate_of_nothing_is_refused(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", noise(100), 8000)
    with pytest.raises(UsageError, match="at least 1 Hz"):
        audio.load(tmp_path / "a.wav", 0)


# ---- what cannot be used ---------------------------------------------------------------------------------------------


def refused(path: Path) -> str:
    with pytest.raises(AudioError) as caught:
        audio.load(path)
    assert caught.value.path == path and str(path) in str(caught.value)
    return caught.value.reason


def test_recordings_without_samples_are_refused(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.zeros(0), 8000)
    assert "no samples" in refused(tmp_path / "a.wav")
    (tmp_path / "b.wav").touch()
    assert "empty" in refused(tmp_path / "b.wav")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_a_number_is_refused_with_its_place(tmp_path: Path, value: float) -> None:
    samples = noise(8000, channels=2)
    samples[6000, 1] = value
    soundfile.write(tmp_path / "a.wav", samples, 8000, subtype="FLOAT")
    assert "0.7500 s" in refused(tmp_path / "a.wav")
    # All before it can be had.
    blocks = read_blocks(tmp_path / "a.wav", block_seconds=0.5)
    assert len(next(blocks)) == 4000
    with pytest.raises(AudioError):
        next(blocks)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "a.wav")
    assert refused(tmp_path)


def test_a_header_without_a_rate_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    write_wav(path, noise(100), 8000)
    raw = bytearray(path.read_bytes())
    raw[24:28] = struct.pack("<I", 0)
    path.write_bytes(raw)
    assert refused(path)


def test_a_wav_cut_short_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path, samples = tmp_path / "a.wav", on_grid(10_000, 16)
    write_wav(path, samples, 8000)
    path.write_bytes(path.read_bytes()[: 44 + 2 * 6000])
    with pytest.warns(
        AudioWarning, match=r"a\.wav: it holds 1\.2 s by its header, 0\.750 s could be read: it is cut off"
    ):
        np.testing.assert_array_equal(audio.load(path)[0], samples[:6000])
    with pytest.warns(AudioWarning):
        assert len(audio.load(path, 16000)[0]) == 12_000


# ---- ffmpeg ----------------------------------------------------------------------------------------------------------

AudioSegment = pytest.importorskip("pydub").AudioSegment


def test_garbage_without_ffmpeg_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AudioSegment, "converter", str(tmp_path / "no-such-program"))
    for name in ("a.wav", "a.m4a", "a.raw"):
        (tmp_path / name).write_bytes(bytes(range(1, 200)) * 9)
        assert "install ffmpeg" in refused(tmp_path / name)


def test_a_missing_pydub_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydub", None)
    (tmp_path / "a.m4a").write_bytes(b"nothing")
    assert "install pydub" in refused(tmp_path / "a.m4a")


def imitate_ffmpeg(folder: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """A program that takes ffmpeg's arguments: `program` is Python and knows `source` and `target`."""
    if sys.platform == "win32":
        pytest.skip("a script is no program here")
    script = folder / "ffmpeg imitation"
    lines = ["import sys, shutil", "source, target = sys.argv[sys.argv.index('-i') + 1], sys.argv[-1]", program]
    script.write_text(f"#!{sys.executable}\n" + "\n".join(lines) + "\n")
    script.chmod(0o755)
    monkeypatch.setattr(AudioSegment, "converter", str(script))


@pytest.mark.parametrize(("sample_format", "subtype"), [("fltp", "PCM_16"), ("s32p", "PCM_24")])
def test_what_libsndfile_cannot_read_is_decoded_by_ffmpeg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample_format: str, subtype: str
) -> None:
    wave, path = tmp_path / "decoded.wav", tmp_path / "a.m4a"
    write_wav(wave, on_grid(4000, 16), 16000, "FLOAT")
    path.write_bytes(b"something else")
    imitate_ffmpeg(tmp_path, monkeypatch, f"shutil.copy({str(wave)!r}, target)")
    tracks = [{"codec_type": "video"}, {"codec_type": "audio", "sample_fmt": sample_format}]
    monkeypatch.setattr("pydub.utils.mediainfo_json", lambda path: {"streams": tracks})
    assert audio.probe(path) == AudioInfo(path, 16000, 1, 4000, subtype)
    np.testing.assert_array_equal(audio.load(path)[0], on_grid(4000, 16))


def test_what_ffmpeg_cannot_read_is_refused_in_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.m4a").write_bytes(b"something else")
    imitate_ffmpeg(tmp_path, monkeypatch, "sys.exit('Invalid data found.')")
    monkeypatch.setattr("pydub.utils.get_prober_name", lambda: str(tmp_path / "no-such-program"))
    assert "Invalid data found" in refused(tmp_path / "a.m4a")
    monkeypatch.setattr("pydub.utils.mediainfo_json", lambda path: {"streams": [{"codec_type": "video"}]})
    assert "no sound track" in refused(tmp_path / "a.m4a")


def test_a_full_temporary_folder_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.m4a").write_bytes(b"something else")
    said = f"av_interleaved_write_frame(): {os.strerror(errno.ENOSPC)}\nConversion failed!"
    imitate_ffmpeg(tmp_path, monkeypatch, f"sys.exit({said!r})")
    with pytest.raises(RunError, match=r"no space left in .* \(TMPDIR\) to decode .*a\.m4a") as caught:
        audio.load(tmp_path / "a.m4a")
    assert not isinstance(caught.value, AudioError)  # which would leave out this recording alone, and then the next

    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.TemporaryDirectory", full)
    with pytest.raises(RunError, match=r"\(TMPDIR\)"):
        audio.probe(tmp_path / "a.m4a")


def test_damage_that_ffmpeg_passes_over_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wave, path = tmp_path / "decoded.wav", tmp_path / "a.m4a"
    write_wav(wave, on_grid(4000, 16), 16000, "FLOAT")
    path.write_bytes(b"something else")
    said = "[mov,mp4 @ 0x1] stream 0, offset 0x22: partial file"
    imitate_ffmpeg(tmp_path, monkeypatch, f"shutil.copy({str(wave)!r}, target); print({said!r}, file=sys.stderr)")
    with pytest.warns(AudioWarning, match=r"a\.m4a: it is damaged or cut off: .* \(ffmpeg: .*partial file\)"):
        audio.load(path)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize(("bits", "subtype"), [(16, "PCM_16"), (24, "PCM_24")])
def test_m4a_through_the_real_ffmpeg(tmp_path: Path, bits: int, subtype: str) -> None:
    path, wav = tmp_path / "ä b.m4a", tmp_path / "a.wav"
    write_wav(wav, on_grid(32000, bits), 16000, subtype)
    subprocess.run(["ffmpeg", "-v", "error", "-i", wav, "-c:a", "alac", path], check=True)
    assert audio.probe(path).subtype == subtype
    np.testing.assert_array_equal(audio.load(path)[0], audio.load(wav)[0])


# ---- chunk -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample_rate", [8000, 11025, 16000, 44100])
def test_half_a_chunk_of_silence_in_one_stretch_is_silent(sample_rate: int) -> None:
    loud = sine(440, sample_rate, sample_rate)
    half = (sample_rate + 1) // 2
    start, end, middle, scattered = loud.copy(), loud.copy(), loud.copy(), loud.copy()
    start[:half] = end[-half:] = middle[100 : 100 + half] = 0
    assert is_silent(start, sample_rate) and is_silent(end, sample_rate)
    assert is_silent(middle, sample_rate)
    start[half - sample_rate // 50 : half] = 0.1
    assert not is_silent(start, sample_rate)
    # As much silence in all, but in two stretches.
    scattered[: half // 2] = scattered[-half:][: half // 2 + 1] = 0
    scattered[sample_rate // 2 - 100 : sample_rate // 2] = 0.5
    assert not is_silent(scattered, sample_rate)
    assert not is_silent(loud, sample_rate)


@pytest.mark.parametrize("threshold", [-120.0, -64.0, -20.0])
def test_silence_goes_by_the_level(threshold: float) -> None:
    level = 10 ** (threshold / 20)
    for shape in ((16000,), (16000, 2)):
        assert is_silent(np.full(shape, level * 0.99), 16000, threshold)
        assert not is_silent(np.full(shape, level * 1.01), 16000, threshold)
    # RMS, not peak: the peak of this sine lies 2 dB above the threshold, its RMS 1 dB below.
    assert is_silent(sine(1000, 16000, 16000, level * np.sqrt(2) * 10 ** (-1 / 20)), 16000, threshold)
    assert not is_silent(sine(1000, 16000, 16000, level * np.sqrt(2) * 10 ** (1 / 20)), 16000, threshold)
    # Loud sound elsewhere does not blur what is quiet.
    half = np.concatenate([np.full(8000, 0.9), np.full(8000, level * 0.99)])
    assert is_silent(half, 16000, threshold)


def test_silence_of_short_chunks_and_of_clicks() -> None:
    assert is_silent(np.zeros(3), 16000) and not is_silent(np.ones(3), 16000)
    assert is_silent(np.zeros(0), 16000)
    assert not is_silent(np.zeros(100), 16000, -np.inf)
    clicks = np.zeros(16000)
    clicks[7000] = 1
    assert is_silent(clicks, 16000)  # 9000 samples after it
    clicks[9500] = 1
    assert not is_silent(clicks, 16000)


# ---- write -----------------------------------------------------------------------------------------------------------


def test_blocks_add_up_to_one_file_in_a_new_folder(tmp_path: Path) -> None:
    path, samples = tmp_path / "new/deep/ä b.wav", on_grid(1000, 16)
    with SoundWriter(path, 8000) as wav:
        for block in np.array_split(samples, 7):
            wav.write(block)
        assert not path.exists()
    np.testing.assert_array_equal(audio.load(path)[0], samples)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("subtype", "bits"), [("PCM_U8", 8), ("PCM_16", 16), ("PCM_24", 24)])
def test_integers_are_rounded_to_the_nearest_step(tmp_path: Path, subtype: str, bits: int) -> None:
    samples = np.random.default_rng(0).uniform(-0.9, 0.9, 20_000)
    write_wav(tmp_path / "a.wav", samples, 8000, subtype)
    error = (audio.load(tmp_path / "a.wav")[0] - samples) * 2 ** (bits - 1)
    assert np.abs(error).max() <= 0.5
    assert abs(error.mean()) < 0.01  # no direct current


def test_integers_clip_and_floats_do_not(tmp_path: Path) -> None:
    samples = np.array([-3.0, -1.0, 0.0, 1.0, 3.0])
    write_wav(tmp_path / "a.wav", samples, 8000)
    np.testing.assert_allclose(audio.load(tmp_path / "a.wav")[0], np.clip(samples, -1, 1), atol=1e-4)
    write_wav(tmp_path / "b.wav", samples, 8000, "FLOAT")
    np.testing.assert_array_equal(audio.load(tmp_path / "b.wav")[0], samples)


@pytest.mark.parametrize(("name", "subtype"), [("a.flac", "PCM_16"), ("b.OGG", "VORBIS"), ("c.mp3", "MPEG_LAYER_III")])
def test_the_suffix_says_what_is_written(tmp_path: Path, name: str, subtype: str) -> None:
    samples = sine(440, 100_000, 16000)
    with SoundWriter(tmp_path / name, 16000) as sound:
        sound.write(samples[:30_000])
        sound.write(3 * samples[30_000:])  # clipped
    assert [path.name for path in tmp_path.iterdir()] == [name]
    info = audio.probe(tmp_path / name)
    assert (info.sample_rate, info.channels, info.subtype) == (16000, 1, subtype) and info.frames == 100_000
    found, _ = audio.load(tmp_path / name)
    np.testing.assert_allclose(found[1000:29_000], samples[1000:29_000], atol=0.05)
    assert np.abs(found).max() < 1.3


def test_a_name_that_is_no_text_can_be_written(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/fl\xf6te"))
    try:
        path.mkdir()
    except OSError:
        pytest.skip("this file system has no such names")
    write_wav(path / "a.wav", noise(10), 8000)
    assert len(audio.load(path / "a.wav")[0]) == 10


def test_names_of_other_formats_are_refused_and_points_are_none() -> None:
    for name, suffix in (("a.wav", ".wav"), ("a.FLAC", ".flac"), ("a", ""), ("a_p60.5", ""), ("a.b c", "")):
        assert writable_suffix(Path(name)) == suffix
    for name in ("a.m4a", "a.aiff", "a.Txt"):
        with pytest.raises(UsageError, match=rf"Cannot write {name}: sound is written as .wav, .flac, .ogg, .mp3"):
            writable_suffix(Path(name))


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    write_wav(path, noise(100), 8000)
    before = path.read_bytes()
    with pytest.raises(KeyError), SoundWriter(path, 8000) as wav:
        wav.write(noise(50))
        raise KeyError("anything")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_not_a_number_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"a\.wav.*NaN"):
        write_wav(tmp_path / "a.wav", [0.0, np.nan], 8000)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.wav").mkdir()
    for path in (tmp_path / "file/a.wav", tmp_path / "folder.wav", tmp_path / ("x" * 300) / "a.wav"):
        with pytest.raises(UsageError, match="Cannot write"):
            write_wav(path, noise(10), 8000)
    with pytest.raises(UsageError, match="PCM_17"):
        write_wav(tmp_path / "a.wav", noise(10), 8000, "PCM_17")
    with pytest.raises(UsageError, match="1 Hz"):
        write_wav(tmp_path / "a.wav", noise(10), 0)
    with pytest.raises(UsageError, match=r"a\.mp3: mp3 knows no 12345 Hz: choose a wav, or a rate among 8000, "):
        SoundWriter(tmp_path / "a.mp3", 12345)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.wav"]


def test_a_long_name_is_no_problem(tmp_path: Path) -> None:
    write_wav(tmp_path / ("x" * 251 + ".wav"), noise(10), 8000)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    program = (
        "import resource, signal, sys, numpy\n"
        "from tierwave.audio.writer import write_wav\n"
        "from tierwave.errors import RunError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try:\n    write_wav(sys.argv[1], numpy.zeros(100_000), 8000)\n"
        "except RunError as error:\n    sys.exit(str(error))\n"
    )
    root = Path(audio.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "a.wav"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 1 and "disk full" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_module_is_light() -> None:
    heavy = {"tensorflow", "librosa", "pydub", "matplotlib"}
    program = f"import sys, tierwave.audio.recordings; print({heavy} & set(sys.modules))"
    root = Path(audio.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
