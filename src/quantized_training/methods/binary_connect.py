"""BinaryConnect (Courbariaux et al., 2015): paper, equations (2) and (4); and the same on the mean loss of the randomly rounded
network, for one-bit weights (Liu et al., 2023)."""

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from ..arguments import _instance, _integer, number
from ..levels import Levels, _numbers_suffice
from .base import Method


def round_stochastic(w: Tensor, levels: Levels, uniform: Tensor) -> Tensor:
    """Each weight rounded up or down at random so that its expectation is w clipped to the hull: for {-1, +1} this is (4), +1
    with probability sigma(w) = max(0, min((w + 1)/2, 1)). `uniform` has w's shape and holds draws from [0, 1).
    >>> w = torch.full((2,), 0.5)  # +1 with probability 3/4
    >>> round_stochastic(w, Levels.binary(), uniform=torch.tensor([0.7, 0.8])).tolist()
    [1.0, -1.0]
    """
    if uniform.shape != w.shape or not uniform.is_floating_point():
        raise ValueError(f"uniform must have the weights' shape, got {tuple(uniform.shape)} of {uniform.dtype}")
    q, dtype = levels.tensor(w), w.dtype
    w = w.to(torch.promote_types(dtype, uniform.dtype))  # draws of half precision are too coarse
    q = q.to(w.dtype)
    a, b = q[0], q[-1]
    if len(q) > 2:
        below = (levels.gap(w) - 1).clamp(0, len(q) - 2)
        a, b = q[below], q[below + 1]
    up = ((w - a) / (b - a)).detach()
    if len(q) == 2 and _numbers_suffice(w, levels.values):
        rounded = torch.add(a, torch.lt(uniform.to(w.dtype), up, out=up), alpha=levels.gaps[0])
    else:
        rounded = torch.where(uniform < up, b, a)
    rounded = rounded.to(dtype)
    return torch.where(w.isnan(), w.to(dtype), rounded) if w.sum().isnan() else rounded


class BinaryConnect(Method):
    """Gradient at a rounding of the weights, applied to the latent weights (2), which are then clipped to the hull.
    stochastic: round at random (4), as the paper's experiments do; False, what the book's chapter "What to use" recommends for
    networks with batch normalisation: to the nearest level (1). seed: of the random rounding. uniform: instead of the built-in
    generator, maps the latent weights to a tensor of draws from [0, 1).
    >>> method = BinaryConnect(Levels.ternary(), stochastic=False)
    >>> method.forward_point(torch.tensor([-0.75, 0.25]), method.levels, {}).tolist()
    [-1.0, 0.0]
    """

    forward_is_latent = False
    keeps_state = True

    def __init__(
        self, levels: Levels, stochastic: bool = True, seed: int = 0, uniform: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__(levels)
        self.stochastic = _instance("stochastic", stochastic, bool, "True or False")
        self.elementwise = not stochastic  # `uniform` draws for a whole parameter
        if uniform is not None and not callable(uniform):
            raise TypeError(f"uniform={uniform!r}: it must be a function of the latent weights, or None")
        seed = _integer("seed", seed, -(2**63), 2**64 - 1)
        self._generator = torch.Generator().manual_seed(seed)  # on the CPU: the same stream on every device
        self._uniform = uniform or self._draw

    def _draw(self, w: Tensor) -> Tensor:
        dtype = torch.promote_types(w.dtype, torch.float32)  # draws of half precision are too coarse
        return torch.rand(w.shape, generator=self._generator, dtype=dtype, device="cpu").to(w.device)

    repeats = property(lambda self: self.elementwise or self._uniform == self._draw)
    in_pieces = repeats  # draws follow each other like the weights

    def forward_point(self, w: Tensor, levels: Levels, state: dict) -> Tensor:
        if self.stochastic:
            return round_stochastic(w, levels, self._uniform(w))
        return levels.nearest(w)

    def after_step(self, w: Tensor, levels: Levels, state: dict, lr: float) -> Tensor:
        return w.clamp_(*levels.hull)

    def state_dict(self) -> dict:
        state = self._generator.get_state()  # as text, which no map_location moves to another device
        return {**super().state_dict(), "generator": ctypes.string_at(state.data_ptr(), len(state)).hex()}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        saved = state["generator"]
        if isinstance(saved, str):
            saved = torch.frombuffer(bytearray.fromhex(saved), dtype=torch.uint8)
        self._generator.set_state(saved.cpu())


class DebiasedBinaryConnect(BinaryConnect):
    """Stochastic BinaryConnect whose gradient is divided by twice the chance of the rounding at which it was taken.
    For weights x in [-1, 1] rounded at random to W, E W = x, it estimates the gradient of F(x) = E loss(W) by
    g_i = d_i loss(W) / (1 + W_i x_i). Its mean is the trapezoid rule for d_i F: exact where the loss is quadratic in each
    weight, else off by at most a third of the largest third derivative by w_i. In logits it is ReinMax (Liu et al., 2023).
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
            raise ValueError(f"needs two levels, {levels} has a kink: use BinaryConnect(levels, stochastic=False)")
