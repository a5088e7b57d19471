"""The two-weight losses: against the formula written out, their gradient by autograd, their level curves by their height."""

import pytest
import torch

from quantized_training.methods import FullPrecision
from quantized_training.schedules import Harmonic
from study.methods import BINARY
from study.theory.landscape import CORNERS, Landscape, landscape, random_landscapes
from study.theory.trajectory import trajectory


def test_loss_and_gradient_are_those_of_the_formula():
    loss, start = random_landscapes(20, 3)
    w = start.clone().requires_grad_()
    value = loss(w)
    for i in range(20):
        (a, b), (c, d) = loss.hessian[i].tolist()
        x, y = (start[i] - loss.target[i]).tolist()
        assert value[i].item() == pytest.approx((a * x * x + (b + c) * x * y + d * y * y) / 2)
        assert loss.best_corner()[i] == min(
            Landscape(loss.hessian[i], loss.target[i])(corner).item() for corner in CORNERS
        )
    value.sum().backward()
    torch.testing.assert_close(loss.gradient(start), w.grad)


def test_random_problems_are_convex_and_repeatable():
    loss, start = random_landscapes(2000, 5)
    assert (torch.linalg.eigvalsh(loss.hessian) > 0).all()
    diagonal = loss.hessian.diagonal(dim1=1, dim2=2)
    correlation = loss.hessian[:, 0, 1] / diagonal.prod(1).sqrt()
    assert 0.88 < correlation.abs().max() < 0.9
    assert 0.25 < diagonal.min() < 0.27 and 2.2 < diagonal.max() < 2.25
    for uniform in (loss.target, start):
        assert 0.99 < uniform.abs().max() < 1 and abs(uniform.mean()) < 0.05
    again, same = random_landscapes(2000, 5)
    assert torch.equal(again.hessian, loss.hessian) and torch.equal(same, start)


def test_level_curves_and_the_best_corner():
    loss = landscape()
    for height in (0.02, 1.5):
        torch.testing.assert_close(loss(loss.level_curve(height).T), torch.full((61,), height, dtype=torch.float64))
    assert [round(x, 3) for x in loss(CORNERS).tolist()] == [0.765, 0.365, 0.485, 3.285]
    assert loss.best_corner() == loss(CORNERS[1])


def test_a_recorded_run_takes_the_step_size_of_its_schedule():
    start = torch.tensor([1.0]).double()
    latent, used = trajectory(FullPrecision(BINARY), start, lambda w, k: 2 * w[0], 3, Harmonic(1.2))
    assert latent[:, 0].tolist() == pytest.approx([1, 1 - 2.4, 1 - 2.4 - 1.2, 1 - 2.4 - 1.2 - 0.8])
    assert torch.equal(latent, used)
