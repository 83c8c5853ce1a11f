"""MelNet (Vasquez & Lewis 2019): mel spectrograms in tiers of resolution, made audible.

`FAMILY` is what it offers to the rest, see `tierwave.family`.
"""

from melnet.config import Config
from melnet.family import FAMILY

__all__ = ["FAMILY", "Config"]
