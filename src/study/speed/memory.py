"""How much memory a step and the view `quantized()` take, in bytes per weight beyond the weights and their gradients.

torch's profiler notes every allocation on the CPU, those inside an operation too; the numbers are the same on every machine.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable
from typing import NamedTuple

import torch

from quantized_training import (
    PHI,
    PSI,
    SGDA,
    ASkew,
    BinaryConnect,
    FullPrecision,
    KBitStraightThrough,
    Levels,
    Method,
    ProxQuant,
    QuantizedOptimizer,
    StraightThrough,
)

from .bench import LR, weights

METHODS: dict[str, Callable[[Levels, int], Method]] = {
    "Full precision": lambda levels, bits: FullPrecision(levels),
    "ASkewSGD, psi": lambda levels, bits: ASkew(levels, PSI, epsilon=PSI.largest_epsilon(levels) / 2),
    "ASkewSGD, phi": lambda levels, bits: ASkew(levels, PHI, epsilon=PHI.largest_epsilon(levels) / 2),
    "SGDA": lambda levels, bits: SGDA(levels),
    "ProxQuant": lambda levels, bits: ProxQuant(levels, 1.0),
    "BinaryConnect, nearest": lambda levels, bits: BinaryConnect(levels, stochastic=False),
    "BinaryConnect, stochastic": lambda levels, bits: BinaryConnect(levels),
    "Straight-through": lambda levels, bits: StraightThrough(levels),
    "k-bit straight-through": lambda levels, bits: KBitStraightThrough(bits),
}


class Bytes(NamedTuple):
    """Bytes per weight. stored: what remains after a step; step, quantized: the most that is taken besides while it runs."""

    stored: float
    step: float
    quantized: float


def allocated(run: Callable[[], object]) -> tuple[int, int]:
    """(most, left): bytes that `run` has allocated and not given back, at its worst moment and at its end."""
    gc.collect()  # what others have left must not be given back meanwhile
    gc.disable()
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            kept = run()
    finally:
        gc.enable()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    changes = torch.tensor([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())] or [0])
    del kept
    return max(0, int(changes.cumsum(0).max())), int(changes.sum())


def measure(name: str, bits: int, width: int = 64) -> Bytes:
    """Of a method with plain SGD on the weights of a ResNet-18 of this width."""
    parameters = weights(width)
    size, optimizers = sum(p.numel() for p in parameters), []
    method = METHODS[name](Levels.for_bits(bits), bits)
    method.levels.nearest(parameters[0])  # the few constants that are made once do not count

    def start():
        optimizers.append(QuantizedOptimizer(torch.optim.SGD(parameters, lr=LR), method))
        optimizers[0].step()

    def look():
        with optimizers[0].quantized():
            pass

    stored = allocated(start)[1]
    most, left = allocated(optimizers[0].step)
    return Bytes((stored + left) / size, (most - left) / size, allocated(look)[0] / size)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m study.speed.memory", description=__doc__.split("\n\n")[0])
    parser.add_argument("--width", type=int, default=64, help="of the ResNet-18 (default 64: 11 million weights)")
    parser.add_argument("--bits", type=int, nargs="+", default=[1, 4], choices=range(1, 9), metavar="BITS")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD")
    arguments = parser.parse_args(argv)
    print(
        "Bytes per weight beyond weights and gradients, with plain SGD: stored between steps; at most, besides, in a step"
    )
    print("and in `with optimizer.quantized():`")
    for bits in arguments.bits:
        print(f"\n  {bits} bit{'s' * (bits > 1)}{'':22s} stored   step  quantized()")
        for name in arguments.methods:
            found = measure(name, bits, arguments.width)
            print(f"  {name:26s} {found.stored:7.1f} {found.step:7.1f} {found.quantized:7.1f}", flush=True)


if __name__ == "__main__":
    main()
