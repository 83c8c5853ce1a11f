"""What training leaves on disk: the run folder, checkpoints, history, archives, imported runs."""
