"""Methods of others: their equations by an independent way, their levels, that runs resume, and what equals what."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from quantized_training import Levels, QuantizedOptimizer, layers
from quantized_training.methods import BinaryConnect, KBitStraightThrough
from study.vision import rivals, training, tuned
from study.vision.rivals import LSQ, BayesBiNN, FrozenProxQuant, TorchAO

BINARY, TWO = Levels.binary(), Levels.integers(2)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 3))


def start(levels: Levels = BINARY) -> tuned.Start:
    return tuned.Start(levels, 6, 30, 100, 0)


def optimizer(method, model: nn.Module, lr: float = 0.1):
    made = rivals.one_each(layers.groups(model, levels=method.levels))
    for group in made:
        group["weight_decay"] = 0.0
    return getattr(method, "optimizer", QuantizedOptimizer)(torch.optim.SGD(made, lr=lr, momentum=0.9), method)


def train(made, model: nn.Module, steps: int, first: int = 0) -> None:
    for k in range(first, first + steps):
        x = torch.randn(20, 6, generator=torch.Generator().manual_seed(k))
        made.zero_grad()
        nn.functional.cross_entropy(model(x), x[:, :3].argmax(1)).backward()
        made.step()
        if k % 5 == 4:
            made.method.anneal()


RIVALS = [
    (name, setting, levels)
    for name, kind in tuned.METHODS.items()
    for setting in kind.settings[::5]
    for levels in (BINARY, TWO)
    if len(levels.values) == 2 or 2 in kind.bits
]


@pytest.mark.parametrize("name, setting, levels", RIVALS)
def test_every_method_is_rounded_to_as_many_levels_and_restored(name, setting, levels):
    model = network()
    constants = {k: v for k, v in setting.constants if k != "weight_decay"}
    made = optimizer(tuned.METHODS[name].make(start(levels), **constants), model)
    train(made, model, 10)
    before = [p.detach().clone() for p in model.parameters()]
    with made.quantized():
        for group in made.param_groups:
            for p in group["params"] if group["quantize"] else []:
                assert len(p.unique()) <= len(levels.values)
                assert set(p.unique().tolist()) <= set(p.new_tensor(group["levels"].values).tolist())
    with made.latent():
        assert len(model[0].weight.unique()) > 8 or name in ("ProxQuant, own schedule", "BayesBiNN")
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("name", list(tuned.METHODS))
def test_an_interrupted_run_is_a_whole_one(name):
    setting = tuned.METHODS[name].settings[0]
    constants = {k: v for k, v in setting.constants if k != "weight_decay"}

    def made(model):
        return optimizer(tuned.METHODS[name].make(start(), **constants), model)

    whole, cut, again = network(), network(), network()
    one = made(whole)
    train(one, whole, 25)
    two = made(cut)
    train(two, cut, 10)
    three = made(again)
    run = [training.Run(m, o, [], torch.Generator(), torch.device("cpu")) for m, o in ((cut, two), (again, three))]
    run[1].restore(run[0].state())
    train(three, again, 15, first=10)
    with one.latent(), three.latent():
        for a, b in zip(whole.parameters(), again.parameters(), strict=True):
            assert torch.equal(a, b)
    with one.quantized(), three.quantized():
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_on_the_levels_of_the_grid_kbit_straight_through_is_deterministic_binaryconnect(bits):
    method = KBitStraightThrough(bits)
    found = []
    for rule in (method, BinaryConnect(method.levels, stochastic=False)):
        model = network()
        train(optimizer(rule, model, 0.5), model, 20)
        found.append(model)
    for a, b in zip(*(m.parameters() for m in found), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_lsq_has_the_gradients_of_its_paper():
    """By autograd through clip and rounding, the rounding's derivative taken as 1 (integers, Q = 1 and 7)."""
    for levels in (TWO, Levels.integers(4)):
        torch.manual_seed(1)
        w, s = (3 * torch.randn(50, dtype=torch.float64)).requires_grad_(), torch.tensor(0.7, dtype=torch.float64)
        s.requires_grad_()
        low, high = levels.hull
        u = torch.clamp(w / s, low, high)
        rounded = u + (levels.nearest(u) - u).detach()
        grad = torch.randn(50, dtype=torch.float64)
        (rounded * s * grad).sum().backward()
        mine = LSQ(levels).slopes(grad, w.detach(), s.detach())
        torch.testing.assert_close(mine[0], w.grad)
        torch.testing.assert_close(mine[1], s.grad / math.sqrt(50 * high))


def test_lsq_learns_its_steps():
    model = network()
    made = optimizer(LSQ(BINARY, 1.0), model)
    train(made, model, 20)
    with made.quantized():
        sizes = [float(g["params"][0].detach().abs().unique()) for g in made.param_groups if g["quantize"]]
    assert len(set(sizes)) == 2 and 1.0 not in sizes


def test_proxquant_moves_by_the_epoch_and_then_stays():
    method = FrozenProxQuant(BINARY, 0.1, freeze=2)
    w, state = torch.tensor([-0.4, 0.2, 0.95]), {}
    torch.testing.assert_close(method.after_step(w, BINARY, state, lr=1e9), w)  # epoch 0: no pull, whatever the rate
    method.anneal()
    torch.testing.assert_close(method.after_step(w, BINARY, state, lr=1e9), torch.tensor([-0.5, 0.3, 1.0]))
    method.anneal()
    for moved in (w, -w):
        assert method.after_step(moved, BINARY, state, lr=1e9).tolist() == [-1, 1, 1]


def test_bayesbinn_has_the_gradient_of_the_relaxed_loss():
    """s g is N dL/dw / (d tanh(w) / dw) of a loss of the sample, with its noise held fixed."""
    method = BayesBiNN(BINARY, images=50, rate=0.3, temperature=0.7, seed=3)
    w, state = torch.randn(20, dtype=torch.float64), {}
    sample = method.forward_point(w, BINARY, state)
    noise = torch.atanh(sample) * 0.7 - w
    a = torch.randn(20, dtype=torch.float64)
    v = w.clone().requires_grad_()
    (torch.tanh((v + noise) / 0.7) ** 2 * a).sum().backward()
    expected = 0.3 * (50 * v.grad / (1 - w.tanh() ** 2) + w)
    found = method.descent(2 * a * sample, w, BINARY, state)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # the authors add 1e-10 to 1 - tanh^2


def test_bayesbinn_samples_the_signs_with_their_probability():
    method = BayesBiNN(BINARY, images=1, rate=1.0, temperature=1e-6)
    w = torch.full((20_000,), 0.4)
    share = (method.forward_point(w, BINARY, {}) > 0).double().mean()
    assert share == pytest.approx((1 + math.tanh(0.4)) / 2, abs=4 * 0.5 / math.sqrt(20_000))
    with pytest.raises(ValueError, match="-1 and 1 alone"):
        BayesBiNN(TWO, 1, 1.0, 1.0)


def test_the_chain_rule_multiplies_by_a_layers_scale():
    for plain, power in ((False, -1), (True, 1)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 2, bias=False))
        factor = layers.scale_layers(model, BINARY)["0"]
        if plain:
            rivals.chain_rule(model)
        x = torch.randn(3, 4)
        model(x).sum().backward()
        expected = x.sum(0).expand(2, 4) * factor**power
        torch.testing.assert_close(model[0].parametrizations.weight.original.grad, expected)


@pytest.mark.parametrize("name, kind", [("parq", {"steepness": 5.0}), ("binaryrelax", {})])
def test_torchao_takes_the_gradient_at_its_own_point_and_ends_on_levels(name, kind):
    """From the end of the annealing on the parameters are at -mean|w| and mean|w|, w the latent weights of a step ago."""
    model = network()
    made = optimizer(TorchAO(BINARY, name, 30, end=0.5, **kind), model)
    train(made, model, 5)
    assert len(model[0].weight.unique()) > 2
    train(made, model, 16, first=5)
    with made.latent():
        latent = model[0].weight.detach().clone()
    torch.testing.assert_close(model[0].weight, latent.abs().mean() * latent.sign())  # step 20 chose the levels anew


def test_torchao_raises_where_a_gradient_is_not_finite():
    model = network()
    made = optimizer(TorchAO(BINARY, "parq", 30), model)
    model(torch.full((1, 6), math.inf)).sum().backward()
    with pytest.raises(FloatingPointError):
        made.step()
