"""The numbers that the paper prints, and the statistics with which ours are put beside them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

DATA = Path(__file__).resolve().parents[2] / "data"


def printed(table: int) -> dict[str, float]:
    """Method -> number of one of the paper's tables (1: loss of Task I, 2: distance of Task I, 3: loss of Task II).

    Reads data/paper/tables.csv of the repository: works in a clone, not in an installed copy of the package alone (then
    FileNotFoundError). Raises KeyError for another table.
    """
    path = DATA / "paper" / "tables.csv"
    if not path.exists():
        raise FileNotFoundError(f"{path}: the paper's tables come with a clone of the repository, not with the package")
    with open(path, newline="", encoding="utf-8") as file:
        values = {row["method"]: float(row["value"]) for row in csv.DictReader(file) if row["table"] == str(table)}
    if not values:
        raise KeyError(f"no table {table}: transcribed are tables 1, 2 and 3")
    return values


@dataclass(frozen=True)
class Summary:
    """Mean over seeds with its 95 % confidence interval, the standard deviation and the central 95 % of the seeds."""

    n: int
    mean: float
    sd: float
    confidence: tuple[float, float]
    central: tuple[float, float]

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.sd:.4f}"

    def z(self, value: float) -> float:
        """How many standard deviations a number lies above the mean; inf where all seeds agree on another number."""
        if self.sd == 0:
            return 0.0 if value == self.mean else float(np.copysign(np.inf, value - self.mean))
        return (value - self.mean) / self.sd

    def covers(self, value: float) -> bool:
        """Whether a number lies within the central 95 % of the seeds; says little where the seeds fall into two groups."""
        return self.central[0] <= value <= self.central[1]


def summarise(values) -> Summary:
    """Statistics of one number per seed, (S,). Raises ValueError for fewer than two seeds or values that are not finite."""
    x = np.asarray(values, dtype=float).ravel()
    if len(x) < 2 or not np.isfinite(x).all():
        raise ValueError(
            f"need at least two finite values, got {len(x)} of which {int(np.isfinite(x).sum())} are finite"
        )
    sd = float(x.std(ddof=1))
    half = float(stats.t.ppf(0.975, len(x) - 1)) * sd / len(x) ** 0.5
    low, high = np.quantile(x, [0.025, 0.975])
    mean = float(x.mean())
    return Summary(len(x), mean, sd, (mean - half, mean + half), (float(low), float(high)))


@dataclass(frozen=True)
class Comparison:
    """Paired comparison over seeds where smaller is better: shares of wins, ties and losses of A against B."""

    wins: float
    ties: float
    losses: float
    confidence: tuple[float, float]  # 95 % Wilson interval of `wins`


def compare(a, b, tolerance: float = 1e-9) -> Comparison:
    """P(A beats B) from one number per seed each, (S,); differences up to `tolerance` are ties.

    Raises ValueError when the two do not belong to the same seeds.
    """
    a, b = np.asarray(a, dtype=float).ravel(), np.asarray(b, dtype=float).ravel()
    if a.shape != b.shape:
        raise ValueError(f"a paired comparison needs the same seeds on both sides, got {len(a)} and {len(b)} values")
    wins, losses = int((a < b - tolerance).sum()), int((a > b + tolerance).sum())
    interval = stats.binomtest(wins, len(a)).proportion_ci(method="wilson")
    return Comparison(wins / len(a), 1 - (wins + losses) / len(a), losses / len(a), (interval.low, interval.high))


def share(successes) -> tuple[float, tuple[float, float]]:
    """Share of true entries, with its 95 % Wilson interval."""
    x = np.asarray(successes, dtype=bool).ravel()
    interval = stats.binomtest(int(x.sum()), len(x)).proportion_ci(method="wilson")
    return float(x.mean()), (interval.low, interval.high)
