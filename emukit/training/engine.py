"""How one optimiser step is computed on the hardware at hand: precision, compilation, processes, averages.

Invariant: the engine changes how fast a step is, not what it is: in float32 every combination of processes, strategy
and compilation takes the same steps up to rounding. The learning rate is a function of the step, and of how often it
was halved on a plateau, which the state of the training holds. The average of weights, exponential (EMA) or equal over
the last epochs (SWA), is a function of the weights after each step, or epoch, alone, and never changes them; it is
scored and chosen like any checkpoint.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor, nn

from emukit.data.sampler import A, Sampler
from emukit.errors import TrainingError
from emukit.objectives.base import Objective
from emukit.parallel.comm import Comm
from emukit.parallel.distributed import DistributedNetwork, Strategy, replicated, synchronise, whole
from emukit.training.settings import AverageSettings, OptimizerSettings, TrainingSettings

AUTOCAST: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}

# Of PyTorch's ReduceLROnPlateau as IPSL-AID trains with it.
HALVED = 0.5

# A loss scale this small means that gradients overflow whatever is done: fp16 starts at 65536 and halves.
SMALLEST_SCALE = 1.0


@dataclass(frozen=True)
class Execution:
    """How training is run, where that does not change what is trained.

    Attributes:
        strategy: ``ddp`` copies the network to every process, ``fsdp`` shards it.
        compile: Compile the network with torch.compile.
        channels_last: Lay out convolutions with channels innermost.
        domain: Processes that share a globe, each with some of its rows; batches are dealt out among groups of so many.
        track: Which of `emukit.training.tracking` mirrors the log; None for none.
    """

    strategy: Strategy = "ddp"
    compile: bool = False
    channels_last: bool = False
    track: str | None = None
    domain: int = 1


class Engine(Generic[A]):
    """A network with its optimiser, ready to take steps on batches that all processes share."""

    def __init__(
        self,
        network: nn.Module,
        sampler: Sampler[A],
        objective: Objective,
        settings: TrainingSettings,
        comm: Comm,
        execution: Execution,
    ) -> None:
        """Prepare a network in place.

        Args:
            network: On the device of `comm`, the same on every process.
            sampler: Batches.
            objective: What a step minimises.
            settings: Optimiser, precision, averaging.
            comm: The processes.
            execution: How to run.

        Raises:
            TrainingError: The combination is not possible here.
        """
        self.network, self.comm, self.settings = network, comm, settings
        self._sampler, self._objective = sampler, objective
        self._batchnorm = synchronise(network, comm)
        check_execution(settings, execution, comm.world, comm.device.type, self._batchnorm)
        if execution.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if execution.compile:
            _compile(network, by_block=execution.strategy == "fsdp" and comm.world > 1)
        self.distributed = DistributedNetwork(network, comm, execution.strategy)
        self.optimizer = make_optimizer(network, settings.optimizer)
        self.average = WeightAverage(network, settings.average, settings.epochs)
        self.scaler = torch.amp.GradScaler(comm.device.type, enabled=settings.precision == "fp16")

    def step(
        self,
        batches: Sequence[Sequence[A]],
        rate: float,
        ramp: float,
        ahead: Sequence[A] | None = None,
        epochs: float = 0.0,
    ) -> dict[str, float]:
        """One optimiser step on one or more batches, whose gradients are accumulated.

        Args:
            batches: Addresses of their samples, for all processes together.
            rate: Learning rate.
            ramp: How far the loss has moved from its warm-up to itself, in [0, 1].
            ahead: The batch that the next step begins with, read meanwhile where batches are streamed.
            epochs: How many epochs are done, with fractions.

        Returns:
            Loss, gradient norm and every term, the same on all processes. If one of them is not finite, no step was
            taken; in fp16 a step whose gradient overflowed is skipped instead: ``skipped_steps`` is one, and the norm
            not finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._objective.advance(epochs)
        self.optimizer.zero_grad(set_to_none=True)
        samples = sum(map(len, batches))
        sums: dict[str, Tensor] = {}
        following = [*batches[1:], ahead]
        for number, batch in enumerate(batches, 1):
            share = len(batch) / samples
            coming = following[number - 1]
            if coming:
                self._sampler.prefetch(*self._share(coming))
            with self.distributed.accumulating(last=number == len(batches)):
                total, terms = self._batch_loss(batch, ramp)
                self.distributed.backward(self.scaler.scale(total * share))
            for name, value in {"loss": total.detach(), **terms}.items():
                sums[name] = sums.get(name, 0.0) + share * value
        self.scaler.unscale_(self.optimizer)
        norm = whole(nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.optimizer.clip_norm))
        # One transfer for all numbers: each would make the processor wait for the device.
        values = torch.stack([*sums.values(), norm.detach()]).double().tolist()
        numbers = dict(zip((*sums, "gradient_norm"), values, strict=True))
        if not self.not_finite(numbers):
            scale = self.scaler.get_scale()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            # The scaler says in no other way that it left the step out.
            skipped = self.scaler.get_scale() < scale
            if not skipped:
                self.average.after_step()
            if self.scaler.is_enabled():
                numbers["skipped_steps"] = float(skipped)
        return numbers

    def not_finite(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Those of a step's numbers that mean that training cannot continue."""
        wrong = {k: v for k, v in numbers.items() if not math.isfinite(v)}
        if self.scaler.is_enabled() and self.scaler.get_scale() >= SMALLEST_SCALE:
            # In fp16 gradients overflow now and then: the scaler leaves such a step out and scales less from then on.
            wrong.pop("gradient_norm", None)
        return wrong

    def _predict(self, *inputs: Tensor) -> Tensor:
        dtype = AUTOCAST.get(self.settings.precision)
        with torch.autocast(self.comm.device.type, dtype, enabled=dtype is not None):
            return self.distributed(*inputs).float()

    def _batch_loss(self, addresses: Sequence[A], ramp: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch of which every process computes a part.

        Where there are enough samples they are dealt out; otherwise each sample's steps are, and the predictions
        put together again before the loss, which looks at whole samples. Batch normalisation would count the steps
        of history between two parts twice; with it, or with an objective that is not divisible, a batch too short for
        the processes is computed by each of them.
        """
        comm = self.comm.data
        mine, steps = self._share(addresses)
        sample = self._sampler.batch(mine, steps)
        if comm.world == 1:
            return self._objective.loss(self._predict, sample, ramp=ramp)
        if steps is not None:
            length = self._sampler.length
            parts = [len(Comm(r, comm.world).shard(range(length))) for r in range(comm.world)]

            def joined(frames: Tensor) -> Tensor:
                return comm.gather_months(self._predict(frames), parts)

            return self._objective.loss(joined, sample, ramp=ramp)
        copies = 1 if len(addresses) >= comm.world else comm.world

        def predict(*inputs: Tensor) -> Tensor:
            with replicated(self.network, copies):
                return self._predict(*inputs)

        return self._objective.loss(predict, sample, ramp=ramp, mean=comm.mean(copies * len(addresses)))

    def _share(self, addresses: Sequence[A]) -> tuple[Sequence[A], slice | None]:
        """This process's part of a batch: which samples, and which of their steps (all when None)."""
        comm, length = self.comm.data, self._sampler.length
        if len(addresses) >= comm.world:
            return comm.shard(addresses), None
        if length >= comm.world and not self._batchnorm and self._objective.divisible:
            mine = comm.shard(range(length))
            return addresses, slice(mine[0], mine[-1] + 1)
        return addresses, None


def check_execution(
    settings: TrainingSettings, execution: Execution, world: int, device_type: str, batchnorm: bool
) -> None:
    """Refuse what cannot be run so, as far as it shows without data.

    Args:
        settings: Batches and precision; a batch size that is ``auto`` still is not looked at.
        execution: How to run.
        world: Number of processes, among which batches are dealt out by groups that share a globe.
        device_type: ``cpu`` or ``cuda``.
        batchnorm: Whether the network has batch normalisation.

    Raises:
        TrainingError: The combination is not possible.
    """
    segments, groups = settings.segments, world // execution.domain
    if segments.per_batch != "auto" and groups > segments.batch_size and (batchnorm or segments.length < groups):
        raise TrainingError(
            f"a batch cannot be divided over {groups} " + ("groups of " if execution.domain > 1 else "") + "processes",
            found=f"{segments.batch_size} segments of {segments.length} months"
            + (", and a network with batch normalisation" if batchnorm else ""),
            expected=f"{groups} segments or more in a batch",
            hint=f"--set training.segments.per_batch={groups}, or fewer --devices",
        )
    if execution.strategy == "fsdp" and world == 1:
        raise TrainingError(
            "there is nothing to shard a network over",
            found="--strategy fsdp with one process",
            expected="two or more",
            hint="--devices 2 or more, or leave --strategy out",
        )
    if execution.strategy == "fsdp" and settings.precision == "fp16":
        raise TrainingError(
            "fp16 is not supported with fsdp", expected="bf16 or fp32", hint="--precision bf16, or --strategy ddp"
        )
    if execution.compile and device_type == "cpu":
        _check_compiler()


def _check_compiler() -> None:
    """See that the compiler that torch would take is there, and runs.

    Raises:
        TrainingError: It does not.
    """
    named = os.environ.get("CXX")
    compiler = shutil.which(named) if named else shutil.which("g++") or shutil.which("clang++")
    if compiler and subprocess.run([compiler, "--version"], capture_output=True, check=False).returncode == 0:
        return
    found = f"CXX={named}" if named else compiler or "neither g++ nor clang++"
    raise TrainingError(
        "--compile needs a C++ compiler on the CPU",
        found=f"{found}, which does not run" if compiler or named else found,
        expected="g++ or clang++, or the one that CXX names",
        hint="install one, or leave --compile out",
    )


def _compile(network: nn.Module, by_block: bool) -> None:
    """Compile in place, so that parameters keep their names."""
    if not by_block:
        network.compile()
        return
    # Sharded blocks are gathered by hooks around their forward, which a compiled whole would have to break at.
    blocks = getattr(network, "BLOCKS", ())
    for module in network.modules():
        if blocks and isinstance(module, blocks):
            module.compile()


class WeightAverage:
    """Average of a network's parameters and floating-point buffers.

    Running statistics of batch normalisation are averaged like weights, not estimated again.
    """

    def __init__(self, network: nn.Module, settings: AverageSettings, epochs: int) -> None:
        """Nothing is averaged yet.

        Args:
            network: Whose weights; sharded parameters stay sharded.
            settings: Which average.
            epochs: Of the whole training, for the start of SWA.
        """
        self._network = network
        self._settings = settings
        self._first_epoch = int(settings.start * epochs)
        self.count = 0
        self.tensors: dict[str, Tensor] = {}

    @property
    def ready(self) -> bool:
        """Whether there is an average of more than one state of the weights."""
        return self.count > 1

    def after_step(self) -> None:
        """Take the weights of one more optimiser step."""
        if self._settings.kind == "ema":
            # Early on the average forgets faster, so that it does not remember the random start (as in TensorFlow's
            # ExponentialMovingAverage with num_updates).
            decay = min(self._settings.decay, (1 + self.count) / (10 + self.count))
            self._blend(1.0 - decay)

    def after_epoch(self, epoch: int) -> None:
        """Take the weights at the end of an epoch, counted from one (Izmailov et al. 2018, arXiv:1803.05407)."""
        if self._settings.kind == "swa" and epoch > self._first_epoch:
            self._blend(1.0 / (self.count + 1))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The network holds the average inside, and its own weights again afterwards."""
        live = dict(self._averaged())
        kept = {name: tensor.detach().clone() for name, tensor in live.items()}
        self._put(self.tensors)
        try:
            yield
        finally:
            self._put(kept)

    def allocate(self) -> None:
        """Make room for the average, to be filled from a checkpoint."""
        self.tensors = {name: torch.zeros_like(tensor) for name, tensor in self._averaged()}

    def _averaged(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in (*self._network.named_parameters(), *self._network.named_buffers()):
            if tensor.is_floating_point():
                yield name, tensor.detach()

    @torch.no_grad()
    def _blend(self, weight: float) -> None:
        if not self.tensors:
            self.tensors = {name: tensor.clone() for name, tensor in self._averaged()}
        else:
            for name, tensor in self._averaged():
                self.tensors[name].lerp_(tensor, weight)
        self.count += 1

    @torch.no_grad()
    def _put(self, values: dict[str, Tensor]) -> None:
        for name, tensor in self._averaged():
            tensor.copy_(values[name])


def make_optimizer(network: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW; what has one dimension (biases, normalisation weights) is not decayed, maps of biases by cell are."""
    decayed = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    free = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=settings.learning_rate)


def learning_rate(step: int, steps: int, training: TrainingSettings, halvings: int = 0) -> float:
    """Linear warm-up, then half a cosine down to the final rate; or halves of the peak, never below the final rate.

    Args:
        step: Zero for the first.
        steps: Of the whole training.
        training: Its schedule, with the peak, the end and the warm-up of its optimiser.
        halvings: How often validations have come to a plateau.
    """
    settings, waits = training.optimizer, training.schedule == "plateau"
    lowered = HALVED**halvings if waits else 1.0
    if step < settings.warmup_steps:
        return lowered * settings.learning_rate * (step + 1) / settings.warmup_steps
    if waits:
        return max(lowered * settings.learning_rate, settings.final_learning_rate)
    done = (step - settings.warmup_steps) / max(1, steps - 1 - settings.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
    return settings.final_learning_rate + (settings.learning_rate - settings.final_learning_rate) * cosine
