"""Each method with the setting that `tuning` chose, on 10,000 training and 2,000 test images of CIFAR-10, seeds that chose nothing."""

from ..vision.grid import FULL
from ..vision.tuned import METHODS
from ._tuned import finished, runs

SEEDS = (10, 11, 12, 13, 14)

EXPERIMENT = runs(
    "tuned_subset",
    __doc__.removesuffix("."),
    "subset",
    [
        (method, bits, seed)
        for seed in SEEDS
        for bits, there in ((FULL, "tuning"), (1, "tuning"))
        if finished(there, bits)
        for method, kind in METHODS.items()
        if bits in kind.bits
    ]
    + [
        (method, bits, seed)
        for seed in SEEDS[:3]
        for bits in (2, 4)
        if finished("tuning_two_bits", 2)
        for method, kind in METHODS.items()
        if bits in kind.bits
    ],
    hours=5,
)
