"""Theorem 3‴: losses with kinks. The envelope descends for weakly convex losses; what a ReLU network is not, and what it is.

ℓ is ρ-weakly convex, M′ a Lipschitz constant of it, F(w) = min over B of ℓ(z) + ρ‖z − w‖², ẑ where that is attained, p the projection
of w on B, d = ‖w − p‖, s = ‖p − ẑ‖, h = ‖w − ẑ‖.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import sympy
import torch
import z3
from hypothesis import strategies as st

from quantized_training.methods import skewed_velocity

from ..theory.weakly_convex import kinked
from .evidence import SYMPY, TESTED, Z3, identity, prose, prove, search, step
from .theorem_3_corrected import SIDES, in_a_cell, largest, velocity

NAME, RELU = "Theorem 3‴", "ReLU networks"


@step(
    f"{NAME}, (▵)",
    SYMPY,
    "right side of (▵) minus ℓ(ẑ) + ρ E‖ẑ − w − γv‖² is 2ργ times the sum of the slacks of K1 to K5, and ρ²γs²",
    {"gain": 2},
    {"kink": 2},
    {"sign": -1},
)
def kinked_descent_is_a_sum_of_slacks(gain=1, kink=4, sign=1):
    # X = <g, p - z>, Y = <g, w - z>, E = E<v, w - z>, V = E|v|², lw, lp, lz the losses at w, p, ẑ
    d, s, h, lw, lp, lz, X, Y, E, V, g, rho, M = sympy.symbols("d s h l_w l_p l_z X Y E V gamma rho M")
    slacks = [
        -X - E,  # K1: step 3, in the mean
        X - Y + M * d,  # K2: |g| <= M'
        Y - (lw - lz) + rho / 2 * h**2,  # K3: g is a subgradient of a weakly convex loss
        lw - lp + M * d,  # K4: the loss is Lipschitz
        lp + rho * d**2 - lz - rho * h**2 - rho / 2 * s**2,  # K5: ℓ + ρ|. - w|² is ρ-strongly convex, z minimises it
    ]
    before = lz + rho * h**2
    after = lz + rho * (h**2 + 2 * g * E + g**2 * V)
    right = before - gain * rho**2 * g * h**2 + 2 * rho**2 * g * d**2 + kink * rho * M * g * d + rho * g**2 * V
    identity(right - after, 2 * rho * g * sign * sum(slacks) + rho**2 * g * s**2)


def _problem(seed: int):
    """A random kinked loss, a weight vector in the cell of a box, often on a kink, and what belongs to them."""
    rng = np.random.default_rng(seed)
    constraint, levels, epsilon, low, high, p, beyond = in_a_cell(rng, seed)
    w, n = p + beyond, len(p)
    at = p + rng.random() * beyond  # between w and its projection
    loss = kinked(at, seed)
    if (shape := rng.integers(3)) == 0:
        loss = replace(loss, t=torch.where(torch.as_tensor(rng.random(n) < 0.5), w, loss.t))
    else:  # flat to first order at w: with one kink between p and w across which the slope of the feasible weights turns, or with none
        inward, free = (
            -beyond.sign() * (1 + torch.as_tensor(rng.random(n))),
            (beyond == 0) * torch.as_tensor(rng.normal(size=n)),
        )
        slopes = torch.stack([inward + free, -free]) if shape == 1 else free.expand(2, n)
        a = loss.rho * (w + slopes * 10.0 ** rng.uniform(-2, 1))
        loss = replace(loss, k=0 * loss.k, a=a, c=-(a @ at))
    return rng, loss, w, low, high, constraint, levels, epsilon


@step(
    f"{NAME}, (▵)",
    TESTED,
    "E F(w₊) ≤ F(w) − ρ²γh² + 2ρ²γd² + 4ρM′γd + ργ²E‖v‖² for losses with kinks, any subgradient, all means as exact sums over the noise",
    {"gain": 3.0},
    {"kink": 0.0},
)
def kinked_envelope_descends(gain=1.0, kink=4.0):
    def violation(seed: int) -> float:
        rng, loss, w, low, high, constraint, levels, epsilon = _problem(seed)
        rho, gamma = loss.rho, 10.0 ** rng.uniform(-5, -1.3)
        noise = torch.as_tensor(rng.normal(0, rng.choice([0.1, 3]), (6, w.shape[-1])))
        sign = torch.as_tensor(rng.uniform(-1, 1, w.shape[-1]))
        G = loss.subgradient(w, rng.random(), sign) + noise - noise.mean(0)
        v = skewed_velocity(G, w.expand_as(G), levels, epsilon, rng.uniform(0.2, 4), constraint, rng.uniform(0.2, 3))
        p, h2 = w.clamp(low, high), loss.residual(w, low, high) ** 2
        d, M = (w - p).norm(), loss.lipschitz(torch.maximum(w.norm(), p.norm()))
        before, after = loss.envelope(w, low, high), loss.envelope(w + gamma * v, low, high).mean()
        right = before - gain * rho**2 * gamma * h2 + 2 * rho**2 * gamma * d**2 + kink * rho * M * gamma * d
        right = right + rho * gamma**2 * (v**2).sum(-1).mean()
        return ((after - right) / gamma / (1 + before.abs())).item()

    search(violation, 1e-8, 150, seed=st.integers(0, 10**6))


@step(
    f"{NAME}, step 5",
    TESTED,
    "2⟨Δw, Δẑ⟩ ≥ ‖Δẑ‖² for losses with kinks, so ‖w − ẑ(w)‖ is 1-Lipschitz for them, too",
    {"times": 1.9},
)
def kinked_prox_point_is_monotone(times=2.0):
    def violation(seed: int) -> float:
        rng, loss, w, low, high, *_ = _problem(seed)
        other = w + torch.as_tensor(rng.normal(0, 10.0 ** rng.uniform(-3, 0), w.shape))
        dz = loss.prox_point(other, low, high) - loss.prox_point(w, low, high)
        return ((dz @ dz - times * dz @ (other - w)) / (1e-300 + (other - w) @ (other - w))).item()

    search(violation, 1e-9, 150, seed=st.integers(0, 10**6))


@step(
    f"{NAME}, step 2",
    Z3,
    "4ρM′γd + 2ρ²γd² ≤ (4ρM′ + 2ρ²D)γd for 0 ≤ d ≤ D, so all errors of (▵) have a finite sum where Σγd and Σγ² have one",
    {"times": 1},
)
def errors_are_summable(times=2):
    d, D, g, rho, M = z3.Reals("d D gamma rho M'")
    prove(
        4 * rho * M * g * d + 2 * rho * rho * g * d * d <= (4 * rho * M + times * rho * rho * D) * g * d,
        [0 <= d, d <= D, g > 0, rho > 0, M >= 0],
    )


@step(
    RELU,
    Z3,
    "ℓ = (1 − max(0, w))², one ReLU neuron, is not ρ-weakly convex for any ρ > 0: at 0 ℓ + ρw²/2 lies above its chord from −t to t = 1/(ρ+1)",
    {"target": -1},
)
def relu_loss_is_not_weakly_convex(target=1):
    rho, t = z3.Reals("rho t")
    left = target * target + rho / 2 * t * t
    right = (target - t) ** 2 + rho / 2 * t * t
    prove(2 * target * target > left + right, [rho > 0, t * (rho + 1) == 1])


@step(
    f"{RELU}, velocity",
    Z3,
    "v = −G − η with η ∈ N_B(p): η = 0 inside, η ≥ 0 at a right edge and beyond, η ≤ 0 at a left one, and |η| ≤ M + M₁",
    {"bound": 0},
    {"clip_everything": True},
)
def velocity_is_gradient_and_normal(bound=1, clip_everything=False):
    G, r, M, Mc = z3.Reals("G r M M_c")
    known = [r >= 0, M >= 0, Mc > 0, -M <= G, G <= M]
    for side, inwards in SIDES:
        eta = -G - velocity(side, G, r, Mc, clip_everything)
        limit = bound * M + largest(M, Mc)
        prove(z3.And(-inwards * eta >= 0, eta <= limit, eta >= -limit), known)


@step(
    f"{RELU}, velocity",
    Z3,
    "the mean of such η is one: if η ≥ 0 and |η| ≤ R for two values, then for their means with any weights",
    {"weight": 2},
)
def mean_of_normals_is_normal(weight=1):
    eta, other, part, R = z3.Reals("eta eta' p R")
    mean = part * eta + (1 - part) * other
    prove(z3.And(mean >= 0, mean <= R), [0 <= eta, eta <= R, 0 <= other, other <= R, 0 <= part, part <= weight])


@step(
    f"{RELU}, descent",
    SYMPY,
    "⟨ż, y⟩ = −‖ż‖² for ż = −y − η with ⟨ż, η⟩ = 0 (two coordinates)",
    {"sign": 1},
)
def loss_falls_along_the_flow(sign=-1):
    z, eta = sympy.symbols("z:2"), sympy.symbols("eta:2")
    y = [-a - b for a, b in zip(z, eta, strict=True)]
    normal = sum(a * b for a, b in zip(z, eta, strict=True))
    identity(sum(a * b for a, b in zip(z, y, strict=True)) + normal, sign * sum(a * a for a in z))


for name, item, statement in (
    ("kinked_subgradients", f"{NAME}, K3, K5", "the subgradient inequality and strong convexity of weakly convex functions; steps 5 and 6"),
    ("chain_rule", RELU, "along curves in B the loss changes at the rate ⟨ż, y⟩, y ∈ D(z), and ⟨ż, η⟩ = 0 for η ∈ N_B(z), almost everywhere"),
    ("critical_values", RELU, "ℓ takes finitely many values at the critical points of B: stratification and Sard (Bolte and Pauwels, 2021)"),
    ("differential_inclusion", RELU, "bounded iterates follow w′ ∈ −D(w) − N_B(w) and end at its equilibria: Davis et al. (2020)"),
):  # fmt: skip
    prose(name, item, statement)
