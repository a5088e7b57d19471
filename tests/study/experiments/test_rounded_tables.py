"""The stored runs of chapter 13: what a unit measures, on few seeds, and how a step size is chosen."""

from __future__ import annotations

import pytest
import torch

from quantized_training.methods import DebiasedBinaryConnect
from study.experiments import rounded as ex
from study.experiments import sensitivity
from study.methods import BINARY
from study.tasks import logistic, moons
from study.tasks.ensembles import train


@pytest.mark.parametrize(("task", "module"), [("I", logistic), ("II", moons)])
def test_the_table_holds_the_loss_of_every_sign_vector(task, module):
    e, floor = sensitivity.draw(task, range(2))
    losses = ex.table(task, range(2))
    W = BINARY.vectors(e.initial.shape[1], torch.float64)
    for row in (0, 1, 37, len(W) // 2, len(W) - 1):
        expected = module.loss(W[row].expand(2, -1), *e.data)
        torch.testing.assert_close(losses[:, row], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(losses.amin(1), floor.expand(2), rtol=0, atol=1e-9)


def test_the_scores_of_a_corner_and_of_the_middle():
    losses = torch.tensor([[3.0, 0.0, 1.0, 2.0]]).double()  # at (-1, -1), (-1, 1), (1, -1), (1, 1)
    best = ex.scores(losses, torch.tensor([[-1.0, 5.0]]).double())
    assert {k: v.item() for k, v in best.items()} == {
        "at the best": 1, "at a single-flip minimum": 1, "gap, nearest signs": 0, "gap, mean of random signs": 0,
        "gap, signs by means": 0, "undecided weights": 0,
    }  # fmt: skip
    middle = {k: v.item() for k, v in ex.scores(losses, torch.zeros(1, 2).double()).items()}
    assert middle["gap, nearest signs"] == 2 and not middle["at a single-flip minimum"]  # 0 is rounded up
    assert middle["gap, mean of random signs"] == 1.5 and middle["undecided weights"] == 1
    assert middle["gap, signs by means"] == 1  # a tie, then (1, -1): no worse than the mean, and no more is promised


def test_a_unit_is_the_run_it_says():
    seeds = {"held out": range(3), "tuning": range(3, 5)}
    rows = ex.small("II", 0.3, seeds)
    e, floor = sensitivity.draw("II", range(3))
    w = train(ex.methods("II")[ex.DEBIASED, 0.1], e, 0.3, record=False)
    assert w.abs().max() <= 0.9
    gap = e.loss(BINARY.nearest(w), *e.data) - floor
    wanted = ("II", 0.3, ex.DEBIASED, 0.1, "held out", "gap, nearest signs")
    (row,) = [r for r in rows if tuple(r.values())[:6] == wanted]
    assert row["n"] == 3 and row["mean"] == pytest.approx(gap.mean().item(), abs=1e-12)
    assert {r["n"] for r in rows if r["seeds"] == "tuning"} == {2}
    moved = ex.one_coordinate("II", e, 0.3)
    assert moved.abs().max() <= 1 and not torch.equal(moved, e.initial.clamp(-1, 1))


def test_the_step_size_is_chosen_on_other_seeds_and_the_first_of_several():
    def row(seeds, lr, mean):
        about = {"task": "II", "lr": lr, "method": "A", "delta": 0.0, "seeds": seeds}
        return about | {"quantity": "gap, nearest signs", "mean": mean}

    rows = [row("tuning", lr, m) for lr, m in ((3.0, 0.1), (1.0, 0.1), (0.3, 0.2))]
    rows += [row("held out", lr, m) for lr, m in ((3.0, 0.0), (1.0, 0.5), (0.3, 0.1))]
    assert ex.chosen(rows, "II") == {("A", 0.0): 1.0}
    assert ex.tuned(rows, "II")["A", 0.0]["gap, nearest signs"]["mean"] == 0.5


def test_every_case_of_the_digits_makes_its_method():
    for method, delta in ex.CASES:
        made = ex.DIGITS[method](BINARY, 0, *([delta] if delta else []))
        assert isinstance(made, DebiasedBinaryConnect) == (delta > 0) and getattr(made, "delta", 0.0) == delta
        assert made.forward_is_latent is False
