"""What the text of BAMSProd (Liu et al., arXiv 2009.13799) states, in a form that can be checked without its experiments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np

#: Exponents (of a loss, of a weight) in the units of what the bounds are made of.
UNITS = {
    "D": (0, 1),
    "G": (1, -1),
    "L": (1, -1),
    "v": (2, -2),
    "g": (1, -1),
    "alpha": (0, 1),
    "w": (0, 1),
    "eta": (0, 1),  # w - eta m / sqrt(v): m / sqrt(v) is a number
}


def units(**powers: float) -> tuple[float, float]:
    """(power of the loss, power of a weight) of a product, e.g. units(D=2, v=0.5, eta=-1). A regret has (1, 0).

    Raises KeyError for a symbol that is not in UNITS.
    """
    return tuple(float(sum(UNITS[name][i] * p for name, p in powers.items())) for i in (0, 1))


def example(w: float, t: int, period: int) -> float:
    """The loss f_t(w) of the example before Theorem 1, on [-1, 1]."""
    if w == -1:
        return -1.0
    return {1: w, 2: -w}.get(t % period, 0.0)


def drift_sign(beta2: Fraction, period: int, ratio: Fraction) -> int:
    """Sign of Adam's move over one period of the gradients +a, -ratio a, then 0 (beta1 = 0, constant step), exactly.

    The second moment is the one that repeats itself from period to period. Positive: towards +1. Raises ValueError for a
    period below 3, in which one of the phases never occurs.
    """
    if period < 3:
        raise ValueError(f"period={period}: allowed is 3 or more")
    second = (1 - beta2) * (beta2 + ratio**2) / (1 - beta2**period)  # after the negative gradient, a = 1
    first = beta2 ** (period - 1) * second + (1 - beta2)
    return _sign(ratio**2 * first - second)  # of ratio / sqrt(second) - 1 / sqrt(first)


def threshold_sign(beta2: Fraction, period: int, ratio: Fraction) -> int:
    """The same sign in short form: that of ratio^4 beta2^(period - 2) - 1."""
    return _sign(ratio**4 * beta2 ** (period - 2) - 1)


def printed_condition(beta2: float, period: int, first: float, second: float) -> bool:
    """beta2^(C-2) <= 2 (a_{t+1} - a_t beta2) / (1 - beta2), printed as sufficient for Adam to end at +1."""
    return beta2 ** (period - 2) <= 2 * (second - first * beta2) / (1 - beta2)


def _sign(x: Fraction) -> int:
    return (x > 0) - (x < 0)


def ends(
    method: str,
    first: np.ndarray,
    second: np.ndarray,
    period: np.ndarray,
    beta2: np.ndarray,
    rest: float = 0.0,
    eta: float = 2e-3,
    steps: int = 20_000,
) -> np.ndarray:
    """Where a method ends on [-1, 1] from 0 on gradients `first`, `second`, then `rest`, with constant step eta; arrays (n,).

    method: "Adam" (beta1 = 0), "AMSGrad", "AdaGrad" or "SGD". Raises ValueError for another one.
    """
    if method not in ("Adam", "AMSGrad", "AdaGrad", "SGD"):
        raise ValueError(f"method={method!r}: allowed are Adam, AMSGrad, AdaGrad, SGD")
    w, v, largest, total = (np.zeros_like(first) for _ in range(4))
    for t in range(1, steps + 1):
        phase = t % period
        g = np.where(phase == 1, first, np.where(phase == 2, second, rest))
        v = beta2 * v + (1 - beta2) * g * g
        largest = np.maximum(largest, v)
        total += g * g
        scale = {"Adam": v, "AMSGrad": largest, "AdaGrad": total, "SGD": np.ones_like(v)}[method]
        w = np.clip(w - eta * g / np.sqrt(np.maximum(scale, 1e-300)), -1, 1)
    return w


def algorithm_1(
    gradient: Callable[[float], float],
    w: float,
    eta: float,
    beta2: float,
    low: float,
    high: float,
    steps: int,
    binary: bool = False,
) -> Iterator[tuple[float, float, float, float]]:
    """Algorithm 1 in one dimension with beta1 = 0 on F = [-1, 1]: yields (point of the loss, w, v-hat, v-tilde) of each step.

    binary: the loss is taken at sign(w), and w is a latent weight. low, high: the clip c_l, c_u. The bound v-hat starts at 0.
    """
    v = largest = 0.0
    for t in range(1, steps + 1):
        point = (1.0 if w >= 0 else -1.0) if binary else w
        g = gradient(point)
        v = beta2 * v + (1 - beta2) * g * g
        largest = max(v, largest)
        clipped = min(max(largest, low), high)
        yield point, w, largest, clipped
        w = min(1.0, max(-1.0, w - eta / t**0.5 * g / clipped**0.5))


def bound(largest: float, steps: int, eta: float, beta2: float, diameter: float, alpha: float, last: float) -> float:
    """The right-hand side of Theorem 4 and Corollary 4 in one dimension, beta1 = 0, constant scale alpha.

    largest: v-hat of the last step; last: the fourth term, in which the two differ.
    """
    first = diameter**2 * steps**0.5 / eta * largest**0.5
    third = eta * (1 + np.log(steps)) ** 0.5 / (1 - beta2) ** 0.5 * alpha * steps**0.5
    return float(first + third + last)


def scale(w: np.ndarray, weight: np.ndarray) -> float:
    """The alpha that minimises sum_i weight_i (w_i - alpha sign(w_i))^2: the weighted mean of abs(w)."""
    return float((weight * np.abs(w)).sum() / weight.sum())
