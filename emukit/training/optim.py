"""The optimiser and its schedule.

Invariant: the learning rate is a function of the step alone, so a resumed run needs no schedule state.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from emukit.training.settings import OptimizerSettings


def make_optimizer(network: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW; what has one dimension (biases, normalisation weights) is not decayed, maps of biases by cell are."""
    decayed = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    free = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=settings.learning_rate)


def learning_rate(step: int, steps: int, settings: OptimizerSettings) -> float:
    """Linear warm-up, then half a cosine down to the final rate.

    Args:
        step: Zero for the first.
        steps: Of the whole training.
        settings: Peak, end and length of the warm-up.
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, steps - 1 - settings.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
    return settings.final_learning_rate + (settings.learning_rate - settings.final_learning_rate) * cosine


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate
