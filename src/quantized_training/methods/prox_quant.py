"""ProxQuant (Bai et al., 2018): paper, equation (6)."""

import math

import torch
from torch import Tensor

from ..arguments import _instance
from ..levels import Levels
from ..schedules import Linear, Schedule, as_schedule
from .base import Method


def prox_l1(w: Tensor, levels: Levels, strength: float) -> Tensor:
    """Proximal operator of strength * min_q ||w - q||_1: every weight moves to its nearest level by at most `strength`.
    >>> prox_l1(torch.tensor([0.25, 0.875]), Levels.binary(), strength=0.25).tolist()
    [0.5, 1.0]
    """
    q = levels.nearest(w)
    r = w - q
    return torch.where(r.abs() <= strength, q, w - strength * r.sign())  # strength 0 leaves w bit for bit


def prox_l2(w: Tensor, levels: Levels, strength: float, dim: tuple[int, ...] | None = None) -> Tensor:
    """Proximal operator of strength * min_q ||w - q||_2 (not squared, as printed): a block of weights moves as one.
    dim: the dimensions that form a block, by default all of them.
    >>> prox_l2(torch.tensor([0.25, 1.0]), Levels.binary(), strength=0.5).tolist()
    [0.75, 1.0]
    """
    q = levels.nearest(w)
    r = w - q
    # torch reads dim=() as "all dimensions"; here it means that every weight is a block
    norm = r.abs() if dim == () else torch.linalg.vector_norm(r, dim=dim, keepdim=dim is not None)
    return torch.where(norm <= strength, q, w - r * (strength / norm))


def prox_squared_l2(w: Tensor, levels: Levels, strength: float) -> Tensor:
    """Proximal operator of strength * min_q ||w - q||_2^2: (w + 2 strength q) / (1 + 2 strength), never exactly a level.
    >>> prox_squared_l2(torch.tensor([0.5]), Levels.binary(), strength=0.5).tolist()  # half of the way
    [0.75]
    """
    return (w + 2 * strength * levels.nearest(w)) / (1 + 2 * strength)


NORMS = ("l1", "l2", "squared_l2")
DEFAULT_STRENGTH = Linear(1e-4)


class ProxQuant(Method):
    """A gradient step on the latent weights, then the proximal operator of the W-shaped regulariser (6).
    strength: lambda_k as a number or a schedule of the annealing index; the prox parameter is lr * lambda_k. norm: "l1", "l2"
    (one block per parameter) or "squared_l2". ensemble: a parameter's first dimension counts runs, each a block under "l2".
    >>> method = ProxQuant(Levels.binary(), strength=Linear(1.0))
    >>> method.anneal()
    >>> method.after_step(torch.tensor([0.25]), method.levels, {}, lr=0.5).tolist()
    [0.75]
    """

    keeps_state = True

    def __init__(
        self, levels: Levels, strength: float | Schedule = DEFAULT_STRENGTH, norm: str = "l1", ensemble: bool = False
    ) -> None:
        super().__init__(levels)
        if not isinstance(norm, str) or norm not in NORMS:
            raise ValueError(f"norm={norm!r}: allowed are {', '.join(map(repr, NORMS))}")
        self.strength = as_schedule(strength, "strength")
        self.check_plan(levels)
        self.norm, self.ensemble = norm, _instance("ensemble", ensemble, bool, "True or False")
        self.elementwise = norm != "l2"

    plan = property(lambda self: self.strength)

    def check(self, levels: Levels, lr: float, k: int | None = None) -> None:
        value = self.strength(self.t if k is None else k)
        if not 0 <= value < math.inf:
            raise ValueError(f"strength={value} after {k or self.t} calls of anneal(): it must be finite, not negative")

    def after_step(self, w: Tensor, levels: Levels, state: dict, lr: float) -> Tensor:
        strength = lr * self.strength(self.t)
        if self.norm == "l2":
            return prox_l2(w, levels, strength, dim=tuple(range(1, w.ndim)) if self.ensemble else None)
        return (prox_l1 if self.norm == "l1" else prox_squared_l2)(w, levels, strength)
