"""A study on several data sets that counts one of them twice, pairs the wrong ones, or is surer than it can be."""

import json

import numpy as np
import pytest
from scipy import stats

from emukit.competitions.climx.score import _climx
from emukit.metrics.extremes import UNITS
from emukit.runs.record import Scoring
from emukit.studies.compare import repeated_study
from tests.cli.conftest import emukit  # noqa: F401

BASE, OTHER, BROKEN = (0.07, 0.064, 0.069), (-0.197, -0.169, -0.17), (0.1, None, 0.1)


def study(variants, data="a", name="templates", base="base", protocol="held"):
    """A study.json with a score and one index of every variant; None: it has not finished."""
    units = {n: UNITS[n] for n in ("TXx", "SU")}
    rows = [
        {
            "variant": v,
            "seeds": [0],
            "mean": None if x is None else {"score": x, "TXx.nnse": x + 0.1, "SU.nnse": x - 0.1},
        }
        for v, x in variants.items()
    ]
    return {
        "format": 1,
        "name": name,
        "base": base,
        "data": data,
        "protocols": [protocol],
        "competition": Scoring.of(_climx(units)).model_dump(),
        "variants": [{"name": v} for v in variants],
        "results": [{"protocol": protocol, "set": "test", "months": ["2015"], "rows": rows}],
    }


def written(folder, *studies):
    out = []
    for i, values in enumerate(studies):
        place = folder / f"climate-{i}"
        place.mkdir()
        (place / "study.json").write_text(json.dumps(values))
        out.append(place)
    return out


def three(folder):
    each = zip(BASE, OTHER, BROKEN, strict=True)
    return written(
        folder, *(study({"base": b, "other": o, "lost": x}, data=f"d{i}") for i, (b, o, x) in enumerate(each))
    )


def test_means_and_intervals_are_those_of_student(tmp_path):
    (table,) = repeated_study(three(tmp_path))
    base, other = table.rows
    for found, values in (
        (base.mean["score"], BASE),
        (other.mean["score"], OTHER),
        (other.mean["TXx.nnse"], np.add(OTHER, 0.1)),
        (other.difference["score"], np.subtract(OTHER, BASE)),
        (other.difference["SU.nnse"], np.subtract(OTHER, BASE)),
    ):
        low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
        assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    assert other.each == OTHER
    assert base.difference is None
    assert other.sentence.startswith("worse by 0.246 (95 % 0.2")
    assert table.notes == (f"lost: no finished run in {tmp_path / 'climate-1'}",)


def test_what_is_not_one_study_on_several_data_is_refused(emukit, tmp_path):  # noqa: F811
    one = study({"base": 0.1, "other": 0.2})
    cases = {
        "would count twice": one,
        "another study": study({"base": 0.1}, data="b", name="else"),
        "another base": study({"first": 0.1}, data="b", base="first"),
        "no set of months in common": study({"base": 0.1}, data="b", protocol="loso:ssp585"),
        "the base 'base' has no finished run": study({"base": None, "other": 0.2}, data="b"),
        "is damaged": {"format": 1},
    }
    for i, (message, other) in enumerate(cases.items()):
        place = tmp_path / str(i)
        place.mkdir()
        answer = emukit("compare", *written(place, one, other))
        assert answer.code == 2, message
        assert message in " ".join(answer.err.split()), answer.err
    (tmp_path / "run").mkdir()
    assert "without a study.json" in emukit("compare", tmp_path / "0" / "climate-0", tmp_path / "run").err
    alone = emukit("compare", tmp_path / "0" / "climate-0")
    assert (alone.code, "one study has nothing" in alone.err) == (2, True)


def test_command_prints_every_number_and_refuses_options_without_effect(emukit, tmp_path):  # noqa: F811
    folders = three(tmp_path)
    shown = emukit("compare", *folders, "--format", "md")
    assert shown.code == 0
    (line,) = (line for line in shown.out.splitlines() if line.startswith("| other"))
    assert line.startswith("| other | -0.1970 | -0.1690 | -0.1700 | -0.1787 | -0.218 to -0.139 | -0.2463 | ")
    assert "lost" in shown.err
    rows = emukit("compare", *folders, "--format", "csv").out.splitlines()
    assert len(rows) == 1 + 2 * 3
    assert json.loads(emukit("compare", *folders, "--format", "json").out)[0]["rows"][1]["each"] == list(OTHER)
    for words, message in ((["--data", "demo"], "open no data"), (["--split", "validation"], "no set 'validation'")):
        answer = emukit("compare", *folders, *words)
        assert (answer.code, message in answer.err) == (2, True)
