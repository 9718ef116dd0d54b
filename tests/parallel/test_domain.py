"""A divided globe that does not give what one process gives: a seam, a lost gradient, statistics of a part."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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
pytestmark = pytest.mark.xdist_group("domain")

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
# What alone would leave a bias without any gradient but rounding, which AdamW would scale up, stands next to the error.
LOSS_CASES = {
    f"loss {term}": case(
        "unet",
        ODD,
        {"mse": 0.1, term: 1.0},
        options={"width": 4},
        padding="zero" if term in ("gabor", "sobel") else "circular",
        months=4,
    )
    for term in TERMS
}
BROKEN = {
    "no halo": "output",
    "a halo one row short": "output",
    "a plain all_reduce": "gradient",
    "a norm whose gradient sums a part": "gradient",
    "gradients of the halo kept": "gradient",
}
HALOS = {
    f"halo {w} {edges}": {"do": "halo", "grid": [9, 8], "width": w, "edges": edges}
    for w, edges in ((1, "reflect"), (3, "reflect"), (2, "replicate"), (3, "zero"), (8, "reflect"))
}

LAUNCHES: dict[tuple[int, int], dict[str, Any]] = {
    (2, 2): NETWORK_CASES
    | LOSS_CASES
    | {f"broken: {how}": case("unet", broken=how) for how in BROKEN}
    | {"sharded": case("unet", strategy="fsdp"), "bytes": case("unet", (48, 16), do="measure")},
    (3, 3): {name: NETWORK_CASES[name] for name in SMALL}
    | HALOS
    | {"bytes": case("plain-unet", (48, 16), do="measure")},
    # Two groups of data, each of two processes.
    (4, 2): {
        "unet": case("unet"),
        "simple-cnn": case("simple-cnn", ODD),
        "sharded": case("unet", strategy="fsdp"),
        "loss dice": case("unet", ODD, {"dice": 1.0, "rmse": 0.5}),
    },
}


def launch(processes: int, domain: int, cases: dict[str, Any], folder: Path) -> list[dict[str, dict[str, float]]]:
    """What every process found, in the order of ranks."""
    path = folder / f"job-{processes}-{domain}.json"
    path.write_text(json.dumps({"domain": domain, "cases": cases}))
    starter = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *starter, "-m", "tests.parallel.divided_worker", str(path)]
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    return [json.loads(Path(f"{path}-{rank}").read_text()) for rank in range(processes)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], list[dict[str, dict[str, float]]]]:
    folder = tmp_path_factory.mktemp("domain")
    return {key: launch(*key, cases, folder) for key, cases in LAUNCHES.items()}


def wrong(numbers: dict[str, float]) -> dict[str, float]:
    """What is not as one process has it."""
    return {name: value for name, value in numbers.items() if not value <= EXACT}


TRAINED = [
    (key, name)
    for key, cases in LAUNCHES.items()
    for name, one in cases.items()
    if one.get("do", "train") == "train" and "broken" not in one
]


@pytest.mark.parametrize(("key", "name"), TRAINED, ids=[f"{k[0]}-{k[1]}-{n}" for k, n in TRAINED])
def test_a_divided_globe_trains_another_network_than_a_whole_one(found: Any, key: tuple[int, int], name: str) -> None:
    """Outputs, loss, gradients of weights and inputs, and the weights after six steps of AdamW, in float64."""
    for rank, results in enumerate(found[key]):
        assert not wrong(results[name]), f"process {rank}"
        assert {"first output", "first loss", "first gradient", "weights", "prediction"} <= results[name].keys()


@pytest.mark.parametrize("how", BROKEN)
def test_a_fault_of_the_exchange_passes_for_rounding(found: Any, how: str) -> None:
    """The comparison above must see each of them, and say whether values or gradients are wrong."""
    results = [wrong(each[f"broken: {how}"]) for each in found[2, 2]]
    assert any(each.get(f"first {BROKEN[how]}", 0.0) > 1e-3 for each in results)
    if BROKEN[how] == "gradient":
        assert not any("first output" in each or "first loss" in each for each in results)


@pytest.mark.parametrize("name", HALOS)
def test_rows_beyond_a_shard_are_those_of_another_place(found: Any, name: str) -> None:
    """A coded field, whose values spell their cell; a halo may be wider than the neighbour has rows."""
    assert [each[name]["wrong"] for each in found[3, 3]] == [0.0] * 3


def test_a_halo_costs_more_than_its_rows(found: Any) -> None:
    """Of three processes of three rows each: rows to both sides, and their gradients back; float32, 2 x 3 maps."""
    row = 2 * 3 * 8 * 4
    assert [each["halo 1 reflect"]["sent"] for each in found[3, 3]] == [2 * row, 4 * row, 2 * row]
    assert [each["halo 3 zero"]["sent"] for each in found[3, 3]] == [6 * row, 12 * row, 6 * row]


@pytest.mark.parametrize("key", [(2, 2), (3, 3)])
def test_a_plan_counts_other_bytes_than_are_sent(found: Any, key: tuple[int, int]) -> None:
    for each in found[key]:
        assert each["bytes"]["sent"] == each["bytes"]["counted"] > 0


@pytest.mark.parametrize("key", [(2, 2), (3, 3)])
def test_a_shard_keeps_more_than_its_rows_and_a_halo(found: Any, key: tuple[int, int]) -> None:
    """Bytes kept for the gradient: a part of the rows, and at every stencil two rows of others."""
    for each in found[key]:
        # After two halvings two rows are as much as eight of the finest.
        share = (each["bytes"]["rows"] + 8) / 48
        assert each["bytes"]["kept"] <= share * each["bytes"]["whole"]


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
