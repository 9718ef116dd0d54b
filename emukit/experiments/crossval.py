"""How a recipe answers what nobody showed it, asked within the training months alone.

Invariant: no month outside a split's training spans is fitted on, selected on or scored here, so what is chosen by
these scores has seen neither validation nor test.

A year held out at random is no question: its neighbours answer it. The folds leave out what a competition leaves out: a
scenario as a whole, and, in turn, the later part of each while its earlier part and the others stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from emukit.data.archive import Archive
from emukit.data.split import Span, Split, leave_out
from emukit.emulators.base import Emulator
from emukit.errors import ProtocolError
from emukit.experiments.evaluate import mean_score, score_emulator
from emukit.metrics import Score

HELD_OUT = "held-out"


@dataclass(frozen=True)
class CrossValidation:
    """What was scored where it had not been shown.

    Attributes:
        folds: Name of the fold to the score there, the mean over members.
    """

    folds: Mapping[str, Score]

    @property
    def mean(self) -> Score:
        """Of all folds alike, each of the six numbers."""
        return mean_score([*self.folds.values()])

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"mean": self.mean.as_dict(), "folds": {name: s.as_dict() for name, s in self.folds.items()}}


def blocked_folds(archive: Archive, split: Split, *, months: int | None = None, later: bool = True) -> dict[str, Split]:
    """Parts of the training months to fit on, and others to score.

    Every fold has the set ``held-out``, the last months of the scenario that was left out, a span for each member; and
    a validation set of its own, for what must select while it trains: the last months of the spans that are left.

    Args:
        archive: The data.
        split: Its training spans are divided; nothing else of it is used.
        months: How many months a fold scores at most; default: as many as a protocol that leaves a scenario out.
        later: Not only folds without a scenario, but those without the later part of one as well.

    Raises:
        ProtocolError: There are not enough training months to leave some out.
    """
    months = archive.card.loso.test_months if months is None else months
    names = dict.fromkeys(s.scenario for s in split.train)
    last = {name: max((s for s in split.train if s.scenario == name), key=lambda s: s.stop) for name in names}
    folds = {}
    for name, span in last.items():
        start = max(span.start, span.stop - months)
        held_out = tuple(Span(name, start, span.stop, (m,)) for m in span.members)
        parts = [(f"without {name}", 0)] if len(last) > 1 else []
        parts += [(f"without {name} from {archive[name].months[start]}", start)] if later and start > span.start else []
        for label, first in parts:
            fold = leave_out(archive, split, name, first)
            folds[label] = Split(fold.protocol, fold.train, {**fold.scored, HELD_OUT: held_out})
    if not folds:
        raise ProtocolError(
            f"protocol {split.protocol} trains on too few months to leave some out",
            found=", ".join(s.text(archive) for s in split.train),
            expected=f"two scenarios, or one of more than {months} months",
        )
    return folds


def cross_validate(
    archive: Archive,
    folds: Mapping[str, Split],
    fit: Callable[[str, Split], Emulator],
) -> CrossValidation:
    """Fit on every fold, and score what it was not shown.

    Args:
        archive: The data.
        folds: As `blocked_folds` made them.
        fit: From the name and the split of a fold to an emulator; it must look at the split's training and validation
            months alone.
    """
    return CrossValidation(
        {name: score_emulator(fit(name, split), archive, split.scored[HELD_OUT]) for name, split in folds.items()}
    )
