"""What the tables of tuned methods say together: the accuracies at the end, and which method beats which.

The numbers are of the runs on other seeds than those of the search: `tuned_subset`, `cifar` and `characters`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from .. import results
from ..statistics import paired
from .grid import FULL

Scores = dict[str, dict[int, float]]  # method -> seed -> score, larger is better

FULL_PRECISION = "Full precision"
SCORES = {"rounded": "quantised_accuracy", "re-estimated": "reestimated_accuracy", "latent": "latent_accuracy"}
ROUNDED = "re-estimated"  # what a search chooses by, and a recommendation speaks of


def rows(name: str) -> list[dict]:
    """Those of a table, read once; none where it is not stored yet. Raises as `results.read`."""
    path = results.DATA / "results" / f"{name}.csv"
    return _rows(name, path, path.stat().st_mtime_ns) if path.exists() else []


@lru_cache
def _rows(name: str, path: Path, stamp: int) -> list[dict]:
    return results.read(name)


def finals(table: Sequence[Mapping], bits: int, column: str = SCORES[ROUNDED], precision: str | None = None) -> Scores:
    """The score of each run after its last epoch, with the methods in the order of their means, the best first. Full
    precision (its rows have bits 32) is scored by its latent weights, and stands in front. precision: of runs that are stored
    in two; default: all but those in float32 beside a bfloat16 one of the same seed."""
    last: dict[tuple, Mapping] = {}
    for row in table:
        if row["bits"] in (bits, FULL) and precision in (None, row.get("precision")):
            place = row["method"], row["bits"], row["seed"]
            other = last.get(place)
            if other and other["precision"] != row["precision"] and row["precision"] == "float32":
                continue
            if not other or other["epoch"] < row["epoch"] or other.get("precision") != row.get("precision"):
                last[place] = row
    found: Scores = {}
    for (method, b, seed), row in sorted(last.items(), key=lambda item: str(item[0])):
        score = row["latent_accuracy" if b == FULL and "latent_accuracy" in row else column]
        found.setdefault(method, {})[seed] = float(score)
    full = [m for (m, b, _) in last if b == FULL]
    return dict(sorted(found.items(), key=lambda item: (item[0] not in full, -_mean(item[1].values()))))


def _mean(values) -> float:
    values = list(values)
    return float(np.mean(values)) if values and np.isfinite(values).all() else -math.inf


def searched(table: Sequence[Mapping], bits: int, column: str | None = None) -> dict[str, dict[str, dict[int, float]]]:
    """Of a search: method -> setting -> seed -> score, the method with the best mean of a setting first; NaN where a run
    diverged. Without a column full precision is scored by its latent weights, the others rounded and re-estimated."""
    column = column or SCORES["latent" if bits == FULL else ROUNDED]
    found: dict[str, dict[str, dict[int, float]]] = {}
    for row in table:
        if row["bits"] == bits:
            found.setdefault(row["method"], {}).setdefault(row["setting"], {})[row["seed"]] = float(row[column])
    return dict(sorted(found.items(), key=lambda item: -max(_mean(x.values()) for x in item[1].values())))


def best_setting(settings: Mapping[str, Mapping[int, float]]) -> tuple[str, float]:
    """The setting with the best mean over its seeds, and that mean."""
    means = {setting: _mean(scores.values()) for setting, scores in settings.items()}
    best = max(means, key=means.get)
    return best, means[best]


def difference(scores: Scores, a: str, b: str) -> tuple[float, float, float]:
    """Mean of a - b over the seeds that both have, with its 95 % interval (Student's t); NaN for fewer than two."""
    common = sorted(set(scores[a]) & set(scores[b]))
    if len(common) < 2:
        return math.nan, math.nan, math.nan
    return paired([scores[a][s] for s in common], [scores[b][s] for s in common])


def probability(scores: Scores, a: str, b: str) -> float:
    """That a's mean over all seeds is above b's: the one-sided level of the paired t statistic, which is also the posterior
    probability under a flat prior. NaN for fewer than two common seeds."""
    common = sorted(set(scores[a]) & set(scores[b]))
    x = np.array([scores[a][s] - scores[b][s] for s in common])
    if len(x) < 2 or not np.isfinite(x).all():
        return math.nan
    error = x.std(ddof=1) / math.sqrt(len(x))
    if error == 0:
        return 0.5 if x.mean() == 0 else float(x.mean() > 0)
    return float(stats.t.cdf(x.mean() / error, len(x) - 1))


def undecided(scores: Scores, methods: Sequence[str]) -> list[str]:
    """Of the methods, best first: the best and all whose difference to it the seeds do not tell from 0 (95 %)."""
    best, *others = methods
    return [best, *(m for m in others if not difference(scores, best, m)[1] > 0)]


def paired_seeds(scores: Scores) -> Scores:
    """The scores of the seeds that every method has: of a table that still grows, its finished rounds."""
    common = set.intersection(*(set(x) for x in scores.values()))
    return {method: {seed: x[seed] for seed in sorted(common)} for method, x in scores.items()}


# Where the methods were compared


class Field(NamedTuple):
    """A table of runs with chosen settings; bits; what its scores times `factor` are in words; whether more is better."""

    table: str
    bits: int
    factor: float
    words: str
    more: bool = True


RIGHT, DETERMINISTIC = "test images right, %", "BinaryConnect, deterministic"
FIELDS = {
    "one bit": Field("tuned_subset", 1, 100.0, RIGHT),
    "two bits": Field("tuned_subset", 2, 100.0, RIGHT),
    "four bits": Field("tuned_subset", 4, 100.0, RIGHT),
    "one bit, all of CIFAR-10": Field("cifar", 1, 100.0, RIGHT),
    "three levels, a transformer": Field("characters", 2, -1.0, "bits per character of the test text", False),
}


def _per_character(row: Mapping) -> dict:
    """A row of `characters` as one of images: less is better, so that the bits get a minus."""
    scores = {SCORES[k]: -row[f"{v}_bits"] for k, v in (("latent", "latent"), (ROUNDED, "quantised"))}
    bits = FULL if row["method"] == FULL_PRECISION else row["bits"]
    return {k: row[k] for k in ("method", "seed")} | {"bits": bits, "epoch": row["round"], "precision": ""} | scores


def compared(least: int = 3) -> dict[str, Scores]:
    """Of each of `FIELDS` that is stored: the scores at the seeds that all its methods have, if these are `least` or more."""
    found = {}
    for where, field in FIELDS.items():
        table = [_per_character(r) if field.table == "characters" else r for r in rows(field.table)]
        if any(r["bits"] == field.bits for r in table):
            scores = paired_seeds(finals(table, field.bits))
            if len(scores.get(FULL_PRECISION, ())) >= least:
                found[where] = scores
    return found


def verdict(where: str, scores: Scores) -> str:
    """In one sentence what the scores of one of `FIELDS` say: who leads, and what the seeds do not tell from it."""
    field = FIELDS[where]
    digits, unit = (1, "points") if field.more else (3, "bits per character")

    def behind(method: str) -> str:
        gap, low, high = (abs(field.factor) * x for x in difference(scores, FULL_PRECISION, method))
        return f"{gap:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}] {unit}"

    best, *others = undecided(scores, [m for m in scores if m != FULL_PRECISION])
    words = (
        f"**{where[0].upper()}{where[1:]}**, {len(scores[best])} seeds: {best} is {behind(best)} behind full precision"
    )
    words += f", not told apart from {', '.join(others)}" * bool(others)
    if DETERMINISTIC in scores and DETERMINISTIC not in (best, *others):
        words += f"; {DETERMINISTIC} is {behind(DETERMINISTIC)} behind"
    return words + "."
