"""From training to a finished model: a copy whose weights lie on their levels and stay there, and its files."""

import copy
import os
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map, tree_map_only

from . import packing
from .arguments import _warn
from .layers import SCALED, reestimate_batch_norm
from .optimizer import QuantizedOptimizer
from .scales import scale_of
from .schedules import Constant

NEEDED = {".qt": (), ".pt": (), ".pt2": (), ".safetensors": ("safetensors",), ".onnx": ("onnx", "onnxscript")}


@torch.inference_mode(False)
@torch.no_grad()
def finish(
    model: nn.Module,
    optimizer: QuantizedOptimizer,
    batches: Iterable | None = None,
    forward: Callable[[nn.Module, object], object] | None = None,
    latent: dict[str, Tensor] | None = None,
) -> nn.Module:
    """A copy of the model with its quantised weights exactly on their levels; nothing in it changes when training goes on.
    The copy is an ordinary module, in evaluation mode and without gradients. Scaled layers become ordinary ones with levels
    times scales as weights; shared weights stay shared. `quantization` of the copy: parameters' names -> (levels, scale or None).
    batches, forward(copy, batch): for `reestimate_batch_norm`. latent: a state_dict of the model with latent weights (their
    average) to be rounded in place of the optimizer's. README shows early stopping and averages. Without batches, batch
    normalisation keeps the statistics of the training's last steps, not of the finished weights.
    ValueError where no quantised parameter is the model's or a scaled layer has another parametrisation, too; FloatingPointError
    where a weight is not finite; RuntimeError inside a view and where `latent` is of another model.
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
    plan, kind = optimizer.method.plan, type(optimizer.method).__name__
    if plan and optimizer._steps and not isinstance(plan, Constant) and plan(optimizer.method.t) == plan(0):
        _warn(f"finish: {kind}'s schedule is still {plan(0):g}, as at first: was optimizer.method.anneal() called?")
    with optimizer.quantized() if latent is None else nullcontext():
        finished = copy.deepcopy(model, {id(optimizer): None})  # where the model holds it
    if latent is not None:
        finished.load_state_dict(latent)
    finished.eval().requires_grad_(False).zero_grad()
    for name, levels in names.items():
        if not (p := finished.get_parameter(name)).isfinite().all():
            raise FloatingPointError(f"{name} has weights that are NaN or infinite: there is no level for them")
        p.copy_(levels.nearest(p))
    finished.quantization = {name.replace(SCALED, "weight"): (levels, None) for name, levels in names.items()}
    merged: dict[Tensor, Tensor] = {}
    for name, module in list(finished.named_modules()):
        if (scale := scale_of(module)) is None:
            continue
        if len(module.parametrizations) + len(module.parametrizations.weight) > 2:
            raise ValueError(f"{name or 'the model'} has other parametrisations beside its scale; remove them first")
        v, own = module.parametrizations.weight.original, f"{name}.weight".removeprefix(".")
        if v not in merged:
            merged[v] = nn.Parameter(scale.value * v, requires_grad=False)
        if own in finished.quantization:
            finished.quantization[own] = (finished.quantization[own][0], scale.value.clone())
        module.__class__ = type(module).__bases__[0]  # torch's own way would change the model's class, too
        del module.parametrizations
        module._parameters = {"weight": merged[v], **module._parameters}  # first, as in an ordinary layer
    if batches is not None:
        reestimate_batch_norm(finished, batches, None if forward is None else lambda batch: forward(finished, batch))
    return finished


def _program(finished: nn.Module, example: tuple, shapes: object, name: str) -> torch.export.ExportedProgram:
    """torch.export of a copy of the example: a view would bring all of its memory into the file."""
    example = tree_map_only(Tensor, lambda x: x.detach().clone(), example)
    if shapes != "batch":
        return torch.export.export(finished, example, dynamic_shapes=shapes)
    free = tree_map(lambda x: {0: torch.export.Dim("batch")} if getattr(x, "ndim", 0) else None, example)
    more = tree_map_only(Tensor, lambda x: x[[0, 0]] if x.shape[:1] == (1,) else x, example)  # torch takes 1 for fixed
    try:
        return torch.export.export(finished, more, dynamic_shapes=free)
    except Exception:  # of many kinds, by version
        _warn(f"{name}: the program takes no batches of another size than the example's")
        return torch.export.export(finished, example)


def export(finished: nn.Module, path: str | Path, example: tuple | None = None, dynamic_shapes: object = "batch"):
    """Write what `finish` returned; the path's ending says how. Weights that layers share are stored once.
    .qt: 1, 2 or 4 bits per weight, for `packing.load`. .pt: the state_dict. .safetensors: for its load_model. .pt2, .onnx: made
    with `example`, a tuple of inputs. dynamic_shapes: "batch", the first size of each is free, or a UserWarning; else torch's, None
    for fixed sizes. ImportError says what to install; ValueError for another ending or module, and a missing example. Whole or not.
    >>> model, path = nn.Linear(3, 2), tempfile.mkdtemp() + "/model.pt2"
    >>> finished = finish(model, QuantizedOptimizer(torch.optim.SGD(groups(model)), ASkew(Levels.binary())))
    >>> export(finished, path, example=(torch.ones(1, 3),))
    >>> torch.equal(torch.export.load(path).module()(x := torch.randn(5, 3)), finished(x))
    True
    """
    path, kind = Path(path), Path(path).suffix
    if kind not in NEEDED:
        raise ValueError(f"{path.name}: the ending must be one of {', '.join(NEEDED)}")
    if missing := [name for name in NEEDED[kind] if find_spec(name) is None]:
        raise ImportError(f"to write {kind} files: pip install {' '.join(missing)}")
    if not hasattr(finished, "quantization"):
        raise ValueError("export takes what `finish` returned: the weights of another module may be latent")
    if example is None and kind in (".pt2", ".onnx"):
        raise ValueError(f"{kind} files are made with an example, a tuple of inputs: export(finished, path, (x,))")
    beside = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        if kind == ".qt":
            packing.save(beside, finished)
        elif kind == ".pt":
            torch.save(finished.state_dict(), beside)
        elif kind == ".pt2":
            torch.export.save(_program(finished, example, dynamic_shapes, path.name), beside)
        elif kind == ".onnx":  # optimised, it would hold the transpose of a shared weight beside it
            options = {"dynamo": True, "external_data": False, "optimize": False, "verbose": False}
            torch.onnx.export(_program(finished, example, dynamic_shapes, path.name), f=str(beside), **options)
        else:
            from safetensors.torch import save_model

            save_model(finished, str(beside))
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
