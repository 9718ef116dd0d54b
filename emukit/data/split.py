"""Which steps of the time axis train, which select, which are scored.

Invariant: a step that is scored (validation or test) is in no member's training span. Two members of the same step
share its forcing and most of its climate, so holding out one member alone would leak.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from emukit.data.archive import Archive
from emukit.errors import ProtocolError


@dataclass(frozen=True)
class Span:
    """Consecutive steps of one scenario: [start, stop) of the given members."""

    scenario: str
    start: int
    stop: int
    members: tuple[int, ...]

    def __len__(self) -> int:
        return self.stop - self.start

    def text(self, archive: Archive) -> str:
        """For people: `ssp370 2060-02..2070-01 members 0`."""
        time = archive[self.scenario].time
        members = f"member{'s' * (len(self.members) > 1)} {','.join(map(str, self.members))}"
        return f"{self.scenario} {time.text(self.start)}..{time.text(self.stop - 1)} {members}"


@dataclass(frozen=True)
class Split:
    """Training months and the sets that are scored.

    Attributes:
        protocol: The name users type: ``official``, ``k360``, ``loso:ssp126``.
        train: Spans to fit on.
        scored: Set name (``validation``, ``test``, ``test-all``; ``held-out`` of a fold) to spans; a score over several
            is the mean of theirs.
        notes: What was cut away because the store hides it.
    """

    protocol: str
    train: tuple[Span, ...]
    scored: Mapping[str, tuple[Span, ...]]
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        check_no_leak(self.train, [s for spans in self.scored.values() for s in spans])

    @property
    def validation(self) -> tuple[Span, ...]:
        """What selects: checkpoints, hyper-parameters, ensemble weights.

        Raises:
            ProtocolError: There is none: everything was selected before, and these months train.
        """
        if "validation" not in self.scored:
            raise ProtocolError(
                f"nothing can be selected any more under {self.protocol}",
                found="a final fit, which trains on the validation months",
                expected="all that is selected on validation to be chosen before",
            )
        return self.scored["validation"]

    @property
    def test(self) -> Span:
        """What a submission predicts.

        Raises:
            ProtocolError: There is none: it is a fold, made within the training months of another protocol.
        """
        if "test" not in self.scored:
            raise ProtocolError(
                f"protocol {self.protocol} has no test months",
                found="a fold of a cross-validation, within the training months",
                expected="a protocol to submit for",
                hint="train under the protocol itself",
            )
        return self.scored["test"][0]


def check_no_leak(train: Sequence[Span], held_out: Sequence[Span]) -> None:
    """Refuse a training span that holds a month of a held-out span, whatever the members.

    Raises:
        ProtocolError: There is such a month.
    """
    for t in train:
        for h in held_out:
            if t.scenario == h.scenario and max(t.start, h.start) < min(t.stop, h.stop):
                raise ProtocolError(
                    f"training months of {t.scenario} leak into a held-out span",
                    found=f"training [{t.start}, {t.stop}), held out [{h.start}, {h.stop})",
                    expected="no month in common, for any member",
                )


def is_hidden(archive: Archive, span: Span) -> bool:
    """Whether any month of the span has no visible target."""
    scenario = archive[span.scenario]
    unknown = scenario.targets is None and scenario.stored is None
    return unknown or bool(scenario.hidden[span.start : span.stop].any())


def stretches(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """[start, stop) of every stretch of True in a (T,) mask, in order."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
