"""Which parameters of a network are quantised, and on which scale."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .arguments import _warn, number
from .levels import Levels
from .scales import Scale, channel_scales, least_squares_scale, scale_of

QUANTIZE = ("all", "all but first and last", "3x3 only")
SCALED = "parametrizations.weight.original"  # what torch calls a layer's weight after `scale_layers`
#: The order of the groups, by the last words of their kind; at last any other.
KINDS = "first layer,convolutions,linear layers,last layer,embeddings,biases,scales,normalisation,".split(",")


def _layers(model: nn.Module, *more: type[nn.Module]) -> dict[str, nn.Module]:
    """The layers with a matrix of weights, in the order in which the model names them."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *more)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def _weight(module: nn.Module) -> Tensor:
    """What is trained for a layer's weight: a parameter, unless another parametrisation than `Scale` makes it."""
    return module.parametrizations.weight.original if scale_of(module) else module.weight


def _scales(model: nn.Module) -> dict[Tensor, Tensor]:
    return {_weight(m): s.value for m in model.modules() if (s := scale_of(m))}


def _kinds(model: nn.Module, embeddings: bool) -> tuple[dict[str, str], dict[str, str]]:
    """name -> kind of the layers with weights to quantise, and of all parameters; a shared weight is of its first layer's."""
    layers = {}
    for name, module in _layers(model).items():
        size = getattr(module, "kernel_size", None)
        layers[name] = "linear layers" if size is None else f"{'x'.join(map(str, size))} convolutions"
    if names := [*layers]:
        layers[names[-1]] = "last layer"
        layers[names[0]] = "first layer"
    for name, module in _layers(model, nn.Embedding).items():
        if name not in layers and (embeddings or scale_of(module)):
            layers[name] = "embeddings"
    weights: dict[Tensor, str] = {}
    for name, kind in layers.items():
        weights.setdefault(_weight(model.get_submodule(name)), kind)
    scales = {p for module in model.modules() if isinstance(module, Scale) for p in module.parameters()}
    found = {}
    for name, p in model.named_parameters():
        rest = "normalisation" if p.ndim <= 1 else "other parameters"
        rest = "scales" if p in scales else "biases" if name.rpartition(".")[0] in layers else rest
        found[name] = weights.get(p, rest)
    return layers, found


def _check(name: str, module: nn.Module, levels: Levels | None) -> None:
    """Raise ValueError where the weights of a layer cannot be put on levels."""
    if not isinstance(_weight(module), nn.Parameter):
        raise ValueError(f"the weight of {name} is made of others (weight_norm?), which would be quantised")
    if isinstance(module, nn.Embedding):
        if module.sparse or module.max_norm is not None:
            raise ValueError(f"{name}: an embedding with sparse=True or max_norm cannot be quantised")
        if (i := module.padding_idx) is not None and not scale_of(module) and (not levels or 0.0 not in levels.values):
            raise ValueError(f"{name}: its row of zeros (padding_idx={i}) is on none of levels={levels}")


def groups(
    model: nn.Module,
    quantize: str = "all",
    levels: Levels | None = None,
    scaled: bool = False,
    embeddings: bool = False,
    lr: float | None = None,
) -> list[dict]:
    """Parameter groups for a base optimizer and `QuantizedOptimizer`, one for each kind of parameter.
    quantize: "all" (the weights of all layers), "all but first and last" (in the order in which the model names them), or
    "3x3 only" (3 x 3 convolutions but the first and last layer, as in the ImageNet code of ASkewSGD's authors). Biases, learned
    scales and normalisation are never quantised; embeddings where a linear layer shares the table or `scale_layers` scaled it,
    and with embeddings=True (except under "3x3 only"). Weights of other layers (transposed convolutions, recurrent ones,
    attention's in_proj_weight) are "other parameters": not quantised, unless you say so; a UserWarning names them.
    levels: of the quantised groups (None: the method's). scaled: each quantised layer is a group of its own, whose levels are
    `levels` times `least_squares_scale` of its weights; epsilon, clip and so on then have to fit every layer's gap.
    lr: for Adam and its kin, whose steps are as long for any gradient. Each layer that `scale_layers` scaled is a group of its
    own with lr / its mean scale (and AdamW's decay grows as much), so that its weight moves as unscaled with lr, the others' rate.
    Each group has params, quantize, kind, names (of its parameters) and, where known, levels. Raises ValueError where nothing is
    left to quantise, for scaled=True without levels, and for weights that cannot be put on levels.
    >>> model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    >>> [(g["kind"], g["quantize"]) for g in groups(model)]
    [('first layer', True), ('last layer', True), ('biases', False), ('normalisation', False)]
    """
    if quantize not in QUANTIZE:
        raise ValueError(f"quantize={quantize!r}: allowed are {', '.join(map(repr, QUANTIZE))}")
    if scaled and levels is None:
        raise ValueError("scaled=True needs levels, e.g. Levels.integers(4): they are what is scaled")
    layers, kinds = _kinds(model, embeddings)
    if not layers:
        raise ValueError(f"{type(model).__name__} has no linear layer and no convolution: there is nothing to quantise")
    chosen = set(layers.values())
    if quantize == "all but first and last":
        chosen -= {"first layer", "last layer"}
    elif quantize == "3x3 only":
        chosen &= {"3x3 convolutions"}
    if not chosen:
        what = ", ".join(sorted(set(kinds.values())))
        raise ValueError(f"quantize={quantize!r} leaves nothing to quantise; the model has {what}")
    for name, kind in layers.items():
        if kind in chosen:
            _check(name or "the model", model.get_submodule(name), levels)
    others = {n: model.get_submodule(n.rpartition(".")[0]) for n, kind in kinds.items() if kind == "other parameters"}
    if left := [n for n, m in others.items() if not type(m).__name__.endswith(("Embedding", "EmbeddingBag", "Norm"))]:
        _warn(f"{', '.join(left)}: not quantised, as the weights of no linear layer, convolution or embedding")
    parameters, result = dict(model.named_parameters()), []
    scales = {} if lr is None else _scales(model)
    for kind in sorted(set(kinds.values()), key=lambda kind: ([*map(kind.endswith, KINDS)].index(True), kind)):
        names = [name for name, k in kinds.items() if k == kind]
        apart = (scaled and kind in chosen) or any(parameters[n] in scales for n in names)
        for part in [[n] for n in names] if apart else [names]:
            group = {"params": [parameters[n] for n in part], "quantize": kind in chosen, "kind": kind, "names": part}
            if kind in chosen and levels is not None:
                group["levels"] = levels.scaled(least_squares_scale(parameters[part[0]], levels)) if scaled else levels
            if lr is not None:
                group["lr"] = number("lr", lr, 0) / float(scales.get(parameters[part[0]], torch.ones(())).mean())
            result.append(group)
    return result


def scale_layers(
    model: nn.Module,
    levels: Levels,
    quantize: str = "all",
    per: str = "layer",
    learned: bool = False,
    embeddings: bool = False,
) -> dict[str, float | Tensor]:
    """Scaled levels, written as a scaled layer: each layer that `groups` would quantise uses s v as its weight, v = w / s.
    per: "layer", or "channel" for an s for each output channel (row of an embedding): the `least_squares_scale` of its weights.
    The network computes what it did before, and one codebook, epsilon or clip means the same in all layers. The gradient at v
    is that in w divided by s (the chain rule would multiply), so that SGD on v moves w exactly as SGD on w would.
    learned: s is a parameter too (group "scales"). Its gradient is sum_i g_i v_i / sqrt(n Q), with g that in w, n the number of
    weights that share s and Q the largest level: the gradient scale of LSQ (Esser et al., 2020, section 2.2), whose own (3) has
    v_i less the latent one inside the hull. There a step of s keeps s v, here v and with it the rounding.
    Returns the factors by the layers' names (the first where layers share a weight). Make the groups afterwards, with scaled=False.
    ValueError, before any change, as in `groups`, and for a weight that is scaled already or shared with a module of another kind.
    >>> model, x = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)), torch.ones(1, 8)
    >>> before, factors = model(x), scale_layers(model, Levels.binary())
    >>> sorted(factors), torch.allclose(model(x), before)
    (['0', '2'], True)
    """
    if per not in ("layer", "channel"):
        raise ValueError(f"per={per!r}: allowed are 'layer' and 'channel'")
    owners: dict[Tensor, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        owners.setdefault(p, []).append(name)
    layers, plan = {id(m) for m in _layers(model, nn.Embedding).values()}, []
    for group in groups(model, quantize, levels, embeddings=embeddings):
        for p in group["params"] if group["quantize"] else []:
            for name in owners[p]:
                if name.endswith(SCALED):
                    raise ValueError(f"{name.removesuffix(SCALED)}weight is scaled already")
                layer, _, what = name.rpartition(".")
                if what != "weight" or id(model.get_submodule(layer)) not in layers:
                    raise ValueError(f"{owners[p][0]} is also {name}, no layer's weight, which would not be scaled")
            factor = (least_squares_scale if per == "layer" else channel_scales)(p, levels)
            plan.append((p, [name.rpartition(".")[0] for name in owners[p]], factor))
    top = levels.hull[1] if levels.hull[1] > 0 else -levels.hull[0]
    for p, names, factor in plan:
        p.scaled_for = levels  # for a warning where its group has others
        shared = p.numel() if per == "layer" else p[0].numel()
        scale = Scale(factor, p, 1 / math.sqrt(shared * top) if learned else None)
        v = scale.right_inverse(p.detach())
        for name in names:  # each of them divides p
            parametrize.register_parametrization(model.get_submodule(name), "weight", scale)
            with torch.no_grad():
                p.copy_(v)
    return {names[0]: factor for _, names, factor in plan}


@torch.no_grad()
def clip_grad_norm_(model: nn.Module, max_norm: float) -> Tensor:
    """torch.nn.utils.clip_grad_norm_ in units of the weights: a scaled layer's parameter has 1 / scale times their gradient.
    >>> clip_grad_norm_(nn.Linear(2, 1), 1.0)  # without gradients
    tensor(0.)
    """
    if not (scales := _scales(model)) or not (trained := [p for p in model.parameters() if p.grad is not None]):
        return nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    total = torch.stack([(p.grad * scales.get(p, 1)).norm().to(trained[0].device) for p in trained]).norm()
    for p in trained:
        p.grad.mul_((max_norm / (total + 1e-6)).clamp(max=1).to(p.grad.device))
    return total


@torch.no_grad()
def reestimate_batch_norm(
    model: nn.Module, batches: Iterable, forward: Callable[[object], object] | None = None
) -> None:
    """Replace the running statistics of every batch normalisation by their plain averages over the batches.
    All else in the model stays as it is and runs in evaluation mode. forward: what is done with a batch, by default
    model(batch), or model(batch[0]) of a tuple or list. Whatever is raised (ValueError for no batch), nothing has changed.
    >>> norm = nn.BatchNorm1d(1)
    >>> reestimate_batch_norm(norm, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [7.0]])])
    >>> norm.running_mean.item()
    4.0
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    settings = [(m, "training", m.training) for m in model.modules()] + [(m, "momentum", m.momentum) for m in norms]
    before, batch = [(b, b.clone()) for m in norms for b in m.buffers()], None
    try:
        model.eval()
        for m in norms:
            m.reset_running_stats()
            m.momentum = None  # torch's word for the plain average
            m.train()
        for batch in batches:
            forward(batch) if forward else model(batch[0] if isinstance(batch, tuple | list) else batch)
        if batch is None:
            raise ValueError("there is no batch to take statistics from (an iterator that is used up?)")
    except BaseException:
        for buffer, value in before:
            buffer.copy_(value)
        raise
    finally:
        for m, name, value in settings:
            setattr(m, name, value)
