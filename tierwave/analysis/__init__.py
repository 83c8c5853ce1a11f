"""Measuring sound: features, statistics, distances, faults, pictures."""
