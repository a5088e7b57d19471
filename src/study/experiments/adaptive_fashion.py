"""Optimizers on a small network with binary weights and activations: 5,000 images of Fashion-MNIST."""

from ..runner import Experiment
from ._adaptive import units

EXPERIMENT = Experiment(
    "adaptive_fashion",
    __doc__.removesuffix("."),
    units("Fashion-MNIST", levels=(0.7, 0.6, 0.5, 0.4, 0.3), bands=(1.0, 0.3)),
)
