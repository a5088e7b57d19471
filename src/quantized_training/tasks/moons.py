"""Task II (paper, section 6): two moons, a network with one hidden layer of H ReLU neurons and 3H one-bit weights, no biases.

f(x) = sum_j a_j relu(W_j x). The weights of a network are one vector (W_1, ..., W_H, a) of length 3H, H = 3 in the paper.

Every one-bit neuron is one of four, relu(+-x_1 +- x_2), taken with a sign. So a one-bit network of any width is an integer
combination of these four features, f = sum_i c_i phi_i, where neurons that differ in the sign only cancel: c runs through
the integers with |c|_1 <= H and |c|_1 - H even. `best_networks` searches those instead of all 8^H networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from ..levels import Levels

SAMPLES, TEST_SAMPLES, HIDDEN = 2000, 200, 3

#: The four one-bit hidden neurons: rows W of the features relu(W x).
NEURONS = Levels.binary().vectors(2, torch.float64)


@dataclass(frozen=True)
class Moons:
    """Two moons for S seeds: x (S, n, 2) and labels y (S, n), -1 or +1; the same for the test points."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def draw(
    seeds: int | Sequence[int],
    noise: float = 0.1,
    n: int = SAMPLES,
    test: int = TEST_SAMPLES,
    standardised: bool = False,
) -> Moons:
    """Draw the data by scikit-learn's make_moons, training points and test points of a seed in one go.

    noise: standard deviation of the Gaussian offset. The paper says "variance 0.1", which make_moons takes 0.1 ** 0.5 for;
    its argument of that size is a standard deviation, 0.1. standardised: coordinates with mean 0 and standard deviation 1
    over the training points.
    """
    from sklearn.datasets import make_moons  # a dependency of the book, not of the package

    drawn = []
    for seed in range(seeds) if isinstance(seeds, int) else seeds:
        x, y = make_moons(n + test, noise=noise, random_state=seed)  # shuffled
        if standardised:
            x = (x - x[:n].mean(0)) / x[:n].std(0)
        y = 2.0 * y - 1
        drawn.append((x[:n], y[:n], x[n:], y[n:]))
    return Moons(*(torch.as_tensor(np.stack(part)) for part in zip(*drawn, strict=True)))


def network(w: Tensor, x: Tensor) -> Tensor:
    """f(x) for weights w (..., 3H) and points x (..., n, 2), whose leading shapes broadcast: (..., n)."""
    hidden = w.shape[-1] // 3
    neurons = w[..., : 2 * hidden].unflatten(-1, (hidden, 2))
    return (torch.relu(x @ neurons.mT) @ w[..., 2 * hidden :, None]).squeeze(-1)


def loss(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Mean logistic loss log(1 + exp(-y f(x))): (...,) from w (..., 3H), x (..., n, 2), y (..., n)."""
    return softplus(-y * network(w, x)).mean(-1)


def features(x: Tensor) -> Tensor:
    """The four one-bit neurons at the points x (..., n, 2): (..., n, 4)."""
    return torch.relu(x @ NEURONS.to(x).mT)


def combinations(hidden: int) -> Tensor:
    """All functions of one-bit networks with `hidden` neurons, as coefficients c of `features`: (m, 4), integers.

    |c|_1 <= hidden and |c|_1 - hidden even; hidden = 3 gives 96. Raises ValueError for hidden < 1.
    """
    if hidden < 1:
        raise ValueError(f"hidden={hidden}: a network needs at least one neuron")
    axis = torch.arange(-hidden, hidden + 1)
    c = torch.cartesian_prod(axis, axis, axis, axis)
    norm = c.abs().sum(1)
    return c[(norm <= hidden) & ((norm - hidden) % 2 == 0)]


def one_bit_weights(c: Tensor, hidden: int) -> Tensor:
    """Weights (3 * hidden,) of a one-bit network with the coefficients c (4,); spare neurons cancel in pairs.

    Raises ValueError where there is none.
    """
    spare = hidden - int(c.abs().sum())
    if spare < 0 or spare % 2:
        raise ValueError(f"no one-bit network of {hidden} neurons has the coefficients {c.tolist()}")
    chosen = [(i, s) for i, k in enumerate(c.tolist()) for s in [np.sign(k)] * abs(k)] + [(0, 1), (0, -1)] * (
        spare // 2
    )
    neurons = torch.stack([NEURONS[i] for i, _ in chosen])
    return torch.cat([neurons.flatten(), torch.tensor([float(s) for _, s in chosen], dtype=NEURONS.dtype)])


def losses_of_all(hidden: int, x: Tensor, y: Tensor, chunk: int = 2**22) -> tuple[Tensor, Tensor]:
    """`combinations(hidden)` (m, 4) and the loss of each on one data set x (n, 2), y (n,): (m,).

    chunk: numbers held in memory at a time.
    """
    c = combinations(hidden)
    signed = features(x) * y[:, None]
    parts = c.to(x).split(max(1, chunk // len(x)))
    return c, torch.cat([softplus(-(part @ signed.mT)).mean(-1) for part in parts])
