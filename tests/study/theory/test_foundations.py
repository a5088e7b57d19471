"""Chapter 01: logistic loss and its constants, convexity definitions, norms, and searches that try everything."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from quantized_training import PHI, PSI, Constant, Levels
from study.theory.foundations import (
    best_clustering,
    best_vector,
    bisect,
    descent,
    descent_outcome,
    least_imbalance,
    logistic_gradient,
    logistic_hessian,
    logistic_loss,
    logistic_minimiser,
    logistic_smoothness,
    newton,
    stochastic,
    walk,
)

BINARY = Levels.binary()


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def written_out(w, z):
    """Equation (7) with the logistic loss, sample by sample."""
    return sum(math.log1p(math.exp(-sum(a * b for a, b in zip(w, row, strict=True)))) for row in z) / len(z)


def test_logistic_loss_is_equation_7_written_out():
    z, w = normal(20, 3), normal(4, 3, seed=1)
    expected = [written_out(v.tolist(), z.tolist()) for v in w]
    assert logistic_loss(w, z).tolist() == pytest.approx(expected, rel=1e-12)
    assert logistic_loss(w[0], z).shape == ()
    assert logistic_loss(torch.tensor([1e4, 0, 0], dtype=torch.float64), z).isfinite()


def test_derivatives_are_those_of_automatic_differentiation():
    z, w = normal(20, 3), normal(3, seed=1)
    assert torch.allclose(logistic_gradient(w, z), torch.func.grad(logistic_loss)(w, z), atol=1e-14)
    assert torch.allclose(logistic_hessian(w, z), torch.func.hessian(logistic_loss)(w, z), atol=1e-14)


def test_many_weights_and_many_data_sets_at_once():
    z, w = normal(5, 20, 3), normal(5, 3, seed=1)  # data set i belongs to weight i
    for function in (logistic_loss, logistic_gradient, logistic_hessian):
        one_by_one = torch.stack([function(a, b) for a, b in zip(w, z, strict=True)])
        assert torch.allclose(function(w, z), one_by_one, atol=1e-14)
    assert torch.allclose(logistic_smoothness(z), torch.stack([logistic_smoothness(b) for b in z]))


def test_logistic_loss_is_convex_and_smooth_with_the_stated_constants():
    z = normal(30, 3) * torch.tensor([1.0, 2.0, 0.3], dtype=torch.float64)
    smooth = logistic_smoothness(z).item()
    x, y = 3 * normal(4000, 3, seed=1), 3 * normal(4000, 3, seed=2)
    lam = torch.rand(4000, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    chord = (1 - lam) * logistic_loss(x, z) + lam * logistic_loss(y, z)
    below = chord - logistic_loss((1 - lam)[:, None] * x + lam[:, None] * y, z)
    assert (below >= -1e-12).all()  # (10)
    parabola = lam * (1 - lam) * (x - y).square().sum(1) / 2
    assert (below <= smooth * parabola + 1e-12).all()  # what (12) implies
    change = (logistic_gradient(x, z) - logistic_gradient(y, z)).norm(dim=1)
    assert (change <= smooth * (x - y).norm(dim=1)).all()  # (12)
    # no smaller constant: around w = 0, along the leading eigenvector
    lead = torch.linalg.eigh(z.mT @ z).eigenvectors[:, -1] * 1e-4
    change = (logistic_gradient(lead, z) - logistic_gradient(-lead, z)).norm()
    assert change / (2 * lead.norm()) == pytest.approx(smooth, rel=1e-6)
    # (11): on a bounded ball with the least eigenvalue of the Hessian found there, on the whole space with none
    ball_x, ball_y = (v / v.norm(dim=1, keepdim=True) for v in (x, y))
    points = (1 - lam)[:, None] * ball_x + lam[:, None] * ball_y
    largest = z.norm(dim=1).max().item()  # |z'w| <= largest on the ball
    least_slope = 1 / (1 + math.exp(largest)) / (1 + math.exp(-largest))
    mu = least_slope * torch.linalg.eigvalsh(z.mT @ z)[0].item() / len(z)
    gap = (1 - lam) * logistic_loss(ball_x, z) + lam * logistic_loss(ball_y, z) - logistic_loss(points, z)
    assert mu > 0 and (gap >= mu * lam * (1 - lam) * (ball_x - ball_y).square().sum(1) / 2 - 1e-14).all()
    assert torch.linalg.eigvalsh(logistic_hessian(1e3 * torch.ones(3, dtype=torch.float64), z))[-1] < 1e-6


def test_a_step_below_two_over_l_lowers_the_loss_and_convergence_ends_at_the_minimisers_curvature():
    z = normal(200, 2, seed=4)
    z[:, 1] += 0.5 * z[:, 0]
    z = (
        z
        * torch.where(z @ torch.tensor([2.0, -1.0], dtype=torch.float64) + 2 * normal(200, seed=5) > 0, 1.0, -1.0)[
            :, None
        ]
    )
    smooth, best = logistic_smoothness(z), logistic_minimiser(z)
    w = 5 * normal(500, 2, seed=6)
    for share in (0.5, 0.99):
        lower = logistic_loss(w - share * 2 / smooth * logistic_gradient(w, z), z)
        assert (lower < logistic_loss(w, z)).all()
    edge = 2 / torch.linalg.eigvalsh(logistic_hessian(best, z))[-1]
    assert edge > 1.05 * 2 / smooth
    for share, stays in ((0.97, True), (1.03, False)):
        w = best + 1e-3
        for _ in range(500):
            w = w - share * edge * logistic_gradient(w, z)
        assert ((w - best).norm() < 1e-4) == stays


def test_minimiser_is_the_one_scipy_finds():
    z = normal(100, 4, seed=7)
    found = minimize(
        lambda w: logistic_loss(torch.as_tensor(w), z).item(),
        np.zeros(4),
        jac=lambda w: logistic_gradient(torch.as_tensor(w), z).numpy(),
        tol=1e-12,
    )
    assert logistic_minimiser(z).tolist() == pytest.approx(found.x.tolist(), abs=1e-6)


@pytest.mark.parametrize("z", [[[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [2.0, 2.0], [1.0, 2.0]]])
def test_separable_data_have_no_minimiser(z):
    with pytest.raises(ValueError, match="no minimiser.*hyperplane"):
        logistic_minimiser(torch.tensor(z, dtype=torch.float64))


def test_too_few_newton_steps_are_not_a_minimiser():
    with pytest.raises(ValueError, match="gradient is .* after 2 Newton steps"):
        logistic_minimiser(normal(100, 4, seed=7) + 0.3, steps=2)


# --- Definitions 1 and 2, the report's statements ------------------------------------------------------------------------


def test_half_square_has_constant_one():
    x, y = normal(1000, 5, seed=1), normal(1000, 5, seed=2)
    gradient = torch.func.vmap(torch.func.grad(lambda v: v @ v / 2))
    ratio = (gradient(x) - gradient(y)).norm(dim=1) / (x - y).norm(dim=1)
    assert torch.allclose(ratio, torch.ones(1000, dtype=torch.float64))  # every L >= 1, none below
    assert gradient(1e6 * x).norm(dim=1).min() > 1e5  # the size of the gradient is not bounded


def test_the_constant_of_a_jacobian_depends_on_the_norm():
    jacobian = torch.func.vmap(torch.func.jacrev(lambda w: torch.stack([(w[0] ** 2 - w[1] ** 2) / 2, w[0] * w[1]])))
    x, y = normal(1000, 2, seed=1), normal(1000, 2, seed=2)
    change, length = jacobian(x) - jacobian(y), (x - y).norm(dim=1)
    assert torch.allclose(torch.linalg.matrix_norm(change, 2), length)
    assert torch.allclose(torch.linalg.matrix_norm(change, "fro"), math.sqrt(2) * length)


def test_norm_is_the_largest_absolute_eigenvalue():
    a = normal(500, 4, 4)
    a = (a + a.mT) / 2
    values, norm = torch.linalg.eigvalsh(a), torch.linalg.matrix_norm(a, 2)
    assert torch.allclose(norm, values.abs().amax(1))
    assert torch.equal(torch.isclose(norm, values[:, -1]), values[:, -1] >= -values[:, 0])
    printed = torch.diag(torch.tensor([1.0, -3.0]))
    assert torch.linalg.matrix_norm(printed, 2) == 3 and torch.linalg.eigvalsh(printed)[-1] == 1


@pytest.mark.parametrize("constraint", [PHI, PSI])
@pytest.mark.parametrize("levels", [BINARY, Levels((-1.0, 0.0, 2.0))])
def test_feasible_set_is_convex_only_when_merged(constraint, levels):
    largest = constraint.largest_epsilon(levels)
    pieces = constraint.feasible_intervals(levels, 0.99 * largest)
    assert len(pieces) == len(levels.values)
    for (_, a), (b, _) in itertools.pairwise(pieces):  # (9) fails for the ends of neighbouring intervals
        middle = torch.tensor([(a + b) / 2], dtype=torch.float64)
        assert constraint.value(middle, levels, 0.99 * largest) < 0
    widest = constraint.cap(max(levels.gaps))
    assert len(constraint.feasible_intervals(levels, 1.01 * widest)) == 1


# --- (P1) and (8) by trying everything -----------------------------------------------------------------------------------


@pytest.mark.parametrize("levels, n", [(BINARY, 6), (Levels((-1.5, 0.0, 0.5, 2.0)), 4)])
def test_best_vector_is_the_best_of_all(levels, n):
    z = normal(40, n, seed=8)
    w, loss = best_vector(lambda v: logistic_loss(v, z), levels, n, chunk=7)
    expected = min(itertools.product(levels.values, repeat=n), key=lambda v: written_out(v, z.tolist()))
    assert tuple(w.tolist()) == expected
    assert loss == pytest.approx(written_out(expected, z.tolist()), rel=1e-12)


def test_rounding_the_minimiser_is_not_the_best_vector():
    axes = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64) / math.sqrt(2)
    centre = torch.tensor([0.5, 0.15], dtype=torch.float64)

    def valley(w):  # steep along (1, 1), flat along (1, -1)
        return ((w - centre) @ axes.T).square() @ torch.tensor([10.0, 1.0], dtype=torch.float64)

    w, _ = best_vector(valley, BINARY, 2)
    assert w.tolist() == [1, -1] and BINARY.nearest(centre).tolist() == [1, 1]


@pytest.mark.parametrize("numbers", [(3, 1, 1, 2, 2, 1), (10, 3, 2, 1), (2, 3, 7, 11, 13), (5, 5, 4, 3, 3), (9, 9, 1)])
def test_two_samples_of_logistic_regression_solve_partition(numbers):
    a = torch.tensor(numbers, dtype=torch.float64)
    w, loss = best_vector(lambda v: logistic_loss(v, torch.stack([a, -a])), BINARY, len(a))
    subsets = itertools.chain.from_iterable(itertools.combinations(numbers, r) for r in range(len(numbers) + 1))
    least = min(abs(sum(numbers) - 2 * sum(s)) for s in subsets)
    assert abs(w @ a) == least
    assert loss == pytest.approx(math.log(2 * math.cosh(least / 2)), rel=1e-12)
    assert (loss < math.log(2) + 0.1) == (least == 0)


def within(points, labels, k):
    """(8), repaired: the sum over clusters of squared distances to their mean."""
    total = 0.0
    for i in range(k):
        own = [p for p, label in zip(points, labels, strict=True) if label == i]
        if own:
            centre = [sum(c) / len(own) for c in zip(*own, strict=True)]
            total += sum((a - b) ** 2 for p in own for a, b in zip(p, centre, strict=True))
    return total


@pytest.mark.parametrize("count, k", [(7, 2), (6, 3)])
def test_best_clustering_is_the_best_of_all_assignments(count, k):
    points = normal(count, 2, seed=9) + 100  # far from the origin: nothing may cancel
    labels, value = best_clustering(points, k)
    expected = min(within(points.tolist(), a, k) for a in itertools.product(range(k), repeat=count))
    assert value == pytest.approx(expected, rel=1e-9)
    assert within(points.tolist(), labels.tolist(), k) == pytest.approx(value, rel=1e-9)


def test_printed_k_means_is_minimised_by_a_lone_last_cluster():
    points, k = normal(7, 2, seed=10).tolist(), 2

    def printed(labels):  # (8) literally: the inner sum is over S_k for every i
        last = [p for p, label in zip(points, labels, strict=True) if label == k - 1]
        return k * within(last, [0] * len(last), 1)

    lone = (0,) * 6 + (1,)
    groupings = [a for a in itertools.product(range(k), repeat=7) if len(set(a)) == k]
    assert printed(lone) == 0 == min(map(printed, groupings))
    assert within(points, lone, k) > 1.05 * best_clustering(torch.tensor(points), k)[1]


def test_too_many_or_too_few_clusters_say_what_is_allowed():
    with pytest.raises(ValueError, match="k=1.*2, 3"):
        best_clustering(normal(4, 2), 1)
    with pytest.raises(ValueError, match=r"3\^20.*2\^22"):
        best_clustering(normal(20, 2), 3)


def test_a_walk_takes_the_written_steps():
    z, w = normal(30, 2), normal(2, seed=1)
    gradient, hessian = logistic_gradient(w, z), logistic_hessian(w, z)
    torch.testing.assert_close(walk(w, lambda v, k: v + k, 3), w + torch.tensor([0, 0, 1, 3])[:, None])
    torch.testing.assert_close(walk(w, descent(z, 0.5), 1)[1], w - 0.5 * gradient)
    torch.testing.assert_close(hessian @ (w - walk(w, newton(z), 1)[1]), gradient)


def test_a_mini_batch_step_is_descent_on_the_samples_drawn_and_unbiased():
    z, w = normal(20, 2), normal(2, seed=1)
    moved = stochastic(z, Constant(1.0), 1, seed=3)(w.expand(20_000, 2), 0)
    single = torch.cat([w - logistic_gradient(w, row[None])[None] for row in z])
    assert all((move - single).abs().sum(1).min() < 1e-12 for move in moved[:50])
    assert (moved.mean(0) - (w - logistic_gradient(w, z))).abs().max() < 0.02


def test_descent_falls_below_the_guarantee_and_is_judged_by_its_end():
    z = normal(50, 2)
    minimum = logistic_minimiser(z)
    largest = torch.linalg.eigvalsh(logistic_hessian(minimum, z))[-1].item()
    steps = torch.tensor([1.9 / logistic_smoothness(z).item(), 3 / largest], dtype=torch.float64)
    falls, arrives = descent_outcome(
        steps, z, torch.zeros(2, 2, dtype=torch.float64), logistic_loss(minimum, z).item(), 500
    )
    assert falls.tolist() == arrives.tolist() == [True, False]


def test_bisection_finds_the_edge():
    edge = torch.tensor([0.3, 0.8])
    found = bisect(lambda x: x < edge, torch.zeros(2), torch.ones(2), rounds=20)
    assert (found - edge).abs().max() < 1e-5


@pytest.mark.parametrize("numbers", [(3, 1, 1, 2, 2, 1), (8, 7, 6, 5, 4), (10, 3, 2, 1), (5,)])
def test_least_imbalance_is_that_of_all_splits(numbers):
    splits = itertools.product((-1, 1), repeat=len(numbers))
    assert least_imbalance(numbers) == min(abs(sum(s * a for s, a in zip(w, numbers, strict=True))) for w in splits)
