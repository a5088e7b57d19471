"""Networks of Task III, and which of their parameters are quantised.

ResNets of He et al. (2016) with basic blocks for small images. Every convolution is followed by batch normalisation and has
no bias, so its output does not change when all its weights are multiplied by one positive number (up to the small constant in
the normalisation): for what such a network can express, the scale of a layer's levels does not matter. It matters for the
training, which moves latent weights by steps of some size between levels at some distance, and for the last layer.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn.functional import pad, relu

from ..tasks.arguments import integer

SHORTCUTS = ("projection", "identity")


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut around them: relu(f(x) + shortcut(x)).

    Where the shape changes the shortcut is a 1 x 1 convolution ("projection", option B of the paper), or takes every second
    pixel and fills the new channels with zeros ("identity", option A, no parameters).
    """

    def __init__(self, into: int, out: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(into, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.stride, self.new_channels = stride, out - into
        self.shortcut = None
        if shortcut == "projection" and (stride != 1 or into != out):
            self.shortcut = nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        if self.shortcut is not None:
            return relu(y + self.shortcut(x))
        if self.stride != 1 or self.new_channels:
            x = pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))
        return relu(y + x)


class ResNet(nn.Module):
    """(n, channels, height, width) -> (n, classes) for images of 8 pixels and more.

    A 3 x 3 convolution to `width` channels, of every `stride`-th pixel; stages of blocks[i] blocks each, every stage but the
    first with twice the channels and half the pixels of the one before; mean over the pixels; a linear layer. Convolutions
    start normal with variance 2 / inputs (He et al., 2015), the linear layer as torch's. Raises ValueError for values that
    make no network.
    """

    def __init__(
        self,
        blocks: tuple[int, ...],
        width: int,
        classes: int = 10,
        channels: int = 3,
        shortcut: str = "projection",
        stride: int = 1,
    ) -> None:
        super().__init__()
        for name, value in (
            ("width", width),
            ("classes", classes),
            ("channels", channels),
            ("stride", stride),
            *(("blocks", b) for b in blocks),
        ):
            integer(name, value, 1)
        if shortcut not in SHORTCUTS:
            raise ValueError(f"shortcut={shortcut!r}: allowed are {', '.join(map(repr, SHORTCUTS))}")
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        stages, into = [], width
        for i, count in enumerate(blocks):
            out = width * 2**i
            stages.append(
                nn.Sequential(
                    Block(into, out, 1 if i == 0 else 2, shortcut),
                    *(Block(out, out, 1, shortcut) for _ in range(count - 1)),
                )
            )
            into = out
        self.stages = nn.Sequential(*stages)
        self.linear = nn.Linear(into, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(relu(self.bn1(self.conv1(x))))
        return self.linear(x.mean((2, 3)))


def resnet18(classes: int = 10, channels: int = 3, width: int = 64, stride: int = 1) -> ResNet:
    """ResNet-18 with the stem for small images (3 x 3, no pooling): 11,173,962 parameters for 10 classes of colour images."""
    return ResNet((2, 2, 2, 2), width, classes, channels, "projection", stride)


def resnet20(
    classes: int = 10, channels: int = 3, width: int = 16, stride: int = 1, shortcut: str = "identity"
) -> ResNet:
    """ResNet-20, channels 16, 32, 64: 269,722 parameters for 10 classes of colour images.

    Shortcuts without parameters, as He et al. use for CIFAR-10; with "projection" it has 272,474. stride: of the first
    convolution; 2 makes a training step about four times as fast on a processor.
    """
    return ResNet((3, 3, 3), width, classes, channels, shortcut, stride)


HEADER = ("Parameters", "Tensors", "Number", "Share", "Quantised", "Levels")


def summary(groups: Iterable[dict]) -> list[tuple[str, ...]]:
    """Rows under `HEADER` for a table of the parameters of each kind, and a last row with their sum."""
    groups = list(groups)
    total = sum(p.numel() for g in groups for p in g["params"])

    def row(name: str, chosen: list[dict], quantised: str, levels: str) -> tuple[str, ...]:
        number = sum(p.numel() for g in chosen for p in g["params"])
        tensors = sum(len(g["params"]) for g in chosen)
        return name, f"{tensors}", f"{number:,}", f"{number / total:.2%}", quantised, levels

    rows = []
    for kind in dict.fromkeys(g["kind"] for g in groups):
        same = [g for g in groups if g["kind"] == kind]
        rows.append(row(kind, same, "yes" if same[0]["quantize"] else "no", _levels_in_words(same)))
    quantised = [g for g in groups if g["quantize"]]
    share = sum(p.numel() for g in quantised for p in g["params"]) / total
    return [*rows, row("all", groups, f"{share:.2%}", "")]


def _levels_in_words(groups: list[dict]) -> str:
    """The levels of groups of one kind: all values, or where there are many or several sets, their number and hulls."""
    sets = list(dict.fromkeys(g["levels"] for g in groups if g["quantize"] and "levels" in g))
    if not sets:
        return "the method's" if groups[0]["quantize"] else ""
    if len(sets) == 1 and len(sets[0].values) <= 4:
        return ", ".join(f"{q:.3g}" for q in sets[0].values)
    hulls = [" to ".join(f"{q:.3g}" for q in levels.hull) for levels in sorted(sets, key=lambda levels: levels.hull[1])]
    return f"{len(sets[0].values)} levels, {hulls[0]}" + (f" up to {hulls[-1]}" if len(hulls) > 1 else "")
