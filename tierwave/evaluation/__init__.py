"""What a trained run is worth: likelihood, control, and one page about it."""
