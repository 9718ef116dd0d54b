"""Plans of divided globes that divide too little, too much, or count other bytes than the page says."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor, nn

from emukit.data.protocol import make_split
from emukit.models.registry import build_network
from emukit.parallel.comm import Comm
from emukit.planning import memory
from emukit.planning.memory import SAFE, count_divided, on_device
from emukit.planning.plan import Plan, make_plan
from emukit.progress import Reporter
from emukit.recipes.load import load_recipe
from tests.coded import warming_archive

PAGE = Path(__file__).parents[2] / "docs" / "parallel.md"


def planned(domain: tuple[int, int] = (1, 1)) -> Plan:
    """Of a network without halvings on four rows of six columns."""
    archive = warming_archive()
    settings = ["model.width=32", "model.blocks=2", "training.segments.per_batch=8", "training.segments.length=12"]
    recipe = load_recipe("local-cnn", None, settings)
    return make_plan(archive, recipe, make_split(archive, "k360"), Comm(), Reporter(quiet=True), domain)


def advice(plan: Plan) -> list[str]:
    return [word for b in plan.bottlenecks() for word in b.advice if word.startswith("--domain")]


def test_more_processes_are_advised_than_are_needed_or_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fewest that fit; with fewer rows than processes, longitude is divided too."""
    wanted = [planned(division) for division in ((2, 1), (4, 1), (4, 2))]
    assert planned().divided is None
    for made, option in zip(wanted, ("2", "4", "4x2"), strict=True):
        assert made.divided is not None
        assert made.divided.option == option
        needed = on_device(made.memory, made.divided)
        monkeypatch.setattr(memory, "free_memory", lambda device, room=int(needed / SAFE) + 100: room)
        found = planned()
        assert found.divided == made.divided
        assert f"--domain {option} divides every field" in advice(found)[0]


class Rollout(nn.Module):
    """Four steps, each of what the one before said."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> Tensor:
        for _ in range(4):
            frames = self.network(frames)
        return frames


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 4])
def test_the_page_tells_other_bytes_than_are_counted(processes: int) -> None:
    """NCAR's case: 73 channels on 721 x 1440 cells, a sample, float32; one step, and a rollout of four."""
    network = build_network("plain-unet", in_channels=73, variables=73, grid=(721, 1440), history=1, options={})
    assert sum(p.numel() for p in network.parameters()) == 7_747_977
    one, four = (
        count_divided(asked, (73, 721, 1440), 1, (1, 1), "fp32", processes) for asked in (network, Rollout(network))
    )
    told = [f"| {processes} | {one.part[0]} x {one.part[1]} | {one.kept / 1e9:.2f} GB | {four.kept / 1e9:.2f} GB |"]
    told += [f"{cost.sent / 1e6:.1f} MB |" if cost.sent else "0 |" for cost in (one, four)]
    assert " ".join(told) in PAGE.read_text()
