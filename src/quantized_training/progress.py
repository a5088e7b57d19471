"""How far training has come, in numbers that a person can read."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .constraints import _geometry
from .methods.base import _local


@dataclass(frozen=True)
class Progress:
    """What `QuantizedOptimizer.progress` says of the latent weights; `groups` has the same for each quantised group.
    on_level: share of the weights on a level. distance: mean distance to the nearest level, in halves of the gap around the
    weight. changed: share whose nearest level is another than at the last call, NaN at the first. infeasible: share that breaks
    the constraint by more than rounding errors; epsilon: the largest tolerance; both NaN for methods without a constraint.
    >>> w = nn.Parameter(torch.tensor([-1.0, 0.0, 0.75, 1.5]))
    >>> optimizer = QuantizedOptimizer(torch.optim.SGD([w], lr=0.5), ASkew(Levels.binary(), PHI, epsilon=0.75))
    >>> print(optimizer.progress())
    25.0 % on a level, 0.438 half gaps away, 25.0 % infeasible, epsilon 0.75
    """

    on_level: float
    distance: float
    changed: float
    infeasible: float
    epsilon: float
    weights: int
    groups: tuple[Progress, ...] = ()

    @classmethod
    def of(cls, optimizer, most: int) -> Progress:
        before, groups = vars(optimizer).setdefault("_cells", {}), []
        for i, group in enumerate(optimizer.param_groups):
            parts = [_local(optimizer._latent(p)).detach() for p in group["params"]] if group["quantize"] else []
            if size := sum(w.numel() for w in parts):
                w = torch.cat([_some(w.flatten(), most / size) for w in parts]).float()
                groups.append(cls._of_weights(w, size, optimizer.method, group["levels"], before, i))
        n = sum(g.weights for g in groups)
        means = [sum(g.weights * getattr(g, k) for g in groups) / max(n, 1) for k in cls.__match_args__[:4]]
        return cls(*means, max((g.epsilon for g in groups), default=math.nan), n, tuple(groups))

    @classmethod
    def _of_weights(cls, w: Tensor, size: int, method, levels, before: dict, key: int) -> Progress:
        cells, last, epsilon = levels.cell(w), before.get(key), method.tolerance(levels)
        before[key] = cells
        h, distance, unknown = _geometry(w, levels)[1], (w - levels.nearest(w)).abs(), w.new_tensor([math.nan])
        changed = cells != last if last is not None and last.shape == cells.shape else unknown
        g = method.constraint
        infeasible = unknown if g is None else g.value(w, levels, epsilon) < -1e-5 * h ** (2 * g.degree)
        shares = distance == 0, distance / h, changed, infeasible
        means = torch.stack([s.float().mean() for s in shares]).tolist()  # waits for a device once
        return cls(*means, epsilon, size)

    def __str__(self) -> str:
        words = [f"{100 * self.on_level:.1f} % on a level", f"{self.distance:.3f} half gaps away"]
        words += [f"{100 * self.changed:.2f} % changed"] * (not math.isnan(self.changed))
        if not math.isnan(self.epsilon):
            words.append(f"{100 * self.infeasible:.1f} % infeasible, epsilon {self.epsilon:.3g}")
        return ", ".join(words)


def _some(w: Tensor, share: float) -> Tensor:
    """The same part of a vector at each call, spread evenly over it: its entries at the multiples of the golden section."""
    if share >= 1:
        return w
    places = torch.arange(math.ceil(share * len(w)), dtype=torch.float64) * ((math.sqrt(5) - 1) / 2) % 1 * len(w)
    return w[places.long().to(w.device)]
