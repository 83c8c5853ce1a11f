"""Checkpoints read without TensorFlow, whole and damaged."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import samplernn
from samplernn.config import Config
from tierwave.errors import RunError
from tierwave.runs.checkpoints import make_checkpoint, named_weights
from tierwave.runs.checksum import crc32c
from tierwave.runs.tensors import Tensors, read_progress

PROGRESS = '{"run": "abc", "epoch": 3}'


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, keras.Model]:
    keras.utils.set_random_seed(2)
    model = samplernn.FAMILY.build(Config(dim=8, seq_len=64, emb_size=4, weight_norm=True, learn_h0=True))
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    path = tmp_path_factory.mktemp("run") / "model.ckpt-3"
    pieces = {"model": model, "optimizer": optimizer, "progress": tf.Variable(PROGRESS)}
    make_checkpoint(pieces).write(str(path))
    return path, model


def test_the_checksum_is_that_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720, and every implementation's check value
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"") == 0


def test_tensors_are_the_models_weights(written: tuple[Path, keras.Model]) -> None:
    path, model = written
    found, expected = Tensors(path), named_weights(model)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found.shape(name) == value.shape
        assert (found[name] == value).all(), name


def test_progress_is_read_too(written: tuple[Path, keras.Model]) -> None:
    assert read_progress(written[0]) == {"run": "abc", "epoch": 3}


def copied(written: tuple[Path, keras.Model], folder: Path) -> Path:
    for path in written[0].parent.glob("model.ckpt-3.*"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder / "model.ckpt-3"


def test_damage_is_noticed_wherever_it_is(written: tuple[Path, keras.Model], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = copied(written, tmp_path)
    whole = {name: np.array(Tensors(path)[name]) for name in Tensors(path)}
    for suffix in (".index", ".data-00000-of-00001"):
        file = path.with_name(path.name + suffix)
        right = file.read_bytes()
        for at in rng.integers(0, len(right), 12):
            wrong = bytearray(right)
            wrong[at] ^= 1 << int(rng.integers(8))
            file.write_bytes(wrong)
            try:
                found = {name: np.array(Tensors(path)[name]) for name in Tensors(path)}
                read_progress(path)
            except RunError as error:
                assert "model.ckpt-3 is damaged or cut short" in str(error)
            else:  # it was in what nobody reads: the optimiser, or the table of tables
                assert found.keys() == whole.keys()
                assert all((found[name] == whole[name]).all() for name in whole)
        for length in (len(right) // 8, len(right) - 1):
            file.write_bytes(right[:length])
            with pytest.raises(RunError, match="damaged or cut short"):
                Tensors(path)
        file.write_bytes(right)
    path.with_name(f"{path.name}.index").unlink()
    with pytest.raises(RunError, match="damaged or cut short"):
        Tensors(path)
