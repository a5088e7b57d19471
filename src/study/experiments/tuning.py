"""The search of `vision.tuned`: six settings of each method on 8,000 training images of CIFAR-10, scored on 2,000 others."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from functools import cache, partial

from .. import results
from ..results import Row
from ..runner import Experiment, scratch
from ..vision import tuned
from ..vision.tuned import METHODS, PROTOCOLS, Setting

PROTOCOL = PROTOCOLS["subset, held out"]
SEEDS = (0, 1)
BITS = (1, 32)
SCORE = "reestimated_accuracy"  # by which a setting is chosen: rounded, batch normalisation estimated anew
COLUMNS = ("epoch", "loss", "latent_accuracy", "quantised_accuracy", SCORE, "changed", "infeasible", "distance")


def unit(method: str, bits: int, k: int, seed: int) -> Sequence[Row]:
    """One run: its row after the last epoch, NaN where it diverged. k: place of the setting."""
    setting = METHODS[method].settings[k]
    record = tuned.train(PROTOCOL, method, bits, setting, seed, scratch())
    about = {"method": method, "bits": bits, "setting": str(setting), "seed": seed}
    return [about | {name: record[-1][name] for name in COLUMNS} | {"seconds": sum(row["seconds"] for row in record)}]


def best(method: str, bits: int, table: Sequence[Mapping] | None = None) -> Setting:
    """The setting with the highest mean score over the seeds that all settings have, the first of several; one that
    diverged is not chosen. Raises ValueError where a setting of the method has not been run, or all diverged, and as
    `results.read` does."""
    mine = [r for r in table or _table() if (r["method"], r["bits"]) == (method, bits)]
    scores = {s: {r["seed"]: float(r[SCORE]) for r in mine if r["setting"] == str(s)} for s in METHODS[method].settings}
    common = set.intersection(*(set(found) for found in scores.values()))
    if not common:
        raise ValueError(f"{method} at {bits} bits: not every setting has been run; `make results ONLY=tuning` goes on")
    means = {s: statistics.fmean(found[seed] for seed in common) for s, found in scores.items()}
    good = {s: mean for s, mean in means.items() if math.isfinite(mean)}
    if not good:
        raise ValueError(f"{method} at {bits} bits: every setting diverged")
    return max(good, key=good.get)


@cache
def _table() -> list[dict]:
    return results.read("tuning")


def units() -> dict:
    """All methods with the first seed before the second."""
    return {
        f"{name}, {bits} bits, {setting}, seed {seed}": partial(unit, name, bits, k, seed)
        for seed in SEEDS
        for bits in BITS
        for name, kind in METHODS.items()
        if bits in kind.bits
        for k, setting in enumerate(kind.settings)
    }


EXPERIMENT = Experiment(
    "tuning",
    __doc__.removesuffix("."),
    units(),
    version="1",
    hours=6,
    note=lambda: f"{tuned.images(PROTOCOL).note}",
)
