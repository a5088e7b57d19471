"""The stored experiments of Task II: what a unit computes, on few seeds, and that the stated set-up is among the readings."""

from __future__ import annotations

import pytest
import torch

from quantized_training import Levels
from study.claims import printed
from study.experiments import moons_readings, moons_widths
from study.tasks import moons
from study.tasks.ensembles import train


def test_a_unit_of_the_readings_is_the_run_it_says():
    rows = moons_readings.unit("sd 0.1", "25 steps, lr 1", seeds=4)
    data = moons.draw(4).one_batch_per_epoch()
    assert (
        moons_readings.SCHEDULES["500 steps, lr 1"] == (False, 1.0) and not moons_readings.DATA["sd 0.1"]
    )  # as stated
    for name, value in printed(3).items():
        w = train(moons.METHODS[name], data, record=False)
        loss = moons.loss(w, data.test_x, data.test_y)
        wanted = ("sd 0.1", name, moons_readings.AS_SET, "latent weights, test set")
        (row,) = [r for r in rows if (r["data"], r["method"], r["variant"], r["quantity"]) == wanted]
        assert (row["n"], row["printed"]) == (4, value)
        assert row["mean"] == pytest.approx(loss.mean().item()) and row["sd"] == pytest.approx(loss.std().item())
        assert row["near"] == ((loss - value).abs() < 0.005).double().mean().item()


def test_every_reading_differs():
    """No two data sets, schedules or variants give the same numbers (a variant that is ignored would)."""
    runs = {}
    for (data, schedule), seeds in {(d, s): 2 for d in moons_readings.DATA for s in ("25 steps, lr 1",)}.items():
        for row in moons_readings.unit(data, schedule, seeds):
            if row["quantity"] == "latent weights, training set":
                runs[data, row["method"], row["variant"]] = row["mean"]
    untouched = {(d, m, "ε = 1 throughout") for d in moons_readings.DATA for m in ("ASkewSGD", "Modified ASkewSGD")}
    values = [v for key, v in runs.items() if key not in untouched]  # these are SGD
    assert len(set(values)) == len(values)
    for d, m, variant in untouched:
        assert runs[d, m, variant] == runs[d, "Full precision", "as set"]


def test_units_of_the_widths():
    rows = {r["quantity"]: r for r in moons_widths.unit(4, "BinaryConnect", seeds=6)}
    data = moons.draw(6, hidden=4)
    w = Levels.binary().nearest(train(moons.METHODS["BinaryConnect"], data, record=False))
    every = Levels.binary().vectors(12, torch.float64)
    best = torch.stack([moons.loss(every, x, y).min() for x, y in zip(data.x, data.y, strict=True)])  # 4096 networks
    gap = moons.loss(w, data.x, data.y) - best
    assert rows["gap to the best"]["mean"] == pytest.approx(gap.mean().item(), abs=1e-12)
    assert rows["at the best"]["mean"] == pytest.approx((gap < 1e-9).double().mean().item())
    searched = {r["quantity"]: r for r in moons_widths.search(4, seeds=6)}
    assert searched["quantised weights, training set"]["mean"] == pytest.approx(best.mean().item())


def test_the_best_variant_of_each_method_is_near_most_often_and_the_set_one_in_a_tie():
    case = {"data": "sd 0.1", "schedule": "one", "quantity": "loss"}
    kinds = [("A", "x", 0.1), ("A", "y", 0.3), ("B", "x", 0.0), ("B", moons_readings.AS_SET, 0.0)]
    rows = [case | {"method": m, "variant": v, "near": near} for m, v, near in kinds]
    rows += [row | {"near": 1.0, "schedule": "other"} for row in rows]
    found = moons_readings.best_variants(rows, "sd 0.1", "one", "loss")
    assert [(r["method"], r["variant"], r["near"]) for r in found] == [
        ("A", "y", 0.3),
        ("B", moons_readings.AS_SET, 0.0),
    ]
