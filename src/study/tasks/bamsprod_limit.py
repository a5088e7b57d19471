"""The limit that BAMSProd (Liu et al., arXiv 2009.13799) prints for its two bounds c_l and c_u: measured, followed, and replaced.

Printed in section 4: both converge to L D sum_(t=1)^T sqrt(||w_t - alpha*||_H^2), H = sqrt(V~). A reader asked what the symbols
mean, how to get them, and how fast the bounds approach it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quantized_training.adaptive import LOWER, UPPER, BAMSProd
from quantized_training.levels import Levels
from quantized_training.methods import BinaryConnect
from quantized_training.optimizer import QuantizedOptimizer

from .binary import Classifier, digits

Bound = Callable[[int], float]


# One weight tensor at one step


def scale(w, weight):
    """The alpha that minimises sum_i weight_i (w_i - alpha sign(w_i))^2: the weighted mean of abs(w), over the last axis.

    Of arrays or tensors; with weight 1 the scale of XNOR-Net, with the diagonal of H the paper's alpha*.
    """
    return (weight * abs(w)).sum(-1) / weight.sum(-1)


def measure(w: Tensor, grad: Tensor, h: Tensor) -> dict[str, Tensor]:
    """What the printed limit is made of, one number per row of w, grad and h, the diagonal of H; all (runs, d).

    gradient: ||g||. scale, scale_h: the best scale in the plain norm and in that of H. distance: ||w - alpha* sign(w)||, error: the
    same over ||w||; error_h: ||w - alpha* sign(w)||_H; printed: ||w - alpha*||_H, a number subtracted from a vector. repaired:
    ||g||_(H^-1) ||w - alpha* sign(w)||_H, in units of the loss.
    """
    sign = torch.where(w < 0, -1.0, 1.0).to(w)
    plain, weighted = scale(w, torch.ones_like(h)), scale(w, h)
    distance = (w - plain[:, None] * sign).norm(dim=1)
    error_h = (h * (w - weighted[:, None] * sign) ** 2).sum(1).sqrt()
    return {
        "gradient": grad.norm(dim=1),
        "scale": plain,
        "scale_h": weighted,
        "distance": distance,
        "error": distance / w.norm(dim=1),
        "error_h": error_h,
        "printed": (h * (w - weighted[:, None]) ** 2).sum(1).sqrt(),
        "repaired": (grad**2 / h.clamp_min(1e-30)).sum(1).sqrt() * error_h,
    }


# A small network with binary weights


WIDTHS = (64, 128, 64, 10)


def network(seeds: Sequence[int]) -> Classifier:
    """`Classifier` of these `WIDTHS` with ReLU, one network per seed; the matrices start with standard deviation 1/2, cut at two of them.

    So they fill [-1, 1], the box of the latent weights.
    """
    classifier = Classifier(WIDTHS, seeds, binary=False)
    with torch.no_grad():
        for layer in classifier.layers():
            layer.weight *= math.sqrt(layer.weight.shape[1]) / 2
    return classifier


@dataclass(frozen=True)
class Run:
    """A training: batch losses (steps, runs), final loss on the training set and test accuracy (runs,), and what was recorded.

    record: quantity -> (steps, layers, runs). network, optimizer: as they are after the last step.
    """

    losses: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray
    record: dict[str, np.ndarray]
    network: Classifier
    optimizer: QuantizedOptimizer


def train(
    seeds: Sequence[int] = range(5),
    lower: Bound = LOWER,
    upper: Bound = UPPER,
    lr: float = 0.1,
    steps: int = 400,
    batch: int = 64,
    record: bool = False,
    printed: bool = False,
) -> Run:
    """Train `network` on the digits of `tasks.binary`, all matrices binary by BAMSProd in BinaryConnect, the rest by the same without bounds.

    record: keep, for every step, what `measure` returns before it; c_l, c_u and their limit `target`; mean, the mean of v^; outside,
    the share of entries of v^ outside the bounds; spread, the largest v~ over the smallest; flips, the share of signs that the
    step changed. printed: both bounds are multiples of the printed sum
    up to the step, not of `BAMSProd`'s own limit; one seed only, because a target is one number per layer. Then H is that of
    the step before (as in Theorem 4), L the largest gradient norm so far, D = 2 sqrt(d) the diameter of the box.

    Raises ValueError where printed=True meets more than one seed.
    """
    seeds = list(seeds)
    if printed and len(seeds) != 1:
        raise ValueError(f"printed=True with {len(seeds)} seeds: allowed is one")
    train_set, _, test_set = digits()
    x, y = (part[0] for part in train_set)
    classifier = network(seeds)
    matrices, rest = (group["params"] for group in classifier.groups())
    groups = [{"params": [w], "lr": lr} for w in matrices]
    base = BAMSProd([*groups, {"params": rest, "quantize": False, "lr": 0.05}], lower=lower, upper=upper, ensemble=True)
    optimizer = QuantizedOptimizer(base, BinaryConnect(Levels.binary(), stochastic=False))
    draws = [np.random.default_rng([seed, 1]) for seed in seeds]
    total: list[float] = [0.0] * len(groups)
    steepest: list[float] = [0.0] * len(groups)
    losses, rows = [], []
    for t in range(1, steps + 1):
        chosen = torch.from_numpy(np.stack([rng.permutation(len(x))[:batch] for rng in draws]))
        optimizer.zero_grad()
        loss = classifier.losses(x[chosen], y[chosen])
        loss.sum().backward()
        losses.append(loss.detach())
        if record or printed:
            row = [_now(optimizer, group, w, t) for group, w in zip(base.param_groups, matrices, strict=False)]
            rows.append(row)
        if printed:
            for i, found in enumerate(row):
                steepest[i] = max(steepest[i], float(found["gradient"]))
                total[i] += float(found["error_h"])
                diameter = 2 * math.sqrt(matrices[i].numel())
                base.param_groups[i]["target"] = steepest[i] * diameter * total[i]
        before = [w.detach().clone() for w in matrices]
        optimizer.step()
        if rows:
            for found, was, now in zip(rows[-1], before, matrices, strict=True):
                found["flips"] = (was != now).flatten(1).double().mean(1)
    with optimizer.quantized():
        loss, accuracy = classifier.evaluate(train_set, test_set).T.numpy()
    kept = (
        {k: torch.stack([torch.stack([r[k] for r in row]) for row in rows]).numpy() for k in rows[0][0]} if rows else {}
    )
    return Run(torch.stack(losses).numpy(), loss, accuracy, kept, classifier, optimizer)


@torch.no_grad()
def _now(optimizer: QuantizedOptimizer, group: dict, p: Tensor, t: int) -> dict[str, Tensor]:
    """`measure` before step t, with H of the step before; at t = 1 that of the first gradient's own second moment."""
    base, runs = optimizer.base, len(p)
    w, grad = optimizer.state[p]["latent"].view(runs, -1), p.grad.view(runs, -1)
    state = base.state[p]
    if t == 1:
        largest = (1 - group["betas"][1]) * grad**2
        limits = torch.tensor([[0.0, math.inf]]).expand(runs, 2)
        target = torch.full((runs,), math.nan)
    else:
        largest = state["max_exp_avg_sq"].view(runs, -1)
        numbers = state["target"] if group["target"] is None else [group["target"]]
        limits = torch.tensor([base.bounds(c, t - 1) for c in numbers])
        target = torch.tensor(numbers)
    low, high = limits[:, :1], limits[:, 1:]
    tilde = largest.clamp(low, high)
    return {
        **measure(w, grad, tilde.sqrt()),
        "c_l": low[:, 0],
        "c_u": high[:, 0],
        "target": target,
        "mean": largest.mean(1),
        "outside": ((largest < low) | (largest > high)).double().mean(1),
        "spread": tilde.amax(1) / tilde.amin(1),
    }


# The limit as a recursion


def follow(decay: Sequence[float], steps: int, power: float = 0.25) -> np.ndarray:
    """c_t = c_(t-1) + t^-decay c_(t-1)^power from c_0 = 1, for each decay: (steps, len(decay)).

    Both bounds at the printed sum up to t, L D = 1 and an error ||q_t|| = t^-decay: H is then sqrt(c) times the identity, so
    ||q_t||_H = c^(1/4) ||q_t||, power = 1/4. Theorem 4 prints the root of that norm: power = 1/8 and half the decay.
    """
    t = np.arange(1, steps + 1)[:, None]
    error = t ** -np.asarray(decay, dtype=float)
    c, path = np.ones(error.shape[1]), np.empty(error.shape)
    for k in range(steps):
        c = c + error[k] * c**power
        path[k] = c
    return path


# Schedules, as multiples of the common limit c*


def pairs(step: int, width: float, start: float = 1000.0) -> dict[str, tuple[Bound, Bound]]:
    """(lower, upper) for four rates, with (c_u - c_l) / c* = width at `step`; defined for t >= 1.

    Each is upper = 1 + s(t) and lower = 1 / upper. AdaBound's factors have this form with s = 1 / (gamma t); they bound the step, and
    their squares bound v, as in AMSBound. Exponential: 1 + start exp(-lambda t). Raises ValueError for a width or step that is not positive.
    """
    gap = 1 / (rate_for(width, step) * step)  # upper(step) - 1
    square = math.sqrt(1 + gap) - 1
    decay = math.log(start / gap) / step
    uppers: dict[str, Bound] = {
        "1/√t": lambda t: 1 + gap * math.sqrt(step / t),
        "1/t (AdaBound's form)": lambda t: 1 + gap * step / t,
        "its square (AMSBound)": lambda t: (1 + square * step / t) ** 2,
        "exponential": lambda t: 1 + start * math.exp(-decay * t),
    }
    return {name: (_reciprocal(upper), upper) for name, upper in uppers.items()}


def _reciprocal(bound: Bound) -> Bound:
    return lambda t: 1 / bound(t)


#: The schedules of the answer in the source, with c_0 = 100, c_1 = 1 and the common limit c* = 1: (lower, upper).
ANSWER: dict[str, tuple[Bound, Bound]] = {
    "c₀ / (1 + t)": (lambda t: 1 - math.exp(-t / 100), lambda t: 100 / (1 + t)),
    "c₀ · 0.999ᵗ": (lambda t: 1 - math.exp(-t / 100), lambda t: 100 * 0.999**t),
}


def rate_for(width: float, step: int) -> float:
    """The rate gamma of `Rising` and `Falling` with (c_u - c_l) / c* = width at `step`: about 2 / (width step).

    With x = gamma step it is the positive root of width x (x + 1) = 2 x + 1. Raises ValueError for a width or step that is not
    positive.
    """
    if not (width > 0 and step > 0):
        raise ValueError(f"width={width}, step={step}: both must be positive")
    return (2 - width + math.sqrt(4 + width * width)) / (2 * width * step)


def violations(upper: Bound, steps: int) -> np.ndarray:
    """The t < steps at which (t + 1) upper(t + 1) < t upper(t), where t v~_t can decrease."""
    t = np.arange(1, steps + 1)
    product = t * np.array([upper(int(k)) for k in t])
    return t[:-1][product[1:] < product[:-1] * (1 - 1e-12)]  # also from infinity to a number


def linear_regret(
    grads: np.ndarray, lower: Bound, upper: Bound, eta: float = 1.0, beta2: float = 0.9, start: float = 1.0
) -> dict[str, np.ndarray]:
    """Algorithm 1 with beta1 = 0 on f_t(w) = g_t w, w in [-1, 1]: grads (steps, problems), numbers (problems,).

    regret: against the best fixed w. last: the sum of the first two terms of the bound, D^2 sqrt(T v~_T) / (2 eta) +
    1/2 sum_t eta_t g_t^2 / sqrt(v~_t), D = 2; largest: the same with the largest v~ in place of the last.
    """
    w = np.full(grads.shape[1], float(start))
    v = largest = peak = second = regret = np.zeros(grads.shape[1])
    for t, g in enumerate(grads, 1):
        v = beta2 * v + (1 - beta2) * g * g
        largest = np.maximum(largest, v)
        tilde = np.clip(largest, lower(t), upper(t))
        peak = np.maximum(peak, tilde)
        root, rate = np.maximum(np.sqrt(tilde), 1e-300), eta / math.sqrt(t)
        regret = regret + g * w
        second = second + rate * g * g / root / 2
        w = np.clip(w - rate * g / root, -1, 1)
    first = 2 * math.sqrt(len(grads)) / eta
    return {
        "regret": regret + np.abs(grads.sum(0)),
        "last": first * np.sqrt(tilde) + second,
        "largest": first * np.sqrt(peak) + second,
    }
