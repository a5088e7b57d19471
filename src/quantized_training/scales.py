"""Scales between a layer's parameter and the weight it uses: the best for given weights, fixed or learned."""

import gc
import math
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from .levels import Levels

STARTS = 500


def least_squares_scale(w: Tensor, levels: Levels) -> float:
    """The factor s > 0 for which the levels times s are closest to the weights: min_s sum_i min_q (w_i - s q)^2.
    For {-1, +1} the mean of |w| (Rastegari et al., 2016), else the best of many s, each alternating between the rounding to s
    times the levels and its best fit. ValueError for weights that are all zero or not finite, or nearer to 0 than to any such.
    >>> least_squares_scale(torch.tensor([-0.5, 0.25, 0.75]), Levels.binary())  # the mean of |w|
    0.5
    """
    w = w.detach().double().cpu().reshape(1, -1)
    reach = float(w.abs().max()) if w.numel() else 0.0
    if not 0 < reach < math.inf:
        raise ValueError(f"a scale needs finite weights that are not all zero, got {w.numel()}, the largest {reach}")
    s = float(_fit(w, levels, STARTS))
    if math.isnan(s):
        raise ValueError(f"no positive multiple of the levels {levels.values} is closer to these weights than zero")
    return s


def channel_scales(w: Tensor, levels: Levels) -> Tensor:
    """`least_squares_scale` of each output channel w[i], in double; where it has none, and for what is raised, that of all w.
    >>> channel_scales(torch.tensor([[-0.5, 0.5, 1.25], [0.0, 0.0, 0.0]]), Levels.binary()).tolist()
    [0.75, 0.375]
    """
    whole, rows = least_squares_scale(w, levels), w.detach().double().cpu().flatten(1)
    found = torch.cat([_fit(part, levels, keep=8) for part in rows.split(256)])
    return torch.where(found.isnan(), whole, found)


def _fit(w: Tensor, levels: Levels, keep: int) -> Tensor:
    """`least_squares_scale` of each row of w: (m, n) -> (m,), NaN where there is none. keep: how many starts are followed."""
    if len(levels.values) == 2 and levels.values[0] == -levels.values[1]:
        s = w.abs().mean(1) / levels.values[1]
        return torch.where(s > 0, s, math.nan)
    w = w.sort(1).values  # once, so that the best fit to a rounding takes a few look-ups
    q = levels.tensor(w)
    middles = torch.tensor(levels.midpoints, dtype=torch.float64, device="cpu")
    sums = nn.functional.pad(w.cumsum(1), (1, 0))

    def fit(s: Tensor) -> tuple[Tensor, Tensor]:
        """sum w q and sum q^2 over the weights rounded to the levels times s, for s of shape (m, k)."""
        edges = torch.searchsorted(w, (s[..., None] * middles).flatten(1)).view(*s.shape, -1)
        edges = torch.cat([torch.zeros_like(edges[..., :1]), edges, torch.full_like(edges[..., :1], w.shape[1])], -1)
        parts = sums.gather(1, edges.flatten(1)).view(edges.shape).diff(dim=-1)
        return (parts * q).sum(-1), (edges.diff(dim=-1).double() * q * q).sum(-1)

    def errors(s: Tensor) -> Tensor:
        cross, square = fit(s)
        return s * s * square - 2 * s * cross  # the squared error less that of s = 0

    s = w.abs().amax(1, keepdim=True) / max(abs(v) for v in levels.hull)
    s = s * torch.logspace(-4, 1, STARTS, dtype=torch.float64, device="cpu")
    if keep < STARTS:
        s = s.gather(1, errors(s).topk(keep, largest=False).indices)
    for _ in range(100):  # each step lowers the error, which has several minima for few weights
        cross, square = fit(s)
        better = torch.where(cross > 0, cross / square, s)
        if torch.equal(better, s):
            break
        s = better
    least, place = errors(s).min(1)
    return torch.where(least < 0, s.gather(1, place[:, None])[:, 0], math.nan)


class _Times(torch.autograd.Function):
    """v -> s v. Backwards the gradient is divided by s for v; for s it is the chain rule's, times `rate`."""

    @staticmethod
    def forward(ctx, v: Tensor, factor: Tensor, s: Tensor, rate: float | None) -> Tensor:
        ctx.save_for_backward(s, None if rate is None else v)
        ctx.rate = rate
        return s * v

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        s, v = ctx.saved_tensors
        return grad / s, None if v is None else ctx.rate * (grad * v).sum_to_size(s.shape), None, None


class Scale(nn.Module):
    """A positive factor between a layer's parameter and the weight it uses; see `layers.scale_layers` for its gradients.
    factor: a number, or one for each output channel, shape (channels,). rate: None for a fixed factor; else it is a parameter
    whose gradient is multiplied by `rate`, and which counts as at least a thousandth of what it was at first.
    >>> Scale(0.5, like=torch.ones(1))(torch.tensor([-1.0, 1.0])).tolist()
    [-0.5, 0.5]
    """

    def __init__(self, factor: float | Tensor, like: Tensor, rate: float | None = None) -> None:
        super().__init__()
        factor = torch.as_tensor(factor, dtype=like.dtype, device=like.device).clone()
        factor = factor.view(-1, *[1] * (like.ndim - 1)) if factor.ndim else factor
        self.rate = rate
        if rate is None:
            self.register_buffer("factor", factor)
        else:
            self.factor = nn.Parameter(factor)
        self.register_buffer("least", None if rate is None else factor / 1000)

    @property
    def value(self) -> Tensor:
        """The factor in use, without a gradient."""
        factor = self.factor.detach()
        return factor if self.least is None else torch.maximum(factor, self.least)

    def forward(self, v: Tensor) -> Tensor:
        return _Times.apply(v, self.factor, self.value, self.rate)

    def right_inverse(self, w: Tensor) -> Tensor:
        return w / self.value


def scale_of(module: nn.Module) -> Scale | None:
    """The `Scale` between a module's parameter and the weight that it uses, where there is one.
    >>> layer = parametrize.register_parametrization(nn.Linear(2, 2), "weight", Scale(0.5, like=torch.ones(1)))
    >>> scale_of(layer).value.item(), scale_of(nn.Linear(2, 2))
    (0.5, None)
    """
    first = module.parametrizations.weight[0] if parametrize.is_parametrized(module, "weight") else None
    return first if isinstance(first, Scale) else None


def _made_from(params: Collection[Tensor]) -> tuple[Tensor, str] | None:
    """One of the parameters from which a layer makes its weight, other than by a `Scale`, and the name of what does."""
    mine, kinds = set(params), (parametrize.ParametrizationList, WeightNorm, SpectralNorm)
    if not any(type(user) in kinds for user in gc.get_referrers(*kinds)):  # a parameter does not know its module
        return None
    for m in (x for x in gc.get_objects() if issubclass(type(x), nn.Module)):
        hooks = vars(m).get("_forward_pre_hooks", {}).values()
        hows = [*m] if type(m) is kinds[0] else [h for h in hooks if type(h) in kinds]
        for how in (h for h in hows if not isinstance(h, Scale)):  # a hook is torch's older way
            for name, p in m._parameters.items():
                if p in mine and name.startswith(getattr(how, "name", "original")):
                    return p, type(how).__name__
    return None
