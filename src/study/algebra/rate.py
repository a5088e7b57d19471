"""A rate for the last iterate: strongly convex losses, and losses with the Polyak–Łojasiewicz inequality on the box.

B is the box of the frozen cells, z* a minimiser of ℓ on it, p the projection of w, d = ‖w − p‖, s = ‖p − z*‖, h = ‖w − z*‖ (or, where
the envelope F is meant, ‖w − ẑ‖).
"""

from __future__ import annotations

import numpy as np
import torch
import z3
from hypothesis import strategies as st

from quantized_training.methods import skewed_velocity

from ..theory.convergence import envelope, minimiser, prox_point, quadratic
from .evidence import TESTED, Z3, prose, prove, search, step
from .theorem_3_corrected import in_a_cell

NAME = "Rate"


@step(
    f"{NAME}, strong convexity",
    Z3,
    "(1 − θ)h² ≤ (1 − θ/2)s² + (2/θ)d², if h ≤ s + d and 0 < θ < 1",
    {"times": 1},
)
def distance_by_projection(times=2):
    s, d, h, theta = z3.Reals("s d h theta")
    # both sides times θ
    prove(
        theta * (1 - theta) * h * h <= theta * (1 - theta / 2) * s * s + times * d * d,
        [0 <= h, h <= s + d, s >= 0, d >= 0, 0 < theta, theta < 1],
    )


@step(
    f"{NAME}, strong convexity",
    Z3,
    "μs² − Lds ≥ (1 − θ)μh² − (2μ + L²/2μ)d²/θ, if (1 − θ)h² ≤ (1 − θ/2)s² + (2/θ)d²",
    {"gradient": 1},
    {"projected": 3},
)
def pull_towards_the_minimum(gradient=2, projected=2):
    # with S = s², D = d², c = ds, A = L²/(2μ): c² = SD
    s, d, h2, theta, mu, L = z3.Reals("s d h^2 theta mu L")
    known = [s >= 0, d >= 0, h2 >= 0, 0 < theta, theta < 1, mu > 0, L >= 0]
    known += [theta * (1 - theta) * h2 <= theta * (1 - theta / 2) * s * s + projected * d * d]
    # both sides times 2θμ
    left = 2 * theta * mu * (mu * s * s - L * d * s)
    right = 2 * theta * (1 - theta) * mu * mu * h2 - (4 * mu * mu + gradient / 2 * L * L) * d * d
    prove(left >= right, known)


@step(
    f"{NAME}, recursion",
    Z3,
    "(1 − c/x)Q/x + A/x² ≤ Q/(x+1) for x ≥ c > 1 and Q ≥ A/(c − 1): from one step to O(1/k), x = k + 1",
    {"least": 0.5},
    {"power": 1},
)
def recursion_gives_one_over_k(least=1, power=2):
    x, c, Q, A = z3.Reals("x c Q A")
    # both sides times x²(x+1)
    left = (x - c) * Q * (x + 1) + (A * (x + 1) if power == 2 else A * x * (x + 1))
    prove(left <= Q * x * x, [c > 1, x >= c, A >= 0, Q * (c - 1) >= least * A])


@step(
    f"{NAME}, Polyak–Łojasiewicz",
    Z3,
    "F₊ ≤ F − L²γh² + E and F − ℓ* ≤ (2L²/ν + L)h² give F₊ − ℓ* ≤ (1 − νLγ/(2L + ν))(F − ℓ*) + E",
    {"times": 2},
)
def envelope_contracts(times=1):
    above, after, h2, E, L, nu, g = z3.Reals("F-l* F_+-l* h^2 E L nu gamma")
    known = [above >= 0, h2 >= 0, E >= 0, L > 0, nu > 0, g > 0, after <= above - L * L * g * h2 + E]
    known += [nu * above <= (2 * L * L + L * nu) * h2]
    prove((2 * L + nu) * after <= (2 * L + nu - times * nu * L * g) * above + (2 * L + nu) * E, known)


def _problem(seed: int):
    """A strongly convex quadratic, a weight vector in the cell of a box, and what belongs to them."""
    rng = np.random.default_rng(seed)
    constraint, levels, epsilon, low, high, p, beyond = in_a_cell(rng, seed)
    w, n = p + beyond, len(p)
    A = torch.as_tensor(rng.normal(size=(n, n)))
    H = A @ A.T + 10.0 ** rng.uniform(-2, 0) * torch.eye(n)
    loss = quadratic(H, H @ torch.as_tensor(rng.uniform(-2, 2, n)))
    mu = torch.linalg.eigvalsh(H)[0].item()
    return rng, w, low, high, constraint, levels, epsilon, loss, mu


@step(
    f"{NAME}, strong convexity",
    TESTED,
    "E‖w₊ − z*‖² ≤ (1 − 2(1 − θ)μγ)‖w − z*‖² + (4μ + L²/μ)γd²/θ + γ²E‖v‖², all means as exact sums over the noise",
    {"times": 4},
    {"error": 0},
)
def strongly_convex_distance_falls(times=2, error=1):
    def violation(seed: int) -> float:
        rng, w, low, high, constraint, levels, epsilon, loss, mu = _problem(seed)
        gamma, theta = 10.0 ** rng.uniform(-6, -1.3), rng.uniform(0.05, 0.95)
        noise = torch.as_tensor(rng.normal(0, rng.choice([0.1, 3]), (6, w.shape[-1])))
        G = loss.gradient(w) + noise - noise.mean(0)  # six values of equal probability
        v = skewed_velocity(G, w.expand_as(G), levels, epsilon, rng.uniform(0.2, 4), constraint, rng.uniform(0.2, 3))
        best = minimiser(loss, low, high)
        h2, d2 = ((w - best) ** 2).sum(), ((w - w.clamp(low, high)) ** 2).sum()
        after = ((w + gamma * v - best) ** 2).sum(-1).mean()
        right = (1 - times * (1 - theta) * mu * gamma) * h2 + gamma**2 * (v**2).sum(-1).mean()
        right = right + error * (4 * mu + loss.smoothness**2 / mu) / theta * gamma * d2
        return ((after - right) / gamma).item()

    search(violation, 1e-7, 150, seed=st.integers(0, 10**6))


@step(
    f"{NAME}, Polyak–Łojasiewicz",
    TESTED,
    "F(w) − ℓ* ≤ (2L²/ν + L)h² for strongly convex losses, which have the inequality with ν = μ on every box",
    {"part": 0.02},
)
def envelope_is_bounded_by_h(part=1.0):
    def violation(seed: int) -> float:
        _, w, low, high, *_, loss, mu = _problem(seed)
        L, best = loss.smoothness, minimiser(loss, low, high)
        h2 = ((w - prox_point(w, loss, low, high)) ** 2).sum()
        left = envelope(w, loss, low, high) - loss.value(best)
        return (left - part * (2 * L**2 / mu + L) * h2).item()

    search(violation, 1e-9, 150, seed=st.integers(0, 10**6))


prose(
    "strong_convexity",
    NAME,
    "⟨∇ℓ(p), p − z*⟩ ≥ μ‖p − z*‖² for the minimiser z* on the box; strongly convex losses have the inequality",
)
