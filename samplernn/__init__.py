"""SampleRNN (Mehri et al. 2017, PRiSM 2020): raw audio, sample by sample, in tiers of falling frame size.

`FAMILY` is what it offers to the rest, see `tierwave.family`.
"""

from samplernn.config import Config
from samplernn.family import FAMILY

__all__ = ["FAMILY", "Config"]
