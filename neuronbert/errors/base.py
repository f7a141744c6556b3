"""The root of all errors and its four branches.

Owns: what they have in common: a message is one printable line.
"""

from __future__ import annotations

from neuronbert.errors.wording import printable


class NeuronBertError(Exception):
    """Base of every error raised on purpose. Its message is one printable line."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class UsageError(NeuronBertError):
    """What was asked can't be done as asked."""


class DataError(NeuronBertError):
    """What was given is broken or unsafe."""


class UnavailableError(NeuronBertError):
    """Something is missing on this machine."""


class FailedCheckError(NeuronBertError):
    """What was to be shown isn't so."""
