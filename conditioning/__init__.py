"""Conditional tiers (MTCRNN, Huzaifah & Wyse 2020; RNNControl, Wyse 2018): sound steered by controls over time.

`FAMILY` is what it offers to the rest, see `tierwave.family`.
"""

from conditioning.config import Config
from conditioning.family import FAMILY

__all__ = ["FAMILY", "Config"]
