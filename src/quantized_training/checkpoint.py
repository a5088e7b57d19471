"""What `QuantizedOptimizer` writes and reads: torch's own shape of an optimizer's state, in plain numbers and tensors.

`state`: parameter number -> the base's entries and, as "method.NAME", the latent weights ("method.latent") and what the
method keeps ("method.dual"). `param_groups`: the base's, levels as numbers, with the method's name ("method") and its own
state ("method.t" and so on, the same in every group), because tools that take a state apart keep nothing but these two.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .levels import Levels

if TYPE_CHECKING:
    from .optimizer import QuantizedOptimizer

MINE = "method."


def write_plain_numbers(base: torch.optim.Optimizer) -> None:
    """Let the base's own state_dict hold levels as numbers, which torch.load reads with weights_only."""
    if _numbers not in base._optimizer_state_dict_post_hooks.values():
        base.register_state_dict_post_hook(_numbers)
        base.register_load_state_dict_pre_hook(_objects)


def _numbers(base: torch.optim.Optimizer, found: dict) -> dict:
    groups = [_with(g, lambda levels: getattr(levels, "values", levels)) for g in found["param_groups"]]
    return {**found, "param_groups": groups}


def _objects(base: torch.optim.Optimizer, found: dict) -> dict:
    groups = [_with(g, lambda v: v if isinstance(v, Levels) else Levels(v)) for g in found["param_groups"]]
    return {**found, "param_groups": groups}


def _with(group: dict, change) -> dict:
    return {k: change(v) if k == "levels" else v for k, v in group.items()}


def state_dict(optimizer: QuantizedOptimizer) -> dict:
    for hook in optimizer._optimizer_state_dict_pre_hooks.values():
        hook(optimizer)
    base, method = optimizer.base.state_dict(), optimizer.method.state_dict()
    state = {i: dict(entries) for i, entries in base["state"].items()}
    for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        if mine := optimizer.state.get(p):
            state.setdefault(i, {}).update({MINE + k: v for k, v in mine.items()})
    about = {"method": type(optimizer.method).__name__} | {MINE + k: v for k, v in method.items()}
    found = base | {"state": state, "param_groups": [g | about for g in base["param_groups"]], "method": method}
    for hook in optimizer._optimizer_state_dict_post_hooks.values():
        changed = hook(optimizer, found)
        found = found if changed is None else changed
    return found


def _modern(found: dict) -> dict:
    """A state of an earlier version (base, weights, kind, method) in today's shape."""
    if "base" not in found:
        return found
    base, about = found["base"], {"method": found["kind"]} | {MINE + k: v for k, v in found["method"].items()}
    state = {i: dict(entries) for i, entries in base["state"].items()}
    for i, mine in found["weights"].items():
        state.setdefault(i, {}).update({MINE + k: v for k, v in mine.items()})
    return {"state": state, "param_groups": [g | about for g in base["param_groups"]]}


@torch.no_grad()
def load_state_dict(optimizer: QuantizedOptimizer, found: dict) -> None:
    found = dict(found)
    for hook in optimizer._optimizer_load_state_dict_pre_hooks.values():
        changed = hook(optimizer, found)
        found = found if changed is None else changed
    try:
        found = _modern(found)
        method, state, groups = _checked(optimizer, found)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"this is no state of a QuantizedOptimizer: {type(error).__name__}: {error}") from error
    base, params = optimizer.base, [p for group in optimizer.param_groups for p in group["params"]]
    before = base.state, base.param_groups, copy.deepcopy(optimizer.method.state_dict())
    try:
        theirs = {i: {k: v for k, v in s.items() if not k.startswith(MINE)} for i, s in state.items()}
        base.load_state_dict({"state": {i: s for i, s in theirs.items() if s}, "param_groups": groups})
        optimizer.method.load_state_dict(method)
        mine = {}
        for i, p in enumerate(params):
            entries = {k.removeprefix(MINE): v for k, v in state.get(i, {}).items() if k.startswith(MINE)}
            mine[p] = {k: v.to(p.device, copy=True) if isinstance(v, Tensor) else v for k, v in entries.items()}
    except BaseException:
        base.state, base.param_groups = before[:2]
        optimizer.method.load_state_dict(before[2])
        raise
    optimizer.param_groups = base.param_groups
    optimizer.state.clear()
    optimizer.state.update({p: s for p, s in mine.items() if s})
    quantized = list(optimizer._quantized_parameters())
    optimizer._seen = {p: (p._version, group["levels"]) for group, p in quantized}
    for hook in optimizer._optimizer_load_state_dict_post_hooks.values():
        hook(optimizer)


def _checked(optimizer: QuantizedOptimizer, found: dict) -> tuple[dict, dict, list[dict]]:
    """The method's state, the parameters' and the groups; raises ValueError where they are not those of this optimizer."""
    groups, state, kind = found["param_groups"], found["state"], type(optimizer.method).__name__
    sizes, here = [len(g["params"]) for g in groups], [len(g["params"]) for g in optimizer.param_groups]
    if sizes != here:
        raise ValueError(f"this state has parameter groups of {sizes} parameters, the optimizer of {here}")
    for g in groups:
        if g["method"] != kind:
            raise ValueError(f"this state belongs to the method {g['method']}, the optimizer runs {kind}")
    if not groups:
        return {}, {}, []
    method = {k.removeprefix(MINE): v for k, v in groups[0].items() if k.startswith(MINE)}
    if method.keys() != optimizer.method.state_dict().keys():
        raise ValueError(
            f"this state has {sorted(method)} of the method {kind}, expected is {sorted(optimizer.method.state_dict())}"
        )
    bare = [{k: v for k, v in g.items() if k != "method" and not k.startswith(MINE)} for g in groups]
    for g in bare:
        levels = g["levels"] = g["levels"] if isinstance(g["levels"], Levels) else Levels(g["levels"])
        optimizer.method.check(levels, float(g.get("lr", 0.0))) if g["quantize"] else None
    params = [(g, p) for g, mine in zip(bare, optimizer.param_groups, strict=True) for p in mine["params"]]
    if unknown := [i for i in state if i not in range(len(params))]:
        raise ValueError(f"this state has parameters {unknown}, the optimizer {len(params)} of them")
    for i, (g, p) in enumerate(params):
        saved, shape = state.get(i, {}), tuple(p.shape)
        names = {MINE + "latent"} if g["quantize"] and optimizer._apart(p) else set()
        if missing := names - saved.keys():
            raise ValueError(f"this state lacks {sorted(missing)} of parameter {i}")
        for name, value in saved.items():
            if not isinstance(value, Tensor):
                continue
            if name.startswith(MINE):
                wanted = (
                    shape
                    if name in names
                    else optimizer.method.state_shape(name.removeprefix(MINE), g["levels"], shape)
                )
                if wanted is None:
                    raise ValueError(f"this state has {name} of parameter {i}, which the method {kind} does not know")
            else:
                known = optimizer.base.state.get(p, {}).get(name)
                wanted = (
                    tuple(known.shape) if isinstance(known, Tensor) else shape if value.ndim == len(shape) > 0 else None
                )
                if wanted == shape and "factor" in type(optimizer.base).__name__:
                    wanted = None  # rows and columns
            if wanted is not None and tuple(value.shape) != wanted:
                raise ValueError(f"{name} of parameter {i} has the shape {tuple(value.shape)}, expected is {wanted}")
            if value.is_floating_point() and not value.is_meta and value.isnan().any():
                raise ValueError(f"{name} of parameter {i} has entries that are NaN")
    return method, state, bare
