"""The printed limit of BAMSProd's bounds: what it is made of, what following it does, and which schedules may replace it."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize_scalar

from helpers import quantisation_error
from quantized_training.adaptive import BAMSProd, Falling, Rising
from study.tasks import bamsprod_limit as bl
from study.tasks.binary import digits

# What the limit is made of


def test_best_scale_is_the_weighted_mean():
    rng = np.random.default_rng(0)
    w, h = rng.normal(size=50), rng.random(50)
    found = minimize_scalar(lambda a: (h * (w - a * np.sign(w)) ** 2).sum()).x
    assert bl.scale(w, h) == pytest.approx(found, rel=1e-6)
    assert bl.scale(np.array([0.1, -0.1]), np.ones(2)) == pytest.approx(0.1)


def test_measured_quantities_are_their_formulas():
    rng = np.random.default_rng(1)
    w, g, h = rng.normal(size=(2, 30)), rng.normal(size=(2, 30)), rng.random((2, 30))
    found = bl.measure(*map(torch.tensor, (w, g, h)))
    for i in range(2):
        a = float(found["scale_h"][i])
        H, q = np.diag(h[i]), w[i] - a * np.sign(w[i])
        assert float(found["error_h"][i]) == pytest.approx(math.sqrt(q @ H @ q))
        assert float(found["printed"][i]) == pytest.approx(math.sqrt((w[i] - a) @ H @ (w[i] - a)))
        assert float(found["repaired"][i]) == pytest.approx(math.sqrt(g[i] @ np.linalg.inv(H) @ g[i] * (q @ H @ q)))
        assert abs(g[i] @ q) <= float(found["repaired"][i])  # Cauchy-Schwarz: what the rounding may cost in one step
        best = minimize_scalar(lambda a, i=i: np.linalg.norm(w[i] - a * np.sign(w[i]))).x
        assert float(found["scale"][i]) == pytest.approx(best, rel=1e-6)
        assert float(found["error"][i]) == pytest.approx(quantisation_error(torch.tensor(w[i])))
        assert float(found["gradient"][i]) == pytest.approx(math.sqrt(sum(x * x for x in g[i])))
    binary = torch.tensor([[0.1, -0.1, 0.1]])
    found = bl.measure(binary, binary, torch.ones(1, 3))
    assert float(found["error_h"]) == pytest.approx(0, abs=1e-7) and float(found["printed"]) == pytest.approx(0.2)


def test_start_weights_fill_the_box_and_have_the_error_of_their_law():
    network = bl.network([0, 1])
    law = [quad(lambda x, k=k: abs(x) ** k * math.exp(-2 * x * x), -1, 1, points=[0])[0] for k in range(3)]
    expected = math.sqrt(1 - law[1] ** 2 / law[0] / law[2])
    assert expected == pytest.approx(0.570, abs=1e-3)
    for w in (layer.weight for layer in network.layers()):
        assert 0.9 < w.abs().max() <= 1
    assert quantisation_error(network.layers()[0].weight) == pytest.approx(expected, abs=5e-3)


# The small network


@pytest.fixture(scope="module")
def run():
    return bl.train([3, 4], steps=30, record=True)


def test_a_seed_s_run_does_not_depend_on_the_others(run):
    alone = bl.train([4], steps=30, record=True)
    np.testing.assert_allclose(run.losses[:, 1:], alone.losses, rtol=1e-3)
    np.testing.assert_allclose(run.record["error"][:, :, 1:], alone.record["error"], rtol=1e-3)


def test_all_matrices_and_nothing_else_are_binary(run):
    assert all(set(layer.weight.unique().tolist()) == {-1.0, 1.0} for layer in run.network.layers())
    assert not any(set(layer.gain.abs().unique().tolist()) == {1.0} for layer in run.network.layers())


def test_the_record_agrees_with_the_state_of_the_optimizer(run):
    """rho is the mean of the recorded errors, c the largest product so far, and the bounds are those of the step before."""
    base, r = run.optimizer.base, run.record
    for i, w in enumerate(layer.weight for layer in run.network.layers()):
        state = base.state[w]
        assert state["error"] == pytest.approx(r["error"][:, i].mean(0), rel=1e-4)
        assert r["target"][-1, i] == pytest.approx(state["target"], rel=0.2)
        ulp = np.finfo(np.float32).eps  # the record is in float32, the state in float64
        assert (r["target"][-1, i].astype(float) <= np.array(state["target"]) * (1 + ulp)).all()
    np.testing.assert_allclose(
        r["c_l"][1:], r["target"][1:] * np.array([Rising(1e-3)(t) for t in range(1, 30)])[:, None, None], rtol=1e-5
    )
    np.testing.assert_allclose(
        r["c_u"][1:], r["target"][1:] * np.array([Falling(1e-3)(t) for t in range(1, 30)])[:, None, None], rtol=1e-5
    )


def test_before_batch_normalisation_the_loss_does_not_depend_on_the_scale(run):
    network, (x, y) = run.network, [part[:, :80] for part in digits()[0]]
    before = network.losses(x, y)
    for w in (layer.weight for layer in network.layers()):
        network.zero_grad()
        network.losses(x, y).sum().backward()
        along = (w.grad * w).sum((1, 2)).abs()
        assert (along < 1e-5 * w.grad.flatten(1).norm(dim=1) * w.detach().flatten(1).norm(dim=1)).all()
        with torch.no_grad():
            w *= 3
            torch.testing.assert_close(network.losses(x, y), before, rtol=1e-4, atol=1e-5)
            w /= 3


def test_the_printed_target_is_the_printed_sum():
    run = bl.train([0], steps=12, printed=True)
    for i, w in enumerate(layer.weight for layer in run.network.layers()):
        g, e = run.record["gradient"][:, i, 0], run.record["error_h"][:, i, 0]
        sums = np.maximum.accumulate(g) * 2 * math.sqrt(w.numel()) * np.cumsum(e)
        assert run.optimizer.param_groups[i]["target"] == pytest.approx(sums[-1], rel=1e-5)
        np.testing.assert_allclose(run.record["target"][1:, i, 0], sums[:-1], rtol=1e-5)
    assert sums[-1] > 1e6 * run.record["mean"][-1, -1, 0]
    with pytest.raises(ValueError, match="allowed is one"):
        bl.train([0, 1], steps=1, printed=True)


def test_the_clipped_moment_spreads_as_far_as_the_bounds():
    """(1 + 1/(gamma t))^2, whatever the network does; 1 where the bounds are equal: one step for the whole tensor."""
    run = bl.train([0], lower=Rising(0.5), upper=Falling(0.5), steps=20, record=True)
    t = np.arange(1, 20)[:, None]
    np.testing.assert_allclose(run.record["spread"][1:, :, 0], ((1 + 1 / (0.5 * t)) ** 2) * np.ones((1, 3)), rtol=1e-4)
    w, grads = torch.nn.Parameter(torch.randn(40, generator=torch.Generator().manual_seed(0))), []
    optimizer = BAMSProd([w], lr=0.1, lower=1.0, upper=1.0, eps=0.0)
    for k in range(1, 6):
        w.grad = torch.randn(40, generator=torch.Generator().manual_seed(k)) * torch.logspace(-3, 2, 40)
        grads.append(w.grad)
        before = w.detach().clone()
        optimizer.step()
        average = sum(0.1 * 0.9 ** (k - 1 - i) * g for i, g in enumerate(grads))
        step = 0.1 / math.sqrt(k * optimizer.state[w]["target"][0])
        torch.testing.assert_close(before - w.detach(), step * average, rtol=1e-3, atol=1e-5)


# Following the limit


def test_following_the_printed_limit_freezes_the_weights():
    """c grows by L D |q| c^(1/4) per step: like t^(4/3), and the steps 1/sqrt(t c) have a finite sum."""
    steps = 100_000
    t = np.arange(1, steps + 1)[:, None]
    for decays, power, exponent in (
        ((0.0, 0.125, 0.25, 0.5), 0.25, lambda p: 4 / 3 * (1 - p)),
        ((0.0, 0.0625, 0.125, 0.25), 0.125, lambda p: 8 / 7 * (1 - p)),  # the root of the norm decays half as fast
    ):
        c = bl.follow(decays, steps, power)
        sizes = 1 / np.sqrt(t * c)
        for i, p in enumerate(decays):
            assert np.log10(c[-1, i] / c[steps // 10 - 1, i]) == pytest.approx(exponent(p), abs=0.01)
            shrink = np.log10(sizes[-1, i] / sizes[steps // 10 - 1, i])
            assert shrink == pytest.approx(-1 / 2 - exponent(p) / 2, abs=0.01)
        decades = np.array([sizes[10**k : 10 ** (k + 1)].sum(0) for k in (2, 3, 4)])
        ratio = decades[2] / decades[1]  # below 1: a geometric series, a finite distance; p = 1/4 is the border
        expected = [10 ** (1 / 2 - exponent(p) / 2) for p in decays]
        assert ratio == pytest.approx(expected, rel=0.02)
        assert ratio[0] < 0.95 and ratio[1] < 1 and ratio[2] == pytest.approx(1, abs=0.01) and ratio[3] > 1.05
    c = 1.0
    for k in range(1, 51):
        c += k**-0.5 * c**0.25
    assert bl.follow([0.5], 50)[-1, 0] == pytest.approx(c, rel=1e-12)


# Schedules


def test_pairs_have_the_width_and_adabound_s_is_one_of_them():
    found = bl.pairs(200, 0.1)
    for lower, upper in found.values():
        assert upper(200) - lower(200) == pytest.approx(0.1, rel=1e-9)
        values = [(lower(t), upper(t)) for t in (1, 2, 10, 1000, 10**7)]
        assert all(a <= c <= 1 <= d <= b for (a, b), (c, d) in zip(values, values[1:], strict=False))
        assert values[-1] == pytest.approx((1, 1), abs=1e-3)
    rate = bl.rate_for(0.1, 200)
    lower, upper = found["1/t (AdaBound's form)"]
    for t in (1, 7, 300):
        assert (lower(t), upper(t)) == pytest.approx((Rising(rate)(t), Falling(rate)(t)), rel=1e-12)
    lower, upper = found["its square (AMSBound)"]
    rate = 1 / (200 * (math.sqrt(upper(200)) - 1))
    for t in (1, 7, 300):
        assert (lower(t), upper(t)) == pytest.approx((Rising(rate)(t) ** 2, Falling(rate)(t) ** 2), rel=1e-12)
    with pytest.raises(ValueError, match="must be positive"):
        bl.rate_for(0.0, 10)


def test_which_schedules_let_t_times_the_bound_decrease():
    gamma = 1e-3
    assert len(bl.violations(Falling(gamma), 5000)) == 0
    assert len(bl.violations(lambda t: 1 + (gamma * t) ** -0.5, 5000)) == 0
    squared = bl.violations(lambda t: Falling(gamma)(t) ** 2, 5000)  # t (t + 1) < 1 / gamma^2
    assert np.array_equal(squared, np.arange(1, 1000))
    power = bl.violations(lambda t: 1 + (gamma * t) ** -1.5, 5000)  # gamma t < (q - 1)^(1/q)
    assert power[-1] == pytest.approx(0.5 ** (2 / 3) / gamma, abs=1)
    for k, decreases in ((math.e**2 - 0.01, False), (math.e**2 + 0.01, True), (1000, True)):
        assert bool(len(bl.violations(lambda t, k=k: 1 + k * math.exp(-gamma * t), 5000))) is decreases
    x = minimize_scalar(lambda x: math.exp(-x) * (1 - x), bounds=(0, 10), method="bounded")
    assert x.x == pytest.approx(2, abs=1e-4) and -1 / x.fun == pytest.approx(math.e**2)


def test_schedules_of_the_answer_cross():
    first = [next(t for t in range(1, 10_000) if upper(t) < lower(t)) for lower, upper in bl.ANSWER.values()]
    assert first == [135, 4603]
    lower, upper = bl.ANSWER["c₀ / (1 + t)"]
    assert upper(0) == 100 and upper(10**9) < 1e-6
    w = torch.nn.Parameter(torch.ones(3))
    optimizer = BAMSProd([w], lower=lower, upper=upper)
    w.grad = torch.ones(3)
    for _ in range(134):
        optimizer.step()
    with pytest.raises(ValueError, match="lower"):
        optimizer.step()


def problems(steps=1500, count=300, seed=0):
    """Gradients whose size decays or not, with and without a drift."""
    rng = np.random.default_rng(seed)
    fading = np.exp(-np.arange(steps)[:, None] * rng.uniform(0, 0.01, count))
    return 10.0 ** rng.uniform(-2, 2, count) * fading * (rng.normal(size=(steps, count)) + rng.uniform(-1, 1, count))


SUDDEN = (lambda t: 0.0 if t < 900 else 1.0, lambda t: math.inf if t < 900 else 1.0)


@pytest.mark.parametrize("target", [1e-3, 1.0, 1e3])
def test_regret_stays_below_the_bound_with_the_largest_moment_at_any_rate(target):
    broken = set()
    schedules = bl.pairs(500, 0.1) | {"sudden": SUDDEN}
    for name, (lower, upper) in schedules.items():
        for eta in (0.03, 1.0):
            r = bl.linear_regret(
                problems(), lambda t, f=lower: target * f(t), lambda t, f=upper: target * f(t), eta=eta
            )
            assert (r["regret"] <= r["largest"] * (1 + 1e-9)).all()
            if (r["regret"] > r["last"]).any():
                broken.add(name)
            if len(bl.violations(upper, 1500)) == 0:
                assert (r["regret"] <= r["last"] * (1 + 1e-9)).all()
    assert "sudden" in broken or target > 1  # with a large limit the last moment is the largest


def test_an_exponential_bound_violates_the_form_with_the_last_moment():
    g = np.ones((1500, 1))
    g[0], g[700:] = 100, 0
    kept = {}
    for name, (lower, upper) in bl.pairs(1380, 2.0, 1e6).items():
        r = bl.linear_regret(g, lower, upper, eta=0.1)
        kept[name] = bool(r["regret"][0] <= r["last"][0])
        assert r["regret"][0] <= r["largest"][0]
    assert kept == {"1/√t": True, "1/t (AdaBound's form)": True, "its square (AMSBound)": True, "exponential": False}


def test_regret_of_linear_losses_one_step_at_a_time():
    rng = np.random.default_rng(0)
    g = rng.normal(size=30)
    lower, upper = Rising(0.1), Falling(0.1)
    w, v, top, regret, second, tildes = 1.0, 0.0, 0.0, 0.0, 0.0, []
    for t, x in enumerate(g, 1):
        v = 0.9 * v + 0.1 * x * x
        top = max(top, v)
        tildes.append(min(max(top, lower(t)), upper(t)))
        regret += x * w
        second += 0.3 / math.sqrt(t) * x * x / math.sqrt(tildes[-1]) / 2
        w = min(1.0, max(-1.0, w - 0.3 / math.sqrt(t) * x / math.sqrt(tildes[-1])))
    found = bl.linear_regret(g[:, None], lower, upper, eta=0.3)
    assert found["regret"][0] == pytest.approx(regret - min(sum(g), -sum(g)))
    assert found["last"][0] == pytest.approx(4 * math.sqrt(30 * tildes[-1]) / 0.6 + second)
    assert found["largest"][0] == pytest.approx(4 * math.sqrt(30 * max(tildes)) / 0.6 + second)


def test_weight_decay_bounds_the_weights_and_clipped_gradients_do_not():
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    free = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    held, loose = torch.optim.SGD([w], lr=0.5, weight_decay=0.1), torch.optim.SGD([free], lr=0.5)
    for t in range(1, 1001):
        for p in (w, free):
            p.grad = torch.full_like(p, 5.0)
            torch.nn.utils.clip_grad_norm_([p], 1.0)
        loose.param_groups[0]["lr"] = 0.5 / math.sqrt(t)
        held.step()
        loose.step()
        assert abs(w.item()) <= (1 + 1e-12) / 0.1
    assert w.item() == pytest.approx(-10)
    assert free.item() == pytest.approx(-2 * 0.5 * math.sqrt(1000), rel=0.05)
