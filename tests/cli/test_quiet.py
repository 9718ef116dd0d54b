"""Commands that were told to be quiet, and are not."""

import pytest

from tests.cli.conftest import TINY


@pytest.mark.parametrize(
    "words",
    [
        "train linear --data STORE --out runs/a",
        "train linear --data STORE --out runs/b --refit",
        f"train cnn-gru --data STORE --out runs/c {' '.join(TINY)}",
        "evaluate RUN",
        "predict RUN --scenario ssp245 --out p.nc",
        "plan simple-cnn --data STORE --set training.segments.per_batch=2",
        "submit RUN --out entry",
        "evaluate climatology --protocols official --data STORE --out v",
        "crossval climatology --data STORE --out c",
        "data windows STORE",
        "data demo d.zarr --grid 4x6 --years 85",
    ],
)
def test_quiet_command_prints_its_result_and_nothing_else(emukit, linear_run, demo_store, words):
    answer = emukit(*(str({"RUN": linear_run, "STORE": demo_store}.get(w, w)) for w in words.split()), "-q")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out


def test_what_went_wrong_is_said_to_the_quiet_too(emukit, linear_run):
    answer = emukit("evaluate", linear_run, "--split", "test", "-q")
    assert answer.code == 2
    assert answer.err.startswith("error: ")
