"""What Theorem 3′ speaks of, computable: boxes, the prox point and its residual, simulations of (A4), and the theorem's bounds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quantized_training.constraints import PHI, Constraint
from quantized_training.levels import Levels
from quantized_training.methods import skewed_velocity


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


def minimiser(loss: Loss, low: Tensor, high: Tensor, iterations: int = 5000) -> Tensor:
    """The minimiser of a strongly convex loss over the box, by projected gradient steps of length 1/L with Nesterov's momentum."""
    z = before = (low + high) / 2
    for k in range(iterations):
        ahead = z + k / (k + 3) * (z - before)
        before, z = z, torch.clamp(ahead - loss.gradient(ahead) / loss.smoothness, low, high)
        if torch.equal(z, before) and torch.equal(z, torch.clamp(z - loss.gradient(z) / loss.smoothness, low, high)):
            break
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
        return self.alpha / self.constraint.degree

    @property
    def e(self) -> float:
        """Smallest distance between a midpoint and a feasible interval."""
        return (min(self.levels.gaps) ** 2 / 4 - self.constraint.band(self.epsilon)) ** 0.5

    def boxes(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper edges of the boxes of w's cells, of w's shape."""
        return boxes(w, self.levels, self.epsilon, self.constraint)

    def distances(self, w: Tensor) -> Tensor:
        """Every weight's distance to its nearest feasible value, of w's shape: the interval of its cell is the nearest one."""
        return (w - w.clamp(*self.boxes(w))).abs()


@dataclass(frozen=True)
class Run:
    """What `simulate` recorded: R steps, of L laws of the step size and S seeds.

    steps: (R,). points: (R, L, S, n), the w_k of these steps. last_change: (L, S), the last k with cell(w_k) other than
    cell(w_(k-1)), 0 where there is none. sums: (2, R, L, S), of gamma_j h_j^2 and of gamma_j d_j^2 over j < k, or None.
    """

    steps: Tensor
    points: Tensor
    last_change: Tensor
    sums: Tensor | None


def powers(laws: Sequence[tuple[float, float]], steps: int) -> Tensor:
    """Step sizes c (k + 1)^-p for each (c, p) of `laws`, k = 0 .. steps - 1: shape (steps, L)."""
    c, p = torch.tensor(laws, dtype=torch.float64).T
    return c * torch.arange(1, steps + 1, dtype=torch.float64)[:, None] ** -p


def coin(up: float, down: float, seed: int) -> Callable[[Tensor, int], Tensor]:
    """Noise of mean 0 with two values, +up or -down, independent for all weights and seeds; all laws are given the same."""
    generator = torch.Generator().manual_seed(seed)

    def noise(w: Tensor, k: int) -> Tensor:
        draw = torch.rand(w.shape[-2:], generator=generator, dtype=w.dtype)
        return torch.where(draw < down / (up + down), up, -down)

    return noise


def student(freedom: float, seed: int) -> Callable[[Tensor, int], Tensor]:
    """Student's t as noise, given as `coin` is: P(|noise| > x) is of order x^-freedom, and so the variance is infinite for at
    most 2 degrees of freedom. More than 1 are needed for a mean, which is 0."""
    rng = np.random.default_rng(seed)
    return lambda w, k: torch.from_numpy(rng.standard_t(freedom, w.shape[-2:]))


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

    start: (S, n). gammas: (K, L). velocity: another rule (G, w, k) -> v in place of `rule`. count: about so many steps are
    recorded, 0 and then evenly on a logarithmic scale. iterations: where positive, `Run.sums` is kept, with the prox point
    of each step found by so many iterations from the last one.
    Raises ValueError for shapes that do not fit, and FloatingPointError where an iterate is not finite.
    """
    if start.ndim != 2 or gammas.ndim != 2:
        raise ValueError(f"shapes {tuple(start.shape)}, {tuple(gammas.shape)}: allowed are (S, n) and (K, L)")
    velocity = velocity or rule
    K, laws = gammas.shape
    steps = torch.cat([torch.zeros(1), torch.logspace(0, math.log10(K), count).round()]).long().unique()
    keep = set(steps.tolist())
    w = start.expand(laws, *start.shape).clone()
    cell, last = rule.levels.cell(w), torch.zeros(w.shape[:2], dtype=torch.long)
    low, high = rule.boxes(w) if iterations else (w, w)
    z, total = w.clamp(low, high), w.new_zeros(2, *w.shape[:2])
    points, sums = [], []
    for k in range(K + 1):
        if k in keep:
            points.append(w)
            sums.append(total)
        if k == K:
            break
        gamma = gammas[k][:, None]
        if iterations:
            z = prox_point(w, loss, low, high, iterations, z)
            total = total + gamma * torch.stack([((w - y) ** 2).sum(-1) for y in (z, w.clamp(low, high))])
        w = w + gamma[..., None] * velocity(loss.gradient(w) + noise(w, k), w, k)
        new = rule.levels.cell(w)
        if not torch.equal(new, cell):
            last[(new != cell).any(-1)] = k + 1
            cell = new
            low, high = rule.boxes(w) if iterations else (w, w)
    if not w.isfinite().all():
        raise FloatingPointError("an iterate is not finite: the step sizes are too large for this loss")
    return Run(steps, torch.stack(points), last, torch.stack(sums, 1) if iterations else None)


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


def exponent(steps: Tensor, y: Tensor) -> Tensor:
    """Slope of log y against log k over the last decade of the steps (R,), by least squares: shape (...) for y (R, ...)."""
    late = steps >= steps[-1] / 10
    x = steps[late].double().log()
    x = x - x.mean()
    return torch.tensordot(x, y[late].log(), 1) / (x**2).sum()


def reach(w: Tensor, length: Tensor | float, rule: Rule) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where a step of at most `length` can take a weight, whatever its gradient: lower and upper end, each of w's shape.

    An infeasible weight moves towards its interval only. Then: whether it can leave its cell, and whether it can pass over
    its interval from outside (Claims 1 to 5 of Lemma 4).
    """
    a, b = rule.boxes(w)
    ends = torch.tensor([-math.inf, *rule.levels.midpoints, math.inf], dtype=w.dtype)
    cell = rule.levels.cell(w)
    low, high = torch.where(w < a, w, w - length), torch.where(w > b, w, w + length)
    leaves = (low < ends[cell]) | (high >= ends[cell + 1])
    return low, high, leaves, ((w < a) & (high > b)) | ((w > b) & (low < a))


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


# --- The freeze ------------------------------------------------------------------------------------------------------


def fixed_from(
    levels: Levels,
    constraint: Constraint,
    epsilon: Sequence[float],
    gammas: Sequence[float],
    M: float,
    clip: float,
) -> int:
    """First k from which on no gradient up to M can change a rounding: gamma_k M <= e(epsilon_k), gamma_k clip <= Delta/2.

    Len(gammas) where there is none. An epsilon that is too large to separate the levels has e = 0.
    """
    half = min(levels.gaps) / 2
    e = [max(half**2 - constraint.band(x), 0) ** 0.5 for x in epsilon]
    safe = [g * M <= x and g * clip <= half for g, x in zip(gammas, e, strict=True)]
    return len(safe) - next((k for k, ok in enumerate(reversed(safe)) if not ok), len(safe))


def adversary(
    levels: Levels,
    constraint: Constraint,
    epsilon: Sequence[float],
    gammas: Sequence[float],
    M: float,
    alpha: float = 1.0,
    clip: float = 1.0,
    start: Tensor | None = None,
    wait: Tensor | int = 0,
    seed: int | None = None,
) -> Tensor:
    """Paths under the velocity of (A4) whose gradients, of size up to M, are chosen to change as many levels as they can: (K + 1, n).

    From step `wait` (n,) on a weight is led to the edge of its interval next to the nearest midpoint, and across where one step
    is long enough; before, its gradient is 0. start: (n,), by default 40 random weights. With a seed one gradient in ten is
    turned round. An epsilon at or above its largest value constrains nothing.
    """
    generator = torch.Generator().manual_seed(seed or 0)
    low, high = levels.hull
    w = low - 0.3 + (high - low + 0.6) * torch.rand(40, generator=generator, dtype=torch.float64)
    w = w if start is None else start
    midpoints, cap = torch.tensor(levels.midpoints, dtype=w.dtype), constraint.largest_epsilon(levels)
    path = [w]
    for k, (eps, gamma) in enumerate(zip(epsilon, gammas, strict=True)):
        target = midpoints[(w[:, None] - midpoints).abs().argmin(-1)]
        side = torch.where(w >= target, 1.0, -1.0).to(w)
        edge, later = target, epsilon[min(k + 1, len(epsilon) - 1)]
        if later < cap:
            edge = torch.where(side > 0, *boxes(w, levels, later, constraint))
        across, to_edge = gamma * M > (w - target).abs(), (side * (w - edge) - 1e-9).clamp(0, gamma * M)
        G = side * torch.where(across, M, to_edge / gamma) * (torch.as_tensor(wait) <= k)
        if seed is not None:
            G = torch.where(torch.rand(len(w), generator=generator) < 0.1, -G, G)
        v = -G if eps >= cap else skewed_velocity(G, w, levels, eps, alpha, constraint, clip)
        w = w + gamma * v
        path.append(w)
    return torch.stack(path)
