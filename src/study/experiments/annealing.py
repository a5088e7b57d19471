"""Task III on the digits: when the annealing of ASkewSGD starts, how fast it is, how strong and how bounded the push is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from quantized_training.constraints import PHI, PSI, late_annealing
from quantized_training.methods import ASkew
from quantized_training.schedules import Geometric

from .. import results, statistics
from ..datasets import image_sets
from ..methods import BINARY
from ..results import Row
from ..runner import Experiment
from ..vision import grid

PROFILE = grid.PROFILES["cpu"]
SEEDS = 3
CONSTRAINTS = {"psi": PSI, "phi": PHI}


@dataclass(frozen=True)
class Setting:
    """start, ratio: of `schedules.Geometric`, from epsilon's largest value; ratio None: that of `late_annealing`. alpha, clip: of
    the push, in units of the levels -1 and 1."""

    constraint: str
    levels: str = "scaled"
    start: int = PROFILE.epochs // 2
    ratio: float | None = None
    alpha: float = 0.5
    clip: float = 1.0

    def epsilon(self) -> Geometric:
        annealed = late_annealing(CONSTRAINTS[self.constraint], BINARY, PROFILE.epochs, self.start)
        return replace(annealed, ratio=self.ratio) if self.ratio else annealed

    @property
    def unit(self) -> str:
        """Its unit in the stored table."""
        return (
            f"{self.constraint}, {self.levels}, start {self.start}, ratio {self.epsilon().ratio:.3g}, alpha {self.alpha:g}, "
            f"clip {self.clip:g}"
        )


def settings() -> list[Setting]:
    """Around the setting of the grid: alpha and start together, and one by one the ratio, the clip, and raw levels."""
    found = []
    for constraint in CONSTRAINTS:
        found += [Setting(constraint, start=s, alpha=a) for a in (0.1, 0.5, 2.0) for s in (0, 5, 10, 15)]
        found += [Setting(constraint, start=s, ratio=r) for s, r in ((0, 0.88), (10, 0.88), (10, 0.28))]
        found += [Setting(constraint, clip=c) for c in (0.1, 0.3)]
        found += [Setting(constraint, "raw", start=s) for s in (0, 10)]
    return found


def train(setting: Setting, seed: int, data: image_sets.Images) -> list[dict[str, float]]:
    """The record of one run at one bit, see `train_images`."""
    constraint, epsilon = CONSTRAINTS[setting.constraint], setting.epsilon()
    method = partial(ASkew, BINARY, constraint, setting.alpha, setting.clip, epsilon, merged=True)
    return grid.train(PROFILE, grid.Cell("ASkewSGD", 1, setting.levels, seed=seed), data, method=method).record


def unit(setting: Setting) -> Sequence[Row]:
    """One row per epoch: mean and spread over the seeds of the rounded network's accuracy, and means of the rest."""
    data = grid.images(PROFILE)
    records = [train(setting, seed, data) for seed in range(SEEDS)]
    rows = []
    for epoch in zip(*records, strict=True):
        about = {
            "constraint": setting.constraint,
            "levels": setting.levels,
            "start": setting.start,
            "ratio": setting.epsilon().ratio,
            "alpha": setting.alpha,
            "clip": setting.clip,
            "epoch": epoch[0]["epoch"],
            "epsilon": epoch[0]["epsilon"],
        }
        others = {
            name: sum(row[name] for row in epoch) / SEEDS
            for name in ("loss", "latent_accuracy", "reestimated_accuracy", "changed", "infeasible", "distance")
        }
        rows.append(about | statistics.spread([row["quantised_accuracy"] for row in epoch]) | others)
    return rows


def stored() -> dict[str, list[Row]]:
    """The stored rows over the epochs of each unit, see `Setting.unit`."""
    found: dict[str, list[Row]] = {}
    for row in results.read("annealing"):
        found.setdefault(row["unit"], []).append(row)
    return found


EXPERIMENT = Experiment(
    "annealing",
    "Task III on the digits, one bit: start and ratio of the annealing, alpha and clip of ASkewSGD, epoch by epoch",
    {s.unit: partial(unit, s) for s in settings()},
)
