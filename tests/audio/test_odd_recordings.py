"""Recordings whose containers are not what a decoder expects: all of their sound is read, or what was not is told."""

from __future__ import annotations

import functools
import io
import os
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tierwave.audio import recordings as audio
from tierwave.audio.containers import second_movie
from tierwave.audio.recordings import open_recording, probe
from tierwave.errors import AudioError, AudioWarning

RATE = 16000
WAVE_LIKE = ("WAV", "RF64", "W64", "AIFF", "CAF", "AU")


def tone(seconds: float, rate: int = RATE, channels: int = 1) -> np.ndarray:
    sound = 0.4 * np.sin(2 * np.pi * 220 * np.arange(round(seconds * rate)) / rate)
    return np.repeat(sound[:, None], channels, axis=1) if channels > 1 else sound


@functools.cache
def coded(kind: str, seconds: float = 2.0, rate: int = RATE, channels: int = 1, subtype: str | None = None) -> bytes:
    content = io.BytesIO()
    chosen = subtype or {"MP3": None, "OGG": "VORBIS"}.get(kind, "PCM_16")
    soundfile.write(content, tone(seconds, rate, channels), rate, format=kind, subtype=chosen)
    return content.getvalue()


def kept(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def read(path: Path) -> tuple[np.ndarray, list[str]]:
    """The sound and the remarks; `probe` has to agree on the length."""
    with open_recording(path) as reading:
        sound = np.concatenate(list(reading.blocks(block_seconds=0.3)))
        remarks = list(reading.remarks)
    assert probe(path).frames == len(sound) or any("damaged" in remark for remark in remarks)
    return sound, remarks


# ---- several recordings in one file ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*(kind for kind in WAVE_LIKE if kind != "CAF"), "FLAC", "OGG", "MP3"])
def test_recordings_one_behind_the_other_are_all_read(tmp_path: Path, kind: str) -> None:
    first, second = coded(kind), coded(kind, 1.0, 8000, 2)
    sound, remarks = read(kept(tmp_path / "a", first + second))
    assert len(sound) == 2 * RATE + round(1.0 * RATE) and not remarks
    assert np.sqrt(np.mean(np.square(sound[-RATE // 2 :]))) == pytest.approx(0.4 / np.sqrt(2), rel=0.05)
    both, _ = audio.load(tmp_path / "a", mono=False)  # as the first part
    assert both.shape == (3 * RATE,)[: both.ndim] + (1,) * (both.ndim - 1)


def test_a_part_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    good, bad = coded("OGG"), bytearray(coded("OGG", 1.0))
    at = bad.index(b"\1vorbis")
    bad[at : at + 7] = b"\1worbis"
    sound, remarks = read(kept(tmp_path / "a", good + bytes(bad)))
    assert len(sound) == 2 * RATE
    assert len(remarks) == 1 and remarks[0].startswith("part 2 of its 2 cannot be used (")


# ---- headers that do not tell the truth -----------------------------------------------------------------------------


def without_sizes(kind: str, size: bytes = bytes(8)) -> bytes:
    """A recording of two seconds as a recorder leaves it that was not closed."""
    content = bytearray(coded(kind))

    def unset(at: int, count: int) -> None:
        content[at : at + count] = size[:count]

    if kind == "RF64":
        unset(content.index(b"ds64") + 8, 8)
        unset(content.index(b"ds64") + 16, 8)
    elif kind == "W64":
        unset(16, 8)
        unset(content.index(b"data") + 16, 8)
    elif kind == "CAF":
        unset(content.index(b"data") + 4, 8)
    elif kind == "AU":
        unset(8, 4)
    else:
        unset(4, 4)
        unset(content.index(b"SSND" if kind == "AIFF" else b"data") + 4, 4)
    return bytes(content)


@pytest.mark.parametrize("kind", WAVE_LIKE)
def test_the_sound_behind_an_unfinished_header_is_read_to_the_end(tmp_path: Path, kind: str) -> None:
    whole, none = read(kept(tmp_path / "whole", coded(kind)))
    sound, remarks = read(kept(tmp_path / "a", without_sizes(kind)))
    np.testing.assert_array_equal(sound, whole)
    assert none == [] and len(remarks) == 1 and "its header is unfinished" in remarks[0] and "2.0 s" in remarks[0]


def test_a_wave_file_of_a_pipe_and_of_a_first_size(tmp_path: Path) -> None:
    for content in (without_sizes("WAV", b"\xff" * 8), without_sizes("WAV").replace(bytes(4), b"\x24\0\0\0", 1)):
        sound, remarks = read(kept(tmp_path / "a.wav", content))
        assert len(sound) == 2 * RATE and "unfinished" in remarks[0]


def test_an_unfinished_wave_file_may_be_longer_than_its_sizes_can_say(tmp_path: Path) -> None:
    path = kept(tmp_path / "a.wav", without_sizes("WAV")[:44])
    with open(path, "r+b") as file:
        file.truncate((5 << 30) + 44)  # of which the disk holds next to nothing
    assert probe(path).frames == 5 << 29


def test_a_caf_whose_size_is_left_open_is_whole(tmp_path: Path) -> None:
    sound, remarks = read(kept(tmp_path / "a.caf", without_sizes("CAF", b"\xff" * 8)))
    assert len(sound) == 2 * RATE and not remarks


@pytest.mark.parametrize("kind", WAVE_LIKE)
def test_a_header_with_nothing_behind_it_holds_no_samples(tmp_path: Path, kind: str) -> None:
    with pytest.raises(AudioError, match="holds no samples"):
        read(kept(tmp_path / "a", coded(kind, 0.0)))


def test_a_flac_that_was_streamed_is_read_to_its_end(tmp_path: Path) -> None:
    content = bytearray(coded("FLAC"))
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    sound, remarks = read(kept(tmp_path / "a.flac", bytes(content)))
    np.testing.assert_array_equal(sound, read(kept(tmp_path / "b.flac", coded("FLAC")))[0])
    assert len(remarks) == 1 and "unfinished" in remarks[0]


# ---- half a file ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*WAVE_LIKE, "FLAC", "MP3"])
def test_what_is_cut_off_is_read_as_far_as_it_goes(tmp_path: Path, kind: str) -> None:
    content = coded(kind, 4.0)
    sound, remarks = read(kept(tmp_path / "a", content[: len(content) // 2]))
    assert 1.4 * RATE < len(sound) < 2.2 * RATE
    assert len(remarks) == 1
    told = float(remarks[0].removeprefix("it holds ").split(" ")[0])
    assert told == pytest.approx(4.0, abs=0.2) and f"{len(sound) / RATE:.1f} s could be read" in remarks[0]


@pytest.mark.parametrize(("kind", "subtype"), [("VOC", "PCM_16"), ("NIST", "ULAW"), ("SVX", "PCM_16")])
def test_rarer_ones_that_are_cut_off_are_told(tmp_path: Path, kind: str, subtype: str) -> None:
    content = coded(kind, subtype=subtype)
    sound, remarks = read(kept(tmp_path / "a", content[:-RATE]))
    assert len(sound) < 2 * RATE and len(remarks) == 1 and remarks[0].startswith("it holds 2.0 s by its header")
    sound, remarks = read(kept(tmp_path / "a", content))
    assert len(sound) == 2 * RATE and not remarks


def test_a_size_that_no_file_system_has_is_no_hindrance(tmp_path: Path) -> None:
    content = bytearray(coded("W64", 0.1))
    content[56:64] = (2**63 - 64).to_bytes(8, "little")  # of the chunk before the sound
    with pytest.raises(AudioError, match="libsndfile"):
        read(kept(tmp_path / "a", bytes(content)))


def test_values_that_no_sound_has_are_refused_with_their_place(tmp_path: Path) -> None:
    content = io.BytesIO()
    sound = tone(1.0, RATE, 2)
    sound[800] = 3e38  # the sum of which is infinite
    soundfile.write(content, sound, RATE, format="WAV", subtype="FLOAT")
    with pytest.raises(AudioError, match=r"values as large as 3e\+38 at 0\.0500 s"):
        read(kept(tmp_path / "a", content.getvalue()))


def test_a_flac_cut_off_between_two_frames_is_told(tmp_path: Path) -> None:
    content = coded("FLAC", 4096 * 3.05 / RATE)  # the last frame is shorter than what other headers may be wrong by
    frames = [place for place in range(len(content)) if content[place : place + 2] == b"\xff\xf8"]
    with open_recording(kept(tmp_path / "a", content[: frames[-1]])) as reading:
        assert sum(map(len, reading.blocks())) == 4096 * 3
        assert len(reading.remarks) == 1 and "cut off" in reading.remarks[0]


@pytest.mark.parametrize(("kind", "header"), [("WAV", 8), ("RF64", 8), ("W64", 24), ("CAF", 12)])
def test_a_file_cut_off_where_its_sound_begins_holds_no_samples(tmp_path: Path, kind: str, header: int) -> None:
    content = coded(kind, 0.1)
    with pytest.raises(AudioError, match="no samples"):
        read(kept(tmp_path / "a", content[: content.rindex(b"data") + header]))


def test_a_header_with_hundreds_of_channels_takes_no_gigabyte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(coded("AU"))
    content[20:24] = (700).to_bytes(4, "big")
    buffered: list[int] = []
    made = np.empty

    def watched(shape: tuple[int, ...], *kind: type) -> np.ndarray:
        buffered.append(int(np.prod(shape)))
        return made(shape, *kind)

    monkeypatch.setattr(np, "empty", watched)
    with open_recording(kept(tmp_path / "a", bytes(content))) as reading:
        assert sum(map(len, reading.blocks())) == 2 * RATE // 700
    assert max(buffered) <= 1 << 24


def test_where_another_recording_begins_in_an_m4a() -> None:
    first = struct.pack(">I4sI", 12, b"ftyp", 0) + struct.pack(">I4sQ", 1, b"mdat", 26) + bytes(10)
    assert second_movie(io.BytesIO(first + first)) == len(first)
    for single in (first, first[:-1], first + struct.pack(">I4s", 0, b"free") + first, b"RIFF" + first + first, b""):
        assert second_movie(io.BytesIO(single)) is None


def test_an_ogg_without_its_end_is_told(tmp_path: Path) -> None:
    content = io.BytesIO()
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 20 * RATE)
    soundfile.write(content, noise, RATE, format="OGG", subtype="VORBIS")
    cut = content.getvalue()[: len(content.getvalue()) // 2]
    sound, remarks = read(kept(tmp_path / "a.ogg", cut))
    assert 8 * RATE < len(sound) < 11 * RATE
    assert remarks == [f"{len(sound) / RATE:.1f} s could be read: it is cut off"]


# ---- mp3 ------------------------------------------------------------------------------------------------------------


def without_its_first_frame(content: bytes) -> bytes:
    """An mp3 of a variable bit rate without the frame that tells how many follow."""
    from tierwave.audio.mpeg import _frame

    first = _frame(content[:4])
    assert first is not None and b"Xing" in content[: first.length]
    return content[first.length :]


@functools.cache
def variable() -> bytes:
    """Noise, then a tone: the bit rate of the beginning says nothing about the rest."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, RATE)
    content = io.BytesIO()
    with soundfile.SoundFile(
        content, "w", RATE, 1, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5
    ) as file:
        file.write(np.concatenate([noise, tone(3.0)]))
    return content.getvalue()


def test_an_mp3_that_does_not_tell_its_length_is_read_to_its_end(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for tag in (b"", b"ID3\3\0\0\0\0\1\0" + bytes(128)):
        sound, remarks = read(kept(tmp_path / "a.mp3", tag + without_its_first_frame(variable())))
        assert 3.9 * RATE < len(sound) < 4.2 * RATE and not remarks
        assert np.sqrt(np.mean(np.square(sound[3 * RATE : 4 * RATE - 2000]))) == pytest.approx(0.28, abs=0.02)
    assert capfd.readouterr().err == ""


def test_an_mp3_cut_off_is_told_in_our_words_only(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = variable()
    _, remarks = read(kept(tmp_path / "a.mp3", content[: len(content) * 2 // 3]))
    assert "it is cut off" in remarks[0]
    _, remarks = read(kept(tmp_path / "b.mp3", without_its_first_frame(content)[: len(content) // 2]))
    assert "it is cut off" in remarks[0]
    assert capfd.readouterr().err == ""


def test_an_mp3_with_a_hole_in_it_is_read_on_both_sides(tmp_path: Path) -> None:
    content = variable()
    half = len(content) // 2
    sound, remarks = read(kept(tmp_path / "a.mp3", content[:half] + bytes(2000) + content[half:]))
    assert remarks == ["2000 bytes within it are no sound and are passed over: it is damaged"]
    assert 3.8 * RATE < len(sound) < 4.2 * RATE


def test_damage_within_an_mp3_is_told_in_our_words_only(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = bytearray(coded("MP3"))
    content[600:640] = b"\x5a" * 40
    sound, remarks = read(kept(tmp_path / "a", bytes(content)))
    assert len(sound) > 1.9 * RATE and len(remarks) == 1 and "damaged within" in remarks[0]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("place", "told"), [(-10, "cut off"), (6000, "bytes within it are no sound")])
def test_an_ogg_with_a_damaged_page_is_told(tmp_path: Path, place: int, told: str) -> None:
    content = bytearray(coded("OGG", 8.0, channels=2))
    assert read(kept(tmp_path / "a", bytes(content)))[1] == []
    content[place] ^= 1
    sound, remarks = read(kept(tmp_path / "a", bytes(content)))
    assert len(sound) < 8 * RATE and any(told in remark for remark in remarks)


def test_blocks_of_an_mp3_are_what_one_go_gives(tmp_path: Path) -> None:
    path = kept(tmp_path / "a.mp3", variable())
    whole = audio.load(path)[0]
    with open_recording(path) as reading:
        np.testing.assert_array_equal(np.concatenate(list(reading.blocks(block_seconds=0.1))), whole)
    assert np.abs(whole[RATE + 4000 : -4000] - tone(3.0)[4000:-4000]).max() < 0.05


# ---- names, rates, channels -----------------------------------------------------------------------------------------


def test_a_name_that_is_no_text_is_no_hindrance(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/fl\xf6te.wav"))
    try:
        kept(path, coded("WAV"))
    except OSError:
        pytest.skip("this file system has no such names")
    assert len(audio.load(path)[0]) == 2 * RATE


@pytest.mark.parametrize(("rate", "fits"), [(1, False), (99, False), (100, True), (768_000, True), (768_001, False)])
def test_rates_that_no_sound_has_are_refused(tmp_path: Path, rate: int, fits: bool) -> None:
    content = coded("WAV")
    path = kept(tmp_path / "a.wav", content[:24] + struct.pack("<I", rate) + content[28:])
    if fits:
        assert probe(path).sample_rate == rate
        return
    for look in (probe, audio.load):
        with pytest.raises(AudioError, match=f"a sample rate of {rate} Hz, and those of sound are 100 to 768000 Hz"):
            look(path)


def test_of_channels_that_cancel_the_first_is_used(tmp_path: Path) -> None:
    left = tone(3.0)
    soundfile.write(tmp_path / "a.wav", np.stack([left, -left], axis=1), RATE)
    sound, remarks = read(tmp_path / "a.wav")
    np.testing.assert_allclose(sound, left, atol=1e-4)
    assert remarks == ["its channels cancel when mixed down (one is inverted); its first channel is used"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert audio.load(tmp_path / "a.wav", mono=False)[0].shape == (3 * RATE, 2)
    with pytest.warns(AudioWarning, match=r"a\.wav: its channels cancel"):
        audio.load(tmp_path / "a.wav")


def test_channels_that_cancel_later_on_are_told(tmp_path: Path) -> None:
    left = tone(3.0)
    right = np.where(np.arange(len(left)) < RATE, left, -left)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), RATE)
    sound, remarks = read(tmp_path / "a.wav")
    np.testing.assert_allclose(sound, np.where(np.arange(len(left)) < RATE, left, 0), atol=1e-4)
    assert len(remarks) == 1 and "for 1." in remarks[0]
