"""`QuantizedOptimizer`: any torch optimizer plus one method, around an ordinary training loop."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from . import checkpoint
from .levels import Levels
from .methods import Method
from .transaction import HALF, Transaction, batches, describe, pieces, whole

#: Bases whose `weight_decay` adds to the gradient. Any other may decay past the method.
COUPLED = ("SGD", "Adam", "NAdam", "RAdam", "Adagrad", "Adadelta", "Adamax", "RMSprop", "ASGD")
PATIENCE = 1000  # steps without anneal() after which a method that has something to anneal says so


class QuantizedOptimizer(torch.optim.Optimizer):
    """Train the parameters of `base` so that they can be rounded to the levels of `method`.

    Parameter groups of `base` may carry `quantize` (default True; False for biases, normalisation, a last layer) and
    `levels` (default: the method's). Both may change between steps. The groups are shared with `base`, so learning-rate
    schedulers work on either. Between steps a parameter holds the point at which the method takes the gradient: the latent
    weight itself, or its rounding (BinaryConnect, straight-through); `latent()` and `quantized()` show the other views.
    Latent weights of half-precision parameters are float32. A coupled weight_decay of the base passes through the method.

    step() is a transaction: whatever is raised in it (Ctrl-C, the base, no memory), weights, latent weights, multipliers and
    gradients are as before the step or as after it, and training can go on; only what the base keeps for itself (momentum)
    may have advanced for some parameters. It raises FloatingPointError where a gradient or a new weight is not finite,
    RuntimeError inside `quantized()` or `latent()` and where a parameter was overwritten by somebody else (`adopt`
    accepts that; a change through `p.data`, which torch does not count, is lost). The constructor, `add_param_group` and
    step() raise TypeError or ValueError where the method cannot work with a group, before anything changes.
    """

    def __init__(self, base: torch.optim.Optimizer, method: Method) -> None:
        if isinstance(base, QuantizedOptimizer) or not isinstance(base, torch.optim.Optimizer):
            raise TypeError(f"base must be an ordinary torch optimizer, got {type(base).__name__}")
        _check_method(method)
        if isinstance(base, torch.optim.LBFGS):
            raise TypeError(
                "LBFGS evaluates its closure at points of its own choice, past the method; use another base"
            )
        self.base, self.method = base, method
        self._start()
        super().__init__(base.param_groups, {})
        self.param_groups, self.defaults = base.param_groups, base.defaults
        self._linked = True
        for group in self.param_groups:
            self._check(group)
        self._adopt_new()
        checkpoint.write_plain_numbers(base)

    def _start(self) -> None:
        self._view: str | None = None
        self._linked = False
        self._steps = 0
        self._seen: dict[
            Tensor, tuple[int, Levels]
        ] = {}  # quantised parameters: version and levels after the last step
        self._kept: dict[Tensor, dict[str, Tensor]] = {}  # fresh memory costs more than the arithmetic
        self._before: dict[Tensor, Tensor] = {}  # the levels' numbers at the last `progress`

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
        self._adopt_new()

    def _check(self, group: dict) -> None:
        """Complete a parameter group's settings; raise where the method cannot work with them."""
        quantize = group.setdefault("quantize", True)
        levels = group.setdefault("levels", self.method.levels)
        if not isinstance(quantize, bool):
            raise TypeError(f"a parameter group's quantize must be True or False, got {quantize!r}")
        if not isinstance(levels, Levels):
            raise TypeError(f"a parameter group's levels must be a Levels object, got {levels!r}")
        lr = float(group["lr"]) if "lr" in group else 0.0
        if not 0 <= lr < math.inf:
            raise ValueError(f"lr={lr}: a learning rate is finite and not negative")
        if group.get("maximize"):
            raise ValueError("maximize=True: the methods minimise; negate the loss instead")
        if not quantize:
            return
        for p in group["params"]:
            if p not in self._seen:
                _check_parameter(p, levels)
        self.method.check(levels, lr)
        if group.get("weight_decay") and self.method.turns:
            name, apart = type(self.base).__name__, group.get("decoupled_weight_decay")
            if name not in COUPLED or type(self.base).__module__.partition(".")[0] != "torch" or apart:
                raise ValueError(
                    f"weight_decay={group['weight_decay']} of {name} moves weights past the method, out of its feasible set; "
                    f"set it to 0 in quantised groups, or use a base whose weight_decay adds to the gradient: {', '.join(COUPLED)}"
                )

    # Latent weights

    @torch.no_grad()
    def _adopt_new(self) -> None:
        """Follow what changed in the groups: parameters that are new, or whose `quantize` or `levels` are others."""
        for group in self.param_groups:
            levels = group["levels"]
            for p in group["params"]:
                seen = self._seen.get(p)
                if not group["quantize"]:
                    if seen is not None:  # switched off: the latent weights are what is trained on
                        self._let_go(p)
                elif seen is None or (self._apart(p) and "latent" not in self.state[p]):
                    self._take(p, p.detach(), levels)
                elif seen[1] != levels:
                    self._take(p, self._latent(p).detach(), levels)

    def _apart(self, p: Tensor) -> bool:
        """Whether the latent weights are another tensor than the parameter."""
        return not self.method.forward_is_latent or p.dtype in HALF

    def _take(self, p: Tensor, latent: Tensor, levels: Levels) -> None:
        """Make `latent` the latent weights of p, without multipliers or anything else of the method."""
        self.state.pop(p, None)
        self._before.pop(p, None)
        if self._apart(p):
            state = self.state[p]
            state["latent"] = latent.to(torch.float32 if p.dtype in HALF else p.dtype, copy=True)
            for x, y in pieces(self.method, p.detach(), state["latent"]):
                x.copy_(self.method.forward_point(y, levels, state))
        elif latent is not p:
            p.copy_(latent)
        self._seen[p] = (p._version, levels)

    def _let_go(self, p: Tensor) -> None:
        p.copy_(self._latent(p).detach())
        for store in (self._seen, self.state, self._kept, self._before):
            store.pop(p, None)

    def _latent(self, p: Tensor) -> Tensor:
        """The latent weights of p; raises RuntimeError where p was overwritten by somebody else since the last step."""
        if not self._apart(p):
            return p
        if self._changed(p):
            raise RuntimeError(
                f"{describe(p, self.param_groups)} was changed outside the optimizer, so its latent weights no longer "
                "belong to it; optimizer.adopt() goes on from the parameters as they are, load_state_dict from a checkpoint"
            )
        return self.state[p]["latent"]

    def _changed(self, p: Tensor) -> bool:
        return self._apart(p) and self._seen[p][0] != p._version

    def _quantized_parameters(self) -> Iterator[tuple[dict, Tensor]]:
        return ((group, p) for group in self.param_groups if group["quantize"] for p in group["params"])

    @torch.no_grad()
    def adopt(self) -> None:
        """Go on from the parameters as they are: latent weights become what the parameters hold, and the method's own state
        (multipliers) starts anew. For weights that were loaded, averaged or edited after the optimizer was made."""
        self._refuse_in_view("adopt()")
        for group, p in self._quantized_parameters():
            _check_parameter(p, group["levels"])
        for group, p in self._quantized_parameters():
            self._take(p, p.detach(), group["levels"])

    @torch.no_grad()
    def switch(self, method: Method) -> None:
        """Go on with another method from the latent weights as they are. Groups that have the old method's levels get the
        new one's. Raises as the constructor, before anything changes."""
        self._refuse_in_view("switch()")
        _check_method(method)
        old, latents = self.method, [(group, p, self._latent(p).detach()) for group, p in self._quantized_parameters()]
        own = [group for group in self.param_groups if group["levels"] == old.levels]
        try:
            self.method = method
            for group in own:
                group["levels"] = method.levels
            for group in self.param_groups:
                self._check(group)
        except (TypeError, ValueError):
            self.method = old
            for group in own:
                group["levels"] = old.levels
            raise
        for group, p, latent in latents:
            self._take(p, latent.clone(), group["levels"])

    # Steps

    @torch._disable_dynamo  # a compiled step would run the method's kernels with other rounding, or none at all
    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One training step; returns the closure's loss where a closure is given."""
        self._refuse_in_view("step()")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if any(g.is_sparse for g in gradients):
            raise RuntimeError("sparse gradients: the methods need dense ones; use Embedding(..., sparse=False)")
        # A finite sum has finite terms, and adding up is many times faster than looking; only a sum can overflow, too.
        if gradients and not whole(torch.stack([g.sum() for g in gradients])).isfinite().all():
            _raise_where_not_finite(gradients)
        for group in self.param_groups:
            self._check(group)
        self._adopt_new()
        for _, p in self._quantized_parameters():
            if p.grad is not None:
                self._latent(p)
        Transaction(self, batches(self.param_groups, self.state, self.method.in_pieces)).run()
        self._steps += 1
        if self._steps == PATIENCE and self.method.t == 0 and self.method.anneals:
            warnings.warn(
                f"{type(self.method).__name__}: {PATIENCE} steps without a call of optimizer.method.anneal(), which its schedule "
                "needs, once per epoch or so",
                stacklevel=3,
            )
        return loss

    # Views

    def _refuse_in_view(self, what: str) -> None:
        if self._view is not None:
            raise RuntimeError(
                f"{what} inside `with optimizer.{self._view}():` would act on the {self._view} weights; leave the block first"
            )

    @contextmanager
    def _show(self, view: str, weights: Callable[[Tensor, dict], Iterable[Tensor]]) -> Iterator[None]:
        self._refuse_in_view(f"{view}()")
        with torch.no_grad():
            self._adopt_new()
        shown = [(group, p) for group, p in self._quantized_parameters()]
        latents = [p if view == "quantized" and self._changed(p) else self._latent(p) for _, p in shown]
        held, inside, same = [p.detach().clone() for _, p in shown], [], [not self._changed(p) for _, p in shown]
        self._view = view
        try:
            with torch.no_grad():
                for (group, p), latent in zip(shown, latents, strict=True):
                    weights(p.detach(), latent.detach(), group["levels"])
            inside = [p._version for _, p in shown]
            yield
        finally:
            overwritten = [p for (_, p), version in zip(shown, inside, strict=False) if p._version != version]
            with torch.no_grad():
                for (group, p), value, known in zip(shown, held, same, strict=True):
                    p.copy_(value)
                    if known:
                        self._seen[p] = (p._version, group["levels"])
            self._view = None
        if overwritten:
            raise RuntimeError(
                f"{describe(overwritten[0], self.param_groups)} was written to inside `with optimizer.{view}():`; the weights are "
                "again those of before the block. Load weights outside of it, then call optimizer.adopt()"
            )

    def quantized(self):
        """Context in which every quantised parameter lies exactly on its levels (the latent weights, rounded).

        A quick look: what is kept of the parameters themselves turns back afterwards; `finish` makes copies that stay.
        """

        def show(p: Tensor, latent: Tensor, levels: Levels) -> None:
            for x, y in pieces(None, p, latent):
                x.copy_(levels.nearest(y))

        return self._show("quantized", show)

    def latent(self):
        """Context in which every quantised parameter holds its latent weights (rounded to its own precision)."""
        return self._show("latent", lambda p, latent, levels: p.copy_(latent))

    # Copies

    def state_dict(self) -> dict:
        """Everything a resumed run needs, in torch's own shape: `state` by the parameters' numbers (the base's, and the
        latent weights and multipliers), `param_groups` of plain numbers, which also carry the method's own state."""
        return checkpoint.state_dict(self)

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore `state_dict`, or refuse it with ValueError before anything changes. Load the model's own state_dict
        first: it carries the weights of the other parameters. Files of earlier versions are read, too."""
        self._refuse_in_view("load_state_dict()")
        checkpoint.load_state_dict(self, state_dict)

    def __getstate__(self) -> dict:
        self._refuse_in_view("a copy")
        return self.__dict__ | {"_kept": {}, "_seen": {p: levels for p, (_, levels) in self._seen.items()}}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._seen = {p: (p._version, levels) for p, levels in self._seen.items()}
        checkpoint.write_plain_numbers(self.base)


def _check_method(method: Method) -> None:
    if not isinstance(method, Method):
        raise TypeError(f"method must be a Method object, e.g. BinaryConnect(levels), got {method!r}")


def _check_parameter(p: Tensor, levels: Levels) -> None:
    """Raise where weights cannot be put on the levels."""
    what = f"a parameter of shape {tuple(p.shape)}"
    if p.is_meta or p.is_sparse or not p.is_floating_point():
        kind = "on the meta device" if p.is_meta else "sparse" if p.is_sparse else str(p.dtype)
        raise TypeError(f"{what} is {kind}; quantised weights are dense real numbers on a device with memory")
    values = levels.tensor(p)
    if not (values.diff() > 0).all() or not values.isfinite().all():
        raise ValueError(f"the levels {levels.values} cannot be told apart in {p.dtype}, the precision of {what}")
    if not whole(p.detach().sum()).isfinite() and not whole(p.detach().isfinite().all()):
        raise ValueError(f"{what} has entries that are NaN or infinite")


def _raise_where_not_finite(gradients: list[Tensor]) -> None:
    for g in gradients:
        if count := int(whole((~g.isfinite()).sum())):
            raise FloatingPointError(
                f"the gradient of a parameter of shape {tuple(g.shape)} has {count} entries that are NaN or infinite; "
                "no parameter was changed (lower the learning rate, or look for a division by zero)"
            )
