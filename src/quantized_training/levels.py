"""Codebooks: the finite set Q = {q_1 < ... < q_K} of values that a weight may take (paper, section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from .arguments import _integer, _real_weights, number


@lru_cache(maxsize=256)
def _on(values: tuple[float, ...], dtype: torch.dtype, device: torch.device, apart: bool = False) -> Tensor:
    """The values as a tensor; apart: ValueError where the dtype cannot tell them apart."""
    with torch.inference_mode(False):  # autograd refuses tensors that were made in inference mode
        stored = torch.tensor(values, dtype=dtype, device="cpu")
        if apart and not (stored.isfinite().all() and (stored[1:] > stored[:-1]).all()):
            raise ValueError(f"the levels {values} cannot be told apart in {dtype}; use a finer dtype")
        return stored.to(device)


@lru_cache(maxsize=256)
def _even(values: tuple[float, ...], dtype: torch.dtype) -> bool:
    """Whether q_1 + gap * k is each level exactly."""
    q = torch.tensor(values, dtype=dtype)
    return bool((torch.arange(len(q), dtype=dtype) * (values[1] - values[0]) + values[0] == q).all())


def _numbers_suffice(w: Tensor, values: tuple[float, ...]) -> bool:
    """Whether levels are best found by arithmetic on their numbers: a processor is slow at choices that it cannot foresee."""
    plain = type(w) in (Tensor, torch.nn.Parameter) and w.device.type == "cpu" and not torch.compiler.is_compiling()
    return plain and len(values) <= 16 and _even(values, w.dtype)


@dataclass(frozen=True)
class Levels:
    """The admissible values of one weight: two or more finite numbers, strictly increasing; else ValueError.
    >>> levels = Levels.integers(bits=2)
    >>> levels.values, levels.nearest(torch.tensor([-0.75, 0.5, 9.0])).tolist()
    ((-2.0, -1.0, 0.0, 1.0), [-1.0, 1.0, 1.0])
    """

    values: tuple[float, ...]
    #: The K - 1 distances between neighbouring levels, and the midpoints between them, where rounding switches.
    gaps: tuple[float, ...] = field(init=False, repr=False, compare=False)
    midpoints: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.values, str) or not isinstance(self.values, Iterable):
            raise TypeError(f"levels must be a sequence of numbers, e.g. (-1, 1), got {self.values!r}")
        values = tuple(float(number("a level", q)) for q in self.values)
        object.__setattr__(self, "values", values)
        if len(values) < 2:
            raise ValueError(f"levels need at least two values, got {values}")
        if any(a >= b for a, b in zip(values, values[1:], strict=False)):
            what = "repeat a value" if len(set(values)) < len(values) else "are not sorted"
            raise ValueError(f"levels {values} {what}; they must be strictly increasing, e.g. (-1, 1)")
        for name, f in (("gaps", lambda a, b: b - a), ("midpoints", lambda a, b: (a + b) / 2)):
            object.__setattr__(self, name, tuple(map(f, values, values[1:])))

    @classmethod
    def binary(cls) -> Levels:
        """{-1, +1}, the one-bit codebook of Tasks I and II."""
        return cls((-1.0, 1.0))

    @classmethod
    def ternary(cls) -> Levels:
        """{-1, 0, +1}."""
        return cls((-1.0, 0.0, 1.0))

    @classmethod
    def integers(cls, bits: int) -> Levels:
        """The integers -2^(bits-1) .. 2^(bits-1) - 1 (paper, section 6). For one bit that would be {-1, 0}, while the paper's
        tasks use `binary()`: ValueError for bits outside 2 .. 16."""
        if not 2 <= _integer("bits", bits, -(2**31), 2**31) <= 16:
            raise ValueError(f"bits={bits}: allowed are 2, 3, ... 16; for one bit use Levels.binary()")
        return cls(tuple(float(q) for q in range(-(2 ** (bits - 1)), 2 ** (bits - 1))))

    @classmethod
    def for_bits(cls, bits: int) -> Levels:
        """The codebook of 2^bits levels that the paper's tasks use: `binary()` for one bit, else `integers(bits)`."""
        return cls.binary() if type(bits) is int and bits == 1 else cls.integers(bits)

    def scaled(self, factor: float) -> Levels:
        """The same codebook times a positive factor, e.g. one per layer."""
        factor = number("factor", factor, 0, strict=True)
        return Levels(tuple(factor * q for q in self.values))

    #: The smallest interval that contains all levels: (q_1, q_K).
    hull = property(lambda self: (self.values[0], self.values[-1]))

    def tensor(self, like: Tensor) -> Tensor:
        """The levels, shape (K,), as `like`; ValueError where its dtype cannot tell them apart, TypeError for integers."""
        return self._on("like", like).clone()

    def _on(self, name: str, w: Tensor) -> Tensor:
        return _on(self.values, _real_weights(name, w).dtype, w.device, apart=not torch.compiler.is_compiling())

    def vectors(self, n: int, dtype: torch.dtype | None = None) -> Tensor:
        """All K^n admissible vectors of n weights, the set of (P1), one per row: shape (K^n, n), in lexicographic order.
        ValueError for n < 1 and for more than 2^22 vectors."""
        k = len(self.values)
        if n < 1 or n * math.log2(k) > 22:
            raise ValueError(f"n={n}: {k}^{n} vectors are too many, or there must be a weight: n >= 1 with K^n <= 2^22")
        return torch.cartesian_prod(*[torch.tensor(self.values, dtype=dtype)] * n).view(-1, n)

    def cell(self, w: Tensor) -> Tensor:
        """Index 0 .. K-1 of the level nearest to each weight; a midpoint belongs to the upper level."""
        return torch.bucketize(w.contiguous(), _on(self.midpoints, w.dtype, w.device), right=True)

    def nearest(self, w: Tensor) -> Tensor:
        """Each weight rounded to its nearest level: shape, dtype and device of `w`; NaN where it is NaN. A midpoint is
        rounded up, which for {-1, +1} is equation (1): sign(w) with sign(0) = +1. Raises as `tensor`."""
        values = self._on("w", w)
        if _numbers_suffice(w, self.values):
            first, *others = self.midpoints
            rounded = torch.ge(w := w.detach(), first, out=torch.empty_like(w))
            one = torch.empty_like(w) if others else w
            for m in others:
                rounded += torch.ge(w, m, out=one)
            torch.add(values[0], rounded, alpha=self.gaps[0], out=rounded)
        elif len(values) == 2:
            rounded = torch.where(w >= self.midpoints[0], values[1], values[0])
        else:
            rounded = values[self.cell(w)]
        # A sum is NaN where one of its terms is, and costs less than looking; only a sum can be NaN without them, too.
        if torch.compiler.is_compiling() or w.device.type != "cpu" or w.sum().isnan():
            rounded = torch.where(w.isnan(), w, rounded)
        return rounded

    def gap(self, w: Tensor) -> Tensor:
        """Index j of the interval that contains each weight: 0 below q_1, j on [q_j, q_(j+1)), K from q_K on."""
        return torch.bucketize(w.contiguous(), _on(self.values, w.dtype, w.device), right=True)

    def clip(self, w: Tensor) -> Tensor:
        """Each weight clipped to the hull [q_1, q_K]."""
        return w.clamp(*self.hull)
