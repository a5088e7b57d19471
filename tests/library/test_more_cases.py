"""More of what people do with an optimizer: other devices and precisions, groups and states that are assigned, odd weights."""

import copy
from collections import defaultdict

import pytest
import torch
from torch import nn

from helpers import METHODS
from quantized_training import (
    ASkew,
    BinaryConnect,
    Levels,
    QuantizedOptimizer,
    StraightThrough,
    export,
    finish,
    groups,
    packing,
    scale_layers,
)

B, T = Levels.binary(), Levels.ternary()


def sgd(params, **settings):
    return torch.optim.SGD(params, **({"lr": 0.1} | settings))


def made(name, base=sgd, dtype=torch.float32):
    torch.manual_seed(0)
    model = nn.Linear(5, 3).to(dtype)
    return model, QuantizedOptimizer(base(model.parameters()), METHODS[name]())


def stepped(model, optimizer, steps=2, seed=0):
    rng = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=rng).to(p.dtype)
        optimizer.step()
    return weights(model)


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def same(a, b):
    return all(map(torch.equal, a, b))


@pytest.mark.parametrize("name", METHODS)
def test_what_begins_in_inference_mode_goes_on_outside(name):
    (a, one), (b, two) = made(name), made(name)
    assert same(stepped(a, one), stepped(b, two))
    with torch.inference_mode():
        one.load_state_dict(copy.deepcopy(two.state_dict()))
        stepped(a, one, 1, seed=1)
        finished = finish(a, one)
    stepped(b, two, 1, seed=1)
    assert same(stepped(a, one, seed=2), stepped(b, two, seed=2))
    finished.requires_grad_(True)
    with torch.inference_mode():
        one.adopt()
        one.switch(BinaryConnect(B))
    stepped(a, one)


@pytest.mark.parametrize("name", METHODS)
def test_another_default_device_than_that_of_the_weights(name, tmp_path):
    """The device meta stands for one: a tensor that is made there without need cannot be read."""
    (a, one), (b, two) = made(name), made(name)
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
    with torch.device("meta"):
        one.step()
        one.load_state_dict(one.state_dict())
        export(finished := finish(a, one), tmp_path / "model.qt")
        again = packing.load(tmp_path / "model.qt")
        scale_layers(nn.Linear(4, 2, device="cpu"), T, per="channel", learned=True)
    two.step()
    assert same(weights(a), weights(b)) and same(again.values(), finished.state_dict().values())


@pytest.mark.parametrize("base", [torch.optim.Adam, lambda p: sgd(p, momentum=0.9)])
@pytest.mark.parametrize("name", METHODS)
def test_a_state_and_a_model_of_another_precision(name, base):
    """A checkpoint of double precision goes on in single, and weights that were of half precision in single."""
    (a, one), (b, two) = made(name, base, torch.float64), made(name, base)
    stepped(a, one)
    b.load_state_dict(a.state_dict())
    two.load_state_dict(one.state_dict())
    stepped(b, two)
    assert two.state[b.weight].get("latent", b.weight).dtype == torch.float32
    model, optimizer = made(name, dtype=torch.bfloat16)
    stepped(model, optimizer)
    latent = optimizer.state[model.weight]["latent"].clone()
    model.float()
    model.zero_grad()
    with optimizer.latent():
        assert torch.equal(model.weight, latent)
    stepped(model, optimizer)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    stepped(model, optimizer)


@pytest.mark.parametrize("name", METHODS)
def test_groups_may_be_assigned(name):
    model, optimizer = made(name)
    optimizer.param_groups = [optimizer.param_groups[0] | {"params": [model.weight]}]
    before, bias = weights(model)
    stepped(model, optimizer)
    assert torch.equal(model.bias, bias) and len(optimizer.base.param_groups[0]["params"]) == 1
    optimizer.base.add_param_group({"params": [model.bias], "levels": B})
    assert optimizer.state_dict()["param_groups"][1]["quantize"] is True
    assert optimizer.base.state_dict()["param_groups"][1]["levels"] == B.values


@pytest.mark.parametrize("name", METHODS)
def test_a_state_that_was_cleared_is_noticed_where_latent_weights_were_in_it(name):
    model, optimizer = made(name)
    before = stepped(model, optimizer)
    optimizer.state = defaultdict(dict)
    if not optimizer.method.forward_is_latent:
        with pytest.raises(RuntimeError, match=r"latent weights of parameter 0 .* cleared: adopt\(\)"):
            stepped(model, optimizer)
        assert same(before, weights(model))
        optimizer.adopt()
    stepped(model, optimizer)
    stepped(model, copy.deepcopy(optimizer))


def test_a_base_has_one_wrapper_and_a_refused_constructor_leaves_no_trace():
    model = nn.Linear(5, 3)
    base = sgd(model.parameters())
    keys = set(base.param_groups[0])
    with pytest.raises(ValueError, match="alpha"):
        QuantizedOptimizer(base, ASkew(B, alpha=100.0))
    assert set(base.param_groups[0]) == keys
    assert QuantizedOptimizer(base, StraightThrough(T)).param_groups[0]["levels"] == T
    with pytest.raises(ValueError, match="switch"):
        QuantizedOptimizer(base, StraightThrough(B))


def test_a_plain_optimizer_s_state_in_the_base_leaves_levels_and_what_is_quantised():
    model = nn.Linear(5, 3)
    state = sgd([{"params": [model.weight]}, {"params": [model.bias]}], lr=0.5).state_dict()
    optimizer = QuantizedOptimizer(sgd(groups(model, levels=T)), StraightThrough(B))
    optimizer.base.load_state_dict(state)
    found = [(g["lr"], g["quantize"], g["levels"]) for g in optimizer.param_groups]
    assert found == [(0.5, True, T), (0.5, False, B)]


@pytest.mark.parametrize("name", METHODS)
def test_weights_that_cannot_be_written_to_are_refused_before_anything_changes(name):
    good = nn.Parameter(torch.tensor([0.3, -0.4]))
    with torch.inference_mode():
        foreign = nn.Parameter(torch.ones(2))
    for bad in (nn.Parameter(torch.ones(1).expand(3)), foreign, nn.Parameter(torch.ones(2).to(torch.float8_e4m3fn))):
        with pytest.raises(TypeError, match="parameter 1 of group 0 .*weights"):
            QuantizedOptimizer(sgd([good, bad]), METHODS[name]())
        assert torch.equal(good, torch.tensor([0.3, -0.4]))


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name]().elementwise])
def test_a_write_through_data_is_shown_rounded(name):
    """As averages are copied in for an evaluation; between steps it is lost, as the docstring says."""
    model, optimizer = made(name)
    stepped(model, optimizer)
    model.weight.data.copy_(torch.full((3, 5), 0.75))
    with optimizer.quantized():
        assert model.weight.eq(1).all()
    nn.utils.vector_to_parameters(torch.full((18,), -0.75), model.parameters())
    assert finish(model, optimizer).weight.eq(-1).all()


def test_a_row_of_zeros_needs_levels_with_zero_that_are_known():
    model = nn.Sequential(nn.Embedding(5, 3, padding_idx=0), nn.Linear(3, 2))
    for levels in (None, B):
        with pytest.raises(ValueError, match=r"padding_idx=0\) is on none of"):
            groups(model, levels=levels, embeddings=True)
    groups(model, levels=T, embeddings=True)
    scale_layers(model, T, embeddings=True)
    groups(model)  # its scale was made for levels with a zero


class Holder(nn.Module):
    """A model that holds its optimizer, and a state that is no tensor."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.optimizer = QuantizedOptimizer(sgd(groups(self)), StraightThrough(B))

    def get_extra_state(self):
        return {"epoch": 1}

    def set_extra_state(self, state):
        pass


def test_a_model_that_holds_its_optimizer_is_finished_without_it(tmp_path):
    model = Holder()
    finished = finish(model, model.optimizer)
    assert finished.optimizer is None and finished.layer.weight.abs().eq(1).all()
    with pytest.raises(ValueError, match="_extra_state .*no tensor"):
        export(finished, tmp_path / "model.qt")
    assert not [*tmp_path.iterdir()]
