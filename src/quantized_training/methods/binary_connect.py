"""BinaryConnect (Courbariaux et al., 2015): paper, equations (2) and (4)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..levels import Levels
from .base import Method


def round_stochastic(w: Tensor, levels: Levels, uniform: Tensor) -> Tensor:
    """Each weight rounded up or down at random so that its expectation is w clipped to the hull.

    For {-1, +1} this is (4): +1 with probability sigma(w) = max(0, min((w + 1)/2, 1)). `uniform` has w's shape and
    holds independent draws from [0, 1).
    """
    dtype, w = w.dtype, w.to(torch.promote_types(w.dtype, uniform.dtype))  # draws of half precision are too coarse
    q = levels.tensor(w)
    if len(levels.values) == 2:
        return torch.where(uniform < (w - q[0]) / (q[1] - q[0]), q[1], q[0]).to(dtype)
    below = (levels.gap(w) - 1).clamp(0, len(levels.values) - 2)
    a, b = q[below], q[below + 1]
    return torch.where(uniform < (w - a) / (b - a), b, a).to(dtype)


class BinaryConnect(Method):
    """Gradient at a rounding of the weights, applied to the latent weights (2), which are then clipped to the hull.

    stochastic: round at random (4), as the paper's experiments do; otherwise to the nearest level (1).
    seed: of the random rounding. uniform: replaces the built-in generator; maps the latent weights to a tensor of the
    same shape with draws from [0, 1).
    """

    forward_is_latent = False

    def __init__(
        self,
        levels: Levels,
        stochastic: bool = True,
        seed: int = 0,
        uniform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(levels)
        self.stochastic = stochastic
        self.elementwise = not stochastic  # `uniform` draws for a whole parameter
        self._generator = torch.Generator().manual_seed(seed)  # on the CPU: the same stream on every device
        self._uniform = uniform or self._draw

    def _draw(self, w: Tensor) -> Tensor:
        dtype = torch.promote_types(w.dtype, torch.float32)  # draws of half precision are too coarse
        return torch.rand(w.shape, generator=self._generator, dtype=dtype).to(w.device)

    @property
    def in_pieces(self) -> bool:
        return self.elementwise or self._uniform == self._draw  # draws follow each other like the weights

    @property
    def random(self) -> bool:
        return self.stochastic

    def forward_point(self, w: Tensor, levels: Levels, state: dict) -> Tensor:
        if self.stochastic:
            return round_stochastic(w, levels, self._uniform(w))
        return levels.nearest(w)

    def after_step(self, w: Tensor, levels: Levels, state: dict, lr: float) -> Tensor:
        return levels.clip(w)

    def state_dict(self) -> dict:
        # as text, which no map_location moves to another device
        return {**super().state_dict(), "generator": self._generator.get_state().numpy().tobytes().hex()}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        saved = state["generator"]
        if isinstance(saved, str):
            saved = torch.frombuffer(bytearray.fromhex(saved), dtype=torch.uint8)
        self._generator.set_state(saved.cpu())
