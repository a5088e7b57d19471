"""The benchmark's steps are the optimizers' steps, and its network is ResNet-18."""

import warnings

import pytest
import torch

from quantized_training import SGDA, QuantizedOptimizer
from quantized_training.methods import base
from study.speed import bench

WIDTH = 2


def test_the_weights_are_those_of_the_cifar_resnet_18():
    shapes = [p.shape for p in bench.weights(64)]
    assert sum(s.numel() for s in shapes) == 11_173_962 and len(shapes) == 62


def test_numbers_per_weight():
    found = {name: bench.numbers(make()) for name, make in bench.STEPS.items()}
    assert found["SGDA"] == 9  # and three multipliers in and out
    assert {name for name, n in found.items() if n == 4} == {
        "BinaryConnect, nearest",
        "Straight-through",
        "BinaryConnect, stochastic",
    }  # and the rounded weight out
    assert {n for name, n in found.items()} == {3, 4, 9}


@pytest.mark.parametrize("name", [name for name in bench.STEPS if name != "BinaryConnect, stochastic"])
def test_the_step_that_is_compiled_is_the_optimizer_s(name, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    make = bench.STEPS[name]
    a, b = bench.weights(WIDTH), bench.weights(WIDTH)
    optimizer = QuantizedOptimizer(torch.optim.SGD(a, lr=bench.LR), make())
    step = bench.compiled_step(make(), b, checked=True)
    for _ in range(5):
        optimizer.step()
        step()
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)
    assert name == "Full precision" or not torch.equal(a[0], bench.weights(WIDTH)[0])


@pytest.mark.parametrize("name", list(bench.STEPS))
def test_pieces_that_fit_in_the_cache_change_nothing(name, monkeypatch):
    make = bench.STEPS[name]
    ends = []
    for chunk in (7, 2**30):
        monkeypatch.setattr(base, "CHUNK", chunk)
        parameters = bench.weights(1)
        optimizer = QuantizedOptimizer(torch.optim.SGD(parameters, lr=0.05, momentum=0.9), make())
        for _ in range(3):
            optimizer.step()
        ends.append([*parameters, *(s["dual"] for p in parameters if "dual" in (s := optimizer.state[p]))])
    assert all(torch.equal(x, y) for x, y in zip(*ends, strict=True))


def test_strided_weights_take_the_same_step(monkeypatch):
    monkeypatch.setattr(base, "CHUNK", 7)
    ends = []
    for layout in (torch.contiguous_format, torch.channels_last):
        p = torch.nn.Parameter(bench.weights(WIDTH)[3].detach().clone(memory_format=layout))
        optimizer = QuantizedOptimizer(torch.optim.SGD([p], lr=0.1), SGDA(bench.BINARY))
        for _ in range(3):
            p.grad = torch.ones_like(p)
            optimizer.step()
        ends.append(p.detach())
    assert torch.equal(*ends)


def test_a_finite_gradient_whose_sum_overflows_is_no_error():
    p = torch.nn.Parameter(torch.zeros(4))
    optimizer = QuantizedOptimizer(torch.optim.SGD([p], lr=1e-38), bench.STEPS["Full precision"]())
    p.grad = torch.full((4,), 3e38)
    optimizer.step()
    assert (p < -2).all()


def test_cooper_goes_the_same_way():
    pytest.importorskip("cooper")
    method = SGDA(bench.BINARY, dual_max=1e6)
    theirs, ours = bench.weights(WIDTH), bench.weights(WIDTH)
    peer = bench.cooper_step(method, theirs)
    optimizer = QuantizedOptimizer(torch.optim.SGD(ours, lr=bench.LR), method)
    for _ in range(20):
        peer()
        optimizer.step()
    for x, y in zip(theirs, ours, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)
    assert max(optimizer.state[p]["dual"].max() for p in ours) > 0.01


def test_the_table_is_printed(capsys, monkeypatch):
    arguments = ["--only", "steps", "--width", "1", "--rounds", "2", "--tensors", "9"]
    warnings.simplefilter("error", UserWarning)  # none of the library's about what the benchmark does on purpose
    bench.main([*arguments, "--no-compile"])
    text = capsys.readouterr().out
    assert all(name in text for name in bench.STEPS) and "Cooper's step / SGDA's step" in text
    assert text.split("9 tensors of 10 weights")[1].count("x (") >= len(bench.STEPS)
    assert "BAMSProd's step /" in text and "Bop's step /" in text
    monkeypatch.setattr(bench.shutil, "which", lambda name: None)
    bench.main([*arguments, "--steps", "SGDA"])
    assert "no C++ compiler is found" in capsys.readouterr().out
    monkeypatch.setitem(__import__("sys").modules, "cooper", None)
    bench.main([*arguments, "--steps", "SGDA", "--no-compile"])
    assert "Cooper is not installed" in capsys.readouterr().out
