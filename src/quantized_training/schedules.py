"""Schedules k -> value for step sizes, epsilon and regularisation strengths. Every one is a callable of the index k = 0, 1, ..."""

import math
from contextlib import suppress
from dataclasses import dataclass

from .arguments import number


class _Numbers:
    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            positive = name in ("rate", "steps")
            number(name, value, 0 if positive else -math.inf, strict=positive, finite=positive)
            if name == "ratio" and not 0 < value <= 1:
                raise ValueError(f"ratio={value}: allowed is 0 < ratio <= 1")


@dataclass(frozen=True)
class Constant(_Numbers):
    """The value at every k.
    >>> [Constant(0.1)(k) for k in (0, 9)]
    [0.1, 0.1]
    """

    value: float

    def __call__(self, k: int) -> float:
        return self.value


@dataclass(frozen=True)
class Harmonic(_Numbers):
    """initial / (k + 1): the step sizes of the paper's Assumption 7(b).
    >>> [Harmonic(1.0)(k) for k in (0, 1, 3)]
    [1.0, 0.5, 0.25]
    """

    initial: float

    def __call__(self, k: int) -> float:
        return self.initial / (k + 1)


@dataclass(frozen=True)
class Geometric(_Numbers):
    """initial * ratio^(k - start), initial before start, at least initial * 1e-12: the paper's "logarithmic" annealing.
    >>> [Geometric(1.0, 0.5, start=1)(k) for k in (0, 1, 2, 3)]
    [1.0, 1.0, 0.5, 0.25]
    """

    initial: float
    ratio: float
    start: int = 0

    def __call__(self, k: int) -> float:
        return self.initial * max(self.ratio ** max(k - self.start, 0), 1e-12)


@dataclass(frozen=True)
class Linear(_Numbers):
    """slope * k: the growing regularisation strength of ProxQuant (Bai et al., 2018).
    >>> [Linear(0.5)(k) for k in (0, 1, 2)]
    [0.0, 0.5, 1.0]
    """

    slope: float

    def __call__(self, k: int) -> float:
        return self.slope * k


@dataclass(frozen=True)
class Cosine(_Numbers):
    """From initial to 0 along half a cosine over `steps` steps, 0 afterwards.
    >>> [round(Cosine(1.0, steps=4)(k), 3) for k in range(6)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """

    initial: float
    steps: int

    def __call__(self, k: int) -> float:
        return self.initial * (1 + math.cos(math.pi * min(k / self.steps, 1))) / 2


@dataclass(frozen=True)
class Rising(_Numbers):
    """t -> 1 - 1 / (rate t + 1): 0 at t = 0 and non-decreasing, to 1. The shape of AdaBound's lower bound.
    >>> [Rising(0.5)(t) for t in (0, 2, 6)]
    [0.0, 0.5, 0.75]
    """

    rate: float

    def __call__(self, t: int) -> float:
        return 1 - 1 / (self.rate * t + 1)


@dataclass(frozen=True)
class Falling(_Numbers):
    """t -> 1 + 1 / (rate t): infinite at t = 0 and non-increasing, to 1. The shape of AdaBound's upper bound.
    >>> [Falling(0.5)(t) for t in (0, 2, 4)]
    [inf, 2.0, 1.5]
    """

    rate: float

    def __call__(self, t: int) -> float:
        return 1 + 1 / (self.rate * t) if t else math.inf


Schedule = Constant | Harmonic | Geometric | Linear | Cosine | Rising | Falling


def as_schedule(value: float | Schedule, name: str = "value") -> Schedule:
    """A number becomes a constant schedule; a schedule is returned as it is. name: of the argument, for TypeError.
    >>> as_schedule(0.5), as_schedule(Linear(0.1))
    (Constant(value=0.5), Linear(slope=0.1))
    """
    if callable(value) and not isinstance(value, type):
        return value
    try:
        return Constant(float(number(name, value, finite=False)))
    except TypeError:
        raise TypeError(f"{name}={value!r}: it must be a number or a schedule, e.g. Geometric(1.0, 0.88)") from None


def _tried(schedule: Schedule) -> dict[int, float]:
    """The values at k = 0 .. 1000, where a schedule is looked at before training; to its end where it is a shorter list."""
    found: dict[int, float] = {}
    with suppress(LookupError):
        for k in range(1 if isinstance(schedule, Constant) else 1001):
            try:
                found[k] = number(f"schedule({k})", schedule(k), finite=False)
            except (TypeError, ValueError) as error:
                raise TypeError(f"schedule={schedule!r}: it must give a number at {k}: {error}") from error
    return found
