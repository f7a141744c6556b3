"""The command line: parse, one library call, print. Data goes to stdout, everything else to stderr."""
