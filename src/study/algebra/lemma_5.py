"""Lemma 5: how strong the push is at the distance d from an edge, for φ (22), for ψ (19), inside a gap and beyond the hull.

A gap has half-width e of its infeasible middle, so an edge is at m ± e and φ has the slope c = 2e = √(Δ² - 4ε) there; s is the
reach of the outer band, ε for φ and √ε for ψ. ψ with the tolerance s² has the same edges as φ with the tolerance s.
"""

from __future__ import annotations

from fractions import Fraction

import sympy
import z3

from ..theory import reference as ref
from .evidence import EXACT, SYMPY, Z3, identity, prove, rational, refute, step

LEMMA = "Lemma 5"


# --- The rule that pushes ----------------------------------------------------------------------------------------------


@step(
    "Equation (20)",
    Z3,
    "v = −G for g > 0, max(−G, −αg/g′) for g ≤ 0 < g′, min(−G, −αg/g′) for g ≤ 0 > g′ is the admissible velocity nearest to −G (g′ ≠ 0)",
    {"printed": True},
    {"times": 2},
)
def rule_is_the_projection(printed=False, times=1):
    G, g, dg, alpha, v = z3.Reals("G g g' alpha v")
    push = -times * alpha * g / dg
    limited = z3.If(z3.Or(z3.And(dg > 0, -G >= push), z3.And(dg < 0, -G <= push)), -G, push)
    if printed:  # the gradient step only where -g' G >= -αg > 0
        limited = z3.If(z3.And(-dg * G >= -alpha * g, -alpha * g > 0), -G, push)
    rule = z3.If(g > 0, -G, limited)
    prove(z3.Implies(g <= 0, rule * dg >= -alpha * g), [alpha > 0, dg != 0])  # it is admissible
    nearest = (rule + G) * (rule + G) <= (v + G) * (v + G)
    prove(nearest, [alpha > 0, dg != 0, z3.Implies(g <= 0, v * dg >= -alpha * g)])


# --- The push of φ ----------------------------------------------------------------------------------------------------


def _gap():
    """Levels a, b = a + Δ of a gap, the upper edge m + e of its infeasible middle, and φ there."""
    w, a, Delta, e, alpha, d = sympy.symbols("w a Delta e alpha d")
    tolerance = Delta**2 / 4 - e**2
    phi = tolerance - (a - w) * (w - a - Delta)
    return w, a + Delta / 2 + e, phi, tolerance, e, alpha, d


@step(
    LEMMA,
    SYMPY,
    "at the distance d from an inner edge the push of φ is αd(c − d)/(c − 2d)",
    {"ahead": 1},
)
def push_phi_exact(ahead=2):
    w, edge, phi, _, e, alpha, d = _gap()
    c = 2 * e
    identity(sympy.diff(phi, w).subs(w, edge), c)
    push = -alpha * phi / sympy.diff(phi, w)
    identity(push.subs(w, edge - d), alpha * d * (c - d) / (c - ahead * d))


@step(
    LEMMA,
    SYMPY,
    "beyond the hull the push of φ is αd, towards the edge",
    {"times": Fraction(1, 2)},
)
def push_phi_outer(times=1):
    q, eps, alpha, d, w = sympy.symbols("q epsilon alpha d w")
    left, right = eps - (q - w), eps - (w - q)
    times = sympy.Rational(times)
    identity((-alpha * left / sympy.diff(left, w)).subs(w, q - eps - d), times * alpha * d)
    identity((-alpha * right / sympy.diff(right, w)).subs(w, q + eps + d), -times * alpha * d)


def _inner_push():
    """The push of φ in terms of c and d, and its range: 0 < d < c/2, up to the midpoint."""
    c, d, alpha = z3.Reals("c d alpha")
    return c, d, alpha, alpha * d * (c - d) / (c - 2 * d), [c > 0, d > 0, 2 * d < c, alpha > 0]


@step(
    LEMMA,
    Z3,
    "r ≥ αd for all 0 < d < c/2",
    {"times": Fraction(11, 10)},
)
def push_phi_at_least(times=1):
    _, d, alpha, push, known = _inner_push()
    prove(push >= rational(times) * alpha * d, known)


@step(
    LEMMA,
    Z3,
    "r ≤ 3/2 αd for all 0 < d ≤ c/4",
    {"times": Fraction(7, 5)},
    {"share": Fraction(3, 10)},
)
def push_phi_at_most(times=Fraction(3, 2), share=Fraction(1, 4)):
    c, d, alpha, push, known = _inner_push()
    prove(push <= rational(times) * alpha * d, [*known, d <= rational(share) * c])


@step(
    LEMMA,
    Z3,
    "for every N ≥ 1: r ≤ Nαd if and only if d ≤ c(N − 1)/(2N − 1)",
    {"shift": 0},
)
def push_phi_constants(shift=1):
    c, d, alpha, push, known = _inner_push()
    N = z3.Real("N")
    prove((push <= N * alpha * d) == (d * (2 * N - 1) <= c * (N - shift)), [*known, N >= 1])


@step(
    "Section 4",
    Z3,
    "r exceeds any B > 0 at the d < c/2 with c − 2d = αc²/(4B + 2αc)",
    {"factor": 10},
)
def push_unbounded(factor=1):
    c, d, alpha, push, known = _inner_push()
    B = z3.Real("B")
    near = (c - 2 * d) * (4 * B + 2 * alpha * c) == alpha * c * c
    prove(push > factor * B, [*known, near, B > 0])
    prove(z3.Implies(near, z3.And(d > 0, 2 * d < c)), [c > 0, alpha > 0, B > 0])  # there is such a d


# --- The printed proof, with ε₁ = -d ----------------------------------------------------------------------------------


@step(
    LEMMA,
    SYMPY,
    "first line: −αφ/φ′ at q₋ + ε₁ equals −α(cε₁ + ε₁²)/(c + 2ε₁)",
    {"square": -1},
)
def lemma_5_first_line(square=1):
    w, edge, phi, _, e, alpha, d = _gap()
    push = -alpha * phi / sympy.diff(phi, w)
    e1 = -d
    identity(push.subs(w, edge + e1), -alpha * (2 * e * e1 + square * e1**2) / (2 * e + 2 * e1))


@step(
    LEMMA,
    SYMPY,
    "second line: the same equals −α(1 + ε₁/c)/(1/ε₁ + 2/c)",
    {"one": 0},
)
def lemma_5_second_line(one=1):
    c, e1, alpha = sympy.symbols("c epsilon_1 alpha")
    identity(-alpha * (c * e1 + e1**2) / (c + 2 * e1), -alpha * (one + e1 / c) / (1 / e1 + 2 / c))


@step(
    LEMMA,
    SYMPY,
    "fourth line: it equals the third, (−αε₁/c)/(2/c) = −αε₁/2",
    {"half": 1},
)
def lemma_5_fourth_line(half=Fraction(1, 2)):
    c, e1, alpha = sympy.symbols("c epsilon_1 alpha")
    identity((-alpha * e1 / c) / (2 / c), -alpha * e1 * sympy.Rational(half))


@step(
    LEMMA,
    Z3,
    "third line, “≤ −αε₁/2” = αd/2, is false for every admissible d: r > αd/2",
    {"times": Fraction(11, 10)},
)
def lemma_5_third_line_never_holds(times=Fraction(1, 2)):
    _, d, alpha, push, known = _inner_push()
    prove(push > rational(times) * alpha * d, known)


@step(
    LEMMA,
    EXACT,
    "third line refuted by the rule itself: levels −1 and 1, ε = 3/4, edge 1/2, α = 1",
    {"times": 3},
)
def lemma_5_third_line_counterexample(times=Fraction(1, 2)):
    Q, eps, edge, d = (-1, 1), Fraction(3, 4), Fraction(1, 2), Fraction(1, 4)
    w = edge - d
    push = ref.velocity(0, w, Q, eps, 1, ref.phi, ref.phi_prime)
    refute(push <= times * d, w=w, distance=d, push=push, printed_bound=times * d)


# --- The push of ψ ----------------------------------------------------------------------------------------------------


@step(
    LEMMA,
    SYMPY,
    "the push of ψ is that of φ with the same edges times (2s + X)/(2(s + X)), X = d(c − d); beyond the hull αd(2s + d)/(2(s + d))",
    {"two": 1},
)
def push_psi_exact(two=2):
    w, edge, phi, s, e, alpha, d = _gap()
    X = d * (2 * e - d)
    psi = s**2 - (s - phi) ** 2  # (w - a)²(w - b)² = (s - φ)²
    ratio = (two * s + X) / (2 * (s + X))
    push = (-alpha * psi / sympy.diff(psi, w)).subs(w, edge - d)
    identity(push, (-alpha * phi / sympy.diff(phi, w)).subs(w, edge - d) * ratio)
    q, x = sympy.symbols("q x")
    outer = s**2 - (x - q) ** 2
    identity((-alpha * outer / sympy.diff(outer, x)).subs(x, q + s + d), -alpha * d * (two * s + d) / (2 * (s + d)))


def _psi_pushes():
    """Inner and outer push of ψ in terms of s, e, d, and the push of φ with the same edges."""
    s, e, d, alpha = z3.Reals("s e d alpha")
    X = d * (2 * e - d)
    phi = alpha * X / (2 * (e - d))
    inner = phi * (2 * s + X) / (2 * (s + X))
    outer = alpha * d * (2 * s + d) / (2 * (s + d))
    return inner, outer, phi, d, alpha, [s > 0, d > 0, alpha > 0], [e > 0, d < e]


@step(
    LEMMA,
    Z3,
    "the push of ψ is at least αd/2, in a gap and beyond the hull",
    {"times": Fraction(3, 4)},
)
def push_psi_at_least(times=Fraction(1, 2)):
    inner, outer, _, d, alpha, known, gap = _psi_pushes()
    prove(inner >= rational(times) * alpha * d, known + gap)
    prove(outer >= rational(times) * alpha * d, known)


@step(
    LEMMA,
    Z3,
    "the push of ψ is at most that of φ with the same edges in a gap, and at most αd beyond the hull",
    {"times": Fraction(9, 10)},
)
def push_psi_at_most(times=1):
    inner, outer, phi, d, alpha, known, gap = _psi_pushes()
    prove(inner <= rational(times) * phi, known + gap)
    prove(outer <= rational(times) * alpha * d, known)
