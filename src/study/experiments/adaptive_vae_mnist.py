"""A variational autoencoder with binary weights and activations on 5,000 images of MNIST: decay factors, bias correction on and off.

Sized for two cores: every second of the optimizers' settings, rates ten times apart, on 4 seeds; the best on 8 others.
"""

from functools import partial
from itertools import product

from ..runner import Experiment
from ..tasks.binary_optimizers import OPTIMIZERS
from ._adaptive import unit
from .adaptive_vae import COMMON

OWN = {"BAMSProd": False, "Adam": True}  # whether the optimizer corrects for the start of its averages


def units() -> dict:
    one = partial(
        unit,
        "autoencoder, MNIST",
        levels=(200.0, 180.0, 165.0, 155.0),
        bands=(200.0, 165.0, 155.0),
        common=COMMON // 2,
        seeds=(4, 8),
    )
    return {
        f"{name}, beta1 {b1}, beta2 {b2}, bias correction {'on' if wanted else 'off'}": partial(
            one, name, settings=OPTIMIZERS[name].settings[::2], changes={"betas": (b1, b2)}, correction=wanted - own
        )
        for wanted in (True, False)
        for (name, own), b1, b2 in product(OWN.items(), (0.8, 0.9), (0.99, 0.999))
    }


EXPERIMENT = Experiment("adaptive_vae_mnist", __doc__.split("\n")[0].removesuffix("."), units(), version="1", hours=1.5)
