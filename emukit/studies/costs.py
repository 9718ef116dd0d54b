"""What the runs of a study take on this machine, measured before any is started."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from emukit.data.archive import Archive
from emukit.data.protocol import make_split
from emukit.parallel.comm import Comm
from emukit.planning.training_time import (
    TRIED_SECONDS,
    Cost,
    epoch_seconds,
    epoch_seconds_together,
    start_seconds,
    trainings,
)
from emukit.progress import Reporter, silent_reporter
from emukit.recipes.fitting import fit_recipe
from emukit.recipes.schema import NetworkRecipe, Recipe
from emukit.studies.study import Variant, train_words


def measure_costs(
    archive: Archive,
    variants: Sequence[Variant],
    recipes: Mapping[str, Recipe],
    protocol: str,
    data: Sequence[str],
    environments: Sequence[Mapping[str, str]],
    reporter: Reporter,
) -> tuple[dict[str, Cost], list[str]]:
    """What a run of each variant takes on this machine; and the variants whose epochs could not be timed.

    Args:
        archive: The data.
        variants: Of the study.
        recipes: By name of the variant.
        protocol: Under which trainings are timed.
        data: Options that open the data again.
        environments: Of the processes that run at the same time.
        reporter: Shows progress.
    """
    scenarios = len({s.scenario for s in make_split(archive, protocol).train})
    start = start_seconds((*data, "--protocol", protocol), environments)
    threads = int(environments[0].get("OMP_NUM_THREADS") or os.environ["OMP_NUM_THREADS"])
    comm, costs, not_timed = _here(), {}, []
    known: dict[tuple[str, tuple[int, ...] | None], float | None] = {}

    def timed(network: NetworkRecipe, members: tuple[int, ...] | None) -> float | None:
        # Epochs change what is trained, and not what one of them takes.
        training = network.training.model_copy(update={"epochs": 0})
        like = (network.model_copy(update={"training": training}).digest, members)
        if like not in known:
            split = make_split(archive, protocol, members)
            fitted = fit_recipe(network, archive, split, silent_reporter())
            known[like] = epoch_seconds(archive, fitted, split, comm, threads)
        return known[like]

    with reporter.step("measuring", len(variants)) as bar:
        for variant in variants:
            networks = trainings(recipes[variant.name], scenarios)
            seconds = [timed(network, variant.members) for network, _ in networks]
            if None in seconds:
                not_timed.append(variant.name)
                seconds = []
            each = [(n.training.epochs, times * (s or 0.0)) for (n, times), s in zip(networks, seconds, strict=False)]
            wanted = {n.training.epochs for n, _ in networks}
            costs[variant.name] = Cost(
                start,
                sum(epoch for _, epoch in each),
                wanted.pop() if len(wanted) == 1 else None,
                sum(epochs * epoch for epochs, epoch in each),
            )
            bar.advance(note=variant.name)
    single = {v.name: r for v in variants if isinstance(r := recipes[v.name], NetworkRecipe) and costs[v.name].epoch}
    quickest = min((v for v in variants if v.name in single), key=lambda v: costs[v.name].epoch, default=None)
    pace = 1.0
    if quickest and costs[quickest.name].epoch <= TRIED_SECONDS:
        # The first epoch is not counted, and the last one validates.
        epochs = 1 + single[quickest.name].training.validate_every
        words = train_words(quickest, data, epochs, protocol, 0)
        pace = epoch_seconds_together(words, environments) / costs[quickest.name].epoch
    return {v: replace(c, epoch=pace * c.epoch, own=pace * c.own) for v, c in costs.items()}, not_timed


def _here() -> Comm:
    import torch

    return Comm(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
