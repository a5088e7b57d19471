"""The corrected convergence theorem, Theorem 3′: the steps of its proof that a machine can check.

One coordinate is in its rounding cell [m_-, m_+) with the feasible interval [a, b] inside; e is the smallest distance between a
feasible interval and a midpoint; M bounds the stochastic gradient, M_c the push, M_1 = max(M, M_c); d is the distance to [a, b].
"""

from __future__ import annotations

import numpy as np
import sympy
import torch
import z3
from hypothesis import strategies as st

from ..constraints import PHI, PSI
from ..convergence import boxes, envelope, kkt_residual, prox_point, sines
from ..levels import Levels
from ..methods import skewed_velocity
from .evidence import SYMPY, TESTED, Z3, identity, prose, prove, search, step

NAME = "Theorem 3′"


def least(x, y):
    """The smaller of two terms of z3."""
    return z3.If(x <= y, x, y)


def largest(x, y):
    """The larger of two terms of z3."""
    return z3.If(x >= y, x, y)


# --- The velocity ----------------------------------------------------------------------------------------------------


def velocity(G, push, Mc, clip_everything: bool = False):
    """(A4) at a right edge or beyond it (the left side is its mirror image): min(-G, -min(push, M_c))."""
    if clip_everything:
        return -least(largest(G, push), Mc)
    return -largest(G, least(push, Mc))


@step(
    f"{NAME}, step 0",
    Z3,
    "an infeasible coordinate moves inwards, by at least min(r, M_c) and at most M_1, if 0 ≤ r and |G| ≤ M",
    {"speed": 2},
    {"bound": 0.5},
)
def inward_speed(speed=1, bound=1):
    G, r, M, Mc = z3.Reals("G r M M_c")
    v = velocity(G, r, Mc)
    prove(
        z3.And(-v >= speed * least(r, Mc), v >= -bound * largest(M, Mc), v <= bound * largest(M, Mc)),
        [r >= 0, M >= 0, Mc > 0, -M <= G, G <= M],
    )


# --- Step 1: cells ---------------------------------------------------------------------------------------------------


def _cell():
    """Midpoints, edges, weight, move, and what is known: the move is at most `gM` and inwards where infeasible."""
    low, a, b, high, w, move, gM, e = z3.Reals("m_- a b m_+ w move gM e")
    rules = [
        a - low >= e, a <= b, high - b >= e, e > 0, gM > 0, -gM <= move, move <= gM,
        z3.Implies(w < a, move >= 0), z3.Implies(w > b, move <= 0),
    ]  # fmt: skip
    return low, a, b, high, w, move, gM, e, rules


@step(
    f"{NAME}, step 1",
    Z3,
    "a step shorter than e leaves an inner cell invariant: m₋ ≤ w < m₊ gives m₋ ≤ w + γv < m₊",
    {"times": 2},
    {"closed": True},
)
def inner_cell_is_invariant(times=1, closed=False):
    low, a, b, high, w, move, gM, e, rules = _cell()
    if closed:  # the paper's closed interval: at the right midpoint the push goes to the next cell
        rules[-1] = z3.Implies(z3.And(w > b, w < high), move <= 0)
        prove(z3.And(low <= w + move, w + move <= high), [*rules, low <= w, w <= high, gM < e])
    prove(z3.And(low <= w + move, w + move < high), [*rules, low <= w, w < high, gM < times * e])


@step(
    f"{NAME}, step 1",
    Z3,
    "a step shorter than e leaves the outermost cells invariant, which have one midpoint only",
    {"times": 2},
)
def outer_cells_are_invariant(times=1):
    low, a, b, high, w, move, gM, e, rules = _cell()
    prove(w + move < high, [*rules, w < high, gM < times * e])
    prove(w + move >= low, [*rules, w >= low, gM < times * e])


# --- Step 2: the distance to the feasible set --------------------------------------------------------------------------


def recursion(D, g, kappa, Mc, M1):
    """T(D) = max{D - γ min(κ D, M_c), γ M_1}, the bound on the next distance."""
    return largest(D - g * least(kappa * D, Mc), g * M1)


@step(
    f"{NAME}, step 2",
    Z3,
    "d₊ ≤ max{d − γ min(κd, M_c), γM₁} from an infeasible weight, wherever its inward step ends",
    {"kappa_times": 2},
    {"last": 0.5},
)
def distance_after_a_step(kappa_times=1, last=1):
    d, g, kappa, Mc, M1, v, width = z3.Reals("d gamma kappa M_c M_1 v width")
    new = d - g * v  # signed: beyond 0 inside the interval, beyond -width on its other side
    after = z3.If(new > 0, new, z3.If(new < -width, -new - width, 0))
    bound = largest(d - g * least(kappa_times * kappa * d, Mc), last * g * M1)
    prove(after <= bound, [d > 0, g > 0, kappa > 0, Mc > 0, width >= 0, v >= least(kappa * d, Mc), v <= M1])


@step(
    f"{NAME}, step 2",
    Z3,
    "T(D) = max{D − γ min(κD, M_c), γM₁} does not decrease in D ≥ 0, so a bound on d gives a bound on d₊",
    {"floored": False},
)
def recursion_is_monotone(floored=True):
    D, E, g, kappa, Mc, M1 = z3.Reals("D E gamma kappa M_c M_1")
    T = recursion if floored else (lambda D, g, kappa, Mc, M1: D - g * least(kappa * D, Mc))
    prove(
        T(D, g, kappa, Mc, M1) <= T(E, g, kappa, Mc, M1),
        [0 <= D, D <= E, g > 0, kappa > 0, Mc > 0, M1 > 0],
    )


@step(
    f"{NAME}, step 2",
    Z3,
    "above any δ ≥ γM₁ the bound falls by γ min(κδ, M_c) or to δ: T(D) ≤ max{D − γ min(κδ, M_c), δ} for D > δ",
    {"times": 2},
)
def recursion_falls(times=1):
    D, delta, g, kappa, Mc, M1 = z3.Reals("D delta gamma kappa M_c M_1")
    prove(
        recursion(D, g, kappa, Mc, M1) <= largest(D - times * g * least(kappa * delta, Mc), delta),
        [D > delta, delta >= g * M1, g > 0, kappa > 0, Mc > 0, M1 >= Mc],
    )


@step(
    f"{NAME}, step 2",
    Z3,
    "once D ≤ δ, with γM₁ ≤ δ, it stays so: T(D) ≤ δ",
    {"times": 2},
)
def recursion_stays_low(times=1):
    D, delta, g, kappa, Mc, M1 = z3.Reals("D delta gamma kappa M_c M_1")
    prove(
        recursion(D, g, kappa, Mc, M1) <= delta,
        [0 <= D, D <= delta, times * delta >= g * M1, g > 0, kappa > 0, Mc > 0, M1 >= Mc],
    )


@step(
    f"{NAME}, (★)",
    Z3,
    "κγD ≤ D − D₊ + κM₁γ² for D₊ = max{(1 − κγ)D, γM₁} and D ≥ γM₁",
    {"sign": -1},
    {"late": 0.5},
)
def distance_is_summable(sign=1, late=1):
    D, g, kappa, M1 = z3.Reals("D gamma kappa M_1")
    after = largest((1 - kappa * g) * D, g * M1)
    prove(
        kappa * g * D <= D - after + sign * kappa * M1 * g * g,
        [D >= late * g * M1, g > 0, kappa > 0, kappa * g <= 1, M1 > 0],
    )


@step(
    f"{NAME}, rate",
    TESTED,
    "1 − b/(k+1) ≤ ((k+1)/(k+2))ᵇ for b > 0, k ≥ 0 (Bernoulli's inequality)",
    {"times": 1.5},
)
def bernoulli(times=1.0):
    search(
        lambda b, k: 1 - b / (k + 1) - ((k + 1) / (k + 2)) ** (times * b),
        1e-12,
        500,
        b=st.floats(0.0, 5.0),
        k=st.integers(0, 10**6),
    )


@step(
    f"{NAME}, rate",
    Z3,
    "γ₀M₁/(k+1) ≤ C/(k+2)ᵇ for C ≥ 2γ₀M₁ and 0 < b ≤ 1, since then (k+2)ᵇ ≤ k+2",
    {"factor": 1},
)
def rate_after_a_crossing(factor=2):
    k, power, g0, M1, C = z3.Reals("k power gamma_0 M_1 C")
    prove(
        g0 * M1 * power <= C * (k + 1),
        [k >= 0, power >= 1, power <= k + 2, g0 > 0, M1 > 0, C >= factor * g0 * M1],
    )


# --- Steps 3 and 4: the envelope descends ------------------------------------------------------------------------------


@step(
    f"{NAME}, step 3",
    Z3,
    "η(w − z) ≤ 0 for η = v + G, w beyond the right edge b or on it, z ≤ b, whatever G",
    {"side": 1},
    {"clip_everything": True},
)
def correction_points_inwards(side=0, clip_everything=False):
    w, b, z, G, r, Mc = z3.Reals("w b z G r M_c")
    eta = velocity(G, r, Mc, clip_everything) + G
    prove(eta * (w - z) <= 0, [w >= b, z <= b + side, r >= 0, Mc > 0])


@step(
    f"{NAME}, remark",
    Z3,
    "if the whole velocity is clipped, the same needs |G| ≤ M ≤ M_c",
    {"ordered": False},
)
def correction_when_all_is_clipped(ordered=True):
    w, b, z, G, r, M, Mc = z3.Reals("w b z G r M M_c")
    eta = velocity(G, r, Mc, clip_everything=True) + G
    known = [w >= b, z <= b, r >= 0, Mc > 0, -M <= G, G <= M]
    prove(eta * (w - z) <= 0, known + [M <= Mc] * ordered)


@step(
    f"{NAME}, (★★)",
    SYMPY,
    "right side minus left side of (★★) is 2Lγ times the sum of the four slacks S1 to S4",
    {"gain": 2},
    {"sign": -1},
    {"slope": 1},
)
def descent_is_a_sum_of_slacks(gain=1, sign=1, slope=3):
    # A = |w - z|², P = |p - z|², d = |w - p|; E = E<v, w - z>, V = E|v|², I = <∇ℓ(w), w - z>
    A, P, d, lw, lz, lp, I, E, V, g, L, m = sympy.symbols("A P d l_w l_z l_p I E V gamma L m")  # noqa: E741
    s1 = I - (lw - lz) + L / 2 * A  # ℓ(z) ≥ ℓ(w) - I - L/2 A: smoothness, from w to z
    s2 = lp + L * d**2 - lz - L * A - L / 2 * P  # ℓ + L|. - w|² is L-strongly convex, z minimises it on B, p is in B
    s3 = m * d + L / 2 * d**2 - (lp - lw)  # smoothness, from w to p; m = √n M bounds |∇ℓ(w)|
    s4 = -I - E  # step 3, in the mean
    before = lz + L * A  # F(w)
    after = lz + L * (A + 2 * g * E + g**2 * V)  # ℓ(z) + L E|z - w - γv|², at least E F(w + γv)
    right = (
        before - gain * L**2 * g * (A + P) + 2 * L * g * (m * d + sympy.Rational(slope, 2) * L * d**2) + L * g**2 * V
    )
    identity(right - after, sign * 2 * L * g * (s1 + s2 + s3 + s4))


def _problem(seed: int):
    """A random nonconvex loss, a weight vector in or near the box of its cell, and what belongs to them."""
    rng = np.random.default_rng(seed)
    constraint, levels = [(PHI, Levels.binary()), (PSI, Levels.binary()), (PHI, Levels((-1, 0, 2)))][seed % 3]
    eps = rng.uniform(0.05, 0.9) * constraint.largest_epsilon(levels)
    n = int(rng.integers(1, 5))
    levels_of_w = torch.as_tensor(rng.choice(levels.values, n))
    low, high = boxes(levels_of_w, levels, eps, constraint)
    e = min(m - b for m, (_, b) in zip(levels.midpoints, constraint.feasible_intervals(levels, eps), strict=False))
    beyond = torch.as_tensor(rng.choice([-1, 0, 1], n) * rng.uniform(0, 0.8 * e, n))  # stays in the cell
    inside = low + (high - low) * torch.as_tensor(rng.random(n))
    w = torch.where(beyond < 0, low, torch.where(beyond > 0, high, inside)) + beyond
    return rng, w, low, high, constraint, levels, eps, sines(n, 2 * n + 1, seed)


@step(
    f"{NAME}, (★★)",
    TESTED,
    "E F(w₊) ≤ F(w) − L²γ(‖w−ẑ‖² + ‖p−ẑ‖²) + 2Lγ(√n M d + 3/2 L d²) + Lγ²nM₁², all means as exact sums over the noise",
    {"gain": 40.0},
)
def envelope_descends(gain=1.0):
    def violation(seed: int) -> float:
        rng, w, low, high, constraint, levels, eps, loss = _problem(seed)
        n, L, gamma = w.shape[-1], loss.smoothness, rng.uniform(1e-4, 0.05)
        alpha, Mc = rng.uniform(0.2, 4), rng.uniform(0.2, 3)
        noise = torch.as_tensor(rng.normal(0, 3, (6, n)))
        G = loss.gradient(w) + noise - noise.mean(0)  # six values of equal probability
        M = G.abs().max()
        v = skewed_velocity(G, w.expand_as(G), levels, eps, alpha, constraint, Mc)
        after = envelope(w + gamma * v, loss, low, high).mean()
        z, p = prox_point(w, loss, low, high), w.clamp(low, high)
        d, A, P = (w - p).norm(), ((w - z) ** 2).sum(), ((p - z) ** 2).sum()
        before = loss.value(z) + L * A
        right = before - gain * L**2 * gamma * (A + P) + L * gamma**2 * n * max(M, Mc) ** 2
        right = right + 2 * L * gamma * (n**0.5 * M * d + 1.5 * L * d**2)
        return ((after - right) / (1 + abs(right))).item()

    search(violation, 1e-9, 150, seed=st.integers(0, 10**6))


# --- Steps 5 and 6: from the sum to the limit --------------------------------------------------------------------------


@step(
    f"{NAME}, step 5",
    SYMPY,
    "‖Δw‖² − ‖Δw − Δz‖² = (2⟨Δw, Δz⟩ − ‖Δz‖²), so w − ẑ(w) is 1-Lipschitz where the bracket is not negative",
    {"times": 1},
)
def residual_does_not_expand(times=2):
    ww, wz, zz = sympy.symbols("ww wz zz")  # the three inner products
    identity(ww - (ww - 2 * wz + zz), times * wz - zz)


@step(
    f"{NAME}, step 5",
    TESTED,
    "2⟨Δw, Δẑ⟩ ≥ ‖Δẑ‖² for two points w of one cell (the prox point is monotone)",
    {"times": 1.0},
)
def prox_point_is_monotone(times=2.0):
    def violation(seed: int) -> float:
        rng, w, low, high, *_, loss = _problem(seed)
        other = w + torch.as_tensor(rng.normal(0, 10.0 ** rng.uniform(-3, 0), w.shape))
        dz = prox_point(other, loss, low, high) - prox_point(w, loss, low, high)
        return ((dz @ dz - times * dz @ (other - w)) / (1e-300 + (other - w) @ (other - w))).item()

    search(violation, 1e-9, 150, seed=st.integers(0, 10**6))


@step(
    f"{NAME}, step 5",
    Z3,
    "h rising from below δ to above 2δ by steps of at most cγⱼ takes Σγⱼ ≥ δ/c over the block",
    {"times": 2},
)
def upcrossing_takes_time(times=1):
    start, end, total, c, delta = z3.Reals("h_m h_n sum_gamma c delta")
    prove(total * c >= times * delta, [start <= delta, end >= 2 * delta, end - start <= c * total, c > 0, delta > 0])


@step(
    f"{NAME}, part 3",
    TESTED,
    "‖p − Π(p − ∇ℓ(p))‖ ≤ (2 + 3L)h and ‖p − ẑ‖ ≤ h",
    {"constant": 0.2},
)
def residual_is_bounded_by_h(constant=2.0):
    def violation(seed: int) -> float:
        _, w, low, high, *_, loss = _problem(seed)
        z = prox_point(w, loss, low, high)
        h = (w - z).norm()
        limit = (constant + 1.5 * constant * loss.smoothness) * h
        excess = torch.stack([kkt_residual(w, loss, low, high) - limit, (w.clamp(low, high) - z).norm() - h])
        return (excess.max() / (1 + h)).item()

    search(violation, 1e-9, 150, seed=st.integers(0, 10**6))


prose(
    "smoothness_and_strong_convexity",
    f"{NAME}, step 4",
    "S1, S2 and S3: the textbook inequalities for L-smooth and strongly convex functions",
)
prose(
    "inductions", f"{NAME}, steps 1, 2", "from one step to all k (each step is checked above), and sums that telescope"
)
prose("robbins_siegmund", f"{NAME}, step 4", "F(w_k) converges and Σγ_k h_k² < ∞: the theorem of Robbins and Siegmund")
prose("compactness", f"{NAME}, step 6", "h → 0 brings w_k to the zeros of h; the limit points are connected")
