"""A transformer with ternary weights on the characters of Penn Treebank: six settings of each method, on the validation text."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial

from ..results import Row
from ..runner import Experiment, scratch
from ..vision import characters
from ..vision.characters import METHODS
from ..vision.tuned import Setting
from ._tuned import best, table

BITS = 2  # to store them takes so many
FULL = "Full precision"


def unit(method: str, k: int) -> Sequence[Row]:
    """One run with seed 0: its last row."""
    (train, valid, _), kinds = characters.data(os.environ.get("QT_DATA"))
    setting = METHODS[method].settings[k]
    record = characters.train(method, setting, 0, (train, valid), len(kinds), scratch())
    return [{"method": method, "bits": BITS, "setting": str(setting), "seed": 0} | record[-1]]


def chosen(method: str, rows: Sequence[Mapping] | None = None) -> Setting:
    """The setting with the fewest bits per character. Raises as `best`."""
    rows = table("characters_tuning") if rows is None else rows
    which = "latent_bits" if method == FULL else "quantised_bits"  # full precision is not rounded
    less = [row | {"score": -row[which]} for row in rows]
    return best(less, method, BITS, METHODS[method].settings, "score")


EXPERIMENT = Experiment(
    "characters_tuning",
    __doc__.removesuffix("."),
    {
        f"{method}, {setting}": partial(unit, method, k)
        for method, kind in METHODS.items()
        for k, setting in enumerate(kind.settings)
    },
    version="1",
    hours=3,
)
