"""One step of `QuantizedOptimizer`: computed first, then committed, so that whatever is raised in it leaves nothing half done.

Until the commit starts, all that it needs to go back is kept: of weights that the base steps in place a copy; of weights
whose forward point lies apart the latent weights themselves, which the base does not see. The commit is a list of copies
that can be gone through a second time: after an exception in it, it is finished.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .methods.base import Method, chunks

if TYPE_CHECKING:
    from .optimizer import QuantizedOptimizer

SMALL = 2**12  # weights: up to here a tensor's overhead costs more than its arithmetic, and neighbours are joined
HALF = (torch.float16, torch.bfloat16)


def pieces(method: Method | None, *tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Views of the tensors in cache-sized pieces where the method allows it (None: it does)."""
    return chunks(*tensors) if method is None or method.in_pieces else [tensors]


def describe(p: Tensor, groups: list[dict]) -> str:
    """A parameter in words, with its name where the groups know it."""
    for k, group in enumerate(groups):
        for i, q in enumerate(group["params"]):
            if q is p:
                names = group.get("param_names") or group.get("names")
                which = repr(names[i]) if names else f"number {i} of group {k}"
                return f"the parameter {which} of shape {tuple(p.shape)}"
    return f"a parameter of shape {tuple(p.shape)}"


def whole(t: Tensor) -> Tensor:
    """A tensor whose parts lie on several processes (DTensor), on each of them."""
    return t.full_tensor() if hasattr(t, "full_tensor") else t


class Batch:
    """Parameters of one group that are treated as one tensor: a single one, or neighbours that are small, end to end."""

    def __init__(self, group: dict, params: list[Tensor], states: list[dict]) -> None:
        self.group, self.params, self.states = group, params, states
        self.levels, self.state = group["levels"], states[0]
        self.grads = [p.grad for p in params]
        self.data = [p.data for p in params]
        self.latents = [s["latent"] for s in states] if "latent" in states[0] else params
        self.apart = self.latents is not params
        self.half = params[0].dtype in HALF
        self.old: Tensor | None = None  # what p held, where it cannot be computed again

    def flat(self, tensors: list[Tensor]) -> Tensor:
        return tensors[0].detach() if len(tensors) == 1 else torch.cat([t.detach().reshape(-1) for t in tensors])

    def split(self, flat: Tensor) -> list[Tensor]:
        if len(self.params) == 1:
            return [flat]
        return [x.view(p.shape) for x, p in zip(flat.split([p.numel() for p in self.params]), self.params, strict=True)]


def batches(groups: list[dict], state: dict, joined: bool) -> list[Batch]:
    """The quantised parameters that have a gradient, in their order. joined: small neighbours as one."""
    found, last = [], None
    for group in groups:
        for p in group["params"] if group["quantize"] else ():
            if p.grad is None:
                continue
            small = joined and p.numel() <= SMALL and p.is_contiguous() and p.grad.is_contiguous() and type(p) in PLAIN
            kind = (id(group), p.dtype, p.device) if small else None
            if kind is not None and kind == last:
                found[-1][1].append(p)
            else:
                found.append((group, [p]))
            last = kind
    return [Batch(group, params, [state[p] for p in params]) for group, params in found]


PLAIN = (torch.nn.Parameter, Tensor)


class Transaction:
    """Run it once. `optimizer` has checked everything that it can refuse."""

    def __init__(self, optimizer: QuantizedOptimizer, work: list[Batch]) -> None:
        self.optimizer, self.method, self.work = optimizer, optimizer.method, work
        self.decay = [(g, g["weight_decay"]) for g in {id(b.group): b.group for b in work}.values() if self._through(g)]
        self.committing = False
        self.log: tuple[int, tuple | None] = (0, None)  # how many changes are made; the one that is being made

    def _through(self, group: dict) -> bool:
        """Whether a group's weight decay has to pass through the method."""
        return bool(group.get("weight_decay")) and self.method.turns

    def run(self) -> None:
        try:
            self._compute()
            self.committing = True
            self._commit()
        except BaseException:
            if self.committing:
                self._commit()
            else:
                self._undo()
            raise

    def _compute(self) -> None:
        method, decay = self.method, {id(group): value for group, value in self.decay}
        for b in self.work:
            w, g = b.flat(b.latents), b.flat(b.grads)
            kept = self.optimizer._kept.setdefault(b.params[0], {})
            if not b.apart or method.random:
                now = w if not b.apart else b.flat(b.params)
                b.old = now if len(b.params) > 1 else _copy(kept, "old", now)
            if b.half:
                g = g.float()
            if self.method.turns:
                out = _memory(kept, "descent", g)
                for x, y, o in pieces(self.method, g, w, out):
                    if value := decay.get(id(b.group)):
                        x = torch.add(x, y, alpha=value, out=o)
                    found = method.descent(x, y, b.levels, b.state, o)
                    if found is not o:
                        o.copy_(found)
                g = out
            if b.half:  # the base steps in float32
                b.new = w.clone()
                for p, x in zip(b.params, b.split(b.new), strict=True):
                    p.grad = None
                    p.data = x
            elif b.apart:
                _assign([p.detach() for p in b.params], b.latents)
            if self.method.turns or b.half:
                for p, x in zip(b.params, b.split(g), strict=True):
                    p.grad = x
        for group, _ in self.decay:
            group["weight_decay"] = 0.0
        self.optimizer.base.step()
        for b in self.work:
            new = b.new if b.half else b.flat(b.params)
            if type(method).after_step is not Method.after_step:
                for (x,) in pieces(self.method, new):
                    x.copy_(method.after_step(x, b.levels, b.state, b.group["lr"]))
                if len(b.params) > 1 and not b.half:
                    _assign([p.detach() for p in b.params], b.split(new))
        self._check_finite()
        self._restore_gradients()

    def _check_finite(self) -> None:
        sums = [p.detach().sum() for b in self.work for p in b.params]
        if sums and not whole(torch.stack([whole(s).double() for s in sums]).sum()).isfinite():
            for b in self.work:
                for p in b.params:
                    if count := int(whole((~p.detach().isfinite()).sum())):
                        raise FloatingPointError(
                            f"the step would make {count} weights of a parameter of shape {tuple(p.shape)} NaN or infinite; no "
                            "weight was changed (a lower learning rate, or a larger eps of the base optimizer?)"
                        )

    def _restore_gradients(self) -> None:
        for b in self.work:
            for p, grad, data in zip(b.params, b.grads, b.data, strict=True):
                if b.half and p.data is not data and p.dtype != data.dtype:
                    p.grad = None
                    p.data = data
                if p.grad is not grad:
                    p.grad = grad
        for group, value in self.decay:
            group["weight_decay"] = value

    def _changes(self) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """What the commit copies where: multipliers, latent weights, forward points."""
        for b in self.work:
            yield from self.method.late_changes(b.old if b.old is not None else b.latents[0], b.levels, b.state)
        for b in self.work:
            if b.apart:
                yield b.latents, b.split(b.new) if b.half else [p.detach() for p in b.params]
        for b in self.work:
            if b.apart:
                yield from self.forward(b)

    def forward(self, b: Batch) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """The forward points of a batch, for its parameters."""
        if len(b.params) > 1:
            yield (
                [p.detach() for p in b.params],
                b.split(self.method.forward_point(b.flat(b.latents), b.levels, b.state)),
            )
        else:
            for x, latent in pieces(self.method, b.params[0].detach(), b.latents[0]):
                yield [x], [self.method.forward_point(latent, b.levels, b.state)]

    def _commit(self) -> None:
        done, change = self.log
        if change is not None:  # interrupted while it was made
            _assign(*change)
            done += 1
        for i, change in enumerate(self._changes()):
            if i >= done:
                self.log = (i, change)
                _assign(*change)
                self.log = (i + 1, None)
        self._note()

    def _undo(self) -> None:
        self._restore_gradients()
        for b in self.work:
            params = [p.detach() for p in b.params]
            if b.old is not None:
                _assign(params, b.split(b.old))
            elif b.apart and not self.method.random:
                for change in self.forward(b):
                    _assign(*change)
        self._note()

    def _note(self) -> None:
        for b in self.work:
            for p in b.params:
                self.optimizer._seen[p] = (p._version, b.levels)


def _memory(kept: dict, name: str, like: Tensor) -> Tensor:
    if name not in kept or kept[name].shape != like.shape or kept[name].dtype != like.dtype:
        kept[name] = torch.empty_like(like)
    return kept[name]


def _copy(kept: dict, name: str, t: Tensor) -> Tensor:
    return _memory(kept, name, t).copy_(t)


def _assign(targets: list[Tensor], values: list[Tensor]) -> None:
    if len(targets) == 1:
        targets[0].copy_(values[0])
    else:
        torch._foreach_copy_(targets, values)
