"""A model that drops tokens, made good: trained for it, and searched for the lengths that cost least."""
