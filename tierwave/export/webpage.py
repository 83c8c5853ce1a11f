"""A run as one HTML file that plays without a server: the page of `tierwave.play`, with the engine as WebAssembly.

Whatever the page asks its server for lies in elements of its own: the run and the sound's description as JSON, weights
and engine compressed and in base64, the scripts of its threads as text. Its modules are those of `tierwave/play/page`,
but for those of the same name in `tierwave/export/page`. Its policy (Content-Security-Policy) forbids any request.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from tierwave.audio.lookback import Lag
from tierwave.controls.schema import Parameter
from tierwave.engine import kernels
from tierwave.engine.network import Network
from tierwave.errors import UsageError
from tierwave.files.writing import write_text
from tierwave.play.instrument import Instrument

SUFFIX = ".html"
HERE = Path(__file__).parent
ENGINE = HERE / "wasm" / "engine.wasm"
FOLDERS = (HERE / "page", HERE.parent / "play" / "page")  # the first that has a module gives it

MEASURED = 6e9  # multiply-adds per second in Chromium on two slow and busy cores
LARGEST = 32e9  # more than a browser makes on one core of any machine: four floats at once, twice a cycle, at 4 GHz

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'wasm-unsafe-eval' blob: data:; worker-src blob:; "
    "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
)
_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([\w-]+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const) (\w+))", re.MULTILINE)
_EXPORTED = re.compile(r"^export (?:async )?(?:function|class|const) (\w+)", re.MULTILINE)
_LEFT = re.compile(r"^\s*(?:import\b|export\b)|\bimport\.meta\b", re.MULTILINE)
_ARRAYS = {
    "program": np.int32, "parts": np.int32, "head": np.int32, "matrices": np.int32, "vectors": np.float32,
    "initial": np.float32, "weights": np.int8,
}  # fmt: skip


def write_page(instrument: Instrument, target: Path) -> None:
    """Write the page of a run that was opened with int8 weights; whole or not at all. Raises UsageError for a run that
    no page can play."""
    write_text(target, page(instrument))


def refuse(family: str) -> UsageError:
    """The error for a run of a family that the engine does not run."""
    return UsageError(
        f"a page plays sound as it is made, sample by sample, and a {family} makes a spectrogram whole: export it as a "
        "folder or a zip, without --format html"
    )


def cost(instrument: Instrument) -> float:
    """How many multiply-adds a second of sound takes."""
    return sum(tier["rate"] * network.multiplications for tier, network in _tiers(instrument))


def slowness(instrument: Instrument) -> str | None:
    """A sentence where a slow machine cannot play it in real time. Raises UsageError where no machine can."""
    needed = cost(instrument)
    if needed > LARGEST:
        raise UsageError(
            f"this network takes {needed / 1e9:.3g} thousand million multiply-adds for a second of sound, and a page "
            f"makes {MEASURED / 1e9:.3g} (a slow machine) to {LARGEST / 1e9:.3g} in that time: export a smaller one, "
            "or play it with python -m tierwave play"
        )
    if needed <= MEASURED:
        return None
    return (
        f"it takes {needed / 1e9:.3g} thousand million multiply-adds for a second of sound, and a page on a slow "
        f"machine makes {MEASURED / 1e9:.3g}: there it plays with gaps, and says so"
    )


def page(instrument: Instrument) -> str:
    """The file's text."""
    if not instrument.is_live:
        raise UsageError(
            f"a page plays sound, and this run makes {instrument.kind}: export it as a folder or a zip, without "
            "--format html"
        )
    slowness(instrument)
    sound, weights = _sound(instrument)
    run = instrument.document()
    name = instrument.trained.path.name
    run |= {
        "checkpoints": [entry for entry in run["checkpoints"] if entry["name"] == name],
        "takes_over": None,
        "speed": None,
        "warning": None,  # the page measures on its own machine
        "max_voices": 1,
        "largest_message": 1 << 40,  # there is no network between page and voice
        "most_points": 1 << 40,
    }
    elements = [
        _element("data-run", "application/json", _json(run)),
        _element("data-sound", "application/json", _json(sound)),
        _element("data-engine", "text/plain", _compressed(ENGINE.read_bytes())),
        _element("data-weights", "text/plain", _compressed(weights)),
        *(
            _element(f"code-{part}", "text/plain", bundle(entry))
            for part, entry in (("worker", "socket-worker.js"), ("worklet", "player-worklet.js"), ("maker", "maker.js"))
        ),
        f"<script>\n{bundle('main.js')}</script>",
    ]
    played = FOLDERS[-1]
    icon = base64.b64encode((played / "icon.svg").read_bytes()).decode()
    style = (played / "style.css").read_text(encoding="utf-8")
    return _replaced(
        (played / "index.html").read_text(encoding="utf-8"),
        {
            '<meta charset="utf-8">': f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="'
            f'{_POLICY}">',
            "<title>Tierwave</title>": f"<title>{escape(str(run['id']))} – Tierwave</title>",
            'href="page/icon.svg"': f'href="data:image/svg+xml;base64,{icon}"',
            '<link rel="stylesheet" href="page/style.css">': f"<style>\n{style}[data-server] {{ display: none; }}\n"
            "</style>",
            '<script type="module" src="page/main.js"></script>\n': "",
            "</body>": "\n".join([*elements, "</body>"]),
        },
    )


# ---- what is played --------------------------------------------------------------------------------------------------


def _tiers(instrument: Instrument) -> list[tuple[dict[str, Any], Network]]:
    """What a voice has to know of each stage, and its network."""
    trained, found = instrument.trained, []
    for stage, network in zip(trained.family.stages(trained.config), trained.models, strict=True):
        product = trained.family.product(trained.config, stage)
        lookback: Lag | None = network.about.get("lookback")
        about = {
            "rate": float(trained.sample_rate if product.is_audio else product.rate or 0.0),
            "controls_ahead": network.about["controls_ahead"],
            "generates": [] if product.is_audio else list(product.generates),
            "conditioned_on": list(product.conditioned_on),
            "encoders": [each._asdict() for each in network.about["controls"]],
            "lookback": None if lookback is None else lookback._asdict(),
            "amplitudes": [] if product.quantizer is None else product.quantizer.table().tolist(),
        }
        found.append((about, network))
    return found


def _sound(instrument: Instrument) -> tuple[dict[str, Any], bytes]:
    """What `tierwave/export/page/voice.js` plays, and the arrays of all networks in one piece."""
    trained, weights = instrument.trained, bytearray()
    tiers = [{**about, "network": _network(network, weights)} for about, network in _tiers(instrument)]
    sound = {
        "sample_rate": trained.sample_rate,
        "checkpoint": trained.path.name,
        "parameters": [_parameter(instrument, each) for each in trained.schema.parameters],
        "steered": list(instrument.schema.names),
        "tiers": tiers,
    }
    return sound, bytes(weights)


def _network(network: Network, weights: bytearray) -> dict[str, Any]:
    """A network's description; its arrays are appended to `weights`, each at a multiple of 16 bytes."""
    if network.kind != "int8":
        raise ValueError(f"a page has int8 weights, not {network.kind}")
    arrays = {}
    for name, kind in _ARRAYS.items():
        array = (_side_by_side(network) if name == "weights" else getattr(network, name)).astype(kind).ravel()
        arrays[name] = [len(weights), array.size]
        weights += array.astype(array.dtype.newbyteorder("<")).tobytes()
        weights += bytes(-len(weights) % 16)
    plain = {name: getattr(network, name) for name in ("history", "features", "inputs", "widest", "choices", "floor")}
    return {"arrays": arrays, **plain, "silence": int(network.about["silence"])}


def _side_by_side(network: Network) -> np.ndarray:
    """All weights in the order of `tierwave/export/wasm/engine.c`: of a matrix, 32 outputs at a time, `[inputs, 32]`,
    16 at last; of a table, as they are."""
    weights, wide = network.weights.copy(), 2 * kernels.LANES
    for at, inputs, outputs, _ in network.matrices[~network.are_tables].tolist():
        kernel = kernels.unpacked(network.weights[at:], inputs, outputs)
        pieces = [kernel[:, first : first + wide].ravel() for first in range(0, kernel.shape[1], wide)]
        weights[at : at + kernel.size] = np.concatenate(pieces)
    return weights


def _parameter(instrument: Instrument, parameter: Parameter) -> dict[str, Any]:
    lo, hi = parameter.span
    return {
        "name": parameter.name,
        "lo": lo,
        "hi": hi,
        "scale": parameter.scale,
        "interp": parameter.interp,
        "outside": parameter.outside,
        "category": parameter.is_category,
        "categories": list(parameter.categories),
        "values": instrument.trained.values.get(parameter.name, []),
        "initial": instrument.initial(parameter),
    }


# ---- one file of many ------------------------------------------------------------------------------------------------


def bundle(entry: str, folders: Sequence[Path] = FOLDERS) -> str:
    """A module and all that it imports as one script: each a function of its own that returns what it exports, those
    that are imported before those that import them.

    Raises ValueError for a form of import or export that the page does not use.
    """
    pieces: dict[str, str] = {}

    def add(name: str) -> None:
        if name in pieces:
            return
        text = next(folder / name for folder in folders if (folder / name).exists()).read_text(encoding="utf-8")
        pieces[name] = ""  # its place among those that import each other is not needed: none do
        for _, other in _IMPORT.findall(text):
            add(other)
        taken = _IMPORT.sub(
            lambda found: f"const {{{found[1].replace(' as ', ': ')}}} = modules[{found[2]!r}];\n", text
        )
        body = _EXPORT.sub("", taken)
        code = re.sub(r"/\*.*?\*/|^\s*//.*$", "", body, flags=re.DOTALL | re.MULTILINE)
        if left := _LEFT.search(code):
            raise ValueError(f"{name} has {left[0].strip()} in a form that is not bundled")
        exported = ", ".join(_EXPORTED.findall(text))
        del pieces[name]
        pieces[name] = f"modules[{name!r}] = (() => {{\n{body}\nreturn {{ {exported} }};\n}})();\n"

    add(entry)
    script = '"use strict";\nconst modules = Object.create(null);\n' + "".join(pieces.values())
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _element(identity: str, kind: str, text: str) -> str:
    return f'<script type="{kind}" id="{identity}">{text}</script>'


def _compressed(data: bytes) -> str:
    """Bytes in gzip's format, in base64; the same for the same bytes, whenever they are written."""
    return base64.b64encode(gzip.compress(data, mtime=0)).decode()


def _json(document: Any) -> str:
    """JSON in which nothing ends an element."""
    return json.dumps(document, allow_nan=False).replace("<", "\\u003c")


def _replaced(text: str, changes: Mapping[str, str]) -> str:
    """A text with each of some pieces, which stand in it once, replaced."""
    for old in changes:
        if text.count(old) != 1:
            raise ValueError(f"the page has {old!r} {text.count(old)} times, and once is expected")
    pattern = re.compile("|".join(map(re.escape, changes)))
    return pattern.sub(lambda found: changes[found[0]], text)
