"""Static pages of a leaderboard: values in, files out.

Invariant: nothing here reads runs, data or the clock; whatever a name or a note holds is text on the page, never
markup.
"""
