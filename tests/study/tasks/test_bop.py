"""Bop against plain Python; units, resuming, and what it refuses."""

import copy
import math

import pytest
import torch

from helpers import tensor
from quantized_training import BinaryConnect, FullPrecision, Levels, QuantizedOptimizer, StraightThrough
from study.tasks.bop import Bop

SHAPES = ((4, 3), (5,), ())


def start():
    rng = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(s, generator=rng, dtype=torch.float64).sign()) for s in SHAPES]


def gradients(steps):
    """Now and then one of 0."""
    rng = torch.Generator().manual_seed(1)
    for _ in range(steps):
        yield [
            torch.randn(s, generator=rng, dtype=torch.float64) * (torch.rand(s, generator=rng) > 0.1) for s in SHAPES
        ]


def walk(optimizer, params, data):
    path = []
    for grads in data:
        for p, g in zip(params, grads, strict=True):
            p.grad = g.clone()
        optimizer.step()
        path.append(torch.cat([p.detach().reshape(-1) for p in params]))
    return torch.stack(path)


def test_bop_is_algorithm_2_weight_by_weight():
    rate, tau = 0.125, 0.25
    params = start()
    data = list(gradients(60))
    expected = []
    for i, p in enumerate(params):
        path = []
        for j, w in enumerate(p.detach().reshape(-1).tolist()):
            m, column = 0.0, []
            for grads in data:
                m = (1 - rate) * m + rate * grads[i].reshape(-1)[j].item()
                if abs(m) > tau and math.copysign(1, m) == math.copysign(1, w):
                    w = -w
                column.append(w)
            path.append(column)
        expected += path
    got = walk(Bop(params, lr=rate, threshold=tau), params, data)
    assert torch.equal(got, tensor(expected).T)
    flips = (got[1:] != got[:-1]).sum(0)
    assert 0 < (flips > 0).sum() < len(flips)


def test_bop_flips_above_its_threshold_only():
    p = torch.nn.Parameter(torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0]))
    p.grad = torch.tensor([0.5, 0.75, -0.75, -0.75, 0.75])
    Bop([p], lr=1.0, threshold=0.5).step()
    assert p.tolist() == [1.0, -1.0, 1.0, 1.0, -1.0]  # Algorithm 2: 0.5 is not above 0.5


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(lr=0.0), "lr=0.0: allowed is 0 < lr <= 1"),
        (dict(lr=1.5), "lr=1.5: allowed"),
        (dict(threshold=-1.0), "threshold=-1.0: allowed is 0 <= threshold < inf"),
        (dict(quantize=False), "quantize=False: Bop only flips signs"),
    ],
)
def test_bop_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        Bop([{"params": start(), **settings}])
    with pytest.raises(ValueError, match="a weight is 0"):
        Bop([torch.nn.Parameter(torch.tensor([1.0, 0.0]))])


def test_it_goes_on_from_its_state():
    data = list(gradients(20))
    whole = walk(Bop(params := start(), lr=0.2, threshold=0.01), params, data)
    first = Bop(params := start(), lr=0.2, threshold=0.01)
    walk(first, params, data[:10])
    second = Bop(params, lr=0.5)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert torch.equal(walk(second, params, data[10:]), whole[10:])


def test_sparse_gradients_are_refused():
    p = torch.nn.Parameter(torch.ones(6))
    p.grad = torch.ones(6).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        Bop([p]).step()
    assert torch.equal(p, torch.ones(6))


@pytest.mark.parametrize(
    "method", [FullPrecision, StraightThrough, lambda levels: BinaryConnect(levels, stochastic=False)]
)
def test_bop_under_quantized_optimizer(method):
    rng = torch.Generator().manual_seed(0)
    X = torch.randn(64, 8, generator=rng, dtype=torch.float64)
    truth = torch.randn(8, generator=rng, dtype=torch.float64).sign()
    initial, y = torch.rand(8, generator=rng, dtype=torch.float64) - 0.5, X @ truth
    w = torch.nn.Parameter(Levels.binary().nearest(initial))
    optimizer = QuantizedOptimizer(Bop([w], lr=0.1, threshold=0.05), method(Levels.binary()))
    assert not torch.equal(w, truth)
    for _ in range(200):
        optimizer.zero_grad()
        ((X @ w - y) ** 2).mean().backward()
        optimizer.step()
        assert set(w.tolist()) <= {-1.0, 1.0}
    assert torch.equal(w, truth)
