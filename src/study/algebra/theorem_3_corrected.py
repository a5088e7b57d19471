"""The corrected convergence theorem, Theorem 3′: the steps of its proof that a machine can check.

One coordinate is in its rounding cell [m_-, m_+) with the feasible interval [a, b] inside; e is the smallest distance between a
feasible interval and a midpoint; M bounds the stochastic gradient, M_c the push, M_1 = max(M, M_c); d is the distance to [a, b]. Theorem 3″ replaces
M by a bound on the variance.
"""

from __future__ import annotations

import numpy as np
import sympy
import torch
import z3
from hypothesis import strategies as st

from quantized_training.constraints import PHI, PSI
from quantized_training.levels import Levels
from quantized_training.methods import skewed_velocity

from ..theory.convergence import Rule, boxes, envelope, kkt_residual, prox_point, quadratic, sines
from .evidence import SYMPY, TESTED, Z3, identity, prose, prove, search, step

NAME = "Theorem 3′"


def least(x, y):
    """The smaller of two terms of z3."""
    return z3.If(x <= y, x, y)


def largest(x, y):
    """The larger of two terms of z3."""
    return z3.If(x >= y, x, y)


# --- The velocity ----------------------------------------------------------------------------------------------------


SIDES = (("left", 1), ("right", -1))  # of the interval, edges included, and the direction inwards


def velocity(side: str, G, push, Mc, clip_everything: bool = False):
    """(A4): max(-G, rho) on the left of the interval, min(-G, -rho) on its right, rho = min(push, M_c)."""
    rho = least(push, Mc)
    v = largest(-G, rho) if side == "left" else least(-G, -rho)
    return largest(-Mc, least(v, Mc)) if clip_everything else v


@step(
    f"{NAME}, step 0",
    Z3,
    "an infeasible coordinate moves inwards, by at least min(r, M_c) and at most M_1, if 0 ≤ r and |G| ≤ M",
    {"speed": 2},
    {"bound": 0.5},
)
def inward_speed(speed=1, bound=1):
    G, r, M, Mc = z3.Reals("G r M M_c")
    for side, inwards in SIDES:
        v = velocity(side, G, r, Mc)
        prove(
            z3.And(inwards * v >= speed * least(r, Mc), v >= -bound * largest(M, Mc), v <= bound * largest(M, Mc)),
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
    "d₊ ≤ max{d − γ min(κd, M_c), γM₁} for the distances d, d₊ from [a, b], from a start inside or on either side, wherever the step ends",
    {"kappa_times": 2},
    {"last": 0.5},
)
def distance_after_a_step(kappa_times=1, last=1):
    w, a, b, g, kappa, Mc, M1, v = z3.Reals("w a b gamma kappa M_c M_1 v")
    d, after = (largest(0, largest(a - x, x - b)) for x in (w, w + g * v))
    prove(
        after <= largest(d - g * least(kappa_times * kappa * d, Mc), last * g * M1),
        [
            a <= b, g > 0, kappa > 0, Mc > 0, -M1 <= v, v <= M1,
            z3.Implies(w < a, v >= least(kappa * d, Mc)), z3.Implies(w > b, -v >= least(kappa * d, Mc)),
        ],
    )  # fmt: skip


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
    f"{NAME}, (⋆)",
    Z3,
    "d₊ ≤ max{(1 − κγ)d, γV} gives d₊² ≤ (1 − κγ)d² + γ²V², if 0 < κγ ≤ 1",
    {"times": 2},
    {"limit": 3},
)
def squared_distance_is_summable(times=1, limit=1):
    d, after, g, kappa, V = z3.Reals("d d_+ gamma kappa V")
    prove(
        after * after <= (1 - times * kappa * g) * d * d + g * g * V * V,
        [
            d >= 0,
            after >= 0,
            after <= largest((1 - kappa * g) * d, g * V),
            g > 0,
            V >= 0,
            0 < kappa,
            kappa * g <= limit,
        ],
    )


@step(
    f"{NAME}, step 2",
    Z3,
    "κγD ≤ D − D₊ + κM₁γ² for D₊ = max{(1 − κγ)D, γM₁} and D ≥ γM₁, if 0 < κγ ≤ 1",
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
    "v(w − z) ≤ −G(p − z) for w on an edge p of [a, b] or beyond it, on either side, and a ≤ z ≤ b, whatever G",
    {"outside": 1},
    {"clip_everything": True},
)
def velocity_against_a_point_of_the_box(outside=0, clip_everything=False):
    w, a, b, z, G, r, Mc = z3.Reals("w a b z G r M_c")
    known = [a <= b, a - outside <= z, z <= b + outside, r >= 0, Mc > 0]
    for side, p, beyond in (("left", a, w <= a), ("right", b, w >= b)):
        v = velocity(side, G, r, Mc, clip_everything)
        prove(v * (w - z) <= -G * (p - z), [*known, beyond])


@step(
    f"{NAME}, (⋆⋆)",
    SYMPY,
    "right side of (⋆⋆) minus ℓ(ẑ) + L E‖ẑ − w − γv‖² is 2Lγ times the sum of the slacks of S1 to S4, L/2 times that of d² + s² ≤ h², and L/2 (d − s)²",
    {"gain": 2},
    {"sign": -1},
    {"error": 1},
)
def descent_is_a_sum_of_slacks(gain=1, sign=1, error=2):
    # p = Π(w), z = ẑ(w): d = |w - p|, s = |p - z|, h = |w - z|, E = E<v, w - z>, V = E|v|²,
    # X = <∇ℓ(w), p - z>, Y = <∇ℓ(p), p - z>
    d, s, h, lz, lp, X, Y, E, V, g, L = sympy.symbols("d s h l_z l_p X Y E V gamma L")
    slacks = [
        -X - E,  # S1: step 3, in the mean
        X - Y + L * d * s,  # S2: the gradient is Lipschitz
        Y - (lp - lz) + L / 2 * s**2,  # S3: the same, between p and z
        lp
        + L * d**2
        - lz
        - L * h**2
        - L / 2 * s**2,  # S4: ℓ + L|. - w|² is L-strongly convex, z minimises it, p is in B
        L / 2 * (h**2 - d**2 - s**2),  # S5: p is the projection, z is in B
        L / 2 * (d - s) ** 2,
    ]
    before = lz + L * h**2  # F(w)
    after = lz + L * (h**2 + 2 * g * E + g**2 * V)  # ℓ(z) + L E|z - w - γv|², at least E F(w + γv)
    right = before - gain * L**2 * g * h**2 + error * L**2 * g * d**2 + L * g**2 * V
    identity(right - after, sign * 2 * L * g * sum(slacks))


@step(
    f"{NAME}, (S5)",
    Z3,
    "(w − p)² + (p − z)² ≤ (w − z)² for p the projection of w on [a, b] and a ≤ z ≤ b, in each coordinate",
    {"times": 2},
    {"outside": True},
)
def projection_is_nearer(times=1, outside=False):
    w, a, b, z = z3.Reals("w a b z")
    p = largest(a, least(w, b))
    prove((w - p) ** 2 + times * (p - z) ** 2 <= (w - z) ** 2, [a <= b] + [a <= z, z <= b] * (not outside))


def in_a_cell(rng: np.random.Generator, seed: int):
    """(constraint, levels, epsilon, low, high, p, beyond): the box [low, high] of a random cell, a point p of it and a step from
    there after which w = p + beyond, of which p is the projection, is still in the cell."""
    constraint, levels = [(PHI, Levels.binary()), (PSI, Levels.binary()), (PHI, Levels((-1, 0, 2)))][seed % 3]
    epsilon = rng.uniform(0.05, 0.9) * constraint.largest_epsilon(levels)
    n = int(rng.integers(1, 5))
    low, high = boxes(torch.as_tensor(rng.choice(levels.values, n)), levels, epsilon, constraint)
    beyond = torch.as_tensor(rng.choice([-1, 0, 1], n) * rng.uniform(0, 0.8 * Rule(levels, epsilon, constraint).e, n))
    inside = low + (high - low) * torch.as_tensor(rng.random(n))
    p = torch.where(beyond < 0, low, torch.where(beyond > 0, high, inside))
    return constraint, levels, epsilon, low, high, p, beyond


def _problem(seed: int):
    """A random loss, rarely convex, a weight vector in or near the box of its cell, and what belongs to them.

    Half of the losses are sums of sines, half are quadratics, where L is as small as it can be.
    """
    rng = np.random.default_rng(seed)
    constraint, levels, eps, low, high, p, beyond = in_a_cell(rng, seed)
    w, n = p + beyond, len(p)
    if rng.random() < 0.5:
        return rng, w, low, high, constraint, levels, eps, sines(n, 2 * n + 1, seed)
    H = torch.as_tensor(rng.normal(size=(n, n))) * 10.0 ** rng.uniform(-1, 1)
    loss = quadratic(H + H.T, torch.as_tensor(rng.normal(size=n)))
    return rng, w, low, high, constraint, levels, eps, loss


@step(
    f"{NAME}, (⋆⋆)",
    TESTED,
    "E F(w₊) ≤ F(w) − L²γh² + 2L²γd² + Lγ²E‖v‖², all means as exact sums over the noise",
    {"gain": 3.0},
    {"error": 0.0},
)
def envelope_descends(gain=1.0, error=2.0):
    def violation(seed: int) -> float:
        rng, w, low, high, constraint, levels, eps, loss = _problem(seed)
        L, gamma = loss.smoothness, 10.0 ** rng.uniform(-6, -1.3)
        noise = torch.as_tensor(rng.normal(0, rng.choice([0.1, 3]), (6, w.shape[-1])))
        G = loss.gradient(w) + noise - noise.mean(0)  # six values of equal probability
        v = skewed_velocity(G, w.expand_as(G), levels, eps, rng.uniform(0.2, 4), constraint, rng.uniform(0.2, 3))
        after = envelope(w + gamma * v, loss, low, high).mean()
        z = prox_point(w, loss, low, high)
        h2, d2 = ((w - z) ** 2).sum(), ((w - w.clamp(low, high)) ** 2).sum()
        before = loss.value(z) + L * h2
        right = before - gain * L**2 * gamma * h2 + error * L**2 * gamma * d2 + L * gamma**2 * (v**2).sum(-1).mean()
        return ((after - right) / gamma / (1 + abs(before))).item()

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
    "2⟨Δw, Δẑ⟩ ≥ ‖Δẑ‖² for any two points w and one box",
    {"times": 1.9},
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
    "h from at most δ to at least 2δ by steps of at most cγⱼ: Σγⱼ ≥ δ/c; if h ≥ δ from the second term on, Σγⱼhⱼ² ≥ δ²(δ/c − γ_m), γ_m the first",
    {"times": 2},
    {"last": False},
)
def upcrossing_takes_time(times=1, last=True):
    start, end, first, others, squares, c, delta = z3.Reals("h_m h_n gamma_m others squares c delta")
    known = [start <= delta, end >= 2 * delta, end - start <= c * (first + others), c > 0, delta > 0, first > 0]
    prove(c * (first + others) >= times * delta, known)
    lost = c * first if last else 0  # without it: as if h were at least δ at the first term, too
    prove(c * squares >= delta * delta * (delta - lost), [*known, squares >= delta * delta * others])


@step(
    f"{NAME}, part 3",
    Z3,
    "the median of three numbers moves by no more than the largest move of the three",
    {"times": 0.5},
)
def median_does_not_expand(times=1):
    before, after = z3.Reals("x y z"), z3.Reals("x' y' z'")

    def median(x, y, z):
        return largest(least(x, y), least(largest(x, y), z))

    def moved(x, y):
        return z3.If(x >= y, x - y, y - x)

    most = largest(moved(before[0], after[0]), largest(moved(before[1], after[1]), moved(before[2], after[2])))
    prove(moved(median(*before), median(*after)) <= times * most)


@step(
    f"{NAME}, part 3",
    TESTED,
    "‖p − Π(p − ∇ℓ(p))‖ ≤ (2L + √(1 + L²))h and ‖p − ẑ‖ ≤ h",
    {"at_prox": 0},
    {"moved": 0},
)
def residual_is_bounded_by_h(at_prox=2, moved=1):
    def violation(seed: int) -> float:
        _, w, low, high, *_, loss = _problem(seed)
        z, L = prox_point(w, loss, low, high), loss.smoothness
        h = (w - z).norm()
        limit = (at_prox * L + moved * (1 + L**2) ** 0.5) * h
        excess = torch.stack([kkt_residual(w, loss, low, high) - limit, (w.clamp(low, high) - z).norm() - h])
        return (excess.max() / (1 + h)).item()

    search(violation, 1e-9, 150, seed=st.integers(0, 10**6))


# --- Theorem 3″ and the remarks ----------------------------------------------------------------------------------------


def _with_any_noise():
    """The recursion of the largest distance x when only the variance is bounded, and θ ≤ δ/4, L √n γ ≤ 1/2."""
    x, after, delta, theta, growth, g, kappa, Mc = z3.Reals("x x_+ delta theta growth gamma kappa M_c")
    known = [
        x >= 0, after <= largest(x - g * least(kappa * x, Mc), growth * x + theta), 0 <= growth, growth <= 0.5,
        delta > 0, theta <= delta / 4, g > 0, kappa > 0, Mc > 0,
    ]  # fmt: skip
    return x, after, delta, g, kappa, Mc, known


@step(
    "Theorem 3″, distance",
    Z3,
    "x > δ falls by γ min(κδ, M_c) at least or to 3/4 of itself, if x₊ ≤ max{x − γ min(κx, M_c), x/2 + θ}, θ ≤ δ/4",
    {"part": 0.6},
)
def distance_falls_with_any_noise(part=0.75):
    x, after, delta, g, kappa, Mc, known = _with_any_noise()
    prove(z3.Or(after <= x - g * least(kappa * delta, Mc), after <= part * x), [*known, x > delta])


@step(
    "Theorem 3″, distance",
    Z3,
    "under the same conditions x ≤ δ stays at most δ",
    {"times": 0.7},
)
def distance_stays_low_with_any_noise(times=1):
    x, after, delta, *_, known = _with_any_noise()
    prove(after <= times * delta, [*known, x <= delta])


@step(
    "Theorem 3″, climbs",
    Z3,
    "h rising by δ takes Σγⱼ ≥ δ/(2c + 2σ), if its steps are at most γⱼ(c + ‖ξⱼ‖) and Σγⱼ‖ξⱼ‖ ≤ σΣγⱼ + δ/2",
    {"times": 2},
)
def climb_takes_time_with_any_noise(times=1):
    rise, total, noise, c, sigma, delta = z3.Reals("rise sum_gamma sum_noise c sigma delta")
    known = [rise >= delta, rise <= c * total + noise, noise <= sigma * total + delta / 2]
    prove(total * (2 * c + 2 * sigma) >= times * delta, [*known, c > 0, sigma >= 0, delta > 0])


@step(
    f"{NAME}, remarks",
    Z3,
    "the push of ψ at distance d from an edge is at least αd(1 − cd), c = e/√ε in a gap and 1/(2√ε) beyond the hull",
    {"times": 0.4},
)
def push_psi_near_an_edge(times=1):
    d, e, s = z3.Reals("d e s")  # s = √ε; α = 1. In a gap the push is X (2s + X) / (4u (s + X)), X = e² - u², u = e - d
    X = d * (2 * e - d)
    inside = X * (2 * s + X) * s >= d * (s - times * e * d) * 4 * (e - d) * (s + X)
    beyond = (2 * s + d) * 2 * s >= (2 * s - times * d) * 2 * (s + d)
    prove(inside, [0 < d, d < e, s > 0])
    prove(beyond, [0 < d, s > 0])


@step(
    f"{NAME}, remarks",
    Z3,
    "clipping the whole velocity is the same as clipping the push, if |G| ≤ M ≤ M_c",
    {"ordered": False},
)
def clipping_everything_is_the_same_rule(ordered=True):
    G, r, M, Mc = z3.Reals("G r M M_c")
    for side, _ in SIDES:
        same = velocity(side, G, r, Mc, clip_everything=True) == velocity(side, G, r, Mc)
        prove(same, [r >= 0, Mc > 0, -M <= G, G <= M] + [M <= Mc] * ordered)


for name, item, statement in (
    (
        "smoothness_and_strong_convexity",
        "step 4",
        "S2, S3 and S4: textbook inequalities for Lipschitz gradients and strong convexity",
    ),
    ("inductions", "steps 1, 2", "from one step to all k (each step is checked above), and sums that telescope"),
    ("robbins_siegmund", "step 4", "F(w_k) converges and Σγ_k h_k² is finite: the theorem of Robbins and Siegmund"),
    ("compactness", "step 6", "h → 0 brings w_k to the zeros of h; the limit points are connected"),
):
    prose(name, f"{NAME}, {item}", statement)
prose(
    "martingale_convergence",
    "Theorem 3″",
    "martingales with a finite sum of variances converge; stopping; finitely many changes of cell",
)
