"""Training steps timed side by side."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch

from quantized_training import StraightThrough
from study.experiments import step_times
from study.vision import tuned
from study.vision.grid import FULL


class Clock:
    """A second for every look at it, so that no other work counts."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def test_a_slow_step_is_seen(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)

    class Slow(StraightThrough):
        def after_step(self, w, levels, state, lr):
            clock.now += 2
            return w

    names = ["Full precision", "Straight-through", "ASkewSGD"]
    slow = replace(tuned.METHODS["ASkewSGD"], make=lambda start, **constants: Slow(start.levels))
    monkeypatch.setitem(tuned.METHODS, "ASkewSGD", slow)
    monkeypatch.setattr(step_times, "METHODS", {name: tuned.METHODS[name] for name in names})
    tiny = replace(tuned.PROTOCOLS["cifar"], width=2, stride=4, batch=8, half=False)
    monkeypatch.setitem(step_times.PROTOCOLS, "cifar", tiny)
    rows = step_times.unit(2, steps=3, rounds=2)
    assert [(r["round"], r["method"]) for r in rows] == [(0, m) for m in reversed(names)] + [(1, m) for m in names]
    assert {r["bits"] for r in rows} == {2} and FULL not in {r["bits"] for r in rows}
    for row in rows:  # three steps, one look; 20 layers
        assert row["seconds"] == pytest.approx(1 / 3 + 2 * 20 * (row["method"] == "ASkewSGD"))


def test_noise_has_the_shape_of_images():
    data = step_times.blank(tuned.PROTOCOLS["subset"], 3)
    assert data.train_x.shape == (192, 3, 32, 32) and data.train_x.dtype == torch.uint8
    assert 120 < data.train_x.double().mean() < 135 and set(data.train_y.tolist()) == set(range(10))
