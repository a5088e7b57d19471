"""BAMSProd and the example of Reddi et al.: what of their theory a machine can check.

C, b (β₂) and the slopes are those of `study.theory.bamsprod`; k = √ṽ/η is the inverse of the step of one weight, D the
length of the interval to which the weights are clipped.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import sympy
import z3
from hypothesis import strategies as st

from ..theory import bamsprod
from .evidence import EXACT, SYMPY, TESTED, Z3, identity, prose, prove, refute, search, step
from .theorem_3_corrected import largest, least

REDDI, EXAMPLE, BOUND = "BAMSProd, Reddi et al.", "BAMSProd, Theorem 1", "BAMSProd, corrected bound"


def clip(x, low=-1, high=1):
    """x moved to the nearest point of [low, high], as a term of z3."""
    return largest(low, least(x, high))


# --- Reddi et al.: slopes C, -1, -1 with β₂ = 1/(1 + C²) ---------------------------------------------------------------


@step(
    REDDI,
    Z3,
    "β₂ = 1/(1+C²), 0 ≤ v ≤ C² give β₂v + (1−β₂)C² ∈ [(1−β₂)C², C²] and β₂v + (1−β₂) ≤ min(2(1−β₂), C²), if C ≥ 1",
    {"times": 1.5},
    {"least_C": 0.5},
)
def reddi_second_moments(times=2, least_C=1):
    b, C, v = z3.Reals("b C v")
    large, small = b * v + (1 - b) * C * C, b * v + (1 - b)
    prove(
        z3.And((1 - b) * C * C <= large, large <= C * C, small <= times * (1 - b), small <= C * C),
        [b * (1 + C * C) == 1, C >= least_C, 0 <= v, v <= C * C],
    )


@step(
    REDDI,
    Z3,
    "from period 2 on (N = 3k+1 ≥ 4): the two steps up together are at least the step down, 1/√(v₂(N+1)) + 1/√(v₃(N+2)) ≥ C/√(v₁N)",
    {"first": 1},
    {"moment": 3},
)
def reddi_later_periods(first=4, moment=2):
    # s = 1 - β₂; all steps times √s: by the moments above down² N <= 1 and up² 2 (N + 1) >= 1, up² 2 (N + 2) >= 1
    N, down, up, again = z3.Reals("N down up again")
    known = [down > 0, up > 0, again > 0, down * down * N <= 1]
    known += [up * up * moment * (N + 1) >= 1, again * again * moment * (N + 2) >= 1]
    prove(up + again >= down, [N >= first, *known])


@step(
    REDDI,
    Z3,
    "the same in the first period, where v₀ = 0, for any 0 < β₂ < 1 with (1+C²)β₂ = 1",
    {"times": 1.02},
)
def reddi_first_period(times=1):
    # times √(1 - β₂): down = 1, 2 up² (1 + β₂C²) = 1, 3 again² (1 + β₂ + β₂²C²) = 1, and β₂C² = 1 - β₂
    b, up, again = z3.Reals("b up again")
    known = [2 * up * up * (2 - b) == 1, 3 * again * again * (1 + b + b * (1 - b)) == 1]
    prove(up + again >= times, [0 < b, b < 1, up > 0, again > 0, *known])


@step(
    REDDI,
    Z3,
    "from 1 down by d, then up by u and u′ with u + u′ ≥ d ≥ 0, each time clipped to [−1, 1]: it ends at 1",
    {"short": 0.1},
)
def reddi_returns_to_one(short=0):
    d, u, again = z3.Reals("d u u'")
    prove(
        clip(clip(clip(1 - d) + u) + again) == 1,
        [d >= 0, u >= 0, again >= 0, u + again >= d - short],
    )


@step(
    REDDI,
    Z3,
    "a period that begins at 1 has a regret of at least 2C − 4, wherever in [−1, 1] its other two weights are",
    {"extra": 0.1},
)
def reddi_regret_of_a_period(extra=0):
    C, y, z = z3.Reals("C w_2 w_3")
    regret = C * (1 + 1) - (y + 1) - (z + 1)
    prove(regret >= 2 * C - 4 + extra, [C > 2, -1 <= y, y <= 1, -1 <= z, z <= 1])


@step(
    REDDI,
    EXACT,
    "refuted: with slopes 3, −1, −1, whose sum is positive, gradients clipped to [−1, 1] have a positive sum, too: a clip sends SGD to +1, the wrong end",
    {"bound": 2},
)
def clipping_turns_the_example_round(bound=1):
    slopes = (3, -1, -1)
    clipped = sum(max(-bound, min(x, bound)) for x in slopes)
    refute(clipped >= 0, sum_of_slopes=sum(slopes), sum_of_clipped=clipped)


# --- The example of Theorem 1 ------------------------------------------------------------------------------------------


@step(
    EXAMPLE,
    EXACT,
    "refuted: the function with t mod C = 2 lies below its chords",
    {"t": 1},
)
def example_is_convex(t=2):
    left, middle, right = (Fraction(bamsprod.example(w, t, 5)) for w in (-1, 0, 1))
    refute(middle <= (left + right) / 2, value_at_0=middle, middle_of_the_chord=(left + right) / 2)


@step(
    EXAMPLE,
    SYMPY,
    "r²v₁ − u = β₂(1−β₂)/(1−β₂ᶜ) · (r⁴β₂^(C−2) − 1) for the periodic second moments u, v₁; drift/η = r/√u − 1/√v₁",
    {"power": 2},
    {"exponent": 1},
)
def drift_has_the_sign_of_the_threshold(power=4, exponent=2):
    b, r, C = sympy.symbols("b r C", positive=True)
    u = (1 - b) * (b + r**2) / (1 - b**C)
    first = b ** (C - 1) * u + (1 - b)
    identity(r**2 * first - u, b * (1 - b) / (1 - b**C) * (r**power * b ** (C - exponent) - 1))


# --- The corrected bound -----------------------------------------------------------------------------------------------


@step(
    BOUND,
    Z3,
    "one weight, one step: g(w − z) ≤ k/2 (w − z)² − k/2 (w₊ − z)² + g²/(2k), w₊ = clip(w − g/k), for z in the interval",
    {"last": 0.9},
    {"outside": 1},
)
def one_step_of_one_weight(last=1, outside=0):
    w, u, z, k = z3.Reals("w u z k")  # u = w - g/k, before the clip
    g, after = k * (w - u), clip(u)
    prove(
        2 * g * (w - z) <= k * (w - z) ** 2 - k * (after - z) ** 2 + last * k * (w - u) ** 2,
        [k > 0, -1 - outside <= z, z <= 1 + outside],
    )


@step(
    BOUND,
    Z3,
    "telescoping: S ≤ k/2 (D² − y) gives S + k₊/2 (y − y₊) ≤ k₊/2 (D² − y₊), if k₊ ≥ k and y ≤ D²; y, y₊ squared distances",
    {"monotone": False},
    {"inside": False},
)
def sum_telescopes(monotone=True, inside=True):
    S, k, after, y, next_y, D = z3.Reals("S k k_+ y y_+ D")
    known = [S <= k / 2 * (D * D - y), 0 <= y, 0 <= next_y, k > 0, after > 0]
    known += [after >= k] * monotone + [y <= D * D] * inside
    prove(S + after / 2 * (y - next_y) <= after / 2 * (D * D - next_y), known)


@step(
    BOUND,
    Z3,
    "t·clip(v̂, c_l, c_u) does not decrease if v̂ and c_l do not, and t·c_u does not",
    {"power": 2},
    {"largest_so_far": False},
)
def clipped_moment_grows_with_t(power=1, largest_so_far=True):
    t, v, low, high, v_next, low_next, high_next = z3.Reals("t v c_l c_u v_+ c_l+ c_u+")
    grown = high_next * (t + 1) ** power >= high * t**power
    known = [t >= 1, 0 <= v, 0 <= low, low <= high, low_next <= high_next, low_next >= low, grown]
    known += [v_next >= (v if largest_so_far else 0)]
    prove((t + 1) * clip(v_next, low_next, high_next) >= t * clip(v, low, high), known)


@step(
    BOUND,
    SYMPY,
    "‖g‖²‖q‖² − ⟨g, q⟩² is a sum of squares (three weights), with g/√h for g and √h q for q: ⟨g, q⟩ ≤ ‖g‖ in H⁻¹ times ‖q‖ in H",
    {"sign": -1},
)
def gradient_against_error(sign=1):
    g, q = sympy.symbols("g:3"), sympy.symbols("q:3")
    h = sympy.symbols("h:3", positive=True)
    left = sum(x * x / y for x, y in zip(g, h, strict=True)) * sum(y * x * x for x, y in zip(q, h, strict=True))
    left -= sum(x * y for x, y in zip(g, q, strict=True)) ** 2
    a = [x / sympy.sqrt(y) for x, y in zip(g, h, strict=True)]
    b = [x * sympy.sqrt(y) for x, y in zip(q, h, strict=True)]
    pairs = ((0, 1), (0, 2), (1, 2))
    identity(left, sum((a[i] * b[j] - sign * a[j] * b[i]) ** 2 for i, j in pairs))


@step(
    BOUND,
    SYMPY,
    "⟨g, x⟩ = a + c(a − a′) − c⟨m′, x − x′⟩ for m = βm′ + (1 − β)g, a = ⟨m, x⟩, a′ = ⟨m′, x′⟩, c = β/(1 − β); primes: the step before",
    {"sign": 1},
    {"power": 2},
)
def momentum_by_parts(sign=-1, power=1):
    g, x, beta, before, x_before = sympy.symbols("g x beta m' x'")
    m, c = beta * before + (1 - beta) * g, beta / (1 - beta) ** power
    identity(g * x, m * x + c * (m * x - before * x_before) + sign * c * before * (x - x_before))


@step(
    BOUND,
    Z3,
    "telescoping: S ≤ (c₁ − c)A + ca gives S + c₊(a₊ − a) ≤ (c₁ − c₊)A + c₊a₊ for c₊ ≤ c and a ≤ A, and such a bound is at most c₁A",
    {"falling": False},
    {"largest_so_far": False},
)
def momentum_telescopes(falling=True, largest_so_far=True):
    S, first, c, after, a, next_a, A = z3.Reals("S c_1 c c_+ a a_+ A")
    known = [S <= (first - c) * A + c * a, after >= 0] + [after <= c] * falling + [a <= A] * largest_so_far
    prove(S + after * (next_a - a) <= (first - after) * A + after * next_a, known)
    prove((first - c) * A + c * a <= first * A, [c >= 0, a <= A])


@step(
    BOUND,
    Z3,
    "one weight: m(w − w₊) ≤ m²/k for w₊ = clip(w − m/k), and |m(w − z)| ≤ D|m|, if w and z are in the interval",
    {"last": 0.9},
    {"outside": 1},
)
def momentum_of_one_weight(last=1, outside=0):
    w, u, z, k = z3.Reals("w u z k")  # u = w - m/k, before the clip
    m, after = k * (w - u), clip(u)
    known = [k > 0, -1 <= w, w <= 1, -1 - outside <= z, z <= 1 + outside]
    prove(m * (w - after) <= last * k * (w - u) ** 2, known)
    prove(largest(m * (w - z), m * (z - w)) <= 2 * largest(m, -m), known)


@step(
    BOUND,
    TESTED,
    "regret ≤ the four terms, for adaptive.BAMSProd on random convex problems of 1 to 6 weights, binary or real, momentum up to 0.99, constant or falling",
    {"share": 0.1},
)
def corrected_bound_holds(share=1.0):
    def violation(seed: int) -> float:
        rng = np.random.default_rng(seed)
        beta1, falling = rng.choice([0, 0.5, 0.9, 0.99]), rng.random() < 0.5
        found = bamsprod.online(
            2,
            [10, 200],
            seed,
            weights=int(rng.integers(1, 7)),
            eta=10 ** rng.uniform(-1, 1),
            rate=10 ** rng.uniform(-3, 0),
            beta1=lambda t: beta1 / t if falling else beta1,
            beta2=rng.choice([0.5, 0.9, 0.99]),
            binary=bool(rng.random() < 0.7),
        )
        return float((found.regret / (share * found.corrected.sum(0))).max() - 1)

    search(violation, 1e-9, 12, seed=st.integers(0, 10**6))


prose(
    "convexity_and_the_sum",
    f"{BOUND}",
    "f(w̃) − f(w*) ≤ ⟨g, w − w*⟩ + ⟨g, w̃ − w⟩ for a convex f and g its gradient at w̃; sums over the weights and over t",
)
