"""What a training step of each method costs: the standard ResNet-20 on batches of 128, one thread, every method in turn.

Seconds of a step; a round trains each method for two epochs of a few batches of noise and takes the second. The order is turned
round after every round, so that a machine that becomes slower slows all. To be run where nothing else runs.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from ..datasets.image_sets import Images
from ..results import Row
from ..runner import Experiment
from ..vision import tuned
from ..vision.grid import FULL
from ..vision.tuned import METHODS, PROTOCOLS, Protocol

STEPS, ROUNDS = 4, 7


def blank(protocol: Protocol, steps: int) -> Images:
    """Noise in the place of CIFAR-10, `steps` batches of it: the time of a step does not depend on what is seen."""
    generator, n = torch.Generator().manual_seed(0), steps * protocol.batch
    x = torch.randint(256, (n, 3, 32, 32), generator=generator, dtype=torch.uint8)
    y = torch.arange(n) % 10
    return Images("noise", tuple("0123456789"), x, y, x[:10], y[:10])


def unit(bits: int, steps: int = STEPS, rounds: int = ROUNDS) -> Sequence[Row]:
    """A row for each round of each method that exists at these bits, and of full precision."""
    protocol = replace(PROTOCOLS["cifar"], epochs=2)
    noise = blank(protocol, steps)
    names = [method for method, kind in METHODS.items() if {bits, FULL} & set(kind.bits)]
    rows = []
    for k in range(rounds):
        for method in names if k % 2 else reversed(names):
            b = FULL if METHODS[method].bits == (FULL,) else bits
            record = tuned.train(protocol, method, b, METHODS[method].settings[0], 0, data=noise)
            step = record[-1]["seconds"] / steps
            rows.append({"bits": bits, "method": method, "round": k, "precision": protocol.precision, "seconds": step})
            gc.collect()  # a network and its optimizer refer to each other: without it several lie in memory
    return rows


EXPERIMENT = Experiment(
    "step_times",
    __doc__.split("\n")[0].removesuffix("."),
    {f"{bits} bits": partial(unit, bits) for bits in (1, 2, 4)},
    version="1",
    hours=0.2,
)
