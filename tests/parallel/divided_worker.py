"""What every process of the tests of a divided globe runs: ``python -m tests.parallel.divided_worker JOB.json``.

Every process computes each case twice, alone and with its rows of the globe, in float64; the largest relative
differences of what must be equal are written by the first. Processes are started once for all cases.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emukit.losses.composite import CompositeLoss
from emukit.losses.grid_context import GridContext
from emukit.models.registry import build_network
from emukit.parallel import domain as divided
from emukit.parallel.batchnorm import synchronise
from emukit.parallel.comm import Comm, _Sum, open_comm
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


@contextmanager
def broken(how: str | None) -> Iterator[None]:
    """Inside, the exchange has one of the faults that the comparison must see."""
    window, both = DividedSphere._window, divided.SumBoth
    taken, norm = divided._Rows.backward, divided._GroupNorm.backward

    def no_halo(self: DividedSphere, fields: Tensor, have: Any, want: Any, edges: Any) -> Tensor:
        start, stop = have[self.comm.rank]
        first, last = (want[self.comm.rank][0] - start, want[self.comm.rank][1] - start)
        places = torch.arange(first, last).clamp(0, stop - start - 1)
        return fields[..., places, :]

    def short_halo(self: DividedSphere, fields: Tensor, have: Any, want: Any, edges: Any) -> Tensor:
        less = [(a + (r > 0), b) for r, (a, b) in enumerate(want)]
        tall = window(self, fields, have, less, edges)
        return torch.cat((tall[..., :1, :], tall), -2) if self.comm.rank else tall

    def kept(ctx: Any, gradient: Tensor) -> Any:
        own, mine = ctx.have[ctx.sphere.comm.rank], ctx.want[ctx.sphere.comm.rank]
        out = gradient.new_zeros((*gradient.shape[:-2], own[1] - own[0], gradient.shape[-1]))
        a, b = max(own[0], mine[0]), min(own[1], mine[1])
        out[..., a - own[0] : b - own[0], :] = gradient[..., a - mine[0] : b - mine[0], :]
        return out, None, None, None

    def of_a_part(ctx: Any, gradient: Tensor) -> Any:
        class Alone:
            sum = staticmethod(lambda values: values)

        ctx.sphere = Alone
        return norm(ctx, gradient)

    if how == "no halo":
        DividedSphere._window = no_halo  # type: ignore[method-assign]
    elif how == "a halo one row short":
        DividedSphere._window = short_halo  # type: ignore[method-assign]
    elif how == "a plain all_reduce":
        divided.SumBoth = _Sum  # type: ignore[misc, assignment]
    elif how == "a norm whose gradient sums a part":
        divided._GroupNorm.backward = staticmethod(of_a_part)  # type: ignore[method-assign]
    elif how == "gradients of the halo kept":
        divided._Rows.backward = staticmethod(kept)  # type: ignore[method-assign]
    try:
        yield
    finally:
        DividedSphere._window = window  # type: ignore[method-assign]
        divided.SumBoth = both  # type: ignore[misc]
        divided._Rows.backward = staticmethod(taken)  # type: ignore[method-assign]
        divided._GroupNorm.backward = staticmethod(norm)  # type: ignore[method-assign]


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
            note(when + "gradient", apart / largest)
        optimizer.step()
    expected_weights = dict(whole.named_parameters())
    heaviest = max(float(p.detach().abs().max()) for p in whole.parameters())
    for name, parameter in network.named_parameters():
        found = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
        note("weights", float((found - expected_weights[name]).abs().max().detach()) / heaviest)
    buffers = dict(whole.named_buffers())
    for name, buffer in network.named_buffers():
        note("buffers", difference(buffer.double(), buffers[name].double()))
    network.eval()
    whole.eval()
    with torch.no_grad():
        note("prediction", difference(sphere.gather(network(sphere.own(frames, -2, grid[1]))), whole(frames)))
    return out


def measure(case: dict[str, Any], comm: Comm) -> dict[str, float]:
    """Bytes of a step that are sent, and of tensors that are kept for its gradient, here and by one process."""
    grid, frames = tuple(case["grid"]), case.get("history", 2) + 2
    torch.manual_seed(1)
    given = torch.randn(1, frames, 3, *grid, dtype=torch.float64)

    def kept(network: nn.Module, values: Tensor) -> float:
        own = {t.untyped_storage().data_ptr() for t in (values, *network.parameters())}
        storages: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            if tensor.untyped_storage().data_ptr() not in own:
                storages[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            total = network(values).square().mean()
        size = sum(t.untyped_storage().nbytes() for t in storages.values())
        total.backward()
        return float(size)

    sphere, network = DividedSphere(comm.domain, grid), network_of(case)
    whole = kept(network_of(case), given)
    divide(network, sphere)
    mine = kept(network, sphere.own(given, -2, grid[1]).clone().requires_grad_())
    # What a plan counts, without any process.
    counted = DividedSphere(Comm(comm.domain.rank, comm.domain.world), grid)
    shell = network_of(case).to("meta")
    divide(shell, counted)
    own = counted.own(given, -2, grid[1]).to("meta").requires_grad_()
    shell(own).square().mean().backward()
    rows = sphere.rows(*grid)
    return {
        "sent": float(sphere.sent),
        "counted": float(counted.sent),
        "kept": mine,
        "whole": whole,
        "rows": float(rows.stop - rows.start),
    }


def halo(case: dict[str, Any], comm: Comm) -> dict[str, float]:
    """What a coded field looks like across the edges, whose values spell their row and column."""
    grid, width = tuple(case["grid"]), case["width"]
    sphere = DividedSphere(comm.domain, grid)
    coded = torch.arange(grid[0])[:, None] * 1000.0 + torch.arange(grid[1])
    expected = Sphere().pad(coded, width, case["edges"])
    rows = sphere.rows(*grid)
    found = sphere.pad(coded[rows], width, case["edges"])
    wrong = float((found != expected[rows.start : rows.stop + 2 * width]).sum())
    values = sphere.own(coded, -2, grid[1]).expand(2, 3, -1, -1).clone().requires_grad_()
    sphere.sent = 0
    sphere.pad(values, width, case["edges"]).sum().backward()
    return {"wrong": wrong, "sent": float(sphere.sent), "rows": float(rows.stop - rows.start)}


DO = {"train": train, "measure": measure, "halo": halo}


def main(path: str) -> None:
    torch.set_num_threads(1)
    job = json.loads(Path(path).read_text())
    with open_comm() as alone:
        comm = alone.divided(job["domain"])
        results = {}
        for name, case in job["cases"].items():
            with broken(case.get("broken")):
                results[name] = DO[case.get("do", "train")](case, comm)
        Path(f"{path}-{comm.rank}").write_text(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1])
