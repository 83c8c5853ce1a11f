"""From the hand on a slider to the sound, in Chromium: the page itself, played by the clock, as it measures itself.

Needs Playwright (the extra `test`) and Chromium; without it there are no rows. heard: from the mouse to the sample in
the worklet that carries the value; gaps: how often there was nothing to play.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.play import MOVE_SECONDS, TO_REACH_SECONDS, _run, _server

FLAGS = ["--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"]


def measure(seconds: float = 60.0, hidden: int = 48, layers: int = 4) -> list[dict[str, Any]]:
    """One page that plays for so long, with its own lead."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        return []
    from playwright.sync_api import sync_playwright

    rng = np.random.default_rng(0)
    with (
        tempfile.TemporaryDirectory() as folder,
        _server(_run(Path(folder), hidden, layers), 1) as port,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=program, args=FLAGS) as browser,
    ):
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(f"http://127.0.0.1:{port}/")
        page.click("#start:enabled")
        page.wait_for_function("() => tierwave.state().position > 0")
        slider = page.locator("#control-p")
        slider.scroll_into_view_if_needed()
        box = slider.bounding_box()
        assert box is not None
        until = time.monotonic() + seconds
        moves = 0
        while time.monotonic() < until:
            page.mouse.move(box["x"] + 10 + rng.random() * (box["width"] - 20), box["y"] + box["height"] / 2)
            page.mouse.down()
            page.mouse.up()
            moves += 1
            page.wait_for_timeout(1000 * MOVE_SECONDS)
        heard = page.evaluate("tierwave.latencies()")
        gaps = page.evaluate("tierwave.underruns()")
    row = {
        "benchmark": "page",
        "config": f"{layers} x {hidden}",
        "seconds": seconds,
        "moves": moves,
        "heard": len(heard),
        "heard_ms_median": float(np.median(heard)),
        "heard_ms_p95": float(np.quantile(heard, 0.95)),
        "heard_ms_max": float(max(heard)),
        "gaps": gaps,
        "ratio": float(np.quantile(heard, 0.95)) / 1000 / TO_REACH_SECONDS,
        "of": f"{1000 * TO_REACH_SECONDS:g} ms",
    }
    return [row]
