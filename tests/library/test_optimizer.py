"""QuantizedOptimizer: trajectories, seed ensembles, groups, views, checkpoints, and what it refuses."""

import copy
import io
import math
import warnings

import pytest
import torch

from helpers import INTEGERS, METHODS, TERNARY, tensor
from quantized_training import (
    PHI,
    SGDA,
    ASkew,
    BinaryConnect,
    FullPrecision,
    Geometric,
    Levels,
    Method,
    ProxQuant,
    QuantizedOptimizer,
    StraightThrough,
)
from quantized_training.methods import base
from study.methods import METHODS as TABLE
from study.theory import reference as ref

BASES = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=0.03, amsgrad=True),
}
LATENT_IN_PLACE = [name for name in METHODS if METHODS[name]().forward_is_latent]
LATENT_APART = [name for name in METHODS if name not in LATENT_IN_PLACE]
DRAWING = ("BinaryConnect", "Debiased BinaryConnect")  # they round at random


def network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)).double()


def batches(count, seed=1):
    rng = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(8, 6, generator=rng, dtype=torch.float64),
            torch.randn(8, 2, generator=rng, dtype=torch.float64),
        )
        for _ in range(count)
    ]


def loss_of(model, batch):
    return ((model(batch[0]) - batch[1]) ** 2).mean()


def train(model, optimizer, data, anneal_every=3):
    """Plain loop; returns the weights after every step."""
    path = []
    for k, batch in enumerate(data):
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
        if isinstance(optimizer, QuantizedOptimizer) and k % anneal_every == anneal_every - 1:
            optimizer.method.anneal()
        path.append([p.detach().clone() for p in model.parameters()])
    return path


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def weights_of(model):
    return [p.detach().clone() for p in model.parameters()]


def everything(optimizer):
    """A deep copy of all that a step may change, as nested plain objects."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return (
        [p.detach().clone() for p in params],
        copy.deepcopy([dict(optimizer.state[p]) for p in params]),
        copy.deepcopy([dict(optimizer.base.state[p]) for p in params]),
        copy.deepcopy(optimizer.method.state_dict()),
    )


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def without_version(snapshot):
    weights, states, base, method = snapshot
    return weights, [{k: v for k, v in s.items() if k != "version"} for s in states], base, method


# Trajectories


@pytest.mark.parametrize("base", BASES)
def test_full_precision_is_the_base_optimizer_bit_for_bit(base):
    plain, wrapped = network(), network()
    data = batches(40)
    a = train(plain, BASES[base](plain.parameters()), data)
    b = train(wrapped, QuantizedOptimizer(BASES[base](wrapped.parameters()), FullPrecision(TERNARY)), data)
    for x, y in zip(a, b, strict=True):
        assert same(x, y)


def reference_path(row, start, gradient, steps, lr, draws):
    """One weight at a time in plain floats: the point after every step; `draws[k][i]` is uniform."""
    method, latent, states = row.tested(TERNARY), list(start), [{} for _ in start]
    q, path = method.levels.values, []
    for k in range(steps + 1):
        points = [row.point(w, q, draws[k][i], method) for i, w in enumerate(latent)]
        path.append(points)
        for i, point in enumerate(points):
            states[i]["point"] = point
            latent[i] = row.step(latent[i], gradient(i, point, k) if k < steps else 0.0, q, lr, method, states[i])
        if k % 3 == 2:
            method.anneal()
    return tensor(path)


@pytest.mark.parametrize("name", [name for name in METHODS if TABLE[name].step])
def test_trajectory_is_the_reference_one_weight_at_a_time(name):
    steps, lr, d = 60, 0.2, 24
    rng = torch.Generator().manual_seed(5)
    start = 1.6 * torch.rand(d, generator=rng, dtype=torch.float64) * (2 * (torch.arange(d) % 2) - 1)
    slope, target = torch.rand(2, d, generator=rng, dtype=torch.float64)
    noise = 0.7 * torch.randn(steps, d, generator=rng, dtype=torch.float64)
    draws = torch.rand(steps + 1, d, generator=rng, dtype=torch.float64)
    used = iter(draws)
    method = METHODS[name](uniform=lambda w: next(used)) if name in DRAWING else METHODS[name]()

    p = torch.nn.Parameter(start.clone())
    optimizer = QuantizedOptimizer(torch.optim.SGD([p], lr=lr), method)
    path = [p.detach().clone()]
    for k in range(steps):
        optimizer.zero_grad()
        (0.5 * slope * (p - target) ** 2 + noise[k] * p).sum().backward()
        optimizer.step()
        if k % 3 == 2:
            method.anneal()
        path.append(p.detach().clone())

    def gradient(i, point, k):
        return slope[i].item() * (point - target[i].item()) + noise[k, i].item()

    expected = reference_path(TABLE[name], start.tolist(), gradient, steps, lr, draws.tolist())
    torch.testing.assert_close(torch.stack(path), expected, rtol=1e-9, atol=1e-9)
    moved = (torch.stack(path)[1:] != torch.stack(path)[:-1]).any(0)
    assert moved.double().mean() > (0.5 if name == "Straight-through" else 0.99)  # (3) stops whatever leaves the hull


def test_block_prox_trajectory_is_the_reference():
    rng = torch.Generator().manual_seed(2)
    w = torch.randn(5, dtype=torch.float64, generator=rng)
    G = torch.randn(30, 5, dtype=torch.float64, generator=rng)
    p = torch.nn.Parameter(w.clone())
    optimizer = QuantizedOptimizer(torch.optim.SGD([p], lr=0.1), ProxQuant(TERNARY, 0.4, "l2"))
    expected = w.tolist()
    for g in G:
        p.grad = g.clone()
        optimizer.step()
        expected = ref.prox_l2(
            [ref.full_precision_step(x, y, 0.1) for x, y in zip(expected, g.tolist(), strict=True)],
            TERNARY.values,
            0.1 * 0.4,
        )
        assert p.tolist() == pytest.approx(expected, abs=1e-12)


def test_momentum_acts_on_the_skewed_velocity():
    """The base optimizer sees -v in place of the gradient: two heavy-ball steps by hand."""
    q, eps, alpha, lr, mu = (-1.0, 1.0), 0.2, 0.5, 0.1, 0.9
    method = ASkew(Levels(q), PHI, alpha=alpha, epsilon=eps)
    p = torch.nn.Parameter(tensor([0.3, 0.95, 1.4]))
    optimizer = QuantizedOptimizer(torch.optim.SGD([p], lr=lr, momentum=mu), method)
    w, buffer = p.tolist(), [0.0] * 3
    for G in ([1.0, 1.0, -1.0], [-0.2, 0.5, 0.0]):
        p.grad = tensor(G)
        optimizer.step()
        for i in range(3):
            v = ref.velocity(G[i], w[i], q, eps, alpha, ref.phi, ref.phi_prime, 1.0)
            buffer[i] = mu * buffer[i] - v
            w[i] -= lr * buffer[i]
        assert p.tolist() == pytest.approx(w, abs=1e-12)


# Ensembles: a leading dimension of seeds


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", METHODS)
def test_an_ensemble_is_its_single_runs(name, base):
    seeds, steps, d = 4, 25, 6
    rng = torch.Generator().manual_seed(7)
    start = torch.randn(seeds, d, dtype=torch.float64, generator=rng)
    X = torch.randn(seeds, steps, 10, d, dtype=torch.float64, generator=rng)
    y = torch.randn(seeds, steps, 10, dtype=torch.float64, generator=rng)

    def method(generators):
        if name in DRAWING:
            draw = [lambda g=g: torch.rand(d, dtype=torch.float64, generator=g) for g in generators]
            return METHODS[name](uniform=lambda w: torch.stack([u() for u in draw]).view_as(w))
        if name == "ProxQuant (L2)":
            return ProxQuant(TERNARY, 0.3, "l2", ensemble=len(generators) > 1)
        return METHODS[name]()

    def run(start, X, y, generators):
        p = torch.nn.Parameter(start.clone())
        optimizer = QuantizedOptimizer(BASES[base]([p]), method(generators))
        path = []
        for k in range(steps):
            optimizer.zero_grad()
            ((torch.einsum("sbd,sd->sb", X[:, k], p) - y[:, k]) ** 2).mean(1).sum().backward()
            optimizer.step()
            if k % 3 == 2:
                optimizer.method.anneal()
            path.append(p.detach().clone())
        return torch.stack(path)

    def generators():
        return [torch.Generator().manual_seed(100 + s) for s in range(seeds)]

    together = run(start, X, y, generators())
    alone = torch.cat([run(start[[s]], X[[s]], y[[s]], [generators()[s]]) for s in range(seeds)], 1)
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)


# Parameter groups


@pytest.mark.parametrize("name", METHODS)
def test_groups_that_are_not_quantised_are_left_to_the_base_optimizer(name):
    levels = METHODS[name]().levels
    rng = torch.Generator().manual_seed(3)
    start = torch.randn(6, generator=rng)
    free, plain = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    tied = torch.nn.Parameter(start.clone())
    base = torch.optim.SGD([{"params": [tied]}, {"params": [free], "quantize": False}], lr=0.3, momentum=0.5)
    optimizer = QuantizedOptimizer(base, METHODS[name]())
    twin = torch.optim.SGD([plain], lr=0.3, momentum=0.5)
    assert torch.equal(free, start)
    for _ in range(10):
        grad = torch.randn(6, generator=rng)
        free.grad, plain.grad, tied.grad = grad.clone(), grad.clone(), grad.clone()
        optimizer.step()
        twin.step()
        optimizer.method.anneal()
        assert torch.equal(free, plain)
    assert free not in optimizer.state
    with optimizer.quantized():
        assert torch.equal(free, plain)
        assert torch.equal(tied, levels.nearest(tied))


def test_groups_have_their_own_levels():
    coarse, fine = Levels.binary(), Levels((-0.3, -0.1, 0.1, 0.3))
    a, b = (torch.nn.Parameter(torch.linspace(-1, 1, 9)) for _ in range(2))
    base = torch.optim.SGD([{"params": [a]}, {"params": [b], "levels": fine}], lr=0.1)
    optimizer = QuantizedOptimizer(base, BinaryConnect(coarse))
    for _ in range(5):
        assert set(a.tolist()) <= set(coarse.tensor(a).tolist())
        assert set(b.tolist()) <= set(fine.tensor(b).tolist())
        a.grad, b.grad = torch.ones(9), -0.1 * torch.ones(9)
        optimizer.step()
    with optimizer.latent():
        assert a.abs().max() <= 1 and b.abs().max() <= torch.tensor(0.3)
    with optimizer.quantized():
        assert torch.equal(b, fine.nearest(b)) and len(b.unique()) > 2


def test_groups_have_their_own_learning_rate_in_the_prox():
    a, b = (torch.nn.Parameter(tensor([0.5])) for _ in range(2))
    base = torch.optim.SGD([{"params": [a]}, {"params": [b], "lr": 0.2}], lr=0.1)
    optimizer = QuantizedOptimizer(base, ProxQuant(Levels.binary(), 1.0))
    a.grad, b.grad = torch.zeros_like(a), torch.zeros_like(b)
    optimizer.step()
    assert (a.item(), b.item()) == pytest.approx((0.6, 0.7))


@pytest.mark.parametrize("name", METHODS)
def test_add_param_group(name):
    first, second = (torch.nn.Parameter(torch.linspace(-1.2, 0.9, 5)) for _ in range(2))
    twin = torch.nn.Parameter(second.detach().clone())
    kwargs = {} if name not in DRAWING else {"uniform": lambda w: torch.full_like(w, 0.4)}
    optimizer = QuantizedOptimizer(torch.optim.SGD([first], lr=0.1, momentum=0.9), METHODS[name](**kwargs))
    alone = QuantizedOptimizer(torch.optim.SGD([twin], lr=0.05, momentum=0.9), METHODS[name](**kwargs))
    optimizer.add_param_group({"params": [second], "lr": 0.05})
    assert optimizer.param_groups is optimizer.base.param_groups and len(optimizer.param_groups) == 2
    for k in range(8):
        first.grad = torch.ones(5)
        second.grad, twin.grad = (torch.sin(torch.arange(5.0) + k) for _ in range(2))
        optimizer.step()
        alone.step()
        assert torch.equal(second, twin)


def test_a_group_that_is_refused_is_not_added():
    p, extra = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.full((2,), 0.2))
    optimizer = QuantizedOptimizer(torch.optim.SGD([p], lr=0.1), ASkew(Levels.binary(), PHI, epsilon=0.5))
    with pytest.raises(ValueError, match="0 < epsilon < 0.25"):
        optimizer.add_param_group({"params": [extra], "levels": TERNARY})
    with pytest.raises(TypeError, match="Levels object"):
        optimizer.add_param_group({"params": [extra], "levels": (-1.0, 1.0)})
    with pytest.raises(ValueError, match="alpha"):
        optimizer.add_param_group({"params": [extra], "lr": 1000.0})
    assert len(optimizer.param_groups) == len(optimizer.base.param_groups) == 1
    p.grad = torch.ones(3)
    optimizer.step()
    optimizer.add_param_group({"params": [extra]})
    assert len(optimizer.param_groups) == 2 and torch.equal(extra, torch.full((2,), 0.2))


def test_a_constructor_that_refuses_leaves_the_weights_alone():
    a, b = (torch.nn.Parameter(torch.linspace(-1, 1, 5)) for _ in range(2))
    base = torch.optim.SGD([{"params": [a]}, {"params": [b], "levels": [-1, 1]}], lr=0.1)
    with pytest.raises(TypeError, match="Levels object"):
        QuantizedOptimizer(base, StraightThrough(TERNARY))
    assert torch.equal(a, torch.linspace(-1, 1, 5)) and torch.equal(b, torch.linspace(-1, 1, 5))


# Checkpoints


def resumed(name, base, seed):
    """A model and optimizer made anew, with another initialisation and another random stream."""
    model = network(seed)
    kwargs = {"seed": seed} if name in DRAWING else {}
    groups = [
        {"params": [model[0].weight, model[2].weight]},
        {"params": [model[0].bias, model[2].bias], "quantize": False},
    ]
    return model, QuantizedOptimizer(BASES[base](groups), METHODS[name](**kwargs))


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", METHODS)
def test_a_checkpoint_resumes_exactly(name, base):
    data = batches(14)
    model, optimizer = resumed(name, base, 0)
    train(model, optimizer, data[:7])
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    at_save = without_version(everything(optimizer))
    for group in optimizer.param_groups:
        group["lr"] *= 0.5
    expected = train(model, optimizer, data[7:])

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    model, optimizer = resumed(name, base, 9)
    train(model, optimizer, batches(2, seed=8))  # a past of its own that must leave no trace
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    assert equal(without_version(everything(optimizer)), at_save)
    assert optimizer.param_groups is optimizer.base.param_groups
    assert [g["quantize"] for g in optimizer.param_groups] == [True, False]
    assert all(isinstance(g["levels"], Levels) for g in optimizer.param_groups)
    for group in optimizer.param_groups:
        group["lr"] *= 0.5
    for x, y in zip(train(model, optimizer, data[7:]), expected, strict=True):
        assert same(x, y)
    for group in optimizer.param_groups:  # the live groups were not turned into plain numbers by state_dict()
        assert isinstance(group["levels"], Levels)


def test_a_loaded_checkpoint_shares_no_memory_with_the_run():
    model, optimizer = resumed("SGDA", "momentum", 0)
    train(model, optimizer, batches(3))
    saved = copy.deepcopy(optimizer.state_dict())
    again = copy.deepcopy(saved)
    optimizer.load_state_dict(saved)
    train(model, optimizer, batches(3))
    assert equal(saved, again) and saved["param_groups"][0]["method.t"] == 1
    dual = optimizer.state[model[0].weight]["dual"]
    assert not torch.equal(dual, saved["state"][0]["method.dual"])


def test_the_optimizer_may_be_loaded_before_its_own_model_and_no_other():
    data = batches(4)
    first, optimizer = resumed("Straight-through", "sgd", 0)
    train(first, optimizer, data)
    saved_model, saved = copy.deepcopy(first.state_dict()), copy.deepcopy(optimizer.state_dict())
    train(first, optimizer, data)
    model, optimizer = resumed("Straight-through", "sgd", 1)
    optimizer.load_state_dict(saved)
    model.load_state_dict(saved_model)
    train(model, optimizer, data)
    assert all(map(torch.equal, model.state_dict().values(), first.state_dict().values()))
    model.load_state_dict({name: 1 + w for name, w in model.state_dict().items()})
    with pytest.raises(RuntimeError, match="changed outside"), optimizer.latent():
        pass


def test_a_checkpoint_of_another_shape_is_refused():
    model, optimizer = resumed("SGDA", "sgd", 0)
    other = QuantizedOptimizer(torch.optim.SGD([torch.nn.Parameter(torch.zeros(3))], lr=0.1), SGDA(TERNARY))
    with pytest.raises(ValueError, match="param"):
        other.load_state_dict(optimizer.state_dict())


def test_a_checkpoint_of_another_method_is_refused_before_anything_changes():
    model, optimizer = resumed("Straight-through", "momentum", 0)
    train(model, optimizer, batches(2))
    before = everything(optimizer)
    other = resumed("Full precision", "momentum", 1)[1]
    with pytest.raises(ValueError, match="method FullPrecision.*runs StraightThrough"):
        optimizer.load_state_dict(other.state_dict())
    assert equal(everything(optimizer), before)


@pytest.mark.parametrize("view", ["quantized", "latent"])
def test_loading_inside_a_view_is_refused(view):
    model, optimizer = resumed("Straight-through", "sgd", 0)
    saved = optimizer.state_dict()
    with getattr(optimizer, view)(), pytest.raises(RuntimeError, match=f"{view}.*leave the block"):
        optimizer.load_state_dict(saved)


# Schedulers


@pytest.mark.parametrize("on_wrapper", [True, False])
def test_learning_rate_scheduler(on_wrapper):
    data = batches(9)
    plain, wrapped = network(), network()
    base = BASES["momentum"](wrapped.parameters())
    optimizer = QuantizedOptimizer(base, FullPrecision(TERNARY))
    twin = BASES["momentum"](plain.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schedulers = [torch.optim.lr_scheduler.StepLR(o, 2, 0.5) for o in (optimizer if on_wrapper else base, twin)]
        for batch in data:
            for model, o in ((wrapped, optimizer), (plain, twin)):
                o.zero_grad()
                loss_of(model, batch).backward()
                o.step()
            for scheduler in schedulers:
                scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.05 * 0.5**4
    assert same(weights_of(plain), weights_of(wrapped))


def test_a_scheduler_that_cycles_the_momentum_works_on_the_wrapper():
    p = torch.nn.Parameter(torch.zeros(2))
    optimizer = QuantizedOptimizer(torch.optim.SGD([p], lr=0.1, momentum=0.9), FullPrecision(TERNARY))
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, 10)
    seen = set()
    for _ in range(9):
        p.grad = torch.ones(2)
        optimizer.step()
        scheduler.step()
        seen.add(round(optimizer.base.param_groups[0]["momentum"], 6))
    assert len(seen) > 3


def test_a_learning_rate_that_rises_too_far_is_refused_before_anything_changes():
    p = torch.nn.Parameter(tensor([0.3, 1.2]))
    optimizer = QuantizedOptimizer(torch.optim.SGD([p], lr=0.1, momentum=0.9), ASkew(Levels.binary(), alpha=4.0))
    p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 1.0
    before = everything(optimizer)
    with pytest.raises(ValueError, match="alpha <= 1 at this lr"):
        optimizer.step()
    assert equal(everything(optimizer), before)


def test_annealing_below_the_cap_of_every_group_is_checked_at_the_step():
    p = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match=r"after 1 calls of anneal\(\), epsilon=0.0.*positive"):  # looked at ahead ...
        ASkew(Levels.binary(), epsilon=[0.5, 0.0].__getitem__)
    method = ASkew(Levels.binary(), epsilon=lambda k: 0.5 if k <= 1000 else 0.0)  # ... but not for ever
    optimizer = QuantizedOptimizer(torch.optim.SGD([p], lr=0.1), method)
    for _ in range(1001):
        optimizer.method.anneal()
    p.grad = torch.ones(2)
    with pytest.raises(ValueError, match="epsilon=0.0.*positive"):
        optimizer.step()


def test_a_long_geometric_annealing_goes_on():
    p = torch.nn.Parameter(torch.tensor([-1.1, 0.9]))
    optimizer = QuantizedOptimizer(torch.optim.SGD([p], lr=0.1), ASkew(Levels.binary(), epsilon=Geometric(0.5, 1e-200)))
    for _ in range(400):  # 0.5e-400 would be 0 in floating point
        optimizer.method.anneal()
        p.grad = torch.zeros(2)
        optimizer.step()
    torch.testing.assert_close(p.detach(), torch.tensor([-1.0, 1.0]), rtol=0, atol=0.05)


# Views


@pytest.mark.parametrize("name", METHODS)
def test_quantized_view_is_the_rounded_latent_weights_and_leaves_no_trace(name):
    data = batches(10)
    model, optimizer = resumed(name, "momentum", 0)
    train(model, optimizer, data[:5])
    twin_model, twin = resumed(name, "momentum", 0)
    train(twin_model, twin, data[:5])
    levels = optimizer.method.levels
    before = weights_of(model)
    with optimizer.latent():
        latent = weights_of(model)
    assert same(weights_of(model), before)
    if name in LATENT_IN_PLACE:
        assert same(latent, before)
    with optimizer.quantized():
        for i, (p, w) in enumerate(zip(model.parameters(), latent, strict=True)):
            assert torch.equal(p, w if i in (1, 3) else levels.nearest(w))
            assert i in (1, 3) or torch.isin(p, levels.tensor(p)).all()
        assert torch.isfinite(loss_of(model, data[0]))
    assert same(weights_of(model), before)
    with pytest.raises(KeyError, match="stop"), optimizer.quantized():
        raise KeyError("stop")
    assert same(weights_of(model), before)
    # neither the weights nor any random stream noticed: the next steps are those of the twin
    for x, y in zip(train(model, optimizer, data[5:]), train(twin_model, twin, data[5:]), strict=True):
        assert same(x, y)


@pytest.mark.parametrize("name", LATENT_APART)
def test_between_steps_the_forward_point_lies_on_the_levels(name):
    model, optimizer = resumed(name, "sgd", 0)
    for batch in batches(5):
        for p in (model[0].weight, model[2].weight):
            assert torch.isin(p, optimizer.method.levels.tensor(p)).all()
        with optimizer.latent():
            assert not torch.isin(model[0].weight, optimizer.method.levels.tensor(p)).all()
        train(model, optimizer, [batch])


@pytest.mark.parametrize("view", ["quantized", "latent"])
def test_views_refuse_steps_and_each_other(view):
    model, optimizer = resumed("Modified ASkewSGD", "momentum", 0)
    train(model, optimizer, batches(2))
    before = everything(optimizer)
    with getattr(optimizer, view)():
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        with pytest.raises(RuntimeError, match=f"inside.*{view}.*leave the block"):
            optimizer.step()
        called = []
        with pytest.raises(RuntimeError, match=view):
            optimizer.step(lambda: called.append(1))
        assert not called
        for other in ("quantized", "latent"):
            with pytest.raises(RuntimeError, match=f"already inside.*{view}"), getattr(optimizer, other)():
                pass
    assert equal(everything(optimizer), before)
    optimizer.step()
    assert not equal(everything(optimizer), before)


# Gradients


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", [0, 1])
@pytest.mark.parametrize("name", METHODS)
def test_a_gradient_that_is_not_finite_changes_nothing(name, where, bad):
    model, optimizer = resumed(name, "momentum", 0)
    train(model, optimizer, batches(3))
    before = everything(optimizer)
    loss_of(model, batches(1)[0]).backward()
    with torch.no_grad():
        list(model.parameters())[where].grad.view(-1)[2] = bad
    with pytest.raises(FloatingPointError, match=r"shape \(5.*\) has 1 entries.*no parameter was changed"):
        optimizer.step()
    assert equal(everything(optimizer), before)


@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_after_the_step_is_that_of_the_loss(name):
    model, optimizer = resumed(name, "adam", 0)
    train(model, optimizer, batches(3))
    optimizer.zero_grad()
    loss_of(model, batches(1)[0]).backward()
    grads = [p.grad for p in model.parameters()]
    values = [g.clone() for g in grads]
    optimizer.step()
    for p, grad, value in zip(model.parameters(), grads, values, strict=True):
        assert p.grad is grad and torch.equal(grad, value)


@pytest.mark.parametrize("name", METHODS)
def test_parameters_without_gradient_stay(name):
    a, b = (torch.nn.Parameter(torch.linspace(-1, 1, 5)) for _ in range(2))
    optimizer = QuantizedOptimizer(torch.optim.SGD([a, b], lr=0.1, momentum=0.9), METHODS[name]())
    before = b.detach().clone()
    for _ in range(3):
        a.grad = torch.ones(5)
        optimizer.step()
    assert torch.equal(b, before)
    b.grad = torch.ones(5)
    optimizer.step()
    with optimizer.latent():
        assert not torch.equal(b, torch.linspace(-1, 1, 5))


@pytest.mark.parametrize("name", METHODS)
def test_closure(name):
    data = batches(4)
    a_model, a = resumed(name, "sgd", 0)
    b_model, b = resumed(name, "sgd", 0)
    for batch in data:

        def closure(batch=batch):
            a.zero_grad()
            loss = loss_of(a_model, batch)
            loss.backward()
            return loss

        b.zero_grad()
        expected = loss_of(b_model, batch)
        expected.backward()
        b.step()
        assert torch.equal(a.step(closure), expected)
    assert same(weights_of(a_model), weights_of(b_model))


def test_a_base_that_fails_in_the_middle_leaves_the_gradients_of_the_loss():
    class Breaks(torch.optim.SGD):
        def step(self, closure=None):
            raise ArithmeticError("broken")

    p = torch.nn.Parameter(tensor([0.2, 1.4]))
    optimizer = QuantizedOptimizer(Breaks([p], lr=0.1), ASkew(Levels.binary()))
    p.grad = tensor([1.0, -2.0])
    with pytest.raises(ArithmeticError):
        optimizer.step()
    assert p.grad.tolist() == [1.0, -2.0]


# Weights changed by somebody else


@pytest.mark.parametrize("name", LATENT_APART)
def test_weights_changed_outside_are_noticed_before_anything_happens(name):
    a, b = (torch.nn.Parameter(torch.linspace(-1, 1, 5)) for _ in range(2))
    optimizer = QuantizedOptimizer(torch.optim.SGD([a, b], lr=0.1, momentum=0.9), METHODS[name]())
    for p in (a, b):
        p.grad = torch.ones(5)
    optimizer.step()
    with torch.no_grad():
        b.mul_(-1.0)
    before = everything(optimizer)
    with pytest.raises(RuntimeError, match=r"shape \(5,\) was changed outside"):
        optimizer.step()
    with pytest.raises(RuntimeError, match="changed outside"), optimizer.latent():
        pass
    assert equal(everything(optimizer), before)


@pytest.mark.parametrize("name", LATENT_IN_PLACE)
def test_methods_without_a_second_copy_follow_weights_changed_outside(name):
    p = torch.nn.Parameter(torch.zeros(5))
    optimizer = QuantizedOptimizer(torch.optim.SGD([p], lr=0.1), METHODS[name]())
    with torch.no_grad():
        p.fill_(0.9)
    p.grad = torch.zeros(5)
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.full((5,), 0.9), rtol=0, atol=0.05)


# What the constructor refuses


def test_bad_bases():
    p = torch.nn.Parameter(torch.zeros(2))
    inner = QuantizedOptimizer(torch.optim.SGD([p], lr=0.1), FullPrecision(TERNARY))
    for other in (inner, [p], p):
        with pytest.raises(TypeError, match="ordinary torch optimizer"):
            QuantizedOptimizer(other, FullPrecision(TERNARY))
    with pytest.raises(TypeError, match="Method object.*got.*FullPrecision"):
        QuantizedOptimizer(torch.optim.SGD([p], lr=0.1), FullPrecision)
    with pytest.raises(TypeError, match="LBFGS.*closure"):
        QuantizedOptimizer(torch.optim.LBFGS([p]), FullPrecision(TERNARY))
    with pytest.raises(ValueError, match="maximize"):
        QuantizedOptimizer(torch.optim.SGD([p], lr=0.1, maximize=True), FullPrecision(TERNARY))
    with pytest.raises(ValueError, match="alpha <= 1 at this lr"):
        QuantizedOptimizer(torch.optim.SGD([p], lr=1.0), ASkew(Levels.binary(), alpha=4.0))


def test_a_new_method_needs_one_override():
    class SignDescent(Method):
        def descent(self, grad, w, levels, state, out=None):
            state["count"] = state.get("count", 0) + 1
            return grad.sign()

    p = torch.nn.Parameter(tensor([0.0, 1.0]))
    optimizer = QuantizedOptimizer(torch.optim.SGD([p], lr=0.5), SignDescent(INTEGERS))
    p.grad = tensor([3.0, -0.1])
    optimizer.step()
    assert p.tolist() == [-0.5, 1.5] and optimizer.state_dict()["state"][0] == {"method.count": 1}
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # plain numbers travel, too
    p.grad = tensor([1.0, 1.0])
    optimizer.step()
    assert p.tolist() == [-1.0, 1.0] and optimizer.state[p]["count"] == 2


@pytest.mark.parametrize("elementwise", [False, True])
def test_the_one_slot_for_the_direction_is_used_whether_or_not_it_writes_to_out(elementwise, monkeypatch):
    """A method that ignores `out`, one that fills it, and both in pieces and with a subclass that overrides nothing more."""
    monkeypatch.setattr(base, "CHUNK", 4)

    class Fresh(Method):
        def descent(self, grad, w, levels, state, out=None):
            return 2 * grad + w

    class Filled(Method):
        def descent(self, grad, w, levels, state, out=None):
            return torch.add(w, grad, alpha=2, out=out)

    class Inherited(Filled):
        pass

    slots = [name for name in vars(Method) if name in ("direction", "descent", "velocity")]
    assert slots == ["descent"]
    for kind in (Fresh, Filled, Inherited):
        kind.elementwise = elementwise
        p = torch.nn.Parameter(torch.arange(10.0))
        optimizer = QuantizedOptimizer(torch.optim.SGD([p], lr=0.5), kind(TERNARY))
        p.grad = torch.ones(10)
        optimizer.step()
        assert torch.equal(p, torch.arange(10.0) - 0.5 * (2 + torch.arange(10.0))), kind.__name__
        assert torch.equal(p.grad, torch.ones(10))
