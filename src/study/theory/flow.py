"""The push of ASkewSGD by itself, without a loss: in steps, and in continuous time, dw/dt = -alpha g(w)/g'(w), their limit."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from quantized_training.constraints import PSI, Constraint, _geometry
from quantized_training.levels import Levels

from .convergence import Rule


def push_flow(
    start: Tensor, times: Tensor, levels: Levels, epsilon: float, alpha: float, constraint: Constraint = PSI
) -> Tensor:
    """Weights at `times`, shape (*times.shape, *start.shape), of the flow that starts at `start`; feasible ones stay.

    Along it the chain rule gives d/dt g = -alpha g, so g decays as exp(-alpha t) (paper, below equation (21)). A weight with
    g = -v lies on an edge of the feasible set of the larger tolerance epsilon + v, which gives its place in closed form:
    (h^2 - u^2)^2 = epsilon + v inside a gap and (w - q)^2 = epsilon + v outside for psi (19); the same without the
    squares for phi (22). A midpoint, where the push has no direction, goes right as in `skewed_velocity`.
    Raises ValueError for a negative time and for alpha <= 0.
    """
    if not alpha > 0:
        raise ValueError(f"alpha={alpha}: the strength of the push must be positive")
    if (times < 0).any():
        raise ValueError(f"times must not be negative, got {times.min().item():g}")
    u, h, beyond = _geometry(start, levels)
    violation = (-constraint.value(start, levels, epsilon)).clamp_min(0)
    grown = epsilon + violation * torch.exp(-alpha * times.reshape(*times.shape, *[1] * start.ndim))
    reach = grown ** (1 / constraint.degree)
    inside = (h * h - reach).clamp_min(0).sqrt()
    outer = start - beyond + beyond.sign() * reach
    moved = torch.where(beyond == 0, start - u + torch.where(u < 0, -inside, inside), outer)
    return torch.where(violation > 0, moved, start)


def walk(start: Tensor, gammas: Iterable[float], rule: Rule, gradients: Tensor | None = None) -> Tensor:
    """w_(k+1) = w_k + gamma_k v_k under given gradients (K, *start.shape): the weights at steps 0 .. K, shape (K + 1, ...).

    Without gradients they are 0, and the push acts alone.
    """
    path, zero = [start], torch.zeros_like(start)
    for k, gamma in enumerate(gammas):
        path.append(path[-1] + gamma * rule(zero if gradients is None else gradients[k], path[-1], k))
    return torch.stack(path)
