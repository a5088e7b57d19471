"""Lemmas 6, 7 and 8: what fails with noise, and what is right without.

One coordinate near the right outer edge of the levels {-1, 1}, at w = edge + d. I holds the coordinates that take the push r,
the others take -G, G the stochastic gradient; s = -ℓ' > 0 at the edge. S is the measure of Lemma 8: |∂ℓ|² of the coordinates not
in I plus |v|² of those in I.
"""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import sympy
import torch
import z3
from hypothesis import strategies as st

from quantized_training.constraints import PHI
from quantized_training.levels import Levels
from quantized_training.methods import skewed_velocity

from ..theory import reference as ref
from ..theory.convergence import boxes, sines
from .evidence import EXACT, SYMPY, TESTED, Z3, identity, prose, prove, rational, refute, search, step

LEVELS, TOLERANCE, EDGE = (-1, 1), Fraction(1, 2), Fraction(3, 2)


def rule(G: Fraction, w: Fraction) -> tuple[Fraction, bool]:
    """The velocity of the repaired rule for φ, α = 1, as a fraction, and whether it is the push."""
    v = ref.velocity(G, w, LEVELS, TOLERANCE, Fraction(1), ref.phi, ref.phi_prime)
    return v, v != -G


# --- Lemma 6 ----------------------------------------------------------------------------------------------------------


@step(
    "Lemma 6",
    Z3,
    "−γ(1 − γL/2)a² ≤ −γa²/2 for a ≠ 0 if and only if γL ≤ 1",
    {"limit": 2},
)
def descent_of_a_free_coordinate(limit=1):
    a, g, L = z3.Reals("a gamma L")
    prove((-g * (1 - g * L / 2) * a * a <= -g * a * a / 2) == (g * L <= limit), [g > 0, L >= 0, a != 0])


@step(
    "Lemma 6",
    EXACT,
    "refuted: E[G·∂ℓ; i ∉ I] = |∂ℓ|²·P(i ∉ I). ℓ′ = −1/2, G = −3 or 2, d = 1/100",
    {"noise": Fraction(0)},
)
def gradient_on_the_branch(noise=Fraction(5, 2)):
    slope, d = Fraction(-1, 2), Fraction(1, 100)
    free = [G for G in (slope - noise, slope + noise) if not rule(G, EDGE + d)[1]]
    left, right = sum(G * slope / 2 for G in free), slope**2 * Fraction(len(free), 2)
    refute(left == right, left=left, right=right)


@step(
    "Lemma 6",
    Z3,
    "at a right edge or beyond it with ℓ′ < 0, every velocity v = min(−G, −r) leads uphill: vℓ′ ≥ r|ℓ′| ≥ 0",
    {"side": -1},
)
def outside_an_active_edge_all_is_uphill(side=1):
    G, r, slope = z3.Reals("G r slope")
    v = z3.If(-G <= -r, -G, -r)
    prove(z3.And(v * slope * side >= 0, v * slope >= -r * slope), [r >= 0, slope < 0])


@step(
    "Lemma 6",
    Z3,
    "v = min(−G, −r), G = −s ± A with equal chances, A − s ≥ r ≥ 0: −s E v = s(A − s + r)/2, so a loss of slope −s rises",
    {"sign": -1},
    {"turned": False},
)
def loss_rises_outside(sign=1, turned=True):
    s, A, r = z3.Reals("s A r")
    first, second = (z3.If(-G <= -r, -G, -r) for G in (-s + A, -s - A))
    known = [s > 0, A >= 0, r >= 0] + [A - s >= r] * turned
    prove(-s * (first + second) / 2 == s * (A - s + sign * r) / 2, known)


@step(
    "Lemma 6",
    EXACT,
    "refuted by the rule itself: ℓ = −w/2 near the edge, G = −3 or 2, α = L = 1, O(ε₁) = 3/2 ε₁, ε₁ = 1/50, the term −γ/2 Σ|∂ℓ|² left out",
    {"noise": Fraction(0)},
)
def lemma_6_counterexample(noise=Fraction(5, 2)):
    slope, d, gamma, e1 = Fraction(-1, 2), Fraction(1, 100), Fraction(1, 50), Fraction(1, 50)
    gradients = [slope - noise, slope + noise]
    rise = sum(slope * gamma * rule(G, EDGE + d)[0] / 2 for G in gradients)
    push, M, variance = Fraction(3, 2) * e1, max(abs(G) for G in gradients), noise**2
    printed = gamma * M * push + gamma**2 / 2 * push**2 + gamma**2 * variance / 2
    refute(rise <= printed, d=d, gamma=gamma, rise=rise, printed_bound=printed)


@step(
    "Lemma 6",
    Z3,
    "in the same example γ(2 + d)/4 exceeds the printed bound for every d ≥ 0, whatever C in O(ε₁) = Cε₁, once Cε₁ ≤ 1/12, γL ≤ 1/20",
    {"largest": 1},
)
def lemma_6_never_holds(largest=Fraction(1, 12)):
    d, g, L, O = z3.Reals("d gamma L O")  # noqa: E741
    printed = g * 3 * O + g * g * L / 2 * O * O + g * g * z3.Q(25, 4) * L / 2
    largest = rational(largest)
    prove(g * (2 + d) / 4 > printed, [d >= 0, g > 0, L >= 0, g * L <= z3.Q(1, 20), O >= 0, O <= largest])


# --- Lemma 7 ----------------------------------------------------------------------------------------------------------


@step(
    "Lemma 7",
    EXACT,
    "the minus before σ² refuted: ℓ = (w − 1)²/2, G = w − 1 ± 1/4, γ_k = 1/(k + 1), w₀ = 1, all noise paths; I stays empty",
    {"sign": 1},
)
def lemma_7_sign(sign=-1, K=2, T=4):
    amplitude = Fraction(1, 4)
    paths = itertools.product((-amplitude, amplitude), repeat=K + T)
    loss, count = [Fraction(0)] * (K + T + 1), 2 ** (K + T)
    for path in paths:
        w = Fraction(1)
        for k, xi in enumerate(path):
            v, pushed = rule(w - 1 + xi, w)
            assert not pushed
            w += v / (k + 1)
            loss[k + 1] += (w - 1) ** 2 / 2 / count
    steps = {k: Fraction(1, k + 1) for k in range(K, K + T)}
    left = sum(gamma / 2 * 2 * loss[k] for k, gamma in steps.items())  # |ℓ'|² = 2ℓ
    right = loss[K] - loss[K + T] + sign * sum(gamma**2 * amplitude**2 / 2 for gamma in steps.values())
    refute(left <= right, K=K, T=T, left=left, printed_right=right)


@step(
    "Lemma 7",
    Z3,
    "a pushed coordinate costs at most γ(Mr + r²): γva + γ²Lv²/2 + γv²/2 ≤ γ(Mr + r²) for |v| = r, |a| ≤ M, γL ≤ 1",
    {"square": Fraction(1, 2)},
    {"first": Fraction(1, 2)},
)
def cost_of_a_pushed_coordinate(square=1, first=1):
    v, a, r, M, g, L = z3.Reals("v a r M gamma L")
    square, first = map(rational, (square, first))
    prove(
        g * v * a + g * g * L * v * v / 2 + g * v * v / 2 <= g * (first * M * r + square * r * r),
        [z3.Or(v == r, v == -r), r >= 0, -M <= a, a <= M, g > 0, L >= 0, g * L <= 1],
    )


# --- Lemma 8 ----------------------------------------------------------------------------------------------------------


@step(
    "Lemma 8",
    Z3,
    "without noise: S = 0 at a right edge or beyond it (r ≥ αd, r = 0 on the edge) if and only if d = 0 and ℓ′ ≤ 0",
    {"sign": -1},
    {"at_least": 0},
)
def measure_zero_is_kkt(sign=1, at_least=1):
    a, d, r, alpha = z3.Reals("a d r alpha")
    pushed = -a > -r
    measure = z3.If(pushed, r * r, a * a)
    known = [alpha > 0, d >= 0, r >= at_least * alpha * d, z3.Implies(d == 0, r == 0), r >= 0]
    prove((measure == 0) == z3.And(d == 0, sign * a <= 0), known)


prose(
    "drift_balance",
    "Lemma 8",
    "Σγ_k E v_k = E w_T − w_K is bounded and Σγ_k is not: the weighted mean of E v_k tends to 0",
)


@step(
    "Lemma 8",
    SYMPY,
    "if πs − (1 − π)m − (1 − p)R = δ then s²(π + (1 − π)p) = s²(m + ps)/(m + s) + s²(1 − p)(δ + (1 − p)R)/(m + s)",
    {"with_free": 0},
)
def measure_from_the_balance(with_free=1):
    s, m, p, R, delta, share = sympy.symbols("s m p R delta pi")
    (solved,) = sympy.solve(share * s - (1 - share) * m - (1 - p) * R - delta, share)
    measure = s**2 * (solved + with_free * (1 - solved) * p)
    rest = s**2 * (1 - p) * (delta + (1 - p) * R) / (m + s)
    identity(measure, s**2 * (m + p * s) / (m + s) + rest)


@step(
    "Lemma 8",
    SYMPY,
    "noise ±A with A > s: m = (A − s)/2 and p = 1/2 give the limit s²A/(A + s)",
    {"probability": Fraction(1, 3)},
)
def limit_for_two_values(probability=Fraction(1, 2)):
    s, A = sympy.symbols("s A", positive=True)
    m, p = (A - s) / 2, sympy.Rational(probability)
    identity(s**2 * (m + p * s) / (m + s), s**2 * A / (A + s))


@step(
    "Lemma 8",
    SYMPY,
    "noise uniform on [−A, A] with A > s: the integrals m = E max(G, 0) and p = P(G > 0) give the limit s²(A − s)/(A + s)",
    {"from_": -1},
)
def limit_for_uniform_noise(from_=1):
    s, A, x = sympy.symbols("s A x", positive=True)
    m = sympy.integrate((x - s) / (2 * A), (x, from_ * s, A))
    p = sympy.integrate(1 / (2 * A), (x, from_ * s, A))
    identity(s**2 * (m + p * s) / (m + s), s**2 * (A - s) / (A + s))


@step(
    "Lemma 8",
    EXACT,
    "refuted, given that balance: the measure tends to 0. ℓ = −2w, G = −2 ± 3, velocities of the rule itself inside and at the edge",
    {"noise": Fraction(1)},
)
def lemma_8_counterexample(noise=Fraction(3)):
    slope = Fraction(-2)
    gradients = (slope - noise, slope + noise)
    inside, outside = ([rule(G, EDGE + d) for G in gradients] for d in (Fraction(-1, 10), Fraction(0)))
    up, down = (sum(v for v, _ in side) / 2 for side in (inside, outside))
    share = -down / (up - down)  # share · up + (1 - share) · down = 0
    free = share + (1 - share) * Fraction(sum(not pushed for _, pushed in outside), 2)
    refute(slope**2 * free == 0, weight_inside=share, weight_not_in_I=free, limit=slope**2 * free)


# --- Without noise ----------------------------------------------------------------------------------------------------


@step(
    "Lemma 6, corrected",
    TESTED,
    "full gradients, γL ≤ 1: ℓ(w₊) ≤ ℓ(w) − γ/2 Σ_{i∉I}|∂ℓ|² + γ Σ_{i∈I} M rᵢ + γ²L/2 Σ_{i∈I} rᵢ²",
    {"gain": 10.0},
)
def descent_without_noise(gain=1.0):
    def violation(seed: int) -> float:
        rng = np.random.default_rng(seed)
        n, levels, eps = int(rng.integers(1, 6)), Levels.ternary(), rng.uniform(0.02, 0.22)
        loss = sines(n, 2 * n + 1, seed)
        low, high = boxes(torch.as_tensor(rng.choice(levels.values, n)), levels, eps, PHI)
        w = low + (high - low) * torch.as_tensor(rng.uniform(-0.5, 1.5, n))
        gradient, gamma, alpha = loss.gradient(w), rng.uniform(0.01, 1) / loss.smoothness, rng.uniform(0.2, 4)
        v = skewed_velocity(gradient, w, levels, eps, alpha, PHI, clip=5.0)
        pushed = v != -gradient
        M, r = gradient.abs().max(), v.abs()[pushed]
        right = loss.value(w) - gain * gamma / 2 * (gradient[~pushed] ** 2).sum() + gamma * M * r.sum()
        right = right + gamma**2 * loss.smoothness / 2 * (r**2).sum()
        return (loss.value(w + gamma * v) - right).item()

    search(violation, 1e-9, 200, seed=st.integers(0, 10**6))


prose(
    "telescoping_without_noise",
    "Lemmas 7 and 8, corrected",
    "sum Lemma 6 from K to K + T − 1, drop all but the ends, divide by Σγ_k, which grows like γ₀ log T",
)

# --- The end of the proof ---------------------------------------------------------------------------------------------


@step(
    "Lemma 8",
    SYMPY,
    "d/dk sin(log log k) = cos(log log k)/(k log k)",
    {"power": 2},
)
def small_velocity_is_not_convergence(power=1):
    k = sympy.Symbol("k", positive=True)
    inner = sympy.log(sympy.log(k))
    identity(sympy.diff(sympy.sin(inner), k), sympy.cos(inner) / (k * sympy.log(k) ** power))
