"""Play an exported generation step with LiteRT (TensorFlow Lite), without TensorFlow and without Tierwave.

python examples/litert_player.py birds/steps new.wav SECONDS TEMPERATURE [NAME=VALUE ...]
"""

import json
import sys
import wave
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

folder, target, seconds, temperature = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
values = dict(word.split("=") for word in sys.argv[5:])
manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
stage = manifest["stages"][-1]  # the one that makes sound
graphs, quantizer = stage["graphs"], stage["quantizer"]


def seen_by_the_network(name: str) -> float:
    known = next(parameter for parameter in manifest["parameters"] if parameter["name"] == name)
    lo, hi, names, text = known["lo"], known["hi"], known["categories"], values[name]
    value = names.index(text) if text in names else float(text)
    if known["outside"] != "allow":
        value = np.clip(value, min(lo, hi), max(lo, hi))
    if known["scale"] != "linear":
        value, lo, hi = (np.log if known["scale"] == "log" else np.log1p)([value, lo, hi])
    return 0.0 if lo == hi else float((value - lo) / (hi - lo))


interpreters = [Interpreter(str(folder / graph["files"]["litert"])) for graph in graphs]
steps = [interpreter.get_signature_runner() for interpreter in interpreters]
# Held here. Curves would be read at every step, at max(0, now + stage["controls_at"]) / stage["rate"] seconds.
controls = np.array([seen_by_the_network(name) for name in stage["conditioned_on"]], np.float32)
carried = [[part for part in graph["inputs"] if "next" in part] for graph in graphs]
state = [{p["name"]: np.array(p["initial"] or np.zeros(p["shape"]), p["dtype"]) for p in parts} for parts in carried]
spread = [np.zeros([1, 1], np.float32) for _ in graphs]  # what each frame tier says to the steps of the tier below
past = max(graph["inputs"][0]["shape"][0] for graph in graphs)  # codes that the longest frame looks back
samples = round(seconds * manifest["sample_rate"])
codes = np.full(past + samples, quantizer["silence"], np.int32)
random = np.random.default_rng()

for now in range(samples):
    for number, graph in enumerate(graphs):  # slowest first
        if now % graph["every"]:
            continue
        names = [part["name"] for part in graph["inputs"]]
        given = {"codes": codes[past + now - graph["inputs"][0]["shape"][0] : past + now], "controls": controls}
        if number:
            given["condition"] = spread[number - 1][now % graphs[number - 1]["every"] // graph["every"]]
        given = {name: array for name, array in given.items() if name in names} | state[number]
        result = steps[number](**given)
        state[number] = {part["name"]: result[part["next"]] for part in carried[number]}
        spread[number] = result.get("spread", spread[number])
    logits = result["logits"]
    if temperature > 0:  # the largest of these is a draw from softmax(logits / temperature)
        logits = logits / temperature + random.gumbel(size=len(logits))
    codes[past + now] = np.argmax(logits)

sound = np.array(quantizer["decoded"])[codes[past:]]
with wave.open(target, "wb") as file:
    file.setparams((1, 2, manifest["sample_rate"], 0, "NONE", ""))
    file.writeframes(np.round(np.clip(sound * 32768, -32768, 32767)).astype("<i2").tobytes())
