"""Stacks of small binary networks against plain torch, and how the experiments on them choose and measure."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.functional import batch_norm, cross_entropy

from helpers import real_data
from study.experiments import (
    _adaptive,
    adaptive_digits,
    adaptive_fashion,
    adaptive_vae,
    adaptive_vae_mnist,
    adaptive_wide,
)
from study.tasks import binary, binary_optimizers
from study.tasks.binary_optimizers import OPTIMIZERS, Setting, build, clip_norms

MIDDLE = {name: kind.settings[len(kind.settings) // 2] for name, kind in OPTIMIZERS.items()}


def close(a, b, tolerance=1e-4):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# Networks


def test_sign_and_its_gradient():
    x = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.5], requires_grad=True)
    y = binary.sign(x)
    y.backward(torch.arange(1.0, 7.0))
    assert y.tolist() == [-1, -1, -1, 1, 1, 1]
    assert x.grad.tolist() == [0, 0, 3, 4, 5, 0]  # 1 inside (-1, 1), as torch's hard tanh


SIZES = (64, 128, 10)


def plain(parts, seed, batch, rate, epochs):
    """The classifier on the digits written out for one seed: signs, batch norm and clip by hand, torch's Adam."""
    (x, y), _, (vx, vy) = ((a[0], b[0]) for a, b in parts)
    generator = torch.Generator().manual_seed(seed)
    latent, gains, biases = [], [], []
    for d, out in zip(SIZES, SIZES[1:], strict=False):
        w = torch.nn.init.trunc_normal_(torch.empty(d, out), 0, 1, -2, 2, generator=generator) / d**0.5
        latent.append(w.requires_grad_())
        gains.append(torch.ones(out, requires_grad=True))
        biases.append(torch.zeros(out, requires_grad=True))

    def forward(h, statistics=None):
        kept = []
        for i, (w, g, b) in enumerate(zip(latent, gains, biases, strict=True)):
            h = h @ (w + (torch.where(w >= 0, 1.0, -1.0) - w).detach())
            kept.append((h.detach().mean(0), h.detach().var(0, correction=0)))
            mean, var = statistics[i] if statistics else (None, None)
            h = batch_norm(h, mean, var, g, b, training=statistics is None, eps=1e-5)
            if i < len(latent) - 1:
                inside = (h.detach().abs() < 1) * (h - h.detach())  # value 0, gradient 1 inside
                h = torch.where(h.detach() >= 0, 1.0, -1.0) + inside
        return h, kept

    def scores():
        with torch.no_grad():
            out, kept = forward(x)
            return [cross_entropy(out, y).item(), (forward(vx, kept)[0].argmax(1) == vy).float().mean().item()]

    optimizer = torch.optim.Adam([*latent, *gains, *biases], lr=rate)
    steps, step, record = len(x) // batch * epochs, 0, [scores()]
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator)
        for k in range(len(x) // batch):
            index = order[k * batch : (k + 1) * batch]
            optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.zero_grad()
            cross_entropy(forward(x[index])[0], y[index]).backward()
            optimizer.step()
            with torch.no_grad():
                for w in latent:
                    w.clamp_(-1, 1)
            step += 1
        record.append(scores())
    return torch.tensor(record)


@pytest.fixture
def double(monkeypatch):
    """Two layers and digits with a little noise, in double precision: sums of signs or of shades of grey may equal their
    mean, and then rounding decides the sign of the normalised sum."""
    noise = torch.Generator().manual_seed(0)
    exact = tuple((x.double() + 1e-3 * torch.randn(x.shape, generator=noise), y) for x, y in binary.digits())
    task = replace(binary.TASKS["digits"], network=partial(binary.Classifier, SIZES), data=lambda: exact)
    monkeypatch.setitem(binary.TASKS, "digits", task)
    torch.set_default_dtype(torch.float64)
    yield exact
    torch.set_default_dtype(torch.float32)


def test_a_stack_is_the_plain_network_of_each_seed(double):
    ours = binary.train("digits", "Adam", Setting(3e-3), [5, 6], batch=228, epochs=3)
    for i, seed in enumerate((5, 6)):
        close(ours[i], plain(double, seed, 228, 3e-3, 3), 1e-6)
    assert (ours[:, 3, 0] < 0.6 * ours[:, 0, 0]).all() and (ours[:, 3, 1] > 0.4).all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_seed_does_not_depend_on_the_others(name):
    both = binary.train("digits", name, MIDDLE[name], [1, 2], epochs=1)
    one = binary.train("digits", name, MIDDLE[name], [2], epochs=1)
    close(both[1, 0], one[0, 0])
    close(both[1, 1, 0], one[0, 1, 0], 0.02)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_matrices_are_binary_and_the_rest_is_not(name):
    network = binary.Classifier((6, 5, 3), [0, 1])
    optimizers = build(name, MIDDLE[name], network.groups(), ensemble=True)
    for _ in range(3):
        network.zero_grad()
        network.losses(torch.randn(2, 8, 6), torch.randint(3, (2, 8))).sum().backward()
        for o in optimizers:
            o.step()
    for layer in network.layers():
        assert set(layer.weight.detach().flatten().tolist()) == {-1.0, 1.0}
        assert not set(layer.gain.detach().flatten().tolist()) <= {-1.0, 1.0}


def test_full_precision_is_not_binary():
    network = binary.Classifier((6, 5, 3), [0], binary=False)
    build("Adam", Setting(1e-2), network.groups(), ensemble=True, binary=False)
    assert len(set(network.layers()[0].weight.detach().flatten().tolist())) == 30
    assert network.activation is torch.nn.functional.relu


def test_lower_bound_of_the_autoencoder():
    """Against torch.distributions, with the same noise."""
    network = binary.Autoencoder(5, 7, 2, [3])
    x = torch.rand(1, 9, 5)
    state = network.generators[0].get_state()
    loss = network.losses(x, torch.zeros(1, 9))
    network.generators[0].set_state(state)
    noise = torch.randn(9, 2, generator=network.generators[0])
    mean, log_variance = network.moments(binary.sign(network.encoder(x))).chunk(2, 2)
    code = torch.distributions.Normal(mean, (log_variance / 2).exp())
    logits = network.output(binary.sign(network.decoder(code.mean + code.stddev * noise)))
    bernoulli = torch.distributions.Bernoulli(logits=logits, validate_args=False)
    standard = torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    bound = bernoulli.log_prob(x).sum(2) - torch.distributions.kl_divergence(code, standard).sum(2)
    close(loss, -bound.mean(1))


def test_held_out_samples_are_normalised_by_the_training_set():
    """Samples that are all the same have no variance of their own."""
    network = binary.Classifier((6, 5, 3), [0, 1])
    x, y = torch.randn(1, 50, 6), torch.randint(3, (1, 50))
    scores = network.evaluate((x, y), (x[:, :1].expand(1, 4, 6), y[:, :1].expand(1, 4)))[:, 1]
    expected = (network(x).argmax(2) == y)[:, 0].float()
    assert scores.tolist() == expected.tolist()


def test_clipped_norms_run_by_run():
    a, b = torch.nn.Parameter(torch.zeros(3, 4)), torch.nn.Parameter(torch.zeros(3, 2, 2))
    a.grad, b.grad = torch.randn(3, 4) * torch.tensor([[9.0], [1e-3], [2.0]]), torch.randn(3, 2, 2)
    expected = []
    for i in range(3):
        parts = [torch.nn.Parameter(torch.zeros_like(p[i])) for p in (a, b)]
        for part, p in zip(parts, (a, b), strict=True):
            part.grad = p.grad[i].clone()
        torch.nn.utils.clip_grad_norm_(parts, 0.7)
        expected.append([part.grad for part in parts])
    clip_norms([a, b], 0.7, ensemble=True)
    for i in range(3):
        close(a.grad[i], expected[i][0])
        close(b.grad[i], expected[i][1])


# How the experiments measure


def test_updates_to_a_level():
    """A loss that falls as exp(-epoch) is at exp(-2.5) after two and a half epochs."""
    losses = torch.exp(-torch.arange(5.0))[None].repeat(2, 1)
    losses[1] = 2.0
    found = _adaptive.reached(losses, math.exp(-2.5), per_epoch=10)
    assert found[0] == pytest.approx(25) and found[1] == math.inf
    assert _adaptive.reached(losses, 1.5, 10)[0] == 0


def test_roughness_is_the_noise_about_a_line():
    x = torch.linspace(0, 7, 40_000)[None] + 0.3 * torch.randn(1, 40_000, generator=torch.Generator().manual_seed(0))
    assert _adaptive.roughness(x)[0] == pytest.approx(0.3, rel=0.02)
    bump = torch.tensor([[0.0, 0, 0, 6, 0, 0, 0, 0, 0]])
    inside = torch.zeros(1, 9, dtype=bool)
    inside[0, 5:] = True
    assert _adaptive.roughness(bump, inside)[0] == 0
    assert math.isnan(_adaptive.roughness(bump, torch.zeros(1, 9, dtype=bool))[0])


def test_the_setting_is_chosen_on_other_seeds_and_other_samples(monkeypatch):
    """A fake training: the setting's place says how good it is, and which seeds and samples are looked at is kept."""
    seen, rates = [], [s.lr for s in OPTIMIZERS["Adam"].settings]

    def fake(task, optimiser, setting, seeds, batch, binary, test=True, correction=0):
        seen.append((setting.lr, list(seeds), test))
        i = rates.index(setting.lr)
        record = torch.ones(len(seeds), 4, 2)
        record[:, :, 1] = 0.5 - abs(i - 3) / 100  # accuracy: the fourth
        record[:, :, 0] = 1 + abs(i - 5.9)  # loss: the seventh, but one of its seeds diverges
        if i == 6:
            record[0] = math.nan
        return record + torch.randn(record.shape) * 1e-6

    monkeypatch.setattr(binary, "train", fake)
    rows = _adaptive.unit("digits", "Adam", (0.5,), (1.0, 0.1))
    tuned = [call for call in seen if not call[2]]
    assert [c[0] for c in tuned] == rates and all(c[1] == list(range(8)) for c in tuned)
    tested = [call for call in seen if call[2]]
    assert [c[0] for c in tested] == [rates[3], rates[5]] and all(c[1] == list(range(100, 120)) for c in tested)
    assert {r["part"] for r in rows} == {"tuning", "best validation score", "lowest training loss"}
    lower_is_better = _adaptive.unit("autoencoder", "Adam", (0.5,), (1.0, 0.1), common=4)
    chosen = {r["part"]: r["setting"] for r in lower_is_better}
    assert chosen["best validation score"] == str(Setting(rates[7]))  # the farthest from the fourth
    assert chosen["common setting"] == "lr 0.01"


def test_every_optimiser_has_the_same_budget():
    assert {len(kind.settings) for kind in OPTIMIZERS.values()} == {8}
    assert not set(_adaptive.TUNING) & set(_adaptive.TESTS)
    assert len(_adaptive.TUNING) >= 8 and len(_adaptive.TESTS) >= 20
    for module in (adaptive_digits, adaptive_fashion, adaptive_vae):
        assert {len(u.keywords["levels"]) for u in module.EXPERIMENT.units.values()} == {5}


def test_the_part_of_fashion_mnist():
    with real_data():
        parts = binary.fashion()
    assert [x.shape for x, _ in parts] == [(1, 3000, 784), (1, 1000, 784), (1, 2000, 784)]
    counts = np.bincount(parts[0][1][0].numpy())
    assert counts.min() > 250 and parts[0][0].max() == 1


def test_digits_are_split_without_overlap():
    parts = binary.digits()
    assert [x.shape[1] for x, _ in parts] == [1140, 297, 360]
    assert all(0 <= x.min() and x.max() == 1 for x, _ in parts)


def test_a_correction_is_that_of_adam(monkeypatch):
    """Adam without its correction, corrected, is Adam (the correction comes before eps, which is small here)."""

    class Plain(torch.optim.Optimizer):
        """Adam without a correction, by its equations."""

        def __init__(self, groups, lr, betas=(0.9, 0.999), **rest):
            super().__init__(groups, {"lr": lr, "betas": betas})

        @torch.no_grad()
        def step(self):
            for group in self.param_groups:
                b1, b2 = group["betas"]
                for p in group["params"]:
                    s = self.state[p]
                    s["m"] = b1 * s.get("m", 0) + (1 - b1) * p.grad
                    s["v"] = b2 * s.get("v", 0) + (1 - b2) * p.grad**2
                    p.sub_(group["lr"] * s["m"] / (s["v"].sqrt() + 1e-12))

    monkeypatch.setattr(binary_optimizers, "OPTIMIZERS", OPTIMIZERS | {"plain": binary_optimizers.Kind(Plain, ())})
    how = {"batch": 300, "binary": False, "epochs": 2}
    setting = Setting(1e-3, {"betas": (0.8, 0.99)})
    adam = binary.train("digits", "Adam", setting, [0], **how)
    close(binary.train("digits", "plain", setting, [0], correction=1, **how), adam)
    off = binary.train("digits", "plain", setting, [0], **how)
    assert (off - adam)[0, -1, 0].abs() > 0.01
    close(binary.train("digits", "Adam", setting, [0], correction=-1, **how), off)


def test_the_grid_of_the_autoencoder_on_mnist():
    units = adaptive_vae_mnist.EXPERIMENT.units
    assert len(units) == 16
    for key, u in units.items():
        on, adam = key.endswith("on"), key.startswith("Adam")
        assert u.keywords["correction"] == (0 if on == adam else 1 if on else -1)
        assert u.args[:2] == ("autoencoder, MNIST", key.partition(",")[0])


def test_the_mean_digit_is_what_a_blind_decoder_pays():
    with real_data():
        train, valid, test = binary.mnist()
    assert [p[0].shape for p in (train, valid, test)] == [(1, 5000, 784), (1, 1000, 784), (1, 2000, 784)]
    p = train[0][0].double().mean(0)
    logits = torch.logit(p).clamp(-50, 50).expand(5000, -1)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, train[0][0].double(), reduction="sum") / 5000
    assert binary.mean_digit(train) == pytest.approx(float(loss), rel=1e-6)


def test_wider_grids_go_beyond_the_edges_and_have_the_same_budget():
    units = adaptive_wide.EXPERIMENT.units
    for name in ("AdaBound", "AMSBound", "Bop"):
        mine, old = units[name].keywords["settings"], OPTIMIZERS[name].settings
        assert len(set(map(str, mine))) == len(old) == 8 and set(map(str, mine)).isdisjoint(map(str, old))
        constant = "threshold" if name == "Bop" else "final_lr"
        assert min(s.extra[constant] for s in mine) > max(s.extra[constant] for s in old)
    assert OPTIMIZERS["AMSBound"].settings[0].extra.keys() == units["AMSBound"].keywords["settings"][0].extra.keys()


def test_closing_bounds_reach_the_optimizer():
    group = [{"params": [torch.ones(1, 3, requires_grad=True)], "quantize": True}]
    (made,) = build("BAMSProd", Setting(0.1, {"gamma": 0.05}), group)
    assert made.base.bounds(1.0, 60) == pytest.approx((0.75, 4 / 3))
    (made,) = build("BAMSProd", Setting(0.1), group)
    assert made.base.bounds(1.0, 60)[0] < 0.1


@pytest.mark.parametrize("quantize", [True, False])
def test_the_average_of_all_history_is_the_mean_of_the_second_moments(quantize):
    """From the definition, the averages summed anew at every step; two runs in one tensor, each with bounds of its own."""
    torch.manual_seed(0)
    w, gradients = torch.randn(2, 5, dtype=torch.float64), torch.randn(8, 2, 5, dtype=torch.float64)
    p = w.clone().requires_grad_()
    made = binary_optimizers.AveragedBAMSProd(
        [{"params": [p], "quantize": quantize}], lr=0.1, sqrt_decay=False, ensemble=True
    )
    m, v, history, errors, limit = torch.zeros(2, 5), torch.zeros(2, 5), [], [[], []], [0.0, 0.0]
    for t, g in enumerate(gradients, 1):
        p.grad = g.clone()
        made.step()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        history.append(v)
        mean = torch.stack(history).mean(0)
        for k in range(2) if quantize else ():
            errors[k].append(float((w[k] - w[k].abs().mean() * w[k].sign()).norm() / w[k].norm()))
            limit[k] = max(limit[k], float(mean[k].mean()) * max(np.mean(errors[k]), 0.05))
            mean[k] = mean[k].clamp(limit[k] * made.lower(t), limit[k] * made.upper(t))
        w = w - 0.1 * m / (mean.sqrt() + 1e-8)
        torch.testing.assert_close(p.detach(), w, rtol=1e-9, atol=1e-9)


def test_the_average_is_not_the_maximum_and_the_name_of_a_setting_says_so():
    setting = Setting(0.01, {"average": True})
    found = [binary.train("digits", "BAMSProd", s, [0], epochs=2) for s in (setting, Setting(0.01))]
    assert not torch.equal(*found) and found[0].isfinite().all() and "average" in str(setting)
