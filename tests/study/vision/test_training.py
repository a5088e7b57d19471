"""Task III's training: against plain loops, killed and resumed, stopped by a NaN, and refused where settings differ."""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from helpers import METHODS, TERNARY
from quantized_training import (
    PHI,
    PSI,
    SGDA,
    ASkew,
    BinaryConnect,
    Cosine,
    FullPrecision,
    Geometric,
    Levels,
    QuantizedOptimizer,
    StraightThrough,
)
from quantized_training.layers import groups
from study.datasets import image_sets
from study.vision import on_device, training
from study.vision.networks import ResNet
from study.vision.training import Diverged, train_images

BINARY = Levels.binary()
TIMES = {"seconds", "images_per_second", "utilisation"}
DIGITS = image_sets.load("digits")
SMALL = DIGITS.subset(100, 50)
NETWORK = partial(ResNet, (1,), 4, 10, 1)
FULL, BC = partial(FullPrecision, BINARY), partial(BinaryConnect, BINARY)


def train(method=BC, images=SMALL, network=NETWORK, groups=groups, **settings):
    settings = {"epochs": 3, "batch": 25, "lr": 0.01, "augmented": True, "progress": False} | settings
    return train_images(images, network, method, groups, **settings)


def numbers(run) -> list[str]:
    """The record without times; repr, because NaN is not equal to itself."""
    return [repr({k: v for k, v in row.items() if k not in TIMES}) for row in run.record]


def latent(run) -> list[torch.Tensor]:
    with run.optimizer.latent():
        return [p.detach().clone() for p in run.model.parameters()]


def same(a, b) -> bool:
    """Whether two runs ended at the same record, weights, statistics and method's state, bit for bit."""
    tensors = [[*latent(run), *run.model.buffers()] for run in (a, b)]
    states = [{k: repr(v) for k, v in run.optimizer.state_dict().items()} for run in (a, b)]
    return numbers(a) == numbers(b) and states[0] == states[1] and all(map(torch.equal, *tensors))


# One epoch after the other


def test_plain_loop():
    """Full precision is torch's SGD, written out; what is recorded is what the loop sees."""
    run = train(FULL, augmented=False, weight_decay=0.01, lr=Cosine(0.1, 3), batch=30)
    torch.manual_seed(0)
    model, draws = NETWORK(), torch.Generator().manual_seed(0)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    free = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.SGD([{"params": decayed, "weight_decay": 0.01}, {"params": free}], lr=0.1, momentum=0.9)
    mean, std = (float(f(SMALL.train_x.double() / 255)) for f in (torch.mean, partial(torch.std, correction=0)))
    train_x, test_x = (((x.float() / 255) - mean) / std for x in (SMALL.train_x, SMALL.test_x))
    for epoch in range(3):
        order, losses = torch.randperm(100, generator=draws), []
        for _ in range(3):
            torch.randint(2, (100,), generator=draws)
        for k in range(3):  # 100 images are three batches of 30
            optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = Cosine(0.1, 3)(epoch + k / 3)
            i = order[30 * k : 30 * k + 30]
            loss = cross_entropy(model(train_x[i]), SMALL.train_y[i])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        model.eval()
        with torch.no_grad():
            y = model(test_x)
        model.train()
        row = run.record[epoch]
        assert row["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
        assert row["latent_loss"] == pytest.approx(cross_entropy(y, SMALL.test_y).item(), rel=1e-3)
        assert row["latent_accuracy"] == pytest.approx(float((y.argmax(1) == SMALL.test_y).float().mean()), abs=0.021)
    for p, q in zip(run.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5)


def test_weight_decay_is_for_weights_that_are_not_quantised():
    def decays(method, **keys):
        def made(model):
            return [{**g, **(keys if g["kind"] == "biases" else {})} for g in groups(model, "all but first and last")]

        run = train(method, groups=made, epochs=1, weight_decay=0.5)
        return {g["kind"]: g["weight_decay"] for g in run.optimizer.param_groups}

    never = {"biases": 0.0, "normalisation": 0.0}
    assert decays(BC) == {"first layer": 0.5, "3x3 convolutions": 0.0, "last layer": 0.5, **never}
    assert decays(FULL) == {"first layer": 0.5, "3x3 convolutions": 0.5, "last layer": 0.5, **never}
    assert decays(BC, weight_decay=0.1)["biases"] == 0.1


def test_changed_levels_by_hand():
    """The latent weights of runs of 1, 2 and 3 epochs are those of one run after these epochs."""
    method = partial(StraightThrough, TERNARY)
    torch.manual_seed(0)
    weights = [[p.detach() for p in NETWORK().parameters()]]
    weights += [latent(train(method, epochs=e, lr=0.3)) for e in (1, 2, 3)]
    record = train(method, epochs=3, lr=0.3).record
    for row, before, after in zip(record, weights, weights[1:], strict=False):
        count = total = 0
        for a, b in zip(before, after, strict=True):
            if a.ndim > 1:
                for u, v in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True):
                    total += 1
                    count += [u >= -0.5, u >= 0.5] != [v >= -0.5, v >= 0.5]
        assert row["changed"] == count / total > 0


def test_violation_by_hand():
    w, free = nn.Parameter(torch.tensor([-1.3, -0.95, 0.1, 1.0, 0.85])), nn.Parameter(torch.tensor([9.0]))

    def found(method, levels=BINARY):
        parts = [{"params": [w], "levels": levels}, {"params": [free], "quantize": False}]
        return training.violation(QuantizedOptimizer(torch.optim.SGD(parts, lr=0.0), method))

    # phi >= 0 for epsilon 0.19: 0.9 <= |w| <= 1.19; psi >= 0 for 0.19^2: the same
    distance = (0.3 + 0.05 + 0.9 + 0 + 0.15) / 5
    for method in (
        ASkew(BINARY, PHI, epsilon=0.19),
        ASkew(BINARY, PSI, epsilon=0.19**2),
        SGDA(BINARY, epsilon=0.19),
    ):
        assert found(method) == (3 / 5, pytest.approx(distance))
    share, half_gaps = found(FullPrecision(TERNARY), TERNARY)
    assert math.isnan(share) and half_gaps == pytest.approx((0.3 + 0.05 + 0.1 + 0 + 0.15) / 5 / 0.5)


def test_annealing_once_per_epoch_and_after_it():
    run = train(partial(ASkew, BINARY, PHI, epsilon=Geometric(0.8, 0.5)))
    assert [row["epsilon"] for row in run.record] == [0.8, 0.4, 0.2]
    assert run.optimizer.method.t == 3
    assert all(math.isnan(row["epsilon"]) for row in train(epochs=1).record)


# Images


def test_augmentation_is_padding_and_cropping():
    draw = np.random.default_rng(0)
    x = draw.integers(0, 256, (40, 3, 9, 7), np.uint8)
    flip, down, right = draw.integers(0, 2, 40) == 1, *draw.integers(-4, 5, (2, 40))
    found = on_device.augment(*map(torch.from_numpy, (x, flip, down, right)))
    assert found.dtype == torch.uint8
    for i in range(40):
        image = x[i, :, :, ::-1] if flip[i] else x[i]
        padded = np.pad(image, ((0, 0), (4, 4), (4, 4)), mode="reflect")
        crop = padded[:, 4 - down[i] : 13 - down[i], 4 - right[i] : 11 - right[i]]
        np.testing.assert_array_equal(found[i].numpy(), crop)


def test_every_image_once_in_another_order_and_differently(monkeypatch):
    images = DIGITS.subset(100, 50)
    images.train_x[:, 0, 0, 0] = torch.arange(100, dtype=torch.uint8)  # a name for each image
    seen = []

    def spy(x, flip, down, right):
        seen.append((x[:, 0, 0, 0], flip, down, right))
        return x

    monkeypatch.setattr(training, "augment", spy)
    train(images=images, epochs=10)
    names, flip, down, right = (torch.cat(t).view(10, 100) for t in zip(*seen, strict=True))
    assert all(sorted(row.tolist()) == list(range(100)) for row in names)
    assert len({tuple(row.tolist()) for row in names}) == 10
    assert abs(flip.float().mean() - 0.5) < 0.08
    for shift in (down, right):
        assert shift.unique().tolist() == list(range(-4, 5)) and abs(shift.float().mean()) < 0.4
    assert not torch.equal(down, right)
    seen.clear()
    train(images=images, epochs=1, augmented=None)
    assert not seen  # a mirrored 2 is no digit
    train(images=replace(images, name="other"), epochs=1, augmented=None)
    assert seen


# Batch normalisation after rounding


def test_reestimation_is_the_average_over_batches():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2, momentum=0.3)
    )
    x, mean, std = DIGITS.train_x[:50], DIGITS.mean, DIGITS.std
    before = [p.clone() for p in model.parameters()]
    on_device.reestimate(model, x, mean, std, batch=20)
    inputs = [(part.float() / 255 - mean) / std for part in (x[:20], x[20:40], x[40:])]
    for conv, norm in ((model[0], model[1]), (model[3], model[4])):
        inputs = [conv(z) for z in inputs]
        means = torch.stack([z.mean((0, 2, 3)) for z in inputs])
        variances = torch.stack([z.transpose(0, 1).flatten(1).var(1) for z in inputs])  # unbiased
        torch.testing.assert_close(norm.running_mean, means.mean(0))
        torch.testing.assert_close(norm.running_var, variances.mean(0))
        inputs = [nn.functional.batch_norm(z, None, None, norm.weight, norm.bias, True) for z in inputs]
    assert all(map(torch.equal, before, model.parameters())) and model.training and model[2].training
    assert [m.momentum for m in (model[1], model[4])] == [0.1, 0.3]


def test_both_scores_are_recorded_and_the_statistics_kept():
    """The scores of the rounded weights with the statistics of the training, and with their own; the run goes on as without."""
    run, without = train(reestimation=2), train(reestimation=0)
    test = (SMALL.test_x, SMALL.test_y, SMALL.mean, SMALL.std)
    last = run.record[-1]
    assert all(map(torch.equal, run.model.buffers(), without.model.buffers()))
    assert all(map(torch.equal, latent(run), latent(without)))
    assert all(math.isnan(without.record[-1][f"reestimated_{k}"]) for k in ("loss", "accuracy"))
    with run.optimizer.quantized():
        assert on_device.evaluate(run.model, *test) == (last["quantised_loss"], last["quantised_accuracy"])
        on_device.reestimate(run.model, SMALL.train_x[:50], SMALL.mean, SMALL.std, batch=25)
        assert on_device.evaluate(run.model, *test) == (last["reestimated_loss"], last["reestimated_accuracy"])
    assert last["quantised_loss"] != last["reestimated_loss"]


# Speed and accuracy


def test_flops_by_hand():
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(256, 10))
    conv, linear = 2 * 9 * 4 * 64, 2 * 256 * 10
    assert on_device.flops(model, (1, 8, 8)) == 2 * conv + 3 * linear  # the gradient of the images is not needed


def test_speed():
    start = time.perf_counter()
    run = train(epochs=2, peak=1e10)
    total = time.perf_counter() - start
    for row in run.record:
        assert row["images_per_second"] == pytest.approx(100 / row["seconds"])
        work = on_device.flops(NETWORK(), (1, 8, 8)) * 100
        assert row["utilisation"] == pytest.approx(work / row["seconds"] / 1e10)
    assert 0 < sum(row["seconds"] for row in run.record) < total
    assert math.isnan(train(epochs=1).record[0]["utilisation"])


def test_full_precision_learns_the_digits():
    run = train(FULL, DIGITS, partial(ResNet, (1, 1), 8, 10, 1), epochs=8, batch=64, lr=Cosine(0.1, 8), augmented=False)
    assert run.record[-1]["latent_accuracy"] > 0.9


def test_progress(capsys):
    train(epochs=1)
    assert capsys.readouterr().err == ""
    train(epochs=1, progress=True)
    assert "4/4" in capsys.readouterr().err


# Interrupted runs


class Broken(ResNet):
    """Gives NaN at one training step."""

    step, at = 0, math.inf

    def forward(self, x):
        y = super().forward(x)
        if self.training:
            Broken.step += 1
            if Broken.step == Broken.at:
                return y * math.nan
        return y


@pytest.mark.parametrize("kept", [True, False])
def test_nan_stops_the_run_and_keeps_what_was_good(tmp_path, monkeypatch, kept):
    network, path = partial(Broken, (1,), 4, 10, 1), tmp_path / "new folder" / "run" if kept else None
    two = train(network=network, epochs=2, lr=0.01)
    monkeypatch.setattr(Broken, "step", 0)
    monkeypatch.setattr(Broken, "at", 10)  # the second step of the third epoch
    with pytest.raises(Diverged, match="epoch 3: .*NaN.*state after 2 epochs") as error:
        train(network=network, epochs=4, checkpoint=path)
    assert same(error.value.run, two)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)
    assert (str(path) in str(error.value)) == kept
    if kept:
        monkeypatch.setattr(Broken, "at", math.inf)
        assert same(train(network=network, epochs=4, checkpoint=path), train(network=network, epochs=4))


def test_a_loss_that_is_not_finite_is_not_recorded(monkeypatch):
    """Also where no gradient says so."""
    monkeypatch.setattr(training, "cross_entropy", lambda y, _: (0 * y).sum() + math.inf)
    with pytest.raises(Diverged, match="epoch 1: the mean loss of the epoch is inf; .*after 0 epochs") as error:
        train()
    assert error.value.run.record == []


@pytest.mark.parametrize("name", METHODS)
def test_every_method_goes_on_exactly(tmp_path, monkeypatch, name):
    clean, steps, stop = train(METHODS[name]), 0, random.Random(name).randrange(5, 12)

    def step(self, closure=None, original=QuantizedOptimizer.step):
        nonlocal steps
        steps += 1
        if steps == stop:
            raise KeyboardInterrupt
        return original(self, closure)

    monkeypatch.setattr(QuantizedOptimizer, "step", step)
    with pytest.raises(KeyboardInterrupt):
        train(METHODS[name], checkpoint=tmp_path / "run")
    torch.rand(7)  # the world goes on
    assert same(train(METHODS[name], checkpoint=tmp_path / "run"), clean)
    assert steps == stop + 12 - 4 * ((stop - 1) // 4)  # finished epochs are not repeated
    assert same(train(METHODS[name], checkpoint=tmp_path / "run"), clean) and steps == stop + 12 - 4 * ((stop - 1) // 4)


def test_a_caller_s_random_numbers_are_left_alone():
    torch.manual_seed(3)
    train(epochs=1)
    found = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(found, torch.rand(3))


def test_dropout_goes_on_exactly(tmp_path, monkeypatch):
    """The network's own random numbers, too."""

    def network():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.Dropout(0.5), nn.Linear(20, 10))

    clean = train(network=network)
    write = training.checkpoints.write

    def write_and_stop(*arguments):
        write(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(training.checkpoints, "write", write_and_stop)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            train(network=network, checkpoint=tmp_path / "run")
    assert same(train(network=network, checkpoint=tmp_path / "run"), clean)


def runs_under_fire(path: Path, kills: int) -> None:
    """Processes that train are killed at random times until `kills` are dead, and always the same run comes out.

    At least 5 of the killed had gone on from a checkpoint.
    """
    torch.set_num_threads(1)
    settings = {"images": DIGITS.subset(200, 50), "epochs": 8, "lr": 0.02, "method": BC}
    train(**settings)  # the first run is slower
    start = time.perf_counter()
    clean = train(**settings)
    duration, choose = time.perf_counter() - start, random.Random(0)
    dead = went_on = finished = 0
    while dead < kills or went_on < 5 or path.exists():
        resumed = path.exists()
        child = os.fork()
        if child == 0:
            train(checkpoint=path, **settings)
            os._exit(0)
        if dead < kills or went_on < 5:
            time.sleep(choose.uniform(0, duration))
            os.kill(child, signal.SIGKILL)  # a child that has ended waits for waitpid
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status):
            dead += 1
            went_on += resumed
            continue
        assert status == 0
        assert same(train(checkpoint=path, **settings), clean)
        path.unlink()
        finished += 1
        duration *= 0.95  # so that more are killed
    print(json.dumps({"dead": dead, "went_on": went_on, "finished": finished}))


def test_killed_twenty_times(tmp_path):
    command = [sys.executable, __file__, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["dead"] >= 20 and counts["went_on"] >= 5 and counts["finished"] >= 1, counts


# Checkpoints that are refused


def with_decay(model):
    return [{**g, "weight_decay": 0.1} for g in groups(model)]


OTHER = {
    "images": {"images": DIGITS.subset(100, 60)},
    "network": {"network": partial(ResNet, (1,), 5, 10, 1)},
    "method": {"method": partial(BinaryConnect, BINARY, seed=1)},
    "groups": {"groups": partial(groups, quantize="all but first and last")},
    "groups ": {"groups": with_decay},  # weight_decay=0.1 would change nothing, all weights are quantised
    "epochs": {"epochs": 4},
    "batch": {"batch": 20},
    "lr": {"lr": 0.02},
    "momentum": {"momentum": 0.8},
    "augmented": {"augmented": False},
    "reestimation": {"reestimation": 1},
    "seed": {"seed": 1},
    "compiled": {"compiled": True},
}


def test_other_settings_are_refused(tmp_path):
    path = tmp_path / "run"
    train(checkpoint=path)
    content = path.read_bytes()
    for what, change in OTHER.items():
        with pytest.raises(ValueError, match=rf"{path} belongs to a run with other settings: .*\b{what.strip()} is "):
            train(checkpoint=path, **change)
    with pytest.raises(ValueError, match="epochs is 3 there, 5 here$"):
        train(checkpoint=path, epochs=5)
    assert path.read_bytes() == content
    for epsilon in (0.3, Geometric(0.3, 0.9)):
        with pytest.raises(ValueError, match=r"method is BinaryConnect.* there, ASkew.*epsilon|method is .*schedule"):
            train(partial(ASkew, BINARY, epsilon=epsilon), checkpoint=path)


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "other"])
def test_damaged_checkpoints_are_refused(tmp_path, damage):
    path = tmp_path / "run"
    train(checkpoint=path, epochs=1)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"cut": path.read_bytes()[:-1], "bit": content, "empty": b"", "other": b"PK" + bytes(100)}[damage])
    with pytest.raises(ValueError, match=f"{path} is a damaged checkpoint"):
        train(checkpoint=path, epochs=1)


def test_a_write_that_fails_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    path, writes = tmp_path / "run", 0

    def fsync(_):
        nonlocal writes
        writes += 1
        if writes == 3:
            raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="no space"):
        train(checkpoint=path)
    seen = []
    monkeypatch.setattr(training, "_epoch", lambda run, *rest, f=training._epoch: seen.append(1) or f(run, *rest))
    assert same(train(checkpoint=path), train()) and len(seen) == 1 + 3


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"batch": 0}, {"batch": 101}, {"reestimation": -1}])
def test_bad_settings(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))}={next(iter(bad.values()))}.*allowed"):
        train(**bad)


if __name__ == "__main__":
    runs_under_fire(Path(sys.argv[1]), kills=20)
