"""Pictures of pages in another scale than they say, curves across gaps, and coasts that are not where they are."""

import io

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.text import Text
from PIL import Image

from emukit.competitions.cse151b import cse151b
from emukit.figures.curves import Curves, draw_distribution
from emukit.figures.figure import BETTER, WORSE, write_webp
from emukit.figures.maps import LEVELS, Field, _east_of_greenwich, coastline, draw_error_maps, draw_zonal, round_limit
from emukit.figures.studies import (
    VariantInterval,
    draw_coordinates,
    draw_intervals,
    draw_learning,
    draw_terms,
    has_terms,
)
from emukit.report.plot_data import _scale_to_daily
from emukit.report.run_figures import SHAPES, save
from tests.coded import small_grid
from tests.report.test_pictures import mesh_of

COORDINATES = ("score", *cse151b().keys)
GRID = small_grid()
FIELD = np.arange(24.0).reshape(4, 6) - 11.5


def fields():
    members = np.stack([FIELD.mean(1) / 2, FIELD.mean(1) / 4])
    return {
        "tas.mean": Field("RdBu_r", "tas (K), mean over time", "RMSE 1", FIELD, members),
        "pr.std": Field("BrBG", "pr (mm/day), standard deviation", "MAE 2", -FIELD, members),
    }


def test_coast_is_whole_between_zero_and_360_degrees():
    lines = coastline()
    points = np.concatenate(lines)
    assert points[:, 0].min() >= 0
    assert points[:, 0].max() <= 360
    assert points[:, 1].min() > -86
    assert points[:, 1].max() < 84
    # No line runs across the map from one end to the other.
    assert max(np.abs(np.diff(line[:, 0])).max() for line in lines) < 20
    for lon, lat in ((18.4, -34.1), (350.6, 38.7), (151.3, -33.9), (286.0, 40.6), (292.5, -55.5)):
        assert np.hypot(points[:, 0] - lon, points[:, 1] - lat).min() < 1.5, (lon, lat)
    # In the middle of oceans and continents there is none.
    for lon, lat in ((200.0, 0.0), (330.0, 30.0), (100.0, 60.0), (20.0, 10.0)):
        assert np.hypot(points[:, 0] - lon, points[:, 1] - lat).min() > 5, (lon, lat)


def test_line_over_the_prime_meridian_is_cut_there_and_over_the_dateline_is_not():
    west, east = _east_of_greenwich(np.array([[-2.0, 50.0], [2.0, 52.0]]))
    np.testing.assert_allclose(west, [[358, 50], [360, 51]])
    np.testing.assert_allclose(east, [[0, 51], [2, 52]])
    back = _east_of_greenwich(np.array([[1.0, 0.0], [-3.0, 4.0], [-5.0, 4.0]]))
    np.testing.assert_allclose(back[1], [[360, 1], [357, 4], [355, 4]])
    (dateline,) = _east_of_greenwich(np.array([[179.0, 65.0], [-179.0, 66.0]]))
    np.testing.assert_allclose(dateline, [[179, 65], [181, 66]])


def test_maps_have_the_scale_that_is_given_and_coasts_on_earth_alone():
    scales = {"tas.mean": 4.0, "pr.std": 0.5}
    figure = draw_error_maps(fields(), GRID, scales, "$title", earth=True)
    for axes, (name, field) in zip(figure.axes[:2], fields().items(), strict=True):
        mesh = mesh_of(axes)
        assert mesh.get_clim() == (-scales[name], scales[name])
        assert mesh.cmap.N == LEVELS
        np.testing.assert_array_equal(mesh.get_array()[:, 1:-1], field.error)
        assert any(isinstance(c, LineCollection) for c in axes.collections)
        assert axes.get_xlim() == (0, 360)
    made_up = draw_error_maps(fields(), GRID, scales, "title", earth=False)
    assert not any(isinstance(c, LineCollection) for a in made_up.axes[:2] for c in a.collections)


def test_zonal_means_are_of_the_errors_over_the_sine_of_latitude():
    scales = {"tas.mean": 4.0, "pr.std": 0.5}
    figure = draw_zonal(fields(), GRID, scales, "title")
    for axes, (name, field) in zip(figure.axes, fields().items(), strict=True):
        assert axes.get_xlim() == (-scales[name], scales[name])
        lines = [line for line in axes.lines if len(line.get_xdata()) == 4]
        np.testing.assert_allclose(lines[-1].get_xdata(), field.error.mean(1))
        np.testing.assert_allclose(lines[0].get_xdata(), field.members[0])
        np.testing.assert_allclose(lines[0].get_ydata(), np.sin(np.deg2rad(GRID.lat)))


def test_titles_of_zonal_panels_end_before_the_next_panel_and_the_edge():
    long = Field("BrBG", "pr (mm/day), standard deviation over time", "MAE 2", FIELD, np.zeros((0, 4)))
    figure = draw_zonal({f"pr.{i}": long for i in range(4)}, GRID, {f"pr.{i}": 1.0 for i in range(4)}, "title")
    figure.set_size_inches(*SHAPES["zonal"])
    figure.draw_without_rendering()
    for axes in figure.axes:
        (title,) = (t for t in axes.findobj(Text) if t.get_text() == axes.get_title(loc="left"))
        assert title.get_window_extent().x1 <= axes.get_window_extent().x1
    assert all(axes.get_window_extent().height > 80 for axes in figure.axes)


@pytest.mark.parametrize("kind", ["maps", "zonal"])
def test_panels_of_seven_variables_do_not_lie_on_each_other_on_a_page(tmp_path, kind):
    long = Field("BrBG", "pr (kg m-2 s-1), standard deviation over time", "MAE 2", FIELD, np.zeros((0, 4)))
    many, scales = {f"v.{i}": long for i in range(14)}, {f"v.{i}": 1.0 for i in range(14)}
    if kind == "maps":
        figure = draw_error_maps(many, GRID, scales, "title", earth=False)
    else:
        figure = draw_zonal(many, GRID, scales, "title")
    save(figure, tmp_path / f"{kind}.webp", kind, "")
    panels = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert len(panels) == 14
    for axes in panels:
        (title,) = (t for t in axes.findobj(Text) if t.get_text() == axes.get_title(loc="left"))
        words = title.get_window_extent()
        assert not any(words.overlaps(other.get_window_extent()) for other in figure.axes if other is not axes)
        assert axes.get_window_extent().height > 80


def test_nothing_has_no_place_on_a_logarithm():
    curves = Curves(np.array([0.1, 1.0, 10.0]), np.array([[0.1, 0.2, 0.0]]), np.array([[0.0, 0.5, 0.1]]))
    axes = draw_distribution(curves, "pr", "title").axes[0]
    assert np.isnan(axes.lines[0].get_ydata()[2])
    assert np.isnan(axes.lines[1].get_ydata()[0])


def test_amounts_outside_all_classes_are_an_empty_picture_instead_of_an_error():
    nothing = Curves(np.array([0.1, 1.0, 10.0]), np.zeros((1, 3)), np.zeros((1, 3)))
    draw_distribution(nothing, "pr", "title").draw_without_rendering()


@pytest.mark.parametrize(
    ("units", "scale"), [("mm/day", 1.0), ("mm d-1", 1.0), ("kg m-2 s-1", 86400.0), ("m s-1", 86400e3)]
)
def test_classes_of_precipitation_are_the_same_amounts_in_all_units(units, scale):
    assert _scale_to_daily(units) == scale


def test_limit_leaves_a_share_of_the_area_beyond():
    values = np.concatenate([np.full(99, 0.9), [50.0]])
    assert round_limit(values, np.ones(100)) == 1.0
    assert round_limit(-values, np.where(values > 1, 10.0, 1.0)) == 50.0
    assert round_limit(np.zeros(5), np.ones(5)) == 1.0


def test_epochs_without_validation_are_gaps_and_a_loss_below_zero_is_not_lost():
    log = [
        {"epoch": 1, "loss": 2.0, "validation": {"score": 1.0}},
        {"epoch": 2, "loss": None},
        {"epoch": 3, "loss": -1.0, "validation": {"score": 0.5}, "validation_average": {"score": 0.4}},
    ]
    figure = draw_learning({"network": log}, "title", "lower is better")
    loss, score = figure.axes
    np.testing.assert_array_equal(loss.lines[0].get_ydata(), [2.0, np.nan, -1.0])
    assert loss.get_yscale() == "linear"
    np.testing.assert_array_equal(score.lines[0].get_ydata(), [1.0, np.nan, 0.5])
    np.testing.assert_array_equal(score.lines[1].get_ydata(), [np.nan, np.nan, 0.4])
    assert score.get_yscale() == "log"
    assert score.lines[1].get_marker() == "o"
    many = draw_learning({f"$n_{i}": log for i in range(40)}, "title", "lower is better")
    assert len(many.axes[0].lines) == 28
    many.draw_without_rendering()


def test_terms_are_by_variable_and_nothing_else_is_one():
    log = [{"epoch": 1, "step": 3, "loss": 1.0, "tas.mse": 0.5, "tas.std": 0.2, "pr.mse": 0.3, "seconds": 4.0}]
    figure = draw_terms(log, "title")
    assert [a.get_title(loc="left") for a in figure.axes] == ["tas", "pr"]
    assert [line.get_label() for line in figure.axes[0].lines] == ["mse", "std"]
    assert has_terms(log)
    assert not has_terms([{"epoch": 1, "loss": 1.0, "gradient_norm": 1.0, "learning_rate": 0.1}])


def test_interval_that_holds_zero_is_open():
    variants = {
        "better": {"score": VariantInterval(-0.2, -0.3, -0.1)},
        "same $x$": {"score": VariantInterval(0.05, -0.1, 0.2)},
        "unknown": {},
    }
    figure = draw_intervals(variants, "base", "title", cse151b())
    (axes,) = figure.axes
    better, same = (line for line in axes.lines if line.get_marker() == "o")
    assert better.get_markerfacecolor() != "white"
    assert same.get_markerfacecolor() == "white"
    assert (better.get_ydata()[0], same.get_ydata()[0]) == (0, 1)
    figure.draw_without_rendering()


def test_better_and_worse_differ_in_colour_and_shape_and_numbers_have_units():
    """One colour for both left the side of zero alone to tell them apart."""
    far = {"score": VariantInterval(-2.5, -2.6, -2.4), "pr.monthly_rmse": VariantInterval(0.2, 0.1, 0.3)}
    variants = {
        "a": {"score": VariantInterval(-0.2, -0.3, -0.1)},
        "b": {"score": VariantInterval(0.2, 0.1, 0.3)},
        "far": far,
    }
    score, rain = draw_intervals(variants, "base", "title", cse151b()).axes
    looks = {(line.get_marker(), line.get_color()) for line in score.lines if line.get_marker() in ("o", "s", "<")}
    assert looks == {("o", BETTER), ("s", WORSE), ("<", BETTER)}
    assert BETTER != WORSE
    assert (score.get_title(loc="left"), rain.get_title(loc="left")) == ("score\nno unit", "pr month\nmm/day")
    axes = draw_coordinates({v: dict.fromkeys(COORDINATES, 0.5) for v in "ab"}, {}, "a", "title", cse151b()).axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()][1] == "tas month\nK"


def test_one_failed_variant_does_not_press_the_others_together():
    near = {f"v{i}": {"score": VariantInterval(0.01 * i, 0.01 * i - 0.01, 0.01 * i + 0.01)} for i in range(4)}
    (axes,) = draw_intervals(
        {**near, "failed": {"score": VariantInterval(2.5, 2.4, 2.6)}}, "base", "title", cse151b()
    ).axes
    assert axes.get_xlim()[1] < 0.3
    (arrow,) = (line for line in axes.lines if line.get_marker() == ">")
    assert arrow.get_ydata()[0] == 4
    assert "+2.50" in [t.get_text() for t in axes.texts]
    (alike,) = draw_intervals(near, "base", "title", cse151b()).axes
    assert not [line for line in alike.lines if line.get_marker() == ">"]


def test_written_picture_has_the_size_it_is_given_and_few_colours(tmp_path):
    path = tmp_path / "maps.webp"
    figure = draw_error_maps(fields(), GRID, {"tas.mean": 4.0, "pr.std": 0.5}, "title", earth=True)
    assert write_webp(figure, path, "what it is", width=5.0, height=3.0, colours=20) == (500, 300)
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        assert image.format == "WEBP"
        assert len(image.convert("RGB").getcolors(100)) == pytest.approx(20, abs=2)
        assert image.getexif()[0x010E] == "what it is"


def lines_of(figure):
    """Variant to its heights on the axes, from the lines that have a place on each."""
    axes, labels = figure.axes[0], [t.get_text() for t in figure.legends[0].get_texts()]
    drawn = [line.get_ydata() for line in axes.lines if len(line.get_xdata()) == 7]
    return dict(zip([label.split("  ")[1] for label in labels], drawn, strict=True))


def test_every_variant_is_where_its_numbers_are_and_the_best_at_the_bottom():
    means = {v: {c: x + i / 10 for i, c in enumerate(COORDINATES)} for v, x in (("a", 0.4), ("base", 0.6), ("b", 0.5))}
    spreads = {"base": dict.fromkeys(COORDINATES, 0.02)}
    figure = draw_coordinates(means, spreads, "base", "title", cse151b())
    lines = lines_of(figure)
    assert list(lines) == ["a", "b", "base (base)"]
    np.testing.assert_allclose(lines["a"], 0.0, atol=1e-9)
    np.testing.assert_allclose(lines["b"], 0.5)
    np.testing.assert_allclose(lines["base (base)"], 1.0)
    texts = [t.get_text() for t in figure.axes[0].texts]
    assert texts[:2] == ["0.400", "0.600"]
    assert texts[-2:] == ["1.000", "1.200"]
    upright = [tuple(line.get_ydata()) for line in figure.axes[0].lines if len({*line.get_xdata()}) == 1]
    bars = {ends for ends in upright if len(ends) == 2} - {(0, 1)}
    # A tenth of the axis to either side of the worst, as far as there is room.
    assert len(upright) == 14
    np.testing.assert_allclose(sorted(bars)[0], (0.9, 1.05))


def test_one_variant_far_off_stands_at_the_end_with_its_number():
    scores = {"base": 0.5, "a": 0.51, "b": 0.52, "lost": 9.0}
    figure = draw_coordinates(
        {v: dict.fromkeys(COORDINATES, x) for v, x in scores.items()}, {}, "base", "title", cse151b()
    )
    lines = lines_of(figure)
    np.testing.assert_allclose(lines["a"], 0.5)
    np.testing.assert_allclose(lines["b"], 1.0)
    assert (lines["lost"] > 1).all()
    assert [t.get_text() for t in figure.axes[0].texts].count("9") == 7
    same = draw_coordinates({v: dict.fromkeys(COORDINATES, 0.5) for v in scores}, {}, "base", "title", cse151b())
    np.testing.assert_allclose([*lines_of(same).values()], 0.0)
