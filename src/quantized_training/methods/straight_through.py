"""Straight-through estimators: the binary one of equations (1) and (3), and the k-bit one of equation (5)."""

import torch
from torch import Tensor

from ..arguments import _integer
from ..levels import Levels, _numbers_suffice
from .base import Method
from .binary_connect import BinaryConnect


def straight_through_mask(w: Tensor, levels: Levels) -> Tensor:
    """1 where w lies inside the hull, 0 elsewhere: for {-1, +1} the indicator 1{|w| <= 1} of (3).
    >>> straight_through_mask(torch.tensor([-1.5, 0.5, 1.0]), Levels.binary()).tolist()
    [0.0, 1.0, 1.0]
    """
    clipped = levels.clip(w.detach())
    return torch.eq(clipped, w, out=clipped) if _numbers_suffice(w, levels.values) else (clipped == w).to(w.dtype)


class StraightThrough(Method):
    """Gradient at the nearest level (1), passed on where the latent weight lies inside the hull (3).
    >>> method, w = StraightThrough(Levels.binary()), torch.tensor([0.25, 1.5])
    >>> method.forward_point(w, method.levels, {}).tolist(), method.descent(torch.ones(2), w, method.levels, {}).tolist()
    ([1.0, 1.0], [1.0, 0.0])
    """

    forward_is_latent = False
    elementwise = repeats = True

    def forward_point(self, w: Tensor, levels: Levels, state: dict) -> Tensor:
        return levels.nearest(w)

    def descent(self, grad: Tensor, w: Tensor, levels: Levels, state: dict, out: Tensor | None = None) -> Tensor:
        return torch.mul(grad, straight_through_mask(w, levels), out=out)


class KBitStraightThrough(StraightThrough):
    """Gradient at the k-bit rounding (5) of the latent weight, passed on unchanged, latent weights clipped to the hull.
    Equation (5) takes numbers from [0, 1]; here the hull [q_1, q_K] is mapped on it, which the paper leaves open.
    >>> method = KBitStraightThrough(bits=2)
    >>> method.levels.values, method.forward_point(torch.tensor([0.25, 7.0]), method.levels, {}).tolist()
    ((-2.0, -1.0, 0.0, 1.0), [0.0, 1.0])
    """

    descent, after_step = Method.descent, BinaryConnect.after_step

    def __init__(self, bits: int) -> None:
        super().__init__(Levels.for_bits(_integer("bits", bits, 1, 16)))
        self.bits = bits

    def check(self, levels: Levels, lr: float) -> None:
        gaps = levels.gaps
        if len(levels.values) != 2**self.bits or max(gaps) - min(gaps) > 1e-9 * max(gaps):
            raise ValueError(f"bits={self.bits} needs {2**self.bits} evenly spaced levels, got {levels.values}")
