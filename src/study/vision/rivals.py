"""Methods of others beside the paper's, for the comparison under one protocol: what the library does not have.

ProxQuant with the schedule of its own paper, learned step sizes (LSQ), BayesBiNN, and PARQ and BinaryRelax through torchao's
own optimizer. Two of them take a scale of their own for each layer, so their levels are multiples of the grid's.
A method here may have `optimizer`, which makes what `train_images` steps in place of `QuantizedOptimizer`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from quantized_training import layers
from quantized_training.arguments import number
from quantized_training.levels import Levels
from quantized_training.methods import Method, ProxQuant, straight_through_mask
from quantized_training.methods.prox_quant import prox_l1
from quantized_training.optimizer import QuantizedOptimizer

from ..tasks.arguments import integer


class FrozenProxQuant(ProxQuant):
    """ProxQuant as its authors ran it (Bai et al., 2018, and their code): after each step all weights move towards their
    levels by slope * epoch, whatever the learning rate; after `freeze` epochs they are rounded and stay there, and the
    parameters that are not quantised are trained on."""

    def __init__(self, levels: Levels, slope: float, freeze: int) -> None:
        super().__init__(levels)
        self.slope = number("slope", slope, 0, strict=True)
        self.freeze, self.elementwise = integer("freeze", freeze, 1), False

    def after_step(self, w: Tensor, levels: Levels, state: dict, lr: float) -> Tensor:
        if self.t < self.freeze:
            return prox_l1(w, levels, self.slope * self.t)
        if "frozen" not in state:
            state["frozen"] = levels.nearest(w).clone()
        return state["frozen"]


class BayesBiNN(Method):
    """Meng et al. (2020), one sample a step: w holds the natural parameters of independent signs, equations (8) to (11).

    The gradient is taken at tanh((w + d) / temperature), d = log(u / (1 - u)) / 2 with u uniform; with g the gradient there
    and N training images, w moves by -rate * lr * (s g + w), s = N (1 - tanh^2) / (temperature (1 - tanh(w)^2)), and the signs
    of w are the weights in the end. rate: the ratio of its step to the learning rate of the other parameters. Needs the
    gradient of the chain rule: `chain_rule`. At the start w = start * sign(w); their 10 lets no sign change in few epochs.
    """

    forward_is_latent = False

    def __init__(
        self, levels: Levels, images: int, rate: float, temperature: float, start: float = 1.0, seed: int = 0
    ) -> None:
        super().__init__(levels)
        if levels.values != (-1.0, 1.0):
            raise ValueError(f"BayesBiNN has the levels -1 and 1 alone, got {levels.values}")
        self.images, self.rate = integer("images", images, 1), number("rate", rate, 0, strict=True)
        self.temperature = number("temperature", temperature, 0, strict=True)
        self.start = number("start", start, 0, strict=True)
        self._generator = torch.Generator().manual_seed(integer("seed", seed, 0))

    def optimizer(self, base: torch.optim.Optimizer, rule: Method) -> QuantizedOptimizer:
        with torch.no_grad():
            for group in base.param_groups:
                for p in group["params"] if group["quantize"] else []:
                    p.copy_(self.start * self.levels.nearest(p))
        return QuantizedOptimizer(base, rule)

    def forward_point(self, w: Tensor, levels: Levels, state: dict) -> Tensor:
        u = torch.rand(w.shape, generator=self._generator, dtype=w.dtype).to(w.device).clamp(1e-7, 1 - 1e-7)
        state["sample"] = ((w + torch.logit(u) / 2) / self.temperature).tanh()
        return state["sample"]

    def descent(self, grad: Tensor, w: Tensor, levels: Levels, state: dict, out: Tensor | None = None) -> Tensor:
        slope = (1 - state["sample"] ** 2 + 1e-10) / (self.temperature * (1 - w.tanh() ** 2 + 1e-10))
        return self.rate * (self.images * slope * grad + w)

    def state_dict(self) -> dict:
        return {**super().state_dict(), "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self._generator.set_state(state["generator"])


class _Plain(layers.Scale):
    """A layer's scale with the gradient of the chain rule."""

    def forward(self, v: Tensor) -> Tensor:
        return self.factor * v


def chain_rule(model: nn.Module) -> nn.Module:
    """The model with its `layers.Scale` differentiated as they are written."""
    for module in model.modules():
        if type(module) is layers.Scale:
            module.__class__ = _Plain
    return model


# Scales of their own


def one_each(groups: list[dict]) -> list[dict]:
    """The same parameter groups with each quantised parameter in one of its own, which then has levels of its own."""
    return [
        {**g, "params": [p]} if g["quantize"] else g for g in groups for p in (g["params"] if g["quantize"] else [None])
    ]


class LSQ(Method):
    """Learned step sizes (Esser et al., 2020): each layer's weight is s * nearest(w / s) with s learned from 1.

    adam: betas of Adam, by which s is stepped then as other parameters are under Adam (None: SGD).

    Through the rounding go the gradient in w inside the hull, and in s, for u = w / s, nearest(u) - u inside and the hull's
    end outside, times 1 / sqrt(n Q), n the number of weights and Q the largest level (their section 2.2). s takes SGD's step
    with `momentum` at `step_rate` times the learning rate: at the rate of the weights, from a random start, the steps of s
    are as large as s, and it comes to 0. At one bit the nearest of -1 and 1 stands for their integers. s starts at the layer's least-squares
    scale, which is 1 here. Groups: `one_each`.
    """

    forward_is_latent = False

    def __init__(
        self,
        levels: Levels,
        step_rate: float = 0.1,
        momentum: float = 0.9,
        adam: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(levels)
        self.step_rate, self.momentum, self.adam = step_rate, momentum, adam

    @staticmethod
    def optimizer(base: torch.optim.Optimizer, rule: Method) -> QuantizedOptimizer:
        return _OwnScales(base, rule)

    def forward_point(self, w: Tensor, levels: Levels, state: dict) -> Tensor:
        if "scale" not in state:
            state["scale"], state["velocity"] = w.new_ones(()), w.new_zeros(())
        return state["scale"] * self.levels.nearest(w / state["scale"])

    def slopes(self, grad: Tensor, w: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients in w and in the scale, from the gradient at the rounded weights."""
        u = w / scale
        inside = straight_through_mask(u, self.levels)
        slope = torch.where(inside > 0, self.levels.nearest(u) - u, self.levels.clip(u))
        return grad * inside, (grad * slope).sum() / math.sqrt(w.numel() * self.levels.hull[1])

    def descent(self, grad: Tensor, w: Tensor, levels: Levels, state: dict, out: Tensor | None = None) -> Tensor:
        direction, slope = self.slopes(grad, w, state["scale"])
        if self.adam is None:
            state["velocity"] = self.momentum * state["velocity"] + slope
            return direction
        mean, square = state.get("mean", 0 * slope), state.get("square", 0 * slope)
        (b1, b2), k = self.adam, state.get("steps", 0) + 1
        state["mean"], state["square"] = b1 * mean + (1 - b1) * slope, b2 * square + (1 - b2) * slope**2
        state["steps"] = k
        state["velocity"] = state["mean"] / (1 - b1**k) / ((state["square"] / (1 - b2**k)).sqrt() + 1e-8)
        return direction

    def after_step(self, w: Tensor, levels: Levels, state: dict, lr: float) -> Tensor:
        state["scale"] = (state["scale"] - lr * self.step_rate * state["velocity"]).clamp_min(1e-3)
        return w


class BitNet(Method):
    """BitNet b1.58 (Ma et al., 2024): the gradient at s * nearest(w / s), s the mean of |w| as it is, passed on unchanged."""

    forward_is_latent = False

    @staticmethod
    def optimizer(base: torch.optim.Optimizer, rule: Method) -> QuantizedOptimizer:
        return _OwnScales(base, rule)

    def forward_point(self, w: Tensor, levels: Levels, state: dict) -> Tensor:
        state["scale"] = w.abs().mean().clamp_min(1e-5)
        return state["scale"] * self.levels.nearest(w / state["scale"])


class _OwnScales(QuantizedOptimizer):
    """Whose groups' levels are the method's times the scale that is in force."""

    def _show(self, view: str, weights: Callable[[Tensor, dict], Tensor]):
        for group, p in self._quantized_parameters():
            group["levels"] = self.method.levels.scaled(float(self.state[p]["scale"]))
            self._seen[p] = self._seen[p][0], group["levels"]  # they follow the weights: nothing starts anew
        return super()._show(view, weights)


class TorchAO(Method):
    """PARQ (Jin et al., 2025) or BinaryRelax (Yin et al., 2018) of torchao.prototype.parq, which also choose each layer's
    levels, every 10 steps: at one bit the least squares -mean|w| and mean|w|, ternary ones 0 and 1.1 mean|w| either side, else
    uniform ones, symmetric without a 0.

    name: "parq" or "binaryrelax". steps: of the whole run; the gradual rounding goes from `start` to `end`, shares of it.
    """

    forward_is_latent = False

    def __init__(
        self, levels: Levels, name: str, steps: int, start: float = 0.0, end: float = 0.8, steepness: float = 10.0
    ) -> None:
        super().__init__(levels)
        self.name, self.steps, self.start, self.end, self.steepness = name, steps, start, end, steepness
        self.bits = 0 if len(levels.values) == 3 else round(math.log2(len(levels.values)))  # torchao's word for ternary

    def optimizer(self, base: torch.optim.Optimizer, rule: Method) -> TorchAOOptimizer:
        return TorchAOOptimizer(base, rule)


class TorchAOOptimizer:
    """torchao's QuantOptimizer with the views and the state that a run of ours asks for. Groups: `one_each`."""

    def __init__(self, base: torch.optim.Optimizer, method: TorchAO) -> None:
        from torchao.prototype.parq.optim import ProxBinaryRelax, ProxPARQ, QuantOptimizer  # of the tests and the study
        from torchao.prototype.parq.quant import LSBQuantizer, UnifQuantizer

        first, last = round(method.start * method.steps), round(method.end * method.steps)
        prox = ProxPARQ(first, last, method.steepness) if method.name == "parq" else ProxBinaryRelax(first, last)
        for group in base.param_groups:
            group.setdefault("quantize", True)
            if group["quantize"]:
                group["quant_bits"] = method.bits
                group.setdefault("levels", method.levels)
        self.method, self.base = method, base
        self.inner = QuantOptimizer(base, LSBQuantizer() if method.bits < 2 else UnifQuantizer(), prox)

    @property
    def param_groups(self) -> list[dict]:
        return self.base.param_groups

    def zero_grad(self) -> None:
        self.base.zero_grad()

    def step(self) -> None:
        """Raises FloatingPointError, as `QuantizedOptimizer` does, where a gradient is not finite."""
        gradients = [p.grad for g in self.param_groups for p in g["params"] if p.grad is not None]
        if not torch.stack([g.sum() for g in gradients]).isfinite().all():
            raise FloatingPointError("a gradient has entries that are NaN or infinite")
        self.inner.step()

    @contextmanager
    def _show(self, rounded: bool) -> Iterator[None]:
        groups = [g for g in self.param_groups if g["quantize"]]
        held = [g["params"][0].detach().clone() for g in groups]
        with torch.no_grad():
            for group in groups:
                (p,) = group["params"]
                state = self.base.state.get(p, {})
                latent = state.get("latent", p)
                if "quants" in state:
                    values = state["quants"].tolist()
                    group["levels"] = Levels(values) if len(set(values)) == len(values) else group["levels"]
                p.copy_(group["levels"].nearest(latent) if rounded else latent)
        try:
            yield
        finally:
            with torch.no_grad():
                for group, value in zip(groups, held, strict=True):
                    group["params"][0].copy_(value)

    def latent(self):
        """Context in which every quantised parameter holds its latent weights."""
        return self._show(False)

    def quantized(self):
        """Context in which every quantised parameter lies on its levels."""
        return self._show(True)

    def state_dict(self) -> dict:
        state = self.base.state_dict()
        for group in state["param_groups"]:
            if "levels" in group:
                group["levels"] = group["levels"].values
        return {"base": state, "method": self.method.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        groups = [{**g, "levels": Levels(g["levels"])} if "levels" in g else g for g in state["base"]["param_groups"]]
        self.base.load_state_dict({**state["base"], "param_groups": groups})
        self.method.load_state_dict(state["method"])
