"""What every process of the tests of a divided globe runs: ``python -m tests.parallel.divided_worker JOBS.json``.

Every process computes each case twice, alone and with its cells of the globe, in float64, and writes the largest
relative differences of what must be equal. Processes are started once for all cases of as many of them, as forks of one
that has imported everything.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emukit.data.archive import Archive, Domain, Scenario
from emukit.data.frames import FrameEncoder, InputSettings
from emukit.data.split import Span
from emukit.data.store import open_store
from emukit.data.targets import TargetNormalizer, TargetSettings
from emukit.emulators.base import Emulator
from emukit.errors import StoreError
from emukit.losses.composite import CompositeLoss
from emukit.losses.grid_context import GridContext
from emukit.models.registry import build_network
from emukit.parallel import domain as divided
from emukit.parallel.comm import Comm, _Sum, open_comm
from emukit.parallel.distributed import DistributedNetwork, synchronise
from emukit.parallel.domain import DividedSphere, divide
from emukit.runs.evaluate import _compute_lines, score_emulator
from emukit.sphere import Sphere, half_turn, part_shape
from emukit.training.footprint import count_pass
from tests.parallel.forks import run_together

VARIABLES = ("tas", "pr")


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
    window, both, take, turned = DividedSphere._window, divided.SumBoth, DividedSphere._take, DividedSphere._half_turn
    taken, norm = divided._Cells.backward, divided._GroupNorm.backward

    def no_halo(self: DividedSphere, fields: Tensor, have: Any, want: Any, edges: Any) -> Tensor:
        start, stop = have[self._down.own]
        first, last = (want[self._down.own][0] - start, want[self._down.own][1] - start)
        places = torch.arange(first, last).clamp(0, stop - start - 1)
        return fields[..., places, :]

    def short_halo(self: DividedSphere, fields: Tensor, have: Any, want: Any, edges: Any) -> Tensor:
        less = [(a + (r > 0), b) for r, (a, b) in enumerate(want)]
        tall = window(self, fields, have, less, edges)
        return torch.cat((tall[..., :1, :], tall), -2) if self._down.own else tall

    def open_circle(self: DividedSphere, fields: Tensor, have: Any, want: Any, line: Any) -> Tensor:
        if not line.circle:
            return take(self, fields, have, want, line)
        start, stop = have[line.own]
        places = torch.arange(want[line.own][0] - start, want[line.own][1] - start).clamp(0, stop - start - 1)
        return fields[..., places]

    def kept(ctx: Any, gradient: Tensor) -> Any:
        line = ctx.line
        out = gradient.new_zeros(divided._resized(gradient, line.axis, ctx.length))
        own = ([(a, b) for other, a, b in pieces if other == line.own] for pieces in (ctx.gives, ctx.takes))
        for (a, b), (first, last) in zip(*own, strict=True):
            out.narrow(line.axis, a, b - a).add_(gradient.narrow(line.axis, first, last - first))
        return out, None, None, None, None

    def of_a_part(ctx: Any, gradient: Tensor) -> Any:
        class Alone:
            sum = staticmethod(lambda values: values)

        ctx.sphere = Alone
        return norm(ctx, gradient)

    if how == "no halo":
        DividedSphere._window = no_halo  # type: ignore[method-assign]
    elif how == "a halo one row short":
        DividedSphere._window = short_halo  # type: ignore[method-assign]
    elif how == "no halo in longitude":
        DividedSphere._take = open_circle  # type: ignore[method-assign]
    elif how == "a half turn of the own columns":
        DividedSphere._half_turn = lambda self, fields: half_turn(fields)  # type: ignore[method-assign]
    elif how == "a plain all_reduce":
        divided.SumBoth = _Sum  # type: ignore[misc, assignment]
    elif how == "a norm whose gradient sums a part":
        divided._GroupNorm.backward = staticmethod(of_a_part)  # type: ignore[method-assign]
    elif how == "gradients of the halo kept":
        divided._Cells.backward = staticmethod(kept)  # type: ignore[method-assign]
    elif how is not None:
        raise ValueError(how)
    try:
        yield
    finally:
        DividedSphere._window, DividedSphere._take = window, take  # type: ignore[method-assign]
        DividedSphere._half_turn = turned  # type: ignore[method-assign]
        divided.SumBoth = both  # type: ignore[misc]
        divided._Cells.backward = staticmethod(taken)  # type: ignore[method-assign]
        divided._GroupNorm.backward = staticmethod(norm)  # type: ignore[method-assign]


@contextmanager
def many_patches(ring: bool) -> Iterator[None]:
    """Inside, any attention has too many keys to be gathered, and too many queries to be answered at once."""
    before = divided.RING_BYTES, divided.SCORE_BYTES
    if ring:
        divided.RING_BYTES, divided.SCORE_BYTES = 0, 1 << 9
    try:
        yield
    finally:
        divided.RING_BYTES, divided.SCORE_BYTES = before


def data_of(case: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Frames and targets of all samples and cells."""
    grid, history, months = tuple(case["grid"]), case.get("history", 2), case.get("months", 3)
    segments = case.get("segments", 2)
    torch.manual_seed(1)
    frames = torch.randn(segments, months + history - 1, 3, *grid, dtype=torch.float64)
    return frames, torch.randn(segments, months, len(VARIABLES), *grid, dtype=torch.float64)


def whole_key(case: dict[str, Any]) -> str:
    """What decides the training of one process."""
    own = {k: v for k, v in case.items() if k not in ("domain", "broken", "ring", "strategy", "steps")}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:16]


def train_whole(cases: dict[str, dict[str, Any]], folder: Path) -> None:
    """Steps of AdamW by one process, by the key of each case: once for all divisions that are compared with it."""
    torch.set_num_threads(1)
    for key, case in cases.items():
        frames, targets = data_of(case)
        network, loss = network_of(case), loss_of(case, None)
        optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
        torch.manual_seed(2)
        steps, ends = [], {}
        for number in range(1, max(case["steps"]) + 1):
            optimizer.zero_grad()
            given = frames.clone().requires_grad_()
            prediction = network(given)
            total, _terms = loss(prediction, targets)
            total.backward()
            gradients = {n: p.grad.clone() for n, p in network.named_parameters()}
            steps.append((prediction.detach(), total.detach(), given.grad, gradients))
            optimizer.step()
            if number in case["steps"]:
                held = {n: v.detach().clone() for n, v in network.state_dict().items()}
                network.eval()
                # Dropout of further steps draws what it would have drawn.
                with torch.no_grad(), torch.random.fork_rng():
                    ends[number] = (held, network(frames))
                network.train()
        torch.save((steps, ends), folder / key)


def train(case: dict[str, Any], comm: Comm) -> dict[str, float]:
    """Steps of AdamW by all processes on their samples and rows, beside those of one process."""
    grid, segments = tuple(case["grid"]), case.get("segments", 2)
    frames, targets = data_of(case)
    out: dict[str, float] = {}
    record, ends = torch.load(case["whole"], mmap=True)
    expected_weights, expected_prediction = ends[case["steps"]]
    record = record[: case["steps"]]

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

    for step in range(len(record)):
        optimizer.zero_grad()
        given = sphere.own(frames[mine]).clone().requires_grad_()
        prediction = distributed(given)
        mean = comm.data.mean(segments) if comm.data.world > 1 else torch.mean
        total, _terms = loss(prediction, sphere.own(targets[mine]), mean=mean)
        distributed.backward(total)
        expected = record[step]
        when = "first " if step == 0 else "later "
        note(when + "output", difference(prediction.detach(), sphere.own(expected[0][mine])))
        note(when + "loss", difference(total.detach(), expected[1]))
        # What one process holds of the loss is scaled for averaging over all of them.
        held = given.grad / comm.world
        note(when + "input gradient", difference(held, sphere.own(expected[2][mine])))
        largest = max(float(g.abs().max()) for g in expected[3].values())
        for name, parameter in network.named_parameters():
            gradient = parameter.grad.full_tensor() if hasattr(parameter.grad, "full_tensor") else parameter.grad
            apart = float((gradient - expected[3][name]).abs().max())
            note(when + "gradient", apart / largest)
        optimizer.step()
    heaviest = max(float(expected_weights[n].abs().max()) for n, _ in network.named_parameters())
    for name, parameter in network.named_parameters():
        found = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
        note("weights", float((found - expected_weights[name]).abs().max().detach()) / heaviest)
    for name, buffer in network.named_buffers():
        note("buffers", difference(buffer.double(), expected_weights[name].double()))
    network.eval()
    with torch.no_grad():
        note("prediction", difference(sphere.gather(network(sphere.own(frames))), expected_prediction))
    return out


def measure(case: dict[str, Any], comm: Comm) -> dict[str, float]:
    """Bytes of a step that are sent, and of tensors kept for its gradient: here, by one process, as a plan counts."""
    grid, history = tuple(case["grid"]), case.get("history", 2)
    torch.manual_seed(1)
    given = torch.randn(1, history + 2, 3, *grid)

    def kept(network: nn.Module, values: Tensor) -> float:
        own = {t.untyped_storage().data_ptr() for t in (values, *network.parameters(), *network.buffers())}
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

    sphere, network = DividedSphere(comm.domain, grid), network_of(case).float()
    whole = kept(network_of(case).float(), given)
    divide(network, sphere)
    mine = kept(network, sphere.own(given).contiguous())
    # What a plan counts, without any process.
    counted = DividedSphere(Comm(comm.domain.rank, comm.domain.world, columns=comm.domain.columns), grid)
    rows, columns = part_shape(sphere.part(grid), grid)
    planned = count_pass(network_of(case).float(), (1, history + 2, 3, rows, columns), "fp32", counted)
    return {
        "sent": float(sphere.sent),
        "counted": float(counted.sent),
        "kept": mine,
        "planned": float(planned),
        "whole": whole,
        "rows": float(rows),
        "columns": float(columns),
    }


def halo(case: dict[str, Any], comm: Comm) -> dict[str, float]:
    """What a coded field looks like across the edges, whose values spell their row and column."""
    grid, width = tuple(case["grid"]), case["width"]
    sphere = DividedSphere(comm.domain, grid)
    coded = torch.arange(grid[0])[:, None] * 1000.0 + torch.arange(grid[1])
    expected = Sphere().pad(coded, width, case["edges"])
    rows, columns = sphere.part(grid)
    found = sphere.pad(coded[rows, columns], width, case["edges"])
    expected = expected[rows.start : rows.stop + 2 * width, columns.start : columns.stop + 2 * width]
    wrong = float((found != expected).sum()) if found.shape == expected.shape else float("inf")
    values = sphere.own(coded).expand(2, 3, -1, -1).clone().requires_grad_()
    sphere.sent = 0
    sphere.pad(values, width, case["edges"]).sum().backward()
    return {"wrong": wrong, "sent": float(sphere.sent)}


def strip(case: dict[str, Any], comm: Comm) -> dict[str, float]:
    """Convolutions with zeros beyond the edges of the map: outputs and gradients of every kernel, and what is sent."""
    grid, out = tuple(case["grid"]), {}
    torch.manual_seed(1)
    fields = torch.randn(1, 1, *grid, dtype=torch.float64)
    for kernel, stride, dilation in case["kernels"]:
        padding = tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
        convolution = nn.Conv2d(1, 2, kernel, stride, padding, dilation).double()
        sphere = DividedSphere(comm.domain, grid)
        whole, own = fields.clone().requires_grad_(), sphere.own(fields).clone().requires_grad_()
        expected, found = convolution(whole), sphere.convolve(own, convolution, convolution.bias)
        name = f"{kernel} {stride} {dilation}"
        out[f"sent {name}"] = float(sphere.sent)
        slope = torch.randn(expected.shape, dtype=torch.float64)
        (expected * slope).sum().backward()
        (found * sphere.own(slope)).sum().backward()
        assert whole.grad is not None
        assert own.grad is not None
        apart = (
            difference(found.detach(), sphere.own(expected.detach())),
            difference(own.grad, sphere.own(whole.grad)),
        )
        out[f"apart {name}"] = max(apart)
    return out


def roll(case: dict[str, Any], comm: Comm) -> dict[str, float]:
    """How far the output of a turned globe is from the turned output, by the columns of each turn."""
    grid, history = tuple(case["grid"]), case.get("history", 2)
    sphere, network = DividedSphere(comm.domain, grid), network_of(case).eval()
    divide(network, sphere)
    torch.manual_seed(1)
    frames = torch.randn(1, history + 1, 3, *grid, dtype=torch.float64)
    with torch.no_grad():
        expected = sphere.gather(network(sphere.own(frames)))
        return {
            str(turn): difference(sphere.gather(network(sphere.own(frames.roll(turn, -1)))), expected.roll(turn, -1))
            for turn in case["turns"]
        }


def smooth(case: dict[str, Any], comm: Comm) -> dict[str, float]:
    """Largest second difference along a meridian and round a circle, at the edges of shards and elsewhere.

    Fields are smooth waves, of no process's edge in particular; near the poles a network sees them mirrored.
    """
    grid, history = tuple(case["grid"]), case.get("history", 2)
    sphere, network = DividedSphere(comm.domain, grid), network_of(case).eval()
    divide(network, sphere)
    row = (torch.arange(grid[0], dtype=torch.float64) + 0.5) / grid[0]
    column = torch.arange(grid[1], dtype=torch.float64) / grid[1]
    waves = (torch.pi * row).cos()[:, None] + 0.3 * (2 * torch.pi * column).sin()
    frames = waves.expand(1, history, 3, *grid).contiguous()
    with torch.no_grad():
        fields = sphere.gather(network(sphere.own(frames)))[0, 0]
    found = {}
    bent = fields.diff(n=2, dim=-2).abs().amax((0, -1))
    inside = torch.arange(1, grid[0] - 1)
    first = [a for a, _ in sphere.bounds(grid[1])[1:]]
    beside = torch.tensor([any(r in (a - 1, a) for a in first) for r in inside.tolist()])
    polar = (inside < case["reach"]) | (inside >= grid[0] - case["reach"])
    if first:
        found |= {"edge": float(bent[beside].max()), "elsewhere": float(bent[~beside & ~polar].max())}
    each = grid[1] // comm.domain.columns
    if each < grid[1]:
        bent = (fields.roll(-1, -1) + fields.roll(1, -1) - 2 * fields).abs().amax((0, -2))
        cut = torch.tensor([c % each in (0, each - 1) for c in range(grid[1])])
        found |= {"cut": float(bent[cut].max()), "between": float(bent[~cut].max())}
    return found


def bytes_read() -> int:
    """What this process has read from files so far; Linux alone counts it."""
    counts = Path("/proc/self/io")
    return int(dict(line.split(": ") for line in counts.read_text().splitlines())["rchar"]) if counts.exists() else 0


class Given(Emulator):
    """Says what it is given, (T, V, y, x) of the cells that are held."""

    kind = "given"

    def __init__(self, domain: Domain, fields: NDArray[np.float32]) -> None:
        super().__init__(domain)
        self.fields = fields

    def predict_fields(self, scenario: Scenario, start: int, stop: int) -> NDArray[np.float32]:
        return self.fields[start:stop]

    def state(self) -> Any: ...

    @classmethod
    def from_state(cls, *parts: Any) -> Any: ...


def apart(found: Any, expected: Any) -> float:
    """Largest difference of arrays, relative to the largest value; infinite where shapes differ."""
    return difference(*(torch.from_numpy(np.array(v, np.float64)) for v in (found, expected)))


# What is fitted to, of what, how it is scored, and by which spans.
FITTED = (Span("ssp126", 0, 100, (0, 1)), Span("ssp585", 3, 120, (1,)))
INPUTS = InputSettings(forcings=("CO2", "SO2", "rsdt"))
NORMALISED: tuple[dict[str, Any], ...] = (
    {"transform": "yeo-johnson", "scale": "cell-month"},
    {"climatology": "global", "scale": "global"},
)
SCORED = Span("ssp585", 20, 130, (0,))


def said(whole: Archive) -> NDArray[np.float32]:
    """Fields of all cells that are scored, (T, V, Y, X)."""
    size = (len(whole["ssp585"]), 2, *whole.grid.shape)
    return np.random.default_rng(0).normal(280, 9, size).astype(np.float32)


def numbers_of_lines(archive: Archive) -> dict[str, list[float]]:
    """The lines that stand beside a score, and the limit, by name."""
    lines, limit = _compute_lines(archive, "loso:ssp585", (SCORED,))
    return {name: [*line.line().values()] for name, line in {**lines, "limit": limit}.items()}


def read_whole(stores: dict[str, Path]) -> None:
    """What one process finds in each store: once for all divisions that are compared with it."""
    torch.set_num_threads(1)
    for store, path in stores.items():
        whole = open_store(store)
        by = [dict.fromkeys(whole.variables, TargetSettings(**settings)) for settings in NORMALISED]
        targets = [TargetNormalizer.fit(whole, FITTED, one).state() for one in by]
        statistics = FrameEncoder.fit(whole, FITTED, INPUTS).state()[0]["statistics"]
        score = [*score_emulator(Given(whole.domain, said(whole)), whole, (SCORED,)).line().values()]
        torch.save((statistics, targets, score, numbers_of_lines(whole)), path)


def read(case: dict[str, Any], comm: Comm) -> dict[str, Any]:
    """A store read by rows beside the same store read whole: values, what is told of it, and all that is summed."""
    whole = open_store(case["store"])
    # What the others send for the digest of all cells is read, too, from sockets.
    with patch.object(Archive, "digest", ""):
        before = bytes_read()
        open_store(case["store"], comm=comm.domain)
        out: dict[str, Any] = {"read": bytes_read() - before, "stored": case["bytes"]}
    own = open_store(case["store"], comm=comm.domain)
    share = own.share
    out["digest"] = float(own.digest != whole.digest)
    out["notes"] = float(own.notes != whole.notes or own.published != whole.published)
    out["values"] = 0.0
    held = expected = 0
    for name, one in own.items():
        fields = [(one.forcings[k], v) for k, v in whole[name].forcings.items() if v.ndim == 3]
        fields += [(one.targets, whole[name].targets)] if one.targets is not None else []
        held += sum(found.nbytes for found, _ in fields)
        expected += sum(v.nbytes for _, v in fields)
        out["values"] += sum(not np.array_equal(found, share.own(v)) for found, v in fields)
        out["values"] += float(not np.array_equal(one.hidden, whole[name].hidden) or one.members != whole[name].members)
        # What one array holds for several scenarios it holds for them here, too.
        shared = [
            [other[name].forcings[k] is other["ssp126"].forcings[k] for k in one.forcings] for other in (own, whole)
        ]
        out["values"] += float(shared[0] != shared[1])
    out["held"] = held / expected
    expected_statistics, expected_targets, expected_score, expected_lines = torch.load(
        case["whole"], weights_only=False
    )
    statistics = FrameEncoder.fit(own, FITTED, INPUTS).state()[0]["statistics"]
    out["inputs"] = max(apart(statistics[k][:2], expected_statistics[k][:2]) for k in INPUTS.forcings)
    for settings, (same, wanted) in zip(NORMALISED, expected_targets, strict=True):
        by = dict.fromkeys(own.variables, TargetSettings(**settings))
        meta, found = TargetNormalizer.fit(own, FITTED, by).whole(share).state()
        # Each variable by itself: transformed temperatures are larger by many powers of ten.
        each = [apart(found[k][:, v], wanted[k][:, v]) for k in wanted for v in range(len(own.variables))]
        out["targets"] = max(out.get("targets", 0.0), *each)
        out["targets"] = max(out["targets"], apart(meta["exponents"], same["exponents"]))
    gathered: list[int] = []
    take = DividedSphere.gather

    def counted(self: DividedSphere, fields: Tensor, **how: Any) -> Tensor:
        found = take(self, fields, **how)
        gathered.append(found.numel())
        return found

    DividedSphere.gather = counted  # type: ignore[method-assign]
    try:
        scores = [score_emulator(Given(whole.domain, share.own(said(whole))), own, (SCORED,), c) for c in (None, comm)]
    finally:
        DividedSphere.gather = take  # type: ignore[method-assign]
    out["score"] = max(apart([*s.line().values()], expected_score) for s in scores)
    # Six sums for each variable, once for each score.
    out["gathered"] = max(gathered) / (6 * 2 * whole.grid.weights.size)
    lines = numbers_of_lines(own)
    assert len(expected_lines) > 3
    out["lines"] = float(lines.keys() != expected_lines.keys())
    for name, line in expected_lines.items():
        # A linear fit is kept in float32.
        kind = "linear" if name == "linear" else "lines"
        out[kind] = max(out.get(kind, 0.0), apart(lines[name], line))
    return out


def refused(case: dict[str, Any], comm: Comm) -> dict[str, Any]:
    """What is said of a damaged store by one process, and by all that read it together."""
    said = []
    for among in (None, comm.domain):
        try:
            open_store(case["store"], comm=among)
            said.append("nothing")
        except StoreError as e:
            said.append(str(e))
    return {"alone": said[0], "together": said[1]}


DO = {
    "read": read,
    "refused": refused,
    "strip": strip,
    "train": train,
    "measure": measure,
    "halo": halo,
    "roll": roll,
    "smooth": smooth,
}


def compute(cases: dict[str, Any], out: str) -> None:
    """In one of the processes: all cases, one after another."""
    torch.set_num_threads(1)
    with open_comm() as alone:
        # Every process forms the same groups in the same order.
        divisions = dict.fromkeys(tuple(case["domain"]) for case in cases.values())
        comms = {(rows, columns): alone.divided(rows * columns, columns) for rows, columns in divisions}
        results = {}
        for name, case in cases.items():
            with broken(case.get("broken")), many_patches(case.get("ring", False)):
                results[name] = DO[case.get("do", "train")](case, comms[tuple(case["domain"])])
        Path(f"{out}-{alone.rank}").write_text(json.dumps(results))


def main(path: str) -> None:
    launches = json.loads(Path(path).read_text())
    folder = Path(f"{path}-whole")
    folder.mkdir()
    whole: dict[str, dict[str, Any]] = {}
    for case in (case for cases in launches.values() for case in cases.values()):
        if case.get("do", "train") == "train":
            key = whole_key(case)
            case["whole"] = str(folder / key)
            steps = whole.get(key, {"steps": []})["steps"]
            whole[key] = case | {"steps": [*steps, case["steps"]]}
    stores: dict[str, Path] = {}
    for case in (case for cases in launches.values() for case in cases.values()):
        if case.get("do") == "read":
            stores[case["store"]] = folder / Path(case["store"]).name
            case["whole"] = str(stores[case["store"]])
    if whole:
        run_together(1, partial(train_whole, whole, folder), "")
    if stores:
        run_together(1, partial(read_whole, stores), "")
    for processes, cases in launches.items():
        out = f"{path}-{processes}"
        run_together(int(processes), partial(compute, cases, out), f"{out}-rendezvous")


if __name__ == "__main__":
    main(sys.argv[1])
