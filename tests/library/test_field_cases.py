"""What people run into with an optimizer: copies, checkpoints of other tools, compiled steps, half precision, decay, switches."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from torch import nn

from helpers import METHODS
from quantized_training import (
    PHI,
    PSI,
    SGDA,
    ASkew,
    BinaryConnect,
    Cosine,
    KBitStraightThrough,
    Levels,
    ProxQuant,
    QuantizedOptimizer,
    StraightThrough,
    late_annealing,
    scale_layers,
)

B = Levels.binary()


def sgd(params, **settings):
    return torch.optim.SGD(params, **({"lr": 0.1} | settings))


def stepped(optimizer, steps=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=rng).to(p.dtype)
        optimizer.step()
    return [p.detach().clone() for p in params]


def same(a, b):
    return all(map(torch.equal, a, b))


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
@pytest.mark.parametrize("name", METHODS)
def test_a_copy_of_the_optimizer_goes_on_by_itself(name, how):
    p = nn.Parameter(torch.linspace(-1.2, 0.9, 6))
    optimizer = QuantizedOptimizer(sgd([p], momentum=0.9), METHODS[name]())
    stepped(optimizer)
    if how == "torch.save":
        torch.save(optimizer, file := io.BytesIO())
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    else:
        twin = copy.deepcopy(optimizer) if how == "deepcopy" else pickle.loads(pickle.dumps(optimizer))
    assert twin.param_groups is twin.base.param_groups and twin.param_groups[0]["params"][0] is not p
    before = p.detach().clone()
    moved = stepped(twin, seed=1)
    assert torch.equal(p, before) and same(stepped(optimizer, seed=1), moved)


@pytest.mark.parametrize("method", [lambda: ASkew(B, epsilon=0.1), lambda: StraightThrough(B)])
def test_a_compiled_step_gives_the_eager_numbers(method):
    p, q = (nn.Parameter(torch.tensor([0.9, 0.1, -0.2])) for _ in range(2))
    a, b = (QuantizedOptimizer(sgd([x]), method()) for x in (p, q))
    step = torch.compile(a.step)
    for _ in range(3):
        p.grad, q.grad = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([1.0, -2.0, 0.5])
        step()
        b.step()
    assert torch.equal(p, q)


@pytest.mark.parametrize("name", METHODS)
def test_the_distributed_checkpoint_takes_the_state(name):
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    def made():
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        return model, QuantizedOptimizer(torch.optim.Adam(model.parameters()), METHODS[name]())

    model, optimizer = made()
    stepped(optimizer)
    state = copy.deepcopy(get_optimizer_state_dict(model, optimizer))
    other, resumed = made()
    other.load_state_dict(model.state_dict())
    set_optimizer_state_dict(other, resumed, state)
    for a, b in zip(resumed.base.state.values(), optimizer.base.state.values(), strict=True):
        assert a["step"] == b["step"] == 3 and torch.equal(a["exp_avg_sq"], b["exp_avg_sq"])
    assert same(stepped(resumed, seed=1), stepped(optimizer, seed=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", METHODS)
def test_a_model_may_be_loaded_after_its_optimizer_where_its_rounding_can_be_told(name, dtype):
    """As torch's set_state_dict does it; other values than the rounding of the latent weights are somebody else's."""
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    def made():
        torch.manual_seed(0)
        model = nn.Linear(30, 2).to(dtype)
        return model, QuantizedOptimizer(sgd(model.parameters(), momentum=0.9), METHODS[name]())

    model, optimizer = made()
    stepped(optimizer)
    weights, state = copy.deepcopy(get_state_dict(model, optimizer))
    other, resumed = made()
    set_state_dict(other, resumed, model_state_dict=weights, optim_state_dict=state)
    if optimizer.method.elementwise or not resumed._apart(other.weight):
        assert same(stepped(resumed, seed=1), stepped(optimizer, seed=1))
        if resumed._apart(other.weight):
            with torch.no_grad():
                other.weight[1, 3] += 2
    if resumed._apart(other.weight):
        with pytest.raises(RuntimeError, match="changed outside.*set_model_state_dict"):
            stepped(resumed)


def test_plain_numbers_and_hooks():
    model = nn.Linear(2, 1)
    optimizer = QuantizedOptimizer(torch.optim.Adam(model.parameters()), BinaryConnect(B))
    stepped(optimizer)
    seen = []
    optimizer.register_state_dict_post_hook(lambda o, state: seen.append(sorted(state)))
    for state in (optimizer.state_dict(), optimizer.base.state_dict()):
        torch.save(state, file := io.BytesIO())
        for options in ({"weights_only": True}, {"weights_only": True, "map_location": "meta"}):
            file.seek(0)
            again = torch.load(file, **options)
    assert len(seen) == 1 and again["param_groups"][0]["levels"] == (-1.0, 1.0)
    optimizer.method.load_state_dict(optimizer.state_dict()["method"])


def test_a_state_of_the_earlier_shape_is_read():
    p, q = (nn.Parameter(torch.tensor([0.4, -0.2])) for _ in range(2))
    optimizer, other = (QuantizedOptimizer(sgd([x], momentum=0.9), StraightThrough(B)) for x in (p, q))
    stepped(optimizer)
    latent = optimizer.state[p]["latent"]
    old = {
        "base": optimizer.base.state_dict(),
        "weights": {0: {"latent": latent}},
        "kind": "StraightThrough",
        "method": {"t": 4},
    }
    with torch.no_grad():
        q.copy_(p)
    other.load_state_dict(copy.deepcopy(old))
    assert other.method.t == 4 and same(stepped(other, seed=2), stepped(optimizer, seed=2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", METHODS)
def test_half_precision_keeps_its_latent_weights_in_float32(name, dtype):
    """The trajectory is that of float32 with the gradients of half precision, and a checkpoint keeps it."""
    start = torch.tensor([0.3, -0.7, 0.9, -0.05]).to(dtype)
    p, q = nn.Parameter(start.clone()), nn.Parameter(start.float())
    half, full = (QuantizedOptimizer(torch.optim.Adam([x], lr=1e-4), METHODS[name]()) for x in (p, q))
    rng = torch.Generator().manual_seed(0)
    for k in range(6):
        p.grad = torch.randn(4, generator=rng).to(dtype)
        q.grad = p.grad.float()
        half.step()
        full.step()
        if k == 3:
            half.load_state_dict(copy.deepcopy(half.state_dict()))
    latent = full.state[q].get("latent", q.detach())
    assert torch.equal(half.state[p]["latent"], latent) and torch.equal(p, q.to(dtype))


@pytest.mark.parametrize("decay", [5e-4, 0.05, 0.5])
@pytest.mark.parametrize(
    "base", [sgd, lambda p, **k: torch.optim.Adam(p, lr=0.01, **k), lambda p, **k: sgd(p, momentum=0.9, **k)]
)
def test_decay_of_the_base_is_the_term_in_the_loss(base, decay):
    p, q = (nn.Parameter(torch.ones(1)) for _ in range(2))
    a = QuantizedOptimizer(base([p], weight_decay=decay), ASkew(B, epsilon=0.01))
    b = QuantizedOptimizer(base([q]), ASkew(B, epsilon=0.01))
    for _ in range(50):
        p.grad, q.grad = torch.zeros(1), decay * q.detach()
        a.step()
        b.step()
    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
    assert a.param_groups[0]["weight_decay"] == decay
    for bad in (torch.optim.AdamW([p]), torch.optim.Adam([p], weight_decay=0.1, decoupled_weight_decay=True)):
        with pytest.raises(ValueError, match="moves weights past the method"):
            QuantizedOptimizer(bad, ASkew(B))


def test_numerics_of_single_roundings():
    assert B.nearest(torch.tensor([float("nan")])).isnan().all()
    p = nn.Parameter(torch.full((2,), 127.0, dtype=torch.bfloat16))
    QuantizedOptimizer(sgd([p]), KBitStraightThrough(8))
    assert p.tolist() == [127.0, 127.0]
    w = torch.full((200_000,), -0.99609375, dtype=torch.bfloat16)  # +1 with probability 1/512
    up = (BinaryConnect(B).forward_point(w, B, {}) > 0).double().mean().item()
    assert abs(up - 1 / 512) < 5 * (1 / 512 / 200_000) ** 0.5
    with pytest.raises(ValueError, match="after 5 calls of anneal"):
        ASkew(B, epsilon=Cosine(0.5, 5))


def test_groups_that_change():
    def run(first):
        p = nn.Parameter(torch.tensor([-0.45, 0.55]))
        optimizer = QuantizedOptimizer(sgd([{"params": [p], "levels": first}], lr=0.05), SGDA(B, 0.05, 0.5, 10))
        p.grad = torch.zeros(2)
        optimizer.step()
        optimizer.param_groups[0]["levels"] = Levels.ternary()
        for _ in range(300):
            p.grad = torch.zeros(2)
            optimizer.step()
        return p.detach()

    torch.testing.assert_close(run(B), run(Levels.ternary()), rtol=0, atol=0.05)
    p = nn.Parameter(torch.tensor([0.3, -0.6]))  # warm-up, then quantised, then free again
    optimizer = QuantizedOptimizer(sgd([{"params": [p], "quantize": False}]), StraightThrough(B))
    for quantize, expected in ((False, [0.2, -0.7]), (True, [1.0, -1.0]), (False, [0.0, -0.9])):
        optimizer.param_groups[0]["quantize"] = quantize
        p.grad = torch.ones(2)
        optimizer.step()
        assert p.tolist() == pytest.approx(expected, abs=1e-6)


def test_another_method_takes_over_the_latent_weights():
    p = nn.Parameter(torch.tensor([0.3, -0.6]))
    optimizer = QuantizedOptimizer(sgd([p]), ASkew(B, epsilon=0.5))
    optimizer.switch(StraightThrough(Levels.ternary()))
    assert p.tolist() == [0.0, -1.0] and optimizer.param_groups[0]["levels"] == Levels.ternary()
    with optimizer.latent():
        assert p.tolist() == pytest.approx([0.3, -0.6])
    with pytest.raises(ValueError, match="alpha"):
        optimizer.switch(ASkew(B, alpha=100.0))
    assert type(optimizer.method) is StraightThrough and p.tolist() == [0.0, -1.0]


def test_the_best_weights_are_looked_at_and_taken():
    model = nn.Linear(50, 1)  # so many that they are not the same signs again
    optimizer = QuantizedOptimizer(sgd(model.parameters()), StraightThrough(B))
    best = copy.deepcopy(model.state_dict())
    stepped(optimizer, 20)
    model.load_state_dict(best)
    with optimizer.quantized():
        assert torch.equal(model.weight, best["weight"])
    with pytest.raises(RuntimeError, match="changed outside.*adopt"):
        optimizer.step()
    optimizer.adopt()
    optimizer.step()
    with pytest.raises(RuntimeError, match="written to"), optimizer.quantized(), torch.no_grad():
        model.weight.zero_()


def test_a_schedule_that_nobody_advances_is_told_once():
    p = nn.Parameter(torch.tensor([0.3]))
    optimizer = QuantizedOptimizer(sgd([p]), ProxQuant(B))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        stepped(optimizer, 1500)
    assert ["anneal()" in str(w.message) for w in said] == [True]


@pytest.mark.parametrize("method", [lambda: ASkew(B, epsilon=0.1), lambda: SGDA(B)])
def test_sparse_gradients_are_named_before_anything_changes(method):
    e, w = nn.Embedding(4, 2, sparse=True), nn.Parameter(torch.tensor([0.5, -0.5]))
    optimizer = QuantizedOptimizer(sgd([w, *e.parameters()]), method())
    w.grad = torch.tensor([1.0, 2.0])
    e(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="1 of group 0.*sparse"):
        optimizer.step()
    assert w.grad.tolist() == [1.0, 2.0] and w.tolist() == [0.5, -0.5]


def weight_norm(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(layer)


@pytest.mark.parametrize(
    "way, how",
    [
        (nn.utils.parametrizations.weight_norm, "_WeightNorm"),
        (nn.utils.parametrizations.spectral_norm, "_SpectralNorm"),
        (nn.utils.parametrizations.orthogonal, "_Orthogonal"),
        (weight_norm, "WeightNorm"),
        (nn.utils.spectral_norm, "SpectralNorm"),
    ],
)
def test_parametrised_weights_are_refused_by_name(way, how):
    layer, plain = way(nn.Linear(4, 4)), nn.Parameter(torch.ones(2))
    before = copy.deepcopy([*layer.state_dict().values(), plain.detach()])
    with pytest.raises(
        TypeError, match=rf"parameter '[\w.]*(original0?|weight_g|weight_orig)' .* by {how}:.*quantize=False"
    ):
        QuantizedOptimizer(sgd([(n, p) for n, p in layer.named_parameters() if n != "bias"]), StraightThrough(B))
    with pytest.raises(TypeError, match=rf"0 of group 0 .* by {how}:"):
        QuantizedOptimizer(sgd([p for p in layer.parameters() if p is not layer.bias]), StraightThrough(B))
    optimizer = QuantizedOptimizer(sgd([plain]), StraightThrough(B))
    rest = [p for n, p in layer.named_parameters() if n != "bias"]
    with pytest.raises(TypeError, match=how):
        optimizer.add_param_group({"params": rest})
    assert len(optimizer.param_groups) == 1 and "quantize" not in rest[0].__dict__
    optimizer.add_param_group({"params": rest, "quantize": False})
    optimizer.param_groups[1]["quantize"] = True
    with pytest.raises(TypeError, match=how):
        optimizer.step()
    assert same(before, [*layer.state_dict().values(), torch.ones(2)])
    QuantizedOptimizer(sgd([layer.bias]), StraightThrough(B))  # the bias is no part of it


def test_a_scale_is_no_parametrisation_of_that_kind_but_one_above_it_is():
    layer = nn.Linear(4, 4)
    scale_layers(layer, B)
    QuantizedOptimizer(sgd(layer.parameters()), StraightThrough(B))
    nn.utils.parametrizations.spectral_norm(layer)
    with pytest.raises(TypeError, match="_SpectralNorm"):
        QuantizedOptimizer(sgd(layer.parameters()), StraightThrough(B))


@pytest.mark.parametrize("base", [sgd, lambda p: torch.optim.Adam(p)])
@pytest.mark.parametrize("name", METHODS)
def test_a_state_without_one_of_its_entries_is_refused_by_name(name, base):
    optimizer = QuantizedOptimizer(
        base([nn.Parameter(torch.tensor([0.5, -0.5])), nn.Parameter(torch.ones(1))]), METHODS[name]()
    )
    stepped(optimizer)
    for missing in optimizer.state[optimizer.param_groups[0]["params"][0]]:
        state = optimizer.state_dict()
        before = copy.deepcopy(state)
        del state["state"][0]["method." + missing]
        with pytest.raises(ValueError, match=f"lacks method.{missing} of parameter 0 of group 0"):
            optimizer.load_state_dict(state)
        assert same(everything(optimizer.state_dict()), everything(before))
        optimizer.load_state_dict(before)


def everything(state):
    return [v for entries in state["state"].values() for v in entries.values()]


def test_the_warning_that_nothing_is_annealed_points_to_the_caller():
    p = nn.Parameter(torch.tensor([0.5]))
    optimizer = QuantizedOptimizer(sgd([p]), ProxQuant(B))
    p.grad = torch.zeros(1)
    with pytest.warns(UserWarning, match="ProxQuant: 1000 steps without.*stands still") as said:
        for _ in range(1001):
            optimizer.step()
    assert [w.filename for w in said] == [__file__]


@pytest.mark.parametrize("constraint", [PHI, PSI])
def test_askew_s_default_trains_freely_until_the_first_anneal(constraint):
    levels, grads = Levels.ternary(), torch.randn(50, 40, generator=torch.Generator().manual_seed(0))
    plain, mine = (nn.Parameter(torch.linspace(-1, 1, 40)) for _ in range(2))
    sgd_, method = sgd([plain]), ASkew(levels, constraint, alpha=2.0)
    optimizer = QuantizedOptimizer(sgd([mine]), method)
    for g in 0.01 * grads:
        plain.grad, mine.grad = g, g.clone()
        sgd_.step()
        optimizer.step()
    inside = plain.detach().abs() <= 1
    assert torch.equal(mine[inside], plain[inside])
    assert method.epsilon == constraint.largest_epsilon(levels)
    before = optimizer.progress().distance
    for k in range(1, 500):
        method.anneal()
        assert method.epsilon == pytest.approx(0.95**k * constraint.largest_epsilon(levels))
    for _ in range(500):
        mine.grad = torch.zeros(40)
        optimizer.step()
    assert optimizer.progress().distance < 0.01 < 0.3 < before


def test_late_annealing_is_free_for_three_quarters_and_ends_where_leconte_s_does():
    schedule = late_annealing(PSI, B, steps=400)
    assert {schedule(k) for k in range(301)} == {1.0} and schedule(301) < 1
    assert schedule(400) == pytest.approx(0.88**50)
    assert late_annealing(PHI, Levels.ternary(), 10, start=0)(10) == pytest.approx(0.25 * 0.88**50)
    for bad in ({"steps": 0}, {"steps": 2.5}, {"steps": 5, "start": -1}, {"steps": 5, "start": 0.75}):
        with pytest.raises((TypeError, ValueError), match="allowed is"):
            late_annealing(PHI, B, **bad)


@pytest.mark.parametrize("name", METHODS)
def test_a_distributed_checkpoint_on_disk_is_resumed_from(name, tmp_path):
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_model_state_dict, set_optimizer_state_dict

    def made():
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        return model, QuantizedOptimizer(torch.optim.Adam(model.parameters()), METHODS[name]())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of a single process
        model, optimizer = made()
        stepped(optimizer)
        optimizer.method.anneal()
        state = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
        checkpoint.save(state, checkpoint_id=tmp_path)
        other, resumed = made()
        state = dict(zip(("model", "optimizer"), get_state_dict(other, resumed), strict=True))
        checkpoint.load(state, checkpoint_id=tmp_path)
        if not METHODS[name]().forward_is_latent and not METHODS[name]().elementwise:  # a draw cannot be told again
            set_optimizer_state_dict(other, resumed, state["optimizer"])
            set_model_state_dict(other, state["model"])
            with pytest.raises(RuntimeError, match="after the model's own"):
                stepped(resumed)
        set_model_state_dict(other, state["model"])
        set_optimizer_state_dict(other, resumed, state["optimizer"])
    assert resumed.method.t == 1 and same(stepped(resumed, seed=1), stepped(optimizer, seed=1))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", ["ASkewSGD", "Straight-through", "SGDA", "BinaryConnect"])
def test_a_compiled_training_step_gives_the_eager_numbers(name, backend):
    x, ends = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = QuantizedOptimizer(
            sgd(model.parameters()), METHODS[name](**({"seed": 1} if name == "BinaryConnect" else {}))
        )

        def train(x, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()

        train = torch.compile(train, backend=backend) if compiled else train
        for _ in range(3):
            train(x)
        ends.append([p.detach() for p in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*ends, strict=True))
