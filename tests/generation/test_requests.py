"""Requests, and sounds that are written while they are made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from melnet.generation import SpectrogramOptions
from tierwave.errors import UsageError
from tierwave.generation.request import Request, Stream, write_sounds


class Noise(Stream):
    """Two sequences of noise, a little beyond full scale."""

    def __init__(self) -> None:
        super().__init__(8000, 1.0)
        self.sound = np.random.default_rng(0).uniform(-1.1, 1.1, (2, 8000)).astype(np.float32)
        self.done = 0

    def render(self, samples: int) -> np.ndarray:
        self.done += samples
        return self.sound[:, self.done - samples : self.done]


@pytest.mark.parametrize("rate", [None, 11025])
@pytest.mark.parametrize("before", [None, np.full(100, 0.5, np.float32)])
def test_what_is_returned_is_what_lies_in_the_files(
    tmp_path: Path, rate: int | None, before: np.ndarray | None
) -> None:
    paths = [tmp_path / "new" / f"{number}.wav" for number in (0, 1)]
    told: list[float] = []
    written = write_sounds(
        Noise(), paths, 0.7, sample_rate=rate, before=before, progress=lambda done, speed: told.append(done)
    )
    assert told == [0.5, pytest.approx(0.7, abs=2e-4)] and written.speed > 0
    for path, sound in zip(paths, written.sounds, strict=True):
        read, found = soundfile.read(path, dtype="float32")
        assert found == (rate or 8000) and sound.dtype == np.float32
        np.testing.assert_array_equal(sound, read)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 0}, "frames is 0"),
        ({"from_tier": 0}, "from_tier"),
        ({"bias": -1.0}, "bias"),
        ({"bias": np.nan}, "bias"),
    ],
)
def test_impossible_options_of_a_spectrogram(options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SpectrogramOptions(**options)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sequences": 0}, "num_seqs is 0"),
        ({"seconds": 0.0}, "dur is 0 seconds"),
        ({"temperature": ()}, "temperature is"),
        ({"temperature": (0.5, -1.0)}, "every value must be 0 or more"),
        ({"tier_temperature": {"a": -1.0}}, "tier_temperature is"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
    ],
)
def test_impossible_requests(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Request(**fields)  # type: ignore[arg-type]
