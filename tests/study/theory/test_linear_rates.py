"""Chapter 03: the instances of the measured rates are solved, and the rate is the predicted one."""

import numpy as np
import pytest

from study.theory.linear_rates import SETS, instance


@pytest.mark.parametrize("kind", SETS)
def test_instances_come_with_their_kkt_point(kind):
    solved = instance(kind, 10, 0)
    problem, w, lam = solved.problem, solved.solution, solved.multipliers
    g = problem.g(w)
    assert np.abs(problem.grad(w) - problem.jacobian(w).T @ lam).max() < 1e-7
    assert g.min() > -1e-8 and lam.min() >= 0 and np.abs(lam * g).max() < 1e-8
    assert len(g) == SETS[kind][0] + SETS[kind][1] and len(solved.active) == (lam > 1e-8).sum() >= 1


@pytest.mark.parametrize("kind", SETS)
def test_the_hessian_is_the_lagrangians(kind):
    solved = instance(kind, 10, 0)
    w, step = solved.solution, 1e-5 * np.eye(6)

    def gradient(w):
        return solved.problem.grad(w) - solved.problem.jacobian(w).T @ solved.multipliers

    differences = [(gradient(w + h) - gradient(w - h)) / 2e-5 for h in step]
    assert np.abs(np.array(differences) - solved.hessian).max() < 1e-6


def test_the_measured_rate_is_the_predicted_one():
    solved = instance("ball and half-space", 2, 1)
    assert solved.measured(0.1) == pytest.approx(solved.predicted(0.1), abs=0.002)
