"""Errors to one line and an exit code: 1 a check failed, 2 wrong use or broken data, 3 something is missing here."""

import logging
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from neuronbert.errors import FailedCheckError, NeuronBertError, UnavailableError, first_line

from ._output import note

_INTERRUPTED = 130
_UNAVAILABLE = 3


def exit_code(error: NeuronBertError) -> int:
    """The exit code for an error."""
    if isinstance(error, FailedCheckError):
        return 1
    return _UNAVAILABLE if isinstance(error, UnavailableError) else 2


@contextmanager
def reported() -> Iterator[None]:
    """Around a command, or as its decorator: what goes wrong becomes one line on stderr and an exit code."""
    logging.basicConfig(format="neuronbert: %(message)s", level=logging.ERROR)
    logging.getLogger("neuronbert").setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, _interrupt)
    if sys.stdout is None:  # before hours of compiling, and before a file that is opened gets its number
        note("Error: stdout is closed. Let it go somewhere, as in > /dev/null.")
        raise SystemExit(_UNAVAILABLE)
    try:
        yield
    except NeuronBertError as error:
        note(f"Error: {_as_typed(str(error))}")
        raise SystemExit(exit_code(error)) from None
    except KeyboardInterrupt:
        note("Interrupted.")
        raise SystemExit(_INTERRUPTED) from None
    except BrokenPipeError:
        # The reader of a pipe has gone; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(_INTERRUPTED) from None
    except (OSError, UnicodeError) as error:
        # Of stdin or stdout: a full disk behind a redirection, bytes that are no text.
        note(f"Error: input or output failed: {first_line(error)}.")
        raise SystemExit(_UNAVAILABLE) from None


def _as_typed(text: str) -> str:
    # The library's errors name its own parameters: one that was given as an option is named like that.
    named = re.match(r"([a-z_]+) is ", text)
    option = "--" + named[1].replace("_", "-") if named else ""
    typed = {argument.partition("=")[0].replace("_", "-") for argument in sys.argv}
    return option + text[len(named[1]) :] if named and option in typed else text


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
