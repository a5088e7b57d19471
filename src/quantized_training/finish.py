"""From training to a finished model: a copy whose weights lie on their levels and stay there."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from .layers import SCALED, reestimate_batch_norm
from .optimizer import QuantizedOptimizer
from .scales import scale_of


@torch.no_grad()
def finish(
    model: nn.Module,
    optimizer: QuantizedOptimizer,
    batches: Iterable | None = None,
    forward: Callable[[nn.Module, object], object] | None = None,
    latent: dict[str, Tensor] | None = None,
) -> nn.Module:
    """A copy of the model with its quantised weights exactly on their levels; nothing in it changes when training goes on.

    Scaled layers become ordinary ones whose weights are the levels times the scales; weights that layers share stay shared;
    each module is in training or evaluation mode as the model's. `quantization` of the copy has, by the names of its
    quantised parameters, their levels and, where a layer was scaled, its scale.

    batches: re-estimate the statistics of batch normalisation from them (`reestimate_batch_norm`): they belong to the
    weights before rounding. forward(copy, batch): what is done with a batch, by default copy(batch), or copy(batch[0]) of a
    tuple or list. latent: a state_dict of the model to be rounded in place of the optimizer's latent weights.

    Raises ValueError where none of the optimizer's quantised parameters is the model's, FloatingPointError where a weight is
    not finite, RuntimeError inside `with optimizer.quantized():` or `latent()` and where `latent` is of another model.

    The copy is an ordinary module for any tool:

        torch.save(finished.state_dict(), path)                   # or safetensors.torch.save_model(finished, path)
        packing.save(path, finished)                              # 1, 2 or 4 bits per weight; load gives the state_dict
        torch.export.export(finished.eval(), (x,))                # torch.jit.trace, torch.onnx.export

    Early stopping: `best = finish(model, optimizer)` whenever the validation is better than before. To go on from the best
    weights, keep copies of the model's and the optimizer's state_dict and load both, the model's first.

    Averaging (SWA, EMA): of the latent weights. After each step, or epoch,

        with optimizer.latent():
            average.update_parameters(model)                      # torch.optim.swa_utils.AveragedModel(model)

    and in the end `finish(model, optimizer, batches, latent=average.module.state_dict())`, whose batch normalisation needs
    the batches.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> factors = scale_layers(model, Levels.binary(), per="channel")
    >>> base = torch.optim.SGD(groups(model), lr=0.1)
    >>> finished = finish(model, QuantizedOptimizer(base, ASkew(Levels.binary())))
    >>> torch.allclose(finished[0].weight.abs(), factors["0"].float()[:, None].expand(3, 4)), list(finished.state_dict())
    (True, ['0.weight', '0.bias', '2.weight', '2.bias'])
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    levels = {p: group["levels"] for group in optimizer.param_groups if group["quantize"] for p in group["params"]}
    names = {name: levels[p] for name, p in model.named_parameters() if p in levels}
    if not names:
        raise ValueError(f"none of the optimizer's quantised parameters belongs to this {type(model).__name__}")
    with optimizer.quantized() if latent is None else nullcontext():
        finished = copy.deepcopy(model)
    if latent is not None:
        finished.load_state_dict(latent)
    parameters, quantization = dict(finished.named_parameters()), {}
    for name, levels in names.items():
        p = parameters[name]
        if not p.isfinite().all():
            raise FloatingPointError(f"{name} has weights that are NaN or infinite: there is no level for them")
        p.copy_(levels.nearest(p))
        if name.endswith(SCALED):
            name = name.removesuffix(SCALED) + "weight"
        quantization[name] = (levels, None)
    merged: dict[Tensor, nn.Parameter] = {}
    for name, module in list(finished.named_modules()):
        if (scale := scale_of(module)) is None:
            continue
        if len(module.parametrizations) + len(module.parametrizations.weight) > 2:
            raise ValueError(f"{name or 'the model'} has other parametrisations beside its scale; remove them first")
        v, own = module.parametrizations.weight.original, f"{name}.weight".removeprefix(".")
        if v not in merged:
            merged[v] = nn.Parameter(scale.value * v, v.requires_grad)
        if own in quantization:
            quantization[own] = (quantization[own][0], scale.value.cpu().clone())
        module.__class__ = type(module).__bases__[0]  # torch's own way would change the model's class, too
        del module.parametrizations
        module.weight = merged[v]
    finished.quantization = quantization
    if batches is not None:
        reestimate_batch_norm(finished, batches, None if forward is None else lambda batch: forward(finished, batch))
    return finished
