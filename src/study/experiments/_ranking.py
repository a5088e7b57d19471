"""What the tables of `adaptive_large` say: which networks are finished, which optimizers the seeds tell apart, in words.

Scores are as they are shown, accuracy and mAP in per cent, of the networks after their last epoch; NaN where a run diverged.
Gains are differences paired by seed with their 95 % interval (Student's t), positive where the first of two is better.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .. import results
from ..results import Row
from ..runner import Experiment
from ..statistics import paired, summarise
from ..tasks.binary_optimizers import OPTIMIZERS
from ..vision.comparison import difference
from . import adaptive_large as large
from .adaptive_large import FLOAT32, FULL

OURS = "BAMSProd"
Gain = tuple[float, float, float]  # mean, and ends of the interval
Scores = dict[str, dict[int, float]]  # optimizer -> seed -> score


class Measure(NamedTuple):
    """How a score is shown: its factor, its unit behind a number, that of a difference, and whether more of it is better."""

    factor: float
    unit: str
    difference: str
    more: bool


MEASURES = {
    "accuracy": Measure(100.0, " %", " points", True),
    "mAP": Measure(100.0, " mAP", " mAP", True),
    "perplexity": Measure(1.0, "", " in perplexity", False),
}


def kind(task: str) -> type:
    return large.PROFILES["small"][task].kind


def measure(task: str) -> Measure:
    return MEASURES[kind(task).score]


# What is stored


def finished(experiment: Experiment, rows: Iterable[Row]) -> list[str]:
    """The networks of which all units are among the rows."""
    there = {r["unit"] for r in rows}
    return [
        task
        for task in large.PROFILES["small"]
        if all(key in there for key in experiment.units if key.startswith(f"{task}, "))
    ]


def to_do(experiment: Experiment, rows: Iterable[Row]) -> str:
    """One line: how much of a table is there and which command goes on; "" where all is."""
    there, all_of = len({r["unit"] for r in rows} & set(experiment.units)), len(experiment.units)
    command = f"`make results ONLY={experiment.name}`"
    if there == all_of:
        return ""
    return f"{there} of {all_of} runs are stored so far; {command} goes on." if there else f"{command} makes it."


def inexact(name: str) -> str:
    """A sentence on images that a stored table was made with and that are not exact; "" where it says nothing of the kind."""
    found = re.search(r"[\d,]+ of the [\d,]+ images are not exact", results.provenance(name)["about"])
    return f"In the copy of CIFAR-10 that was used {found[0]}." if found else ""


def finals(rows: Iterable[Row], task: str) -> Scores:
    """The score of each run after its last epoch. Rows of a run are in the order of its epochs."""
    found: Scores = {}
    for r in rows:
        if r["task"] == task:
            found.setdefault(r["optimiser"], {})[r["seed"]] = measure(task).factor * float(r["score"])
    return found


# Comparisons


def gain(task: str, scores: Scores, a: str, b: str) -> Gain:
    """By how much a is better than b over the seeds that both have; NaN where one of them diverged, or for one seed."""
    return difference(scores, *((a, b) if measure(task).more else (b, a)))


def mean(scores: Scores, name: str) -> float:
    """NaN where a run diverged."""
    return float(np.mean(list(scores[name].values())))


def order(task: str, scores: Scores) -> list[str]:
    """The seven optimizers without those of which a run diverged, the best mean first."""
    good = [name for name in OPTIMIZERS if math.isfinite(mean(scores, name))]
    return sorted(good, key=lambda name: mean(scores, name), reverse=measure(task).more)


def learned(task: str, scores: Scores, name: str) -> bool:
    """Whether the mean is at least a quarter better than that of a network that does not look at its input."""
    m = measure(task)
    level = m.factor * kind(task).blind
    found = mean(scores, name)
    return found >= 1.25 * level if m.more else found <= level / 1.25


def lead(task: str, scores: Scores) -> Gain:
    """BAMSProd's gain over the best of the others; NaN where it diverged."""
    others = [name for name in order(task, scores) if name != OURS]
    return gain(task, scores, OURS, others[0]) if others else (math.nan,) * 3


def verdict(better: Gain, printed: float = 0.0) -> str:
    """On the statement that BAMSProd is better, from its gain: it holds for these runs where the interval is above 0; it does
    not where the interval leaves out the printed gain; else the seeds do not decide."""
    if better[1] > 0:
        return "holds under a stated reading"
    return "does not hold" if better[2] < printed else "cannot be decided"


def verdict_on_speed(times: Mapping[str, Gain], printed: float = 1.2) -> str:
    """The same of `to_a_loss`: that BAMSProd is faster than all others; it does not hold where the interval of one is below
    the printed ratio. Optimizers that diverged do not count."""
    known = [(low, high) for mean, low, high in times.values() if math.isfinite(mean)]
    if known and all(low > 1 for low, _ in known):
        return "holds under a stated reading"
    return "does not hold" if any(high < printed for _, high in known) else "cannot be decided"


def to_a_loss(rows: Iterable[Row], task: str) -> tuple[float, dict[str, Gain]]:
    """The training loss that all runs of all optimizers reach, and how many times as many epochs as BAMSProd each other
    optimizer needs to it: geometric mean and 95 % interval, NaN where a run diverged.

    The loss of an epoch is the mean over its batches and belongs to its middle; between two its logarithm is taken as linear.
    A run that is there in the first epoch already counts with half an epoch.
    """
    curves: dict[str, dict[int, list[float]]] = {}
    for r in rows:
        if r["task"] == task and r["optimiser"] in OPTIMIZERS:
            curves.setdefault(r["optimiser"], {}).setdefault(r["seed"], []).append(float(r["loss"]))
    lowest = [min(c) for name in curves for c in curves[name].values() if np.isfinite(c).all()]
    level = max(lowest, default=math.nan)

    def epochs(name: str) -> list[float]:
        return [_crossing(c, level) for _, c in sorted(curves[name].items())]

    return level, {name: paired(epochs(name), epochs(OURS), ratio=True) for name in curves if name != OURS}


def _crossing(curve: Sequence[float], level: float) -> float:
    if not np.isfinite(curve).all():
        return math.nan
    k = next((k for k, loss in enumerate(curve) if loss <= level), len(curve))
    if k == len(curve):
        return math.inf
    passed = math.log(curve[k - 1] / level) / math.log(curve[k - 1] / curve[k]) if k else 1.0
    return k - 0.5 + passed if k else 0.5


def at_edge(rows: Sequence[Row], task: str) -> dict[str, str]:
    """The optimizers with one constant, the rate, whose best of four is the first or the last: -> "lowest" or "highest"."""
    found = {}
    for name in large.NAMES:
        settings = large.settings(name)
        if all(s.extra == settings[0].extra for s in settings):
            place = [str(s) for s in settings].index(str(large.best(task, name, rows)))
            if place in (0, len(settings) - 1):
                found[name] = "highest" if place else "lowest"
    return found


# Words


def joined(names: Sequence[str], last: str = "and") -> str:
    return f" {last} ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def value(task: str, scores: Scores, name: str) -> str:
    """The mean over the seeds; of one that diverged it is said."""
    found = mean(scores, name)
    return f"{found:.1f}{measure(task).unit}" if math.isfinite(found) else "diverged"


def interval(task: str, found: Gain, sign: str = "") -> str:
    """A gain with its interval, "2.1 [0.4, 3.8] points"."""
    middle, low, high = (format(round(x, 1) + 0.0, f"{sign}.1f").replace("-", "−") for x in found)
    return f"{middle} [{low}, {high}]{measure(task).difference}" if math.isfinite(found[0]) else "no number"


def spread(scores: Scores, name: str) -> Gain:
    """Mean of the seeds with its 95 % interval; NaN where one diverged."""
    values = list(scores[name].values())
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan, math.nan, math.nan
    found = summarise(values)
    return found.mean, *found.confidence


def _swapped(found: Gain) -> Gain:
    return -found[0], -found[2], -found[1]


def conclusion(task: str, scores: Scores) -> str:
    """What follows from the runs of a network, in two or three sentences."""
    good = order(task, scores)
    taught = [name for name in good if learned(task, scores, name)]
    if not taught:
        return _nothing_learned(task, scores)
    said = [_who_leads(task, scores, good)]
    if OURS in good and len(good) > 1:
        said.append(_told_apart(task, scores, [name for name in good if name != OURS]))
    if dull := [name for name in good if name not in taught]:
        said.append(f"{joined(dull)} learned nothing.")
    if gone := [name for name in OPTIMIZERS if name not in good]:
        said.append(f"With {joined(gone)} a run diverged.")
    return " ".join([*said, _full_precision(task, scores, good[0])])


def headline(task: str, scores: Scores) -> str:
    """The title of a network's figure: whose mean is best, and from how many that did not diverge the seeds tell it apart."""
    good = order(task, scores)
    if not any(learned(task, scores, name) for name in good):
        return f"{task}: no optimiser learned anything"
    first, *others = good
    behind = sum(_side(gain(task, scores, first, name)) > 0 for name in others)
    return f"{task}: {first} has the best mean, told apart from {behind} of {len(others)} others"


def _full_precision(task: str, scores: Scores, first: str) -> str:
    full, found = value(task, scores, FULL), gain(task, scores, FULL, first)
    if not math.isfinite(found[0]):
        return f"Full precision: {full}."
    if not (side := _side(found)):
        return f"Full precision, {full}, is not told from the best of them."
    by = interval(task, found if side > 0 else _swapped(found))
    return f"Full precision, {full}, is {by} {'better' if side > 0 else 'worse'} than the best of them."


def _side(found: Gain) -> int:
    """1 or -1 where the interval lies on that side of 0, else 0."""
    return int(found[1] > 0) - int(found[2] < 0)


def _who_leads(task: str, scores: Scores, good: Sequence[str]) -> str:
    first = good[0]
    if len(good) == 1:
        return f"{first} alone did not diverge: {value(task, scores, first)}."
    if first == OURS:
        ahead = gain(task, scores, OURS, good[1])
        by = f"{interval(task, ahead)} better than {good[1]}, the next"
        if _side(ahead) > 0:
            return f"**BAMSProd leads** with {value(task, scores, OURS)}, {by}."
        return f"BAMSProd has the best mean, {value(task, scores, OURS)}, {by}: **the seeds do not tell them apart**."
    if OURS not in good:
        return f"{first} has the best mean, {value(task, scores, first)}."
    behind = gain(task, scores, first, OURS)
    told = "**behind it**" if _side(behind) > 0 else "behind it, within the seeds' reach"
    return f"{first} has the best mean, {value(task, scores, first)}; BAMSProd, {value(task, scores, OURS)}, is {interval(task, behind)} {told}."


def _told_apart(task: str, scores: Scores, others: Sequence[str]) -> str:
    sides = {name: _side(gain(task, scores, OURS, name)) for name in others}
    words = {1: "better than", -1: "worse than", 0: "not told from"}
    found = [
        f"{word} {joined([name for name in others if sides[name] == side], 'and' if side else 'or')}"
        for side, word in words.items()
        if side in sides.values()
    ]
    return f"By these seeds BAMSProd is {joined(found)}."


def _nothing_learned(task: str, scores: Scores) -> str:
    m = measure(task)
    said = f"With no optimiser the network learned more than one that does not look at its input ({m.factor * kind(task).blind:.1f}{m.unit}). "
    if learned(task, scores, FULL):
        return (
            said
            + f"In full precision it did, {value(task, scores, FULL)}: **not its size but the binary weights are the cause**."
        )
    return said + "Nor did it in full precision: **it is too small, or trained too briefly, to compare optimisers**."


def edges(rows: Sequence[Row], tasks: Sequence[str]) -> str:
    """Where the best setting of an optimizer lies at an edge of its four."""
    found = {task: at_edge(rows, task) for task in tasks}
    said = [f"{task}: " + ", ".join(f"{name} ({end})" for name, end in at.items()) for task, at in found.items() if at]
    inside = [task for task in tasks if not found[task]]
    if inside:
        said.append(f"{joined(inside)}: none")
    return (
        f"The best of an optimiser's four rates lies at an **edge**, the highest or the lowest, on {'; '.join(said)}. "
        "Of AdaBound, AMSBound and Bop, with two constants, every one of the four lies at one. Nothing was run beyond."
    )


def precisions(task: str, scores: Scores) -> str:
    """bfloat16 against float32 in full precision: the difference on one seed, beside the seeds' range."""
    ((seed, other),) = scores[FLOAT32].items()
    m, values = measure(task), list(scores[FULL].values())
    return (
        f"{task} {scores[FULL][seed] - other:+.1f}{m.difference} (the seeds range over {max(values) - min(values):.1f})"
    )


def against(task: str, scores: Scores, name: str) -> str:
    """What the row of an optimizer says of its runs here."""
    if name == OURS:
        best = next(n for n in order(task, scores) if n != OURS)
        return f"BAMSProd {value(task, scores, OURS)}, its gain over {best}, the best other, {interval(task, lead(task, scores), '+')}"
    return f"{name} {value(task, scores, name)}, gain of BAMSProd over it {interval(task, gain(task, scores, OURS, name), '+')}"


def speed(rows: Sequence[Row], task: str) -> str:
    """Epochs of the other optimizers to a loss that all reach, as multiples of BAMSProd's."""
    level, found = to_a_loss(rows, task)
    if not math.isfinite(level):
        return "No optimiser's loss was finite on every seed."
    said = [
        f"{name} {x:.2f} [{low:.2f}, {high:.2f}]" if math.isfinite(x) else f"{name} no number, as a run diverged"
        for name, (x, low, high) in found.items()
    ]
    return f"To a training loss of {level:.2f}, which all runs reach, the others need so many times BAMSProd's epochs: {joined(said)}."
