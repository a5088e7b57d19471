"""Schedules k -> value for step sizes, epsilon and regularisation strengths. Every one is a callable of the index k = 0, 1, ..."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Constant:
    """value at every k."""

    value: float

    def __call__(self, k: int) -> float:
        return self.value


@dataclass(frozen=True)
class Harmonic:
    """initial / (k + 1): the step sizes of the paper's Assumption 7(b)."""

    initial: float

    def __call__(self, k: int) -> float:
        return self.initial / (k + 1)


@dataclass(frozen=True)
class Geometric:
    """initial * ratio^(k - start), initial before start: the paper's annealing of epsilon, ratio 0.88 ("logarithmic" there).

    Never below initial * 1e-12, so that a long annealing does not end in an epsilon of 0.
    """

    initial: float
    ratio: float
    start: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio={self.ratio}: allowed is 0 < ratio <= 1")

    def __call__(self, k: int) -> float:
        return self.initial * max(self.ratio ** max(k - self.start, 0), 1e-12)


@dataclass(frozen=True)
class Linear:
    """slope * k: the growing regularisation strength of ProxQuant (Bai et al., 2018)."""

    slope: float

    def __call__(self, k: int) -> float:
        return self.slope * k


@dataclass(frozen=True)
class Cosine:
    """From initial down to 0 along half a cosine over `steps` steps, 0 afterwards."""

    initial: float
    steps: int

    def __call__(self, k: int) -> float:
        return self.initial * (1 + math.cos(math.pi * min(k / self.steps, 1))) / 2


Schedule = Constant | Harmonic | Geometric | Linear | Cosine


def as_schedule(value: float | Schedule) -> Schedule:
    """A number becomes a constant schedule; a schedule is returned as it is."""
    return value if callable(value) else Constant(float(value))
