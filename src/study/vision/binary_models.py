"""Partly binary networks like those of BAMSProd's experiments (Liu et al., arXiv 2009.13799, section 5).

The source says: convolutions of a ResNet-34 binary, its shortcuts real; depth-wise convolutions of a MobileNetV2 binary, its
channel-wise ones (1 x 1) real; an LSTM of three layers; YOLOv2 on Darknet-53. Our choices, where it says nothing: the first
and the last layer, biases, normalisation and all activations are real; in the LSTM the matrices of its layers are binary,
embedding and softmax layer real; a detector of seven layers from a random start in place of the pretrained Darknet-53.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quantized_training import layers

from ..methods import BINARY
from .networks import ResNet


def _normalised(into: int, out: int, size: int, stride: int = 1, groups: int = 1) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(into, out, size, stride, size // 2, groups=groups, bias=False), nn.BatchNorm2d(out)


def _start(model: nn.Module) -> None:
    """Normal with variance 2 / inputs (He et al., 2015), the last layer as torch's."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.bias is None:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


def resnet34(classes: int = 10, width: int = 64) -> ResNet:
    """ResNet-34 (He et al., 2016) with the stem for small images: 21,282,122 parameters for 10 classes.

    The convolutions of the blocks are the binary ones, 21,086,208; the shortcuts, identities or 1 x 1, are real.
    """
    return ResNet((3, 4, 6, 3), width, classes)


class Inverted(nn.Module):
    """MobileNetV2's block: 1 x 1 to `expand` times the channels, 3 x 3 on each channel, 1 x 1 to `out` without a relu; plus
    the input where it has the shape of the output."""

    def __init__(self, into: int, out: int, stride: int, expand: int) -> None:
        super().__init__()
        inner = expand * into
        first = [] if expand == 1 else [*_normalised(into, inner, 1), nn.ReLU6()]
        depthwise = [*_normalised(inner, inner, 3, stride, groups=inner), nn.ReLU6()]
        self.layers = nn.Sequential(*first, *depthwise, *_normalised(inner, out, 1))
        self.added = stride == 1 and into == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.added else self.layers(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 (Sandler et al., 2018), (n, 3, 32, 32) -> (n, classes): 3,504,872 parameters for 1000 classes.

    For images of 32 x 32 the first convolution and the second stage keep all pixels, so that 4 x 4 are left at the end. The
    depth-wise convolutions are the binary ones, 64,224 weights. width: factor of all numbers of channels but the last.
    """

    STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))

    def __init__(self, classes: int = 10, width: float = 1.0, last: int = 1280) -> None:
        super().__init__()
        into, blocks = round(32 * width), []
        self.stem = nn.Sequential(*_normalised(3, into, 3), nn.ReLU6())
        for expand, channels, count, stride in self.STAGES:
            for i in range(count):
                out = round(channels * width)
                blocks.append(Inverted(into, out, stride if i == 0 else 1, expand))
                into = out
        self.blocks = nn.Sequential(*blocks, *_normalised(into, last, 1), nn.ReLU6())
        self.linear = nn.Linear(last, classes)
        _start(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.blocks(self.stem(x)).mean((2, 3)))


class Language(nn.Module):
    """Embedding, LSTM layers with dropout between all of them, softmax layer: words (n, T) -> logits (n, T, vocabulary).

    The eight matrices of an LSTM layer take the values -1/sqrt(hidden) and 1/sqrt(hidden), the ends of the interval from which
    torch draws them: a sum over all hidden units then has the variance of one of them, whatever their number.
    """

    def __init__(self, vocabulary: int = 10_000, hidden: int = 650, layers: int = 3, dropout: float = 0.5) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, hidden)
        self.lstm = nn.LSTM(hidden, hidden, layers, batch_first=True, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden, vocabulary)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Also returns the state after the last word; state: that of the words before."""
        y, state = self.lstm(self.dropout(self.embedding(x)), state)
        return self.linear(self.dropout(y)), state


class Detector(nn.Module):
    """Images (n, 3, h, w) -> (n, 5 + classes, h / 16, w / 16), the outputs that `detection` reads, one box for each cell.

    A real convolution and five binary ones, 3 x 3, of which the first four take every second pixel; a real 1 x 1 convolution.
    """

    def __init__(self, classes: int = 3, width: int = 32) -> None:
        super().__init__()
        sizes = (3, width, 2 * width, 4 * width, 8 * width, 8 * width, 8 * width)
        layers: list[nn.Module] = []
        for i, (into, out) in enumerate(zip(sizes, sizes[1:], strict=False)):
            layers += [*_normalised(into, out, 3, 2 if i < 4 else 1), nn.ReLU()]
        self.backbone = nn.Sequential(*layers)
        self.head = nn.Conv2d(sizes[-1], 5 + classes, 1)
        _start(self)
        with torch.no_grad():
            self.head.bias[4] = -3.0  # at first a box in one of twenty cells

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


def groups(model: nn.Module) -> list[dict]:
    """Parameter groups for `binary_optimizers.build`: what the networks above call binary, and the rest.

    A binary convolution takes the values -s and s, s being the mean size of its weights at the start. What a layer can compute
    does not depend on s, as normalisation follows; but with -1 and 1 a step of SGD that suits the real parameters is too
    small for the binary ones.
    """
    if not isinstance(model, Language):
        return layers.groups(model, "3x3 only", BINARY, scaled=True)
    matrices = [p for p in model.lstm.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if all(p is not m for m in matrices)]
    levels = BINARY.scaled(model.lstm.hidden_size**-0.5)
    return [{"params": matrices, "quantize": True, "levels": levels}, {"params": others, "quantize": False}]
