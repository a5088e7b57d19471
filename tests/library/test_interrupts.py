"""A step that is interrupted anywhere leaves an optimizer that goes on, with the state before the step or after it."""

import random
import sys

import pytest
import torch

import quantized_training
from helpers import METHODS
from quantized_training import QuantizedOptimizer

FOLDER = quantized_training.__path__[0]
BASES = {
    "SGD": lambda groups: torch.optim.SGD(groups, lr=0.1),
    "momentum": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "Adam": lambda groups: torch.optim.Adam(groups, lr=0.01),
}


def optimizer_of(name, base, dtype=torch.float32):
    """Two small quantised parameters, a larger one, and one that is not quantised."""
    rng = torch.Generator().manual_seed(0)
    sizes = (5, 3, 5000, 4)
    params = [torch.nn.Parameter((2.4 * torch.rand(n, generator=rng) - 1.2).to(dtype)) for n in sizes]
    kwargs = {"seed": 3} if name == "BinaryConnect" else {}
    groups = [{"params": params[:3]}, {"params": params[3:], "quantize": False}]
    optimizer = QuantizedOptimizer(BASES[base](groups), METHODS[name](**kwargs))
    give_gradients(optimizer, rng)
    optimizer.step()
    give_gradients(optimizer, rng)
    return optimizer


def give_gradients(optimizer, rng):
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = (0.5 * torch.randn(p.shape, generator=rng)).to(p.dtype)


def snapshot(optimizer):
    """All that a step may change but the base's own state: weights, gradients, latent weights, multipliers, groups, method."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        "weights": [p.detach().clone() for p in params],
        "gradients": [p.grad.clone() for p in params],
        "states": [{k: v.clone() for k, v in optimizer.state.get(p, {}).items()} for p in params],
        "groups": [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups],
        "method": optimizer.method.state_dict(),
        "data": [(p.dtype, p.data_ptr()) for p in params],
    }


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


class Interrupt:
    """Raises KeyboardInterrupt at the n-th bytecode of the library (or of torch.optim) within a step; counts them."""

    def __init__(self, at):
        self.at, self.count, self.fired = at, 0, False

    def trace(self, frame, event, arg):
        file = frame.f_code.co_filename
        if not (file.startswith(FOLDER) or "torch/optim/" in file):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            if self.count == self.at and not self.fired:
                self.fired = True
                raise KeyboardInterrupt
            self.count += 1
        return self.trace

    def __enter__(self):
        self.outer = sys.gettrace()
        sys.settrace(self.trace)
        return self

    def __exit__(self, *exception):
        sys.settrace(self.outer)


def interrupted(make, at):
    """(words for what is wrong or None, whether the step was interrupted) of a step with an interrupt at a bytecode."""
    optimizer, twin = make(), make()
    before = snapshot(optimizer)
    twin.step()
    after = snapshot(twin)
    after["data"] = before["data"]
    interrupt = Interrupt(at)
    try:
        with interrupt:
            optimizer.step()
    except KeyboardInterrupt:
        pass
    found = snapshot(optimizer)
    if not equal(found["gradients"], before["gradients"]):
        return "changed gradients", interrupt.fired
    if not (equal(found, before) or equal(found, after)):
        return f"neither before nor after: {[k for k in found if not equal(found[k], before[k])]}", interrupt.fired
    give_gradients(optimizer, torch.Generator().manual_seed(1))
    optimizer.step()
    with optimizer.quantized():
        pass
    return None, interrupt.fired


def bytecodes(make):
    optimizer, counter = make(), Interrupt(-1)
    with counter:
        optimizer.step()
    return counter.count


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", METHODS)
def test_an_interrupt_anywhere_in_a_step_changes_all_or_nothing(name, base, times=6, dtype=torch.float32):
    def make():
        return optimizer_of(name, base, dtype)

    rng, count = random.Random(f"{name} {base}"), bytecodes(make)
    assert count > 1000
    for _ in range(times):
        at = rng.randrange(count)
        wrong, fired = interrupted(make, at)
        assert fired and wrong is None, (at, wrong)


@pytest.mark.parametrize("name", METHODS)
def test_an_interrupt_of_a_step_in_half_precision(name):
    test_an_interrupt_anywhere_in_a_step_changes_all_or_nothing(name, "Adam", 3, torch.bfloat16)


def test_the_interrupts_reach_the_commit_too():
    """A commit that is not finished after an interrupt is noticed by the check above."""
    from quantized_training.transaction import _Transaction

    def make():
        return optimizer_of("SGDA", "SGD")

    count, kept = bytecodes(make), _Transaction._commit
    calls = []

    def once(self):
        calls.append(1)
        if len(calls) % 2:  # the one in `run`; what should finish it does nothing
            kept(self)

    found = set()
    try:
        for at in range(count // 2, count, 97):
            calls.clear()
            _Transaction._commit = kept
            optimizer, twin = make(), make()
            _Transaction._commit = once
            before = snapshot(optimizer)
            try:
                with Interrupt(at):
                    optimizer.step()
            except KeyboardInterrupt:
                pass
            _Transaction._commit = kept
            twin.step()
            after = snapshot(twin) | {"data": before["data"]}
            found.add(equal(snapshot(optimizer), before) or equal(snapshot(optimizer), after))
    finally:
        _Transaction._commit = kept
    assert found == {True, False}


@pytest.mark.parametrize("draws", ["built-in", "own"])
def test_a_failed_step_keeps_what_was_drawn_for_the_weights_that_stay(draws):
    """Debiased BinaryConnect divides by the chance of the rounding at which the gradient was taken, not of a later one."""
    rng, left = torch.Generator().manual_seed(0), [1] * 5

    def uniform(w):
        left.pop()
        return torch.rand(w.shape, generator=rng)

    a, b = (torch.nn.Parameter(torch.zeros(300)) for _ in range(2))
    method = METHODS["Debiased BinaryConnect"](**{"uniform": uniform} if draws == "own" else {})
    optimizer = QuantizedOptimizer(torch.optim.SGD([a, b], lr=0.1), method)
    give_gradients(optimizer, rng)
    optimizer.step()
    if draws == "built-in":
        b.grad[7] = torch.nan
    before = snapshot(optimizer)
    with pytest.raises(FloatingPointError if draws == "built-in" else IndexError):
        optimizer.step()  # own: the first parameter's point is drawn, the second's draw fails
    after = snapshot(optimizer)
    assert equal(after["states"], before["states"]) and equal(after["weights"], before["weights"])
    for p in (a, b):
        assert torch.equal(optimizer.state[p]["upper"], p > 0)


def test_what_was_drawn_has_the_weights_shape_in_a_checkpoint_and_leaves_with_the_method():
    optimizer = optimizer_of("Debiased BinaryConnect", "SGD")
    saved = optimizer.state_dict()
    assert [saved["state"][i]["method.upper"].dtype for i in range(3)] == [torch.bool] * 3
    saved["state"][1]["method.upper"] = torch.ones(1, dtype=torch.bool)
    with pytest.raises(ValueError, match="upper of parameter 1 has the shape"):
        optimizer.load_state_dict(saved)
    optimizer.switch(METHODS["BinaryConnect"]())
    assert all(state.keys() == {"latent"} for state in optimizer.state.values())
    optimizer.switch(METHODS["Debiased BinaryConnect"]())
    for p in optimizer.param_groups[0]["params"]:
        assert torch.equal(optimizer.state[p]["upper"], p > 0)


def test_a_step_in_place_is_seen_by_autograd_and_a_failed_one_is_not():
    w = torch.nn.Parameter(torch.linspace(-1, 1, 5000))
    optimizer = QuantizedOptimizer(torch.optim.SGD([w], lr=0.1), METHODS["ASkewSGD"]())
    before, memory, loss = w.detach().clone(), w.data_ptr(), w.square().sum()
    w.grad = torch.full_like(w, torch.nan)
    with pytest.raises(FloatingPointError):
        optimizer.step()
    assert torch.equal(w, before) and w.data_ptr() == memory and w.grad.isnan().all()
    loss.backward(retain_graph=True)
    w.grad = torch.ones_like(w)
    optimizer.step()
    assert not torch.equal(w, before) and w.data_ptr() == memory
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
