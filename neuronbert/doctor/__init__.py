"""The doctor: what a machine can do for each target, and what is in the way."""
