"""Task III's training steps timed side by side: every method, full precision, and an ordinary PyTorch loop."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from ..datasets import image_sets
from ..vision import grid, networks
from ..vision.grid import Cell, Profile

PLAIN = "Ordinary PyTorch loop"


def blank(profile: Profile, steps: int, shape: tuple[int, ...] = (3, 32, 32), classes: int = 10) -> image_sets.Images:
    """Noise in the place of images, `steps` batches of it: the time of a step does not depend on what is seen."""
    generator, n = torch.Generator().manual_seed(0), steps * profile.batch
    x = torch.randint(256, (n, *shape), generator=generator, dtype=torch.uint8)
    y = torch.arange(n) % classes
    return image_sets.Images("noise", tuple(map(str, range(classes))), x, y, x[:classes], y[:classes])


def ordinary_loop(profile: Profile, data: image_sets.Images, epochs: int = 2) -> list[float]:
    """Seconds of each epoch of the loop that a tutorial shows: floats behind a DataLoader, SGD, no method, no augmentation."""
    x = (data.train_x / 255 - data.mean[:, None, None]) / data.std[:, None, None]
    loader = DataLoader(TensorDataset(x, data.train_y), profile.batch, shuffle=True, drop_last=True)
    torch.manual_seed(0)
    made = getattr(networks, profile.network)
    model = made(len(data.classes), x.shape[1], profile.width, profile.stride).to(profile.device)
    optimizer = torch.optim.SGD(model.parameters(), profile.lr, momentum=0.9, weight_decay=5e-4)
    seconds = []
    for _ in range(epochs):
        start = time.perf_counter()
        for images, labels in loader:
            loss = cross_entropy(model(images.to(profile.device)), labels.to(profile.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()  # what is printed; on a GPU it waits for the step
        seconds.append(time.perf_counter() - start)
    return seconds


def compare(profile: Profile, data: image_sets.Images, cells: Sequence[Cell], rounds: int) -> dict[str, list[float]]:
    """Seconds per training step of the methods of `cells` (one each) and of `ordinary_loop`, one number per round.

    A round trains each of them for two epochs from the start, one after the other, and takes the second epoch, in which
    annealing has begun. Their order is turned round after every round, so that a machine that becomes slower slows all.
    """
    short, steps = replace(profile, epochs=2), len(data.train_y) // profile.batch
    runs = {cell.method: lambda cell=cell: grid.run(short, cell, data)[1]["seconds"] for cell in cells}
    runs[PLAIN] = lambda: ordinary_loop(short, data)[1]
    names, found = list(runs), {name: [] for name in runs}
    for _ in range(rounds):
        for name in names:
            found[name].append(runs[name]() / steps)
            gc.collect()  # a network and its optimizer refer to each other: without it several lie in memory
        names.reverse()
    return found
