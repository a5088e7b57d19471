"""ASkewSGD (Leconte et al., 2023) and the paper's modified version: Algorithm 1, equations (17)-(22)."""

import math

import torch
from torch import Tensor
from torch.nn.functional import threshold_

from ..arguments import _instance, number
from ..constraints import PSI, Constraint
from ..levels import Levels
from ..schedules import Geometric, Schedule, as_schedule
from .base import Method


def skewed_velocity(
    grad: Tensor,
    w: Tensor,
    levels: Levels,
    epsilon: float,
    alpha: float,
    constraint: Constraint = PSI,
    clip: float = math.inf,
    clip_velocity: bool = False,
) -> Tensor:
    """The velocity closest to -grad among those that (20) allows, weight by weight; same shape as `grad`.
    With g the constraint: -grad where g > 0; else max(-grad, rho) where g' > 0 and min(-grad, -rho) where g' < 0, with the push
    rho = alpha |g| / |g'|, clipped at `clip`. This is the rule printed below (21) without its "> 0", which would freeze a weight
    exactly on an edge. At a midpoint (g' = 0) it is -grad if g = 0; if g < 0, (20) is empty and the push goes right, by `clip`.
    clip_velocity: clip the whole velocity as well, the paper's reading; it biases stochastic gradients beyond `clip`.
    >>> w = torch.tensor([0.25, 0.75])  # the first infeasible: pushed up against its gradient; the second free
    >>> skewed_velocity(torch.ones(2), w, Levels.binary(), epsilon=0.75, alpha=0.5, constraint=PHI)
    tensor([ 0.1875, -1.0000])
    """
    return -_skewed(grad, constraint.push(w, levels, epsilon), alpha, clip, clip_velocity)


def _skewed(grad: Tensor, push: Tensor, alpha: float, clip: float, whole: bool, out: Tensor | None = None) -> Tensor:
    """Minus the velocity: grad, at most -p where p = alpha * push > 0, at least -p where p < 0; clipped where `whole`."""
    push.clamp_(-clip / alpha, clip / alpha)
    least = threshold_(push * -alpha, 0, -math.inf)  # comparisons cost more
    skewed = torch.clamp(grad, least, threshold_(push, 0, -math.inf).mul_(-alpha), out=out)
    return skewed.clamp_(-clip, clip) if whole else skewed


class ASkew(Method):
    """Annealed skewed descent: `constraint=PSI` is ASkewSGD (19), `constraint=PHI` the paper's modified version (22).
    alpha: strength of the push. clip: the bound M_(eps,c) on it. epsilon: a number or a schedule of the annealing index; by
    default the largest for `levels`, which leaves every weight within them free, less 5 % per `anneal()`. Annealed early, signs
    freeze: call anneal() in the last quarter of training only, or let `late_annealing` say when it counts.
    merged: accept epsilon where intervals merge (as by default; the paper's 0.88^t starts there). allow_overshoot: accept alpha *
    lr and clip * lr with which a push jumps over the edge or a level's cell. clip_velocity: see `skewed_velocity`.
    >>> method = ASkew(Levels.binary(), epsilon=Geometric(0.5, 0.5))
    >>> method.anneal()
    >>> method.epsilon, ASkew(Levels.binary(), epsilon=1.0, merged=True).epsilon
    (0.25, 1.0)
    """

    elementwise = True

    def __init__(
        self,
        levels: Levels,
        constraint: Constraint = PSI,
        alpha: float = 0.1,
        clip: float = 1.0,
        epsilon: float | Schedule | None = None,
        merged: bool = False,
        allow_overshoot: bool = False,
        clip_velocity: bool = False,
    ) -> None:
        super().__init__(levels)
        self.constraint = _instance("constraint", constraint, Constraint, "PSI or PHI")
        self.alpha, self.clip = (number(n, v, 0, strict=True) for n, v in (("alpha", alpha), ("clip", clip)))
        free = Geometric(self.constraint.largest_epsilon(levels), 0.95)
        self.schedule = free if epsilon is None else as_schedule(epsilon, "epsilon")
        self.merged = _instance("merged", merged, bool, "True or False") or epsilon is None
        self.allow_overshoot = _instance("allow_overshoot", allow_overshoot, bool, "True or False")
        self.clip_velocity = _instance("clip_velocity", clip_velocity, bool, "True or False")
        self.check_plan(levels)

    epsilon = property(lambda self: self.schedule(self.t), doc="The tolerance in force.")
    plan = property(lambda self: self.schedule)

    def tolerance(self, levels: Levels) -> float:
        return self.epsilon

    def descent(self, grad: Tensor, w: Tensor, levels: Levels, state: dict, out: Tensor | None = None) -> Tensor:
        push = self.constraint.push(w, levels, self.epsilon)
        return _skewed(grad, push, self.alpha, self.clip, self.clip_velocity, out)

    def check(self, levels: Levels, lr: float, k: int | None = None) -> None:
        when = f"after {k} calls of anneal(), " if k else ""
        self.constraint.check_epsilon(self.epsilon if k is None else self.schedule(k), levels, self.merged, when)
        if self.allow_overshoot:
            return
        if self.alpha * lr > 1:
            what = f"alpha * lr = {self.alpha:g} * {lr:g} = {self.alpha * lr:g} is above 1"
            what = f"{what}: each push from outside the hull would jump over the feasible edge"
            raise ValueError(f"{what}. Allowed is alpha <= {1 / lr:g} at this lr; allow_overshoot=True accepts it")
        if self.clip * lr > (half := min(levels.gaps) / 2):
            what = f"clip * lr = {self.clip:g} * {lr:g} is above {half:g}, half the smallest gap of the levels"
            what = f"{what}: near a midpoint a push could jump over a level's whole cell"
            raise ValueError(f"{what}. Allowed is clip <= {half / lr:g} at this lr; allow_overshoot=True accepts it")
