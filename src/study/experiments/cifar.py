"""All of CIFAR-10, the standard ResNet-20, 20 epochs: full precision and the five best methods at one bit, the two best at 2 and 4.

Full precision has the setting that `cifar_trial` chose, the others those of `tuning`; the five are the first of its ranking.
Sized for 5 hours of two cores: by `cifar_trial` an epoch takes about a minute of one core in bfloat16, both cores being busy,
a run 25 minutes with its scores; the one in float32 twice that. That run of full precision stands beside the one of the same
seed in bfloat16.
"""

from ..vision.grid import FULL
from ..vision.tuned import Setting
from ._tuned import best, chosen, finished, runs, table

SEEDS = (10, 11, 12)


def setting(method: str, bits: int) -> Setting:
    return best(table("cifar_trial"), method, bits) if bits == FULL else chosen(method, bits)


def plan() -> list[tuple]:
    full = [("Full precision", FULL, seed) for seed in SEEDS] if finished("cifar_trial", FULL) else []
    one = [(method, 1, seed) for seed in SEEDS for method in finished("tuning", 1)[:5]]
    pair = [("Full precision", FULL, SEEDS[0], False)] if full else []
    more = [(method, bits, SEEDS[0]) for bits in (2, 4) for method in finished("tuning_two_bits", 2)[:2]]
    return [*full[:1], *one[:5], *full[1:], *one[5:], *pair, *more]


EXPERIMENT = runs("cifar", __doc__.split("\n")[0].removesuffix("."), "cifar", plan(), hours=10, setting=setting)
