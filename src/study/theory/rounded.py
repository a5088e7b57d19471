"""The mean loss of a randomly rounded network, exactly: all 2^n sign vectors of n weights are looked at.

F(x) = E f(W), the W_i = -1, +1 independent with the means x_i: the multilinear extension of f. A function f of sign vectors is
its table of values (..., 2^n) at the rows of `corners(n)`, a gradient at sign vectors a table (..., 2^n, n).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from quantized_training.levels import Levels

from .convergence import Loss, prox_point


def corners(n: int) -> Tensor:
    """All sign vectors (2^n, n), in lexicographic order."""
    return Levels.binary().vectors(n, torch.float64)


def flipped(n: int) -> Tensor:
    """Which row of `corners(n)` each one is after its i-th sign has been turned: (2^n, n)."""
    return torch.arange(2**n)[:, None] ^ 2 ** torch.arange(n - 1, -1, -1)


def chances(x: Tensor) -> Tensor:
    """The probability of each sign vector under the means x (..., n) in [-1, 1]: (..., 2^n)."""
    return ((1 + corners(x.shape[-1]) * x.unsqueeze(-2)) / 2).prod(-1)


def extension(table: Tensor, x: Tensor) -> Tensor:
    """F(x), (...): the mean of f with `table` (..., 2^n) under the means x (..., n)."""
    return (chances(x) * table).sum(-1)


def differences(table: Tensor) -> Tensor:
    """(f with W_i = +1 minus f with W_i = -1) / 2 at each sign vector, whatever its own W_i: (..., 2^n, n)."""
    n = int(math.log2(table.shape[-1]))
    return corners(n) * (table.unsqueeze(-1) - table[..., flipped(n)]) / 2


def field(gradients: Tensor, x: Tensor) -> Tensor:
    """The mean of a vector with a table (..., 2^n, n) under the means x (..., n): (..., n). Of `differences` it is the gradient
    of F, of the loss's gradients what stochastic BinaryConnect descends along."""
    return (chances(x).unsqueeze(-2) @ gradients).squeeze(-2)


def debiased(gradients: Tensor) -> Tensor:
    """The table whose `field` debiased BinaryConnect descends along, (..., 2^n, n): d_i of the loss, averaged over W_i = -1, +1."""
    index = flipped(gradients.shape[-1])
    return (gradients + gradients.gather(-2, index.expand(gradients.shape))) / 2


def spread_of(values: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (..., n) and total variance (...) of an estimate with the values (..., 2^n, n) at the signs drawn with the means x."""
    mean = field(values, x)
    return mean, (field(values**2, x) - mean**2).sum(-1)


def single_flip_minima(table: Tensor) -> Tensor:
    """Which sign vectors no turn of one sign improves: (..., 2^n), true or false."""
    n = int(math.log2(table.shape[-1]))
    return (table.unsqueeze(-1) <= table[..., flipped(n)]).all(-1)


def round_by_means(mean: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Signs (..., n) whose f is at most F(x): weight after weight the sign with the smaller mean (conditional expectations).

    mean: x (..., n) -> F(x) (...); asked 2n times. So this is no way to finish a large network, where F itself is a sample.
    """
    x = x.clone()
    for i in range(x.shape[-1]):
        low, high = x.clone(), x.clone()
        low[..., i], high[..., i] = -1, 1
        x[..., i] = torch.where(mean(low) < mean(high), -1.0, 1.0)
    return x


def loss_of(table: Tensor) -> Loss:
    """F on the cube as a loss with its smoothness there: the entries of its Hessian are multilinear and the largest singular
    value is convex, so that no point has a larger one than the worst corner. table: (2^n,)."""
    first = differences(table)
    second = differences(first.mT)  # (n, 2^n, n)
    smoothness = torch.linalg.matrix_norm(second.transpose(0, 1), 2).max().item()
    return Loss(lambda x: extension(table, x), lambda x: field(first, x), smoothness, first.abs().max().item())


def one_coordinate(table: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
    """An unbiased estimate of the gradient of F from two values of f: n times the difference by one weight, drawn like the
    others' signs. x: (S, n); (S, n)."""
    seeds, n = x.shape
    W = torch.where(torch.rand(seeds, n, generator=generator, dtype=x.dtype) < (1 + x) / 2, 1, 0)
    row = (W * 2 ** torch.arange(n - 1, -1, -1)).sum(-1)
    i = torch.randint(n, (seeds,), generator=generator)
    g = torch.zeros_like(x)
    g[torch.arange(seeds), i] = n * differences(table)[row, i]
    return g


def descend(
    loss: Loss, estimate: Callable[[Tensor], Tensor], start: Tensor, gammas: Tensor, reach: float = 1.0
) -> tuple[Tensor, Tensor]:
    """x_(k+1) = x_k - gamma_k estimate(x_k), clipped to [-reach, reach]: the last x (S, n), and h^2 of x_0 .. x_(K-1), (K, S),
    the squared distance to the prox point, which is found by three iterations from the last one. start: (S, n), gammas: (K,)."""
    low, high = (torch.full_like(start, end) for end in (-reach, reach))
    x = z = start.clamp(-reach, reach)
    squares = []
    for gamma in gammas:
        z = prox_point(x, loss, low, high, 3, z)
        squares.append(((x - z) ** 2).sum(-1))
        x = (x - gamma * estimate(x)).clamp(-reach, reach)
    return x, torch.stack(squares)


def mean_residual_bound(start: Tensor, table: Tensor, loss: Loss, gammas: Tensor, V: float) -> Tensor:
    """Theorem 4 without bias: the mean of h^2 over steps 0 .. T - 1, weighted by gamma, for T = 1 .. K is at most this (K,), where
    V bounds the second moment of the estimate. start: (S, n), of one table (2^n,)."""
    gap = extension(table, start).mean() - table.min()
    L = loss.smoothness
    return (gap + L * V * (gammas**2).cumsum(0)) / (2 * L**2 * gammas.cumsum(0))
