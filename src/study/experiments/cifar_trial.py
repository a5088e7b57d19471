"""Full precision on 45,000 training images of CIFAR-10, scored on 5,000 others: six settings, five epochs each."""

from functools import partial

from ..runner import Experiment
from ..vision.grid import FULL
from ..vision.tuned import METHODS
from ._tuned import note_of, searched

PROTOCOL = "cifar, trial"

EXPERIMENT = Experiment(
    "cifar_trial",
    __doc__.removesuffix("."),
    {
        f"Full precision, {setting}": partial(searched, PROTOCOL, "Full precision", FULL, k, 0)
        for k, setting in enumerate(METHODS["Full precision"].settings)
    },
    version="1",
    hours=1,
    note=partial(note_of, PROTOCOL),
)
