"""The statistics with which numbers over seeds are reported and compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Summary:
    """Mean over seeds with its 95 % confidence interval, the standard deviation and the central 95 % of the seeds."""

    n: int
    mean: float
    sd: float
    confidence: tuple[float, float]
    central: tuple[float, float]

    @classmethod
    def of(cls, row: Mapping) -> Summary:
        """The summary in a stored row, see `spread`."""
        n, mean, sd, *ends = (row[k] for k in ("n", "mean", "sd", "low", "high", "central_low", "central_high"))
        return cls(n, mean, sd, tuple(ends[:2]), tuple(ends[2:]))

    def __str__(self) -> str:
        return plus_minus(vars(self))

    def z(self, value: float) -> float:
        """How many standard deviations a number lies above the mean; inf where all seeds agree on another number."""
        if self.sd == 0:
            return 0.0 if value == self.mean else math.inf * (value - self.mean)  # NaN stays NaN
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


def plus_minus(of, digits: int = 4, none: str = "–") -> str:
    """ "mean ± sd" of one number per seed, (S,), or of a row with the columns mean and sd; the mean alone where there is one
    number; `none` where there is nothing: None, or no number."""
    if of is None or not len(of):
        return none
    if isinstance(of, Mapping):
        return f"{of['mean']:.{digits}f} ± {of['sd']:.{digits}f}"
    x = np.asarray(of, dtype=float)
    return f"{x.mean():.{digits}f}" + (f" ± {x.std(ddof=1):.{digits}f}" if len(x) > 1 else "")


@dataclass(frozen=True)
class Comparison:
    """Paired comparison over seeds where smaller is better: shares of wins, ties and losses of A against B."""

    wins: float
    ties: float
    losses: float
    confidence: tuple[float, float]  # 95 % Wilson interval of `wins`

    def __str__(self) -> str:
        low, high = self.confidence
        return f"wins {self.wins:.1%} ({low:.1%}–{high:.1%}), ties {self.ties:.1%}, losses {self.losses:.1%}"


def compare(a, b, tolerance: float = 1e-9) -> Comparison:
    """P(A beats B) from one number per seed each, (S,); differences up to `tolerance` are ties.

    NaN, of a run that diverged, counts as inf: it loses to every number and ties with NaN and inf, so it never wins.
    Raises ValueError when the two do not belong to the same seeds, and where there are none.
    """
    a, b = (np.asarray(x, dtype=float).ravel() for x in (a, b))
    if a.shape != b.shape:
        raise ValueError(f"a paired comparison needs the same seeds on both sides, got {len(a)} and {len(b)} values")
    if not len(a):
        raise ValueError("there are no seeds to compare")
    a, b = (np.where(np.isnan(x), np.inf, x) for x in (a, b))
    wins, losses = int((a < b - tolerance).sum()), int((a > b + tolerance).sum())
    interval = stats.binomtest(wins, len(a)).proportion_ci(method="wilson")
    return Comparison(wins / len(a), 1 - (wins + losses) / len(a), losses / len(a), (interval.low, interval.high))


def paired(a, b, ratio: bool = False) -> tuple[float, float, float]:
    """Mean of a - b over the seeds with its 95 % interval (Student's t), from one number per seed each, (S,); with `ratio` the
    geometric mean of a / b. NaN where a value is not finite."""
    x = np.log(np.divide(a, b)) if ratio else np.subtract(a, b)
    if not np.isfinite(x).all():
        return math.nan, math.nan, math.nan
    s = summarise(x)
    found = np.array([s.mean, *s.confidence])
    return tuple((np.exp(found) if ratio else found).tolist())


def share(successes) -> tuple[float, tuple[float, float]]:
    """Share of true entries, with its 95 % Wilson interval. Raises ValueError for none, and for entries, NaN among them, that
    are neither true nor false (0 or 1)."""
    x = np.asarray(successes).ravel()
    if not len(x):
        raise ValueError("there are no seeds to count")
    if not np.isin(x, (0, 1)).all():
        raise ValueError(f"{x[~np.isin(x, (0, 1))][0]} is neither true nor false")
    x = x.astype(bool)
    interval = stats.binomtest(int(x.sum()), len(x)).proportion_ci(method="wilson")
    return float(x.mean()), (interval.low, interval.high)


def percent(successes) -> str:
    """`share` in words: "12.5% (5.0%–28.1%)"."""
    p, (low, high) = share(successes)
    return f"{p:.1%} ({low:.1%}–{high:.1%})"


def spread(values) -> dict[str, float]:
    """`summarise` as columns of a stored row; nan beside n where a value is not finite (a run that diverged)."""
    x = np.asarray(values, dtype=float).ravel()
    if not np.isfinite(x).all():
        return dict.fromkeys(("n", "mean", "sd", "low", "high", "central_low", "central_high"), math.nan) | {
            "n": len(x)
        }
    s = summarise(x)
    return {
        "n": s.n, "mean": s.mean, "sd": s.sd, "low": s.confidence[0], "high": s.confidence[1],
        "central_low": s.central[0], "central_high": s.central[1],
    }  # fmt: skip
