"""Where the rate of the iteration (17) is measured: quadratics in six dimensions over half-spaces, a ball, or both."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from .muehlebach_jordan import Array, Problem, admissible_velocity, iterate, linear_rate, quadratic

N = 6
SETS = {"two half-spaces": (2, False), "ball": (0, True), "ball and half-space": (1, True)}  # half-spaces; a ball?
TOLERANCE = 1e-9  # in the index set, against rounding


@dataclass(frozen=True)
class Instance:
    """A problem with the step size used on it, its solution (n,) and multipliers (d,), the Lagrangian's Hessian there and
    the gradients (m, n) of the active constraints."""

    problem: Problem
    lr: float
    solution: Array
    multipliers: Array
    hessian: Array
    active: Array

    def predicted(self, product: float) -> float:
        """`linear_rate` for alpha lr = product."""
        return linear_rate(self.hessian, self.active, product / self.lr, self.lr)

    def measured(self, product: float) -> float:
        """Factor per step from the start 0: the slope of the log distance from 1e-6 to 1e-11; nan where that is not reached."""
        steps = min(4000, 150 + math.ceil(math.log(1e-12) / math.log(self.predicted(product))))
        points, _ = iterate(self.problem, np.zeros(N), steps, self.lr, product / self.lr, TOLERANCE)
        distance = np.linalg.norm(points - self.solution, axis=1)
        k = np.arange(np.argmax(distance < 1e-6), np.argmax(distance < 1e-11))
        return math.exp(np.polyfit(k, np.log(distance[k]), 1)[0]) if len(k) > 3 else math.nan


@cache
def instance(kind: str, kappa: float, seed: int) -> Instance:
    """A random quadratic with eigenvalues from 1/kappa to 1 and its minimum at distance 3, over the set `kind` of SETS."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(N, N)))[0]
    hessian = basis @ np.diag(np.geomspace(1 / kappa, 1, N)) @ basis.T
    lowest = rng.normal(size=N)
    lowest *= 3 / np.linalg.norm(lowest)
    flat, ball = SETS[kind]
    normals = rng.normal(size=(max(flat, 1), N))[:flat]
    normals *= np.sign(normals @ lowest)[:, None] / np.linalg.norm(normals, axis=1, keepdims=True)
    reach, lr = 0.5 * np.minimum(normals @ lowest, 1), 0.25 if ball else 1.0
    problem = Problem(
        *quadratic(hessian, lowest),
        lambda w: np.append(reach - normals @ w, (1 - w @ w) / 2 if ball else []),
        lambda w: np.concatenate([-normals] + [-w[None]] * ball),
    )
    w, v = iterate(problem, np.zeros(N), 2000, lr, 0.3 / lr, TOLERANCE)
    solution = w[np.linalg.norm(v, axis=1).argmin()]
    g, jacobian = problem.g(solution), problem.jacobian(solution)
    multipliers = admissible_velocity(problem.grad(solution), np.where(np.abs(g) < 1e-8, 0.0, g), jacobian, 1.0)[1]
    curved = multipliers[-1] if ball else 0.0
    return Instance(problem, lr, solution, multipliers, hessian + curved * np.eye(N), jacobian[multipliers > 1e-8])
