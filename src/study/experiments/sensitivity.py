"""How the methods on Tasks I and II depend on their settings: maps over step sizes, the push, the annealing and the dual step.

One row is one setting on one task, with 64 seeds (256 where the row's n says so). A setting that a method does not have is 0.
Every other setting of a map is the paper's (`PAPER`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from itertools import product
from types import MappingProxyType

import torch
from torch import Tensor

from quantized_training.constraints import PHI, PSI, Constraint
from quantized_training.levels import Levels
from quantized_training.methods import SGDA, ASkew, Method, ProxQuant
from quantized_training.schedules import Linear

from ..methods import BINARY
from ..runner import Experiment
from ..tasks import ensembles, logistic, moons
from ..tasks.ensembles import Trajectory, train

# --- What becomes of a weight ------------------------------------------------------------------------------------------------

BOUND = 1000.0  # a weight beyond it, or not finite, has diverged
WINDOW = 5  # epochs at the end that are looked at
FLIPPING = 0.05  # share of the window's steps in which the rounding changes
AT_MIDPOINT = 0.05  # distance to the midpoint, in all of the window
MOVING = 0.25  # range of a weight over the window
ON_LEVEL = 0.25  # distance to a level at the end, a quarter of the way to the midpoint of -1 and 1

#: From worst to best; a seed is in the worst state of its weights.
STATES = ("diverges", "oscillates", "midpoint", "moves", "elsewhere", "level")


def weight_states(latent: Tensor, window: int, levels: Levels = BINARY) -> Tensor:
    """The state of every weight as an index of `STATES`, (S, d), from the trajectory of latent weights (T + 1, S, d).

    The first that is true: diverges: some iterate is not finite or beyond `BOUND`. oscillates: the rounding changes in at
    least the share `FLIPPING` of the last `window` steps. midpoint: closer than `AT_MIDPOINT` to a midpoint after each of
    them. moves: the range over the window exceeds `MOVING`. level: within `ON_LEVEL` of a level at the end. elsewhere: at rest,
    but not there. Raises ValueError where the trajectory is shorter than the window.
    """
    if not 0 < window < len(latent):
        raise ValueError(f"window={window}: allowed is 1 to {len(latent) - 1}, the steps of the trajectory")
    late = latent[-window - 1 :]
    rounding, after = levels.nearest(late), late[1:]
    middle = torch.stack([(after - m).abs().amax(0) < AT_MIDPOINT for m in levels.midpoints]).any(0)
    rules = {
        "diverges": ~(latent.abs() <= BOUND).all(0),
        "oscillates": (rounding[1:] != rounding[:-1]).double().mean(0) >= FLIPPING,
        "midpoint": middle,
        "moves": late.amax(0) - late.amin(0) > MOVING,
        "elsewhere": (late[-1] - rounding[-1]).abs() > ON_LEVEL,
    }
    state = torch.full(latent.shape[1:], STATES.index("level"))
    for name, true in reversed(rules.items()):
        state[true] = STATES.index(name)
    return state


def last_inside(latent: Tensor) -> Tensor:
    """The iterate by which a seed is scored, (S, d): the last one, or the last before it left `BOUND`."""
    inside = (latent.abs() <= BOUND).all(-1).int().cumprod(0).sum(0)
    if not inside.all():
        raise ValueError("a seed starts beyond the bound")
    return latent[inside - 1, torch.arange(latent.shape[1])]


def last_change(latent: Tensor, levels: Levels = BINARY) -> Tensor:
    """After how many steps the rounded weights of a seed change for the last time, (S,); 0 where they never do."""
    rounding = levels.nearest(latent)
    changes = (rounding[1:] != rounding[:-1]).any(-1)
    return (changes * torch.arange(1, len(latent)).unsqueeze(1)).amax(0)


# --- The two tasks, safe for wild settings ---------------------------------------------------------------------------------


class _Guarded:
    """A seed beyond `BOUND` gets the gradient 0, so that its overflow stops nobody else."""

    def gradient(self, w: Tensor, batch: tuple[Tensor, ...], scratch: Tensor) -> Tensor:
        inside = (w.abs() <= BOUND).all(-1, keepdim=True)
        found = super().gradient(torch.where(inside, w, 0.0), batch, scratch)
        return torch.where(inside, found, 0.0)


@dataclass(frozen=True)
class TaskI(_Guarded, logistic.Ensemble):
    """Task I for wild settings."""

    loss = staticmethod(logistic.loss)

    def floor(self) -> Tensor:
        """The loss at w*, the best sign vector, (S,)."""
        return logistic.loss(self.w_star, self.z)


@dataclass(frozen=True)
class TaskII(_Guarded, moons.Ensemble):
    """Task II for wild settings."""

    loss = staticmethod(moons.loss)

    def floor(self) -> Tensor:
        """The loss of the best of the 512 one-bit networks, (S,)."""
        return moons.best_of_all(moons.HIDDEN, self)[0]


TASKS = {"I": (logistic, TaskI), "II": (moons, TaskII)}
PAPER = {"lr": 1.0, "clip": 1.0, "epsilon": 1.0, "ratio": 0.88, "hold": 1, "epochs": 25}
ALPHA = {"I": 0.1, "II": 4.0}


@functools.lru_cache(maxsize=4)
def draw(task: str, seeds: int | range = 64, epochs: int = 25, dtype: torch.dtype = torch.float64):
    """The task for some seeds, and its floor (S,): the smallest loss that one-bit weights can have."""
    module, kind = TASKS[task]
    drawn = module.draw(seeds, epochs=epochs)
    ensemble = kind(**{f.name: getattr(drawn, f.name) for f in fields(drawn)})
    ensemble = ensemble.to(dtype)
    floor = ensemble.to(torch.float64).floor()
    return ensemble, floor


# --- Settings ----------------------------------------------------------------------------------------------------------------

#: The columns that say what was run; 0 where the method has no such setting.
SETTINGS = MappingProxyType(
    {
        "method": "",
        "lr": 1.0,
        "alpha": 0.0,
        "clip": 0.0,
        "epsilon": 0.0,
        "ratio": 0.0,
        "hold": 0,
        "dual_lr": 0.0,
        "dual_max": 0.0,
        "strength": 0.0,
        "epochs": 25,
        "form": "package, float64",
    }
)
NORMS = {"ProxQuant (L1)": "l1", "ProxQuant (L2)": "l2", "ProxQuant (squared L2)": "squared_l2"}
CONSTRAINTS = {"ASkewSGD": PSI, "Modified ASkewSGD": PHI}


def annealing(epsilon: float, ratio: float, hold: int) -> Callable[[int], float]:
    """epsilon for `hold` epochs, then epsilon * ratio, epsilon * ratio^2, ...; the paper's is (1, 0.88, 1)."""
    return lambda t: epsilon * ratio ** max(0, t - hold + 1)


@dataclass(frozen=True)
class PrintedForm(Constraint):
    """(19) or (22) evaluated as it is printed, for two levels: the trap of low precision at eps = 1.

    A constraint that is not above 0 counts as infeasible, as below the paper's (21).
    """

    def push(self, w: Tensor, levels: Levels, epsilon: float) -> Tensor:
        a, b = levels.values
        product_ = (a - w) * (w - b)
        inside = epsilon - (product_ * product_ if self.name == "psi" else product_)
        beyond = w - w.clamp(a, b)
        outside = epsilon - (beyond * beyond if self.name == "psi" else beyond.abs())
        g = torch.where(beyond == 0, inside, outside)
        slope = self.derivative(w, levels, epsilon)
        least = torch.finfo(w.dtype).tiny  # what is 0 must not look free
        push = ((-g).clamp_min(least) / slope.abs()).clamp_min(least)
        return torch.where(g > 0, 0.0, torch.where(slope < 0, -push, push))


def _printed(constraint: Constraint) -> PrintedForm:
    return PrintedForm(*(getattr(constraint, f.name) for f in fields(Constraint)))


def build(setting: Mapping) -> Callable[[ensembles.Ensemble], Method]:
    """The function that makes a setting's method. Raises KeyError for an unknown method."""
    s = dict(setting)
    name = s["method"]
    if name in CONSTRAINTS:
        constraint = CONSTRAINTS[name]
        if s["form"].startswith("printed"):
            constraint = _printed(constraint)
        epsilon = annealing(s["epsilon"], s["ratio"], s["hold"])
        return lambda e: ASkew(BINARY, constraint, s["alpha"], s["clip"], epsilon, merged=True, allow_overshoot=True)
    if name == "SGDA":
        return lambda e: SGDA(BINARY, epsilon=s["epsilon"], dual_lr=s["dual_lr"], dual_max=s["dual_max"])
    if name in NORMS:
        return lambda e: ProxQuant(BINARY, Linear(s["strength"]), NORMS[name], ensemble=name == "ProxQuant (L2)")
    return ensembles.methods(s["alpha"])[name]


def score(run: Trajectory, ensemble: TaskI | TaskII, floor: Tensor) -> dict[str, Tensor]:
    """One number per seed (S,) for every statistic of a row, from a trajectory on that ensemble.

    quantised, latent: loss on the whole training set above the floor. optimum: whether the rounded weights reach the floor.
    feasible: share of the weights within `ON_LEVEL` of a level. last_change: epoch of the last change of a rounding;
    late: whether that is after the first epoch. The names of `STATES`: whether the seed is in that state.
    """
    w = last_inside(run.latent).double()
    q = BINARY.nearest(w)
    data = [t.double() for t in ensemble.data]
    quantised = ensemble.loss(q, *data) - floor
    state = weight_states(run.latent, WINDOW * ensemble.per_epoch).amin(1)
    changed = last_change(run.latent)
    return {
        "quantised": quantised,
        "latent": ensemble.loss(w, *data) - floor,
        "optimum": (quantised < 1e-9).double(),
        "feasible": ((w - q).abs() <= ON_LEVEL).double().mean(1),
        "last_change": changed / ensemble.per_epoch,
        "late": (changed > ensemble.per_epoch).double(),
        **{name: (state == i).double() for i, name in enumerate(STATES)},
    }


def rows(task: str, map_: str, settings: Iterable[Mapping], seeds: int | range = 64) -> list[dict]:
    """Train every setting on the same seeds and batches; one row each. All must agree in epochs and precision.

    mean, sd: of the quantised loss above the floor; every other statistic is a mean over the seeds.
    """
    torch.set_num_threads(1)
    full = [{**SETTINGS, **s} for s in settings]
    (epochs,), (dtype,) = {s["epochs"] for s in full}, {s["form"].split()[-1] for s in full}
    ensemble, floor = draw(task, seeds, epochs, getattr(torch, dtype))
    runs = train(
        {i: build(s) for i, s in enumerate(full)}, ensemble, {i: s["lr"] for i, s in enumerate(full)}, chunk=64
    )
    found = []
    for i, setting in enumerate(full):
        values = score(runs.pop(i), ensemble, floor)
        quantised = values.pop("quantised")
        statistics = {k: v.mean().item() for k, v in values.items()}
        found.append(
            {"map": map_, "task": task, **setting}
            | {"n": len(floor), "mean": quantised.mean().item(), "sd": quantised.std().item()}
            | {"latent": statistics.pop("latent"), "latent_sd": values["latent"].std().item(), **statistics}
        )
    return found


# --- Maps --------------------------------------------------------------------------------------------------------------------

RATES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
ALPHAS = (0.01, 0.03, 0.1, 0.3, 1.0, 4.0, 10.0)
CLIPS = ALPHAS
RATIOS = (0.5, 0.7, 0.88, 0.97, 1.0)
HOLDS = (0, 1, 2, 4, 8, 16)
STARTS = (0.01, 0.1, 0.3, 0.5, 0.9, 1.0)
DUAL_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
DUAL_LRS = (0.1, 0.3, 1.0, 3.0, 10.0)
TOLERANCES = (0.001, 0.01, 0.1, 0.5)
CAPS = (0.1, 1.0, 10.0)  # the last for eps = 0.01 alone
STRENGTHS = (1e-4, 1e-3, 2e-3, 1e-2, 1e-1, 1.0)

#: map -> (column on the horizontal axis, its values, column on the vertical axis, its values)
ASKEW_MAPS = {
    "alpha": ("lr", RATES, "alpha", ALPHAS),
    "clip": ("lr", RATES, "clip", CLIPS),
    "annealing": ("ratio", RATIOS, "hold", HOLDS),
    "start": ("ratio", RATIOS, "epsilon", STARTS),
}


def _grid(x: str, xs: Iterable, y: str, ys: Iterable, **rest) -> list[dict]:
    return [{**rest, x: a, y: b} for b, a in product(ys, xs)]


def _askew(task: str, method: str, map_: str) -> list[dict]:
    return rows(task, map_, _grid(*ASKEW_MAPS[map_], method=method, **paper(task, *ASKEW_MAPS[map_][::2])))


def paper(task: str, *without: str) -> dict:
    """The paper's settings of ASkewSGD on a task, without some of them."""
    return {k: v for k, v in {**PAPER, "alpha": ALPHA[task]}.items() if k not in without}


def _sgda(task: str, epsilon: float, dual_max: float) -> list[dict]:
    grid = _grid("lr", DUAL_LRS, "dual_lr", DUAL_RATES, method="SGDA", epsilon=epsilon, dual_max=dual_max)
    return rows(task, "dual", grid)


def _sgda_long(task: str) -> list[dict]:
    grid = _grid("lr", (1.0,), "dual_lr", DUAL_RATES, method="SGDA", epsilon=0.01, dual_max=1.0, epochs=200)
    return rows(task, "dual", grid)


def _prox(task: str, method: str) -> list[dict]:
    return rows(task, "strength", _grid("lr", RATES[:-1], "strength", STRENGTHS, method=method))


PLAIN = ("Full precision", "BinaryConnect", "BinaryConnect (deterministic)", "Straight-through")


def _rates(task: str) -> list[dict]:
    return rows(task, "rates", _grid("lr", (0.01, 0.03, *RATES), "method", PLAIN))


FORMS = tuple(f"{form}, {dtype}" for form in ("package", "printed") for dtype in ("float64", "float32"))


def _forms(task: str) -> list[dict]:
    found = []
    for form in FORMS:
        grid = _grid("ratio", (0.88, 1.0), "method", ("ASkewSGD",), form=form, **paper(task, "ratio"))
        found += rows(task, "forms", grid, seeds=256)
    return found


# --- The defaults of SGDA ------------------------------------------------------------------------------------------------------

CELLS = tuple(product(TASKS, (0.1, 0.3, 1.0)))  # (task, primal step) at which a choice must stand
DUAL = ("epsilon", "dual_lr", "dual_max")


def choose(rows: Iterable[Mapping]) -> list[dict]:
    """Settings of SGDA from the rows of the map "dual" with 25 epochs, the chosen one first.

    A candidate is (epsilon, dual_lr, dual_max) with a row for each of `CELLS`. It is out where a seed diverges in one of `CELLS`. worst: its largest mean
    quantised loss above the floor over these cells; se: the standard error of that mean. Those whose worst is within one
    standard error of the smallest are equals, and the one with the most feasible weights, averaged over the cells, is
    chosen (the smaller dual_max where these agree, too). The others follow by their worst.
    """
    found: dict[tuple, dict[tuple, Mapping]] = {}
    for row in rows:
        if row["map"] == "dual" and row["epochs"] == 25 and (row["task"], row["lr"]) in CELLS:
            found.setdefault(tuple(row[c] for c in DUAL), {})[row["task"], row["lr"]] = row
    candidates = []
    for key, cells in found.items():
        if len(cells) < len(CELLS) or any(row["diverges"] for row in cells.values()):
            continue
        worst = max(cells.values(), key=lambda row: row["mean"])
        feasible = sum(row["feasible"] for row in cells.values()) / len(cells)
        se = worst["sd"] / worst["n"] ** 0.5
        candidates.append(dict(zip(DUAL, key, strict=True)) | {"worst": worst["mean"], "se": se, "feasible": feasible})
    candidates.sort(key=lambda c: c["worst"])
    limit = candidates[0]["worst"] + candidates[0]["se"]
    best = max((c for c in candidates if c["worst"] <= limit), key=lambda c: (c["feasible"], -c["dual_max"]))
    return [best, *(c for c in candidates if c is not best)]


#: What the choice is compared with on seeds that it was not made on: the rule's choice among all, among each smaller epsilon,
#: and the package's defaults before.
VALIDATED = ((0.5, 1e-3, 1.0), (0.1, 3e-4, 1.0), (0.01, 3e-4, 1.0), (0.001, 3e-4, 1.0), (0.01, 1e-3, 1.0))
OTHERS = ("Full precision", "BinaryConnect", "ASkewSGD", "Modified ASkewSGD")
NEW_SEEDS = range(1000, 1256)


def _validation(task: str) -> list[dict]:
    rates = sorted({lr for t, lr in CELLS if t == task})
    duals = [{"method": "SGDA", **dict(zip(DUAL, v, strict=True)), "lr": lr} for v in VALIDATED for lr in rates]
    others = [
        {"method": name, **(paper(task, "lr") if name in CONSTRAINTS else {}), "lr": lr}
        for name in OTHERS
        for lr in rates
    ]
    return rows(task, "validation", duals + others, NEW_SEEDS)


def _checks(task: str) -> list[dict]:
    """What the page says in words about ASkewSGD, with more seeds: one change of the paper's setting each."""
    changes = [{}, *({"hold": m} for m in (2, 4, 16)), {"ratio": 0.5}, {"alpha": 0.01}, {"clip": 0.01}, {"lr": 3.0}]
    return rows(task, "checks", [{"method": m, **paper(task), **c} for m in CONSTRAINTS for c in changes], 256)


UNITS: dict[str, Callable[[], list[dict]]] = {
    **{
        f"{task}, {method}, {map_}": functools.partial(_askew, task, method, map_)
        for task in TASKS
        for method in CONSTRAINTS
        for map_ in ASKEW_MAPS
    },
    **{
        f"{task}, SGDA, ε = {epsilon:g}, λ ≤ {cap:g}": functools.partial(_sgda, task, epsilon, cap)
        for task in TASKS
        for epsilon in TOLERANCES
        for cap in CAPS[: 2 + (epsilon == 0.01)]
    },
    **{f"{task}, SGDA, 200 epochs": functools.partial(_sgda_long, task) for task in TASKS},
    **{f"{task}, {method}": functools.partial(_prox, task, method) for task in TASKS for method in NORMS},
    **{f"{task}, learning rates": functools.partial(_rates, task) for task in TASKS},
    **{f"{task}, precision": functools.partial(_forms, task) for task in TASKS},
    **{f"{task}, checks": functools.partial(_checks, task) for task in TASKS},
    **{f"{task}, validation": functools.partial(_validation, task) for task in TASKS},
}

EXPERIMENT = Experiment(
    "sensitivity",
    "What becomes of the methods on Tasks I and II as their settings vary: states, losses and feasibility, 64 seeds a setting.",
    UNITS,
)
