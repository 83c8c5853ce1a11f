"""Benchmarks, run by hand: `python -m bench.run`. Every speed stands beside the machine's own limit of the same run."""
