"""Where the command begins: imports take a second in which Ctrl-C would be a traceback of whatever is imported.

Owns: that second. Imports nothing itself.
"""

import sys

_INTERRUPTED = 130


def main() -> None:
    """Run the command line."""
    try:
        from .app import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        raise SystemExit(_INTERRUPTED) from None
