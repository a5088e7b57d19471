"""The second round of `tuning`: two more settings of each method, where its best one of six points to."""

from functools import partial

from ..runner import Experiment
from ..vision.grid import FULL
from ..vision.tuned import METHODS
from ._tuned import note_of, searched_again, second

PROTOCOL = "subset, held out"


def _settled(method: str, bits: int) -> bool:
    try:
        return bool(second(method, bits, 0))
    except ValueError:  # the first round is not finished
        return False


PLACES = {
    f"{method}, {bits} bits, {word}, seed {seed}": (method, bits, k, seed)
    for seed in (0, 1)
    for bits in (1, FULL)
    for method, kind in METHODS.items()
    if bits in kind.bits and _settled(method, bits)
    for k, word in enumerate(("first", "second"))
}


def setting(key: str) -> str:
    return str(second(*PLACES[key][:3]))


EXPERIMENT = Experiment(
    "tuning_second",
    __doc__.removesuffix("."),
    {key: partial(searched_again, PROTOCOL, *place) for key, place in PLACES.items()},
    version="1",
    hours=2,
    depends=setting,
    note=partial(note_of, PROTOCOL),
)
