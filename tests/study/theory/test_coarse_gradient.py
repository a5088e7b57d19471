"""Chapter 02: the closed forms of the coarse gradients against simulation, and the training that uses them."""

import math

import pytest
import torch

from study.theory.coarse_gradient import ESTIMATORS, Teacher

TEACHER = Teacher(torch.tensor([1.0, -1.0, 1.0, 0.5], dtype=torch.float64), torch.eye(5, dtype=torch.float64)[0])


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("theta", [0.3, 1.5, 2.8])
def test_expectations_are_the_means_of_simulations(estimator, theta):
    v = torch.tensor([0.5, -0.2, 1.0, 0.1], dtype=torch.float64)
    w = 1.3 * TEACHER.at_angle(theta)
    z = torch.randn(40_000, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss, gradient = TEACHER.sampled(v, w, z, estimator)
    for values, expected in ((loss[:, None], TEACHER.loss(v, w)), (gradient, TEACHER.coarse_gradient(v, w, estimator))):
        assert ((values.mean(0) - expected).abs() < 4.5 * values.std(0) / math.sqrt(len(z))).all()


def test_best_v_is_a_minimum_and_the_angle_is_the_one_asked_for():
    for theta in (0.2, 1.6, 3.0):
        w = TEACHER.at_angle(theta)
        assert TEACHER.angle(w).item() == pytest.approx(theta)
        v = TEACHER.best_v(theta).requires_grad_()
        assert torch.autograd.grad(TEACHER.loss(v, w), v)[0].abs().max() < 1e-12
        assert abs((TEACHER.gradient(v.detach(), w) @ w).item()) < 1e-12  # the loss depends on the direction alone


def test_starts_lie_where_they_should():
    v, w = TEACHER.near(0.4, runs=6, seed=1, spread=0.0)
    torch.testing.assert_close(TEACHER.angle(w), torch.full((6,), 0.4, dtype=torch.float64), rtol=1e-5, atol=0)
    assert (v - TEACHER.best_v(0.4)).abs().max() < 1e-12
    assert TEACHER.anywhere(6, seed=1)[1].norm(dim=1).tolist() == pytest.approx([1.0] * 6)


def test_training_takes_the_mean_of_the_sampled_coarse_gradients_and_goes_down():
    v, w = TEACHER.near(0.4, runs=3, seed=1)
    _, moved = TEACHER.train(v, w, steps=0, batch=50, lr=0.1, every=1, seed=2)
    z = torch.randn(3, 50 * 4, 5, generator=torch.Generator().manual_seed(2)).double().view(3, 50, 4, 5)
    for e, name in enumerate(ESTIMATORS):
        for run in range(3):
            gradient = TEACHER.sampled(v[run].double(), w[run].double(), z[run], name)[1].mean(0)
            torch.testing.assert_close(moved[e, run], w[run] - 0.1 * gradient, rtol=1e-4, atol=1e-5)
    losses, _ = TEACHER.train(v, w, steps=100, batch=50, lr=0.1, every=50, seed=2)
    assert losses.shape == (3, 3, 3) and (losses[-1] < 0.2 * losses[0]).all()
