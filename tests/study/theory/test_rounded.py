"""The mean loss of a randomly rounded network: against sampling-free brute force, autograd and closed forms."""

import itertools
import math
from functools import partial

import pytest
import torch

from study.theory import convergence, rounded
from study.theory.landscape import landscape

N = 4
RNG = torch.Generator().manual_seed(0)
TABLE = torch.randn(2**N, generator=RNG, dtype=torch.float64)
X = 2 * torch.rand(7, N, generator=RNG, dtype=torch.float64) - 1


def brute(table, x):
    """E f(W), sign by sign in plain floats."""
    total = 0.0
    for signs, value in zip(itertools.product((-1, 1), repeat=len(x)), table.tolist(), strict=True):
        total += value * math.prod((1 + s * m) / 2 for s, m in zip(signs, x.tolist(), strict=True))
    return total


def test_the_extension_is_the_mean_and_is_f_at_the_corners():
    assert rounded.extension(TABLE, X).tolist() == pytest.approx([brute(TABLE, x) for x in X], abs=1e-14)
    assert torch.equal(rounded.extension(TABLE, rounded.corners(N)), TABLE)
    assert torch.equal(rounded.chances(X).sum(-1).round(decimals=12), torch.ones(7, dtype=X.dtype))


def test_the_mean_of_the_differences_is_the_gradient_and_the_smoothness_is_that_of_a_pair():
    x = X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(rounded.extension(TABLE, x).sum(), x)
    torch.testing.assert_close(rounded.field(rounded.differences(TABLE), X), expected, rtol=0, atol=1e-14)
    for many in (TABLE.expand(3, -1), torch.stack([TABLE, 2 * TABLE, -TABLE])):
        assert torch.equal(rounded.differences(many)[0], rounded.differences(TABLE))
    pair = rounded.loss_of(torch.tensor([1.0, 0, 0, 1], dtype=torch.float64))  # (1 + x_1 x_2) / 2
    assert pair.smoothness == pytest.approx(0.5) and pair.steepness == 0.5
    loss = rounded.loss_of(TABLE)
    H = torch.stack([torch.autograd.functional.hessian(loss.value, x) for x in X])
    assert torch.linalg.matrix_norm(H, 2).max() <= loss.smoothness + 1e-12
    assert H.diagonal(dim1=1, dim2=2).abs().max() < 1e-14


def test_the_debiased_table_averages_the_two_ends_and_is_exact_on_a_quadratic():
    loss = landscape()
    W = rounded.corners(2)
    gradients, table = loss.gradient(W), loss(W)
    x = X[:, :2]
    true = rounded.field(rounded.differences(table), x)
    torch.testing.assert_close(rounded.field(rounded.debiased(gradients), x), true, rtol=0, atol=1e-14)
    torch.testing.assert_close(rounded.field(gradients, x), loss.gradient(x), rtol=0, atol=1e-14)
    cubic = 3 * W**2 * torch.tensor([1.0, 0.0]).double() + 5 * W  # in w_1 the mean of 3 + 5 and 3 - 5
    assert rounded.debiased(cubic).tolist() == [[3.0, 0.0]] * 4


def test_single_flip_minima_are_found_by_looking():
    signs = list(itertools.product((-1, 1), repeat=N))
    values = dict(zip(signs, TABLE.tolist(), strict=True))
    expected = [all(values[s] <= values[(*s[:i], -s[i], *s[i + 1 :])] for i in range(N)) for s in signs]
    assert rounded.single_flip_minima(TABLE).tolist() == expected
    assert rounded.single_flip_minima(torch.stack([TABLE, -TABLE])).shape == (2, 2**N)
    assert rounded.single_flip_minima(landscape()(rounded.corners(2))).tolist() == [False, True, True, False]


def test_rounding_by_means_never_loses_where_the_nearest_signs_do():
    found = rounded.round_by_means(partial(rounded.extension, TABLE), X)
    assert (found.abs() == 1).all()
    assert (rounded.extension(TABLE, found) <= rounded.extension(TABLE, X) + 1e-14).all()
    loss = landscape()
    table, x = loss(rounded.corners(2)), torch.tensor([0.3, 0.2]).double()
    assert rounded.round_by_means(partial(rounded.extension, table), x).tolist() == [1, -1]
    assert loss(torch.ones(2).double()) > loss(torch.tensor([1.0, -1.0]).double())


def test_the_estimate_from_two_values_is_unbiased():
    generator = torch.Generator().manual_seed(1)
    x = X[0].expand(200_000, N)
    g = rounded.one_coordinate(TABLE, x, generator)
    assert ((g != 0).sum(1) <= 1).all()
    error = g.mean(0) - rounded.field(rounded.differences(TABLE), X[0])
    assert (error.abs() < 5 * g.std(0) / len(x) ** 0.5).all()


def test_projected_steps_on_it_lower_the_envelope():
    loss, low, high = rounded.loss_of(TABLE), -torch.ones(N).double(), torch.ones(N).double()
    gamma, before = 0.05, convergence.envelope(X, loss, low, high)
    z = convergence.prox_point(X, loss, low, high)
    after = convergence.envelope((X - gamma * loss.gradient(X)).clamp(-1, 1), loss, low, high)
    h2, V = ((X - z) ** 2).sum(-1), (loss.gradient(X) ** 2).sum(-1)
    assert (after <= before - 2 * loss.smoothness**2 * gamma * h2 + loss.smoothness * gamma**2 * V + 1e-12).all()


def test_the_spread_of_an_estimate_is_that_of_its_draws():
    x, loss = X[0], landscape()
    values = loss.gradient(rounded.corners(2)) / (
        1 + rounded.corners(2) * x[:2]
    )  # what debiased BinaryConnect steps along
    mean, variance = rounded.spread_of(values, x[:2])
    torch.testing.assert_close(mean, rounded.field(rounded.debiased(loss.gradient(rounded.corners(2))), x[:2]))
    drawn = values[torch.multinomial(rounded.chances(x[:2]), 200_000, True, generator=torch.Generator().manual_seed(2))]
    assert drawn.var(0).sum().item() == pytest.approx(variance.item(), rel=0.02)


def test_descent_with_exact_gradients_ends_at_a_stationary_point_below_the_bound():
    loss, gammas = rounded.loss_of(TABLE), torch.full((300,), 0.1).double()
    x, squares = rounded.descend(loss, loss.gradient, X, gammas)
    assert convergence.kkt_residual(x, loss, -torch.ones(N).double(), torch.ones(N).double()).max() < 1e-6
    V = 2**2 * loss.steepness**2 * N
    mean = (squares.cumsum(0) * 0.1 / gammas.cumsum(0)[:, None]).mean(1)
    assert (mean <= rounded.mean_residual_bound(X, TABLE, loss, gammas, V)).all() and squares[0].max() > 0.01
    inside, _ = rounded.descend(loss, loss.gradient, X, gammas, reach=0.9)
    assert inside.abs().max() == 0.9
