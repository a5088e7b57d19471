"""What can be guaranteed for the rounded network (chapter 13): the steps of its proofs that a machine can check.

f is a loss of n signs, F(x) = E f(W) with independent signs W_i of mean x_i its multilinear extension on the cube, l a loss of
real weights that is f at the signs. phi(t) is the mean of l with the i-th weight at t, the others rounded at random.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import sympy
import torch
import z3
from hypothesis import strategies as st

from ..theory import rounded
from ..theory.convergence import envelope, prox_point
from .evidence import SYMPY, TESTED, Z3, identity, prose, prove, search, step
from .theorem_3_corrected import largest, least

NAME = "Rounded network"
HALF, QUARTER, THREE_HALVES = (sympy.Rational(p, q) for p, q in ((1, 2), (1, 4), (3, 2)))


def absolute(x):
    """The absolute value of a term of z3."""
    return largest(x, -x)


# --- The extension -----------------------------------------------------------------------------------------------------


@step(
    f"{NAME}, 1",
    Z3,
    "the smaller of a and b is at most their mean (1 + x)/2 a + (1 − x)/2 b, if −1 ≤ x ≤ 1",
    {"reach": 2},
)
def rounding_one_weight(reach=1):
    a, b, x = z3.Reals("a b x")
    prove(least(a, b) <= (1 + x) / 2 * a + (1 - x) / 2 * b, [-reach <= x, x <= reach])


@step(
    f"{NAME}, 1",
    TESTED,
    "weight by weight the sign with the smaller mean: f at the end is at most F(x)",
    {"nearest": True},
)
def rounding_never_loses(nearest=False):
    def violation(seed: int) -> float:
        rng = np.random.default_rng(seed)
        table = _table(rng)
        x = torch.as_tensor(rng.uniform(-1, 1, int(np.log2(len(table)))))
        mean = partial(rounded.extension, table)
        signs = torch.where(x < 0, -1.0, 1.0) if nearest else rounded.round_by_means(mean, x)
        return (mean(signs) - mean(x)).item()

    search(violation, 1e-12, 150, seed=st.integers(0, 10**6))


@step(
    f"{NAME}, 1",
    Z3,
    "a draw with a loss above (1 + e) times the mean of a loss that is not negative has a chance of at most 1/(1 + e)",
    {"times": 2},
)
def one_draw_is_not_much_worse(times=1):
    chance, e, F, below, above = z3.Reals("chance e F below above")  # conditional means on either side
    known = [0 <= chance, chance <= 1, e > 0, F > 0, below >= 0, above > (1 + e) * F]
    prove(times * chance * (1 + e) <= 1, [*known, F == chance * above + (1 - chance) * below])


# --- What the estimates are estimates of ---------------------------------------------------------------------------------


def _quadratic(n: int = 3):
    """A quadratic of n weights with symbols for entries: the points x, the Hessian, the loss."""
    x, b = sympy.symbols(f"x:{n}"), sympy.symbols(f"b:{n}")
    H = sympy.Matrix(n, n, lambda i, j: sympy.Symbol(f"H_{min(i, j)}{max(i, j)}"))

    def loss(w):
        w = sympy.Matrix(w)
        return (w.T * H * w)[0] / 2 - (sympy.Matrix(b).T * w)[0]

    return x, H, loss


def _mean(of, x):
    """The mean of a function of signs, whose means are x, term by term."""
    total = 0
    for W in product((-1, 1), repeat=len(x)):
        chance = sympy.prod([(1 + s * m) / 2 for s, m in zip(W, x, strict=True)])
        total += chance * of(W)
    return sympy.expand(total)


@step(
    f"{NAME}, 2",
    SYMPY,
    "for l(w) = w'Hw/2 − b'w: F(x) = l(x) + ½ Σ Hᵢᵢ (1 − xᵢ²), three weights, any H and b",
    {"half": 1},
)
def extension_of_a_quadratic(half=HALF):
    x, H, loss = _quadratic()
    variance = sum(H[i, i] * (1 - x[i] ** 2) for i in range(len(x)))
    identity(_mean(loss, x), sympy.expand(loss(x) + half * variance))


@step(
    f"{NAME}, 2",
    SYMPY,
    "for a quadratic the mean of ∇l at the random signs is ∇l(x), which is ∇F(x) + diag(H) x",
    {"sign": -1},
    {"curvature": 0},
)
def binary_connect_on_a_quadratic(sign=1, curvature=1):
    x, H, loss = _quadratic()
    w = sympy.symbols("w:3")
    for i in range(3):
        slope = sympy.diff(loss(w), w[i])
        mean = _mean(lambda W, slope=slope: slope.subs(dict(zip(w, W, strict=True))), x)
        identity(mean, sympy.expand(sympy.diff(loss(x), x[i])))
        identity(mean, sympy.expand(sympy.diff(_mean(loss, x), x[i]) + sign * curvature * H[i, i] * x[i]))


@step(
    f"{NAME}, 3",
    SYMPY,
    "slopes a at +1 and b at −1: divided by 1 + Wx their mean is (a + b)/2; undivided it is that plus x (a − b)/2",
    {"twice": 1},
)
def mean_of_the_debiased(twice=2):
    x, a, b = sympy.symbols("x a b")
    up, down = (1 + x) / 2, (1 - x) / 2
    middle = (a + b) / 2
    identity(up * a / (twice * up) + down * b / (twice * down), middle)
    identity(up * a + down * b, middle + x * (a - b) / 2)


@step(
    f"{NAME}, 3",
    SYMPY,
    "(φ'(1) + φ'(−1))/2 − (φ(1) − φ(−1))/2 = ¼ ∫ φ''' (1 − t²) dt over [−1, 1], all polynomials up to degree 7; ¼ ∫ (1 − t²) dt = 1/3",
    {"square": 1},
    {"share": HALF},
)
def trapezoid_error(square=2, share=QUARTER):
    t = sympy.Symbol("t")
    phi = sum(c * t**k for k, c in enumerate(sympy.symbols("c:8")))
    slope = sympy.diff(phi, t)
    middle = (slope.subs(t, 1) + slope.subs(t, -1)) / 2 - (phi.subs(t, 1) - phi.subs(t, -1)) / 2
    kernel = share * (1 - t**square)
    identity(middle, sympy.integrate(sympy.expand(sympy.diff(phi, t, 3) * kernel), (t, -1, 1)))
    identity(sympy.integrate(kernel, (t, -1, 1)), sympy.Rational(1, 3))


@step(
    f"{NAME}, 3",
    Z3,
    "a slope s between the ends differs from their middle by at most half of the way over it: |s − (u + v)/2| ≤ (|s − u| + |v − s|)/2",
    {"times": 0.5},
)
def slope_of_bounded_variation(times=1):
    s, u, v = z3.Reals("s u v")
    prove(absolute(s - (u + v) / 2) <= times * (absolute(s - u) + absolute(v - s)) / 2)


@step(
    f"{NAME}, 3",
    SYMPY,
    "the second moment of slopes ±M divided by 1 + Wx is M² / (1 − x²)",
    {"power": 1},
)
def second_moment_of_the_debiased(power=2):
    x, M = sympy.symbols("x M")
    moment = sum((1 + W * x) / 2 * (M / (1 + W * x)) ** power for W in (-1, 1))
    identity(moment, M**2 / (1 - x**2))


@step(
    f"{NAME}, 3",
    Z3,
    "1 − x² ≥ δ(2 − δ) ≥ δ for |x| ≤ 1 − δ and 0 < δ ≤ 1",
    {"times": 2},
    {"reach": 1},
)
def chance_in_the_smaller_cube(times=1, reach=0):
    x, delta = z3.Reals("x delta")
    inside = [0 < delta, delta <= 1, absolute(x) <= 1 - (1 - reach) * delta]
    prove(z3.And(1 - x * x >= times * delta * (2 - delta), delta * (2 - delta) >= delta), inside)


# --- Convergence -----------------------------------------------------------------------------------------------------------


@step(
    f"{NAME}, 4",
    SYMPY,
    "right side of (R4) minus F(ẑ) + L E‖ẑ − x + γg‖² is 2Lγ times the sum of the slacks of R1, R2 and R3",
    {"gain": 3},
    {"convexity": 1},
    {"bias": 1},
)
def rounded_descent_is_a_sum_of_slacks(gain=2, convexity=THREE_HALVES, bias=2):
    # z = ẑ(x), h = |x - z|, X = <∇F(x), x - z>, Y = <E g - ∇F(x), x - z>, V = E|g|², β = |E g - ∇F(x)|
    h, Fx, Fz, X, Y, V, beta, g, L = sympy.symbols("h F_x F_z X Y V beta gamma L")
    slacks = [
        X - (Fx - Fz) + L / 2 * h**2,  # R1: the gradient of F is Lipschitz
        Fx - Fz - convexity * L * h**2,  # R2: F + L|. - x|² is L-strongly convex, z minimises it, x is in the cube
        Y + beta * h,  # R3: Cauchy and Schwarz
    ]
    before, after = Fz + L * h**2, Fz + L * (h**2 - 2 * g * (X + Y) + g**2 * V)
    right = before - gain * L**2 * g * h**2 + bias * L * g * beta * h + L * g**2 * V
    identity(sympy.expand(right - after), sympy.expand(2 * L * g * sum(slacks)))


@step(
    f"{NAME}, 4",
    Z3,
    "−2L²h² + 2Lβh ≤ −L²h² + β²: a bias β costs at most β²",
    {"times": 0.5},
)
def bias_costs_its_square(times=1):
    L, beta, h = z3.Reals("L beta h")
    prove(-2 * L * L * h * h + 2 * L * beta * h <= -L * L * h * h + times * beta * beta, [L > 0, beta >= 0, h >= 0])


def _table(rng, n: int | None = None) -> torch.Tensor:
    """A random loss of up to four signs: plain noise, or what a few products of them give, which leaves flat directions."""
    n = n or int(rng.integers(1, 5))
    table = torch.as_tensor(rng.normal(size=2**n)) * 10.0 ** rng.uniform(-1, 1)
    if rng.random() < 0.5:
        W = rounded.corners(n)
        table = torch.zeros(2**n, dtype=torch.float64)
        for _ in range(n):
            table = table + float(rng.normal()) * W[:, torch.as_tensor(rng.random(n) < 0.5)].prod(-1)
    return table


def _problem(seed: int):
    """A random loss of signs, its extension with a Lipschitz constant, the cube's upper corner, and a point of the cube."""
    rng = np.random.default_rng(seed)
    table = _table(rng)
    n = int(np.log2(len(table)))
    loss, reach = rounded.loss_of(table), rng.choice([1.0, 0.9])
    high = torch.full((n,), reach, dtype=torch.float64)
    loss = replace(loss, smoothness=max(loss.smoothness, 1e-3))
    return rng, table, loss, high, reach * torch.as_tensor(np.clip(rng.uniform(-1.5, 1.5, n), -1, 1))


@step(
    f"{NAME}, 4",
    TESTED,
    "R1, R2, and the distance of 0 from ∇F(ẑ) + N_C(ẑ) is at most 2Lh",
    {"gradient": 0.0},
    {"convexity": 2.0},
    {"times": 1.9},
)
def slacks_of_the_rounded_descent(gradient=0.5, convexity=1.5, times=2.0):
    def violation(seed: int) -> float:
        _, _, loss, high, x = _problem(seed)
        L, z = loss.smoothness, prox_point(x, loss, -high, high)
        h, fall = (x - z).norm(), loss.value(x) - loss.value(z)
        first = fall - gradient * L * h**2 - loss.gradient(x) @ (x - z)
        second = convexity * L * h**2 - fall
        slope = loss.gradient(z)  # N_C(z) cancels what falls towards the outside
        rest = torch.where(z == high, slope.clamp(min=0), torch.where(z == -high, slope.clamp(max=0), slope))
        return max(first, second, rest.norm() - times * L * h).item()

    search(violation, 1e-9, 150, seed=st.integers(0, 10**6))


@step(
    f"{NAME}, 4",
    TESTED,
    "E Φ(x₊) ≤ Φ(x) − L²γh² + γβ² + Lγ²E‖g‖², all means as exact sums over the estimate's values",
    {"gain": 3.0},
    {"noise": 0.0},
)
def rounded_envelope_descends(gain=1.0, noise=1.0):
    def violation(seed: int) -> float:
        rng, table, loss, high, x = _problem(seed)
        n, L, true = len(x), loss.smoothness, loss.gradient(x)
        if rng.random() < 0.5:  # the estimate by one coordinate, all its values
            g = n * torch.eye(n, dtype=torch.float64) * rounded.differences(table)[:, None, :]
            chance, g = rounded.chances(x).repeat_interleave(n) / n, g.reshape(-1, n)
        else:  # noise of any kind, and a bias
            g = true + torch.as_tensor(rng.normal(rng.normal(size=n) * rng.choice([0, 1]), 1, (6, n)))
            chance = torch.full((6,), 1 / 6, dtype=torch.float64)
        gamma = 10.0 ** rng.uniform(-6, 0)
        after = (chance * envelope((x - gamma * g).clamp(-high, high), loss, -high, high)).sum()
        z = prox_point(x, loss, -high, high)
        h2, before = ((x - z) ** 2).sum(), envelope(x, loss, -high, high)
        bias2 = ((chance @ g - true) ** 2).sum()
        right = before - gamma * (gain * L**2 * h2 - bias2) + noise * L * gamma**2 * chance @ (g**2).sum(-1)
        return ((after - right) / gamma / (1 + abs(before))).item()

    search(violation, 1e-9, 300, seed=st.integers(0, 10**6))


# --- Vertices, single-flip minima, saddles -----------------------------------------------------------------------------------


@step(
    f"{NAME}, 5",
    Z3,
    "at a sign s with f there and f with it turned: −∂F points out of the cube, s ∂F ≤ 0, exactly if f ≤ f turned",
    {"strict": True},
)
def vertex_is_a_single_flip_minimum(strict=False):
    up, down, s = z3.Reals("f_up f_down s")
    here, turned, slope = z3.If(s > 0, up, down), z3.If(s > 0, down, up), (up - down) / 2
    better = here < turned if strict else here <= turned
    prove((s * slope <= 0) == better, [z3.Or(s == 1, s == -1)])


@step(
    f"{NAME}, 5",
    SYMPY,
    "two weights whose slopes are 0 and whose mixed derivative is c: along (1, −sign c) F changes by −|c| t²",
    {"same": True},
)
def saddle_of_two_weights(same=False):
    t, c, sigma, constant, p, q, x, y, u, v = sympy.symbols("t c sigma F_0 p q x y u v", real=True)
    F = constant + p * u + q * v + c * u * v  # any multilinear function of two weights, the others fixed
    flat = {p: -c * y, q: -c * x}  # both slopes are 0 at (x, y)
    moved = F.subs({u: x + t, v: y + (sigma if same else -sigma) * t}) - F.subs({u: x, v: y})
    # |c| is c times its sign sigma
    identity(sympy.expand(moved.subs(flat)), -c * sigma * t**2)


@step(
    f"{NAME}, 5",
    Z3,
    "a slope that is not positive at (1 − δ)s, and by at most δr another at s: f(s) ≤ f(turned) + 2δr",
    {"times": 1},
)
def corner_of_the_smaller_cube(times=2):
    here, turned, slope, delta, r = z3.Reals("f_s f_turned slope delta r")
    at_vertex = (here - turned) / 2  # s ∂F at the vertex
    prove(
        here <= turned + times * delta * r,
        [slope <= 0, absolute(at_vertex - slope) <= delta * r, delta > 0, r >= 0],
    )


@step(
    f"{NAME}, 5",
    TESTED,
    "∂F at (1 − δ)s and at s differ by at most δ times the sum of the largest |∂∂F| of the row",
    {"times": 0.5},
)
def slopes_near_a_vertex(times=1.0):
    def violation(seed: int) -> float:
        rng = np.random.default_rng(seed)
        table, delta = _table(rng), rng.uniform(0, 1)
        first = rounded.differences(table)
        s = rounded.corners(first.shape[-1])[rng.integers(len(table))]
        row = rounded.differences(first.mT).abs().amax(1).sum(-1)  # largest |∂∂F| over the vertices, row by row
        moved = (rounded.field(first, (1 - delta) * s) - rounded.field(first, s)).abs()
        return (moved - times * delta * row).max().item()

    search(violation, 1e-12, 150, seed=st.integers(0, 10**6))


prose(
    "generic_losses",
    f"{NAME}, 5",
    "for almost every f the slopes of the free weights have an invertible Hessian wherever they vanish on a face (Sard's theorem with parameters)",
)
