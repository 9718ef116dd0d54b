"""Pictures that show other data than they were given: upside down, shifted, in two scales, or zeros for unknowns."""

import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import LineCollection, PolyCollection, QuadMesh
from matplotlib.colors import to_rgb

from emukit.data.grid import Grid
from emukit.figures.curves import (
    Curves,
    Departure,
    Power,
    Ranks,
    Season,
    Years,
    draw_discrepancies,
    draw_ranks,
    draw_seasons,
    draw_spectra,
    draw_years,
)
from emukit.figures.figure import MEMBERS, TRUTH, drawing, legend_below, line_colours, sheet, write_png, write_webp
from emukit.figures.maps import MapRow, Panel, draw_maps, edges, scale, scale_colours
from emukit.figures.studies import draw_learning
from tests.coded import small_grid

GRID = small_grid(4, 6)


def mesh_of(axes) -> QuadMesh:
    (mesh,) = (c for c in axes.collections if isinstance(c, QuadMesh))
    return mesh


def value_at(axes, lon, lat):
    """The value drawn where a reader looks."""
    mesh = mesh_of(axes)
    corners = mesh.get_coordinates()
    x = np.searchsorted(corners[0, :, 0], lon) - 1
    y = np.searchsorted(corners[:, 0, 1], lat) - 1
    return mesh.get_array()[y, x]


def test_map_shows_every_cell_at_its_place_with_north_up():
    field = np.arange(24.0).reshape(4, 6) - 10
    figure = draw_maps([MapRow("RdBu_r", "tas (K)", [Panel("one", field)])], GRID, "title", earth=False)
    axes = figure.axes[0]
    for y, lat in enumerate(GRID.lat):
        for x, lon in enumerate(GRID.lon):
            assert value_at(axes, lon, lat) == field[y, x]
    assert axes.get_ylim() == (-90.0, 90.0)
    assert axes.get_xlim() == (0.0, 360.0)
    north = axes.transData.transform((180, 80))[1]
    assert north > axes.transData.transform((180, -80))[1]


def test_map_has_the_cell_on_the_prime_meridian_on_both_sides():
    grid = Grid(GRID.lat, np.arange(6) * 60.0)
    field = np.arange(24.0).reshape(4, 6)
    axes = draw_maps([MapRow("BrBG", "pr", [Panel("one", field)])], grid, "title", earth=False).axes[0]
    for lon, x in ((5, 0), (29, 0), (31, 1), (329, 5), (331, 0), (355, 0)):
        assert value_at(axes, lon, grid.lat[2]) == field[2, x]
    labels = [t.get_text() for t in axes.get_xticklabels()]
    assert (labels[0], labels[-1]) == ("0°", "360°")


def test_map_of_a_region_ends_where_it_ends():
    grid = Grid(np.array([10.0, 20.0]), np.array([100.0, 110.0, 120.0]))
    axes = draw_maps([MapRow("RdBu_r", "tas", [Panel("one", np.ones((2, 3)))])], grid, "title", earth=False).axes[0]
    assert axes.get_xlim() == (95.0, 125.0)
    assert axes.get_ylim() == (5.0, 25.0)


def test_panels_of_a_row_share_one_scale_about_zero_and_rows_have_their_own():
    small, large = np.full((4, 6), 0.1), np.full((4, 6), -2.5)
    rows = [
        MapRow("RdBu_r", "a (K)", [Panel("x", small), Panel("y", large)]),
        MapRow("BrBG", "b", [Panel("x", small)] * 2),
    ]
    figure = draw_maps(rows, GRID, "title", earth=False)
    limits = [mesh_of(axes).get_clim() for axes in figure.axes[:4]]
    assert limits == [(-3, 3), (-3, 3), (-0.1, 0.1), (-0.1, 0.1)]
    for axes in figure.axes[:4]:
        mesh = mesh_of(axes)
        np.testing.assert_allclose(mesh.cmap(mesh.norm(0.0))[:3], 0.96, atol=0.02)
    warm = mesh_of(figure.axes[0])
    red, _, blue, _ = warm.cmap(warm.norm(3.0))
    assert red > blue
    assert [axes.get_ylabel() for axes in figure.axes[4:]] == ["a (K)", "b"]


def test_scale_counts_area_not_cells_and_knows_nothing_at_all():
    grid = small_grid(180, 10)
    field = np.ones(grid.shape)
    # The polar tenth of the rows is a hundredth of the area.
    field[-9:], field[:9] = 1000.0, 1000.0
    assert scale([field], grid) == 1.0
    field[-15:] = 1000.0
    assert scale([field], grid) == 1000.0
    assert scale([np.full(GRID.shape, 0.21)], GRID) == pytest.approx(0.3)
    assert scale([np.zeros(GRID.shape)], GRID) == 1.0


def test_edges_lie_between_centres_of_any_spacing():
    np.testing.assert_allclose(edges(np.array([0.0, 2.0, 6.0])), [-1.0, 1.0, 4.0, 8.0])


def drawn(axes):
    """(N,) of every line, by its label, or by its place for those without."""
    return {line.get_label(): np.asarray(line.get_ydata()) for line in axes.lines}


def test_hidden_years_are_a_gap_and_the_scored_ones_shaded():
    members = np.array([[1.0, 2.0, np.nan], [2.0, 3.0, np.nan]])
    curves = Curves(np.array([2000.5, 2001.5, 2002.5]), members, np.array([[1.5, 2.5, 3.5]]))
    figure = draw_years([Years("tas (K)", curves)], (2001.0, 2002.0), [(2002.0, 2003.0)], "title")
    (axes,) = figure.axes
    first, second, prediction = (np.asarray(line.get_ydata()) for line in axes.lines)
    np.testing.assert_array_equal([first, second], members)
    np.testing.assert_array_equal(prediction, [1.5, 2.5, 3.5])
    shades = {p.get_label(): p.get_extents().transformed(axes.transData.inverted()) for p in axes.patches}
    assert (shades["scored months"].x0, shades["scored months"].x1) == pytest.approx((2001, 2002))
    assert shades["truth hidden in this store"].x0 == pytest.approx(2002)
    assert axes.get_ylim()[0] > 0.5
    legend = [t.get_text() for t in figure.legends[0].get_texts()]
    assert legend == ["scored months", "truth hidden in this store", "members of the climate model (2)", "prediction"]
    (axes,) = draw_years([Years("tas (K)", curves)], (2001.0, 2002.0), [], "title", "days").axes
    assert axes.patches[0].get_label() == "scored days"


def test_realisations_are_a_band_with_the_first_as_its_line():
    x = np.arange(3.0)
    curves = Curves(x, np.zeros((1, 3)), np.array([[2.0, 2.0, 2.0], [1.0, 3.0, 4.0], [0.0, 5.0, 3.0]]))
    (axes,) = draw_years([Years("tas", curves)], (0.0, 1.0), [], "title").axes
    (band,) = (c for c in axes.collections if isinstance(c, PolyCollection))
    corners = {tuple(v) for v in band.get_paths()[0].vertices}
    assert corners == {(0.0, 0.0), (0.0, 2.0), (1.0, 2.0), (1.0, 5.0), (2.0, 2.0), (2.0, 4.0)}
    np.testing.assert_array_equal(drawn(axes)["prediction: the first of them"], 2.0)


def test_many_realisations_are_a_fan_whose_inner_band_holds_half_of_them():
    x, many = np.arange(3.0), np.arange(9.0)[:, None] * np.ones(3)
    (axes,) = draw_years([Years("tas", Curves(x, np.zeros((1, 3)), many))], (0.0, 1.0), [], "title").axes
    outer, inner = (c for c in axes.collections if isinstance(c, PolyCollection))
    assert (outer.get_paths()[0].vertices[:, 1].min(), outer.get_paths()[0].vertices[:, 1].max()) == (0, 8)
    assert (inner.get_paths()[0].vertices[:, 1].min(), inner.get_paths()[0].vertices[:, 1].max()) == (2, 6)
    assert inner.get_label() == "half of them"


def test_the_truth_stands_out_among_the_members():
    x = np.arange(3.0)
    members = np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [3.0, 3.0, 3.0]])
    curves = Curves(x, members, np.zeros((1, 3)), truth=True)
    figure = draw_years([Years("tas", curves)], (0.0, 1.0), [], "title")
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    truth = lines["truth: the member it is scored by"]
    np.testing.assert_array_equal(truth.get_ydata(), 1.0)
    others = [line for line in axes.lines if line.get_color() == MEMBERS]
    assert [float(line.get_ydata()[0]) for line in others] == [2.0, 3.0]
    assert truth.get_color() == TRUTH
    assert all(truth.get_zorder() > line.get_zorder() for line in others)
    legend = [t.get_text() for t in figure.legends[0].get_texts()]
    assert "other members of the climate model (2)" in legend


def test_coasts_are_on_maps_of_the_earth_and_a_panel_apart_has_its_own_scale():
    row = MapRow("RdBu_r", "tas (K)", [Panel("a", np.full((4, 6), 3.9)), Panel("b", np.full((4, 6), 1.0))])
    apart = MapRow(row.colours, row.label, row.panels, Panel("a less b", np.full((4, 6), 0.29)))
    for earth in (True, False):
        maps = [a for a in draw_maps([apart], GRID, "title", earth=earth).axes if a.get_title(loc="left")]
        assert [any(isinstance(c, LineCollection) for c in a.collections) for a in maps] == [earth] * 3
        meshes = [next(c for c in a.collections if isinstance(c, QuadMesh)) for a in maps]
        assert [m.get_clim()[1] for m in meshes] == pytest.approx([4.0, 4.0, 0.3])


def test_departures_are_solid_where_trained_dotted_beyond_with_their_spread():
    years = np.arange(2015.5, 2020)
    a = Departure(years, np.array([0.0, 1.0, 2.0, 4.0, 8.0]), np.full(5, 0.5), 2018.0)
    b = Departure(years, -a.mean, np.full(5, np.nan), 2020.0)
    figure = draw_discrepancies([("tas (K)", {"ssp126": a, "ssp370": b}), ("pr", {"ssp126": a})], "title")
    axes, other = figure.axes
    zero, solid, dotted, whole, rest = axes.lines
    np.testing.assert_array_equal(solid.get_xydata(), np.stack([years[:3], a.mean[:3]], 1))
    # The two parts meet.
    np.testing.assert_array_equal(dotted.get_xydata(), np.stack([years[2:], a.mean[2:]], 1))
    assert (zero.get_ydata()[0], solid.get_linestyle(), dotted.get_linestyle()) == (0, "-", ":")
    assert solid.get_color() == dotted.get_color() != whole.get_color()
    np.testing.assert_array_equal(whole.get_ydata(), b.mean)
    assert len(rest.get_xdata()) == 0
    (band,) = (c for c in axes.collections if isinstance(c, PolyCollection))
    corners = {tuple(v) for v in band.get_paths()[0].vertices}
    assert {(2019.5, 7.5), (2019.5, 8.5), (2015.5, -0.5), (2015.5, 0.5)} <= corners
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["ssp126", "ssp370"]
    assert other.get_ylabel() == "pr"


def test_a_difference_of_zero_has_no_tint():
    for name in ("RdBu_r", "BrBG", "PuOr_r"):
        colours = scale_colours(name)
        # As the compare page chooses: the level that holds the middle of the scale.
        middle = colours[int(0.5 * len(colours))]
        assert len(colours) % 2 == 1
        assert np.ptp(to_rgb(middle)) < 0.02
        assert min(to_rgb(middle)) > 0.95


@pytest.mark.parametrize("scores", [[2.6, 2.2, 1.9], [0.8, 0.08, 0.009]])
def test_ticks_of_learning_curves_are_plain_numbers(scores):
    log = [{"epoch": i + 1, "loss": s, "validation": {"score": s}} for i, s in enumerate(scores)]
    figure = draw_learning({"a": log}, "title", "lower is better")
    figure.draw_without_rendering()
    for axes in figure.axes:
        low, high = axes.get_ylim()
        written = [t.get_text() for t in axes.get_yticklabels() if low <= t.get_position()[1] <= high]
        assert len([w for w in written if w]) >= 2
        assert not any("10^" in w or "times" in w for w in written)
        assert not any(t.get_text() for t in axes.get_yticklabels(minor=True))
        for w in written:
            float(w)


def test_errors_of_all_places_are_in_one_scale_under_their_cycles():
    x = np.arange(1.0, 13.0)
    cycle = Curves(x, np.full((2, 12), 280.0), np.full((1, 12), 281.0))
    panels = [
        [Season("tas (K)", place, cycle, Curves(x, np.zeros((1, 12)), np.full((1, 12), e)))]
        for place, e in (("globe", 1.0), ("south", -4.0))
    ]
    row = [s for (s,) in panels]
    figure = draw_seasons([row], "title")
    cycles, errors = figure.axes[:2], figure.axes[2:]
    assert [a.get_title(loc="left") for a in cycles] == ["globe", "south"]
    assert errors[0].get_ylim() == errors[1].get_ylim()
    assert errors[0].get_ylim()[0] <= -4.0
    assert errors[0].get_ylim()[0] == -errors[0].get_ylim()[1]
    np.testing.assert_array_equal(drawn(cycles[1])["prediction"], 281.0)
    np.testing.assert_array_equal(drawn(errors[1])["prediction"], -4.0)


def test_spectrum_without_power_is_said_to_be_below_and_does_not_press_the_members():
    x = np.array([0.1, 1.0, 6.0])
    members = np.array([[1.0, 0.1, 0.01]])
    texts = []
    for prediction in (np.full((1, 3), 1e-9), np.zeros((1, 3)), np.array([[1.0, 0.2, 0.03]])):
        (axes,) = draw_spectra([[Power("tas (K² year)", "monthly", Curves(x, members, prediction))]], "title").axes
        low, high = axes.get_ylim()
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        assert 1e-5 < low < 0.01
        assert 1.0 < high < 10
        texts.append([t.get_text() for t in axes.texts])
    assert texts == [["prediction below: at most 1e-09"], ["prediction: none"], []]
    np.testing.assert_array_equal(drawn(axes)["prediction"], [1.0, 0.2, 0.03])


def test_ranks_are_shown_for_every_member_over_the_band_of_chance():
    shares = np.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    panels = [Ranks(v, [4, 7], shares, np.array([0.1, 0.05, 0.2])) for v in ("tas", "pr")]
    figure = draw_ranks(panels, "title")
    axes = figure.axes[0]
    np.testing.assert_allclose(drawn(axes)["member 7"], [20, 30, 50])
    (band,) = axes.patches
    np.testing.assert_allclose(band.get_data().values, 100 * (1 / 3 + np.array([0.2, 0.1, 0.4])))
    np.testing.assert_allclose(band.get_data().baseline, 100 * np.maximum(1 / 3 - np.array([0.2, 0.1, 0.4]), 0))
    np.testing.assert_allclose(band.get_data().edges, [-0.5, 0.5, 1.5, 2.5])
    assert figure.axes[1].get_ylim() == axes.get_ylim()
    assert axes.get_ylim()[0] == 0
    assert axes.get_xlabel() == "how many of 2 realisations are below"


def test_pictures_do_not_depend_on_a_users_settings_and_leave_them_alone(tmp_path):
    def png(name):
        figure = draw_maps([MapRow("RdBu_r", "tas", [Panel("x", np.ones((4, 6)))])], GRID, "title", earth=False)
        write_png(figure, tmp_path / name, {"Title": "t", "Software": "emukit"})
        return (tmp_path / name).read_bytes()

    plain = png("a.png")
    assert plain.startswith(b"\x89PNG")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.bbox": "tight"}):
        assert png("b.png") == plain
        assert matplotlib.rcParams["font.size"] == 30


def test_nothing_is_drawn_by_pyplot():
    code = (
        "import sys, emukit.figures.maps, emukit.figures.curves, emukit.figures.curves;"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("words", "rows"), [(3, 1), (8, 2)])
def test_a_legend_wider_than_the_picture_is_not_cut_off(words, rows):
    with drawing():
        figure = sheet("A title", 7.0, 3.0)
        axes = figure.subplots()
        for i in range(words):
            axes.plot([0, 1], [0, i], label=f"entry number {i}")
        legend_below(figure, axes)
        figure.draw_without_rendering()
        (legend,) = figure.legends
        box = legend.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width
        assert len({round(text.get_window_extent().y0) for text in legend.get_texts()}) == rows


def test_a_legend_is_not_cut_off_by_the_smaller_picture_of_a_page(tmp_path):
    with drawing():
        figure = sheet("A title", 10.5, 6.9)
        axes = figure.subplots()
        axes.axvspan(0, 1, label="scored months")
        for label in ("truth: the member it is scored by", "other members of the climate model (2)", "prediction"):
            axes.plot([0, 1], label=label)
        legend_below(figure, axes)
    write_webp(figure, tmp_path / "years.webp", "", width=8.6, height=3.4, colours=line_colours())
    (legend,) = figure.legends
    assert legend.get_window_extent().x1 <= figure.bbox.width
    assert [t.get_text() for t in legend.get_texts()][-1] == "prediction"
