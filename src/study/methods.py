"""The one table of methods: what the study, its figures and its tests know of each, a row apiece.

A new method is a file in the library (or anywhere) and a row in `METHODS`: the figures take its line from there, the tasks its
settings, and every test that is parametrised over the table runs on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from quantized_training.constraints import PHI, PSI, Constraint, late_annealing
from quantized_training.levels import Levels
from quantized_training.methods import (
    SGDA,
    ASkew,
    BinaryConnect,
    DebiasedBinaryConnect,
    FullPrecision,
    KBitStraightThrough,
    Method,
    ProxQuant,
    StraightThrough,
)
from quantized_training.schedules import Geometric, Linear, Schedule

from .theory import reference as ref

BINARY = Levels.binary()


@dataclass(frozen=True)
class Small:
    """What Tasks I and II give to a method: 2^bits levels, the strength of a push and the fall of its epsilon for each
    constraint, and the rounding noise, a function of the latent weights."""

    bits: int
    alpha: float
    annealing: Callable[[Constraint], Schedule]
    noise: Callable[[Tensor], Tensor]

    @property
    def levels(self) -> Levels:
        return Levels.for_bits(self.bits)


@dataclass(frozen=True)
class Row:
    """One method, or one setting of it that has a line of its own.

    line: colour and dash in every figure. tested: (levels, keywords) -> the method with settings under which a short run
    shows what it does; the common tests run it. small, vision: with the settings of Tasks I and II, and of Task III, from
    (levels, epochs, seed). The reference, one weight in plain floats, Q its levels, settings read from the method:
    point(w, Q, u, method), where the gradient is taken, u uniform in [0, 1); step(w, G, Q, lr, method, state), the next latent
    weight under plain SGD, state a dict of its own that holds the point G was taken at. Without a step no trajectory is compared.
    """

    name: str
    line: tuple[str, str]
    tested: Callable[..., Method] | None = None
    step: Callable[..., float] | None = None
    point: Callable[[float, Sequence[float], float, Method], float] = lambda w, Q, u, method: w
    small: Callable[[Small], Method] | None = None
    vision: Callable[[Levels, int, int], Method] | None = None


# References, where a row needs more than a name


def _nearest(w: float, Q: Sequence[float], u: float, method: Method) -> float:
    return ref.nearest(w, Q)


def _clipped_step(w: float, G: float, Q: Sequence[float], lr: float, method: Method, state: dict) -> float:
    return ref.binary_connect_step(w, G, Q, lr)


def _debiased_point(w: float, Q: Sequence[float], u: float, method: DebiasedBinaryConnect) -> float:
    return ref.stochastic(ref.shrunk(w, Q, method.delta), Q, u)


def _debiased_step(
    w: float, G: float, Q: Sequence[float], lr: float, method: DebiasedBinaryConnect, state: dict
) -> float:
    return ref.debiased_step(w, state["point"], G, Q, lr, method.delta)


def _prox_step(w: float, G: float, Q: Sequence[float], lr: float, method: ProxQuant, state: dict) -> float:
    return ref.prox_quant_step(w, G, Q, lr, method.strength(method.t), method.norm)


def _askew_step(g, dg, w: float, G: float, Q: Sequence[float], lr: float, method: ASkew, state: dict) -> float:
    return ref.askew_step(w, G, Q, lr, method.epsilon, method.alpha, g, dg, method.clip)


def _sgda_step(w: float, G: float, Q: Sequence[float], lr: float, method: SGDA, state: dict) -> float:
    prices = state.get("dual", [0.0] * (len(Q) + 1))
    w, state["dual"] = ref.sgda_step(w, prices, G, Q, lr, method.dual_lr, method.epsilon, method.dual_max)
    return w


# Settings of Tasks I and II: as the paper sets them (clip 1); what it leaves open is chosen in the chapters


def _askew_small(constraint: Constraint, task: Small) -> Method:
    epsilon = task.annealing(constraint)
    return ASkew(task.levels, constraint, task.alpha, clip=1.0, epsilon=epsilon, merged=True, allow_overshoot=True)


def _prox_small(norm: str, task: Small) -> Method:
    return ProxQuant(task.levels, Linear(2e-3), norm, ensemble=norm == "l2")


# Settings of Task III: (levels, epochs, seed) -> Method


def _askew_vision(constraint: Constraint, levels: Levels, epochs: int, seed: int) -> Method:
    """Unconstrained for half of the epochs."""
    epsilon = late_annealing(constraint, levels, epochs, epochs // 2)
    return ASkew(levels, constraint, alpha=0.5, clip=1.0, epsilon=epsilon, merged=True)


def _sgda_vision(levels: Levels, epochs: int, seed: int) -> Method:
    """The best of twelve settings on the digits at one bit, seed 0: epsilon 0.05 and 0.5, dual_lr 1e-4 and 1e-3, dual_max
    0.02, 0.1 and 0.5, by the accuracy after re-estimation."""
    return SGDA(levels, epsilon=0.05 * PHI.largest_epsilon(levels), dual_lr=1e-4, dual_max=0.02)


#: name -> row, in the order of tables and legends.
METHODS: dict[str, Row] = {
    row.name: row
    for row in (
        Row(
            "Full precision",
            ("#7a7a7a", "solid"),
            tested=FullPrecision,
            step=lambda w, G, Q, lr, method, state: ref.full_precision_step(w, G, lr),
            small=lambda task: FullPrecision(task.levels),
            vision=lambda levels, epochs, seed: FullPrecision(levels),
        ),
        Row(
            "BinaryConnect",
            ("#c8571b", "solid"),
            tested=BinaryConnect,
            step=_clipped_step,
            point=lambda w, Q, u, method: ref.stochastic(w, Q, u),
            small=lambda task: BinaryConnect(task.levels, uniform=task.noise),
            vision=lambda levels, epochs, seed: BinaryConnect(levels, seed=seed),
        ),
        Row(
            "BinaryConnect (deterministic)",
            ("#c8571b", "dot"),
            tested=partial(BinaryConnect, stochastic=False),
            step=_clipped_step,
            point=_nearest,
            small=lambda task: BinaryConnect(task.levels, stochastic=False),
        ),
        Row(
            "Debiased BinaryConnect",
            ("#b5449b", "solid"),
            tested=lambda levels, **drawn: DebiasedBinaryConnect(BINARY, delta=0.1, **drawn),  # one bit only
            step=_debiased_step,
            point=_debiased_point,
        ),
        Row(
            "Straight-through",
            ("#b3871a", "solid"),
            tested=StraightThrough,
            step=lambda w, G, Q, lr, method, state: ref.straight_through_step(w, G, Q, lr),
            point=_nearest,
            small=lambda task: StraightThrough(task.levels),
            vision=lambda levels, epochs, seed: StraightThrough(levels),
        ),
        Row(
            "k-bit straight-through",
            ("#b3871a", "dot"),
            tested=lambda levels: KBitStraightThrough(2),
            step=_clipped_step,
            point=lambda w, Q, u, method: ref.kbit_point(w, Q, method.bits),
            small=lambda task: KBitStraightThrough(task.bits),
        ),
        Row(
            "ProxQuant (L1)",
            ("#2e8b57", "solid"),
            tested=lambda levels: ProxQuant(levels, Linear(0.05), "l1"),
            step=_prox_step,
            small=partial(_prox_small, "l1"),
            vision=lambda levels, epochs, seed: ProxQuant(levels, Linear(2.0 / epochs)),
        ),
        Row(
            "ProxQuant (L2)",
            ("#2e8b57", "dash"),
            tested=lambda levels, ensemble=False: ProxQuant(levels, Linear(0.05), "l2", ensemble),
            small=partial(_prox_small, "l2"),  # all weights are one block: a step of one weight says nothing
        ),
        Row(
            "ProxQuant (squared L2)",
            ("#2e8b57", "dot"),
            tested=lambda levels: ProxQuant(levels, Linear(0.05), "squared_l2"),
            step=_prox_step,
            small=partial(_prox_small, "squared_l2"),
        ),
        Row(
            "ASkewSGD",
            ("#2f7fd1", "solid"),
            tested=lambda levels: ASkew(levels, PSI, alpha=0.5, epsilon=Geometric(0.05, 0.8)),
            step=partial(_askew_step, ref.psi, ref.psi_prime),
            small=partial(_askew_small, PSI),
            vision=partial(_askew_vision, PSI),
        ),
        Row(
            "Modified ASkewSGD",
            ("#8a63d2", "solid"),
            tested=lambda levels: ASkew(levels, PHI, alpha=0.5, epsilon=Geometric(0.2, 0.8)),
            step=partial(_askew_step, ref.phi, ref.phi_prime),
            small=partial(_askew_small, PHI),
            vision=partial(_askew_vision, PHI),
        ),
        Row(
            "SGDA (ε = 0.01)",
            ("#d1495b", "solid"),
            small=lambda task: SGDA(task.levels, epsilon=0.01, dual_lr=1e-3),
        ),
        Row(
            "SGDA (ε = 0.5)",  # half of the largest legal one, whatever the levels
            ("#d1495b", "dash"),
            small=lambda task: SGDA(task.levels, epsilon=PHI.largest_epsilon(task.levels) / 2, dual_lr=1e-3),
        ),
        Row(
            "SGDA",
            ("#d1495b", "dot"),
            tested=lambda levels: SGDA(levels, epsilon=0.1, dual_lr=0.05, dual_max=2.0),
            step=_sgda_step,
            vision=_sgda_vision,
        ),
    )
}

#: name -> (colour, dash) of all lines with a meaning of their own: the methods, and what they are compared with. The colours
#: keep a contrast of at least 3 to 1 on the light and on the dark page.
LINES: dict[str, tuple[str, str]] = {name: row.line for name, row in METHODS.items()} | {
    "Muehlebach–Jordan": ("#128c7e", "solid"),
    "Projected gradient": ("#128c7e", "dash"),
    "SGD": ("#7a7a7a", "dashdot"),
    "SGD(M)": ("#7a7a7a", "dash"),
    "Bop": ("#8a63d2", "dash"),
    "AdaGrad": ("#b3871a", "dash"),
    "Adam": ("#d24a43", "solid"),
    "AMSGrad": ("#c8571b", "dash"),
    "AdaBound": ("#2e8b57", "longdash"),
    "AMSBound": ("#128c7e", "dot"),
    "BAMSProd": ("#3a7bd5", "solid"),
}
