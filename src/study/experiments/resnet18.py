"""ResNet-18 on all of CIFAR-10 on a GPU, 20 epochs, one seed: full precision and the five best methods at one bit.

    QT_DATA=folder python -m study.experiments make resnet18

Settings of `tuning`, batches of 256, bfloat16; `seconds` of an epoch are between two events on the device. The table is
written after every run. Aimed at: 60 s a run, 8 minutes for all. Never run yet.
"""

from ..vision.grid import FULL
from ._tuned import finished, runs

SEED = 10

EXPERIMENT = runs(
    "resnet18",
    __doc__.split("\n")[0].removesuffix("."),
    "gpu",
    [("Full precision", FULL, SEED)] * bool(finished("tuning", FULL))
    + [(method, 1, SEED) for method in finished("tuning", 1)[:5]],
    hours=0.1,
)
