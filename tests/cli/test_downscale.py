"""`emukit train downscale` and `emukit downscale` as users call them."""

import pytest
import xarray as xr

SMALL = [
    "--set=coarse=4,6",
    "--set=blocks.size=4,6",
    "--set=blocks.share=0.01",
    "--set=overlap=2",
    "--set=conditions.base=pass",
    "--set=model.width=4",
    "--set=model.depth=1",
    "--set=training.epochs=1",
]


def test_a_run_is_trained_and_downscales_a_prediction(emukit, demo_store, linear_run, tmp_path):
    answer = emukit("train", "downscale", "--data", demo_store, *SMALL, "--out", tmp_path / "fine", "-q")
    assert answer.code == 0, answer.err
    assert "residual's monthly climatology" in answer.out.replace("\n", " ")
    assert "MAE below that of the best baseline" in answer.out
    again = emukit("train", "downscale", "--data", demo_store, *SMALL, "--out", tmp_path / "fine", "-q")
    assert again.code == 0
    emukit("predict", linear_run, "--scenario", "ssp245", "--data", demo_store, "--out", tmp_path / "said.nc", "-q")
    answer = emukit(
        "downscale", tmp_path / "fine", tmp_path / "said.nc", "--out", tmp_path / "f.zarr", "--region=0,80,0,90"
    )
    assert answer.code == 0, answer.err
    assert "coarsened first" in answer.err
    with xr.open_zarr(tmp_path / "f.zarr") as found, xr.open_dataset(tmp_path / "said.nc") as said:
        assert found.sizes["time"] == said.sizes["time"]
        assert found.y.min() >= 0


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--devices", "2"], "--devices"),
        (["--refit"], "--refit"),
        (["--loss", "mse"], "--loss"),
        (["--objective", "guess"], "unknown objective"),
        (["--objective", "rollout"], "feeds states back"),
        (["--set", "blocks.size=9,9,9"], "blocks.size"),
        (["--set", "conditions.width=4"], "odd"),
    ],
)
def test_options_that_would_do_nothing_are_refused(emukit, demo_store, words, found):
    answer = emukit("train", "downscale", "--data", demo_store, *words)
    assert answer.code == 2
    assert found in answer.err


def test_other_runs_are_refused_by_name(emukit, linear_run, tmp_path):
    answer = emukit("downscale", linear_run, tmp_path / "x.nc", "--out", tmp_path / "f.zarr")
    assert answer.code == 2
    assert "not a downscaling run" in answer.err
