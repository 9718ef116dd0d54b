"""What all pictures share: colours that colour-blind readers tell apart, sizes that are read at 100 %, files.

Invariant: a picture is a function of what it is given. It is drawn without pyplot, and what is set for the drawing is
put back after it; a user's own matplotlib settings do not change it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from PIL import Image

# Vermilion, sky blue, orange and blue of Okabe and Ito (2008), next to greys: they differ in lightness too.
PREDICTION = "#D55E00"
BETTER, WORSE = "#0072B2", PREDICTION
REALISATIONS = "#F5C396"
HALF = "#EBA26B"
MEMBERS = "#777777"
TRUTH = "#000000"
SCORED = "#CFE8F7"

DOTS_PER_INCH = 100
# Of EXIF.
IMAGE_DESCRIPTION = 0x010E
# Sizes in points; the smallest is legible at 100 dots per inch.
SIZES: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 9,
    "figure.titlesize": 12,
    "lines.linewidth": 1.2,
}


@contextmanager
def drawing() -> Iterator[None]:
    """Matplotlib's own defaults with emukit's sizes, until the block ends."""
    with style.context(["default", SIZES]):
        yield


def sheet(title: str, width: float, height: float) -> Figure:
    """An empty figure with its title, in inches; what is put on it is laid out without overlaps."""
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    # A title may hold the name of a folder, in which two dollar signs are not a formula.
    figure.suptitle(title, x=0.01, ha="left", parse_math=False)
    return figure


def legend_below(figure: Figure, axes: Axes) -> None:
    """One legend for all axes of a figure, under them, from what one of them shows, in as few rows as fit."""
    _place_below(figure, *axes.get_legend_handles_labels())


def _place_below(figure: Figure, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    for columns in range(len(labels), 0, -1):
        legend = figure.legend(handles, labels, loc="outside lower left", ncols=columns, frameon=False)
        if columns == 1 or _fits(figure, legend):
            return
        legend.remove()


def _fits(figure: Figure, legend: Legend) -> bool:
    # The extent begins at the left margin; the right one is as wide.
    box = legend.get_window_extent()
    return bool(box.x1 + max(box.x0, 0.0) <= figure.bbox.width)


def shorten(name: str, most: int = 28) -> str:
    """A name that leaves room for the picture, for places where dollar signs would make a formula."""
    short = name if len(name) <= most else name[: most - 1] + "…"
    return short.replace("$", r"\$")


def write_png(figure: Figure, path: Path, about: Mapping[str, str]) -> None:
    """Write a figure, with words about it inside the file."""
    with drawing():
        _lay_out(figure)
        figure.savefig(path, format="png", metadata=dict(about))


def _lay_out(figure: Figure) -> None:
    """Lay a figure out once: one that keeps its engine is laid out for a trial drawing, and again when it is saved."""
    if engine := figure.get_layout_engine():
        engine.execute(figure)
    figure.set_layout_engine("none")


def line_colours() -> list[str]:
    """Colours of lines and bands, and what is between them and the paper."""
    inks = [to_rgb(c) for c in (PREDICTION, MEMBERS, REALISATIONS, HALF, SCORED, TRUTH)]
    mixed = [tuple(1 + share * (x - 1) for x in ink) for ink in inks for share in (1.0, 0.7, 0.35)]
    return [*(to_hex((r, g, b)) for r, g, b in mixed), "#ffffff"]


def write_webp(
    figure: Figure, path: Path, about: str, *, width: float, height: float, colours: int | Sequence[str]
) -> tuple[int, int]:
    """Write a figure in a few colours, in a quarter of what a PNG takes: for pages that hold many.

    Args:
        figure: What to draw.
        path: Where.
        about: Words inside the file.
        width: In inches; letters keep their size.
        height: Likewise.
        colours: The only ones, where a colour is a number; or how many, those between a line and its ground among them.

    Returns:
        Width and height in pixels.
    """
    with drawing():
        figure.set_size_inches(width, height)
        # Letters keep their size, so a legend that fitted the figure may be too wide for the page.
        for legend in [x for x in figure.legends if not _fits(figure, x)]:
            legend.remove()
            _place_below(figure, [h for h in legend.legend_handles if h], [t.get_text() for t in legend.get_texts()])
        _lay_out(figure)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", pil_kwargs={"compress_level": 1})
    image = Image.open(drawn).convert("RGB")
    if isinstance(colours, int):
        few = image.quantize(colours, dither=Image.Dither.NONE)
    else:
        palette = Image.new("P", (1, 1))
        levels = [round(255 * x) for c in colours for x in to_rgb(c)]
        # A palette has 256 places; what is left of them repeats its last colour.
        palette.putpalette(levels + levels[-3:] * (256 - len(colours)))
        few = image.quantize(palette=palette, dither=Image.Dither.NONE)
    exif = Image.Exif()
    exif[IMAGE_DESCRIPTION] = about
    few.convert("RGB").save(path, format="WEBP", lossless=True, method=4, quality=60, exif=exif)
    return image.size
