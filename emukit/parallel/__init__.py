"""Several processes that give the result of one: who they are, how they are started, how a network is spread on them.

Invariant: nothing here is global. A `Comm` is passed to whoever needs it; without one, everything runs alone.
"""
