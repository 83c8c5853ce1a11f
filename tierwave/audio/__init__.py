"""Sound as files and as arrays: reading, resampling, cutting, coding, spectrograms."""
