"""What notebooks/04_askewsgd says about ASkewSGD: the constraints, the push and its flow, the printed rule, the clip."""

import math
from fractions import Fraction

import numpy as np
import pytest
import quadprog
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

from helpers import CONSTRAINTS, level_sets, levels_and_weights, tensor, uneven_level_sets
from quantized_training import PHI, PSI, ASkew, Geometric, Levels
from quantized_training.methods import skewed_velocity
from study.theory import reference as ref
from study.theory.flow import push_flow
from study.theory.trajectory import trajectory

SETTINGS = settings(deadline=None, max_examples=60)
BINARY = Levels.binary()
names = st.sampled_from(sorted(CONSTRAINTS))
fractions = st.floats(0.01, 0.98)  # of the largest legal epsilon


# --- the constraints ---------------------------------------------------------------------------------------------------


@SETTINGS
@given(uneven_level_sets(), names, fractions)
def test_both_constraints_are_epsilon_on_the_levels(levels, name, fraction):
    constraint, *_ = CONSTRAINTS[name]
    eps = fraction * constraint.largest_epsilon(levels)
    assert constraint.value(tensor(levels.values), levels, eps).tolist() == pytest.approx([eps] * len(levels.values))


@SETTINGS
@given(level_sets())
def test_psi_has_a_lipschitz_derivative(levels):
    low, high = levels.hull
    w = torch.linspace(low - 1, high + 1, 20_001, dtype=torch.float64)
    slope = tensor([ref.psi_prime(x, levels.values) for x in w.tolist()])
    steepest = (slope.diff() / w.diff()).abs().max().item()
    bound = max(2, 2 * max(levels.gaps) ** 2)
    assert 0.98 * bound < steepest <= bound * (1 + 1e-6)


@SETTINGS
@given(level_sets())
def test_phi_has_a_kink_at_every_level_and_psi_has_none(levels):
    t, eps = 1e-7, 0.01
    around = [1.0, *levels.gaps, 1.0]
    for i, q in enumerate(levels.values):
        for g, left, right in ((ref.phi, around[i], -around[i + 1]), (ref.psi, 0, 0)):
            here = g(q, levels.values, eps)
            assert (here - g(q - t, levels.values, eps)) / t == pytest.approx(left, abs=1e-4)
            assert (g(q + t, levels.values, eps) - here) / t == pytest.approx(right, abs=1e-4)


@SETTINGS
@given(level_sets(), names)
def test_feasible_sets_are_nested_and_close_on_the_levels(levels, name):
    constraint, *_ = CONSTRAINTS[name]
    before = [(-math.inf, math.inf)] * len(levels.values)
    for k in range(60):
        after = constraint.feasible_intervals(levels, 0.99 * constraint.largest_epsilon(levels) * 0.5**k)
        for (a, b), (c, d), q in zip(before, after, levels.values, strict=True):
            assert a <= c <= q <= d <= b
        before = after
    assert max(b - a for a, b in before) < 1e-6


def test_rounds_without_a_constraint_between_unit_levels():
    schedule = Geometric(1.0, 0.88)
    for constraint, first in ((PHI, 11), (PSI, 22)):
        cap = constraint.largest_epsilon(Levels.ternary())
        assert schedule(first - 1) >= cap > schedule(first)
        assert len(constraint.feasible_intervals(Levels.ternary(), schedule(first - 1))) == 1
        assert len(constraint.feasible_intervals(Levels.ternary(), schedule(first))) == 3


@SETTINGS
@given(levels_and_weights(), fractions)
def test_push_of_psi_is_between_half_and_all_of_that_of_phi(case, fraction):
    levels, w = case
    eps = fraction * PHI.largest_epsilon(levels)
    for x in w:
        phi = ref.phi(x, levels.values, eps)
        slopes = ref.phi_prime(x, levels.values), ref.psi_prime(x, levels.values)
        if phi < -1e-6 and abs(slopes[0]) > 1e-6:
            ratio = (ref.psi(x, levels.values, eps**2) / slopes[1]) / (phi / slopes[0])
            assert ratio == pytest.approx((2 * eps - phi) / (2 * (eps - phi)), rel=1e-4)
            assert 0.5 < ratio <= 1 + 1e-6


# --- the velocity ------------------------------------------------------------------------------------------------------


@SETTINGS
@given(levels_and_weights(), names, fractions, st.floats(0.1, 3), st.floats(-3, 3))
def test_velocity_is_the_projection_found_by_a_solver(case, name, fraction, alpha, G):
    """(20) for all weights at once as a quadratic program; midpoints, where it has no solution, left out."""
    levels, drawn = case
    constraint, g, dg = CONSTRAINTS[name]
    eps = fraction * constraint.largest_epsilon(levels)
    w = [x for x in drawn if min(abs(x - m) for m in levels.midpoints) > 1e-2]
    value, slope = ([f(x, levels.values, eps) for x in w] for f in (g, dg))
    index = [i for i in range(len(w)) if value[i] <= 0]
    if not index:
        return
    normals = np.zeros((len(w), len(index)))
    for column, i in enumerate(index):
        normals[i, column] = slope[i]
    solved = quadprog.solve_qp(
        np.eye(len(w)), np.full(len(w), -G), normals, np.array([-alpha * value[i] for i in index])
    )[0]
    got = skewed_velocity(torch.full((len(w),), G, dtype=torch.float64), tensor(w), levels, eps, alpha, constraint)
    assert got.tolist() == pytest.approx(solved.tolist(), rel=1e-6, abs=1e-6)


def frozen(rule, w, steps=50, clip=math.inf):
    for k in range(steps):
        w += max(-clip, min(clip, rule(w / 10, w, (-1.0, 1.0), 0.5, 1.0, ref.phi, ref.phi_prime))) / (k + 1)
    return w


def test_printed_rule_freezes_an_interval_of_starts():
    for w in np.linspace(1.67, 2.5, 50).tolist():
        assert frozen(ref.velocity_printed, w) == 1.5
        assert frozen(ref.velocity, w) < 1.5 - 0.1
    assert frozen(ref.velocity_printed, 1.66) < 1.5  # below 5/3 the gradient is stronger than the push
    assert all(frozen(ref.velocity_printed, w, clip=1.0) == 1.5 for w in (1.7, 2.0, 2.5))
    assert all(frozen(ref.velocity_printed, w) == 1.5 for w in (2.6, 4.0))
    assert all(frozen(ref.velocity_printed, w, 500, clip=1.0) < 1.4 for w in (2.6, 4.0))  # moved by 1, past the edge
    for G in (-2.0, 0.5, 3.0):
        assert ref.velocity_printed(G, 1.5, (-1.0, 1.0), 0.5, 1.0, ref.phi, ref.phi_prime) == 0
        assert ref.velocity(G, 1.5, (-1.0, 1.0), 0.5, 1.0, ref.phi, ref.phi_prime) == min(-G, 0)


@SETTINGS
@given(levels_and_weights(), names, fractions)
def test_no_velocity_is_allowed_exactly_at_midpoints(case, name, fraction):
    levels, w = case
    constraint, g, dg = CONSTRAINTS[name]
    eps = fraction * constraint.largest_epsilon(levels)
    exact = tuple(map(Fraction, levels.values))  # floats round the slope to 0 next to a midpoint, too
    midpoints = [(a + b) / 2 for a, b in zip(exact, exact[1:], strict=False)]
    for x in w:
        value, slope = g(x, levels.values, eps), dg(Fraction(x), exact)
        if value <= 0:  # v * slope >= -value > 0 has a solution if and only if the slope is not 0
            assert (slope == 0) == (x in midpoints) and (slope != 0 or value < 0)


def test_every_feasible_start_can_be_sent_to_the_midpoint():
    starts = torch.cat([torch.linspace(a + 1e-6, b - 1e-6, 100) for a, b in PHI.feasible_intervals(BINARY, 0.5)])
    for lr, share in ((1.0, 1.0), (0.9, 0.0)):
        latent, _ = trajectory(ASkew(BINARY, PHI, 1.0, 1.0, 0.5), starts, lambda w, k: w**2 / 2, 1, lr=lr)
        assert (latent[1] == 0).double().mean() == share


def test_clipping_the_velocity_turns_the_mean_step():
    law = {3.0: Fraction(1, 5), -0.5: Fraction(4, 5)}
    for whole, expected in ((False, Fraction(-1, 5)), (True, Fraction(1, 5))):
        w = tensor([1.1])  # feasible
        steps = {g: skewed_velocity(tensor([g]), w, BINARY, 0.5, 1.0, PHI, 1.0, whole).item() for g in law}
        assert sum(Fraction(steps[g]) * p for g, p in law.items()) == expected


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_every_box_has_a_kkt_point(name):
    constraint, *_ = CONSTRAINTS[name]
    generator = np.random.default_rng(0)
    bound = free = 0
    for _ in range(10):
        root = generator.normal(size=(3, 3))
        hessian, target = root @ root.T + 0.1 * np.eye(3), generator.uniform(-1.5, 1.5, 3)
        intervals = constraint.feasible_intervals(BINARY, 0.3)
        for cell in np.ndindex(2, 2, 2):
            found = minimize(
                lambda x, h=hessian, t=target: (x - t) @ h @ (x - t) / 2,
                np.array(cell) * 2.0 - 1,
                jac=lambda x, h=hessian, t=target: h @ (x - t),
                bounds=[intervals[i] for i in cell],
                method="L-BFGS-B",
                options={"ftol": 1e-15, "gtol": 1e-10},
            )
            w = tensor(found.x.tolist())
            gradient, slope = hessian @ (found.x - target), constraint.derivative(w, BINARY, 0.3).numpy()
            active = constraint.value(w, BINARY, 0.3).numpy() < 1e-12
            assert (gradient[active] / slope[active] >= 0).all()  # the multipliers of (21)
            assert np.abs(gradient[~active]).max(initial=0) < 1e-4
            assert BINARY.nearest(w).tolist() == [2.0 * i - 1 for i in cell]
            bound, free = bound + active.sum(), free + (~active).sum()
    assert bound and free


def test_the_public_settings_never_skew_and_never_close():
    w = torch.linspace(-1, 1, 10_001, dtype=torch.float64)
    G = torch.randn(len(w), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(skewed_velocity(G, w, BINARY, 1.0, 1.0, PSI), -G)
    assert all(ref.psi(x, (-1.0, 1.0), 1.0) >= -1e-15 for x in w.tolist())
    low, _ = PSI.feasible_intervals(BINARY, 0.99**29)[1]
    assert (round(0.99**29, 3), round(low, 3)) == (0.747, 0.368)


# --- the push ----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(levels_and_weights(), names, st.floats(0.05, 0.9), st.floats(0.2, 3))
def test_flow_of_the_push_solves_its_differential_equation(case, name, fraction, alpha):
    levels, drawn = case
    constraint, g, dg = CONSTRAINTS[name]
    eps = fraction * constraint.largest_epsilon(levels)
    times = torch.linspace(0, 2, 5, dtype=torch.float64)
    start = tensor(drawn)
    path = push_flow(start, times, levels, eps, alpha, constraint)
    assert path.shape == (5, len(drawn))
    for i, w0 in enumerate(drawn):
        away = min(abs(w0 - m) for m in levels.midpoints)
        if g(w0, levels.values, eps) >= 0:
            assert (path[:, i] == w0).all()
        elif away > 0.05 * min(levels.gaps):
            solved = solve_ivp(
                lambda t, w: [-alpha * g(w[0], levels.values, eps) / dg(w[0], levels.values)],
                (0, 2), [w0], t_eval=times.numpy(), rtol=1e-9, atol=1e-11,
            )  # fmt: skip
            assert path[:, i].numpy() == pytest.approx(solved.y[0], abs=1e-6)
            value = tensor([g(w, levels.values, eps) for w in path[:, i].tolist()])
            torch.testing.assert_close(value, value[0] * torch.exp(-alpha * times), rtol=1e-6, atol=1e-9)


def test_flow_from_a_midpoint_goes_right_and_bad_input_says_so():
    path = push_flow(tensor([0.0]), tensor([0.0, 1.0]), BINARY, 0.25, 1.0, PHI)
    assert path[0, 0].item() == pytest.approx(0, abs=1e-7)
    assert path[1, 0].item() == pytest.approx(math.sqrt(1 - 0.25 - 0.75 * math.exp(-1)))
    with pytest.raises(ValueError, match="alpha=0: the strength of the push must be positive"):
        push_flow(tensor([0.0]), tensor([0.0]), BINARY, 0.25, 0, PHI)
    with pytest.raises(ValueError, match="times must not be negative, got -1"):
        push_flow(tensor([0.0]), tensor([-1.0]), BINARY, 0.25, 1.0, PHI)


@SETTINGS
@given(st.floats(0.05, 0.95), st.floats(0.01, 0.999), st.floats(0.05, 1.95))
def test_discrete_push_of_phi(eps, share, product):
    e = math.sqrt(1 - eps)
    u = share * e
    zero = tensor([0.0])
    after = u + skewed_velocity(zero, tensor([u]), BINARY, eps, product, PHI).item()
    assert after - e == pytest.approx((u - e) * (1 - product * (u + e) / (2 * u)), abs=1e-9 / u)
    condition = u * (2 - product) - product * e
    if abs(condition) > 1e-6:
        assert (after <= e) == (condition >= 0)
    d = 1.0 - share / 2
    outside = 1 + eps + d
    pushed = outside + product * skewed_velocity(zero, tensor([outside]), BINARY, eps, 1.0, PHI).item()
    assert pushed - (1 + eps) == pytest.approx((1 - product) * d, abs=1e-12)


@SETTINGS
@given(levels_and_weights(), names, fractions, st.floats(0.1, 100))
def test_push_of_at_most_half_the_smallest_gap_keeps_the_rounding(case, name, fraction, alpha):
    levels, drawn = case
    constraint, *_ = CONSTRAINTS[name]
    w = tensor([x for x in drawn if min(abs(x - m) for m in levels.midpoints) > 1e-9])
    clip = min(levels.gaps) / 2 * (1 - 1e-9)
    eps = fraction * constraint.largest_epsilon(levels)
    after = w + skewed_velocity(torch.zeros_like(w), w, levels, eps, alpha, constraint, clip)
    assert torch.equal(levels.cell(after), levels.cell(w))


def test_push_at_task_2_s_settings_is_a_two_cycle():
    w, seen = tensor([1.06]), []
    for _ in range(60):
        w = w + skewed_velocity(torch.zeros_like(w), w, BINARY, 0.01, 4.0, PHI, 1.0)
        seen.append(w.item())
    assert [round(x, 4) for x in seen[-2:]] == [0.4423, 1.4423]
    low, high = PHI.feasible_intervals(BINARY, 0.01)[1]
    assert not any(low <= x <= high for x in seen)


def test_push_with_harmonic_steps_is_a_quotient_of_gamma_functions():
    for a in (0.1, 0.5, 0.9):
        w = tensor([2.25])
        for k in range(1, 301):
            w = w + skewed_velocity(torch.zeros_like(w), w, BINARY, 0.25, a, PHI) / k
        exact = math.exp(math.lgamma(301 - a) - math.lgamma(301)) / math.gamma(1 - a)
        assert w.item() - 1.25 == pytest.approx(exact, rel=1e-9)
    assert (10 / math.gamma(0.9)) ** 10 == pytest.approx(5.1e9, rel=0.01)  # k^-a / Gamma(1 - a) = 1/10 for a = 1/10
