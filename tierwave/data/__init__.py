"""From recordings to batches: corpora and their caches, splits, windows, known and made-up corpora."""
