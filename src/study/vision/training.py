"""Task III's training: an image classifier by SGD with momentum around any method, fast because it is simple, and resumable.

All images lie on the device as bytes; they are shifted, mirrored and normalised there, batch by batch. The network runs
channels-last and, on a GPU that has it, in bfloat16; the weights stay float32. The same code runs on the CPU.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from quantized_training.methods import FullPrecision, Method
from quantized_training.optimizer import QuantizedOptimizer
from quantized_training.schedules import Schedule, as_schedule

from ..datasets.image_sets import Images
from . import checkpoints
from .distributed import average, parallel, place, send_round, wait
from .on_device import REACH, Data, augment, evaluate, flops, move, peak_of, predict, reestimate, stopwatch


class Diverged(FloatingPointError):
    """The loss became NaN or infinite. `run` is what was last good: the network, optimizer and record of the epoch before."""

    def __init__(self, message: str, run: Run | None = None) -> None:
        super().__init__(message)
        self.run = run

    def __reduce__(self) -> tuple:  # to another process goes the message alone
        return Diverged, (str(self),)


# Numbers about a network


def codes(optimizer: QuantizedOptimizer) -> list[Tensor]:
    """For each quantised parameter the indices of its weights' nearest levels; call it inside `optimizer.latent()`."""
    quantised = ((g["levels"], p.detach()) for g in optimizer.param_groups if g["quantize"] for p in g["params"])
    return [levels.cell(p).to(torch.int16) for levels, p in quantised]  # a quarter of the memory of torch's indices


@torch.no_grad()
def violation(optimizer: QuantizedOptimizer) -> tuple[float, float]:
    """Share of the quantised weights that are infeasible, and mean distance to the nearest level in half gaps.

    Infeasible: below -1e-6 times the largest legal epsilon at the method's epsilon in force, by its own constraint; NaN for
    a method without one. A half gap (of the smallest gap) is the distance between a level and a midpoint. Call it inside
    `optimizer.latent()`.
    """
    constraint, infeasible, distance, total = optimizer.method.constraint, 0, 0.0, 0
    for group in optimizer.param_groups:
        for w in map(torch.Tensor.detach, group["params"] if group["quantize"] else []):
            levels = group["levels"]
            total += w.numel()
            distance += float((w - levels.nearest(w)).abs().double().sum()) / (min(levels.gaps) / 2)
            if constraint is not None:
                value = constraint.value(w, levels, optimizer.method.tolerance(levels))
                infeasible += int((value < -1e-6 * constraint.largest_epsilon(levels)).sum())
    return (math.nan if constraint is None else infeasible / total), distance / total


# Training


@dataclass
class Run:
    """A run between two epochs. record: one dict of numbers per finished epoch, see `train_images`."""

    model: nn.Module
    optimizer: QuantizedOptimizer
    record: list[dict[str, float]]
    batches: torch.Generator  # of the order of the images and their augmentation
    device: torch.device

    def state(self) -> dict:
        """All that the next epoch depends on, in memory of its own."""
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "record": self.record}
        return copy.deepcopy(state | {"batches": self.batches.get_state(), "rng": rng})

    def restore(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.record[:] = state["record"]
        self.batches.set_state(state["batches"])
        torch.set_rng_state(state["rng"]["cpu"])
        if "cuda" in state["rng"]:
            torch.cuda.set_rng_state(state["rng"]["cuda"], self.device)


def _build(
    network: Callable[[], nn.Module],
    method: Callable[[], Method],
    groups: Callable[[nn.Module], list[dict]],
    lr: float,
    momentum: float,
    weight_decay: float,
    seed: int,
    device: torch.device,
) -> Run:
    torch.manual_seed(seed)
    model, rule = network().to(device, memory_format=torch.channels_last).train(), method()
    parameters = groups(model)
    for group in parameters:
        free = isinstance(rule, FullPrecision) or not group.get("quantize", True)
        decays = free and all(p.ndim > 1 for p in group["params"])
        group.setdefault("weight_decay", weight_decay if decays else 0.0)
    base = torch.optim.SGD(parameters, lr=lr, momentum=momentum)
    around = getattr(rule, "optimizer", QuantizedOptimizer)  # a rival may bring its own
    return Run(model, around(base, rule), [], torch.Generator().manual_seed(seed), device)


def _epoch(
    run: Run, forward: Callable, data: Data, schedule: Schedule, batch: int, augmented: bool, tick: Callable
) -> dict[str, float]:
    """One epoch of training steps: the first part of its row."""
    n, done, losses = len(data.train_y), len(run.record), []
    rank, processes = place()
    order = torch.randperm(n, generator=run.batches)
    flip, *shifts = (torch.randint(k, (n,), generator=run.batches) for k in (2, 2 * REACH + 1, 2 * REACH + 1))
    order, flip, down, right = (t.to(run.device) for t in (order, flip == 1, *(s - REACH for s in shifts)))
    seconds, steps = stopwatch(run.device), n // batch
    for k in range(steps):
        for group in run.optimizer.param_groups:
            group["lr"] = schedule(done + k / steps)
        i = order[k * batch : (k + 1) * batch].chunk(processes)[rank]
        x = augment(data.train_x[i], flip[i], down[i], right[i]) if augmented else data.train_x[i]
        loss = cross_entropy(predict(forward, x, data.mean, data.std), data.train_y[i])
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        losses.append(loss.detach())
        tick()
    seconds, loss = seconds(), average(torch.stack(losses).double()).mean().item()
    if not math.isfinite(loss):
        raise FloatingPointError(f"the mean loss of the epoch is {loss}")
    send_round(run.model.buffers())  # DDP does so before each step; after the last one each process has its own
    method = run.optimizer.method
    row = {"epoch": done + 1, "lr": group["lr"], "epsilon": method.tolerance(method.levels)}
    return row | {"loss": loss, "seconds": seconds, "images_per_second": steps * batch / seconds}


def _scores(run: Run, data: Data, before: list[Tensor], kept: Tensor, batch: int) -> dict[str, float]:
    """What is measured after an epoch: the second part of its row. kept: images on which statistics are estimated anew."""
    test, moments, row = (data.test_x, data.test_y), (data.mean, data.std), {}
    with run.optimizer.latent():
        row["latent_loss"], row["latent_accuracy"] = evaluate(run.model, *test, *moments)
        after = codes(run.optimizer)
        row["infeasible"], row["distance"] = violation(run.optimizer)
    changed = sum(int((a != b).sum()) for a, b in zip(before, after, strict=True))
    row["changed"] = changed / sum(a.numel() for a in after)
    with run.optimizer.quantized():
        row["quantised_loss"], row["quantised_accuracy"] = evaluate(run.model, *test, *moments)
        row["reestimated_loss"] = row["reestimated_accuracy"] = math.nan
        if len(kept):
            buffers = [b.clone() for b in run.model.buffers()]
            reestimate(run.model, kept, *moments, batch)
            row["reestimated_loss"], row["reestimated_accuracy"] = evaluate(run.model, *test, *moments)
            for b, value in zip(run.model.buffers(), buffers, strict=True):
                b.copy_(value)
    return row


def _fingerprint(run: Run, images: Images) -> dict[str, str]:
    """Data, network and groups in words and checksums of their values."""
    data = (images.train_x, images.train_y, images.test_x, images.test_y)
    of_groups = [
        f"{sum(p.numel() for p in g['params'])} weights, "
        f"{g['levels'].values if g['quantize'] else 'not quantised'}, weight decay {g['weight_decay']}"
        for g in run.optimizer.param_groups
    ]
    return {
        "images": f"{images.name} {checkpoints.digest(*data)}",
        "network": f"{type(run.model).__name__} {checkpoints.digest(*run.model.state_dict().values())}",
        "method": checkpoints.words(run.optimizer.method),
        "groups": "; ".join(of_groups),
    }


def train_images(
    images: Images,
    network: Callable[[], nn.Module],
    method: Callable[[], Method],
    groups: Callable[[nn.Module], list[dict]],
    *,
    epochs: int,
    batch: int = 128,
    lr: float | Schedule = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    augmented: bool | None = None,
    reestimation: int = 10,
    seed: int = 0,
    device: str | torch.device = "cpu",
    compiled: bool = False,
    checkpoint: str | Path | None = None,
    progress: bool = True,
    peak: float | None = None,
) -> Run:
    """Train a network by SGD with momentum so that it can be rounded; returns it with its optimizer and record.

    network, method, groups: make them, e.g. `resnet20`, `partial(BinaryConnect, levels)` and `layers.groups`; the network
    is made after torch.manual_seed(seed), and groups is given the network. lr: a schedule is called with the epochs done so
    far, 0 at first and with fractions at each step. weight_decay: of matrices and filters that are not quantised, of all of
    them under FullPrecision, never of biases and normalisation; a group with its own "weight_decay" keeps it. The loss is
    the cross-entropy, without label smoothing. An epoch takes every image at most once, in random order and whole batches.
    augmented: mirror with probability 1/2 and shift by up to 4 pixels (None: not for the digits). The method is annealed
    after each epoch. compiled: train through torch.compile. peak: the device's operations per second.

    One row of the record per epoch: `lr` and `epsilon` at its end; `loss` of the training batches; loss and accuracy on the
    test images of the `latent` and of the `quantised` weights, and of the latter `reestimated` on the first `reestimation`
    batches of training images (0: left out); `changed`, the share of weights whose nearest level is not that of an epoch
    ago; `infeasible` and `distance` (see `violation`); `seconds` of the training steps, by device events on a GPU, the
    first with what torch does only once; `images_per_second`; `utilisation`, model FLOPs over the peak. NaN stands for what
    does not apply.

    checkpoint: a file, written after each epoch. Where it exists the run goes on from there, and returns at once where
    nothing is left to do. On a CPU, with the same number of threads, an interrupted run ends with the weights and record of
    an uninterrupted one, bit for bit, times aside. Raises ValueError where the file is damaged or belongs to other settings
    or data, and for settings that make no run; Diverged, with what was last good, where the loss or a gradient is not finite.

    Several processes, started by torchrun, inside `distributed.distributed()`: all call this function with the same
    arguments, each takes its part of each batch (`batch` is that of all together), DistributedDataParallel averages the
    gradients, and all take the same step; each returns the same run, but for its times. `loss`, `images_per_second` and
    `utilisation` are those of all. All read the checkpoint, the first writes it and shows the progress. On a GPU batch
    normalisation takes the statistics of the whole batch (torch's SyncBatchNorm, which stays in the network). On a CPU,
    where torch has no such thing, it takes those of each process's part (ghost batch normalisation), and the running
    statistics are the first process's: with it the run is not that of one process. Dropout draws the same in every
    process, each for its part. From three processes on, an interrupted run may differ from an uninterrupted one by
    rounding errors, as torch adds up in an order of its own. Raises ValueError where the number of processes does not
    divide `batch`, or the processes do not start from the same weights; Diverged in all of them.
    """
    from tqdm import tqdm  # a dependency of the book, not of the package

    n, device, schedule = len(images.train_y), torch.device(device), as_schedule(lr)
    if epochs < 1 or not 1 <= batch <= n or reestimation < 0:
        raise ValueError(
            f"epochs={epochs}, batch={batch}, reestimation={reestimation}: allowed are epochs from 1, batches of 1 to {n} "
            "images, reestimation from 0"
        )
    rank, processes = place()
    if batch % processes:
        raise ValueError(f"batch={batch}: with {processes} processes allowed are the multiples of {processes}")
    augmented = images.name != "digits" if augmented is None else augmented
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        run = _build(network, method, groups, schedule(0), momentum, weight_decay, seed, device)
        plain = {"epochs": epochs, "batch": batch, "momentum": momentum, "augmented": augmented, "seed": seed}
        plain |= {"lr": schedule, "reestimation": reestimation, "device": device.type, "compiled": compiled}
        plain |= {"processes": processes} if processes > 1 else {}
        settings = {key: checkpoints.words(value) for key, value in plain.items()}
        path = None if checkpoint is None else Path(checkpoint)
        if path is not None:
            settings |= _fingerprint(run, images)
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                run.restore(checkpoints.read(path, settings))
        steps, peak = n // batch, processes * (peak or peak_of(device))
        work = flops(run.model, images.train_x.shape[1:]) if math.isfinite(peak) else math.nan
        forward = parallel(run.model, device, len(run.record))
        if forward is not run.model:  # DDP has written each parameter anew, which the optimizer takes for other weights
            run.restore(run.state())
        good, data = run.state(), move(images, device)
        forward = torch.compile(forward) if compiled else forward
        kept = data.train_x[: min(reestimation, steps) * batch]
        hidden = rank > 0 or not progress
        with tqdm(total=epochs * steps, initial=len(run.record) * steps, unit="step", disable=hidden) as bar:
            while len(run.record) < epochs:
                with run.optimizer.latent():
                    before = codes(run.optimizer)
                try:
                    row = _epoch(run, forward, data, schedule, batch, augmented, bar.update)
                except FloatingPointError as error:
                    done = len(good["record"])
                    run.restore(good)
                    message = f"epoch {done + 1}: {error}; what is kept is the state after {done} epochs"
                    raise Diverged(message + (f", also in {path}" if path and done else ""), run) from error
                row["utilisation"] = work * row["images_per_second"] / peak
                run.record.append(row | _scores(run, data, before, kept, batch))
                run.optimizer.method.anneal()
                good = None  # its memory is free before the next one takes as much
                good = run.state()
                if path is not None:
                    if rank == 0:
                        checkpoints.write(path, good, settings)
                    wait()  # where one process goes on, all can read the file
                bar.set_postfix(loss=f"{row['loss']:.3f}", quantised=f"{run.record[-1]['quantised_accuracy']:.2%}")
    return run
