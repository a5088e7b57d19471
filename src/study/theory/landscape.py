"""Quadratic losses of two weights, small enough to be looked at: the landscape of chapters 2 and 4, and random ones like it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: The vectors of two weights on the levels -1 and 1.
CORNERS = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)


@dataclass(frozen=True)
class Landscape:
    """The loss (w - t)' H (w - t) / 2 with a symmetric H (..., 2, 2) and t (..., 2): one, or one per problem."""

    hessian: Tensor
    target: Tensor

    def __call__(self, w: Tensor, k: int = 0) -> Tensor:
        """The loss at w (..., 2): shape (...). k is the step, as `trajectory` asks; the loss is the same at each."""
        d = w - self.target
        return torch.einsum("...i,...ij,...j->...", d, self.hessian, d) / 2

    def gradient(self, w: Tensor) -> Tensor:
        """H (w - t), of w's shape."""
        return torch.einsum("...ij,...j->...i", self.hessian, w - self.target)

    def best_corner(self) -> Tensor:
        """The smallest loss of a corner: shape (...)."""
        return torch.stack([self(c.expand_as(self.target)) for c in CORNERS.to(self.target)]).amin(0)

    def level_curve(self, height: float, points: int = 61) -> Tensor:
        """The ellipse on which one loss, with a positive definite H, has the value `height`: shape (2, points)."""
        angle = torch.linspace(0, 2 * math.pi, points, dtype=self.target.dtype)
        root = torch.linalg.inv(torch.linalg.cholesky(self.hessian)).T  # maps the unit circle to the curve loss = 1/2
        return self.target[:, None] + math.sqrt(2 * height) * root @ torch.stack([angle.cos(), angle.sin()])


def landscape(dtype: torch.dtype = torch.float64) -> Landscape:
    """The one that the chapters draw: the corner nearest to the minimum, (1, 1), is not the best one, (1, -1)."""
    return Landscape(torch.tensor([[1, 0.8], [0.8, 1]], dtype=dtype), torch.tensor([0.5, 0.2], dtype=dtype))


def random_landscapes(problems: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[Landscape, Tensor]:
    """Losses with correlations uniform in (-0.9, 0.9), scales in (1/2, 3/2), minima in (-1, 1)^2; and a start like that for each."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(problems, *shape, generator=generator, dtype=dtype) * (high - low) + low

    correlation, scale = uniform(-0.9, 0.9), uniform(0.5, 1.5, 2)
    one = torch.ones_like(correlation)
    hessian = torch.stack([one, correlation, correlation, one], 1).view(-1, 2, 2)
    return Landscape(hessian * scale[:, :, None] * scale[:, None, :], uniform(-1, 1, 2)), uniform(-1, 1, 2)
