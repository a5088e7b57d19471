"""One step of `QuantizedOptimizer`: computed first, then committed, so that whatever is raised in it leaves nothing half done.

Until the commit starts, a step can be undone: plain SGD's is computed beside the weights; of weights that another base steps
in place, or whose forward point is random, a copy is kept. The commit is a list of copies that can be gone through again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .methods.base import Method, chunks

if TYPE_CHECKING:
    from .optimizer import QuantizedOptimizer

SMALL = 2**12  # weights: up to here a tensor's overhead costs more than its arithmetic, and neighbours are joined
PLAIN = (torch.nn.Parameter, Tensor)
HALF = (torch.float16, torch.bfloat16)  # too coarse for latent weights, which are float32 then


def whole(t: Tensor) -> Tensor:
    """A tensor whose parts lie on several processes (DTensor), on each of them.

    >>> whole(torch.ones(2)).tolist()  # an ordinary tensor is
    [1.0, 1.0]
    """
    return t.full_tensor() if hasattr(t, "full_tensor") else t


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


def _raise_where_not_finite(tensors: list[Tensor], sums: list[Tensor], what: str, why: str) -> None:
    """FloatingPointError where one of the tensors has such entries. sums: of all of them, perhaps in parts."""
    # A finite sum has finite terms, and adding up is many times faster than looking; only a sum can overflow, too.
    if sums and not whole(torch.stack([s.float() for s in sums])).isfinite().all():
        for t in tensors:
            if count := int(whole((~t.detach().isfinite()).sum())):
                raise FloatingPointError(
                    f"{what} of a parameter of shape {tuple(t.shape)} has {count} entries that are NaN or infinite; no "
                    f"parameter was changed ({why})"
                )


class _Part:
    """Parameters of one group that are treated as one tensor: a single one, or small neighbours end to end."""

    def __init__(self, group: dict, params: list[Tensor], states: list[dict]) -> None:
        self.group, self.params, self.quantize, self.levels = group, params, group["quantize"], group["levels"]
        self.grads, self.data, self.state = [p.grad for p in params], [p.data for p in params], states[0]
        self.apart = "latent" in states[0]
        self.latents = [s["latent"] for s in states] if self.apart else params
        self.half = self.apart and params[0].dtype in HALF
        self.fused = False  # plain SGD's step is taken here, piece by piece
        self.touched = False  # the base may have changed the parameters ...
        self.old: Tensor | None = None  # ... which held this
        self.new: Tensor | None = None  # latent weights after the step; before it, what the base takes for the gradient
        self.point: Tensor | None = None  # their forward point, where it cannot be found a second time

    def flat(self, tensors: list[Tensor]) -> Tensor:
        return tensors[0].detach() if len(tensors) == 1 else torch.cat([t.detach().reshape(-1) for t in tensors])

    def split(self, flat: Tensor) -> list[Tensor]:
        if len(self.params) == 1:
            return [flat]
        return [x.view(p.shape) for x, p in zip(flat.split([p.numel() for p in self.params]), self.params, strict=True)]


def _parts(optimizer: QuantizedOptimizer) -> list[_Part]:
    """The parameters that have a gradient, in their order."""
    found, last = [], None
    for group in optimizer.param_groups:
        joined = optimizer.method.in_pieces or not group["quantize"]
        for p in group["params"]:
            if p.grad is None:
                continue
            small = joined and p.numel() <= SMALL and type(p) in PLAIN and p.is_contiguous() and p.grad.is_contiguous()
            kind = (id(group), p.dtype, p.device) if small else None
            if kind is not None and kind == last:
                found[-1][1].append(p)
            else:
                found.append((group, [p]))
            last = kind
    return [_Part(g, params, [optimizer.state[p] if g["quantize"] else {} for p in params]) for g, params in found]


class Transaction:
    """Run it once. The optimizer has checked everything that it can refuse.

    >>> w = nn.Parameter(torch.tensor([0.25]))
    >>> optimizer = QuantizedOptimizer(torch.optim.SGD([w], lr=0.5), FullPrecision(Levels.binary()))
    >>> w.grad = torch.ones(1)
    >>> with torch.no_grad():
    ...     Transaction(optimizer).run()
    >>> w.tolist()
    [-0.25]
    """

    def __init__(self, optimizer: QuantizedOptimizer) -> None:
        self.optimizer, self.method, self.base = optimizer, optimizer.method, optimizer.base
        self.turns = type(self.method).descent is not Method.descent
        self.corrects = type(self.method).after_step is not Method.after_step
        self.parts, self.decays = _parts(optimizer), {}
        hooks = self.base._optimizer_step_pre_hooks or self.base._optimizer_step_post_hooks
        for b in self.parts:
            plain = type(self.base) is torch.optim.SGD and not b.group["momentum"] and not hooks
            b.fused = plain and b.quantize and type(b.params[0]) in PLAIN
            if b.quantize and not b.fused and _passes_decay(self.method, b.group):
                self.decays[id(b.group)] = b.group, b.group["weight_decay"]
            if b.quantize and not (self.method.in_pieces or self.method.keeps_state):
                b.state = {k: v if k == "latent" else copy.deepcopy(v) for k, v in b.state.items()}
        self.before = self.method.state_dict()
        self.decided = False
        # How many changes are made, the one that is being made, and the method as it was before that was found.
        self.log: tuple = (0, None, None)

    def run(self) -> None:
        try:
            self._compute()
            self.decided = True
            self._commit()
        except BaseException:
            _surely(self._commit if self.decided else self._undo)
            raise

    def _compute(self) -> None:
        sums: tuple[list[Tensor], list[Tensor]] = [], []  # of gradients, of weights after the step
        for b in self.parts:
            self._prepare(b, *sums)
        grads = [g for b in self.parts for g in b.grads]
        _raise_where_not_finite(grads, sums[0], "the gradient", "lower the learning rate, or look for a 0 / 0")
        for group, _ in self.decays.values():
            group["weight_decay"] = 0.0
        for b in self.parts:
            self._hand_over(b)
        self.base.step()
        for b in self.parts:
            if not b.fused:
                b.new = b.flat([p.data for p in b.params] if b.half else b.params)
                if b.quantize and self.corrects:
                    for (x,) in self._pieces(b.new):
                        x.copy_(self.method.after_step(x, b.levels, b.state, b.group["lr"]))
                sums[1].append(b.new.sum())
        self._restore_gradients()
        news = [x for b in self.parts for x in b.split(b.new)]
        _raise_where_not_finite(news, sums[1], "the new weight", "lower the learning rate, or raise the base's eps")
        for b in self.parts:
            if b.apart and not self.method.repeats:
                b.point = self.method.forward_point(b.new, b.levels, b.state)

    def _pieces(self, *tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
        return chunks(*tensors) if self.method.in_pieces else [tensors]

    def _prepare(self, b: _Part, gradients: list[Tensor], weights: list[Tensor]) -> None:
        """Find what the base takes for the gradient; of plain SGD take the step, while a piece is in the cache."""
        w, g = b.flat(b.latents), b.flat(b.grads)
        if not b.fused:
            gradients.append(g.sum())
            if not b.half and not (b.apart and self.method.repeats and not self.method.random):
                now = b.flat(b.params)
                b.old = now if len(b.params) > 1 else self._memory(b, "old", now).copy_(now)
        if not b.quantize or not (b.fused or self.turns or b.half):
            return
        b.new = self._memory(b, "new", w)
        decay, through = b.group.get("weight_decay", 0), _passes_decay(self.method, b.group)
        for x, y, out in self._pieces(g, w, b.new):
            x = x.to(y.dtype)
            if b.fused:
                gradients.append(x.sum())
            if through:
                x = x.add(y, alpha=decay)
            if self.turns:
                x = self.method.descent(x, y, b.levels, b.state, out)
            if not b.fused:
                out.copy_(x) if x is not out else None
                continue
            if decay and not through:
                x = x.add(y, alpha=decay)
            torch.add(y, x, alpha=-float(b.group["lr"]), out=out)
            if self.corrects:
                out.copy_(self.method.after_step(out, b.levels, b.state, b.group["lr"]))
            weights.append(out.sum())

    def _memory(self, b: _Part, name: str, like: Tensor) -> Tensor:
        kept = self.optimizer._kept.setdefault(b.params[0], {})  # fresh memory costs more than the arithmetic
        if name not in kept or kept[name].shape != like.shape or kept[name].dtype != like.dtype:
            kept[name] = torch.empty_like(like)
        return kept[name]

    def _hand_over(self, b: _Part) -> None:
        """Latent weights into the parameters, directions into their gradients; what is fused the base does not see."""
        if b.half and not b.fused:  # the base steps in float32
            for p, x in zip(b.params, b.split(b.flat(b.latents).clone()), strict=True):
                p.grad, p.data = None, x
        elif not b.fused:
            b.touched = True
            if b.apart:
                _assign(b.params, b.latents)
        for p, x in zip(b.params, b.grads if b.new is None else b.split(b.new), strict=True):
            p.grad = None if b.fused else x

    def _restore_gradients(self) -> None:
        for b in self.parts:
            for p, grad, data in zip(b.params, b.grads, b.data, strict=True):
                if p.dtype != data.dtype:
                    p.grad, p.data = None, data
                if p.grad is not grad:
                    p.grad = grad
        for group, value in self.decays.values():
            group["weight_decay"] = value

    def _changes(self) -> Iterator[tuple[list[Tensor], Callable[[], list[Tensor]]]]:
        """What the commit copies where: multipliers, latent weights, forward points."""
        for b in self.parts:
            if b.quantize:
                old = b.latents[0] if b.apart or b.fused else b.old
                for target, value in self.method.late_changes(old, b.levels, b.state):
                    yield [target], lambda value=value: [value]
        for b in self.parts:
            if b.apart or b.fused or (len(b.params) > 1 and b.quantize and self.corrects):
                yield b.latents, lambda b=b: b.split(b.new)
        for b in self.parts:
            if b.apart:
                yield from self._forward(b)

    def _forward(self, b: _Part) -> Iterator[tuple[list[Tensor], Callable[[], list[Tensor]]]]:
        if b.point is not None:
            yield b.params, lambda: b.split(b.point)
        elif len(b.params) > 1:
            yield b.params, lambda: b.split(self.method.forward_point(b.flat(b.latents), b.levels, b.state))
        else:
            for x, latent in self._pieces(b.params[0].detach(), b.latents[0]):
                yield [x], lambda y=latent: [self.method.forward_point(y, b.levels, b.state)]

    def _commit(self) -> None:
        done, change, before = self.log
        if change is not None:  # interrupted while it was made
            _assign(*change)
            done += 1
        elif before is not None:  # or while its random numbers were drawn
            self.method.load_state_dict(before)
        for i, (targets, values) in enumerate(self._changes()):
            if i >= done:
                self.log = (i, None, self.method.state_dict() if self.method.random else None)
                change = targets, values()
                self.log = (i, change, None)
                _assign(*change)
                self.log = (i + 1, None, None)
        for b in self.parts:
            own = self.optimizer.state[b.params[0]] if b.quantize else b.state
            if b.state is not own:
                own.update(b.state)
        self._note()

    def _undo(self) -> None:
        self._restore_gradients()
        for b in self.parts:
            if b.touched and b.old is not None:
                _assign(b.params, b.split(b.old))
            elif b.touched:
                for targets, values in self._forward(b):
                    _assign(targets, values())
        self.method.load_state_dict(self.before)
        self._note()

    def _note(self) -> None:
        for b in self.parts:
            for p in b.params if b.apart else ():
                self.optimizer._seen[p] = (p._version, b.levels)


def _assign(targets: list[Tensor], values: list[Tensor]) -> None:
    torch._foreach_copy_(targets, values) if len(targets) > 1 else targets[0].copy_(values[0])
