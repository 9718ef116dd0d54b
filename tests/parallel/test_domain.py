"""A divided globe that does not give what one process gives: a seam, a lost gradient, statistics of a part."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from emukit.errors import TrainingError
from emukit.losses.registry import TERMS
from emukit.models.registry import NETWORKS
from emukit.parallel.comm import Comm, check_groups
from emukit.parallel.domain import DividedSphere, check_divisible, levels

ROOT = Path(__file__).parents[2]

# One launch serves many tests.
pytestmark = pytest.mark.long

EXACT = 1e-12

SMALL: dict[str, dict[str, Any]] = {
    "unet": {"width": 8, "depth": 1, "features": 4, "hidden": 8, "linear": 4},
    "cnn-gru": {"width": 4, "stages": 2, "features": 4, "hidden": 8, "linear": 4, "squeeze_excitation": True},
    "convlstm": {"width": 4, "stages": 1, "hidden": 4, "linear": 4, "layers": 2, "checkpoint": True, "dropout": 0.2},
    "plain-unet": {"width": 4, "depth": 2},
    "dit": {"patch_rows": 4, "patch_columns": 4, "dim": 16, "heads": 2, "blocks": 2},
    "denoising-unet": {"width": 8, "depth": 1, "hidden": 8},
    "local-cnn": {"width": 4, "blocks": 2},
    "simple-cnn": {"width": 4, "depth": 2, "dropout": 0.0},
    "transformer": {"patch_rows": 4, "patch_columns": 4, "dim": 16, "heads": 2, "linear": 4, "dropout": 0.2},
}


def case(network: str, grid: tuple[int, int] = (12, 16), loss: dict[str, float] | None = None, **more: Any) -> Any:
    options = SMALL[network] | more.pop("options", {})
    return {"network": network, "grid": grid, "options": options, **({"loss": loss} if loss else {}), **more}


# Rows that do not divide: 13 over two, and halvings that cut a pair of rows in two.
ODD = (13, 15)
NETWORK_CASES = {name: case(name) for name in SMALL} | {
    "unet of two halvings, odd": case("unet", ODD, options={"depth": 2}),
    "unet with layer norm, separate trunks": case("unet", options={"width": 4, "trunks": "separate", "dropout": 0.2}),
    "transformer with learned positions, odd": case("transformer", ODD, options={"positions": "learned"}),
}


def loss_cases(grid: tuple[int, int]) -> dict[str, Any]:
    # What alone would leave a bias without any gradient but rounding, which AdamW would scale up, stands next to the
    # error.
    return {
        f"loss {term}": case(
            "unet",
            grid,
            {"mse": 0.1, term: 1.0},
            options={"width": 4},
            padding="zero" if term in ("gabor", "sobel") else "circular",
            months=4,
        )
        for term in TERMS
    }


def all_losses(grid: tuple[int, int]) -> dict[str, Any]:
    """All terms at once, continued round the circle and by zeros."""
    terms = dict.fromkeys(TERMS, 1.0)
    return {
        f"losses, {padding}": case("unet", grid, terms, options={"width": 4}, padding=padding, months=4)
        for padding in ("circular", "zero")
    }


BROKEN = {
    "no halo": "output",
    "a halo one row short": "output",
    "a plain all_reduce": "gradient",
    "a norm whose gradient sums a part": "gradient",
    "gradients of the halo kept": "gradient",
}
BROKEN_ROUND = {
    "no halo in longitude": "output",
    "a half turn of the own columns": "output",
    "gradients of the halo kept": "gradient",
}


# Keys and values that go round instead of being gathered; rows of patches that do not divide.
RINGS = {
    "ring transformer, odd": case("transformer", ODD, options={"positions": "learned", "checkpoint": True}, ring=True),
    "ring dit": case("dit", (12, 16), ring=True),
}


def halos(grid: tuple[int, int]) -> dict[str, Any]:
    return {
        f"halo {w} {edges}": {"do": "halo", "grid": grid, "width": w, "edges": edges}
        for w, edges in ((1, "reflect"), (3, "reflect"), (2, "replicate"), (3, "zero"), (8, "reflect"))
    }


# Without weights of single cells a network knows no longitude; one that halves the grid knows it by pairs.
SHARED = {"local": False}
ROLLS = {
    "local-cnn": (case("local-cnn", options=SHARED), (1, 4, 7)),
    "unet": (case("unet", options={**SHARED, "linear": 0, "coarsen": 0}), (2, 8)),
    "denoising-unet": (case("denoising-unet", options=SHARED), (2, 6)),
    "plain-unet": (case("plain-unet"), (4, 8)),
    "dit": (case("dit", options=SHARED), (4, 12)),
}
ROLL_CASES = {f"roll {name}": one | {"do": "roll", "turns": turns} for name, (one, turns) in ROLLS.items()}
# Two blocks of two convolutions, and one before them, see five rows each way.
SMOOTH = case("local-cnn", (24, 24), options=SHARED) | {"do": "smooth", "reach": 5}
SEAMS = ("no halo", "a halo one row short")


# Kernel, stride and dilation of convolutions with zeros beyond the map, in rows and columns.
KERNELS = (
    ((3, 3), 1, (1, 1)),
    ((1, 7), 1, (1, 1)),
    ((5, 3), 1, (1, 2)),
    ((3, 3), 2, (1, 1)),
    ((1, 5), 2, (1, 1)),
)


def over(rows: int, columns: int, cases: dict[str, Any], steps: int = 2) -> dict[str, Any]:
    """Cases of one division, named after it, with so many steps of AdamW."""
    division = {"domain": [rows, columns], "steps": steps}
    return {f"{rows}x{columns} {name}": one | division for name, one in cases.items()}


def broken(faults: Iterable[str], of: dict[str, Any]) -> dict[str, Any]:
    return {f"broken: {how}": of | {"broken": how} for how in faults}


# By the number of processes, which are started once for all their cases.
LAUNCHES: dict[int, dict[str, Any]] = {
    2: over(
        2,
        1,
        NETWORK_CASES
        | loss_cases(ODD)
        | broken(BROKEN, case("unet"))
        | RINGS
        | {"sharded": case("unet", strategy="fsdp"), "bytes": case("unet", (48, 16), do="measure")}
        | {"smooth": SMOOTH, **{f"seam: {how}": SMOOTH | {"broken": how} for how in SEAMS}},
        steps=3,
    )
    | over(
        1,
        2,
        {name: case(name, (12, 16)) for name in SMALL}
        | all_losses((13, 16))
        | broken(BROKEN_ROUND, case("unet"))
        | {"bytes": case("unet", (12, 64), do="measure"), "sharded": case("unet", strategy="fsdp")}
        | {"smooth": SMOOTH, "seam: no halo in longitude": SMOOTH | {"broken": "no halo in longitude"}},
    ),
    3: over(
        3,
        1,
        {name: NETWORK_CASES[name] for name in SMALL}
        | RINGS
        | halos((9, 8))
        | {"bytes": case("plain-unet", (48, 16), do="measure")}
        | {f"bytes {how}": case("dit", (48, 16), do="measure", ring=how == "ring") for how in ("ring", "gathered")},
    )
    | over(1, 3, {"local-cnn": case("local-cnn", ODD)} | halos((9, 15)))
    | over(1, 3, {"strip": {"do": "strip", "grid": (6, 24), "kernels": KERNELS}}),
    # Two groups of data, each of two processes; four that share a globe, by rows and both ways.
    4: over(
        2,
        1,
        {
            "unet": case("unet"),
            "simple-cnn": case("simple-cnn", ODD),
            "sharded": case("unet", strategy="fsdp"),
            "loss dice": case("unet", ODD, {"dice": 1.0, "rmse": 0.5}),
        },
    )
    | over(4, 1, {name: case(name, (17, 16)) for name in SMALL} | halos((9, 8)))
    | over(
        2,
        2,
        {name: case(name) for name in SMALL}
        | all_losses((12, 16))
        | {"ring dit": RINGS["ring dit"]}
        | halos((9, 8))
        | ROLL_CASES
        | {"smooth": SMOOTH},
    ),
}


Found = dict[int, list[dict[str, dict[str, float]]]]


def launch(jobs: dict[int, dict[str, Any]], folder: Path) -> Found:
    """What every process found, by the number of processes and in the order of ranks."""
    path = folder / "jobs.json"
    path.write_text(json.dumps(jobs))
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "tests.parallel.divided_worker", str(path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    return {n: [json.loads(Path(f"{path}-{n}-{rank}").read_text()) for rank in range(n)] for n in jobs}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return launch(LAUNCHES, tmp_path_factory.mktemp("domain"))


def wrong(numbers: dict[str, float]) -> dict[str, float]:
    """What is not as one process has it."""
    return {name: value for name, value in numbers.items() if not value <= EXACT}


def cases_of(do: str, *, broken: bool = False) -> list[Any]:
    """Processes and name of every case that does something."""
    return [
        pytest.param(processes, name, id=f"{processes}-{name}")
        for processes, cases in LAUNCHES.items()
        for name, one in cases.items()
        if one.get("do", "train") == do and ("broken" in one) == broken
    ]


@pytest.mark.parametrize(("processes", "name"), cases_of("train"))
def test_a_divided_globe_trains_another_network_than_a_whole_one(found: Found, processes: int, name: str) -> None:
    """Outputs, loss, gradients of weights and inputs, and the weights after two or three steps of AdamW, in float64."""
    for rank, results in enumerate(found[processes]):
        assert not wrong(results[name]), f"process {rank}"
        assert {"first output", "first loss", "first gradient", "weights", "prediction"} <= results[name].keys()


@pytest.mark.parametrize(
    ("division", "how", "where"),
    [("2x1", how, where) for how, where in BROKEN.items()]
    + [("1x2", how, where) for how, where in BROKEN_ROUND.items()],
)
def test_a_fault_of_the_exchange_passes_for_rounding(found: Found, division: str, how: str, where: str) -> None:
    """The comparison above must see each of them, and say whether values or gradients are wrong."""
    results = [wrong(each[f"{division} broken: {how}"]) for each in found[2]]
    assert any(each.get(f"first {where}", 0.0) > 1e-3 for each in results)
    if where == "gradient":
        assert not any("first output" in each or "first loss" in each for each in results)


@pytest.mark.parametrize(("processes", "name"), cases_of("halo"))
def test_cells_beyond_a_shard_are_those_of_another_place(found: Found, processes: int, name: str) -> None:
    """A coded field, whose values spell their cell; a halo may be wider than the neighbour has rows or columns."""
    assert [each[name]["wrong"] for each in found[processes]] == [0.0] * processes


@pytest.mark.parametrize(("processes", "name"), cases_of("roll"))
def test_a_divided_globe_has_a_first_column(found: Found, processes: int, name: str) -> None:
    """A turned globe gives the turned output, also by columns that no process has all of."""
    for each in found[processes]:
        assert not wrong(each[name])


@pytest.mark.parametrize(("processes", "name"), cases_of("smooth"))
def test_a_seam_between_processes_shows_in_a_smooth_field(found: Found, processes: int, name: str) -> None:
    """Without a look at what one process gives: the output is as smooth at the edges of shards as elsewhere."""
    for each in found[processes]:
        assert each[name].get("edge", 0.0) <= 1.05 * each[name].get("elsewhere", 0.0)
        assert each[name].get("cut", 0.0) <= 1.05 * each[name].get("between", 0.0)


def test_a_seam_is_not_seen_in_a_smooth_field(found: Found) -> None:
    """What the test above would miss: that its measure sees no seam at all."""
    for how in SEAMS:
        assert found[2][0][f"2x1 seam: {how}"]["edge"] > 3 * found[2][0]["2x1 smooth"]["elsewhere"]
    seam = found[2][0]["1x2 seam: no halo in longitude"]
    assert seam["cut"] > 2 * found[2][0]["1x2 smooth"]["between"]


def test_a_halo_costs_more_than_its_rows(found: Found) -> None:
    """Of three processes of three rows each: rows to both sides, and their gradients back; float32, 2 x 3 maps."""
    row = 2 * 3 * 8 * 4
    assert [each["3x1 halo 1 reflect"]["sent"] for each in found[3]] == [2 * row, 4 * row, 2 * row]
    assert [each["3x1 halo 3 zero"]["sent"] for each in found[3]] == [6 * row, 12 * row, 6 * row]


def test_a_halo_costs_more_than_its_columns(found: Found) -> None:
    """Of three processes of five columns and nine rows: a strip with two rows beyond the poles to both sides, which are
    turned by half of fifteen columns, the mean of two turns, so that a process has none of its own there.
    """
    strip, turned = (9 + 2) * 2 * 3 * 4, 2 * 6 * 2 * 3 * 4
    for each in found[3]:
        assert each["1x3 halo 1 reflect"]["sent"] == 2 * (2 * strip + turned)
        # Two processes have a side in the middle, where a map that is no circle goes on.
    assert [each["1x3 halo 3 zero"]["sent"] for each in found[3]] == [
        2 * side * 3 * (9 + 6) * 2 * 3 * 4 for side in (1, 2, 1)
    ]


@pytest.mark.parametrize(("kernel", "stride", "dilation"), KERNELS)
def test_a_strip_of_columns_is_wider_or_narrower_than_a_kernel_reaches(
    found: Found, kernel: tuple[int, int], stride: int, dilation: tuple[int, int]
) -> None:
    """A map that is no circle: zeros beyond its ends alone, and from each neighbour the columns that are needed."""
    name = f"{list(kernel)} {stride} {list(dilation)}"
    strips = [each["1x3 strip"] for each in found[3]]
    assert [each[f"apart {name}"] <= EXACT for each in strips] == [True] * 3
    rows, across = (d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
    # Of two columns that a stride of two joins, the second sees a column less to its east.
    west, east = across, across - (stride - 1)
    tall = 6 + 2 * rows if stride == 1 else 6 + 2 * rows - 1
    column = 8 * tall
    # To the eastern neighbour go columns that it needs to its west, to the western one those to its east.
    assert [each[f"sent {name}"] for each in strips] == [west * column, (west + east) * column, east * column]


BYTES = [(2, "2x1 bytes"), (2, "1x2 bytes"), (3, "3x1 bytes")]
ATTENTION = [(3, "3x1 bytes ring"), (3, "3x1 bytes gathered")]


@pytest.mark.parametrize(("processes", "name"), BYTES + ATTENTION)
def test_a_plan_counts_other_bytes_than_are_sent_and_kept(found: Found, processes: int, name: str) -> None:
    for each in found[processes]:
        assert each[name]["sent"] == each[name]["counted"] > 0
        assert each[name]["planned"] == pytest.approx(each[name]["kept"], rel=0.01)


def test_a_ring_keeps_the_keys_of_all(found: Found) -> None:
    """Of two blocks; gathered keys and values are kept whole by each process."""
    for each in found[3]:
        ring, gathered = each["3x1 bytes ring"]["kept"], each["3x1 bytes gathered"]["kept"]
        others = 3 * (1 - each["3x1 bytes ring"]["rows"] / 48) * 12 * 4 * 16 * 4
        assert gathered - ring > 0.95 * 2 * 2 * others


@pytest.mark.parametrize(("processes", "name"), BYTES)
def test_a_shard_keeps_more_than_its_cells_and_a_halo(found: Found, processes: int, name: str) -> None:
    """Bytes kept for the gradient: a part of the cells, and at every stencil two rows or columns of others."""
    rows, columns = LAUNCHES[processes][name]["grid"]
    for each in found[processes]:
        # After two halvings two rows are as much as eight of the finest.
        share = min(1.0, (each[name]["rows"] + 8) / rows) * min(1.0, (each[name]["columns"] + 8) / columns)
        assert each[name]["kept"] <= share * each[name]["whole"]


def test_a_network_or_loss_term_is_neither_divided_nor_refused() -> None:
    """Every name of the registries is compared with one process above, by every kind of division, or refused."""
    for division in ("2x1", "1x2", "4x1", "2x2"):
        compared = {
            one["network"]
            for cases in LAUNCHES.values()
            for name, one in cases.items()
            if name.startswith(division) and one.get("do", "train") == "train"
        }
        assert compared | set(refused_networks()) >= set(NETWORKS), division
    for division in ("2x1", "1x2", "2x2"):
        compared = {
            term
            for cases in LAUNCHES.values()
            for name, one in cases.items()
            if name.startswith(division)
            for term in one.get("loss", {})
        }
        assert compared >= set(TERMS), division


def refused_networks() -> list[str]:
    """Networks that do not say that they can be divided, each of which `check_divisible` refuses."""
    names = [name for name in NETWORKS if getattr(NETWORKS.load(name), "DIVIDES", False) is not True]
    for name in names:
        with pytest.raises(TrainingError, match=f"{name} cannot be divided"):
            check_divisible(name, NETWORKS.load(name))
    return names


def test_networks_that_flatten_the_field_are_divided_all_the_same() -> None:
    with pytest.raises(TrainingError, match="cnn-gru-published cannot be divided") as refused:
        check_divisible("cnn-gru-published", NETWORKS.load("cnn-gru-published"))
    assert "flattened" in str(refused.value)


def test_a_network_that_does_not_say_so_is_divided() -> None:
    class Foreign(torch.nn.Module):
        pass

    with pytest.raises(TrainingError, match="foreign:Net cannot be divided"):
        check_divisible("foreign:Net", Foreign)


def test_a_loss_term_that_does_not_say_so_is_divided() -> None:
    def term(context: object) -> None: ...

    with pytest.raises(TrainingError, match="the loss term mine cannot be divided"):
        check_divisible("the loss term mine", term)
    for name in TERMS:
        check_divisible(name, TERMS.load(name))


def test_processes_that_do_not_fill_their_groups_train() -> None:
    with pytest.raises(TrainingError, match="3 processes") as refused:
        check_groups(3, 2)
    assert "--devices 4" in str(refused.value)


@pytest.mark.parametrize(
    ("grid", "ask"),
    [
        ((8, 15), lambda sphere: None),
        # Six columns: three pairs, which two processes cannot have as many of.
        ((8, 12), lambda sphere: sphere.for_coarser(torch.zeros(1, 1, 8, 3, device="meta"))),
        ((8, 12), lambda sphere: sphere.to_tiles(torch.zeros(1, 1, 8, 6, device="meta"), (4, 8))),
        ((8, 12), lambda sphere: sphere.to_tiles(torch.zeros(1, 1, 8, 6, device="meta"), (4, 4))),
    ],
    ids=["columns", "pairs", "patches that are filled up", "patches"],
)
def test_columns_that_do_not_divide_are_found_in_the_middle_of_training(grid: tuple[int, int], ask: Any) -> None:
    with pytest.raises(TrainingError, match=r"cannot be divided .*in longitude") as refused:
        ask(DividedSphere(Comm(0, 2, columns=2), grid))
    assert "--domain N" in str(refused.value)


def test_a_process_without_rows_is_found_in_the_middle_of_training() -> None:
    with pytest.raises(TrainingError, match="3 rows"):
        DividedSphere(Comm(0, 4), (3, 8))
    with pytest.raises(TrainingError, match="2 rows where"):
        DividedSphere(Comm(0, 4), (8, 16)).bounds(4)


@pytest.mark.parametrize(("rows", "parts"), [(48, 2), (181, 3), (721, 8), (12, 4), (13, 2)])
def test_a_row_belongs_to_nobody_or_to_two(rows: int, parts: int) -> None:
    for bounds in levels((rows, 2 * rows), parts).values():
        assert bounds[0][0] == 0
        assert [b for _, b in bounds[:-1]] == [a for a, _ in bounds[1:]]
    fine = levels((rows, 2 * rows), parts)[2 * rows]
    lengths = [b - a for a, b in fine]
    assert sum(lengths) == rows
    assert max(lengths) <= max(1.1 * rows / parts, -(-rows // parts))
