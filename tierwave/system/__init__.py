"""What this program meets of its machine: the terminal, signals, processes."""
