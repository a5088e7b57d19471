"""psi (19), phi (22) and the pieces f_j: against the reference, autograd, root finding and Figure 1."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from helpers import CONSTRAINTS, DTYPES, level_sets, levels_and_weights, tensor
from quantized_training import PHI, PSI, Levels
from quantized_training.methods import skewed_velocity
from study.theory import reference as ref
from study.theory.lagrangian import pieces, pieces_derivative

SETTINGS = settings(deadline=None, max_examples=80)
names = st.sampled_from(sorted(CONSTRAINTS))
fractions = st.floats(0.001, 0.999)  # of the largest legal epsilon
ULP = {torch.float32: 2.0**-23, torch.float64: 2.0**-52}


@SETTINGS
@given(levels_and_weights(), names, fractions, st.sampled_from(DTYPES))
def test_value_and_derivative_are_the_printed_formula(case, name, fraction, dtype):
    levels, w = case
    constraint, g, dg = CONSTRAINTS[name]
    eps = fraction * constraint.largest_epsilon(levels)
    w = tensor(w, dtype)
    scale = max(1.0, max(levels.gaps)) ** 4 * (1 + w.abs().max().item())
    expected = tensor([g(x, levels.values, eps) for x in w.tolist()])
    got = constraint.value(w, levels, eps)
    assert got.dtype == dtype and got.shape == w.shape
    torch.testing.assert_close(
        got.double(), expected, rtol=1e-6 if dtype == torch.float32 else 1e-12, atol=20 * scale * ULP[dtype]
    )
    w = w[w != levels.values[-1]]  # phi has a kink at each level; at the last one the code takes its left slope
    expected = tensor([dg(x, levels.values) for x in w.tolist()])
    torch.testing.assert_close(
        constraint.derivative(w, levels, eps).double(), expected, rtol=1e-5, atol=20 * scale * ULP[dtype]
    )


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_sign_is_right_where_the_printed_form_cancels(name):
    """Just below the largest epsilon, in float32: the sign decides whether a weight is pushed."""
    constraint, *_ = CONSTRAINTS[name]
    for levels in (Levels.binary(), Levels.ternary(), Levels((-1.0, 3.0))):
        for delta in (2.0**-8, 2.0**-12, 2.0**-16):
            eps = constraint.largest_epsilon(levels) * (1 - delta)
            intervals = constraint.feasible_intervals(levels, eps)
            edge, midpoint = intervals[1][0], levels.midpoints[0]
            e = edge - midpoint
            u = torch.tensor([-1.001, -0.999, -0.5, -1e-3, 1e-3, 0.5, 0.999, 1.001]) * e
            value = constraint.value(midpoint + u, levels, eps)
            inside = (midpoint + u).double().sub(midpoint).abs() >= e
            assert torch.equal(value >= 0, inside), (levels, delta, value)


def printed(name, w, q, eps):
    """(19) or (22) as printed, in torch, for autograd."""
    inner = (
        (lambda a, b: eps - (w - a) ** 2 * (w - b) ** 2) if name == "psi" else (lambda a, b: eps - (a - w) * (w - b))
    )
    power = 2 if name == "psi" else 1
    value = torch.where(w < q[0], eps - (q[0] - w) ** power, eps - (w - q[-1]) ** power)
    for a, b in zip(q, q[1:], strict=False):
        value = torch.where((a <= w) & (w < b), inner(a, b), value)
    return value


@SETTINGS
@given(levels_and_weights(), names, fractions)
def test_derivative_is_autograd_of_the_printed_formula(case, name, fraction):
    levels, w = case
    constraint, *_ = CONSTRAINTS[name]
    eps = fraction * constraint.largest_epsilon(levels)
    w = tensor([x for x in w if x not in levels.values]).requires_grad_()
    value = printed(name, w, levels.values, eps)
    torch.testing.assert_close(constraint.value(w, levels, eps), value, rtol=1e-9, atol=1e-9)
    value.sum().backward()
    torch.testing.assert_close(constraint.derivative(w.detach(), levels, eps), w.grad, rtol=1e-9, atol=1e-9)


@SETTINGS
@given(levels_and_weights(), fractions)
def test_psi_at_the_square_is_phi_times_two_eps_minus_phi(case, fraction):
    levels, w = case
    eps = fraction * PHI.largest_epsilon(levels)
    phi = PHI.value(tensor(w), levels, eps)
    torch.testing.assert_close(PSI.value(tensor(w), levels, eps**2), phi * (2 * eps - phi), rtol=1e-9, atol=1e-9)


@SETTINGS
@given(levels_and_weights(), fractions)
def test_pieces_are_the_reference_and_their_minimum_is_phi(case, fraction):
    levels, w = case
    eps = fraction * PHI.largest_epsilon(levels)
    got = pieces(tensor(w), levels, eps)
    torch.testing.assert_close(got.T, tensor([ref.f(x, levels.values, eps) for x in w]), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got.min(0).values, PHI.value(tensor(w), levels, eps), rtol=1e-9, atol=1e-9)
    slopes = tensor([ref.f_prime(x, levels.values) for x in w])
    torch.testing.assert_close(pieces_derivative(tensor(w), levels).T, slopes, rtol=1e-12, atol=1e-12)
    x = tensor(w).requires_grad_()
    for j, row in enumerate(pieces(x, levels, eps)):
        (slope,) = torch.autograd.grad(row.sum(), x, retain_graph=True)
        torch.testing.assert_close(slope, slopes[:, j], rtol=1e-12, atol=1e-12)
    assert got.shape == (len(levels.values) + 1, len(w))


def test_figure_1():
    got = [edge for interval in PSI.feasible_intervals(Levels((1, 3, 4, 7)), 0.03) for edge in interval]
    assert [round(x, 4) for x in got] == [0.8268, 1.0907, 2.9093, 3.2229, 3.7771, 4.0589, 6.9411, 7.1732]


@SETTINGS
@given(level_sets(), names, st.floats(0.01, 0.99))
def test_feasible_intervals_by_root_finding_and_sign_scan(levels, name, fraction):
    constraint, g, _ = CONSTRAINTS[name]
    eps = fraction * constraint.largest_epsilon(levels)
    q = levels.values

    def value(x):
        return g(x, q, eps)

    roots = [brentq(value, q[0] - 10 * (1 + eps), q[0], xtol=1e-13)]
    for a, m, b in zip(q, levels.midpoints, q[1:], strict=False):
        roots += [brentq(value, a, m, xtol=1e-13), brentq(value, m, b - 1e-15 * abs(b), xtol=1e-13)]
    roots.append(brentq(value, q[-1], q[-1] + 10 * (1 + eps), xtol=1e-13))
    intervals = constraint.feasible_intervals(levels, eps)
    assert [x for interval in intervals for x in interval] == pytest.approx(roots, abs=1e-9)
    assert len(intervals) == len(q)

    low, high = q[0] - 3, q[-1] + 3
    for i in range(500):
        x = low + (high - low) * (i + 0.37) / 500
        if min(abs(x - r) for r in roots) > 1e-9:
            assert (value(x) >= 0) == any(a <= x <= b for a, b in intervals)
    # the tensor code agrees with its own intervals on both sides of every edge
    for a, b in intervals:
        assert (constraint.value(tensor([a - 1e-6, b + 1e-6]), levels, eps) < 0).all()
        assert (constraint.value(tensor([a + 1e-6, b - 1e-6]), levels, eps) > 0).all()


@SETTINGS
@given(level_sets(), names)
def test_at_the_largest_epsilon_intervals_touch(levels, name):
    constraint, *_ = CONSTRAINTS[name]
    largest = constraint.largest_epsilon(levels)
    below = constraint.feasible_intervals(levels, largest * (1 - 1e-6))
    assert len(below) == len(levels.values)
    assert all(b < c for (_, b), (c, _) in zip(below, below[1:], strict=False))
    at = constraint.feasible_intervals(levels, largest)
    narrow = [m for m, gap in zip(levels.midpoints, levels.gaps, strict=True) if gap == min(levels.gaps)]
    for m in narrow:  # no hole is left around the midpoint of the narrowest gaps, and both value and slope vanish
        assert not any(b < m - 1e-6 and m + 1e-6 < c for (_, b), (c, _) in zip(at, at[1:], strict=False))
        assert any(a - 1e-6 <= m <= b + 1e-6 for a, b in at)
        assert constraint.value(tensor([m]), levels, largest).abs().item() < 1e-12
        assert constraint.derivative(tensor([m]), levels, largest).item() == 0
    wider = [m for m, gap in zip(levels.midpoints, levels.gaps, strict=True) if gap > min(levels.gaps)]
    for m in wider:
        assert not any(a <= m <= b for a, b in at)


def test_above_the_largest_epsilon_narrow_gaps_merge_and_wide_ones_stay():
    levels = Levels((0.0, 1.0, 4.0))
    (a, b), (c, d) = PHI.feasible_intervals(levels, 0.5)
    assert (
        (a, d) == (-0.5, 4.5)
        and b == pytest.approx(2.5 - math.sqrt(1.75))
        and c == pytest.approx(2.5 + math.sqrt(1.75))
    )
    grid = torch.linspace(-1, 5, 2001, dtype=torch.float64)
    for constraint in (PSI, PHI):
        eps = 0.5 if constraint is PHI else 0.25
        inside = torch.zeros(len(grid), dtype=torch.bool)
        for low, high in constraint.feasible_intervals(levels, eps):
            inside |= (grid >= low) & (grid <= high)
        assert torch.equal(constraint.value(grid, levels, eps) >= 0, inside)


def test_largest_epsilon_of_the_paper_s_codebooks():
    assert PHI.largest_epsilon(Levels.binary()) == 1 and PSI.largest_epsilon(Levels.binary()) == 1
    assert PHI.largest_epsilon(Levels.integers(4)) == 1 / 4 and PSI.largest_epsilon(Levels.integers(4)) == 1 / 16
    assert PHI.largest_epsilon(Levels((1, 3, 4, 7))) == 1 / 4  # the smallest gap decides


@pytest.mark.parametrize("constraint", [PSI, PHI])
def test_weights_next_to_the_midpoint_are_not_stuck_in_float32(constraint):
    """Printed, the constraint of a tiny float32 weight rounds to that of the midpoint (eps near 1)."""
    levels = Levels.binary()
    small = torch.tensor([1e-4, 1e-5, 1e-6, -1e-6, -1e-5, -1e-4])
    grad = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    # at the largest epsilon nothing between the levels is constrained: every weight follows its gradient
    assert (constraint.value(small, levels, 1.0) > 0).all()
    assert torch.equal(skewed_velocity(grad, small, levels, 1.0, 0.1, constraint, 1.0), -grad)
    # just below it, the push alone brings each weight into the interval on its own side of the midpoint
    eps = 0.9999
    w = small.clone()
    for _ in range(100):
        w = w + 0.1 * skewed_velocity(torch.zeros_like(w), w, levels, eps, 0.5, constraint, 1.0)
    assert torch.equal(w.sign(), small.sign())
    (_, low), (high, _) = constraint.feasible_intervals(levels, eps)
    assert ((w > high - 1e-4) | (w < low + 1e-4)).all()


@pytest.mark.parametrize("constraint, largest", [(PHI, "0.25"), (PSI, "0.0625")])
def test_bad_epsilon_says_what_is_allowed(constraint, largest):
    levels = Levels.ternary()
    for eps in (0.0, -0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"positive; allowed is 0 < epsilon < {largest}"):
            constraint.check_epsilon(eps, levels)
    for eps in (constraint.largest_epsilon(levels), 1.0):
        with pytest.raises(
            ValueError,
            match=rf"not below {largest}.*{constraint.equation}.*Allowed is 0 < epsilon < {largest}",
        ):
            constraint.check_epsilon(eps, levels)
        assert constraint.check_epsilon(eps, levels, merged=True) == eps
    assert constraint.check_epsilon(0.01, levels) == 0.01
