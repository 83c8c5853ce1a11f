"""Measuring sound: features, statistics, distances, control accuracy, issues, plots."""
