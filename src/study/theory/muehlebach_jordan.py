"""Muehlebach and Jordan's iteration for min loss(w) s.t. g(w) >= 0: paper, section 3.2, (P2), (17), (18), Lemma 3.

numpy, one point of n weights at a time; d constraints, feasible means g >= 0. ASkewSGD's coordinate-wise special case for
tensors is `methods.askew.skewed_velocity`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize, nnls

from quantized_training.schedules import Schedule, as_schedule

Array = np.ndarray
EMPTY = 1e-12  # squared residual of the least squares problem below which V_alpha counts as empty


@dataclass(frozen=True)
class Problem:
    """(P2) as functions of a point w of shape (n,): loss -> number, grad -> (n,), g -> (d,), jacobian of g -> (d, n)."""

    loss: Callable[[Array], float]
    grad: Callable[[Array], Array]
    g: Callable[[Array], Array]
    jacobian: Callable[[Array], Array]


def quadratic(hessian: ArrayLike, lowest: ArrayLike) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """Loss and gradient of (w - lowest)' hessian (w - lowest) / 2; the loss takes arrays (..., n) of points."""
    hessian, lowest = np.asarray(hessian, dtype=float), np.asarray(lowest, dtype=float)
    return (
        lambda w: np.einsum("...i,ij,...j->...", w - lowest, hessian, w - lowest) / 2,
        lambda w: hessian @ (w - lowest),
    )


def cut(polygon: ArrayLike, halfplanes: Iterable[tuple[Array, float]]) -> Array:
    """The part of a convex polygon (N, 2) where a @ z >= b for all (a, b), by Sutherland and Hodgman: corners (M, 2)."""
    corners = list(np.asarray(polygon, dtype=float))
    for a, b in halfplanes:
        kept = []
        for p, q in zip(corners, corners[1:] + corners[:1], strict=True):
            s, t = a @ p - b, a @ q - b
            kept += [p] if s >= 0 else []
            kept += [p + s / (s - t) * (q - p)] if s * t < 0 else []
        corners = kept
    return np.array(corners).reshape(-1, 2)


def admissible_velocity(
    grad: ArrayLike, g: ArrayLike, jacobian: ArrayLike, alpha: float, tolerance: float = 0.0
) -> tuple[Array, Array]:
    """(17): the velocity v (n,) nearest to -grad with grad g_i' v >= -alpha g_i for i in I = {i : g_i <= 0}, and its
    multipliers (d,), zero outside I: v = -grad + jacobian' multipliers.

    grad (n,), g (d,), jacobian (d, n). tolerance: I = {i : g_i <= tolerance} instead, against rounding; with math.inf all
    rows constrain, as (18) is printed.
    Lawson and Hanson's least distance programming: with x = v + grad, min |x| s.t. A x >= b is one non-negative least
    squares problem, min |(A', b') u - (0, 1)| over u >= 0, whose squared residual is 1 / (1 + |x|^2).
    Raises ValueError for shapes that do not fit, for alpha <= 0, and where V_alpha is empty (residual 0).
    """
    grad, g, jacobian = (np.asarray(a, dtype=float) for a in (grad, g, jacobian))
    if grad.ndim != 1 or g.ndim != 1 or jacobian.shape != (g.size, grad.size):
        raise ValueError(f"shapes {grad.shape}, {g.shape}, {jacobian.shape}: allowed are (n,), (d,), (d, n)")
    if not (alpha > 0 and math.isfinite(alpha)):
        raise ValueError(f"alpha={alpha}: it must be a positive finite number")
    inside = g <= tolerance
    rows = jacobian[inside]
    b = rows @ grad - alpha * g[inside]
    multipliers = np.zeros_like(g)
    if not (b > 0).any():
        return -grad, multipliers
    length = np.linalg.norm(rows, axis=1)
    length[length == 0] = 1.0  # such a row asks for 0 >= b
    rows, b = rows / length[:, None], b / length
    scale = b.max()
    u, residual = nnls(np.vstack([rows.T, b / scale]), np.append(np.zeros(grad.size), 1.0))
    if residual**2 < EMPTY:
        raise ValueError(
            f"V_alpha is empty: no velocity satisfies the constraints {np.flatnonzero(inside).tolist()} at once, so the "
            "Mangasarian-Fromovitz constraint qualification fails at this point"
        )
    multipliers[inside] = u * (scale / residual**2) / length
    if residual**2 < 1e-4:  # long x: solve once more for it, as equations
        binding = np.flatnonzero(inside)[u > 0]
        x = np.linalg.lstsq(rows[u > 0], b[u > 0], rcond=None)[0]
        multipliers[binding] = np.linalg.lstsq(jacobian[binding].T, x, rcond=None)[0]
    return jacobian.T @ multipliers - grad, multipliers


def dual_value(multipliers: Array, grad: Array, g: Array, jacobian: Array, alpha: float) -> float:
    """(23) with its slips corrected: the lower bound on |v + grad|^2 / 2 over V_alpha that the multipliers give.

    -|jacobian' lam - grad|^2 / 2 - alpha lam' g + |grad|^2 / 2, for lam >= 0 with lam_i = 0 outside I.
    """
    v = jacobian.T @ multipliers - grad
    return float(grad @ grad / 2 - v @ v / 2 - alpha * multipliers @ g)


def iterate(
    problem: Problem, start: ArrayLike, steps: int, lr: float | Schedule, alpha: float, tolerance: float = 0.0
) -> tuple[Array, Array]:
    """The iteration (17), w_{k+1} = w_k + lr_k v_k: points (steps + 1, n) and the velocities at all of them."""
    lr, w = as_schedule(lr), np.asarray(start, dtype=float)
    points, velocities = [], []
    for k in range(steps + 1):
        v, _ = admissible_velocity(problem.grad(w), problem.g(w), problem.jacobian(w), alpha, tolerance)
        points.append(w)
        velocities.append(v)
        w = w + lr(k) * v
    return np.array(points), np.array(velocities)


def project(problem: Problem, point: ArrayLike) -> Array:
    """A feasible point nearest to `point`, by scipy's SLSQP (about 8 digits); on a set that is not convex it may be only
    locally nearest. Raises RuntimeError where SLSQP gives up.
    """
    point = np.asarray(point, dtype=float)
    if (problem.g(point) >= 0).all():
        return point
    result = minimize(
        lambda w: ((w - point) @ (w - point)) / 2,
        point,
        jac=lambda w: w - point,
        method="SLSQP",
        constraints={"type": "ineq", "fun": problem.g, "jac": problem.jacobian},
        options={"ftol": 1e-8},
    )
    if not result.success:
        raise RuntimeError(f"no projection of {point}: {result.message}")
    return result.x


def projected_gradient(
    problem: Problem, start: ArrayLike, steps: int, lr: float, project: Callable[[Problem, Array], Array] = project
) -> Array:
    """w_{k+1} = projection of w_k - lr grad(w_k) on the feasible set: points of shape (steps + 1, n), w_0 projected too."""
    points = [project(problem, np.asarray(start, dtype=float))]
    for _ in range(steps):
        points.append(project(problem, points[-1] - lr * problem.grad(points[-1])))
    return np.array(points)


def linear_rate(hessian: ArrayLike, active: ArrayLike, alpha: float, lr: float) -> float:
    """Predicted factor per step of (17) near a solution: max |1 - lr alpha| and |1 - lr tau| over the eigenvalues tau of
    the Lagrangian's hessian (n, n) on the kernel of `active` (m, n), the linearly independent gradients of the m >= 1
    active constraints.
    """
    active = np.asarray(active, dtype=float)
    tangent = np.linalg.svd(active)[2][len(active) :]  # rows: an orthonormal basis of the kernel
    values = np.linalg.eigvalsh(tangent @ np.asarray(hessian) @ tangent.T)
    return float(max(abs(1 - lr * np.append(values, alpha))))
