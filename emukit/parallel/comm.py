"""One process among several that train together: how it finds the others, and how it speaks with them.

Invariant: what every process computes from a `Comm`'s sums and gathers is the same number on all of them, and what one
process alone would compute, up to the order in which floats are added. A process never waits for others without an
end, nor deaf to a request to stop; processes of one machine listen on its loopback interface alone.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from importlib import import_module
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from emukit.errors import EmukitError, TrainingError
from emukit.parallel.launch import (
    TORCHRUN,
    PeerLostError,
    ProcessPlace,
    ReportedByMainError,
    inside_torchrun,
    torchrun_place,
)

T = TypeVar("T")

# What Gloo and NCCL say in a plain RuntimeError, or one of their own, when a process is no longer there.
GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")
# How long they wait for each other at the start: machines of a cluster are not handed out at the same second.
RENDEZVOUS_TIMEOUT = timedelta(minutes=5)
# How long a process waits for the others before it gives up on them. A process that dies is noticed at once by
# torchrun, which ends the rest; this is for one that hangs, and must outlast the slowest thing one does alone.
COLLECTIVE_TIMEOUT = timedelta(minutes=10)
# What Linux and macOS call the interface that no other machine reaches.
LOOPBACK = ("lo", "lo0")


class Group:
    """Some of all processes; None stands for all of them. It is let go before they part.

    Attributes:
        handle: What torch knows it by.
        ranks: Its members among all processes.
    """

    def __init__(self, ranks: Sequence[int]) -> None:
        """Form it; every process must call, whether it is a member or not, in the same order."""
        self.ranks = tuple(ranks)
        self.handle: Any = dist.new_group(self.ranks, timeout=COLLECTIVE_TIMEOUT)

    def let_go(self) -> None:
        """Hold it no longer, so that its threads can end."""
        self.handle = None


@dataclass(frozen=True)
class Comm:
    """Who this process is, and how it speaks with the others.

    Attributes:
        rank: From zero.
        world: How many there are.
        device: Where this process computes.
        on_close: What is done before the processes part, by whoever holds something of the group that lasts.
        group: The processes, where they are some of all.
        axes: Where processes stand in rows and columns: those that have the same cells of the globe and other samples,
            and those that have the same samples and other cells.
        columns: Of processes that share a globe, how many divide each row among them.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    on_close: ExitStack = field(default_factory=ExitStack, compare=False, repr=False)
    group: Group | None = field(default=None, compare=False, repr=False)
    axes: tuple[Comm, Comm] | None = field(default=None, compare=False, repr=False)
    columns: int = 1

    @property
    def data(self) -> Comm:
        """The processes among which batches are dealt out: all, unless a globe is divided."""
        return self.axes[0] if self.axes else self

    @property
    def domain(self) -> Comm:
        """The processes that share one globe: this one alone, unless it is divided."""
        return self.axes[1] if self.axes else Comm(device=self.device)

    @property
    def handle(self) -> Any:
        """What torch knows the group by; None for all processes."""
        return self.group.handle if self.group else None

    def divided(self, domain: int, columns: int = 1) -> Comm:
        """The same processes in groups: every `domain` that follow each other share a globe.

        Args:
            domain: Processes of a group.
            columns: How many of them divide each row; 1: rows stay whole.

        Raises:
            TrainingError: The number of processes is not a multiple.
        """
        check_groups(self.world, domain)
        if domain == 1:
            return self
        # Neighbours on the globe, who speak most, are neighbours in rank: on one machine where possible.
        globes = [Group(range(first, first + domain)) for first in range(0, self.world, domain)]
        copies = [Group(range(first, self.world, domain)) for first in range(domain)]
        for group in (*globes, *copies):
            self.on_close.callback(group.let_go)
        own = divmod(self.rank, domain)
        data = Comm(own[0], self.world // domain, self.device, self.on_close, copies[own[1]])
        share = Comm(own[1], domain, self.device, self.on_close, globes[own[0]], columns=columns)
        return replace(self, axes=(data, share))

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes files and talks to people."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.world > 1:
            # A sum of nothing: unlike `dist.barrier` it needs no device to be guessed.
            dist.all_reduce(torch.zeros(1, device=self.device), group=self.handle)

    def sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum of the arrays of all processes, in float64."""
        if self.world == 1:
            return values
        total = torch.as_tensor(values, dtype=torch.float64).to(self.device, copy=True)
        dist.all_reduce(total, group=self.handle)
        return total.cpu().numpy()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on some process."""
        return bool(self.sum(np.array([float(flag)]))[0] > 0) if self.world > 1 else flag

    def main_only(self, act: Callable[[], T]) -> T | None:
        """What the first process alone does, while the others wait; if it refuses, none continues.

        Returns:
            The result on the first process, None on the others.

        Raises:
            EmukitError: The first's refusal, there.
            ReportedByMainError: Instead, on the others.
        """
        result: T | None = None
        refusal: EmukitError | None = None
        try:
            result = act() if self.main else None
        except EmukitError as e:
            refusal = e
        if self.any(refusal is not None):
            raise refusal or ReportedByMainError
        return result

    def gather_bytes(self, values: Tensor) -> list[Tensor]:
        """The byte tensors of all processes, which have one length, in the order of ranks, on the CPU."""
        if self.world == 1:
            return [values.cpu()]
        mine = values.to(self.device)
        all_of_them = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(all_of_them, mine, group=self.handle)
        return [v.cpu() for v in all_of_them]

    def shard(self, items: Sequence[T]) -> list[T]:
        """This process's contiguous part of a sequence; parts differ in length by one at most."""
        n = len(items)
        return list(items[n * self.rank // self.world : n * (self.rank + 1) // self.world])

    def padded_rounds(self, items: Sequence[T]) -> Iterator[tuple[T, bool]]:
        """Work dealt out in turns, with as many turns for every process.

        A network that is sharded can only be evaluated by all processes together, so a process whose turn brings
        nothing does the first item again; its result does not count.

        Returns:
            Pairs of an item and whether its result counts; over all processes every item counts once.
        """
        for first in range(0, len(items), self.world):
            mine = first + self.rank
            yield (items[mine], True) if mine < len(items) else (items[0], False)

    def mean(self, total: int) -> Callable[[Tensor], Tensor]:
        """The mean of all processes' values (S,), differentiable.

        Its derivative is that of the own part alone: gradients are summed over processes afterwards.

        Args:
            total: How many values there are on all processes together.
        """

        def mean(values: Tensor) -> Tensor:
            summed: Tensor = _Sum.apply(values.sum(), self.handle)  # type: ignore[no-untyped-call]
            return summed / total

        return mean

    def gather_months(self, part: Tensor, lengths: Sequence[int]) -> Tensor:
        """Join along axis 1 what each process computed of it, differentiable by the own part.

        Args:
            part: (S, own length, ...), this process's.
            lengths: Own lengths of all processes, in the order of ranks.

        Returns:
            (S, sum of lengths, ...), the same on every process.
        """
        return _Gather.apply(part, tuple(lengths), self.rank, self.handle)  # type: ignore[no-untyped-call, no-any-return]


def check_groups(world: int, domain: int) -> None:
    """Refuse processes that cannot be put into groups of some size.

    Raises:
        TrainingError: Their number is not a multiple.
    """
    if world % domain:
        raise TrainingError(
            f"{world} processes cannot share globes in groups of {domain}",
            found=f"--domain {domain} and {world} processes",
            expected="a number of processes that is a multiple of --domain",
            hint=f"--devices {-(-world // domain) * domain}",
        )


class _Sum(torch.autograd.Function):
    """Sum over processes; backward hands every process the gradient of its own part."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: Any) -> Tensor:
        total = value.detach().clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class SumBoth(torch.autograd.Function):
    """Sum over processes; backward sums their gradients too, since every process's output depends on every sum."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = values.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None


class _Gather(torch.autograd.Function):
    """Parts of all processes joined; backward hands every process the gradient of its own part."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, lengths: tuple[int, ...], rank: int, group: Any) -> Tensor:
        ctx.start, ctx.length = sum(lengths[:rank]), lengths[rank]
        # Gathered parts must have one shape: the short ones are filled up.
        widest = part.new_zeros(part.shape[0], max(lengths), *part.shape[2:])
        widest[:, : lengths[rank]] = part
        parts = [torch.empty_like(widest) for _ in lengths]
        dist.all_gather(parts, widest, group=group)
        return torch.cat([p[:, :n] for p, n in zip(parts, lengths, strict=True)], 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return gradient[:, ctx.start : ctx.start + ctx.length], None, None, None


@contextmanager
def open_comm() -> Iterator[Comm]:
    """The `Comm` of this process: alone, or among those that torchrun started.

    Raises:
        TrainingError: There are fewer GPUs than processes on this machine, the environment names a place that cannot
            be, or the processes do not meet.
        PeerLostError: Another process has ended while this one was speaking with it.
    """
    cuda = torch.cuda.is_available()
    if not inside_torchrun():
        alone = Comm(device=torch.device("cuda" if cuda else "cpu"))
        with alone.on_close:
            yield alone
        return
    place = torchrun_place()
    if cuda and place.local >= torch.cuda.device_count():
        raise TrainingError(
            "there are more processes than GPUs on this machine",
            found=f"{torch.cuda.device_count()} GPUs, process {place.local + 1}",
            expected="one GPU for each process",
            hint="fewer --devices (torchrun: --nproc-per-node), or CUDA_VISIBLE_DEVICES= for the CPU",
        )
    device = torch.device("cuda", place.local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    # Torch's functions of a group have the group of that moment as a default, which would be held for good: whatever
    # imports them later, such as the first step of an optimiser, must find them imported before there is a group.
    import_module("torch.distributed.nn")
    join_group(place, "nccl" if cuda else "gloo")
    comm = Comm(place.rank, place.world, device)
    try:
        yield comm
    except BaseException as e:
        _let_go(e)
        if isinstance(e, RuntimeError) and any(words in str(e) for words in GONE):
            raise PeerLostError(e) from e
        raise
    finally:
        # Whatever still holds the group, such as a sharded network in a cycle of references, keeps its threads running
        # until the interpreter ends under them: now and then that aborts the process, and all the others with it.
        try:
            comm.on_close.close()
        finally:
            gc.collect()
            dist.destroy_process_group()


def _let_go(error: BaseException | None) -> None:
    """Drop what the functions that an error has left still hold, such as a network; where it came from stays known."""
    # Causes may go round in a circle.
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def join_group(place: ProcessPlace, backend: str) -> None:
    """Wait for the other processes, and form a group with them.

    Raises:
        TrainingError: They cannot be reached, or do not come.
    """
    try:
        if place.one_machine:
            _stay_on_loopback()
        if not place.file:
            # A name that nobody knows would be asked for again and again.
            socket.getaddrinfo(place.address, place.port)
        with _signals_that_end():
            store = _store(place)
            # All are awaited here, for the group would wait for them with the patience of later sums.
            store.set(f"emukit/{place.rank}", "here")
            store.wait([f"emukit/{r}" for r in range(place.world)], RENDEZVOUS_TIMEOUT)
            dist.init_process_group(
                backend, store=store, rank=place.rank, world_size=place.world, timeout=COLLECTIVE_TIMEOUT
            )
    except (OSError, RuntimeError, UnicodeError) as e:
        raise TrainingError(
            "the processes that should train together could not connect",
            found=f"{next(iter(str(e).splitlines()), type(e).__name__)} at "
            + (place.file or f"MASTER_ADDR={place.address} MASTER_PORT={place.port}")
            + f", as process {place.rank} of {place.world}",
            expected=f"WORLD_SIZE={place.world} processes that reach that place within {RENDEZVOUS_TIMEOUT.seconds} s",
            hint=f"start all of them, and correct address and port; to train with one: unset {' '.join(TORCHRUN)}",
        ) from e


def _store(place: ProcessPlace) -> Any:
    """Where the processes leave word for each other."""
    if place.file:
        return dist.FileStore(place.file, place.world)  # type: ignore[attr-defined]
    return next(rendezvous("env://", place.rank, place.world, timeout=RENDEZVOUS_TIMEOUT))[0]


def _stay_on_loopback() -> None:
    """Have Gloo and NCCL listen there: by themselves they take an interface of the network."""
    names = [name for _, name in socket.if_nameindex() if name in LOOPBACK]
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        if names:
            os.environ[variable] = names[0]


@contextmanager
def _signals_that_end() -> Iterator[None]:
    """Inside, stop requests end the process as the system does: Python's handlers would wait for torch to return."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {s: signal.getsignal(s) for s in asked if signal.getsignal(s) != signal.SIG_IGN}
    for s in before:
        signal.signal(s, signal.SIG_DFL)
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
