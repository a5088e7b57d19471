"""The pure function beside each method: against the reference, closed forms and brute force."""

import itertools
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from helpers import CONSTRAINTS, DTYPES, METHODS, level_sets, levels_and_weights, tensor
from quantized_training import (
    PHI,
    PSI,
    SGDA,
    ASkew,
    BinaryConnect,
    Constant,
    DebiasedBinaryConnect,
    Geometric,
    Harmonic,
    KBitStraightThrough,
    Levels,
    Linear,
    ProxQuant,
)
from quantized_training.methods import (
    prox_l1,
    prox_l2,
    prox_squared_l2,
    round_stochastic,
    skewed_velocity,
    straight_through_mask,
)
from study.theory import reference as ref
from study.theory.foundations import kbit_round

SETTINGS = settings(deadline=None, max_examples=80)
dtypes = st.sampled_from(DTYPES)
strengths = st.sampled_from([0.0, 0.01, 0.125, 0.3, 1.0, 50.0])


def close(got, expected, dtype=torch.float64, scale=1.0):
    tolerance = (1e-5 if dtype == torch.float32 else 1e-11) * scale
    torch.testing.assert_close(got.double(), tensor(expected), rtol=tolerance, atol=tolerance)


# BinaryConnect


@SETTINGS
@given(levels_and_weights(), st.data(), dtypes)
def test_stochastic_rounding_is_the_reference(case, data, dtype):
    levels, w = case
    u = data.draw(
        st.lists(st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.77, 1 - 2**-24]), min_size=len(w), max_size=len(w))
    )
    w, u = tensor(w, dtype), tensor(u, dtype)
    thresholds = [
        ref.probability_up(x, a, b) for x in w.tolist() for a, b in zip(levels.values, levels.values[1:], strict=False)
    ]
    if dtype == torch.float32:  # w/gap is rounded: leave out draws that nearly decide
        assume(all(abs(x - p) > 1e-6 or p in (0, 1, 0.25, 0.5) for x in u.tolist() for p in thresholds))
    got = round_stochastic(w, levels, u)
    assert got.dtype == dtype
    assert got.tolist() == [ref.stochastic(x, levels.values, y) for x, y in zip(w.tolist(), u.tolist(), strict=True)]


def test_binary_stochastic_rounding_is_equation_4():
    w = torch.linspace(-1.5, 1.5, 61, dtype=torch.float64)
    for u in (0.0, 0.2501, 0.5001, 0.9999):
        got = round_stochastic(w, Levels.binary(), torch.full_like(w, u))
        assert got.tolist() == [ref.binarize(x, u) for x in w.tolist()]


@pytest.mark.parametrize("values", [(-1, 1), (-1, 0, 1), (-2, -1, 0, 1), (1, 3, 4, 7)])
def test_stochastic_rounding_mean_and_variance_integrated_over_the_uniform_draw(values):
    """u = 0/N, 1/N, ... (N-1)/N integrates exactly where the probability is a multiple of 1/N."""
    levels, n = Levels(values), 256
    u = (torch.arange(n, dtype=torch.float64) / n)[:, None]
    for a, b in zip(values, values[1:], strict=False):
        w = a + (b - a) * torch.arange(0, n + 1, 8, dtype=torch.float64) / n
        rounded = round_stochastic(w.expand(n, -1), levels, u.expand(n, len(w)))
        assert torch.equal(rounded.mean(0), w)  # unbiased on the hull
        torch.testing.assert_close(rounded.var(0, correction=0), (w - a) * (b - w), rtol=0, atol=1e-12)
    outside = tensor([values[0] - 0.6, values[-1] + 0.6])
    rounded = round_stochastic(outside.expand(n, -1), levels, u.expand(n, 2))
    assert torch.equal(rounded, tensor([values[0], values[-1]]).expand(n, 2))  # E = clip(w), no variance


def test_built_in_draws_follow_the_probability_and_the_seed():
    method = BinaryConnect(Levels.binary(), seed=3)
    w = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]).expand(20000, 5)
    up = (method.forward_point(w, method.levels, {}) == 1).double().mean(0)
    torch.testing.assert_close(up, tensor([0, 0.25, 0.5, 0.75, 1]), rtol=0, atol=4 * 0.5 / math.sqrt(20000))
    assert up[0] == 0 and up[-1] == 1
    w = torch.zeros(200)
    draw = [BinaryConnect(Levels.binary(), seed=s).forward_point(w, Levels.binary(), {}) for s in (0, 0, 1)]
    assert torch.equal(draw[0], draw[1]) and not torch.equal(draw[0], draw[2])


# Debiased BinaryConnect


def mean_descent(gradient, x, levels, delta):
    """The mean of what the base optimizer takes, over all roundings of x (n,) by their chances, one draw at a time."""
    method, total = DebiasedBinaryConnect(levels, delta, uniform=lambda w: u), torch.zeros_like(x)
    low, high = levels.hull
    up = (x - low) / (high - low)
    for corner in levels.vectors(len(x), torch.float64):
        above = corner == high
        u, state = torch.where(above, 0.0, 1 - 2**-53), {}
        assert torch.equal(method.forward_point(x, levels, state), corner)
        total += torch.where(above, up, 1 - up).prod() * method.descent(gradient(corner), x, levels, state)
    return total


def mean_loss(loss, x, levels):
    """E loss(W), W_i on two levels with the mean x_i."""
    low, high = levels.hull
    corners = levels.vectors(len(x), torch.float64)
    chance = torch.where(corners == high, (x - low) / (high - low), (high - x) / (high - low)).prod(1)
    return chance @ torch.stack([loss(c) for c in corners])


@pytest.mark.parametrize("values", [(-1, 1), (-0.3, 0.3), (1, 3)])
def test_debiased_gradient_is_exact_where_the_loss_is_quadratic_in_each_weight(values):
    """w_1^2 w_2 w_3 and the like: not a quadratic."""
    levels, rng = Levels(values), torch.Generator().manual_seed(0)
    A, B = torch.randn(2, 4, 4, dtype=torch.float64, generator=rng)

    def loss(w):
        return (w**2 @ A @ w) - torch.diag(A) @ w**3 + w @ B @ w + w[0] * w[1] * w[2] ** 2

    low, high = levels.hull
    x = (low + (high - low) * (0.1 + 0.8 * torch.rand(4, dtype=torch.float64, generator=rng))).requires_grad_()
    (expected,) = torch.autograd.grad(mean_loss(loss, x, levels), x)
    got = mean_descent(torch.func.grad(loss), x.detach(), levels, 0.1)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


def test_debiased_bias_is_at_most_a_third_of_the_third_derivative_and_a_cubic_attains_it():
    levels, x = Levels.binary(), tensor([0.4, -0.7, 0.1]).requires_grad_()
    a = tensor([1.3, -0.4, 0.8])

    def loss(w):
        return torch.sin(2 * w @ a)

    (exact,) = torch.autograd.grad(mean_loss(loss, x, levels), x)
    bias = (mean_descent(torch.func.grad(loss), x.detach(), levels, 0.1) - exact).abs()
    assert (bias <= (2 * a).abs() ** 3 / 3).all() and bias.max() > 1e-3
    (exact,) = torch.autograd.grad(mean_loss(lambda w: (w**3).sum(), x, levels), x)
    bias = mean_descent(lambda w: 3 * w**2, x.detach(), levels, 0.1) - exact
    close(bias, [6 / 3] * 3)


def test_debiased_gradient_in_logits_is_reinmax():
    """Liu et al. (2023): twice the gradient of straight-through at (pi + D) / 2 minus half of that at pi, D the draw, one-hot."""
    levels, theta = Levels.binary(), tensor([0.6, -1.1])  # logits of +1 and -1
    slope = tensor([0.9, -0.4])  # of the loss by the two probabilities
    pi = theta.softmax(0)
    x = (pi[:1] - pi[1:]).clone()

    def straight_through(p):
        return (torch.diag(p) - torch.outer(p, p)) @ slope

    for k, u in ((0, 0.0), (1, 0.99)):
        D = torch.nn.functional.one_hot(torch.tensor(k), 2).double()
        method, state = DebiasedBinaryConnect(levels, 0.01, uniform=lambda w, u=u: torch.full_like(w, u)), {}
        method.forward_point(x, levels, state)
        by_w = (slope[:1] - slope[1:]) / 2  # w = P(+1) - P(-1)
        by_x = method.descent(by_w, x, levels, state)
        reinmax = 2 * straight_through((pi + D) / 2) - straight_through(pi) / 2
        dx = tensor([2.0, -2.0]) * pi[0] * pi[1]  # of x by theta
        close(by_x * dx, reinmax.tolist())


def test_debiased_factors_are_bounded_and_weights_stay_in_the_box():
    method, state = DebiasedBinaryConnect(Levels((0.0, 4.0)), 0.25), {}
    w = torch.linspace(-3, 7, 4001, dtype=torch.float64)
    method.forward_point(w, method.levels, state)
    factors = method.descent(torch.ones_like(w), w, method.levels, state)
    assert 1 / 2 < factors.min() and factors.max() <= 1 / 0.25 and factors.max() > 3
    inside = method.after_step(w, method.levels, state, 1.0)
    assert inside.min() == 0.5 and inside.max() == 3.5


# Straight-through estimators


@SETTINGS
@given(levels_and_weights(), dtypes)
def test_mask_is_the_reference(case, dtype):
    levels, w = case
    w = tensor(w, dtype)
    got = straight_through_mask(w, levels)
    assert got.dtype == dtype and got.tolist() == [ref.mask(x, levels.values) for x in w.tolist()]


def test_mask_is_the_derivative_of_the_clip():
    w = tensor([-2.0, -1.5, -0.7, 0.0, 0.2, 0.9, 1.1]).requires_grad_()
    Levels.ternary().clip(w).sum().backward()
    assert torch.equal(straight_through_mask(w.detach(), Levels.ternary()), w.grad)
    assert straight_through_mask(tensor([-1.0, 1.0]), Levels.binary()).tolist() == [1, 1]  # |w| <= 1


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_kbit_rounding_is_the_reference_and_fills_the_interval_of_section_6(bits):
    u = torch.arange(1025, dtype=torch.float64) / 1024
    got = kbit_round(u, bits)
    assert got.tolist() == [ref.kbit(x, bits) for x in u.tolist()]
    assert (got.min(), got.max()) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    assert len(got.unique()) == 2**bits


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_kbit_forward_point_is_the_nearest_level(bits, dtype):
    method = KBitStraightThrough(bits)
    low, high = method.levels.hull
    w = torch.cat([torch.linspace(low - 1.01, high + 1.03, 997, dtype=dtype), tensor(method.levels.midpoints, dtype)])
    got = method.forward_point(w, method.levels, {})
    assert got.dtype == dtype and torch.equal(got, method.levels.nearest(w))
    spread = method.levels.scaled(0.5)  # the levels of a group decide, not the integers
    assert torch.equal(method.forward_point(w / 2, spread, {}), spread.nearest(w / 2))


def test_kbit_takes_evenly_spaced_levels_of_the_right_number():
    method = KBitStraightThrough(2)
    method.check(Levels((-0.3, -0.1, 0.1, 0.3)), 1.0)
    for levels in (Levels.ternary(), Levels((0, 1, 2, 4))):
        with pytest.raises(ValueError, match="bits=2 needs 4 evenly spaced levels"):
            method.check(levels, 1.0)


# ProxQuant


@SETTINGS
@given(levels_and_weights(), strengths, dtypes)
def test_proximal_operators_are_the_reference(case, lam, dtype):
    levels, w = case
    w, q = tensor(w, dtype), levels.values
    close(prox_l1(w, levels, lam), [ref.prox_l1(x, q, lam) for x in w.tolist()], dtype)
    close(prox_l2(w, levels, lam), ref.prox_l2(w.tolist(), q, lam), dtype)
    close(prox_squared_l2(w, levels, lam), [ref.prox_squared_l2(x, q, lam) for x in w.tolist()], dtype)
    for prox in (prox_l1, prox_l2, prox_squared_l2):
        assert prox(w, levels, lam).dtype == dtype


@settings(deadline=None, max_examples=25)
@given(levels_and_weights(), st.sampled_from([0.01, 0.125, 0.3, 1.0, 50.0]))
def test_scalar_proximal_operators_minimise_their_objective(case, lam):
    """No point of a fine grid is better: 1/2 (x - w)^2 + lam R(x), R by looking at every level."""
    levels, w = case
    q = tensor(levels.values)
    w = tensor(w)
    grid = torch.cat([torch.linspace(q[0] - 2.5, q[-1] + 2.5, 1501, dtype=torch.float64), q])
    for prox, power in ((prox_l1, 1), (prox_squared_l2, 2)):

        def objective(x, power=power):
            return 0.5 * (x - w) ** 2 + lam * (x[..., None] - q).abs().pow(power).amin(-1)

        best = objective(grid[:, None].expand(-1, len(w))).amin(0)
        got = objective(prox(w, levels, lam))
        assert (got <= best + 1e-12).all()
        assert (best - got <= 0.02 * (1 + lam) * (q[-1] - q[0] + 5)).all()  # the grid is fine enough to tell


@settings(deadline=None, max_examples=25)
@given(
    level_sets(4),
    st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=2),
    st.sampled_from([0.01, 0.1, 0.5, 2.0]),
)
def test_block_proximal_operator_minimises_its_objective(levels, position, lam):
    low, high = levels.hull
    w = tensor(position) * ((high - low) / 2 + 1) + (low + high) / 2
    q = tensor(levels.values)
    line = torch.cat([torch.linspace(low - 1.5, high + 1.5, 301, dtype=torch.float64), q, w])

    def objective(x):
        return 0.5 * ((x - w) ** 2).sum(-1) + lam * ((x[..., None] - q) ** 2).amin(-1).sum(-1).sqrt()

    got = prox_l2(w, levels, lam)
    assert objective(got) <= objective(torch.cartesian_prod(line, line)).min() + 1e-12


def test_proximal_operators_at_the_ends_of_strength():
    levels = Levels.ternary()
    w = torch.randn(500, generator=torch.Generator().manual_seed(0)) * 1e-3
    for prox in (prox_l1, prox_l2, prox_squared_l2):  # strength 0 is no operation
        assert torch.equal(prox(w, levels, 0.0), w)
    w = torch.linspace(-2, 2, 101)
    for prox in (prox_l1, prox_l2):  # a finite strength already lands exactly on the levels ...
        assert torch.equal(prox(w, levels, 100.0), levels.nearest(w))
    off = w[(w - levels.nearest(w)).abs() > 1e-6]  # ... the squared norm never does
    assert (prox_squared_l2(off, levels, 100.0) != levels.nearest(off)).all()
    assert torch.equal(prox_l2(levels.tensor(w), levels, 0.1), levels.tensor(w))  # norm 0: nothing to divide by


def test_block_proximal_operator_by_blocks():
    levels = Levels.binary()
    w = torch.randn(5, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for method, block in (
        (
            ProxQuant(levels, 0.4, "l2", ensemble=True),
            lambda w: torch.stack([prox_l2(x, levels, 0.2) for x in w]),
        ),
        (ProxQuant(levels, 0.4, "l2"), lambda w: prox_l2(w.flatten(), levels, 0.2).view_as(w)),
    ):
        torch.testing.assert_close(method.after_step(w, levels, {}, 0.5), block(w), rtol=1e-12, atol=0)
    scalar_per_run = w[:, 0, 0]  # a parameter without further dimensions: one block per run still
    got = ProxQuant(levels, 0.4, "l2", ensemble=True).after_step(scalar_per_run, levels, {}, 0.5)
    close(got, [ref.prox_l2([x], levels.values, 0.2)[0] for x in scalar_per_run.tolist()])


def test_prox_parameter_is_the_step_size_times_the_annealed_strength():
    method = ProxQuant(Levels.binary(), Linear(0.1), "l1")
    w = tensor([0.5])
    seen = []
    for _ in range(3):
        seen.append(method.after_step(w, method.levels, {}, 0.5).item())
        method.anneal()
    assert seen == pytest.approx([0.5, 0.55, 0.6])


# ASkewSGD


@SETTINGS
@given(
    levels_and_weights(),
    st.sampled_from(sorted(CONSTRAINTS)),
    st.floats(0.01, 0.99),
    st.sampled_from([0.1, 1.0, 4.0]),
    st.sampled_from([0.25, 1.0, math.inf]),
    st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=40),
    dtypes,
)
def test_skewed_velocity_is_the_reference(case, name, fraction, alpha, clip, gradients, dtype):
    levels, w = case
    constraint, g, dg = CONSTRAINTS[name]
    eps = fraction * constraint.largest_epsilon(levels)
    q = levels.values
    if clip == math.inf:  # at a midpoint the push is unbounded
        w = [x for x in w if x not in levels.midpoints]
    # the velocity jumps where g = 0: there both sides are right (exact edges have a test of their own)
    w = [x for x in tensor(w, dtype).tolist() if abs(g(x, q, eps)) > 1e-4 * max(1, max(levels.gaps)) ** 4]
    # ... and next to a midpoint the plain floats of the reference round the slope to 0
    w = [x for x in w if x in levels.midpoints or g(x, q, eps) > 0 or abs(dg(x, q)) > 1e-3]
    assume(w)
    G = (gradients * len(w))[: len(w)]
    got = skewed_velocity(tensor(G, dtype), tensor(w, dtype), levels, eps, alpha, constraint, clip)
    expected = [ref.velocity(a, x, q, eps, alpha, g, dg, clip) for a, x in zip(G, w, strict=True)]
    assert got.dtype == dtype
    torch.testing.assert_close(
        got.double(),
        tensor(expected),
        rtol=1e-2 if dtype == torch.float32 else 1e-8,
        atol=1e-4 if dtype == torch.float32 else 1e-9,
    )


# Q = {-1, 1} with edges that binary fractions hit exactly: (constraint, epsilon, outer edge, inner edge)
EDGES = [(PHI, 0.75, 1.75, 0.5), (PSI, 0.5625, 1.75, 0.5)]


@pytest.mark.parametrize("constraint, eps, outer, inner", EDGES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_weight_on_an_edge_follows_a_gradient_that_points_inwards(constraint, eps, outer, inner, dtype):
    levels = Levels.binary()
    edge = tensor([outer, inner, -inner, -outer], dtype)
    assert constraint.value(edge, levels, eps).tolist() == [0, 0, 0, 0]
    inwards = tensor([-1.0, 1.0, -1.0, 1.0], dtype)  # the feasible set lies on this side
    move = skewed_velocity(-2 * inwards, edge, levels, eps, 0.3, constraint, 1.0)
    assert torch.equal(move, 2 * inwards)  # the printed rule with its "> 0" would say 0
    stay = skewed_velocity(2 * inwards, edge, levels, eps, 0.3, constraint, 1.0)
    assert (0 <= stay * inwards).all()  # an edge is an ulp wide, so what remains is a rounding error, inwards
    assert stay.abs().max() <= torch.finfo(dtype).eps


def test_printed_rule_freezes_and_the_repaired_one_arrives():
    """eps = 1/2, alpha = 1, gamma_k = 1/(k+1), loss w^2/20, w_0 = 2: the first push lands on the edge 3/2."""
    q, eps = (-1.0, 1.0), 0.5
    gamma = Harmonic(1.0)
    printed = repaired = 2.0
    fast = torch.tensor([2.0], dtype=torch.float64)
    for k in range(400):
        printed += gamma(k) * ref.velocity_printed(printed / 10, printed, q, eps, 1.0, ref.phi, ref.phi_prime)
        repaired += gamma(k) * ref.velocity(repaired / 10, repaired, q, eps, 1.0, ref.phi, ref.phi_prime)
        fast = fast + gamma(k) * skewed_velocity(fast / 10, fast, Levels(q), eps, 1.0, PHI)
    assert printed == 1.5
    assert repaired == pytest.approx(0.8566, abs=1e-4)
    assert fast.item() == pytest.approx(repaired, abs=1e-12)


@pytest.mark.parametrize("constraint", [PSI, PHI])
def test_only_the_push_is_clipped_unless_the_velocity_is_asked_for(constraint):
    levels, eps, clip = Levels.binary(), 0.01, 0.5
    w = tensor([1.0, -1.0, 0.1, -0.1, 0.1])
    G = tensor([3.0, -3.0, 0.0, 0.0, -2.0])
    got = skewed_velocity(G, w, levels, eps, 4.0, constraint, clip)
    assert got.tolist() == [-3.0, 3.0, 0.5, -0.5, 2.0]
    whole = skewed_velocity(G, w, levels, eps, 4.0, constraint, clip, clip_velocity=True)
    assert whole.tolist() == [-0.5, 0.5, 0.5, -0.5, 0.5]


@pytest.mark.parametrize("constraint", [PSI, PHI])
def test_midpoint_is_pushed_right_with_the_clip_and_touching_intervals_are_free(constraint):
    zero, levels = tensor([0.0]), Levels.binary()
    for G, expected in (
        (0.3, 0.25),
        (-0.7, 0.7),
    ):  # a gradient step to the right that is longer than the push is kept
        assert skewed_velocity(tensor([G]), zero, levels, 0.2, 0.1, constraint, 0.25).item() == expected
    for G in (0.3, -0.7):
        assert skewed_velocity(tensor([G]), zero, levels, 1.0, 0.1, constraint, 0.25).item() == -G


def test_size_of_the_push():
    """phi: alpha d outside, alpha d (c - d)/(c - 2 d) inside, c = sqrt(gap^2 - 4 eps) (Lemma 5, repaired)."""
    levels, eps, alpha = Levels((0.0, 2.0)), 0.19, 0.7
    c = math.sqrt(4 - 4 * eps)
    d = torch.linspace(0.01, 0.45 * c, 40, dtype=torch.float64)
    outside = skewed_velocity(torch.zeros_like(d), 2 + eps + d, levels, eps, alpha, PHI)
    close(outside, (-alpha * d).tolist())
    inside = skewed_velocity(torch.zeros_like(d), 1 + c / 2 - d, levels, eps, alpha, PHI)
    close(inside, (alpha * d * (c - d) / (c - 2 * d)).tolist())


def test_annealing_advances_epsilon():
    method = ASkew(Levels.binary(), PHI, epsilon=Geometric(0.88, 0.88))
    assert method.epsilon == 0.88
    method.anneal()
    method.anneal()
    assert method.epsilon == pytest.approx(0.88**3)
    w, G = (
        tensor([0.6]),
        tensor([0.0]),
    )  # between the edges of epsilon = 0.88 and 0.88^3: now infeasible, so pushed
    assert -method.descent(G, w, method.levels, {}).item() == pytest.approx(
        ref.velocity(0.0, 0.6, (-1, 1), 0.88**3, 0.1, ref.phi, ref.phi_prime, 1.0)
    )


# SGDA


def dual_step(method, w, state):
    for target, value in method.late_changes(w, method.levels, state):
        target.copy_(value)


@SETTINGS
@given(levels_and_weights(), st.floats(0.01, 0.99), st.integers(0, 2**31), st.sampled_from([0.05, math.inf]))
def test_sgda_step_is_the_reference(case, fraction, seed, bound):
    levels, w = case
    eps = fraction * PHI.largest_epsilon(levels)
    method = SGDA(levels, epsilon=eps, dual_lr=0.3, dual_max=bound)
    rng = torch.Generator().manual_seed(seed)
    G = torch.randn(len(w), dtype=torch.float64, generator=rng)
    dual = torch.rand(len(levels.values) + 1, len(w), dtype=torch.float64, generator=rng) * min(bound, 2.0)
    state = {"dual": dual.clone()}
    velocity = -method.descent(G, tensor(w), levels, state)
    dual_step(method, tensor(w), state)
    for i, x in enumerate(w):
        new, lam = ref.sgda_step(x, dual[:, i].tolist(), G[i].item(), levels.values, 1.0, 0.3, eps, bound)
        assert x + velocity[i].item() == pytest.approx(new, rel=1e-9, abs=1e-9)
        assert state["dual"][:, i].tolist() == pytest.approx(lam, rel=1e-9, abs=1e-9)


def test_sgda_starts_with_zero_multipliers_and_keeps_them_in_the_box():
    method, state = SGDA(Levels.binary(), epsilon=0.5, dual_lr=1.0, dual_max=0.25), {}
    w = tensor([0.0, 5.0, 1.0])
    assert torch.equal(method.descent(tensor([1.0, 2.0, 3.0]), w, method.levels, state), tensor([1.0, 2.0, 3.0]))
    dual_step(method, w, state)
    # f(0) = (-1/2 - 1 + ..): the gap is violated at 0, the right edge at 5, nothing at 1
    assert state["dual"].tolist() == [[0, 0, 0], [0.25, 0, 0], [0, 0.25, 0]]


# Schedules


def test_schedules():
    assert [Constant(0.3)(k) for k in (0, 7)] == [0.3, 0.3]
    assert [Harmonic(2.0)(k) for k in range(4)] == [2.0, 1.0, 2 / 3, 0.5]
    assert [Geometric(1.0, 0.88)(k) for k in range(3)] == [1.0, 0.88, 0.88**2]
    assert [Linear(0.5)(k) for k in range(3)] == [0.0, 0.5, 1.0]
    for ratio in (0.0, -0.5, 1.5, math.nan):
        with pytest.raises(ValueError, match="0 < ratio <= 1"):
            Geometric(1.0, ratio)


# Bad input


@pytest.mark.parametrize("name, value", list(itertools.product(("alpha", "clip"), (0.0, -1.0, math.inf, math.nan))))
def test_askew_rejects_bad_numbers(name, value):
    with pytest.raises(ValueError, match=f"{name}=.*positive finite"):
        ASkew(Levels.binary(), **{name: value})


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: ASkew(Levels.binary(), PHI, epsilon=1.0), "not below 1.*0 < epsilon < 1.*merged=True"),
        (lambda: ASkew(Levels.ternary(), PSI, epsilon=0.1), r"psi \(19\).*0 < epsilon < 0.0625"),
        (lambda: ASkew(Levels.binary(), PHI, epsilon=0.0), "positive"),
        (lambda: SGDA(Levels.binary(), epsilon=1.5), "0 < epsilon < 1"),
        (lambda: SGDA(Levels.binary(), dual_lr=0.0), "dual_lr=0.0.*positive"),
        (lambda: SGDA(Levels.binary(), dual_lr=math.nan), "dual_lr=nan.*positive"),
        (lambda: SGDA(Levels.binary(), dual_max=0.0), "dual_max=0.0.*positive"),
        (lambda: SGDA(Levels.binary(), dual_max=math.nan), "dual_max=nan.*positive"),
        (lambda: ProxQuant(Levels.binary(), norm="l3"), "norm='l3'.*'l1', 'l2', 'squared_l2'"),
        (lambda: ProxQuant(Levels.binary(), -1.0), "not negative"),
        (lambda: ProxQuant(Levels.binary(), Linear(-1.0)), "not negative"),
        (lambda: ProxQuant(Levels.binary(), math.nan), "finite"),
        (lambda: ProxQuant(Levels.binary(), math.inf, "squared_l2"), "finite"),
        (lambda: KBitStraightThrough(0), "bits=0"),
        (lambda: DebiasedBinaryConnect(Levels.binary(), delta=0.0), "delta=0.0.*0 < delta < 1"),
        (lambda: DebiasedBinaryConnect(Levels.binary(), delta=math.nan), "delta=nan"),
        (lambda: DebiasedBinaryConnect(Levels.ternary()), "needs two levels.*kink"),
    ],
)
def test_bad_settings_say_what_is_wrong(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_merged_accepts_the_schedule_that_starts_at_the_largest_epsilon():
    method = ASkew(Levels.binary(), PHI, epsilon=Geometric(1.0, 0.88), merged=True)
    assert method.epsilon == 1.0
    w = tensor([-0.9, -0.2, 0.0, 0.3, 0.99])
    assert torch.equal(method.descent(torch.ones_like(w), w, method.levels, {}), torch.ones_like(w))


def test_alpha_times_lr_above_one_is_refused_unless_allowed():
    with pytest.raises(
        ValueError, match=r"alpha \* lr = 4 \* 1 = 4 is above 1.*alpha <= 1 at this lr.*allow_overshoot"
    ):
        ASkew(Levels.binary(), alpha=4.0).check(Levels.binary(), 1.0)
    with pytest.raises(ValueError, match="is above 1"):
        ASkew(Levels.binary(), alpha=1.01).check(Levels.binary(), 1.0)
    ASkew(Levels.binary(), alpha=4.0).check(Levels.binary(), 0.25)
    ASkew(Levels.binary(), alpha=4.0, allow_overshoot=True).check(Levels.binary(), 1.0)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_slot_keeps_shape_and_dtype(name, dtype):
    method = METHODS[name]()
    w = torch.randn(3, 4, dtype=dtype, generator=torch.Generator().manual_seed(0))
    state = {}
    for out in (
        method.forward_point(w, method.levels, state),
        method.descent(w.clone(), w, method.levels, state),
        method.descent(w.clone(), w, method.levels, state, torch.empty_like(w)),
        method.after_step(w, method.levels, state, 0.1),
    ):
        assert out.shape == w.shape and out.dtype == dtype


def test_a_push_that_could_jump_over_a_cell_is_refused():
    """lr 1 and clip 1 move a weight just above the midpoint 0.5 to 1.5, past the level 1 that it should end at."""
    levels = Levels.integers(3)
    w = torch.tensor([0.501], dtype=torch.float64)
    jump = w + skewed_velocity(torch.zeros_like(w), w, levels, 0.1, 0.1, PHI, clip=1.0)
    assert levels.nearest(jump).item() == 2
    method = ASkew(levels, PHI, alpha=0.1, clip=1.0, epsilon=0.1)
    with pytest.raises(ValueError, match="half the smallest gap.*Allowed is clip <= 0.5"):
        method.check(levels, lr=1.0)
    ASkew(levels, PHI, alpha=0.1, clip=0.5, epsilon=0.1).check(levels, lr=1.0)
    ASkew(levels, PHI, alpha=0.1, clip=1.0, epsilon=0.1, allow_overshoot=True).check(levels, lr=1.0)


@pytest.mark.parametrize("constraint", [PSI, PHI])
def test_the_two_ways_to_apply_the_push_are_the_same(constraint, monkeypatch):
    """Bounds where torch runs operation by operation, a comparison where it compiles."""
    w = torch.linspace(-2.5, 2.5, 2001, dtype=torch.float64)
    args = (Levels.ternary(), 0.5 * constraint.largest_epsilon(Levels.ternary()), 0.3, constraint, 0.4)
    for G in (-1.0, -0.1, 0.0, 0.1, 1.0):
        grad = torch.full_like(w, G)
        bounds = skewed_velocity(grad, w, *args)
        with monkeypatch.context() as patch:
            patch.setattr(torch.compiler, "is_compiling", lambda: True)
            comparison = skewed_velocity(grad, w, *args)
        assert torch.equal(bounds, comparison)
