"""A competition that is not the shipped one: a number that is lost on the way, or a direction that is not asked for."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emukit.competitions.cse151b import cse151b
from emukit.competitions.generic import competition as generic
from emukit.competitions.registry import competition_of, load_competition
from emukit.errors import EmukitError
from emukit.metrics import Moments, Score
from emukit.metrics.standard import step_rmse
from tests.coded import score_moments, small_grid, warming_archive
from tests.competitions import strangers

UNITS = {"tas": "K", "pr": "mm/day"}


def some_fields(seed=0, months=24, variables=2):
    rng = np.random.default_rng(seed)
    truth = 280 + 5 * rng.normal(size=(months, variables, *small_grid().shape))
    return truth + rng.normal(size=truth.shape), truth


# --- numbers, against plain formulas


def test_generic_numbers_are_those_of_their_formulas():
    prediction, truth = some_fields(variables=3)
    units = {"tas": "K", "pr": "mm/day", "huss": "1"}
    competition, w = generic(units), small_grid().weights / small_grid().weights.sum()
    score = competition.score(Moments.of(prediction, truth), small_grid().weights, tuple(units))
    relative = []
    for i, v in enumerate(units):
        p, t = prediction[:, i], truth[:, i]
        rmse = np.sqrt(np.mean([(w * (a - b) ** 2).sum() for a, b in zip(p, t, strict=True)]))
        relative.append(rmse / np.sqrt((w * t.var(0)).sum()))
        assert score[f"{v}.rmse"] == pytest.approx(rmse)
        assert score[f"{v}.relative_rmse"] == pytest.approx(relative[-1])
        assert score[f"{v}.bias"] == pytest.approx((w * (p - t).mean(0)).sum())
        assert score[f"{v}.time_mean_rmse"] == pytest.approx(np.sqrt((w * (p - t).mean(0) ** 2).sum()))
        assert score[f"{v}.time_stddev_mae"] == pytest.approx((w * np.abs(p.std(0) - t.std(0))).sum())
    assert score.value == pytest.approx(np.mean(relative))


def test_the_truth_s_own_mean_scores_one_and_units_do_not_matter():
    _, truth = some_fields()
    mean = np.broadcast_to(truth.mean(0), truth.shape)
    score = generic(UNITS).score(Moments.of(mean, truth), small_grid().weights, ("tas", "pr"))
    assert score.value == pytest.approx(1.0)
    other = generic(UNITS).score(Moments.of(mean * 1e3, truth * 1e3), small_grid().weights, ("tas", "pr"))
    assert other.value == pytest.approx(1.0)


def test_a_variable_that_does_not_vary_is_left_out_of_the_generic_score():
    prediction, truth = some_fields()
    truth[:, 1] = 5.0
    score = generic(UNITS).score(Moments.of(prediction, truth), small_grid().weights, ("tas", "pr"))
    assert "pr.relative_rmse" not in score.numbers
    assert score.value == pytest.approx(score["tas.relative_rmse"])
    json.dumps(score.as_dict(), allow_nan=False)


def test_further_sums_add_pack_and_do_not_mix():
    prediction, truth = some_fields()
    competition = strangers.with_mae(UNITS)
    whole = competition.moments(prediction, truth)
    half = competition.moments(prediction[:10], truth[:10]) + competition.moments(prediction[10:], truth[10:])
    again = Moments.unpack(half.pack(), tuple(competition.terms))
    for m in (whole, half, again):
        score = competition.score(m, small_grid().weights, ("tas", "pr"))
        w = small_grid().weights / small_grid().weights.sum()
        expected = [(w * np.abs(prediction - truth)[:, i].mean(0)).sum() for i in range(2)]
        assert [score["tas.mae"], score["pr.mae"]] == pytest.approx(expected)


def test_the_order_of_a_store_s_variables_and_others_do_not_matter():
    prediction, truth = some_fields(variables=3)
    plain = score_moments(Moments.of(prediction[:, :2], truth[:, :2]), small_grid().weights)
    turned = Moments.of(prediction[:, [2, 1, 0]], truth[:, [2, 1, 0]])
    assert score_moments(turned, small_grid().weights, ("huss", "pr", "tas")).numbers == plain.numbers
    with pytest.raises(ValueError, match="scores pr"):
        score_moments(turned, small_grid().weights, ("huss", "rain", "tas"))


def test_a_metric_of_all_variables_sees_them_in_the_order_of_the_competition():
    prediction, truth = some_fields(variables=3)

    def between(m, w):
        return (w * (m.mean_prediction[..., 0, :, :] - m.mean_prediction[..., 1, :, :])).sum((-2, -1))

    whole = replace(step_rmse("tas", "K"), key="both.gap", variable=None, function=between, ceiling=None)
    competition = replace(cse151b(), metrics=(*cse151b().metrics, whole))
    expected = small_grid().mean(prediction[:, 2] - prediction[:, 0]).mean()
    m = Moments.of(prediction, truth)
    assert competition.score(m, small_grid().weights, ("pr", "huss", "tas"))["both.gap"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metrics": (step_rmse("tas", "K"),) * 2}, "twice"),
        ({"metrics": (step_rmse("huss", "1"),)}, "of huss"),
        ({"weights": {"tas.typo": 1.0}}, "a weight of no metric"),
        ({"weights": {}}, "no weights"),
        ({"metrics": (replace(step_rmse("tas", "K"), key="limit.rmse"),)}, "a word of the file"),
        ({"metrics": (replace(step_rmse("tas", "K"), key="rmse"),)}, "not GROUP.NAME"),
    ],
)
def test_a_competition_that_cannot_be_computed_or_kept_is_refused(changes, words):
    kept = {"metrics": (step_rmse("tas", "K"),), "weights": {"tas.rmse": 1.0}} | changes
    with pytest.raises(ValueError, match=words):
        replace(cse151b(), **kept)


def test_a_competition_that_does_not_fit_the_data_is_refused_by_name():
    with pytest.raises(EmukitError, match="there is no competition cse152") as error:
        load_competition("cse152", UNITS)
    assert "generic" in str(error.value)
    with pytest.raises(EmukitError, match="cannot score these variables") as error:
        load_competition("cse151b", {"tas": "K"})
    assert "no pr" in str(error.value)
    with pytest.raises(EmukitError, match="tas in degC"):
        load_competition("cse151b", UNITS | {"tas": "degC"})
    archive = warming_archive(months=121)
    card = archive.card.model_copy(update={"competition": "climx"})
    with pytest.raises(EmukitError, match="no TXx"):
        competition_of(replace(archive, card=card))


def test_climx_on_a_store_of_indices_is_its_own_score():
    from emukit.competitions.climx.score import ClimXScore, competition, score_index

    rng = np.random.default_rng(4)
    truth = 300 + rng.normal(size=(20, 2, 12, 18))
    prediction = truth + rng.normal(0, 0.7, truth.shape)
    climx = competition({"TXx": "K", "GSL": "days"})
    score = climx.score(Moments.of(prediction, truth), np.ones((12, 18)), ("TXx", "GSL"))
    each = {name: score_index(truth[:, i], prediction[:, i]) for i, name in enumerate(("TXx", "GSL"))}
    assert score.value == pytest.approx(ClimXScore(each).value, abs=1e-7)
    assert score.cost == -score.value
    # Of one that varies nowhere there is none, and the other alone is the score.
    truth[:, 1] = 365.0
    assert climx.score(Moments.of(prediction, truth), np.ones((12, 18)), ("TXx", "GSL")).value == pytest.approx(
        each["TXx"].value, abs=1e-7
    )


# --- which way is better


def test_higher_is_better_in_ranking_and_in_the_best_epoch(strange):
    from emukit.competitions.ranking import Row, ranked

    competition = load_competition("skill", UNITS)
    rows = [Row(str(x), "run", "s", x, {}, competition=competition) for x in (0.1, -0.5, 0.9)]
    rows.append(Row("none", "run", "s", None, {}, competition=competition))
    assert [r.name for r in ranked(rows)["s"]] == ["0.9", "0.1", "-0.5", "none"]
    assert Score(competition, {"tas.skill": 0.4, "pr.skill": 0.2}, 1).cost == pytest.approx(-0.3)


def test_a_sentence_and_colours_follow_the_direction(strange):
    from emukit.figures.figure import BETTER, WORSE
    from emukit.figures.studies import VariantInterval, draw_intervals
    from emukit.report.pages import marks
    from emukit.studies.bootstrap import Difference, sentence

    competition = load_competition("skill", UNITS)
    more = Difference(0.1, 0.05, 0.15, None)
    words = sentence({"score": more, "tas.skill": more, "tas.rmse": more}, competition, 2, True, 10)
    assert words.startswith("better by 0.100")
    assert "better in tas skill" in words
    assert "worse in tas step" in words
    shown = {"v": {"score": VariantInterval(0.1, 0.05, 0.15), "tas.rmse": VariantInterval(0.1, 0.05, 0.15)}}
    figure = draw_intervals(shown, "base", "t", competition)
    assert [axes.lines[1].get_color() for axes in figure.axes] == [BETTER, WORSE]
    assert "right is better" in figure.axes[0].get_title(loc="left")

    from emukit.competitions.ranking import Row

    rows = [Row(str(x), "run", "s", x, {}, competition=competition) for x in (0.1, -0.5, 0.9)]
    assert [m.name for m in marks(rows)] == ["0.9", "0.1", "-0.5"]


def test_files_of_before_competitions_are_those_of_the_shipped_one():
    from emukit.runs.record import Scoring
    from emukit.studies.results import tables_of
    from emukit.studies.study_file import StudyFile

    assert Scoring().competition.name == "cse151b"
    kept = json.loads((Path(__file__).parents[2] / "docs/ablations/anchor/study.json").read_text())
    assert "competition" not in kept
    assert StudyFile.model_validate(kept).competition.competition.name == "cse151b"
    assert tables_of(kept)[0].competition.name == "cse151b"


def test_the_competition_of_the_docs_is_one():
    text = (Path(__file__).parents[2] / "docs/competitions.md").read_text(encoding="utf-8")
    names = {}
    exec(text.partition("```python\n")[2].partition("```")[0], names)
    prediction, truth = some_fields()
    mine = names["competition"](UNITS)
    score = mine.score(mine.moments(prediction, truth), small_grid().weights, ("tas", "pr"))
    assert score.value == pytest.approx(small_grid().mean(np.abs(prediction - truth).mean(0)).sum())


def test_a_search_and_a_final_fit_look_for_the_best_and_not_the_lowest(strange, tmp_path):
    from emukit.runs.fit import RefitPolicy
    from emukit.studies.search import _costs
    from emukit.training.settings import TrainingSettings

    archive = warming_archive(months=121)
    other = replace(archive, card=archive.card.model_copy(update={"competition": "skill"}))
    assert _costs({"a": 0.5, "b": None}, archive) == {"a": 0.5, "b": None}
    assert _costs({"a": 0.5, "b": None}, other) == {"a": -0.5, "b": None}
    lines = [{"epoch": e, "step": 10 * e, "validation": {"score": s}} for e, s in ((1, 0.1), (2, 0.9), (3, 0.2))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    of = RefitPolicy(tmp_path, None).length
    settings = TrainingSettings(epochs=3)
    assert [of(settings, 10, competition_of(a).cost).keep.epoch for a in (archive, other)] == [1, 2]
