"""Scales: the best for given weights, per layer and per output channel, fixed and learned, on every kind of layer."""

import copy
import math

import pytest
import torch
from torch import nn

from helpers import METHODS
from quantized_training import (
    BinaryConnect,
    FullPrecision,
    Levels,
    QuantizedOptimizer,
    StraightThrough,
    finish,
    groups,
    scale_layers,
)
from quantized_training.layers import clip_grad_norm_
from quantized_training.scales import channel_scales, least_squares_scale, scale_of

BINARY, INTEGERS = Levels.binary(), Levels.integers(2)


@pytest.mark.parametrize("levels", [BINARY, Levels.ternary(), INTEGERS, Levels.integers(4), Levels((-1, 0.5, 2))])
def test_the_scale_of_each_channel_is_the_best_for_its_weights(levels):
    torch.manual_seed(0)
    w = torch.randn(5, 2, 3, 3).double() * torch.logspace(-2, 1, 5)[:, None, None, None]
    found = channel_scales(w, levels)
    for row, s in zip(w.flatten(1), found, strict=True):
        trials = torch.cat([s[None], torch.linspace(0.02, 4, 4000).double() * row.abs().max()])[:, None]
        errors = (row - trials * levels.nearest(row / trials)).square().sum(1)
        assert errors[0] <= errors.min() * (1 + 1e-9)
        assert s == pytest.approx(least_squares_scale(row, levels), rel=1e-9)


def step_size(w, s, levels):
    """LSQ as Esser et al. print it, (1)-(3): the quantised weights, with straight-through gradients in w and in s."""
    low, high = levels.hull
    inside = ((w / s > low) & (w / s < high)).double()
    q = (w / s).clamp(low, high).round()
    slope = torch.where(inside > 0, q - w / s, q)  # (3)
    return s * q, slope, inside


@pytest.mark.parametrize("per", ["layer", "channel"])
def test_the_gradient_of_a_learned_scale_in_closed_form(per):
    """With the gradient scale of LSQ; it is LSQ's own plus what moving s v with s brings, for the weights inside the hull."""
    torch.manual_seed(0)
    layer, levels = nn.Linear(6, 4, bias=False).double(), Levels.integers(4)
    w = layer.weight.detach().clone()
    scale_layers(layer, levels, per=per, learned=True)
    s = scale_of(layer).value.clone()
    optimizer = QuantizedOptimizer(torch.optim.SGD(groups(layer), lr=0.1), StraightThrough(levels))
    with torch.no_grad():  # some beyond the hull, in units of s
        v = (w / s * 1.5).clone()
    layer.parametrizations.weight.original.data.copy_(levels.nearest(v))
    g = torch.randn(4, 6).double()
    (layer.weight * g).sum().backward()
    over = w.numel() if per == "layer" else 6
    rate = 1 / math.sqrt(over * 7)
    add = (lambda t: t.sum()) if per == "layer" else (lambda t: t.sum(1, keepdim=True))
    found = scale_of(layer).factor.grad
    values, slope, inside = step_size(v * s, s, levels)
    torch.testing.assert_close(layer.weight.detach(), values)
    torch.testing.assert_close(found, rate * add(g * levels.nearest(v)))
    torch.testing.assert_close(found, rate * (add(g * slope) + add(g * inside * v)))
    torch.testing.assert_close(layer.parametrizations.weight.original.grad, g / s)
    assert 0 < inside.sum() < 24 and optimizer.param_groups[-1]["kind"] == "scales"
    assert not optimizer.param_groups[-1]["quantize"]


def test_the_gradient_is_that_of_finite_differences_but_for_its_rate():
    torch.manual_seed(0)
    layer, x = nn.Conv2d(2, 3, 3).double(), torch.randn(2, 2, 5, 5).double()
    scale_layers(layer, BINARY, per="channel", learned=True)
    scale = scale_of(layer)
    layer(x).square().sum().backward()
    for c in range(3):
        values = []
        for h in (1e-6, -1e-6):
            with torch.no_grad():
                scale.factor[c] += h
                values.append(layer(x).square().sum())
                scale.factor[c] -= h
        slope = (values[0] - values[1]) / 2e-6
        assert scale.factor.grad[c].item() == pytest.approx(slope.item() / math.sqrt(18), rel=1e-6)


def test_a_learned_scale_stays_positive():
    layer = nn.Linear(3, 2)
    scale_layers(layer, BINARY, learned=True)
    first = scale_of(layer).value
    with torch.no_grad():
        scale_of(layer).factor.fill_(-5.0)
    assert torch.equal(scale_of(layer).value, first / 1000)
    assert torch.equal(layer.weight, first / 1000 * layer.parametrizations.weight.original)


class Words(nn.Module):
    """One of each kind of layer."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.one, self.two = nn.Conv1d(8, 6, 3, padding=1), nn.Conv2d(1, 2, 3, padding=1)
        self.last = nn.Linear(12, 5)

    def forward(self, x):
        y = self.one(self.table(x).transpose(1, 2)).relu()
        return self.last(self.two(y[:, None]).relu().mean(3).flatten(1))


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("per", ["layer", "channel"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_every_kind_of_layer(name, per, learned):
    torch.manual_seed(0)
    model, method = Words(), METHODS[name]()
    x, y = torch.randint(0, 20, (32, 6)), torch.randint(0, 5, (32,))
    before = model(x)
    factors = scale_layers(model, method.levels, per=per, learned=learned, embeddings=True)
    assert set(factors) == {"one", "two", "last", "table"}
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)
    optimizer = QuantizedOptimizer(torch.optim.SGD(groups(model), lr=0.02, momentum=0.9), method)
    kinds = {g["kind"] for g in optimizer.param_groups if g["quantize"]}
    assert kinds == {"first layer", "3x3 convolutions", "last layer", "embeddings"}
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        losses.append(loss := nn.functional.cross_entropy(model(x), y))
        loss.backward()
        optimizer.step()
    assert sum(losses[-5:]) < sum(losses[:5])
    finished = finish(model, optimizer)
    for layer in ("table", "one", "two", "last"):
        levels, scale = finished.quantization[f"{layer}.weight"]
        w = finished.get_submodule(layer).weight
        assert scale.numel() == (len(w) if per == "channel" else 1)
        on = torch.tensor(levels.values) * scale[..., None]
        assert (w[..., None] == on).any(-1).all()
        first = torch.as_tensor(factors[layer]).float().view(scale.shape)
        assert learned != torch.allclose(scale, first)


def test_a_step_of_sgd_moves_the_weight_as_it_would_without_a_scale():
    torch.manual_seed(0)
    plain = nn.Conv2d(2, 3, 3).double()
    scaled = nn.Conv2d(2, 3, 3).double()
    scaled.load_state_dict(plain.state_dict())
    scale_layers(scaled, INTEGERS, per="channel")
    x = torch.randn(4, 2, 6, 6).double()
    for model in (plain, scaled):
        base = torch.optim.SGD(groups(model), lr=0.05, momentum=0.9, weight_decay=0.01)
        optimizer = QuantizedOptimizer(base, FullPrecision(INTEGERS))
        for _ in range(5):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(plain.weight, scaled.weight)


def two_layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)).double()


def test_a_step_of_adam_moves_the_weight_as_it_would_without_a_scale():
    """Kingma & Ba's equations, written out for w = s v with the rate of w, over three steps."""
    torch.manual_seed(1)
    lr, x, y = 3e-3, torch.randn(8, 5).double(), torch.randint(0, 3, (8,))
    model = two_layers()
    factors = scale_layers(model, BINARY)
    found = groups(model, levels=BINARY, lr=lr)
    optimizer = QuantizedOptimizer(torch.optim.Adam(found, eps=1e-15), FullPrecision(BINARY))
    layers = {name: model.get_submodule(name) for name in factors}
    w = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    m, v = ({name: torch.zeros_like(t) for name, t in w.items()} for _ in range(2))
    for t in (1, 2, 3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        for name, layer in layers.items():
            g = layer.parametrizations.weight.original.grad * factors[name]  # in w
            m[name], v[name] = 0.9 * m[name] + 0.1 * g, 0.999 * v[name] + 0.001 * g * g
            w[name] -= lr * (m[name] / (1 - 0.9**t)) / (v[name] / (1 - 0.999**t)).sqrt()
        optimizer.step()
        for name, layer in layers.items():
            torch.testing.assert_close(layer.weight.detach(), w[name], rtol=1e-9, atol=1e-9)


def test_groups_with_a_rate_leave_what_is_not_scaled_together():
    model = two_layers()
    scale_layers(model, Levels.ternary(), per="channel", learned=True)
    found = groups(model, levels=Levels.ternary(), lr=0.01)
    for g in found:
        layer = model.get_submodule(g["names"][0].split(".")[0])
        expected = 0.01 / scale_of(layer).value.mean().item() if g["quantize"] else 0.01
        assert g["lr"] == pytest.approx(expected) and (len(g["params"]) == 1 or not g["quantize"])
    plain = groups(two_layers(), lr=0.01)
    assert [(g["kind"], g["lr"]) for g in plain] == [(g["kind"], 0.01) for g in groups(two_layers())]
    assert not any("lr" in g for g in groups(model, levels=Levels.ternary()))


@pytest.mark.parametrize("per", ["layer", "channel"])
@pytest.mark.parametrize("most", [1e-3, 1.0, 1e6])
def test_clipping_is_that_of_the_same_network_without_scales(per, most):
    torch.manual_seed(1)
    x, y = torch.randn(8, 5).double(), torch.randint(0, 3, (8,))
    plain, model = two_layers(), two_layers()
    scale_layers(model, BINARY, per=per)
    for net in (plain, model):
        nn.functional.cross_entropy(net(x), y).backward()
    expected = nn.utils.clip_grad_norm_(plain.parameters(), most)
    torch.testing.assert_close(clip_grad_norm_(model, most), expected)
    for name, layer in model.named_modules():
        if (scale := scale_of(layer)) is not None:
            v, w = layer.parametrizations.weight.original, plain.get_submodule(name).weight
            torch.testing.assert_close(v.grad * scale.value, w.grad)
    torch.testing.assert_close(model[0].bias.grad, plain[0].bias.grad)
    again = two_layers()  # nothing is scaled: torch's own, bit for bit
    nn.functional.cross_entropy(again(x), y).backward()
    assert torch.equal(clip_grad_norm_(again, most), expected)
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(again.parameters(), plain.parameters(), strict=True))
    assert clip_grad_norm_(two_layers(), 1.0) == 0


def test_a_weight_that_layers_share_has_one_scale():
    model = nn.ModuleDict({"table": nn.Embedding(7, 4), "last": nn.Linear(4, 7, bias=False)})
    model["last"].weight = model["table"].weight
    w = model["table"].weight.detach().clone()
    factors = scale_layers(model, BINARY, per="channel")
    assert list(factors) == ["table"] and scale_of(model["table"]) is scale_of(model["last"])
    torch.testing.assert_close(model["last"].weight, w)
    assert len(list(model.parameters())) == 1 and [g["kind"] for g in groups(model)] == ["first layer"]


def test_a_scaled_embedding_is_quantised_without_being_asked_for_again():
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 2))
    assert "other parameters" in {g["kind"] for g in groups(model)}
    scale_layers(model, BINARY, embeddings=True)
    assert [g["quantize"] for g in groups(model) if g["kind"] == "embeddings"] == [True]


def test_what_cannot_be_scaled_is_named_and_nothing_is_changed():
    model = nn.Sequential(nn.Linear(4, 4), nn.Embedding(5, 4, padding_idx=0))
    before = model[0].weight.detach().clone()
    with pytest.raises(ValueError, match=r"row of zeros \(padding_idx=0\) is on none of"):
        scale_layers(model, BINARY, embeddings=True)
    scale_layers(nn.Sequential(nn.Linear(4, 4), nn.Embedding(5, 4, padding_idx=0)), INTEGERS, embeddings=True)
    for options in ({"sparse": True}, {"max_norm": 1.0}):
        with pytest.raises(ValueError, match="embedding with sparse=True or max_norm"):
            scale_layers(nn.Sequential(nn.Linear(4, 4), nn.Embedding(5, 4, **options)), BINARY, embeddings=True)
    with pytest.raises(ValueError, match="made of others"):
        scale_layers(nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))), BINARY)
    shared = nn.ModuleDict({"a": nn.Linear(4, 4), "norm": nn.Bilinear(1, 4, 4)})
    shared["norm"].extra = shared["a"].weight
    with pytest.raises(ValueError, match=r"a\.weight is also norm\.extra"):
        scale_layers(shared, BINARY)
    with pytest.raises(ValueError, match="per='row': allowed are"):
        scale_layers(model, BINARY, per="row")
    assert torch.equal(model[0].weight, before) and scale_of(model[0]) is None
    scale_layers(model, INTEGERS)
    with pytest.raises(ValueError, match="scaled already"):
        scale_layers(model, INTEGERS)


def test_scales_go_through_a_checkpoint():
    def made():
        torch.manual_seed(0)
        model = Words()
        scale_layers(model, BINARY, per="channel", learned=True, embeddings=True)
        base = torch.optim.SGD(groups(model), lr=0.02, momentum=0.9)
        return model, QuantizedOptimizer(base, BinaryConnect(BINARY, stochastic=False))

    def step(model, optimizer):
        optimizer.zero_grad()
        model(torch.arange(12).view(2, 6)).square().sum().backward()
        optimizer.step()

    (model, optimizer), (other, another) = made(), made()
    step(model, optimizer)
    other.load_state_dict(model.state_dict())
    another.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # torch's own loading shares momentum
    step(model, optimizer), step(other, another)
    assert all(torch.equal(t, other.state_dict()[key]) for key, t in model.state_dict().items())
