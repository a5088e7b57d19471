"""All methods and today's rivals under one protocol and one budget: six settings each, chosen beforehand, on held-out images.

A setting is a learning rate at the start of half a cosine and, where a method has one, a constant of its own. The network
has the scaled levels of Task III's grid (two rivals choose or learn their scales), all its layers are quantised.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path

import torch

from quantized_training import layers
from quantized_training.constraints import PHI, PSI, Constraint, late_annealing
from quantized_training.levels import Levels
from quantized_training.methods import SGDA, ASkew, BinaryConnect, FullPrecision, Method, ProxQuant, StraightThrough
from quantized_training.schedules import Cosine, Linear

from ..datasets import image_sets
from ..datasets.image_sets import Images
from ..results import Value
from . import networks, rivals
from .grid import FULL, RECORD
from .on_device import half, multiplies_bfloat16
from .training import Diverged, train_images


@dataclass(frozen=True)
class Protocol:
    """What all runs of a table share: as `grid.Profile`, without a learning rate.

    train, test: how many images, equally many of each class (None: all). held_out: in place of the test images, so many of
    the training images (the last ones of each class among `train`), which are then not trained on; 0: test images. half:
    bfloat16 where the processor multiplies it natively (a GPU always has it). network: of `networks`.
    """

    name: str
    images: str
    train: int | None
    test: int | None
    held_out: int
    width: int
    stride: int
    epochs: int
    batch: int
    half: bool = False
    network: str = "resnet20"
    device: str = "cpu"

    @property
    def precision(self) -> str:
        native = multiplies_bfloat16() if self.device == "cpu" else torch.cuda.get_device_capability() >= (8, 0)
        return "bfloat16" if self.half and native else "float32"


PROTOCOLS = {
    p.name: p
    for p in (
        Protocol("subset, held out", "cifar-10", 10_000, None, 2_000, 8, 2, 20, 64),
        Protocol("subset", "cifar-10", 10_000, 2_000, 0, 8, 2, 20, 64),
        Protocol("cifar, trial", "cifar-10", None, None, 5_000, 16, 1, 5, 128, half=True),
        Protocol("cifar", "cifar-10", None, None, 0, 16, 1, 20, 128, half=True),
        Protocol("gpu", "cifar-10", None, None, 0, 64, 1, 20, 256, half=True, network="resnet18", device="cuda"),
    )
}


def split(images: Images, held_out: int) -> Images:
    """The training images without the last held_out / classes of each class, which take the place of the test images.

    Raises ValueError where the number is no multiple of the classes or leaves a class without images."""
    classes, y = len(images.classes), images.train_y
    fewest = int(torch.bincount(y, minlength=classes).min())
    if held_out % classes or not 0 < held_out < fewest * classes:
        raise ValueError(f"held_out={held_out}: allowed are multiples of {classes} below {fewest * classes}")
    kept = torch.ones(len(y), dtype=torch.bool)
    for c in range(classes):
        kept[(y == c).nonzero()[-held_out // classes :, 0]] = False
    places = {"train": kept.nonzero()[:, 0], "test": (~kept).nonzero()[:, 0]}
    parts = {f"{part}_{k}": getattr(images, f"train_{k}")[i] for part, i in places.items() for k in "xy"}
    inexact = {f"{p}_inexact": torch.isin(i, images.train_inexact).nonzero()[:, 0] for p, i in places.items()}
    return Images(images.name, images.classes, **parts, origin=images.origin, **inexact)


@cache
def images(protocol: Protocol) -> Images:
    """The images of a protocol, from the folder QT_DATA where it is set. Raises as `image_sets.load` does."""
    folder = os.environ.get("QT_DATA")
    found = image_sets.load(protocol.images, folder and Path(folder), progress=False)
    if protocol.train is not None or protocol.test is not None:
        found = found.subset(protocol.train or len(found.train_y), protocol.test or None)
    return split(found, protocol.held_out) if protocol.held_out else found


# Methods


@dataclass(frozen=True)
class Start:
    """What a method is made from: its levels, epochs and training steps of the run, training images, the seed."""

    levels: Levels
    epochs: int
    steps: int
    images: int
    seed: int


@dataclass(frozen=True)
class Setting:
    """lr: at the start. constants: of the method, by their names; "weight_decay" is the base optimizer's."""

    lr: float
    constants: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:g}" for name, value in (("lr", self.lr), *self.constants))


@dataclass(frozen=True)
class Kind:
    """make: (start, **constants) -> method. settings: six. bits: at which the method exists. source: of the method and of
    the settings, in a few words. own_scales: each layer has levels of its own. chain_rule: see `rivals.chain_rule`."""

    make: Callable[..., Method]
    settings: tuple[Setting, ...]
    source: str
    bits: tuple[int, ...] = (1, 2, 4)
    own_scales: bool = False
    chain_rule: bool = False


def _settings(rates: Sequence[float], **constants: Sequence[float]) -> tuple[Setting, ...]:
    """The product of learning rates and values of the constants, which must be six."""
    found = tuple(
        Setting(lr, tuple(zip(constants, values, strict=True))) for lr, *values in product(rates, *constants.values())
    )
    assert len(found) == 6
    return found


RATES = (0.01, 0.025, 0.063, 0.16, 0.4, 1.0)  # where the learning rate is all there is
THREE = (0.03, 0.1, 0.3)


def _askew(constraint: Constraint, start: Start, begin: float) -> Method:
    """Without a constraint for the share `begin` of the epochs, then annealed as the grid does."""
    epsilon = late_annealing(constraint, start.levels, start.epochs, round(begin * start.epochs))
    return ASkew(start.levels, constraint, alpha=0.5, clip=1.0, epsilon=epsilon, merged=True)


def _sgda(start: Start, dual_max: float) -> Method:
    return SGDA(start.levels, 0.05 * PHI.largest_epsilon(start.levels), dual_lr=1e-4, dual_max=dual_max)


def _frozen(start: Start, last: float) -> Method:
    """Rounded for good after two thirds of the epochs (authors: 200 of 300), each step's move being `last` then."""
    freeze = round(2 / 3 * start.epochs)
    return rivals.FrozenProxQuant(start.levels, last / freeze, freeze)


def _binary_relax(start: Start, end: float) -> Method:
    return rivals.TorchAO(start.levels, "binaryrelax", start.steps, end=end)


def _parq(start: Start, steepness: float) -> Method:
    return rivals.TorchAO(start.levels, "parq", start.steps, end=0.9, steepness=steepness)


def _bayes(start: Start, rate: float, temperature: float) -> Method:
    return rivals.BayesBiNN(start.levels, start.images, rate, temperature, seed=start.seed)


METHODS = {
    "Full precision": Kind(
        lambda start: FullPrecision(start.levels),
        _settings(THREE, weight_decay=(5e-4, 2e-3)),
        "SGD with momentum 0.9",
        (FULL,),
    ),
    "BinaryConnect": Kind(
        lambda start: BinaryConnect(start.levels, seed=start.seed),
        _settings(RATES),
        "Courbariaux et al. (2015), stochastic rounding (4)",
    ),
    "BinaryConnect, deterministic": Kind(
        lambda start: BinaryConnect(start.levels, stochastic=False),
        _settings(RATES),
        "Courbariaux et al. (2015), nearest level (1); on evenly spaced levels the k-bit straight-through (5)",
    ),
    "Straight-through": Kind(lambda start: StraightThrough(start.levels), _settings(RATES), "the paper's (1) and (3)"),
    "ProxQuant (L1)": Kind(
        lambda start, strength: ProxQuant(start.levels, Linear(strength / start.epochs)),
        _settings(THREE, strength=(0.5, 2.0)),
        "the paper's (6): the move is the learning rate times a strength that grows to this one",
    ),
    "ProxQuant, own schedule": Kind(
        _frozen,
        _settings(THREE, last=(0.005, 0.02)),
        "Bai et al. (2018): the move grows with the epochs alone (authors: to 0.02), rounded for good at 2/3",
    ),
    "ASkewSGD": Kind(
        partial(_askew, PSI),
        _settings(THREE, begin=(0.5, 0.75)),
        "Leconte et al. (2023), constraint (19); annealed from this share of the epochs on",
    ),
    "Modified ASkewSGD": Kind(
        partial(_askew, PHI), _settings(THREE, begin=(0.5, 0.75)), "the paper's (22); annealed from this share on"
    ),
    "SGDA": Kind(_sgda, _settings(THREE, dual_max=(0.02, 0.1)), "the paper's Algorithm 2; epsilon 0.05, dual_lr 1e-4"),
    "LSQ": Kind(
        lambda start, step_rate: rivals.LSQ(start.levels, step_rate),
        _settings(THREE, step_rate=(0.01, 0.1)),
        "Esser et al. (2020): one learned step for each layer, at this part of the learning rate",
        own_scales=True,
    ),
    "PARQ": Kind(
        _parq,
        _settings(THREE, steepness=(1.0, 10.0)),
        "Jin et al. (2025), torchao's; annealed over 90 % of the steps with this steepness",
        own_scales=True,
    ),
    "BinaryRelax": Kind(
        _binary_relax,
        _settings(THREE, end=(0.75, 0.95)),
        "Yin et al. (2018), torchao's; rounded for good from this share of the steps on",
        own_scales=True,
    ),
    "BayesBiNN": Kind(
        _bayes,
        _settings((0.1,), rate=(1e-4, 1e-3, 1e-2), temperature=(1e-10, 0.5)),
        "Meng et al. (2020), one sample a step; temperature 1e-10 is that of the authors' code",
        (1,),
        chain_rule=True,
    ),
}


# Where a constant's next value is not one more step by the same factor: a share of the run, a limit of what is meant
BEYOND = {
    ("begin", 0.5): 0.25,
    ("begin", 0.75): 0.875,
    ("end", 0.75): 0.5,
    ("end", 0.95): 0.98,
    ("temperature", 1e-10): 1e-2,
    ("temperature", 0.5): 1.0,
}


def _next(name: str, values: Sequence[float], value: float, upwards: bool) -> float:
    """From a value of a grid: halfway (geometrically) to its neighbour, at the edge one more step by the same factor."""
    if (name, value) in BEYOND:
        return BEYOND[name, value]
    values = sorted(values)
    i = values.index(value)
    j = i + (1 if upwards else -1)
    found = math.sqrt(value * values[j]) if 0 <= j < len(values) else value * value / values[i - (j - i)]
    return float(f"{found:.2g}")


def second_round(method: str, scores: Mapping[Setting, float]) -> tuple[Setting, Setting]:
    """Two more settings of a method, by one rule for all: from the best one, one constant at a time is moved outwards where
    it lies at an edge of its grid and else halfway to the better of its neighbours; a method with nothing but a learning
    rate moves it both ways. scores: of the six. Raises ValueError where every setting diverged."""
    settings = METHODS[method].settings
    good = {s: scores[s] for s in settings if math.isfinite(scores[s])}
    if not good:
        raise ValueError(f"{method}: every setting diverged")
    best = max(good, key=good.get)
    grids = {"lr": [s.lr for s in settings]} | {
        name: [dict(s.constants)[name] for s in settings] for name, _ in best.constants
    }
    grids = {name: sorted(set(values)) for name, values in grids.items() if len(set(values)) > 1}
    here = {"lr": best.lr} | dict(best.constants)

    def moved(name: str, upwards: bool) -> Setting:
        new = here | {name: _next(name, grids[name], here[name], upwards)}
        return Setting(new["lr"], tuple((n, new[n]) for n, _ in best.constants))

    def better(name: str) -> bool:
        """Whether to go upwards."""
        values, beside = grids[name], {}
        i = values.index(here[name])
        if i in (0, len(values) - 1):
            return i > 0
        for j in (i - 1, i + 1):
            there = here | {name: values[j]}
            beside[j] = good.get(Setting(there["lr"], tuple((n, there[n]) for n, _ in best.constants)), -math.inf)
        return not beside[i - 1] > beside[i + 1]

    if len(grids) == 1:
        (name,) = grids
        return moved(name, False), moved(name, True)
    return tuple(moved(name, better(name)) for name in grids)


def train(
    protocol: Protocol,
    method: str,
    bits: int,
    setting: Setting,
    seed: int,
    checkpoint: Path | None = None,
    data: Images | None = None,
) -> list[dict[str, Value]]:
    """Train one network: a row of `grid.RECORD` for each epoch; where the loss became NaN the last one holds NaN."""
    data, kind, levels = (
        images(protocol) if data is None else data,
        METHODS[method],
        Levels.for_bits(1 if bits == FULL else bits),
    )
    n = len(data.train_y)
    start = Start(levels, protocol.epochs, n // protocol.batch * protocol.epochs, n, seed)
    constants = dict(setting.constants)
    decay = constants.pop("weight_decay", 5e-4)  # of what is not quantised

    def network() -> torch.nn.Module:
        model = getattr(networks, protocol.network)(
            len(data.classes), data.train_x.shape[1], protocol.width, protocol.stride
        )
        layers.scale_layers(model, levels)
        return rivals.chain_rule(model) if kind.chain_rule else model

    def groups(model: torch.nn.Module) -> list[dict]:
        found = layers.groups(model, levels=levels)
        return rivals.one_each(found) if kind.own_scales else found

    try:
        with half(protocol.precision == "bfloat16"):
            record = train_images(
                data,
                network,
                lambda: kind.make(start, **constants),
                groups,
                epochs=protocol.epochs,
                batch=protocol.batch,
                lr=Cosine(setting.lr, protocol.epochs),
                weight_decay=decay,
                seed=seed,
                device=protocol.device,
                checkpoint=checkpoint,
                progress=False,
            ).record
    except Diverged as error:
        record = error.run.record if error.run else []
        record = [*record, dict.fromkeys(RECORD, math.nan) | {"epoch": len(record) + 1}]
    return [{name: row[name] for name in RECORD} for row in record]
