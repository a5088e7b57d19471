"""The admissible velocity (17) against a QP solver, closed forms, the dual of Lemma 3 and the coordinate-wise rule."""

import math

import numpy as np
import pytest
import quadprog
import torch
from scipy.optimize import approx_fprime, linprog, minimize, nnls

from quantized_training import PHI, PSI, Levels
from quantized_training.methods import skewed_velocity
from study.theory.muehlebach_jordan import (
    Problem,
    admissible_velocity,
    cut,
    dual_value,
    iterate,
    linear_rate,
    project,
    projected_gradient,
    quadratic,
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


def test_a_long_step_along_the_direction_of_mfcq_is_admissible():
    rng = np.random.default_rng(3)
    for _ in range(100):
        grad, g, jacobian, alpha = instance(rng)
        found = linprog(  # the direction u in the unit box that increases all constraints of I most
            np.append(np.zeros(len(grad)), -1),
            A_ub=np.column_stack([-jacobian[g <= 0], np.ones((g <= 0).sum())]),
            b_ub=np.zeros((g <= 0).sum()),
            bounds=[(-1, 1)] * len(grad) + [(None, 1)],
        ).x
        u, increase = found[:-1], found[-1]
        assert increase > 0  # MFCQ
        v = alpha * max(0, -g.min()) / increase * u
        assert (jacobian[g <= 0] @ v >= -alpha * g[g <= 0] - 1e-7 * (1 + np.abs(v).max())).all()
        assert np.isfinite(admissible_velocity(grad, g, jacobian, alpha)[0]).all()


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


def slsqp_on_the_ball() -> np.ndarray:
    constraint = {"type": "ineq", "fun": BALL.g, "jac": BALL.jacobian}
    found = minimize(
        BALL.loss, np.zeros(3), jac=BALL.grad, method="SLSQP", constraints=constraint, options={"ftol": 1e-15}
    )
    return found.x


def test_iteration_and_projected_gradient_find_slsqps_solution():
    solution = slsqp_on_the_ball()
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
    line = Problem(lambda w: (w[0] - 2) ** 2 / 2, lambda w: w - 2, lambda w: 1 - w, lambda w: np.array([[-1.0]]))
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


# --- cones and multipliers: Definition 3, Lemma 2, Theorem 5 -------------------------------------------------------------


def curved(rng, n=3, d=3):
    """Random quadratic constraints that are active at 0 and satisfy MFCQ there: g, its gradients at 0."""
    u, rows, bend = rng.normal(size=n), rng.normal(size=(d, n)), rng.normal(size=(d, n, n))
    rows *= np.sign(rows @ u)[:, None]
    return lambda w: rows @ w + np.einsum("i,dij,j->d", w, bend, w), rows


def test_cone_of_the_gradients_is_the_tangent_cone_where_mfcq_holds():
    rng, inside, outside = np.random.default_rng(4), 0, 0
    for _ in range(60):
        g, rows = curved(rng)
        for d in rng.normal(size=(20, 3)):
            margin = (rows @ d).min() / np.linalg.norm(d)
            if abs(margin) < 0.05:
                continue
            near = d + 0.02 * rng.uniform(-1, 1, size=(50, 3)) * abs(margin)
            reached = [any((g(t * x) >= 0).all() for x in near) for t in (1e-3, 1e-5, 1e-7)]
            assert reached[1:] == [margin > 0] * 2
            inside, outside = inside + (margin > 0), outside + (margin < 0)
    assert inside > 50 and outside > 50


def test_at_a_cusp_the_gradients_promise_too_much():
    rows, left = np.array([[0.0, 1.0], [0.0, -1.0]]), np.array([-1.0, 0.0])
    assert (rows @ left >= 0).all()  # in the cone (13)
    near = left + np.random.default_rng(5).uniform(-0.1, 0.1, size=(1000, 2))
    for t in (1e-1, 1e-3, 1e-6):
        assert not any(0 <= w[1] <= w[0] ** 3 for w in t * near)
    # w_1 is least at the tip, and yet no multipliers balance its gradient (1, 0)
    assert nnls(rows.T, np.array([1.0, 0.0]))[1] == pytest.approx(1)


def test_normal_cone_is_the_polar_of_the_tangent_cone():
    rng, members = np.random.default_rng(6), 0
    for _ in range(200):
        rows, x = curved(rng)[1], rng.normal(size=3)
        combination = nnls(-rows.T, x)[1] < 1e-9  # (14)
        steepest = linprog(-x, A_ub=-rows, b_ub=np.zeros(3), bounds=[(-1, 1)] * 3).fun  # - max x'v over (13)
        assert combination == (steepest > -1e-9)
        members += combination
    assert 10 < members < 190


def test_the_solver_ends_at_a_point_with_multipliers():
    solution = slsqp_on_the_ball()
    active = np.abs(BALL.g(solution)) < 1e-7
    assert active.tolist() == [True, False]
    lam, residual = nnls(BALL.jacobian(solution)[active].T, BALL.grad(solution))
    assert lam > 0.1 and residual < 1e-5  # (15), corrected
    v, multipliers = admissible_velocity(BALL.grad(solution), BALL.g(solution), BALL.jacobian(solution), 1, 1e-6)
    assert np.linalg.norm(v) < 1e-5 and multipliers == pytest.approx([lam[0], 0], abs=1e-5)


def test_multipliers_of_three_walls_in_a_corner_are_a_segment():
    rows, gradient = np.array([[1.0, 0], [0, 1], [1, 1]]), np.ones(2)
    for s in (0, 0.3, 1):
        assert rows.T @ [1 - s, 1 - s, s] == pytest.approx(gradient)
    for sign, expected in ((1, 1), (-1, -2)):  # the sum of the multipliers lies between 1 and 2
        found = linprog(sign * np.ones(3), A_eq=rows.T, b_eq=gradient, bounds=[(0, None)] * 3)
        assert found.fun == pytest.approx(expected)


# --- Theorem 1: a ball and a half-space, both active at the solution -----------------------------------------------------

CAP = Problem(
    lambda w: (w - TARGET) @ HESSIAN @ (w - TARGET) / 18,  # strongly convex with 1/9, smooth with 1
    lambda w: HESSIAN @ (w - TARGET) / 9,
    lambda w: np.array([1 - w @ w, 0.2 - w[0]]),
    lambda w: np.array([-2 * w, [-1, 0, 0]]),
)


@pytest.fixture(scope="module")
def cap():
    """Solution and multipliers on the circle w_1 = 0.2, by angle."""
    radius = math.sqrt(1 - 0.04)
    angle = minimize(
        lambda a: CAP.loss(np.array([0.2, radius * math.cos(a[0]), radius * math.sin(a[0])])), [-0.9], tol=1e-14
    ).x[0]
    solution = np.array([0.2, radius * math.cos(angle), radius * math.sin(angle)])
    lam, residual = nnls(CAP.jacobian(solution).T, CAP.grad(solution))
    assert (lam > 0.01).all() and residual < 1e-6
    return solution, lam


STARTS = 2 * np.random.default_rng(7).normal(size=(4, 3))


@pytest.mark.parametrize("alpha", [0.05, 0.5, 2.0])
def test_flow_stays_below_its_bound_and_the_inequality_for_e_holds(cap, alpha):
    solution, lam = cap
    mu, rate = 1 / 9, min(alpha, 1 / 9)

    def energy(w):
        return (w - solution) @ (w - solution) / 2 + (CAP.loss(w) - CAP.loss(solution)) / alpha

    for start in STARTS:
        bound = energy(start) + lam.sum() * max(0, -CAP.g(start).min()) / alpha
        flow, _ = iterate(CAP, start, 1500, 0.01, alpha)
        left = (1 + mu / alpha) * ((flow - solution) ** 2).sum(1) / 2
        assert (left <= 1.001 * bound * np.exp(-rate * 0.01 * np.arange(len(flow)))).all()
        lr = 2 / (alpha + 1)
        w, _ = iterate(CAP, start, 100, lr, alpha)
        for a, b in zip(w, w[1:], strict=False):
            drop = lr * (CAP.loss(a) - CAP.loss(solution)) + lr * mu / 2 * (a - solution) @ (a - solution)
            assert energy(b) <= energy(a) - drop + 1e-12
            violation = max(0, -CAP.g(a).min())
            assert (
                energy(a) - drop
                <= (1 - lr * rate) * energy(a) + lr * (1 - rate / alpha) * lam.sum() * violation + 1e-12
            )


@pytest.mark.parametrize("alpha", [0.2, 2.0])
def test_small_steps_find_the_walls_and_then_the_predicted_rate(cap, alpha):
    solution, lam = cap
    lr = 0.1
    predicted = linear_rate(HESSIAN / 9 + 2 * lam[0] * np.eye(3), CAP.jacobian(solution), alpha, lr)
    for start in STARTS:
        w, _ = iterate(CAP, start, 1500, lr, alpha, tolerance=1e-9)
        assert (CAP.g(w[-1]) <= 1e-9).all()
        far = np.linalg.norm(w - solution, axis=1)
        k = np.flatnonzero((far < 1e-4) & (far > 1e-6))
        assert math.exp(np.polyfit(k, np.log(far[k]), 1)[0]) == pytest.approx(predicted, rel=2e-3)


def test_a_polygon_is_cut_by_halfplanes():
    square = [(0, 0), (2, 0), (2, 2), (0, 2)]
    halfplanes = [(np.array([1.0, 1.0]), 1.0), (np.array([-1.0, 0.0]), -1.5)]
    x, y = cut(square, halfplanes).T
    area = abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2
    assert area == pytest.approx(4 - 1 / 2 - 1) and (x + y >= 1 - 1e-12).all() and (x <= 1.5 + 1e-12).all()
    assert cut(square, [(np.array([1.0, 0.0]), 3.0)]).shape == (0, 2)


def test_the_gradient_of_a_quadratic_is_that_of_its_loss():
    loss, gradient = quadratic([[1.0, 0.3], [0.3, 0.7]], [1, -1])
    w = np.array([0.2, 0.5])
    assert gradient(w) == pytest.approx(approx_fprime(w, loss), abs=1e-6)
    assert loss(np.array([[1.0, -1.0], w])).tolist() == pytest.approx([0, loss(w)])
