"""Images on the device that trains: augmented, normalised, put through a network, scored and timed."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from quantized_training.layers import reestimate_batch_norm

from ..datasets.image_sets import Images

REACH = 4  # pixels of the random shifts
#: Dense bfloat16 operations per second, as the maker states them, by the name that the device gives itself.
PEAKS = {"H100 80GB HBM3": 989e12, "H200": 989e12, "A100": 312e12}


class Data(NamedTuple):
    """The tensors of `image_sets.Images` on one device."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    mean: Tensor
    std: Tensor


def augment(x: Tensor, flip: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Each image mirrored where `flip`, and then moved `down` and `right`: uint8 (n, c, h, w), as x.

    What moves in from beyond the border is the image reflected at its border pixels. flip, down, right: (n,), shifts of less
    than the image's size in pixels.
    """
    n, c, *size = x.shape
    rows, columns = (
        (torch.arange(s, device=x.device) - shift[:, None]).abs() for s, shift in zip(size, (down, right), strict=True)
    )
    rows, columns = (torch.minimum(i, 2 * (s - 1) - i) for s, i in zip(size, (rows, columns), strict=True))
    columns = torch.where(flip[:, None], size[1] - 1 - columns, columns)
    image, channel = torch.arange(n, device=x.device), torch.arange(c, device=x.device)
    return x[
        image[:, None, None, None], channel[None, :, None, None], rows[:, None, :, None], columns[:, None, None, :]
    ]


_half: ContextVar[bool] = ContextVar("half", default=False)


@contextmanager
def half(on: bool = True) -> Iterator[None]:
    """Within it `predict` computes in bfloat16 on a CPU, too (autocast: the weights stay float32)."""
    before = _half.set(on)
    try:
        yield
    finally:
        _half.reset(before)


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for products of bfloat16 (AVX-512 BF16 or AMX), as torch sees it."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def move(images: Images, device: torch.device) -> Data:
    """The images where the network runs, as bytes, with the moments for `predict`."""
    tensors = (images.train_x, images.train_y, images.test_x, images.test_y, images.mean, images.std)
    return Data(*(t.to(device) for t in tensors))


def predict(network: Callable[[Tensor], Tensor], x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The network's outputs (n, classes) for images x, uint8 (n, c, h, w); mean and std of x / 255: (c,)."""
    x = (x - 255 * mean[:, None, None]) / (255 * std[:, None, None])
    x = x.contiguous(memory_format=torch.channels_last)
    bfloat16 = torch.cuda.get_device_capability(x.device) >= (8, 0) if x.is_cuda else _half.get()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16):
        return network(x).float()


@torch.no_grad()
def evaluate(model: nn.Module, x: Tensor, y: Tensor, mean: Tensor, std: Tensor) -> tuple[float, float]:
    """Mean cross-entropy and accuracy on images x, uint8, with labels y, in evaluation mode."""
    training = model.training
    model.eval()
    outputs = torch.cat([predict(model, part, mean, std) for part in x.split(1000)])
    model.train(training)
    return cross_entropy(outputs, y).item(), (outputs.argmax(1) == y).double().mean().item()


def reestimate(model: nn.Module, x: Tensor, mean: Tensor, std: Tensor, batch: int = 1000) -> None:
    """`reestimate_batch_norm` on batches of images x, uint8 (n, c, h, w)."""
    reestimate_batch_norm(model, x.split(batch), lambda part: predict(model, part, mean, std))


# Speed


def stopwatch(device: torch.device) -> Callable[[], float]:
    """Starts now; called, it gives the seconds since then, on a GPU between two events on the device."""
    if device.type != "cuda":
        start = time.perf_counter()
        return lambda: time.perf_counter() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()

    def read() -> float:
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000

    return read


def flops(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Operations of one training step per image of `shape` (c, h, w), forward and backward; a multiply-add counts as two.

    Counted are convolutions and matrix products; normalisation, the optimizer and the method are not.
    """
    ghost = copy.deepcopy(model).to("meta").train()
    with FlopCounterMode(display=False) as counter:
        ghost(torch.zeros(2, *shape, device="meta")).sum().backward()
    return counter.get_total_flops() // 2


def peak_of(device: torch.device) -> float:
    """Operations per second of a known GPU, else NaN."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((peak for known, peak in PEAKS.items() if known in name), math.nan)
