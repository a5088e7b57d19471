"""Task II (paper, section 6): two moons, a network with one hidden layer of H ReLU neurons and 3H one-bit weights, no biases.

f(x) = sum_j a_j relu(W_j x). The weights of a network are one vector (W_1, ..., W_H, a) of length 3H, H = 3 in the paper.

Every one-bit neuron is one of four, relu(+-x_1 +- x_2), taken with a sign. So a one-bit network of any width is an integer
combination of these four features, f = sum_i c_i phi_i, where neurons that differ in the sign only cancel: c runs through
the integers with |c|_1 <= H and |c|_1 - H even. `losses_of_all` goes through those instead of all 8^H networks.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from quantized_training.levels import Levels

from ..methods import BINARY
from . import arguments, ensembles
from .ensembles import draw_order, methods

SAMPLES, TEST_SAMPLES, HIDDEN, BATCH, EPOCHS = 2000, 200, 3, 100, 25

#: The four one-bit hidden neurons: rows W of the features relu(W x).
NEURONS = BINARY.vectors(2, torch.float64)


@dataclass(frozen=True)
class Ensemble(ensembles.Ensemble):
    """Task II for S seeds: points x (S or 1, n, 2) with labels y (S or 1, n), -1 or +1; the same for the test points."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor

    @property
    def data(self) -> tuple[Tensor, ...]:
        return self.x, self.y

    @property
    def test(self) -> tuple[Tensor, ...]:
        return self.test_x, self.test_y

    def gradient(self, w: Tensor, batch: tuple[Tensor, ...], scratch: Tensor) -> Tensor:
        return gradient(w, *batch)

    def sets(self) -> dict[str, tuple[Tensor, ...]]:
        """The sets of points on which a loss may be meant, each x (S or 1, n, 2) and y (S or 1, n)."""
        return {"training set": self.data, "test set": self.test, "last batch": self.last_batch()}


def draw(
    seeds: int | range,
    noise: float = 0.1,
    hidden: int = HIDDEN,
    shared: bool = False,
    standardised: bool = False,
    n: int = SAMPLES,
    test: int = TEST_SAMPLES,
    batch: int = BATCH,
    epochs: int = EPOCHS,
) -> Ensemble:
    """Draw Task II for several seeds; training and test points come from one call of scikit-learn's make_moons.

    noise: standard deviation of the Gaussian offset. The paper says "variance 0.1", which would be 0.1 ** 0.5 here; the
    argument of make_moons is a standard deviation. standardised: coordinates with mean 0 and standard deviation 1 over the
    training points. shared: one data set and batch order (the first seed's) for all seeds. Initial weights are torch's for
    linear layers: uniform up to 1 / sqrt(inputs). Raises ValueError when a batch does not fit into the data.
    """
    from sklearn.datasets import make_moons  # a dependency of the book, not of the package

    if not 0 < batch <= n:
        raise ValueError(f"batch={batch}: allowed is 1 to n={n}")
    seeds = arguments.seeds(seeds)
    bound = torch.cat([torch.full((2 * hidden,), 2**-0.5), torch.full((hidden,), hidden**-0.5)]).double()
    own, data = [], []
    for seed in seeds:
        g = torch.Generator().manual_seed(seed)
        initial = (2 * torch.rand(3 * hidden, generator=g, dtype=torch.float64) - 1) * bound
        own.append((initial, torch.rand(epochs * (n // batch) + 1, 3 * hidden, generator=g, dtype=torch.float64)))
        if shared and data:
            continue
        x, y = make_moons(n + test, noise=noise, random_state=seed)  # in random order
        if standardised:
            x = (x - x[:n].mean(0)) / x[:n].std(0)
        x, y = torch.as_tensor(x), torch.as_tensor(2.0 * y - 1)
        data.append((draw_order(n, epochs, g), x[:n], y[:n], x[n:], y[n:]))
    initial, uniform = map(torch.stack, zip(*own, strict=True))
    order, *points = map(torch.stack, zip(*data, strict=True))
    return Ensemble(tuple(seeds), initial, order, uniform, batch, *points)


def _hidden(w: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """relu(W x) (..., n, H), W (..., H, 2) and a (..., H) for weights (..., 3H) and points (..., n, 2)."""
    hidden = w.shape[-1] // 3
    W, a = w[..., : 2 * hidden].unflatten(-1, (hidden, 2)), w[..., 2 * hidden :]
    return torch.relu(x @ W.mT), W, a


def network(w: Tensor, x: Tensor) -> Tensor:
    """f(x) for weights w (..., 3H) and points x (..., n, 2), whose leading shapes broadcast: (..., n)."""
    r, _, a = _hidden(w, x)
    return (r @ a[..., None]).squeeze(-1)


def loss(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Mean logistic loss log(1 + exp(-y f(x))): (...,) from w (..., 3H), x (..., n, 2), y (..., n)."""
    return softplus(-y * network(w, x)).mean(-1)


def gradient(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Gradient of `loss` in closed form, (..., 3H); the derivative of relu at 0 is 0, as in torch."""
    r, _, a = _hidden(w, x)
    slope = -y * torch.sigmoid(-y * (r @ a[..., None]).squeeze(-1)) / y.shape[-1]  # of the loss by f, (..., n)
    by_a = (slope[..., None, :] @ r).squeeze(-2)
    by_W = ((r > 0) * slope[..., None] * a[..., None, :]).mT @ x
    return torch.cat([by_W.flatten(-2), by_a], dim=-1)


def features(x: Tensor) -> Tensor:
    """The four one-bit neurons at the points x (..., n, 2): (..., n, 4)."""
    return torch.relu(x @ NEURONS.to(x).mT)


@functools.cache
def combinations(hidden: int) -> Tensor:
    """All functions of one-bit networks with `hidden` neurons, as coefficients c of `features`: (m, 4), integers.

    |c|_1 <= hidden and |c|_1 - hidden even; hidden = 3 gives 96. Kept for the next call: do not change it in place.
    Raises ValueError for hidden < 1.
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


def losses_of_all(hidden: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """`combinations(hidden)` (m, 4) and the loss of each on one data set x (n, 2), y (n,): (m,).

    At a point only one of relu(+-(x_1 + x_2)) and one of relu(+-(x_1 - x_2)) is positive. So the loss is a sum over four
    groups of points, each a function of two of the four coefficients: four tables of (2 hidden + 1)^2 numbers hold all.
    """
    c = combinations(hidden)
    k = torch.arange(-hidden, hidden + 1, dtype=x.dtype)
    signed = features(x) * y[:, None]
    losses = torch.zeros(len(c), dtype=x.dtype)
    for i, first in ((0, signed[:, 3] == 0), (3, signed[:, 3] != 0)):
        for j, second in ((1, signed[:, 2] == 0), (2, signed[:, 2] != 0)):
            u, v = signed[first & second][:, [i, j]].unbind(1)
            table = torch.stack([softplus(-(a * u + k[:, None] * v)).sum(-1) for a in k])
            losses += table[c[:, i] + hidden, c[:, j] + hidden]
    return c, losses / len(x)


def losses_on_all(hidden: int, x: Tensor, y: Tensor) -> Tensor:
    """`losses_of_all` on every data set x (S, n, 2), y (S, n): (S, m)."""
    return torch.stack([losses_of_all(hidden, *one)[1] for one in zip(x, y, strict=True)])


def best_of_all(hidden: int, ensemble: Ensemble) -> tuple[Tensor, Tensor]:
    """Loss of the best one-bit network on each training set (S,), and its coefficients (S, 4): `losses_of_all`, seed by seed."""
    found = []
    for x, y in zip(ensemble.x, ensemble.y, strict=True):
        c, losses = losses_of_all(hidden, x, y)
        found.append((losses.min(), c[losses.argmin()]))
    losses, c = map(torch.stack, zip(*found, strict=True))
    return losses, c


def floor_of_all_widths(x: Tensor, y: Tensor, iterations: int = 30) -> Tensor:
    """Infimum of the loss over one-bit networks of all widths with any scale of the output: real coefficients of the four
    features, by Newton's method; (...,) from x (..., n, 2), y (..., n)."""
    z = features(x) * y[..., None]
    c = z.new_zeros(*z.shape[:-2], 4, 1)
    for _ in range(iterations):
        p = torch.sigmoid(-z @ c)
        c = c + torch.linalg.solve((z * p * (1 - p)).mT @ z, z.mT @ p)
    return softplus(-z @ c).squeeze(-1).mean(-1)


def coefficients(w: Tensor) -> Tensor:
    """The combination of `features` that a one-bit network is: integers (..., 4) from weights (..., 3H) of -1 and +1.

    Raises ValueError for other weights.
    """
    if not (w.abs() == 1).all():
        raise ValueError("only networks whose weights are all -1 or +1 are combinations of the four features")
    _, W, a = _hidden(w, w.new_zeros(1, 2))
    which = (2 * (W[..., 0] > 0) + (W[..., 1] > 0)).long()  # the row of NEURONS
    return torch.zeros(*w.shape[:-1], 4, dtype=torch.long).scatter_add(-1, which, a.long())


def function_index(w: Tensor) -> Tensor:
    """Which of `combinations(H)` one-bit weights (..., 3H) are: their row numbers (...,)."""
    hidden = w.shape[-1] // 3
    base = (2 * hidden + 1) ** torch.arange(3, -1, -1)
    keys = ((combinations(hidden) + hidden) * base).sum(-1)  # increasing
    return torch.searchsorted(keys, ((coefficients(w) + hidden) * base).sum(-1))


def boundary(w: Tensor) -> Tensor:
    """Where the sign of f changes, for one network w (3H,): rays from the origin, by their angles in (-pi, pi], increasing.

    Without biases f(t x) = t f(x) for t > 0, so that the sign depends on the angle alone. Between the angles at which a
    neuron switches, f is linear and changes its sign at right angles to its slope. Where f = 0 in a whole sector (no active
    neuron), both of its edges are returned.
    """
    hidden = len(w) // 3
    W, a = w[: 2 * hidden].view(hidden, 2), w[2 * hidden :]

    def turned(v: Tensor) -> Tensor:  # the two angles at right angles to v (..., 2)
        angle = torch.atan2(v[..., 1], v[..., 0])
        return torch.cat([angle + torch.pi / 2, angle - torch.pi / 2]) % (2 * torch.pi)

    def between(angles: Tensor) -> Tensor:  # unit vectors in the middle of the sectors from each angle to the next
        nxt = torch.cat([angles[1:], angles[:1] + 2 * torch.pi])
        middle = (angles + nxt) / 2
        return torch.stack([middle.cos(), middle.sin()], -1)

    def distinct(angles: Tensor) -> Tensor:  # up to rounding
        angles = angles.sort().values
        return angles[torch.cat([angles.new_ones(1), angles.diff()]) > 1e-9]

    switches = distinct(turned(W))
    slopes = ((between(switches) @ W.T > 0) * a) @ W
    candidates = distinct(torch.cat([switches, turned(slopes[slopes.norm(dim=-1) > 1e-9])]))
    value = network(w, between(candidates))
    sign = torch.where(value.abs() < 1e-9, 0, value.sign())
    found = candidates[sign != sign.roll(1)]
    return torch.where(found > torch.pi, found - 2 * torch.pi, found).sort().values


def _sector(x: Tensor, bins: int) -> Tensor:
    """Which of `bins` equal angles the points x (n, 2) are seen in: (n,)."""
    angle = torch.atan2(x[:, 1], x[:, 0])
    return ((angle / (2 * torch.pi) + 0.5) * bins).long().clamp(0, bins - 1)


def homogeneous_accuracy(x: Tensor, y: Tensor, bins: int) -> float:
    """Largest share of points x (n, 2) whose label y (n,) is right if it depends on the angle alone, constant on `bins` ones."""
    excess = y.new_zeros(bins).index_add(0, _sector(x, bins), y)  # of one label over the other in each angle
    return excess.abs().sum().item() / len(y) / 2 + 0.5


def homogeneous_floor(x: Tensor, y: Tensor, bins: int) -> float:
    """Least mean logistic loss of f(x) = |x| h(angle of x) over all h that are constant on `bins` equal angles.

    For many points and bins: the floor of every network of ReLUs without biases, of any width, depth and weights. x (n, 2),
    y (n,). Newton's method in every bin, with a penalty of 1e-9 h^2 for bins with one label only.
    """
    which, z = _sector(x, bins), y * torch.linalg.vector_norm(x, dim=-1)
    h = z.new_zeros(bins)
    for _ in range(100):
        p = torch.sigmoid(-z * h[which])
        slope = (2e-9 * h).index_add(0, which, -p * z)
        curvature = torch.full_like(h, 2e-9).index_add(0, which, p * (1 - p) * z * z)
        h = h - (slope / curvature).clamp(-1, 1)
    return softplus(-z * h[which]).mean().item()


def accuracy(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Share of points whose label is the sign of f; points with f = 0 count as wrong. Shapes as in `loss`."""
    return (network(w, x) * y > 0).to(x.dtype).mean(-1)


def neurons(levels: Levels) -> Tensor:
    """All functions a relu(W x) of one neuron with weights on the levels, as rows (s, v_1, v_2) of s relu(v x): (N, 3).

    s is the sign of a and v = |a| W, which is the same function. The zero function is (1, 0, 0).
    """
    a, w1, w2 = levels.vectors(3, torch.float64).unbind(1)
    rows = torch.stack([a.sign(), a.abs() * w1, a.abs() * w2], 1)
    rows[(rows[:, 0] == 0) | (rows[:, 1:] == 0).all(1)] = torch.tensor([1.0, 0.0, 0.0], dtype=rows.dtype)
    return rows.unique(dim=0)


def _outputs(rows: Tensor, x: Tensor) -> Tensor:
    """s relu(v x) of the neurons rows (N, 3) at the points x (n, 2): (N, n)."""
    return rows[:, :1] * torch.relu(rows[:, 1:] @ x.mT)


def neuron_weights(rows: Tensor) -> Tensor:
    """Real weights (3H,) of the network whose neurons are the rows (s, v_1, v_2), (H, 3): W = v, a = s."""
    return torch.cat([rows[:, 1:].flatten(), rows[:, 0]])


def best_network(levels: Levels, hidden: int, x: Tensor, y: Tensor) -> tuple[float, Tensor]:
    """The smallest loss of all networks with weights on the levels on one data set x (n, 2), y (n,), and its neurons.

    Goes through all combinations of `neurons`, which takes N^hidden / hidden! steps on n points. For one bit
    `losses_of_all` is faster.
    """
    rows = neurons(levels)
    signed = _outputs(rows, x) * y
    best, which = math.inf, ()
    for chosen in combinations_with_replacement(range(len(rows)), hidden - 1):
        last = chosen[-1] if chosen else 0  # the others are no larger, so that every combination comes once
        losses = softplus(-(signed[list(chosen)].sum(0) + signed[last:])).mean(-1)
        if losses.min() < best:
            best, which = losses.min().item(), (*chosen, last + int(losses.argmin()))
    return best, rows[list(which)]


def best_by_exchange(
    levels: Levels, hidden: int, x: Tensor, y: Tensor, starts: int, seed: int = 0
) -> tuple[float, Tensor]:
    """A network that no exchange of one neuron improves, the best one from several random starts: its loss and neurons.

    An upper bound of the smallest loss, for levels with too many networks for `best_network`.
    """
    rows = neurons(levels)
    signed, g = _outputs(rows, x) * y, torch.Generator().manual_seed(seed)
    best, which = math.inf, None
    for _ in range(starts):
        chosen, now = torch.randint(0, len(rows), (hidden,), generator=g), math.inf
        while True:
            before = now
            for j in range(hidden):
                others = signed[chosen].sum(0) - signed[chosen[j]]
                losses = softplus(-(others + signed)).mean(-1)
                chosen[j], now = losses.argmin(), losses.min().item()
            if now >= before - 1e-12:
                break
        if now < best:
            best, which = now, rows[chosen]
    return best, which


def scores(w: Tensor, ensemble: Ensemble, levels: Levels = BINARY) -> dict[str, Tensor]:
    """Everything that "loss of the last iteration" (Table 3) may mean, per seed, from latent weights w (S, 3H)."""
    named, sets = {"latent": w, "quantised": levels.nearest(w)}, ensemble.sets()
    return {f"{kind} weights, {on}": loss(v, *points) for kind, v in named.items() for on, points in sets.items()}


#: Every method on Task II as the paper sets it (alpha 4, lr initially 1: a push may overshoot).
METHODS = methods(alpha=4.0)
