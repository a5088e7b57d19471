"""Optimizers on a small network with binary weights and activations: scikit-learn's digits."""

from ..runner import Experiment
from ._adaptive import units

EXPERIMENT = Experiment(
    "adaptive_digits",
    __doc__.removesuffix("."),
    units("digits", levels=(0.5, 0.2, 0.1, 0.05, 0.02), bands=(1.0, 0.1, 0.01), batches=(64, 128)),
)
