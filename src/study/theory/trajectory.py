"""A run recorded step by step, for problems small enough to be looked at."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from quantized_training.methods.base import Method
from quantized_training.optimizer import QuantizedOptimizer
from quantized_training.schedules import Schedule, as_schedule


def trajectory(
    method: Method, start: Tensor, loss: Callable[[Tensor, int], Tensor], steps: int, lr: float | Schedule
) -> tuple[Tensor, Tensor]:
    """Latent weights and forward points at steps 0 .. `steps` of plain SGD, each of shape (steps + 1, *start.shape).

    loss: (w, k) -> the loss at step k, one number or one per independent problem (they are summed for the gradient).
    lr: one number, or k -> the step size at step k. The method is annealed once per step.
    """
    w = torch.nn.Parameter(start.clone())
    rate = as_schedule(lr)
    optimizer = QuantizedOptimizer(torch.optim.SGD([w], lr=rate(0)), method)
    latent, used = [], []
    for k in range(steps + 1):
        used.append(w.detach().clone())
        with optimizer.latent():
            latent.append(w.detach().clone())
        if k == steps:
            break
        optimizer.param_groups[0]["lr"] = rate(k)
        optimizer.zero_grad()
        loss(w, k).sum().backward()
        optimizer.step()
        method.anneal()
    return torch.stack(latent), torch.stack(used)
