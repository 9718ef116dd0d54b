"""A made-up climate whose forced response is known in closed form: data to train on where there is no store.

Invariant: a seed and the settings fix every number, so the truth behind the hidden scenario never needs to be stored.
"""

from emukit.data.demo.climate import CARD, HIDDEN, VARIABLES, DemoClimate, demo_from_attrs, write_demo
from emukit.data.demo.response import SCENARIOS

__all__ = ["CARD", "HIDDEN", "SCENARIOS", "VARIABLES", "DemoClimate", "demo_from_attrs", "write_demo"]
