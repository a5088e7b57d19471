"""Exact tools for problems small enough to be solved completely: logistic loss with its derivatives, exhaustive searches.

In every function z holds y_i * x_i, one sample per row, shape (N, n) or (..., N, n): the logistic loss needs nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from quantized_training.levels import Levels


def _margins(w: Tensor, z: Tensor) -> Tensor:
    return (w.unsqueeze(-2) @ z.mT).squeeze(-2)


def logistic_loss(w: Tensor, z: Tensor) -> Tensor:
    """Mean of log(1 + exp(-y_i x_i'w)), the empirical risk (7) of logistic regression; w (..., n) gives shape (...)."""
    return torch.nn.functional.softplus(-_margins(w, z)).mean(-1)


def logistic_gradient(w: Tensor, z: Tensor) -> Tensor:
    """Gradient of `logistic_loss` in w, of w's shape (..., n)."""
    pull = torch.sigmoid(-_margins(w, z))
    return -(pull.unsqueeze(-2) @ z).squeeze(-2) / z.shape[-2]


def logistic_hessian(w: Tensor, z: Tensor) -> Tensor:
    """Hessian X'SX/N of `logistic_loss`, shape (..., n, n), with S the diagonal of sigma'(x_i'w) <= 1/4."""
    m = _margins(w, z)
    s = torch.sigmoid(m) * torch.sigmoid(-m)
    return (z.mT * s.unsqueeze(-2)) @ z / z.shape[-2]


def logistic_smoothness(z: Tensor) -> Tensor:
    """The constant L of (12) for `logistic_loss`: lambda_max(Z'Z)/(4N), shape (...). It is the Hessian's norm at w = 0."""
    return torch.linalg.eigvalsh(z.mT @ z)[..., -1] / (4 * z.shape[-2])


def logistic_minimiser(z: Tensor, steps: int = 50, tolerance: float = 1e-12) -> Tensor:
    """The w that minimises `logistic_loss`, shape (n,), by Newton's method with halved steps; z (N, n).

    Raises ValueError where a hyperplane separates the two classes, because then the loss has no minimiser, and where the
    gradient is not below `tolerance` after `steps` steps.
    """
    w = z.new_zeros(z.shape[-1])
    for _ in range(steps):
        gradient = logistic_gradient(w, z)
        if gradient.norm() < tolerance or (_margins(w, z) > 0).all():
            break
        newton, scale = torch.linalg.lstsq(logistic_hessian(w, z), gradient).solution, 1.0
        while scale > 1e-6 and logistic_loss(w - scale * newton, z) > logistic_loss(w, z) + 1e-15:
            scale /= 2
        w = w - scale * newton
    if (_margins(w, z) > 0).all():
        raise ValueError(
            "no minimiser: a hyperplane separates the classes, and the logistic loss falls towards 0 at infinity"
        )
    if (size := logistic_gradient(w, z).norm()) >= tolerance:
        raise ValueError(
            f"no minimiser found: the gradient is {size:.1e} after {steps} Newton steps, not below {tolerance:g}"
        )
    return w


def best_vector(loss: Callable[[Tensor], Tensor], levels: Levels, n: int, chunk: int = 1 << 14) -> tuple[Tensor, float]:
    """The solution of (P1) by trying every admissible vector: that vector, shape (n,) in float64, and its loss.

    loss: (m, n) -> (m,). Of equally good vectors the first in the order of `Levels.vectors`, whose limit on K^n applies.
    """
    vectors = levels.vectors(n, dtype=torch.float64)
    losses = torch.cat([loss(part) for part in vectors.split(chunk)])
    best = losses.argmin()
    return vectors[best], losses[best].item()


def best_clustering(points: Tensor, k: int) -> tuple[Tensor, float]:
    """The solution of (8), repaired, by trying every assignment of the points (N, d) to k clusters.

    Returns the cluster index of each point, shape (N,), and the sum of squared distances to the cluster means. Raises
    ValueError for k < 2 and where k^N assignments are too many for `Levels.vectors`.
    """
    if k < 2:
        raise ValueError(f"k={k}: allowed are 2, 3, ... clusters")
    assignments = Levels(tuple(range(k))).vectors(len(points), dtype=torch.float64)
    centred = points.double() - points.double().mean(0)  # the objective is a difference: keep the numbers small
    total = centred.square().sum().expand(len(assignments)).clone()
    for cluster in range(k):
        inside = (assignments == cluster).double()
        total -= (inside @ centred).square().sum(1) / inside.sum(1).clamp_min(1)
    best = total.argmin()
    return assignments[best].long(), total[best].item()
