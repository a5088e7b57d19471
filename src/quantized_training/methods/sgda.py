"""Stochastic gradient descent ascent on the Lagrangian: paper, section 5, Algorithm 2."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..constraints import PHI, pieces, pieces_derivative
from ..levels import Levels
from .base import Method


class SGDA(Method):
    """Descent in w, ascent in the multipliers lambda of the pieces f_j >= 0: L(w, lambda) = loss(w) - lambda' f(w).

    epsilon: tolerance of the constraints, fixed during training. dual_lr: the dual step eta_lambda; dual_max: every
    multiplier is projected on [0, dual_max] (the paper restricts lambda to a set of diameter D and names no value).
    Both steps use the same iterate (w, lambda), as Algorithm 2 prints. The multipliers of a parameter of shape s are
    `state["dual"]`, shape (K + 1, *s), from zero. Raises ValueError for values outside their range.
    """

    def __init__(self, levels: Levels, epsilon: float = 0.01, dual_lr: float = 1e-3, dual_max: float = 1.0) -> None:
        super().__init__(levels)
        if not isinstance(epsilon, int | float):
            raise TypeError(f"epsilon={epsilon!r}: SGDA keeps epsilon fixed, give a number")
        if not (dual_lr > 0 and math.isfinite(dual_lr)):
            raise ValueError(f"dual_lr={dual_lr}: it must be a positive finite number")
        if not dual_max > 0:
            raise ValueError(f"dual_max={dual_max}: it must be positive (math.inf for no bound)")
        self.epsilon, self.dual_lr, self.dual_max = epsilon, dual_lr, dual_max
        self.check(levels, lr=0.0)

    def direction(self, grad: Tensor, w: Tensor, levels: Levels, state: dict) -> Tensor:
        f = pieces(w, levels, self.epsilon)
        dual = state.setdefault("dual", torch.zeros_like(f))
        velocity = (dual * pieces_derivative(w, levels)).sum(0) - grad
        dual.sub_(f, alpha=self.dual_lr).clamp_(0, self.dual_max)  # ascent: the gradient of L in lambda is -f
        return velocity

    def check(self, levels: Levels, lr: float) -> None:
        PHI.check_epsilon(self.epsilon, levels)
