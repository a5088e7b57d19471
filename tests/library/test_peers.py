"""Independent implementations: a QP solver, Cooper (SGDA), torchao's PARQ (deterministic BinaryConnect)."""

import cooper
import numpy as np
import pytest
import quadprog
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torchao.prototype.parq.optim import ProxHardQuant, QuantOptimizer
from torchao.prototype.parq.quant import Quantizer

from helpers import CONSTRAINTS, levels_and_weights
from quantized_training import PHI, SGDA, BinaryConnect, Levels, QuantizedOptimizer
from quantized_training.methods import skewed_velocity
from study.theory import reference as ref
from study.theory.lagrangian import pieces

# The velocity (17) with the set (20), by quadprog


def projection(G, value, slope, alpha):
    """argmin 1/2 ||v + G||^2 subject to slope_i v_i >= -alpha value_i wherever value_i <= 0."""
    active = value <= 0
    if not active.any():
        return -G
    scale = np.abs(slope[active])
    C = (np.eye(len(G)) * slope)[:, active] / scale
    return quadprog.solve_qp(np.eye(len(G)), -G, C, -alpha * value[active] / scale)[0]


@settings(deadline=None, max_examples=150)
@given(
    levels_and_weights(),
    st.sampled_from(sorted(CONSTRAINTS)),
    st.floats(0.02, 0.98),
    st.sampled_from([0.1, 1.0, 4.0]),
    st.lists(st.floats(-3, 3), min_size=1, max_size=40),
)
def test_skewed_velocity_is_the_projection(case, name, fraction, alpha, gradients):
    levels, w = case
    constraint, g, dg = CONSTRAINTS[name]
    eps = fraction * constraint.largest_epsilon(levels)
    w = [x for x in w if abs(g(x, levels.values, eps)) > 1e-9]
    w = [x for x in w if g(x, levels.values, eps) > 0 or abs(dg(x, levels.values)) > 1e-3]
    assume(w)
    G = np.resize(gradients, len(w))
    value = np.array([g(x, levels.values, eps) for x in w])
    slope = np.array([dg(x, levels.values) for x in w])
    w = torch.tensor(w, dtype=torch.float64)
    got = skewed_velocity(torch.from_numpy(G), w, levels, eps, alpha, constraint)
    np.testing.assert_allclose(got.numpy(), projection(G, value, slope, alpha), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name, eps", [("phi", 0.75), ("psi", 0.5625)])
def test_velocity_on_the_edges_is_the_projection_and_the_printed_rule_is_not(name, eps):
    """Q = {-1, 1}: the edges are +-0.5 and +-1.75 exactly, and the constraint there is 0."""
    constraint, g, dg = CONSTRAINTS[name]
    q = (-1.0, 1.0)
    w = np.repeat([-1.75, -0.5, 0.5, 1.75], 4)
    G = np.tile([-2.0, -0.25, 0.25, 2.0], 4)
    value, slope = np.array([g(x, q, eps) for x in w]), np.array([dg(x, q) for x in w])
    assert (value == 0).all()
    solved = projection(G, value, slope, 0.3)
    got = skewed_velocity(torch.from_numpy(G), torch.from_numpy(w), Levels(q), eps, 0.3, constraint)
    np.testing.assert_allclose(got.numpy(), solved, rtol=0, atol=1e-12)
    printed = np.array([ref.velocity_printed(a, x, q, eps, 0.3, g, dg) for a, x in zip(G, w, strict=True)])
    inwards = -slope * G > 0
    assert (printed == 0).all() and inwards.sum() == 8 and (solved[inwards] == -G[inwards]).all()


# SGDA by Cooper


class Pieces(cooper.ConstrainedMinimizationProblem):
    """loss(w) subject to -f_j(w) <= 0 for every piece j and every weight."""

    def __init__(self, w, loss, levels, eps):
        super().__init__()
        self.w, self.loss, self.levels, self.eps = w, loss, levels, eps
        count = (len(levels.values) + 1) * w.numel()
        self.constraint = cooper.Constraint(
            cooper.ConstraintType.INEQUALITY,
            multiplier=cooper.multipliers.DenseMultiplier(num_constraints=count, dtype=w.dtype),
        )

    def compute_cmp_state(self, k):
        violation = -torch.cat([f.reshape(-1) for f in self.f()])
        state = cooper.ConstraintState(violation=violation)
        return cooper.CMPState(loss=self.loss(self.w, k), observed_constraints={self.constraint: state})

    def f(self):
        """Section 5 once more, for autograd: eps minus how far w is out."""
        q = self.levels.values
        yield self.eps + self.w - q[0]
        for a, b in zip(q, q[1:], strict=False):
            yield self.eps + (self.w - a) * (self.w - b)
        yield self.eps + q[-1] - self.w


@pytest.mark.parametrize("levels, eps", [(Levels.binary(), 0.5), (Levels.ternary(), 0.1), (Levels((1, 3, 4, 7)), 0.2)])
def test_sgda_follows_cooper_s_simultaneous_optimizer(levels, eps):
    steps, eta_x, eta_lam = 200, 0.05, 0.02
    rng = torch.Generator().manual_seed(0)
    low, high = levels.hull
    start = low - 0.3 + (high - low + 0.6) * torch.rand(7, dtype=torch.float64, generator=rng)
    X = torch.randn(steps, 20, 7, dtype=torch.float64, generator=rng)
    target = X @ torch.randn(7, dtype=torch.float64, generator=rng)

    def loss(w, k):
        return ((X[k] @ w - target[k]) ** 2).mean() / 7

    w = torch.nn.Parameter(start.clone())
    problem = Pieces(w, loss, levels, eps)
    peer = cooper.optim.SimultaneousOptimizer(
        cmp=problem,
        primal_optimizers=torch.optim.SGD([w], lr=eta_x),
        dual_optimizers=torch.optim.SGD(problem.dual_parameters(), lr=eta_lam, maximize=True),
    )
    p = torch.nn.Parameter(start.clone())
    method = SGDA(levels, epsilon=eps, dual_lr=eta_lam, dual_max=1e6)
    optimizer = QuantizedOptimizer(torch.optim.SGD([p], lr=eta_x), method)
    used = 0.0
    for k in range(steps):
        peer.roll(compute_cmp_state_kwargs={"k": k})
        optimizer.zero_grad()
        loss(p, k).backward()
        optimizer.step()
        dual = optimizer.state[p]["dual"]
        torch.testing.assert_close(p, w, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(dual.flatten(), problem.constraint.multiplier.weight, rtol=1e-12, atol=1e-12)
        used = max(used, dual.max().item())
    assert used > 0.01 and w.abs().max() < 50  # constraints did act, and the run is stable
    torch.testing.assert_close(pieces(p.detach(), levels, eps), torch.stack(list(problem.f())), rtol=1e-12, atol=1e-12)
    assert PHI.largest_epsilon(levels) > eps


# Deterministic BinaryConnect by PARQ


class Codebook(Quantizer):
    """A fixed set of levels, whatever the weights are."""

    def __init__(self, levels):
        super().__init__()
        self.levels = levels

    def get_quant_size(self, b):
        return len(self.levels.values)

    def quantize(self, p, b, dim=None):
        Q = torch.tensor(self.levels.values, dtype=p.dtype)
        return Q[torch.bucketize(p, (Q[:-1] + Q[1:]) / 2, right=True)], Q


@pytest.mark.parametrize("clip_acts", [False, True])
@pytest.mark.parametrize(
    "base", [lambda p: torch.optim.SGD(p, lr=0.05), lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9)]
)
@pytest.mark.parametrize("levels", [Levels.binary(), Levels.integers(2)])
def test_deterministic_binary_connect_is_parq_with_a_fixed_codebook(levels, base, clip_acts):
    """PARQ does not clip its latent weights; where ours does, the same clip is applied to PARQ's by hand."""
    steps = 200
    rng = torch.Generator().manual_seed(1)
    start = 0.8 * torch.randn(12, 3, generator=rng).clamp(-1, 1)
    X = torch.randn(steps, 16, 12, generator=rng)
    y = (5 if clip_acts else 1) * X @ start.flip(0) + torch.randn(steps, 16, 3, generator=rng)
    size = 1.0 if clip_acts else 0.05

    def loss(w, k):
        return size * ((X[k] @ w - y[k]) ** 2).mean()

    w, p = torch.nn.Parameter(levels.nearest(start)), torch.nn.Parameter(start.clone())
    peer = QuantOptimizer(
        base([{"params": [w], "quant_bits": 2}]),
        Codebook(levels),
        ProxHardQuant(),
        warmup_steps=0,
        quant_period=1,
    )
    optimizer = QuantizedOptimizer(base([p]), BinaryConnect(levels, stochastic=False))
    assert torch.equal(w, p)
    clipped, flips, before = 0, 0, p.detach().clone()
    for k in range(steps):
        for weight in (w, p):
            weight.grad = None
            loss(weight, k).backward()
        if k == 0:
            with torch.no_grad():  # PARQ takes what it finds at its first step as the latent weights
                w.copy_(start)
        peer.step()
        optimizer.step()
        latent = peer.state[w]["latent"]
        outside = latent != levels.clip(latent)
        clipped += int(outside.sum())
        latent.copy_(levels.clip(latent))
        assert torch.equal(optimizer.state[p]["latent"], latent), k
        assert torch.equal(p, w), k
        flips += int((p != before).sum())
        before = p.detach().clone()
    assert flips > 0 and (clipped > 0) == clip_acts
