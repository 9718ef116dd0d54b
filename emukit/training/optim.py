"""The optimiser and its schedule.

Invariant: the learning rate is a function of the step, and of how often it was halved on a plateau, which the state of
the training holds; a resumed run needs nothing else.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from emukit.training.settings import OptimizerSettings, TrainingSettings

# Of PyTorch's ReduceLROnPlateau as IPSL-AID trains with it.
HALVED = 0.5


def make_optimizer(network: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW; what has one dimension (biases, normalisation weights) is not decayed, maps of biases by cell are."""
    decayed = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    free = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=settings.learning_rate)


def learning_rate(step: int, steps: int, training: TrainingSettings, halvings: int = 0) -> float:
    """Linear warm-up, then half a cosine down to the final rate, or halves of the peak, never below the final rate.

    Args:
        step: Zero for the first.
        steps: Of the whole training.
        training: Its schedule, with the peak, the end and the warm-up of its optimiser.
        halvings: How often validations have come to a plateau.
    """
    settings = training.optimizer
    lowered = HALVED**halvings if training.schedule == "plateau" else 1.0
    if step < settings.warmup_steps:
        return lowered * settings.learning_rate * (step + 1) / settings.warmup_steps
    if training.schedule == "plateau":
        return max(lowered * settings.learning_rate, settings.final_learning_rate)
    done = (step - settings.warmup_steps) / max(1, steps - 1 - settings.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
    return settings.final_learning_rate + (settings.learning_rate - settings.final_learning_rate) * cosine


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate
