"""Run the command line as `python -m cli` from a checkout."""

from .start import main

main()
