"""Counts of parameters of published architectures, from their descriptions."""

from __future__ import annotations


def resnet_parameters(blocks: tuple[int, int, int, int], bottleneck: bool, classes: int = 1000) -> int:
    """Parameters of a ResNet for images of three channels (He et al., Table 1): convolutions, batch norms, last layer."""
    expansion, total, before = (4 if bottleneck else 1), 64 * 3 * 49 + 2 * 64, 64
    for width, count in zip((64, 128, 256, 512), blocks, strict=True):
        after = width * expansion
        for i in range(count):
            entering = before if i == 0 else after
            sizes = (
                [(entering, width, 1), (width, width, 9), (width, after, 1)]
                if bottleneck
                else [(entering, width, 9), (width, width, 9)]
            )
            if i == 0 and entering != after:  # the shortcut is a convolution
                sizes.append((entering, after, 1))
            total += sum(a * b * k + 2 * b for a, b, k in sizes)
        before = after
    return total + before * classes + classes


def transformer_parameters(layers: int, width: int, vocabulary: int, context: int) -> int:
    """Parameters of a GPT: per layer 12 width^2 for attention and feed-forward, 13 width for biases and norms; embeddings."""
    return layers * (12 * width**2 + 13 * width) + (vocabulary + context) * width + 2 * width
