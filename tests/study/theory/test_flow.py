"""The push alone in steps: against the closed form of chapter 4 and against its own limit of small steps."""

import torch

from quantized_training import PHI, PSI, Levels
from study.theory.convergence import Rule
from study.theory.flow import push_flow, walk

BINARY = Levels.binary()


def test_outside_the_hull_the_distance_of_phi_shrinks_by_one_factor_per_step():
    start = torch.tensor([2.25, -1.75], dtype=torch.float64)
    gammas = [0.5, 0.25, 1.5]
    path = walk(start, gammas, Rule(BINARY, 0.25, PHI, 0.8, float("inf")))
    expected = torch.cumprod(torch.tensor([1.0, *[1 - 0.8 * g for g in gammas]], dtype=torch.float64), 0)
    torch.testing.assert_close(path[:3].abs() - 1.25, expected[:3, None] * (start.abs() - 1.25))


def test_small_steps_follow_the_flow():
    start = torch.tensor([0.2, 2.0, -0.4], dtype=torch.float64)
    for constraint, epsilon in ((PHI, 0.25), (PSI, 0.0625)):
        path = walk(start, [1e-3] * 2000, Rule(BINARY, epsilon, constraint, 1.0, float("inf")))
        exact = push_flow(start, torch.tensor([2.0], dtype=torch.float64), BINARY, epsilon, 1.0, constraint)
        torch.testing.assert_close(path[-1], exact[0], atol=1e-2, rtol=0)
        assert (path[-1] - start).abs().min() > 0.1


def test_a_feasible_weight_follows_its_gradient():
    gradients = torch.tensor([[0.1], [-0.2]], dtype=torch.float64)
    path = walk(torch.ones(1, dtype=torch.float64), [1.0, 0.5], Rule(BINARY, 0.5), gradients)
    torch.testing.assert_close(path[:, 0], torch.tensor([1.0, 0.9, 1.0], dtype=torch.float64))
