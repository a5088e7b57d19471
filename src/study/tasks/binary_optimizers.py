"""The optimizers that are compared on binary networks, each with the eight settings among which it is tuned.

Each is the base of `QuantizedOptimizer` around deterministic BinaryConnect: the gradient is taken at the signs and applied
to latent weights in [-1, 1]. Bop has no latent weights; what is not binary is trained by Adam then, as its authors do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from quantized_training.adaptive import BAMSProd, Falling, Rising
from quantized_training.methods import BinaryConnect, FullPrecision
from quantized_training.optimizer import QuantizedOptimizer

from ..methods import BINARY
from .bop import Bop

RATES = tuple(10 ** (k / 2) for k in range(-8, 0))  # 1e-4 to 0.32


@dataclass(frozen=True, eq=False)  # hashed by identity
class Setting:
    """One setting of an optimizer: its learning rate and what else it takes; clip: largest norm of the whole gradient."""

    lr: float
    extra: dict[str, float | bool | tuple[float, float]] = field(default_factory=dict)
    clip: float = math.inf

    def __str__(self) -> str:
        clip = {"clip": self.clip} if self.clip < math.inf else {}
        known = ("ams_bound", "amsgrad", "betas")  # what the optimizer's or unit's name says
        parts = {k: v for k, v in {"lr": self.lr, **self.extra, **clip}.items() if k not in known}
        return ", ".join(f"{k} {v:.3g}" for k, v in parts.items())


def _adabound(groups: Iterable[dict], **settings) -> Optimizer:
    from pytorch_optimizer import AdaBound  # a dependency of the book, not of the package

    return AdaBound(groups, **settings)


class AveragedBAMSProd(BAMSProd):
    """BAMSProd with "a simple average of all history" of the second moments, v^_t = 1/t sum_(s<=t) v_s, in place of their
    maximum (source, section 4); the state keeps it under the maximum's name. Written out, tensor by tensor."""

    def _step(self, params: list[Tensor], group: dict) -> None:
        states, (beta1, beta2) = self._states(params, group), group["betas"]
        average = [s["max_exp_avg_sq"] for s in states]
        for p, s in zip(params, states, strict=True):
            s["step"] += 1
            s["exp_avg"].lerp_(p.grad, 1 - beta1)
            s["exp_avg_sq"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
            s["max_exp_avg_sq"].lerp_(s["exp_avg_sq"], 1 / s["step"])
        if group["quantize"] and group["target"] is None:
            self._measure(params, average, states, group)
        for p, s, v in zip(params, states, average, strict=True):
            clipped = v.clone()
            if group["quantize"]:
                runs = clipped.unbind(0) if group["ensemble"] else (clipped,)
                for x, c in zip(
                    runs, s["target"] if group["target"] is None else [group["target"]] * len(runs), strict=True
                ):
                    x.clamp_(*self.bounds(c, s["step"]))
            rate = group["lr"] / (math.sqrt(s["step"]) if group["sqrt_decay"] else 1.0)
            p.addcdiv_(s["exp_avg"], clipped.sqrt_().add_(group["eps"]), value=-rate).clamp_(
                -group["box"], group["box"]
            )


def _bamsprod(groups: Iterable[dict], gamma: float | None = None, average: bool = False, **settings) -> Optimizer:
    """gamma: how fast the bounds close, about 1/gamma steps (None: the default). average: in place of the maximum."""
    bounds = {} if gamma is None else {"lower": Rising(gamma), "upper": Falling(gamma)}
    return (AveragedBAMSProd if average else BAMSProd)(groups, sqrt_decay=False, **bounds, **settings)


Make = Callable[..., Optimizer]


@dataclass(frozen=True)
class Kind:
    """make: groups and the settings' words -> torch optimizer. settings: eight, the same number for every optimizer."""

    make: Make
    settings: tuple[Setting, ...]


def _rates(scale: float = 1.0, **extra) -> tuple[Setting, ...]:
    return tuple(Setting(scale * lr, extra) for lr in RATES)


def _bounds(**extra) -> tuple[Setting, ...]:
    """AdaBound's two rates: the one of Adam it starts with, the one of SGD it ends with."""
    return tuple(Setting(lr, {"final_lr": final, **extra}) for lr in RATES[3:7] for final in (0.3, 3.0))


OPTIMIZERS = {
    "SGD(M)": Kind(SGD, _rates(100.0, momentum=0.9)),
    "Adam": Kind(Adam, _rates()),
    "AMSGrad": Kind(Adam, _rates(amsgrad=True)),
    "AdaBound": Kind(_adabound, _bounds()),
    "AMSBound": Kind(_adabound, _bounds(ams_bound=True)),
    "Bop": Kind(Bop, tuple(Setting(g, {"threshold": tau}) for g in (1e-4, 1e-3, 1e-2, 1e-1) for tau in (1e-8, 1e-6))),
    "BAMSProd": Kind(_bamsprod, _rates()),
}


def build(
    name: str, setting: Setting, groups: Iterable[dict], ensemble: bool = False, binary: bool = True
) -> list[Optimizer]:
    """The optimizers, to be stepped one after the other, of a network whose binary weights are in the groups with
    quantize=True (as `binary_models.groups` makes them).

    ensemble: the first dimension of every parameter counts independent runs (only BAMSProd asks). binary: False trains the
    same weights in full precision.
    """
    groups = [dict(g) for g in groups]
    method = BinaryConnect(BINARY, stochastic=False) if binary else FullPrecision(BINARY)
    make, extra = OPTIMIZERS[name].make, dict(setting.extra)
    if name == "BAMSProd":
        extra["ensemble"] = ensemble
    if name != "Bop":
        return [QuantizedOptimizer(make(groups, lr=setting.lr, **extra), method)]
    chosen = [g for g in groups if g["quantize"]]
    with torch.no_grad():  # from the levels on
        for p in (p for g in chosen for p in g["params"]):
            p.copy_(BINARY.nearest(p))
    rest = [g["params"] for g in groups if not g["quantize"]]
    others = [Adam([p for params in rest for p in params], lr=1e-2)] if rest else []
    return [QuantizedOptimizer(make(chosen, lr=setting.lr, **extra), method), *others]


def clip_norms(parameters: Iterable[Tensor], largest: float, ensemble: bool = False) -> None:
    """Scale the gradients so that the norm of all of them, of each run for itself, is at most `largest`."""
    parameters = [p for p in parameters if p.grad is not None]
    if not ensemble:
        torch.nn.utils.clip_grad_norm_(parameters, largest)
        return
    squares = sum((p.grad * p.grad).flatten(1).sum(1) for p in parameters)
    factor = (largest / squares.sqrt()).clamp(max=1.0)
    for p in parameters:
        p.grad.mul_(factor.view(-1, *[1] * (p.dim() - 1)))
