"""BAMSProd against plain Python, torch's optimizers and AMSBound; units, resuming, and what they refuse."""

import copy
import io
import itertools
import math
import os
import subprocess
import sys

import pytest
import torch
import torch.distributed
from pytorch_optimizer import AdaBound

from helpers import quantisation_error, tensor
from quantized_training import BinaryConnect, FullPrecision, Levels, QuantizedOptimizer, StraightThrough
from quantized_training.adaptive import BAMSProd, Falling, Rising

INF = math.inf
SHAPES = ((4, 3), (5,), ())  # the last has one weight, whose quantisation error is 0


def start(shapes=SHAPES, seed=0, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(s, generator=rng, dtype=torch.float64).to(dtype)) for s in shapes]


def gradients(steps, shapes=SHAPES, seed=1, scale=1.0, dtype=torch.float64):
    """Weights of very different gradient sizes, and now and then a gradient of 0."""
    rng = torch.Generator().manual_seed(seed)
    sizes = [torch.logspace(-2, 1, max(math.prod(s), 1), dtype=torch.float64).reshape(s) for s in shapes]
    for _ in range(steps):
        drawn = [torch.randn(s, generator=rng, dtype=torch.float64) for s in shapes]
        keep = [torch.rand(s, generator=rng, dtype=torch.float64) > 0.1 for s in shapes]
        yield [(scale * x * z * k).to(dtype) for x, z, k in zip(drawn, sizes, keep, strict=True)]


def walk(optimizer, params, data):
    """The weights after every step."""
    for grads in data:
        for p, g in zip(params, grads, strict=True):
            p.grad = None if g is None else g.clone()
        optimizer.step()
        yield [p.detach().clone() for p in params]


def flat(path):
    return torch.stack([torch.cat([x.reshape(-1) for x in weights]) for weights in path])


def run(make, steps=40, **data):
    params = start(dtype=data.get("dtype", torch.float64))
    return flat(walk(make(params), params, gradients(steps, **data)))


# Algorithm 1, one weight after the other


def algorithm_1(
    weights, data, lr, beta1, beta2, eps, lower, upper, target=None, least=0.05, box=INF, decay=True, clips=None
):
    """One tensor as a list of floats; yields the weights after every step. `clips` collects where v^ was clipped."""
    n, w = len(weights), list(weights)
    m, v, vhat = [0.0] * n, [0.0] * n, [0.0] * n
    c, errors = 0.0, []
    for t, g in enumerate(data, 1):
        alpha = sum(abs(x) for x in w) / n
        error = sum((x - math.copysign(alpha, x)) ** 2 for x in w)
        errors.append(math.sqrt(error) / math.sqrt(sum(x * x for x in w)))
        for i in range(n):
            m[i] = beta1 * m[i] + (1 - beta1) * g[i]
            v[i] = beta2 * v[i] + (1 - beta2) * g[i] ** 2
            vhat[i] = max(v[i], vhat[i])
        c = max(c, sum(vhat) / n * max(sum(errors) / t, least))
        c_l, c_u = ((c if target is None else target) * bound(t) for bound in (lower, upper))
        for i in range(n):
            tilde = c_l if vhat[i] < c_l else c_u if vhat[i] > c_u else vhat[i]
            if clips is not None:
                clips.append((vhat[i] > tilde) - (vhat[i] < tilde))
            eta = lr / math.sqrt(t) if decay else lr
            w[i] = min(box, max(-box, w[i] - eta * m[i] / (math.sqrt(tilde) + eps)))
        yield list(w)


SETTINGS = {
    "default": dict(),
    "fast bounds": dict(lower=Rising(0.2), upper=Falling(0.2)),
    "lower clip only": dict(lower=Rising(0.2), upper=lambda t: INF, target=2.0),
    "upper clip only": dict(lower=lambda t: 0.0, upper=Falling(10.0), target=0.05),
    "fixed bounds": dict(lower=lambda t: 0.5, upper=lambda t: 2.0, target=0.1),
    "no clip": dict(lower=lambda t: 0.0, upper=lambda t: INF),
    "one bound": dict(lower=lambda t: 1.0, upper=lambda t: 1.0),
    "box, constant step": dict(lower=Rising(0.1), upper=Falling(0.1), box=0.7, decay=False),
    "least error": dict(lower=Rising(0.2), upper=Falling(0.2), least=0.9),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("beta1, beta2", [(0.9, 0.999), (0.0, 0.5)])
def test_algorithm_1(name, beta1, beta2):
    settings = {"lower": Rising(1e-3), "upper": Falling(1e-3), **SETTINGS[name]}
    params, data, steps = start(), list(gradients(40)), 40
    optimizer = BAMSProd(
        params,
        lr=0.1,
        betas=(beta1, beta2),
        eps=1e-6,
        sqrt_decay=settings.get("decay", True),
        least_error=settings.get("least", 0.05),
        **{k: v for k, v in settings.items() if k not in ("decay", "least")},
    )
    clips, expected = [], []
    for i, p in enumerate(params):
        numbers = [grads[i].reshape(-1).tolist() for grads in data]
        w = p.detach().reshape(-1).tolist()
        expected.append(list(algorithm_1(w, numbers, 0.1, beta1, beta2, 1e-6, **settings, clips=clips)))
    expected = tensor([list(itertools.chain(*(e[k] for e in expected))) for k in range(steps)])
    torch.testing.assert_close(flat(walk(optimizer, params, data)), expected, rtol=1e-11, atol=1e-13)
    seen = {"lower clip only": {-1, 0}, "upper clip only": {0, 1}, "no clip": {0}}.get(name)
    if seen is not None:
        assert set(clips) == seen
    if name in ("fast bounds", "fixed bounds"):
        assert set(clips) == {-1, 0, 1}


def test_a_gradient_that_is_missing_does_not_count_as_a_step():
    """Parameters of one group may be at different steps."""
    settings = dict(lr=0.1, lower=Rising(0.2), upper=Falling(0.2))
    a, b, data = start(), start(), list(gradients(8))
    expected = flat(walk(BAMSProd(a, **settings), a, data))[-1]
    late = [[None, *g[1:]] for g in data[:3]]
    late += [[g[0], *h[1:]] for g, h in zip(data, data[3:], strict=False)]
    late += [[g[0], None, None] for g in data[-3:]]
    optimizer = BAMSProd(b, **settings)
    torch.testing.assert_close(flat(walk(optimizer, b, late))[-1], expected, rtol=1e-13, atol=0)
    assert [optimizer.state[p]["step"] for p in b] == [8, 8, 8]


def test_the_measured_error_and_limit():
    """The state is what the docstring says: rho_t the mean over the steps of the error at w_t, c_t from it and v^_t."""
    params = start()
    optimizer = BAMSProd(params, lr=0.3)
    before, errors, limit = [p.detach().clone() for p in params], [], [0.0] * 3
    for k, weights in enumerate(walk(optimizer, params, gradients(30)), 1):
        errors.append([quantisation_error(w) for w in before])
        before = weights
        for i, p in enumerate(params):
            s = optimizer.state[p]
            rho = sum(e[i] for e in errors) / k
            assert s["error"] == pytest.approx([rho], rel=1e-12, abs=1e-7)
            limit[i] = max(limit[i], float(s["max_exp_avg_sq"].mean()) * max(rho, 0.05))
            assert s["target"] == pytest.approx([limit[i]], rel=1e-12)
    assert optimizer.state[params[2]]["error"] == [0.0] and limit[2] > 0


def test_the_quantisation_error_is_that_of_the_best_scale():
    rng = torch.Generator().manual_seed(0)
    w = torch.randn(200_000, generator=rng)
    best = min(torch.linspace(0.5, 1.1, 601), key=lambda a: float((w - a * w.sign()).norm()))
    direct = float((w - best * w.sign()).norm() / w.norm())
    assert direct == pytest.approx(quantisation_error(w), rel=1e-5)
    assert best == pytest.approx(float(w.abs().mean()), abs=1e-3)
    uniform, binary = torch.rand(200_000, generator=rng) - 0.5, torch.tensor([0.3, -0.3, 0.3])
    expected = [math.sqrt(1 - 2 / math.pi), 0.5, 0.0, 0.0]
    optimizer = BAMSProd([torch.nn.Parameter(x) for x in (w, uniform, binary, torch.zeros(3))], lr=0.0)
    for p in optimizer.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    optimizer.step()
    found = [s["error"][0] for s in optimizer.state.values()]
    assert found == pytest.approx(expected, abs=3e-3)


def test_the_measured_error_of_millions_of_float32_weights():
    """One float32 norm over all of them would be off by a thousandth."""
    w = torch.nn.Parameter(torch.randn(3_000_000, generator=torch.Generator().manual_seed(0)) + 1)
    optimizer = BAMSProd([w], lr=0.0)
    w.grad = torch.ones_like(w)
    optimizer.step()
    assert optimizer.state[w]["error"][0] == pytest.approx(quantisation_error(w), rel=1e-4)
    assert optimizer.state[w]["target"][0] == pytest.approx(1e-3 * optimizer.state[w]["error"][0], rel=1e-5)


# What it becomes at the ends


@pytest.mark.parametrize("no_bounds", [dict(lower=0.0, upper=INF), dict(lower=0.0, upper=INF, target=7.0)])
def test_without_bounds_it_is_torch_s_amsgrad_bit_for_bit_where_adam_corrects_nothing(no_bounds):
    """With beta1 = beta2 = 0 Adam's corrections 1 - beta^t are 1."""
    ours = run(lambda p: BAMSProd(p, lr=0.1, betas=(0.0, 0.0), sqrt_decay=False, **no_bounds))
    adam = run(lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.0, 0.0), amsgrad=True, foreach=True))
    assert torch.equal(ours, adam)


@pytest.mark.parametrize("quantize", [True, False])
def test_without_bounds_it_is_torch_s_amsgrad_with_its_bias_correction_undone(quantize):
    """Adam's step is lr / (1 - beta1^t) m / (sqrt(v^ / (1 - beta2^t)) + eps): an lr per step undoes both, eps = 0 the rest."""
    b1, b2, t = 0.9, 0.999, 0
    params, data = start(), list(gradients(40))
    adam = torch.optim.Adam(params, betas=(b1, b2), eps=0.0, amsgrad=True)
    theirs = []
    for grads in data:
        t += 1
        adam.param_groups[0]["lr"] = 0.01 / math.sqrt(t) * (1 - b1**t) / math.sqrt(1 - b2**t)
        theirs += walk(adam, params, [[g + 1e-9 for g in grads]])
    params = start()
    no_bounds = dict(lower=0.0, upper=INF) if quantize else {}
    ours = BAMSProd([{"params": params, "quantize": quantize}], lr=0.01, betas=(b1, b2), eps=0.0, **no_bounds)
    ours = walk(ours, params, [[g + 1e-9 for g in grads] for grads in data])
    torch.testing.assert_close(flat(ours), flat(theirs), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("decay", [True, False])
def test_with_one_bound_it_is_sgd_with_momentum(decay):
    """step eta / sqrt(c), momentum and dampening beta1; torch starts its average at g_1, so the first gradient is 0."""
    data = [[torch.zeros(s, dtype=torch.float64) for s in SHAPES], *gradients(30)]
    params = start()
    ours = BAMSProd(params, lr=0.1, betas=(0.9, 0.999), eps=0.0, lower=1.0, upper=1.0, target=6.25, sqrt_decay=decay)
    ours = flat(walk(ours, params, data))
    params = start()
    sgd, theirs = torch.optim.SGD(params, lr=1.0, momentum=0.9, dampening=0.9), []
    for t, grads in enumerate(data, 1):
        sgd.param_groups[0]["lr"] = 0.1 / 2.5 / (math.sqrt(t) if decay else 1)
        theirs += walk(sgd, params, [grads])
    torch.testing.assert_close(ours, flat(theirs), rtol=1e-12, atol=1e-14)


def test_where_the_default_bounds_end_every_weight_of_a_tensor_has_the_same_step():
    params = start(((4, 3),))
    optimizer = BAMSProd(params, lr=0.1, betas=(0.0, 0.9), eps=0.0, lower=Rising(1e9), upper=Falling(1e9))
    before = params[0].detach().clone()
    for k, (grads, (after,)) in enumerate(
        zip(gradients(10, ((4, 3),)), walk(optimizer, params, gradients(10, ((4, 3),))), strict=True), 1
    ):
        step = 0.1 / math.sqrt(k * optimizer.state[params[0]]["target"][0])
        torch.testing.assert_close(before - after, step * grads[0], rtol=1e-6, atol=1e-12)
        before = after


def amsbound(w, data, lr, final, gamma, beta1, beta2):
    """Luo et al. (2019), Algorithm 3, for one weight."""
    m = v = vhat = 0.0
    for t, g in enumerate(data, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        vhat = max(vhat, v)
        rate = min(max(lr / math.sqrt(vhat), final * (1 - 1 / (gamma * t + 1))), final * (1 + 1 / (gamma * t)))
        w -= rate / math.sqrt(t) * m
        yield w


def test_amsbound_is_a_setting():
    lr, final, gamma = 0.02, 0.1, 0.1
    rng = torch.Generator().manual_seed(0)
    data = torch.randn(60, 6, generator=rng, dtype=torch.float64) * torch.logspace(-3, 2, 6, dtype=torch.float64)
    (p,) = params = start(((6,),))
    expected = [
        list(amsbound(w, g, lr, final, gamma, 0.9, 0.99)) for w, g in zip(p.tolist(), data.T.tolist(), strict=True)
    ]
    optimizer = BAMSProd(
        params,
        lr=lr,
        betas=(0.9, 0.99),
        eps=0.0,
        target=(lr / final) ** 2,
        lower=lambda t: (gamma * t / (gamma * t + 1)) ** 2,
        upper=lambda t: ((gamma * t + 1) / (gamma * t)) ** 2,
    )
    ours = flat(walk(optimizer, params, [[g] for g in data]))
    torch.testing.assert_close(ours, tensor(expected).T, rtol=1e-12, atol=1e-14)


def luo(w, data, lr, final, gamma, beta1, beta2, ams):
    """AdaBound as in its authors' code, for one weight: no 1/sqrt(t), and Adam's bias correction of the step."""
    m = v = largest = 0.0
    for t, g in enumerate(data, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        largest = max(largest, v)
        rate = lr * math.sqrt(1 - beta2**t) / (1 - beta1**t) / (math.sqrt(largest if ams else v) + 1e-8)
        w -= min(max(rate, final * (1 - 1 / (gamma * t + 1))), final * (1 + 1 / (gamma * t))) * m
        yield w


@pytest.mark.parametrize("ams", [False, True])
@pytest.mark.parametrize("quantized", [False, True])
def test_the_package_s_adabound(ams, quantized):
    """The baseline of the experiments, from pytorch-optimizer, alone and inside `QuantizedOptimizer`."""
    rng = torch.Generator().manual_seed(0)
    data = torch.randn(60, 6, generator=rng, dtype=torch.float64) * torch.logspace(-3, 2, 6, dtype=torch.float64)
    (p,) = params = start(((6,),))
    setting = {"lr": 0.02, "final_lr": 0.1, "gamma": 0.1}
    expected = [
        list(luo(w, g, 0.02, 0.1, 0.1, 0.9, 0.99, ams)) for w, g in zip(p.tolist(), data.T.tolist(), strict=True)
    ]
    optimizer = AdaBound(params, betas=(0.9, 0.99), ams_bound=ams, **setting)
    if quantized:
        optimizer = QuantizedOptimizer(optimizer, FullPrecision(Levels.binary()))
    ours = flat(walk(optimizer, params, [[g] for g in data]))
    torch.testing.assert_close(ours, tensor(expected).T, rtol=1e-9, atol=1e-9)


# Schedules


@pytest.mark.parametrize("rate", [1e-4, 1e-3, 0.1, 3.0])
def test_default_schedules(rate):
    low, high, times = Rising(rate), Falling(rate), range(1, 3000)
    assert low(0) == 0 and high(0) == INF
    assert low(10**9) == pytest.approx(1, abs=1e-4) and high(10**9) == pytest.approx(1, abs=1e-4)
    for t in times:
        assert 0 < low(t) <= low(t + 1) < 1 < high(t + 1) <= high(t)
        assert t * high(t) < (t + 1) * high(t + 1)
    assert high(10 / rate) == pytest.approx(1.1)


def test_amsbound_s_schedule_breaks_the_condition_until_1_over_gamma():
    values = [t * Falling(0.01)(t) ** 2 for t in range(1, 200)]
    assert all(a > b for a, b in zip(values[:99], values[1:100], strict=True))
    assert all(a < b for a, b in zip(values[99:], values[100:], strict=False))


def test_t_times_the_clipped_moment_never_decreases():
    """What the telescoping sum of Theorem 4 needs, on gradients whose size comes and goes."""
    params = start()
    optimizer = BAMSProd(params, lr=0.3, betas=(0.9, 0.9), lower=Rising(0.05), upper=Falling(0.05))
    last, clipped = [torch.zeros(s, dtype=torch.float64) for s in SHAPES], set()
    data = [[g * (1 + 9 * (t % 40 < 3)) for g in grads] for t, grads in enumerate(gradients(200))]
    for t, _ in enumerate(walk(optimizer, params, data), 1):
        for i, p in enumerate(params):
            s = optimizer.state[p]
            now = t * s["max_exp_avg_sq"].clamp(*optimizer.bounds(s["target"][0], t))
            assert (now >= last[i] * (1 - 1e-14)).all()
            clipped |= set((now / t - s["max_exp_avg_sq"]).sign().reshape(-1).tolist())
            last[i] = now
    assert clipped == {-1.0, 0.0, 1.0}


# Units


@pytest.mark.parametrize("target", [None, 0.3])
@pytest.mark.parametrize("k", [2.0**12, 2.0**-9])
def test_scaling_the_loss_changes_nothing(k, target):
    settings = dict(lr=0.1, lower=Rising(0.1), upper=Falling(0.1))
    ours = run(lambda p: BAMSProd(p, eps=1e-6, target=target, **settings))
    scaled = run(lambda p: BAMSProd(p, eps=1e-6 * k, target=target and target * k**2, **settings), scale=k)
    assert torch.equal(ours, scaled)  # a power of 2 rounds nothing
    if target is not None:
        assert not torch.allclose(ours, run(lambda p: BAMSProd(p, eps=1e-6 * k, target=target, **settings), scale=k))


def test_scaling_the_weights_scales_the_path():
    k = 2.0**5
    settings = dict(lower=Rising(0.1), upper=Falling(0.1))
    ours = run(lambda p: BAMSProd(p, lr=0.1, eps=1e-6, box=1.0, **settings))
    params = start()
    with torch.no_grad():
        for p in params:
            p.mul_(k)
    scaled = BAMSProd(params, lr=0.1 * k, eps=1e-6 / k, box=k, **settings)
    assert torch.equal(flat(walk(scaled, params, gradients(40, scale=1 / k))), k * ours)


# A torch optimizer


def test_stacked_runs_are_independent():
    shapes = ((4, 3), (5,))
    settings = dict(lr=0.1, lower=Rising(0.1), upper=Falling(0.1))
    single = [start(shapes, seed) for seed in range(3)]
    data = [list(gradients(20, shapes, seed, scale=4.0**seed)) for seed in range(3)]
    paths = [list(walk(BAMSProd(p, **settings), p, d)) for p, d in zip(single, data, strict=True)]
    stacked = [torch.nn.Parameter(torch.stack([start(shapes, s)[i].detach() for s in range(3)])) for i in range(2)]
    together = [[torch.stack(g) for g in zip(*grads, strict=True)] for grads in zip(*data, strict=True)]
    optimizer = BAMSProd(stacked, ensemble=True, **settings)
    for k, weights in enumerate(walk(optimizer, stacked, together)):
        for i, w in enumerate(weights):
            torch.testing.assert_close(w, torch.stack([path[k][i] for path in paths]), rtol=1e-12, atol=1e-14)
    assert len(set(optimizer.state[stacked[0]]["target"])) == 3


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True)


SHARDED = """
import sys, torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from quantized_training.adaptive import BAMSProd

def run(shard):
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 5, dtype=torch.float64)
    if shard:
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    optimizer = BAMSProd(model.parameters(), lr=0.1, box=0.3)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(8, 6, dtype=torch.float64)).square().mean().backward()
        optimizer.step()
    return model.weight.detach(), optimizer.state[model.weight]["target"][0]

torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=int(sys.argv[2]), world_size=2)
(w, c), (sharded, d) = run(False), run(True)
assert sharded.to_local().numel() < w.numel()
torch.testing.assert_close(sharded.full_tensor(), w, rtol=1e-12, atol=1e-14)
assert abs(c - d) < 1e-12 * c
dist.destroy_process_group()
"""


@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="this torch has no gloo"
)
def test_bounds_of_sharded_parameters_are_those_of_the_whole_ones(tmp_path):
    command = [sys.executable, "-c", SHARDED, str(tmp_path / "store")]
    env = {"GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0", **os.environ}
    ranks = [subprocess.Popen([*command, str(r)], stderr=subprocess.PIPE, text=True, env=env) for r in range(2)]
    try:
        errors = [p.communicate(timeout=600)[1] for p in ranks]
    finally:
        for p in ranks:
            p.kill()
    assert [p.returncode for p in ranks] == [0, 0], errors


OPTIMIZERS = {
    "BAMSProd": lambda p: BAMSProd(p, lr=0.05, lower=Rising(0.1), upper=Falling(0.1)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resuming_is_exact(name, dtype):
    data = list(gradients(20, dtype=dtype))
    params = start(dtype=dtype)
    optimizer = OPTIMIZERS[name](params)
    list(walk(optimizer, params, data[:8]))
    saved, weights = through_a_file(optimizer.state_dict()), [p.detach().clone() for p in params]
    copied = copy.deepcopy(optimizer)
    rest = flat(walk(optimizer, params, data[8:]))
    again = [torch.nn.Parameter(w) for w in weights]
    resumed = OPTIMIZERS[name](again)
    resumed.load_state_dict(saved)
    assert torch.equal(flat(walk(resumed, again, data[8:])), rest)
    assert torch.equal(flat(walk(copied, copied.param_groups[0]["params"], data[8:])), rest)
    assert not torch.equal(rest[0], rest[-1])


def test_groups_have_settings_of_their_own():
    a, b, c = start(((4, 3),)), start(((4, 3),)), start(((4, 3),))
    data = list(gradients(20, ((4, 3),)))
    alone = [flat(walk(BAMSProd(a, lr=0.1), a, data)), flat(walk(BAMSProd(b, lr=0.2, target=0.1, box=0.5), b, data))]
    d = start(((4, 3),))
    both = BAMSProd([{"params": c}, {"params": d, "lr": 0.2, "target": 0.1, "box": 0.5}], lr=0.1)
    path = list(walk(both, c + d, [g * 2 for g in data]))
    assert torch.equal(flat([w[:1] for w in path]), alone[0]) and torch.equal(flat([w[1:] for w in path]), alone[1])


def test_schedulers_and_closures():
    (p,) = params = start(((6,),))
    optimizer = BAMSProd(params, lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
    for _ in range(4):

        def closure():
            optimizer.zero_grad()
            loss = (p**2).sum()
            loss.backward()
            return loss

        assert optimizer.step(closure) > 0
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_sparse_gradients_are_refused():
    (p,) = params = start(((6,),))
    before = p.detach().clone()
    p.grad = torch.ones(6, dtype=torch.float64).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        BAMSProd(params).step()
    assert torch.equal(p, before)


def test_nan_spoils_one_weight_as_in_adam_and_its_tensor_where_the_bounds_are_measured():
    data = list(gradients(6))
    data[2][0][0, 0] = math.nan
    paths = {}
    for name, make in {
        "adam": lambda p: torch.optim.Adam(p, amsgrad=True),
        "fixed": lambda p: BAMSProd(p, target=1.0),
        "measured": lambda p: BAMSProd(p),
    }.items():
        params = start()
        list(walk(make(params), params, data))
        paths[name] = [p.isnan().detach() for p in params]
    assert all(torch.equal(a, b) for a, b in zip(paths["adam"], paths["fixed"], strict=True))
    assert paths["adam"][0].sum() == 1
    assert paths["measured"][0].all() and not paths["measured"][1].any()


def test_gradients_and_their_memory_are_left_alone():
    params = start()
    optimizer = BAMSProd(params)
    for p, g in zip(params, next(iter(gradients(1))), strict=True):
        p.grad = g.clone()
    grads = [p.grad for p in params]
    values = [g.clone() for g in grads]
    optimizer.step()
    assert all(p.grad is g and torch.equal(g, v) for p, g, v in zip(params, grads, values, strict=True))


def test_a_tensor_without_weights_or_of_zeros():
    params = [torch.nn.Parameter(torch.zeros(0)), torch.nn.Parameter(torch.zeros(3))]
    optimizer = BAMSProd(params, lr=0.1)
    for grad in (0.0, 1.0):
        for p in params:
            p.grad = torch.full_like(p, grad)
        optimizer.step()
        assert params[1].isfinite().all()
    assert (params[1] < 0).all()


# What the constructors refuse


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(lr=-1.0), r"lr=-1.0: allowed is 0 <= lr < inf"),
        (dict(lr=math.nan), r"lr=nan: allowed"),
        (dict(betas=(1.0, 0.9)), r"betas=\(1.0, 0.9\): allowed is 0 <= beta < 1"),
        (dict(betas=(0.9, -0.1)), r"betas=\(0.9, -0.1\): allowed"),
        (dict(eps=-1e-8), r"eps=-1e-08: allowed is 0 <= eps < inf"),
        (dict(target=0.0), r"target=0.0: allowed is None \(measured\) or 0 < target < inf"),
        (dict(target=INF), r"target=inf: allowed"),
        (dict(least_error=0.0), r"least_error=0.0: allowed is 0 < least_error <= 1"),
        (dict(box=0.0), r"box=0.0: allowed is box > 0"),
        (dict(ensemble=True), r"ensemble=True needs parameters whose first dimension"),
    ],
)
def test_bamsprod_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        BAMSProd(start(), **settings)
    optimizer = BAMSProd(start(((2,),)))
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": start(((),)), **settings})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("lower, upper", [(2.0, 1.0), (-0.1, 1.0), (0.0, math.nan)])
def test_an_empty_interval_is_refused_before_anything_changes(lower, upper):
    params = start()
    optimizer = BAMSProd(params, lower=lower, upper=upper)
    with pytest.raises(ValueError, match=r"lower\(1\)=.*upper\(1\)=.*allowed is 0 <= lower <= upper"):
        list(walk(optimizer, params, gradients(1)))
    assert all(torch.equal(p, q) for p, q in zip(params, start(), strict=True))
    assert all(optimizer.state[p]["step"] == 0 and not optimizer.state[p]["exp_avg"].any() for p in params)


@pytest.mark.parametrize("schedule", [Rising, Falling])
@pytest.mark.parametrize("rate", [0.0, -1.0, INF])
def test_schedules_refuse(schedule, rate):
    with pytest.raises(ValueError, match=f"rate={rate}: it must be a positive finite number"):
        schedule(rate)


# Under QuantizedOptimizer

METHODS = {
    "straight_through": StraightThrough,
    "binary_connect": BinaryConnect,
    "binary_connect_nearest": lambda levels: BinaryConnect(levels, stochastic=False),
}


def problem(scale):
    """Least squares whose solution is binary: 8 weights of size `scale` and a bias."""
    rng = torch.Generator().manual_seed(0)
    X = torch.randn(64, 8, generator=rng, dtype=torch.float64)
    truth = scale * torch.randn(8, generator=rng, dtype=torch.float64).sign()
    start = scale * (torch.rand(8, generator=rng, dtype=torch.float64) - 0.5)
    return X, X @ truth + 0.3 * scale, truth, start


@pytest.mark.parametrize("scale", [1.0, 0.05])
@pytest.mark.parametrize("name", METHODS)
def test_under_quantized_optimizer(name, scale):
    X, y, truth, initial = problem(scale)
    levels = Levels.binary().scaled(scale)

    def new():
        w = torch.nn.Parameter(initial.clone())
        b = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
        base = BAMSProd(
            [{"params": [w]}, {"params": [b], "quantize": False}], lr=0.3 * scale, lower=Rising(0.1), upper=Falling(0.1)
        )
        return w, b, QuantizedOptimizer(base, METHODS[name](levels))

    def loss(w, b):
        return ((X @ w + b - y) ** 2).mean()

    def train(w, b, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            loss(w, b).backward()
            optimizer.step()
            assert set(w.tolist()) <= set(levels.values)

    w, b, optimizer = new()
    with optimizer.quantized():
        first = float(loss(w, b).detach())
    train(w, b, optimizer, 60)
    saved = through_a_file(optimizer.state_dict())
    resumed_w, resumed_b, resumed = new()
    with torch.no_grad():  # what the model's state_dict carries
        resumed_w.copy_(w)
        resumed_b.copy_(b)
    resumed.load_state_dict(saved)
    train(w, b, optimizer, 240)
    train(resumed_w, resumed_b, resumed, 240)
    assert torch.equal(w, resumed_w) and torch.equal(b, resumed_b)
    with optimizer.latent(), resumed.latent():
        assert torch.equal(w, resumed_w) and not set(w.tolist()) <= set(levels.values)
        assert name == "straight_through" or w.abs().max() <= w.new_tensor(scale)
    with optimizer.quantized():
        assert torch.equal(w, truth) and float(loss(w, b).detach()) < first / 20
    state = optimizer.base.state
    assert 0 < state[w]["target"][0] and 0 < state[w]["error"][0] < 1
    assert state[b]["target"] == [0.0]  # quantize=False: nothing is measured


def test_bamsprod_sees_the_latent_weights():
    """The error is that of the latent weights; the rounded ones have none."""
    w = torch.nn.Parameter(torch.tensor([0.1, -0.7, 0.4]))
    latent = w.detach().clone()
    optimizer = QuantizedOptimizer(BAMSProd([w]), StraightThrough(Levels.binary()))
    w.grad = torch.ones(3)
    optimizer.step()
    assert optimizer.base.state[w]["error"] == pytest.approx([quantisation_error(latent)], rel=1e-5)
