"""Theorem 3′ in numbers: prox points and Karush–Kuhn–Tucker points against scipy, the simulation against the equations
written out, the bounds above all simulated runs, the inequalities of the proof on random problems."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import approx_fprime, minimize

from quantized_training import PHI, PSI, Levels
from study.theory import reference as ref
from study.theory.convergence import (
    Rule,
    adversary,
    boxes,
    coin,
    distance_bound,
    envelope,
    exponent,
    fixed_from,
    freezing_step,
    kkt_points,
    kkt_residual,
    minimiser,
    nearest,
    powers,
    prox_point,
    quadratic,
    reach,
    residual_constant,
    simulate,
    sines,
    student,
)

BINARY, UNEVEN = Levels.binary(), Levels((-1, 0, 2))
RULES = {
    "phi": Rule(BINARY, 0.5, PHI, 1.0, 2.0),
    "psi": Rule(BINARY, 0.25, PSI, 2.0, 2.0),
    "phi, uneven": Rule(UNEVEN, 0.15, PHI, 3.0, 0.7),
    "psi, uneven": Rule(UNEVEN, 0.02, PSI, 0.8, 1.5),
}
rules = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def problem(seed, n=3):
    """A random symmetric indefinite H and b."""
    generator = torch.Generator().manual_seed(seed)
    H = torch.randn(n, n, generator=generator, dtype=torch.float64)
    return (H + H.T) / 2, 0.5 * torch.randn(n, generator=generator, dtype=torch.float64)


def starts(rule, seeds=20, n=3, reach=2.0):
    low, high = rule.levels.hull
    return torch.rand(seeds, n, generator=torch.Generator().manual_seed(0)) * (high - low + 2 * reach) + low - reach


@pytest.mark.parametrize("loss", [sines(3, 7, 0), quadratic(*problem(0))], ids=["sines", "quadratic"])
def test_losses_have_the_gradient_and_the_constants_they_state(loss):
    rng = np.random.default_rng(0)
    points = torch.as_tensor(rng.normal(size=(400, 3)) * 2)
    for w in points[:20]:
        numeric = approx_fprime(w.numpy(), lambda x: loss.value(torch.as_tensor(x)).item(), 1e-6)
        assert loss.gradient(w).numpy() == pytest.approx(numeric, abs=2e-5)
    assert (loss.gradient(points).abs() <= loss.steepness).all() and (loss.value(points) >= loss.lowest).all()
    moved = loss.gradient(points) - loss.gradient(points.flip(0))
    assert (moved.norm(dim=-1) <= loss.smoothness * (points - points.flip(0)).norm(dim=-1) + 1e-12).all()


@rules
def test_boxes_distance_and_e_are_those_of_the_written_out_constraints(rule):
    g = ref.phi if rule.constraint is PHI else ref.psi
    w = starts(rule, 300, 2)
    low, high = rule.boxes(w)
    Q = rule.levels.values
    for edge in torch.cat([low, high]).unique().tolist():
        assert g(edge, Q, rule.epsilon) == pytest.approx(0, abs=1e-12)
    d = rule.distances(w)
    fine = torch.linspace(-5, 5, 20_001)
    feasible = torch.tensor([x for x in fine.tolist() if g(x, Q, rule.epsilon) >= 0])
    brute = (w[..., None] - feasible).abs().amin(-1)
    assert (brute - d).abs().max() < 1e-3
    gap = (torch.tensor(rule.levels.midpoints)[:, None] - feasible).abs().min()
    assert rule.e == pytest.approx(gap.item(), abs=1e-3)


@rules
@pytest.mark.parametrize("kind", ["sines", "quadratic"])
def test_prox_point_and_envelope_against_lbfgsb(rule, kind):
    loss = sines(3, 7, 1) if kind == "sines" else quadratic(*problem(1))
    w = starts(rule, 12)
    low, high = rule.boxes(w)
    z, F = prox_point(w, loss, low, high), envelope(w, loss, low, high)
    for i in range(len(w)):

        def objective(x, i=i):
            y = torch.as_tensor(x)
            value = loss.value(y) + loss.smoothness * ((y - w[i]) ** 2).sum()
            return value.item(), (loss.gradient(y) + 2 * loss.smoothness * (y - w[i])).numpy()

        box = list(zip(low[i].tolist(), high[i].tolist(), strict=True))
        best = minimize(
            objective, low[i].numpy(), jac=True, bounds=box, method="L-BFGS-B", options={"gtol": 1e-12, "ftol": 1e-16}
        )
        assert z[i].numpy() == pytest.approx(best.x, abs=1e-6)
        assert F[i].item() == pytest.approx(best.fun, abs=1e-10)


def test_a_warm_start_gives_the_same_prox_point():
    rule, loss = RULES["phi"], sines(3, 7, 2)
    w = starts(rule)
    low, high = rule.boxes(w)
    z = prox_point(w, loss, low, high)
    assert (prox_point(w + 0.01, loss, low, high, 5, z) - prox_point(w + 0.01, loss, low, high)).norm(
        dim=-1
    ).max() < 2e-3
    assert torch.allclose(prox_point(w, loss, low, high, 1, z), z, atol=1e-12)


@rules
def test_residual_is_lipschitz_and_bounds_the_kkt_residual(rule):
    """Step 5 and part 3: |h(w) - h(w')| <= |w - w'|, and |p - Π(p - ∇ℓ(p))| <= (2L + √(1 + L²)) h."""
    loss, rng = sines(3, 7, 3), np.random.default_rng(1)
    w = starts(rule, 200)
    low, high = rule.boxes(w)
    other = w + torch.as_tensor(rng.normal(size=w.shape)) * 10.0 ** torch.as_tensor(rng.uniform(-3, 0, (200, 1)))
    z, y = prox_point(w, loss, low, high), prox_point(other, loss, low, high)
    h = (w - z).norm(dim=-1)
    assert ((h - (other - y).norm(dim=-1)).abs() <= (w - other).norm(dim=-1) + 1e-9).all()
    L = loss.smoothness
    assert (kkt_residual(w, loss, low, high) <= (2 * L + (1 + L**2) ** 0.5) * h + 1e-9).all()


@rules
def test_envelope_lies_between_the_values_the_proof_puts_it(rule):
    """F(w) <= ℓ(z) + L|z - w|² for all z of the box, F >= min ℓ there, and F = ℓ at Karush–Kuhn–Tucker points."""
    H, b = problem(4)
    loss = quadratic(H, b)
    w = starts(rule, 50)
    low, high = rule.boxes(w)
    F = envelope(w, loss, low, high)
    z = low + (high - low) * torch.rand(500, *w.shape, generator=torch.Generator().manual_seed(1))
    assert (loss.value(z) + loss.smoothness * ((z - w) ** 2).sum(-1) >= F - 1e-9).all()
    points = kkt_points(H, b, rule)
    assert torch.allclose(envelope(points, loss, *rule.boxes(points)), loss.value(points), atol=1e-9)
    for x in w[:5]:
        low, high = rule.boxes(x)
        inside = points[((points >= low) & (points <= high)).all(-1)]
        assert envelope(x, loss, low, high) >= loss.value(inside).min() - 1e-9  # the box's minimum is one of them


def is_kkt(z, H, b, intervals, tolerance=1e-9):
    """The conditions written out, weight by weight."""
    gradient = H @ z - b
    for x, g in zip(z, gradient, strict=True):
        low, high = min(intervals, key=lambda i: max(i[0] - x, x - i[1]))
        if not low - tolerance <= x <= high + tolerance:
            return False
        at_low, at_high = abs(x - low) <= tolerance, abs(x - high) <= tolerance
        if g > tolerance and not at_low or g < -tolerance and not at_high:
            return False
    return True


@rules
@pytest.mark.parametrize("seed", range(4))
def test_kkt_points_are_all_of_them(rule, seed):
    """Each one satisfies the conditions, each box's minimiser found by L-BFGS-B is one, and for n = 1 a grid finds no other."""
    H, b = problem(seed)
    points = kkt_points(H, b, rule)
    intervals = rule.constraint.feasible_intervals(rule.levels, rule.epsilon)
    assert all(is_kkt(z, H.numpy(), b.numpy(), intervals) for z in points.numpy())
    assert len(torch.unique(points.round(decimals=9), dim=0)) == len(points)
    rng = np.random.default_rng(seed)
    for box in itertools.product(intervals, repeat=3):
        for _ in range(3):
            start = np.array([rng.uniform(*side) for side in box])
            found = minimize(
                lambda x: (x @ H.numpy() @ x / 2 - b.numpy() @ x, H.numpy() @ x - b.numpy()),
                start,
                jac=True,
                bounds=box,
                method="L-BFGS-B",
                options={"gtol": 1e-12, "ftol": 1e-16},
            )
            assert nearest(torch.as_tensor(found.x), points)[0] < 1e-5


@pytest.mark.parametrize("curvature", [2.0, -1.5])
def test_kkt_points_of_one_weight_against_a_grid(curvature):
    rule = RULES["phi, uneven"]
    H, b = torch.tensor([[curvature]]), torch.tensor([0.4])
    points = kkt_points(H, b, rule)[:, 0].sort().values
    found = []
    for low, high in rule.constraint.feasible_intervals(rule.levels, rule.epsilon):
        w = np.linspace(low, high, 200_001)
        slope = curvature * w - 0.4
        found += [low] * bool(slope[0] >= 0) + [high] * bool(slope[-1] <= 0)
        found += list(w[:-1][np.diff(np.sign(slope)) != 0])
    assert points.numpy() == pytest.approx(np.sort(found), abs=1e-4)


def test_kkt_points_refuse_a_singular_block():
    with pytest.raises(ValueError, match="singular"):
        kkt_points(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.zeros(2), RULES["phi"])


@rules
def test_simulate_is_the_rule_written_out(rule):
    """w + gamma * reference.velocity, weight by weight, with the same noise."""
    g, dg = (ref.phi, ref.phi_prime) if rule.constraint is PHI else (ref.psi, ref.psi_prime)
    loss, gammas, start = sines(3, 7, 5), powers([(0.5, 1), (0.3, 0.6)], 60), starts(rule, 4)
    run = simulate(loss, start, gammas, rule, coin(1.5, 0.5, 3), count=400)
    assert run.steps.tolist() == list(range(61))
    noise, w = coin(1.5, 0.5, 3), start.expand(2, 4, 3).clone()
    last = torch.zeros(2, 4, dtype=torch.long)
    for k in range(60):
        G = loss.gradient(w) + noise(w, k)
        v = [
            ref.velocity(a, x, rule.levels.values, rule.epsilon, rule.alpha, g, dg, rule.clip)
            for a, x in zip(G.flatten().tolist(), w.flatten().tolist(), strict=True)
        ]
        cells = rule.levels.cell(w)
        w = w + gammas[k][:, None, None] * torch.tensor(v).view_as(w)
        last[(rule.levels.cell(w) != cells).any(-1)] = k + 1
        assert torch.allclose(run.points[k + 1], w, atol=1e-9)
        w = run.points[k + 1]
    assert (run.last_change == last).all()


def test_simulate_sums_gamma_h_squared_and_gamma_d_squared():
    rule, loss, gammas = RULES["phi"], sines(3, 7, 6), powers([(1, 1), (1, 0.6)], 300)
    run = simulate(loss, starts(rule), gammas, rule, coin(1, 1, 4), count=2000, iterations=20)
    h = (run.points - prox_point(run.points, loss, *rule.boxes(run.points))).norm(dim=-1)
    for kept, distance in zip(run.sums, (h, rule.distances(run.points).norm(dim=-1)), strict=True):
        assert torch.allclose(kept[1:], (gammas[:, :, None] * distance[:-1] ** 2).cumsum(0), atol=1e-9)
    few = simulate(loss, starts(rule), gammas, rule, coin(1, 1, 4), count=3, iterations=3)
    assert torch.allclose(few.sums[:, -1], run.sums[:, -1], rtol=0.03)


def test_simulate_raises_on_bad_input():
    with pytest.raises(ValueError, match="allowed"):
        simulate(sines(2, 3, 0), torch.zeros(2), powers([(1, 1)], 3), RULES["phi"], coin(1, 1, 0))
    with pytest.raises(FloatingPointError):
        blow_up = torch.full((2000, 1), 1e10)
        simulate(quadratic(torch.eye(2), torch.zeros(2)), torch.ones(1, 2), blow_up, RULES["phi"], coin(1, 1, 0))


@rules
@pytest.mark.parametrize("seed", range(3))
def test_part_1_and_2_hold_for_every_seed(rule, seed):
    """No cell changes after k_0, and no distance of a weight exceeds D_k, from the first step on."""
    laws = [(0.3, 1), (1, 1), (3, 1), (1, 0.6), (2, 0.75)]
    gammas, start, loss = powers(laws, 1500), starts(rule, 20, 3, 4.0), sines(3, 7, seed)
    for size in (0.05, 1, 5):
        M = loss.steepness + size
        run = simulate(loss, start, gammas, rule, coin(size, size, seed))
        assert (run.last_change <= freezing_step(gammas, rule, M)[:, None]).all()
        D = distance_bound(rule.distances(start).max().item(), gammas, rule, M)[run.steps]
        assert (rule.distances(run.points).amax((2, 3)) <= D + 1e-12).all()


def test_distance_bound_is_attained_and_its_rate_is_min_1_kappa_gamma0():
    """Zero gradient, one weight far outside, (22): the distance is the bound, Γ(k+1-a) / (Γ(1-a) Γ(k+1)) times the start."""
    rule, still = Rule(BINARY, 0.5, PHI, 1.0, 100.0), quadratic(torch.zeros(1, 1), torch.zeros(1))
    a, steps = 0.4, 4000
    gammas = powers([(a, 1)], steps)
    run = simulate(still, torch.tensor([[4.5]]), gammas, rule, lambda w, k: torch.zeros_like(w))
    k = run.steps[1:].double()
    exact = 3.0 * torch.exp(torch.lgamma(k + 1 - a) - math.lgamma(1 - a) - torch.lgamma(k + 1))
    assert torch.allclose(rule.distances(run.points)[1:, 0, 0, 0], exact, rtol=1e-9)
    for c in (0.3, 0.6, 1.0, 2.0):
        for p in (1.0, 0.7):
            D = distance_bound(3.0, powers([(c, p)], 20_000), Rule(BINARY, 0.5, PHI, 1.0, 2.0), 2.0)
            slope = (D[20_000] / D[2_000]).log() / math.log(10)
            assert slope.item() == pytest.approx(-min(1, c) if p == 1 else -p, abs=0.01)


def test_freezing_step_is_the_first_with_steps_shorter_than_e():
    rule = RULES["phi"]
    gammas = powers([(1, 1), (0.01, 1), (1, 0.6)], 500)
    by_hand = [next(k for k in range(500) if gammas[k, i] * 3.0 < rule.e) for i in range(3)]
    assert freezing_step(gammas, rule, 3.0).tolist() == by_hand


def test_part_6_bounds_the_mean_sum():
    rule, loss, gammas = RULES["phi"], sines(3, 7, 7), powers([(0.3, 0.75)], 400)
    start = starts(rule, 30, 3, 0.5)
    M = loss.steepness + 1
    k0 = int(freezing_step(gammas, rule, M)[0])
    run = simulate(loss, start, gammas, rule, coin(1, 1, 9), count=9000, iterations=4)
    D = distance_bound(rule.distances(start).max().item(), gammas, rule, M)[k0:-1, 0]
    F = envelope(run.points[k0, 0], loss, *rule.boxes(run.points[k0, 0])).mean()
    C0 = residual_constant(loss, gammas[k0:, 0], rule, M, 3, D, F)
    assert (run.sums[0, k0 + 1 :, 0].mean(1) - run.sums[0, k0, 0].mean() <= C0).all()
    L, M1, g, d = loss.smoothness, max(M, rule.clip), gammas[k0, 0].item(), D[0].item()
    first = (F - loss.lowest + 2 * L**2 * g * 3 * d * d + L * 3 * M1**2 * g * g) / L**2
    assert C0[0].item() == pytest.approx(first.item())


def test_coin_has_mean_0_and_two_values():
    draw = coin(2.0, 0.5, 1)(torch.zeros(3, 20_000, 2), 0)
    assert draw.unique().tolist() == [-0.5, 2.0] and draw.shape == (20_000, 2)
    assert (draw == 2).double().mean().item() == pytest.approx(0.2, abs=0.01)


def test_recorded_steps_and_powers():
    rule = RULES["phi"]
    steps = simulate(sines(3, 7, 5), starts(rule, 1), powers([(0.1, 1)], 1000), rule, coin(1, 1, 0)).steps
    assert steps[0] == 0 and steps[-1] == 1000 and (steps.diff() > 0).all() and 40 < len(steps) <= 61
    assert torch.allclose(powers([(2, 1), (3, 0.5)], 4), torch.tensor([[2 / k, 3 / k**0.5] for k in range(1, 5)]))


def test_nearest_against_loops():
    rng = np.random.default_rng(2)
    w, points = torch.as_tensor(rng.normal(size=(4, 5, 3))), torch.as_tensor(rng.normal(size=(7, 3)))
    distance, index = nearest(w, points)
    for i, j in itertools.product(range(4), range(5)):
        all_ = [float(np.linalg.norm(w[i, j].numpy() - p)) for p in points.numpy()]
        assert distance[i, j].item() == pytest.approx(min(all_)) and index[i, j] == int(np.argmin(all_))


def test_boxes_refuse_epsilon_at_the_cap():
    with pytest.raises(ValueError, match="not below 1"):
        boxes(torch.zeros(2), BINARY, 1.0, PHI)


def test_exponent_of_a_power_is_its_exponent():
    steps = torch.cat([torch.zeros(1), torch.logspace(0, 4, 60).round()]).long().unique()
    k = (steps + 1e-9)[:, None]
    y = torch.cat([3 * k**-0.6, torch.where(k < 500, 1.0, 7 * k**-2)], 1)
    torch.testing.assert_close(exponent(steps, y), torch.tensor([-0.6, -2.0]))


@rules
@pytest.mark.parametrize("length", [0.05, 0.4, 1.0])
def test_reach_is_where_steps_of_the_rule_end(rule, length):
    """Against gradients of both signs and all sizes, with steps that make the clip the longest of them."""
    w = starts(rule, 60)
    low, high, leaves, passes = reach(w, length, rule)
    gamma = length / rule.clip
    ends = torch.stack([w + gamma * rule(torch.full_like(w, g), w, 0) for g in np.linspace(-rule.clip, rule.clip, 41)])
    assert (ends >= low - 1e-12).all() and (ends <= high + 1e-12).all()
    edges = rule.boxes(w)
    inside = (w >= edges[0]) & (w <= edges[1])
    torch.testing.assert_close(ends.amin(0)[inside], low[inside])
    torch.testing.assert_close(ends.amax(0)[inside], high[inside])
    cell = rule.levels.cell
    strictly = ((rule.levels.cell(low) != cell(w)) | (cell(high) != cell(w))) == leaves
    assert strictly.all() and leaves.any() == (length > rule.e)
    width = edges[1] - edges[0]
    assert not passes[inside | (length < width)].any()


def test_noise_of_student_has_its_tail():
    draws = torch.cat([student(1.5, 8)(torch.zeros(3, 500, 4), k).abs().flatten() for k in range(50)])
    assert draws.shape == (50 * 500 * 4,)
    shares = [(draws > x).double().mean().item() for x in (10, 40)]
    assert shares[0] / shares[1] == pytest.approx(4**1.5, rel=0.2)


# The freeze and the rate


@pytest.mark.parametrize("gamma", [0.05, 0.2, 0.34, 0.35, 0.6, 0.9])
@pytest.mark.parametrize(("constraint", "ratio"), [(PHI, 0.88), (PSI, 0.88**0.5)])
def test_fixed_from_is_the_formula_of_the_page(constraint, ratio, gamma):
    """With τ = ratio^t a level can change in the rounds t <= log(1 - (γM)²) / log(ratio), the levels being ±1."""
    epsilon = [0.88**t for t in range(60)]
    t_star = math.log(1 - gamma**2) / math.log(ratio)
    assert fixed_from(BINARY, constraint, epsilon, [gamma / 2] * 60, 2.0, 1.0) == math.floor(t_star) + 1
    assert fixed_from(BINARY, constraint, epsilon, [1.5] * 60, 0.1, 1.0) == 60  # the push alone is too long


@pytest.mark.parametrize("gamma", [0.1, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("constraint", [PHI, PSI])
def test_the_adversary_changes_a_level_in_the_last_round_that_is_allowed_and_in_none_after_it(constraint, gamma):
    epsilon, rounds = [0.88**t for t in range(40)], torch.arange(40).repeat_interleave(5)
    start = torch.tensor([1.0, -0.95, 0.05, -0.26, 0.35] * 40)
    path = adversary(BINARY, constraint, epsilon, [gamma] * 40, 1.0, clip=0.9, start=start, wait=rounds)
    changed = (BINARY.cell(path[1:]) != BINARY.cell(path[:-1])).any(-1).nonzero()
    assert changed[-1, 0] == fixed_from(BINARY, constraint, epsilon, [gamma] * 40, 1.0, 0.9) - 1


@rules
def test_next_to_an_edge_a_step_longer_than_e_changes_the_level_and_a_shorter_one_does_not(rule):
    low, high = rule.boxes(torch.tensor(rule.levels.values))
    gap = int(np.argmin(rule.levels.gaps))
    for edge, level in ((high[gap] - 1e-6, gap), (low[gap + 1] + 1e-6, gap + 1)):
        for length, changes in ((1.001, True), (1.0, False)):
            path = adversary(
                rule.levels, rule.constraint, [rule.epsilon], [length * rule.e], 1.0, start=edge[None], clip=0.1
            )
            assert (rule.levels.cell(path[0]) == level).all()
            assert (rule.levels.cell(path[1]) != level).all() == changes


def test_closing_intervals_lead_to_the_vertex_of_the_start_whatever_the_gradients():
    steps = 4000
    gammas = [2 / (k + 10) for k in range(steps)]
    epsilon = [0.8 / (1 + k / 50) for k in range(steps)]
    first = fixed_from(BINARY, PHI, epsilon, gammas, 1.0, 1.0)
    path = adversary(BINARY, PHI, epsilon, gammas, 1.0, alpha=2.0, clip=1.0, seed=3)
    assert first < steps / 10
    assert (BINARY.cell(path[first:]) == BINARY.cell(path[first])).all()
    assert (
        (path[-1] - BINARY.nearest(path[first])).abs().max()
        < 0.02
        < (path[first] - BINARY.nearest(path[first])).abs().max()
    )


@pytest.mark.parametrize("seed", range(5))
def test_minimiser_on_a_box_against_lbfgsb(seed):
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(4, 4, generator=generator)
    H, b = A @ A.T + 0.1 * torch.eye(4), torch.randn(4, generator=generator) * 3
    loss, low, high = quadratic(H, b), -torch.rand(4, generator=generator), torch.rand(4, generator=generator)
    found = minimize(
        lambda z: float(loss.value(torch.as_tensor(z))),
        np.zeros(4),
        jac=lambda z: loss.gradient(torch.as_tensor(z)).numpy(),
        bounds=list(zip(low.tolist(), high.tolist(), strict=True)),
        options={"ftol": 1e-15, "gtol": 1e-12},
    )
    z = minimiser(loss, low, high)
    assert torch.equal(z, z.clamp(low, high))
    np.testing.assert_allclose(z, found.x, atol=1e-6)


def test_the_rate_with_its_constants_bounds_the_mean_of_the_last_iterate():
    """E|w_k - z*|² <= Q / (k + 1), Q = max{first k + 1 times its value, A / (c - 1)}, as in the proof."""
    rule, gamma0, shift, theta, M, n = RULES["phi"], 2.0, 40, 0.2, 4.0, 3
    H, target = torch.diag(torch.tensor([1.0, 1.0, 2.0])), torch.tensor([2.0, 0.9, 1.2])
    loss, start, mu, L = quadratic(H, H @ target), torch.tensor([1.0, 1.3, 0.8]), 1.0, 2.0
    x = torch.arange(shift + 1, shift + 4001)  # k + 1
    run = simulate(loss, start.expand(400, -1), (gamma0 / x)[:, None], rule, coin(1, 1, 0))
    low, high = rule.boxes(start)
    assert not run.last_change.any() and (loss.gradient(run.points) + 1).abs().max() < M
    D = distance_bound(0.0, (gamma0 / x)[:, None], rule, M)[:-1, 0]
    assert rule.kappa * D.max() <= rule.clip and rule.kappa * gamma0 >= 0.5
    A = (gamma0 * x * n * D**2 * (4 * mu + L**2 / mu) / theta).max() + gamma0**2 * n * M**2
    c, mean = 2 * (1 - theta) * mu * gamma0, ((run.points[:, 0] - minimiser(loss, low, high)) ** 2).sum(-1).mean(-1)
    Q = max((shift + 1) * mean[0], A / (c - 1))
    assert (mean * (run.steps + shift + 1) <= Q).all()
