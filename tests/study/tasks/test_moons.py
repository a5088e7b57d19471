"""Task II: its data, its network, and the exact search over all one-bit networks of a width."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.datasets import make_moons
from sklearn.linear_model import LogisticRegression

from quantized_training import BinaryConnect, Levels, QuantizedOptimizer
from study.tasks import moons
from study.tasks.ensembles import train

BINARY = Levels.binary()


def ordinary(w: torch.Tensor) -> torch.nn.Sequential:
    """The same network built from torch's layers."""
    hidden = len(w) // 3
    net = torch.nn.Sequential(
        torch.nn.Linear(2, hidden, bias=False), torch.nn.ReLU(), torch.nn.Linear(hidden, 1, bias=False)
    ).double()
    net[0].weight.data, net[2].weight.data = w[: 2 * hidden].view(hidden, 2), w[None, 2 * hidden :]
    return net


def test_network_is_an_ordinary_one():
    data = moons.draw(4, n=50, test=10, batch=10)
    w = torch.randn(4, 15, dtype=torch.float64)
    for s in range(4):
        torch.testing.assert_close(moons.network(w[s], data.x[s]), ordinary(w[s])(data.x[s])[:, 0])
    torch.testing.assert_close(moons.network(w, data.x)[2], moons.network(w[2], data.x[2]))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(moons.network(w[1], data.x[1]), (data.y[1] + 1) / 2)
    torch.testing.assert_close(moons.loss(w, data.x, data.y)[1], expected)


def test_gradient_is_autograds():
    data = moons.draw(3, n=100, test=10)
    w = torch.randn(3, 12, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(moons.loss(w, data.x, data.y).sum(), w)
    torch.testing.assert_close(moons.gradient(w.detach(), data.x, data.y), expected)


@pytest.mark.parametrize("name", moons.METHODS)
@pytest.mark.parametrize("shared", [False, True])
def test_an_ensemble_trains_as_single_runs_do(name, shared):
    """Every seed of the tensor program, in chunks, against an ordinary loop over torch's layers."""
    e = moons.draw(5, shared=shared, n=300, test=10, batch=100, epochs=3)
    together = train(moons.METHODS[name], e, lr=0.5, record=False, chunk=2)
    for s in (0, 4):
        one = e[s : s + 1]
        net, method = ordinary(one.initial[0]), moons.METHODS[name](one)
        if name == "ProxQuant (L2)":  # its norm is that of all weights together; two layers would be two tensors
            continue
        if name == "BinaryConnect":  # one drawing for both layers
            halves = ((u[:, :6].view(3, 2), u[:, 6:]) for u in one.uniform.unbind(1))
            parts = iter([half for both in halves for half in both])
            method = BinaryConnect(BINARY, uniform=lambda w, parts=parts: next(parts))
        optimizer = QuantizedOptimizer(torch.optim.SGD(net.parameters(), lr=0.5), method)
        for k, (x, y) in enumerate(one.batches()):
            optimizer.zero_grad()
            torch.nn.functional.softplus(-y[0] * net(x[0])[:, 0]).mean().backward()
            optimizer.step()
            if (k + 1) % 3 == 0:
                method.anneal()
        with optimizer.latent():
            alone = torch.cat([p.detach().flatten() for p in net.parameters()])
        torch.testing.assert_close(together[s], alone, rtol=0, atol=1e-10)


def test_data_is_scikit_learns():
    data = moons.draw(range(7, 9), noise=0.3)
    assert data.x.shape == (2, 2000, 2) and data.test_x.shape == (2, 200, 2)
    x, y = make_moons(2200, noise=0.3, random_state=8)
    assert (torch.cat([data.x[1], data.test_x[1]]).numpy() == x).all()
    assert (torch.cat([data.y[1], data.test_y[1]]).numpy() == 2 * y - 1).all()
    scaled = moons.draw(1, standardised=True)
    assert scaled.x[0].mean(0).abs().max() < 1e-12 and (scaled.x[0].std(0, correction=0) - 1).abs().max() < 1e-12
    assert scaled.test_x[0].mean(0).abs().max() > 1e-4  # scaled by the training points


@pytest.mark.parametrize("hidden", [1, 2, 3, 4])
def test_combinations_are_the_functions_of_all_networks(hidden):
    """The brute force over 8^hidden networks finds the same functions, hence the same losses."""
    data = moons.draw(1, n=60, test=10, batch=10)
    w = BINARY.vectors(3 * hidden, torch.float64)
    values = moons.network(w, data.x[0])
    c, losses = moons.losses_of_all(hidden, data.x[0], data.y[0])
    by_network = {tuple(v) for v in values.mul(1e6).round().long().tolist()}
    combined = (c.double() @ moons.features(data.x[0]).mT).mul(1e6).round().long()
    assert {tuple(v) for v in combined.tolist()} == by_network
    assert len(by_network) == len(c)
    assert losses.min().item() == pytest.approx(moons.loss(w, data.x[0], data.y[0]).min().item(), abs=1e-13)


def test_numbers_of_functions():
    """Points of Z^4 in the l1 ball with the parity of the radius: 96 for the paper's 512 networks."""

    def on_sphere(r: int) -> int:  # points of Z^4 with |c|_1 = r
        return sum(2**k * math.comb(4, k) * math.comb(r - 1, k - 1) for k in range(1, 5)) if r else 1

    for hidden in (1, 2, 3, 6, 9):
        assert len(moons.combinations(hidden)) == sum(on_sphere(r) for r in range(hidden, -1, -2))
    assert len(moons.combinations(3)) == 96


@pytest.mark.parametrize("hidden", [3, 4, 7])
def test_every_combination_has_a_network(hidden):
    x = moons.draw(1, n=40, test=10, batch=10).x[0]
    for c in moons.combinations(hidden)[::7]:
        w = moons.one_bit_weights(c, hidden)
        assert w.shape == (3 * hidden,) and (w.abs() == 1).all()
        torch.testing.assert_close(moons.network(w, x), moons.features(x) @ c.double())


def test_no_width_beats_the_four_features():
    """Real coefficients are the floor of every width: a logistic regression without intercept or penalty."""
    data = moons.draw(1)
    x, y = data.x[0], data.y[0]
    phi = moons.features(x).numpy()
    fit = LogisticRegression(C=1e9, fit_intercept=False, tol=1e-10, max_iter=10_000).fit(phi, y)
    floor = torch.nn.functional.softplus(-y * torch.tensor(phi @ fit.coef_[0])).mean().item()
    best = [moons.losses_of_all(h, x, y)[1].min().item() for h in (3, 5, 7, 9, 11)]
    assert best == sorted(best, reverse=True) and floor < best[-1] < floor + 0.01
    assert moons.floor_of_all_widths(data.x, data.y)[0].item() == pytest.approx(floor, abs=1e-7)
    loss, c = moons.best_of_all(5, data)
    assert loss[0].item() == best[1]
    torch.testing.assert_close(moons.loss(moons.one_bit_weights(c[0], 5), x, y), loss[0])


def test_losses_of_all_are_those_of_the_networks():
    """Through four tables, against the written-out sum over the points, also where a point lies on a diagonal."""
    data = moons.draw(1, n=50, test=10, batch=10)
    x = torch.cat([data.x[0], torch.tensor([[0.5, 0.5], [0.5, -0.5], [0.0, 0.0]], dtype=torch.float64)])
    y = torch.cat([data.y[0], torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)])
    c, losses = moons.losses_of_all(5, x, y)
    f = moons.features(x) @ c.double().T
    torch.testing.assert_close(losses, torch.log1p(torch.exp(-y[:, None] * f)).mean(0))


def test_coefficients_and_index_of_every_network():
    x = moons.draw(1, n=40, test=10, batch=10).x[0]
    w = BINARY.vectors(9, torch.float64)
    c = moons.coefficients(w)
    torch.testing.assert_close(moons.features(x) @ c.double().T, moons.network(w, x).T)
    assert (moons.combinations(3)[moons.function_index(w)] == c).all()
    assert len(moons.function_index(w).unique()) == 96
    neurons = torch.cat([w[:, :6].view(-1, 3, 2), w[:, 6:, None]], -1).tolist()
    assert len({tuple(sorted(map(tuple, network))) for network in neurons}) == 120  # up to the order of the neurons


@pytest.mark.parametrize("hidden", [1, 2, 3, 8])
def test_boundary_is_where_the_sign_changes(hidden):
    """Against the sign of f at 20 000 angles; with real and with one-bit weights, some of which vanish in whole sectors."""
    g = torch.Generator().manual_seed(hidden)
    angle = -torch.pi + (torch.arange(20_000, dtype=torch.float64) + 0.5) * 2 * torch.pi / 20_000
    circle = torch.stack([angle.cos(), angle.sin()], -1)
    for k in range(30):
        w = torch.randn(3 * hidden, generator=g, dtype=torch.float64)
        w = BINARY.nearest(w) if k % 2 else w
        f = moons.network(w, circle)
        sign = torch.where(f.abs() < 1e-9, 0, f.sign())
        expected = angle[sign != sign.roll(1)] - torch.pi / 20_000
        found = moons.boundary(w)
        assert len(found) == len(expected)
        if len(found):  # an angle of pi may count as -pi
            gap = (found[:, None] - expected).abs()
            assert torch.minimum(gap, 2 * torch.pi - gap).min(1).values.max() < 1e-3


def test_boundary_of_the_optimum_is_a_straight_line():
    w = moons.one_bit_weights(torch.tensor([0, -2, 1, 0]), 3)
    torch.testing.assert_close(moons.boundary(w), torch.tensor([-0.75, 0.25], dtype=torch.float64) * torch.pi)


def test_accuracy_by_angle_takes_the_majority_of_every_angle():
    x = torch.tensor([[1.0, 1.0], [2.0, 0.1], [3.0, 2.0], [0.0, -1.0]])  # three above the first axis, one below
    assert moons.homogeneous_accuracy(x, torch.tensor([1.0, 1.0, -1.0, -1.0]), bins=2) == 0.75


def test_losses_on_all_are_those_of_every_data_set():
    e = moons.draw(2, n=50, test=10, batch=10, epochs=1)
    found = moons.losses_on_all(2, *e.test)
    assert torch.equal(found[1], moons.losses_of_all(2, e.test_x[1], e.test_y[1])[1]) and found.shape == (2, 33)
    assert [len(points[0][0]) for points in e.sets().values()] == [50, 10, 10]


def test_homogeneous_floor_is_a_logistic_regression_in_every_bin():
    data = moons.draw(1, n=400, test=10)
    x, y = data.x[0], data.y[0]
    angle = torch.atan2(x[:, 1], x[:, 0])
    total = 0.0
    for low in (-torch.pi, 0.0):
        part = (angle >= low) & (angle < low + torch.pi)
        r = x[part].norm(dim=1)[:, None]
        fit = LogisticRegression(C=1e9, fit_intercept=False, tol=1e-12).fit(r, y[part])
        total += torch.nn.functional.softplus(-y[part] * (r[:, 0] * fit.coef_[0, 0])).sum().item()
    assert moons.homogeneous_floor(x, y, bins=2) == pytest.approx(total / 400, abs=1e-9)


def test_scores_are_losses_of_both_kinds_of_weights():
    data = moons.draw(3, n=100, test=20, batch=50)
    w = torch.randn(3, 9, dtype=torch.float64)
    found = moons.scores(w, data)
    for s in range(3):
        for kind, v in (("latent", w[s]), ("quantised", w[s].sign())):
            expected = torch.nn.functional.softplus(-data.test_y[s] * ordinary(v)(data.test_x[s])[:, 0]).mean()
            torch.testing.assert_close(found[f"{kind} weights, test set"][s], expected)
    assert set(found) == {
        f"{k} weights, {on}" for k in ("latent", "quantised") for on in ("training set", "test set", "last batch")
    }


def test_bad_input():
    with pytest.raises(ValueError, match="allowed is 1 to n=50"):
        moons.draw(1, n=50)
    with pytest.raises(ValueError, match="at least one neuron"):
        moons.combinations(0)
    with pytest.raises(ValueError, match="no one-bit network of 3 neurons"):
        moons.one_bit_weights(torch.tensor([2, 0, 0, 0]), 3)


@pytest.mark.parametrize(
    ("levels", "hidden"), [(Levels.ternary(), 2), (Levels((-2.0, 0.5, 1.0)), 2), (Levels.binary(), 3)]
)
def test_search_over_neurons_finds_what_looking_at_every_network_finds(levels, hidden):
    e = moons.draw(1, n=60, test=10, batch=10)
    x, y = e.x[0], e.y[0]
    every = moons.loss(levels.vectors(3 * hidden, torch.float64), x, y).min().item()
    found, rows = moons.best_network(levels, hidden, x, y)
    assert found == pytest.approx(every, abs=1e-12)
    assert moons.loss(moons.neuron_weights(rows), x, y).item() == pytest.approx(every, abs=1e-12)
    near, rows = moons.best_by_exchange(levels, hidden, x, y, starts=5)
    assert near >= every - 1e-12
    assert moons.loss(moons.neuron_weights(rows), x, y).item() == pytest.approx(near, abs=1e-12)
    for j in range(hidden):  # no other neuron in place j is better
        for other in moons.neurons(levels):
            changed = rows.clone()
            changed[j] = other
            assert moons.loss(moons.neuron_weights(changed), x, y).item() >= near - 1e-12


def test_neurons_are_all_different_functions_and_none_is_missing():
    levels = Levels.integers(2)
    rows = moons.neurons(levels)
    x = torch.randn(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    every = {tuple(f.tolist()) for f in (w[0] * torch.relu(x @ w[1:]) + 0.0 for w in levels.vectors(3, torch.float64))}
    assert len(rows) == len(every)

    with pytest.raises(ValueError, match="all -1 or \\+1"):
        moons.coefficients(torch.tensor([1.0, -1.0, 0.5]))


def test_accuracy_counts_points():
    w = moons.one_bit_weights(torch.tensor([0, -2, 1, 0]), 3)
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [-1.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([1.0, -1.0, 1.0, 1.0], dtype=torch.float64)  # right, right, f = 0, wrong
    assert moons.accuracy(w, x, y).item() == 0.5


def test_both_kinds_of_askew_return_the_same_network():
    """Of 256 seeds all in the chapter; here others."""
    e = moons.draw(range(1000, 1016))
    ends = [train(moons.METHODS[name], e, record=False) for name in ("ASkewSGD", "Modified ASkewSGD")]
    assert torch.equal(*map(BINARY.nearest, ends)) and not torch.equal(*ends)
