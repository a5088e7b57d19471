"""The rounding freezes: when a step can change it, when none can, and what is left of annealing then.

One coordinate is in its rounding cell [m_-, m_+) with the level q and the feasible interval [a, b] around it; e is the smallest distance
between a feasible interval and a midpoint. M bounds the stochastic gradient, M_c the push, M_1 both.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import sympy
import torch
import z3
from hypothesis import strategies as st

from quantized_training.constraints import PHI, PSI
from quantized_training.levels import Levels
from quantized_training.methods import skewed_velocity

from ..theory import reference as ref
from ..theory.convergence import adversary, boxes, fixed_from
from .evidence import EXACT, SYMPY, TESTED, Z3, identity, prose, prove, refute, search, step
from .theorem_3_corrected import SIDES, largest, least, velocity

NAME = "Freeze"


@step(
    f"{NAME}, part 1",
    Z3,
    "γM ≤ e and γM_c ≤ Δ/2 (half the smallest gap) keep the cell, m₋ ≤ w + γv < m₊, for the velocity of (A4) and any gradient |G| ≤ M",
    {"reach": 1.1},
    {"push": 1.5},
)
def short_steps_keep_the_cell(reach=1, push=1):
    low, a, q, b, high, w, half, e, g, M, Mc, G, r = z3.Reals("m_- a q b m_+ w half e gamma M M_c G r")
    left, right = (velocity(side, G, r, Mc) for side, _ in SIDES)
    after = w + g * z3.If(w <= a, left, z3.If(w >= b, right, -G))
    known = [a < q, q < b, e > 0, g > 0, Mc > 0, r >= 0, -M <= G, G <= M, g * M <= reach * e, g * Mc <= push * half]
    # each side alone, because the outermost cells have one midpoint only
    prove(after < high, [*known, high - b >= e, high - q >= half, w < high])
    prove(low <= after, [*known, a - low >= e, q - low >= half, low <= w])


@step(
    f"{NAME}, part 1",
    EXACT,
    "refuted for γM = e + 1/100: a step from just inside the edge −½ of −1's interval (φ, ε = ¾, e = ½) does not reach the midpoint 0",
    {"more": Fraction(0)},
)
def a_step_longer_than_e_may_change_the_level(more=Fraction(1, 100)):
    Q, epsilon, start = (-1, 1), Fraction(3, 4), Fraction(-1, 2) - Fraction(1, 200)
    step = Fraction(1, 2) + more
    after = start + step * ref.velocity(Fraction(-1), start, Q, epsilon, Fraction(1), ref.phi, ref.phi_prime)
    refute(after < 0, start=start, step=step, lands_at=after)


@step(
    f"{NAME}, part 1",
    TESTED,
    "from k₀ on no weight changes its level, for random levels, schedules and starts and the gradients of an adversary who waits next to the edges",
    {"bound": 0.95},
)
def adversary_cannot_change_the_rounding(bound=1.0):
    def violation(seed: int) -> float:
        rng = np.random.default_rng(seed)
        constraint = (PHI, PSI)[seed % 2]
        levels = Levels(tuple(np.cumsum(rng.uniform(0.3, 2, rng.integers(2, 5))).tolist()))
        steps, M = 40, 10 ** rng.uniform(-1, 1)
        largest_epsilon = constraint.largest_epsilon(levels)
        epsilon = largest_epsilon * rng.uniform(0.5, 0.99) * np.cumprod(rng.uniform(0.6, 1, steps))
        gamma = min(levels.gaps) * 10 ** rng.uniform(-1.5, 0.5) / M * np.cumprod(rng.uniform(0.9, 1, steps))
        clip = M * rng.uniform(0.1, 1)
        wait = torch.as_tensor(rng.integers(0, steps, 40))
        path = adversary(levels, constraint, epsilon, gamma, M, rng.uniform(0.1, 3), clip, wait=wait, seed=seed)
        first = fixed_from(levels, constraint, epsilon, gamma, bound * M, bound * clip)
        cells = levels.cell(path)[first:]
        return float((cells != cells[:1]).any())

    search(violation, 0.5, 60, seed=st.integers(0, 10**6))


@step(
    f"{NAME}, part 2",
    Z3,
    "e = √(Δ²/4 − b) does not fall when the band b shrinks, so the freeze, once there, stays: s ≤ e, b′ ≤ b, s′ ≤ s give s′ ≤ e′",
    {"closing": False},
)
def the_middle_grows(closing=True):
    half, b, next_b, e, next_e, s, next_s = z3.Reals("half b b' e e' s s'")
    known = [half > 0, 0 < b, 0 < next_b, e > 0, e * e == half * half - b]
    known += [next_e >= 0, next_e * next_e == half * half - next_b, 0 <= next_s, next_s <= s, s <= e]
    prove(next_s <= next_e, known + [next_b <= b] * closing)


@step(
    f"{NAME}, schedules",
    SYMPY,
    "φ at ε = τΔ²/4 and ψ at ε = τ²Δ⁴/16 have their inner edges at a distance of ½Δ√(1−τ) from the midpoint",
    {"power": 1},
    {"shift": 1},
)
def half_width_of_the_middle(power=2, shift=0):
    delta, tau, m = sympy.symbols("Delta tau m", positive=True)
    w = m + delta / 2 * sympy.sqrt(1 - tau) + shift
    product = (w - (m - delta / 2)) * (m + delta / 2 - w)  # of the distances to the two levels
    identity(tau * delta**2 / 4, product)
    identity(tau**power * delta**4 / 16, product**2)


@step(
    f"{NAME}, schedules",
    Z3,
    "γM ≤ ½Δ√(1−τ) if and only if τ ≤ 1 − (2γM/Δ)², for 0 ≤ τ ≤ 1",
    {"factor": 1},
)
def when_the_middle_is_wider_than_a_step(factor=2):
    root, tau, move, delta, share = z3.Reals("root tau gammaM Delta share")  # share = 2γM/Δ
    known = [
        root >= 0,
        root * root == 1 - tau,
        0 <= tau,
        tau <= 1,
        move >= 0,
        delta > 0,
        share * delta == factor * move,
    ]
    prove((2 * move <= delta * root) == (tau <= 1 - share * share), known)


@step(
    f"{NAME}, part 3",
    Z3,
    "an interval within η/2 of its level q, γM₁ ≤ η/2: |w₊ − q| ≤ max{|w − q| − γ min(κη/2, M_c), η}",
    {"within": 2},
    {"times": 3},
)
def weight_follows_its_closing_interval(within=1, times=1):
    a, b, q, w, v, g, eta, kappa, Mc, M1 = z3.Reals("a b q w v gamma eta kappa M_c M_1")
    d = largest(0, largest(a - w, w - b))
    before, after = (z3.If(x >= q, x - q, q - x) for x in (w, w + g * v))
    known = [
        q - within * eta / 2 <= a, a < q, q < b, b <= q + within * eta / 2, g * M1 <= eta / 2, g > 0, eta > 0, kappa > 0, Mc > 0,
        -M1 <= v, v <= M1, z3.Implies(w < a, v >= least(kappa * d, Mc)), z3.Implies(w > b, -v >= least(kappa * d, Mc)),
    ]  # fmt: skip
    prove(after <= largest(before - times * g * least(kappa * eta / 2, Mc), eta), known)


def _momentum():
    """Weight, running velocity u, velocity v, both steps, w + γβ/(1−β) u⁺ before and after the step, and what is known."""
    w, u, v, beta, g, next_g, M1, edge, t = z3.Reals("w u v beta gamma gamma_+ M_1 edge t")  # t = 1/(1 - β)
    known = [0 <= beta, beta < 1, t * (1 - beta) == 1, 0 < next_g, next_g <= g, M1 > 0, u <= t * M1, v <= M1]
    after = beta * u + v
    before = w + g * beta * t * largest(u, 0)
    return v, g, M1, edge, t, w, before, w + g * after + next_g * beta * t * largest(after, 0), known


@step(
    f"{NAME}, momentum",
    Z3,
    "w + γβ/(1−β) u⁺ does not rise in a step with v ≤ 0, so momentum β carries an infeasible weight no further than that",
    {"outwards": True},
)
def momentum_fades(outwards=False):
    v, *_, before, after, known = _momentum()
    prove(after <= before, known + [v <= 0] * (not outwards))


@step(
    f"{NAME}, momentum",
    Z3,
    "after a step that starts at an edge or on its near side, w + γβ/(1−β) u⁺ is at most γM₁/(1−β)² beyond the edge",
    {"power": 1},
)
def momentum_carries_at_most(power=2):
    v, g, M1, edge, t, w, before, after, known = _momentum()
    prove(after <= edge + g * t**power * M1, [*known, w <= edge])


@step(
    f"{NAME}, momentum",
    TESTED,
    "with γM₁ < (1−β)²e from a feasible start on, no weight changes its level, for random levels and schedules, gradients and a first velocity u as hard as they may be towards the nearest midpoint",
    {"power": 1},
)
def momentum_cannot_change_the_rounding(power=2):
    def violation(seed: int) -> float:
        rng = np.random.default_rng(seed)
        constraint, steps = (PHI, PSI)[seed % 2], 40
        levels = Levels(tuple(np.cumsum(rng.uniform(0.3, 2, rng.integers(2, 5))).tolist()))
        beta, M, share = rng.choice([0.3, 0.6, 0.9]), 10 ** rng.uniform(-1, 1), rng.uniform(0.1, 1)
        epsilon = constraint.largest_epsilon(levels) * rng.uniform(0.5, 0.99) * np.cumprod(rng.uniform(0.9, 1, steps))
        e = (min(levels.gaps) ** 2 / 4 - constraint.band(epsilon[0])) ** 0.5
        gamma = 0.999 * (1 - beta) ** power * e / M * np.cumprod(rng.uniform(0.97, 1, steps))
        midpoints, (low, high) = torch.tensor(levels.midpoints, dtype=torch.float64), levels.hull
        low, high = boxes(torch.as_tensor(rng.uniform(low, high, 20)), levels, epsilon[0], constraint)
        w = low + (high - low) * torch.as_tensor(rng.choice([1e-6, 0.05, 0.5, 0.95, 1 - 1e-6], 20))
        cells, u = levels.cell(w), 0
        for k in range(steps):
            G = M * torch.where(w >= midpoints[(w[:, None] - midpoints).abs().argmin(-1)], 1.0, -1.0)
            v = skewed_velocity(G, w, levels, epsilon[k], rng.uniform(0.1, 2), constraint, share * M)
            u = beta * u + v if k else v / (1 - beta)
            w = w + gamma[k] * u
            if not torch.equal(levels.cell(w), cells):
                return 1.0
        return 0.0

    search(violation, 0.5, 60, seed=st.integers(0, 10**6))


prose("freeze_inductions", NAME, "from one step to all k; sums of steps that diverge")
