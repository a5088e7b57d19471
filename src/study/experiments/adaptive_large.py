"""BAMSProd's experiments that are too large for minutes on a CPU: seven optimizers on four binary networks.

    python -m study.experiments make adaptive_small_tuning    four settings of each, on validation data
    python -m study.experiments make adaptive_small           the best of them, three to six seeds
    python -m study.experiments make adaptive_large           the same at full width on a GPU, one seed

In a task all optimizers have the same batches, number of updates and cosine of the learning rate, epoch by epoch; full
precision with Adam, tuned alike, stands beside them. QT_DATA: a folder with the unpacked sets (cifar-10, ptb, bccd) in place
of downloads.

The profile small took five and a half hours of two cores, with other work beside it: narrow networks, in bfloat16 where
the processor multiplies it natively and where this is faster (the LSTM gains nothing by it, depth-wise convolutions lose:
both stay in float32), 15,000 or 10,000 images of CIFAR-10, all of Penn Treebank, blood cells at 160 x 120. An epoch of
the tests took one core (medians): ResNet 17 s, MobileNet 27 s, LSTM 96 s, detector 0.5 s. Images and detector are tested
with as many epochs as they were tuned with, or nearly. Three seeds each; ResNet-34 and detector, which are quick, got
three more when the first three told nearly nothing apart.
The profile gpu takes the settings that the small one chose, and so many epochs that one network with all optimizers and full
precision should take less than 8 minutes of one H200 (see `GPU_SECONDS`); a call that is stopped goes on where it was. It has
never been run. The source trains longer: 200 epochs on CIFAR-10, 250 on Penn Treebank.
The profile tiny is the same code in seconds; it shows that everything works, and nothing about the optimizers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from quantized_training.schedules import Cosine

from .. import results
from ..datasets import blood_cells, image_sets, text
from ..results import Row
from ..runner import Experiment
from ..tasks.binary_optimizers import OPTIMIZERS, Setting, build, clip_norms
from ..vision import binary_models, detection
from ..vision.binary_models import Detector, Language, MobileNetV2
from ..vision.on_device import REACH, augment, half, multiplies_bfloat16, predict, stopwatch

FULL = "Adam, full precision"
FLOAT32 = f"{FULL} in float32"  # beside bfloat16, with its setting, one seed
NAMES = (*OPTIMIZERS, FULL)
Part = tuple[Tensor, ...]


class Data(NamedTuple):
    """note: what belongs beside every number measured on them, see `image_sets.Images`."""

    train: Part
    valid: Part
    test: Part
    note: str = ""


def _folder() -> str | None:
    return os.environ.get("QT_DATA")


@cache
def cifar(train: int = 45_000, held_out: int = 10_000) -> Data:
    """Images and labels of CIFAR-10: the first `train` training images, the 5,000 after the first 45,000 (at most `held_out`)
    for validation, the first `held_out` test images."""
    images = image_sets.load("cifar-10", _folder(), progress=False)
    x, y = images.train_x, images.train_y
    valid = slice(45_000, 45_000 + min(5_000, held_out))
    test = images.test_x[:held_out], images.test_y[:held_out]
    return Data((x[:train], y[:train]), (x[valid], y[valid]), test, images.note)


@cache
def treebank(most: int | None = None, streams: int = 20) -> Data:
    """Words in `streams` pieces of the text, (streams, length); at most the first `most` words of each part. The fewer than
    `streams` words that are left over are not used."""
    found = text.load(_folder(), progress=False)
    parts = (part[:most] for part in (found.train, found.valid, found.test))
    return Data(*((part[: len(part) // streams * streams].view(streams, -1),) for part in parts))


@cache
def blood(size: tuple[int, int] = (320, 240), most: int | None = None) -> Data:
    parts = blood_cells.load(size, _folder(), progress=False)
    return Data(*((p.images[:most], p.boxes[:most], p.labels[:most]) for p in parts))


# What differs between the tasks: the losses of an epoch's batches, and the score. `blind`: that of the best network that does
# not look at its input.


def _outputs(model: nn.Module, x: Tensor) -> Tensor:
    """Outputs of a network for images as bytes, brought to [-1, 1]; on a GPU that has it, computed in bfloat16."""
    half = torch.full((x.shape[1],), 0.5, device=x.device)
    return predict(model, x, half, half)


def _batches(n: int, batch: int, draws: torch.Generator, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices of each whole batch of an epoch in random order, and which of its images are mirrored."""
    order, flip = torch.randperm(n, generator=draws), torch.randint(2, (n,), generator=draws) == 1
    for k in range(0, n - batch + 1, batch):
        yield order[k : k + batch].to(device), flip[k : k + batch].to(device)


class Images:
    """Classification: images mirrored with probability 1/2 and shifted by up to 4 pixels, cross entropy, accuracy."""

    score, best, blind = "accuracy", max, 0.1

    @staticmethod
    def losses(model: nn.Module, part: Part, batch: int, draws: torch.Generator) -> Iterator[Tensor]:
        x, y = part
        for i, flip in _batches(len(x), batch, draws, x.device):
            shifts = torch.randint(-REACH, REACH + 1, (2, batch), generator=draws).to(x.device)
            yield cross_entropy(_outputs(model, augment(x[i], flip, *shifts)), y[i])

    @staticmethod
    def measure(model: nn.Module, part: Part) -> float:
        x, y = part
        found = torch.cat([_outputs(model, piece).argmax(1) for piece in x.split(1000)])
        return (found == y).double().mean().item()


class Words:
    """Language: the next word from those before, `STEPS` words at a time, with the state carried on; perplexity. `batch` is
    the number of streams, which the data have already."""

    score, best, blind = "perplexity", min, 639.3  # each word as often as in the training text, on the test text
    STEPS = 35

    @staticmethod
    def _pieces(model: nn.Module, words: Tensor) -> Iterator[tuple[Tensor, int]]:
        """Mean cross entropy of each piece and the number of its words."""
        state = None
        for k in range(0, words.shape[1] - 1, Words.STEPS):
            y = words[:, k + 1 : k + 1 + Words.STEPS]
            out, state = model(words[:, k : k + y.shape[1]], state)
            state = tuple(s.detach() for s in state)
            yield cross_entropy(out.flatten(0, 1), y.flatten()), y.numel()

    @staticmethod
    def losses(model: nn.Module, part: Part, batch: int, draws: torch.Generator) -> Iterator[Tensor]:
        return (loss for loss, _ in Words._pieces(model, part[0]))

    @staticmethod
    def measure(model: nn.Module, part: Part) -> float:
        """exp of the mean cross entropy over all words but the first of each stream; inf where that is no number any more."""
        sums, counts = zip(*((loss.item() * n, n) for loss, n in Words._pieces(model, part[0])), strict=True)
        mean = sum(sums) / sum(counts)
        return math.exp(mean) if mean < 700 else math.inf


class Boxes:
    """Detection: images mirrored with probability 1/2, `detection.loss`, mean average precision at an overlap of 1/2."""

    score, best, blind = "mAP", max, 0.027  # the same boxes in every image, learned with the loss

    @staticmethod
    def losses(model: nn.Module, part: Part, batch: int, draws: torch.Generator) -> Iterator[Tensor]:
        x, boxes, labels = part
        for i, flip in _batches(len(x), batch, draws, x.device):
            mirrored = torch.stack([1 - boxes[i, :, 2], boxes[i, :, 1], 1 - boxes[i, :, 0], boxes[i, :, 3]], -1)
            images = torch.where(flip[:, None, None, None], x[i].flip(3), x[i])
            there = torch.where(flip[:, None, None], mirrored, boxes[i])
            yield detection.loss(_outputs(model, images), there, labels[i])

    @staticmethod
    def measure(model: nn.Module, part: Part) -> float:
        x, boxes, labels = part
        out = torch.cat([_outputs(model, piece) for piece in x.split(20)])
        return detection.mean_average_precision(out, boxes, labels)


@dataclass(frozen=True)
class Task:
    """kind: one of the classes above. epochs: of a run for testing; tuning: of a run for tuning. half: in bfloat16 on a
    processor that multiplies it natively. seeds: of the tests, 1 to this; the tuning has seed 0."""

    kind: type[Images] | type[Words] | type[Boxes]
    network: Callable[[], nn.Module]
    data: Callable[[], Data]
    batch: int
    epochs: int
    tuning: int
    half: bool = False
    seeds: int = 1

    @property
    def precision(self) -> str:
        return "bfloat16" if self.half and multiplies_bfloat16() else "float32"


PROFILES = {
    "gpu": {
        "ResNet-34": Task(Images, binary_models.resnet34, cifar, 128, 18, 0),
        "MobileNetV2": Task(Images, MobileNetV2, cifar, 128, 12, 0),
        "LSTM": Task(Words, Language, treebank, 20, 4, 0),
        "detector": Task(Boxes, Detector, blood, 8, 23, 0),
    },
    "small": {
        "detector": Task(Boxes, partial(Detector, width=16), partial(blood, (160, 120)), 8, 30, 30, True, 6),
        "ResNet-34": Task(
            Images, partial(binary_models.resnet34, width=8), partial(cifar, 15_000, 2_000), 128, 6, 6, True, 6
        ),
        "MobileNetV2": Task(
            Images, partial(MobileNetV2, width=0.25, last=320), partial(cifar, 10_000, 2_000), 64, 5, 3, seeds=3
        ),
        "LSTM": Task(Words, partial(Language, hidden=64, dropout=0.1), treebank, 20, 3, 1, seeds=3),
    },
    "tiny": {
        "ResNet-34": Task(Images, partial(binary_models.resnet34, width=4), partial(cifar, 64, 40), 16, 2, 1),
        "MobileNetV2": Task(Images, partial(MobileNetV2, width=0.25, last=64), partial(cifar, 64, 40), 16, 2, 1),
        "LSTM": Task(Words, partial(Language, hidden=16), partial(treebank, 1000, 4), 4, 2, 1),
        "detector": Task(Boxes, partial(Detector, width=4), partial(blood, (64, 48), 16), 4, 2, 1),
    },
}
#: An epoch of the profile gpu on one H200, estimated from counted operations.
GPU_SECONDS = {"ResNet-34": 3.0, "MobileNetV2": 4.5, "LSTM": 13.0, "detector": 2.3}


def train(
    task: Task, optimiser: str, setting: Setting, part: str, seed: int, device: str | torch.device = "cpu"
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train one network: it, with its binary weights on their levels, and for each epoch its loss, score and seconds.

    optimiser: of `NAMES`. part: "tuning", scored on the validation data, or "test". The loss is the mean over the epoch's batches. Where a gradient
    is not finite the run ends, its last row holds NaN. The same seed gives the same run on a CPU.
    """
    device = torch.device(device)
    training, valid, test = (tuple(t.to(device) for t in p) for p in task.data()[:3])
    record, epochs = [], task.tuning if part == "tuning" else task.epochs
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model = task.network().to(device, memory_format=torch.channels_last)
        draws = torch.Generator().manual_seed(seed)
        name, binary = ("Adam", False) if optimiser in (FULL, FLOAT32) else (optimiser, True)
        optimizers = build(name, setting, binary_models.groups(model), binary=binary)
        rates = [(group, Cosine(group["lr"], max(epochs, 1))) for o in optimizers for group in o.param_groups]
        updates = 0
        for epoch in range(epochs):
            for group, rate in rates:
                group["lr"] = rate(epoch)
            # a sum: the loss of each batch kept by itself would keep the memory around it from being used again
            seconds, total, batches = stopwatch(device), torch.zeros((), dtype=torch.float64, device=device), 0
            try:
                for loss in task.kind.losses(model.train(), training, task.batch, draws):
                    model.zero_grad()
                    loss.backward()
                    if setting.clip < math.inf:
                        clip_norms(model.parameters(), setting.clip)
                    for o in optimizers:
                        o.step()
                    total += loss.detach()
                    batches += 1
            except FloatingPointError:
                nothing = dict.fromkeys(("loss", "score", "seconds"), math.nan)
                record.append({"epoch": epoch + 1, "updates": updates} | nothing)
                break
            updates += batches
            row = {"epoch": epoch + 1, "updates": updates, "loss": total.item() / batches}
            seconds = seconds()
            with torch.no_grad():
                row["score"] = task.kind.measure(model.eval(), valid if part == "tuning" else test)
            record.append(row | {"seconds": seconds})
    return model, record


def settings(optimiser: str) -> list[Setting]:
    """Four for each: rates ten times apart, or two of each of two constants. Those of SGD(M) are a tenth of what
    `OPTIMIZERS` has, as levels are as large as the weights here, not 1; so are AdaBound's final rates, which are SGD's."""
    if optimiser == "Bop":
        return [
            Setting(gamma, {"threshold": tau})
            for gamma, tau in ((1e-4, 1e-8), (1e-3, 1e-8), (1e-3, 1e-6), (1e-2, 1e-6))
        ]
    first = OPTIMIZERS["Adam" if optimiser == FULL else optimiser].settings[0]
    if "final_lr" in first.extra:
        return [
            replace(first, lr=lr, extra=first.extra | {"final_lr": final})
            for lr in (1e-3, 1e-2)
            for final in (0.03, 0.3)
        ]
    scale = 10.0 if optimiser == "SGD(M)" else 1.0
    return [replace(first, lr=scale * lr) for lr in (1e-4, 1e-3, 1e-2, 1e-1)]


def unit(profile: str, name: str, optimiser: str, part: str, which: int) -> Sequence[Row]:
    """The rows of one run, one per epoch. which: the setting's place among the optimizer's in tuning, the seed in the test."""
    task, device = PROFILES[profile][name], "cuda" if profile == "gpu" else "cpu"
    task = replace(task, half=False) if optimiser == FLOAT32 else task
    setting = settings(optimiser)[which] if part == "tuning" else best(name, optimiser)
    seed = 0 if part == "tuning" else which
    about = {"task": name, "optimiser": optimiser, "setting": str(setting), "part": part, "seed": seed}
    about |= {"batch": task.batch, "measure": task.kind.score, "precision": task.precision}
    with half(task.precision == "bfloat16"):
        return [about | row for row in train(task, optimiser, setting, part, seed, device)[1]]


def tuned(rows: Sequence[Row], name: str, optimiser: str) -> dict[str, float]:
    """Of rows of the tuning: setting -> score after the last epoch, NaN where it diverged."""
    mine = (r for r in rows if (r["task"], r["optimiser"]) == (name, optimiser))
    return {r["setting"]: float(r["score"]) for r in mine}  # epoch by epoch


def best(name: str, optimiser: str, rows: Sequence[Row] | None = None) -> Setting:
    """The setting with the best score after the last epoch of tuning, the first of several, and of all where all diverged.

    rows: of the tuning, by default those that are stored. Raises as `results.read` where they are not, ValueError where a
    setting has not been run."""
    optimiser = FULL if optimiser == FLOAT32 else optimiser
    last = tuned(results.read("adaptive_small_tuning") if rows is None else rows, name, optimiser)
    if missing := [str(s) for s in settings(optimiser) if str(s) not in last]:
        raise ValueError(
            f"{name}, {optimiser}: {missing[0]} has not been run; `make results ONLY=adaptive_small_tuning` goes on"
        )
    good = [s for s in settings(optimiser) if math.isfinite(last[str(s)])]
    return PROFILES["small"][name].kind.best(good, key=lambda s: last[str(s)]) if good else settings(optimiser)[0]


def _chosen(key: str) -> str:
    """What a unit of the tests depends on besides its key; nothing is chosen as long as the tuning is not finished."""
    name, rest = key.split(", ", 1)
    try:
        return str(best(name, rest.rpartition(", ")[0]))
    except (ValueError, FileNotFoundError):
        return "not chosen"


def _note(profile: str) -> str:
    return PROFILES[profile]["ResNet-34"].data().note


def _experiment(name: str, profile: str, part: str, words: str, **how) -> Experiment:
    runs = []
    for task, of in PROFILES[profile].items():
        word, numbers = ("setting", range(4)) if part == "tuning" else ("seed", range(1, of.seeds + 1))
        runs += [(task, o, word, k) for k in numbers for o in NAMES]
        runs += [(task, FLOAT32, word, numbers[0])] if of.half and part == "test" else []
    units = {f"{task}, {o}, {word} {k}": partial(unit, profile, task, o, part, k) for task, o, word, k in runs}
    about = f"Binary ResNet-34 and MobileNetV2 on CIFAR-10, LSTM on Penn Treebank, detector of blood cells: {words}"
    return Experiment(name, about, units, version="1", note=partial(_note, profile), **how)


TUNING = _experiment("adaptive_small_tuning", "small", "tuning", "narrow, four settings of each optimizer", hours=5.5)
SMALL = _experiment(
    "adaptive_small", "small", "test", "narrow, each optimizer's best setting", hours=5.5, depends=_chosen
)
EXPERIMENT = _experiment(
    "adaptive_large", "gpu", "test", "full width, the settings of the narrow ones", device="cuda", depends=_chosen
)
