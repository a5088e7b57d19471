"""The admissible velocity (17) against a QP solver, closed forms, the dual of Lemma 3 and the coordinate-wise rule."""

import math

import numpy as np
import pytest
import quadprog
import torch
from scipy.optimize import approx_fprime, minimize

from quantized_training import PHI, PSI, Levels
from quantized_training.methods import skewed_velocity
from quantized_training.muehlebach_jordan import (
    Problem,
    admissible_velocity,
    dual_value,
    iterate,
    linear_rate,
    project,
    projected_gradient,
)


def instance(rng):
    """A random small QP with a non-empty V_alpha: all rows have a positive product with one direction (MFCQ)."""
    n, d = rng.integers(1, 7), rng.integers(1, 8)
    direction = rng.normal(size=n)
    jacobian = rng.normal(size=(d, n))
    jacobian *= np.sign(jacobian @ direction)[:, None]
    return rng.normal(size=n) * 3, rng.normal(size=d), jacobian, rng.uniform(0.1, 5)


def instances(count=300):
    rng = np.random.default_rng(0)
    return [instance(rng) for _ in range(count)]


@pytest.mark.parametrize("tolerance", [0, 0.5, math.inf])
def test_velocity_solves_17_as_quadprog_does(tolerance):
    for grad, g, jacobian, alpha in instances():
        index = g <= tolerance
        expected, lagrangian = -grad, np.zeros(len(g))
        if index.any():
            solution = quadprog.solve_qp(np.eye(len(grad)), -grad, jacobian[index].T, -alpha * g[index])
            expected, lagrangian[index] = solution[0], solution[4]
        v, multipliers = admissible_velocity(grad, g, jacobian, alpha, tolerance)
        assert v == pytest.approx(expected, abs=1e-8 * (1 + np.abs(expected).max()))
        assert (multipliers >= 0).all() and (multipliers[~index] == 0).all()
        assert v == pytest.approx(-grad + jacobian.T @ multipliers, abs=1e-9 * (1 + np.abs(v).max()))
        if index.sum() <= len(grad):  # independent rows: unique multipliers
            assert multipliers == pytest.approx(lagrangian, abs=1e-6 * (1 + lagrangian.max()))


def test_one_constraint_has_a_closed_form():
    for grad, g, jacobian, alpha in instances():
        g, n = -abs(g[0]), jacobian[0]
        closed = -grad + n * max(0, (n @ grad - alpha * g) / (n @ n))
        assert admissible_velocity(grad, [g], [n], alpha)[0] == pytest.approx(closed, abs=1e-10 * np.abs(closed).max())


def test_corrected_dual_is_maximal_at_the_multipliers_and_has_no_gap():
    for grad, g, jacobian, alpha in instances(150):
        v, multipliers = admissible_velocity(grad, g, jacobian, alpha)
        primal = (v + grad) @ (v + grad) / 2
        assert dual_value(multipliers, grad, g, jacobian, alpha) == pytest.approx(primal, abs=1e-8 * (1 + primal))
        found = minimize(
            lambda lam, grad, g, jacobian, alpha: -dual_value(lam, grad, g, jacobian, alpha),
            np.zeros_like(g),
            args=(grad, g, jacobian, alpha),
            jac=lambda lam, grad, g, jacobian, alpha: jacobian @ (jacobian.T @ lam - grad) + alpha * g,
            method="L-BFGS-B",
            bounds=[(0, None if x <= 0 else 0) for x in g],
            options={"ftol": 1e-16, "gtol": 1e-10, "maxiter": 5000, "maxfun": 50_000},
        )
        assert -found.fun == pytest.approx(primal, rel=1e-6, abs=1e-6)
        assert jacobian.T @ found.x - grad == pytest.approx(v, abs=2e-3 * (1 + np.abs(v).max()))


def test_stationarity_26_has_a_minus():
    """-(J v + alpha g) is in the normal cone of {lam >= 0} at the multipliers; without the minus it is not."""
    printed = 0
    for grad, g, jacobian, alpha in instances():
        v, lam = admissible_velocity(grad, g, jacobian, alpha)
        normal = -(jacobian @ v + alpha * g)[g <= 0]
        tolerance = 1e-8 * (1 + np.abs(v).max())
        assert (normal <= tolerance).all() and abs(normal @ lam[g <= 0]) <= tolerance * (1 + lam.sum())
        printed += (-normal > 1e-6).any()
    assert printed > 100


@pytest.mark.parametrize("constraint", [PHI, PSI])
def test_separable_constraints_give_the_coordinate_wise_rule(constraint):
    levels, epsilon, rng = Levels((-1.0, 0.0, 2.0)), 0.01, np.random.default_rng(1)
    for _ in range(60):
        w, grad, alpha = torch.tensor(rng.uniform(-2, 3, 6)), torch.tensor(rng.normal(size=6) * 3), rng.uniform(0.1, 4)
        g, slope = constraint.value(w, levels, epsilon), constraint.derivative(w, levels, epsilon)
        v, _ = admissible_velocity(grad.numpy(), g.numpy(), np.diag(slope.numpy()), alpha)
        rule = skewed_velocity(grad, w, levels, epsilon, alpha, constraint)
        assert v == pytest.approx(rule.numpy(), rel=1e-9, abs=1e-9)


def test_smallest_examples_of_lemma_3():
    assert admissible_velocity([-5], [-1], [[1]], 1)[0] == pytest.approx([5])  # equality would give 1
    assert admissible_velocity([-10], [0.1], [[-1]], 1)[0] == pytest.approx([10])
    assert admissible_velocity([-10], [0.1], [[-1]], 1, tolerance=math.inf)[0] == pytest.approx([0.1])
    assert admissible_velocity([0], [-1, -1.5], [[1], [2]], 1)[0] == pytest.approx([1])  # no Slater point by equations


@pytest.mark.parametrize("jacobian", [[[0.0, 0.0], [1, 0]], [[1.0, 0], [-2, 0]]])
def test_an_empty_set_is_refused(jacobian):
    with pytest.raises(ValueError, match="V_alpha is empty.*Mangasarian"):
        admissible_velocity([1, 1], [-1, -1], jacobian, 1)


def test_nearly_opposite_constraints_are_still_solved():
    jacobian = np.array([[1.0, 1e-4], [-1, 1e-4]])
    v, _ = admissible_velocity([0, 0], [-1, -1], jacobian, 1)
    assert v == pytest.approx([0, 1e4], rel=1e-6, abs=1e-6)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"allowed are \(n,\), \(d,\), \(d, n\)"):
        admissible_velocity([1, 2], [0], [[1, 2, 3]], 1)
    for alpha in (0, -1, math.inf, math.nan):
        with pytest.raises(ValueError, match="positive finite"):
            admissible_velocity([1], [0], [[1]], alpha)


# --- the iteration -----------------------------------------------------------------------------------------------------

HESSIAN = np.diag([1.0, 4.0, 9.0])
TARGET = np.array([2.0, 1.0, -1.5])
BALL = Problem(
    lambda w: (w - TARGET) @ HESSIAN @ (w - TARGET) / 2,
    lambda w: HESSIAN @ (w - TARGET),
    lambda w: np.array([1 - w @ w, w[0] + w[1] + 3]),
    lambda w: np.array([-2 * w, [1, 1, 0]]),
)
LR, ALPHA = 0.1, 2.0


def test_iteration_and_projected_gradient_find_slsqps_solution():
    solution = minimize(
        BALL.loss,
        np.zeros(3),
        jac=BALL.grad,
        method="SLSQP",
        constraints={"type": "ineq", "fun": BALL.g, "jac": BALL.jacobian},
        options={"ftol": 1e-14},
    ).x
    for start in ([0, 0, 0], [3, -2, 2]):
        w, v = iterate(BALL, start, 150, LR, ALPHA)
        assert w.shape == v.shape == (151, 3)
        assert w[1] == pytest.approx(w[0] + LR * v[0])
        assert w[-1] == pytest.approx(solution, abs=1e-6)
        assert projected_gradient(BALL, start, 150, LR)[-1] == pytest.approx(solution, abs=1e-6)


def test_projection_on_the_ball_is_a_rescaling():
    for point in np.random.default_rng(2).normal(size=(20, 3)) * 2:
        assert project(BALL, point) == pytest.approx(point / max(1, np.linalg.norm(point)), abs=1e-6)


def test_violation_of_a_linear_constraint_contracts_by_one_minus_lr_alpha():
    line = Problem(lambda w: -w[0], lambda w: np.array([-1.0]), lambda w: 1 - w, lambda w: np.array([[-1.0]]))
    w, _ = iterate(line, [3.0], 12, LR, ALPHA)
    assert w[:, 0] - 1 == pytest.approx(2 * (1 - LR * ALPHA) ** np.arange(13))


def test_too_large_a_push_never_settles():
    line = Problem(lambda w: -w[0], lambda w: np.array([-1.0]), lambda w: 1 - w, lambda w: np.array([[-1.0]]))
    w, _ = iterate(line, [0.0], 400, LR, 1.5 / LR)
    assert np.abs(w[-50:, 0] - 1).max() > LR / 4
    w, _ = iterate(line, [0.0], 400, LR, 1.5 / LR, tolerance=math.inf)  # (18) as printed
    assert np.abs(w[-50:, 0] - 1).max() < 1e-12


@pytest.mark.parametrize("alpha", [0.3, 2.0, 6.0])
def test_linear_rate_is_the_spectral_radius_of_the_iteration_at_the_solution(alpha):
    solution = iterate(BALL, [0, 0, 0], 400, LR, ALPHA)[0][-1]
    solution = solution / np.linalg.norm(solution) * (1 + 1e-9)  # on the piece where the constraint is in I(w)
    multiplier = admissible_velocity(BALL.grad(solution), BALL.g(solution), BALL.jacobian(solution), alpha)[1][0]

    def step(w):
        n = BALL.jacobian(w)[0]  # active on both sides of the sphere
        return w + LR * (-BALL.grad(w) + n * (n @ BALL.grad(w) - alpha * BALL.g(w)[0]) / (n @ n))

    jacobian = approx_fprime(solution, step, 1e-6)
    radius = np.abs(np.linalg.eigvals(jacobian)).max()
    predicted = linear_rate(HESSIAN + 2 * multiplier * np.eye(3), BALL.jacobian(solution)[:1], alpha, LR)
    assert predicted == pytest.approx(radius, abs=1e-4)
