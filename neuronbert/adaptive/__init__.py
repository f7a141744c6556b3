"""Encoders that drop tokens where they no longer matter: which, what that costs, and how good settings are found."""
