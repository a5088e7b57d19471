"""Task II with wider hidden layers: every method against the best one-bit network of its width (chapter 8)."""

from __future__ import annotations

import functools

from ..results import Row, spread
from ..tasks import moons
from ..tasks.ensembles import train
from . import Experiment

SEEDS = 256
WIDTHS = (3, 4, 6, 8, 16)
SLACK = 1e-9  # losses this close belong to the same network


def unit(hidden: int, method: str, seeds: int = SEEDS) -> list[Row]:
    """One method at one width: its losses, the gap of the quantised training loss to the best, the share at the best."""
    ensemble = moons.draw(seeds, hidden=hidden)
    w = train(moons.METHODS[method], ensemble, record=False)
    found = {q: loss for q, loss in moons.scores(w, ensemble).items() if "batch" not in q}
    found["gap to the best"] = found["quantised weights, training set"] - moons.best_of_all(hidden, ensemble)[0]
    found["at the best"] = (found["gap to the best"] < SLACK).double()
    return [{"hidden": hidden, "method": method, "quantity": q} | spread(values) for q, values in found.items()]


EXPERIMENT = Experiment(
    name="moons_widths",
    about=__doc__.split(" (")[0],
    units={f"H = {h}; {m}": functools.partial(unit, h, m) for h in WIDTHS for m in moons.METHODS},
)
