"""What Theorem 3′ speaks of, computable: boxes, the prox point, its residual. Every function takes any leading shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .constraints import Constraint
from .levels import Levels


@dataclass(frozen=True)
class Loss:
    """A loss on R^n. value: (..., n) -> (...); gradient: (..., n) -> (..., n); smoothness: a Lipschitz constant of it."""

    value: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor], Tensor]
    smoothness: float


def sines(n: int, terms: int, seed: int) -> Loss:
    """A random sum of `terms` sines of random linear functions of n weights: smooth, bounded, not convex."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(terms, generator=generator, dtype=torch.float64)
    A = torch.randn(terms, n, generator=generator, dtype=torch.float64) / n**0.5
    p = 6.3 * torch.rand(terms, generator=generator, dtype=torch.float64)
    smoothness = (torch.linalg.matrix_norm(A, 2) ** 2 * a.abs().max()).item()  # of A' diag(a sin) A
    return Loss(lambda w: torch.sin(w @ A.T + p) @ a, lambda w: (torch.cos(w @ A.T + p) * a) @ A, smoothness)


def quadratic(H: Tensor, b: Tensor) -> Loss:
    """w'Hw/2 - b'w with a symmetric H (n, n), positive definite or not, and b (n,)."""
    smoothness = torch.linalg.matrix_norm(H, 2).item()
    return Loss(lambda w: ((w @ H) * w).sum(-1) / 2 - w @ b, lambda w: w @ H - b, smoothness)


def boxes(w: Tensor, levels: Levels, epsilon: float, constraint: Constraint) -> tuple[Tensor, Tensor]:
    """Lower and upper edges, of w's shape, of the feasible interval in each weight's rounding cell.

    Raises ValueError unless 0 < epsilon < constraint.largest_epsilon(levels).
    """
    constraint.check_epsilon(epsilon, levels)
    edges = torch.tensor(constraint.feasible_intervals(levels, epsilon), dtype=w.dtype)
    return edges[levels.cell(w)].unbind(-1)


def prox_point(w: Tensor, loss: Loss, low: Tensor, high: Tensor, iterations: int = 60) -> Tensor:
    """ẑ(w), the minimiser of ℓ(z) + L |z - w|² over the box [low, high]: the fixed point of z = Π(w - ∇ℓ(z) / 2L).

    That map contracts with the factor 1/2, so the error is at most 2^-iterations times the first step.
    """
    z = torch.clamp(w, low, high)
    for _ in range(iterations):
        z = torch.clamp(w - loss.gradient(z) / (2 * loss.smoothness), low, high)
    return z


def envelope(w: Tensor, loss: Loss, low: Tensor, high: Tensor) -> Tensor:
    """F(w) = min over the box of ℓ(z) + L |z - w|²: shape (...) for w of shape (..., n)."""
    z = prox_point(w, loss, low, high)
    return loss.value(z) + loss.smoothness * ((z - w) ** 2).sum(-1)


def kkt_residual(w: Tensor, loss: Loss, low: Tensor, high: Tensor) -> Tensor:
    """|p - Π(p - ∇ℓ(p))| at p = Π(w), 0 exactly where p is a Karush–Kuhn–Tucker point of the box: shape (...)."""
    p = torch.clamp(w, low, high)
    return (p - torch.clamp(p - loss.gradient(p), low, high)).norm(dim=-1)
