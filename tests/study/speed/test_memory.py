"""The memory that is measured is the memory that is taken."""

import pytest
import torch

from quantized_training import KBitStraightThrough
from study.speed import memory


def test_what_is_allocated_and_given_back():
    def run():
        kept = torch.empty(1000)
        for _ in range(2):
            other = torch.empty(2000)
            del other
        return kept

    most, left = memory.allocated(run)
    assert left == 4000 and most == 12_000
    assert memory.allocated(lambda: None) == (0, 0)
    w = torch.rand(10_000)
    assert memory.allocated(lambda: w.add_(1))[0] <= 16  # the number 1


@pytest.mark.parametrize("bits", [1, 4])
@pytest.mark.parametrize("name", memory.METHODS)
def test_bytes_that_follow_from_the_method(name, bits):
    """At least the state that each has to keep; plain SGD takes nothing; a view keeps what it hides."""
    found, method = memory.measure(name, bits, width=8), memory.METHODS[name](memory.Levels.for_bits(bits), bits)
    assert isinstance(method, KBitStraightThrough) or len(method.levels.values) == 2**bits
    state = {"SGDA": 4 * (2**bits + 1)}.get(name, 0 if method.forward_is_latent else 4)
    assert state <= found.stored < state + 4.1  # and memory for one gradient, which some keep
    assert 4 <= found.quantized
    if name == "Full precision":
        assert found.stored <= 4 and found.step < 1  # what undoes an interrupted step


@pytest.mark.parametrize("bits", [1, 4])
@pytest.mark.parametrize(
    "name, most",
    [
        ("ASkewSGD, psi", 5),
        ("ASkewSGD, phi", 5),
        ("Straight-through", 5),
        ("BinaryConnect, stochastic", 8),
        ("SGDA", 8),
    ],
)
def test_what_a_step_may_take_on_a_resnet_18(name, most, bits):
    """Per weight, beyond what the method has to keep: latent weights apart, multipliers."""
    found = memory.measure(name, bits)
    kept = {"SGDA": 4 * (2**bits + 1)}.get(name, 0 if name.startswith("ASkew") else 4)
    assert kept <= found.stored and found.stored - kept + found.step <= most and found.quantized <= 8


def test_the_table(capsys):
    memory.main(["--width", "2", "--bits", "4", "--methods", "Full precision", "SGDA"])
    out = capsys.readouterr().out
    assert "4 bits" in out and "SGDA" in out and "ASkew" not in out
    with pytest.raises(SystemExit):
        memory.main(["--methods", "Adam"])
