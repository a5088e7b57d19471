"""`optimizer.progress()`: shares and distances by hand, cheap, and of the latent weights."""

import copy
import math

import pytest
import torch
from torch import nn

from helpers import METHODS
from quantized_training import PHI, PSI, SGDA, ASkew, BinaryConnect, FullPrecision, Levels, QuantizedOptimizer

BINARY = Levels.binary()


def test_the_numbers_by_hand():
    uneven = Levels((-1, 0, 3))
    w, v = nn.Parameter(torch.tensor([-1.0, 0.25, 1.5, 4.5, -1.5])), nn.Parameter(torch.tensor([[0.5, -1.0, 1.0]]))
    base = torch.optim.SGD([{"params": [w], "levels": uneven}, {"params": [v]}], lr=0.5)
    optimizer = QuantizedOptimizer(base, ASkew(BINARY, PHI, epsilon=0.1))
    found = optimizer.progress()
    one, two = found.groups
    assert one.on_level == pytest.approx(1 / 5) and two.on_level == pytest.approx(2 / 3)
    # half gaps: 1/2 on the left, 3/2 on the right of 0, and of the outermost gap beyond the hull
    assert one.distance == pytest.approx((0 + 0.25 / 1.5 + 1 + 1 + 1) / 5) and two.distance == pytest.approx(0.5 / 3)
    assert math.isnan(found.changed) and found.weights == 8 and found.epsilon == 0.1
    infeasible = (PHI.value(w.detach(), uneven, 0.1) < 0).float().mean().item()
    assert one.infeasible == pytest.approx(infeasible) and two.infeasible == pytest.approx(1 / 3)
    assert found.on_level == pytest.approx(3 / 8) and found.infeasible == pytest.approx((5 * infeasible + 1) / 8)
    with torch.no_grad():
        w[1], v[0, 0] = 2.0, -0.5
    found = optimizer.progress()
    assert [g.changed for g in found.groups] == pytest.approx([1 / 5, 1 / 3]) and found.changed == pytest.approx(2 / 8)
    assert optimizer.progress().changed == 0
    assert (
        str(found).startswith("37.5 % on a level, ") and "25.00 % changed" in str(found) and "epsilon 0.1" in str(found)
    )


def test_a_weight_on_the_edge_is_feasible():
    """There ASkew rests; rounding errors must not make half of such weights infeasible."""
    for constraint in (PHI, PSI):
        epsilon = constraint.largest_epsilon(BINARY) / 3
        edges = [e for pair in constraint.feasible_intervals(BINARY, epsilon) for e in pair]
        w = nn.Parameter(torch.tensor(edges) * (1 + torch.linspace(-2e-7, 2e-7, 101))[:, None])
        optimizer = QuantizedOptimizer(torch.optim.SGD([w], lr=0.1), ASkew(BINARY, constraint, epsilon=epsilon))
        assert optimizer.progress().infeasible == 0
        with torch.no_grad():
            w.mul_(0).add_(0.5 * edges[2])
        assert optimizer.progress().infeasible == 1


@pytest.mark.parametrize("name", METHODS)
def test_it_is_of_the_latent_weights_and_changes_nothing(name):
    torch.manual_seed(0)
    w, method = nn.Parameter(2 * torch.randn(50, 7)), METHODS[name]()
    optimizer = QuantizedOptimizer(torch.optim.SGD([w], lr=0.1), method)
    w.grad = torch.randn(50, 7)
    optimizer.step()
    before, state = w.detach().clone(), copy.deepcopy(optimizer.state_dict())
    found = optimizer.progress()
    with optimizer.latent():
        latent = w.detach().clone()
    assert found.on_level == pytest.approx((latent == method.levels.nearest(latent)).float().mean().item())
    assert math.isnan(found.epsilon) == math.isnan(found.infeasible) == (method.constraint is None)
    assert torch.equal(w, before) and str(state) == str(optimizer.state_dict())
    optimizer.step()
    assert optimizer.progress().changed >= 0


def test_a_part_of_a_large_group_stands_for_it():
    torch.manual_seed(0)
    shapes = [(700, 1000), (64, 3, 3), (5,)]
    parameters = [nn.Parameter(torch.randn(s)) for s in shapes]
    optimizer = QuantizedOptimizer(torch.optim.SGD(parameters, lr=0.1), FullPrecision(BINARY))
    with torch.no_grad():  # columns that are all alike would deceive a stride
        parameters[0][:, ::2] = 1.0
    exact, part = optimizer.progress(most=10**9), optimizer.progress()
    assert exact.weights == part.weights == 700 * 1000 + 576 + 5
    assert math.isnan(part.changed)  # another part than before
    assert part.on_level == pytest.approx(exact.on_level, abs=2e-3)
    assert part.distance == pytest.approx(exact.distance, abs=5e-3)
    with torch.no_grad():
        parameters[0][:350].neg_()
    assert optimizer.progress().changed == pytest.approx(0.5 * 700000 / exact.weights, abs=3e-3)
    assert optimizer.progress().changed == 0


def test_a_large_group_costs_no_more_than_the_part_that_is_read():
    w = nn.Parameter(torch.randn(10**6))
    optimizer = QuantizedOptimizer(torch.optim.SGD([w], lr=0.1), SGDA(Levels.integers(4)))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as run:
        optimizer.progress()
    taken = max(e.self_cpu_memory_usage for e in run.events())
    assert 2**15 <= taken <= 16 * 2**15 + 4096 < 4 * 10**6  # no temporary of a million weights


def test_groups_that_are_not_quantised_and_views():
    w = nn.Parameter(torch.ones(3))
    base = torch.optim.SGD([{"params": [w], "quantize": False}], lr=0.1)
    found = QuantizedOptimizer(base, BinaryConnect(BINARY)).progress()
    assert found.weights == 0 and found.groups == ()
    optimizer = QuantizedOptimizer(torch.optim.SGD([nn.Parameter(torch.ones(3))], lr=0.1), BinaryConnect(BINARY))
    for view in ("quantized", "latent"):
        with getattr(optimizer, view)(), pytest.raises(RuntimeError, match=rf"progress\(\) inside .*{view}"):
            optimizer.progress()
