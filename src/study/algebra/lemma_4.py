"""Appendix B, Lemma 4 with its Claims 1 to 8: one coordinate, its rounding cell, and the feasible interval inside.

m_- and m_+ are the midpoints that bound the cell, [q_-, q_+] is the feasible interval, `move` = γ_k v_k and `gM` = γ_k M_1
bounds it. An infeasible weight is moved inwards, the step `inward_speed` of the corrected theorem.
"""

from __future__ import annotations

from fractions import Fraction

import sympy
import z3

from ..theory import reference as ref
from .evidence import EXACT, Z3, prose, prove, refute, step


def _cell():
    """Midpoints, edges, weight, move, bound of the move, and what is known of them."""
    low, a, b, high, w, move, gM = z3.Reals("m_- q_- q_+ m_+ w move gM")
    rules = [
        low < a, a < b, b < high, gM > 0, -gM <= move, move <= gM, low <= w, w < high,
        z3.Implies(w < a, move >= 0), z3.Implies(w > b, move <= 0),
    ]  # fmt: skip
    return low, a, b, high, w, move, gM, rules


# --- Claims 1 to 3 -----------------------------------------------------------------------------------------------------


@step(
    "Claim 1",
    EXACT,
    "refuted: if γ_k M₁ is below the larger margin, max(q₋ − m₋, m₊ − q₊), a weight of the cell stays in it",
    {"margin": min},
)
def claim_1_larger_margin(margin=max):
    Q, eps, M1 = (0, 1, 10), Fraction(1, 5), 1
    w = Fraction(3, 4)
    low, high = Fraction(1, 2), Fraction(11, 2)
    # the edges are irrational: m_- + sqrt(1/4 - eps) and m_+ - sqrt(81/4 - eps)
    margins = [sympy.sqrt(sympy.Rational(n, 4) - sympy.Rational(1, 5)) for n in (1, 81)]
    short = bool(M1 < margin(margins))  # γ_k = 1
    after = w + ref.velocity(Fraction(1), w, Q, eps, Fraction(1), ref.phi, ref.phi_prime, M1)
    refute(not short or low <= after < high, step_at_most=1, w=w, then=after, end_of_the_cell=low)


@step(
    "Claim 1",
    Z3,
    "from an infeasible weight: γM₁ ≤ m₊ − q₋ on the left side and γM₁ ≤ q₊ − m₋ on the right keep it in the cell",
    {"times": 2},
    {"inwards": False},
)
def claim_1_outside(times=1, inwards=True):
    low, a, b, high, w, move, gM, rules = _cell()
    rules = rules if inwards else rules[:-2]
    prove(z3.And(low <= w + move, w + move < high), [*rules, w < a, gM <= times * (high - a)])
    prove(z3.And(low <= w + move, w + move < high), [*rules, w > b, gM <= times * (b - low)])


@step(
    "Claim 1",
    Z3,
    "from a feasible weight: γM₁ < min(q₋ − m₋, m₊ − q₊) keeps it in the cell",
    {"smaller": False},
    {"times": 2},
)
def claim_1_inside(smaller=True, times=1):
    low, a, b, high, w, move, gM, rules = _cell()
    near = [gM < times * (a - low), gM < times * (high - b)]
    below = z3.And(*near) if smaller else z3.Or(*near)
    prove(z3.And(low <= w + move, w + move < high), [*rules, a <= w, w <= b, below])


@step(
    "Claim 1",
    EXACT,
    "refuted: γM₁ below both margins keeps a weight in the closed cell [m₋, m₊]; at its right end the push goes right",
    {"w": Fraction(-1, 2)},
)
def claim_1_closed_cell(w=Fraction(1, 2)):
    Q, eps, gamma = (-1, 0, 1), Fraction(1, 5), Fraction(1, 10)
    short = gamma**2 < Fraction(1, 4) - eps  # γ M_1 is below both margins, sqrt(1/4 - eps)
    after = w + gamma * ref.velocity(Fraction(0), w, Q, eps, Fraction(1), ref.phi, ref.phi_prime, 1)
    refute(not short or Fraction(-1, 2) <= after <= Fraction(1, 2), step_at_most=gamma, w=w, then=after)


# --- Claims 4 and 5 ----------------------------------------------------------------------------------------------------


@step(
    "Claim 4",
    EXACT,
    "refuted: steps too short to leave the cell (k > k₀) cannot pass over [q₋, q₊] without a visit",
    {"gamma": Fraction(1, 20)},
)
def claim_4_before_k1(gamma=Fraction(2, 5)):
    Q, eps = (-1, 0, 1), Fraction(19, 400)  # the feasible interval of 0 is [-1/20, 1/20], both margins are 9/20
    edge, margin, w = Fraction(1, 20), Fraction(9, 20), Fraction(-3, 50)
    after = w + gamma * ref.velocity(Fraction(-1), w, Q, eps, Fraction(1), ref.phi, ref.phi_prime, 1)
    jumped = ref.phi(edge, Q, eps) == 0 and gamma < margin and w < -edge and edge < after
    refute(not jumped, step_at_most=gamma, margin=margin, edges_at_plus_and_minus=edge, w=w, then=after)


@step(
    "Claims 4, 5",
    Z3,
    "γM₁ < q₊ − q₋: a step from below q₋ ends below q₊, and one from above q₊ ends above q₋",
    {"times": 2},
)
def claims_4_and_5(times=1):
    _, a, b, _, w, move, gM, _ = _cell()
    known = [a < b, gM > 0, -gM <= move, move <= gM, gM < times * (b - a)]
    prove(z3.And(z3.Implies(w < a, w + move < b), z3.Implies(w > b, w + move > a)), known)


prose(
    "three_behaviours",
    "Claims 4, 5",
    "after k₁ a weight visits [q₋, q₊] for ever, or stays above it, or stays below it",
)

# --- Claims 6 to 8 -----------------------------------------------------------------------------------------------------


@step(
    "Claim 6",
    Z3,
    "γ ≤ γ_K: from [q₋ − γ_K M₁, q₊ + γ_K M₁] the next weight is in that interval again",
    {"shorter_steps": False},
    {"bound": 0.5},
)
def claim_6_band(shorter_steps=True, bound=1):
    _, a, b, _, w, move, gM, rules = _cell()
    reach = z3.Real("reach")  # γ_K M_1
    known = [*rules, a - bound * reach <= w, w <= b + bound * reach, reach > 0] + [gM <= reach] * shorter_steps
    prove(z3.And(a - bound * reach <= w + move, w + move <= b + bound * reach), known)


@step(
    "Claim 6",
    EXACT,
    "refuted: after a visit at step k > k₀ no weight is beyond q₊ + γ_k M, with M (the gradients) for M₁",
    {"gradients_only": False},
)
def claim_6_with_M(gradients_only=True):
    Q, eps, alpha = (-1, 0, 1), Fraction(19, 400), Fraction(50)
    M, Mc, edge, margin = Fraction(1, 10), Fraction(2), Fraction(1, 20), Fraction(9, 20)
    steps = [Fraction(20, k + 1) for k in (99, 100)]  # γ_0 = 20, γ_k M_1 <= 2/5 is below the margin
    limit = edge + steps[0] * (M if gradients_only else max(M, Mc))
    visit = w = Fraction(-9, 200)
    path = []
    for gamma, G in zip(steps, (M, M), strict=True):
        w += gamma * ref.velocity(G, w, Q, eps, alpha, ref.phi, ref.phi_prime, Mc)
        path.append(w)
    valid = ref.phi(visit, Q, eps) >= 0 and steps[0] * max(M, Mc) < margin
    refute(not valid or max(path) <= limit, visit=visit, then=path[0], after_that=path[1], limit=limit)


@step(
    "Claim 6",
    EXACT,
    "refuted: limsup w_k ≤ q₊ and limsup w_k ≥ q₋ bring w_k to [q₋, q₊]; a sequence that alternates",
    {"lower_limit": True},
)
def claim_6_two_limsups(lower_limit=False):
    a, b = Fraction(-1, 4), Fraction(1, 4)
    period = (a, a - Fraction(1, 8))  # its limsup is the larger, its liminf the smaller of the two
    printed = max(period) <= b and (min if lower_limit else max)(period) >= a
    refute(not printed or min(period) >= a, lower_edge=a, upper_edge=b, for_even_k=period[0], for_odd_k=period[1])


@step(
    "Claims 7, 8",
    Z3,
    "c ≤ min(κδ, M_c), push ≥ κd: if w moved inwards by cΣγ and d ≥ δ, one more step of length γ makes it c(Σγ + γ)",
    {"slow": 2},
    {"near": True},
)
def claim_7_fall(slow=1, near=False):
    start, w, total, gamma, kappa, delta, Mc, c, r, v, edge = z3.Reals("w_k w sum gamma kappa delta M_c c r v q")
    known = [kappa > 0, delta > 0, Mc > 0, gamma > 0, total >= 0, c > 0, c <= slow * kappa * delta, c <= slow * Mc]
    for side in (1, -1):  # above q_+, below q_-
        d, inwards = side * (w - edge), -side * v
        known_here = [d > 0 if near else d >= delta, r >= kappa * d, z3.Or(inwards >= r, inwards >= Mc)]
        fallen, falls = side * (start - w) >= c * total, side * (start - w - gamma * v) >= c * (total + gamma)
        prove(falls, [*known, *known_here, fallen])


prose(
    "lemma_4_assembly",
    "Lemma 4",
    "from one step to all k, and the three behaviours of every coordinate together",
)
