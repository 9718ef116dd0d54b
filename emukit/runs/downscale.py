"""A downscaling run: a network trained on blocks, kept in a folder with everything that made it.

Invariant: what is printed of a run stands next to the three baselines, fitted on the same training months and scored
on the same steps. A folder belongs to one configuration, and is resumed only by it.

    downscale.json            what, from what, with what, how far, and its scores
    metrics.jsonl             one line an epoch
    last.pt                   checkpoint to resume from
    best-EPOCH.safetensors    weights of the best validation score
    samples/NUMBER.png        a validation step, at every validation
    errors.png                where the errors are, of the network and of the best baseline
    emulator/                 the trained downscaler, whole
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emukit import provenance
from emukit.config import toml_value
from emukit.data.archive import Archive
from emukit.data.block_sampler import BlockSampler, check_size, hit_frequency
from emukit.data.coarsen import Coarsening
from emukit.data.grid import Grid
from emukit.data.protocol import make_split
from emukit.data.residency import host_free
from emukit.data.split import Span, Split, is_hidden
from emukit.emulators.downscaler import (
    CrossFit,
    Downscaler,
    coarse_fields,
    fit_baselines,
    fit_bytes,
    known_targets,
)
from emukit.emulators.downscaling_residuals import (
    ConditionSettings,
    CrossFrames,
    ResidualDraws,
    ResidualFrames,
    cross_frames,
    fit_frames,
)
from emukit.emulators.neural_downscaler import NeuralDownscaler, build_block_network, load_downscaler, save_downscaler
from emukit.errors import ProtocolError, RecipeError, RunError
from emukit.files import exclusive, write_text
from emukit.metrics import Moments, Score, mean_score
from emukit.metrics.competition import Competition
from emukit.metrics.downscaling import competition, tail_area, tail_thresholds, texts_of, zonal_spectrum
from emukit.metrics.ensemble import EnsembleSums, score_ensemble
from emukit.models.precision import matmul_precision
from emukit.objectives.base import OnBlocks
from emukit.parallel.comm import Comm
from emukit.progress import Reporter
from emukit.recipes.downscale import DownscaleRecipe, parse_downscale
from emukit.runs.downscale_record import (
    ERRORS,
    FORMAT,
    NETWORK,
    SAMPLES,
    DownscaleRecord,
    read_downscale_record,
)
from emukit.runs.evaluate import refuse_many
from emukit.runs.record import DOWNSCALE_FILE, DataArguments, card_digest
from emukit.terminal import size
from emukit.training.engine import Engine, Execution
from emukit.training.loop import train

# Steps that are scored together.
_STEPS = 60
# Realisations by which an ensemble is scored where nobody says, and on how many steps at most: a step of diffusion
# costs a hundred times that of one answer.
MEMBERS = 10
DRAWN_STEPS = 60
# Steps on which realisations are validated; they are the same at every validation, and so is their noise.
VALIDATED_STEPS = 24
# Realisations and steps of each part of the training by which they are calibrated.
CALIBRATED = (4, 24)


@dataclass(frozen=True)
class DownscaleRun:
    """A folder that was read.

    Attributes:
        folder: Where it is.
        recipe: What was trained.
        about: Its record.
    """

    folder: Path
    recipe: DownscaleRecipe
    about: DownscaleRecord

    @property
    def record(self) -> Mapping[str, Any]:
        """`downscale.json`."""
        return self.about.values

    def downscaler(self) -> NeuralDownscaler:
        """The trained downscaler.

        Raises:
            RunError: Training has not finished, or the folder is damaged.
        """
        self.refuse_unfinished()
        return load_downscaler(self.folder / "emulator")

    def refuse_unfinished(self) -> None:
        """Refuse a run that has no downscaler yet.

        Raises:
            RunError: Training has not finished.
        """
        if self.about.state != "finished":
            begun = self.command or "the command that began it, with"
            raise RunError(
                f"the run {self.folder} has not finished",
                found=f"state {self.about.state!r}",
                hint=f"{begun} --resume --out {shlex.quote(str(self.folder))}",
            )

    @property
    def command(self) -> str:
        """The command that began it, if it is one that trains and does nothing else; folders come from anywhere."""
        return self.about.command


def read_downscale_run(folder: Path) -> DownscaleRun:
    """Read a run folder.

    Raises:
        RunError: It is none, or is damaged.
    """
    about, path = read_downscale_record(folder), folder / DOWNSCALE_FILE
    try:
        recipe = parse_downscale(about.values["recipe"], str(path))
    except (ValueError, KeyError, TypeError, AttributeError, RecipeError) as e:
        raise RunError(f"{path} is damaged", found=str(e), hint="restore it, or train again") from e
    if about.values["identity"].get("recipe") != recipe.digest:
        raise RunError(f"{path} was edited, or is of another version", hint="restore it, or train again")
    return DownscaleRun(folder, recipe, about)


def train_downscaler(
    archive: Archive,
    recipe: DownscaleRecipe,
    folder: Path,
    *,
    protocol: str | None = None,
    members: Sequence[int] | None = None,
    seed: int = 0,
    resume: bool = False,
    data_arguments: DataArguments | None = None,
    command: str = "emukit train downscale",
    reporter: Reporter,
) -> DownscaleRun:
    """Train, score on validation next to the baselines, and keep everything in a folder.

    Args:
        archive: The data.
        recipe: What to train.
        folder: New, or that of an interrupted run of the same configuration with `resume`.
        protocol: Split; the card's default when None.
        members: Members to train on; all when None.
        seed: Of weights, blocks and noise.
        resume: Continue an interrupted run.
        data_arguments: How the archive was opened.
        command: What began it, for the record.
        reporter: Shows progress.

    Raises:
        RunError: The folder holds something else.
        EmukitError: Recipe and data do not fit each other.
    """
    split = make_split(archive, protocol, members)
    identity = {
        "recipe": recipe.digest,
        "protocol": split.protocol,
        "members": list(members) if members is not None else None,
        "seed": seed,
        "data": archive.digest,
        "card": card_digest(archive.card),
    }
    known = _existing(folder, identity, recipe, resume)
    if known and known["state"] == "finished":
        reporter.say(f"{folder} is finished: nothing is trained")
        return read_downscale_run(folder)
    started = time.monotonic()
    trainer = DownscaleTrainer(archive, recipe, split, seed, reporter)
    arguments = data_arguments or DataArguments()
    record: dict[str, Any] = known or {
        "format": FORMAT,
        "state": "training",
        "identity": identity,
        "recipe": recipe.model_dump(mode="json", exclude={"training": {"segments"}}),
        "data": {
            "source": archive.source if archive.source == "demo" else str(Path(archive.source).absolute()),
            "card": arguments.card,
            "convert": dict(arguments.convert or {}),
        },
        "train": [s.text(archive) for s in split.train],
        "units": {v.name: v.units for v in archive.domain.described},
        "scored": {name: [s.text(archive) for s in spans] for name, spans in split.scored.items()},
        "command": command,
        "sessions": [],
        "scores": {},
    }
    session = {"started": provenance.now(), "versions": provenance.versions(), "git": provenance.git_state()}
    record = {**record, "sessions": [*record["sessions"], {**session, "machine": provenance.machine()}]}
    with exclusive(folder):
        write_text(folder / DOWNSCALE_FILE, json.dumps(record, indent=1))
        outcome = trainer.train(folder, reporter)
        save_downscaler(trainer.downscaler, folder / "emulator")
        scored = {}
        for name, spans in split.scored.items():
            # Of the whole of a scenario the last decades say enough.
            if name in ("validation", "test") and not any(is_hidden(archive, s) for s in spans):
                errors: dict[str, NDArray[np.float64]] = {}
                scored[name] = score_downscalers(
                    archive, spans, trainer.downscaler, trainer.baselines, beside=trainer.beside, errors=errors
                )
                if name == "validation":
                    draw_errors(archive, scored[name], errors, [b.label for b in trainer.baselines], folder / ERRORS)
        record |= {**outcome, "state": "finished", "scores": scored}
        record["seconds"] = round(time.monotonic() - started, 1)
        write_text(folder / DOWNSCALE_FILE, json.dumps(record, indent=1))
    return read_downscale_run(folder)


def evaluate_run(
    run: DownscaleRun, archive: Archive, name: str, members: int | None, reporter: Reporter
) -> dict[str, Any]:
    """Score a finished run on a set of its split, next to everything that its training stood next to.

    Args:
        run: Finished.
        archive: Data of the run's grids and variables; baselines are fitted on the run's training months of them.
        name: ``validation``, ``test``, or ``test-all`` where a scenario is left out.
        members: Realisations, where it draws any; ten when None.
        reporter: Shows progress.

    Returns:
        As `score_downscalers`.

    Raises:
        ProtocolError: There is no such set, or its truth is hidden, or the data are on another grid.
        RunError: Realisations are asked of a downscaler that draws none, or more of them than memory holds.
    """
    one, identity = run.downscaler(), run.record["identity"]
    if one.domain.grid != archive.grid or one.domain.variables != archive.variables:
        raise ProtocolError(
            f"the run {run.folder} is of another grid or other variables",
            found=f"{archive.grid.shape}, {', '.join(archive.variables)}",
            expected=f"{one.domain.grid.shape}, {', '.join(one.domain.variables)}",
        )
    if members is not None and not one.draws:
        raise RunError(f"the run {run.folder} has one answer, not an ensemble", hint="leave out --members")
    if archive.digest != identity["data"]:
        reporter.say("note: other data than it was trained on")
    split = make_split(archive, identity["protocol"], identity["members"])
    if name not in split.scored:
        raise ProtocolError(
            f"protocol {split.protocol} has no set {name}", expected=", ".join(split.scored), hint="--split validation"
        )
    for span in split.scored[name]:
        _refuse_hidden(archive, span)
    if members:
        most = max(part.stop - part.start for s in split.scored[name] for part in some_parts(len(s), DRAWN_STEPS))
        # Fields in float64, once more where they are joined.
        refuse_many(members, 2 * 8 * most * len(archive.variables) * archive.grid.weights.size)
    reporter.say("fitting the baselines on the training months")
    baselines = fit_baselines(archive, split.train, one.coarsening)
    plain = one.frames.varied(size=None)
    crossed = _crossed(archive, split, plain, run.recipe.conditions) if one.draws else None
    beside = _beside(archive, plain, crossed, identity["seed"], one.conserves)
    return score_downscalers(archive, split.scored[name], one, baselines, members, beside=beside)


def _existing(
    folder: Path, identity: Mapping[str, Any], recipe: DownscaleRecipe, resume: bool
) -> dict[str, Any] | None:
    if not folder.exists() or not any(p.name != ".lock" for p in folder.iterdir()):
        return None
    run = read_downscale_run(folder)
    different = [k for k, v in identity.items() if run.record["identity"].get(k) != v]
    if different:
        raise RunError(
            f"the run {folder} belongs to another configuration",
            found=f"another {', '.join(different)}{_other_settings(recipe, run.recipe)}",
            expected="the configuration that started it",
            hint="give the settings that it has, as defaults may have changed since, or choose another --out"
            if different == ["recipe"]
            else "choose another --out",
        )
    if run.record["state"] != "finished" and not resume:
        raise RunError(
            f"the run folder {folder} exists",
            found="an interrupted run of this configuration",
            hint="--resume to continue it, or another --out",
        )
    return dict(run.record)


def _other_settings(asked: DownscaleRecipe, held: DownscaleRecipe) -> str:
    """How the settings that are asked for differ from those that a run has, each by its name; empty if they do not."""
    names = sorted({path for recipe in (asked, held) for path in _paths(recipe.model_dump(exclude={"description"}))})
    found = [(path, *(_setting(recipe, path) for recipe in (asked, held))) for path in names]
    told = [f"{'.'.join(path)} = {_text(a)}, where the run has {_text(b)}" for path, a, b in found if a != b]
    return f" ({'; '.join(told[:3])}{'; and others' if len(told) > 3 else ''})" if told else ""


def _text(setting: Any) -> str:
    return "nothing" if setting is None else toml_value(setting)


def _paths(values: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _paths(value, (*above, name))
        else:
            yield *above, name


def _setting(value: Any, path: tuple[str, ...]) -> Any:
    """What a recipe says under a path; None where it has nothing there."""
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
    return value


class DownscaleTrainer:
    """A network with its blocks and baselines, ready to train.

    Attributes:
        downscaler: Holds the best weights in the end.
        baselines: The three.
        beside: What else its scores stand next to: the regression that it is added to, and noise without a network
            where it draws.
    """

    def __init__(self, archive: Archive, recipe: DownscaleRecipe, split: Split, seed: int, reporter: Reporter) -> None:
        """Fit statistics, base and baselines on the training months, and draw the weights."""
        self._archive, self._recipe, self._split, self._seed = archive, recipe, split, seed
        coarsening = refuse_large(recipe, len(archive.variables), archive.grid, archive.time.seasons)
        reporter.say("fitting the baselines on the training months")
        self.baselines = fit_baselines(archive, split.train, coarsening)
        targets = known_targets(archive.domain, recipe.targets.of, recipe.conditions.root)
        frames = fit_frames(archive, split.train, coarsening, targets, recipe.conditions)
        spans: Sequence[Span] = split.train
        shown: ResidualFrames | Sequence[ResidualFrames] = frames
        objective = recipe.objective.build(None)
        conserves = recipe.conditions.conserve and coarsening.whole
        if recipe.conditions.conserve and not conserves:
            reporter.say("note: coarse cells do not hold whole fine cells, or are no means: theirs are not kept")
        crossed = _crossed(archive, split, frames, recipe.conditions)
        self._calibrated = crossed if objective.draws and recipe.conditions.calibrate else None
        self.beside = _beside(archive, frames, crossed if objective.draws else None, seed, conserves)
        if crossed is not None:
            frames, spans, shown = crossed
        loss = recipe.loss.for_variables(archive.variables).tables
        torch.manual_seed(seed)
        network = build_block_network(frames, len(archive.variables), recipe.model.model_dump(), objective)
        self.downscaler = NeuralDownscaler(
            archive.domain,
            coarsening,
            frames,
            network,
            recipe.model.model_dump(),
            recipe.blocks,
            recipe.overlap,
            objective=recipe.objective.name,
            objective_options=recipe.objective.options,
            seed=seed,
            trained_on={"protocol": split.protocol, "data": archive.digest},
            conserves=conserves,
        )
        comm = Comm()
        self._sampler = BlockSampler(archive, spans, coarsening, shown, recipe.blocks, comm.device)
        on_blocks = OnBlocks(objective, loss, archive.variables)
        self._engine = Engine(network, self._sampler, on_blocks, recipe.training, comm, Execution())
        self.parameters = sum(p.numel() for p in network.parameters())
        found = best_baseline(archive, split.validation, self.baselines)
        self._competition = competition({v.name: v.units for v in archive.domain.described}, found)
        hits = hit_frequency(archive.grid, recipe.blocks.size)
        reporter.say(
            f"a cell is in a block with probability {hits.max():.3f}, next to the poles {hits.min():.4f}; "
            f"weights: {recipe.blocks.weights}"
        )

    def train(self, folder: Path, reporter: Reporter) -> dict[str, Any]:
        """Train, or continue; how it went, for the record."""
        settings = self._recipe.training
        epochs = f"{settings.epochs} epoch{'s' if settings.epochs > 1 else ''}"
        reporter.say(
            f"downscale: {self.parameters:,} parameters, {epochs} of {self._sampler.steps_per_epoch} "
            f"batches of {self._recipe.blocks.times * self._recipe.blocks.per_time} blocks"
        )

        spans = self._split.validation

        def validate() -> Score:
            # After a resumed epoch too: pictures are numbered by what is in the folder, never written over.
            number = len([*(folder / SAMPLES).glob("*.png")]) + 1
            draw_sample(self._archive, spans[0], self.downscaler, folder / SAMPLES / f"{number:04d}.png")
            return mean_score([self._scored(s) for s in spans])

        with matmul_precision(settings.precision):
            result = train(
                self._engine,
                self._sampler,
                settings,
                seed=self._seed,
                ramp=self._recipe.loss.ramp,
                validate=validate,
                folder=folder,
                reporter=reporter,
            )
        outcome = {"parameters": self.parameters, "epochs": result.epochs, "best_epoch": result.best_epoch}
        if self._calibrated is None:
            return outcome
        spread = fold_spread(self._archive, self._calibrated, self.downscaler)
        self.downscaler.frames = respread(self.downscaler.frames, spread)
        said = ", ".join(f"{v} {s:.2f}" for v, s in zip(self._archive.variables, spread, strict=True))
        reporter.say(f"spread over error on training steps: {said}; realisations are spread by the inverse")
        return outcome | {"fold_spread": dict(zip(self._archive.variables, spread.tolist(), strict=True))}

    def _scored(self, span: Span) -> Score:
        """The score of its answer; where it draws, with the fair CRPS of two realisations in the place of the MAE.

        The error of one realisation would be smallest without any spread.
        """
        archive, scored, one = self._archive, self._competition, self.downscaler

        def score(moments: Moments) -> Score:
            return scored.score(moments, archive.grid.weights, archive.variables)

        if not one.draws:
            return score(span_moments(archive, span, one, scored))
        coarse, scenario = coarse_truth(archive, span, one.coarsening, one.context), archive[span.scenario]
        shape = (len(archive.variables), *archive.grid.shape)
        errors, distance = (Moments.zero(shape, tuple(scored.terms)) for _ in range(2))
        for part in some_parts(len(span), VALIDATED_STEPS):
            start, stop = span.start + part.start, span.start + part.stop
            truth = scenario.truth(span.members[0], start, stop)
            a, b = (one.fields(coarse[part], scenario.time[start:stop], member=m) for m in (0, 1))
            errors += scored.moments(a, truth)
            errors += scored.moments(b, truth)
            distance += scored.moments(a, b)
        found, apart = score(errors), score(distance)
        # Of one answer the CRPS is the MAE, so it has the same key and weight.
        fair = {f"{v}.mae": found[f"{v}.mae"] - 0.5 * apart[f"{v}.mae"] for v in archive.variables}
        return replace(found, numbers={**found.numbers, **fair})


def refuse_large(recipe: DownscaleRecipe, variables: int, grid: Grid, seasons: int) -> Coarsening:
    """Refuse blocks and coarse grids larger than the map, and a regression that does not fit into memory.

    Args:
        recipe: What is to be trained.
        variables: V.
        grid: The fine grid.
        seasons: G, seasons of the time axis.

    Returns:
        The pass on this grid. No field was needed for it.

    Raises:
        RecipeError: One of them is too large.
    """
    check_size(recipe.blocks.size, grid)
    conditions, coarsening = recipe.conditions, Coarsening(grid, recipe.coarse)
    if conditions.base != "regression":
        return coarsening
    needed = fit_bytes(
        variables,
        grid.shape,
        coarsening.shape,
        seasons,
        width=conditions.width,
        context=conditions.context,
        context_width=conditions.context_width,
    )
    free = host_free()
    if needed > free:
        smaller = ["--set conditions.context_width=1"] if conditions.context_width > 1 else []
        smaller += ["fewer steps of conditions.context"] if conditions.context else []
        smaller += ["a smaller conditions.width"] if conditions.width > 1 else []
        raise RecipeError(
            "the regression that the network is added to does not fit into memory",
            found=f"{size(needed)} for conditions.width = {conditions.width}, conditions.context = "
            f"{conditions.context} and conditions.context_width = {conditions.context_width}",
            expected=f"less than the {size(free)} that are free",
            hint=", ".join([*smaller, "or --set conditions.base=pass, which fits no regression"]),
        )
    return coarsening


def _crossed(
    archive: Archive, split: Split, frames: ResidualFrames, conditions: ConditionSettings
) -> CrossFrames | None:
    """Frames out of fold, where the network learns what is left there."""
    if conditions.residual == "in-sample":
        return None
    base = frames.base
    fitted = None if base is None else CrossFit.of(archive, split.train, base, conditions.penalty)
    return cross_frames(
        archive, split.train, frames, fitted, calibrate=conditions.calibrate, climate=conditions.climate
    )


def _beside(
    archive: Archive, frames: ResidualFrames, crossed: CrossFrames | None, seed: int, conserves: bool
) -> tuple[Downscaler, ...]:
    """What else scores stand next to: the regression, and with what it leaves out of fold as noise."""
    if frames.base is None:
        return ()
    regression = copy(frames.base)
    regression.conserves = conserves
    if crossed is None:
        return (regression,)
    noise = ResidualDraws.fit(archive, crossed, seed=seed)
    noise.conserves = conserves
    return (regression, noise)


def fold_spread(archive: Archive, crossed: CrossFrames, downscaler: NeuralDownscaler) -> NDArray[np.float64]:
    """(V,) spread over error of realisations, of some training steps of each part, with bases that did not know it.

    Both are taken in units of the answer, in which what is left is normal and has unit variance in every cell: in
    mm/day a few wet cells would decide.
    """
    members, steps = CALIBRATED
    rows, columns = (np.arange(n) for n in archive.grid.shape)
    sums = EnsembleSums.zero(members, (len(archive.variables), *archive.grid.shape))
    for span, frames in zip(crossed.spans, crossed.apart, strict=True):
        scenario, one = archive[span.scenario], copy(downscaler)
        one.frames = frames
        coarse = coarse_truth(archive, span, one.coarsening, one.context)
        for part in some_parts(len(span), steps):
            start, stop = span.start + part.start, span.start + part.stop
            shown, axis = coarse[part], scenario.time[start:stop]
            _, base = frames.block(shown, axis, rows, columns)
            fields = [one.fields(shown, axis, member=m) for m in range(members)]
            fields.append(scenario.truth(span.members[0], start, stop).astype(np.float64))
            *drawn, truth = (frames.residual(field, base, axis, rows, columns) for field in fields)
            sums += EnsembleSums.of(np.stack(drawn), truth)
    found = score_ensemble(sums, archive.grid.weights, archive.variables).values()
    return np.array([one.spread_over_error or 1.0 for one in found])


def respread(frames: ResidualFrames, spread: NDArray[np.float64]) -> ResidualFrames:
    """Frames whose answers are spread by the inverse of what was found, at most twice as far and at least half."""
    assert frames.size is not None
    return frames.varied(size=frames.size / np.clip(spread, 0.5, 2.0)[:, None, None])


def some_parts(steps: int, most: int) -> list[slice]:
    """Parts of at most 12 steps, evenly over a series, that hold at most so many; all steps where there are no more."""
    if steps <= most:
        return [slice(i, min(i + _STEPS, steps)) for i in range(0, steps, _STEPS)]
    size = min(12, most)
    number = most // size
    first = np.linspace(0, steps - size, number).round().astype(int) if number > 1 else [(steps - size) // 2]
    return [slice(int(i), int(i) + size) for i in first]


def _refuse_hidden(archive: Archive, span: Span) -> None:
    if is_hidden(archive, span):
        raise ProtocolError(
            f"the coarse fields of {span.text(archive)} are hidden in this store",
            found="no targets of these steps",
            expected="a set whose truth the store shows",
            hint="score validation with --split validation, or downscale fields of another origin",
        )


def coarse_truth(archive: Archive, span: Span, coarsening: Coarsening, context: int = 0) -> NDArray[np.float64]:
    """(T, (1 + 2 context) V, y, x) what a downscaler is shown of a span's first member.

    Raises:
        ProtocolError: The truth is hidden, and so are its coarse fields.
    """
    _refuse_hidden(archive, span)
    return coarse_fields(archive, span, span.members[0], coarsening, context)


def span_moments(
    archive: Archive, span: Span, downscaler: Downscaler, scored: Competition, parts: Sequence[slice] | None = None
) -> Moments:
    """The sums of a span, or of some parts of it, predicted some steps at a time from its coarse truth."""
    scenario = archive[span.scenario]
    total = Moments.zero((len(archive.variables), *archive.grid.shape), tuple(scored.terms))
    coarse = coarse_truth(archive, span, downscaler.coarsening, downscaler.context)
    for part in some_parts(len(span), len(span)) if parts is None else parts:
        start, stop = span.start + part.start, span.start + part.stop
        fields = downscaler.fields(coarse[part], scenario.time[start:stop])
        total += scored.moments(fields, scenario.truth(span.members[0], start, stop))
    return total


def best_baseline(
    archive: Archive,
    spans: Sequence[Span],
    baselines: Sequence[Downscaler],
    parts: Mapping[Span, Sequence[slice]] | None = None,
) -> dict[str, float]:
    """Variable to the lowest MAE of the baselines, each the mean over spans; of some `parts` of each, or of all."""
    plain = competition({v.name: v.units for v in archive.domain.described}, dict.fromkeys(archive.variables, 1.0))
    scores = [
        mean_score(
            [
                plain.score(
                    span_moments(archive, s, b, plain, None if parts is None else parts[s]),
                    archive.grid.weights,
                    archive.variables,
                )
                for s in spans
            ]
        )
        for b in baselines
    ]
    return {v: min(s[f"{v}.mae"] for s in scores) for v in archive.variables}


def score_downscalers(
    archive: Archive,
    spans: Sequence[Span],
    downscaler: Downscaler,
    baselines: Sequence[Downscaler],
    members: int | None = None,
    beside: Sequence[Downscaler] = (),
    errors: dict[str, NDArray[np.float64]] | None = None,
) -> dict[str, Any]:
    """All scores of a downscaler and of the baselines on the same steps.

    Args:
        archive: The data, whose truth is coarsened.
        spans: What is scored; numbers are means over them.
        downscaler: The network. Where it draws realisations, errors are those of their mean; tails and spectra those
            of the first. Everything is then scored on 60 steps at most, in years evenly over each span.
        baselines: The three.
        members: Realisations, where it draws any; ten when None.
        beside: What else is scored on the same steps.
        errors: Where the (V, Y, X) MAE of each cell is put, by label, the mean over spans.

    Returns:
        By label, the numbers by ``VARIABLE.NAME``: ``mae``, ``nmae``, ``rmse``, ``r2``, ``correlation``, ``bias``;
        ``power`` (of the finest quarter of zonal wavenumbers, relative to the truth), ``spectrum`` (the quarter whose
        power is furthest from that of the truth, relative to it, less one), ``p99`` and ``p99.9`` (area beyond these
        quantiles of the truth, relative to it); of ensembles ``crps``, ``sharpness`` (CRPS over the MAE of the mean)
        and ``spread`` (over error). Under ``gain`` how much lower the MAE is than that of the best baseline.
    """
    parts = {s: some_parts(len(s), DRAWN_STEPS if downscaler.draws else len(s)) for s in spans}
    best = best_baseline(archive, spans, baselines, parts)
    scored = competition({v.name: v.units for v in archive.domain.described}, best)
    out: dict[str, Any] = {}
    for one in (*baselines, *beside, downscaler):
        found = [_numbers(archive, s, one, scored, members or MEMBERS, parts[s]) for s in spans]
        out[one.label] = {k: float(np.mean([f[k] for f, _ in found])) for k in found[0][0]}
        if errors is not None:
            errors[one.label] = np.mean([own for _, own in found], 0)
    out["gain"] = {v: 1 - out[downscaler.label][f"{v}.mae"] / best[v] for v in archive.variables}
    return out


def _numbers(
    archive: Archive, span: Span, one: Downscaler, scored: Competition, members: int, parts: Sequence[slice]
) -> tuple[dict[str, float], NDArray[np.float64]]:
    """The numbers of a span, and the (V, Y, X) MAE of each cell."""
    scenario, grid = archive[span.scenario], archive.grid
    truth = scenario.truth(span.members[0], span.start, span.stop)
    coarse = coarse_truth(archive, span, one.coarsening, one.context)
    steps = sum(part.stop - part.start for part in parts)
    thresholds = tail_thresholds(np.concatenate([truth[part] for part in parts]))
    number = members if one.draws else 1
    moments = Moments.zero(truth.shape[1:], tuple(scored.terms))
    sums = EnsembleSums.zero(number, truth.shape[1:])
    power, true_power = (np.zeros((truth.shape[1], grid.shape[1] // 2)) for _ in range(2))
    area, true_area = (np.zeros(thresholds.shape) for _ in range(2))
    for part in parts:
        time_ = scenario.time[span.start + part.start : span.start + part.stop]
        drawn = np.stack([one.fields(coarse[part], time_, member=m) for m in range(number)])
        moments += scored.moments(drawn.mean(0), truth[part])
        if number > 1:
            sums += EnsembleSums.of(drawn, truth[part])
        share = len(time_) / steps
        power += share * zonal_spectrum(drawn[0], grid)
        true_power += share * zonal_spectrum(truth[part], grid)
        area += share * tail_area(drawn[0], thresholds, grid)
        true_area += share * tail_area(truth[part], thresholds, grid)
    score = scored.score(moments, grid.weights, archive.variables)
    out = {"score": score.value, **score.numbers}
    fine = slice(-(grid.shape[1] // 8), None)
    for v, name in enumerate(archive.variables):
        out[f"{name}.power"] = float(power[v, fine].sum() / true_power[v, fine].sum())
        quarters = zip(*(np.array_split(p[v], 4) for p in (power, true_power)), strict=True)
        out[f"{name}.spectrum"] = max((float(p.sum() / t.sum()) - 1 for p, t in quarters), key=abs)
        for i, label in enumerate(("p99", "p99.9")):
            out[f"{name}.{label}"] = float(area[i, v] / true_area[i, v]) if true_area[i, v] else float("nan")
    if number > 1:
        for name, found in score_ensemble(sums, grid.weights, archive.variables).items():
            out[f"{name}.crps"] = found.crps
            out[f"{name}.sharpness"] = found.crps / out[f"{name}.mae"] if out[f"{name}.mae"] else float("nan")
            out[f"{name}.spread"] = found.spread_over_error or float("nan")
    return out, np.asarray(moments.more["absolute error"] / moments.n)


def draw_errors(
    archive: Archive,
    scores: Mapping[str, Any],
    errors: Mapping[str, NDArray[np.float64]],
    baselines: Sequence[str],
    path: Path,
) -> None:
    """Maps of the MAE of the best baseline and of the network, and their difference.

    Args:
        archive: The data.
        scores: By label, as `score_downscalers` returns them.
        errors: By label, as it fills them in.
        baselines: Labels of the three.
        path: A new PNG.
    """
    from emukit.figures.figure import write_png
    from emukit.figures.maps import MapRow, Panel, draw_maps
    from emukit.files import atomic_path

    rows = []
    for v, variable in enumerate(archive.domain.described):
        best = min(baselines, key=lambda label: scores[label][f"{variable.name}.mae"])
        texts = texts_of({label: scores[label] for label in (best, NETWORK)}, variable.name, ("mae",))
        panels = tuple(Panel(f"{label}: {texts[label][0]}", errors[label][v]) for label in (best, NETWORK))
        gain = Panel(
            f"network less baseline: {-scores['gain'][variable.name]:+.1%}", errors[NETWORK][v] - errors[best][v]
        )
        rows.append(MapRow(variable.colours, f"MAE of {variable.name}, {variable.units}", panels, gain, positive=True))
    figure = draw_maps(rows, archive.grid, "mean absolute errors, validation", earth=archive.source != "demo")
    with atomic_path(path) as temporary:
        write_png(figure, temporary, {"Title": "mean absolute errors"})


def draw_sample(archive: Archive, span: Span, downscaler: Downscaler, path: Path) -> None:
    """A picture of the last step of a span: what the pass leaves of the truth, and what the network puts there."""
    from emukit.figures.figure import write_png
    from emukit.figures.maps import MapRow, Panel, draw_maps
    from emukit.files import atomic_path

    scenario, step = archive[span.scenario], span.stop - 1
    truth = scenario.truth(span.members[0], step, span.stop)
    last = slice(len(span) - 1, len(span))
    coarse = coarse_fields(archive, span, span.members[0], downscaler.coarsening, downscaler.context, last)
    passed = downscaler.coarsening.up(coarse[:, : len(archive.variables)])[0]
    found = downscaler.fields(coarse, scenario.time[step : span.stop])[0]
    rows = [
        MapRow(
            variable.colours,
            f"{variable.name}, {variable.units}",
            (Panel("truth minus pass", truth[0, v] - passed[v]), Panel("downscaled minus pass", found[v] - passed[v])),
        )
        for v, variable in enumerate(archive.domain.described)
    ]
    text = f"{span.scenario} {scenario.time.text(step)}"
    figure = draw_maps(
        rows, archive.grid, f"what the coarse field does not say: {text}", earth=archive.source != "demo"
    )
    with atomic_path(path) as temporary:
        write_png(figure, temporary, {"Title": text})
