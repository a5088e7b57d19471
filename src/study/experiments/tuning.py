"""The search of `vision.tuned`: six settings of each method on 8,000 training images of CIFAR-10, scored on 2,000 others."""

from ..vision.grid import FULL
from ._tuned import search

EXPERIMENT = search("tuning", __doc__.removesuffix("."), "subset, held out", (1, FULL), (0, 1), hours=6)
