"""Searching the axes of a study: Optuna asks for trials, and the runs of these answer.

Invariant: what is asked for next follows from the study and from what was told before. What was told stands in
`search.json`, a round after the other, and is never told otherwise: a search that was stopped asks for the same trials
again, finds their runs done and continues. A run that is tried again later, or more seeds, change tables and no trial.

Validation scores select, under the one protocol that a search has. Trials are asked for several at a time, as many as
the study says and not as many as this machine trains at once, so that a search is the same on every machine.
"""

from __future__ import annotations

import json
import math
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from statistics import fmean
from typing import Any

from emukit.competitions.registry import competition_of
from emukit.data.archive import Archive
from emukit.distribution import install_hint
from emukit.errors import EmukitError, RecipeError, RunError
from emukit.files import write_text
from emukit.runs.record import MOST, read_json
from emukit.studies.ablate import StudyPlan
from emukit.studies.study import Axis, Study, Variant, recipe_of

SEARCH_FILE = "search.json"
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
            raise EmukitError("Optuna is not installed", hint=install_hint("search")) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            # That trials which run at the same time are told apart was experimental once.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(seed=SEED, constant_liar=True)
        self.version = str(optuna.__version__)
        self._study, self._failed = study, optuna.trial.TrialState.FAIL
        self._known = optuna.create_study(sampler=sampler)
        self._ranges = {axis.path: _distribution(optuna.distributions, axis) for axis in study.axes}
        self._asked: dict[str, Any] = {}
        self._had: set[str] = set()
        self._chance = random.Random(SEED)

    def ask(self, number: int | None = None) -> list[Variant]:
        """The next trials, so many; by default as many as the study has together, until there are all.

        No combination of values is asked for twice; once all were, nothing is.
        """
        left = self._study.number_of_trials - len(self._asked)
        trials = []
        for _ in range(min(left, self._study.together) if number is None else number):
            variant, trial = self._new_trial()
            self._asked[variant.name] = trial
            trials.append(variant)
        return trials

    def _new_trial(self) -> tuple[Variant, Any]:
        """The sampler's next trial, or by chance one of those that were not asked for yet, where it asks again.

        The sampler does not mind repeating itself, and would spend trials on what is known.
        """
        trial = self._known.ask(self._ranges)
        values = self._values(trial.params)
        if _key(values) in self._had:
            # What has failed decides nothing.
            self._known.tell(trial, state=self._failed)
            while _key(values) in self._had:
                drawn = {axis.path: _draw(axis, self._chance) for axis in self._study.axes}
                values = self._values(drawn)
            self._known.enqueue_trial(drawn)
            trial = self._known.ask(self._ranges)
        self._had.add(_key(values))
        return self._study.on_axes(values, f"trial {len(self._had)}:"), trial

    def _values(self, found: Mapping[str, Any]) -> list[Any]:
        return [_value(axis, found[axis.path]) for axis in self._study.axes]

    def tell(self, scores: Mapping[str, float | None]) -> None:
        """What trials cost by their names, the less the better; None where one has failed."""
        for name, score in scores.items():
            if score is None:
                self._known.tell(self._asked[name], state=self._failed)
            else:
                self._known.tell(self._asked[name], score)


def search_study(
    study: Study, archive: Archive, train: Callable[[Sequence[Variant]], StudyPlan], folder: Path
) -> StudyPlan:
    """Train what is known of a study together with the first trials, then further trials.

    Args:
        study: With trials.
        archive: The data.
        train: Trains the study with all trials until now, except for what is trained already.
        folder: Of the study's results, where what was told is kept.

    Returns:
        The plan with all trials.

    Raises:
        EmukitError: Optuna is not installed.
        RunError: What was told is damaged, or this version of Optuna asks for other trials.
    """
    search, trials, path = Search(study), list[Variant](), folder / SEARCH_FILE
    told, version = _read_told(path)
    for scores in told:
        asked = search.ask(len(scores))
        if [trial.name for trial in asked] != list(scores):
            raise RunError(
                f"{path} is of other trials than this search asks for",
                found=", ".join(scores),
                expected=", ".join(trial.name for trial in asked),
                hint=_of_another(version, search.version),
            )
        trials += filter(_is_recipe, asked)
        search.tell(_costs(scores, archive))
    plan = None
    while asked := search.ask():
        trials += filter(_is_recipe, asked)
        plan = train(trials)
        known = validation_scores(plan, archive)
        told.append({trial.name: known.get(trial.name) for trial in asked})
        write_text(path, json.dumps({"optuna": version or search.version, "told": told}, indent=1))
        search.tell(_costs(told[-1], archive))
    return plan or train(trials)


def _costs(scores: Mapping[str, float | None], archive: Archive) -> dict[str, float | None]:
    """What the sampler is to make small."""
    cost = competition_of(archive).cost
    return {name: None if score is None else cost(score) for name, score in scores.items()}


def _of_another(version: str, now: str) -> str:
    """What to do with what was told, where it is of other trials."""
    remove = "remove the file: runs are kept"
    return remove if version == now else f"continue with Optuna {version}, not {now}, or {remove}"


def _read_told(path: Path) -> tuple[list[dict[str, float | None]], str]:
    """Round for round the scores by the names of trials, none where nothing was told; and the version of Optuna."""
    if not path.exists():
        return [], ""
    remedy = f"remove {path}: runs are kept"
    kept = read_json(path, remedy)
    told, version = kept.get("told"), str(kept.get("optuna", "?"))
    rounds: list[Any] = told if isinstance(told, list) else [None]
    if not all(isinstance(r, dict) and all(x is None or _is_score(x) for x in r.values()) for r in rounds):
        raise RunError(f"{path} is damaged", found="no scores of trials", hint=remedy)
    return rounds, version


def _is_score(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < MOST


def _is_recipe(trial: Variant) -> bool:
    """Whether the settings of a trial go together: each was checked, and not with all of the others."""
    try:
        recipe_of(trial)
    except RecipeError:
        return False
    return True


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


def _draw(axis: Axis, chance: random.Random) -> Any:
    """A number of an axis by chance, as the sampler gives it: the place of a value, or one within the range."""
    if axis.values is not None:
        return chance.randrange(len(axis.values))
    # The axis' own check.
    assert axis.low is not None
    assert axis.high is not None
    if isinstance(axis.low, int) and isinstance(axis.high, int):
        return chance.randint(axis.low, axis.high)
    return chance.uniform(float(axis.low), float(axis.high))


def _key(values: Sequence[Any]) -> str:
    """Of a combination: the same for what is the same in a recipe."""
    return json.dumps(values, default=str)


def _value(axis: Axis, found: Any) -> Any:
    if axis.values is not None:
        return axis.values[found]
    if isinstance(found, int) or axis.low is None or axis.high is None:
        return found
    # More digits where the range is narrow; rounding may lead out of it by the last one.
    more = math.log10(max(abs(axis.low), abs(axis.high)) / (axis.high - axis.low))
    rounded = float(f"{found:.{DIGITS + max(0, math.floor(more))}g}")
    return min(max(rounded, float(axis.low)), float(axis.high))
