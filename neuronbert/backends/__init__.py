"""Backends: what compiles a head for a target, and what runs the result. One file each; base.py is the port."""
