"""Task II with wider hidden layers: every method against the best one-bit network of its width (chapter 8)."""

from __future__ import annotations

import functools

import torch

from quantized_training import Levels

from ..results import Row
from ..runner import Experiment
from ..statistics import spread
from ..tasks import moons
from ..tasks.ensembles import train

SEEDS = 256
WIDTHS = (3, 4, 6, 8, 16)
SEARCHED = range(3, 17)
SEARCH = "best of all networks"
SLACK = 1e-9  # losses this close belong to the same network
LEVELS = Levels.binary()


def unit(hidden: int, method: str, seeds: int = SEEDS) -> list[Row]:
    """One method at one width: its losses, the gap of the quantised training loss to the best, the share at the best."""
    ensemble = moons.draw(seeds, hidden=hidden)
    w = train(moons.METHODS[method], ensemble, record=False)
    found = {q: loss for q, loss in moons.scores(w, ensemble).items() if "batch" not in q}
    found["gap to the best"] = found["quantised weights, training set"] - moons.best_of_all(hidden, ensemble)[0]
    found["at the best"] = (found["gap to the best"] < SLACK).double()
    for kind, v in (("latent", w), ("quantised", LEVELS.nearest(w))):
        found[f"accuracy, {kind} weights, test set"] = moons.accuracy(v, ensemble.test_x, ensemble.test_y)
    return _rows(hidden, method, found)


def search(hidden: int, seeds: int = SEEDS) -> list[Row]:
    """The best one-bit network of a width on each training set, found by looking at all."""
    ensemble = moons.draw(seeds, epochs=1)
    loss, c = moons.best_of_all(hidden, ensemble)
    w = torch.stack([moons.one_bit_weights(k, hidden) for k in c])
    test = ensemble.test_x, ensemble.test_y
    found = {
        "quantised weights, training set": loss,
        "quantised weights, test set": moons.loss(w, *test),
        "accuracy, quantised weights, test set": moons.accuracy(w, *test),
    }
    return _rows(hidden, SEARCH, found)


def _rows(hidden, method, found):
    return [{"hidden": hidden, "method": method, "quantity": q} | spread(values) for q, values in found.items()]


EXPERIMENT = Experiment(
    name="moons_widths",
    about=__doc__.split(" (")[0],
    units={f"H = {h}; {m}": functools.partial(unit, h, m) for h in WIDTHS for m in moons.METHODS}
    | {f"H = {h}; {SEARCH}": functools.partial(search, h) for h in SEARCHED},
)
