"""Task III's grid: methods x bits x levels x layers x seeds under the settings of a profile, one cell at a time.

A cell is trained by `training.train_images`; its rows, one per epoch, are stored in data/results/task_3_PROFILE.csv.
`python -m study task3` runs what is missing there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import sha256
from itertools import product
from pathlib import Path

import numpy as np
from torch import nn

from quantized_training import layers
from quantized_training.levels import Levels
from quantized_training.methods import BinaryConnect, Method
from quantized_training.schedules import Cosine

from ..datasets import image_sets
from ..methods import METHODS as TABLE
from ..results import Value
from ..tasks.arguments import integer
from . import checkpoints, distributed, networks
from .training import Diverged, Run, train_images

BITS = (1, 2, 4)
FULL = 32  # "bits" of full precision
LEVELS = ("scaled", "raw")


@dataclass(frozen=True)
class Profile:
    """The protocol that all cells of a table share.

    images: a name for `image_sets.load`; train, test: how many of them, equally many of each class (None: all). width: channels
    of the network's first stage; stride: of its first convolution. lr: at the start of half a cosine. seeds: how many, from 0.
    """

    name: str
    images: str
    train: int | None
    test: int | None
    network: str
    width: int
    stride: int
    epochs: int
    batch: int
    lr: float
    seeds: int
    device: str = "cpu"


PROFILES = {
    p.name: p
    for p in (
        Profile("cpu", "digits", None, None, "resnet20", 8, 1, 20, 64, 0.1, 3),
        Profile("subset", "cifar-10", 10000, 2000, "resnet20", 8, 2, 20, 64, 0.1, 3),
        Profile("gpu", "cifar-10", None, None, "resnet18", 64, 1, 40, 256, 0.2, 3, "cuda"),
    )
}


#: name -> (levels, epochs, seed) -> Method
METHODS: dict[str, Callable[[Levels, int, int], Method]] = {
    name: row.vision for name, row in TABLE.items() if row.vision
}


#: Beside the grid that the book shows; run where they are named. On these levels, which are evenly spaced, the k-bit
#: straight-through (5) is deterministic BinaryConnect. Rivals, and all methods tuned: `vision.tuned`.
MORE: dict[str, Callable[[Levels, int, int], Method]] = {
    "BinaryConnect, deterministic": lambda levels, epochs, seed: BinaryConnect(levels, stochastic=False),
}


@dataclass(frozen=True)
class Cell:
    """method: of METHODS or MORE; bits: 1, 2, 4, or 32 for full precision; levels: "scaled" per layer or "raw" on the weights as
    they are; quantise: of `layers.QUANTIZE` (so spelt in the stored tables, whose digests hold this name). Raises ValueError for anything else."""

    method: str
    bits: int
    levels: str = "scaled"
    quantise: str = "all"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("method", (*METHODS, *MORE)), ("levels", LEVELS), ("quantise", layers.QUANTIZE)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: allowed are {', '.join(map(repr, allowed))}")
        for name in ("bits", "seed"):  # numpy's have another repr, and so would be of another digest
            object.__setattr__(self, name, integer(name, getattr(self, name), 0))
        full = self.method == "Full precision"
        if self.bits not in ((FULL,) if full else BITS):
            allowed = f"{FULL} alone" if full else ", ".join(map(str, BITS))
            raise ValueError(f"bits={self.bits} for {self.method}: allowed is {allowed}")

    @property
    def codebook(self) -> Levels:
        """The levels before they are scaled; full precision is rounded to those of one bit."""
        return Levels.for_bits(1 if self.bits == FULL else self.bits)

    @property
    def key(self) -> dict[str, Value]:
        """The columns that say which cell a row belongs to."""
        return asdict(self)


def cells(
    profile: Profile,
    methods: Iterable[str] = tuple(METHODS),
    bits: Iterable[int] = (*BITS, FULL),
    levels: Iterable[str] = LEVELS[:1],
    quantise: Iterable[str] = layers.QUANTIZE[:1],
    seeds: Sequence[int] | None = None,
) -> list[Cell]:
    """The cells of a grid, all of one seed before the next; full precision once for each seed, whatever the levels."""
    found: dict[Cell, None] = {}
    places = product(range(profile.seeds) if seeds is None else seeds, quantise, levels, bits, methods)
    for seed, place, kind, b, method in places:
        full = method == "Full precision"
        if full == (b == FULL):
            found[Cell(method, b, *(("scaled", "all") if full else (kind, place)), seed)] = None
    return list(found)


def images(profile: Profile, folder: Path | None = None, progress: bool = True) -> image_sets.Images:
    """The images of a profile. Raises as `image_sets.load` does."""
    found = image_sets.load(profile.images, folder, progress=progress)
    if profile.train is None and profile.test is None:
        return found
    return found.subset(profile.train or len(found.train_y), profile.test or len(found.test_y))


def network(profile: Profile, classes: int, channels: int, cell: Cell) -> nn.Module:
    """The network of a cell, its quantised layers scaled where the cell says so."""
    model = getattr(networks, profile.network)(classes, channels, profile.width, profile.stride)
    if cell.levels == "scaled":
        layers.scale_layers(model, cell.codebook, cell.quantise)
    return model


def made(cell: Cell) -> Callable[[Levels, int, int], Method]:
    """What makes the cell's method."""
    return METHODS.get(cell.method) or MORE[cell.method]


def settings(profile: Profile, cell: Cell) -> str:
    """Twelve hexadecimal digits that change with anything a cell's numbers depend on, except the code of the package."""
    method = made(cell)(cell.codebook, profile.epochs, cell.seed)
    protocol = asdict(profile) | {"seeds": None}
    if profile.device == "cpu" and distributed.place()[1] > 1:  # each process normalises its own part of a batch
        protocol["processes"] = distributed.place()[1]
    return sha256(repr((protocol, cell, checkpoints.words(method))).encode()).hexdigest()[:12]


def train(
    profile: Profile,
    cell: Cell,
    data: image_sets.Images,
    checkpoint: Path | None = None,
    progress: bool = False,
    device: str | None = None,
    method: Callable[[], Method] | None = None,
) -> Run:
    """Train one cell: its network, optimizer and record. method: in place of the cell's. Raises as `train_images` does."""
    levels = cell.codebook
    return train_images(
        data,
        partial(network, profile, len(data.classes), data.train_x.shape[1], cell),
        method or partial(made(cell), levels, profile.epochs, cell.seed),
        partial(layers.groups, quantize=cell.quantise, levels=levels),
        epochs=profile.epochs,
        batch=profile.batch,
        lr=Cosine(profile.lr, profile.epochs),
        seed=cell.seed,
        device=device or profile.device,
        checkpoint=checkpoint,
        progress=progress,
    )


def run(profile: Profile, cell: Cell, data: image_sets.Images, **how) -> list[dict[str, Value]]:
    """Train one cell; its rows, one per epoch: the columns of `Cell`, `settings`, and the record of `train_images`.

    how: as for `train`. Where the loss became NaN the last row, one epoch beyond what was good, holds NaN.
    """
    try:
        record = train(profile, cell, data, **how).record
    except Diverged as error:
        record = error.run.record if error.run else []
        record = [*record, dict.fromkeys(RECORD, math.nan) | {"epoch": len(record) + 1}]
    about = cell.key | {"settings": settings(profile, cell)}
    return [about | {name: row[name] for name in RECORD} for row in record]


RECORD = (
    "epoch", "epsilon", "loss", "latent_loss", "latent_accuracy", "quantised_loss", "quantised_accuracy",
    "reestimated_loss", "reestimated_accuracy", "changed", "infeasible", "distance", "seconds", "utilisation",
)  # fmt: skip


def cell(method: str, bits: int, **others: Value) -> Cell:
    """The cell of a method; that of full precision whatever the bits and the rest."""
    return Cell(method, FULL) if method == "Full precision" else Cell(method, bits, **others)


# What cells have in common


def over_seeds(records: dict[Cell, list[dict[str, float]]], quantity: str) -> dict[Cell, np.ndarray]:
    """One quantity of `RECORD` for all seeds of a cell, which the cell of seed 0 stands for: (seeds, epochs), after a
    divergence NaN."""
    found: dict[Cell, list[list[float]]] = {}
    for cell, record in records.items():
        found.setdefault(replace(cell, seed=0), []).append([row[quantity] for row in record])
    longest = max((len(path) for paths in found.values() for path in paths), default=0)
    return {c: np.array([p + [math.nan] * (longest - len(p)) for p in paths]) for c, paths in found.items()}


def at_end(records: dict[Cell, list[dict[str, float]]], cell: Cell, quantity: str = "quantised_accuracy") -> np.ndarray:
    """One quantity of `RECORD`, times 100, after the last epoch of each seed of a cell; empty where it was not run."""
    path = over_seeds({c: r for c, r in records.items() if replace(c, seed=0) == cell}, quantity).get(cell)
    return np.array([]) if path is None else 100 * path[:, -1]


def first_annealed(epsilon: Sequence[float]) -> int:
    """Index of the first epoch in which epsilon is below its first value. Raises ValueError where it never falls."""
    fallen = np.asarray(epsilon) < epsilon[0]
    if not fallen.any():
        raise ValueError("epsilon never falls")
    return int(fallen.argmax())
