"""A transformer with ternary weights on the characters of Penn Treebank: each method's best setting, three other seeds, the test text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

from ..results import Row
from ..runner import Experiment, scratch
from ..vision import characters
from ..vision.characters import METHODS
from .characters_tuning import BITS, chosen

SEEDS = (10, 11, 12)


def unit(method: str, seed: int) -> Sequence[Row]:
    """One run: a row for each round."""
    (train, _, test), kinds = characters.data(os.environ.get("QT_DATA"))
    setting = chosen(method)
    about = {"method": method, "bits": BITS, "setting": str(setting), "seed": seed}
    return [about | row for row in characters.train(method, setting, seed, (train, test), len(kinds), scratch())]


def _chosen(key: str) -> str:
    """What a unit depends on besides its key; nothing is chosen as long as the tuning is not finished."""
    try:
        return str(chosen(key.rpartition(", ")[0]))
    except ValueError:
        return "not chosen"


EXPERIMENT = Experiment(
    "characters",
    __doc__.removesuffix("."),
    {f"{method}, seed {seed}": partial(unit, method, seed) for seed in SEEDS for method in METHODS},
    version="1",
    hours=1.5,
    depends=_chosen,
)
