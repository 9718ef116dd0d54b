"""A downscaling run: a network trained on blocks, kept in a folder with everything that made it.

Invariant: what is printed of a run stands next to the three baselines, fitted on the same training months and scored
on the same steps. A folder belongs to one configuration, and is resumed only by it.

    downscale.json            what, from what, with what, how far, and its scores
    metrics.jsonl             one line an epoch
    last.pt                   checkpoint to resume from
    best-EPOCH.safetensors    weights of the best validation score
    samples/NUMBER.png        a validation step, at every validation
    emulator/                 the trained downscaler, whole
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emukit import provenance
from emukit.data.archive import Archive
from emukit.data.block_sampler import BlockSampler, check_size, hit_frequency
from emukit.data.coarsen import Coarsening
from emukit.data.protocol import make_split
from emukit.data.split import Span, Split, is_hidden
from emukit.emulators.downscaler import Downscaler, fit_baselines, known_targets
from emukit.emulators.neural_downscaler import (
    NeuralDownscaler,
    build_block_network,
    fit_frames,
    load_downscaler,
    save_downscaler,
)
from emukit.errors import ProtocolError, RecipeError, RunError
from emukit.files import exclusive, parse_json, read_text, write_text
from emukit.metrics import Moments, Score, mean_score
from emukit.metrics.competition import Competition
from emukit.metrics.downscaling import competition, tail_area, tail_thresholds, zonal_spectrum
from emukit.metrics.ensemble import EnsembleSums, score_ensemble
from emukit.models.precision import matmul_precision
from emukit.objectives.blocks import OnBlocks
from emukit.parallel.comm import Comm
from emukit.progress import Reporter
from emukit.recipes.downscale import DownscaleRecipe, parse_downscale
from emukit.runs.record import DataArguments, card_digest, checked_command
from emukit.training.engine import Engine, Execution
from emukit.training.loop import train

RECORD = "downscale.json"
FORMAT = 1
# Steps that are scored together.
_STEPS = 60
# Realisations by which an ensemble is scored where nobody says.
MEMBERS = 10


@dataclass(frozen=True)
class DownscaleRun:
    """A folder that was read.

    Attributes:
        folder: Where it is.
        recipe: What was trained.
        record: `downscale.json`.
    """

    folder: Path
    recipe: DownscaleRecipe
    record: Mapping[str, Any]

    def downscaler(self) -> NeuralDownscaler:
        """The trained downscaler.

        Raises:
            RunError: Training has not finished, or the folder is damaged.
        """
        if self.record["state"] != "finished":
            begun = self.command or "the command that began it, with"
            raise RunError(
                f"the run {self.folder} has not finished",
                found=f"state {self.record['state']!r}",
                hint=f"{begun} --resume --out {shlex.quote(str(self.folder))}",
            )
        return load_downscaler(self.folder / "emulator")

    @property
    def command(self) -> str:
        """The command that began it, if it is one that trains and does nothing else; folders come from anywhere."""
        return checked_command(str(self.record["command"]))


def read_downscale_run(folder: Path) -> DownscaleRun:
    """Read a run folder.

    Raises:
        RunError: It is none, or is damaged.
    """
    path = folder / RECORD
    try:
        record = parse_json(read_text(path))
        recipe = parse_downscale(record["recipe"], str(path))
        kinds = {"state": str, "identity": dict, "command": str, "data": dict, "scores": dict, "sessions": list}
        wrong = [key for key, kind in kinds.items() if not isinstance(record.get(key), kind)]
        if record["state"] == "finished":
            wrong += [] if _are_scores(record["scores"]) else ["scores"]
            wrong += [] if isinstance(record.get("seconds"), int | float) else ["seconds"]
    except OSError as e:
        raise RunError(
            f"{folder} is not a downscaling run",
            found=f"no {RECORD}",
            hint="name a folder that `emukit train downscale` wrote",
        ) from e
    except (ValueError, KeyError, TypeError, AttributeError, RecipeError) as e:
        raise RunError(f"{path} is damaged", found=str(e), hint="restore it, or train again") from e
    if wrong or record.get("format") != FORMAT or record["identity"].get("recipe") != recipe.digest:
        raise RunError(f"{path} was edited, or is of another version", hint="restore it, or train again")
    return DownscaleRun(folder, recipe, record)


def _are_scores(scores: Mapping[str, Any]) -> bool:
    """Whether every set has its gain, and every label numbers by name."""
    return all(
        isinstance(tables, dict)
        and "gain" in tables
        and all(
            isinstance(own, dict) and all(isinstance(n, int | float) for n in own.values()) for own in tables.values()
        )
        for tables in scores.values()
    )


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
    known = _existing(folder, identity, resume)
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
        "scored": {name: [s.text(archive) for s in spans] for name, spans in split.scored.items()},
        "command": command,
        "sessions": [],
        "scores": {},
    }
    session = {"started": provenance.now(), "versions": provenance.versions(), "git": provenance.git_state()}
    record = {**record, "sessions": [*record["sessions"], {**session, "machine": provenance.machine()}]}
    with exclusive(folder):
        write_text(folder / RECORD, json.dumps(record, indent=1))
        outcome = trainer.train(folder, reporter)
        save_downscaler(trainer.downscaler, folder / "emulator")
        scored = {
            name: score_downscalers(archive, spans, trainer.downscaler, trainer.baselines)
            for name, spans in split.scored.items()
            # Of the whole of a scenario the last decades say enough.
            if name in ("validation", "test") and not any(is_hidden(archive, s) for s in spans)
        }
        record |= {**outcome, "state": "finished", "scores": scored}
        record["seconds"] = round(time.monotonic() - started, 1)
        write_text(folder / RECORD, json.dumps(record, indent=1))
    return read_downscale_run(folder)


def _existing(folder: Path, identity: Mapping[str, Any], resume: bool) -> dict[str, Any] | None:
    if not folder.exists() or not any(p.name != ".lock" for p in folder.iterdir()):
        return None
    run = read_downscale_run(folder)
    different = [k for k, v in identity.items() if run.record["identity"].get(k) != v]
    if different:
        raise RunError(
            f"the run {folder} belongs to another configuration",
            found=f"another {', '.join(different)}",
            expected="the configuration that started it",
            hint="choose another --out",
        )
    if run.record["state"] != "finished" and not resume:
        raise RunError(
            f"the run folder {folder} exists",
            found="an interrupted run of this configuration",
            hint="--resume to continue it, or another --out",
        )
    return dict(run.record)


class DownscaleTrainer:
    """A network with its blocks and baselines, ready to train.

    Attributes:
        downscaler: Holds the best weights in the end.
        baselines: The three.
    """

    def __init__(self, archive: Archive, recipe: DownscaleRecipe, split: Split, seed: int, reporter: Reporter) -> None:
        """Fit statistics, base and baselines on the training months, and draw the weights."""
        self._archive, self._recipe, self._split, self._seed = archive, recipe, split, seed
        check_size(recipe.blocks.size, archive.grid)
        coarsening = Coarsening(archive.grid, recipe.coarse)
        reporter.say("fitting the baselines on the training months")
        self.baselines = fit_baselines(archive, split.train, coarsening)
        targets = known_targets(archive.domain, recipe.targets.of)
        frames = fit_frames(archive, split.train, coarsening, targets, recipe.conditions)
        loss = recipe.loss.for_variables(archive.variables).tables
        objective = recipe.objective.build(None)
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
        )
        comm = Comm()
        self._sampler = BlockSampler(archive, split.train, coarsening, frames, recipe.blocks, comm.device)
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
        reporter.say(
            f"downscale: {self.parameters:,} parameters, {settings.epochs} epochs of {self._sampler.steps_per_epoch} "
            f"batches of {self._recipe.blocks.times * self._recipe.blocks.per_time} blocks"
        )

        spans = self._split.validation

        def validate() -> Score:
            # After a resumed epoch too: pictures are numbered by what is in the folder, never written over.
            number = len([*(folder / "samples").glob("*.png")]) + 1
            draw_sample(self._archive, spans[0], self.downscaler, folder / "samples" / f"{number:04d}.png")
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
        return {"parameters": self.parameters, "epochs": result.epochs, "best_epoch": result.best_epoch}

    def _scored(self, span: Span) -> Score:
        moments = span_moments(self._archive, span, self.downscaler, self._competition)
        return self._competition.score(moments, self._archive.grid.weights, self._archive.variables)


def coarse_truth(archive: Archive, span: Span, coarsening: Coarsening) -> NDArray[np.float64]:
    """(T, V, y, x) what a downscaler is shown of a span's member.

    Raises:
        ProtocolError: The truth is hidden, and so are its coarse fields.
    """
    if is_hidden(archive, span):
        raise ProtocolError(
            f"the coarse fields of {span.text(archive)} are hidden in this store",
            hint="score validation, or downscale fields of another origin",
        )
    return coarsening.down(archive[span.scenario].truth(span.members[0], span.start, span.stop))


def span_moments(archive: Archive, span: Span, downscaler: Downscaler, scored: Competition) -> Moments:
    """The sums of a span, predicted some steps at a time from its coarse truth."""
    scenario = archive[span.scenario]
    total = Moments.zero((len(archive.variables), *archive.grid.shape), tuple(scored.terms))
    coarse = coarse_truth(archive, span, downscaler.coarsening)
    for first in range(0, len(span), _STEPS):
        part = slice(first, min(first + _STEPS, len(span)))
        start, stop = span.start + part.start, span.start + part.stop
        fields = downscaler.fields(coarse[part], scenario.time[start:stop])
        total += scored.moments(fields, scenario.truth(span.members[0], start, stop))
    return total


def best_baseline(archive: Archive, spans: Sequence[Span], baselines: Sequence[Downscaler]) -> dict[str, float]:
    """Variable to the lowest MAE of the baselines, each the mean over spans."""
    plain = competition({v.name: v.units for v in archive.domain.described}, dict.fromkeys(archive.variables, 1.0))
    scores = [
        mean_score(
            [plain.score(span_moments(archive, s, b, plain), archive.grid.weights, archive.variables) for s in spans]
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
) -> dict[str, Any]:
    """All scores of a downscaler and of the baselines on the same steps.

    Args:
        archive: The data, whose truth is coarsened.
        spans: What is scored; numbers are means over them.
        downscaler: The network. Where it draws realisations, errors are those of their mean; tails and spectra those
            of the first.
        baselines: The three.
        members: Realisations, where it draws any; ten when None.

    Returns:
        By label, the numbers by ``VARIABLE.NAME``: ``mae``, ``nmae``, ``rmse``, ``r2``, ``correlation``, ``bias``;
        ``power`` (of the finest quarter of zonal wavenumbers, relative to the truth), ``p99`` and ``p99.9`` (area
        beyond these quantiles of the truth, relative to it); ``crps`` and ``spread`` (over error) of ensembles. Under
        ``gain`` how much lower the MAE is than that of the best baseline.
    """
    best = best_baseline(archive, spans, baselines)
    scored = competition({v.name: v.units for v in archive.domain.described}, best)
    out: dict[str, Any] = {}
    for one in (*baselines, downscaler):
        found = [_numbers(archive, s, one, scored, members or MEMBERS) for s in spans]
        out[one.label] = {k: float(np.mean([f[k] for f in found])) for k in found[0]}
    out["gain"] = {v: 1 - out[downscaler.label][f"{v}.mae"] / best[v] for v in archive.variables}
    return out


def _numbers(archive: Archive, span: Span, one: Downscaler, scored: Competition, members: int) -> dict[str, float]:
    scenario, grid = archive[span.scenario], archive.grid
    truth = scenario.truth(span.members[0], span.start, span.stop)
    coarse = coarse_truth(archive, span, one.coarsening)
    thresholds = tail_thresholds(truth)
    number = members if one.draws else 1
    moments = Moments.zero(truth.shape[1:], tuple(scored.terms))
    sums = EnsembleSums.zero(number, truth.shape[1:])
    power, true_power = (np.zeros((truth.shape[1], grid.shape[1] // 2)) for _ in range(2))
    area, true_area = (np.zeros(thresholds.shape) for _ in range(2))
    for first in range(0, len(span), _STEPS):
        part = slice(first, min(first + _STEPS, len(span)))
        time_ = scenario.time[span.start + part.start : span.start + part.stop]
        drawn = np.stack([one.fields(coarse[part], time_, member=m) for m in range(number)])
        moments += scored.moments(drawn.mean(0), truth[part])
        if number > 1:
            sums += EnsembleSums.of(drawn, truth[part])
        share = len(time_) / len(span)
        power += share * zonal_spectrum(drawn[0], grid)
        true_power += share * zonal_spectrum(truth[part], grid)
        area += share * tail_area(drawn[0], thresholds, grid)
        true_area += share * tail_area(truth[part], thresholds, grid)
    score = scored.score(moments, grid.weights, archive.variables)
    out = {"score": score.value, **score.numbers}
    fine = slice(-(grid.shape[1] // 8), None)
    for v, name in enumerate(archive.variables):
        out[f"{name}.power"] = float(power[v, fine].sum() / true_power[v, fine].sum())
        for i, label in enumerate(("p99", "p99.9")):
            out[f"{name}.{label}"] = float(area[i, v] / true_area[i, v]) if true_area[i, v] else float("nan")
    if number > 1:
        for name, parts in score_ensemble(sums, grid.weights, archive.variables).items():
            out[f"{name}.crps"] = parts.crps
            out[f"{name}.spread"] = parts.spread_over_error or float("nan")
    return out


def draw_sample(archive: Archive, span: Span, downscaler: Downscaler, path: Path) -> None:
    """A picture of the last step of a span: what the pass leaves of the truth, and what the network puts there."""
    from emukit.figures.figure import write_png
    from emukit.figures.maps import MapRow, Panel, draw_maps
    from emukit.files import atomic_path

    scenario, step = archive[span.scenario], span.stop - 1
    truth = scenario.truth(span.members[0], step, span.stop)
    coarse = downscaler.coarsening.down(truth)
    passed = downscaler.coarsening.up(coarse)[0]
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
