"""Silent mistakes of a first user: each is said once, names what to do, and is not said where nothing is wrong."""

import warnings

import pytest
import torch
from torch import nn

from quantized_training import (
    PHI,
    SGDA,
    ASkew,
    BinaryConnect,
    DebiasedBinaryConnect,
    Levels,
    ProxQuant,
    QuantizedOptimizer,
    StraightThrough,
    finish,
    groups,
    late_annealing,
    scale_layers,
)

BINARY, INTEGERS = Levels.binary(), Levels.integers(2)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def said(act) -> list[str]:
    """The user warnings of `act`, each text once; they point to this file."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        act()
    mine = [w for w in found if w.category is UserWarning]
    assert all(w.filename == __file__ for w in mine)
    return list(dict.fromkeys(str(w.message) for w in mine))


def trained(method, model=None, steps=1, **options):
    model = model or network()
    optimizer = QuantizedOptimizer(torch.optim.SGD(groups(model, **options), lr=0.1), method)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(6, 4)).square().sum().backward()
        optimizer.step()
    return model, optimizer


@pytest.mark.parametrize(
    "method",
    [
        ASkew(BINARY),
        ASkew(BINARY, PHI, merged=True, epsilon=late_annealing(PHI, BINARY, steps=5000)),
        ProxQuant(BINARY),
    ],
    ids=["default", "late", "ProxQuant"],
)
def test_a_schedule_that_never_moved_is_named_when_the_model_is_finished(method):
    model, optimizer = trained(method)
    (text,) = said(lambda: finish(model, optimizer))
    assert f"{type(method).__name__}'s schedule is still" in text and "was optimizer.method.anneal() called?" in text


def test_a_schedule_that_moved_or_does_not_exist_is_not_named():
    for method, calls in (
        (ASkew(BINARY), 1),
        (ASkew(BINARY, epsilon=0.5), 0),
        (SGDA(BINARY), 0),
        (StraightThrough(BINARY), 0),
    ):
        model, optimizer = trained(method)
        for _ in range(calls):
            optimizer.method.anneal()
        assert said(lambda m=model, o=optimizer: finish(m, o)) == []
    model, optimizer = trained(ASkew(BINARY), steps=0)  # nothing was trained
    assert said(lambda: finish(model, optimizer)) == []


def test_biases_and_normalisation_in_a_quantised_group_are_named():
    model = network()
    (text,) = said(lambda: QuantizedOptimizer(torch.optim.Adam(model.parameters()), BinaryConnect(BINARY)))
    assert "parameter 1 of group 0 of shape (8,) and 3 more of one dimension" in text and "layers.groups(model)" in text
    assert said(lambda: trained(BinaryConnect(BINARY))) == []
    alone = [nn.Parameter(torch.ones(3))]  # a problem whose weights are a vector
    assert said(lambda: QuantizedOptimizer(torch.optim.SGD(alone), BinaryConnect(BINARY))) == []


def test_a_first_step_without_any_gradient_is_named_once():
    optimizer = QuantizedOptimizer(torch.optim.SGD(groups(network()), lr=0.1), BinaryConnect(BINARY))
    assert said(optimizer.step) == ["step() found no gradient at any parameter: call loss.backward() before it"]
    assert said(optimizer.step) == []


def test_levels_other_than_those_of_the_scale_are_named():
    model = network()
    scale_layers(model, INTEGERS)
    (text,) = said(lambda: trained(BinaryConnect(BINARY), model))
    assert f"scaled for {INTEGERS}" in text and f"group with {BINARY}" in text
    for method, options in ((BinaryConnect(BINARY), {"levels": INTEGERS}), (BinaryConnect(INTEGERS), {})):
        other = network()
        scale_layers(other, INTEGERS)
        assert said(lambda m=method, o=other, k=options: trained(m, o, **k)) == []


def test_matrices_that_stay_real_are_named():
    model = nn.ModuleDict(
        {
            "attention": nn.MultiheadAttention(8, 2),
            "lstm": nn.LSTM(3, 4),
            "table": nn.Embedding(3, 4),
            "norm": nn.LayerNorm((2, 3)),
        }
    )
    (text,) = said(lambda: groups(model))
    assert text.split(":")[0] == "attention.in_proj_weight, lstm.weight_ih_l0, lstm.weight_hh_l0"
    real = {n for g in groups(model) if not g["quantize"] for n in g["names"]}
    assert {"attention.in_proj_weight", "lstm.weight_hh_l0", "table.weight", "norm.weight"} <= real
    assert said(lambda: groups(network())) == []


def test_errors_name_the_way_out():
    optimizer = trained(BinaryConnect(BINARY))[1]
    with pytest.raises(
        ValueError,
        match=r"method BinaryConnect, here runs StraightThrough: load it there, then switch\(StraightThrough",
    ):
        trained(StraightThrough(BINARY))[1].load_state_dict(optimizer.state_dict())
    with pytest.raises(ValueError, match=r"use BinaryConnect\(levels, stochastic=False\)"):
        DebiasedBinaryConnect(INTEGERS)
