"""`QuantizedOptimizer`: any torch optimizer plus one method, around an ordinary training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .levels import Levels
from .methods import Method
from .methods.base import chunks
from .progress import Progress


def whole(t: Tensor) -> Tensor:
    """A tensor whose parts lie on several processes (DTensor), on each of them.

    >>> whole(torch.ones(2)).tolist()  # an ordinary tensor is
    [1.0, 1.0]
    """
    return t.full_tensor() if hasattr(t, "full_tensor") else t


class QuantizedOptimizer(torch.optim.Optimizer):
    """Train the parameters of `base` so that they can be rounded to the levels of `method`.

    Parameter groups of `base` may carry `quantize` (default True; False for biases, normalisation, a last layer) and
    `levels` (default: the method's). The parameter groups are shared with `base`, so learning-rate schedulers work on
    either. Between steps a parameter holds the point at which the method takes the gradient: the latent weight itself,
    or its rounding (BinaryConnect, straight-through); `latent()` and `quantized()` show the other views.

    step() raises FloatingPointError when a gradient is not finite and RuntimeError inside `quantized()` or `latent()`,
    before anything is changed; also where a parameter was overwritten by somebody else (except through `p.data`, which
    torch does not count as a change: it is lost at the next step). The constructor, `add_param_group` and step() raise
    ValueError where the method cannot work with a group's levels or learning rate.

    >>> w = nn.Parameter(torch.tensor([0.25, -0.5]))
    >>> optimizer = QuantizedOptimizer(torch.optim.SGD([w], lr=0.5), StraightThrough(Levels.binary()))
    >>> (w - 0.5).square().sum().backward()  # at the signs
    >>> optimizer.step()
    >>> with optimizer.latent():
    ...     print(w.tolist())
    [-0.25, 1.0]
    >>> w.tolist()
    [-1.0, 1.0]
    """

    def __init__(self, base: torch.optim.Optimizer, method: Method) -> None:
        if isinstance(base, QuantizedOptimizer) or not isinstance(base, torch.optim.Optimizer):
            raise TypeError(f"base must be an ordinary torch optimizer, got {type(base).__name__}")
        if not isinstance(method, Method):
            raise TypeError(f"method must be a Method object, e.g. BinaryConnect(levels), got {method!r}")
        if isinstance(base, torch.optim.LBFGS):
            raise TypeError(
                "LBFGS evaluates its closure at points of its own choice, past the method; use another base"
            )
        self.base, self.method = base, method
        self._view: str | None = None
        self._descents: dict[Tensor, Tensor] = {}  # kept, because fresh memory costs more than the arithmetic
        self._linked = False
        super().__init__(base.param_groups, {})
        self.param_groups, self.defaults = base.param_groups, base.defaults
        self._linked = True
        for group in self.param_groups:
            self._check(group)
        for group in self.param_groups:
            self._adopt(group)

    def add_param_group(self, param_group: dict) -> None:
        """As in torch; the group is added to the base optimizer, too."""
        if not self._linked:  # torch's constructor collects the groups of `base` through this method
            return super().add_param_group(param_group)
        self.base.add_param_group(param_group)
        try:
            self._check(self.param_groups[-1])
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise
        self._adopt(self.param_groups[-1])

    def _check(self, group: dict) -> None:
        """Complete a parameter group's settings; raise where the method cannot work with them."""
        group.setdefault("quantize", True)
        if not isinstance(group.setdefault("levels", self.method.levels), Levels):
            raise TypeError(f"a parameter group's levels must be a Levels object, got {group['levels']!r}")
        if group.get("maximize"):
            raise ValueError("maximize=True: the methods minimise; negate the loss instead")
        if group["quantize"]:
            self.method.check(group["levels"], group["lr"])

    @torch.no_grad()
    def _adopt(self, group: dict) -> None:
        if group["quantize"]:
            for p in group["params"]:
                if not self.method.forward_is_latent:
                    self.state[p]["latent"] = p.detach().clone()
                    self._round(p, group)

    def _parts(self, *tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
        return chunks(*tensors) if self.method.elementwise else [tensors]

    def _round(self, p: Tensor, group: dict) -> None:
        """Put the method's forward point of the latent weights into p."""
        state = self.state[p]
        for x, latent in self._parts(p.detach(), state["latent"]):
            x.copy_(self.method.forward_point(latent, group["levels"], state))
        state["version"] = p._version

    def _descent(self, p: Tensor, latent: Tensor, group: dict) -> Tensor:
        """What the base optimizer takes for the gradient of p."""
        if type(self.method).descent is Method.descent:
            return p.grad
        if p not in self._descents:
            self._descents[p] = torch.empty_like(p.grad)
        for grad, w, out in self._parts(p.grad, latent.detach(), self._descents[p]):
            found = self.method.descent(grad, w, group["levels"], self.state[p], out)
            if found is not out:
                out.copy_(found)
        return self._descents[p]

    def _correct(self, p: Tensor, group: dict) -> None:
        """What the method does after the base optimizer's step from the latent weights, which is in p."""
        if not self.method.forward_is_latent:
            both = self._parts(p.detach(), self.state[p]["latent"])
        elif type(self.method).after_step is not Method.after_step:
            both = ((x, x) for (x,) in self._parts(p.detach()))
        else:
            return
        for x, latent in both:
            latent.copy_(self.method.after_step(x, group["levels"], self.state[p], group["lr"]))
        if not self.method.forward_is_latent:
            self._round(p, group)

    def _latent(self, p: Tensor) -> Tensor:
        """The latent weights of p; raises RuntimeError where p was overwritten by somebody else since the last step."""
        if self.method.forward_is_latent:
            return p
        state = self.state[p]
        if state["version"] != p._version:
            raise RuntimeError(
                f"a parameter of shape {tuple(p.shape)} was changed outside the optimizer, so its latent weights no longer "
                "belong to it; load weights before the QuantizedOptimizer is made, or load its own state_dict"
            )
        return state["latent"]

    @staticmethod
    def _raise_where_not_finite(gradients: list[Tensor]) -> None:
        for g in gradients:
            if count := int(whole((~g.isfinite()).sum())):
                raise FloatingPointError(
                    f"the gradient of a parameter of shape {tuple(g.shape)} has {count} entries that are NaN or infinite; "
                    "no parameter was changed (lower the learning rate, or look for a division by zero)"
                )

    def _quantized_parameters(self) -> Iterator[tuple[dict, Tensor]]:
        for group in self.param_groups:
            if group["quantize"]:
                for p in group["params"]:
                    yield group, p

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One training step; returns the closure's loss where a closure is given."""
        if self._view is not None:
            raise RuntimeError(
                f"step() inside `with optimizer.{self._view}():` would train the {self._view} weights; leave the block first"
            )
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        parameters = [(group, p) for group, p in self._quantized_parameters() if p.grad is not None]
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        # A finite sum has finite terms, and adding up is many times faster than looking; only a sum can overflow, too.
        if gradients and not whole(torch.stack([g.sum() for g in gradients])).isfinite().all():
            self._raise_where_not_finite(gradients)
        for group in self.param_groups:
            if group["quantize"]:
                self.method.check(group["levels"], group["lr"])
        latents = [self._latent(p) for _, p in parameters]
        originals = [p.grad for _, p in parameters]
        for (group, p), latent in zip(parameters, latents, strict=True):
            p.grad = self._descent(p, latent, group)
            if latent is not p:
                p.copy_(latent)
        try:
            self.base.step()
        finally:  # what a caller logs afterwards is the loss's gradient
            for (_, p), original in zip(parameters, originals, strict=True):
                p.grad = original
        for group, p in parameters:
            self._correct(p, group)
        return loss

    @contextmanager
    def _show(self, view: str, weights: Callable[[Tensor, Levels], Tensor]) -> Iterator[None]:
        if self._view is not None:
            raise RuntimeError(f"already inside `with optimizer.{self._view}():`")
        # _latent may raise, so all of them come before the first change
        latents = [(group["levels"], p, self._latent(p)) for group, p in self._quantized_parameters()]
        held = [p.detach().clone() for _, p, _ in latents]
        with torch.no_grad():
            for levels, p, latent in latents:
                for x, w in chunks(p.detach(), latent.detach()):
                    x.copy_(weights(w, levels))
        self._view = view
        try:
            yield
            for (levels, p, latent), value in zip(latents, held, strict=True):  # versions would miss `p.data.copy_`
                for x, w in chunks(p.detach(), value if latent is p else latent):
                    if not torch.equal(x.nan_to_num(), weights(w, levels).nan_to_num()):
                        raise RuntimeError(
                            f"a parameter of shape {tuple(p.shape)} was written to inside `with optimizer.{view}():`; what was "
                            "written is lost. `finish` returns a copy that may be changed"
                        )
        finally:
            self._view = None
            with torch.no_grad():
                for (_, p, _), value in zip(latents, held, strict=True):
                    p.copy_(value)
                    if not self.method.forward_is_latent:
                        self.state[p]["version"] = p._version

    def quantized(self):
        """Context in which every quantised parameter lies exactly on its levels (the latent weights, rounded).

        A quick look: what is kept of it, a state_dict for example, changes back at its end; `finish` returns a copy. Here and
        in `latent()` the weights may only be read: RuntimeError at the end where they were not.
        """
        return self._show("quantized", lambda latent, levels: levels.nearest(latent))

    def latent(self):
        """Context in which every quantised parameter holds its latent weights."""
        return self._show("latent", lambda latent, levels: latent)

    def progress(self, most: int = 2**15) -> Progress:
        """How far the latent weights have come. most: a larger group is judged by that many of its weights, the same at each
        call, which costs about as much as a step of so few. RuntimeError inside `quantized()` and `latent()`."""
        if self._view is not None:
            raise RuntimeError(f"progress() inside `with optimizer.{self._view}():`: leave the block first")
        return Progress.of(self, most)

    def state_dict(self) -> dict:
        """Everything a resumed run needs: the base optimizer's state, latent weights, dual variables, annealing."""
        index = {p: i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}
        base = self.base.state_dict()
        for group in base["param_groups"]:
            group["levels"] = group["levels"].values  # plain numbers: torch.load reads them without custom classes
        return {
            "base": base,
            "weights": {
                index[p]: {k: v for k, v in self.state[p].items() if k != "version"}
                for _, p in self._quantized_parameters()
            },
            "kind": type(self.method).__name__,
            "method": self.method.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict) -> None:
        """Restore `state_dict`. Load the model's own state_dict first: it carries the weights of the other parameters."""
        if self._view is not None:
            raise RuntimeError(f"load_state_dict() inside `with optimizer.{self._view}():`: leave the block first")
        kind = type(self.method).__name__
        if state_dict["kind"] != kind:
            raise ValueError(f"this state belongs to the method {state_dict['kind']}, the optimizer runs {kind}")
        parameters = [p for group in self.param_groups for p in group["params"]]
        groups = [{**group, "levels": Levels(group["levels"])} for group in state_dict["base"]["param_groups"]]
        self.base.load_state_dict({**state_dict["base"], "param_groups": groups})
        self.param_groups = self.base.param_groups
        self.method.load_state_dict(state_dict["method"])
        for i, saved in state_dict["weights"].items():
            p = parameters[i]
            self.state[p] = {k: v.to(p.device, copy=True) if isinstance(v, Tensor) else v for k, v in saved.items()}
            if not self.method.forward_is_latent:
                self.state[p]["version"] = p._version
