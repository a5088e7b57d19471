"""The Lagrangian's tools against closed forms, solvers (scipy), brute force, and the step of methods/sgda.py."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize, minimize_scalar

from helpers import levels_and_weights, tensor
from quantized_training import PHI, SGDA, Levels
from study.theory import reference as ref
from study.theory.lagrangian import (
    descent_ascent,
    dual_ascent,
    dual_function,
    dual_optimum,
    kkt_pair,
    kkt_residual,
    largest_stable,
    moreau_envelope,
    pieces,
    primal_function,
    printed_pieces,
    record,
    step_eigenvalues,
    tangent_pieces,
)
from study.theory.trajectory import trajectory

LEVEL_SETS = [Levels.binary(), Levels.ternary(), Levels((1.0, 3.0, 4.0, 7.0))]


# The pieces


@settings(deadline=None)
@given(levels_and_weights(), st.floats(0.02, 0.98))
def test_pieces_have_phi_as_minimum_and_at_most_one_is_negative(case, fraction):
    levels, w = case
    eps = fraction * PHI.largest_epsilon(levels)
    f = pieces(tensor(w), levels, eps)
    phi = tensor([ref.phi(x, levels.values, eps) for x in w])
    torch.testing.assert_close(f.min(0).values, phi, rtol=0, atol=1e-10)
    assert ((f < -1e-10).sum(0) <= 1).all()


@settings(deadline=None)
@given(levels_and_weights(reach=9.0), st.floats(0.02, 0.98))
def test_tangent_pieces_keep_the_signs_and_are_the_printed_ones_in_their_own_gap(case, fraction):
    levels, w = case
    eps, w = fraction * PHI.largest_epsilon(levels), tensor(w)
    (printed, slope), (tangent, tangent_slope) = (c(w, levels, eps) for c in (printed_pieces, tangent_pieces))
    far = printed.abs() > 1e-10
    assert (printed.sign() == tangent.sign())[far].all()
    for j, (a, b) in enumerate(itertools.pairwise(levels.values), start=1):
        inside = (w >= a) & (w <= b)
        torch.testing.assert_close(tangent[j][inside], printed[j][inside])
        torch.testing.assert_close(tangent_slope[j][inside], slope[j][inside])
        assert (tangent_slope[j].abs() <= b - a + 1e-12).all()


@pytest.mark.parametrize("continuation", [printed_pieces, tangent_pieces])
def test_slopes_are_the_derivatives(continuation):
    levels = LEVEL_SETS[2]
    w = torch.linspace(-3, 11, 200, dtype=torch.float64).requires_grad_()
    value, slope = continuation(w, levels, 0.1)
    for f, g in zip(value, slope, strict=True):
        torch.testing.assert_close(torch.autograd.grad(f.sum(), w, retain_graph=True)[0], g)


def test_the_repaired_lagrangian_is_jointly_smooth_with_the_stated_constant():
    """L_loss + 2 R + sqrt(2 + sum of squared gaps), by difference quotients of the joint gradient; printed pieces exceed it."""
    levels, R, L_loss = LEVEL_SETS[2], 2.0, 0.7
    bound = L_loss + 2 * R + math.sqrt(2 + sum(g * g for g in levels.gaps))
    rng = torch.Generator().manual_seed(0)

    def gradient(w, dual, continuation):
        f, slope = continuation(w, levels, 0.2)
        return torch.cat([(-L_loss * torch.sin(w) - (dual * slope).sum(0))[None], -f])

    worst = {}
    for continuation in (printed_pieces, tangent_pieces):
        w, v = (torch.rand(20_000, dtype=torch.float64, generator=rng) * 60 - 26 for _ in range(2))
        close = torch.rand(20_000, dtype=torch.float64, generator=rng) < 0.5
        v = torch.where(close, w + 1e-3, v)
        a, b = (torch.rand(5, 20_000, dtype=torch.float64, generator=rng) for _ in range(2))
        a, b = (R * x / x.norm(dim=0).clamp_min(1) for x in (a, b))
        change = (gradient(w, a, continuation) - gradient(v, b, continuation)).norm(dim=0)
        worst[continuation] = (change / torch.sqrt((w - v) ** 2 + ((a - b) ** 2).sum(0))).max().item()
    assert worst[tangent_pieces] <= bound < worst[printed_pieces]


# Phi and its envelope


@pytest.mark.parametrize("levels", LEVEL_SETS)
def test_primal_function_is_the_maximum_over_the_multipliers(levels):
    rng = np.random.default_rng(1)
    eps = 0.6 * PHI.largest_epsilon(levels)
    low, high = levels.hull
    for _ in range(25):
        w, R = rng.uniform(low - 1, high + 1, 3), rng.uniform(0.1, 5)
        f = np.concatenate([ref.f(x, levels.values, eps) for x in w])
        box = -linprog(f, bounds=(0, R)).fun
        loss = tensor(0.3)
        got = primal_function(loss, tensor(w), levels, eps, R)
        assert got.item() == pytest.approx(0.3 + box, abs=1e-9)
        start = np.full(len(f), 0.1 * R)
        inside = {"type": "ineq", "fun": lambda x, R=R: R * R - x @ x, "jac": lambda x: -2 * x}
        ball = minimize(
            lambda x, f=f: x @ f, start, jac=lambda x, f=f: f, bounds=[(0, None)] * len(f), constraints=inside
        )
        assert primal_function(loss, tensor(w), levels, eps, R, ball=True).item() == pytest.approx(
            0.3 - ball.fun, abs=1e-5
        )


def test_without_a_bound_it_is_the_indicator_of_the_feasible_set():
    w = tensor([[1.0, -1.2], [1.0, 0.1]])
    got = primal_function(tensor([2.0, 2.0]), w, Levels.binary(), 0.5, math.inf)
    assert got[0] == 2 and got[1] == math.inf
    with pytest.raises(ValueError, match="bound >= 0"):
        primal_function(tensor([2.0]), w, Levels.binary(), 0.5, -1.0)


@pytest.mark.parametrize("levels", LEVEL_SETS)
@pytest.mark.parametrize("R", [0.5, 10.0])
def test_lemma_1_with_its_constants(levels, R):
    """loss = A cos(w - m) bends down most at the midpoint m: the modulus A + 2 R is attained, the slope bound holds."""
    A, eps = 0.8, 0.6 * PHI.largest_epsilon(levels)
    low, high = levels.hull
    m = levels.midpoints[0]
    grid = torch.linspace(low - 3, high + 3, 40_001, dtype=torch.float64)
    h = (grid[1] - grid[0]).item()
    phi = primal_function(A * torch.cos(grid - m), grid[:, None], levels, eps, R)
    second = (phi[2:] - 2 * phi[1:-1] + phi[:-2]) / h**2
    assert second.min().item() == pytest.approx(-(A + 2 * R), rel=1e-3)
    assert second.min() >= -(A + 2 * R) * (1 + 1e-5)
    slope = ((phi[1:] - phi[:-1]) / h).abs().max().item()
    c = math.sqrt(max(levels.gaps) ** 2 - 4 * eps)
    assert 0.9 * R * max(1, c) <= slope <= A + R * max(1, c) + 1e-9


@pytest.mark.parametrize("levels", LEVEL_SETS)
def test_lemma_1_for_several_weights(levels):
    """Phi - loss has modulus 2 R and slope bound R max(1, c) on the ball of radius R, along random segments in three dimensions."""
    rng = torch.Generator().manual_seed(0)
    eps, R = 0.6 * PHI.largest_epsilon(levels), 3.0
    low, high = levels.hull
    size = torch.where(torch.rand(4000, 1, generator=rng, dtype=torch.float64) < 0.5, 0.2, 3.0)
    x = torch.rand(4000, 3, generator=rng, dtype=torch.float64) * (high - low + 2) + low - 1
    y = x + size * torch.randn(4000, 3, generator=rng, dtype=torch.float64)
    t = torch.rand(4000, generator=rng, dtype=torch.float64)
    at = [primal_function(tensor(0.0), v, levels, eps, R, ball=True) for v in (x, y, x + t[:, None] * (y - x))]
    apart = (x - y).norm(dim=1)
    defect = (at[2] - (1 - t) * at[0] - t * at[1]) / (t * (1 - t) * apart**2 / 2)
    assert 1.2 * R < defect.max() <= 2 * R * (1 + 1e-9)
    c = math.sqrt(max(levels.gaps) ** 2 - 4 * eps)
    assert ((at[0] - at[1]).abs() <= R * max(1, c) * apart * (1 + 1e-9)).all()


def test_moreau_envelope_of_the_absolute_value_is_hubers_function():
    grid = torch.linspace(-4, 4, 1601, dtype=torch.float64)
    for parameter in (0.25, 1.0, 2.0):
        envelope, index = moreau_envelope(grid.abs(), grid, parameter)
        huber = torch.where(grid.abs() <= parameter, grid**2 / (2 * parameter), grid.abs() - parameter / 2)
        torch.testing.assert_close(envelope, huber, rtol=0, atol=2e-5)
        prox = grid.sign() * (grid.abs() - parameter).clamp_min(0)
        torch.testing.assert_close(grid[index], prox, rtol=0, atol=0.006)
    with pytest.raises(ValueError, match="positive"):
        moreau_envelope(grid, grid, 0.0)


def test_moreau_envelope_of_phi_by_bounded_minimisation():
    levels, eps, R = Levels.binary(), 0.75, 3.0  # the kinks at +-0.5 and +-1.75 lie on the grid
    grid = torch.linspace(-2.5, 2.5, 2001, dtype=torch.float64)
    values = primal_function(0.3 * grid, grid[:, None], levels, eps, R)
    parameter = 1 / (4 * R)  # 1 / (2 modulus): the inner problem is strongly convex
    envelope, _ = moreau_envelope(values, grid, parameter)

    def inner(v, x):
        return 0.3 * v + R * max(0.0, -ref.phi(v, (-1, 1), eps)) + (v - x) ** 2 / (2 * parameter)

    for i in range(0, 2001, 137):
        found = minimize_scalar(
            inner, bounds=(-2.5, 2.5), args=(grid[i].item(),), method="bounded", options={"xatol": 1e-9}
        )
        assert envelope[i].item() == pytest.approx(found.fun, abs=2e-5)


# KKT points


@settings(deadline=None, max_examples=60)
@given(levels_and_weights(), st.floats(0.05, 0.95), st.lists(st.floats(-3, 3), min_size=1, max_size=9))
def test_kkt_residual_is_the_step_of_projected_descent_in_the_cell(case, fraction, gradients):
    levels, w = case
    eps = fraction * PHI.largest_epsilon(levels)
    grad = np.resize(gradients, len(w))
    got = kkt_residual(tensor(w), tensor(grad), levels, eps)
    for x, g, r in zip(w, grad, got.tolist(), strict=True):
        q = ref.nearest(x, levels.values)
        interval = [(a, b) for a, b in PHI.feasible_intervals(levels, eps) if a <= q <= b]
        assert len(interval) == 1
        grid = np.linspace(*interval[0], 4001)
        best = grid[np.argmin((grid - (x - g)) ** 2)]
        assert r == pytest.approx(abs(x - best), abs=(interval[0][1] - interval[0][0]) / 4000)


@pytest.mark.parametrize("levels", LEVEL_SETS)
def test_kkt_residual_vanishes_exactly_where_multipliers_exist(levels):
    eps = 0.5 * PHI.largest_epsilon(levels)
    for a, b in PHI.feasible_intervals(levels, eps):
        for edge, inwards in ((a, 1), (b, -1)):
            for g in (-0.7, 0.0, 0.7):
                multiplier = g / ref.phi_prime(edge, levels.values, eps)  # loss' = lambda phi'
                r = kkt_residual(tensor([edge]), tensor([g]), levels, eps).item()
                assert (r < 1e-12) == (multiplier >= 0), (edge, g)
                assert g * inwards < 0 or r < 1e-12
        middle = (a + b) / 2
        assert kkt_residual(tensor([middle]), tensor([1e-3]), levels, eps).item() == pytest.approx(1e-3)
    m = levels.midpoints[0]
    assert kkt_residual(tensor([m]), tensor([0.0]), levels, eps).item() > 0.05  # infeasible, whatever the gradient
    with pytest.raises(ValueError, match="largest legal value"):
        kkt_residual(tensor([0.0]), tensor([0.0]), levels, PHI.largest_epsilon(levels))


# Descent ascent


@pytest.mark.parametrize("levels", LEVEL_SETS)
def test_descent_ascent_takes_the_steps_of_sgda(levels):
    eps, steps = 0.1, 60
    start = torch.linspace(levels.hull[0] - 0.4, levels.hull[1] + 0.4, 9, dtype=torch.float64)
    target = start.flip(0) * 0.6 + 0.1
    method = SGDA(levels, epsilon=eps, dual_lr=0.05, dual_max=0.3)
    want, _ = trajectory(method, start, lambda w, k: (w - target) ** 2 / 2 + 0.1 * math.cos(k) * w, steps, lr=0.1)
    runs = descent_ascent(
        lambda w, k: w - target + 0.1 * math.cos(k), start, levels, eps, torch.full_like(start, 0.1), 0.05, dual_max=0.3
    )
    got, duals = zip(*itertools.islice(runs, steps + 1), strict=True)
    torch.testing.assert_close(torch.stack(got), want, rtol=1e-12, atol=1e-12)
    assert torch.stack(duals).max() == 0.3  # the box was reached


@pytest.mark.parametrize("alternating", [False, True])
def test_descent_ascent_written_out(alternating):
    Q, eps, eta, kappa, w, lam = (-1.0, 1.0), 0.5, 0.1, 0.3, 0.6, [0.1, 0.4, 0.0]
    runs = descent_ascent(
        lambda w, k: w - 0.3,
        tensor([w]),
        Levels(Q),
        eps,
        eta,
        kappa,
        dual=tensor([[x] for x in lam]),
        alternating=alternating,
    )
    for w_got, dual in itertools.islice(runs, 40):
        assert w_got.item() == pytest.approx(w, abs=1e-12)
        assert dual[:, 0].tolist() == pytest.approx(lam, abs=1e-12)
        new, simultaneous = ref.sgda_step(w, lam, w - 0.3, Q, eta, kappa, eps, math.inf)
        late = [max(x - kappa * y, 0.0) for x, y in zip(lam, ref.f(new, Q, eps), strict=True)]
        w, lam = new, late if alternating else simultaneous


def test_flow_at_a_kkt_pair_has_the_stated_trace_and_determinant():
    """(eigenvalue of a simultaneous step - 1) / eta_w is one of the flow: trace 2 lam - loss'', determinant ratio c^2."""
    levels, eps = Levels.binary(), 0.5
    e = math.sqrt(1 - eps)
    for curvature, slope_of_loss in ((0.2, 1.0), (3.0, 1.0), (0.0, 0.4)):
        lam = slope_of_loss / (2 * e)
        for ratio in (0.01, 1.0, 100.0):
            found = step_eigenvalues(
                lambda w, k, c=curvature, s=slope_of_loss: s + c * (w - e),
                tensor([e]),
                tensor([[0.0], [lam], [0.0]]),
                levels=levels,
                epsilon=eps,
                primal_lr=1e-3,
                dual_lr=1e-3 * ratio,
            )
            moving = found[found.abs() > 1e-9]  # the other two multipliers are held at 0
            flow = (moving - 1) / 1e-3
            assert len(found) == 4 and len(flow) == 2
            assert flow.sum().real.item() == pytest.approx(2 * lam - curvature, abs=1e-9)
            assert flow.prod().real.item() == pytest.approx(ratio * 4 * e * e)
            assert (flow.real.max() > 0) == (curvature < 2 * lam)


@pytest.mark.parametrize("alternating", [False, True])
def test_step_eigenvalues_by_finite_differences(alternating):
    levels, eps, h = Levels.ternary(), 0.1, 1e-6
    H = tensor([[1.0, 0.8], [0.8, 1.5]])
    w, dual = tensor([0.3, -0.8]), torch.linspace(0.1, 0.9, 8, dtype=torch.float64).reshape(4, 2)
    settings = {"levels": levels, "epsilon": eps, "primal_lr": 0.2, "dual_lr": 0.3, "alternating": alternating}

    def step(z):
        w, dual = list(
            itertools.islice(descent_ascent(lambda v, k: v @ H, z[:2], dual=z[2:].view(4, 2), **settings), 2)
        )[1]
        return torch.cat([w, dual.flatten()])

    z = torch.cat([w, dual.flatten()])
    columns = [(step(z + d) - step(z - d)) / (2 * h) for d in h * torch.eye(10, dtype=torch.float64)]
    want = np.sort_complex(np.linalg.eigvals(torch.stack(columns, 1).numpy()))
    got = np.sort_complex(step_eigenvalues(lambda v, k: v @ H, w, dual, **settings).numpy())
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_two_orders_on_the_bilinear_game():
    for eta in (0.02, 0.15, 0.5, 1.5):
        sim, alt = np.array([1.0, 0.0]), np.array([1.0, 0.0])
        for _ in range(100):
            sim = np.array([sim[0] - eta * sim[1], sim[1] + eta * sim[0]])
            w = alt[0] - eta * alt[1]
            alt = np.array([w, alt[1] + eta * w])
            assert alt @ alt - eta * alt[0] * alt[1] == pytest.approx(1)
            assert np.hypot(*alt) <= (1 + 1e-12) / math.sqrt(1 - eta / 2)  # the ellipse, eta < 2
        assert np.hypot(*sim) == pytest.approx((1 + eta**2) ** 50)


@pytest.mark.parametrize("levels", LEVEL_SETS)
def test_every_gap_has_an_infeasible_stationary_point(levels):
    """Loss with slope M cos: between the edges of each gap the slope of Phi changes from positive to negative at |u| <= M / 2D."""
    eps, M, D = 0.4 * PHI.largest_epsilon(levels), 0.5, 4.0
    for a, b in itertools.pairwise(levels.values):
        e, m = math.sqrt((b - a) ** 2 / 4 - eps), (a + b) / 2
        w = torch.linspace(m - e, m + e, 20_001, dtype=torch.float64)
        phi = primal_function(M * torch.sin(3 * w) / 3, w[:, None], levels, eps, D)
        top = w[phi.argmax()]
        assert w[0] < top < w[-1] and abs(top - m) <= M / (2 * D) + 1e-3
        slope = phi.diff() / w.diff()
        flat = w[1:][slope.abs() < 0.1]
        assert ((flat - m).abs() <= (M + 0.1) / (2 * D) + 1e-3).all()


def test_a_bound_below_the_multiplier_does_not_hold_the_weight():
    """loss = s (1.5 - w) beyond the outer edge 1.5: multiplier s; at the inner edge e of a loss rising with s: s / (2 e)."""
    levels, eps = Levels.binary(), 0.5
    e = math.sqrt(0.5)
    line = torch.linspace(-4, 4, 800_001, dtype=torch.float64)
    for s, edge, multiplier in ((-0.8, 1.5, 0.8), (0.8, e, 0.8 / (2 * e))):
        near = line[(line - edge).abs() < 0.005]
        for bound, held in ((1.01 * multiplier, True), (0.99 * multiplier, False)):
            phi = primal_function(s * near, near[:, None], levels, eps, bound)
            assert (abs(near[phi.argmin()] - edge) < 1e-4) == held
    runs = descent_ascent(
        lambda w, k: -torch.ones_like(w), tensor([0.9, 0.9]), levels, eps, 0.1, 0.1, dual_max=tensor([0.9, 1.1])
    )
    *_, (w, _) = itertools.islice(runs, 3000)
    assert w[0] > 25 and w[1] == pytest.approx(1.5, abs=0.5)


@pytest.mark.parametrize("curvature, goal", [(1.0, 0.5), (1.0, 0.2), (3.0, 0.6), (0.5, -0.4)])
@pytest.mark.parametrize("alternating", [False, True])
def test_limits_of_the_steps_at_an_inner_edge(curvature, goal, alternating):
    """simultaneous: eta_lam c^2 < a and eta_w (2a - eta_lam c^2) < 4; alternating: eta_w (2a + eta_lam c^2) < 4; a > 0."""
    levels, eps = Levels.binary(), 0.5
    e = math.sqrt(1 - eps)
    c = 2 * e
    lam = curvature * (e - goal) / c
    a = curvature - 2 * lam
    h = 1e-6
    for eta_w, eta_lam in itertools.product((0.05, 0.5, 1.5, 3.0), (0.01, 0.1, 0.4, 1.5, 10.0)):
        columns = []
        for dw, dx in ((h, 0), (0, h)):
            ends = []
            for sign in (1, -1):
                dual = tensor([[0.0], [lam + sign * dx], [0.0]])
                w = tensor([e + sign * dw])
                runs = descent_ascent(
                    lambda w, k: curvature * (w - goal),
                    w,
                    levels,
                    eps,
                    eta_w,
                    eta_lam,
                    dual=dual,
                    alternating=alternating,
                )
                w, dual = list(itertools.islice(runs, 2))[1]
                ends.append(np.array([w.item(), dual[1].item()]))
            columns.append((ends[0] - ends[1]) / (2 * h))
        radius = np.abs(np.linalg.eigvals(np.stack(columns, axis=1))).max()
        push = eta_lam * c * c
        if alternating:
            stable = a > 0 and eta_w * (2 * a + push) < 4
        else:
            stable = push < a and eta_w * (2 * a - push) < 4
        if abs(radius - 1) > 1e-4:
            assert (radius < 1) == stable, (eta_w, eta_lam, radius)


def test_a_vanishing_gradient_of_the_lagrangian_at_an_infeasible_point():
    """loss = -w, w = -1/2, lambda_2 = 1: dL/dw = 0, phi = -1/4; the KKT points are -sqrt(1/2) and 3/2 only."""
    w, levels, eps = tensor([-0.5]), Levels.binary(), 0.5
    f, slope = printed_pieces(w, levels, eps)
    assert -1 - slope[1].item() == 0 and f.min().item() == -0.25
    line = torch.linspace(-2, 2, 400_001, dtype=torch.float64)
    kkt = line[kkt_residual(line, -torch.ones_like(line), levels, eps) < 1e-9]
    edges = tensor([-math.sqrt(0.5), 1.5])
    assert kkt_residual(edges, -torch.ones(2, dtype=torch.float64), levels, eps).max() < 1e-12
    assert ((kkt[:, None] - edges).abs().min(1).values < 1e-5).all()
    assert (edges - w).abs().min().item() == pytest.approx(0.207, abs=5e-4)


# The dual problem


def test_dual_of_a_quadratic_has_the_closed_form_and_no_gap():
    """min (w - t)^2/2 over |w| >= e: d(x) = x e^2 - x t^2 / (1 - 2x) for x < 1/2, largest at x = (1 - t/e)/2."""
    e, t = math.sqrt(0.5), 0.3
    grid = torch.linspace(-3, 3, 60_001, dtype=torch.float64)
    loss, f = (grid - t) ** 2 / 2, (grid**2 - e * e)[None]
    x = torch.linspace(0, 0.4, 41, dtype=torch.float64)
    value, index = dual_function(loss, f, x[:, None])
    torch.testing.assert_close(value, x * e * e - x * t * t / (1 - 2 * x), rtol=0, atol=1e-7)
    torch.testing.assert_close(grid[index], t / (1 - 2 * x), rtol=0, atol=1e-4)
    duals, values, minimisers = dual_ascent(loss, f, lambda k: 0.1, 400)
    assert duals[-1].item() == pytest.approx((1 - t / e) / 2, abs=1e-3)
    assert values[-1].item() == pytest.approx((e - t) ** 2 / 2, abs=1e-6)
    assert grid[minimisers[-1]].item() == pytest.approx(e, abs=1e-3)


def test_one_weight_with_a_quadratic_loss_has_no_gap():
    rng = np.random.default_rng(6)
    for _ in range(15):
        levels = Levels(tuple(np.cumsum(rng.uniform(0.4, 1.4, rng.integers(2, 6))).tolist()))
        eps = 0.5 * PHI.largest_epsilon(levels)
        edges = tensor(PHI.feasible_intervals(levels, eps)).flatten()
        w = torch.cat([torch.linspace(edges[0].item(), edges[-1].item(), 301, dtype=torch.float64), edges])
        f, t = pieces(w, levels, eps), rng.uniform(levels.hull[0] - 0.3, levels.hull[1] + 0.3)
        for bowl, gap in ((lambda x, t=t: (x - t) ** 2 / 2, False), (lambda x, t=t: (x - t).abs().sqrt(), True)):
            loss = bowl(w)
            one = np.ones((1, len(w)))
            mixed = linprog(loss.numpy(), A_ub=-f.numpy(), b_ub=np.zeros(len(f)), A_eq=one, b_eq=[1.0]).fun
            best = loss[(f > -1e-12).all(0)].min().item()
            assert best >= mixed - 1e-9 and (gap or best == pytest.approx(mixed, abs=1e-7))


def test_dual_function_is_minus_infinity_on_the_whole_line():
    for reach, below in ((20, -10), (200, -1000), (2000, -100_000)):
        w = torch.linspace(-reach, reach, 4001, dtype=torch.float64)
        loss = torch.nn.functional.softplus(-3 * w)
        value, _ = dual_function(loss, pieces(w, Levels.binary(), 0.5)[1:2], tensor([0.1]))
        assert value < below


def test_dual_optimum_is_the_linear_programme_over_mixtures_of_points():
    """max_x min_w L = min over probability measures of E loss subject to E f >= 0, here by scipy's linprog."""
    levels, eps = Levels.ternary(), 0.1
    grid = torch.linspace(-1.1, 1.1, 801, dtype=torch.float64)
    loss, f = (1 + ((grid - 0.42) / 0.1) ** 2).sqrt() - 1, pieces(grid, levels, eps)
    found = linprog(loss.numpy(), A_ub=-f.numpy(), b_ub=np.zeros(len(f)), A_eq=np.ones((1, 801)), b_eq=[1.0])
    _, values, _ = dual_ascent(loss, f, lambda k: 10 / (k + 20), 6000)
    best_feasible = loss[(f >= 0).all(0)].min().item()
    assert (values <= found.fun + 1e-9).all()  # weak duality for the mixtures
    assert values.max().item() == pytest.approx(found.fun, abs=2e-3)
    assert found.fun < best_feasible - 0.1  # a duality gap


def test_the_best_mixture_of_two_candidates():
    value, shares = dual_optimum(tensor([0.0, 1.0]), tensor([[-1.0, 3.0]]))
    assert value == pytest.approx(0.25) and shares.tolist() == pytest.approx([0.75, 0.25])


def test_a_kkt_pair_is_a_point_of_rest_and_its_largest_dual_step_is_the_stated_limit():
    levels, edge = Levels.binary(), math.sqrt(0.5)
    w, dual = kkt_pair(lambda w: w - 0.2, tensor([1.2]), levels, 0.5, 0.3)
    assert w.item() == pytest.approx(edge)
    assert dual[:, 0].tolist() == pytest.approx([0, (edge - 0.2) / (2 * edge), 0])
    game = {"grad": lambda w, k: w - 0.2, "levels": levels, "epsilon": 0.5, "primal_lr": 0.1}
    path, duals = record(6, 3, w=w, dual=dual, dual_lr=0.01, **game)
    assert (path - w).abs().max() < 1e-9 and duals.shape == (3, 3, 1)
    limit = (1 - 2 * dual[1, 0].item()) / (2 * edge) ** 2
    grid = torch.linspace(0.001, 1, 1000, dtype=torch.float64)
    assert largest_stable(w=w, dual=dual, dual_steps=grid, **game) == pytest.approx(limit, abs=2e-3)
    assert math.isnan(largest_stable(w=w, dual=dual, dual_steps=grid[900:], **game))
