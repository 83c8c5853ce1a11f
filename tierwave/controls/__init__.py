"""Named curves over time that steer a network: tracks, their files, their owners, live values."""
