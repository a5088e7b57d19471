"""The smoothed interval constraints: psi (19) and phi (22). A weight is feasible when its constraint is >= 0.
Both are evaluated as products: phi = (|u| - e)(|u| + e) inside a gap, psi_(s^2) = phi_s (2 s - phi_s), with u the distance to
the gap's midpoint and e the half-width of the infeasible middle. The printed form subtracts nearly equal numbers near eps's
largest legal value: in float32 a weight within 2e-4 of the midpoint then looks infeasible, and stays."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .arguments import _integer
from .levels import Levels, _on
from .schedules import Geometric


def _geometry(w: Tensor, levels: Levels) -> tuple[Tensor, Tensor, Tensor]:
    """Per weight (u, h, beyond): w - midpoint of its (the nearest) gap, half of that gap, signed distance past the hull."""
    low, high = levels.hull
    beyond = w - w.clamp(low, high)
    gap = (levels.gap(w) - 1).clamp(0, len(levels.gaps) - 1)
    u = w - _on(levels.midpoints, w.dtype, w.device)[gap]
    return u, _on(levels.gaps, w.dtype, w.device)[gap] / 2, beyond


def _phi(w: Tensor, levels: Levels, epsilon: float) -> Tensor:
    u, h, beyond = _geometry(w, levels)
    e2 = h * h - epsilon  # negative where the gap is merged: phi > 0 all over the gap
    root = e2.clamp_min(0).sqrt()
    inside = torch.where(e2 > 0, (u.abs() - root) * (u.abs() + root), u * u - e2)
    return torch.where(beyond == 0, inside, epsilon - beyond.abs())


def _phi_derivative(w: Tensor, levels: Levels, epsilon: float) -> Tensor:
    u, _, beyond = _geometry(w, levels)
    return torch.where(beyond == 0, 2 * u, -beyond.sign())


def _psi(w: Tensor, levels: Levels, epsilon: float) -> Tensor:
    s = math.sqrt(epsilon)
    phi = _phi(w, levels, s)
    return phi * (2 * s - phi)


def _psi_derivative(w: Tensor, levels: Levels, epsilon: float) -> Tensor:
    u, h, beyond = _geometry(w, levels)
    return torch.where(beyond == 0, 4 * u * (h * h - u * u), -2 * beyond)


@dataclass(frozen=True)
class Constraint:
    """One of the two constraint functions, applied to every weight by itself.
    value, derivative: (w, levels, epsilon) -> w's shape. band: epsilon -> distance of the outer feasible edge from the outermost
    level. cap: smallest gap -> `largest_epsilon`. degree: the power of the distance with which the constraint falls outside.
    >>> PHI.feasible_intervals(Levels.binary(), epsilon=0.75)
    [(-1.75, -0.5), (0.5, 1.75)]
    >>> PHI.push(torch.tensor([0.25, 0.75]), Levels.binary(), epsilon=0.75)  # inside: free
    tensor([0.3750, 0.0000])
    """

    name: str
    equation: int
    value: Callable[[Tensor, Levels, float], Tensor]
    derivative: Callable[[Tensor, Levels, float], Tensor]
    band: Callable[[float], float]
    cap: Callable[[float], float]
    degree: int

    def __reduce__(self) -> str:
        return self.name.upper()  # in a pickle: the constant of this module

    def push(self, w: Tensor, levels: Levels, epsilon: float) -> Tensor:
        """-g / g' of infeasible weights, which points to their feasible interval, and 0 for the others: w's shape. +inf at a
        midpoint; on an edge a rounding error of the right sign. Comparisons are slow on a processor, hence the clamps. phi's is
        half of e^2/u - u in a gap, the distance to the edge beyond the hull; psi's is phi_s's times (1 + s / (s - phi_s)) / 2."""
        s, ulp = self.band(epsilon), torch.finfo(w.dtype).eps
        squares = [(gap * gap / 4 - s) * (1 + ulp) for gap in levels.gaps]  # e^2, and an edge is an ulp wide
        squares = [e2 if e2 > 0 else -1.0 for e2 in squares]  # intervals that touch leave their gap unconstrained
        low, high = levels.values[0] - s, levels.values[-1] + s
        back = w.clamp(low + ulp * abs(low), high - ulp * abs(high)).sub_(w)
        if max(squares) < 0 and self.degree == 1:
            return back  # every gap is free
        if len(squares) == 1:
            m, e2 = levels.midpoints[0], squares[0]
        else:
            gap = (levels.gap(w) - 1).clamp_(0, len(squares) - 1)
            m, e2 = (_on(tuple(x), w.dtype, w.device)[gap] for x in (levels.midpoints, squares))
        u = w + (0.0 - m)  # plus, because it turns -0.0 into 0.0
        depth = (e2 - u * u).clamp_min_(0)  # -phi in a gap
        push = torch.addcdiv(back, depth, u, value=0.5)
        if self.degree == 2:
            depth += back.abs_()
            push.addcdiv_(push, depth.add_(s), value=s).mul_(0.5)
        return push.nan_to_num_(0.0, math.inf, -math.inf) if min(squares) < 0 else push  # 0 / 0 where intervals touch

    def largest_epsilon(self, levels: Levels) -> float:
        """The value that epsilon must stay strictly below: gap^2/4 for (22), gap^4/16 for (19), of the smallest gap. There
        feasible intervals touch, and the push is 0/0 at the midpoint (the paper's Theorems 2 and 3 print "<=")."""
        return self.cap(min(levels.gaps))

    def check_epsilon(self, epsilon: float, levels: Levels, merged: bool = False, when: str = "") -> float:
        """Return epsilon, or raise ValueError saying what is allowed, after the words `when`; `merged` lets intervals touch."""
        largest = self.largest_epsilon(levels)
        if not (epsilon > 0 and math.isfinite(epsilon)):
            raise ValueError(f"{when}epsilon={epsilon}: it must be positive; allowed is 0 < epsilon < {largest:g}")
        if epsilon >= largest and not merged:
            what = (
                f"the largest legal value of {self.name} ({self.equation}) for a smallest gap of {min(levels.gaps):g}"
            )
            what = f"{when}epsilon={epsilon:g} is not below {largest:g}, {what}: feasible intervals would merge"
            more = "ASkew accepts it with merged=True and leaves such gaps unconstrained"
            raise ValueError(f"{what}. Allowed is 0 < epsilon < {largest:g}; {more}")
        return epsilon

    def feasible_intervals(self, levels: Levels, epsilon: float) -> list[tuple[float, float]]:
        """The feasible set {w : constraint >= 0} as disjoint closed intervals, those that touch merged."""
        band = self.band(self.check_epsilon(epsilon, levels, merged=True))
        edges = [levels.values[0] - band]
        for midpoint, gap in zip(levels.midpoints, levels.gaps, strict=True):
            e2 = gap * gap / 4 - band  # both constraints: u^2 >= gap^2/4 - band
            if e2 > 0:
                edges += [midpoint - math.sqrt(e2), midpoint + math.sqrt(e2)]
        edges.append(levels.values[-1] + band)
        return list(zip(edges[::2], edges[1::2], strict=True))


PHI = Constraint("phi", 22, _phi, _phi_derivative, lambda eps: eps, lambda gap: gap**2 / 4, degree=1)
PSI = Constraint("psi", 19, _psi, _psi_derivative, math.sqrt, lambda gap: gap**4 / 16, degree=2)


def late_annealing(constraint: Constraint, levels: Levels, steps: int, start: int | None = None) -> Geometric:
    """The book's advice for ASkew's epsilon, with merged=True and one `anneal()` in each of the steps (or epochs): every weight
    is free until `start`, by default three quarters of them; then epsilon falls by 0.88^50, as far as in Leconte et al. (2023).
    >>> late_annealing(PHI, Levels.binary(), steps=200)
    Geometric(initial=1.0, ratio=0.88, start=150)
    """
    steps = _integer("steps", steps, 1, 2**62)
    start = round(0.75 * steps) if start is None else _integer("start", start, 0, 2**62)
    return Geometric(constraint.largest_epsilon(levels), 0.88 ** (50 / max(steps - start, 1)), start)
