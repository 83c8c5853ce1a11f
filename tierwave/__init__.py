"""What the three families of Tierwave share: audio, codes, recurrent cells, lanes, runs and training."""

__version__ = "0.1.0"
