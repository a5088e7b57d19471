"""One step of `QuantizedOptimizer`: computed beside the weights, then committed, so that nothing is ever left half done.
The base steps from a copy of the latent weights that the parameters hold meanwhile. Plain SGD's step is taken here, piece by
piece, of large tensors in place: what was there is kept. The commit is a list of copies, gone through again if interrupted.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from .methods.base import Method

SMALL = 2**12  # weights: up to here a tensor's overhead costs more than its arithmetic, and neighbours are joined
_PLAIN = (torch.nn.Parameter, Tensor)


def _whole(t: Tensor) -> Tensor:
    """A tensor whose parts lie on several processes (DTensor), on each of them."""
    return t.full_tensor() if hasattr(t, "full_tensor") else t


def _coarse(p: Tensor) -> bool:
    """Whether latent weights are better kept in float32."""
    return p.dtype in (torch.float16, torch.bfloat16) and type(p) in _PLAIN


def _passes_decay(method: Method, group: dict) -> bool:
    """Whether the base's weight decay has to be part of the gradient that the method is given, to keep its constraint."""
    return bool(group.get("weight_decay")) and method.constraint is not None


def _surely(act: Callable[[], None]) -> None:
    """Finish what may not stay half done, also where it is interrupted; `act` can be done twice."""
    try:
        act()
    except BaseException:
        act()
        raise


def _raise_where_not_finite(tensors: Iterator[Tensor], sums: list[Tensor], what: str) -> None:
    """FloatingPointError where one of the tensors has such entries. sums: of all of them, perhaps in parts."""
    # A finite sum has finite terms, and adding up is many times faster than looking; only a sum can overflow, too.
    if sums and not _whole(torch.stack([s.float() for s in sums])).isfinite().all():
        for t in tensors:
            if count := int(_whole((~t.isfinite()).sum())):
                where = f"{what} of a parameter of shape {tuple(t.shape)} has {count} entries that are NaN or infinite"
                raise FloatingPointError(f"the {where}; no parameter was changed (lower the learning rate?)")


class _Part:
    """Parameters of one group that are treated as one tensor: a single one, or small neighbours end to end."""

    def __init__(self, group: dict, params: Sequence[Tensor], states: list[dict], fused: bool) -> None:
        self.group, self.params, self.quantize, self.levels = group, params, group["quantize"], group["levels"]
        self.state, self.fused, self.in_place = states[0], fused, fused and len(params) == 1  # fused: stepped here
        self.grads = [p.grad for p in params]
        self.swaps = type(params[0]) in _PLAIN  # else memory is the subclass's affair
        self.data = [p.data if self.swaps else p.detach().clone() for p in params]
        self.apart = "latent" in states[0]
        self.latents = [s["latent"] for s in states] if self.apart else self.data
        self.point: Tensor | None = None  # their forward point, where it cannot be found a second time

    def flat(self, tensors: list[Tensor]) -> Tensor:
        return tensors[0] if len(tensors) == 1 else torch.cat([t.reshape(-1) for t in tensors])

    def split(self, flat: Tensor) -> list[Tensor]:
        if len(self.params) == 1:
            return [flat]
        parts = flat.split([p.numel() for p in self.params])
        return [x if p.ndim == 1 else x.view(p.shape) for x, p in zip(parts, self.params, strict=True)]

    def hold(self, p: Tensor, value: Tensor) -> None:
        if self.swaps:
            p.data = value
        else:
            p.copy_(value)


class _Transaction:
    """Run it once. The optimizer has checked everything that it can refuse."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer, self.method, self.base = optimizer, optimizer.method, optimizer.base
        self.turns = type(self.method).descent is not Method.descent
        self.corrects = type(self.method).after_step is not Method.after_step
        self.draws = type(self.method).state_dict is not Method.state_dict
        hooks = self.base._optimizer_step_pre_hooks or self.base._optimizer_step_post_hooks
        self.plain = type(self.base) is torch.optim.SGD and not hooks
        self.parts = self._parts()
        passes = [b.group for b in self.parts if b.quantize and _passes_decay(self.method, b.group)]
        self.decays = [(group, group["weight_decay"]) for group in passes]
        self.before = self.method.state_dict()
        self.undo: list[tuple[Tensor, Tensor]] = []  # pieces that were stepped in place, and their old values
        self.decided = False
        # How many changes are made, the one that is being made, and the method as it was before that was found.
        self.log: tuple = (0, None, None)

    def _parts(self) -> list[_Part]:
        """The parameters that have a gradient, in their order."""
        parts, state = [], self.optimizer.state
        pairs = [(g, p) for g in self.optimizer.param_groups for p in g["params"] if p.grad is not None]
        for _, found in groupby(pairs, self._kind):
            (group, *_), params = zip(*found, strict=True)
            fused = self.plain and group["quantize"] and not group["momentum"] and type(params[0]) in _PLAIN
            b = _Part(group, params, [state[p] if group["quantize"] else {} for p in params], fused)
            if b.quantize and not (self.method.in_pieces or self.method.keeps_state):
                b.state = {k: v if k == "latent" else copy.deepcopy(v) for k, v in b.state.items()}
            parts.append(b)
        return parts

    def _kind(self, pair: tuple[dict, Tensor]) -> object:
        """The same for neighbours that are joined."""
        group, p = pair
        small = p.numel() <= SMALL and type(p) in _PLAIN and p.is_contiguous() and p.grad.is_contiguous()
        small = small and (self.method.in_pieces or not group["quantize"])
        return (id(group), p.dtype, p.device) if small else id(p)

    def run(self) -> None:
        try:
            self._compute()
            self.decided = True
            self._commit()
        except BaseException:
            _surely(self._commit if self.decided else self._undo)
            raise

    def _compute(self) -> None:
        gradients, weights = [], []  # their sums
        for b in self.parts:
            self._prepare(b, gradients, weights)
        _raise_where_not_finite((g for b in self.parts for g in b.grads), gradients, "gradient")
        for group, _ in self.decays:
            group["weight_decay"] = 0.0
        self.base.step()
        for b in self.parts:
            if not b.fused:
                for p, x in zip(b.params, b.split(b.new), strict=True):
                    if not b.swaps or p.data_ptr() != x.data_ptr():  # a base may replace p.data
                        x.copy_(p.data)
                if b.quantize and self.corrects:
                    for (x,) in self.method.pieces(b.new):
                        x.copy_(self.method.after_step(x, b.levels, b.state, b.group["lr"]))
                weights.append(b.new.sum())
        self._restore()
        _raise_where_not_finite((x for b in self.parts for x in b.split(b.new)), weights, "new weight")
        for b in self.parts:
            if b.apart and not self.method.repeats:
                b.point = self.method.forward_point(b.new, b.levels, b.state)

    def _prepare(self, b: _Part, gradients: list[Tensor], weights: list[Tensor]) -> None:
        """Give the base what it steps from and what it takes for the gradient; where a part is fused, take its step."""
        w, g = b.flat(b.latents), b.flat(b.grads)
        decay, through = b.group.get("weight_decay", 0), b.quantize and _passes_decay(self.method, b.group)
        turns = b.quantize and (self.turns or through or g.dtype != w.dtype)
        memory = self._memory(b, "memory", w)
        b.old, b.new = (memory, w) if b.in_place else (w, memory)
        out = b.new if b.fused else self._memory(b, "direction", w) if turns else g
        if not b.fused:
            gradients.append(g.sum())
            b.new.copy_(b.old)
        for x, y, o in self.method.pieces(g, b.old, out) if b.fused or turns else ():
            if b.in_place:
                y.copy_(o)
                self.undo.append((o, y))
            x = x.to(y.dtype)
            if b.fused:
                gradients.append(x.sum())
            if through:
                x = x.add(y, alpha=decay)
            if self.turns:
                x = self.method.descent(x, y, b.levels, b.state, o)
            if not b.fused:
                o.copy_(x)
                continue
            if decay and not through:
                x = x.add(y, alpha=decay)
            torch.add(y, x, alpha=-float(b.group["lr"]), out=o)
            if self.corrects:
                o.copy_(self.method.after_step(o, b.levels, b.state, b.group["lr"]))
            weights.append(o.sum())
        for p in b.params:
            p.grad = None  # of what is fused the base sees nothing
        if not b.fused:
            for p, x, d in zip(b.params, b.split(b.new), b.grads if out is g else b.split(out), strict=True):
                b.hold(p, x)
                p.grad = d

    def _memory(self, b: _Part, name: str, like: Tensor) -> Tensor:
        kept = self.optimizer._kept.setdefault(b.params[0], {})  # fresh memory costs more than the arithmetic
        if name not in kept or kept[name].shape != like.shape or kept[name].dtype != like.dtype:
            kept[name] = torch.empty_like(like)
        return kept[name]

    def _restore(self) -> None:
        for b in self.parts:
            for p, data, grad in zip(b.params, b.data, b.grads, strict=True):
                if not b.fused:
                    p.grad = None  # it has to fit the data
                    b.hold(p, data)
                p.grad = grad
        for group, value in self.decays:
            group["weight_decay"] = value

    def _undo(self) -> None:
        for new, old in reversed(self.undo):
            new.copy_(old)
        self._restore()
        self.method.load_state_dict(self.before)
        self._note()

    def _changes(self) -> Iterator[tuple[list[Tensor], Callable[[], list[Tensor]]]]:
        """What the commit copies where: multipliers, latent weights, forward points."""
        for b in self.parts:
            if b.quantize:
                for target, value in self.method.late_changes(b.old, b.levels, b.state):
                    yield [target], lambda value=value: [value]
        for b in self.parts:
            if not b.in_place:
                yield b.latents if b.apart else b.params, lambda b=b: b.split(b.new)
        for b in self.parts:
            if b.point is not None:
                yield b.params, lambda b=b: b.split(b.point)
            elif b.apart and len(b.params) > 1:
                yield b.params, lambda b=b: b.split(self.method.forward_point(b.new, b.levels, b.state))
            elif b.apart:
                for x, latent in self.method.pieces(b.params[0].detach(), b.new):
                    yield [x], lambda b=b, y=latent: [self.method.forward_point(y, b.levels, b.state)]

    def _commit(self) -> None:
        done, change, before = self.log
        if change is not None:  # interrupted while it was made
            _assign(*change)
            done += 1
        elif before is not None:  # or while its random numbers were drawn
            self.method.load_state_dict(before)
        for i, (targets, values) in enumerate(self._changes()):
            if i >= done:
                self.log = (i, None, self.method.state_dict() if self.draws else None)
                change = targets, values()
                self.log = (i, change, None)
                _assign(*change)
                self.log = (i + 1, None, None)
        for b in self.parts:
            if b.quantize and b.state is not (own := self.optimizer.state[b.params[0]]):
                own.update(b.state)
            torch.autograd.graph.increment_version(b.params if b.in_place and not b.apart else [])
        self._note()

    def _note(self) -> None:
        for b in self.parts:
            for p in b.params if b.apart else ():
                self.optimizer._seen[p] = (p._version, b.levels)


def _assign(targets: list[Tensor], values: list[Tensor]) -> None:
    torch._foreach_copy_(targets, values) if len(targets) > 1 else targets[0].copy_(values[0])
