"""Table 3 under other readings of its set-up: data, step sizes, annealing, dual steps (chapter 8)."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from quantized_training import SGDA, Cosine, Harmonic
from quantized_training.schedules import Constant, Geometric

from ..claims import printed
from ..methods import BINARY
from ..results import Row
from ..runner import Experiment
from ..statistics import spread
from ..tasks import moons
from ..tasks.ensembles import methods, train

SEEDS = 256
NEAR = 0.005  # "near": share of seeds whose loss lies this close to the printed one
DATA = {
    "sd 0.1": {},
    "sd 0.1, standardised": {"standardised": True},
    "sd 0.316": {"noise": 0.1**0.5},
    "sd 0.316, standardised": {"noise": 0.1**0.5, "standardised": True},
}
#: Whether an epoch has one batch only, and the learning rate.
SCHEDULES = {
    "500 steps, lr 1": (False, 1.0),
    "500 steps, lr 1 to 0 (cosine)": (False, Cosine(1.0, 500)),
    "500 steps, lr 1/(k+1)": (False, Harmonic(1.0)),
    "25 steps, lr 1": (True, 1.0),
}
AS_SET = "as set"


def variants() -> dict[tuple[str, str], object]:
    """(method of Table 3, what differs from `moons.METHODS`) -> how to build it."""
    found = {(name, AS_SET): moons.METHODS[name] for name in printed(3)}
    slower = {"ε = 1 throughout": Constant(1.0), "ε annealed every 5 epochs": Geometric(1.0, 0.88**0.2)}
    for name in ("ASkewSGD", "Modified ASkewSGD"):
        for words, epsilon in slower.items():
            found[name, words] = methods(4.0, annealing=epsilon)[name]
    for epsilon in (0.01, 0.5):
        for dual_lr in (1e-4, 1e-2):
            found[f"SGDA (ε = {epsilon})", f"dual step {dual_lr:g}"] = functools.partial(_sgda, epsilon, dual_lr)
    return found


def _sgda(epsilon, dual_lr, ensemble):
    return SGDA(BINARY, epsilon=epsilon, dual_lr=dual_lr)


def unit(data: str, schedule: str, seeds: int = SEEDS) -> list[Row]:
    """Every variant on one kind of data with one schedule: a row per method, variant and quantity."""
    short, lr = SCHEDULES[schedule]
    ensemble = moons.draw(seeds, **DATA[data])
    ensemble = ensemble.one_batch_per_epoch() if short else ensemble
    rows = []
    for (method, variant), w in train(variants(), ensemble, lr, record=False).items():
        value = printed(3)[method]
        for quantity, loss in moons.scores(w, ensemble).items():
            near = (loss - value).abs().lt(NEAR).double().mean().item()
            row = {"data": data, "schedule": schedule, "method": method, "variant": variant, "quantity": quantity}
            rows.append(row | {"printed": value, "near": near} | spread(loss))
    return rows


def best_variants(rows: Iterable[Row], data: str, schedule: str, quantity: str) -> list[Row]:
    """Of each method the stored row of the variant whose seeds come near the printed loss most often."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if (row["data"], row["schedule"], row["quantity"]) == (data, schedule, quantity):
            found.setdefault(row["method"], []).append(row)
    return [max(variants, key=lambda row: (row["near"], row["variant"] == AS_SET)) for variants in found.values()]


EXPERIMENT = Experiment(
    name="moons_readings",
    about=__doc__.split(" (")[0],
    units={f"{data}; {s}": functools.partial(unit, data, s) for data in DATA for s in SCHEDULES},
)
