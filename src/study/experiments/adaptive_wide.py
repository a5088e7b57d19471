"""Settings beyond the edges at which the best of AdaBound, AMSBound and Bop lay on the digits; BAMSProd with bounds that close, and with an average."""

from functools import partial

from ..runner import Experiment
from ..tasks.binary_optimizers import OPTIMIZERS, Setting
from ._adaptive import unit

BOUNDS = tuple((lr, final) for lr in (1e-2, 10**-1.5, 1e-1, 10**-0.5) for final in (10.0, 30.0))
FLIPS = tuple(Setting(gamma, {"threshold": tau}) for gamma in (1e-3, 1e-2, 1e-1, 1.0) for tau in (1e-5, 1e-4))
GAMMA = 0.05  # of 510 steps; after 60 of them the bounds are 0.75 and 1.33 times their limit, in the end 0.96 and 1.04


def units() -> dict:
    one = partial(unit, "digits", levels=(0.5, 0.2, 0.1, 0.05, 0.02), bands=(1.0, 0.1, 0.01))
    found = {"Bop": partial(one, "Bop", settings=FLIPS)}
    for name in ("AdaBound", "AMSBound"):
        extra = {k: v for k, v in OPTIMIZERS[name].settings[0].extra.items() if k != "final_lr"}
        found[name] = partial(one, name, settings=[Setting(lr, {"final_lr": final, **extra}) for lr, final in BOUNDS])
    found["BAMSProd, closing bounds"] = partial(one, "BAMSProd", changes={"gamma": GAMMA})
    found["BAMSProd, closing bounds, error taken as 1"] = partial(
        one, "BAMSProd", changes={"gamma": GAMMA, "least_error": 1.0}
    )
    for words, binary in (("", True), (", full precision", False)):
        found[f"BAMSProd, average of all history{words}"] = partial(
            one, "BAMSProd", changes={"average": True}, binary_weights=binary
        )
    return found


EXPERIMENT = Experiment("adaptive_wide", __doc__.removesuffix("."), units(), version="1", hours=0.5)
