"""Exact tools for problems small enough to be solved completely: logistic loss with its derivatives, exhaustive searches.

In every function z holds y_i * x_i, one sample per row, shape (N, n) or (..., N, n): the logistic loss needs nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from quantized_training.levels import Levels
from quantized_training.schedules import Schedule

Update = Callable[[Tensor, int], Tensor]  # (weights, step number) -> the next weights


def kbit_round(u: Tensor, bits: int) -> Tensor:
    """Equation (5) with its offset repaired: u in [0, 1] to the integers -2^(bits-1) .. 2^(bits-1) - 1, ties upwards.
    Printed is round((2^k - 1) u) - (2^(k-1) - 1), whose range -7 .. 8 (k = 4) contradicts the interval of section 6."""
    return torch.floor((2**bits - 1) * u + 0.5) - 2 ** (bits - 1)


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


def walk(start: Tensor, update: Update, steps: int) -> Tensor:
    """The points start, update(start, 0), ...: shape (steps + 1, *start.shape)."""
    path = [start]
    for k in range(steps):
        path.append(update(path[-1], k))
    return torch.stack(path)


def descent(z: Tensor, gamma: float | Tensor) -> Update:
    """A step of gradient descent on `logistic_loss`; gamma: one, or one for each of several points, shape (..., 1)."""
    return lambda w, k: w - gamma * logistic_gradient(w, z)


def newton(z: Tensor) -> Update:
    """A full step of Newton's method on `logistic_loss`."""
    return lambda w, k: w - torch.linalg.solve(logistic_hessian(w, z), logistic_gradient(w, z))


def stochastic(z: Tensor, schedule: Schedule, batch: int, seed: int) -> Update:
    """A step of stochastic gradient descent for several runs at once, w (runs, n): mini-batches with replacement, one for
    each run and step."""
    generator = torch.Generator().manual_seed(seed)

    def update(w: Tensor, k: int) -> Tensor:
        chosen = torch.randint(len(z), (len(w), batch), generator=generator)
        return w - schedule(k) * logistic_gradient(w, z[chosen])

    return update


def descent_outcome(gamma: Tensor, z: Tensor, start: Tensor, least: float, steps: int) -> tuple[Tensor, Tensor]:
    """Gradient descent from the starts (m, n) with step sizes gamma (m,): does the loss never rise, and does it end at its
    minimum `least`? Two boolean tensors (m,)."""
    losses = logistic_loss(walk(start, descent(z, gamma[:, None]), steps), z)
    return (losses.diff(dim=0) <= 1e-13).all(0), losses[-1] - least < 1e-6


def bisect(good: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, rounds: int = 9) -> Tensor:
    """Where `good` (m,) -> booleans (m,) changes from true to false between low and high (m,)."""
    for _ in range(rounds):
        middle = (low + high) / 2
        fine = good(middle)
        low, high = torch.where(fine, middle, low), torch.where(fine, high, middle)
    return (low + high) / 2


def least_imbalance(numbers: Sequence[int]) -> int:
    """Smallest difference between the sums of two groups of the numbers, from the set of sums that can be reached."""
    sums = {0}
    for a in numbers:
        sums |= {s + a for s in sums}
    return min(abs(sum(numbers) - 2 * s) for s in sums)


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
