"""What the tables of tuned methods have in common: which setting was chosen, and the runs with it on other seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial

from .. import results
from ..results import Row
from ..runner import Experiment, scratch
from ..vision import tuned
from ..vision.grid import FULL
from ..vision.tuned import METHODS, PROTOCOLS, Setting

SCORE = "reestimated_accuracy"  # by which a setting is chosen: rounded, batch normalisation estimated anew
COLUMNS = ("epoch", "loss", "latent_accuracy", "quantised_accuracy", SCORE, "changed", "infeasible", "distance")

# The search


def searched(protocol: str, method: str, bits: int, k: int, seed: int) -> Sequence[Row]:
    """One run of a search: its row after the last epoch, NaN where it diverged. k: place of the setting."""
    setting = METHODS[method].settings[k]
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


def note_of(protocol: str) -> str:
    return tuned.images(PROTOCOLS[protocol]).note


def scores(
    rows: Sequence[Mapping], method: str, bits: int, settings: Sequence[Setting] | None = None, score: str = SCORE
) -> dict[Setting, float]:
    """The mean score of each setting (those of `METHODS`) over the seeds that all of them have; NaN where one diverged.
    Raises ValueError where a setting has not been run."""
    mine = [r for r in rows if (r["method"], r["bits"]) == (method, bits)]
    found = {
        s: {r["seed"]: float(r[score]) for r in mine if r["setting"] == str(s)}
        for s in settings or METHODS[method].settings
    }
    common = set.intersection(*(set(x) for x in found.values()))
    if not common:
        raise ValueError(f"{method} at {bits} bits: not every setting has been run; `make results ONLY=tuning` goes on")
    return {s: statistics.fmean(x[seed] for seed in common) for s, x in found.items()}


def best(
    rows: Sequence[Mapping], method: str, bits: int, settings: Sequence[Setting] | None = None, score: str = SCORE
) -> Setting:
    """The setting with the highest score, the first of several; one that diverged is not chosen. Raises ValueError where
    all did, and as `scores`."""
    good = {s: x for s, x in scores(rows, method, bits, settings, score).items() if math.isfinite(x)}
    if not good:
        raise ValueError(f"{method} at {bits} bits: every setting diverged")
    return max(good, key=good.get)


def ranked(rows: Sequence[Mapping], bits: int) -> list[str]:
    """The methods at these bits, the best setting's score falling. Raises as `scores`; nothing without rows."""
    found = {}
    for method, kind in METHODS.items() if rows else ():
        if bits in kind.bits:
            found[method] = max((x for x in scores(rows, method, bits).values() if math.isfinite(x)), default=-1.0)
    return sorted(found, key=found.get, reverse=True)


def table(name: str) -> list[dict]:
    """The rows of a search, none where it is not stored or not finished. Raises as `results.read`."""
    path = results.DATA / "results" / f"{name}.csv"
    return _table(name, path.stat().st_mtime_ns) if path.exists() else []


@lru_cache
def _table(name: str, stamp: int) -> list[dict]:
    return results.read(name)


def chosen(method: str, bits: int) -> Setting:
    """The setting of a method: of the search at these bits, for four bits that at two. Raises as `best`."""
    return best(
        table("tuning" if bits in (1, FULL) else "tuning_two_bits"), method, min(bits, 2) if bits < FULL else bits
    )


def finished(name: str, bits: int) -> list[str]:
    """`ranked` where the search is finished, else nothing."""
    try:
        return ranked(table(name), bits)
    except ValueError:
        return []


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
