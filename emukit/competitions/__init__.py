"""Competitions: how each scores, what its submissions look like, what was published."""
