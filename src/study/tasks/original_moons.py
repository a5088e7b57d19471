"""The two moons of the ASkewSGD paper (Leconte et al., 2023) with the settings of its public notebook.

A 2-3-1 network with nine one-bit weights, no biases, and batch normalisation without scale and shift after both linear
layers: f = BN(a' relu(BN(W x))). Training uses the statistics of the batch, evaluation running averages of them, as torch's
BatchNorm1d does. Weights of a network are one vector (W_1, W_2, W_3, a) of length 9, those of S networks a tensor (S, 9).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from quantized_training.constraints import PHI, PSI, Constraint
from quantized_training.methods import SGDA, ASkew, BinaryConnect, FullPrecision, Method, ProxQuant, StraightThrough
from quantized_training.optimizer import QuantizedOptimizer
from quantized_training.schedules import Linear

from ..methods import BINARY
from . import arguments, moons
from .ensembles import draw_order, rounding_noise

HIDDEN, SAMPLES, TEST_SAMPLES, BATCH, EPOCHS = 3, 2000, 200, 100, 50
MOMENTUM, BN_EPS = 0.15, 1e-4  # of the batch normalisation
LR = 0.1
CONSTANT, RATIO = 20, 0.99  # epsilon = RATIO^(k - CONSTANT) in epoch k = 0, 1, ..., at most 1

#: What the paper's table prints, as ordinary mean logistic loss: its unit is that mean over 200, times 1000.
PRINTED = {
    "Full precision": 0.409,
    "Exhaustive search": 0.420,
    "ASkewSGD": 0.422,
    "AdaSTE": 0.448,
    "BinaryConnect": 0.464,
}
UNIT = 1000 / TEST_SAMPLES  # a mean loss times this is the number in the paper's unit


def annealing(k: int) -> float:
    """epsilon of epoch k = 0, 1, ...: 1 for 21 epochs, then a factor 0.99 per epoch, which ends at 0.747 after 50 epochs."""
    return RATIO ** max(k - CONSTANT, 0)


@dataclass(frozen=True)
class Statistics:
    """Means and variances of what is normalised: hidden (..., 3), output (...,)."""

    mean: Tensor
    var: Tensor
    out_mean: Tensor
    out_var: Tensor

    @classmethod
    def initial(cls, like: Tensor) -> Statistics:
        """torch's running statistics before the first batch, for weights (..., 9)."""
        hidden, out = like[..., :HIDDEN], like[..., 0]
        return cls(torch.zeros_like(hidden), torch.ones_like(hidden), torch.zeros_like(out), torch.ones_like(out))

    def of(self, seed: int) -> Statistics:
        """Those of one seed of an ensemble."""
        return Statistics(self.mean[seed], self.var[seed], self.out_mean[seed], self.out_var[seed])

    def moved(self, batch: Statistics, n: int, momentum: float = MOMENTUM) -> Statistics:
        """Running statistics after a batch of n samples, whose variances were divided by n."""
        gain = n / (n - 1)  # torch normalises a batch with the biased variance and averages the unbiased one
        return Statistics(
            torch.lerp(self.mean, batch.mean, momentum),
            torch.lerp(self.var, batch.var * gain, momentum),
            torch.lerp(self.out_mean, batch.out_mean, momentum),
            torch.lerp(self.out_var, batch.out_var * gain, momentum),
        )


def draw(seeds: int | range, own_data: bool = False, epochs: int = EPOCHS) -> moons.Ensemble:
    """Everything random of the experiment: 2000 training points, 200 test points, initial weights, batch orders.

    The notebook draws both point sets with random_state=0 and standardises both by the training points; its repetitions
    share them. own_data: seed s draws its training points with random_state=s, its test points with random_state=s + 10^6.
    Initial weights are torch's for linear layers, uniform up to 1 / sqrt(inputs).
    """
    from sklearn.datasets import make_moons  # a dependency of the book, not of the package

    seeds = arguments.seeds(seeds)
    bound = torch.cat([torch.full((2 * HIDDEN,), 2**-0.5), torch.full((HIDDEN,), HIDDEN**-0.5)]).double()
    own, points = [], []
    for seed in seeds:
        g = torch.Generator().manual_seed(seed)
        initial = (2 * torch.rand(3 * HIDDEN, generator=g, dtype=torch.float64) - 1) * bound
        order = draw_order(SAMPLES, epochs, g)
        uniform = torch.rand(epochs * (SAMPLES // BATCH) + 1, 3 * HIDDEN, generator=g, dtype=torch.float64)
        own.append((initial, order, uniform))
        if own_data or not points:
            x, y = make_moons(SAMPLES, noise=0.1, random_state=seed if own_data else 0)
            test_x, test_y = make_moons(TEST_SAMPLES, noise=0.1, random_state=seed + 10**6 if own_data else 0)
            mean, sd = x.mean(0), x.std(0, ddof=1)
            sets = ((x - mean) / sd, 2.0 * y - 1, (test_x - mean) / sd, 2.0 * test_y - 1)
            points.append([torch.as_tensor(t) for t in sets])
    initial, order, uniform = map(torch.stack, zip(*own, strict=True))
    # every seed its copy, because `Ensemble.batches` draws rows of a tensor with one data set for each batch order
    x, y, test_x, test_y = (
        torch.stack(t).expand(len(own), *t[0].shape).contiguous() for t in zip(*points, strict=True)
    )
    return moons.Ensemble(tuple(seeds), initial, order, uniform, BATCH, x, y, test_x, test_y)


def _split(w: Tensor) -> tuple[Tensor, Tensor]:
    """W (..., 3, 2) and a (..., 3)."""
    return w[..., : 2 * HIDDEN].unflatten(-1, (HIDDEN, 2)), w[..., 2 * HIDDEN :]


def _moments(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over the last dimension, which is kept."""
    mean = z.mean(-1, keepdim=True)
    return mean, (z - mean).square().mean(-1, keepdim=True)


def network(w: Tensor, x: Tensor, statistics: Statistics | None = None) -> tuple[Tensor, Statistics]:
    """f(x), (..., n), of weights w (..., 9) at the points x (..., n, 2), and the statistics used.

    statistics: what to normalise with (evaluation); None: those of the points themselves (training).
    """
    W, a = _split(w)
    z = W @ x.mT  # (..., 3, n)
    mean, var = _moments(z) if statistics is None else (statistics.mean[..., None], statistics.var[..., None])
    r = torch.relu((z - mean) / (var + BN_EPS).sqrt())
    o = (a[..., None, :] @ r).squeeze(-2)
    if statistics is None:
        out_mean, out_var = _moments(o)
        statistics = Statistics(mean[..., 0], var[..., 0], out_mean[..., 0], out_var[..., 0])
    f = (o - statistics.out_mean[..., None]) / (statistics.out_var[..., None] + BN_EPS).sqrt()
    return f, statistics


def loss(w: Tensor, x: Tensor, y: Tensor, statistics: Statistics | None = None) -> Tensor:
    """Mean logistic loss (...,): torch's BCEWithLogitsLoss for labels y = +-1, (..., n)."""
    return softplus(-y * network(w, x, statistics)[0]).mean(-1)


def _through_norm(slope: Tensor, normalised: Tensor, var: Tensor) -> Tensor:
    """Slope of the loss by what goes into a batch normalisation, from that by what comes out (the last dimension is n)."""
    centred = slope - slope.mean(-1, keepdim=True) - normalised * (slope * normalised).mean(-1, keepdim=True)
    return centred / (var + BN_EPS).sqrt()


def gradient(w: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Statistics]:
    """Gradient (..., 9) of `loss` with the batch's own statistics, in closed form, and these statistics."""
    W, a = _split(w)
    z = W @ x.mT
    mean, var = _moments(z)
    hidden = (z - mean) / (var + BN_EPS).sqrt()
    r = torch.relu(hidden)
    o = (a[..., None, :] @ r).squeeze(-2)
    out_mean, out_var = _moments(o)
    f = (o - out_mean) / (out_var + BN_EPS).sqrt()
    slope = _through_norm(-y * torch.sigmoid(-y * f) / y.shape[-1], f, out_var)
    by_a = (r @ slope[..., None]).squeeze(-1)
    by_W = _through_norm((hidden > 0) * slope[..., None, :] * a[..., None], hidden, var) @ x
    return torch.cat([by_W.flatten(-2), by_a], dim=-1), Statistics(
        mean[..., 0], var[..., 0], out_mean[..., 0], out_var[..., 0]
    )


@dataclass(frozen=True)
class Setting:
    """How one method is run: make builds it for an ensemble; base is torch's Adam or SGD, after whose step the weights are
    clamped to [-1, 1] if clamp is true; start scales the initial weights (hidden, output)."""

    make: Callable[[moons.Ensemble], Method]
    adam: bool = False
    lr: float = LR
    clamp: bool = False
    start: tuple[float, float] = (1.0, 1.0)


def _askew(alpha: float, clip: float, constraint: Constraint = PSI) -> Callable[[moons.Ensemble], Method]:
    return lambda e: ASkew(BINARY, constraint, alpha, clip, epsilon=annealing, merged=True, allow_overshoot=True)


#: In the notebook: full precision (SGD), BinaryConnect, ASkewSGD (its push has no bound). The others are ours.
SETTINGS: dict[str, Setting] = {
    "Full precision": Setting(lambda e: FullPrecision(BINARY)),
    "Full precision (Adam)": Setting(lambda e: FullPrecision(BINARY), adam=True),
    "BinaryConnect": Setting(
        lambda e: BinaryConnect(BINARY, uniform=rounding_noise(e)),
        start=((1.5 / 5) ** 0.5 * 2**0.5, (1.5 / 4) ** 0.5 * 3**0.5),
    ),
    "Straight-through": Setting(lambda e: StraightThrough(BINARY)),
    "ProxQuant (L1)": Setting(lambda e: ProxQuant(BINARY, Linear(2e-3), "l1")),
    "ASkewSGD": Setting(_askew(1.0, 1e12), adam=True, clamp=True),
    "ASkewSGD (paper)": Setting(_askew(4.0, 1.0), lr=1.0),
    "Modified ASkewSGD": Setting(_askew(1.0, 1e12, PHI), adam=True, clamp=True),
    "SGDA (ε = 0.01)": Setting(lambda e: SGDA(BINARY, epsilon=0.01, dual_lr=1e-3)),
    "SGDA (ε = 0.5)": Setting(lambda e: SGDA(BINARY, epsilon=0.5, dual_lr=1e-3)),
}


@dataclass(frozen=True)
class Run:
    """A method on every seed. latent: after 0, 1, ..., epochs, (epochs + 1, S, 9). statistics: the running ones, likewise.
    forward: the weights in use at the end, (S, 9): a rounding for BinaryConnect and straight-through, else the latent ones."""

    latent: Tensor
    statistics: list[Statistics]
    forward: Tensor


def train(setting: Setting, ensemble: moons.Ensemble) -> Run:
    """Train every seed; the method is annealed after every epoch."""
    hidden, output = setting.start
    scale = torch.tensor([hidden] * 2 * HIDDEN + [output] * HIDDEN, dtype=torch.float64)
    method = setting.make(ensemble)
    w = torch.nn.Parameter(ensemble.initial * scale)
    base = torch.optim.Adam if setting.adam else torch.optim.SGD
    optimizer = QuantizedOptimizer(base([w], lr=setting.lr), method)
    running = Statistics.initial(w.detach())
    latent, statistics = [], []

    def record() -> None:
        with optimizer.latent():
            latent.append(w.detach().clone())
        statistics.append(running)

    record()
    for k, (x, y) in enumerate(ensemble.batches(), 1):
        w.grad, batch = gradient(w.detach(), x, y)
        running = running.moved(batch, ensemble.batch)
        optimizer.step()
        if setting.clamp:
            w.data.clamp_(-1, 1)
        if k % ensemble.per_epoch == 0:
            method.anneal()
            record()
    return Run(torch.stack(latent), statistics, w.detach().clone())


def scores(run: Run, ensemble: moons.Ensemble, name: str) -> dict[str, Tensor]:
    """Losses (S,) at the end of a run of SETTINGS[name], by what is scored.

    latent: latent weights, with the running statistics. signs: the signs of the latent weights, still with the running
    statistics of the network that was trained. re-estimated: the signs, with the statistics of these signs on the training
    points. These on the test points; training: as re-estimated, on the training points. notebook: as the notebook scores the
    method on the test points, which is "latent" for full precision, "signs" for ASkewSGD, and for BinaryConnect the random
    rounding that the next batch would see, with the running statistics; for methods that it does not run, "signs".
    """
    w, statistics = run.latent[-1], run.statistics[-1]
    signs = BINARY.nearest(w)
    own = network(signs, ensemble.x)[1]
    test = (ensemble.test_x, ensemble.test_y)
    found = {
        "latent": loss(w, *test, statistics),
        "signs": loss(signs, *test, statistics),
        "re-estimated": loss(signs, *test, own),
        "training": loss(signs, ensemble.x, ensemble.y, own),
    }
    if name.startswith("Full precision"):
        return {"notebook": found["latent"]} | found
    return {"notebook": loss(run.forward, *test, statistics) if name == "BinaryConnect" else found["signs"]} | found


def one_bit(
    x: Tensor, y: Tensor, test_x: Tensor, test_y: Tensor, w: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """All 512 one-bit networks (512, 9) and their losses on the training and on the test points, (512,) each.

    x (n, 2), y (n,): the normalisation takes its statistics from these training points. w: only these networks (m, 9).
    """
    if w is None:
        w = BINARY.vectors(3 * HIDDEN, x.dtype)
    statistics = network(w, x)[1]
    return w, loss(w, x, y, statistics), loss(w, test_x, test_y, statistics)


def directions() -> Tensor:
    """The distinct functions among the 512 networks, as coefficients (88, 4) of the four normalised one-bit neurons.

    Neurons that differ in the output sign cancel, which leaves the 96 combinations of `moons.combinations`; the output
    normalisation forgets a common factor, so (1, 0, 0, 0) and (3, 0, 0, 0) are one function.
    """
    c = moons.combinations(HIDDEN)
    divisor = torch.stack([torch.gcd(torch.gcd(a, b), torch.gcd(d, e)) for a, b, d, e in c])
    return (c // divisor[:, None]).unique(dim=0)


def real_minimum(ensemble: moons.Ensemble, starts: int = 64, steps: int = 300) -> tuple[Tensor, Tensor]:
    """The best real weights (9,) and their training loss, by Adam with the whole training set from many starts."""
    w = torch.nn.Parameter(ensemble.initial[:starts].clone())
    x, y = ensemble.x[0], ensemble.y[0]
    optimizer = torch.optim.Adam([w], lr=0.05)
    for k in range(steps):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - k / steps)
        w.grad = gradient(w.detach(), x, y)[0]
        optimizer.step()
    losses = loss(w.detach(), x, y)
    return w.detach()[losses.argmin()], losses.min()
