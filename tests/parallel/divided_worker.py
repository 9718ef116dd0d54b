"""What every process of the tests of a divided globe runs: ``python -m tests.parallel.divided_worker JOB.json``.

Every process computes each case twice, alone and with its rows of the globe, in float64; the largest relative
differences of what must be equal are written by the first. Processes are started once for all cases.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emukit.losses.composite import CompositeLoss
from emukit.losses.grid_context import GridContext
from emukit.losses.registry import TERMS
from emukit.models.registry import build_network
from emukit.parallel.batchnorm import synchronise
from emukit.parallel.comm import Comm, open_comm
from emukit.parallel.distributed import DistributedNetwork
from emukit.parallel.domain import DividedSphere, divide
from emukit.sphere import Sphere

VARIABLES = ("tas", "pr")
STEPS = 6


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    size = expected.abs().max().clamp_min(1e-30)
    return float((found - expected).abs().max() / size) if found.shape == expected.shape else float("inf")


def weights_of(grid: tuple[int, int]) -> Tensor:
    """Cosine of latitude, (Y, X), sum one."""
    lat = (torch.arange(grid[0], dtype=torch.float64) + 0.5) / grid[0] * torch.pi - torch.pi / 2
    return (lat.cos()[:, None].expand(grid) / (lat.cos().sum() * grid[1])).contiguous()


def loss_of(case: dict[str, Any], sphere: Sphere | None) -> CompositeLoss:
    grid = tuple(case["grid"])
    context = GridContext(weights_of(grid), case.get("padding", "circular"), **({"sphere": sphere} if sphere else {}))
    terms = dict.fromkeys(VARIABLES, case.get("loss") or {"mse": 1.0, "time_std": 0.5})
    return CompositeLoss(terms, VARIABLES, context)


def network_of(case: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    return build_network(
        case["network"],
        in_channels=3,
        variables=len(VARIABLES),
        grid=tuple(case["grid"]),
        history=case.get("history", 2),
        options=case.get("options", {}),
    ).double()


def train(case: dict[str, Any], comm: Comm) -> dict[str, float]:
    """Six steps of AdamW, by one process on all samples and by all processes on their samples and rows."""
    grid, history, months = tuple(case["grid"]), case.get("history", 2), case.get("months", 3)
    segments = case.get("segments", 2)
    torch.manual_seed(1)
    frames = torch.randn(segments, months + history - 1, 3, *grid, dtype=torch.float64)
    targets = torch.randn(segments, months, len(VARIABLES), *grid, dtype=torch.float64)
    out: dict[str, float] = {}

    whole = network_of(case)
    one_loss = loss_of(case, None)
    one = torch.optim.AdamW(whole.parameters(), 1e-3)
    torch.manual_seed(2)
    record = []
    for _ in range(STEPS):
        one.zero_grad()
        given = frames.clone().requires_grad_()
        prediction = whole(given)
        total, _terms = one_loss(prediction, targets)
        total.backward()
        gradients = {n: p.grad.clone() for n, p in whole.named_parameters()}
        record.append((prediction.detach(), total.detach(), given.grad, gradients))
        one.step()

    sphere = DividedSphere(comm.domain, grid)
    network = network_of(case)
    divide(network, sphere)
    synchronise(network, comm)
    distributed = DistributedNetwork(network, comm, case.get("strategy", "ddp"))
    loss = loss_of(case, sphere)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    mine = comm.data.shard(range(segments))
    torch.manual_seed(2)

    def note(name: str, value: float) -> None:
        out[name] = max(out.get(name, 0.0), value)

    for step in range(STEPS):
        optimizer.zero_grad()
        given = sphere.own(frames[mine], -2, grid[1]).clone().requires_grad_()
        prediction = distributed(given)
        mean = comm.data.mean(segments) if comm.data.world > 1 else torch.mean
        total, _terms = loss(prediction, sphere.own(targets[mine], -2, grid[1]), mean=mean)
        distributed.backward(total)
        expected = record[step]
        when = "first " if step == 0 else "later "
        note(when + "output", difference(prediction.detach(), sphere.own(expected[0][mine], -2, grid[1])))
        note(when + "loss", difference(total.detach(), expected[1]))
        # What one process holds of the loss is scaled for averaging over all of them.
        held = given.grad / comm.world
        note(when + "input gradient", difference(held, sphere.own(expected[2][mine], -2, grid[1])))
        largest = max(float(g.abs().max()) for g in expected[3].values())
        for name, parameter in network.named_parameters():
            gradient = parameter.grad.full_tensor() if hasattr(parameter.grad, "full_tensor") else parameter.grad
            apart = float((gradient - expected[3][name]).abs().max())
            if case.get("verbose") and apart / largest > 1e-12:
                out[f"{when}{name}"] = apart / largest
            note(when + "gradient", apart / largest)
        optimizer.step()
    for name, parameter in network.named_parameters():
        found = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
        note("weights", difference(found.detach(), dict(whole.named_parameters())[name].detach()))
    buffers = dict(whole.named_buffers())
    for name, buffer in network.named_buffers():
        note("buffers", difference(buffer.double(), buffers[name].double()))
    network.eval()
    whole.eval()
    with torch.no_grad():
        note("prediction", difference(sphere.gather(network(sphere.own(frames, -2, grid[1]))), whole(frames)))
    return out


def main(path: str) -> None:
    torch.set_num_threads(1)
    job = json.loads(Path(path).read_text())
    with open_comm() as comm:
        comm = comm.divided(job["domain"])
        results = {}
        for name, case in job["cases"].items():
            try:
                found = {"train": train}[case.get("do", "train")](case, comm)
            except Exception as e:
                import traceback

                traceback.print_exc()
                found = {"error": f"{type(e).__name__}: {e}"}
                results[name] = found
                break
            results[name] = found
        Path(f"{path}-{comm.rank}").write_text(json.dumps(results))


if __name__ == "__main__":
    assert TERMS
    main(sys.argv[1])
