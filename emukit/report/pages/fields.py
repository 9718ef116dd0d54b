"""Errors of entries as scripts, since a page opened from disk may load scripts but no data files.

Invariant: a script holds one call with plain values, and text in it can end neither the string nor the script.

A value v is kept as one signed byte q with v = m sign(q) (q / 127)^2, where m is the largest of its quantity: fine near
zero, where maps are read, and never wrong by more than 0.8 % of m.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np

from emukit.data.variable import OTHER_COLOURS
from emukit.figures.maps import coastline, scale_colours
from emukit.metrics import Competition
from emukit.report.pages.model import Entry, Site

STEPS = 127


def entry_script(entry: Entry) -> str:
    """The errors of one entry, for the page that compares."""
    errors = entry.errors
    assert errors is not None
    flat = errors.fields.reshape(len(errors.fields), -1)
    largest = np.maximum(np.abs(flat).max(1), np.finfo(np.float64).tiny)
    # Rounded as it is written: what is read is multiplied by the written number.
    largest = np.array([float(f"{m:.6g}") for m in largest])
    q = np.rint(np.sign(flat) * STEPS * np.sqrt(np.minimum(np.abs(flat) / largest[:, None], 1.0))).astype(np.int8)
    plain = {
        "id": entry.id,
        "months": errors.months,
        "key": errors.key,
        "earth": errors.earth,
        "lat": [round(float(y), 4) for y in errors.lat],
        "lon": [round(float(x), 4) for x in errors.lon],
        "quantities": [
            {
                "name": name,
                "label": label,
                "numbers": errors.numbers[name],
                "largest": float(m),
                "values": base64.b64encode(q[i].tobytes()).decode("ascii"),
            }
            for i, ((name, label), m) in enumerate(zip(errors.quantities.items(), largest, strict=True))
        ],
    }
    return f"emukit.addErrors({_script(plain)});\n"


def site_script(site: Site) -> str:
    """Who can be compared, in which scales and colours, and the coasts."""
    variables = dict.fromkeys(name.partition(".")[0] for name in site.scales)
    named = {q.partition(".")[0]: c for e in site.entries if e.errors for q, c in e.errors.colours.items()}
    plain = {
        "entries": [
            {
                "id": e.id,
                "name": e.name,
                "months": e.errors.months,
                "key": e.errors.key,
                "scores": dict(e.errors.scores),
                "competition": e.errors.competition.name,
                "columns": _columns(e.errors.competition),
                "higherIsBetter": e.errors.competition.higher_is_better,
            }
            for e in site.entries
            if e.errors
        ],
        "scales": dict(site.scales),
        "colours": {v: scale_colours(named.get(v, OTHER_COLOURS)) for v in variables},
        "coast": [np.rint(10 * line).astype(int).ravel().tolist() for line in coastline()],
    }
    return f"emukit.start({_script(plain)});\n"


def _columns(competition: Competition) -> list[dict[str, Any]]:
    """What a table of the competition's numbers needs."""
    return [
        {
            "key": c.key,
            "heading": c.heading,
            "unit": ", ".join(filter(None, (c.measure, c.units))),
            "title": ", ".join(filter(None, (c.description, c.units))),
            "digits": c.digits,
        }
        for c in competition.columns
    ]


def _script(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    # Valid inside a script whether it is a file or stands in a page.
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
