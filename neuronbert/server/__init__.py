"""Artifacts behind HTTP: `neuronbert serve`. Importing what is in here needs the extra `serve`, but for the scheduler.

Owns: what clients may send and what they get. Knows nothing of torch, nor of how programs run.
"""
