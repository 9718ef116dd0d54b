"""`emukit data demo --like` and `emukit data check` on what it writes, and on the way to indices of extremes."""

import numpy as np
import pytest
import xarray as xr

from emukit.metrics.extremes import INDICES

SMALL = ["--like", "climx-tiny", "--grid", "4x4", "--years", "2", "--first-year", "1961", "-q"]


def test_from_a_generated_folder_to_the_indices_of_its_hidden_truth(emukit, tmp_path):
    made = emukit("data", "demo", "lite", *SMALL, "--truth", "truth")
    assert made.code == 0, made.err
    assert "historical 1961-2014, 4 scenarios 2015-2016, 4 x 4 cells" in made.out
    assert "in truth" in made.out
    checked = emukit("data", "check", "--data", "lite")
    # Two years are less than any protocol scores.
    assert checked.code == 1, checked.err
    for words in (
        "in the layout of climx-lite",
        "targets hidden: 729 days to predict",
        "cannot be trained on",
        "in no score",
    ):
        assert words in checked.out, words
    assert "cannot be trained on" in emukit("data", "check", "lite", "-q").out
    base = [f"--base=lite/climx_demo_hist_train_{i}.nc" for i in (1, 2)]
    done = emukit("indices", "truth/climx_demo_test_targets_ssp245.nc", *base, "--out", "indices.nc", "-q")
    assert done.code == 0, done.err
    with xr.open_dataset(tmp_path / "indices.nc") as indices:
        assert indices.sizes == {"year": 2, "lat": 4, "lon": 4}
        assert all(np.isfinite(indices[name]).all() for name in INDICES)
        assert (indices.CDD[1] <= 364).all()


def test_another_demo_where_one_is_and_the_same_where_it_may_be_replaced(emukit, tmp_path):
    assert "not written (--truth FOLDER)" in emukit("data", "demo", "lite", *SMALL).out
    assert emukit("data", "demo", "lite", *SMALL).code == 2
    assert emukit("data", "demo", "lite", *SMALL, "--overwrite", "--seed", "1").code == 0
    (tmp_path / "lite" / "mine.txt").write_text("mine")
    refused = emukit("data", "demo", "lite", *SMALL, "--overwrite")
    assert refused.code == 2
    assert "mine.txt" in refused.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--like", "climx-tiny", "--members", "2"], "--members cannot be used with --like"),
        (["--like", "climx-tiny", "--reveal"], "--reveal cannot be used with --like"),
        (["--truth", "t"], "--truth needs --like"),
        (["--first-year", "1900"], "--first-year needs --like"),
        (["--like", "climx-tiny", "--first-year", "1999"], "first_year = 1999"),
        (["--like", "climx-tiny", "--years", "99"], "years = 99"),
        (["--like", "climx-tiny", "--truth", "out/truth"], "among the files that hide it"),
        (["--like", "era5"], "era5"),
    ],
)
def test_options_that_would_do_nothing(emukit, tmp_path, words, message):
    answer = emukit("data", "demo", "out", *words)
    assert answer.code == 2
    assert message in answer.err
    assert not list(tmp_path.iterdir())


def test_a_damaged_folder_is_told_with_the_exit_code_of_a_store_that_cannot_be_used(emukit, climx_folder, tmp_path):
    (tmp_path / "lite").mkdir()
    (tmp_path / "lite" / "ssp126_train.nc").write_bytes(b"no file")
    answer = emukit("data", "check", "lite")
    assert answer.code == 1
    assert "cannot be used: 1 problem(s)" in answer.out
    for option in ("--convert=pr=mm/day", "--digests"):
        refused = emukit("data", "check", "--data", climx_folder[0], option)
        assert refused.code == 2
        assert "does not apply" in refused.err


def test_a_model_that_seems_to_train_on_too_few_days(emukit, climx_folder, tmp_path):
    answer = emukit("train", "typical-year", "--data", climx_folder[0], "--out", "run")
    assert answer.code == 2
    assert "needs more days than the store has" in answer.err
    assert not (tmp_path / "run").exists()


def test_a_folder_without_the_scenarios_of_any_protocol_is_no_use_for_training(emukit, climx_folder, tmp_path):
    (tmp_path / "lite").mkdir()
    name = "climx_demo_ssp126_train.nc"
    (tmp_path / "lite" / name).symlink_to(climx_folder[0] / name)
    answer = emukit("data", "check", "lite")
    assert answer.code == 1
    assert "cannot be trained on: protocol official needs scenario ssp370, which is not in lite" in answer.out


def test_what_is_odd_in_a_folder_is_repeated_by_every_command_or_told_by_none(emukit, climx_folder):
    odd = emukit("data", "check", "--data", climx_folder[0]).out.partition("\nodd\n")[2]

    def notes(*words):
        lines = emukit(*words, "--data", climx_folder[0]).err.splitlines()
        return [line.removeprefix("note: ") for line in lines if line.startswith("note: ")]

    # There are too few days to train on; what is odd is said before.
    told = notes("train", "typical-year")
    assert len(told) == 7
    assert all(f". {sentence}\n" in odd for sentence in told)
    assert "the 31 December of the last year is missing" in "".join(told)
    assert notes("train", "typical-year", "-q") == []
    for words in (("data", "windows"), ("crossval", "linear")):
        assert notes(*words) == ["the data are odd in places: `emukit data check` lists them"]


def test_a_plan_of_a_fit_to_days_takes_a_division_that_does_nothing(emukit, climx_folder):
    refused = emukit("plan", "typical-year", "--data", climx_folder[0], "--domain", "2")
    assert refused.code == 2
    assert "--domain would do nothing" in refused.err
