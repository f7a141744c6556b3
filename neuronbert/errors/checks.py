"""What was to be shown isn't so.

Owns: the errors of checks that did their work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from neuronbert.errors.base import FailedCheckError

if TYPE_CHECKING:
    from collections.abc import Sequence


class CompilationFailedError(FailedCheckError):
    """The compiler refused, or ended before it was done.

    Attributes:
        log: What the message names: the compiler's log, or the folder that it worked in; None if it names nothing.
    """

    def __init__(self, shape: str, reason: str, log: object = None, lines: Sequence[str] = ()) -> None:
        self.log = log
        said = (
            f" Its log {log} ends with: {' | '.join(lines)}." if lines else f" Its files are in {log}." if log else ""
        )
        super().__init__(f"The compiler didn't finish {shape}: {reason}.{said}")


class DamagedCacheError(FailedCheckError):
    """Entries of the cache that aren't what was written."""

    def __init__(self, folder: object, damaged: int) -> None:
        said = "1 entry is" if damaged == 1 else f"{damaged} entries are"
        super().__init__(f"{said} damaged in {folder}. Remove what is damaged with: neuronbert cache verify --repair.")


class PreflightFailedError(FailedCheckError):
    """A program that the compiler is documented to refuse, or that would go wrong on the device."""

    def __init__(self, code: str, problem: str, fix: str, more: int) -> None:
        others = f" (and {more} more)" if more else ""
        super().__init__(f"{code}: {problem}{others}. {fix}.")


class ValidationFailedError(FailedCheckError):
    """The program doesn't answer like its reference."""

    def __init__(self, failures: Sequence[str]) -> None:
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        super().__init__(f"Validation failed: {failures[0].rstrip('.')}{more}.")
