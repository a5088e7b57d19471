"""A variational autoencoder with binary weights and activations on 5,000 images of MNIST: decay factors, bias correction on and off.

Sized for two cores: every second of the optimizers' settings, rates ten times apart, on 4 seeds; the best on 8 others.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product

import numpy as np

from ..results import Row, select
from ..runner import Experiment
from ..statistics import paired
from ..tasks.binary_optimizers import OPTIMIZERS
from ._adaptive import TESTS, unit
from .adaptive_vae import COMMON

MEAN_DIGIT = (
    205.9,
    199.5,
)  # nats on the training and the test set, of a network that always paints the mean training image
COMMON_RATE, OWN_RATE = "common setting", "best validation score"  # names of parts
OWN = {"BAMSProd": False, "Adam": True}  # whether the optimizer corrects for the start of its averages


def key(name: str, b1: float, b2: float, correction: bool) -> str:
    return f"{name}, beta1 {b1}, beta2 {b2}, bias correction {'on' if correction else 'off'}"


def units() -> dict:
    one = partial(
        unit,
        "autoencoder, MNIST",
        levels=(200.0, 180.0, 165.0, 155.0),
        bands=(200.0, 165.0, 155.0),
        common=COMMON // 2,
        seeds=(4, 8),
    )
    return {
        key(name, b1, b2, wanted): partial(
            one, name, settings=OPTIMIZERS[name].settings[::2], changes={"betas": (b1, b2)}, correction=wanted - own
        )
        for wanted in (True, False)
        for (name, own), b1, b2 in product(OWN.items(), (0.8, 0.9), (0.99, 0.999))
    }


EXPERIMENT = Experiment("adaptive_vae_mnist", __doc__.split("\n")[0].removesuffix("."), units(), version="1", hours=1.5)


# What the table says, all units being there


def values(rows: Sequence[Row], key: str, part: str, quantity: str) -> np.ndarray:
    """A number of each test seed that was run."""
    (row,) = select(rows, unit=key, part=part, quantity=quantity)
    return np.array([x for s in TESTS if (x := row[f"seed {s}"]) != ""], dtype=float)


def conclusion(rows: Sequence[Row]) -> str:
    """What follows for BAMSProd: whether it learns more than the mean digit, and what the decay factors do at a common rate
    and at rates of their own, without bias correction and with it."""
    grid = [(b1, b2) for b1 in (0.8, 0.9) for b2 in (0.99, 0.999)]

    def ours(b1: float, b2: float, correction: bool, part: str, quantity: str = "final score") -> np.ndarray:
        return values(rows, key("BAMSProd", b1, b2, correction), part, quantity)

    means = [ours(*pair, correction, OWN_RATE).mean() for pair in grid for correction in (False, True)]
    better = sum(m < MEAN_DIGIT[1] for m in means)
    said = [
        f"At rates of their own {better} of the {len(means)} networks of BAMSProd end below the {MEAN_DIGIT[1]} nats of the mean digit, "
        f"at {min(means):.1f} to {max(means):.1f}."
    ]
    for correction in (False, True):
        found = [(ours(0.9, 0.999, correction, p), ours(0.9, 0.99, correction, p)) for p in (COMMON_RATE, OWN_RATE)]
        found += [(ours(0.8, 0.999, correction, OWN_RATE), ours(0.9, 0.999, correction, OWN_RATE))]
        at_common, at_own, smaller = (_ends(*pair) for pair in found)
        early = (ours(0.9, b2, correction, COMMON_RATE, "updates to 165") for b2 in (0.999, 0.99))
        mean, low, high = paired(*early, ratio=True)
        needs = (
            "does not come to" if np.isnan(mean) else f"needs {mean:.2f} [{low:.2f}, {high:.2f}] times the updates to"
        )
        said.append(
            f"{'With' if correction else 'Without'} bias correction, at the common rate, the larger β₂ {needs} 165 nats and ends "
            f"{at_common}; at its own it ends {at_own}, and β₁ = 0.8 in place of 0.9 {smaller}."
        )
    return " ".join([*said, "Level: the interval over the seeds contains 0."])


def _ends(a: np.ndarray, b: np.ndarray) -> str:
    mean, low, high = paired(a, b)
    if np.isnan(mean):
        return "with a run that diverged"
    if low <= 0 <= high:
        return "level"
    low, high = sorted((abs(low), abs(high)))
    return f"{abs(mean):.1f} [{low:.1f}, {high:.1f}] nats {'lower' if mean < 0 else 'higher'}"
