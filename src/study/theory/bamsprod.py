"""The theory of BAMSProd (Liu et al., arXiv 2009.13799), and Reddi et al.'s (2018) on which it builds, in a form that runs.

Three groups: periodic problems on [-1, 1] and what optimizers do on them (`Cycle`, `walk`, `drift`), the example before
Theorem 1, and the regret bounds with random convex problems to hold them against (`online`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import lsq_linear
from scipy.signal import lfilter

from quantized_training.adaptive import BAMSProd
from quantized_training.schedules import Falling, Rising

OPTIMISERS = ("SGD", "AdaGrad", "Adam", "AMSGrad", "AdaBound", "AMSBound", "BAMSProd")

# --- Periodic problems on [-1, 1] ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cycle:
    """Linear losses f_t(w) = g_t w on [-1, 1] whose slopes repeat, one problem per lane; numbers or arrays (n,).

    g_t is `first` where t mod period = 1, `second` where it is 2, `rest` otherwise. jump: besides, f_t(-1) = -1 for
    every t, as before Theorem 1. What a gradient is at the jump the paper does not say: "one-sided" takes the slope to
    the right of it, "absorb" takes 0. The losses are compared with those of -1.

    Raises ValueError for another jump and for a period below 3, in which one of the slopes never occurs.
    """

    first: float | np.ndarray
    second: float | np.ndarray
    rest: float | np.ndarray = 0.0
    period: int | np.ndarray = 3
    jump: str | None = None

    def __post_init__(self) -> None:
        if self.jump not in (None, "one-sided", "absorb"):
            raise ValueError(f"jump={self.jump!r}: allowed are None, 'one-sided', 'absorb'")
        if np.min(self.period) < 3:
            raise ValueError(f"period={self.period}: allowed is 3 or more")

    def slopes(self, steps: int) -> np.ndarray:
        """g_1, ..., g_steps, shape (steps, n)."""
        phase = np.arange(1, steps + 1)[:, None] % np.atleast_1d(self.period)
        return np.where(phase == 1, self.first, np.where(phase == 2, self.second, self.rest)).astype(float)

    def average_regret(self, w: np.ndarray) -> np.ndarray:
        """1/T sum_(t<=T) (f_t(w_t) - f_t(-1)) for T = 1, 2, ...; `w` as `walk` returns it. Shape (steps, n)."""
        w = w[:-1]
        g = self.slopes(len(w))
        loss = g * (w + 1) if self.jump is None else np.where(w == -1, 0.0, g * w + 1)
        return np.cumsum(loss, axis=0) / np.arange(1, len(w) + 1)[:, None]


def reddi(c: float | np.ndarray) -> Cycle:
    """C w, -w, -w (Reddi et al., 2018, Theorem 1): -1 is best for C > 2."""
    return Cycle(c, -1.0, -1.0, 3)


def theorem_1(ratio: float | np.ndarray, period: int | np.ndarray, jump: str = "one-sided") -> Cycle:
    """The example before Theorem 1: slopes 1, -ratio, then 0; ratio = alpha_(t+1) / alpha_t."""
    return Cycle(1.0, -np.asarray(ratio, float), 0.0, period, jump)


def repaired(ratio: float | np.ndarray, period: int | np.ndarray) -> Cycle:
    """The same with both signs turned and no jump: linear, hence convex; -1 is best for ratio > 1."""
    return Cycle(-1.0, np.asarray(ratio, float), 0.0, period)


def _average(x: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """(1 - beta) sum_s beta^(t-s) x_s along the first axis, lane by lane."""
    lanes = [
        lfilter([1 - b], [1, -b], column) for column, b in zip(x.T, np.broadcast_to(beta, x.shape[1]), strict=True)
    ]
    return np.stack(lanes, axis=1)


def walk(
    method: str,
    cycle: Cycle,
    beta2: float | np.ndarray,
    eta: float = 2e-3,
    steps: int = 20_000,
    start: float = 0.0,
    beta1: float = 0.0,
    decay: bool = False,
    rate: float = 1e-3,
    least_error: float = 0.05,
) -> np.ndarray:
    """The weights w_1 = start, w_2, ..., w_(steps+1) of a method on [-1, 1], shape (steps + 1, n).

    The step is eta_t m_t / sqrt(v_t), eta_t = eta, or eta / sqrt(t) with `decay`. There is no eps, and no bias
    correction except in AdaBound and AMSBound, which are those of Luo et al.'s code with final step eta_t and the given
    rate (gamma there), so that they end as SGD. AdaGrad's step is eta / sqrt(sum g^2) with and without decay. BAMSProd is
    `adaptive.BAMSProd` with bounds of this rate, a tensor of one weight per lane: its quantisation error is 0, so that
    c_t = least_error v^_t.

    Raises ValueError for an unknown method, and for momentum on a problem that absorbs.
    """
    if method not in OPTIMISERS:
        raise ValueError(f"method={method!r}: allowed are {', '.join(OPTIMISERS)}")
    if cycle.jump == "absorb" and beta1 > 0:
        raise ValueError(f"beta1={beta1}: allowed is 0 where the gradient is 0 at -1, or momentum would leave it")
    g, t = cycle.slopes(steps), np.arange(1, steps + 1)[:, None]
    eta_t = eta / np.sqrt(t) if decay else np.full(t.shape, eta)
    m = _average(g, beta1)
    if method == "SGD":
        size = eta_t
    elif method == "AdaGrad":
        size = eta / np.sqrt(np.cumsum(g * g, axis=0))
    else:
        v = _average(g * g, beta2)
        if method in ("AMSGrad", "AMSBound", "BAMSProd"):
            v = np.maximum.accumulate(v, axis=0)
        if method == "BAMSProd":  # the lower bound never acts: c_t < v^_t
            v = np.minimum(v, least_error * v * (1 + 1 / (rate * t)))
        size = eta_t / np.sqrt(v)
        if method in ("AdaBound", "AMSBound"):
            size *= np.sqrt(1 - np.asarray(beta2) ** t) / (1 - beta1**t)
            size = np.clip(size, eta_t * (1 - 1 / (rate * t + 1)), eta_t * (1 + 1 / (rate * t)))
    w = np.empty((steps + 1, g.shape[1]))
    w[0] = start
    for now, after, move in zip(w[:-1], w[1:], size * m, strict=True):
        np.subtract(now, move, out=after)
        np.maximum(after, -1.0, out=after)
        np.minimum(after, 1.0, out=after)
    if cycle.jump == "absorb":
        w[np.logical_or.accumulate(w == -1, axis=0)] = -1.0
    return w


def lanes(
    cycle: Cycle, names: Sequence[str], paths: Mapping[str, np.ndarray]
) -> dict[str, tuple[int, dict[str, tuple[np.ndarray, np.ndarray]]]]:
    """The problems of a cycle one by one: name of the lane -> (its period, {method: (weights, average regret)}), from the
    paths of some methods as `walk` returns them."""
    periods = np.broadcast_to(cycle.period, len(names)).tolist()
    regrets = {m: cycle.average_regret(path) for m, path in paths.items()}
    return {
        name: (period, {m: (paths[m][:, i], regrets[m][:, i]) for m in paths})
        for i, (name, period) in enumerate(zip(names, periods, strict=True))
    }


def drift(cycle: Cycle, beta2: float) -> float:
    """Adam's move over one period divided by eta, for small steps without walls: beta1 = 0, a constant step, one lane.

    The second moment is the one that repeats itself from period to period. Positive: towards +1, the wrong end.
    """
    period = int(cycle.period)
    g = cycle.slopes(period)[:, 0]
    weight = (1 - beta2) / (1 - beta2**period) * beta2 ** np.arange(period)
    v = sum(x * np.roll(g * g, j) for j, x in enumerate(weight))
    return float(-(g / np.sqrt(v)).sum())


# --- The example before Theorem 1 ------------------------------------------------------------------------------------


def example(w: float, t: int, period: int) -> float:
    """The loss f_t(w) of the example before Theorem 1, on [-1, 1], with alpha = 1."""
    if w == -1:
        return -1.0
    return {1: w, 2: -w}.get(t % period, 0.0)


def printed_condition(beta2, period, first, second):
    """beta2^(C-2) <= 2 (a_{t+1} - a_t beta2) / (1 - beta2), printed as sufficient for Adam to end at +1; numbers or arrays."""
    return beta2 ** (period - 2) <= 2 * (second - first * beta2) / (1 - beta2)


# --- Regret bounds ---------------------------------------------------------------------------------------------------

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


@dataclass(frozen=True)
class Terms:
    """Regret and the terms of two bounds after T = at[0], at[1], ... steps, one column per problem.

    regret: (k, n), against the best point of the box. printed: (4, k, n), the terms of Theorem 4 in its order; L is the
    largest gradient so far, the third term has the scale alpha_t = mean |w_t|, and in the fourth w - alpha* is read as
    w - alpha* sign(w). corrected: (4, k, n), those of the corrected bound: distance, steps, momentum, quantisation.
    least_growth: (n,), the smallest value of (t + 1) v~_(t+1) - t v~_t, relative to t v~_t; the corrected bound needs it to be
    0 or more.
    """

    at: np.ndarray
    regret: np.ndarray
    printed: np.ndarray
    corrected: np.ndarray
    least_growth: np.ndarray


def online(
    problems: int,
    at: np.ndarray | list[int],
    seed: int = 0,
    weights: int = 6,
    eta: float = 0.3,
    rate: float = 1e-3,
    beta1: Callable[[int], float] = lambda t: 0.0,
    beta2: float = 0.99,
    binary: bool = True,
) -> Terms:
    """`adaptive.BAMSProd` on random convex online problems in F = [-1, 1]^weights, all problems in one ensemble.

    f_t(x) = (a_t x - b_t)^2 / 2 with a_t Gaussian and b_t = a_t x_0 + noise; the gradient is taken at
    w~ = mean |w| sign(w), or at w itself where not `binary`, and applied to w. rate: of both bounds. beta1: must not
    increase. at: the numbers of steps after which the terms are wanted, increasing.
    """
    rng = np.random.default_rng(seed)
    best, noise = rng.uniform(-1, 1, (problems, weights)), rng.uniform(0, 0.5, problems)
    w = torch.nn.Parameter(torch.as_tensor(rng.uniform(-1, 1, (problems, weights))))
    optimizer = BAMSProd(
        [w], eta, (0.0, beta2), eps=0.0, lower=Rising(rate), upper=Falling(rate), box=1.0, ensemble=True
    )
    S, s, squares = np.zeros((problems, weights, weights)), np.zeros((problems, weights)), np.zeros(problems)
    loss, steps, averaged, quantised, errors, largest, decays = (np.zeros(problems) for _ in range(7))
    extra = beta1(1) / (1 - beta1(1))
    scales, growth, before = np.zeros(problems), np.full(problems, np.inf), None
    found, wanted = [], set(map(int, at))
    for t in range(1, int(at[-1]) + 1):
        now = w.detach().numpy().copy()
        alpha = np.abs(now).mean(1, keepdims=True)
        x = np.where(now < 0, -alpha, alpha) if binary else now
        a = rng.normal(size=(problems, weights))
        b = (a * best).sum(1) + noise * rng.normal(size=problems)
        residual = (a * x).sum(1) - b
        g = a * residual[:, None]
        w.grad = torch.as_tensor(g)
        optimizer.param_groups[0]["betas"] = (beta1(t), beta2)
        optimizer.step()

        state = optimizer.state[w]
        largest_v, c = state["max_exp_avg_sq"].numpy(), np.array(state["target"])[:, None]
        v = np.clip(largest_v, c * optimizer.lower(t), c * optimizer.upper(t))
        H, eta_t, q = np.sqrt(v), eta / math.sqrt(t), x - now
        loss += residual**2 / 2
        S += a[:, :, None] * a[:, None, :]
        s += a * b[:, None]
        squares += b * b
        if before is not None:
            growth = np.minimum(growth, (t * v / before - 1).min(1))
            root = np.sqrt(np.sqrt(before / (t - 1)))  # V~_(t-1) to the power of a quarter
            errors += np.sqrt(np.linalg.norm(root * q, axis=1))
        before = t * v
        m = state["exp_avg"].numpy()
        steps += (0.5 + extra) * eta_t * (m * m / H).sum(1)
        averaged = np.maximum(averaged, np.abs(m).sum(1))
        quantised += np.sqrt((g * g / H).sum(1) * (H * q * q).sum(1))
        largest = np.maximum(largest, np.linalg.norm(g, axis=1))
        scales += alpha[:, 0] ** 2
        decays += beta1(t) / eta_t
        if t in wanted:
            roots = np.sqrt(largest_v).sum(1)
            keep = 1 - beta1(1)
            third = eta * math.sqrt(1 + math.log(t)) / keep**2 / (1 - beta1(1) / beta2**0.5) / (1 - beta2) ** 0.5
            found.append(
                (
                    loss - [_least(*problem) for problem in zip(S, s, squares, strict=True)],
                    4 * math.sqrt(t) / eta / keep * roots,
                    4 / (2 * keep) * decays * roots,
                    third * weights * np.sqrt(scales),
                    largest * 2 * errors,
                    4 / (2 * eta_t) * H.sum(1),
                    steps.copy(),
                    2 * extra * averaged,
                    quantised.copy(),
                )
            )
    rows = np.array(found).transpose(1, 0, 2)
    return Terms(np.asarray(at), rows[0], rows[1:5], rows[5:], growth)


def _least(S: np.ndarray, s: np.ndarray, squares: float) -> float:
    """The minimum of sum_t (a_t x - b_t)^2 / 2 over the box, from sum a a', sum a b and sum b^2."""
    value, vectors = np.linalg.eigh(S)
    root = np.sqrt(np.maximum(value, 1e-12))  # fewer losses than weights: some eigenvalues are 0
    x = lsq_linear((vectors * root).T, vectors.T @ s / root, (-1, 1), tol=1e-12).x
    return float(x @ S @ x / 2 - s @ x + squares / 2)
