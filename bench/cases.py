"""The sizes that are measured: A and B of the field's figures, and RNNControl's as a plain sample-level network."""

from __future__ import annotations

from samplernn.config import Config

CONFIGS = {
    "A": Config(dim=1024, num_rnn_layers=4, seq_len=512),
    "B": Config(dim=256, num_rnn_layers=1, seq_len=1024),
    "R": Config(dim=48, num_rnn_layers=4, frame_sizes=[], emb_size=48, seq_len=256),
    "tiny": Config(dim=16, num_rnn_layers=1, seq_len=64, emb_size=8),
}
MEANING = {
    "A": "PRiSM's default: dim 1024, 4 GRU layers, frames 16 and 64",
    "B": "dim 256, 1 GRU layer, frames 16 and 64",
    "R": "RNNControl's size: 4 GRU layers of 48 at every sample, no frame tiers",
    "tiny": "dim 16, for a quick look",
}
