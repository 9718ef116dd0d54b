"""Tables that commands print."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from emukit.competitions.ranking import LIMIT
from emukit.metrics import Score
from emukit.runs.score_tables import ScoreTable
from emukit.terminal import duration, size, terminal_table

if TYPE_CHECKING:
    from emukit.data.archive import Archive
    from emukit.data.card import Card
    from emukit.data.frames import FrameEncoder, Window
    from emukit.data.split import Split
    from emukit.metrics.variability import Statistic
    from emukit.planning.memory import DividedCost, MemoryPlan
    from emukit.planning.plan import Bottleneck, Plan
    from emukit.runs.ensemble_scores import EnsembleEvaluation, RegionalScores
    from emukit.runs.evaluate import Evaluation
    from emukit.runs.forecasts import Forecasts

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def span_table(archive: Archive, split: Split, window: Window) -> Table:
    """What trains and what is scored."""
    from emukit.data.split import is_hidden

    title = f"protocol {split.protocol} on {archive.source}"
    table = terminal_table(title)
    for heading in ("set", "scenario", f"{archive.time.unit}s", "members"):
        table.add_column(heading, no_wrap=True)
    table.add_column("targets", justify="right")
    table.add_column("windows", justify="right")
    table.add_column("truth")
    for name, span in [("train", s) for s in split.train] + [(k, s) for k, v in split.scored.items() for s in v]:
        time = archive[span.scenario].time
        full = max(0, span.stop - max(span.start, window.first_target))
        members = ",".join(map(str, span.members))
        truth = "hidden" if is_hidden(archive, span) else "visible"
        table.add_row(
            name,
            span.scenario,
            f"{time.text(span.start)}..{time.text(span.stop - 1)}",
            members,
            str(len(span)),
            str(full),
            truth,
        )
    return table


def window_lines(archive: Archive, split: Split, encoder: FrameEncoder) -> Iterator[str]:
    """The window in words, with the steps that the first training and the first validation target see."""
    window, unit = encoder.settings.window, archive.time.unit
    yield (
        f"window: {window.history} forcing {unit}s, the target {unit} {window.target_month}; "
        f"before a scenario's first {unit}: {window.lead_in}"
    )
    for label, span in (("training", split.train[0]), ("validation", split.validation[0])):
        start = max(span.start, window.first_target)
        time = archive[span.scenario].time
        seen = [time.text(int(i)) for i in window.frames(start, 1, len(time), time)]
        yield f"  first {label} target {span.scenario} {time.text(start)} sees {' '.join(seen)}"
    yield f"channels ({len(encoder.channels)}): {', '.join(encoder.channels)}"
    for note in split.notes:
        yield f"note: {note}"


def encoding_table(encoder: FrameEncoder) -> Table:
    """Seasonal encodings at 45 degrees south and north, by calendar month; of days and hours on its first day."""
    import numpy as np

    from emukit.data.encodings import seasonal_fields

    channels, fields = seasonal_fields(encoder.settings.seasonal, encoder.grid, encoder.time)
    title = "seasonal encoding at 45S and 45N"
    table = terminal_table(title)
    table.add_column("month")
    rows = [int(np.abs(encoder.grid.lat - lat).argmin()) for lat in (-45.0, 45.0)]
    for channel in channels:
        table.add_column(f"{channel}", justify="right")
    days = encoder.time.days_of_year
    first = [i if encoder.time.is_monthly else i * days // 12 for i in range(12)] if channels else []
    for m, name in zip(first, MONTHS, strict=False):
        cells = (f"{fields[m, e, rows[0], 0]:+.2f} {fields[m, e, rows[1], 0]:+.2f}" for e in range(len(channels)))
        table.add_row(name, *cells)
    return table


def score_block(title: str, scores: Mapping[str, Score]) -> ScoreTable:
    """The score and its numbers, a line each; all of one competition."""
    competition = next(iter(scores.values())).competition
    return ScoreTable(
        f"{title} ({competition.direction})", competition, {n: score.line() for n, score in scores.items()}
    )


def evaluation_block(name: str, evaluation: Evaluation) -> ScoreTable:
    """An evaluation: the score, the same with every member as truth, the references and the noise ceiling."""
    from emukit.runs.evaluate import member_lines

    remark = f"; {evaluation.remark}" if evaluation.remark else ""
    title = f"{evaluation.name}: {'; '.join(evaluation.spans)}{remark}"
    references = dict(sorted(evaluation.references.items(), key=lambda kv: kv[1].cost))
    limit = {LIMIT: evaluation.limit} if evaluation.limit else {}
    block = score_block(title, {f"reference: {k}": s for k, s in references.items()} | limit | {name: evaluation.score})
    lines = {name: block.lines[name], **member_lines([evaluation.members]), **block.lines}
    return replace(block, lines=lines)


def plan_tables(name: str, plan: Plan) -> Iterator[Table | Text]:
    """Memory, time and bottlenecks of a training, and what to do about the nearest bottleneck."""
    memory = _cost_table(f"{name}: memory on the {plan.memory.device}")
    for row in plan.memory.rows():
        memory.add_row(*row)
    yield memory
    training, segments = plan.recipe.training, plan.recipe.training.segments
    if plan.divided:
        yield _divided_table(name, plan.memory, plan.divided)
    cost = _cost_table(f"{name}: time")
    batch = f"{segments.batch_size} x {segments.length} months, {training.precision}"
    cost.add_row(
        "a step", _known(plan.step_seconds), f"{'timed' if plan.timed else 'extrapolated'}; batches of {batch}"
    )
    flops = "?" if plan.flops is None else f"{plan.flops / 1e9:.3g} GFLOP"
    cost.add_row("operations", flops, "of a step, forward and backward")
    cost.add_row(
        "training", _known(plan.seconds), f"{training.epochs} epochs of {plan.steps} steps, without validation"
    )
    yield cost
    bottlenecks = _cost_table("bottlenecks, the nearest first")
    for bottleneck in plan.bottlenecks():
        bottlenecks.add_row(bottleneck.name, _part(bottleneck.reached), bottleneck.what)
    yield bottlenecks
    yield from _verdict(plan.bottlenecks())


def _divided_table(name: str, memory: MemoryPlan, cost: DividedCost) -> Table:
    """What the busiest of several processes takes that share a globe."""
    from emukit.planning.memory import on_device

    table = _cost_table(f"{name}: one field over {cost.processes} processes, the busiest of them")
    for name, own, whole in zip(("rows", "columns"), cost.part, cost.grid, strict=True):
        table.add_row(name, str(own), f"of {whole}")
    table.add_row("activations", size(cost.kept), "kept for the backward pass, counted; halos included")
    table.add_row("together", size(on_device(memory, cost)), f"with model and data, of {size(memory.available)}")
    table.add_row("sent", size(cost.sent), "cells for the neighbours in a step, forward and backward")
    return table


def _verdict(bottlenecks: tuple[Bottleneck, ...]) -> Iterator[Text]:
    hit = [w for w in bottlenecks if w.reached is not None and w.reached >= 1]
    for bottleneck in hit:
        yield Text(f"{bottleneck.name}: this bottleneck is reached. Switch on, in this order:")
        for advice in bottleneck.advice:
            yield Text(f"  {advice}")
    if not hit:
        yield Text(f"No bottleneck is reached; the nearest is {bottlenecks[0].name}.")


def _part(reached: float | None) -> str:
    if reached is None:
        return "?"
    return f"{reached:.0%}" if reached < 10 else f"{reached:.0f} x"


def _known(seconds: float | None) -> str:
    return "?" if seconds is None else duration(seconds)


def cost_table(title: str, rows: Iterable[tuple[str, str, str]]) -> Table:
    """What, how much, and a remark, a line each."""
    table = _cost_table(title)
    for row in rows:
        table.add_row(*row)
    return table


def _cost_table(title: str) -> Table:
    table = Table(title=Text(title), title_justify="left", box=None, padding=(0, 1), pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, min_width=11)
    table.add_column(justify="right", no_wrap=True, min_width=11)
    table.add_column()
    return table


ENSEMBLE_HEADINGS = ("ensemble", "number", "emulator", "climate model")


def ensemble_rows(found: EnsembleEvaluation, card: Card) -> Iterator[tuple[str, str, str, str]]:
    """What an ensemble scores, next to the climate model's own members; ranks as shares, lowest first."""

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    def several(value: Statistic | None) -> str:
        if value is None:
            return ""
        digits = 3 if value.mean >= 0.01 else 5
        return f"{value.mean:.{digits}f} ({value.low:.{digits}f}..{value.high:.{digits}f})"

    for name, part in found.parts.items():
        real, unit = found.real[name] if found.real else None, card.targets[name].units
        cells, regional = part.cells, part.regional
        yield name, f"fair CRPS, {unit}", number(cells.crps), number(real.cells.crps if real else None)
        spread = real.cells.spread_over_error if real else None
        yield name, "spread over error", number(cells.spread_over_error), number(spread)
        beyond = f"{cells.ranks[0] + cells.ranks[-1]:.3f} ({2 / len(cells.ranks):.3f} if flat)"
        yield name, "truth beyond all realisations", beyond, ""
        yield (
            name,
            f"energy score of regions, {unit}",
            number(regional.energy),
            number(real.regional.energy if real else None),
        )
        yield name, "regional ranks flat: p", flatness_text(regional), flatness_text(real.regional) if real else ""
        rejected = real.regional.flatness.rejected if real else None
        yield name, "regions not flat (0.05 by chance)", number(regional.flatness.rejected), number(rejected)
        both = [p.variability.numbers() if p and p.variability else {} for p in (part, real)]
        for key, what in VARIABILITY.items():
            if key in both[0]:
                of = what.format(unit=unit, first=next(iter(found.parts)))
                yield name, of, several(both[0][key]), several(both[1].get(key))
    tests = [
        f"{t.accuracy:.3f} ({t.low:.3f}..{t.high:.3f})" if t else "" for t in (found.two_sample, found.two_sample_real)
    ]
    if any(tests):
        yield "all", "told from a member by a classifier", tests[0], tests[1]
    yield "all", "score of the mean of realisations", number(found.mean.value), ""
    yield "all", "score of one realisation", number(found.one.value), ""


# Numbers of several runs by name: the mean over runs, then the smallest and the largest.
VARIABILITY = {
    "std": "std of regional means, {unit}",
    "memory": "memory of regional means",
    "correlation": "correlation of regional means with {first}",
    "annual_variance": "variance of annual global means, ({unit})²",
    "regional_spectrum": "spectrum of regions: rms of log10 ratio",
    "zonal_spectrum": "zonal wavenumbers: rms of log10 ratio",
}


def flatness_text(regional: RegionalScores) -> str:
    """The p-value, with what the counts are worth, and the smallest and largest with one member as truth."""
    if regional.flatness.p is None:
        return "too few steps"
    known = [p for p in regional.by_member if p is not None]
    each = f", by member {min(known):.2f}..{max(known):.2f}" if len(known) > 1 else ""
    return f"{regional.flatness.p:.3f} (n {regional.flatness.effective:.0f}{each})"


FORECAST_HEADINGS = ("forecast", "lead", "RMSE", "persistence", "climatology", "CRPS", "climatology CRPS")


def forecast_rows(found: Forecasts, card: Card) -> Iterator[tuple[str, ...]]:
    """Errors by lead, a variable after the other."""
    for variable, own in found.scores.items():
        for lead, s in own.items():
            crps = ["" if number is None else _digits(number) for number in (s.crps, s.climatology_crps)]
            numbers = (_digits(s.rmse), _digits(s.persistence), _digits(s.climatology))
            yield f"{variable}, {card.targets[variable].units}", lead, *numbers, *crps


def _digits(value: float) -> str:
    """Four digits."""
    return f"{value:.4g}"
