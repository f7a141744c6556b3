"""Several replicas of an artifact's programs, each in a process of its own.

Owns: Pool, which is called like a Session. See docs/shapes.md for what it keeps and what it costs.
"""
