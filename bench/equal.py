"""`python -m bench.equal OLD_CHECKOUT [--only NAME ...] [--json FILE]`: does another checkout make the same numbers?

For moves and rewrites that are to change none: small networks of every family, cell and output are trained by the old
checkout and by the one that this file lies in, and what both write is compared, bit for bit. Of a checkout only what
stays is used: its command lines and the files they write. Each has a process with one core, so that sums are added up
in one order; the commands are run in it one after the other as `python` would, which imports TensorFlow once.
"""

from __future__ import annotations

import argparse
import csv
import functools
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parent.parent
Found = dict[str, str]  # what a subject has found, by name: texts, and digests of what is no text
TIMES = ("seconds",)  # columns and keys that say how long something took
SHOWN = 40  # characters of a text on either side of where two begin to differ

# Runs what comes on stdin, a line of JSON each, and answers with one: exit code, stdout, stderr, where tierwave lies.
SERVER = """
import json, os, runpy, sys, tempfile, traceback
root, core = sys.argv[1], int(sys.argv[2])
sys.path[0] = root
if core >= 0:
    os.sched_setaffinity(0, [core])
answers, orders = os.fdopen(os.dup(1), "w"), os.fdopen(os.dup(0))
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
for line in orders:
    program, words = json.loads(line)
    files = [tempfile.TemporaryFile() for _ in range(2)]
    for number, file in enumerate(files, 1):
        os.dup2(file.fileno(), number)
    sys.argv, code = [program, *words], 0
    try:
        if program.endswith(".py"):
            runpy.run_path(program, run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush(), sys.stderr.flush()
    told = []
    for file in files:
        file.seek(0)
        told.append(file.read().decode("utf-8", "replace"))
        file.close()
    print(json.dumps([code, *told, getattr(sys.modules.get("tierwave"), "__file__", None)]), file=answers, flush=True)
"""


class Failed(Exception):
    """A command that did not do what it should have done, in one sentence."""


# The two checkouts ---------------------------------------------------------------------------------------------------


class Checkout:
    """A checkout, the folder `folder` that it writes into, and the process that runs its commands there on the core
    number `core` (-1: on any)."""

    def __init__(self, root: Path, folder: Path, material: Path, core: int = -1) -> None:
        self.root, self.folder, self.material, self.core = root.resolve(), folder, material, core
        self.before: Checkout = self  # the old checkout, whose runs have to go on serving
        self.forms: dict[str, list[str]] = {}
        self.runs: dict[str, Path] = {}
        self.server: subprocess.Popen[str] | None = None
        self.lock = threading.RLock()  # both sides ask for runs of the old one
        folder.mkdir()

    def __enter__(self) -> Checkout:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End the process."""
        if self.server is not None:
            self.server.kill()
            self.server.communicate()
            self.server = None

    def _answer(self, program: str, words: Sequence[Any]) -> tuple[int, str, str]:
        with self.lock:
            return self._asked(program, words)

    def _asked(self, program: str, words: Sequence[Any]) -> tuple[int, str, str]:
        if self.server is None:
            quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "MPLBACKEND": "Agg", "NO_COLOR": "1", "COLUMNS": "10000"}
            alike = {"PYTHONHASHSEED": "0", "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1"}
            single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
            self.server = subprocess.Popen(
                [sys.executable, "-c", SERVER, str(self.root), str(self.core)],
                cwd=self.folder,
                env={**os.environ, **quiet, **alike, **single, "PYTHONPATH": str(self.root)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.write(json.dumps([program, [str(word) for word in words]]) + "\n")
        self.server.stdin.flush()
        line = self.server.stdout.readline()
        if not line:
            code = self.server.wait()
            self.end()
            raise Failed(f"{program}: the process died ({code})")
        code, out, errors, place = json.loads(line)
        if place is not None and self.root not in Path(place).resolve().parents:
            raise Failed(f"{program} took tierwave from {place} and not from {self.root}")
        return code, out, errors

    def script(self, name: str, *words: Any) -> str:
        """What `python NAME WORDS` prints; Failed where it does not end with 0."""
        return self._well(str(self.root / name), words)

    def verb(self, name: str, *words: Any) -> str:
        """What the command NAME of the package prints, in whichever form this checkout has it."""
        program, *first = self._form(name)
        return self._well(program, [*first, *words])

    def _well(self, program: str, words: Sequence[Any]) -> str:
        code, out, errors = self._answer(program, words)
        if code:
            last = (errors.strip() or "nothing on stderr").splitlines()[-1]
            raise Failed(f"{program} {' '.join(map(str, words))} ended with {code}: {last}")
        return out

    def _form(self, name: str) -> list[str]:
        """`python -m tierwave NAME` where that is known, else the module that it was before."""
        if name not in self.forms:
            self.forms[name] = next(
                (form for form in (["tierwave", name], [VERBS[name]]) if self._has(form)),
                [],
            )
        if not self.forms[name]:
            raise Failed(f"there is neither python -m tierwave {name} nor python -m {VERBS[name]}")
        return self.forms[name]

    def _has(self, form: Sequence[str]) -> bool:
        module = self.root.joinpath(*(form[0].split(".") if len(form) == 1 else [form[0], "__main__"]))
        if not (module.with_suffix(".py").is_file() or module.is_dir()):
            return False  # where this program is installed, Python would find a module of another checkout
        code, out, _ = self._answer(form[0], [*form[1:], "--help"])
        return code == 0 and (len(form) == 1 or out != self._answer(form[0], ["--help"])[1])

    # --- runs -------------------------------------------------------------------------------------------------------

    def trained(self, name: str) -> Path:
        """The run folder of a network of `NETWORKS`, which is trained at the first call."""
        with self.lock:
            if name not in self.runs:
                self.runs[name] = self._train(name)
            return self.runs[name]

    def _train(self, name: str) -> Path:
        document, corpus, flags, _ = NETWORKS[name]
        config = self.folder / f"{name}.config.json"
        config.write_text(json.dumps(document), encoding="utf-8")
        self.script(
            "train.py", "--id", name, "--data_dir", self.material / corpus, "--config_file", config, "--logdir_root",
            "logdir", "--output_dir", "generated", "--cache_dir", f"cache/{name}", "--verbose", *TRAINING, *flags,
        )  # fmt: skip
        (run,) = [path.parent for path in (self.folder / "logdir" / name).glob("*/run.json")]
        return run

    def sounds(self, name: str, run: Path, *words: Any, stem: str = "sound") -> Found:
        """What generate.py makes of a run: samples, arrays and curves."""
        target = self.folder / "out" / name / f"{stem}.wav"
        target.parent.mkdir(parents=True, exist_ok=True)
        self.script("generate.py", "--checkpoint_path", run, "--output_path", target, "--random_seed", 7, *words)
        return contents(target.parent)


# What is compared ----------------------------------------------------------------------------------------------------


def digest(what: bytes) -> str:
    """A short one, of bytes."""
    return f"{len(what)} bytes {hashlib.blake2b(what, digest_size=8).hexdigest()}"


def described(values: np.ndarray) -> str:
    """An array in words: its size, roughly what it holds, and a digest of all its bits."""
    rough = ""
    if values.size and values.dtype.kind in "fiu":
        held = values.astype(np.float64)
        rough = f" mean {held.mean():.6g} deviation {held.std():.6g}"
    bits = hashlib.blake2b(np.ascontiguousarray(values).tobytes(), digest_size=8).hexdigest()
    return f"{values.dtype} {list(values.shape)}{rough} {bits}"


def tensors(prefix: Path) -> Found:
    """Every tensor of a checkpoint."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from tensorflow.train import load_checkpoint

    reader = load_checkpoint(str(prefix))
    found = {}
    for name in reader.get_variable_to_shape_map():
        if name != "_CHECKPOINTABLE_OBJECT_GRAPH":  # how objects hang together in Python; their names are the tensors'
            value = reader.get_tensor(name)
            if isinstance(value, bytes):  # how far training is, as JSON
                found[name] = lines_of(json.loads(value))
            else:
                found[name] = described(np.asarray(value))
    return found


def outline(document: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Where something stands in a JSON document, and the numbers: not the texts, which tell of places and of when, nor
    for how long something was done."""
    if isinstance(document, Mapping) and document:
        for key, value in document.items():
            inner = f"{place}.{key}" if place else str(key)
            if key in TIMES:
                yield inner, type(value).__name__
            else:
                yield from outline(value, inner)
    elif isinstance(document, list) and document:
        for number, value in enumerate(document):
            yield from outline(value, f"{place}[{number}]")
    else:
        yield place, type(document).__name__ if isinstance(document, str) else repr(document)


def lines_of(document: Any) -> str:
    """The outline as a text."""
    return "; ".join(f"{place} {value}" for place, value in sorted(outline(document)))


def losses(path: Path) -> Iterator[tuple[str, str]]:
    """Every column of a table of losses but the times."""
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    if not rows:
        raise Failed(f"{path} has no losses")
    for column in rows[0]:
        if column not in TIMES:
            yield column, " ".join(row[column] for row in rows)


def contents(folder: Path) -> Found:
    """All files of a folder by their names: sound as samples, arrays as values, JSON as its outline, other texts as
    they are. Pictures only have to be there, since their bytes tell of libraries; what is hidden tells of times."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        name = path.relative_to(folder).as_posix()
        kind = path.suffix.lower()
        if kind in (".wav", ".flac"):
            samples, rate = soundfile.read(path, dtype="float64", always_2d=True)
            found[name] = f"{rate} Hz {soundfile.info(path).subtype} {described(samples)}"
        elif kind == ".npy":
            found[name] = described(np.load(path))
        elif kind == ".json":
            found[name] = lines_of(json.loads(path.read_text(encoding="utf-8")))
        elif kind in (".csv", ".params"):
            found[name] = path.read_text(encoding="utf-8")
        else:
            found[name] = "there" if kind == ".png" else digest(path.read_bytes())
    return found


def cache(folder: Path) -> Found:
    """The encoded recordings; a cache is named by where recordings lie and when they were made."""
    found: Found = {}
    for number, inner in enumerate(sorted(path.parent for path in folder.glob("*/corpus.json"))):
        found |= {f"{number}/{path.name}": digest(path.read_bytes()) for path in inner.glob("*.codes")}
        document = json.loads((inner / "corpus.json").read_bytes())
        for recording in document["recordings"]:
            recording.pop("offset", None)  # earlier versions wrote it
        found[f"{number}/corpus.json"] = lines_of({key: part for key, part in document.items() if key != "seal"})
    return found


def run_folder(folder: Path) -> Found:
    """Losses, documents and the last checkpoint of each stage of a run."""
    found: Found = {}
    for path in sorted(folder.rglob("*.json")):
        name = path.relative_to(folder).as_posix()
        document = json.loads(path.read_text(encoding="utf-8"))
        found[name] = lines_of(document)
        if path.name == "checkpoints.json":
            stage = name.removesuffix(path.name)
            found |= {f"{stage}losses {column}": row for column, row in losses(path.with_name("losses.csv"))}
            last = path.with_name(document[-1]["name"])
            found |= {f"{stage}tensor {tensor}": told for tensor, told in tensors(last).items()}
    return found


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """What differs, one line each."""
    lines = []
    for name in dict.fromkeys([*old, *new]):
        if name not in new:
            lines.append(f"{name}: only in the old checkout")
        elif name not in old:
            lines.append(f"{name}: only in the new checkout")
        elif old[name] != new[name]:
            lines.append(f"{name}: {parted(old[name], new[name])}")
    return lines


def parted(old: str, new: str) -> str:
    """Where two texts begin to differ, in one line."""
    start = len(os.path.commonprefix([old, new]))
    if max(len(old), len(new)) <= 4 * SHOWN:
        return f"{old!r} -> {new!r}"
    first = max(0, start - SHOWN)
    return f"at character {start}: {old[first : start + SHOWN]!r} -> {new[first : start + SHOWN]!r}"


# What is trained on --------------------------------------------------------------------------------------------------

RATE = 8000
WORDS = ("One", "two", "three", "four", "five", "six")


def make_material(folder: Path) -> None:
    """Recordings and their parameters: `tones` at 8 kHz with constants, curves and texts; `stereo` at 16 kHz, 3 s."""
    rng = np.random.default_rng(14)
    tones = folder / "tones"
    tones.mkdir(parents=True)
    constants, texts = ["filename,inst,p"], []
    for number in range(6):
        seconds = 0.5 + 0.05 * number
        time_ = np.arange(round(seconds * RATE)) / RATE
        pitch = 60 + 2 * number
        sound = 0.5 * np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * time_) * np.exp(-2 * time_)
        sound += 0.02 * rng.standard_normal(len(time_))
        if number == 4:
            sound = 0.2 * rng.standard_normal(len(time_))
        if number == 5:
            sound[len(sound) // 2 :] = 0
        soundfile.write(tones / f"r{number}.wav", sound.astype(np.float32), RATE, subtype="PCM_16")
        constants.append(f"r{number}.wav,{number % 3},{pitch}")
        texts.append(f"r{number}|{WORDS[number]}, {number % 2 * 'and '}more.")
        times = np.arange(round(seconds * 100)) / 100
        curves = {"x": 0.5 + 0.3 * np.sin(9 * times + number), "y": np.exp(-times) * (number + 1) / 6}
        curves["a"] = np.exp(-2 * times)
        rows = [
            f"{name},{at:.2f},{value:.6f}" for name, row in curves.items() for at, value in zip(times, row, strict=True)
        ]
        (tones / f"r{number}.csv").write_text("\n".join(["name,time,value", *rows, ""]), encoding="utf-8")
    (tones / "params.csv").write_text("\n".join([*constants, ""]), encoding="utf-8")
    (tones / "metadata.csv").write_text("\n".join([*texts, ""]), encoding="utf-8")
    stereo = folder / "stereo"
    stereo.mkdir()
    time_ = np.arange(3 * 16000) / 16000
    left = 0.4 * np.sin(2 * np.pi * (300 + 200 * time_) * time_) + 0.05 * rng.standard_normal(len(time_)) + 0.01
    both = np.stack([left, 0.7 * np.roll(left, 40)], axis=1)
    both[24000:36000] = 0
    soundfile.write(stereo / "sweep.flac", both.astype(np.float32), 16000, subtype="PCM_24")
    soundfile.write(stereo / "short.wav", 1.2 * both[:9000].astype(np.float32), 16000, subtype="FLOAT")
    points = "name,time,value\np,0,60\np,0.2,67.5\np,0.5,62\na,0,0.2\na,0.5,0.9\n"
    (folder / "gesture.csv").write_text(points, encoding="utf-8")


# What is trained -----------------------------------------------------------------------------------------------------

TRAINING = [
    "--num_steps", 20, "--batch_size", 8, "--learning_rate", 0.01, "--checkpoint_minutes", None, "--jit", False,
    "--early_stopping_patience", None, "--generate", False, "--random_seed", 5,
]  # fmt: skip
SAMPLE: dict[str, Any] = {
    "model": "samplernn", "seq_len": 64, "frame_sizes": [2, 8], "dim": 16, "num_rnn_layers": 2, "q_levels": 64,
    "emb_size": 4,
}  # fmt: skip
AUDIO: dict[str, Any] = {
    "model": "conditioning", "conditioned_on": ["p", "a"], "seq_len": 64, "hidden_size": 12, "num_layers": 2,
    "q_levels": 64,
}  # fmt: skip
VALUES: dict[str, Any] = {
    "model": "conditioning", "generates": ["x", "y"], "conditioned_on": ["p"], "rate": 100, "seq_len": 8,
    "hidden_size": 12, "num_layers": 2,
}  # fmt: skip
MEL: dict[str, Any] = {
    "model": "melnet", "audio": {"n_fft": 256, "win_length": 192, "hop_length": 64, "mel_channels": 16}, "tiers": 2,
    "layers": [2, 1], "hidden_size": 8, "mixtures": 2, "seq_len": 16,
}  # fmt: skip
CASCADE: dict[str, Any] = {
    "model": "cascade",
    "tiers": [
        {"name": "slow", "generates": ["x", "y"], "conditioned_on": ["p"], "rate": 100, "seq_len": 8, "hidden_size": 10,
         "num_layers": 1, "net": "shared_pathways"},
        {"name": "sound", "conditioned_on": ["x", "y", "p"], "rate": RATE, "seq_len": 64, "hidden_size": 10,
         "num_layers": 1, "q_levels": 64, "exposure": {"noise": 0.1}, "training": {"tfr": 0.8}},
    ],
}  # fmt: skip
ONE_HOT = {"inst": {"units": "category", "encoding": "one_hot", "categories": ["a", "b", "c"]}}
LONG = ["--dur", 0.5, "--num_seqs", 2, "--temperature", 0.9, 1.1]
STEERED = [*LONG, "--control", "p=60:72", "a=0:0.2,0.3:0.9"]
MADE = ["--dur", 0.5, "--num_seqs", 2, "--temperature", 0.9, 1.1, "--control", "p=60:70"]
SPECTRAL = ["--frames", 24, "--num_seqs", 2, "--temperature", 0.9, 1.1]
QUICK = ["--frames", 16, "--inversion", "griffin_lim"]

# By name: the config, the corpus, flags of train.py, and the words of one or more calls of generate.py.
NETWORKS: dict[str, tuple[dict[str, Any], str, list[Any], list[list[Any]]]] = {
    "samplernn-gru": (
        SAMPLE, "tones",
        ["--jit", True, "--generate", True, "--output_file_dur", 0.05],
        [LONG, ["--dur", 0.1, "--top_k", 9, "--top_p", 0.9]],
    ),
    "samplernn-two-tiers": (
        {**SAMPLE, "frame_sizes": [4], "rnn_type": "lstm", "learn_h0": True, "q_type": "linear", "emb_size": 0,
         "gradient_clip": {"value": 0.1}, "num_rnn_layers": 1},
        "tones", ["--optimizer", "rmsprop"],
        [[*LONG, "--seed", "r1.wav", "--prime", 0.1, "--seed_offset", "0.05s", "--include_seed"]],
    ),
    "samplernn-paper": (
        {**SAMPLE, "gru_reset": "before", "weight_norm": True, "convention": "paper", "learn_h0": True,
         "normalize": "file"},
        "tones", ["--accumulate", 2], [LONG],
    ),
    "samplernn-paper-lstm": (
        {**SAMPLE, "rnn_type": "lstm", "skip_conn": True, "convention": "paper", "rnn_dropout": 0.2,
         "normalize": "corpus"},
        "tones", ["--optimizer", "sgd", "--test_frac", 0.1], [LONG],
    ),
    "samplernn-prism-skips": (
        {**SAMPLE, "skip_conn": "prism", "q_type": "a-law", "num_rnn_layers": 3},
        "tones", ["--precision", "mixed_bfloat16"], [LONG],
    ),
    "samplernn-plain": (
        {**SAMPLE, "frame_sizes": [], "recompute": True, "logit_cap": 8.0, "gradient_clip": None},
        "tones", [], [[*LONG, "--prime", "random:0.05"]],
    ),
    "samplernn-steered": (
        {**SAMPLE, "conditioned_on": ["inst", "p", "a"], "controls": ONE_HOT, "rnn_type": "lstm", "weight_norm": True},
        "tones", [], [[*LONG, "--controls", "gesture.csv", "--control", "inst=1"], [*STEERED, "inst=2"]],
    ),
    "samplernn-sinusoids": ({**SAMPLE, "emb_init": "sinusoids"}, "tones", ["--warmup_steps", 5], [LONG]),
    "samplernn-four-tiers": (
        {**SAMPLE, "frame_sizes": [2, 4, 16], "q_levels": 300}, "stereo", ["--sample_rate", 8000], [LONG],
    ),
    "audio-rnncontrol": (
        {**AUDIO, "q_type": "a-law"}, "tones", ["--jit", True, "--tfr", 0.9, "--ss", 0.5, "--input_noise", 0.1],
        [[*LONG, "--controls", "gesture.csv"], [*STEERED, "--top_k", 9, "--seed", "r2.wav", "--prime", 0.1]],
    ),
    "audio-baseline": (
        {**AUDIO, "net": "baseline", "cell": "lstm", "audio_input": "onehot", "q_type": "mu-law-floor", "dropout": 0.2,
         "conditioned_on": ["inst", "p", "a"], "controls": ONE_HOT, "normalize": "corpus"},
        "tones", [], [[*STEERED, "inst=0"]],
    ),
    "audio-wide": (
        {**AUDIO, "net": "wide", "cell": "phased_lstm", "audio_input": "embedding", "emb_size": 6, "recompute": True,
         "exposure": {"rate": 50, "noise": 0.05}, "q_type": "linear", "normalize": "file"},
        "tones", [], [STEERED],
    ),
    "values-rnncontrol": (VALUES, "tones", ["--tfr", 0.8], [MADE]),
    "values-baseline": ({**VALUES, "net": "baseline", "cell": "lstm"}, "tones", [], [MADE]),
    "values-split": ({**VALUES, "net": "split", "cell": "phased_lstm", "loss": "nll"}, "tones", ["--ss", 0.5], [MADE]),
    "values-shared-split": ({**VALUES, "net": "shared_split", "scale_floor": 0.05}, "tones", ["--jit", True], [MADE]),
    "values-pathways": ({**VALUES, "net": "pathways", "cell": "lstm", "loss": "sampled_mse"}, "tones", [], [MADE]),
    "values-shared-pathways": ({**VALUES, "net": "shared_pathways", "dropout": 0.1}, "tones", [], [MADE]),
    "values-mixture": (
        {**VALUES, "net": "mixture", "mixtures": 2, "loss": "mixture", "cell": "phased_lstm"},
        "tones", ["--tfr", 0.7], [MADE],
    ),
    "values-wide": ({**VALUES, "net": "wide", "recompute": True}, "tones", [], [MADE]),
    "cascade": (CASCADE, "tones", [], [[*MADE, "--tier_temperature", "slow=0.5", "--tier_seed", "sound=3"]]),
    "melnet-lstm": (MEL, "tones", ["--jit", True], [SPECTRAL, [*QUICK, "--bias", 1.0]]),
    "melnet-gru": (
        {**MEL, "cell": "gru", "conditioned_on": ["p"], "recompute": True, "normalize": "corpus",
         "audio": {**MEL["audio"], "normalise": "db"}},
        "tones", [],
        [[*QUICK, "--control", "p=60:70"],
         [*QUICK, "--control", "p=65", "--from_tier", 2, "--low_resolution", "r0.wav"]],
    ),
    "melnet-text": (
        {**MEL, "tiers": 3, "layers": [2, 1, 1], "text": {"column": 1, "components": 2}, "normalize": "file"},
        "tones", ["--val_frac", 0, "--monitor", "loss"], [[*QUICK, "--text", "two, more."]],
    ),
}  # fmt: skip


# The subjects --------------------------------------------------------------------------------------------------------


def _network(name: str, side: Checkout) -> Found:
    run = side.trained(name)
    found = run_folder(run)
    found |= {f"cache {file}": bits for file, bits in cache(side.folder / "cache" / name).items()}
    found |= {f"made in training: {file}": what for file, what in contents(side.folder / "generated" / name).items()}
    for number, words in enumerate(NETWORKS[name][3]):
        sounds = side.sounds(f"{name}-{number}", run, *_placed(words, side))
        found |= {f"generate.py {number}: {file}": what for file, what in sounds.items()}
    return found


def _placed(words: Sequence[Any], side: Checkout) -> list[Any]:
    """Words of a command line with the places of files of the material."""
    places = {"gesture.csv": side.material / "gesture.csv"}
    return [places.get(word, side.material / "tones" / word if str(word).endswith(".wav") else word) for word in words]


def _older(side: Checkout) -> Found:
    """Runs of the old checkout go on serving: sound from them, and training that goes on from their weights."""
    found = {}
    for name in ("samplernn-gru", "audio-rnncontrol", "cascade", "melnet-lstm"):
        run = side.before.trained(name)
        words = _placed(NETWORKS[name][3][0], side)
        for file, what in side.sounds(f"older-{name}", run, *words).items():
            found[f"{name}: {file}"] = what
    target = side.folder / "older"
    weights = side.before.trained("samplernn-gru")
    config = side.before.folder / "samplernn-gru.config.json"
    side.script(
        "train.py", "--id", "older", "--data_dir", side.material / "tones", "--init_from", weights, "--config_file",
        config, "--logdir_root", target, *TRAINING,
    )  # fmt: skip
    (run,) = [path.parent for path in target.glob("older/*/run.json")]
    return found | {f"from its weights: {name}": what for name, what in run_folder(run).items()}


def _resumed(side: Checkout) -> Found:
    """Training that goes on after 12 steps, in the middle of an epoch."""
    config = side.folder / "resumed.config.json"
    config.write_text(json.dumps({**SAMPLE, "rnn_dropout": 0.1}), encoding="utf-8")
    words = [
        "--id",
        "resumed",
        "--data_dir",
        side.material / "tones",
        "--config_file",
        config,
        "--logdir_root",
        "resumed",
    ]
    for steps in (12, 30):
        side.script("train.py", *words, *TRAINING, "--num_steps", steps)
    (run,) = [path.parent for path in (side.folder / "resumed" / "resumed").glob("*/run.json")]
    return run_folder(run)


def _evaluated(side: Checkout) -> Found:
    found = {}
    for name in ("samplernn-two-tiers", "audio-baseline", "values-mixture", "cascade", "melnet-gru", "melnet-text"):
        target = side.folder / f"{name}.evaluation.json"
        words = [side.trained(name), "--data_dir", side.material / "tones", "--json", target]
        flag = ["--checkpoint_path"] if "--checkpoint_path" in side.verb("evaluate", "--help") else []  # as it was
        side.verb("evaluate", *flag, *words)
        found[name] = lines_of(json.loads(target.read_text(encoding="utf-8")))
    return found


def _exported(side: Checkout) -> Found:
    """Members of zip files; the card, with dates in it, only has to be there, and of a checkpoint its tensors count."""
    found: Found = {}
    for name in ("samplernn-two-tiers", "audio-rnncontrol"):
        target = side.folder / f"{name}.zip"
        side.verb("export", side.trained(name), "--output", target, "--dur", 0.1)
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(target) as packed:
            packed.extractall(folder)
            for member, what in contents(Path(folder)).items():
                vague = member.endswith((".md", ".index")) or ".data-" in member
                found[f"{name}.zip: {member}"] = "there" if vague else what
                if member.endswith(".index"):
                    inside = tensors(Path(folder) / member.removesuffix(".index"))
                    found |= {f"{name}.zip: {tensor}": told for tensor, told in inside.items()}
    return found


def _chunks(side: Checkout) -> Found:
    found: Found = {}
    for stem, words in (
        ("plain", ["--chunk_length", 300, "--keep_tail"]),
        ("other", ["--chunk_length", 500, "--overlap", 100, "--sample_rate", 8000, "--highpass", 20, "--mono", False]),
    ):
        target = side.folder / "chunks" / stem
        side.script(
            "chunk_audio.py", "--input_file", side.material / "stereo", "--output_dir", target, "--jobs", 1, *words
        )
        found |= {f"{stem} {name}": what for name, what in contents(target).items()}
    return found


def _tools(side: Checkout) -> Found:
    """Commands about recordings and parameters."""
    folder, tones = side.folder / "tools", side.material / "tones"
    side.verb("demo", folder / "demo")
    side.verb("controls", "extract", tones, "--param_dir", folder / "extracted", "--jobs", 1)
    side.verb("controls", "convert", tones / "r0.csv", folder / "r0.params")
    side.verb(
        "bands", "--checkpoint_path", side.trained("melnet-lstm"), "--data_dir", tones, "--param_dir", folder / "bands"
    )
    sounds = side.folder / "out" / "samplernn-gru-0"
    if not sounds.exists():
        side.sounds(sounds.name, side.trained("samplernn-gru"), *LONG)
    figures = folder / "distances.json"
    side.verb("distances", "--generated", sounds, "--recordings", tones, "--json", figures)
    return contents(folder)


def _searched(side: Checkout) -> Found:
    """A search of two trials."""
    config = side.folder / "searched.config.json"
    config.write_text(json.dumps({**SAMPLE, "training": {"jit": False, "batch_size": 32}}), encoding="utf-8")
    side.script(
        "tune.py", "--id", "searched", "--data_dir", side.material / "tones", "--logdir_root", "searched",
        "--config_file", config, "--type", "random_search", "--max_trials", 2, "--num_epochs", 1, "--dim", 8, 12,
        "--search", "learning_rate=1e-3..1e-1:log",
    )  # fmt: skip
    folder = side.folder / "searched" / "searched"
    rows = list(csv.DictReader((folder / "trials.csv").read_text(encoding="utf-8").splitlines()))
    found = {f"trial {row['trial']} {name}": value for row in rows for name, value in row.items() if name != "minutes"}
    return found | {"best": lines_of(json.loads((folder / "best.config.json").read_text(encoding="utf-8")))}


SCRIPTS = ("train.py", "generate.py", "chunk_audio.py", "tune.py")
# Commands of the package by their verbs, and the modules that they are, or once were.
VERBS = {
    **{
        name: f"tierwave.{name}"
        for name in ("controls", "demo", "distances", "evaluate", "export", "fetch", "memory", "play", "report")
    },
    "bands": "melnet.bands",
    "convert_yaml": "melnet.convert_yaml",
    "import_prism": "samplernn.import_prism",
    "import_weights": "conditioning.import_weights",
}
OF_CONTROLS = ("extract", "convert", "manifest", "fit", "check", "plot")


def _helped(side: Checkout) -> Found:
    """What --help prints, but for line breaks and the form in which commands are typed."""
    found = {name: side.script(name, "--help") for name in SCRIPTS}
    found |= {verb: side.verb(verb, "--help") for verb in VERBS}
    found |= {f"controls {verb}": side.verb("controls", verb, "--help") for verb in OF_CONTROLS}
    return {name: plain(text) for name, text in found.items()}


def plain(text: str) -> str:
    """A text with single spaces, and NAME for `python -m tierwave.NAME` and `python -m tierwave NAME`."""
    return re.sub(r"python -m (?:(?:tierwave|samplernn|conditioning|melnet)[. ])+", "", " ".join(text.split()))


SUBJECTS: dict[str, Callable[[Checkout], Found]] = {
    "help": _helped,
    "chunks": _chunks,
    **{name: functools.partial(_network, name) for name in NETWORKS},
    "resumed": _resumed,
    "older": _older,
    "evaluated": _evaluated,
    "exported": _exported,
    "tools": _tools,
    "searched": _searched,
}


# The comparison ------------------------------------------------------------------------------------------------------


def compare(subject: Callable[[Checkout], Found], old: Checkout, new: Checkout) -> tuple[int, list[str]]:
    """How many things of a subject were compared, and what differs. Both checkouts work at the same time; what fails in
    both is no equality either."""

    def told(side: Checkout) -> tuple[Found, str | None]:
        try:
            return subject(side), None
        except (Failed, OSError, ValueError, KeyError) as error:
            return {}, f"{type(error).__name__}: {error}" if not isinstance(error, Failed) else str(error)

    with ThreadPoolExecutor(2) as pool:
        (before, old_fault), (after, new_fault) = pool.map(told, (old, new))
    faults = [f"{where}: {fault}" for where, fault in (("old", old_fault), ("new", new_fault)) if fault]
    if not faults and not before and not after:
        faults = ["nothing was found to compare"]
    return len({*before, *after}), faults or differences(before, after)


def chosen(names: Sequence[str]) -> list[str]:
    """The subjects that are called `names`, or begin with one of them and a hyphen; all where there are none."""
    return [name for name in SUBJECTS if not names or any(name == one or name.startswith(f"{one}-") for one in names)]


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, print a line per subject and one per difference, write JSON; 1 if anything differs."""
    flags = argparse.ArgumentParser(prog="python -m bench.equal", description="Do two checkouts make the same numbers?")
    flags.add_argument("old", type=Path, metavar="OLD_CHECKOUT", help="such as a git worktree of the commit before")
    flags.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"of {', '.join(SUBJECTS)}; samplernn, audio, values, melnet: all of these (all)",
    )
    flags.add_argument("--json", type=Path, help="write what differs to this file, by subject")
    arguments = flags.parse_args(argv)
    for name in arguments.only:
        if not chosen([name]):
            flags.error(f"{name!r} is no subject; there are {', '.join(SUBJECTS)}")
    if not (arguments.old / "train.py").is_file():
        flags.error(f"{arguments.old} is no checkout: there is no train.py in it")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [-1]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="equal-") as name:
        folder = Path(name).resolve()
        make_material(folder / "material")
        with (
            Checkout(arguments.old, folder / "old", folder / "material", cores[0]) as old,
            Checkout(ROOT, folder / "new", folder / "material", cores[1 % len(cores)]) as new,
        ):
            new.before = old
            for subject in chosen(arguments.only):
                started = time.perf_counter()
                compared, lines = compare(SUBJECTS[subject], old, new)
                seconds = time.perf_counter() - started
                print(f"{subject}: {compared} compared, {len(lines)} differ ({seconds:.0f} s)", flush=True)
                for line in lines:
                    print(f"  {line}", flush=True)
                found[subject] = {"compared": compared, "seconds": round(seconds, 1), "differences": lines}
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    differing = sum(bool(entry["differences"]) for entry in found.values())
    print(f"{differing} of {len(found)} subjects differ" if differing else f"All {len(found)} subjects are equal")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
