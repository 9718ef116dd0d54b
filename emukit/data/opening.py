"""Where data comes from when a user names a store, or none.

Invariant: the demo climate opens like any store; its hidden months are hidden, and only scoring reveals them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from emukit.data.archive import Archive
from emukit.data.card import ATTRIBUTE
from emukit.data.daily_archive import archive_from_folder
from emukit.data.daily_folder import is_daily_folder
from emukit.data.demo import DemoClimate, demo_from_attrs
from emukit.data.source import open_source
from emukit.data.split import Span, is_hidden
from emukit.data.store import archive_from_dataset, open_store
from emukit.errors import ProtocolError
from emukit.progress import Reporter

if TYPE_CHECKING:
    from emukit.parallel.comm import Comm

DEMO = "demo"
ENVIRONMENT = "EMUKIT_DATA"


def data_source(named: str | None) -> str:
    """The store to use: the one named, else `$EMUKIT_DATA`, else the demo climate."""
    return named or os.environ.get(ENVIRONMENT) or DEMO


def open_data(
    source: str,
    *,
    card: str | None = None,
    convert: Mapping[str, str] | None = None,
    reporter: Reporter | None = None,
    comm: Comm | None = None,
) -> Archive:
    """Open a store by its path, or the demo climate by the name ``demo``.

    Args:
        source: Path of a Zarr or NetCDF store, folder of daily files, or ``demo``.
        card: Data card, by name or by the path of a TOML file; recognised when None.
        convert: Variable to the units that the store holds it in, from which it is converted to those of the card.
        reporter: Where progress and notes go.
        comm: The processes that share the globe, each of which reads and holds its own cells, of a folder of daily
            files all; None: this one alone.

    Raises:
        StoreError: The store cannot be read, or is ambiguous.
    """
    if is_daily_folder(source):
        return archive_from_folder(source, card, reporter or Reporter(quiet=True))
    if source == DEMO:
        climate = DemoClimate()
        # The competition's layout has no place for static fields, so a demo store on disk goes without them.
        statics = {name: (("y", "x"), field) for name, field in climate.statics().items()}
        return archive_from_dataset(
            climate.dataset().assign(statics), source=DEMO, card=card, convert=convert, comm=comm
        )
    return open_store(source, card=card, convert=convert, reporter=reporter, comm=comm)


def oddities(archive: Archive) -> tuple[str, ...]:
    """What was found odd in some data, a sentence each; nothing of what is known by its card."""
    if archive.published or archive.source == DEMO:
        return ()
    return tuple(n for n in archive.notes if n not in archive.card.oddities)


def span_truth(archive: Archive, span: Span) -> NDArray[np.float32]:
    """(T, V, Y, X) truth of a span; a demo climate's hidden months come from its generator.

    Raises:
        ProtocolError: The months are hidden, and the store is not a demo climate.
    """
    scenario = archive[span.scenario]
    if not is_hidden(archive, span):
        return scenario.truth(span.members[0], span.start, span.stop)
    if archive.source == DEMO:
        climate = DemoClimate()
    else:
        with open_source(archive.source) as opened:
            attributes = dict(opened.ds.attrs)
        if attributes.get(ATTRIBUTE) != DEMO:
            raise ProtocolError(
                f"the truth of {span.text(archive)} is hidden in {archive.source}",
                found="zeros, the mark of a hidden test set",
                expected="a solution CSV, or a store that holds the truth",
                hint="hand the submission to whoever has the truth; `emukit evaluate RUN` scores validation",
            )
        climate = demo_from_attrs(attributes)
    first = int((scenario.months[span.start] - climate.first_month).astype(int))
    if climate.planet.grid != archive.grid or first < 0 or first + len(span) > climate.months:
        raise ProtocolError(
            f"{archive.source} is not the demo climate it says it is: it was cut or regridded",
            expected="the grid and months of its demo_settings",
            hint="write it again with `emukit data demo`",
        )
    if span.members[0] >= climate.members:
        raise ProtocolError(f"the demo climate has no member {span.members[0]}")
    return climate.truth(span.scenario)[span.members[0], first : first + len(span)]
