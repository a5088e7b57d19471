"""What the tables of chapter 11 have in common: tune an optimizer on some seeds, then run it on others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from torch import Tensor

from ..results import Row
from ..statistics import spread
from ..tasks import binary
from ..tasks.binary_optimizers import OPTIMIZERS, Setting

TUNING, TESTS = range(8), range(100, 120)  # seeds; those of the tests had no part in the choice of the setting


def reached(losses: Tensor, level: float, per_epoch: int) -> np.ndarray:
    """Updates until the training loss is first at `level`, (S,): inf where it never is.

    losses: (S, epochs + 1), the first before training. Between two epochs the logarithm of the loss is taken as linear.
    """
    found = np.full(len(losses), math.inf)
    for i, curve in enumerate(losses.double().log().numpy()):
        (below,) = np.nonzero(curve <= math.log(level))
        if len(below):
            k = int(below[0])
            found[i] = per_epoch * (k and k - 1 + (curve[k - 1] - math.log(level)) / (curve[k - 1] - curve[k]))
    return found


def roughness(x: Tensor, inside: Tensor | None = None) -> np.ndarray:
    """How much a curve jumps about its trend, (S,): the root mean square of second differences, over sqrt(6).

    For a straight line plus independent noise that is the noise's standard deviation. x: (S, n). inside: (S, n), where the
    middle point has to be; NaN where fewer than three are.
    """
    bent = (x[:, 2:] - 2 * x[:, 1:-1] + x[:, :-2]).double().square().numpy()
    kept = np.ones(bent.shape, bool) if inside is None else inside[:, 1:-1].numpy()
    counts = kept.sum(1)
    mean = np.divide((bent * kept).sum(1), counts, out=np.full(len(x), math.nan), where=counts >= 3)
    return np.sqrt(mean / 6)


def _row(part: str, setting: Setting, quantity: str, epoch: int, values, seeds: bool = True) -> Row:
    values = [float(f"{float(v):.5g}") for v in values]
    shown = values if seeds else []
    columns = {f"seed {s}": v for s, v in zip(TESTS, [*shown, *[""] * (len(TESTS) - len(shown))], strict=True)}
    about = {"part": part, "setting": str(setting), "quantity": quantity, "epoch": epoch}
    return about | {k: v for k, v in spread(values).items() if not k.startswith("central")} | columns


def summary(
    part: str, setting: Setting, record: Tensor, per_epoch: int, levels: Sequence[float], bands: Sequence[float]
) -> list[Row]:
    """Rows for one setting: curves as means over the seeds, and the numbers of each seed for paired comparisons.

    record: (S, epochs + 1, 2) of `binary.train`. levels: of `reached`. bands: edges, from high to low, of the ranges of the
    loss in which `roughness` is taken of its logarithm.
    """
    loss, score = record.unbind(2)
    last = loss.shape[1] - 1
    rows = [
        _row(part, setting, name, epoch, x[:, epoch], seeds=False)
        for name, x in (("loss", loss), ("score", score))
        for epoch in range(last + 1)
    ]
    numbers = {"final loss": loss[:, -1], "final score": score[:, -1]}
    numbers |= {f"updates to {level:g}": reached(loss, level, per_epoch) for level in levels}
    for high, low in zip(bands, bands[1:], strict=False):
        inside = (loss <= high) & (loss > low)
        numbers[f"roughness of the log loss, {high:g} to {low:g}"] = roughness(loss.log(), inside)
    numbers["roughness of the score, second half"] = roughness(score[:, last // 2 :])
    return rows + [_row(part, setting, name, last, x) for name, x in numbers.items()]


def unit(
    task: str,
    optimiser: str,
    levels: Sequence[float],
    bands: Sequence[float],
    batch: int = 64,
    binary_weights: bool = True,
    changes: Mapping[str, float | tuple[float, float]] | None = None,
    common: int | None = None,
    correction: int = 0,
    settings: Sequence[Setting] | None = None,
    seeds: tuple[int, int] = (len(TUNING), len(TESTS)),
) -> list[Row]:
    """One optimizer: every setting on the tuning seeds and the validation set, then the setting with the best validation
    score and the one with the lowest training loss on the test seeds and the test set.

    Best and lowest of the means over the tuning seeds; a setting that spoils one of them is not chosen.

    changes: to every setting, `clip` or what else the optimizer takes. common: index of a setting that is tested whatever
    the tuning says. correction: see `binary.train`. settings: in place of the optimizer's own.
    seeds: how many of `TUNING` and of `TESTS`; columns of the seeds that were not run are empty.
    """
    changes = dict(changes or {})
    clip = changes.pop("clip", math.inf)
    settings = [replace(s, extra=s.extra | changes, clip=clip) for s in settings or OPTIMIZERS[optimiser].settings]
    train = partial(binary.train, task, optimiser, batch=batch, binary=binary_weights, correction=correction)
    rows, final = [], {}
    tuning, tests = TUNING[: seeds[0]], TESTS[: seeds[1]]
    for setting in settings:
        record = train(setting, tuning, test=False)[:, -1]
        final[setting] = record.nan_to_num(math.inf).mean(0).tolist()
        rows += [
            _row("tuning", setting, name, 0, x, seeds=False)
            for name, x in zip(("loss", "score"), record.T, strict=True)
        ]
    worse = -1 if binary.TASKS[task].score == "accuracy" else 1
    best = {
        "best validation score": min(
            settings, key=lambda s: worse * final[s][1] if final[s][0] < math.inf else math.inf
        ),
        "lowest training loss": min(settings, key=lambda s: final[s][0]),
    }
    if common is not None:
        best["common setting"] = settings[common]
    per_epoch = binary.TASKS[task].data()[0][0].shape[1] // batch
    records = {s: train(s, tests) for s in dict.fromkeys(best.values())}
    for part, setting in best.items():
        rows += summary(part, setting, records[setting], per_epoch, levels, bands)
    return rows


def units(task: str, levels: Sequence[float], bands: Sequence[float], batches: Sequence[int] = (64,)) -> dict:
    """Every optimizer with every batch size; Adam with clipped gradients; BAMSProd without the quantisation error; the
    network in full precision."""
    one = partial(unit, task, levels=levels, bands=bands)
    found = {f"{name}, batch {b}": partial(one, name, batch=b) for b in batches for name in OPTIMIZERS}
    for clip in (0.1, 0.01):
        found[f"Adam, gradient norm at most {clip:g}"] = partial(one, "Adam", changes={"clip": clip})
    found["BAMSProd, error taken as 1"] = partial(one, "BAMSProd", changes={"least_error": 1.0})
    for name in ("SGD(M)", "Adam", "BAMSProd"):
        found[f"{name}, full precision"] = partial(one, name, binary_weights=False)
    return found
