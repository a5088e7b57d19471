"""Task III by two processes under torchrun: against one process and a plain loop, killed, stopped by a NaN, and refused.

The two processes run this file with a folder and the names of `CASES`, and leave there what the cases return.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from quantized_training import PHI, SGDA, ASkew, BinaryConnect, FullPrecision, Geometric, Levels
from quantized_training.layers import groups
from study.datasets import image_sets
from study.vision import training
from study.vision.distributed import distributed, parallel, place
from study.vision.networks import ResNet
from study.vision.on_device import flops
from study.vision.training import Diverged, train_images

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="this torch has no gloo"
)
TIMEOUT = 600  # seconds after which a pair of processes is said to hang; they take about ten
# The networks are in float64, and the two halves of a batch, added up in another order, change the last of 16 digits. The
# logits are rounded to float32 for the loss, so that a recorded loss has 7 digits, and where a logit's 8th digit falls the
# other way, a gradient has 7 for that image. For a weight rounded at random to fall the other way a number drawn must lie
# within about 1e-16 of its threshold; the seeds are fixed.
WEIGHTS, RECORD = 1e-8, 1e-6  # absolute, of weights of size 1; relative
BINARY, TERNARY = Levels.binary(), Levels.ternary()
SMALL = image_sets.load("digits").subset(100, 50)
TIMES = {"seconds", "images_per_second", "utilisation"}
METHODS = {
    "full": partial(FullPrecision, BINARY),
    "binary_connect": partial(BinaryConnect, TERNARY),  # rounds at random
    "askew": partial(ASkew, BINARY, PHI, alpha=0.5, epsilon=Geometric(0.8, 0.5)),
    "sgda": partial(SGDA, BINARY, epsilon=0.1, dual_lr=0.005, dual_max=2.0),
}


class Plain(nn.Sequential):
    """Without batch normalisation, for which the whole batch and its halves are not the same."""

    def __init__(self) -> None:
        first = nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Flatten()
        super().__init__(*first, nn.Linear(128, 10))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.double())


class Normalised(ResNet):
    """With batch normalisation."""

    def __init__(self) -> None:
        super().__init__((1,), 4, 10, 1)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.double())


class Broken(Plain):
    """The second process's outputs are NaN at the second step of the second epoch."""

    step = 0

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        Broken.step += self.training and not x.is_meta
        return y * math.nan if (Broken.step, place()[0]) == (7, 1) else y


class OfItsOwn(Plain):
    """Other weights in each process."""

    def __init__(self) -> None:
        torch.rand(place()[0])
        super().__init__()


def train(method="binary_connect", network=Plain, **settings):
    settings = {"epochs": 3, "batch": 20, "lr": 0.05, "augmented": True, "progress": False} | settings
    return train_images(SMALL, network, METHODS[method], groups, **settings)


def outcome(run) -> dict:
    """What the processes must have in common: the record without times, latent weights and statistics, the method's state."""
    with run.optimizer.latent():
        tensors = [t.detach().clone() for t in (*run.model.parameters(), *run.model.buffers())]
    record = [{k: v for k, v in row.items() if k not in TIMES} for row in run.record]
    return {"record": record, "tensors": tensors, "state": repr(run.optimizer.state_dict())}


def same(a: dict, b: dict) -> bool:
    """Bit for bit; repr, because NaN is not equal to itself."""
    equal = all(torch.equal(s, t) for s, t in zip(a["tensors"], b["tensors"], strict=True))
    return equal and a["state"] == b["state"] and repr(a["record"]) == repr(b["record"])


def close(a: dict, b: dict) -> None:
    """Records and tensors are equal but for rounding errors."""
    assert a["record"] == [pytest.approx(row, rel=RECORD, nan_ok=True) for row in b["record"]]
    assert difference(a, b) <= WEIGHTS


def difference(a: dict, b: dict) -> float:
    return max(float((s - t).abs().max()) for s, t in zip(a["tensors"], b["tensors"], strict=True))


# What the two processes do


def error_of(kind: type[Exception], **settings) -> Exception:
    with pytest.raises(kind) as error:
        train(**settings)
    return error.value


def of_each_method(folder: Path) -> dict:
    return {name: outcome(train(name)) for name in METHODS}


def of_the_same_half(folder: Path) -> dict:
    """A fault: both processes train on the first half of every batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "place", lambda: (0, 2))
        return of_each_method(folder)


def without_averages(folder: Path) -> dict:
    """A fault: each process takes the step of its own gradients."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "parallel", lambda model, *_: model)
        return of_each_method(folder)


def with_batch_normalisation(folder: Path) -> dict:
    return outcome(train("full", Normalised, augmented=False))


def speed_and_progress(folder: Path) -> tuple[dict, str]:
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        run = train(epochs=1, peak=1e10, progress=True)
    return run.record[0], printed.getvalue()


def one_writer(folder: Path) -> tuple[int, bool]:
    """How often a process writes, slowly, and whether the file is there when it goes on."""
    written = []

    def write(*arguments, original=training.checkpoints.write):
        time.sleep(0.5)
        original(*arguments)
        written.append(place()[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.checkpoints, "write", write)
        train(epochs=1, checkpoint=folder / "slow")
    return len(written), (folder / "slow").exists()


def converted(folder: Path) -> tuple[int, int, bool]:
    """What goes into DDP on a GPU, without one: normalisations of both kinds, and whether they have the old tensors."""
    torch.manual_seed(0)
    model = ResNet((1, 1), 4, 10, 1)
    before = [*model.parameters(), *model.buffers()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.parallel, "DistributedDataParallel", lambda model, **_: model)  # which refuses it on a CPU
        kinds = [type(m) for m in parallel(model, torch.device("cuda"), 0).modules()]
    kept = all(s is t for s, t in zip([*model.parameters(), *model.buffers()], before, strict=True))
    return kinds.count(nn.SyncBatchNorm), kinds.count(nn.BatchNorm2d), kept


def refusals(folder: Path) -> list[str]:
    """An odd batch, a network that is not the same, a checkpoint that one process alone sees."""
    train(epochs=1, checkpoint=folder / "seen by all")
    one = folder / ("seen by all" if place()[0] == 0 else "not there")
    settings = ({"batch": 25}, {"network": OfItsOwn}, {"epochs": 1, "checkpoint": one})
    return [str(error_of(ValueError, **s)) for s in settings]


def nan(folder: Path) -> dict:
    error = error_of(Diverged, network=Broken)
    return {"message": str(error), "after one epoch": outcome(train(epochs=1)), **outcome(error.run)}


def infinite_loss(folder: Path) -> str:
    """Of the second process alone, and its gradient is finite."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "cross_entropy", lambda y, t: cross_entropy(y, t) + (math.inf if place()[0] else 0))
        return str(error_of(Diverged))


def long_run(folder: Path, die_at: float = math.inf) -> tuple[dict, int]:
    """Four epochs of five steps with random rounding and batch normalisation, and the steps that were left to do."""
    steps = 0

    def step(self, closure=None, original=training.QuantizedOptimizer.step):
        nonlocal steps
        steps += 1
        if (steps, place()[0]) == (die_at, 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, closure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.QuantizedOptimizer, "step", step)
        return outcome(train(network=Normalised, epochs=4, checkpoint=folder / "long run")), steps


CASES = (of_each_method, of_the_same_half, without_averages, with_batch_normalisation, speed_and_progress)
CASES = {f.__name__: f for f in (*CASES, one_writer, converted, refusals, nan, infinite_loss, long_run)} | {
    "killed": partial(long_run, die_at=13)
}


def run_cases(folder: Path, *names: str) -> None:
    with distributed():
        results = {name: CASES[name](folder) for name in names}
        torch.save(results, folder / f"{place()[0]}.pt")


def torchrun(folder: Path, *names: str, fails: bool = False) -> list[dict]:
    """The results of both processes; fails: that they do not end well is expected."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    loopback = {"GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0"}
    environment = loopback | os.environ | {"OMP_NUM_THREADS": "1"}
    command += [__file__, str(folder), *names]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        errors = process.communicate(timeout=TIMEOUT)[1]
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun then ends its processes
        pytest.fail(f"the processes hang: {process.communicate()[1][-2000:]}")
    assert bool(process.returncode) == fails, errors[-5000:]
    return [] if fails else [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


# What comes out


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    names = [name for name in CASES if name != "killed"]
    return torchrun(tmp_path_factory.mktemp("both"), *names)


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_are_one(both, method):
    first, second = (results["of_each_method"][method] for results in both)
    assert same(first, second)
    close(first, outcome(train(method)))


@pytest.mark.parametrize("method", METHODS)
def test_faults_are_noticed(both, method):
    """They change the weights by 10,000 times the tolerance and more."""
    alone = outcome(train(method))
    for results in both:
        assert difference(results["of_the_same_half"][method], alone) > 1e4 * WEIGHTS
        assert difference(results["without_averages"][method], alone) > 1e4 * WEIGHTS
    assert not same(*(results["without_averages"][method] for results in both))


def test_batch_normalisation_is_that_of_the_halves(both):
    """On a CPU: a plain loop over both halves of each batch, with the running statistics of the first."""
    torch.manual_seed(0)
    model, draws = Normalised(), torch.Generator().manual_seed(0)
    decayed, free = ([p for p in model.parameters() if (p.ndim > 1) == matrix] for matrix in (True, False))
    parts = [{"params": decayed, "weight_decay": 5e-4}, {"params": free}]
    optimizer, losses = torch.optim.SGD(parts, lr=0.05, momentum=0.9), []
    x = (SMALL.train_x - 255 * SMALL.mean[:, None, None]) / (255 * SMALL.std[:, None, None])
    for _ in range(3):
        order = torch.randperm(100, generator=draws)
        for _ in range(3):
            torch.randint(2, (100,), generator=draws)  # of the augmentation
        for start in range(0, 100, 20):
            gradients = []
            for i in (order[start : start + 10], order[start + 10 : start + 20]):
                loss = cross_entropy(model(x[i]), SMALL.train_y[i])
                gradients.append(torch.autograd.grad(loss, list(model.parameters())))
                losses.append(loss.item())
                if len(gradients) == 1:
                    statistics = [b.clone() for b in model.buffers()]
            for b, value in zip(model.buffers(), statistics, strict=True):
                b.copy_(value)
            for p, g, h in zip(model.parameters(), *gradients, strict=True):
                p.grad = (g + h) / 2
            optimizer.step()
    first, second = (results["with_batch_normalisation"] for results in both)
    assert same(first, second)
    expected = torch.tensor(losses).view(3, 10).mean(1)
    torch.testing.assert_close(torch.tensor([row["loss"] for row in first["record"]]), expected, rtol=1e-6, atol=0)
    for found, t in zip(first["tensors"], [*model.parameters(), *model.buffers()], strict=True):
        torch.testing.assert_close(found, t.detach(), rtol=1e-6, atol=1e-6)  # the plain loop's loss is in float64
    alone = outcome(train("full", Normalised, augmented=False))
    assert difference(first, alone) > 1e-2


def test_speed_is_that_of_all_and_one_shows_the_progress(both):
    (first, shown), (second, hidden) = (results["speed_and_progress"] for results in both)
    assert "5/5" in shown and hidden == ""
    for row in (first, second):
        assert row["images_per_second"] == pytest.approx(100 / row["seconds"])
        assert row["utilisation"] == pytest.approx(flops(Plain(), (1, 8, 8)) * row["images_per_second"] / 2e10)


def test_the_first_process_writes_and_the_others_wait(both):
    assert [results["one_writer"] for results in both] == [(1, True), (0, True)]


def test_batch_normalisation_on_a_gpu_is_torch_s(both):
    for results in both:
        assert results["converted"] == (6, 0, True)


def test_refusals(both):
    for results in both:
        batch, network, checkpoint = results["refusals"]
        assert "batch=25: with 2 processes allowed are the multiples of 2" in batch
        assert "start from different weights" in network and "after 0 epochs" in network
        assert "start from different weights" in checkpoint and "after 1 epochs" in checkpoint


def test_a_nan_in_one_process_stops_both(both):
    first, second = (results["nan"] for results in both)
    assert first["message"] == second["message"] and "epoch 2: " in first["message"] and "NaN" in first["message"]
    for results in (first, second):
        assert same(results, results["after one epoch"])
    assert same(first, second)


def test_an_infinite_loss_in_one_process_stops_both(both):
    for results in both:
        assert "epoch 1: the mean loss of the epoch is inf" in results["infinite_loss"]


def test_killed_and_resumed(both, tmp_path):
    torchrun(tmp_path, "killed", fails=True)
    resumed = torchrun(tmp_path, "long_run")
    for after, results in zip(resumed, both, strict=True):
        (found, steps), (expected, all_steps) = after["long_run"], results["long_run"]
        assert same(found, expected)
        assert (steps, all_steps) == (10, 20)  # killed in the third epoch
    with pytest.raises(ValueError, match="processes is 2 there, None here"):
        train(network=Normalised, epochs=4, checkpoint=tmp_path / "long run")


def test_without_torchrun_nothing_happens():
    with distributed("cuda"):
        assert place() == (0, 1) and not torch.distributed.is_initialized()


if __name__ == "__main__":
    run_cases(Path(sys.argv[1]), *sys.argv[2:])
