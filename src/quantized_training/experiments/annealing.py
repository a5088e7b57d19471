"""Task III on the digits: when the annealing of ASkewSGD starts, how fast it is, how strong and how bounded the push is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from .. import results
from ..constraints import PHI, PSI
from ..methods import ASkew
from ..results import Row
from ..schedules import Cosine, Geometric
from ..tasks import grid, networks
from ..tasks.task_3 import train_images
from . import Experiment

PROFILE = grid.PROFILES["cpu"]
SEEDS = 3
LAST_RATIO = 0.88**50  # by how much epsilon falls in all, in the annealing of Leconte et al.


@dataclass(frozen=True)
class Setting:
    """start: epochs before epsilon falls from its largest value; ratio: per epoch from then on, None: so that it falls by
    0.88^50 until the last epoch. alpha, clip: of the push, in units of the levels -1 and 1."""

    constraint: str
    levels: str = "scaled"
    start: int = PROFILE.epochs // 2
    ratio: float | None = None
    alpha: float = 0.5
    clip: float = 1.0

    def factor(self) -> float:
        return self.ratio or LAST_RATIO ** (1 / max(PROFILE.epochs - self.start, 1))


def settings() -> list[Setting]:
    """Around the setting of the grid: alpha and start together, and one by one the ratio, the clip, and raw levels."""
    found = []
    for constraint in ("psi", "phi"):
        found += [Setting(constraint, start=s, alpha=a) for a in (0.1, 0.5, 2.0) for s in (0, 5, 10, 15)]
        found += [Setting(constraint, start=s, ratio=r) for s, r in ((0, 0.88), (10, 0.88), (10, 0.28))]
        found += [Setting(constraint, clip=c) for c in (0.1, 0.3)]
        found += [Setting(constraint, "raw", start=s) for s in (0, 10)]
    return found


def train(setting: Setting, seed: int) -> list[dict[str, float]]:
    """The record of one run at one bit, see `train_images`."""
    constraint, cell = {"psi": PSI, "phi": PHI}[setting.constraint], grid.Cell("ASkewSGD", 1, setting.levels)
    levels, data = grid.codebook(1), grid.images(PROFILE)
    epsilon = Geometric(constraint.largest_epsilon(levels), setting.factor(), setting.start)
    run = train_images(
        data,
        partial(grid.network, PROFILE, len(data.classes), data.train_x.shape[1], cell),
        partial(ASkew, levels, constraint, setting.alpha, setting.clip, epsilon, merged=True),
        partial(networks.groups, levels=levels),
        epochs=PROFILE.epochs,
        batch=PROFILE.batch,
        lr=Cosine(PROFILE.lr, PROFILE.epochs),
        seed=seed,
        progress=False,
    )
    return run.record


def unit(setting: Setting) -> Sequence[Row]:
    """One row per epoch: mean and spread over the seeds of the rounded network's accuracy, and means of the rest."""
    records = [train(setting, seed) for seed in range(SEEDS)]
    rows = []
    for epoch in zip(*records, strict=True):
        about = {
            "constraint": setting.constraint,
            "levels": setting.levels,
            "start": setting.start,
            "ratio": setting.factor(),
            "alpha": setting.alpha,
            "clip": setting.clip,
            "epoch": epoch[0]["epoch"],
            "epsilon": epoch[0]["epsilon"],
        }
        others = {
            name: sum(row[name] for row in epoch) / SEEDS
            for name in ("loss", "latent_accuracy", "reestimated_accuracy", "changed", "infeasible", "distance")
        }
        rows.append(about | results.spread([row["quantised_accuracy"] for row in epoch]) | others)
    return rows


def _name(s: Setting) -> str:
    return f"{s.constraint}, {s.levels}, start {s.start}, ratio {s.factor():.3g}, alpha {s.alpha:g}, clip {s.clip:g}"


EXPERIMENT = Experiment(
    "annealing",
    "Task III on the digits, one bit: start and ratio of the annealing, alpha and clip of ASkewSGD, epoch by epoch",
    {_name(s): partial(unit, s) for s in settings()},
)
