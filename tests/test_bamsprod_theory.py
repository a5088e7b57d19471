"""What can be decided about BAMSProd from its text, and the sizes that the paper's introduction quotes."""

import re
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from quantized_training import bamsprod as bp
from quantized_training import sizes
from quantized_training.results import claims


def test_example_of_theorem_1_is_not_convex():
    for period in (3, 4, 10):
        assert bp.example(0, 2, period) > (bp.example(-1, 2, period) + bp.example(1, 2, period)) / 2
    assert bp.example(0, 3, 4) > (bp.example(-1, 3, 4) + bp.example(1, 3, 4)) / 2
    grid = np.linspace(-1, 1, 41)
    assert all(bp.example(-1, t, 5) <= bp.example(w, t, 5) for w, t in product(grid, range(10)))
    means = {round(float(np.mean([bp.example(w, t, 5) for t in range(5)])), 12) for w in grid[1:]}
    assert means == {0.0}  # all other points tie: +1 is a worst point, but not the only one


def test_sign_of_the_drift_is_the_threshold():
    betas = [Fraction(b) for b in ("1/10", "1/2", "9/10", "99/100", "999/1000")]
    ratios = [Fraction(r, 20) for r in range(5, 61)]
    cases = list(product(betas, (3, 4, 5, 10, 20), ratios))
    assert all(bp.drift_sign(*case) == bp.threshold_sign(*case) for case in cases)
    assert all(bp.drift_sign(b, c, Fraction(1)) == -1 for b in betas for c in (3, 10))
    with pytest.raises(ValueError, match="allowed is 3 or more"):
        bp.drift_sign(Fraction(1, 2), 2, Fraction(1))


def test_simulated_ends_follow_the_threshold_and_sgd_is_no_better():
    grid = np.array(list(product((0.5, 0.9, 0.99), (3, 5, 10), (0.8, 1.0, 1.1, 1.5, 2.5))))
    beta2, period, ratio = grid.T
    sign = [bp.threshold_sign(Fraction(b), int(c), Fraction(r)) for b, c, r in grid]
    adam, sgd = (bp.ends(m, np.ones(len(grid)), -ratio, period, beta2) for m in ("Adam", "SGD"))
    assert np.array_equal(np.sign(adam), sign)
    adagrad = bp.ends("AdaGrad", np.ones(len(grid)), -ratio, period, beta2)
    assert (sgd[adam > 0] > 0.3).all()
    assert np.array_equal(adagrad > 0, ratio > 1)
    for end in (sgd, adagrad):
        assert (np.abs(end[ratio == 1]) < 0.01).all()  # they stay where they began
    printed = np.array([bp.printed_condition(b, int(c), 1, r) for b, c, r in grid])
    assert (printed & (adam < 0)).any()
    with pytest.raises(ValueError, match="allowed are"):
        bp.ends("Lion", beta2, beta2, period, beta2)


def test_adam_fails_on_the_example_of_reddi_and_amsgrad_does_not():
    c = np.array([2.5, 3.0, 5.0, 10.0])  # gradients c, -1, -1: their sum is positive, so -1 is best
    args = (c, -np.ones(4), np.full(4, 3), 1 / (1 + c * c), -1.0)
    assert (bp.ends("Adam", *args) > 0.9).all()
    assert (bp.ends("AMSGrad", *args) < -0.9).all()
    assert (bp.ends("SGD", *args) < -0.9).all()


def test_units():
    regret = (1, 0)
    assert bp.units(D=2, v=0.5, eta=-1) == regret  # first term
    assert bp.units(eta=1, g=1) == regret  # third term of AMSGrad
    assert bp.units(eta=1, alpha=1) == (0, 2)
    assert bp.units(L=1, D=1, w=0.5, v=0.125) == (1.25, 0.25)  # fourth term of Theorem 4
    assert bp.units(L=1, D=1, w=1, v=0.25) == (1.5, 0.5)  # the limit of c_l and c_u
    assert bp.units(L=1, D=1, w=1, v=0.25) != bp.units(v=1)
    assert bp.units(L=1, w=1) == regret  # what a quantisation error may cost


def theorem_4(steps: int) -> tuple[float, float]:
    """Regret and bound for f_t(w) = w from w_1 = alpha* = 1 with c_l = c_u = 1e10."""
    run = list(bp.algorithm_1(lambda w: 1.0, 1.0, 1.0, 0.9, 1e10, 1e10, steps))
    regret = sum(point + 1 for point, *_ in run)
    last = 2 * sum((abs(w - 1) * clipped**0.25) ** 0.5 for _, w, _, clipped in run)
    return regret, bp.bound(run[-1][2], steps, 1.0, 0.9, 2.0, 1.0, last)


def test_theorem_4_is_violated():
    regret, bound = theorem_4(1000)
    assert regret > 1.5 * bound
    assert regret == pytest.approx(2000, rel=1e-3)


@pytest.mark.parametrize(("low", "high"), [(0.0, np.inf), (1.0, 1.0)])
def test_corollary_4_is_violated_by_a_fixed_convex_loss(low, high):
    theta, steps, diameter = 0.2, 100_000, 2.0
    run = list(bp.algorithm_1(lambda w: w - theta, 0.3, 0.1, 0.9, low, high, steps, binary=True))
    regret = sum((point - theta) ** 2 / 2 for point, *_ in run)  # against w = theta
    assert regret / steps == pytest.approx((1 - theta**2) / 2, rel=0.01)
    best_binary = (1 - theta) ** 2 / 2
    assert regret / steps - best_binary == pytest.approx(theta * (1 - theta), rel=0.02)
    last = (1 + theta) * diameter * (diameter + 1) ** 0.5  # L D sqrt(D + alpha^2 d^2)
    assert regret > 2 * bp.bound(run[-1][2], steps, 0.1, 0.9, diameter, 1.0, last)


def test_read_literally_no_weight_flips():
    """w-tilde = alpha sign(w) is updated and made binary again: a step below alpha is forgotten."""
    w = 0.1
    for t in range(1, 1001):
        w = 0.1 if w - 0.05 / t**0.5 > 0 else -0.1
    assert w == 0.1


def test_best_scale_is_the_weighted_mean():
    rng = np.random.default_rng(0)
    w, h = rng.normal(size=50), rng.random(50)
    found = minimize_scalar(lambda a: (h * (w - a * np.sign(w)) ** 2).sum()).x
    assert bp.scale(w, h) == pytest.approx(found, rel=1e-6)
    assert bp.scale(np.array([0.1, -0.1]), np.ones(2)) == pytest.approx(0.1)


def test_second_moment_can_fall_with_adam_and_cannot_with_adagrad():
    beta2, t = 0.9, 20
    v = 1.0
    assert (t + 1) ** 0.5 * (beta2 * v) ** 0.5 < t**0.5 * v**0.5  # sqrt(v_t) / eta_t after a gradient of 0


def test_following_the_printed_limit_freezes_the_weights():
    """c grows by L D |q| c^(1/4) per step: like t^(4/3), and the steps 1/sqrt(t c) have a finite sum."""
    c, path, at = 1.0, 0.0, {}
    for t in range(1, 1_000_001):
        path += 1 / (t * c) ** 0.5
        c += c**0.25
        at[t] = (c, path)
    growth = np.log(at[1_000_000][0] / at[100_000][0]) / np.log(10)
    assert growth == pytest.approx(4 / 3, abs=0.01)
    assert at[1_000_000][1] - at[100_000][1] < 0.6 * (at[100_000][1] - at[10_000][1]) * 1.2


def test_arithmetic_of_the_printed_gains():
    assert round(100 * (91.6 / 88.3 - 1), 2) == 3.74
    assert round(73.9 - 70.2, 1) == round(67.8 - 64.1, 1) == 3.7
    assert round(73.9 - 73.1, 1) == 0.8 and round(70.91 - 70.11, 2) == 0.8 and round(73.9 - 72.7, 1) == 1.2
    assert 32 / 1 == 32 and 50_000 / 64 == 2 * 50_000 / 128


def test_sgd_leads_the_adaptive_methods_in_table_2():
    rows = {row["id"]: row for row in claims()}
    values = {
        m: [float(x) for x in re.findall(r"\d+\.\d+", rows[f"bp-t2-{m}"]["printed"])]
        for m in ("sgd", "adam", "amsgrad", "adabound", "amsbound")
    }
    sgd = values.pop("sgd")
    assert sgd == [66.9, 73.1]
    assert all(a < b for value in values.values() for a, b in zip(value, sgd, strict=True))
    assert rows["bp-t1-adabound"]["value"] < rows["bp-t1-sgd"]["value"] < rows["bp-t1-adam"]["value"]


@pytest.mark.parametrize(
    ("blocks", "bottleneck", "count"),
    [
        ((2, 2, 2, 2), False, 11_689_512),
        ((3, 4, 6, 3), False, 21_797_672),
        ((3, 4, 6, 3), True, 25_557_032),
        ((3, 4, 23, 3), True, 44_549_160),
    ],
)
def test_sizes_of_residual_networks(blocks, bottleneck, count):
    assert sizes.resnet_parameters(blocks, bottleneck) == count  # those of torchvision's models


def test_sizes_of_the_introduction():
    assert sizes.resnet_parameters((3, 4, 23, 3), True) * 4 / 1e6 == pytest.approx(178.2, abs=0.1)
    assert sizes.transformer_parameters(96, 12_288, 50_257, 2048) / 1e9 == pytest.approx(174.6, abs=0.1)


def test_schedules_of_the_answer_cross():
    t = np.arange(1, 1000)
    upper, lower = 100 / (1 + t), 1 - np.exp(-t / 100)
    assert t[upper < lower][0] == 135
