"""The README names every flag and every key, and its local links lead somewhere."""

import re
from pathlib import Path
from typing import get_args

import pytest

import chunk_audio
import generate
import samplernn
import train
import tune
from conditioning.config import Cascade, Config, NetName, Tier
from melnet.config import Config as MelConfig
from tierwave import evaluate
from tierwave.mel import MelAudio

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "parser",
    [train.parser(), generate.parser(), tune.parser(), chunk_audio.make_parser(), evaluate.parser()],
    ids=lambda p: p.prog,
)
def test_every_flag_is_named(parser):
    flags = [action.option_strings[-1] for action in parser._actions if not (action.help or "").startswith("not yet")]
    assert [flag for flag in flags if flag != "--help" and f"`{flag}" not in README] == []


def test_every_key_and_preset_is_named():
    assert [key for key in samplernn.Config.model_fields if key != "model" and f"| `{key}` |" not in README] == []
    keys = [key for model in (Config, Cascade, Tier) for key in model.model_fields if key != "model"]
    table = README[README.index("### Config keys of a conditional tier") :]
    assert [key for key in keys if f"`{key}`" not in table] == []
    theirs = README[README.index("### MelNet's config keys") :]
    keys = [*MelConfig.model_fields, *MelAudio.model_fields]
    assert [key for key in keys if key != "model" and f"`{key}`" not in theirs] == []
    nets = get_args(NetName)
    assert [net for net in nets if f"`{net}`" not in table] == []
    presets = [path.name.removesuffix(".config.json") for path in (ROOT / "configs").glob("*.config.json")]
    assert [preset for preset in presets if f"`{preset}`" not in README] == []


def test_local_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert len(links) > 3
    assert [link for link in links if not (ROOT / link).exists()] == []
