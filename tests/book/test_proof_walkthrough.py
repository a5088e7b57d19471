"""What notebooks/05_proof_walkthrough says about Theorem 3 and Lemma 4, checked on the method's own code."""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import CONSTRAINTS, tensor, uneven_level_sets
from quantized_training import PHI, Levels
from quantized_training.methods import skewed_velocity

SETTINGS = settings(deadline=None, max_examples=60)
names = st.sampled_from(sorted(CONSTRAINTS))
fractions = st.floats(0.02, 0.95)  # of the largest legal epsilon


@pytest.mark.parametrize("first", [1, 2, 7, 40])
def test_every_fixed_iterate_is_returned_with_a_chance_that_is_not_summable(first):
    weights = [Fraction(1, t + first + 1) for t in range(80)]
    for k in range(1, 81):
        H = sum(weights[:k])
        chances = [weight / H for weight in weights[:k]]
        assert sum(chances) == 1
        assert chances[0] >= Fraction(1, k)  # and the harmonic series has no finite sum
        for t, chance in enumerate(chances):
            assert chance >= Fraction(1, k) * Fraction(first + 1, t + first + 1)


def test_small_velocities_without_a_limit():
    k = np.array([10.0**n for n in range(1, 300)])
    w, after = (np.sin(np.log(np.log(x))) for x in (k[:6], k[:6] + 1))
    assert np.all(np.abs(after - w) * (k[:6] + 1) <= (k[:6] + 1) / (k[:6] * np.log(k[:6])))
    for n in range(4):  # w = 1 and w = -1 are taken again and again, at k = exp(exp(x)) with sin x = 1 or -1
        high, low = (math.exp(math.pi / 2 + math.pi * j) for j in (2 * n, 2 * n + 1))  # log k
        assert math.sin(math.log(high)) == pytest.approx(1) and math.sin(math.log(low)) == pytest.approx(-1)
        assert 1 / low < 1 / high  # the bound on the velocity still falls


def margins_of(levels, constraint, eps):
    """Smallest distance between a feasible interval and a midpoint."""
    intervals = constraint.feasible_intervals(levels, eps)
    near = zip(levels.midpoints, pairwise(intervals), strict=True)
    return min(min(m - below[1], above[0] - m) for m, (below, above) in near)


@SETTINGS
@given(uneven_level_sets(), names, fractions, st.floats(0.1, 5), st.integers(0, 10**6))
def test_no_gradient_moves_a_weight_out_of_its_cell(levels, name, fraction, alpha, seed):
    constraint, *_ = CONSTRAINTS[name]
    eps = fraction * constraint.largest_epsilon(levels)
    bound = 1.0  # of gradients and pushes
    gamma = 0.999 * margins_of(levels, constraint, eps) / bound
    generator = torch.Generator().manual_seed(seed)
    low, high = levels.hull
    w = low - 1 + (high - low + 2) * torch.rand(400, generator=generator, dtype=torch.float64)
    edges = [edge for interval in constraint.feasible_intervals(levels, eps) for edge in interval]
    w = torch.cat([w, tensor(levels.midpoints), tensor(edges)])
    for sign in (-bound, bound):
        v = skewed_velocity(torch.full_like(w, sign), w, levels, eps, alpha, constraint, clip=bound)
        assert (levels.cell(w + gamma * v) == levels.cell(w)).all()


def test_the_larger_margin_is_not_enough():
    levels, w = Levels((0, 1, 10)), tensor([0.75])
    _, (a, b), _ = PHI.feasible_intervals(levels, 0.2)
    assert a <= 0.75 <= b and max(a - 0.5, 5.5 - b) == pytest.approx(math.sqrt(20.05))
    after = w + 1.0 * skewed_velocity(tensor([1.0]), w, levels, 0.2, 1.0, PHI, clip=1.0)
    assert levels.cell(w).item() == 1 and levels.cell(after).item() == 0


@settings(deadline=None, max_examples=25)
@given(uneven_level_sets(), names, fractions, st.integers(0, 10**6))
def test_lemma_4_against_an_adversary(levels, name, fraction, seed):
    """The gradient pulls every weight out of its interval, as hard as it may; the distance still goes to 0."""
    constraint, *_ = CONSTRAINTS[name]
    eps = fraction * constraint.largest_epsilon(levels)
    intervals = tensor(constraint.feasible_intervals(levels, eps))
    generator = torch.Generator().manual_seed(seed)
    low, high = levels.hull
    w = low - 1 + (high - low + 2) * torch.rand(50, generator=generator, dtype=torch.float64)
    side = torch.where(torch.rand(50, generator=generator) < 0.5, -1.0, 1.0).double()
    margin, alpha, last = margins_of(levels, constraint, eps), 2.0, 1500
    cells = []
    for k in range(last):
        a, b = intervals[levels.cell(w)].unbind(-1)
        pull = torch.where(w > b, -1.0, torch.where(w < a, 1.0, side))  # outwards, else always to one side
        w = w + 2 / (k + 1) * skewed_velocity(pull, w, levels, eps, alpha, constraint, clip=1.0)
        if 2 / (k + 1) < margin:
            cells.append(levels.cell(w))
    assert all((cell == cells[0]).all() for cell in cells)
    a, b = intervals[levels.cell(w)].unbind(-1)
    # one step out of the interval (γM_1 = 2/k), or on the way back to it, where d falls like k^-2 or faster
    assert (w - w.clamp(a, b)).abs().max() <= 2.2 * 2 / last


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.9])
def test_distance_beyond_the_hull_is_a_product(alpha):
    """Claims 7 and 8 in closed form: pulled outwards for ever, d falls by the factor 1 - αγ_k in every step."""
    levels, eps, d = Levels.binary(), 0.5, 0.4
    for side in (1.0, -1.0):
        w, product = tensor([side * (1.5 + d)]), 1.0
        for k in range(2000):
            gamma = 1 / (k + 1)
            w = w + gamma * skewed_velocity(tensor([-side]), w, levels, eps, alpha, PHI, clip=1.0)
            product *= 1 - alpha * gamma
            assert side * w.item() - 1.5 > 0
        assert side * w.item() - 1.5 == pytest.approx(d * product, rel=1e-6)
        exact = math.exp(math.lgamma(2001 - alpha) - math.lgamma(1 - alpha) - math.lgamma(2001))
        assert product == pytest.approx(exact, rel=1e-9)
