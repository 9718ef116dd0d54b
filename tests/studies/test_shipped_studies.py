"""Shipped studies that cannot be trained, or whose tables on the demo climate are no longer the ones kept."""

import json
from pathlib import Path

import pytest

from emukit.data.store import open_store
from emukit.progress import silent_reporter
from emukit.runs.run import train_run
from emukit.studies import ablate
from emukit.studies.ablate import StudyData, make_study_plan
from emukit.studies.results import save_result, study_result
from emukit.studies.study import load_study

# Laid over every variant: what is kept is that the tables come out, on a network that trains in a second.
SMALL = {
    "model.hidden": 8,
    "model.features": 8,
    "model.width": 4,
    "model.stages": 1,
    "model.pool_rows": 1,
    "model.pool_columns": 2,
    "training.epochs": 2,
}
GOLDEN = Path(__file__).parents[1] / "golden" / "studies_demo.json"


def table_on_the_demo_climate(name, store, root):
    """Variant to score, and to the difference from the base with its interval."""
    opened = StudyData(open_store(store), ("--data", "demo"))
    asked = load_study(name)
    asked = asked.model_copy(update={"settings": asked.settings | SMALL})
    plan = make_study_plan(opened, asked, root, [{"OMP_NUM_THREADS": "1"}], seeds=1, reporter=silent_reporter())
    for run in plan.distinct():
        train_run(
            opened.archive,
            run.recipe,
            run.folder,
            protocol=run.protocol,
            seed=run.seed,
            members=run.members,
            reporter=silent_reporter(),
        )
    result = study_result(plan, opened.archive, "test", silent_reporter())
    save_result(plan, result)
    rows = result["results"][0]["rows"]
    scores = {row["variant"]: [row["mean"]["score"]] for row in rows}
    for row in rows[1:]:
        scores[row["variant"]] += [row["difference"]["score"][k] for k in ("mean", "low", "high")]
    return scores


@pytest.mark.parametrize("name", ["loss-weights", "seasonal-encoding"])
def test_tables_on_the_demo_climate_are_reproduced(name, demo_store, tmp_path, monkeypatch):
    monkeypatch.setattr(ablate, "start_seconds", lambda words, environments: 10.0)
    monkeypatch.setattr(ablate, "TRIED_SECONDS", 0.0)
    monkeypatch.setattr(ablate, "epoch_seconds", lambda archive, recipe, split, comm, threads: 2.0)
    found = table_on_the_demo_climate(name, demo_store, tmp_path)
    kept = json.loads(GOLDEN.read_text())[name]
    assert list(found) == list(kept)
    for variant, numbers in kept.items():
        assert found[variant] == pytest.approx(numbers, abs=2e-3), variant
    assert len({round(numbers[0], 3) for numbers in kept.values()}) > len(kept) // 2
    table = (tmp_path / name / "table.md").read_text()
    assert all(variant in table for variant in kept)
