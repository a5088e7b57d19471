"""What chapter 11 says about its stored tables."""

import math
from functools import cache

import numpy as np
import pytest

from quantized_training import results
from quantized_training.experiments import _adaptive
from quantized_training.tasks import binary
from quantized_training.tasks.optimisers import OPTIMISERS

TASKS = {"digits": "adaptive_digits", "Fashion-MNIST": "adaptive_fashion"}
LEVELS = {"digits": ("0.5", "0.2", "0.1", "0.05", "0.02"), "Fashion-MNIST": ("0.7", "0.6", "0.5", "0.4", "0.3")}
BEST, LOWEST = "best validation score", "lowest training loss"
OTHERS = [name for name in OPTIMISERS if name != "BAMSProd"]


@cache
def rows(table):
    return {(r["unit"], r["part"], r["quantity"]): r for r in results.read(table)}


def row(table, *where):
    return rows(table)[where]


def values(table, unit, part, quantity):
    found = row(table, unit, part, quantity)
    return np.array([found[f"seed {s}"] for s in _adaptive.TESTS], dtype=float)


def interval(x):
    """95 % t-interval of the mean, by hand for 20 seeds."""
    half = 2.093024 * np.std(x, ddof=1) / math.sqrt(len(x))
    return np.mean(x) - half, np.mean(x) + half


def points(task, unit):
    return 100 * values(TASKS[task], unit, BEST, "final score")


@pytest.mark.parametrize("task", TASKS)
def test_accuracies_lie_close_together(task):
    ours = points(task, "BAMSProd, batch 64")
    gaps = {name: interval(ours - points(task, f"{name}, batch 64")) for name in OTHERS}
    assert gaps["Bop"][1] < 1.5 and abs(np.mean(ours - points(task, "Bop, batch 64"))) < 1
    assert all(-1.5 < low and high < 1.5 for low, high in gaps.values())
    assert sum(low < 0 < high for low, high in gaps.values()) >= 2  # not distinguishable
    assert (gaps["Bop"][1] < 0) == (task == "Fashion-MNIST")  # where Bop is the better one
    for name in OPTIMISERS:  # the best of five is above the mean
        x = points(task, f"{name}, batch 64")
        assert x[:5].max() > x.mean()


def ratio(task, name, level):
    table = TASKS[task]
    other = values(table, f"{name}, batch 64", LOWEST, f"updates to {level}")
    return np.log(other / values(table, "BAMSProd, batch 64", LOWEST, f"updates to {level}"))


def test_speed_depends_on_the_loss_one_counts_to():
    digits = {level: interval(ratio("digits", "Adam", level)) for level in LEVELS["digits"]}
    assert any(low > 0 for low, _ in digits.values()) and any(high < 0 for _, high in digits.values())
    fashion = [interval(ratio("Fashion-MNIST", "SGD(M)", level)) for level in LEVELS["Fashion-MNIST"]]
    assert sum(high < 0 for _, high in fashion) >= 3 and not any(low > 0 for low, _ in fashion)
    for task in TASKS:
        slower = [x for level in LEVELS[task] if np.isfinite(x := ratio(task, "Bop", level)).all()]
        assert len(slower) >= 4 and all(interval(x)[0] > 0 for x in slower)  # the fifth is not reached


@pytest.mark.parametrize("task", TASKS)
def test_clipping_does_not_slow_adam_down(task):
    """To no early loss does a clipped Adam need 1.2 times the updates."""
    for clip in ("0.1", "0.01"):
        for level in LEVELS[task][:2]:
            clipped, plain = (
                values(TASKS[task], unit, LOWEST, f"updates to {level}")
                for unit in (f"Adam, gradient norm at most {clip}", "Adam, batch 64")
            )
            assert interval(np.log(clipped / plain))[1] < math.log(1.2)


def test_what_the_batch_does():
    """The smaller batch needs fewer epochs with two optimizers and more with four."""
    ratio = {}
    for name in OPTIMISERS:
        epochs = {
            b: values("adaptive_digits", f"{name}, batch {b}", LOWEST, "updates to 0.05") / (1140 // b)
            for b in (64, 128)
        }
        ratio[name] = interval(np.log(epochs[128] / epochs[64])) if np.isfinite(epochs[128]).all() else None
    assert ratio.pop("Bop") is None
    assert {name for name, (low, _) in ratio.items() if low > 0} == {"AdaBound", "AMSBound"}
    assert all(high < 0 for name, (_, high) in ratio.items() if name not in ("AdaBound", "AMSBound"))


def test_decay_factors_are_step_sizes():
    def get(name, b1, b2, part, quantity):
        return values("adaptive_vae", f"{name}, beta1 {b1}, beta2 {b2}", part, quantity)

    (x, _), _, (held_out, _) = binary.digits()
    mean = x[0].double().mean(0).clamp(1e-6, 1 - 1e-6)
    blind = -(held_out[0] * mean.log() + (1 - held_out[0]) * (1 - mean).log()).sum(1).mean().item()
    common = "common setting"
    for b1 in (0.8, 0.9):
        early = [get("BAMSProd", b1, b2, common, "updates to 28") for b2 in (0.99, 0.999)]
        assert interval(np.log(early[1] / early[0]))[1] < math.log(0.6)  # faster at first
        ends = [get("BAMSProd", b1, b2, common, "final score") for b2 in (0.99, 0.999)]
        assert np.mean(ends[0]) < 26 and np.mean(ends[1]) == pytest.approx(blind, abs=0.02)  # and ignores its code
        own = get("BAMSProd", b1, 0.999, BEST, "final score") - get("BAMSProd", b1, 0.99, BEST, "final score")
        assert interval(own)[0] < 0 < interval(own)[1]
        adam = get("Adam", b1, 0.999, common, "updates to 28") / get("Adam", b1, 0.99, common, "updates to 28")
        assert abs(np.log(adam).mean()) < 0.1
    rates = {
        b2: row("adaptive_vae", f"BAMSProd, beta1 0.9, beta2 {b2}", BEST, "final score")["setting"]
        for b2 in (0.99, 0.999)
    }
    assert rates == {0.99: "lr 0.01", 0.999: "lr 0.00316"}  # sqrt(10) apart, as sqrt((1 - 0.99) / (1 - 0.999)) is
    for b2 in (0.99, 0.999):  # beta1 = 0.8 is not better at the end
        low, high = interval(
            get("BAMSProd", 0.8, b2, BEST, "final score") - get("BAMSProd", 0.9, b2, BEST, "final score")
        )
        assert low < 0 < high


@pytest.mark.parametrize("task", TASKS)
def test_the_binary_network_is_not_smoother_than_the_full_precision_one(task):
    quantity = "roughness of the score, second half"
    ours = values(TASKS[task], "BAMSProd, batch 64", BEST, quantity)
    gaps = [
        ours - values(TASKS[task], f"{name}, full precision", BEST, quantity) for name in ("SGD(M)", "Adam", "BAMSProd")
    ]
    assert all(gap.mean() > 0 for gap in gaps) and sum(interval(gap)[0] > 0 for gap in gaps) >= 2
