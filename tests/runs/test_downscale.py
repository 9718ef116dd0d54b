"""A downscaling run from data to fine fields in a file."""

import io
import json
import shutil
from copy import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from rich.console import Console

from emukit.data.block_sampler import Block
from emukit.data.coarsen import Coarsening
from emukit.data.grid import Grid
from emukit.data.protocol import make_split
from emukit.data.split import Span
from emukit.data.store import open_store
from emukit.data.targets import Pointwise, TargetNormalizer, TargetSettings
from emukit.data.time import TimeAxis
from emukit.data.zarr_writer import write_zarr
from emukit.emulators import downscaling_residuals
from emukit.emulators.base import saved_digest
from emukit.emulators.downscaled import coarse_archive
from emukit.emulators.downscaler import Neighbourhood, fit_baselines, held_apart
from emukit.emulators.downscaling_residuals import Base, ResidualDraws, ResidualFrames
from emukit.emulators.linear import LinearEmulator
from emukit.emulators.neural_downscaler import NeuralDownscaler, load_downscaler
from emukit.errors import EmukitError, ProtocolError, RecipeError, RunError, StoreError
from emukit.objectives.base import OnBlocks
from emukit.progress import Reporter
from emukit.recipes.downscale import load_downscale
from emukit.recipes.load import load_recipe
from emukit.runs import downscale, downscaled_file
from emukit.runs.downscale import (
    DownscaleTrainer,
    best_baseline,
    coarse_truth,
    evaluate_run,
    fold_spread,
    read_downscale_run,
    respread,
    score_downscalers,
    some_parts,
    train_downscaler,
)
from emukit.runs.downscaled_file import Region, downscale_file
from emukit.runs.record import DOWNSCALE_FILE as RECORD
from emukit.runs.run import train_run
from emukit.runs.submit import submit_run
from emukit.training.loop import KeptWeights, train

pytestmark = pytest.mark.long

QUIET = Reporter(quiet=True)
TINY = [
    "coarse=4,6",
    "blocks.size=4,6",
    "blocks.share=0.02",
    "blocks.times=16",
    "overlap=2",
    "conditions.width=3",
    "conditions.context=0",
    "conditions.root=sqrt",
    "conditions.calibrate=false",
    "model.width=4",
    "model.depth=1",
    "training.epochs=2",
    "training.optimizer.warmup_steps=2",
    "training.average.kind=none",
]


def recipe(*more, objective=None):
    return load_downscale(None, [*TINY, *more], objective)


@pytest.fixture(scope="module")
def archive(demo_store):
    return open_store(demo_store)


@pytest.fixture(scope="module")
def told_run(archive, tmp_path_factory):
    """A run, and what was told while it was trained."""
    folder, out = tmp_path_factory.mktemp("runs") / "fine", io.StringIO()
    reporter = Reporter(console=Console(file=out, width=200))
    trained = train_downscaler(archive, recipe(), folder, members=(0,), reporter=reporter)
    return trained, out.getvalue()


@pytest.fixture(scope="module")
def run(told_run):
    return told_run[0]


@pytest.fixture(scope="module")
def drawn_run(archive, tmp_path_factory):
    """A run whose two realisations are scored on 24 steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(downscale, "MEMBERS", 2)
        patch.setattr(downscale, "DRAWN_STEPS", 24)
        chosen = recipe("training.epochs=1", objective="crps")
        folder = tmp_path_factory.mktemp("runs") / "drawn"
        return train_downscaler(archive, chosen, folder, members=(0,), reporter=QUIET)


def test_more_realisations_than_memory_holds_are_drawn_until_it_is_full(archive, drawn_run, monkeypatch):
    def fit(*args, **kwargs):
        raise AssertionError("it computes")

    monkeypatch.setattr(downscale, "fit_baselines", fit)
    with pytest.raises(RunError, match="realisations do not fit into memory"):
        downscale.evaluate_run(drawn_run, archive, "validation", 10**12, QUIET)


@pytest.fixture(scope="module")
def coarse(archive, run):
    """Thirty months of coarse fields as a dataset."""
    coarsening, scenario = Coarsening(archive.grid, run.recipe.coarse), archive["ssp370"]
    fields = coarsening.down(scenario.truth(0, 100, 130))
    return xr.Dataset(
        {
            v.name: (("time", "y", "x"), fields[:, i], {"units": v.units})
            for i, v in enumerate(archive.domain.described)
        },
        coords={"time": scenario.time[100:130].cf_time(), "y": coarsening.grid.lat, "x": coarsening.grid.lon},
    )


def test_a_run_stands_next_to_all_three_baselines(archive, run):
    scores = run.record["scores"]["validation"]
    labels = [one.label for one in fit_baselines(archive, (Span("ssp126", 0, 24, (0,)),), run.downscaler().coarsening)]
    # The regression that the network is added to stands there too: what the network adds is seen.
    assert [*scores] == [*labels, Neighbourhood.label, "network", "gain"]
    assert scores[Neighbourhood.label]["tas.mae"] > 0
    for v in archive.variables:
        best = min(scores[name][f"{v}.mae"] for name in labels)
        assert scores["gain"][v] == pytest.approx(1 - scores["network"][f"{v}.mae"] / best)
        assert 1 in {round(scores[name][f"{v}.mae"] / best, 12) for name in labels}
    assert len([*(run.folder / "samples").glob("*.png")]) >= 2


def test_scores_are_those_of_the_fields(archive, run):
    one = run.downscaler()
    span = Span("ssp585", 500, 620, (1,))
    baselines = fit_baselines(archive, (Span("ssp126", 0, 120, (0,)),), one.coarsening)
    found = score_downscalers(archive, (span,), one, baselines)
    truth = archive["ssp585"].truth(1, 500, 620).astype(np.float64)
    fields = one.fields(one.coarsening.down(truth), archive["ssp585"].time[500:620])
    w = archive.grid.weights / 120
    for v, name in enumerate(archive.variables):
        p, t = fields[:, v], truth[:, v]
        own = {k.removeprefix(f"{name}."): x for k, x in found["network"].items() if k.startswith(f"{name}.")}
        assert own["mae"] == pytest.approx((np.abs(p - t) * w).sum())
        assert own["nmae"] == pytest.approx((np.abs(p - t) * w).sum() / (np.abs(t) * w).sum())
        assert own["rmse"] == pytest.approx(np.sqrt(((p - t) ** 2 * w).sum()))
        assert own["bias"] == pytest.approx(((p - t) * w).sum(), abs=1e-9)
        centred = (p - (p * w).sum()), (t - (t * w).sum())
        variances = [(c**2 * w).sum() for c in centred]
        assert own["r2"] == pytest.approx(1 - ((p - t) ** 2 * w).sum() / variances[1])
        assert own["correlation"] == pytest.approx((centred[0] * centred[1] * w).sum() / np.sqrt(np.prod(variances)))
        threshold = np.quantile(t, 0.99)
        assert own["p99"] == pytest.approx(((p > threshold) * w).sum() / ((t > threshold) * w).sum())
        power = [np.abs(np.fft.rfft(f, axis=-1)[..., -1]) ** 2 for f in (p, t)]
        rows = archive.grid.weights.sum(1)
        assert own["power"] == pytest.approx((power[0] * rows).sum() / (power[1] * rows).sum())
    best = best_baseline(archive, (span,), baselines)
    assert found["network"]["score"] == pytest.approx(np.mean([found["network"][f"{v}.mae"] / best[v] for v in best]))


def test_saved_and_loaded_gives_the_same_numbers(archive, run):
    loaded = load_downscaler(run.folder / "emulator")
    truth = archive["ssp585"].truth(0, 0, 5)
    coarse = loaded.coarsening.down(truth)
    time = archive["ssp585"].time[:5]
    np.testing.assert_array_equal(loaded.fields(coarse, time), run.downscaler().fields(coarse, time))
    weights = (run.folder / "emulator" / "arrays.safetensors").read_bytes()
    assert weights


def test_hidden_fields_are_not_coarsened(archive, run):
    with pytest.raises(ProtocolError, match="hidden"):
        coarse_truth(archive, Span("ssp245", 0, 12, (0,)), run.downscaler().coarsening)


def test_the_same_command_takes_the_finished_run_and_another_is_refused(archive, run):
    again = train_downscaler(archive, recipe(), run.folder, members=(0,), reporter=QUIET)
    assert again.record == run.record
    with pytest.raises(RunError, match="another configuration"):
        train_downscaler(archive, recipe("overlap=3"), run.folder, members=(0,), reporter=QUIET)
    with pytest.raises(RunError, match="another configuration"):
        train_downscaler(archive, recipe(), run.folder, seed=1, members=(0,), reporter=QUIET)


def test_defaults_that_changed_after_a_run_was_begun_are_not_told(archive, drawn_run):
    """Of a run that draws the climate counts by default; of one that was begun before, it does not."""
    now = recipe("training.epochs=1", "conditions.calibrate=true", "loss.pr.l1=2.0", objective="crps")
    with pytest.raises(RunError, match="another configuration") as e:
        train_downscaler(archive, now, drawn_run.folder, members=(0,), reporter=QUIET, resume=True)
    assert e.value.found.startswith("another recipe (conditions.calibrate = true, where the run has false; ")
    assert "; conditions.climate = true, where the run has false; " in e.value.found
    assert e.value.found.endswith("; loss.default.l1 = nothing, where the run has 1.0; and others)")
    assert "defaults may have changed" in e.value.hint
    with pytest.raises(RunError, match="another configuration") as e:
        train_downscaler(archive, drawn_run.recipe, drawn_run.folder, members=(1,), reporter=QUIET)
    assert e.value.found == "another members"


def test_interrupted_training_resumes_to_the_same_bits(archive, run, tmp_path, monkeypatch):
    def one_epoch(engine, sampler, settings, **rest):
        train(engine, sampler, settings, **rest, keep=KeptWeights(1, averaged=False))
        raise KeyboardInterrupt

    monkeypatch.setattr(downscale, "train", one_epoch)
    with pytest.raises(KeyboardInterrupt):
        train_downscaler(archive, recipe(), tmp_path / "run", members=(0,), reporter=QUIET)
    monkeypatch.undo()
    with pytest.raises(RunError, match="has not finished"):
        read_downscale_run(tmp_path / "run").downscaler()
    with pytest.raises(RunError, match="interrupted run"):
        train_downscaler(archive, recipe(), tmp_path / "run", members=(0,), reporter=QUIET)
    resumed = train_downscaler(archive, recipe(), tmp_path / "run", resume=True, members=(0,), reporter=QUIET)
    # The first epoch was not validated, so that the best epoch may differ: the last one is compared.
    last, known = (torch.load(r.folder / "last.pt", weights_only=True) for r in (resumed, run))
    for name, tensor in known["tensors"].items():
        torch.testing.assert_close(last["tensors"][name], tensor, rtol=0, atol=0)


def test_an_edited_record_is_refused(run, tmp_path):
    record = json.loads((run.folder / RECORD).read_text())
    record["recipe"]["overlap"] = 5
    (tmp_path / RECORD).write_text(json.dumps(record))
    with pytest.raises(RunError, match="edited"):
        read_downscale_run(tmp_path)
    with pytest.raises(RunError, match="not a downscaling run"):
        read_downscale_run(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (["training.segments.length=12"], "segments"),
        (["training.accumulate=2"], "accumulate"),
        (["blocks.size=5,6"], "cannot be halved"),
        (["model.size=huge"], "unknown size"),
        (["coarse=60,90"], "finer than the data"),
        (["loss.default={sobel=1.0}"], "terms that blocks cannot have"),
        (['conditions.statics=["nowhere"]'], "not there"),
        (["conditions.width=4"], "an odd number"),
        (["colour=3"], "colour"),
    ],
)
def test_what_would_do_nothing_or_cannot_be_is_refused(archive, tmp_path, settings, match):
    with pytest.raises(RecipeError) as caught:
        train_downscaler(archive, recipe(*settings), tmp_path / "run", reporter=QUIET)
    assert match in caught.value.text()
    assert not (tmp_path / "run").exists()


def test_loss_of_blocks_weighs_cells_as_the_sampler_says(archive):
    from emukit.data.sampler import Sample
    from emukit.objectives.registry import OBJECTIVES

    objective = OnBlocks(OBJECTIVES.load("regression")(None), {"tas": {"l1": 2.0}, "pr": {"mse": 1.0}}, ("tas", "pr"))
    rng = np.random.default_rng(0)
    target, weights = (torch.from_numpy(rng.random(s)) for s in ((3, 1, 2, 4, 6), (3, 1, 4, 6)))
    sample = Sample(torch.zeros(3, 1, 5, 4, 6), target, {"weights": weights})
    found, terms = objective.loss(lambda frames: torch.zeros_like(target), sample)
    expected = 2 * (target[:, :, 0] * weights).sum() / 3 + (target[:, :, 1] ** 2 * weights).sum() / 3
    assert float(found) == pytest.approx(float(expected))
    assert set(terms) == {"tas.l1", "pr.mse"}


def test_crps_run_scores_its_ensemble(drawn_run):
    own = drawn_run.record["scores"]["validation"]
    assert {"tas.crps", "pr.spread"} <= own["network"].keys()
    assert "tas.crps" not in own["bilinear"]
    assert drawn_run.downscaler().draws


@pytest.mark.parametrize("objective", ["diffusion", "interpolant"])
def test_generative_objectives_learn_on_blocks_and_draw(archive, objective):
    chosen = recipe("conditions.base=pass", "conditions.width=5", objective=objective)
    trainer = DownscaleTrainer(archive, chosen, make_split(archive, None, (0,)), 0, QUIET)
    numbers = trainer._engine.step(trainer._sampler.epoch(0, 0)[:1], 1e-3, 1.0)
    assert np.isfinite([*numbers.values()]).all()
    one, time = trainer.downscaler, archive["ssp126"].time[:2]
    coarse = one.coarsening.down(archive["ssp126"].truth(0, 0, 2))
    first, second = (one.fields(coarse, time, member=m) for m in (0, 1))
    assert np.abs(first - second).max() > 0.1
    np.testing.assert_array_equal(first, one.fields(coarse, time))


@pytest.mark.parametrize("changed", ["identity", "scores", "recipe", "command"])
def test_a_strange_record_is_refused(run, tmp_path, changed):
    record = json.loads((run.folder / RECORD).read_text()) | {changed: ["strange"]}
    (tmp_path / RECORD).write_text(json.dumps(record))
    with pytest.raises(RunError, match=r"damaged|edited"):
        read_downscale_run(tmp_path)


def test_a_command_of_a_strange_record_is_not_shown(run, tmp_path):
    record = json.loads((run.folder / RECORD).read_text()) | {"command": "rm -rf ~", "state": "training"}
    (tmp_path / RECORD).write_text(json.dumps(record))
    with pytest.raises(RunError) as caught:
        read_downscale_run(tmp_path).downscaler()
    assert "rm -rf" not in caught.value.text()


def opened(path):
    with xr.open_zarr(path) as ds:
        return ds.load()


def test_a_file_becomes_a_store_of_fine_fields(run, archive, coarse, tmp_path):
    coarse.to_netcdf(tmp_path / "coarse.nc")
    one = run.downscaler()
    steps = downscale_file(one, tmp_path / "coarse.nc", tmp_path / "fine.zarr", reporter=QUIET)
    found = opened(tmp_path / "fine.zarr")
    expected = one.fields(np.stack([coarse[v].values for v in archive.variables], 1), archive["ssp370"].time[100:130])
    assert steps == 30
    for v, name in enumerate(archive.variables):
        np.testing.assert_allclose(found[name].values, expected[:, v], rtol=1e-6)
        assert found[name].attrs["units"] == archive.domain.described[v].units
    np.testing.assert_array_equal(found.y, archive.grid.lat)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    with pytest.raises(EmukitError, match="exists"):
        downscale_file(one, tmp_path / "coarse.nc", tmp_path / "fine.zarr", reporter=QUIET)
    downscale_file(one, tmp_path / "coarse.nc", tmp_path / "fine.zarr", overwrite=True, reporter=QUIET)


def test_realisations_are_written_along_a_dimension_of_their_own(archive, coarse, tmp_path):
    chosen = recipe("conditions.base=pass", "conditions.width=5", objective="diffusion")
    one = DownscaleTrainer(archive, chosen, make_split(archive, None, (0,)), 0, QUIET).downscaler
    coarse.isel(time=slice(0, 3)).to_netcdf(tmp_path / "coarse.nc")
    downscale_file(one, tmp_path / "coarse.nc", tmp_path / "fine.zarr", members=2, reporter=QUIET)
    found = opened(tmp_path / "fine.zarr")
    assert found.tas.dims == ("member", "time", "y", "x")
    fields = np.stack([coarse[v].values[:3] for v in archive.variables], 1)
    for number in range(2):
        expected = one.fields(fields, archive["ssp370"].time[100:103], member=number)
        np.testing.assert_allclose(found.pr.values[number], expected[:, 1], rtol=1e-5, atol=1e-6)
    assert np.abs(found.tas[0] - found.tas[1]).max() > 0.1


def test_fields_upside_down_and_from_another_meridian_are_the_same(run, coarse, tmp_path):
    odd = coarse.isel(y=slice(None, None, -1)).roll(x=2, roll_coords=True)
    for name, dataset in (("plain", coarse), ("odd", odd)):
        dataset.to_netcdf(tmp_path / f"{name}.nc")
        downscale_file(run.downscaler(), tmp_path / f"{name}.nc", tmp_path / f"{name}.zarr", reporter=QUIET)
    xr.testing.assert_allclose(opened(tmp_path / "odd.zarr"), opened(tmp_path / "plain.zarr"), rtol=1e-6)


def test_fine_fields_are_coarsened_first(run, archive, coarse, tmp_path):
    scenario = archive["ssp370"]
    truth = scenario.truth(0, 100, 130)
    fine = xr.Dataset(
        {v.name: (("time", "y", "x"), truth[:, i]) for i, v in enumerate(archive.domain.described)},
        coords={"time": scenario.time[100:130].cf_time(), "y": archive.grid.lat, "x": archive.grid.lon},
    )
    for name, dataset in (("coarse", coarse), ("fine", fine)):
        dataset.to_netcdf(tmp_path / f"{name}.nc")
        downscale_file(run.downscaler(), tmp_path / f"{name}.nc", tmp_path / f"{name}.zarr", reporter=QUIET)
    xr.testing.assert_allclose(opened(tmp_path / "fine.zarr"), opened(tmp_path / "coarse.zarr"), rtol=1e-5)


def test_an_interrupted_store_is_continued_and_never_has_its_name(run, coarse, tmp_path, monkeypatch):
    coarse.to_netcdf(tmp_path / "coarse.nc")
    monkeypatch.setattr(downscaled_file, "_PART_BYTES", 8 * 8 * 96 * 2)
    one = run.downscaler()
    downscale_file(one, tmp_path / "coarse.nc", tmp_path / "whole.zarr", reporter=QUIET)
    asked, plain = [], NeuralDownscaler._fields

    def fields(self, coarse, time, *rest):
        asked.append(time.text(0))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return plain(self, coarse, time, *rest)

    monkeypatch.setattr(NeuralDownscaler, "_fields", fields)
    with pytest.raises(KeyboardInterrupt):
        downscale_file(one, tmp_path / "coarse.nc", tmp_path / "fine.zarr", reporter=QUIET)
    assert not (tmp_path / "fine.zarr").exists()
    with pytest.raises(RunError, match="another one"):
        downscale_file(
            one, tmp_path / "coarse.nc", tmp_path / "fine.zarr", region=Region(-90, 0, 0, 90), reporter=QUIET
        )
    downscale_file(one, tmp_path / "coarse.nc", tmp_path / "fine.zarr", reporter=QUIET)
    assert len(asked) == 5
    assert asked[3] == asked[2]
    xr.testing.assert_identical(opened(tmp_path / "fine.zarr"), opened(tmp_path / "whole.zarr"))


def test_a_region_is_a_part_of_the_globe(run, coarse, tmp_path):
    coarse.to_netcdf(tmp_path / "coarse.nc")
    one = run.downscaler()
    downscale_file(one, tmp_path / "coarse.nc", tmp_path / "whole.zarr", reporter=QUIET)
    region = Region.parse("-40,50,-70,50")
    downscale_file(one, tmp_path / "coarse.nc", tmp_path / "part.zarr", region=region, reporter=QUIET)
    whole, part = opened(tmp_path / "whole.zarr"), opened(tmp_path / "part.zarr")
    assert part.sizes["x"] < whole.sizes["x"]
    assert (np.diff(part.x) > 0).all()
    # Longitudes as they were asked for: the same words select from the store.
    assert part.sel(x=slice(-70, 50)).sizes["x"] == part.sizes["x"]
    assert part.y.min() >= -40
    assert part.y.max() <= 50
    columns = [int(np.flatnonzero(np.isclose(whole.x, lon % 360))[0]) for lon in part.x.values]
    expected = whole.sel(y=part.y).isel(x=columns)
    np.testing.assert_allclose(part.pr.values, expected.pr.values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("text", ["1,2,3", "50,40,0,10", "0,100,0,10", "0,10,5,5", "a,b,c,d", "0,10,nan,5"])
def test_a_region_that_is_none_is_refused(text):
    with pytest.raises(EmukitError, match="--region"):
        Region.parse(text)


def test_fields_that_do_not_fit_are_refused_and_nothing_is_written(run, coarse, tmp_path):
    odd = {
        "lacks pr": coarse.drop_vars("pr"),
        "another grid": coarse.isel(x=slice(0, 6, 2)),
        "other units": coarse.assign(tas=coarse.tas.assign_attrs(units="furlong")),
        "not one field": coarse.expand_dims("member"),
        "not finite": coarse.where(coarse.time != coarse.time[7]),
    }
    for number, (match, dataset) in enumerate(odd.items()):
        path = tmp_path / f"{number}.nc"
        dataset.to_netcdf(path)
        with pytest.raises(StoreError, match=match):
            downscale_file(run.downscaler(), path, tmp_path / "fine.zarr", reporter=QUIET)
    assert not (tmp_path / "fine.zarr").exists()
    write_zarr(coarse, tmp_path / "coarse.zarr", {})
    with pytest.raises(RunError, match="one answer"):
        downscale_file(run.downscaler(), tmp_path / "coarse.zarr", tmp_path / "fine.zarr", members=2, reporter=QUIET)
    with pytest.raises(RunError, match="format"):
        downscale_file(run.downscaler(), tmp_path / "coarse.zarr", tmp_path / "fine.nc", reporter=QUIET)


def test_a_coarse_emulator_with_a_downscaler_behind_it_is_an_emulator(archive, run, tmp_path):
    settings = [f"model.downscaler={run.folder}"]
    trained, evaluation = train_run(
        archive, load_recipe("downscaled", None, settings), tmp_path / "run", reporter=QUIET
    )
    assert evaluation is not None
    emulator, coarsening = trained.emulator(archive), run.downscaler().coarsening
    scenario = archive["ssp245"]
    found = emulator.predict_fields(scenario, 700, 712)
    # By hand: the same coarse emulator, then the downscaler.
    coarse = coarse_archive(archive, coarsening)
    assert coarse["ssp126"].targets.shape[-2:] == (4, 6)
    assert coarse["ssp245"].hidden.all()
    linear = LinearEmulator.fit(coarse, make_split(coarse, archive.default_protocol))
    said = linear.predict_fields(coarse["ssp245"], 700, 712)
    expected = run.downscaler().fields(said, scenario.time[700:712])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert not emulator.draws
    entry = submit_run(trained, archive, tmp_path / "entry", "csv", QUIET)
    assert entry.scenario == "ssp245"
    assert entry.rows == 360 * 2 * 8 * 12


def test_a_downscaler_that_may_know_what_is_held_out_is_refused(archive, run, tmp_path):
    recipe = load_recipe("downscaled", None, [f"model.downscaler={run.folder}"])
    with pytest.raises(ProtocolError, match="another protocol"):
        train_run(archive, recipe, tmp_path / "run", protocol="loso:ssp126", reporter=QUIET)
    with pytest.raises(RecipeError, match="names no downscaler"):
        train_run(archive, load_recipe("downscaled"), tmp_path / "run", reporter=QUIET)
    with pytest.raises(RunError):
        train_run(
            archive, load_recipe("downscaled", None, ["model.downscaler=nowhere"]), tmp_path / "run", reporter=QUIET
        )


def test_a_run_from_before_residuals_were_out_of_fold_is_read_and_is_what_it_was(run, tmp_path):
    settings = ["residual=in-sample", "conserve=false", "context=0", "root=sqrt", "calibrate=false"]
    before = load_downscale(None, [f"conditions.{s}" for s in settings])
    # As the version before wrote it.
    assert before.digest == "998de6e2515b732eb0a22cef028d4e50bff3917634ba21bf13d4744c4fc020f6"
    assert (
        not {"residual", "conserve", "context", "context_width", "root"}
        & before.model_dump(mode="json")["conditions"].keys()
    )
    record = json.loads((run.folder / RECORD).read_text())
    values = before.model_dump(mode="json", exclude={"training": {"segments"}})
    record |= {"recipe": values, "identity": record["identity"] | {"recipe": before.digest}}
    del record["units"]
    (tmp_path / RECORD).write_text(json.dumps(record))
    read = read_downscale_run(tmp_path)
    assert read.recipe.conditions.residual == "in-sample"
    assert read.about.units == {"tas": "", "pr": ""}


def test_the_network_learns_what_a_regression_leaves_that_never_saw_the_scenario(archive):
    trainer = DownscaleTrainer(archive, recipe(), make_split(archive, None, (0,)), 0, QUIET)
    sampler, frames = trainer._sampler, trainer.downscaler.frames
    spans = make_split(archive, None, (0,)).train
    assert sampler.spans == spans
    for number, span in enumerate(spans):
        others = [s for s in spans if s.scenario != span.scenario]
        apart = Neighbourhood.fit(archive, others, frames.coarsening, ("none", "sqrt"), width=3, penalty=0.01)
        address = Block(number, 0, 7, 2, 9)
        rows, columns = sampler.cells(address)
        time = archive[span.scenario].time[span.start + 7 : span.start + 8]
        truth = archive[span.scenario].truth(0, span.start + 7, span.start + 8)
        said = apart.fields(frames.coarsening.down(truth), time, rows, columns)
        units = frames.fine.window(rows, columns)
        base = units.forward_exactly(said, time.season)
        left = units.forward_exactly(truth[..., rows, :][..., columns], time.season) - base
        size = frames.size[time.season][..., rows, :][..., columns]
        root = np.sqrt(said[:, 1])
        center, scale = (a[time.season][:, 1][:, rows][..., columns] for a in (frames.fine._center, frames.fine._scale))
        level = np.clip((root + 0.2 * scale) / (center + 0.2 * scale), 1 / 3, 3)
        size[:, 1] *= level ** frames.growth[1]
        assert frames.growth[0] == 0
        np.testing.assert_allclose(sampler.batch([address]).targets[0], left / size, atol=2e-3)


def test_answers_are_in_units_of_what_is_left(archive):
    trainer = DownscaleTrainer(archive, recipe(), make_split(archive, None, (0,)), 0, QUIET)
    sampler = trainer._sampler
    targets = np.concatenate([sampler.batch(b).targets.numpy() for e in range(12) for b in sampler.epoch(e, 0)])
    np.testing.assert_allclose(np.sqrt((targets**2).mean((0, 1, 3, 4))), 1, atol=0.1)


def test_thirds_of_a_single_scenario_are_held_apart():
    spans = (Span("a", 0, 10, (0, 1)), Span("a", 20, 21, (0, 1)))
    parts = held_apart(spans)
    assert [(p.start, p.stop) for p, _ in parts] == [(0, 3), (3, 6), (6, 10), (20, 21)]
    for part, others in parts:
        assert part not in others
        assert len(others) == 3
    two = (Span("a", 0, 10, (0,)), Span("b", 0, 5, (0,)))
    assert held_apart(two) == [(two[0], (two[1],)), (two[1], (two[0],))]


def test_noise_without_a_network_is_what_was_left_in_a_training_month_of_the_season(archive):
    trainer = DownscaleTrainer(archive, recipe(objective="crps"), make_split(archive, None, (0,)), 0, QUIET)
    _, drawn = trainer.beside
    assert isinstance(drawn, ResidualDraws)
    truth, time = archive["ssp370"].truth(0, 100, 103), archive["ssp370"].time[100:103]
    coarse = drawn.coarsening.down(truth)
    fields = drawn.fields(coarse, time, member=1)
    np.testing.assert_array_equal(fields, drawn.fields(coarse, time, member=1))
    assert np.abs(fields - drawn.fields(coarse, time, member=2)).max() > 0.1
    np.testing.assert_allclose(drawn.coarsening.down(fields), coarse, rtol=1e-9)
    # Of temperature, which has no transform, one of the answers is added, in units of its size.
    plain = copy(drawn)
    plain.conserves = False
    frames = drawn.frames
    base = frames.base.fields(coarse, time)
    added = (plain.fields(coarse, time, member=1) - base)[:, 0] / frames.fine._scale[time.season][:, 0]
    for i, season in enumerate(time.season):
        own = drawn.answers[drawn.season == season][:, 0]
        assert 0 < len(own) <= 40
        assert np.abs(own * frames.size[season, 0] - added[i]).max((1, 2)).min() < 1e-4
    part = drawn.fields(coarse, time, np.arange(3, 6), np.arange(9, 14) % 12, member=1)
    np.testing.assert_allclose(part, fields[..., 3:6, :][..., np.arange(9, 14) % 12], rtol=1e-9)


def test_more_is_left_of_rain_where_it_rains_more_and_of_anything_in_a_strange_climate():
    """Made with exponents of 0.6 (of the level, of rain alone), and of 0.2 and 0.1 (of how far the pass is)."""
    rng = np.random.default_rng(0)
    grid = Grid(np.linspace(-75, 75, 4), np.arange(6) * 60.0)
    settings = {"tas": TargetSettings(transform="none"), "pr": TargetSettings(transform="sqrt")}
    scale = np.full((12, 2, 4, 6), 0.5)
    fine = TargetNormalizer(settings, [Pointwise("none", 1.0), Pointwise("sqrt", 1.0)], np.ones_like(scale), scale)
    time = TimeAxis("month", 0, 4800)
    base, passed = rng.normal(0, 0.8, (4800, 2, 4, 6)), rng.normal(0, 2, (4800, 2, 4, 6))
    level = np.clip((np.maximum(base[:, 1] * 0.5 + 1, 0) + 0.1) / 1.1, 1 / 3, 3)
    far = (1 + np.minimum(passed**2, 36)) ** np.array([0.2, 0.1])[:, None, None]
    left = rng.normal(size=base.shape) * np.stack([np.ones_like(level), level**0.6], 1) * far
    frames = ResidualFrames(None, fine, fine, None, np.zeros((0, 4, 6)), (), time)
    archive, asked = SimpleNamespace(grid=grid), []
    with pytest.MonkeyPatch.context() as patch:
        found = [(Base(base, passed, None), left, time)]
        patch.setattr(downscaling_residuals, "_left", lambda *which: asked.append(which[3:]) or found)
        growth = downscaling_residuals._residual_growth(archive, (), (frames,))
        exponents = downscaling_residuals._residual_far(archive, (), (frames,), growth)
        # Where it rains more than usual the pass is far: what the level explains is not for the distance to explain.
        wet = np.stack([passed[:, 0], 2 * base[:, 1] + 2], 1)
        own = np.stack([np.ones_like(level), level**0.6], 1) * rng.normal(size=base.shape)
        found = [(Base(base, wet, None), own, time)]
        apart = downscaling_residuals._residual_far(archive, (), (frames,), np.array([0.0, 0.6]))
    assert growth[0] == 0
    assert growth[1] == pytest.approx(0.6, abs=0.05)
    np.testing.assert_allclose(exponents, [0.2, 0.1], atol=1e-9)
    np.testing.assert_allclose(apart, 0, atol=1e-9)
    # Of four years in sixteen: all seasons, and the beginning and the end of a scenario.
    assert asked == [(48, 4)] * 3


def test_an_answer_is_larger_where_the_pass_is_far_from_its_climatology(archive):
    trainer = DownscaleTrainer(archive, recipe("conditions.calibrate=true"), make_split(archive, None, (0,)), 0, QUIET)
    # What draws nothing has no spread.
    assert trainer._calibrated is None
    frames = trainer.downscaler.frames.varied(far=np.array([0.25, 0.0]))
    rows, columns, time = np.arange(2, 6), np.arange(10, 15) % 12, archive["ssp585"].time[900:903]
    coarse = frames.coarsening.down(archive["ssp585"].truth(0, 900, 903))
    _, base = frames.block(coarse, time, rows, columns)
    _, near = frames.varied(far=np.zeros(2)).block(coarse, time, rows, columns)
    passed = frames.passed.forward_exactly(frames.coarsening.up(coarse), time.season)[:, 0, rows][..., columns]
    assert passed.max() > 2
    np.testing.assert_allclose(base.unit[:, 0] / near.unit[:, 0], (1 + np.minimum(passed**2, 36)) ** 0.25, rtol=1e-9)
    np.testing.assert_array_equal(base.unit[:, 1], near.unit[:, 1])


def test_a_network_that_draws_is_selected_by_its_crps_and_not_by_the_error_of_a_draw(archive):
    split = make_split(archive, None, (0,))
    trainer = DownscaleTrainer(archive, recipe(objective="crps"), split, 0, QUIET)
    torch.nn.init.normal_(trainer.downscaler.network.head.weight)
    one, span = trainer.downscaler, split.validation[0]
    found = trainer._scored(span)
    parts = some_parts(len(span), downscale.VALIDATED_STEPS)
    steps = np.concatenate([np.arange(len(span))[p] for p in parts])
    assert len(steps) == downscale.VALIDATED_STEPS < len(span)
    scenario = archive[span.scenario]
    truth = scenario.truth(span.members[0], span.start, span.stop)
    time = scenario.time[span.start : span.stop]
    a, b = (one.fields(one.coarsening.down(truth), time, member=m)[steps] for m in (0, 1))
    t = truth[steps]
    crps = (np.abs(a - t) + np.abs(b - t) - np.abs(a - b)) / 2
    best = best_baseline(archive, split.validation, trainer.baselines)
    expected = np.mean([(crps[:, v].mean(0) * archive.grid.weights).sum() / best[n] for v, n in enumerate(best)])
    assert found.value == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("steps", "most"), [(100, 24), (100, 100), (7, 24), (24, 24), (360, 60), (13, 12)])
def test_parts_of_a_series_are_evenly_over_it(steps, most):
    parts = some_parts(steps, most)
    held = np.concatenate([np.arange(steps)[p] for p in parts])
    assert len(held) == len(set(held)) == min(steps, most)
    if most < steps and len(parts) > 1:
        assert (held[0], held[-1]) == (0, steps - 1)


def test_a_draw_is_scored_on_the_same_steps_as_what_stands_next_to_it(archive, drawn_run):
    own = drawn_run.record["scores"]["validation"]
    assert {"tas.crps", "pr.spread", "pr.sharpness"} <= own["network"].keys() & own[ResidualDraws.label].keys()
    assert own["network"]["pr.sharpness"] == pytest.approx(own["network"]["pr.crps"] / own["network"]["pr.mae"])
    span = make_split(archive, None).validation[0]
    steps = np.concatenate([np.arange(len(span))[p] for p in some_parts(len(span), 24)])
    truth = archive[span.scenario].truth(0, span.start, span.stop)[steps].astype(np.float64)
    passed = drawn_run.downscaler().coarsening.down_up(truth)
    expected = (np.abs(passed[:, 0] - truth[:, 0]).mean(0) * archive.grid.weights).sum()
    assert own["bilinear"]["tas.mae"] == pytest.approx(expected)
    assert not any(k.endswith(("crps", "spread")) for k in own["bilinear"])


def test_a_spectrum_says_which_quarter_is_furthest_off(archive, run):
    one, span = run.downscaler(), Span("ssp585", 500, 530, (1,))
    baselines = fit_baselines(archive, (Span("ssp126", 0, 120, (0,)),), one.coarsening)
    found = score_downscalers(archive, (span,), one, baselines)["network"]
    truth = archive["ssp585"].truth(1, 500, 530).astype(np.float64)
    fields = one.fields(one.coarsening.down(truth), archive["ssp585"].time[500:530])
    rows = archive.grid.weights.sum(1)
    # Twelve cells have the wavenumbers 1 to 6: quarters of two, two, one and one. The last is counted once.
    twice = np.array([2, 2, 2, 2, 2, 1])
    power = [
        (np.abs(np.fft.rfft(f[:, 1], axis=-1)[..., 1:]) ** 2 * rows[:, None]).sum((0, 1)) * twice
        for f in (fields, truth)
    ]
    ratios = [power[0][q].sum() / power[1][q].sum() - 1 for q in (slice(0, 2), slice(2, 4), slice(4, 5), slice(5, 6))]
    assert found["pr.spectrum"] == pytest.approx(max(ratios, key=abs))


def test_a_finished_run_is_scored_again_to_the_same_numbers(archive, run):
    again = evaluate_run(run, archive, "validation", None, QUIET)
    for label, own in run.record["scores"]["validation"].items():
        assert again[label] == pytest.approx(own, rel=1e-6), label
    with pytest.raises(ProtocolError, match="no set nowhere"):
        evaluate_run(run, archive, "nowhere", None, QUIET)
    with pytest.raises(RunError, match="one answer"):
        evaluate_run(run, archive, "validation", 5, QUIET)


def test_a_hidden_test_is_refused_before_baselines_are_fitted_for_it(archive, run, monkeypatch):
    def fitted(*_):
        raise AssertionError("fitted for nothing")

    monkeypatch.setattr("emukit.runs.downscale.fit_baselines", fitted)
    with pytest.raises(ProtocolError, match=r"ssp245 .* hidden") as refused:
        evaluate_run(run, archive, "test", None, QUIET)
    assert "--split validation" in refused.value.hint


def test_a_downscaler_that_was_trained_again_is_not_taken_for_the_one_that_is_named(archive, run, tmp_path):
    place = tmp_path / "fine"
    shutil.copytree(run.folder, place)
    named = load_recipe("downscaled", None, [f"model.downscaler={place}"])
    assert named.options["digest"] == saved_digest(place / "emulator")
    moved = tmp_path / "moved"
    shutil.copytree(place, moved)
    assert load_recipe("downscaled", None, [f"model.downscaler={moved}"]).digest == named.digest
    other = train_downscaler(archive, recipe("training.epochs=1"), tmp_path / "other", members=(0,), reporter=QUIET)
    shutil.rmtree(place)
    shutil.copytree(other.folder, place)
    with pytest.raises(RunError, match="is not the one that the recipe names"):
        train_run(archive, named, tmp_path / "run", reporter=QUIET)
    assert load_recipe("downscaled", None, [f"model.downscaler={place}"]).digest != named.digest
    # A recipe from before there were digests takes what is in the folder.
    assert load_recipe("downscaled").digest == "0e3a4c23d56f16e497d02d289892a53bdfc07a0bef5568a8ef3e7bf1a81abfd3"


def test_training_says_how_far_it_is_once_an_epoch(told_run):
    lines = [line for line in told_run[1].splitlines() if line.startswith("training ")]
    assert len(lines) == 2
    assert "epoch 1/2 loss" in lines[0]
    assert "best" in lines[1]


def test_answers_have_the_means_of_the_coarse_cells_that_they_are_shown(archive, run):
    one, time = run.downscaler(), archive["ssp585"].time[500:520]
    truth = archive["ssp585"].truth(0, 500, 520).astype(np.float64)
    coarse = one.coarsening.down(truth)
    fields = one.fields(coarse, time)
    np.testing.assert_allclose(one.coarsening.down(fields), coarse, rtol=1e-9)
    assert (fields[:, 1] >= 0).all()
    loose = run.downscaler()
    loose.conserves = False
    assert np.abs(one.coarsening.down(loose.fields(coarse, time)) - coarse).max() > 1e-3
    rows, columns = np.arange(3, 6), np.arange(9, 15) % 12
    part = one.fields(coarse, time, rows, columns)
    np.testing.assert_allclose(part, fields[..., rows, :][..., columns], rtol=1e-9)


def test_means_of_cells_that_hold_no_whole_fine_cells_are_not_promised(archive, tmp_path):
    out = io.StringIO()
    reporter = Reporter(console=Console(file=out, width=200))
    chosen = recipe("coarse=3,5", "training.epochs=1")
    trained = train_downscaler(archive, chosen, tmp_path / "run", members=(0,), reporter=reporter)
    assert "theirs are not kept" in out.getvalue()
    assert not trained.downscaler().conserves


def test_spread_over_error_on_training_steps_is_of_bases_that_did_not_know_them(archive, monkeypatch):
    split = make_split(archive, None, (0,))
    trainer = DownscaleTrainer(archive, recipe("conditions.calibrate=true", objective="crps"), split, 0, QUIET)
    torch.nn.init.normal_(trainer.downscaler.network.head.weight, std=0.1)
    monkeypatch.setattr(downscale, "CALIBRATED", (3, 12))
    one, crossed = trainer.downscaler, trainer._calibrated
    found = fold_spread(archive, crossed, one)
    variance, error = np.zeros(2), np.zeros(2)
    for span, frames in zip(crossed.spans, crossed.apart, strict=True):
        assert frames.base is not one.frames.base
        apart = copy(one)
        apart.frames = frames
        (part,) = some_parts(len(span), 12)
        truth = archive[span.scenario].truth(0, span.start, span.stop)[part].astype(np.float64)
        time = archive[span.scenario].time[span.start + part.start : span.start + part.stop]
        coarse = one.coarsening.down(truth)
        drawn = np.stack([apart.fields(coarse, time, member=m) for m in range(3)])
        base = frames.base.fields(coarse, time)
        unit = frames.block(coarse, time, np.arange(8), np.arange(12))[1].unit
        zero = frames.fine.forward_exactly(base, time.season)
        *drawn, truth = ((frames.fine.forward_exactly(f, time.season) - zero) / unit for f in (*drawn, truth))
        drawn = np.stack(drawn)
        w = archive.grid.weights
        variance += (drawn.var(0, ddof=1) * w).sum((0, 2, 3))
        error += ((drawn.mean(0) - truth) ** 2 * w).sum((0, 2, 3))
    np.testing.assert_allclose(found, np.sqrt(4 / 3 * variance / error), rtol=1e-6)
    # Spread by the inverse, temperature is spread as far as it is wrong; its answers are added as they are.
    known = trainer.downscaler.frames.size.copy()
    one.frames = respread(one.frames, np.array([0.5, 8.0]))
    np.testing.assert_allclose(
        one.frames.size / known, np.broadcast_to([[[2.0]], [[0.5]]], known.shape[1:])[None] + 0 * known
    )


def test_a_run_that_draws_is_calibrated_once_it_is_trained(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(downscale, "MEMBERS", 2)
    monkeypatch.setattr(downscale, "DRAWN_STEPS", 12)
    monkeypatch.setattr(downscale, "CALIBRATED", (2, 12))
    settings = ["training.epochs=1", "conditions.calibrate=true"]
    trained = train_downscaler(
        archive, recipe(*settings, objective="crps"), tmp_path / "run", members=(0,), reporter=QUIET
    )
    spread = np.array([trained.record["fold_spread"][v] for v in archive.variables])
    assert (spread != 1).all()
    raw = DownscaleTrainer(archive, trained.recipe, make_split(archive, None, (0,)), 0, QUIET).downscaler.frames.size
    expected = raw / np.clip(spread, 0.5, 2)[:, None, None]
    np.testing.assert_allclose(trained.downscaler().frames.size, expected, rtol=1e-6)
