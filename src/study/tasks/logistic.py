"""Task I (paper, section 6): logistic regression with d = 10 one-bit weights and a known optimal sign vector.

Shapes: S seeds, n samples, d weights, T steps. A set that all seeds share has 1 in place of S.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from quantized_training.levels import Levels

from ..methods import BINARY
from ..theory.foundations import logistic_hessian
from . import arguments, ensembles
from .ensembles import draw_order, methods

SAMPLES, DIMENSION, BATCH, EPOCHS = 6000, 10, 1000, 25


@dataclass(frozen=True)
class Ensemble(ensembles.Ensemble):
    """Task I for S seeds. z: y_i * x_i, (S or 1, n, d); the logistic loss needs nothing else. w_star: (S or 1, d)."""

    z: Tensor
    w_star: Tensor

    @property
    def data(self) -> tuple[Tensor, ...]:
        return (self.z,)

    def gradient(self, w: Tensor, batch: tuple[Tensor, ...], scratch: Tensor) -> Tensor:
        return gradient(w, *batch, out=scratch)


def draw(
    seeds: int | range,
    shared: bool = False,
    n: int = SAMPLES,
    d: int = DIMENSION,
    batch: int = BATCH,
    epochs: int = EPOCHS,
    init_range: float | None = None,
) -> Ensemble:
    """Draw Task I for several seeds: x uniform on [-1, 1]^d, y = +1 with probability 1/(1 + exp(-x'w*)), else -1.

    shared: one data set and batch order (the first seed's) for all seeds; initial weights and rounding noise stay their
    own. init_range: initial weights are uniform on [-init_range, init_range]; default 1/sqrt(d), torch's for a linear
    layer. Raises ValueError when a batch does not fit into the data.
    """
    if not 0 < batch <= n:
        raise ValueError(f"batch={batch}: allowed is 1 to n={n}")
    seeds = arguments.seeds(seeds)
    bound = d**-0.5 if init_range is None else init_range
    steps = epochs * (n // batch)
    parts: list[tuple[Tensor, ...]] = []
    for i, seed in enumerate(seeds):
        g = torch.Generator().manual_seed(seed)
        initial = (torch.rand(d, generator=g, dtype=torch.float64) * 2 - 1) * bound
        uniform = torch.rand(steps + 1, d, generator=g, dtype=torch.float64)
        data: tuple[Tensor, ...] = ()
        if i == 0 or not shared:
            x = torch.rand(n, d, generator=g, dtype=torch.float64) * 2 - 1
            w_star = torch.randint(0, 2, (d,), generator=g).to(torch.float64) * 2 - 1
            positive = torch.rand(n, generator=g, dtype=torch.float64) < torch.sigmoid(x @ w_star)
            z = torch.where(positive.unsqueeze(1), x, -x)
            data = (z, w_star, draw_order(n, epochs, g))
        parts.append((initial, uniform, *data))
    initial, uniform = (torch.stack([p[k] for p in parts]) for k in (0, 1))
    z, w_star, order = (torch.stack([p[k] for p in parts if len(p) > 2]) for k in (2, 3, 4))
    return Ensemble(tuple(seeds), initial, order, uniform, batch, z, w_star)


def _margins(w: Tensor, z: Tensor, out: Tensor | None = None) -> Tensor:
    """y_i x_i'w for every seed: (S, n) from w (S, d) and z (S or 1, n, d)."""
    if z.shape[0] == 1:  # one data set: a single matrix product for all seeds
        return torch.mm(w, z[0].mT, out=out)
    return torch.bmm(z, w.unsqueeze(-1), out=None if out is None else out.unsqueeze(-1)).squeeze(-1)


def loss(w: Tensor, z: Tensor) -> Tensor:
    """Mean logistic loss log(1 + exp(-y x'w)) of each seed: (S,) from w (S, d) and z (S or 1, n, d)."""
    return softplus(_margins(-w, z)).mean(-1)


def gradient(w: Tensor, z: Tensor, out: Tensor | None = None) -> Tensor:
    """Gradient of `loss` for each seed, in closed form: (S, d). `out`: scratch memory (S, n), written over."""
    p = _margins(-w, z, out).sigmoid_()
    summed = p @ z[0] if z.shape[0] == 1 else torch.bmm(p.unsqueeze(1), z).squeeze(1)
    return summed / -z.shape[1]


def batch_losses(weights: Mapping[str, Tensor], ensemble: Ensemble, every: int = 1) -> dict[str, Tensor]:
    """Loss of weights[name][k], (T, S, d), on the k-th batch for k = 0, every, 2 every, ...: name -> (T / every, S)."""
    losses: dict[str, list[Tensor]] = {name: [] for name in weights}
    for k, (z,) in enumerate(ensemble.batches()):
        if k % every == 0:
            for name, w in weights.items():
                losses[name].append(loss(w[k], z))
    return {name: torch.stack(values) for name, values in losses.items()}


def best_sign_vector(ensemble: Ensemble) -> tuple[Tensor, Tensor]:
    """The best of all 2^d sign vectors on each whole data set: its loss (S,) and the vector (S, d).

    Half the vectors are enough for both signs, since log(1 + e^m) = log(1 + e^-m) + m; the search runs in float32, whose
    error of 1e-7 is far below the gap of about 0.1 to the second best, the loss of the winner in the data's precision.
    """
    half = BINARY.vectors(ensemble.z.shape[2], torch.float32)[: 2 ** (ensemble.z.shape[2] - 1)]
    candidates = torch.cat([half, -half]).to(ensemble.z.dtype)
    best = []
    for z in ensemble.z.float():
        margins = half @ z.mT
        mean, plus = margins.mean(-1), softplus(margins.neg_()).mean(-1)
        best.append(torch.cat([plus, plus + mean]).argmin())
    vectors = candidates[torch.stack(best)]
    return loss(vectors, ensemble.z), vectors


def empirical_minimum(ensemble: Ensemble, iterations: int = 12) -> Tensor:
    """The unconstrained minimiser of the loss on each whole data set, by Newton's method from w*: (S, d)."""
    w, z = ensemble.w_star.clone(), ensemble.z
    for _ in range(iterations):
        w = w - torch.linalg.solve(logistic_hessian(w, z), gradient(w, z))
    return w


def distance(w: Tensor, w_star: Tensor) -> Tensor:
    """||w - w*||_2 over the last dimension."""
    return torch.linalg.vector_norm(w - w_star, dim=-1)


def direction_distance(w: Tensor, w_star: Tensor) -> Tensor:
    """|| w/||w|| - w*/||w*|| ||_2: what remains of the distance when the length of w does not count."""
    return distance(torch.nn.functional.normalize(w, dim=-1), torch.nn.functional.normalize(w_star, dim=-1))


def scores(w: Tensor, ensemble: Ensemble, batch: Tensor, levels: Levels = BINARY) -> dict[str, Tensor]:
    """Everything that "loss" (Table 1) and "distance" (Table 2) may mean, per seed, from latent weights w (S, d).

    batch: the last one, (S or 1, B, d).
    """
    named = {"latent": w, "quantised": levels.nearest(w)}
    return {
        **{f"loss, {k} weights, whole set": loss(v, ensemble.z) for k, v in named.items()},
        **{f"loss, {k} weights, last batch": loss(v, batch) for k, v in named.items()},
        **{f"distance, {k} weights, Euclidean": distance(v, ensemble.w_star) for k, v in named.items()},
        **{
            f"distance, {k} weights, between directions": direction_distance(v, ensemble.w_star)
            for k, v in named.items()
        },
    }


#: Every method on Task I as the paper sets it (alpha 0.1).
METHODS = methods(alpha=0.1)
