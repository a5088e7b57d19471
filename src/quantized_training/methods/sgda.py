"""Stochastic gradient descent ascent on the Lagrangian: paper, section 5, Algorithm 2."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..constraints import PHI
from ..levels import Levels
from .base import Method, chunks, local


class SGDA(Method):
    """Descent in w, ascent in the multipliers lambda of the pieces f_j >= 0: L(w, lambda) = loss(w) - lambda' f(w).

    epsilon: tolerance of the constraints, fixed during training; None for half its largest legal value, which is 0.5 for -1
    and 1, and for every parameter group that of its own levels. dual_lr: the dual step eta_lambda; dual_max: every
    multiplier is projected on [0, dual_max] (the paper restricts lambda to a set of diameter D and names no value). The
    defaults are chosen by a rule from the maps of Tasks I and II (the book's page "Sensitivity"); after rounding, Task II
    stays behind BinaryConnect at every setting there.
    Both steps use the same iterate (w, lambda), as Algorithm 2 prints. The multipliers of a parameter of shape s are
    `state["dual"]`, shape (K + 1, *s), from zero. Raises ValueError for values outside their range.

    >>> method, w, state = SGDA(Levels.binary(), epsilon=0.5, dual_lr=0.5), torch.tensor([0.25]), {}
    >>> [method.descent(torch.zeros(1), w, method.levels, state).item() for _ in range(2)]  # then a multiplier acts
    [0.0, -0.109375]
    """

    constraint = PHI

    def __init__(
        self, levels: Levels, epsilon: float | None = None, dual_lr: float = 1e-3, dual_max: float = 1.0
    ) -> None:
        super().__init__(levels)
        if not isinstance(epsilon, int | float | None):
            raise TypeError(f"epsilon={epsilon!r}: SGDA keeps epsilon fixed, give a number")
        if not (dual_lr > 0 and math.isfinite(dual_lr)):
            raise ValueError(f"dual_lr={dual_lr}: it must be a positive finite number")
        if not dual_max > 0:
            raise ValueError(f"dual_max={dual_max}: it must be positive (math.inf for no bound)")
        self._epsilon, self.dual_lr, self.dual_max = epsilon, dual_lr, dual_max
        self.check(levels, lr=0.0)

    @property
    def epsilon(self) -> float:
        """The tolerance for the method's own levels."""
        return self.tolerance(self.levels)

    def tolerance(self, levels: Levels) -> float:
        return PHI.largest_epsilon(levels) / 2 if self._epsilon is None else self._epsilon

    def descent(self, grad: Tensor, w: Tensor, levels: Levels, state: dict, out: Tensor | None = None) -> Tensor:
        out, mine = torch.empty_like(grad) if out is None else out, local(w)
        duals = state.setdefault("dual", mine.new_zeros(len(levels.values) + 1, *mine.shape))
        (low, high), rate, box, epsilon = levels.hull, self.dual_lr, (0, self.dual_max), self.tolerance(levels)
        # In place, without temporaries; the gradient of L in lambda is -f, in w that of the loss minus sum_j lambda_j f_j'.
        for g, x, o, below, *middle, above in chunks(grad, w, out, *duals):
            torch.sub(g, below, out=o).add_(above)
            below.sub_(x, alpha=rate).sub_(rate * (epsilon - low)).clamp_(*box)
            above.add_(x, alpha=rate).sub_(rate * (epsilon + high)).clamp_(*box)
            for dual, m, gap in zip(middle, levels.midpoints, levels.gaps, strict=False):
                u = x - m  # f_j = u^2 - (gap/2)^2 + eps
                o.addcmul_(dual, u, value=-2)
                dual.addcmul_(u, u, value=-rate).add_(rate * (gap * gap / 4 - epsilon)).clamp_(*box)
        return out

    def check(self, levels: Levels, lr: float) -> None:
        PHI.check_epsilon(self.tolerance(levels), levels)
