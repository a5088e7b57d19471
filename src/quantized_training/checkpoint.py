"""What `QuantizedOptimizer` writes and reads: torch's own shape of an optimizer's state, in plain numbers and tensors.
`state`: parameter number -> the base's entries and, as "method.NAME", the latent weights ("method.latent") and what the
method keeps ("method.dual"). `param_groups`: the base's, levels as numbers, with the method's name ("method") and its own
state ("method.t" and so on, the same in every group), because tools that take a state apart keep nothing but these two.
"""

from collections import defaultdict

import torch
from torch import Tensor

from .levels import Levels
from .transaction import _coarse, _whole

MINE = "method."
LIKE_WEIGHTS = "momentum_buffer exp_avg exp_avg_sq max_exp_avg_sq exp_inf sum square_avg acc_delta grad_avg".split()


def _write_plain_numbers(base: torch.optim.Optimizer) -> None:
    """Let the base's own state_dict hold levels as numbers, which torch.load reads with weights_only."""
    if _numbers not in base._optimizer_state_dict_post_hooks.values():
        base.register_state_dict_post_hook(_numbers)
        base.register_load_state_dict_pre_hook(_objects)


def _numbers(base: torch.optim.Optimizer, found: dict) -> dict:
    return found | {"param_groups": [{k: _plain(v) for k, v in g.items()} for g in found["param_groups"]]}


def _objects(base: torch.optim.Optimizer, found: dict) -> dict:
    groups = [dict(g) for g in found["param_groups"]]
    for live, g in zip(base.param_groups, groups, strict=False):
        for k in live.keys() & {"quantize", "levels"}:  # a plain optimizer's have neither
            g[k] = Levels(_plain(g.get(k, live[k]))) if k == "levels" else g.get(k, live[k])
    return found | {"param_groups": groups}


def _plain(levels: object) -> object:
    return levels.values if isinstance(levels, Levels) else levels


def _hooked(hooks: dict, *given: object) -> object:
    """Call torch's hooks; returns the state after them."""
    for hook in hooks.values():
        changed = hook(*given)
        given = given if changed is None else (given[0], changed)
    return given[-1]


def _joined(base: dict, mine: dict, kind: str, method: dict) -> dict:
    state = {i: dict(entries) for i, entries in base["state"].items()}
    for i, entries in mine.items():
        state.setdefault(i, {}).update({MINE + k: v for k, v in entries.items()})
    about = {"method": kind} | {MINE + k: v for k, v in method.items()}
    groups = [g | about for g in base["param_groups"]]
    for g in groups:  # what has to be there when it is read: "0.latent" of the group's first parameter
        g[MINE + "entries"] = " ".join(f"{k}.{name}" for k, i in enumerate(g["params"]) for name in mine.get(i, ()))
    return base | {"state": state, "param_groups": groups, "method": method}


def _split(entries: dict) -> tuple[dict, dict]:
    """(the base's, the method's) part of a parameter's entries or of a group."""
    mine = {k.removeprefix(MINE): v for k, v in entries.items() if str(k).startswith(MINE)}
    return {k: v for k, v in entries.items() if k != "method" and not str(k).startswith(MINE)}, mine


class _State(defaultdict):
    """Counts as empty until a step was taken: torch.distributed.checkpoint then takes one, with the learning rate 0."""

    def __bool__(self) -> bool:
        return self.full()


class _Checkpoints(torch.optim.Optimizer):
    """The part of `QuantizedOptimizer` that writes and reads its state."""

    def _set_state(self, found: dict) -> None:
        self._state = _State(dict, found)
        self._state.full = self._full

    state = property(lambda self: self._state, _set_state, doc="What the method keeps of each parameter.")
    # The base's; torch's constructor would begin with an empty list.
    param_groups = property(
        lambda o: o.base.param_groups, lambda o, g: o._linked and setattr(o.base, "param_groups", g)
    )

    def state_dict(self) -> dict:
        """Everything a resumed run needs, in torch's own shape; see the head of `quantized_training.checkpoint`."""
        self._refuse_in_view("state_dict()")
        self._follow()
        _hooked(self._optimizer_state_dict_pre_hooks, self)
        params = [p for group in self.param_groups for p in group["params"]]
        mine = {i: self.state[p] for i, p in enumerate(params) if p in self.state}
        found = _joined(self.base.state_dict(), mine, type(self.method).__name__, self.method.state_dict())
        return _hooked(self._optimizer_state_dict_post_hooks, self, found)

    @torch.inference_mode(False)
    @torch.no_grad()
    def load_state_dict(self, state_dict: dict) -> None:
        """Restore `state_dict`, or refuse it with ValueError before anything changes. Load the model's own state_dict
        first: it carries the weights of the other parameters. Files of earlier versions are read, too."""
        self._refuse_in_view("load_state_dict()")
        found = _hooked(self._optimizer_load_state_dict_pre_hooks, self, state_dict)
        try:
            if "base" in found:  # a file of an earlier version
                found = _joined(found["base"], found["weights"], found["kind"], found["method"])
            method, groups, theirs, mine = self._checked(found)
        except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
            raise ValueError(f"this is no state of a QuantizedOptimizer: {type(error).__name__}: {error}") from error
        base, params = self.base, [p for g in self.param_groups for p in g["params"]]
        before = base.state, base.param_groups, {**self.state}, self.method.state_dict()
        try:
            base.load_state_dict({"state": theirs, "param_groups": groups})
            self.method.load_state_dict(method)
            self.state = {params[i]: entries for i, entries in mine.items()}
            for i, entries in theirs.items():
                if _coarse(params[i]):  # torch has rounded what the base keeps in float32
                    real = (torch.float32, torch.float64)
                    fine = {k: v.float() for k, v in entries.items() if getattr(v, "dtype", 0) in real}
                    base.state[params[i]].update(fine)
        except BaseException:
            base.state, base.param_groups, self.state = before[:3]
            self.method.load_state_dict(before[3])
            raise
        self._steps = max(self._steps, 1)
        self._seen = {p: (p._version, group["levels"]) for group, p in self._quantized_parameters()}
        _hooked(self._optimizer_load_state_dict_post_hooks, self)

    def _checked(self, found: dict) -> tuple[dict, list[dict], dict, dict]:
        """(method's state, groups, base's entries, method's entries), copied; ValueError where they are another optimizer's."""
        own, here, kind = self.method, self.param_groups, type(self.method).__name__
        sizes = [[len(g["params"]) for g in groups] for groups in (found["param_groups"], here)]
        if sizes[0] != sizes[1]:
            raise ValueError(f"this state has parameter groups of {sizes[0]} parameters, the optimizer of {sizes[1]}")
        places = {i: place for place, i in enumerate(i for g in found["param_groups"] for i in g["params"])}
        state = {places.get(i, i): entries for i, entries in found["state"].items()}  # some tools put names for numbers
        method, groups = {}, []
        for g, live in zip(found["param_groups"], here, strict=True):
            if g["method"] != kind:
                raise ValueError(f"of method {g['method']}, here runs {kind}: load it there, then switch({kind}(...))")
            g, method = _split(g)
            if missing := {"quantize", "levels", "lr", "momentum", "betas"} & (live.keys() - g.keys()):
                raise ValueError(f"this state lacks {sorted(missing)} of a parameter group")
            for entry in method.pop("entries", "").split():
                k, name = entry.split(".", 1)
                if MINE + name not in state.get(places[g["params"][int(k)]], {}):
                    raise ValueError(f"this state lacks {MINE + name} of {self._describe(live['params'][int(k)])}")
            groups.append(g | {"levels": Levels(_plain(g["levels"])), "params": [places[i] for i in g["params"]]})
            self._check(groups[-1] | {"params": live["params"]})
        if method.keys() != (expected := own.state_dict() if here else {}).keys():
            raise ValueError(f"this state has {sorted(method)} of the method, expected is {sorted(expected)}")
        params = [(g, p) for g, live in zip(groups, here, strict=True) for p in live["params"]]
        if unknown := [i for i in state if i not in range(len(params))]:
            raise ValueError(f"this state has parameters {unknown}, the optimizer {len(params)} of them")
        theirs, mine = {}, {}
        for i, (g, p) in enumerate(params):
            for part, entries in zip((theirs, mine), _split(state.get(i, {})), strict=True):
                tensors = {name: v for name, v in entries.items() if isinstance(v, Tensor)}
                for name, v in tensors.items():
                    shape = self._shape(p, g, name, part is mine)
                    if shape is not None and v.shape != shape:
                        raise ValueError(f"{name} of parameter {i} has the shape {tuple(v.shape)}, expected is {shape}")
                    if not v.is_meta and _whole((~v.isfinite() if part is mine else v.isnan()).any()):
                        raise ValueError(f"{name} of parameter {i} has entries that are NaN or infinite")
                if entries:
                    part[i] = entries | {name: v.to(p.device, copy=True) for name, v in tensors.items()}
            if "latent" in mine.get(i, {}):
                mine[i]["latent"] = mine[i]["latent"].to(torch.float32 if _coarse(p) else p.dtype)
            if (g["quantize"] and self._apart(p)) != isinstance(mine.get(i, {}).get("latent"), Tensor):
                raise ValueError(f"this state lacks latent weights of parameter {i}, or has some not kept here")
        return method, groups, theirs, mine

    def _shape(self, p: Tensor, group: dict, name: str, mine: bool) -> tuple[int, ...] | None:
        """That an entry must have; None where it is not known."""
        known, shape = self.base.state.get(p, {}).get(name), tuple(p.shape)
        if mine:
            return shape if name == "latent" else self.method.state_shape(name, group["levels"], shape)
        return tuple(known.shape) if isinstance(known, Tensor) else shape if name in LIKE_WEIGHTS else None

    def __getstate__(self) -> dict:
        self._refuse_in_view("a copy")
        seen = {p: (self._changed(p), levels) for p, (_, levels) in self._seen.items()}
        return {k: vars(self)[k] for k in ("base", "method", "defaults", "_state", "_steps")} | {"_seen": seen}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__({"_linked": True, "_kept": {}} | state)
        self._seen = {p: (-1 if changed else p._version, levels) for p, (changed, levels) in self._seen.items()}
        _write_plain_numbers(self.base)
