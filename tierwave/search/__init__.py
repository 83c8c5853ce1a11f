"""Hyper-parameter search with Keras Tuner."""
