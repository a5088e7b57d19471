"""BinaryConnect on the mean loss of the randomly rounded network: Liu et al. (2023), for one-bit weights."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..arguments import number
from ..levels import Levels
from .binary_connect import BinaryConnect


class DebiasedBinaryConnect(BinaryConnect):
    """Stochastic BinaryConnect whose gradient is divided by twice the chance of the rounding at which it was taken.

    For weights x in [-1, 1] rounded at random to W, E W = x, it estimates the gradient of F(x) = E loss(W) by
    g_i = d_i loss(W) / (1 + W_i x_i). Its mean is the trapezoid rule for d_i F: exact where the loss is quadratic in each
    weight, else off by at most a third of the largest third derivative by w_i. (BinaryConnect's own mean is off by x_i times
    the curvature, too.) In the probabilities' logits it is the estimator ReinMax of Liu et al. (2023).

    delta: after each step the weights are clipped to [-1 + delta, 1 - delta], so that no factor exceeds 1 / delta; a smaller
    box has less variance and holds fewer means. seed, uniform: as in `BinaryConnect`. Any two levels; ValueError for more.
    >>> method, state = DebiasedBinaryConnect(Levels.binary(), uniform=lambda w: torch.full_like(w, 0.7)), {}
    >>> x = torch.tensor([0.5, 0.2])  # +1 with probability 0.75 and 0.6
    >>> method.forward_point(x, method.levels, state).tolist()
    [1.0, -1.0]
    >>> method.descent(torch.ones(2), x, method.levels, state)  # 1 / (2 * 0.75) and 1 / (2 * 0.4)
    tensor([0.6667, 1.2500])
    """

    in_pieces = keeps_state = False  # `descent` needs what `forward_point` last drew for the whole parameter

    def __init__(
        self, levels: Levels, delta: float = 0.02, seed: int = 0, uniform: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__(levels, seed=seed, uniform=uniform)
        if not 0 < number("delta", delta) < 1:
            raise ValueError(f"delta={delta}: allowed is 0 < delta < 1")
        self.delta = delta
        self.check(levels, lr=0.0)

    def _clipped(self, w: Tensor, levels: Levels) -> Tensor:
        low, high = levels.hull
        edge = self.delta * (high - low) / 2
        return w.clamp(low + edge, high - edge)

    def forward_point(self, w: Tensor, levels: Levels, state: dict) -> Tensor:
        drawn = super().forward_point(self._clipped(w, levels), levels, state)
        state["upper"] = drawn > levels.midpoints[0]
        return drawn

    def descent(self, grad: Tensor, w: Tensor, levels: Levels, state: dict, out: Tensor | None = None) -> Tensor:
        low, high = levels.hull
        up = (self._clipped(w, levels) - low) / (high - low)
        return torch.div(grad, 2 * torch.where(state["upper"], up, 1 - up), out=out)

    def after_step(self, w: Tensor, levels: Levels, state: dict, lr: float) -> Tensor:
        return self._clipped(w, levels)

    def state_shape(self, name: str, levels: Levels, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        return shape if name == "upper" else None

    def check(self, levels: Levels, lr: float) -> None:
        if len(levels.values) != 2:
            raise ValueError(f"debiased BinaryConnect needs two levels, got {levels.values}: an inner one is a kink")
