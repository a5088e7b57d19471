"""Networks of Task III: sizes, what they compute, which parameters are quantised, and the scale of the levels."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from quantized_training import (
    PSI,
    ASkew,
    BinaryConnect,
    FullPrecision,
    Levels,
    QuantizedOptimizer,
    StraightThrough,
    layers,
)
from quantized_training.layers import QUANTIZE, groups, least_squares_scale
from study.datasets import image_sets
from study.vision import networks
from study.vision.networks import resnet18, resnet20, summary

BINARY = Levels.binary()
NEVER = {"biases", "normalisation"}


def count(parameters) -> int:
    return sum(p.numel() for p in parameters)


def resnet18_shapes(width: int, classes: int) -> Iterator[tuple[int, ...]]:
    """The parameter shapes of the ResNet-18 for 32 x 32 images, written out: convolutions, normalisations, the last layer."""

    def convolution(out: int, into: int, size: int) -> Iterator[tuple[int, ...]]:
        yield from ((out, into, size, size), (out,), (out,))

    yield from convolution(width, 3, 3)
    into = width
    for stage in range(4):
        out = width * 2**stage
        for block in range(2):
            yield from convolution(out, into, 3)
            yield from convolution(out, out, 3)
            if stage and not block:
                yield from convolution(out, into, 1)
            into = out
    yield from ((classes, into), (classes,))


def test_resnet18_has_the_shapes_of_the_paper():
    for width, classes in ((64, 10), (8, 3)):
        model = resnet18(classes, width=width)
        shapes = sorted(tuple(p.shape) for p in model.parameters())
        assert shapes == sorted(resnet18_shapes(width, classes))
    sizes = [torch.Size(s) for s in resnet18_shapes(64, 10)]
    assert count(resnet18().parameters()) == sum(s.numel() for s in sizes) == 11_173_962 and len(sizes) == 62
    assert sum(s.numel() for s in sizes if len(s) == 4 and s[2] == 3) == 10_987_200  # 3 x 3, the first too


def test_resnet20_has_the_published_size():
    stages = [6 * 16 * 16 * 9, 16 * 32 * 9 + 5 * 32 * 32 * 9, 32 * 64 * 9 + 5 * 64 * 64 * 9]
    by_hand = 3 * 16 * 9 + sum(stages) + 2 * (7 * 16 + 6 * 32 + 6 * 64) + 64 * 10 + 10
    assert count(resnet20().parameters()) == by_hand == 269_722
    assert count(resnet20(shortcut="projection").parameters()) == by_hand + 16 * 32 + 32 * 64 + 2 * (32 + 64) == 272_474
    assert count(resnet20(100, channels=1).parameters()) == by_hand + 90 * 65 - 2 * 16 * 9


@pytest.mark.parametrize("make", [resnet18, resnet20])
def test_shapes(make):
    model = make(classes=7, channels=2, width=4).eval()
    for size in (8, 28, 32):
        assert model(torch.rand(3, 2, size, size)).shape == (3, 7)
    seen = []
    hooks = [stage.register_forward_hook(lambda _, __, y: seen.append(tuple(y.shape[1:]))) for stage in model.stages]
    model(torch.rand(1, 2, 32, 32))
    assert seen == [(4 * 2**i, 32 // 2**i, 32 // 2**i) for i in range(len(hooks))]


def test_block_is_the_written_out_formula():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 6)
    for shortcut in networks.SHORTCUTS:
        block = networks.Block(3, 5, 2, shortcut).eval()
        with torch.no_grad():
            for p in block.parameters():
                p.uniform_(-1, 1)
        y = block.conv2(
            torch.relu(
                block.conv1(x) / math.sqrt(1 + 1e-5) * block.bn1.weight.view(-1, 1, 1) + block.bn1.bias.view(-1, 1, 1)
            )
        )
        y = y / math.sqrt(1 + 1e-5) * block.bn2.weight.view(-1, 1, 1) + block.bn2.bias.view(-1, 1, 1)
        if shortcut == "identity":
            carried = torch.zeros(2, 5, 3, 3)
            carried[:, :3] = x[:, :, ::2, ::2]
        else:
            carried = block.shortcut(x)
        torch.testing.assert_close(block(x), torch.relu(y + carried))


def test_a_common_factor_of_a_convolution_changes_nothing():
    """What the module says of the scale of levels: true of every convolution, not of the last layer."""
    torch.manual_seed(0)
    model, x = resnet20(width=4).double(), torch.rand(8, 3, 8, 8).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-20
    before = model(x)
    with torch.no_grad():
        for i, module in enumerate(m for m in model.modules() if isinstance(m, nn.Conv2d)):
            module.weight *= 0.5 + i
    torch.testing.assert_close(model(x), before)
    with torch.no_grad():
        model.linear.weight *= 2
    assert not torch.allclose(model(x), before)


def test_convolutions_start_with_the_variance_they_say():
    torch.manual_seed(0)
    for module in resnet18(width=32).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            inputs = module.weight[0].numel()
            assert module.weight.var().item() * inputs == pytest.approx(2, rel=0.1)


def test_bad_sizes_are_named():
    for arguments in (dict(width=0), dict(classes=2.0), dict(channels=-1)):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            resnet20(**arguments)
    with pytest.raises(ValueError, match="'projection', 'identity'"):
        resnet20(shortcut="none")


# Groups


@pytest.mark.parametrize("make", [resnet18, resnet20])
@pytest.mark.parametrize("quantise", QUANTIZE)
def test_groups_hold_every_parameter_once(make, quantise):
    model = make(width=4)
    made = groups(model, quantise)
    names = [n for g in made for n in g["names"]]
    assert sorted(names) == sorted(n for n, _ in model.named_parameters())
    parameters = dict(model.named_parameters())
    for g in made:
        assert [id(p) for p in g["params"]] == [id(parameters[n]) for n in g["names"]]


def test_what_is_quantised():
    model = resnet18()
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    expected = {
        "all": {f"{n}.weight" for n in layers},
        "all but first and last": {f"{n}.weight" for n in layers[1:-1]},
        "3x3 only": {f"{n}.weight" for n in layers[1:-1] if ".conv" in n},
    }
    numbers = {"all": 11_164_352, "all but first and last": 11_157_504, "3x3 only": 10_985_472}
    assert layers[0] == "conv1" and layers[-1] == "linear"
    for quantise in QUANTIZE:
        made = [g for g in groups(model, quantise) if g["quantize"]]
        assert {n for g in made for n in g["names"]} == expected[quantise]
        assert count(p for g in made for p in g["params"]) == numbers[quantise]
        assert not NEVER & {g["kind"] for g in made}


def test_the_two_choices_that_are_the_same_without_projections():
    def quantised(shortcut, quantise):
        made = groups(resnet20(width=4, shortcut=shortcut), quantise)
        return {n for g in made if g["quantize"] for n in g["names"]}

    assert quantised("identity", "3x3 only") == quantised("identity", "all but first and last")
    assert quantised("projection", "3x3 only") < quantised("projection", "all but first and last")


@pytest.mark.parametrize("scaled", [False, True])
def test_groups_work_in_the_optimizer(scaled):
    torch.manual_seed(0)
    data = image_sets.load().subset(100, 50)
    model = resnet20(channels=1, width=4)
    made = groups(model, "all but first and last", Levels.integers(2), scaled)
    optimizer = QuantizedOptimizer(torch.optim.SGD(made, lr=0.05), StraightThrough(Levels.binary()))
    x = ((data.train_x.float() / 255 - data.mean.view(-1, 1, 1)) / data.std.view(-1, 1, 1)).contiguous()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), data.train_y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    if scaled:
        assert losses[-1] < 0.7 * losses[0]
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    trained = {n: p.detach().clone() for n, p in model.named_parameters()}
    with optimizer.quantized():
        for group in made:
            for name, p in zip(group["names"], group["params"], strict=True):
                if group["quantize"]:
                    assert torch.isin(p, group["levels"].tensor(p)).all()
                else:
                    torch.testing.assert_close(p, trained[name], rtol=0, atol=0)
    rounded = torch.cat([p.detach().flatten() for g in made if g["quantize"] for p in g["params"]])
    if scaled:
        assert changed == set(before) and (rounded == 0).float().mean() < 0.5
    else:  # weights that start small are rounded to the level 0
        assert (rounded == 0).float().mean() > 0.95
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)


def test_bad_choices_are_named():
    with pytest.raises(ValueError, match="'all', 'all but first and last', '3x3 only'"):
        groups(resnet20(width=2), "most")
    with pytest.raises(ValueError, match="scaled=True needs levels"):
        groups(resnet20(width=2), scaled=True)
    perceptron = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(ValueError, match="leaves nothing to quantise; the model has biases, first layer, last layer"):
        groups(perceptron, "3x3 only")
    with pytest.raises(ValueError, match="no linear layer and no convolution"):
        groups(nn.ReLU())


def test_summary_adds_up():
    model = resnet18()
    rows = summary(groups(model, "3x3 only", BINARY))
    assert [r[0] for r in rows] == [
        "first layer",
        "1x1 convolutions",
        "3x3 convolutions",
        "last layer",
        "biases",
        "normalisation",
        "all",
    ]
    assert all(len(r) == len(networks.HEADER) for r in rows)
    numbers = [int(r[2].replace(",", "")) for r in rows]
    assert sum(numbers[:-1]) == numbers[-1] == count(model.parameters())
    assert sum(int(r[1]) for r in rows[:-1]) == int(rows[-1][1]) == len(list(model.parameters()))
    assert rows[2] == ("3x3 convolutions", "16", "10,985,472", "98.31%", "yes", "-1, 1")
    assert rows[-1][4] == "98.31%" and {r[4] for r in rows[:-1]} == {"yes", "no"}
    assert summary(groups(model))[0][5] == "the method's"


# Scale


def squared_error(w: np.ndarray, levels: Levels, s: float) -> float:
    return float((np.abs(w[:, None] - s * np.array(levels.values)).min(1) ** 2).sum())


def test_scale_of_binary_levels_is_the_mean_size():
    w = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert least_squares_scale(w, BINARY) == pytest.approx(w.double().abs().mean().item(), rel=1e-12)


@pytest.mark.parametrize(
    "levels", [Levels.ternary(), Levels.integers(2), Levels.integers(4), Levels((-1.0, 0.5, 3.0))], ids=str
)
@pytest.mark.parametrize("seed", range(3))
def test_scale_is_the_best_of_all(levels, seed):
    rng = np.random.default_rng(seed)
    w = rng.standard_normal(200) * 10.0 ** rng.integers(-3, 2) + (seed == 2) * 0.01
    s = least_squares_scale(torch.tensor(w), levels)
    best = squared_error(w, levels, s)
    tried = np.abs(w).max() / max(map(abs, levels.hull)) * np.geomspace(1e-3, 9, 20_000)
    assert best <= min(squared_error(w, levels, t) for t in tried[::4]) * (1 + 1e-9)


def test_scale_of_normal_weights_is_max_and_lloyds():
    """Three levels: the printed optimum of Max (1960) for a normal variable, level 1.2240; two levels: sqrt(2 / pi)."""
    w = torch.tensor(norm.ppf((np.arange(400_000) + 0.5) / 400_000))
    assert least_squares_scale(w, Levels.ternary()) == pytest.approx(1.2240, abs=5e-4)
    assert least_squares_scale(w, BINARY) == pytest.approx(math.sqrt(2 / math.pi), abs=1e-4)
    assert least_squares_scale(0.03 * w, Levels.integers(4)) == pytest.approx(
        0.03 * least_squares_scale(w, Levels.integers(4)), rel=1e-6
    )


def test_scale_that_does_not_exist():
    for w in (torch.zeros(3), torch.tensor([1.0, math.nan]), torch.tensor([math.inf, 1.0]), torch.empty(0)):
        with pytest.raises(ValueError, match="finite weights that are not all zero"):
            least_squares_scale(w, BINARY)
    with pytest.raises(ValueError, match="no positive multiple"):
        least_squares_scale(torch.tensor([-1.0, -2.0]), Levels((0.0, 1.0)))


def test_scaled_groups_are_layers_on_their_own_levels():
    torch.manual_seed(1)
    model, levels = resnet20(width=4), Levels.integers(2)
    made = groups(model, "all", levels, scaled=True)
    quantised = [g for g in made if g["quantize"]]
    assert all(len(g["params"]) == 1 for g in quantised) and len(quantised) == 20
    for g in quantised:
        (w,) = g["params"]
        assert g["levels"] == levels.scaled(least_squares_scale(w, levels))
    assert not any("levels" in g for g in made if not g["quantize"])
    raw = sum((w - levels.nearest(w)).square().sum().item() for g in quantised for w in g["params"])
    near = sum((w - g["levels"].nearest(w)).square().sum().item() for g in quantised for w in g["params"])
    assert near < 0.2 * raw
    row = next(r for r in summary(made) if r[0] == "3x3 convolutions")
    lows = sorted(g["levels"].values[0] for g in quantised if g["kind"] == "3x3 convolutions")
    assert (
        row[1] == "18"
        and row[5].startswith("4 levels, ")
        and f"{lows[0]:.3g}" in row[5]
        and f"{lows[-1]:.3g}" in row[5]
    )


@pytest.mark.parametrize("quantise", QUANTIZE)
def test_scaled_layers_compute_the_same_on_common_levels(quantise):
    torch.manual_seed(0)
    levels, x = Levels.integers(2), torch.randn(4, 3, 8, 8)
    model = resnet20(width=4, shortcut="projection").eval()
    before, y = {n: p.detach().clone() for n, p in model.named_parameters()}, model(x)
    plain = groups(model, quantise, levels, scaled=True)
    wanted = {n: g["levels"].nearest(before[n]) for g in plain if g["quantize"] for n in g["names"]}
    rows = summary(groups(model, quantise, levels))
    factors = layers.scale_layers(model, levels, quantise)
    torch.testing.assert_close(model(x), y)
    assert factors == {n.removesuffix(".weight"): least_squares_scale(before[n], levels) for n in wanted}
    made = groups(model, quantise, levels)
    assert summary(made) == rows
    optimizer = QuantizedOptimizer(torch.optim.SGD(made, lr=0.1), ASkew(levels, PSI, epsilon=0.05))
    with optimizer.quantized():
        for name, w in wanted.items():
            torch.testing.assert_close(model.get_submodule(name.removesuffix(".weight")).weight, w)
    again = resnet20(width=4, shortcut="projection")
    layers.scale_layers(again, levels, quantise)
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.eval()(x), y)
    with pytest.raises(ValueError, match="weight is scaled already"):
        layers.scale_layers(model, levels, quantise)


@pytest.mark.parametrize("method", [FullPrecision, StraightThrough])
def test_scaled_layers_are_trained_as_weights_on_scaled_levels(method):
    """Two ways to write it, one path of the weights: common levels of v = w / s, or levels times s of w itself."""
    levels, x, y = Levels.integers(2), torch.randn(8, 3, 8, 8, dtype=torch.float64), torch.arange(8)
    paths = []
    for as_layer in (False, True):
        torch.manual_seed(2)
        model = resnet20(width=2).double()
        factors = layers.scale_layers(model, levels) if as_layer else {}
        made = groups(model, "all", levels, scaled=not as_layer)
        optimizer = QuantizedOptimizer(torch.optim.SGD(made, lr=0.2, momentum=0.9, weight_decay=1e-2), method(levels))
        path = []
        for _ in range(4):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            with optimizer.latent():
                weights = torch.cat([m.weight.detach().flatten() for m in layers._layers(model).values()])
            path.append((loss.item(), weights))
        assert bool(factors) == as_layer
        paths.append(path)
    for (a, u), (b, v) in zip(*paths, strict=True):
        assert a == pytest.approx(b, rel=1e-9)
        torch.testing.assert_close(u, v, rtol=1e-9, atol=1e-12)


def test_a_stride_of_two_halves_the_pixels_and_nothing_else():
    x, sizes = torch.randn(2, 3, 32, 32), {}
    for stride in (1, 2):
        model = resnet20(width=2, stride=stride)
        model.stages.register_forward_hook(lambda m, i, o, s=stride: sizes.update({s: (i[0].shape, o.shape)}))
        model(x)
        sizes[stride] = (*sizes[stride], count(model.parameters()))
    assert [tuple(s) for s in sizes[1][:2]] == [(2, 2, 32, 32), (2, 8, 8, 8)]
    assert [tuple(s) for s in sizes[2][:2]] == [(2, 2, 16, 16), (2, 8, 4, 4)]
    assert sizes[1][2] == sizes[2][2]
    with pytest.raises(ValueError, match="stride=0"):
        resnet20(stride=0)


def test_constants_of_a_method_have_to_fit_scaled_gaps():
    """What the docstring of `groups` warns of."""
    torch.manual_seed(0)
    made = groups(resnet20(width=4), "all", BINARY, scaled=True)
    with pytest.raises(ValueError, match="largest legal value of psi"):
        QuantizedOptimizer(torch.optim.SGD(made, lr=0.01), ASkew(BINARY, PSI, epsilon=0.5))
    QuantizedOptimizer(torch.optim.SGD(made, lr=0.01), BinaryConnect(BINARY))
