"""From a recipe and a split to an emulator that is ready to be trained, and to the last fit.

Invariant: normalisers are fitted on the split's training spans alone, and initial weights are a function of the seed.
A finished run that is wrapped has seen nothing that the wrapper is scored on: a run of other data, of another card, or
with training months among the held-out ones is refused before anything is trained.

In a final fit the validation months train too, and nothing is chosen. How long it trains, which weights it keeps and
what a wrapper selected on validation are those of a finished run of the same recipe, protocol, members and data.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from emukit.competitions.registry import competition_of
from emukit.data.archive import Archive
from emukit.data.encodings import daily_fields, seasonal_fields
from emukit.data.frames import FrameEncoder, static_fields
from emukit.data.protocol import make_split
from emukit.data.split import Span, Split, final_split, leave_out
from emukit.data.states import RolloutSampler, sampler_kind
from emukit.data.targets import TargetNormalizer
from emukit.emulators.base import Emulator
from emukit.emulators.neural import NeuralEmulator, share_globe
from emukit.emulators.registry import EMULATORS, load_emulator
from emukit.emulators.residual_correction import ResidualCorrection, residual_archive
from emukit.emulators.trajectory import TrajectoryNetwork
from emukit.emulators.variability import refuse_same_runs
from emukit.emulators.wrapper import Fold, Wrapper
from emukit.errors import ProtocolError, RunError, TrainingError
from emukit.losses.registry import TERMS, loss_terms
from emukit.models.precision import matmul_precision
from emukit.models.registry import NETWORKS, asks, build_network, count_parameters
from emukit.objectives.registry import REGRESSION
from emukit.parallel.comm import Comm
from emukit.parallel.domain import DividedSphere, check_divisible, divide
from emukit.planning.memory import SAFE, count_divided, free_share, memory_plan
from emukit.progress import Reporter
from emukit.recipes.catalogue import check_plugins, identity_digest, model_label
from emukit.recipes.schema import FinishedRun, GeneratorRecipe, NetworkRecipe, Recipe, WrapperRecipe
from emukit.runs.evaluate import check_fits, score_emulator
from emukit.runs.generator import PartTrainer
from emukit.runs.record import Identity, card_digest, read_record
from emukit.sphere import WHOLE, Sphere
from emukit.training.checkpoint import load_best
from emukit.training.engine import Engine, Execution
from emukit.training.footprint import State
from emukit.training.log import LOG, gaps, read_lines
from emukit.training.loop import KeptWeights, train
from emukit.training.settings import TrainingSettings, composite_loss

Finish = Callable[[Path, Reporter], tuple[Emulator, dict[str, Any]]]


def prepare(
    archive: Archive,
    recipe: Recipe,
    split: Split,
    seed: int,
    comm: Comm,
    execution: Execution,
    selected: RefitPolicy | None = None,
) -> Finish:
    """Check recipe and data against each other, and make everything ready.

    Args:
        archive: The data.
        recipe: What to train.
        split: Its months.
        seed: Seed of weights, dropout and batch order.
        comm: The processes.
        execution: How to run.
        selected: What was selected before, for a final fit, whose split has no validation.

    Returns:
        What does the work: from the run folder and a reporter to the trained emulator and, for the record, how it went.

    Raises:
        RecipeError: Options that cannot be built, an unknown feature or static field.
        ProtocolError: A forcing is missing, or the windows or segments do not fit the training months.
    """
    if isinstance(recipe, NetworkRecipe):
        return Trainer(archive, recipe, split, seed, comm, execution, selected=selected).train
    if isinstance(recipe, WrapperRecipe):
        return WrapperTrainer(archive, recipe, split, seed, comm, execution, selected).train
    # In closed form every process fits the same; there is nothing to share.
    entry = EMULATORS[recipe.emulator]
    own = {"seed": seed} if entry.seeded else {}
    fitted: Emulator = EMULATORS.load(recipe.emulator).fit(archive, split, **recipe.options, **own)
    # It is called as the recipe names it.
    fitted.kind = recipe.emulator
    return lambda folder, reporter: (fitted, {})


class WrapperTrainer:
    """An emulator made of others, which are trained one after the other, each in a folder of its own."""

    def __init__(
        self,
        archive: Archive,
        recipe: WrapperRecipe,
        split: Split,
        seed: int,
        comm: Comm,
        execution: Execution,
        selected: RefitPolicy | None = None,
    ) -> None:
        self._archive, self._recipe, self._split = archive, recipe, split
        self._seed, self._comm, self._execution = seed, comm, execution
        self._selected = selected
        self._class: type[Wrapper] = EMULATORS.load(recipe.emulator)
        _check_wrapper(archive, recipe, split)
        self._base_archive = self._class.base_archive(archive, **recipe.options)
        # Refused before others are trained.
        self._finished = {
            number: finished_emulator(run, recipe.parts[number][0], self._base_archive, split)
            for number, run in recipe.finished.items()
        }

    def train(self, folder: Path, reporter: Reporter) -> tuple[Emulator, dict[str, Any]]:
        """Train the bases, or continue; then fit the wrapper. The outcome is that of all networks together."""
        bases, outcomes = self._bases(self._split, folder / "bases", reporter, self._selected)
        parameters = sum(o.get("parameters", 0) for o in outcomes)
        folds = []
        # What folds found was selected before a final fit.
        divided = self._class.cross_fitted and not self._selected
        for name in dict.fromkeys(s.scenario for s in self._split.train) if divided else ():
            reporter.say(f"fold: {name} left out")
            without = leave_out(self._archive, self._split, name)
            held_out = tuple(s for s in self._split.train if s.scenario == name)
            fold, more = self._bases(without, folder / f"without-{name}", reporter)
            folds.append(Fold(held_out, fold, without.train))
            outcomes += more
        options = self._recipe.options | ({"seed": self._seed} if EMULATORS[self._recipe.emulator].seeded else {})
        parts: PartTrainer | None = None
        if isinstance(self._recipe, GeneratorRecipe):
            parts = PartTrainer(self._recipe, self._archive, self._seed, self._comm, folder / "bases", reporter)
            options["train"] = parts
        if self._selected:
            assert isinstance(self._selected.emulator, self._class)
            fitted = self._selected.emulator.refit(self._archive, self._split, bases, folds, **options)
        else:
            fitted = self._class.fit(self._archive, self._split, bases, folds, **options)
        fitted.kind = self._recipe.emulator
        findings = fitted.findings(self._archive, self._split)
        for line in findings:
            reporter.say(f"{self._recipe.emulator}: {line}")
        outcome = {"seconds": sum(o.get("seconds", 0.0) for o in outcomes), "findings": findings}
        if parts:
            outcome["seconds"] += parts.outcome["seconds"]
            parameters += parts.outcome["parameters"]
        # No network has no number of parameters, not zero.
        return fitted, outcome | ({"parameters": parameters} if parameters else {})

    def _bases(
        self, split: Split, folder: Path, reporter: Reporter, selected: RefitPolicy | None = None
    ) -> tuple[tuple[Emulator, ...], list[dict[str, Any]]]:
        bases: list[Emulator] = []
        outcomes: list[dict[str, Any]] = []
        for number, (recipe, copy) in enumerate(self._recipe.parts):
            if number in self._finished:
                bases.append(self._finished[number])
                continue
            name = f"{number}-{model_label(recipe.emulator)}"
            place = folder / name
            place.mkdir(parents=True, exist_ok=True)
            seed, before = self._seed + copy, selected.base(number, name) if selected else None
            if self._class.residual and bases:
                assert isinstance(recipe, NetworkRecipe)  # the recipe's own check
                trainer = Trainer(
                    self._base_archive, recipe, split, seed, self._comm, self._execution, bases[0], before
                )
                trained: Emulator
                trained, outcome = trainer.train(place, reporter)
            else:
                finish = prepare(self._base_archive, recipe, split, seed, self._comm, self._execution, before)
                trained, outcome = finish(place, reporter)
            bases.append(trained)
            outcomes.append(outcome)
        return tuple(bases), outcomes


def _check_wrapper(archive: Archive, recipe: WrapperRecipe, split: Split) -> None:
    """Refuse what a wrapper, or one that it wraps, would refuse after its bases were trained."""
    kind = EMULATORS.load(recipe.emulator)
    kind.check(archive, **recipe.options)
    kind.check_training(archive, split.train, **recipe.options)
    # Its bases are checked on the data that they are trained on.
    archive = kind.base_archive(archive, **recipe.options)
    if kind.varied:
        refuse_same_runs(archive, split.train)
    if kind.cross_fitted and len({s.scenario for s in split.train}) < 2:
        raise ProtocolError(
            f"{recipe.emulator} leaves training scenarios out in turn, and there is only one",
            found=", ".join(dict.fromkeys(s.scenario for s in split.train)),
            hint="a protocol that trains on two or more, or an emulator without folds, such as best-fast",
        )
    for base in (b.recipe for b in recipe.bases if not b.run):
        if isinstance(base, WrapperRecipe):
            _check_wrapper(archive, base, split)
        elif isinstance(base, NetworkRecipe):
            _check_network(archive, base)
        else:
            EMULATORS.load(base.emulator).check(archive, **base.options)


def _check_network(archive: Archive, recipe: NetworkRecipe) -> None:
    """Refuse what a network would refuse when its turn comes, without a statistic or a weight."""
    encodings = (f(recipe.inputs.seasonal, archive.grid, archive.time)[0] for f in (seasonal_fields, daily_fields))
    channels = [*recipe.inputs.forcings, *recipe.inputs.states, *(c for of in encodings for c in of)]
    statics, _ = static_fields(recipe.inputs, archive)
    count_parameters(
        recipe.emulator,
        in_channels=recipe.network_channels(len(channels) + len(statics)),
        variables=len(archive.variables),
        grid=archive.grid.shape,
        history=recipe.inputs.window.history,
        options=recipe.options,
    )


def selecting_spans(emulator: Emulator, archive: Archive, split: Split) -> tuple[Span, ...]:
    """What selects weights: the validation spans; of a trajectory pieces of a day of them, each with a beginning.

    After some days errors are as large as they get, and of two networks the one whose fields fade would be the better.
    Of months and years a piece is a step.
    """
    if not emulator.from_beginning:
        return split.validation
    length = archive.time.per_day
    return tuple(
        replace(span, start=start, stop=min(start + length, span.stop))
        for span in split.validation
        for start in range(span.start, span.stop, length)
    )


class Trainer:
    """A network with its batches and loss, ready to train."""

    def __init__(
        self,
        archive: Archive,
        recipe: NetworkRecipe,
        split: Split,
        seed: int,
        comm: Comm,
        execution: Execution,
        anchor: Emulator | None = None,
        selected: RefitPolicy | None = None,
    ) -> None:
        """Make everything ready.

        Args:
            archive: The data.
            recipe: What to train.
            split: Its training spans train, its validation spans select.
            seed: Seed of weights, dropout and batch order.
            comm: The processes.
            execution: How to run.
            anchor: The network is to learn what this emulator leaves, and is scored together with it.
            selected: What was selected before, for a final fit: nothing validates.

        Raises:
            RunError: What was selected before cannot be read.
        """
        self._archive, self._recipe, self._split, self._seed, self._comm = archive, recipe, split, seed, comm
        encoder = FrameEncoder.fit(archive, split.train, recipe.inputs)
        learned = archive if anchor is None else residual_archive(archive, anchor, split.train)
        targets = {v: recipe.targets.of(v) for v in archive.variables}
        normalizer = TargetNormalizer.fit(learned, split.train, targets)
        sphere: Sphere = WHOLE
        if comm.domain.world > 1:
            if recipe.inputs.states:
                raise TrainingError(
                    "a trajectory is not divided over rows",
                    found=f"--domain {comm.domain.world}, and inputs.states",
                    hint="--devices divides its samples instead",
                )
            sphere = DividedSphere(comm.domain, archive.grid.shape)
            check_divisible(recipe.emulator, NETWORKS.load(recipe.emulator))
            tables = recipe.loss.for_variables(archive.variables).tables.values()
            for term in {name for table in tables for name in table}:
                check_divisible(f"the loss term {term}", TERMS.load(term))
        part = sphere.part(archive.grid.shape)
        sampler = sampler_kind(recipe.inputs)
        source = sampler(learned, split.train, encoder, normalizer, recipe.training.segments, comm.device, part)
        self._track = execution.track
        self._keep: KeptWeights | None = None
        self._ramp: Callable[[float], float] = recipe.loss.ramp
        if selected:
            steps = -(-source.steps_per_epoch // recipe.training.accumulate)
            length = selected.length(recipe.training, steps, competition_of(archive).cost)
            training = recipe.training.model_copy(update={"epochs": length.epochs})
            self._recipe = recipe = recipe.model_copy(update={"training": training})
            self._keep, self._ramp = length.keep, lambda done: recipe.loss.ramp(done * length.stretch)
        kind: Callable[..., NeuralEmulator] = NeuralEmulator
        if isinstance(source, RolloutSampler):
            kind = partial(TrajectoryNetwork, states=source.states)
        fresh: Any = self._network(len(encoder.channels))
        if isinstance(source, RolloutSampler) and asks(type(fresh)):
            center, spread = normalizer.line()
            fresh.know(
                outputs=archive.variables,
                channels=encoder.channels,
                latitudes=archive.grid.lat,
                hours=archive.time.minutes / 60,
                center=center,
                spread=spread,
                change=source.states.scale,
            )
        network_only = kind(
            archive.domain,
            recipe.emulator,
            recipe.options,
            fresh,
            encoder,
            normalizer,
            residual=anchor is not None,
            objective=recipe.objective.name,
            objective_options=recipe.objective.options,
            seed=seed,
        )
        self._selecting = () if selected else selecting_spans(network_only, archive, split)
        self._emulator = network_only
        self._scored: Emulator = (
            network_only if anchor is None else ResidualCorrection(archive.domain, (anchor, network_only))
        )
        self._source = source
        network = self._emulator.network
        self._parameters = sum(p.numel() for p in network.parameters())
        sharded = execution.strategy == "fsdp" and comm.world > 1
        if not sharded:
            network.to(comm.device)
        self._memory = memory_plan(network, source, recipe, comm, sharded=sharded)
        loss = composite_loss(recipe.loss, archive, comm.device, sphere)
        if isinstance(sphere, DividedSphere):
            # A level of the network at which some process has no row shows here, and not in the first step.
            frame = (recipe.network_channels(len(encoder.channels)), *archive.grid.shape)
            history, precision = recipe.inputs.window.history, recipe.training.precision
            columns = comm.domain.columns
            count_divided(network, frame, history, (1, 1), precision, comm.domain.world // columns, columns)
            divide(network, sphere)
            network_only.sphere = sphere
        objective = recipe.objective.build(loss)
        self._engine = Engine(network, source, objective, recipe.training, comm, execution)
        if comm.data.world > 1:
            # The weights were drawn alike; dropout must differ, or every process would drop the same units. Those that
            # share a globe draw what one process would, each for its rows.
            torch.manual_seed((seed * comm.data.world + comm.data.rank + 1) % 2**63)

    def train(self, folder: Path, reporter: Reporter) -> tuple[NeuralEmulator, dict[str, Any]]:
        """Train, or continue; the emulator with its best weights, and what the record keeps of how it went."""
        settings, comm, emulator = self._recipe.training, self._comm, self._emulator
        where = comm.device.type if comm.world == 1 else f"{comm.world} x {comm.device.type}"
        epochs = self._keep.epoch if self._keep else settings.epochs
        reporter.say(
            f"{self._recipe.emulator}: {self._parameters:,} parameters, {len(emulator.encoder.channels)} channels, "
            f"{epochs} epoch{'s' if epochs > 1 else ''} of "
            f"{-(-self._source.steps_per_epoch // settings.accumulate)} steps on {where}"
        )
        objective = self._recipe.objective
        if objective.name == REGRESSION:
            reporter.say(f"loss: {loss_terms(self._recipe.loss.model_dump())}")
        else:
            options = ", ".join(f"{k} {v}" for k, v in objective.options.items())
            reporter.say(f"objective: {objective.name}{f' ({options})' if options else ''}")
        reporter.say(self._memory.line())
        with matmul_precision(settings.precision), emulator.keeping_frames():
            result = train(
                self._engine,
                self._source,
                settings,
                seed=self._seed,
                ramp=self._ramp,
                validate=lambda: score_emulator(self._scored, self._archive, self._selecting, comm),
                folder=folder,
                reporter=reporter,
                keep=self._keep,
                track=self._track,
                about={
                    "recipe": self._recipe.model_dump(mode="json"),
                    "protocol": self._split.protocol,
                    "seed": self._seed,
                    "parameters": self._parameters,
                },
            )
        if comm.world > 1:
            # Wrapped or sharded for training; what is kept is the plain network. It comes to the device if there is
            # room: where it had to be sharded, perhaps not even now that gradients and optimiser are gone.
            emulator.network, emulator.sphere = self._network(len(emulator.encoder.channels)), WHOLE
            emulator.normalizer = emulator.normalizer.whole(self._archive.share)
            load_best(folder, result.best_epoch, emulator.network)
            del self._engine
            gc.collect()
            if State.of(emulator.network, averaged=False).weights <= SAFE * free_share(comm):
                emulator.network.to(comm.device)
            # A globe that had to be divided is predicted by all who share it, too.
            share_globe(emulator, comm)
        emulator.network.eval()
        outcome = {
            "parameters": self._parameters,
            "best_epoch": result.best_epoch,
            "best_average": result.best_average,
            "epochs": result.epochs,
            "seconds": result.seconds,
        }
        return emulator, outcome

    def _network(self, channels: int) -> nn.Module:
        torch.manual_seed(self._seed)
        return build_network(
            self._recipe.emulator,
            in_channels=self._recipe.network_channels(channels),
            variables=len(self._archive.variables),
            grid=self._archive.grid.shape,
            history=self._recipe.inputs.window.history,
            options=self._recipe.options,
        )


def finished_emulator(run: FinishedRun, recipe: Recipe, archive: Archive, split: Split) -> Emulator:
    """The emulator of a base that is a finished run.

    Args:
        run: What the wrapper's recipe says of it.
        recipe: What it trained.
        archive: The data of the wrapper.
        split: Its months.

    Raises:
        RunError: The run is not the one that the recipe names, has not finished, is of other data or another card, or
            has trained or selected on months that the wrapper is to be scored on.
        ProtocolError: It predicts on another grid, or other variables.
    """
    folder = Path(run.folder)
    record = read_record(folder)
    identity = record.identity
    if identity_digest(identity.model_dump(mode="json")) != run.identity:
        raise RunError(
            f"the run {folder} is not the one that the recipe wraps",
            found="a run of another recipe, protocol, seed or data",
            hint="put that run back, or name this one in a recipe of its own",
        )
    if record.state != "finished":
        raise RunError(f"the run {folder} has not finished", hint="finish it first")
    different = {
        "data": (identity.data, archive.digest),
        "data card": (identity.card, card_digest(archive.card)),
    }
    wrong = [what for what, (then, now) in different.items() if then != now]
    if wrong:
        raise RunError(
            f"the run {folder} was trained on something else than is to be wrapped here",
            found=f"another {' and another '.join(wrong)}",
            expected=f"runs of {archive.source}, opened as it is now",
            hint="wrap runs that were trained on the same store with the same --card and --convert",
        )
    own = make_split(archive, identity.protocol, identity.members)
    own = final_split(archive, own) if identity.final else own
    for name, held in split.scored.items():
        # Both may select on the same months.
        selected = own.scored.get("validation", ()) if name != "validation" else ()
        for doing, known in (("trained", own.train), ("selected", selected)):
            if common := _common(known, held):
                raise RunError(
                    f"the run {folder} {doing} on months that the wrapper holds out",
                    found=f"{common.text(archive)}, which protocol {split.protocol} keeps for {name}",
                    expected="runs that never saw them",
                    hint=f"wrap runs of protocol {split.protocol}",
                )
    check_plugins(record.plugins, f"the run {folder}")
    emulator = load_trained(folder, recipe)
    check_fits(emulator, archive)
    return emulator


def load_trained(folder: Path, recipe: Recipe) -> Emulator:
    """The emulator in the folder of a finished run.

    Raises:
        RunError: It is not the one that the recipe trains, or is damaged.
    """
    emulator = load_emulator(folder / "emulator")
    expected = recipe.emulator_kind if isinstance(recipe, NetworkRecipe) else recipe.emulator
    if emulator.kind != expected:
        raise RunError(
            f"the emulator in {folder} is not the one that this run trained",
            found=f"an emulator of the kind {emulator.kind}",
            expected=expected,
            hint="put its own emulator folder back, or train it again",
        )
    return emulator


def _common(known: Iterable[Span], held: Iterable[Span]) -> Span | None:
    """The first held-out span that shares a month of a scenario with a known one, whatever the member."""
    spans = tuple(known)
    return next(
        (h for h in held for k in spans if k.scenario == h.scenario and k.start < h.stop and h.start < k.stop), None
    )


@dataclass(frozen=True)
class RefitLength:
    """How long a network is trained in a final fit.

    Attributes:
        epochs: Of the whole schedule.
        keep: Where it ends.
        stretch: Epochs of the run that selected in one of these.
    """

    epochs: int
    keep: KeptWeights
    stretch: float


@dataclass(frozen=True)
class RefitPolicy:
    """What a finished run, or a base in one, selected.

    Attributes:
        folder: Where its log is.
        emulator: Itself.
    """

    folder: Path
    emulator: Emulator

    def base(self, number: int, place: str) -> RefitPolicy:
        """That of a base of a wrapper, trained in a folder of its own."""
        assert isinstance(self.emulator, Wrapper)
        return RefitPolicy(self.folder / "bases" / place, self.emulator.bases[number])

    def length(self, settings: TrainingSettings, steps_per_epoch: int, cost: Callable[[float], float]) -> RefitLength:
        """As many optimiser steps as the best weights had behind them, in epochs that have more steps.

        Args:
            settings: Of the recipe.
            steps_per_epoch: Of the final fit.
            cost: From a validation score to what was made small.

        Raises:
            RunError: The log of the run is missing, damaged or without a validation score, or the learning rate waited
                for validations, of which a final fit has none.
        """
        if settings.schedule == "plateau":
            raise RunError(
                "a final fit has no validations, for which the schedule of the learning rate waits",
                found="training.schedule = plateau",
                expected="cosine, whose rate follows from the step",
                hint="select with --set training.schedule=cosine, then fit that run again",
            )
        best, keep, before = float("inf"), None, 0.0
        lines = read_lines(self.folder / LOG)
        if missing := gaps(lines):
            raise RunError(
                f"the log of {self.folder} does not say which epoch was best",
                found=missing,
                hint="restore it, name another finished run with --final, or train it again",
            )
        for line in lines:
            for key, averaged in (("validation", False), ("validation_average", True)):
                score = (line.get(key) or {}).get("score")
                if isinstance(score, float) and cost(score) < best:
                    best, keep, before = cost(score), KeptWeights(line["epoch"], averaged), line["step"] / line["epoch"]
        if keep is None:
            raise RunError(
                f"the log of {self.folder} does not say which epoch was best",
                found="no validation score in metrics.jsonl",
                hint="name another finished run with --final, or train it again",
            )
        stretch = steps_per_epoch / before
        epochs = max(1, round(settings.epochs / stretch))
        return RefitLength(
            epochs, KeptWeights(min(epochs, max(1, round(keep.epoch / stretch))), keep.averaged), stretch
        )


def check_selected(folder: Path, before: Identity, now: Identity) -> None:
    """Refuse a run that selected something else than what is to be fitted; only the seed may differ.

    Raises:
        RunError: It did, or is a final fit itself.
    """
    if before.final:
        raise RunError(f"the run {folder} is a final fit, which selected nothing", hint="name the run it came from")
    known, wanted = before.model_dump(exclude={"seed"}), now.model_dump(exclude={"seed"})
    different = [name for name, value in wanted.items() if known[name] != value]
    if different:
        raise RunError(
            f"the run {folder} selected for another configuration",
            found=f"another {', '.join(different)}",
            expected="the same recipe, protocol, members and data; only the seed may differ",
            hint="give --final the settings of that run, or train one with these first",
        )
