"""Stochastic gradient descent ascent on the Lagrangian: paper, section 5, Algorithm 2."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..arguments import number
from ..constraints import PHI
from ..levels import Levels
from .base import Method, _chunks, _local


class SGDA(Method):
    """Descent in w, ascent in the multipliers lambda of the pieces f_j >= 0: L(w, lambda) = loss(w) - lambda' f(w).
    f_1 = eps - (q_1 - w),  f_j = eps - (q_(j-1) - w)(w - q_j) for j = 2..K,  f_(K+1) = eps - (w - q_K); their minimum is phi.
    epsilon: tolerance, fixed during training; None for half its largest legal value, that of each group's own levels. dual_lr:
    the dual step eta_lambda. dual_max: the box [0, dual_max] of the multipliers (the paper names none). The defaults follow a
    rule from the maps of Tasks I and II (the book's page "Sensitivity"). Both steps use the same (w, lambda), as Algorithm 2
    prints. Multipliers of a parameter of shape s: `state["dual"]`, shape (K + 1, *s), from zero. ValueError for bad values.
    >>> method, w, state = SGDA(Levels.binary(), epsilon=0.5, dual_lr=0.5), torch.tensor([0.25]), {}
    >>> multiplier = [value.item() for _, value in method.late_changes(w, method.levels, state)][-1]  # of the gap
    >>> multiplier, method.descent(torch.zeros(1), w, method.levels, {"dual": torch.tensor([[0.0], [multiplier], [0.0]])})
    (0.21875, tensor([-0.1094]))
    """

    constraint = PHI
    keeps_state = True

    def __init__(
        self, levels: Levels, epsilon: float | None = None, dual_lr: float = 1e-3, dual_max: float = 1.0
    ) -> None:
        super().__init__(levels)
        if callable(epsilon):
            raise TypeError(f"epsilon={epsilon!r}: SGDA keeps epsilon fixed, give a number")
        self._epsilon = None if epsilon is None else number("epsilon", epsilon, finite=False)
        self.dual_lr = number("dual_lr", dual_lr, 0, strict=True)
        self.dual_max = number("dual_max", dual_max, 0, strict=True, finite=False)
        self.check(levels, lr=0.0)

    @property
    def epsilon(self) -> float:
        """The tolerance for the method's own levels."""
        return self.tolerance(self.levels)

    def tolerance(self, levels: Levels) -> float:
        return PHI.largest_epsilon(levels) / 2 if self._epsilon is None else self._epsilon

    def descent(self, grad: Tensor, w: Tensor, levels: Levels, state: dict, out: Tensor | None = None) -> Tensor:
        """The gradient of L in w: that of the loss minus sum_j lambda_j f_j'. The multipliers' step: `late_changes`."""
        out = torch.empty_like(grad) if out is None else out
        for g, x, o, below, *middle, above in _chunks(grad, w, out, *self._duals(w, levels, state)):
            torch.sub(g, below, out=o).add_(above)
            for dual, m in zip(middle, levels.midpoints, strict=True):
                o.addcmul_(dual, x - m, value=-2)
        return out

    @staticmethod
    def _duals(w: Tensor, levels: Levels, state: dict) -> Tensor:
        if len(state.get("dual", ())) != len(levels.values) + 1:
            mine = _local(w)
            state["dual"] = mine.new_zeros(len(levels.values) + 1, *mine.shape)
        return state["dual"]

    def late_changes(self, w: Tensor, levels: Levels, state: dict) -> Iterator[tuple[Tensor, Tensor]]:
        """The dual step lambda_j - dual_lr f_j(w), projected on [0, dual_max]: the gradient of L in lambda is -f."""
        (low, high), rate, box, epsilon = levels.hull, self.dual_lr, (0, self.dual_max), self.tolerance(levels)
        for x, below, *middle, above in _chunks(w, *self._duals(w, levels, state)):
            yield below, below.sub(x, alpha=rate).sub_(rate * (epsilon - low)).clamp_(*box)
            yield above, above.add(x, alpha=rate).sub_(rate * (epsilon + high)).clamp_(*box)
            for dual, m, gap in zip(middle, levels.midpoints, levels.gaps, strict=True):
                u = x - m  # f_j = u^2 - (gap/2)^2 + eps
                yield dual, dual.addcmul(u, u, value=-rate).add_(rate * (gap * gap / 4 - epsilon)).clamp_(*box)

    def state_shape(self, name: str, levels: Levels, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        return (len(levels.values) + 1, *shape) if name == "dual" else None

    def check(self, levels: Levels, lr: float) -> None:
        PHI.check_epsilon(self.tolerance(levels), levels)
