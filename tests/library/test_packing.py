"""Packed weights come back bit for bit, and damage is noticed."""

from __future__ import annotations

import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from quantized_training import BinaryConnect, FullPrecision, Levels, QuantizedOptimizer, packing
from quantized_training.layers import groups
from study.vision.networks import resnet18, resnet20

LEVELS = {1: Levels.binary(), 2: Levels.integers(2), 4: Levels.integers(4)}


@given(
    st.lists(st.floats(-10, 10, width=32, allow_subnormal=False), min_size=2, max_size=16, unique=True).map(sorted),
    st.integers(0, 40),
    st.sampled_from([torch.float32, torch.float64]),
    st.randoms(use_true_random=False),
)
def test_weights_come_back_exactly(values, n, dtype, random):
    levels = Levels(tuple(values))
    w = torch.tensor([random.choice(values) for _ in range(n)], dtype=dtype)
    packed = packing.pack(w, levels)
    size = 1 if len(values) == 2 else 2 if len(values) <= 4 else 4
    assert packed.dtype == torch.uint8 and len(packed) == (n * size + 7) // 8
    assert torch.equal(packing.unpack(packed, levels, (n,), dtype), w)


def test_the_bits_are_where_the_docstring_says():
    w = torch.tensor([-1.0, 1, 1, -1, -1, -1, -1, 1, 1])
    assert packing.pack(w, LEVELS[1]).tolist() == [0b10000110, 1]
    w = torch.tensor([[-2.0, 1.0], [0.0, -1.0], [1.0, -2.0]])
    assert packing.pack(w, LEVELS[2]).tolist() == [0b01_10_11_00, 0b00_11]
    assert packing.pack(torch.tensor([-8.0, 7.0, 3.0]), LEVELS[4]).tolist() == [0xF0, 0x0B]
    assert packing.pack(w.t(), LEVELS[2]).tolist() == packing.pack(w.t().contiguous(), LEVELS[2]).tolist()


def test_scaled_levels_in_every_precision():
    w = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        for levels in (q.scaled(0.0217) for q in LEVELS.values()):
            on = levels.nearest(0.1 * w.to(dtype))
            assert torch.equal(packing.unpack(packing.pack(on, levels), levels, (1000,), dtype), on)


def test_bad_input_is_named():
    for value in (0.5, float("nan"), 2.0):
        with pytest.raises(ValueError, match=r"layer\.weight: 1 of 3 weights lie on no level"):
            packing.pack(torch.tensor([1.0, value, -1.0]), LEVELS[1], "layer.weight")
    with pytest.raises(ValueError, match="17 levels do not fit"):
        packing.bits(Levels(tuple(range(17))))
    with pytest.raises(ValueError, match=r"shape \(9,\) in 1 bits are 2 bytes"):
        packing.unpack(torch.zeros(1, dtype=torch.uint8), LEVELS[1], (9,))
    with pytest.raises(ValueError, match="the code 3, but there are only 3 levels"):
        packing.unpack(torch.tensor([0b11], dtype=torch.uint8), Levels.ternary(), (1,))


def rounded(model: nn.Module, bits: int, quantise: str = "all", scaled: bool = False):
    """The model's optimizer, so that its weights can be shown on the levels."""
    made = groups(model, quantise, LEVELS[bits], scaled)
    return QuantizedOptimizer(torch.optim.SGD(made, lr=0.1), FullPrecision(LEVELS[bits]))


@pytest.mark.parametrize("bits", LEVELS)
@pytest.mark.parametrize("scaled", [False, True])
def test_a_model_comes_back_exactly(tmp_path, bits, scaled):
    torch.manual_seed(0)
    model, other = resnet20(width=4), resnet20(width=4)
    model(torch.randn(8, 3, 8, 8))  # running statistics that are not the initial ones
    optimizer = rounded(model, bits, "all but first and last", scaled)
    with optimizer.quantized():
        size = packing.save(tmp_path / "weights.qt", model, optimizer.param_groups)
        expected = {name: t.clone() for name, t in model.state_dict().items()}
        outputs = model.eval()(x := torch.randn(4, 3, 8, 8))
    assert (tmp_path / "weights.qt").stat().st_size == size
    state = packing.load(tmp_path / "weights.qt")
    assert list(state) == list(expected)
    for name, t in expected.items():
        assert state[name].dtype == t.dtype and state[name].shape == t.shape and torch.equal(state[name], t), name
    other.load_state_dict(state)
    assert torch.equal(other.eval()(x), outputs)
    quantised = {n for g in optimizer.param_groups if g["quantize"] for n in g["names"]}
    assert {e["name"] for e in packing.contents(tmp_path / "weights.qt") if "levels" in e} == quantised
    for entry in packing.contents(tmp_path / "weights.qt"):
        n = torch.Size(entry["shape"]).numel()
        full = expected[entry["name"]].element_size() * n
        assert entry["bytes"] == ((n * bits + 7) // 8 if entry["name"] in quantised else full)


def test_weights_off_the_levels_are_named_and_nothing_is_written(tmp_path):
    model = resnet20(width=2)
    path = tmp_path / "weights.qt"
    optimizer = rounded(model, 1)
    with pytest.raises(ValueError, match=r"^conv1\.weight: .* lie on no level"):
        packing.save(path, model, optimizer.param_groups)
    with pytest.raises(RuntimeError, match="written to"), optimizer.quantized():
        with torch.no_grad():
            model.linear.weight[1, 1] = 0.25
        with pytest.raises(ValueError, match=r"^linear\.weight: 1 of .* the first is 0\.25"):
            packing.save(path, model, optimizer.param_groups)
    with pytest.raises(ValueError, match="pack what `finish` returned"):
        packing.save(path, model)
    with pytest.raises(ValueError, match="conv1.weight: its group is quantised and has no levels"):
        packing.save(path, model, groups(model))
    with pytest.raises(ValueError, match="not one of the model's"):
        packing.save(path, model, groups(resnet20(width=2), levels=LEVELS[1]))
    assert not path.exists()


def test_a_method_whose_weights_are_rounded_already(tmp_path):
    """BinaryConnect keeps the rounding in the parameters; what is saved is the nearest level of the latent weights."""
    model = nn.Sequential(nn.Linear(4, 3))
    latent = model[0].weight.detach().clone()
    optimizer = QuantizedOptimizer(torch.optim.SGD(groups(model, levels=LEVELS[1]), lr=0.1), BinaryConnect(LEVELS[1]))
    with optimizer.quantized():
        packing.save(tmp_path / "w.qt", model, optimizer.param_groups)
    assert torch.equal(packing.load(tmp_path / "w.qt")["0.weight"], LEVELS[1].nearest(latent))


def test_any_changed_byte_is_noticed(tmp_path):
    model = nn.Linear(3, 2)
    path = tmp_path / "weights.qt"
    optimizer = rounded(model, 1)
    with optimizer.quantized():
        packing.save(path, model, optimizer.param_groups)
    raw = path.read_bytes()
    for i in range(len(raw)):
        path.write_bytes(raw[:i] + bytes([raw[i] ^ (1 << i % 8)]) + raw[i + 1 :])
        with pytest.raises(ValueError, match="weights.qt is (damaged|no file)"):
            packing.load(path)
    for n in (0, 5, 8, 30, 45, len(raw) - 1):
        path.write_bytes(raw[:n])
        with pytest.raises(ValueError, match="weights.qt is (damaged|no file)"):
            packing.load(path)
    path.write_bytes(raw + b"\0")
    with pytest.raises(ValueError, match="weights.qt is damaged"):
        packing.load(path)


@pytest.mark.parametrize("bits", LEVELS)
def test_size_of_resnet18_against_float32(tmp_path, bits):
    torch.manual_seed(0)
    model = resnet18()
    stream = io.BytesIO()
    torch.save(model.state_dict(), stream)
    with torch.no_grad():  # as `quantized()` does, without copies
        made = groups(model, "all", LEVELS[bits])
        for group in made:
            if group["quantize"]:
                for p in group["params"]:
                    p.copy_(LEVELS[bits].nearest(p / p.std()))
    size = packing.save(tmp_path / "resnet18.qt", model, made)
    packed = sum(-(-p.numel() * bits // 8) for g in made if g["quantize"] for p in g["params"])
    others = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    others -= 4 * sum(p.numel() for g in made if g["quantize"] for p in g["params"])
    assert 0 < size - packed - others < 20_000  # the header
    ratio = len(stream.getvalue()) / size
    assert {1: 30, 2: 15.5, 4: 7.8}[bits] < ratio < 32 / bits
    for name, t in packing.load(tmp_path / "resnet18.qt").items():
        assert torch.equal(t, model.state_dict()[name])
