"""Which parameters of a network are quantised, and on which scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .levels import Levels

QUANTIZE = ("all", "all but first and last", "3x3 only")
SCALED = "parametrizations.weight.original"  # what torch calls a layer's weight after `scale_layers`


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers with a matrix of weights, in the order in which the model names them."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def _kinds(model: nn.Module) -> dict[str, str]:
    """What each parameter is: name -> one of the words that `summary` prints."""
    layers = _layers(model)
    if not layers:
        raise ValueError(f"{type(model).__name__} has no linear layer and no convolution: there is nothing to quantise")
    names, kinds = list(layers), {}
    for name, parameter in model.named_parameters():
        layer, _, what = name.replace(SCALED, "weight").rpartition(".")
        if layer in layers and what == "weight":
            size = getattr(layers[layer], "kernel_size", None)
            kinds[name] = (
                "first layer"
                if layer == names[0]
                else "last layer"
                if layer == names[-1]
                else "linear layers"
                if size is None
                else f"{'x'.join(map(str, size))} convolutions"
            )
        elif layer in layers:
            kinds[name] = "biases"
        else:
            kinds[name] = "normalisation" if parameter.ndim <= 1 else "other parameters"
    return kinds


def _place_in_table(kind: str) -> tuple[int, str]:
    order = (
        "first layer",
        "convolutions",
        "linear layers",
        "last layer",
        "biases",
        "normalisation",
        "other parameters",
    )
    place = next(i for i, word in enumerate(order) if kind.endswith(word))
    return place, kind


def least_squares_scale(w: Tensor, levels: Levels) -> float:
    """The factor s > 0 for which the levels times s are closest to the weights: min_s sum_i min_q (w_i - s q)^2.

    For {-1, +1} that is the mean of |w| (Rastegari et al., 2016). In general the weights are sorted once, so that the
    best fit to a given rounding takes a few look-ups. From many values of s at once: round to the levels times s, take the s that
    fits this rounding best, until nothing changes; the best of all is taken. For normal weights s is a multiple of their standard
    deviation that depends on the levels alone. Raises ValueError for weights that are all zero or not finite, and where no
    multiple of the levels is closer to them than zero.

    >>> least_squares_scale(torch.tensor([-0.5, 0.25, 0.75]), Levels.binary())  # the mean of |w|
    0.5
    """
    w = w.detach().double().flatten().sort().values.cpu()
    q = levels.tensor(w)
    middles = torch.tensor(levels.midpoints, dtype=torch.float64)
    counts = torch.arange(len(w) + 1, dtype=torch.float64)
    sums = torch.cat([torch.zeros(1, dtype=torch.float64), w.cumsum(0)])

    def fit(s: Tensor) -> tuple[Tensor, Tensor]:
        """sum w q and sum q^2 over the weights rounded to the levels times s, for s of shape (m,)."""
        edges = torch.searchsorted(w, s[:, None] * middles)
        edges = torch.cat([torch.zeros(len(s), 1).long(), edges, torch.full((len(s), 1), len(w))], 1)
        return (sums[edges].diff(dim=1) * q).sum(1), (counts[edges].diff(dim=1) * q * q).sum(1)

    largest = max(abs(v) for v in levels.hull)
    reach = float(w.abs().max()) if len(w) else 0.0
    if not 0 < reach < math.inf:
        raise ValueError(f"a scale needs finite weights that are not all zero, got {len(w)} with largest size {reach}")
    s = reach / largest * torch.logspace(-4, 1, 500, dtype=torch.float64)
    for _ in range(100):  # each step lowers the error, which has several minima for few weights
        cross, square = fit(s)
        better = torch.where(cross > 0, cross / square, s)
        if torch.equal(better, s):
            break
        s = better
    cross, square = fit(s)
    errors = s * s * square - 2 * s * cross  # less than that of s = 0
    if not errors.min() < 0:
        raise ValueError(f"no positive multiple of the levels {levels.values} is closer to these weights than zero")
    return float(s[errors.argmin()])


def groups(model: nn.Module, quantize: str = "all", levels: Levels | None = None, scaled: bool = False) -> list[dict]:
    """Parameter groups for a base optimizer and `QuantizedOptimizer`, one for each kind of parameter.

    quantize: "all" (the weights of all layers), "all but first and last" (layers, in the order in which the model names
    them), or "3x3 only" (3 x 3 convolutions but the first and last layer; what the authors of ASkewSGD quantise in their
    ImageNet code, whose first layer is 7 x 7). In a ResNet whose shortcuts have no parameters the last two are the same.
    Biases and the parameters of normalisation are never quantised.

    levels: the levels of the quantised groups (None: the method's). scaled: each quantised layer is a group of its own,
    whose levels are `levels` times `least_squares_scale` of its weights as they are now. The reason: weights start with
    standard deviation sqrt(2 / inputs), 0.02 to 0.3 in a ResNet, a small part of the gap between integer levels. Rounded to
    levels with a 0 nearly all of them are 0 at first, and a method that takes the gradient there stands still; rounded to -1
    and 1 the last layer grows many times. On scaled levels rounding changes the weights as little as possible. The constants
    of a method (epsilon, clip, dual_max, the regulariser's strength) are measured in units of the weights, so they have to
    fit every layer's gap; `scale_layers` avoids that.

    Each group has params, quantize, kind, names (of its parameters) and, where known, levels. Raises ValueError for an
    unknown `quantize`, where it leaves nothing to quantise, and for scaled=True without levels.

    >>> model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    >>> [(g["kind"], g["quantize"]) for g in groups(model)]
    [('first layer', True), ('last layer', True), ('biases', False), ('normalisation', False)]
    """
    if quantize not in QUANTIZE:
        raise ValueError(f"quantize={quantize!r}: allowed are {', '.join(map(repr, QUANTIZE))}")
    if scaled and levels is None:
        raise ValueError("scaled=True needs levels, e.g. Levels.integers(4): they are what is scaled")
    kinds = _kinds(model)
    chosen = set(kinds.values()) - {"biases", "normalisation", "other parameters"}
    if quantize == "all but first and last":
        chosen -= {"first layer", "last layer"}
    elif quantize == "3x3 only":
        chosen &= {"3x3 convolutions"}
    if not chosen:
        raise ValueError(
            f"quantize={quantize!r} leaves nothing to quantise; the model has {', '.join(sorted(set(kinds.values())))}"
        )
    parameters, result = dict(model.named_parameters()), []
    for kind in sorted(set(kinds.values()), key=_place_in_table):
        names = [name for name, k in kinds.items() if k == kind]
        for part in [[n] for n in names] if scaled and kind in chosen else [names]:
            group = {"params": [parameters[n] for n in part], "quantize": kind in chosen, "kind": kind, "names": part}
            if kind in chosen and levels is not None:
                group["levels"] = levels.scaled(least_squares_scale(parameters[part[0]], levels)) if scaled else levels
            result.append(group)
    return result


class _Times(torch.autograd.Function):
    """v -> s v whose backward pass divides by s: a step of SGD on v then moves s v as it would have moved w = s v."""

    @staticmethod
    def forward(ctx, v: Tensor, s: Tensor) -> Tensor:
        ctx.save_for_backward(s)
        return s * v

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (s,) = ctx.saved_tensors
        return grad / s, None


class Scale(nn.Module):
    """A fixed positive factor between a layer's parameter and the weight it uses; see `scale_layers` for its gradient.

    >>> Scale(0.5, like=torch.ones(1))(torch.tensor([-1.0, 1.0])).tolist()
    [-0.5, 0.5]
    """

    def __init__(self, factor: float, like: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(factor, dtype=like.dtype, device=like.device))

    def forward(self, v: Tensor) -> Tensor:
        return _Times.apply(v, self.factor)

    def right_inverse(self, w: Tensor) -> Tensor:
        return w / self.factor


def scale_layers(model: nn.Module, levels: Levels, quantize: str = "all") -> dict[str, float]:
    """Scaled levels, written as a scaled layer: each layer that `groups` would quantise uses s v as its weight, v = w / s.

    s is the layer's `least_squares_scale`, kept in the model's state. The network computes what it did before, and w lies on
    the levels times s exactly where the parameter v lies on `levels`: all layers share one codebook, and one epsilon or clip
    means the same in each. What arrives at v as its gradient is the gradient in w divided by s (the chain rule would multiply):
    so a step of SGD on v, with momentum and weight decay, moves w exactly as the step on w would, whatever s is.
    Returns the factors by the layers' names. Make the groups afterwards, with scaled=False. Raises ValueError as `groups`
    does and for a layer that is scaled already.

    >>> model, x = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)), torch.ones(1, 8)
    >>> before, factors = model(x), scale_layers(model, Levels.binary())
    >>> sorted(factors), torch.allclose(model(x), before)
    (['0', '2'], True)
    """
    factors = {}
    for group in groups(model, quantize, levels):
        for name in group["names"] if group["quantize"] else []:
            layer = name.removesuffix(".weight")
            if name.endswith(SCALED):
                raise ValueError(f"{name.removesuffix(SCALED)}weight is scaled already")
            module = model.get_submodule(layer)
            factors[layer] = least_squares_scale(module.weight, levels)
            parametrize.register_parametrization(module, "weight", Scale(factors[layer], module.weight))
    return factors


@torch.no_grad()
def reestimate_batch_norm(
    model: nn.Module, batches: Iterable, forward: Callable[[object], object] | None = None
) -> None:
    """Replace the running statistics of every batch normalisation by their plain averages over the batches.

    Rounding changes what a layer puts out, the running statistics remain those of the weights before. Everything else in
    the model is left as it is and runs in evaluation mode. forward: what is done with a batch, by default model(batch).

    >>> norm = nn.BatchNorm1d(1)
    >>> reestimate_batch_norm(norm, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [7.0]])])
    >>> norm.running_mean.item()
    4.0
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    training, momenta = model.training, [m.momentum for m in norms]
    model.eval()
    for m in norms:
        m.reset_running_stats()
        m.momentum = None  # torch's word for the plain average
        m.train()
    for batch in batches:
        (forward or model)(batch)
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum
    model.train(training)
