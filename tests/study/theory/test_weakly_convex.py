"""The loss with kinks: weakly convex with the modulus it states, and its prox point is the minimiser."""

import pytest
import torch

from study.theory.weakly_convex import kinked


@pytest.fixture(params=range(12))
def problem(request):
    """A loss of 1 to 4 weights, a box, a weight vector, often on the kinks, and 2000 points of the box."""
    seed = request.param
    g = torch.Generator().manual_seed(seed)
    n = 1 + seed % 4
    w = torch.randn(n, generator=g, dtype=torch.float64)
    low = torch.rand(n, generator=g, dtype=torch.float64) - 1.5
    high = low + torch.rand(n, generator=g, dtype=torch.float64) * 2
    inside = low + (high - low) * torch.rand(2000, n, generator=g, dtype=torch.float64)
    return kinked(w if seed % 2 else inside[0], seed), low, high, w, inside


def test_prox_point_minimises_over_the_box_by_the_margin_of_strong_convexity(problem):
    loss, low, high, w, inside = problem
    z = loss.prox_point(w, low, high)
    assert ((low <= z) & (z <= high)).all()
    value = loss.value(z) + loss.rho * ((z - w) ** 2).sum()
    assert loss.envelope(w, low, high) == value
    others = loss.value(inside) + loss.rho * ((inside - w) ** 2).sum(-1)
    margin = loss.rho / 2 * ((inside - z) ** 2).sum(-1)
    assert (others - margin - value).min() >= -1e-9 * (1 + value.abs())
    assert (loss.residual(w, low, high) - (w - z).norm()).abs() < 1e-12


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_subgradients_are_subgradients_of_a_weakly_convex_function(problem, share):
    loss, _, _, w, inside = problem
    for at in (w, inside[0], loss.t):
        g = loss.subgradient(at, share, share - 0.5)
        step = inside - at
        below = loss.value(at) + step @ g - loss.rho / 2 * (step**2).sum(-1)
        assert (below - loss.value(inside)).max() <= 1e-9 * (1 + loss.value(at).abs())


def test_lipschitz_constant_is_one(problem):
    loss, _, _, w, inside = problem
    radius = max(w.norm(), inside.norm(dim=-1).max())
    change = (loss.value(inside) - loss.value(w)).abs()
    assert (change <= loss.lipschitz(radius) * (inside - w).norm(dim=-1) * (1 + 1e-12)).all()
