"""What the tables of tuned methods have in common: which setting was chosen, and the runs with it on other seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from ..results import Row
from ..runner import Experiment, scratch
from ..vision import tuned
from ..vision.comparison import ROUNDED, SCORES
from ..vision.comparison import rows as table
from ..vision.comparison import searched as searched_rows
from ..vision.grid import FULL
from ..vision.tuned import METHODS, PROTOCOLS, Setting

SCORE = SCORES[ROUNDED]  # by which a setting is chosen; in full precision, which is not rounded, by the latent weights
COLUMNS = ("epoch", "loss", *(SCORES[k] for k in ("latent", "rounded", ROUNDED)), "changed", "infeasible", "distance")

# The search


def searched(protocol: str, method: str, bits: int, k: int, seed: int) -> Sequence[Row]:
    """One run of a search: its row after the last epoch, NaN where it diverged. k: place of the setting."""
    return _searched(protocol, method, bits, METHODS[method].settings[k], seed)


def _searched(protocol: str, method: str, bits: int, setting: Setting, seed: int) -> Sequence[Row]:
    record = tuned.train(PROTOCOLS[protocol], method, bits, setting, seed, scratch())
    about = {"method": method, "bits": bits, "setting": str(setting), "seed": seed}
    return [about | {name: record[-1][name] for name in COLUMNS} | {"seconds": sum(row["seconds"] for row in record)}]


def search(name: str, about: str, protocol: str, bits: Iterable[int], seeds: Iterable[int], hours: float) -> Experiment:
    """All settings of all methods that exist at these bits, with the first seed before the second."""
    bits = tuple(bits)
    units = {
        f"{method}, {b} bits, {setting}, seed {seed}": partial(searched, protocol, method, b, k, seed)
        for seed in seeds
        for b in bits
        for method, kind in METHODS.items()
        if b in kind.bits
        for k, setting in enumerate(kind.settings)
    }
    return Experiment(name, about, units, version="1", hours=hours, note=partial(note_of, protocol))


def second(method: str, bits: int, k: int) -> Setting:
    """The k-th of the two settings that the search's best one leads to. Raises as `best`."""
    return tuned.second_round(method, scores(table("tuning"), method, bits))[k]


def searched_again(protocol: str, method: str, bits: int, k: int, seed: int) -> Sequence[Row]:
    """As `searched`, for a setting of the second round."""
    return _searched(protocol, method, bits, second(method, bits, k), seed)


def note_of(protocol: str) -> str:
    return tuned.images(PROTOCOLS[protocol]).note


def scores(
    rows: Sequence[Mapping], method: str, bits: int, settings: Sequence[Setting] | None = None, score: str | None = None
) -> dict[Setting, float]:
    """The mean score of each setting (those of `METHODS`) over the seeds that all of them have; NaN where one diverged.
    score: a column, default that of `comparison.searched`. Raises ValueError where a setting has not been run."""
    there = searched_rows([r for r in rows if r["method"] == method], bits, score).get(method, {})
    found = {s: there.get(str(s), {}) for s in settings or METHODS[method].settings}
    common = set.intersection(*(set(x) for x in found.values()))
    if not common:
        raise ValueError(f"{method} at {bits} bits: not every setting has been run; `make results ONLY=tuning` goes on")
    return {s: statistics.fmean(x[seed] for seed in common) for s, x in found.items()}


def best(
    rows: Sequence[Mapping], method: str, bits: int, settings: Sequence[Setting] | None = None, score: str | None = None
) -> Setting:
    """The setting with the highest score, the first of several; one that diverged is not chosen. Raises ValueError where
    all did, and as `scores`."""
    good = {s: x for s, x in scores(rows, method, bits, settings, score).items() if math.isfinite(x)}
    if not good:
        raise ValueError(f"{method} at {bits} bits: every setting diverged")
    return max(good, key=good.get)


def both_rounds(method: str, bits: int) -> tuple[list[dict], list[Setting]]:
    """The rows of both rounds of the search at one bit or in full precision, and the eight settings. Raises as `best`."""
    return table("tuning") + table("tuning_second"), [
        *METHODS[method].settings,
        *(second(method, bits, k) for k in (0, 1)),
    ]


def chosen(method: str, bits: int) -> Setting:
    """The setting of a method: of both rounds of the search; at two and four bits of that at two. Raises as `best`."""
    if bits in (1, FULL):
        rows, settings = both_rounds(method, bits)
        return best(rows, method, bits, settings)
    return best(table("tuning_two_bits"), method, 2)


def finished(name: str, bits: int) -> list[str]:
    """The methods at these bits, the chosen setting's score falling, where the search is finished (that of `tuning` with its
    second round), else nothing."""
    found = {}
    try:
        for method, kind in METHODS.items() if table(name) else ():
            if bits in kind.bits:
                rows, settings = both_rounds(method, bits) if name == "tuning" else (table(name), None)
                good = [x for x in scores(rows, method, bits, settings).values() if math.isfinite(x)]
                found[method] = max(good, default=-1.0)
    except ValueError:
        return []
    return sorted(found, key=found.get, reverse=True)


# The runs


def final(
    protocol: str, method: str, bits: int, seed: int, setting: Callable[[str, int], Setting], half: bool = True
) -> Sequence[Row]:
    """One run with the chosen setting: a row for each epoch."""
    how = PROTOCOLS[protocol]
    how = how if half else replace(how, half=False)
    picked = setting(method, bits)
    about = {"method": method, "bits": bits, "setting": str(picked), "seed": seed, "precision": how.precision}
    return [about | row for row in tuned.train(how, method, bits, picked, seed, scratch())]


def _setting_of(places: Mapping[str, tuple], setting: Callable[[str, int], Setting], key: str) -> str:
    return str(setting(*places[key]))


def runs(
    name: str,
    about: str,
    protocol: str,
    plan: Iterable[tuple],
    hours: float,
    setting: Callable[[str, int], Setting] = chosen,
) -> Experiment:
    """plan: (method, bits, seed), in the order in which they run, or (method, bits, seed, half)."""
    places = {}
    for method, bits, seed, *half in plan:
        words = " in float32" if half and not half[0] else ""
        places[f"{method}, {bits} bits, seed {seed}{words}"] = (method, bits, seed, *half)
    units = {
        key: partial(final, protocol, method, bits, seed, setting, *half)
        for key, (method, bits, seed, *half) in places.items()
    }
    return Experiment(
        name,
        about,
        units,
        device=PROTOCOLS[protocol].device,
        version="1",
        hours=hours,
        depends=partial(_setting_of, {key: place[:2] for key, place in places.items()}, setting),
        note=partial(note_of, protocol),
    )
