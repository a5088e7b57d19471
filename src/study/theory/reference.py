"""Every equation written out: plain Python floats, one coordinate at a time, the paper's symbols.

Slow on purpose. The tests hold the tensor code equal to this file; read it beside the paper. In the paper's
letters: w a weight, Q its levels q_1 < ... < q_K, G the stochastic gradient of the loss at the point named,
gamma (or eta) the step size, eps the tolerance, lam strength (6) or multipliers (section 5), g and
dg a constraint, (19) or (22), and its derivative. "Repaired" marks a slip of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Function = Callable[[float, Sequence[float], float], float]


# Section 2: roundings and straight-through estimators


def sign(w: float) -> float:
    """(1): w_b = +1 if w >= 0, -1 otherwise."""
    return 1.0 if w >= 0 else -1.0


def nearest(w: float, Q: Sequence[float]) -> float:
    """(1) for any levels: the closest one; the upper one at a midpoint, as sign(0) = +1."""
    below = [b for a, b in zip(Q, Q[1:], strict=False) if w >= (a + b) / 2]
    return below[-1] if below else Q[0]


def hard_sigmoid(x: float) -> float:
    """Below (4): sigma(x) = max(0, min((x + 1)/2, 1))."""
    return max(0.0, min((x + 1) / 2, 1.0))


def binarize(w: float, u: float) -> float:
    """(4): +1 with probability sigma(w), -1 otherwise; u is the uniform draw from [0, 1)."""
    return 1.0 if u < hard_sigmoid(w) else -1.0


def probability_up(w: float, a: float, b: float) -> float:
    """(4) for neighbouring levels a < b: the probability of b; the expectation is w wherever a <= w <= b."""
    return max(0.0, min((w - a) / (b - a), 1.0))


def stochastic(w: float, Q: Sequence[float], u: float) -> float:
    """(4) for any levels: up or down in the gap that contains w; beyond the outer levels, the outer level."""
    for a, b in zip(Q, Q[1:], strict=False):
        if w < b:
            return b if u < probability_up(w, a, b) else a
    return Q[-1]


def mask(w: float, Q: Sequence[float]) -> float:
    """(3): the indicator 1(w), for {-1, +1} that of |w| <= 1. Repaired in name only: it is the derivative of
    the hard tanh, not of the clipped ReLU."""
    return 1.0 if Q[0] <= w <= Q[-1] else 0.0


def kbit_printed(w: float, k: int) -> int:
    """(5) as printed: w in [0, 1] to round((2^k - 1) w) - (2^(k-1) - 1), for k = 4 the integers -7 .. 8."""
    return math.floor((2**k - 1) * w + 0.5) - (2 ** (k - 1) - 1)


def kbit(w: float, k: int) -> int:
    """(5), repaired: subtracting 2^(k-1) gives the interval of section 6, for k = 4 the integers -8 .. 7."""
    return math.floor((2**k - 1) * w + 0.5) - 2 ** (k - 1)


# Section 2.3: ProxQuant


def prox_l1(w: float, Q: Sequence[float], lam: float) -> float:
    """(6) with R(w) = min_q |w - q|: towards the nearest level by lam, and not beyond it."""
    q = nearest(w, Q)
    if abs(w - q) <= lam:
        return q
    return w - lam if w > q else w + lam


def prox_l2(w: Sequence[float], Q: Sequence[float], lam: float) -> list[float]:
    """(6) with R(w) = min_q ||w - q||_2, not squared, as printed: one block for all coordinates."""
    q = [nearest(x, Q) for x in w]
    norm = math.sqrt(sum((x - y) ** 2 for x, y in zip(w, q, strict=True)))
    if norm <= lam:
        return q
    return [y + (1 - lam / norm) * (x - y) for x, y in zip(w, q, strict=True)]


def prox_squared_l2(w: float, Q: Sequence[float], lam: float) -> float:
    """(6) with R(w) = min_q ||w - q||_2^2, the form usually quoted: a mean of w and its nearest level."""
    return (w + 2 * lam * nearest(w, Q)) / (1 + 2 * lam)


# Sections 3 to 5: constraints


def psi(w: float, Q: Sequence[float], eps: float) -> float:
    """(19). Feasible where psi >= 0."""
    if w < Q[0]:
        return eps - (Q[0] - w) ** 2
    for a, b in zip(Q, Q[1:], strict=False):
        if a <= w < b:
            return eps - (w - a) ** 2 * (w - b) ** 2
    return eps - (w - Q[-1]) ** 2


def psi_prime(w: float, Q: Sequence[float], eps: float = 0.0) -> float:
    """Derivative of (19); it is continuous and does not depend on eps."""
    if w < Q[0]:
        return 2 * (Q[0] - w)
    for a, b in zip(Q, Q[1:], strict=False):
        if a <= w < b:
            return -2 * (w - a) * (w - b) * (2 * w - a - b)
    return -2 * (w - Q[-1])


def phi(w: float, Q: Sequence[float], eps: float) -> float:
    """(22). Feasible where phi >= 0; psi with tolerance eps^2 equals phi (2 eps - phi)."""
    if w < Q[0]:
        return eps - (Q[0] - w)
    for a, b in zip(Q, Q[1:], strict=False):
        if a <= w < b:
            return eps - (a - w) * (w - b)
    return eps - (w - Q[-1])


def phi_prime(w: float, Q: Sequence[float], eps: float = 0.0) -> float:
    """Derivative of (22), from the right at the levels, where phi has a kink; it does not depend on eps."""
    if w < Q[0]:
        return 1
    for a, b in zip(Q, Q[1:], strict=False):
        if a <= w < b:
            return 2 * w - a - b
    return -1


def f(w: float, Q: Sequence[float], eps: float) -> list[float]:
    """Section 5: the pieces f_1 .. f_(K+1) of (22), continued to the whole line; their minimum is phi."""
    middle = [eps - (a - w) * (w - b) for a, b in zip(Q, Q[1:], strict=False)]
    return [eps - (Q[0] - w), *middle, eps - (w - Q[-1])]


def f_prime(w: float, Q: Sequence[float]) -> list[float]:
    """Derivatives of the pieces f_j."""
    return [1.0, *[2 * w - a - b for a, b in zip(Q, Q[1:], strict=False)], -1.0]


# The velocity of ASkewSGD


def velocity_printed(
    G: float, w: float, Q: Sequence[float], eps: float, alpha: float, g: Function, dg: Function
) -> float:
    """The rule below (21) as printed. Where g(w) = 0 its "> 0" is never met, and the weight freezes."""
    if g(w, Q, eps) > 0 or -dg(w, Q, eps) * G >= -alpha * g(w, Q, eps) > 0:
        return -G
    return -alpha * g(w, Q, eps) / dg(w, Q, eps)


def velocity(
    G: float,
    w: float,
    Q: Sequence[float],
    eps: float,
    alpha: float,
    g: Function,
    dg: Function,
    M: float = math.inf,
) -> float:
    """The rule below (21), repaired: without its "> 0" it is the projection of -G on (20), on the edges, too.

    Completed where the paper is silent: the push, not the gradient, is clipped at M; at a midpoint, where (20)
    is empty, the push goes right with size M; where intervals touch (g = g' = 0) nothing is constrained.
    """
    value, slope = g(w, Q, eps), dg(w, Q, eps)
    if value > 0 or value == slope == 0:
        return -G
    if slope == 0:
        return max(-G, M)
    if -slope * G >= -alpha * value:
        return -G
    push = -alpha * value / slope
    return push if abs(push) <= M else max(-G, M) if push > 0 else min(-G, -M)


# One step of each method on one weight, with plain SGD as the base optimizer


def clip(w: float, Q: Sequence[float]) -> float:
    """The point of [q_1, q_K] closest to w."""
    return min(max(w, Q[0]), Q[-1])


def full_precision_step(w: float, G: float, gamma: float) -> float:
    """w_(k+1) = w_k - gamma G(w_k)."""
    return w - gamma * G


def binary_connect_step(w: float, G: float, Q: Sequence[float], gamma: float) -> float:
    """(2) and section 6: G was taken at a rounding of w; the latent weight is clipped after the update."""
    return clip(w - gamma * G, Q)


def shrunk(w: float, Q: Sequence[float], delta: float) -> float:
    """w clipped to the hull of two levels, made shorter by the part delta; for {-1, +1} to [-1 + delta, 1 - delta]."""
    edge = delta * (Q[1] - Q[0]) / 2
    return max(Q[0] + edge, min(w, Q[1] - edge))


def debiased_step(w: float, W: float, G: float, Q: Sequence[float], gamma: float, delta: float) -> float:
    """Debiased BinaryConnect: G was taken at W, which the weight x (w clipped) is rounded to with the chance `chance`; for
    {-1, +1} twice the chance is 1 + W x."""
    up = probability_up(shrunk(w, Q, delta), *Q)
    chance = up if W == Q[1] else 1 - up
    return shrunk(w - gamma * G / (2 * chance), Q, delta)


def straight_through_step(w: float, G: float, Q: Sequence[float], gamma: float) -> float:
    """(3): G was taken at nearest(w)."""
    return w - gamma * G * mask(w, Q)


def kbit_point(w: float, Q: Sequence[float], k: int) -> float:
    """(5), with the hull [q_1, q_K] mapped on [0, 1] (our choice) and its integers on the levels."""
    return Q[kbit((clip(w, Q) - Q[0]) / (Q[-1] - Q[0]), k) + 2 ** (k - 1)]


def prox_quant_step(w: float, G: float, Q: Sequence[float], eta: float, lam: float, norm: str) -> float:
    """(6): a gradient step, then the prox with parameter eta lam; "l2" for a tensor of one weight."""
    w = w - eta * G
    if norm == "l2":
        return prox_l2([w], Q, eta * lam)[0]
    return {"l1": prox_l1, "squared_l2": prox_squared_l2}[norm](w, Q, eta * lam)


def askew_step(
    w: float,
    G: float,
    Q: Sequence[float],
    gamma: float,
    eps: float,
    alpha: float,
    g: Function,
    dg: Function,
    M: float,
) -> float:
    """Algorithm 1, lines 4 and 5."""
    return w + gamma * velocity(G, w, Q, eps, alpha, g, dg, M)


def sgda_step(
    w: float,
    lam: Sequence[float],
    G: float,
    Q: Sequence[float],
    eta_x: float,
    eta_lam: float,
    eps: float,
    D: float,
) -> tuple[float, list[float]]:
    """Algorithm 2, lines 5 and 6, from the same (w, lambda); P projects on [0, D] each (our choice)."""
    dL_dw = G - sum(x * y for x, y in zip(lam, f_prime(w, Q), strict=True))
    dL_dlam = [-y for y in f(w, Q, eps)]
    return w - eta_x * dL_dw, [min(max(x + eta_lam * y, 0.0), D) for x, y in zip(lam, dL_dlam, strict=True)]
