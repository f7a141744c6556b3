"""Run the command line as `python -m cli` from a checkout."""

from .app import main

main()
