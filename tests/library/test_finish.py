"""Finished copies: on their levels, unmoved by further steps, in every format; what is noticed inside the views; other methods."""

import copy

import pytest
import torch
from torch import nn

from helpers import METHODS, TERNARY
from quantized_training import (
    SGDA,
    ASkew,
    BinaryConnect,
    FullPrecision,
    Levels,
    QuantizedOptimizer,
    StraightThrough,
    export,
    finish,
    groups,
    packing,
    scale_layers,
)

BINARY = Levels.binary()


def answer(path, x):
    """What a program in a file, .pt2 or .onnx, makes of x."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(x)
    import onnx
    from onnx.reference import ReferenceEvaluator

    name = onnx.load(path).graph.input[0].name
    return torch.from_numpy(ReferenceEvaluator(str(path)).run(None, {name: x.numpy()})[0])


class Tied(nn.Module):
    """An embedding whose table is the last layer's, too."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(12, 6)
        self.middle, self.norm = nn.Conv1d(6, 6, 3, padding=1), nn.BatchNorm1d(6)
        self.last = nn.Linear(6, 12, bias=False)
        self.last.weight = self.table.weight

    def forward(self, x):
        y = self.norm(self.middle(self.table(x).transpose(1, 2)).relu()).transpose(1, 2)
        return self.last(y)


def tokens(seed=0):
    return torch.randint(0, 12, (4, 5), generator=torch.Generator().manual_seed(seed))


def trained(method, scaled=None, steps=3, **options):
    """(model, optimizer, step) after some steps; scaled: None, "layer" or "channel"."""
    torch.manual_seed(0)
    model = Tied()
    with torch.no_grad():
        model.table.weight.mul_(0.7), model.middle.weight.mul_(5)  # so that every level of {-2, .. 1} is taken
    if scaled:
        scale_layers(model, method.levels, per=scaled, **options)
    optimizer = QuantizedOptimizer(torch.optim.Adam(groups(model), lr=0.02), method)

    def step(seed=0):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens(seed)).flatten(0, 1), tokens(seed).flatten()).backward()
        optimizer.step()

    for seed in range(steps):
        step(seed)
    return model, optimizer, step


@pytest.mark.parametrize("scaled", [None, "layer", "channel"])
@pytest.mark.parametrize("name", METHODS)
def test_a_finished_copy_is_on_its_levels_and_stays_as_it_is(name, scaled):
    method = METHODS[name]()
    model, optimizer, step = trained(method, scaled, learned=True) if scaled else trained(method)
    with optimizer.quantized():
        expected = model.eval()(tokens(9)).detach().clone()
    model.train()
    finished = finish(model, optimizer)
    before = copy.deepcopy(finished.state_dict())
    program = torch.export.export(finished, (tokens(),))
    for seed in range(3):
        step(seed)
        method.anneal()
    assert list(before) == list(Tied().state_dict()) and not finished.training
    for key, t in finished.state_dict().items():
        assert torch.equal(t, before[key]), key
    torch.testing.assert_close(finished(tokens(9)), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(program.module()(tokens(9)), expected, rtol=1e-5, atol=1e-6)
    assert finished.table.weight is finished.last.weight and type(finished.last) is nn.Linear
    assert set(finished.quantization) == {"table.weight", "middle.weight"}
    for key, (levels, scale) in finished.quantization.items():
        values, w = torch.tensor(levels.values), finished.get_parameter(key)
        assert (scale is None) == (scaled is None)
        on = values if scale is None else scale[..., None] * values
        assert (w[..., None] == on).any(-1).all()
    assert all(p.grad is None and not p.requires_grad for p in finished.parameters())
    with optimizer.quantized():  # and the training did move
        assert not torch.equal(model.eval()(tokens(9)), expected)


def test_the_model_is_left_as_it_is():
    model, optimizer, _ = trained(StraightThrough(BINARY), "channel")
    kind, before = type(model.middle), copy.deepcopy(model.state_dict())
    finish(model, optimizer, batches=[tokens()])
    assert type(model.middle) is kind and model.training and all(p.grad is not None for p in model.parameters())
    assert all(torch.equal(t, before[key]) for key, t in model.state_dict().items())
    with optimizer.latent():
        assert (model.middle.parametrizations.weight.original.abs() != 1).any()


def test_statistics_are_those_of_the_rounded_weights():
    model, optimizer, _ = trained(ASkew(BINARY))
    batches = [tokens(1), tokens(2)]
    finished = finish(model, optimizer, batches)
    assert not torch.allclose(finished.norm.running_mean, finish(model, optimizer).norm.running_mean)
    means = [finished.middle(finished.table(x).transpose(1, 2)).relu().mean((0, 2)) for x in batches]
    torch.testing.assert_close(finished.norm.running_mean, torch.stack(means).mean(0))
    other = finish(model, optimizer, [{"x": x} for x in batches], forward=lambda m, batch: m(batch["x"]))
    assert torch.equal(other.norm.running_mean, finished.norm.running_mean)


def test_what_cannot_be_finished_is_named():
    model, optimizer, _ = trained(ASkew(BINARY))
    with pytest.raises(ValueError, match="belongs to this Tied"):
        finish(Tied(), optimizer)
    with optimizer.quantized(), pytest.raises(RuntimeError, match="already inside"):
        finish(model, optimizer)
    latent = copy.deepcopy(model.state_dict())
    latent["middle.weight"][0, 0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"middle\.weight"):
        finish(model, optimizer, latent=latent)
    model, optimizer, _ = trained(ASkew(BINARY), "layer")
    nn.utils.parametrize.register_parametrization(model.middle, "bias", nn.Identity())
    with pytest.raises(ValueError, match="middle has other parametrisations"):
        finish(model, optimizer)


@pytest.mark.parametrize("levels", [BINARY, TERNARY, Levels.integers(4)])
@pytest.mark.parametrize("scaled", [None, "layer", "channel"])
def test_a_packed_file_gives_the_finished_weights_bit_for_bit(tmp_path, levels, scaled):
    model, optimizer, _ = trained(BinaryConnect(levels), scaled)
    finished = finish(model, optimizer)
    export(finished, tmp_path / "model.qt")
    state = packing.load(tmp_path / "model.qt")
    assert list(state) == list(finished.state_dict())
    for key, t in finished.state_dict().items():
        assert torch.equal(state[key], t), key
    entries = {entry["name"]: entry for entry in packing.contents(tmp_path / "model.qt")}
    scales = {None: 0, "layer": 4, "channel": 4 * 12}[scaled]
    assert entries["table.weight"]["bytes"] == 72 * packing.bits(levels) / 8 + scales  # 12 x 6 weights
    assert entries["last.weight"]["bytes"] == 0 and entries["last.weight"]["same"] == "table.weight"
    assert state["last.weight"] is state["table.weight"]
    with torch.no_grad():
        finished.middle.weight[0, 0, 0] += 0.001
    with pytest.raises(ValueError, match=r"middle\.weight: 1 of 108 weights lie on no level"):
        packing.save(tmp_path / "other.qt", finished)
    assert not (tmp_path / "other.qt").exists()


@pytest.mark.parametrize("kind", [".pt", ".qt", ".pt2", ".safetensors", ".onnx"])
def test_every_format_gives_the_finished_model(tmp_path, kind):
    model, optimizer, step = trained(StraightThrough(BINARY), "channel")
    finished, path = finish(model, optimizer, [tokens()]), tmp_path / f"model{kind}"
    with torch.no_grad():
        expected = finished(tokens(3))
    export(finished, path, (tokens(),) if kind in (".pt2", ".onnx") else None)
    step()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    again = Tied().eval().requires_grad_(False)  # as the copy is: torch takes other kernels for weights that train
    if kind == ".pt":
        again.load_state_dict(torch.load(path, weights_only=True))
    elif kind == ".qt":
        again.load_state_dict(packing.load(path))
    elif kind == ".pt2":
        again = torch.export.load(path).module()
    elif kind == ".safetensors":
        from safetensors.torch import load_file, load_model

        load_model(again, path)
        assert len(load_file(path)) == len(finished.state_dict()) - 1
    else:
        import onnx

        torch.testing.assert_close(answer(path, tokens(3)), expected, rtol=1e-4, atol=1e-5)
        tables = [t for t in onnx.load(path).graph.initializer if sorted(t.dims) == [6, 12]]
        assert len(tables) == 1
        return
    with torch.no_grad():
        torch.testing.assert_close(again(tokens(3)), expected, rtol=0 if kind != ".pt2" else 1e-6, atol=0)


def test_what_is_missing_for_a_file_is_said(tmp_path, monkeypatch):
    model, optimizer, _ = trained(ASkew(BINARY))
    finished = finish(model, optimizer)
    with pytest.raises(ValueError, match="must be one of .qt, .pt, .pt2, .safetensors, .onnx"):
        export(finished, tmp_path / "model.bin")
    with pytest.raises(ValueError, match="made with an example"):
        export(finished, tmp_path / "model.pt2")
    with pytest.raises(ValueError, match="may be latent"):
        export(model, tmp_path / "model.pt")
    monkeypatch.setattr("quantized_training.finished.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install safetensors"):
        export(finished, tmp_path / "model.safetensors")
    with pytest.raises(ImportError, match="pip install onnx onnxscript"):
        export(finished, tmp_path / "model.onnx", (tokens(),))
    with pytest.raises(Exception, match="."):  # the model refuses the input
        export(finished, tmp_path / "model.pt2", (torch.ones(2, 2),))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("view", ["quantized", "latent"])
@pytest.mark.parametrize("name", METHODS)
def test_writing_inside_a_view_is_noticed_and_undone(name, view):
    model, optimizer, step = trained(METHODS[name]())
    before, w = copy.deepcopy(model.state_dict()), model.middle.weight
    with getattr(optimizer, view)():
        same = torch.equal(w, before["middle.weight"])
    assert same == ((view == "latent") == METHODS[name]().forward_is_latent) or name in (
        "BinaryConnect",
        "Debiased BinaryConnect",
    )
    for write in (
        lambda: w.detach().mul_(0.5),
        lambda: w.data.copy_(w.data + 1),
        lambda: model.load_state_dict(before),
    ):
        if same and "load_state_dict" in write.__code__.co_names:
            continue  # what is loaded is what is there
        with (
            pytest.raises(RuntimeError, match=rf"was written to inside `with optimizer\.{view}"),
            getattr(optimizer, view)(),
        ):
            write()
        assert all(torch.equal(t, before[key]) for key, t in model.state_dict().items())
    with pytest.raises(ZeroDivisionError), getattr(optimizer, view)():
        w.detach().mul_(0.5)
        raise ZeroDivisionError
    with getattr(optimizer, view)():
        model(tokens())
    step()


@pytest.mark.parametrize("name", METHODS)
def test_early_stopping_goes_on_from_the_best_weights(name):
    """README's way: both state_dicts are kept, the model's is loaded first."""
    torch.manual_seed(0)
    model, optimizer, step = trained(METHODS[name]())
    best = finish(model, optimizer)
    kept = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    step(5)
    model.load_state_dict(kept[0])
    optimizer.load_state_dict(kept[1])
    again = finish(model, optimizer)
    assert all(torch.equal(t, again.state_dict()[key]) for key, t in best.state_dict().items())
    step(6)


@pytest.mark.parametrize("name", METHODS)
def test_averages_are_of_the_latent_weights(name):
    model, optimizer, step = trained(METHODS[name](), "layer")
    average = torch.optim.swa_utils.AveragedModel(model)
    latents = []
    for seed in range(4):
        step(seed)
        with optimizer.latent():
            average.update_parameters(model)
            latents.append(model.middle.parametrizations.weight.original.detach().clone())
    finished = finish(model, optimizer, [tokens()], latent=average.module.state_dict())
    levels, scale = finished.quantization["middle.weight"]
    expected = levels.nearest(torch.stack(latents).mean(0))
    torch.testing.assert_close(finished.middle.weight, scale * expected)


@pytest.mark.parametrize("new", METHODS)
@pytest.mark.parametrize("old", ["Full precision", "BinaryConnect", "SGDA"])
def test_another_method_goes_on_from_the_latent_weights(old, new):
    model, optimizer, _ = trained(METHODS[old]())
    with optimizer.latent():
        latent = model.middle.weight.detach().clone()
    momentum = optimizer.base.state[model.middle.weight]["exp_avg"].clone()
    method = METHODS[new]()
    other = optimizer
    other.switch(method)
    with other.latent():
        assert torch.equal(model.middle.weight, latent)
    assert torch.equal(other.base.state[model.middle.weight]["exp_avg"], momentum)
    assert all(group["levels"] == method.levels for group in other.param_groups)
    model(tokens()).square().mean().backward()
    other.step()
    assert set(finish(model, other).middle.weight.unique().tolist()) <= set(method.levels.values)


def test_a_method_that_cannot_go_on_changes_nothing():
    model, optimizer, step = trained(BinaryConnect(BINARY))
    before = copy.deepcopy(model.state_dict())
    optimizer.param_groups[0]["lr"] = 3.0
    with pytest.raises(ValueError, match="above 0.5, half the smallest gap"):
        optimizer.switch(ASkew(Levels.integers(2), epsilon=0.05))
    with pytest.raises(TypeError, match="must be a Method"):
        optimizer.switch("ASkew")
    optimizer.param_groups[0]["lr"] = 0.02
    assert all(torch.equal(t, before[key]) for key, t in model.state_dict().items())
    assert all(group["levels"] == BINARY for group in optimizer.param_groups)
    step()


def test_groups_keep_levels_of_their_own_in_another_method():
    w, v = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    base = torch.optim.SGD([{"params": [w]}, {"params": [v], "levels": TERNARY}], lr=0.1)
    other = QuantizedOptimizer(base, FullPrecision(BINARY))
    other.switch(SGDA(Levels.integers(2)))
    assert [g["levels"] for g in other.param_groups] == [Levels.integers(2), TERNARY]


class OfFour(nn.Module):
    """A network whose batches are of four."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("shift", torch.zeros(4, 3))

    def forward(self, x):
        return self.linear(x + self.shift)


def small(path):
    return path.stat().st_size < 200_000


@pytest.mark.parametrize("kind", [".pt2", ".onnx"])
def test_the_example_is_copied_and_its_batch_is_of_any_size(tmp_path, kind):
    """A view of a large tensor, of one image and of four."""
    model, optimizer, _ = trained(StraightThrough(BINARY))
    finished, path, large = finish(model, optimizer), tmp_path / f"model{kind}", torch.randint(0, 12, (200_000, 5))
    for n in (1, 4) if kind == ".pt2" else (1,):
        export(finished, path, (large[:n],))
        assert small(path)
    for x in (tokens(3), tokens(3)[:1], tokens(4)[:3]):
        torch.testing.assert_close(answer(path, x), finished(x), rtol=1e-4, atol=1e-5)


def test_a_program_whose_batch_is_fixed_says_so(tmp_path):
    model = OfFour()
    finished = finish(model, QuantizedOptimizer(torch.optim.SGD(groups(model), lr=0.1), StraightThrough(BINARY)))
    with pytest.warns(UserWarning, match="model.pt2: the program takes no batches of another size"):
        export(finished, tmp_path / "model.pt2", (torch.ones(4, 3),))
    x = torch.randn(4, 3)
    torch.testing.assert_close(torch.export.load(tmp_path / "model.pt2").module()(x), finished(x))


@pytest.mark.parametrize("kind", [".pt2", ".onnx"])
def test_a_program_for_batches_of_any_size(tmp_path, kind):
    model, optimizer, _ = trained(StraightThrough(BINARY))
    finished, path, x = finish(model, optimizer), tmp_path / f"model{kind}", tokens(3)[:3]
    export(finished, path, (tokens(),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(answer(path, x), finished(x), rtol=1e-4, atol=1e-5)
