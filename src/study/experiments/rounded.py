"""The rounded network (chapter 13): debiased BinaryConnect beside all methods on Tasks I and II over step sizes, and on the digits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial

import torch
from torch import Tensor
from torch.nn.functional import softplus

from quantized_training.methods import BinaryConnect, DebiasedBinaryConnect, Method, round_stochastic

from ..methods import BINARY
from ..results import Row
from ..runner import Experiment
from ..statistics import spread
from ..tasks import ensembles
from ..tasks.ensembles import Make, rounding_noise, train
from ..theory import rounded
from ..vision import grid
from ..vision.on_device import evaluate, move, reestimate
from ..vision.training import Run
from . import sensitivity

RATES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
DELTAS = (0.005, 0.02, 0.1, 0.3)
SEEDS = {"held out": range(256), "tuning": range(256, 320)}
SLACK = 1e-9  # losses this close are one
ONE_COORDINATE = "One coordinate, two passes"
DEBIASED = "Debiased BinaryConnect"

# Tasks I and II


def methods(task: str) -> dict[tuple[str, float], Make]:
    """(method, delta) -> what makes it; delta is 0 for the others."""
    found = {(name, 0.0): make for name, make in sensitivity.TASKS[task][0].METHODS.items()}
    for delta in DELTAS:
        found[DEBIASED, delta] = partial(_debiased, delta)
    return found


def _debiased(delta: float, e: ensembles.Ensemble) -> Method:
    return DebiasedBinaryConnect(BINARY, delta, uniform=rounding_noise(e))


def one_coordinate(task: str, e: ensembles.Ensemble, lr: float) -> Tensor:
    """Projected SGD on the mean loss itself: one weight at a time, by two losses on the batch; the last means (S, d)."""
    loss, x, generator = sensitivity.TASKS[task][0].loss, e.initial.clamp(-1, 1), torch.Generator().manual_seed(0)
    seeds, n = x.shape
    each = torch.arange(seeds)
    for k, batch in enumerate(e.batches()):
        W = round_stochastic(x, BINARY, e.uniform[:, k])
        i = torch.randint(n, (seeds,), generator=generator)
        W[each, i] = 1.0
        up = loss(W, *batch)
        W[each, i] = -1.0
        x[each, i] = (x[each, i] - lr * n * (up - loss(W, *batch)) / 2).clamp(-1, 1)
    return x


@lru_cache(maxsize=2)
def table(task: str, seeds: range) -> Tensor:
    """The loss of every sign vector on each seed's data: (S, 2^d)."""
    e, _ = sensitivity.draw(task, seeds)
    d = e.initial.shape[1]
    if task == "II":
        W = rounded.corners(d)
        return torch.stack([e.loss(W, x, y) for x, y in zip(e.x, e.y, strict=True)])
    half, found = rounded.corners(d)[2 ** (d - 1) :], []  # the first sign is +1
    for z in e.z:  # log(1 + e^m) = log(1 + e^-m) + m gives the loss of both signs
        margins = half @ z.mT
        mean, plus = margins.mean(-1), softplus(margins.neg_()).mean(-1)
        found.append(torch.cat([(plus + mean).flip(0), plus]))
    return torch.stack(found)


def scores(losses: Tensor, w: Tensor) -> dict[str, Tensor]:
    """What is measured of the latent weights w (S, d) at the end, from the losses (S, 2^d) of all sign vectors."""
    best, minima, x = losses.amin(-1), rounded.single_flip_minima(losses), w.clamp(-1, 1)
    row = ((BINARY.nearest(w) > 0) * 2 ** torch.arange(w.shape[1] - 1, -1, -1)).sum(-1, keepdim=True)
    at, mean = losses.gather(1, row)[:, 0], rounded.extension(losses, x)
    finished = rounded.extension(losses, rounded.round_by_means(partial(rounded.extension, losses), x))
    return {
        "at the best": (at <= best + SLACK).double(),
        "at a single-flip minimum": minima.gather(1, row)[:, 0].double(),
        "gap, nearest signs": at - best,
        "gap, mean of random signs": mean - best,
        "gap, signs by means": finished - best,
        "undecided weights": (x.abs() < 0.9).double().mean(-1),
    }


def small(task: str, lr: float, seeds: Mapping[str, range] = SEEDS) -> Sequence[Row]:
    """All methods on one task at one constant step size, side by side."""
    found = []
    for which, chosen in seeds.items():
        e, _ = sensitivity.draw(task, chosen)
        ends = train(methods(task), e, lr, record=False) | {(ONE_COORDINATE, 0.0): one_coordinate(task, e, lr)}
        for (method, delta), w in ends.items():
            about = {"task": task, "lr": lr, "method": method, "delta": delta, "seeds": which}
            measured = scores(table(task, chosen), w)
            found += [about | {"quantity": quantity} | spread(value) for quantity, value in measured.items()]
    return found


# The digits

PROFILE = grid.PROFILES["cpu"]
DIGITS_RATES = (0.03, 0.1, 0.3, 1.0, 3.0)
DIGITS_SEEDS = {"held out": (0, 1, 2), "tuning": (3, 4)}
DIGITS = {
    "BinaryConnect (deterministic)": lambda levels, seed: BinaryConnect(levels, stochastic=False),
    "BinaryConnect": lambda levels, seed: BinaryConnect(levels, seed=seed),
    DEBIASED: lambda levels, seed, delta: DebiasedBinaryConnect(levels, delta, seed=seed),
}
DRAWS = 8


def drawn(run: Run, data, draws: int = DRAWS) -> tuple[float, float]:
    """Mean loss and accuracy on the test images of networks whose weights are rounded at random, each with statistics of its own."""
    data, batch, found = move(data, run.device), PROFILE.batch, []
    generator = torch.Generator().manual_seed(0)
    with run.optimizer.latent(), torch.no_grad():
        groups = [g for g in run.optimizer.param_groups if g["quantize"]]
        latent = [(p, p.detach().clone(), g["levels"]) for g in groups for p in g["params"]]
        for _ in range(draws):
            for p, w, levels in latent:
                p.copy_(round_stochastic(w, levels, torch.rand(w.shape, generator=generator)))
            reestimate(run.model, data.train_x[: 10 * batch], data.mean, data.std, batch)
            found.append(evaluate(run.model, data.test_x, data.test_y, data.mean, data.std))
    losses, accuracies = zip(*found, strict=True)
    return sum(losses) / draws, sum(accuracies) / draws


def one_run(method: str, delta: float, lr: float, seed: int, data) -> dict[str, float]:
    """A network on the digits at one bit, levels scaled layer by layer: what is measured at the end."""
    more = {"delta": delta} if delta else {}
    cell = grid.Cell("BinaryConnect", 1, seed=seed)
    made = partial(DIGITS[method], BINARY, seed, **more)
    run = grid.train(replace(PROFILE, lr=lr), cell, data, method=made)
    end = run.record[-1]
    loss, accuracy = drawn(run, data)
    return {
        "accuracy, nearest": end["reestimated_accuracy"],
        "loss, nearest": end["reestimated_loss"],
        "accuracy, random signs": accuracy,
        "loss, random signs": loss,
        "accuracy, nearest, running statistics": end["quantised_accuracy"],
        "distance to the levels": end["distance"],
    }


def digits(method: str, delta: float) -> Sequence[Row]:
    """One method: the seeds for tuning at every step size, and the others at the one with the best accuracy there."""
    data, found, scored = grid.images(PROFILE), [], {}

    def runs(which: str, lr: float) -> list[dict[str, float]]:
        measured = [one_run(method, delta, lr, seed, data) for seed in DIGITS_SEEDS[which]]
        about = {"task": "digits", "lr": lr, "method": method, "delta": delta, "seeds": which}
        found.extend(about | {"quantity": q} | spread([run[q] for run in measured]) for q in measured[0])
        return measured

    for lr in DIGITS_RATES:
        scored[lr] = sum(run["accuracy, nearest"] for run in runs("tuning", lr))
    runs("held out", max(DIGITS_RATES, key=scored.get))
    return found


# What is stored


def chosen(rows: Sequence[Row], task: str, by: str = "gap, nearest signs") -> dict[tuple[str, float], float]:
    """(method, delta) -> its step size: the smallest mean of `by` on the seeds for tuning, the first of several."""
    mine = [r for r in rows if (r["task"], r["seeds"], r["quantity"]) == (task, "tuning", by)]
    found: dict[tuple[str, float], Row] = {}
    for row in sorted(mine, key=lambda r: r["lr"]):
        best = found.setdefault((row["method"], row["delta"]), row)
        if row["mean"] < best["mean"]:
            found[row["method"], row["delta"]] = row
    return {key: row["lr"] for key, row in found.items()}


def tuned(rows: Sequence[Row], task: str) -> dict[tuple[str, float], dict[str, Row]]:
    """(method, delta) -> quantity -> its row on the other seeds, at the step size of `chosen`; of the digits the only one."""
    rates = chosen(rows, task) if task != "digits" else {}
    found: dict[tuple[str, float], dict[str, Row]] = {}
    for r in rows:
        key = r["method"], r["delta"]
        if (r["task"], r["seeds"]) == (task, "held out") and rates.get(key, r["lr"]) == r["lr"]:
            found.setdefault(key, {})[r["quantity"]] = r
    return found


CASES = [("BinaryConnect (deterministic)", 0.0), ("BinaryConnect", 0.0), *((DEBIASED, d) for d in (0.02, 0.1, 0.5))]
EXPERIMENT = Experiment(
    "rounded",
    "Debiased BinaryConnect beside all methods: Tasks I and II over constant step sizes, and the digits at one bit",
    {f"Task {task}, lr {lr:g}": partial(small, task, lr) for task in ("I", "II") for lr in RATES}
    | {
        f"digits, {method}{f', delta {delta:g}' if delta else ''}": partial(digits, method, delta)
        for method, delta in CASES
    },
)
