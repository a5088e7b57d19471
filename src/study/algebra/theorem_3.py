"""Section 4: what the assumptions say and imply, and Theorem 3 as printed."""

from __future__ import annotations

from fractions import Fraction

import sympy
import z3

from ..theory import reference as ref
from .evidence import EXACT, SYMPY, Z3, identity, prose, prove, rational, refute, step

# --- The assumptions -------------------------------------------------------------------------------------------------


@step(
    "Assumption 7(b)",
    SYMPY,
    "Σ γ₀²/(k+1)² over k ≥ 0 equals γ₀² π²/6, so it is finite",
    {"power": 3},
    {"start": 1},
)
def harmonic_squares(power=2, start=0):
    k, g = sympy.Symbol("k", integer=True, nonnegative=True), sympy.Symbol("gamma_0", positive=True)
    identity(g**2 * sympy.summation(1 / (k + 1) ** power, (k, start, sympy.oo)), g**2 * sympy.pi**2 / 6)


@step(
    "Assumption 7(b)",
    Z3,
    "γ₀/(k+1) ≥ γ₀/(2n) for k + 1 ≤ 2n, and n such terms (n ≤ k < 2n) add up to at least γ₀/2, whatever n ≥ 1",
    {"at_least": 1},
)
def harmonic_steps_diverge(at_least=Fraction(1, 2)):
    n, g, least, total = z3.Reals("n gamma_0 least sum")
    term, k = z3.Reals("term k")
    prove(term * 2 * n >= g, [n >= 1, n <= k, k + 1 <= 2 * n, g > 0, term * (k + 1) == g])
    prove(
        total >= rational(at_least) * g,
        [n >= 1, g > 0, least * 2 * n >= g, total >= n * least],
    )


@step(
    "Assumption 6",
    SYMPY,
    "E(G − EG)² = EG² − (EG)² in every coordinate, so the variance is at most E|G|²",
    {"sign": 1},
)
def bounded_variance(sign=-1):
    square, mean = sympy.symbols("E|G|^2 EG")
    of_g = sympy.Symbol("G")
    expanded = sympy.expand((of_g - mean) ** 2)
    identity(expanded.subs(of_g**2, square).subs(of_g, mean), square + sign * mean**2)


@step(
    "Assumption 6",
    Z3,
    "with |ℓ′| ≤ M and ℓ′(x) − ℓ′(y) ≥ μ(x − y), two points x > y are at most 2M/μ apart",
    {"apart": 1},
)
def no_strong_convexity(apart=2):
    x, y, at_x, at_y, M, mu = z3.Reals("x y at_x at_y M mu")
    known = [x > y, mu > 0, M > 0, -M <= at_x, at_x <= M, -M <= at_y, at_y <= M, at_x - at_y >= mu * (x - y)]
    prove(mu * (x - y) <= apart * M, known)


@step(
    "Assumption 1",
    Z3,
    "ℓ(w) = ½(max(0, w) − 1)²: for every L > 0 and δ = 1/(4 + 4L), |ℓ′(δ) − ℓ′(−δ)| > L · 2δ",
    {"smooth": True},
)
def relu_not_smooth(smooth=False):
    L, delta = z3.Reals("L delta")  # noqa: N806
    right = delta - 1
    left = -delta - 1 if smooth else z3.RealVal(0)  # without the ReLU the slope would be w - 1 on both sides
    change = z3.If(right - left >= 0, right - left, left - right)
    prove(change > 2 * L * delta, [L > 0, delta * (4 + 4 * L) == 1])


@step(
    "Assumption 8(a)",
    EXACT,
    "refuted for an epoch without replacement: given the first gradient, the second has the mean gradient as its mean",
    {"replace": True},
)
def epoch_is_biased(replace=False):
    samples = [Fraction(1), Fraction(-1)]
    rest = samples if replace else samples[1:]
    mean, second = sum(samples) / 2, sum(rest) / len(rest)
    refute(second == mean, first_gradient=samples[0], mean_of_the_second=second, gradient_of_the_loss=mean)


# --- Theorem 3 as printed ----------------------------------------------------------------------------------------------


@step(
    "Theorem 3",
    Z3,
    "one more term keeps H_k ≤ k/(N₀+1), and then P(ŵ_k = w_{N₀}) = 1/(H_k(N₀+1)) ≥ 1/k",
    {"times": 2},
)
def first_iterate_returns(times=1):
    H, k, N, term, p = z3.Reals("H k N_0 term p")
    known = [H > 0, k >= 1, N >= 0, H * (N + 1) <= k]
    prove((H + term) * (N + 1) <= k + 1, [*known, term * (k + N + 1) == 1])
    prove(p * k >= times, [*known, p * H * (N + 1) == 1])


prose(
    "borel_cantelli",
    "Theorem 3",
    "independent events whose chances add up to ∞ happen infinitely often (Borel–Cantelli)",
)


@step(
    "Theorem 3",
    EXACT,
    "refuted: with the printed rule, ℓ = w²/20 and γ_k = 1/(k+1) a weight does not stop where −ℓ′ points into C_ε",
    {"start": Fraction(8, 5)},
)
def printed_rule_freezes(start=Fraction(2)):
    Q, eps, w = (-1, 1), Fraction(1, 2), start
    path = [w]
    for k in range(3):
        w += ref.velocity_printed(w / 10, w, Q, eps, Fraction(1), ref.phi, ref.phi_prime) / (k + 1)
        path.append(w)
    inwards = ref.phi(w, Q, eps) == 0 and -w / 10 * ref.phi_prime(w, Q, eps) > 0
    stopped = path[1] == path[2] == path[3]  # and so for ever: the velocity 0 does not depend on k
    refute(not (stopped and inwards), start=start, then=path[1], after_that=path[2], minus_gradient_there=-w / 10)


@step(
    "Theorem 3",
    EXACT,
    "refuted: from a feasible start the next weight has an admissible velocity, φ′v ≥ −αφ where φ ≤ 0",
    {"gamma": Fraction(1, 2)},
)
def midpoint_is_met(gamma=Fraction(1)):
    Q, eps, alpha = (-1, 1), Fraction(1, 2), Fraction(1)
    w = Fraction(3, 4)  # feasible
    after = w + gamma * ref.velocity(w, w, Q, eps, alpha, ref.phi, ref.phi_prime)  # ℓ = w²/2
    value, slope = ref.phi(after, Q, eps), ref.phi_prime(after, Q, eps)
    some = value >= 0 or slope != 0
    refute(ref.phi(w, Q, eps) < 0 or some, start=w, then=after, constraint_there=value, slope_there=slope)


# --- Theorem 2 as quoted, with the printed rule -----------------------------------------------------------------------


@step(
    "Theorem 2",
    EXACT,
    "refuted: with the printed rule and ψ, ε = 1/16, ℓ = w²/200, γ_k = (6/5)/(k+1), a weight does not stop where −ℓ′ points into C_ε",
    {"start": Fraction(9, 8)},
    {"first_step": Fraction(1)},
)
def printed_rule_freezes_with_psi(start=Fraction(11, 8), first_step=Fraction(6, 5)):
    Q, eps, w = (-1, 1), Fraction(1, 16), start
    path = [w]
    for k in range(3):
        w += first_step / (k + 1) * ref.velocity_printed(w / 100, w, Q, eps, Fraction(1), ref.psi, ref.psi_prime)
        path.append(w)
    inwards = ref.psi(w, Q, eps) == 0 and -w / 100 * ref.psi_prime(w, Q) > 0
    stopped = path[1] == path[2] == path[3]  # and so for ever: the velocity 0 does not depend on k
    refute(not (stopped and inwards), start=start, then=path[1], after_that=path[2], minus_gradient_there=-w / 100)


@step(
    "Theorem 2",
    EXACT,
    "refuted: with ψ, ε = 1/16, ℓ = w²/2 and γ₀ = 1 the next weight after a feasible one has an admissible velocity, ψ′v ≥ −αψ where ψ ≤ 0",
    {"gamma": Fraction(1, 2)},
)
def midpoint_is_met_with_psi(gamma=Fraction(1)):
    Q, eps, w = (-1, 1), Fraction(1, 16), Fraction(9, 10)  # feasible
    after = w + gamma * ref.velocity(w, w, Q, eps, Fraction(1), ref.psi, ref.psi_prime)
    value, slope = ref.psi(after, Q, eps), ref.psi_prime(after, Q)
    some = value >= 0 or slope != 0
    refute(ref.psi(w, Q, eps) < 0 or some, start=w, then=after, constraint_there=value, slope_there=slope)
