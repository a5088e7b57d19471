"""Tables 1 to 3 of the paper and their two- and four-bit versions: every method, every reading of the score, 512 seeds."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch

from quantized_training.constraints import PHI, PSI
from quantized_training.levels import Levels
from quantized_training.schedules import Geometric

from ..results import Row
from ..runner import Experiment
from ..statistics import compare, spread
from ..tasks import logistic, moons
from ..tasks.ensembles import ANNEALING, Ensemble, methods, train

SEEDS = 512
BITS = (1, 2, 4)
ALPHA = {"I": 0.1, "II": 4.0}
STATED, LEGAL, SMALL = "stated", "ε from its largest legal value", "the same, α = 0.1"
#: Task II has further readings of its data.
DATA = {STATED: {}, "noise variance 0.1": {"noise": 0.1**0.5}, "standardised inputs": {"standardised": True}}
ASKEW = ("ASkewSGD", "Modified ASkewSGD")


def legal(levels: Levels) -> Mapping:
    """0.88^t as the paper's schedule, but from the largest epsilon at which the levels' intervals are apart."""
    return {c: Geometric(c.largest_epsilon(levels), ANNEALING.ratio) for c in (PSI, PHI)}


def scores(w: torch.Tensor, ensemble: Ensemble, levels: Levels) -> dict[str, torch.Tensor]:
    if isinstance(ensemble, logistic.Ensemble):
        found = logistic.scores(w, ensemble, *ensemble.last_batch(), levels)
        return found | {"share that misses w*": (levels.nearest(w) != ensemble.w_star).any(-1).double()}
    found = moons.scores(w, ensemble, levels)
    return {f"loss, {name.replace('training', 'whole')}": value for name, value in found.items()}


def rows(task: str, bits: int, setting: str, seeds: int = SEEDS) -> list[Row]:
    """One row per method and quantity. full_wins, full_ties, askew_wins, askew_ties: share of seeds on which the method's score
    is smaller than, or equal to, that of full precision and of ASkewSGD."""
    levels = Levels.for_bits(bits)
    draw = logistic.draw if task == "I" else partial(moons.draw, **DATA.get(setting, {}))
    ensemble = draw(seeds)
    changed = setting in (LEGAL, SMALL)
    makes = methods(0.1 if setting == SMALL else ALPHA[task], bits, legal(levels) if changed else ANNEALING)
    if changed:  # nothing else depends on alpha and on epsilon's schedule
        makes = {name: makes[name] for name in ("Full precision", *ASKEW)}
    trained = train(makes, ensemble, record=False)
    scored = {name: scores(w, ensemble, levels) for name, w in trained.items()}
    found = []
    for name, values in scored.items():
        if changed and name not in ASKEW:
            continue
        for quantity, value in values.items():
            against = {}
            for other, short in (("Full precision", "full"), ("ASkewSGD", "askew")):
                c = compare(value, scored[other][quantity])
                against |= {f"{short}_wins": c.wins, f"{short}_ties": c.ties}
            found.append(
                {"task": task, "bits": bits, "setting": setting, "method": name, "quantity": quantity}
                | spread(value)
                | against
            )
    return found


CASES = [("I", bits, STATED) for bits in BITS]
CASES += [("II", 1, data) for data in DATA] + [("II", bits, STATED) for bits in BITS[1:]]
CASES += [(task, bits, LEGAL) for task in ALPHA for bits in BITS[1:]] + [("II", bits, SMALL) for bits in BITS]

EXPERIMENT = Experiment(
    "tables",
    "Tables 1 to 3 at one, two and four bits: every method, loss and distance read in every way, paired over seeds",
    {f"Task {task}, {bits} bits, {setting}": partial(rows, task, bits, setting) for task, bits, setting in CASES},
)
