"""The sizes of SampleRNN whose training is measured."""

from __future__ import annotations

from samplernn.config import Config

CONFIGS = {
    "A": Config(dim=1024, num_rnn_layers=4, seq_len=512),
    "B": Config(dim=256, num_rnn_layers=1, seq_len=1024),
    "tiny": Config(dim=16, num_rnn_layers=1, seq_len=64, emb_size=8),
}
