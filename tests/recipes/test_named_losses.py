"""Shipped losses that are not what their name says, or that a file or a setting cannot change."""

from typing import get_type_hints

import numpy as np
import pytest
import torch

from emukit.cli.models import choice_lines
from emukit.cli.train import models, train
from emukit.competitions.cse151b import PART_WEIGHTS, VARIABLE_WEIGHTS
from emukit.errors import RecipeError
from emukit.losses.registry import LOSSES, loss_lines, loss_terms, named_loss
from emukit.recipes.load import load_recipe
from emukit.training.settings import LossSettings, composite_loss
from tests.coded import warming_archive

TERM_OF = {"monthly_rmse": "rmse", "time_mean_rmse": "time_mean", "time_stddev_mae": "time_std"}


@pytest.mark.parametrize("name", LOSSES)
def test_named_loss_replaces_the_whole_table(name):
    loss = load_recipe("cnn-gru", loss=name).loss
    assert loss == LossSettings(**named_loss(name))
    assert {"tas", "pr"} <= set(LOSSES[name])


@pytest.mark.parametrize("name", ["metric", "decade"])
def test_metric_has_the_weights_of_the_score(name):
    for variable, parts in PART_WEIGHTS.items():
        expected = {TERM_OF[part]: VARIABLE_WEIGHTS[variable] * weight for part, weight in parts.items()}
        assert LOSSES[name][variable] == pytest.approx(expected)


def test_published_recipe_has_the_published_loss():
    assert load_recipe("cnn-gru-published").loss == LossSettings(**named_loss("published"))


def test_recipe_then_named_loss_then_file_then_setting(tmp_path):
    file = tmp_path / "own.toml"
    file.write_text("[loss]\npr = { huber = 1.0 }\nramp_epochs = 7.0\n")
    loss = load_recipe("cnn-gru", file, ["loss.tas.rmse=0.3", "loss.warmup_epochs=2.0"], "decade").loss
    assert loss.pr == {"huber": 1.0}
    assert loss.tas == {**LOSSES["decade"]["tas"], "rmse": 0.3}
    assert (loss.warmup_epochs, loss.ramp_epochs) == (2.0, 7.0)
    assert load_recipe("cnn-gru", loss="decade").loss.warmup_epochs == 3.0


@pytest.mark.parametrize(
    ("model", "loss", "message"), [("cnn-gru", "msr", "unknown loss"), ("linear", "mse", "no loss")]
)
def test_loss_that_cannot_be_is_refused(model, loss, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(model, loss=loss)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["training.segments.length=1"], "loss.pr.time_std"),
        (["loss.warmup_epochs=9.0", "training.epochs=9"], "loss.warmup_epochs 9"),
    ],
)
def test_loss_that_would_never_act_is_refused(settings, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("cnn-gru", None, settings)


@pytest.mark.parametrize("name", LOSSES)
def test_listed_loss_is_a_recipe_table_that_gives_it(name, tmp_path):
    """What `emukit models NAME` prints can be copied into a file."""
    line = next(line for line in choice_lines("cnn-gru") if line.startswith(f"  {name}: "))
    file = tmp_path / "copied.toml"
    file.write_text("[loss]\n" + line.removeprefix(f"  {name}: ").replace("; ", "\n"))
    assert load_recipe("cnn-gru", file).loss == LossSettings(**named_loss(name))


def test_help_names_every_loss_and_where_its_terms_are(capsys):
    option = get_type_hints(train, include_extras=True)["loss"].__metadata__[0]
    assert "`emukit models` says which terms each has" in option.help
    models(None)
    listed = " ".join(capsys.readouterr().out.split())
    for line in loss_lines():
        assert line.partition(":")[0] in option.help
        assert " ".join(line.split()) in listed


@pytest.mark.parametrize(
    ("warmup", "ramp", "done", "expected"),
    [
        (0, 0, 0, 1.0),
        (2, 0, 1.99, 0.0),
        (2, 0, 2, 1.0),
        (2, 4, 2, 0.0),
        (2, 4, 3, 0.25),
        (2, 4, 6, 1.0),
        (2, 4, 99, 1.0),
        (0, 4, 0, 0.0),
        (0, 4, 1, 0.25),
    ],
)
def test_ramp_rises_from_the_end_of_the_warmup(warmup, ramp, done, expected):
    assert LossSettings(warmup_epochs=warmup, ramp_epochs=ramp).ramp(done) == expected


# A variable without any loss is refused.
NEXT_TO_NOTHING = {"l1": 1e-30}


def loss_of(error, **settings):
    """The loss of normalised fields that are wrong by an error (V, Y, X) in each of two months."""
    archive = warming_archive()
    assert archive.variables == ("tas", "pr")
    error = torch.as_tensor(error, dtype=torch.float32).expand(1, 2, *error.shape)
    return float(composite_loss(LossSettings(**settings), archive, torch.device("cpu"))(error, 0 * error)[0])


@pytest.mark.parametrize("weighted", [True, False])
def test_cells_near_a_pole_count_with_another_area_than_asked_for(weighted):
    """One row of four, from the pole to 45 degrees: (1 - sin 45) / 2 of the globe, or a quarter of the cells."""
    error = np.zeros((2, 4, 6))
    error[:, 0] = 1.0
    found = loss_of(error, tas={"l1": 1.0}, pr=NEXT_TO_NOTHING, area_weighted=weighted)
    assert found == pytest.approx((1 - np.sin(np.pi / 4)) / 2 if weighted else 0.25, rel=1e-5)


@pytest.mark.parametrize("padding", ["circular", "zero"])
def test_a_field_goes_on_at_its_edges_otherwise_than_asked_for(padding):
    """A field that is the same everywhere has a slope at its edges only if zeros follow."""
    found = loss_of(np.ones((2, 4, 6)), tas={"sobel": 1.0}, pr=NEXT_TO_NOTHING, padding=padding)
    assert found > 0.1 if padding == "zero" else found == pytest.approx(0, abs=1e-6)


def test_a_variable_has_the_loss_of_the_other():
    error = np.stack([np.full((4, 6), 1.0), np.full((4, 6), 3.0)])
    assert loss_of(error, tas={"l1": 2.0}, pr={"mse": 10.0}) == pytest.approx(2 * 1 + 10 * 9, rel=1e-5)


def test_loss_says_which_terms_it_has(tmp_path):
    assert loss_terms(LOSSES["published"]) == (
        "tas l1 + 0.5 gabor + 0.2 hessian + 0.3 polar, pr 0.5 dice + 0.5 mse, others l1"
    )
    assert named_loss("dice-gabor") == named_loss("published")
    lines = {line.partition(":")[0]: line for line in loss_lines()}
    assert lines["published or dice-gabor"].endswith(loss_terms(LOSSES["published"]))
    assert len(lines) == len(LOSSES)
    assert loss_terms({"tas": {"mse": 1.0, "l1": 0.0}}) == "tas mse"
