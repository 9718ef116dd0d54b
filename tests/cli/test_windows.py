"""A picture of other months than a network reads, or written over somebody's file."""

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from PIL import Image

from emukit.figures.curves import draw_window


def test_shaded_months_are_those_of_the_window_and_the_line_is_the_target():
    steps = [f"s{i}" for i in range(60)]
    series = {"CO2": np.arange(60.0)}
    figure = draw_window("t", steps, np.arange(20, 32), 31, series, {"sin": (np.zeros(60), np.ones(60))})
    for axes in figure.axes:
        spans = [p for p in axes.patches if isinstance(p, Rectangle)]
        assert sorted(p.get_x() + 0.5 for p in spans) == list(range(20, 32))
        assert [line.get_xdata()[0] for line in axes.lines if line.get_color() == "#D55E00"] == [31]
    drawn = figure.axes[0].lines[-1]
    np.testing.assert_array_equal(drawn.get_xdata(), np.arange(14, 38))
    np.testing.assert_array_equal(drawn.get_ydata(), np.arange(14.0, 38.0))
    labels = [t.get_text() for t in figure.axes[-1].get_legend().get_texts()]
    assert labels == ["45 N", "45 S"]


def test_picture_of_windows_is_written_once_and_over_nothing_else(emukit, demo_store, tmp_path):
    words = ("data", "windows", "--data", demo_store, "--plot")
    answer = emukit(*words, "w.png", "-q")
    assert answer.code == 0, answer.err
    assert answer.out.endswith("wrote w.png\n")
    with Image.open(tmp_path / "w.png") as image:
        assert image.info["Software"] == "emukit"
        assert image.width > 600
    assert "--overwrite replaces it" in emukit(*words, "w.png").err
    assert emukit(*words, "w.png", "--overwrite", "-q").code == 0
    Image.new("RGB", (4, 4)).save(tmp_path / "own.png")
    refused = emukit(*words, "own.png", "--overwrite")
    assert refused.code == 2
    assert "is not a picture of `emukit data windows`" in refused.err


@pytest.mark.parametrize("name", ["w.pdf", "w"])
def test_picture_of_another_format_is_refused_before_the_data_are_read(emukit, name):
    answer = emukit("data", "windows", "--data", "nowhere.zarr", "--plot", name)
    assert answer.code == 2
    assert "expected: FILE.png" in answer.err
