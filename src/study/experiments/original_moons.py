"""The two-moons table of the ASkewSGD paper (Leconte et al., 2023) with the settings of its public notebook: every method."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..methods import BINARY
from ..results import Row
from ..runner import Experiment
from ..statistics import compare, spread
from ..tasks import original_moons as om
from ..tasks.moons import Ensemble, combinations, one_bit_weights

SEEDS = 256
REPETITIONS = 5  # runs behind a number of the notebook
DATA = {"notebook": False, "own": True}
REFERENCE = "ASkewSGD"


def means_of_five(values: Tensor, draws: int = 4000) -> dict[str, float]:
    """Central 95 % of the mean over five different seeds, from one number per seed (S,)."""
    g = torch.Generator().manual_seed(0)
    chosen = torch.rand(draws, len(values), generator=g).argsort(1)[:, :REPETITIONS]
    low, high = torch.quantile(values[chosen].mean(1), torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return {"five_low": low, "five_high": high}


def searched(ensemble: Ensemble) -> tuple[Tensor, Tensor, Tensor]:
    """Of each data set, (S,): the least training loss of the 512 networks, that network's test loss, the least test loss."""
    sets = [
        [t[s] for t in (ensemble.x, ensemble.y, ensemble.test_x, ensemble.test_y)] for s in range(len(ensemble.seeds))
    ]
    one_of_each = torch.stack([one_bit_weights(c, om.HIDDEN) for c in combinations(om.HIDDEN)])  # 96 of the 512
    shared = sets[0][0].equal(sets[-1][0])
    found = []
    for points in sets[:1] if shared else sets:
        _, train, test = om.one_bit(*points, w=one_of_each)
        found.append(torch.stack([train.min(), test[train.argmin()], test.min()]))
    return torch.stack(found * (len(sets) if shared else 1)).unbind(1)


def _row(data: str, method: str, score: str, value: Tensor, best: Tensor, extra: dict, reference: Tensor) -> Row:
    against = compare(value, reference)
    return (
        {"data": data, "method": method, "score": score}
        | spread(value)
        | {"median": value.median().item(), "below_best": (value < best - 1e-9).double().mean().item()}
        | {"wins": against.wins, "ties": against.ties}
        | dict(zip(("wins_low", "wins_high"), map(float, against.confidence), strict=True))
        | means_of_five(value)
        | extra
    )


def method_rows(data: str, method: str, seeds: int = SEEDS) -> list[Row]:
    """One row per score of a method.

    below_best: share of seeds with a smaller value than any of the 512 one-bit networks has on the test points (on the
    training points for the score of that name). wins, ties: share of seeds on which the value is smaller than, or equal to,
    ASkewSGD's. five_low, five_high: central 95 % of means over five seeds. optimum: share of seeds whose signs have the
    least training loss of all; near: at most 0.0005 more. late: share of seeds with a change of sign, from one epoch's end to another's, while
    epsilon < 1. least, size: least and mean modulus of the latent weights at the end.
    """
    e = om.draw(seeds, own_data=DATA[data])
    run, reference = (om.train(om.SETTINGS[name], e) for name in (method, REFERENCE))
    best_train, _, best_test = searched(e)
    scored, against = om.scores(run, e, method), om.scores(reference, e, REFERENCE)
    signs = BINARY.nearest(run.latent)
    extra = {
        "optimum": (scored["training"] < best_train + 1e-6).double().mean().item(),
        "near": (scored["training"] < best_train + 5e-4).double().mean().item(),
        "late": (signs[om.CONSTANT + 2 :] != signs[om.CONSTANT + 1 : -1]).any(0).any(-1).double().mean().item(),
        "least": run.latent[-1].abs().min().item(),
        "size": run.latent[-1].abs().mean().item(),
    }
    return [
        _row(data, method, score, value, best_train if score == "training" else best_test, extra, against[score])
        for score, value in scored.items()
    ]


def search_rows(data: str, seeds: int = SEEDS) -> list[Row]:
    """The best of the 512 networks, beside ASkewSGD's signs with their own statistics."""
    e = om.draw(seeds, own_data=DATA[data])
    best_train, at_best, best_test = searched(e)
    against = om.scores(om.train(om.SETTINGS[REFERENCE], e), e, REFERENCE)
    extra = {"optimum": 1.0, "near": 1.0, "late": 0.0, "least": 1.0, "size": 1.0}
    name = "Exhaustive search"
    return [
        _row(data, name, "training", best_train, best_train, extra, against["training"]),
        _row(data, name, "re-estimated", at_best, best_test, extra, against["re-estimated"]),
    ]


EXPERIMENT = Experiment(
    "original_moons",
    "the two moons of the ASkewSGD paper with its notebook's settings: test losses, read in five ways, paired over seeds",
    {f"{method}, {data} data": partial(method_rows, data, method) for data in DATA for method in om.SETTINGS}
    | {f"Exhaustive search, {data} data": partial(search_rows, data) for data in DATA},
)
