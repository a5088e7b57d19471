"""`QuantizedOptimizer`: any torch optimizer plus one method, around an ordinary training loop."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .arguments import _instance, _real_weights, _warn, number
from .checkpoint import _Checkpoints, _numbers, _write_plain_numbers
from .levels import Levels
from .methods import Method
from .methods.base import _chunks
from .progress import Progress
from .scales import _made_from
from .schedules import _tried
from .transaction import _coarse, _passes_decay, _surely, _Transaction, _whole

#: Bases of torch.optim whose `weight_decay` adds to the gradient. Any other may decay past the method.
COUPLED = ("SGD", "Adam", "NAdam", "RAdam", "Adagrad", "Adadelta", "Adamax", "RMSprop", "ASGD", "Rprop")
PATIENCE = 1000  # steps without anneal() after which a method that has something to anneal says so


class QuantizedOptimizer(_Checkpoints):
    """Train the parameters of `base` so that they can be rounded to the levels of `method`.
    Parameter groups of `base` may carry `quantize` (default True; False for biases, normalisation, a last layer) and
    `levels` (default: the method's); both may change between steps. The groups are shared with `base`, so learning-rate
    schedulers work on either. Between steps a parameter holds the point at which the method takes the gradient: the latent
    weight (kept in float32 for half precision), or its rounding. Weight decay passes through a method with a constraint.
    step() is a transaction: whatever is raised in it (Ctrl-C, the base, no memory), all is as before the step or as after it,
    and training can go on; only the base's own state (momentum) may have advanced. It raises FloatingPointError where a gradient
    or a new weight is not finite, RuntimeError inside a view and where a parameter was overwritten (`adopt` accepts that; a
    change through `p.data` is lost), and, like the constructor, TypeError or ValueError where the method cannot take a group.
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

    _view, _linked, _steps = None, False, 0

    def __init__(self, base: torch.optim.Optimizer, method: Method) -> None:
        if isinstance(base, QuantizedOptimizer) or not isinstance(base, torch.optim.Optimizer):
            raise TypeError(f"base must be an ordinary torch optimizer, got {type(base).__name__}")
        _instance("method", method, Method, "a Method object, e.g. BinaryConnect(levels)")
        if isinstance(base, torch.optim.LBFGS):
            raise TypeError("LBFGS calls its closure at points of its own choice, past the method; use another base")
        if _numbers in base._optimizer_state_dict_post_hooks.values():
            raise ValueError("this base has a QuantizedOptimizer: use its switch(method), or make another base")
        self.base, self.method = base, method
        self._seen: dict[Tensor, tuple[int, Levels]] = {}  # quantised: version and levels after the last step
        self._kept: dict[Tensor, dict[str, Tensor]] = {}  # memory of the steps
        super().__init__(base.param_groups, base.defaults)
        self._linked = True
        self._check(*self.param_groups)
        self._follow()
        _write_plain_numbers(base)

    def add_param_group(self, param_group: dict) -> None:
        """As in torch; the group is added to the base optimizer, too."""
        if not self._linked:  # torch's constructor gives each group of `base` to this method
            return
        self._refuse_in_view("add_param_group()")
        self.base.add_param_group(param_group)
        try:
            self._check(self.param_groups[-1])
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise
        self._follow()

    def _check(self, *groups: dict) -> None:
        """Raise where the method cannot work with the groups."""
        new = [p for group in groups for p in self._checked_group(group)]
        if new and (found := _made_from(new)):
            raise TypeError(
                f"{self._describe(found[0])} is parametrised by {found[1]}: the weight that its layer makes of it would not lie on "
                "the levels; remove the parametrisation, or set quantize=False for its group"
            )
        if (thin := [p for p in new if p.ndim == 1]) and len(thin) < len(new):
            what = f"{self._describe(thin[0])} and {len(thin) - 1} more of one dimension are quantised (biases, normalisation?)"
            _warn(f"{what}: layers.groups(model) makes groups that leave them real")

    def _checked_group(self, group: dict) -> list[Tensor]:
        """Do so for one group; returns its quantised parameters where they are new or have new levels."""
        levels, quantize = group.get("levels", self.method.levels), group.get("quantize", True)
        _instance("a parameter group's quantize", quantize, bool, "True or False")
        _instance("a parameter group's levels", levels, Levels, "a Levels object")
        lr = number("lr", group["lr"], 0) if "lr" in group else 0.0
        if group.get("maximize"):
            raise ValueError("maximize=True: the methods minimise; negate the loss instead")
        if not quantize:
            return []
        known = group["params"] and all(self._seen.get(p, (0, None))[1] == levels for p in group["params"])
        if not known:
            self.method.check_plan(levels)
            for p in group["params"]:
                self._check_parameter(p, levels)
        self.method.check(levels, lr)
        if _passes_decay(self.method, group):
            name, apart = type(self.base).__name__, group.get("decoupled_weight_decay")
            if name not in COUPLED or not type(self.base).__module__.startswith("torch.optim") or apart:
                raise ValueError(
                    f"weight_decay={group['weight_decay']} of {name} moves weights past the method, out of its feasible set; "
                    f"set it to 0 in quantised groups, or take a base that adds it to the gradient: {', '.join(COUPLED)}"
                )
        return [] if known else group["params"]

    def _check_parameter(self, p: Tensor, levels: Levels) -> None:
        what = self._describe(p)
        _real_weights(what, p)
        if p.is_meta or p.is_inference() or any(n > 1 and k == 0 for n, k in zip(p.shape, p.stride(), strict=True)):
            raise TypeError(f"{what} is expanded, made in inference mode or on the meta device: weights need memory")
        levels.tensor(p)
        if not _whole(p.detach().sum()).isfinite() and not _whole(p.detach().isfinite().all()):
            raise ValueError(f"{what} has entries that are NaN or infinite")
        if (fit := getattr(p, "scaled_for", levels)) != levels:
            _warn(f"a layer scaled for {fit} is in a group with {levels}: groups(model, levels=...) says which")

    def _describe(self, p: Tensor) -> str:
        for k, group in enumerate(self.param_groups):
            for i, q in enumerate(group["params"]):
                if q is p:
                    names = group.get("param_names") or group.get("names")
                    return f"parameter {repr(names[i]) if names else f'{i} of group {k}'} of shape {tuple(p.shape)}"

    @torch.no_grad()
    def _follow(self) -> None:
        """Follow what changed: parameters that are new, moved, or of another precision; other `quantize` or `levels`."""
        for group in self.param_groups:
            levels, quantize = group.setdefault("levels", self.method.levels), group.setdefault("quantize", True)
            for p in group["params"]:
                seen, latent = self._seen.get(p), self.state.get(p, {}).get("latent")
                if latent is not None and latent.device != p.device:
                    self.state[p] = {k: v.to(p.device) for k, v in self.state[p].items()}
                if not quantize:
                    if seen is not None:  # switched off: the latent weights are what is trained on
                        p.copy_(self._latent(p))
                        for store in (self._seen, self.state, self._kept):
                            store.pop(p, None)
                elif latent is None and seen is not None and not self.method.forward_is_latent:
                    raise RuntimeError(f"latent weights of {self._describe(p)} were cleared: adopt() goes on without")
                elif seen is None or (self._apart(p) and latent is None):
                    self._take(p, p, levels)
                elif (seen[1] is not levels and seen[1] != levels) or (latent is not None and not self._apart(p)):
                    self._take(p, self._latent(p), levels)

    def _apart(self, p: Tensor) -> bool:
        """Whether the latent weights are another tensor than the parameter."""
        return not self.method.forward_is_latent or _coarse(p)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _take(self, p: Tensor, latent: Tensor, levels: Levels) -> None:
        """Make `latent` the latent weights of p, without multipliers or anything else of the method."""
        if self._apart(p):
            state = {"latent": latent.detach().to(torch.float32 if _coarse(p) else p.dtype, copy=True)}
            for x, y in self.method.pieces(p.detach(), state["latent"]):
                x.copy_(self.method.forward_point(y, levels, state))
            self.state[p] = state
        else:
            self.state.pop(p, None)
            p.copy_(latent.detach())
        self._seen[p] = (p._version, levels)

    def _latent(self, p: Tensor, quick: bool = False) -> Tensor:
        """The latent weights of p; raises RuntimeError where p was overwritten by somebody else since the last step."""
        if not self._apart(p):
            return self.state.get(p, {}).get("latent", p)  # there is one where p was of half precision
        if self._changed(p, quick):
            raise RuntimeError(
                f"{self._describe(p)} was changed outside the optimizer; optimizer.adopt() goes on from the parameters as they "
                "are, load_state_dict from a checkpoint, after the model's own (set_model_state_dict, set_optimizer_state_dict)"
            )
        return self.state[p]["latent"]

    def _changed(self, p: Tensor, quick: bool = False) -> bool:
        """Whether p was overwritten, and not with the point that it holds: a model may be loaded after its optimizer. quick:
        do not look at its values where its version is the old one, which a write through `p.data` leaves."""
        version, levels = self._seen[p]
        if not self._apart(p) or (quick and version == p._version):
            return False
        if self.method.elementwise and "latent" in self.state.get(p, ()):
            pairs = self.method.pieces(p.detach(), self.state[p]["latent"])
            return not all(torch.equal(x, self.method.forward_point(w, levels, {}).to(x)) for x, w in pairs)
        return version != p._version

    def _full(self) -> bool:
        return self._steps > 0 or any(self._changed(p) for p in self._seen)

    def _quantized_parameters(self) -> Iterator[tuple[dict, Tensor]]:
        return ((group, p) for group in self.param_groups if group["quantize"] for p in group["params"])

    def adopt(self) -> None:
        """Go on from the parameters as they are (loaded, averaged, edited); the method's own state starts anew."""
        self._refuse_in_view("adopt()")
        for group, p in self._quantized_parameters():
            self._check_parameter(p, group["levels"])
        for group, p in self._quantized_parameters():
            self._take(p, p, group["levels"])

    def switch(self, method: Method) -> None:
        """Go on with another method from the latent weights; groups with the old method's levels get the new one's. Raises as
        the constructor, before anything changes."""
        self._refuse_in_view("switch()")
        _instance("method", method, Method, "a Method object, e.g. BinaryConnect(levels)")
        self._follow()
        old, latents = self.method, [(group, p, self._latent(p)) for group, p in self._quantized_parameters()]
        own, seen = [group for group in self.param_groups if group["levels"] == old.levels], self._seen
        try:
            self.method, self._seen = method, {}
            self._check(*[g | {"levels": method.levels} if g["levels"] == old.levels else g for g in self.param_groups])
        except BaseException:
            self.method, self._seen = old, seen
            raise
        for group in own:
            group["levels"] = method.levels
        for group, p, latent in latents:
            self._take(p, latent, group["levels"])
        self._steps = 0

    @torch._disable_dynamo  # compiled, the method's kernels would round otherwise, or not run at all
    @torch.inference_mode(False)
    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One training step; returns the closure's loss where a closure is given."""
        self._refuse_in_view("step()")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if sparse := [p for p in group["params"] if p.grad is not None and p.grad.is_sparse]:
                raise RuntimeError(f"{self._describe(sparse[0])} has a sparse gradient: use sparse=False")
        self._check(*self.param_groups)
        self._follow()
        for _, p in self._quantized_parameters():
            if p.grad is not None:
                self._latent(p, quick=True)
        _Transaction(self).run()
        self._steps += 1
        plan = self.method.plan if self._steps == PATIENCE and self.method.t == 0 else None
        if plan is not None and len(set(_tried(plan).values())) > 1:
            _warn(f"{type(self.method).__name__}: {PATIENCE} steps without method.anneal(): its schedule stands still")
        if self._steps == 1 and not any(p.grad is not None for group in self.param_groups for p in group["params"]):
            _warn("step() found no gradient at any parameter: call loss.backward() before it")
        return loss

    def _refuse_in_view(self, what: str) -> None:
        if self._view is not None:
            raise RuntimeError(f"{what} inside `with optimizer.{self._view}():` is not possible; leave the block first")

    @contextmanager
    def _show(self, view: str, weights: Callable[[Tensor, dict], Tensor]) -> Iterator[None]:
        if self._view is not None:
            raise RuntimeError(f"already inside `with optimizer.{self._view}():`")
        self._follow()
        # _latent may raise, so all of them come before the first change
        shown = [(group, p, not self._changed(p)) for group, p in self._quantized_parameters()]
        latents = [self._latent(p) if known or view == "latent" else p for _, p, known in shown]
        held, inside = [p.detach().clone() for _, p, _ in shown], []

        @torch.no_grad()
        def restore() -> None:
            for (group, p, known), value in zip(shown, held, strict=True):
                p.copy_(value)
                if known:
                    self._seen[p] = (p._version, group["levels"])
            self._view = None

        self._view = view
        try:
            with torch.no_grad():
                for (group, p, _), latent in zip(shown, latents, strict=True):
                    for x, y in _chunks(p.detach(), latent.detach()):
                        x.copy_(weights(y, group))
            inside = [p._version for _, p, _ in shown]
            yield
            for i, ((group, p, _), latent, value) in enumerate(zip(shown, latents, held, strict=True)):
                for x, y in _chunks(p.detach(), value if latent is p else latent):  # `p.data.copy_` leaves the version
                    if not torch.equal(x.nan_to_num(), weights(y, group).to(x.dtype).nan_to_num()):
                        inside[i] = None
        finally:
            written = [p for (_, p, _), version in zip(shown, inside, strict=False) if p._version != version]
            _surely(restore)
        if written:
            raise RuntimeError(
                f"{self._describe(written[0])} was written to inside `with optimizer.{view}():`, which is undone; load weights "
                "outside of it, then call optimizer.adopt()"
            )

    def quantized(self):
        """Context in which every quantised parameter lies exactly on its levels: its latent weights, or what was written over
        it since the last step, rounded. For reading only: a state_dict changes back at the end, `finish` returns a copy."""
        return self._show("quantized", lambda latent, group: group["levels"].nearest(latent))

    def latent(self):
        """Context in which every quantised parameter holds its latent weights (rounded to its own precision)."""
        return self._show("latent", lambda latent, group: latent)

    def progress(self, most: int = 2**15) -> Progress:
        """How far the latent weights have come. most: a larger group is judged by that many of its weights, always the same."""
        self._refuse_in_view("progress()")
        self._follow()
        return Progress.of(self, most)
