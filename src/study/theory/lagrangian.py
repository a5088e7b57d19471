"""The Lagrangian of section 5, L(w, lambda) = loss(w) - lambda' f(w) with the pieces f_1 .. f_(K+1) of phi (22) for each weight.

Small tools to look at it: its maximum over lambda (Lemma 1), Moreau envelopes (Definition 7), a measure of how far a point is
from a KKT point (21), descent ascent for many runs at once (Algorithm 2), the eigenvalues of a step, and the dual problem on a grid.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import torch
from scipy.optimize import linprog
from torch import Tensor

from quantized_training.constraints import PHI
from quantized_training.levels import Levels

from .convergence import boxes


def primal_function(
    loss: Tensor, w: Tensor, levels: Levels, epsilon: float, bound: float, ball: bool = False
) -> Tensor:
    """Phi(w) = max of L(w, lambda) over a bounded set of multipliers: (...,) from loss (...,) and w (..., n).

    The set is the box [0, bound]^(K+1) for each weight, so that Phi = loss + bound * |phi^-|_1, or with `ball` the part
    lambda >= 0 of the Euclidean ball of radius `bound` around 0, so that Phi = loss + bound * |phi^-|_2 (section 5, Lemma 1).
    Both because at most one piece of a weight is negative, and the smallest piece is phi. Raises ValueError for bound < 0.
    """
    if not bound >= 0:
        raise ValueError(
            f"bound={bound}: the set of multipliers needs a bound >= 0 (math.inf gives the indicator of C)"
        )
    violation = (-PHI.value(w, levels, epsilon)).clamp_min(0)
    size = torch.linalg.vector_norm(violation, ord=2 if ball else 1, dim=-1)
    return loss + torch.where(size > 0, bound * size, 0)  # inf * 0 = 0: no price where nothing is violated


def moreau_envelope(values: Tensor, grid: Tensor, parameter: float) -> tuple[Tensor, Tensor]:
    """Definition 7, corrected: min_v f(v) + |v - x|^2 / (2 parameter) at every x of the grid, and the index of the minimiser.

    values: f on the grid, (N,); the minimum is taken over the grid. The paper prints 1/2 for 1/(2 parameter). Raises
    ValueError unless parameter > 0.
    """
    if not parameter > 0:
        raise ValueError(f"parameter={parameter}: the parameter of a Moreau envelope is positive")
    return (values + (grid - grid[:, None]) ** 2 / (2 * parameter)).min(dim=1)


def kkt_residual(w: Tensor, grad: Tensor, levels: Levels, epsilon: float) -> Tensor:
    """|w - P(w - grad)| weight by weight, P the projection on the feasible interval of (22) in the weight's cell: w's shape.

    Zero exactly at the KKT points (21): w feasible and -grad in the normal cone. At a feasible w it is the distance of 0 from
    grad + N_C, capped by the room that is left up to the edge ahead; at an infeasible w it is at least the distance to the
    interval. So it counts both and is continuous in the cell, unlike the uncapped distance, which jumps to 0 on an edge.
    """
    low, high = boxes(w, levels, epsilon, PHI)
    return (w - (w - grad).clamp(low, high)).abs()


def pieces(w: Tensor, levels: Levels, epsilon: float) -> Tensor:
    """The smooth constraints f_1 .. f_(K+1) whose minimum is phi (paper, section 5): shape (K + 1, *w.shape).

    f_1 = eps - (q_1 - w),  f_j = eps - (q_(j-1) - w)(w - q_j) for j = 2..K,  f_(K+1) = eps - (w - q_K).
    """
    q = levels.values
    middle = [(w - a) * (w - b) + epsilon for a, b in zip(q, q[1:], strict=False)]
    return torch.stack([w + (epsilon - q[0]), *middle, (epsilon + q[-1]) - w])


def pieces_derivative(w: Tensor, levels: Levels) -> Tensor:
    """Derivatives of the pieces f_j, shape (K + 1, *w.shape); they do not depend on epsilon."""
    q = levels.values
    one = torch.ones_like(w)
    return torch.stack([one, *[2 * w - (a + b) for a, b in zip(q, q[1:], strict=False)], -one])


def tangent_pieces(w: Tensor, levels: Levels, epsilon: float) -> tuple[Tensor, Tensor]:
    """The pieces f_j continued by their tangent lines outside their own gap, and their derivatives: (K + 1, *w.shape) each.

    Same signs as `pieces`, so the same feasible set, but slopes bounded by the gaps: this makes L jointly smooth.
    """
    q = levels.values
    value, slope = [epsilon - (q[0] - w)], [torch.ones_like(w)]
    for a, b in zip(q, q[1:], strict=False):
        v = w.clamp(a, b)
        slope.append(2 * v - a - b)
        value.append(epsilon - (a - v) * (v - b) + slope[-1] * (w - v))
    return torch.stack([*value, epsilon - (w - q[-1])]), torch.stack([*slope, -torch.ones_like(w)])


def printed_pieces(w: Tensor, levels: Levels, epsilon: float) -> tuple[Tensor, Tensor]:
    """The pieces f_j as section 5 continues them, and their derivatives: (K + 1, *w.shape) each."""
    return pieces(w, levels, epsilon), pieces_derivative(w, levels)


def descent_ascent(
    grad: Callable[[Tensor, int], Tensor],
    w: Tensor,
    levels: Levels,
    epsilon: float,
    primal_lr: float | Tensor,
    dual_lr: float | Tensor,
    dual: Tensor | None = None,
    dual_max: float | Tensor = math.inf,
    alternating: bool = False,
    continuation: Callable = printed_pieces,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Algorithm 2 on any number of independent runs: yields (w, lambda) at k = 0, 1, 2, ... without end.

    grad: (w, k) -> gradient of the loss, w's shape. primal_lr, dual_lr, dual_max: numbers, or tensors that broadcast against w,
    so that a grid of step sizes is one program. dual: the first multipliers (K + 1, *w.shape), 0 by default; each is projected
    on [0, dual_max]. alternating: the ascent step sees the new w. continuation: `printed_pieces` or `tangent_pieces`.
    """
    dual = torch.zeros(len(levels.values) + 1, *w.shape, dtype=w.dtype) if dual is None else dual
    ceiling = torch.as_tensor(dual_max, dtype=w.dtype)
    for k in itertools.count():
        yield w, dual
        f, slope = continuation(w, levels, epsilon)
        w = w - primal_lr * (grad(w, k) - (dual * slope).sum(0))
        if alternating:
            f = continuation(w, levels, epsilon)[0]
        dual = torch.minimum((dual - dual_lr * f).clamp_min(0), ceiling)


def record(steps: int, every: int = 1, **settings) -> tuple[Tensor, Tensor]:
    """w (T, ...) and lambda (T, K + 1, ...) of `descent_ascent(**settings)` at k = 0, every, 2 every, ..., steps."""
    w, dual = zip(*itertools.islice(descent_ascent(**settings), 0, steps + 1, every), strict=True)
    return torch.stack(w), torch.stack(dual)


def kkt_pair(
    grad: Callable[[Tensor], Tensor], w: Tensor, levels: Levels, epsilon: float, lr: float, steps: int = 2000
) -> tuple[Tensor, Tensor]:
    """A KKT point of (21) in the cell of w, by projected descent on its box, and its multipliers (K + 1, *w.shape).

    grad: w -> gradient of the loss. For a convex loss, lr below 2 / its smoothness and enough steps: the minimiser over the box.
    """
    low, high = w.new_tensor(PHI.feasible_intervals(levels, epsilon))[levels.cell(w)].unbind(-1)
    for _ in range(steps):
        w = (w - lr * grad(w)).clamp(low, high)
    f, slopes = printed_pieces(w, levels, epsilon)
    return w, torch.where(f.abs() < 1e-9, grad(w) / slopes, 0)


def step_eigenvalues(grad: Callable[[Tensor, int], Tensor], w: Tensor, dual: Tensor, **settings) -> Tensor:
    """Eigenvalues of the derivative of one step of `descent_ascent` at (w, dual): w.numel() + dual.numel() of them, complex.

    settings: those of `descent_ascent`. At a KKT pair, which the step leaves in place, all absolute values below 1 mean that
    the iteration is drawn in, one above 1 that it is driven away. Multipliers held at 0 by their bound contribute zeros.
    """

    def step(z: Tensor) -> Tensor:
        start = {"w": z[: w.numel()].reshape(w.shape), "dual": z[w.numel() :].reshape(dual.shape)}
        _, after = itertools.islice(descent_ascent(grad, **start, **settings), 2)
        return torch.cat([part.flatten() for part in after])

    return torch.linalg.eigvals(torch.func.jacrev(step)(torch.cat([w.flatten(), dual.flatten()])))


def largest_stable(grad: Callable, w: Tensor, dual: Tensor, dual_steps: Tensor, **settings) -> float:
    """The largest of the increasing `dual_steps` up to which no eigenvalue of a step leaves the unit circle; nan where even the
    first is unstable.

    settings: of `step_eigenvalues`. By bisection: asks that larger dual steps stay unstable.
    """
    low, high = -1, len(dual_steps)
    while high - low > 1:
        middle = (low + high) // 2
        radius = step_eigenvalues(grad, w, dual, dual_lr=dual_steps[middle], **settings).abs().max()
        low, high = (middle, high) if radius < 1 else (low, middle)
    return dual_steps[low].item() if low >= 0 else math.nan


def dual_function(loss: Tensor, f: Tensor, dual: Tensor) -> tuple[Tensor, Tensor]:
    """d(lambda) = min_w L(w, lambda) over a grid of N candidates w, and the index of the minimiser: (...,) from dual (..., J).

    loss: (N,); f: the constraints at the candidates, (J, N). Concave in lambda, and -f at the minimiser is a supergradient.
    """
    return (loss - dual @ f).min(dim=-1)


def dual_optimum(loss: Tensor, f: Tensor) -> tuple[float, Tensor]:
    """max of `dual_function` over lambda >= 0, and the random weight that attains it: the probabilities of the candidates (N,).

    By duality of linear programmes: the least mean loss of a random candidate whose mean constraints are not negative.
    """
    ones, zeros = loss.new_ones(1, len(loss)).numpy(), loss.new_zeros(len(f)).numpy()
    found = linprog(loss.numpy(), A_ub=-f.numpy(), b_ub=zeros, A_eq=ones, b_eq=[1.0])
    return found.fun, torch.from_numpy(found.x)


def dual_ascent(loss: Tensor, f: Tensor, lr: Callable[[int], float], steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ascent on `dual_function` from 0 with steps lr(k): duals (steps, J), values (steps,), indices of the w's (steps,)."""
    dual, record = loss.new_zeros(len(f)), []
    for k in range(steps):
        value, index = dual_function(loss, f, dual)
        record.append((dual, value, index))
        dual = (dual - lr(k) * f[:, index]).clamp_min(0)
    return tuple(torch.stack(part) for part in zip(*record, strict=True))
