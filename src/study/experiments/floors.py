"""How low a network of Task II can go with two and four bits: the best one on each of the first data sets."""

from __future__ import annotations

from functools import partial

from quantized_training.levels import Levels

from ..results import Row
from ..runner import Experiment
from ..tasks import moons

STARTS = 8


def rows(bits: int, data_sets: range) -> list[Row]:
    """One row per data set: loss of the best network on the training set, and of the same network on the test set."""
    ensemble, levels, found = moons.draw(data_sets), Levels.for_bits(bits), []
    for i, seed in enumerate(data_sets):
        x, y = ensemble.x[i], ensemble.y[i]
        if bits == 2:
            how, (_, best) = "all networks", moons.best_network(levels, moons.HIDDEN, x, y)
        else:
            how, (_, best) = (
                f"exchange, {STARTS} starts",
                moons.best_by_exchange(levels, moons.HIDDEN, x, y, STARTS, seed),
            )
        weights = moons.neuron_weights(best)
        test = moons.loss(weights, ensemble.test_x[i], ensemble.test_y[i]).item()
        found.append(
            {"bits": bits, "data_set": seed, "how": how, "loss": moons.loss(weights, x, y).item(), "test": test}
        )
    return found


EXPERIMENT = Experiment(
    "floors",
    "Task II: the smallest loss of a network with two-bit weights (all looked at) and four-bit weights (local search)",
    {
        f"{bits} bits, data sets {start} to {start + step - 1}": partial(rows, bits, range(start, start + step))
        for bits, step in ((2, 8), (4, 4))
        for start in range(0, 16, step)
    },
)
