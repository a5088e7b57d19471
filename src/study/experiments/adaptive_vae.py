"""A variational autoencoder with binary weights and activations on scikit-learn's digits: the decay factors of BAMSProd and Adam."""

from functools import partial
from itertools import product

from ..runner import Experiment
from ..tasks.binary_optimizers import RATES
from ._adaptive import unit

COMMON = RATES.index(10**-2)  # in the order of size the fifth of eight


def units() -> dict:
    one = partial(unit, "autoencoder", levels=(40.0, 30.0, 28.0, 27.0, 26.5), bands=(30.0, 27.0, 26.0), common=COMMON)
    return {
        f"{name}, beta1 {b1}, beta2 {b2}": partial(one, name, changes={"betas": (b1, b2)})
        for name, b1, b2 in product(("BAMSProd", "Adam"), (0.8, 0.9), (0.99, 0.999))
    }


EXPERIMENT = Experiment("adaptive_vae", __doc__.removesuffix("."), units())
