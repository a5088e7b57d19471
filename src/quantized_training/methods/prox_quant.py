"""ProxQuant (Bai et al., 2018): paper, equation (6)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..levels import Levels
from ..schedules import Linear, Schedule, as_schedule
from .base import Method


def prox_l1(w: Tensor, levels: Levels, strength: float) -> Tensor:
    """Proximal operator of strength * min_q ||w - q||_1: every weight moves towards its nearest level by at most `strength`.

    A weight within `strength` of its level lands exactly on it, so a finite strength already quantises.
    """
    q = levels.nearest(w)
    r = w - q
    return q + r.sign() * (r.abs() - strength).clamp_min(0)


def prox_l2(w: Tensor, levels: Levels, strength: float) -> Tensor:
    """Proximal operator of strength * min_q ||w - q||_2 (not squared, as printed): the whole tensor moves as one block."""
    q = levels.nearest(w)
    r = w - q
    norm = torch.linalg.vector_norm(r)
    return q + r * (1 - strength / norm.clamp_min(torch.finfo(w.dtype).tiny)).clamp_min(0)


def prox_squared_l2(w: Tensor, levels: Levels, strength: float) -> Tensor:
    """Proximal operator of strength * min_q ||w - q||_2^2: (w + 2 strength q) / (1 + 2 strength), never exactly a level."""
    return (w + 2 * strength * levels.nearest(w)) / (1 + 2 * strength)


PROX = {"l1": prox_l1, "l2": prox_l2, "squared_l2": prox_squared_l2}


class ProxQuant(Method):
    """A gradient step on the latent weights, then the proximal operator of the W-shaped regulariser (6).

    strength: lambda_k as a number or a schedule of the annealing index (`anneal` advances it); the prox parameter is
    lr * lambda_k. norm: "l1", "l2" (unsquared, one block per parameter tensor) or "squared_l2".
    Raises ValueError for an unknown norm or a negative strength.
    """

    def __init__(self, levels: Levels, strength: float | Schedule = Linear(1e-4), norm: str = "l1") -> None:
        super().__init__(levels)
        if norm not in PROX:
            raise ValueError(f"norm={norm!r}: allowed are {', '.join(map(repr, PROX))}")
        self.strength = as_schedule(strength)
        if self.strength(0) < 0 or self.strength(1) < 0:
            raise ValueError(f"strength={strength}: a regularisation strength cannot be negative")
        self.norm = norm

    def after_step(self, w: Tensor, levels: Levels, state: dict, lr: float) -> Tensor:
        return PROX[self.norm](w, levels, lr * self.strength(self.t))
