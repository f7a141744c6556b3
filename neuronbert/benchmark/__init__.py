"""Benchmarks: how long the calls of an artifact take, in turn with those of the model that it was exported from."""
