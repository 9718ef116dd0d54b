"""All scores on a line: where entries stand between the limit and the references, as a drawing inside the page.

Invariant: positions are linear in the score, from the best that is shown to the worst; what lies beyond the worst
reference is at the end, marked as beyond.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emukit.competitions.ranking import LINES, Row

WIDTH, LINE_Y = 720.0, 46.0
MARGIN = 14.0


@dataclass(frozen=True)
class Mark:
    """A row on the line.

    Attributes:
        x: Where, in units of the drawing.
        name: Of the row.
        kind: Of the row.
        score: Of the row, as it is printed.
        level: Of lines: which row of labels it takes, so that two do not overlap.
        beyond: Whether its score is beyond the end of the line.
    """

    x: float
    name: str
    kind: str
    score: str
    level: int = 0
    beyond: bool = False


def marks(rows: Sequence[Row]) -> list[Mark]:
    """Places of all rows that have a score; none where there are fewer than two."""
    scored = [r for r in rows if r.score is not None]
    if len(scored) < 2:
        return []
    # What is to be small: the score, or its negative where higher is better.
    costs = {r.key: r.competition.cost(r.score or 0.0) for r in scored}
    lines = [costs[r.key] for r in scored if r.kind in LINES]
    low, high = min(costs.values()), max(costs.values())
    # A single failed training would press all others into a point.
    if lines:
        high = min(high, max(lines) + 0.25 * abs(max(lines)))
    high = max(high, low + abs(low) * 1e-9 + 1e-9)
    out: list[Mark] = []
    ends = [-1e9, -1e9, -1e9]
    for row in sorted(scored, key=lambda r: r.order):
        cost = costs[row.key]
        x = MARGIN + (WIDTH - 2 * MARGIN) * min((cost - low) / (high - low), 1.0)
        level = 0
        if row.kind in LINES:
            level = min(range(len(ends)), key=lambda i: (ends[i] > x - 4, ends[i]))
            ends[level] = x + 6.2 * len(row.name)
        out.append(Mark(round(x, 1), row.name, row.kind, f"{row.score:.4f}", level, cost > high))
    return out
