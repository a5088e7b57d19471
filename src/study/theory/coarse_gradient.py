"""The setting of Yin et al. (2019): a hidden layer of step functions learns from a teacher by coarse gradients.

y(Z) = v' sigma(Z w) with sigma(x) = 1{x > 0}, rows of Z (m, n) independent standard Gaussians, squared loss / 2 against the
teacher's y. The coarse gradient in w replaces the derivative of sigma by that of an estimator. The formulas were derived
anew for the book; v has shape (..., m), w (..., n), theta is the angle between w and the teacher's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: estimator -> the derivative that it uses for that of the step function
ESTIMATORS = {
    "identity": torch.ones_like,
    "ReLU": lambda a: (a > 0).to(a.dtype),
    "clipped ReLU": lambda a: ((a > 0) & (a < 1)).to(a.dtype),
}
PEAK = 1 / math.sqrt(2 * math.pi)


@dataclass(frozen=True)
class Teacher:
    """The weights to be learned, in double precision: v (m,), and w (n,) of length 1, the first unit vector."""

    v: Tensor
    w: Tensor

    def angle(self, w: Tensor) -> Tensor:
        """theta, between 0 and pi: shape (...)."""
        unit = w / w.norm(dim=-1, keepdim=True)
        return 2 * torch.atan2((unit - self.w).norm(dim=-1), (unit + self.w).norm(dim=-1))

    def loss(self, v: Tensor, w: Tensor) -> Tensor:
        """The population loss: shape (...)."""
        s, own = v.sum(-1), self.v.sum()
        cross = (1 - 2 * self.angle(w) / math.pi) * (v @ self.v) + s * own
        return ((v * v).sum(-1) + s**2 - 2 * cross + self.v @ self.v + own**2) / 8

    def gradient(self, v: Tensor, w: Tensor) -> Tensor:
        """The true gradient of `loss` in w: shape (n,)."""
        w = w.clone().requires_grad_()
        return torch.autograd.grad(self.loss(v, w), w)[0]

    def moments(self, w: Tensor, estimator: str) -> tuple[Tensor | float, Tensor | float, Tensor]:
        """With one Gaussian row z and x = w'z/|w|: A = E x mu'(|w|x), D the same over x > 0, and B = E z mu'(w'z) over the
        rows on which the teacher's unit fires, (n,); for the clipped ReLU by one integration by parts."""
        unit = w / w.norm()
        if estimator == "identity":
            return 0.0, PEAK, PEAK * self.w
        if estimator == "ReLU":
            return PEAK, PEAK, PEAK * (unit + self.w) / 2
        edge, theta, normal = 1 / w.norm(), self.angle(w), torch.special.ndtr
        density = PEAK * torch.exp(-(edge**2) / 2)
        sideways = (self.w - unit * (unit @ self.w)) / theta.sin()
        share = normal(edge / theta.sin()) - 0.5
        along = PEAK / 2 - density * normal(edge / theta.tan()) + theta.cos() * PEAK * share
        return PEAK - density, PEAK - density, along * unit + theta.sin() * PEAK * share * sideways

    def coarse_gradient(self, v: Tensor, w: Tensor, estimator: str) -> Tensor:
        """The expected coarse gradient in w: shape (n,)."""
        a, d, b = self.moments(w, estimator)
        s, overlap = v.sum(), v @ self.v
        along = a / 2 * (s * (s - self.v.sum()) - v @ v + overlap) + d * (v @ v)
        return along * w / w.norm() - overlap * b

    def sampled(self, v: Tensor, w: Tensor, z: Tensor, estimator: str) -> tuple[Tensor, Tensor]:
        """Loss (samples,) and coarse gradient in w (samples, n) on each sample of z (samples, m, n)."""
        a = z @ w
        residual = (a > 0).to(a.dtype) @ v - (z @ self.w > 0).to(a.dtype) @ self.v
        slope = ESTIMATORS[estimator](a) * v
        return residual**2 / 2, residual[:, None] * torch.einsum("sm,smn->sn", slope, z)

    def best_v(self, theta: float) -> Tensor:
        """The v (m,) with the least population loss at the angle theta."""
        eye, ones = torch.eye(len(self.v), dtype=torch.float64), self.v.new_ones(len(self.v), len(self.v))
        return torch.linalg.solve(eye + ones, ((1 - 2 * theta / math.pi) * eye + ones) @ self.v)

    def at_angle(self, theta: float) -> Tensor:
        """A unit vector w (n,) at the angle theta."""
        return torch.cat([self.w.new_tensor([math.cos(theta), math.sin(theta)]), self.w.new_zeros(len(self.w) - 2)])

    def near(self, theta: float, runs: int, seed: int, spread: float = 0.02) -> tuple[Tensor, Tensor]:
        """Starts v (runs, m) and w (runs, n), of length 1, at the angle theta in random directions, with nearly the best v."""
        generator = torch.Generator().manual_seed(seed)
        sideways = torch.randn(runs, len(self.w) - 1, generator=generator)
        sideways = sideways / sideways.norm(dim=1, keepdim=True)
        w = torch.cat([torch.full((runs, 1), math.cos(theta)), math.sin(theta) * sideways], dim=1)
        return self.best_v(theta) + spread * torch.randn(runs, len(self.v), generator=generator), w

    def anywhere(self, runs: int, seed: int) -> tuple[Tensor, Tensor]:
        """Gaussian starts v (runs, m) and w (runs, n), the latter of length 1."""
        generator = torch.Generator().manual_seed(seed)
        w = torch.randn(runs, len(self.w), generator=generator)
        return torch.randn(runs, len(self.v), generator=generator), w / w.norm(dim=1, keepdim=True)

    def train(
        self, v: Tensor, w: Tensor, steps: int, batch: int, lr: float, every: int, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Mini-batch coarse descent in v and w with every estimator, from the same starts (runs, ...) on the same inputs.

        Returns the population losses at every `every`-th step, (checkpoints, estimators, runs), and the final w,
        (estimators, runs, n).
        """
        generator, runs, m = torch.Generator().manual_seed(seed), len(v), len(self.v)
        v, w = (start.float().expand(len(ESTIMATORS), -1, -1).clone() for start in (v, w))
        losses = []
        for k in range(steps + 1):
            if k % every == 0:
                losses.append(self.loss(v.double(), w.double()))
            z = torch.randn(runs, batch * m, len(self.w), generator=generator)
            a = torch.einsum("srn,esn->esr", z, w)
            fires = (a > 0).float().view(-1, runs, batch, m)
            wanted = (z @ self.w.float() > 0).float().view(runs, batch, m) @ self.v.float()
            residual = (fires * v[:, :, None]).sum(-1) - wanted
            slope = torch.stack([f(x) for f, x in zip(ESTIMATORS.values(), a, strict=True)]).view_as(fires)
            weight = (residual[..., None] * slope * v[:, :, None]).view(-1, runs, batch * m)
            w = w - lr / batch * torch.einsum("esr,srn->esn", weight, z)
            v = v - lr * (residual[..., None] * fires).mean(2)
        return torch.stack(losses), w.double()
