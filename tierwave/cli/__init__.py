"""The command `tierwave VERB ...`, or `python -m tierwave VERB ...`: a module of this folder for each verb.

A verb's module parses, calls and prints; it is imported when its verb is typed.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

from tierwave.system.progress import ProgressLine

VERBS = {
    "controls": "measure, convert, fit, check and plot controls of recordings",
    "demo": "create a small corpus of tones of known pitch, loudness and instrument",
    "distances": "measure how far a set of generated sounds is from recordings",
    "evaluate": "measure how well a network predicts recordings and follows its controls",
    "export": "export a trained run: a zip with a model card, ONNX, LiteRT",
    "fetch": "download a known corpus and lay it out for train.py",
    "hear": "let a steered network play, and measure whether it follows",
    "memory": "estimate how much memory training a config will take",
    "play": "play a trained network on a web page",
    "report": "one self-contained HTML page about a run",
    "synth": "create a corpus of synthesised sound, with controls",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the verb says with the words behind it; the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    if not words or words[0] in ("-h", "--help"):
        ProgressLine("stdout" if words else "stderr").say(_usage())
        return 0 if words else 2
    verb = words[0]
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"choose from {', '.join(VERBS)}"
        ProgressLine("stderr").say(f"tierwave: {verb!r} is no verb; {remedy}")
        return 2
    code: int = importlib.import_module(f"tierwave.cli.{verb}").main(words[1:])
    return code


def _usage() -> str:
    rows = "\n".join(f"    {verb:10} {summary}" for verb, summary in VERBS.items())
    return (
        "usage: tierwave VERB ... (or python -m tierwave VERB ...)\n\n"
        f"{rows}\n\n"
        "tierwave VERB --help explains one. Training, generating, searching and cutting recordings\n"
        "have scripts of their own: train.py, generate.py, tune.py, chunk_audio.py."
    )
