"""The rounding freezes: when a step can change it, when none can, and what is left of annealing then.

One coordinate is in its rounding cell [m_-, m_+) with the level q and the feasible interval [a, b] around it; e is the smallest distance
between a feasible interval and a midpoint. M bounds the stochastic gradient, M_c the push.
"""

from __future__ import annotations

from fractions import Fraction

import sympy
import z3

from .evidence import EXACT, SYMPY, Z3, identity, prose, prove, refute, step
from .theorem_3_corrected import SIDES, largest, least, velocity

NAME = "Freeze"


def _step_in_a_cell():
    """Midpoints, edges, level, weight and next weight, half the smallest gap, and what is known of them."""
    low, a, q, b, high, w, after, half, e, g, M, Mc = z3.Reals("m_- a q b m_+ w w_+ half e gamma M M_c")
    G, r = z3.Reals("G r")
    known = [
        a - low >= e, high - b >= e, a < q, q < b, q - low >= half, high - q >= half, e > 0, g > 0, Mc > 0, r >= 0,
        -M <= G, G <= M, low <= w, w < high,
    ]  # fmt: skip
    left, right = (velocity(side, G, r, Mc) for side, _ in SIDES)
    known.append(after == w + g * z3.If(w <= a, left, z3.If(w >= b, right, -G)))
    return low, high, after, half, e, g, M, Mc, known


@step(
    f"{NAME}, part 1",
    Z3,
    "γM < e and γM_c ≤ Δ/2 (half the smallest gap) keep the cell: m₋ ≤ w + γv < m₊, for the velocity of (A4) and any gradient |G| ≤ M",
    {"reach": 1.1},
    {"push": 1.5},
)
def short_steps_keep_the_cell(reach=1, push=1):
    low, high, after, half, e, g, M, Mc, known = _step_in_a_cell()
    prove(z3.And(low <= after, after < high), [*known, g * M < reach * e, g * Mc <= push * half])


@step(
    f"{NAME}, part 1",
    EXACT,
    "refuted for γM = e: from the edge −½ of −1's interval (φ, ε = ¾) a step of ½ ends on the midpoint, which rounds to +1",
    {"short": Fraction(1, 100)},
)
def a_step_of_length_e_is_too_long(short=Fraction(0)):
    edge, epsilon = Fraction(-1, 2), Fraction(3, 4)
    if epsilon - (1 - edge) * (1 + edge) != 0:
        raise AssertionError("not an edge")
    after = edge + Fraction(1, 2) - short
    refute(after < 0, edge=edge, step=Fraction(1, 2) - short, lands_at=after)


@step(
    f"{NAME}, part 2",
    Z3,
    "e = √(Δ²/4 − b) does not fall when the band b shrinks, so the freeze, once there, stays: s < e, b′ ≤ b, s′ ≤ s give s′ < e′",
    {"closing": False},
)
def the_middle_grows(closing=True):
    half, b, next_b, e, next_e, s, next_s = z3.Reals("half b b' e e' s s'")
    known = [half > 0, 0 < b, 0 < next_b, e > 0, e * e == half * half - b, next_e >= 0, next_e * next_e == half * half - next_b]
    prove(next_s < next_e, [*known, 0 <= next_s, next_s <= s, s < e] + [next_b <= b] * closing)


@step(
    f"{NAME}, schedules",
    SYMPY,
    "φ at ε = ρΔ²/4 and ψ at ε = ρ²Δ⁴/16 have their inner edges at a distance of ½Δ√(1−ρ) from the midpoint",
    {"power": 1},
    {"shift": 1},
)
def half_width_of_the_middle(power=2, shift=0):
    delta, rho, m = sympy.symbols("Delta rho m", positive=True)
    w = m + delta / 2 * sympy.sqrt(1 - rho) + shift
    product = (w - (m - delta / 2)) * (m + delta / 2 - w)  # of the distances to the two levels
    identity(rho * delta**2 / 4, product)
    identity(rho**power * delta**4 / 16, product**2)


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


@step(
    f"{NAME}, momentum",
    Z3,
    "with momentum β after the rule, w + γβ/(1−β) u⁺ (u the running velocity) does not rise while w is infeasible below its midpoint; after a step from an edge or below it, it is at most γM₁/(1−β)² above the edge",
    {"plain": True},
    {"outwards": True},
)
def momentum_does_not_carry_far(plain=False, outwards=False):
    w, u, v, beta, g, next_g, M1, edge, t = z3.Reals("w u v beta gamma gamma_+ M_1 edge t")  # t = 1/(1 - β)
    known = [0 <= beta, beta < 1, t * (1 - beta) == 1, 0 < next_g, next_g <= g, M1 > 0, u <= t * M1, v <= M1]
    after = beta * u + v

    def potential(w, u, g):
        return w + g * (0 if plain else beta * t) * largest(u, 0)

    next_potential = potential(w + g * after, after, next_g)
    if not outwards:
        known_inside = [*known, v <= 0]
    else:
        known_inside = known
    prove(next_potential <= potential(w, u, g), known_inside)
    prove(z3.And(after <= t * M1, next_potential <= edge + g * t * t * M1), [*known, w <= edge])


prose("freeze_inductions", f"{NAME}", "from one step to all k; sums of steps that diverge")
