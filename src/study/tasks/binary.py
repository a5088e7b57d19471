"""Small networks with binary weights and activations, many seeds of one in a single tensor program.

Shapes: S seeds, n samples, B samples in a batch, d inputs. Every seed has its own initial weights, batch order and noise,
which do not depend on the seeds it is trained with; the data are the same for all.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, hardtanh, relu

from ..datasets import image_sets
from .binary_optimizers import Setting, build, clip_norms


def sign(x: Tensor) -> Tensor:
    """-1 or +1, with the gradient of the hard tanh (a straight-through estimator)."""
    soft = hardtanh(x)
    return soft + (torch.where(x >= 0, 1.0, -1.0) - soft).detach()


class Linear(nn.Module):
    """S layers x -> gain norm(x w) + bias: x (S or 1, B, d), w (S, d, out), the result (S, B, out).

    norm: batch normalisation over the B samples, or with the moments of the last batch where `frozen`; without `normalise`
    a division by sqrt(d). w starts normal with standard deviation 1/sqrt(d), cut off at two of them.
    """

    def __init__(self, d: int, out: int, generators: Sequence[torch.Generator], normalise: bool = True) -> None:
        super().__init__()
        start = [nn.init.trunc_normal_(torch.empty(d, out), 0.0, 1.0, -2.0, 2.0, generator=g) for g in generators]
        self.weight = nn.Parameter(torch.stack(start) / math.sqrt(d))
        self.gain = nn.Parameter(torch.ones(len(start), 1, out))
        self.bias = nn.Parameter(torch.zeros(len(start), 1, out))
        self.normalise, self.frozen = normalise, False

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        if len(x) == 1:  # one product of matrices, without S copies of x
            y = (x[0] @ w.transpose(0, 1).flatten(1)).view(x.shape[1], len(w), -1).transpose(0, 1)
        else:
            y = torch.bmm(x, w)
        if not self.normalise:
            return torch.addcmul(self.bias, y, self.gain / math.sqrt(w.shape[1]))
        if not self.frozen:
            self.moments = torch.var_mean(y, 1, correction=0, keepdim=True)
        variance, mean = self.moments
        factor = self.gain * torch.rsqrt(variance + 1e-5)
        return torch.addcmul(self.bias - mean * factor, y, factor)


class Network(nn.Module, ABC):
    """S networks of `Linear` layers, whose matrices are to be binary; gains and biases are not.

    binary: signs between the layers; False: relu, for the network in full precision.
    """

    def __init__(self, seeds: Sequence[int], binary: bool = True) -> None:
        super().__init__()
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.activation = sign if binary else relu

    @abstractmethod
    def losses(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean loss of each seed, (S,), on samples x (S or 1, B, d) with labels y (S or 1, B)."""

    def scores(self, x: Tensor, y: Tensor) -> Tensor:
        """What is reported of samples that were not trained on, in the same form."""
        return self.losses(x, y)

    def layers(self) -> list[Linear]:
        return [m for m in self.modules() if isinstance(m, Linear)]

    def groups(self) -> list[dict]:
        """Parameter groups for `binary_optimizers.build`."""
        return [
            {"params": [layer.weight for layer in self.layers()], "quantize": True},
            {"params": [p for layer in self.layers() for p in (layer.gain, layer.bias)], "quantize": False},
        ]

    @torch.no_grad()
    def evaluate(self, train: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor]) -> Tensor:
        """Loss on the training set and score on held-out samples, (S, 2); both normalised by the training set's moments."""
        loss = self.losses(*train)
        for layer in self.layers():
            layer.frozen = True
        score = self.scores(*held_out)
        for layer in self.layers():
            layer.frozen = False
        return torch.stack([loss, score], 1)


class Classifier(Network):
    """Linear layers of these sizes, e.g. (64, 128, 128, 10); the loss is the cross entropy, the score the accuracy."""

    def __init__(self, sizes: Sequence[int], seeds: Sequence[int], binary: bool = True) -> None:
        super().__init__(seeds, binary)
        pairs = zip(sizes, sizes[1:], strict=False)
        self.stack = nn.ModuleList(Linear(d, out, self.generators) for d, out in pairs)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.stack[:-1]:
            x = self.activation(layer(x))
        return self.stack[-1](x)

    def losses(self, x: Tensor, y: Tensor) -> Tensor:
        output = self(x)
        flat = cross_entropy(output.flatten(0, 1), y.expand(len(output), -1).flatten(), reduction="none")
        return flat.view(len(output), -1).mean(1)

    def scores(self, x: Tensor, y: Tensor) -> Tensor:
        return (self(x).argmax(2) == y).float().mean(1)


class Autoencoder(Network):
    """Variational autoencoder with one hidden layer on either side (Kingma and Welling, 2014) for inputs in [0, 1].

    x -> hidden -> mean and log variance of a normal code z -> hidden -> logits of the inputs. Loss and score: the negative
    evidence lower bound in nats per sample, with one draw of z.
    """

    def __init__(self, inputs: int, hidden: int, code: int, seeds: Sequence[int], binary: bool = True) -> None:
        super().__init__(seeds, binary)
        g = self.generators
        self.encoder, self.moments = Linear(inputs, hidden, g), Linear(hidden, 2 * code, g, normalise=False)
        self.decoder, self.output = Linear(code, hidden, g), Linear(hidden, inputs, g, normalise=False)

    def losses(self, x: Tensor, y: Tensor) -> Tensor:
        mean, log_variance = self.moments(self.activation(self.encoder(x))).chunk(2, 2)
        noise = torch.stack([torch.randn(mean.shape[1:], generator=g) for g in self.generators])
        z = mean + noise * torch.exp(log_variance / 2)
        logits = self.output(self.activation(self.decoder(z)))
        likelihood = binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(2)
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(2)
        return (likelihood + divergence).mean(1)


Part = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """network: (seeds, binary) -> Network. data: -> training, validation and test set, each x (1, n, d) and y (1, n).

    score: name of what `Network.scores` gives; of "accuracy" more is better, of anything else less.
    """

    network: Callable[[Sequence[int], bool], Network]
    data: Callable[[], tuple[Part, Part, Part]]
    epochs: int
    score: str


def _flat(x: Tensor, y: Tensor) -> Part:
    return (x.flatten(1).float() / 255)[None], y[None]


@cache
def digits() -> tuple[Part, Part, Part]:
    """1,140 training, 297 validation and 360 test digits, in the order of the file: neighbours in it are alike."""
    images = image_sets.load("digits")
    x, y = images.train_x, images.train_y
    return _flat(x[:1140], y[:1140]), _flat(x[1140:], y[1140:]), _flat(images.test_x, images.test_y)


@cache
def fashion() -> tuple[Part, Part, Part]:
    """The first 3,000 training images of Fashion-MNIST, the next 1,000 for validation, the first 2,000 test images.

    Read from the folder that QT_DATA names, otherwise downloaded; raises as `image_sets.load`.
    """
    images = image_sets.load("fashion-mnist", os.environ.get("QT_DATA") or None)
    x, y = images.train_x, images.train_y
    return (
        _flat(x[:3000], y[:3000]),
        _flat(x[3000:4000], y[3000:4000]),
        _flat(images.test_x[:2000], images.test_y[:2000]),
    )


@cache
def mnist() -> tuple[Part, Part, Part]:
    """The first 5,000 training images of MNIST, the next 1,000 for validation, the first 2,000 test images.

    Read from the folder that QT_DATA names, otherwise downloaded; raises as `vision.load`.
    """
    images = image_sets.load("mnist", os.environ.get("QT_DATA") or None, progress=False)
    x, y = images.train_x, images.train_y
    return (
        _flat(x[:5000], y[:5000]),
        _flat(x[5000:6000], y[5000:6000]),
        _flat(images.test_x[:2000], images.test_y[:2000]),
    )


def mean_digit(part: Part) -> float:
    """The least loss, in nats per sample, of a decoder that knows the mean image and nothing else."""
    p = part[0][0].double().mean(0)
    return float(-(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)).sum())


TASKS = {
    "digits": Task(partial(Classifier, (64, 128, 128, 10)), digits, 30, "accuracy"),
    "Fashion-MNIST": Task(partial(Classifier, (784, 128, 128, 10)), fashion, 10, "accuracy"),
    "autoencoder": Task(partial(Autoencoder, 64, 64, 4), digits, 40, "negative evidence lower bound"),
    "autoencoder, MNIST": Task(partial(Autoencoder, 784, 128, 8), mnist, 20, "negative evidence lower bound"),
}


def train(
    task: str,
    optimiser: str,
    setting: Setting,
    seeds: Sequence[int],
    batch: int = 64,
    binary: bool = True,
    test: bool = True,
    epochs: int | None = None,
    correction: int = 0,
) -> Tensor:
    """Train; loss on the training set and score on the test set before training and after every epoch, (S, epochs + 1, 2).

    test: False takes the validation set, and only after the last epoch (NaN before). The rate falls as a half cosine to 0,
    step by step. correction: 1 multiplies step t by sqrt(1 - beta2^t) / (1 - beta1^t), what Adam's bias correction comes to but
    for eps, -1 divides by it (Adam then has none). NaN, for all seeds, from where a gradient of one of them is not finite.
    """
    chosen = TASKS[task]
    epochs = epochs or chosen.epochs
    training, validation, testing = chosen.data()
    network = chosen.network(seeds, binary)
    optimizers = build(optimiser, setting, network.groups(), ensemble=True, binary=binary)
    start = [[group["lr"] for group in o.param_groups] for o in optimizers]
    n, step = training[0].shape[1], 0
    steps = n // batch * epochs
    held_out = testing if test else validation
    record = torch.full((len(seeds), epochs + 1, 2), math.nan)
    if test:
        record[:, 0] = network.evaluate(training, held_out)
    for epoch in range(epochs):
        order = torch.stack([torch.randperm(n, generator=g) for g in network.generators])
        for index in order[:, : n // batch * batch].split(batch, 1):
            factor = (1 + math.cos(math.pi * step / steps)) / 2
            if correction:
                beta1, beta2 = optimizers[0].param_groups[0]["betas"]
                factor *= (math.sqrt(1 - beta2 ** (step + 1)) / (1 - beta1 ** (step + 1))) ** correction
            for o, rates in zip(optimizers, start, strict=True):
                for group, rate in zip(o.param_groups, rates, strict=True):
                    group["lr"] = rate * factor
            network.zero_grad()
            network.losses(training[0][0][index], training[1][0][index]).sum().backward()
            if setting.clip < math.inf:
                clip_norms(network.parameters(), setting.clip, ensemble=True)
            try:
                for o in optimizers:
                    o.step()
            except FloatingPointError:
                return record
            step += 1
        if test or epoch + 1 == epochs:
            record[:, epoch + 1] = network.evaluate(training, held_out)
    return record
