"""What Theorem 3′ speaks of, computable: boxes, the prox point and its residual, simulations of (A4), and the theorem's bounds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .constraints import PHI, PSI, Constraint
from .levels import Levels
from .methods import skewed_velocity


@dataclass(frozen=True)
class Loss:
    """A loss on R^n. value: (..., n) -> (...); gradient: (..., n) -> (..., n); smoothness: a Lipschitz constant of it.

    steepness: no component of the gradient is larger anywhere. lowest: no value is smaller.
    """

    value: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor], Tensor]
    smoothness: float
    steepness: float = math.inf
    lowest: float = -math.inf


def sines(n: int, terms: int, seed: int) -> Loss:
    """A random sum of `terms` sines of random linear functions of n weights: smooth, bounded, not convex."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(terms, generator=generator, dtype=torch.float64)
    A = torch.randn(terms, n, generator=generator, dtype=torch.float64) / n**0.5
    p = 6.3 * torch.rand(terms, generator=generator, dtype=torch.float64)
    smoothness = (torch.linalg.matrix_norm(A, 2) ** 2 * a.abs().max()).item()  # of A' diag(a sin) A
    steepness = (a.abs() @ A.abs()).max().item()
    return Loss(
        lambda w: torch.sin(w @ A.T + p) @ a,
        lambda w: (torch.cos(w @ A.T + p) * a) @ A,
        smoothness,
        steepness,
        -a.abs().sum().item(),
    )


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


def prox_point(
    w: Tensor, loss: Loss, low: Tensor, high: Tensor, iterations: int = 60, start: Tensor | None = None
) -> Tensor:
    """ẑ(w), the minimiser of ℓ(z) + L |z - w|² over the box [low, high]: the fixed point of z = Π(w - ∇ℓ(z) / 2L).

    That map contracts with the factor 1/2, so each iteration halves the error of `start` (default: w's projection).
    """
    z = torch.clamp(w, low, high) if start is None else start
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


@dataclass(frozen=True)
class Rule:
    """The velocity of (A4), and what the theorem says of it; calling it with (G, w, k) gives the velocities at step k."""

    levels: Levels
    epsilon: float
    constraint: Constraint = PHI
    alpha: float = 1.0
    clip: float = 1.0  # M_c, of the push

    def __call__(self, G: Tensor, w: Tensor, k: int) -> Tensor:
        return skewed_velocity(G, w, self.levels, self.epsilon, self.alpha, self.constraint, self.clip)

    @property
    def kappa(self) -> float:
        """Least push per distance: alpha for (22), alpha/2 for (19)."""
        return self.alpha / 2 if self.constraint is PSI else self.alpha

    @property
    def e(self) -> float:
        """Smallest distance between a midpoint and a feasible interval."""
        return (min(self.levels.gaps) ** 2 / 4 - self.constraint.band(self.epsilon)) ** 0.5

    def boxes(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper edges of the boxes of w's cells, of w's shape."""
        return boxes(w, self.levels, self.epsilon, self.constraint)

    def distance(self, w: Tensor) -> Tensor:
        """Distance to the feasible set, (...) for w of shape (..., n): the interval of a weight's cell is the nearest one."""
        return (w - w.clamp(*self.boxes(w))).norm(dim=-1)


def printed_velocity(rule: Rule) -> Callable[[Tensor, Tensor, int], Tensor]:
    """The rule below (21) as printed, with its "> 0" and without a clip, in place of `rule`: a weight on an edge stands still."""

    def velocity(G: Tensor, w: Tensor, k: int) -> Tensor:
        g, slope = (f(w, rule.levels, rule.epsilon) for f in (rule.constraint.value, rule.constraint.derivative))
        free = (g > 0) | ((-slope * G >= -rule.alpha * g) & (g < 0))
        return torch.where(free, -G, -rule.alpha * g / slope)

    return velocity


@dataclass(frozen=True)
class Run:
    """What `simulate` recorded: R steps, of L laws of the step size and S seeds.

    steps: (R,). points: (R, L, S, n), the w_k of these steps. last_change: (L, S), the last k with cell(w_k) other than
    cell(w_(k-1)), 0 where there is none. gradient: the largest |G_k^i| seen. sums: (R, L, S), the sum of gamma_j h_j^2 over
    j < k, and residuals: (R, L, S), h_k; both None unless they were asked for.
    """

    steps: Tensor
    points: Tensor
    last_change: Tensor
    gradient: float
    sums: Tensor | None
    residuals: Tensor | None


def powers(laws: Sequence[tuple[float, float]], steps: int) -> Tensor:
    """Step sizes c (k + 1)^-p for each (c, p) of `laws`, k = 0 .. steps - 1: shape (steps, L)."""
    c, p = torch.tensor(laws, dtype=torch.float64).T
    return c * torch.arange(1, steps + 1, dtype=torch.float64)[:, None] ** -p


def recorded(steps: int, count: int = 60) -> Tensor:
    """About `count` different steps in 0 .. steps: 0, then evenly spread on a logarithmic scale."""
    return torch.cat([torch.zeros(1), torch.logspace(0, math.log10(steps), count).round()]).long().unique()


def coin(up: float, down: float, seed: int) -> Callable[[Tensor, int], Tensor]:
    """Noise of mean 0 with two values, +up or -down, independent for all weights and seeds; all laws are given the same."""
    generator = torch.Generator().manual_seed(seed)

    def noise(w: Tensor, k: int) -> Tensor:
        draw = torch.rand(w.shape[-2:], generator=generator, dtype=w.dtype)
        return torch.where(draw < down / (up + down), up, -down)

    return noise


def pareto(tail: float, seed: int) -> Callable[[Tensor, int], Tensor]:
    """Noise of random sign whose size is at least 1 and exceeds x > 1 with probability x^-tail.

    Its mean is 0 for tail > 1, and for tail <= 2 its variance is infinite.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(w: Tensor, k: int) -> Tensor:
        draw = 2 * torch.rand(w.shape[-2:], generator=generator, dtype=w.dtype) - 1
        return draw.sign() * draw.abs().clamp_min(1e-12) ** (-1 / tail)

    return noise


def reshuffled(samples: Tensor, seed: int, replacement: bool = False) -> Callable[[Tensor, int], Tensor]:
    """Noise drawn from the rows of samples (N, n): each row once per epoch of N steps, in a new order for every seed.

    replacement: independent draws instead. The mean of the rows should be 0.
    """
    generator = torch.Generator().manual_seed(seed)
    N, order = len(samples), None

    def noise(w: Tensor, k: int) -> Tensor:
        nonlocal order
        if k % N == 0:
            keys = torch.rand(w.shape[-2], N, generator=generator)
            order = (keys * N).long() if replacement else keys.argsort(-1)
        return samples[order[:, k % N]]

    return noise


def simulate(
    loss: Loss,
    start: Tensor,
    gammas: Tensor,
    rule: Rule,
    noise: Callable[[Tensor, int], Tensor],
    velocity: Callable[[Tensor, Tensor, int], Tensor] | None = None,
    count: int = 60,
    iterations: int = 0,
) -> Run:
    """w_(k+1) = w_k + gamma_k v_k for all laws and seeds at once, with G_k = grad loss(w_k) + noise(w_k, k).

    start: (S, n). gammas: (K, L). velocity: another rule (G, w, k) -> v in place of `rule`. count: of recorded steps.
    iterations: where positive, the sum of gamma_k h_k^2 is kept, with the prox point of each step found by so many
    iterations from the last one; a recorded h_k gets 40 of them.
    Raises ValueError for shapes that do not fit, and FloatingPointError where an iterate is not finite.
    """
    if start.ndim != 2 or gammas.ndim != 2:
        raise ValueError(f"shapes {tuple(start.shape)}, {tuple(gammas.shape)}: allowed are (S, n) and (K, L)")
    velocity = velocity or rule
    K, laws = gammas.shape
    w = start.expand(laws, *start.shape).clone()
    keep = set(recorded(K, count).tolist())
    cell, last = rule.levels.cell(w), torch.zeros(w.shape[:2], dtype=torch.long)
    low, high = rule.boxes(w) if iterations else (w, w)
    z, total = w.clamp(low, high), torch.zeros(w.shape[:2], dtype=w.dtype)
    largest = torch.zeros(())
    points, sums, residuals = [], [], []
    for k in range(K + 1):
        if iterations:
            z = prox_point(w, loss, low, high, 40 if k in keep else iterations, z)
            h2 = ((w - z) ** 2).sum(-1)
        if k in keep:
            points.append(w)
            if iterations:
                sums.append(total)
                residuals.append(h2.sqrt())
        if k == K:
            break
        gamma = gammas[k][:, None, None]
        if iterations:
            total = total + gammas[k][:, None] * h2
        G = loss.gradient(w) + noise(w, k)
        largest = torch.maximum(largest, G.abs().max())
        w = w + gamma * velocity(G, w, k)
        new = rule.levels.cell(w)
        if not torch.equal(new, cell):
            last[(new != cell).any(-1)] = k + 1
            cell = new
            low, high = rule.boxes(w) if iterations else (w, w)
    if not w.isfinite().all():
        raise FloatingPointError("an iterate is not finite: the step sizes are too large for this loss")
    kept = [torch.stack(x) if x else None for x in (points, sums, residuals)]
    return Run(torch.tensor(sorted(keep)), kept[0], last, largest.item(), kept[1], kept[2])


def freezing_step(gammas: Tensor, rule: Rule, M: float) -> Tensor:
    """k_0, the first k with gamma_k M_1 < e, for non-increasing gammas (K, L): shape (L,); K where there is none."""
    return (gammas * max(M, rule.clip) >= rule.e).sum(0)


def distance_bound(start: float, gammas: Tensor, rule: Rule, M: float) -> Tensor:
    """D_0 .. D_K of step 2 of the proof, a bound on every weight's distance to its feasible interval: (K + 1, ...).

    D_0 = start, D_(k+1) = max{D_k - gamma_k min(kappa D_k, M_c), gamma_k M_1}, for gammas of shape (K, ...).
    """
    M1 = max(M, rule.clip)
    D = [torch.full_like(gammas[0], start)]
    for gamma in gammas:
        D.append(torch.maximum(D[-1] - gamma * (rule.kappa * D[-1]).clamp(max=rule.clip), gamma * M1))
    return torch.stack(D)


def kkt_points(H: Tensor, b: Tensor, rule: Rule) -> Tensor:
    """All Karush–Kuhn–Tucker points of w'Hw/2 - b'w on the feasible set of n weights: shape (m, n).

    In every box and for every pattern (lower edge, upper edge or free, for each weight) one linear system is solved; its
    solution counts where the free weights are in their intervals and the gradient at the others points outwards. K^n 3^n
    systems. Raises ValueError where a system is singular: then there may be infinitely many points.
    """
    n = len(b)
    low, high = rule.boxes(rule.levels.vectors(n, H.dtype))
    found = []
    for pattern in itertools.product("lhf", repeat=n):
        free, at_low = (torch.tensor([p == which for p in pattern]) for which in "fl")
        z = torch.where(at_low, low, high)
        if free.any():
            A = H[free][:, free]
            if not torch.linalg.cond(A) < 1e12:
                raise ValueError(f"the block {torch.nonzero(free)[:, 0].tolist()} of H is singular: no isolated points")
            z[:, free] = torch.linalg.solve(A, b[free] - z[:, ~free] @ H[~free][:, free], left=False)
        gradient = z @ H - b
        right = torch.where(free, (low <= z) & (z <= high), torch.where(at_low, gradient >= 0, gradient <= 0))
        found.append(z[right.all(-1)])
    return torch.cat(found)


def nearest(w: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of each w (..., n) to the nearest of the points (m, n), and the index of that point: shape (...) each."""
    flat = w.reshape(-1, w.shape[-1])
    distance, index = torch.cdist(flat, points, compute_mode="donot_use_mm_for_euclid_dist").min(-1)
    return distance.view(w.shape[:-1]), index.view(w.shape[:-1])


def residual_constant(loss: Loss, gammas: Tensor, rule: Rule, M: float, n: int, D: Tensor, F: Tensor) -> Tensor:
    """C_0 of part 6 with its sums cut after T = 1 .. K terms, of shape (K, ...): E sum_(k < T) gamma_k h_k^2 <= C_0.

    The sum of (⋆⋆) with n D_k^2 for the squared distance, before (⋆) is put in. gammas: (K, ...), from a step on at which the
    cells are fixed. D: (K, ...), `distance_bound` at these steps. F: (...), the mean of F(w) at the first of them. M: bound on
    the stochastic gradient's components; n: number of weights.
    """
    L, M1 = loss.smoothness, max(M, rule.clip)
    errors = 2 * L**2 * gammas * n * D**2 + L * n * M1**2 * gammas**2
    return (F - loss.lowest + errors.cumsum(0)) / L**2
