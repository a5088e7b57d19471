"""Stochastic gradient descent ascent on the Lagrangian: paper, section 5, Algorithm 2."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ..arguments import number
from ..constraints import PHI
from ..levels import Levels, _on
from .base import Method, _chunks, _local


def _column(values: tuple[float, ...], x: Tensor) -> Tensor:
    """The values along a dimension before those of x."""
    return _on(values, x.dtype, x.device).view(-1, *[1] * x.ndim)


class SGDA(Method):
    """Descent in w, ascent in the multipliers lambda of the pieces f_j >= 0: L(w, lambda) = loss(w) - lambda' f(w).
    f_1 = eps - (q_1 - w),  f_j = eps - (q_(j-1) - w)(w - q_j) for j = 2..K,  f_(K+1) = eps - (w - q_K); their minimum is phi.
    epsilon: tolerance, fixed during training; None for half its largest legal value, that of each group's own levels. dual_lr:
    the dual step eta_lambda. dual_max: the box [0, dual_max] of the multipliers (the paper names none). The defaults follow a
    rule from the maps of Tasks I and II (the book's page "Sensitivity"). Both steps use the same (w, lambda), as Algorithm 2
    prints. Multipliers of a parameter of shape s: `state["dual"]`, shape (K + 1, *s), from zero. ValueError for bad values.
    >>> method, w, state = SGDA(Levels.binary(), epsilon=0.5, dual_lr=0.5), torch.tensor([0.25]), {}
    >>> multiplier = next(method.late_changes(w, method.levels, state))[1][1].item()  # of the gap
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

    epsilon = property(lambda self: self.tolerance(self.levels), doc="The tolerance for the method's own levels.")

    def tolerance(self, levels: Levels) -> float:
        return PHI.largest_epsilon(levels) / 2 if self._epsilon is None else self._epsilon

    def descent(self, grad: Tensor, w: Tensor, levels: Levels, state: dict, out: Tensor | None = None) -> Tensor:
        """The gradient of L in w: that of the loss minus sum_j lambda_j f_j'. The multipliers' step: `late_changes`."""
        out = torch.empty_like(grad) if out is None else out
        for (g, x, o), duals in self._pieces((grad, w, out), levels, state):
            torch.sub(g, duals[0], out=o).add_(duals[-1])
            u = x - _column(levels.midpoints, x)
            if len(u) == 1:
                o.addcmul_(duals[1], u[0], value=-2)
            else:
                o.sub_((u * duals[1:-1]).sum(0), alpha=2)
        return out

    @staticmethod
    def _pieces(tensors: tuple[Tensor, ...], levels: Levels, state: dict) -> Iterable[tuple[tuple, Tensor]]:
        """Parts of the weights with all their multipliers, which fit together in a processor's cache."""
        if len(duals := state.get("dual", ())) != len(levels.values) + 1:
            mine = _local(tensors[0])
            duals = state["dual"] = mine.new_zeros(len(levels.values) + 1, *mine.shape)
        parts = list(_chunks(*tensors, share=len(duals) // 2))
        if len(parts) == 1:
            return [(parts[0], duals)]
        return zip(parts, duals.view(len(duals), -1).split(len(parts[0][0]), 1), strict=True)

    def late_changes(self, w: Tensor, levels: Levels, state: dict) -> Iterator[tuple[Tensor, Tensor]]:
        """The dual step lambda_j - dual_lr f_j(w), projected on [0, dual_max]: the gradient of L in lambda is -f."""
        (low, high), rate, box, epsilon = levels.hull, self.dual_lr, (0, self.dual_max), self.tolerance(levels)
        rises = tuple(rate * (gap * gap / 4 - epsilon) for gap in levels.gaps)
        for (x,), duals in self._pieces((w,), levels, state):
            u, new = x - _column(levels.midpoints, x), torch.empty_like(duals)
            torch.sub(duals[0], x, alpha=rate, out=new[0]).sub_(rate * (epsilon - low))
            torch.add(duals[-1], x, alpha=rate, out=new[-1]).sub_(rate * (epsilon + high))
            torch.addcmul(duals[1:-1], u, u, value=-rate, out=new[1:-1])  # f_j = u^2 - (gap/2)^2 + eps
            new[1:-1] += rises[0] if len(set(rises)) == 1 else _column(rises, x)
            yield duals, new.clamp_(*box)

    def state_shape(self, name: str, levels: Levels, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        return (len(levels.values) + 1, *shape) if name == "dual" else None

    def check(self, levels: Levels, lr: float) -> None:
        PHI.check_epsilon(self.tolerance(levels), levels)
