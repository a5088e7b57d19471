"""Many seeds of a small task in one tensor program, possible because every method works weight by weight.

Every seed has its own data set, initial weights, batch order and rounding noise, drawn in advance, so that every method sees
the same draws. Shapes: S seeds, n samples, d weights, B samples in a batch, T steps. What all seeds share has 1 in place of S.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from quantized_training.constraints import Constraint
from quantized_training.levels import Levels
from quantized_training.methods import Method
from quantized_training.optimizer import QuantizedOptimizer
from quantized_training.schedules import Geometric, Schedule, as_schedule

from ..methods import BINARY, METHODS, Row, Small

#: The paper's 0.88^t, one round per epoch; t = 0 is the largest legal value for {-1, 1} itself.
ANNEALING = Geometric(1.0, 0.88)


@dataclass(frozen=True)
class Ensemble(ABC):
    """The random part of a task; a task adds its data (S or 1, n, ...) as further fields and says how it is used.

    initial: (S, d). order: batch order, (S or 1, epochs, n). uniform: rounding noise of stochastic BinaryConnect, (S, T + 1, d).
    """

    seeds: tuple[int, ...]
    initial: Tensor
    order: Tensor
    uniform: Tensor
    batch: int

    @property
    @abstractmethod
    def data(self) -> tuple[Tensor, ...]:
        """What a batch is taken from: tensors (S or 1, n, ...)."""

    @abstractmethod
    def gradient(self, w: Tensor, batch: tuple[Tensor, ...], scratch: Tensor) -> Tensor:
        """Gradient of the loss on a batch, (S, d) at w (S, d). scratch: memory (S, B) that may be written over."""

    @property
    def steps(self) -> int:
        return self.order.shape[1] * self.per_epoch

    @property
    def per_epoch(self) -> int:
        """Steps in an epoch; samples that fill no batch are left out."""
        return self.order.shape[2] // self.batch

    def __getitem__(self, seeds: slice) -> Ensemble:
        """The sub-ensemble of some seeds, e.g. ensemble[3:4] for a single run."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        parts = {k: t if len(t) == 1 else t[seeds] for k, t in tensors.items() if isinstance(t, Tensor)}
        return replace(self, seeds=self.seeds[seeds], **parts)

    def to(self, dtype: torch.dtype) -> Ensemble:
        """The same draws with floating-point tensors of another precision."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        real = {k: t.to(dtype) for k, t in tensors.items() if isinstance(t, Tensor) and t.is_floating_point()}
        return replace(self, **real)

    def one_batch_per_epoch(self) -> Ensemble:
        """The same ensemble with only the first batch of every epoch: as many steps as epochs."""
        return replace(self, order=self.order[:, :, : self.batch])

    def batches(self) -> Iterator[tuple[Tensor, ...]]:
        """The T batches in order, each a tensor (S or 1, B, ...) for each of `data`, all in the same memory: use one before
        asking for the next."""
        out = [t.new_empty(len(t) * self.batch, *t.shape[2:]) for t in self.data]
        for epoch in range(self.order.shape[1]):
            for start in range(0, self.order.shape[2] - self.batch + 1, self.batch):
                yield self._take(self.order[:, epoch, start : start + self.batch], out)

    def last_batch(self) -> tuple[Tensor, ...]:
        """The batch of the last step."""
        stop = self.per_epoch * self.batch
        return self._take(self.order[:, -1, stop - self.batch : stop], [None] * len(self.data))

    def _take(self, index: Tensor, out: list[Tensor | None]) -> tuple[Tensor, ...]:
        sets, n = self.data[0].shape[:2]
        rows = (index.long() + torch.arange(sets).unsqueeze(1) * n).view(-1)
        # index_select on rows is four times as fast as indexing by (seed, row)
        return tuple(
            torch.index_select(t.reshape(sets * n, *t.shape[2:]), 0, rows, out=o).view(sets, self.batch, *t.shape[2:])
            for t, o in zip(self.data, out, strict=True)
        )


def draw_order(n: int, epochs: int, generator: torch.Generator) -> Tensor:
    """A new order of n samples for every epoch, (epochs, n), in as few bytes as they fit."""
    order = torch.stack([torch.randperm(n, generator=generator) for _ in range(epochs)])
    return order.to(torch.int16 if n < 2**15 else torch.int64)


def rounding_noise(ensemble: Ensemble) -> Callable[[Tensor], Tensor]:
    """The pre-drawn uniforms for `BinaryConnect(uniform=...)`, one (S, d) slice per rounding."""
    slices = iter(ensemble.uniform.unbind(1))
    return lambda w: next(slices)


@dataclass(frozen=True)
class Trajectory:
    """One method on every seed. latent: (T + 1, S, d), from the initial weights on. gradient: on each step's batch,
    at the method's forward point, (T, S, d)."""

    latent: Tensor
    gradient: Tensor

    def flips(self, levels: Levels = BINARY) -> Tensor:
        """The share of weights whose nearest level changes in each step: (T, S)."""
        nearest = levels.nearest(self.latent)
        return (nearest[1:] != nearest[:-1]).to(self.latent.dtype).mean(-1)


Make = Callable[[Ensemble], Method]


def methods(
    alpha: float, bits: int = 1, annealing: Mapping[Constraint, Schedule] | Schedule = ANNEALING
) -> dict[str, Make]:
    """Every method of the table that Tasks I and II train, with the levels of so many bits.

    alpha: of ASkewSGD and its modification, whose larger steps may overshoot. annealing: of their epsilon, one schedule for
    both or one for each constraint.
    """
    schedule = annealing.__getitem__ if isinstance(annealing, Mapping) else lambda constraint: annealing

    def maker(row: Row) -> Make:
        return lambda e: row.small(Small(bits, alpha, schedule, rounding_noise(e)))

    return {name: maker(row) for name, row in METHODS.items() if row.small}


def train(
    make: Make | Mapping[str, Make],
    ensemble: Ensemble,
    lr: float | Schedule | Mapping[str, float | Schedule] = 1.0,
    record: bool = True,
    chunk: int = 64,
) -> Trajectory | Tensor | dict[str, Trajectory] | dict[str, Tensor]:
    """Train every seed of the ensemble with SGD; the method anneals once per epoch.

    make: builds the method for an ensemble, e.g. METHODS["ASkewSGD"] of a task (stochastic BinaryConnect needs its pre-drawn
    noise). Several of them, by name, train side by side on the same batches, which is faster than one after the other; the
    result is then a dict, and `lr` may be one, too. record: return the whole Trajectory; otherwise only the last latent
    weights (S, d). chunk: seeds with data sets of their own train this many at a time, so that a batch stays in the
    processor's cache.
    """
    makes = make if isinstance(make, Mapping) else {"": make}
    rates = {name: as_schedule(lr[name] if isinstance(lr, Mapping) else lr) for name in makes}
    if len(ensemble.data[0]) == 1:
        chunk = len(ensemble.seeds)
    parts: dict[str, list] = {name: [] for name in makes}
    for i in range(0, len(ensemble.seeds), chunk):
        part = ensemble[i : i + chunk]
        runs = {name: _Run(makes[name](part), part, rates[name], record) for name in makes}
        for batch in part.batches():
            for run in runs.values():
                run.step(batch)
        for name, run in runs.items():
            parts[name].append(run.result())
    if record:
        found = {
            name: Trajectory(
                *(torch.cat([getattr(part, field.name) for part in ps], dim=1) for field in fields(Trajectory))
            )
            for name, ps in parts.items()
        }
    else:
        found = {name: torch.cat(ps) for name, ps in parts.items()}
    return found if isinstance(make, Mapping) else found[""]


class _Run:
    """One method on the seeds of one chunk."""

    def __init__(self, method: Method, ensemble: Ensemble, lr: Schedule, record: bool) -> None:
        self.method, self.ensemble, self.lr, self.record, self.k = method, ensemble, lr, record, 0
        self.w = torch.nn.Parameter(ensemble.initial.clone())
        self.optimizer = QuantizedOptimizer(torch.optim.SGD([self.w], lr=lr(0)), method)
        self.scratch = ensemble.initial.new_empty(len(ensemble.seeds), ensemble.batch)
        self.latents, self.gradients = [ensemble.initial], []

    def latent(self) -> Tensor:
        with self.optimizer.latent():
            return self.w.detach().clone()

    def step(self, batch: tuple[Tensor, ...]) -> None:
        self.optimizer.param_groups[0]["lr"] = self.lr(self.k)
        self.w.grad = self.ensemble.gradient(self.w.detach(), batch, self.scratch)
        if self.record:
            self.gradients.append(self.w.grad)
        self.optimizer.step()
        if self.record:
            self.latents.append(self.latent())
        self.k += 1
        if self.k % self.ensemble.per_epoch == 0:
            self.method.anneal()

    def result(self) -> Trajectory | Tensor:
        if self.record:
            return Trajectory(*map(torch.stack, (self.latents, self.gradients)))
        return self.latent()
