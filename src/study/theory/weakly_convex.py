"""A loss with kinks of both kinds that a theorem can be tested on: weakly convex, and its prox point on a box is exact."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Kinked:
    """l(w) = max(a_0 w + c_0, a_1 w + c_1) + sum_i k_i |w_i - t_i| - rho |w|^2 / 2 with k >= 0, on R^n: rho-weakly convex.

    a: (2, n). c: (2,). k, t: (n,). rho > 0. No second derivative is larger than 0 anywhere, and there are kinks along n + 1 hyperplanes.
    """

    a: Tensor
    c: Tensor
    k: Tensor
    t: Tensor
    rho: float

    def value(self, w: Tensor) -> Tensor:
        """(..., n) -> (...)."""
        pieces = (w @ self.a.T + self.c).amax(-1)
        return pieces + ((w - self.t).abs() * self.k).sum(-1) - self.rho / 2 * (w**2).sum(-1)

    def subgradient(self, w: Tensor, share: Tensor | float = 1.0, sign: Tensor | float = 0.0) -> Tensor:
        """A member of the subdifferential, (..., n) -> (..., n): on a kink the piece 0 with the weight `share` in [0, 1], and `sign`
        in [-1, 1] for the slope of |w_i - t_i|."""
        first, second = (w @ self.a.T + self.c).unbind(-1)
        part = torch.where(first > second, 1.0, torch.where(first < second, 0.0, share))[..., None]
        slope = torch.where(w == self.t, sign, (w - self.t).sign())
        return part * self.a[0] + (1 - part) * self.a[1] + self.k * slope - self.rho * w

    def lipschitz(self, radius: Tensor | float) -> Tensor:
        """A Lipschitz constant on the ball of this radius around 0."""
        return self.a.norm(dim=-1).max() + self.k.norm() + self.rho * radius

    def prox_point(self, w: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The minimiser of l(z) + rho |z - w|^2 over the box [low, high], for w of shape (..., n).

        With p in [0, 1] on the first piece the minimum over z is a soft threshold, clipped, in each coordinate; the p that is right
        maximises a concave function whose slope is the difference of the two pieces, and is found by bisection.
        """
        below, above = w.new_zeros(w.shape[:-1]), w.new_ones(w.shape[:-1])
        for _ in range(60):
            p = (below + above) / 2
            first, second = (self._inner(p, w, low, high) @ self.a.T + self.c).unbind(-1)
            below, above = torch.where(first > second, p, below), torch.where(first > second, above, p)
        return self._inner((below + above) / 2, w, low, high)

    def _inner(self, p: Tensor, w: Tensor, low: Tensor, high: Tensor) -> Tensor:
        slope = p[..., None] * self.a[0] + (1 - p)[..., None] * self.a[1]
        free = 2 * w - slope / self.rho - self.t  # the pieces' part of l(z) + rho |z - w|^2 is rho/2 |z - this - t|^2
        shrunk = free.sign() * (free.abs() - self.k / self.rho).clamp(min=0)
        return torch.clamp(self.t + shrunk, low, high)

    def residual(self, w: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """h(w), the distance between w and its prox point: shape (...)."""
        return (w - self.prox_point(w, low, high)).norm(dim=-1)

    def envelope(self, w: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """F(w) = min over the box of l(z) + rho |z - w|^2: shape (...)."""
        z = self.prox_point(w, low, high)
        return self.value(z) + self.rho * ((z - w) ** 2).sum(-1)


def kinked(at: Tensor, seed: int) -> Kinked:
    """A random one of n weights. The kink of the maximum goes through `at` (n,), the others through points near -1 and 1."""
    n = len(at)
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    rho = 10.0 ** (2 * torch.rand(1, generator=g).item() - 1)
    a = draw(2, n) * 10.0 ** torch.rand(1, generator=g, dtype=torch.float64) * rho
    c = -(a @ at)  # the two pieces are equal there
    return Kinked(a, c, draw(n).abs() * rho, draw(n).sign() * (1 + draw(n) / 4), rho)
