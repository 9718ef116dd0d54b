"""Searching the axes of a study: Optuna asks for trials, and the runs of these answer.

Invariant: what is asked for next follows from the study and from the validation scores of finished runs alone. Nothing
is kept of a search but its runs: one that was stopped asks for the same trials again, finds them done, and goes on.

Another number of seeds or protocols gives trials other scores, and so does a failed run that is tried again with
success: what is asked for after that may be something else, and what was asked for before is in the pool of runs, but
in the table no more.

Trials are asked for several at a time, as many as the study says and not as many as this machine trains at once, so
that a search is the same on every machine.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from statistics import fmean
from typing import Any

from emukit.data.archive import Archive
from emukit.errors import EmukitError
from emukit.experiments.ablate import StudyPlan
from emukit.experiments.study import Axis, Study, Variant

# Of what the sampler draws.
SEED = 0
# Of a number on a range: more would make commands long, and nothing better.
DIGITS = 4


class Search:
    """What was asked for in a study, and what came of it."""

    def __init__(self, study: Study) -> None:
        """Begin with nothing known.

        Args:
            study: With trials.

        Raises:
            EmukitError: Optuna is not installed.
        """
        try:
            optuna = import_module("optuna")
        except ImportError:
            raise EmukitError("Optuna is not installed", hint='pip install "emukit[search]"') from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            # That trials which run at the same time are told apart was experimental once.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(seed=SEED, constant_liar=True)
        self._study, self._failed = study, optuna.trial.TrialState.FAIL
        self._known = optuna.create_study(sampler=sampler)
        self._ranges = {axis.path: _distribution(optuna.distributions, axis) for axis in study.axes}
        self._asked: dict[str, Any] = {}

    def ask(self) -> list[Variant]:
        """The next trials; none when there have been as many as the study says."""
        left = (self._study.trials or 0) - len(self._asked)
        trials = []
        for _ in range(min(left, self._study.together)):
            trial = self._known.ask(self._ranges)
            values = [_value(axis, trial.params[axis.path]) for axis in self._study.axes]
            variant = self._study.on_axes(values, f"trial {trial.number + 1}:")
            self._asked[variant.name] = trial
            trials.append(variant)
        return trials

    def tell(self, scores: Mapping[str, float | None]) -> None:
        """The validation scores of trials by their names; None where one has failed."""
        for name, score in scores.items():
            if score is None:
                self._known.tell(self._asked[name], state=self._failed)
            else:
                self._known.tell(self._asked[name], score)


def search_study(study: Study, archive: Archive, train: Callable[[Sequence[Variant]], StudyPlan]) -> StudyPlan:
    """Train what is known of a study together with the first trials, then further trials.

    Args:
        study: With trials.
        archive: The data.
        train: Trains the study with all trials until now, but for what is trained already.

    Returns:
        The plan with all trials.

    Raises:
        EmukitError: Optuna is not installed.
    """
    search, trials = Search(study), list[Variant]()
    while asked := search.ask():
        trials += asked
        plan = train(trials)
        scores = validation_scores(plan, archive)
        search.tell({trial.name: scores[trial.name] for trial in asked})
    return plan


def validation_scores(plan: StudyPlan, archive: Archive) -> dict[str, float | None]:
    """What selects: by variant the mean over its runs, on the months that validate; None where one has not finished."""
    scores: dict[str, float | None] = {}
    for variant in plan.variants:
        runs = [run.finished(archive) for run in plan.runs if run.variant == variant.name]
        known = [run.evaluation("validation")["score"] for run in runs if run]
        scores[variant.name] = fmean(known) if known and len(known) == len(runs) else None
    return scores


def _distribution(distributions: Any, axis: Axis) -> Any:
    if axis.values is not None:
        # By their places: a value may be a list or a table.
        return distributions.CategoricalDistribution([*range(len(axis.values))])
    whole = isinstance(axis.low, int) and isinstance(axis.high, int)
    kind = distributions.IntDistribution if whole else distributions.FloatDistribution
    return kind(axis.low, axis.high, log=axis.log)


def _value(axis: Axis, found: Any) -> Any:
    if axis.values is not None:
        return axis.values[found]
    if isinstance(found, int):
        return found
    # Rounding may lead out of the range by the last digit.
    return min(max(float(f"{found:.{DIGITS}g}"), float(axis.low or 0.0)), float(axis.high or 0.0))
