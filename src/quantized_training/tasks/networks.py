"""Networks of Task III, and which of their parameters are quantised.

ResNets of He et al. (2016) with basic blocks for small images. Every convolution is followed by batch normalisation and has
no bias, so its output does not change when all its weights are multiplied by one positive number (up to the small constant in
the normalisation): for what such a network can express, the scale of a layer's levels does not matter. It matters for the
training, which moves latent weights by steps of some size between levels at some distance, and for the last layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu
from torch.nn.utils import parametrize

from ..levels import Levels

SHORTCUTS = ("projection", "identity")
QUANTISE = ("all", "all but first and last", "3x3 only")
SCALED = "parametrizations.weight.original"  # what torch calls a layer's weight after `scale_layers`


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut around them: relu(f(x) + shortcut(x)).

    Where the shape changes the shortcut is a 1 x 1 convolution ("projection", option B of the paper), or takes every second
    pixel and fills the new channels with zeros ("identity", option A, no parameters).
    """

    def __init__(self, into: int, out: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(into, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.stride, self.new_channels = stride, out - into
        self.shortcut = None
        if shortcut == "projection" and (stride != 1 or into != out):
            self.shortcut = nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        if self.shortcut is not None:
            return relu(y + self.shortcut(x))
        if self.stride != 1 or self.new_channels:
            x = pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))
        return relu(y + x)


class ResNet(nn.Module):
    """(n, channels, height, width) -> (n, classes) for images of 8 pixels and more.

    A 3 x 3 convolution to `width` channels, of every `stride`-th pixel; stages of blocks[i] blocks each, every stage but the
    first with twice the channels and half the pixels of the one before; mean over the pixels; a linear layer. Convolutions
    start normal with variance 2 / inputs (He et al., 2015), the linear layer as torch's. Raises ValueError for values that
    make no network.
    """

    def __init__(
        self,
        blocks: tuple[int, ...],
        width: int,
        classes: int = 10,
        channels: int = 3,
        shortcut: str = "projection",
        stride: int = 1,
    ) -> None:
        super().__init__()
        for name, value in (
            ("width", width),
            ("classes", classes),
            ("channels", channels),
            ("stride", stride),
            *(("blocks", b) for b in blocks),
        ):
            if not (isinstance(value, int) and value > 0):
                raise ValueError(f"{name}={value!r}: it must be a positive integer")
        if shortcut not in SHORTCUTS:
            raise ValueError(f"shortcut={shortcut!r}: allowed are {', '.join(map(repr, SHORTCUTS))}")
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        stages, into = [], width
        for i, count in enumerate(blocks):
            out = width * 2**i
            stages.append(
                nn.Sequential(
                    Block(into, out, 1 if i == 0 else 2, shortcut),
                    *(Block(out, out, 1, shortcut) for _ in range(count - 1)),
                )
            )
            into = out
        self.stages = nn.Sequential(*stages)
        self.linear = nn.Linear(into, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(relu(self.bn1(self.conv1(x))))
        return self.linear(x.mean((2, 3)))


def resnet18(classes: int = 10, channels: int = 3, width: int = 64, stride: int = 1) -> ResNet:
    """ResNet-18 with the stem for small images (3 x 3, no pooling): 11,173,962 parameters for 10 classes of colour images."""
    return ResNet((2, 2, 2, 2), width, classes, channels, "projection", stride)


def resnet20(
    classes: int = 10, channels: int = 3, width: int = 16, stride: int = 1, shortcut: str = "identity"
) -> ResNet:
    """ResNet-20, channels 16, 32, 64: 269,722 parameters for 10 classes of colour images.

    Shortcuts without parameters, as He et al. use for CIFAR-10; with "projection" it has 272,474. stride: of the first
    convolution; 2 makes a training step about four times as fast on a processor.
    """
    return ResNet((3, 3, 3), width, classes, channels, shortcut, stride)


# Which parameters are quantised


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


def groups(model: nn.Module, quantise: str = "all", levels: Levels | None = None, scaled: bool = False) -> list[dict]:
    """Parameter groups for a base optimizer and `QuantizedOptimizer`, one for each kind of parameter.

    quantise: "all" (the weights of all layers), "all but first and last" (layers, in the order in which the model names
    them), or "3x3 only" (3 x 3 convolutions but the first and last layer; what the authors of ASkewSGD quantise in their
    ImageNet code, whose first layer is 7 x 7). In a ResNet whose shortcuts have no parameters the last two are the same.
    Biases and the parameters of normalisation are never quantised.

    levels: the levels of the quantised groups (None: the method's). scaled: each quantised layer is a group of its own,
    whose levels are `levels` times `least_squares_scale` of its weights as they are now. The reason: weights start with
    standard deviation sqrt(2 / inputs), 0.02 to 0.3 in a ResNet, a small part of the gap between integer levels. Rounded to
    levels with a 0 nearly all of them are 0 at first, and a method that takes the gradient there stands still; rounded to -1
    and 1 the last layer grows many times. On scaled levels rounding changes the weights as little as possible. The constants of a method (epsilon, clip, dual_max, the regulariser's strength) are
    measured in units of the weights, so they have to fit every layer's gap; `scale_layers` avoids that.

    Each group has params, quantize, kind, names (of its parameters) and, where known, levels. Raises ValueError for an
    unknown `quantise`, where it leaves nothing to quantise, and for scaled=True without levels.
    """
    if quantise not in QUANTISE:
        raise ValueError(f"quantise={quantise!r}: allowed are {', '.join(map(repr, QUANTISE))}")
    if scaled and levels is None:
        raise ValueError("scaled=True needs levels, e.g. Levels.integers(4): they are what is scaled")
    kinds = _kinds(model)
    chosen = set(kinds.values()) - {"biases", "normalisation", "other parameters"}
    if quantise == "all but first and last":
        chosen -= {"first layer", "last layer"}
    elif quantise == "3x3 only":
        chosen &= {"3x3 convolutions"}
    if not chosen:
        raise ValueError(
            f"quantise={quantise!r} leaves nothing to quantise; the model has {', '.join(sorted(set(kinds.values())))}"
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
    """A fixed positive factor between a layer's parameter and the weight it uses; see `scale_layers` for its gradient."""

    def __init__(self, factor: float, like: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(factor, dtype=like.dtype, device=like.device))

    def forward(self, v: Tensor) -> Tensor:
        return _Times.apply(v, self.factor)

    def right_inverse(self, w: Tensor) -> Tensor:
        return w / self.factor


def scale_layers(model: nn.Module, levels: Levels, quantise: str = "all") -> dict[str, float]:
    """Scaled levels, written as a scaled layer: each layer that `groups` would quantise uses s v as its weight, v = w / s.

    s is the layer's `least_squares_scale`, kept in the model's state. The network computes what it did before, and w lies on
    the levels times s exactly where the parameter v lies on `levels`: all layers share one codebook, and one epsilon or clip
    means the same in each. What arrives at v as its gradient is the gradient in w divided by s (the chain rule would multiply):
    so a step of SGD on v, with momentum and weight decay, moves w exactly as the step on w would, whatever s is.
    Returns the factors by the layers' names. Make the groups afterwards, with scaled=False. Raises ValueError as `groups`
    does and for a layer that is scaled already.
    """
    factors = {}
    for group in groups(model, quantise, levels):
        for name in group["names"] if group["quantize"] else []:
            layer = name.removesuffix(".weight")
            if name.endswith(SCALED):
                raise ValueError(f"{name.removesuffix(SCALED)}weight is scaled already")
            module = model.get_submodule(layer)
            factors[layer] = least_squares_scale(module.weight, levels)
            parametrize.register_parametrization(module, "weight", Scale(factors[layer], module.weight))
    return factors


HEADER = ("Parameters", "Tensors", "Number", "Share", "Quantised", "Levels")


def summary(groups: Iterable[dict]) -> list[tuple[str, ...]]:
    """Rows under `HEADER` for a table of the parameters of each kind, and a last row with their sum."""
    groups = list(groups)
    total = sum(p.numel() for g in groups for p in g["params"])

    def row(name: str, chosen: list[dict], quantised: str, levels: str) -> tuple[str, ...]:
        number = sum(p.numel() for g in chosen for p in g["params"])
        tensors = sum(len(g["params"]) for g in chosen)
        return name, f"{tensors}", f"{number:,}", f"{number / total:.2%}", quantised, levels

    rows = []
    for kind in dict.fromkeys(g["kind"] for g in groups):
        same = [g for g in groups if g["kind"] == kind]
        rows.append(row(kind, same, "yes" if same[0]["quantize"] else "no", _levels_in_words(same)))
    quantised = [g for g in groups if g["quantize"]]
    share = sum(p.numel() for g in quantised for p in g["params"]) / total
    return [*rows, row("all", groups, f"{share:.2%}", "")]


def _levels_in_words(groups: list[dict]) -> str:
    """The levels of groups of one kind: all values, or where there are many or several sets, their number and hulls."""
    sets = list(dict.fromkeys(g["levels"] for g in groups if g["quantize"] and "levels" in g))
    if not sets:
        return "the method's" if groups[0]["quantize"] else ""
    if len(sets) == 1 and len(sets[0].values) <= 4:
        return ", ".join(f"{q:.3g}" for q in sets[0].values)
    hulls = [" to ".join(f"{q:.3g}" for q in levels.hull) for levels in sorted(sets, key=lambda levels: levels.hull[1])]
    return f"{len(sets[0].values)} levels, {hulls[0]}" + (f" up to {hulls[-1]}" if len(hulls) > 1 else "")
