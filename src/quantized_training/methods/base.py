"""What every method answers: where the gradient is taken, which way to go, and what happens after the step."""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ..arguments import _instance, _integer
from ..constraints import Constraint
from ..levels import Levels
from ..schedules import Schedule, _tried

CHUNK = 2**18  # weights: the temporaries of one piece stay in a processor's cache; 2^16 to 2^21 were tried


def _local(t: Tensor) -> Tensor:
    """The part of a sharded tensor (DTensor) on this process; any other tensor as it is."""
    return t.to_local() if hasattr(t, "to_local") else t


def _chunks(*tensors: Tensor, share: int = 1) -> Iterable[tuple[Tensor, ...]]:
    """Views of the `_local` parts of tensors of one shape, in pieces of CHUNK / share; one where cutting brings nothing."""
    tensors, most = tuple(map(_local, tensors)), max(CHUNK // share, 1)
    whole = tensors[0].numel() <= most or tensors[0].device.type != "cpu" or torch.compiler.is_compiling()
    if whole or not all(t.is_contiguous() for t in tensors):
        return [tensors]
    return zip(*(t.view(-1).split(most) for t in tensors), strict=True)


class Method:
    """Full-precision behaviour in all four slots; a method overrides the ones in which it differs. All tensors have the shape
    of one parameter, to which the dict `state` belongs; it travels with the optimizer's state_dict.
    >>> class SignDescent(Method):
    ...     def descent(self, grad, w, levels, state, out=None):
    ...         return grad.sign()
    >>> w = nn.Parameter(torch.zeros(2))
    >>> optimizer = QuantizedOptimizer(torch.optim.SGD([w], lr=0.5), SignDescent(Levels.binary()))
    >>> w.grad = torch.tensor([3.0, -0.1])
    >>> optimizer.step(), w.tolist()
    (None, [-0.5, 0.5])
    """

    #: The constraint that the method keeps, where it has one; `tolerance` is its epsilon.
    constraint: Constraint | None = None
    #: The schedule that `anneal` advances.
    plan: Schedule | None = None
    #: True where `forward_point` is the latent weight itself, so that no second copy of the weights is needed.
    forward_is_latent = True
    #: True where every slot treats each weight by itself and leaves `state` alone: see `in_pieces`.
    elementwise = False
    #: Whether the method may be given a part of a parameter's weights (what fits in the cache, the shard on this process), or
    #: several parameters end to end.
    in_pieces = property(lambda self: self.elementwise)
    #: True where the slots only add to `state` what is missing, and `late_changes` says what becomes of it. Otherwise they work
    #: on a copy of it, which the optimizer takes when the step has succeeded.
    keeps_state = False
    #: True where `forward_point` cannot fail and, after `load_state_dict`, gives the same result again.
    repeats = False

    def __init__(self, levels: Levels) -> None:
        self.levels = _instance("levels", levels, Levels, "a Levels object, e.g. Levels((-1, 0, 2))")
        self.t = 0  # annealing index

    def forward_point(self, w: Tensor, levels: Levels, state: dict) -> Tensor:
        """The point at which loss and gradient are taken, from the latent weights w."""
        return w

    def descent(self, grad: Tensor, w: Tensor, levels: Levels, state: dict, out: Tensor | None = None) -> Tensor:
        """What the base optimizer takes for the gradient, from the gradient at `forward_point(w)`: minus the velocity v of
        plain SGD's step w + lr * v. out: memory of w's shape in which the result may be returned; saves an allocation."""
        return grad

    def after_step(self, w: Tensor, levels: Levels, state: dict, lr: float) -> Tensor:
        """The latent weights after the base optimizer's step, corrected where the method asks for it; w may be overwritten."""
        return w

    def late_changes(self, w: Tensor, levels: Levels, state: dict) -> Iterator[tuple[Tensor, Tensor]]:
        """(target, value) pairs for what the method keeps in `state`, from the latent weights w before the step, copied when
        nothing can fail any more; a value may depend on its own target and on w alone."""
        return iter(())

    def state_shape(self, name: str, levels: Levels, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """The shape of `state[name]` for weights of `shape`, by which a loaded state is checked; None: any."""
        return None

    def check(self, levels: Levels, lr: float) -> None:
        """Raise ValueError where the method cannot work with these; one with a `plan` takes k=None, too, an annealing index."""

    def pieces(self, *tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
        """`_chunks` of tensors of one shape where the method may be given them, else the tensors."""
        return _chunks(*tensors) if self.in_pieces else [tensors]

    def check_plan(self, levels: Levels) -> None:
        """Raise ValueError where the plan leaves what is legal for these levels, now or later."""
        for k in [] if self.plan is None else _tried(self.plan):
            if k >= self.t:
                self.check(levels, 0.0, k)

    def tolerance(self, levels: Levels) -> float:
        """The epsilon in force for weights with these levels; NaN for a method without a constraint."""
        return math.nan

    def anneal(self) -> None:
        """Advance the method's schedule by one (epsilon, or a regularisation strength); call it once per round."""
        self.t += 1

    def state_dict(self) -> dict:
        """What a resumed run needs besides the state of each parameter."""
        return {"t": self.t}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        self.t = _integer("t", state["t"], 0, 2**62)


class FullPrecision(Method):
    """Ordinary training; the levels only say how `QuantizedOptimizer.quantized` rounds.
    >>> FullPrecision(Levels.binary()).descent(torch.tensor([3.0]), torch.zeros(1), Levels.binary(), {})
    tensor([3.])
    """

    elementwise = True
