"""The smoothed interval constraints: psi (19), phi (22) and the smooth pieces f_j of section 5.

A weight is feasible when its constraint is >= 0. Both functions are evaluated in factorised form,

    phi = (|u| - e)(|u| + e),    psi = (u^2 - e^2)(s + h^2 - u^2)       inside a gap,

with u the distance to the gap's midpoint, h half the gap, e the half-width of the infeasible middle and s = sqrt(eps).
The form printed in the paper subtracts nearly equal numbers when eps is close to its largest legal value (the first steps
of the annealing): in float32 a weight closer than 2e-4 to the midpoint then looks infeasible and is stuck there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .levels import Levels, _on


def _geometry(w: Tensor, levels: Levels) -> tuple[Tensor, Tensor, Tensor]:
    """Per weight: u = w - midpoint of its gap, h = half of that gap, beyond = signed distance past the outer levels.

    `beyond` is 0 on the hull, w - q_1 < 0 below it and w - q_K > 0 above it; u and h are those of the nearest gap there.
    """
    low, high = levels.hull
    beyond = w - w.clamp(low, high)
    if len(levels.values) == 2:
        return w - levels.midpoints[0], torch.full_like(w, levels.gaps[0] / 2), beyond
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
    u, h, beyond = _geometry(w, levels)
    s = math.sqrt(epsilon)
    e2 = h * h - s
    root = e2.clamp_min(0).sqrt()
    inside = torch.where(e2 > 0, (u.abs() - root) * (u.abs() + root), u * u - e2) * (s + h * h - u * u)
    return torch.where(beyond == 0, inside, (s - beyond.abs()) * (s + beyond.abs()))


def _psi_derivative(w: Tensor, levels: Levels, epsilon: float) -> Tensor:
    u, h, beyond = _geometry(w, levels)
    return torch.where(beyond == 0, 4 * u * (h * h - u * u), -2 * beyond)


@dataclass(frozen=True)
class Constraint:
    """One of the two constraint functions, applied to every weight by itself.

    value, derivative: (w, levels, epsilon) -> tensor of w's shape.
    band: epsilon -> distance of the outer feasible edge from the outermost level. cap: smallest gap -> `largest_epsilon`.
    degree: the constraint falls with this power of the distance to a level beyond the hull, and inside a gap, u from its
    midpoint, with that of h^2 - u^2; the push is at least alpha / degree times the distance to the feasible set.

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
        """-g / g' of infeasible weights, which points to their feasible interval, and 0 for the others: w's shape.

        +inf at a midpoint. On an edge it is not 0 but a rounding error of the right sign, so that its sign says which weights
        may not be left to themselves. Comparisons are slow on a processor, hence the clamps. The push of phi is half of
        e^2/u - u in a gap and the distance to the edge beyond the hull; that of psi follows from
        psi_(s^2) = phi_s (2 s - phi_s): it is that of phi_s times (1 + s / (s - phi_s)) / 2.
        """
        s, ulp = self.band(epsilon), torch.finfo(w.dtype).eps
        squares = [(gap * gap / 4 - s) * (1 + ulp) for gap in levels.gaps]  # e^2, and an edge is an ulp wide
        squares = [e2 if e2 > 0 else -1.0 for e2 in squares]  # intervals that touch leave their gap unconstrained
        if len(squares) == 1:
            m, e2 = levels.midpoints[0], squares[0]
        else:
            gap = (levels.gap(w) - 1).clamp_(0, len(squares) - 1)
            m, e2 = (_on(tuple(x), w.dtype, w.device)[gap] for x in (levels.midpoints, squares))
        u = w + (0.0 - m)  # plus, because it turns -0.0 into 0.0
        depth = (e2 - u * u).clamp_min_(0)  # -phi in a gap
        low, high = levels.values[0] - s, levels.values[-1] + s
        back = w.clamp(low + ulp * abs(low), high - ulp * abs(high)).sub_(w)
        push = torch.addcdiv(back, depth, u, value=0.5)
        if self.degree == 2:
            depth += back.abs_()
            push *= (s / 2) / depth.add_(s) + 0.5
        return push.nan_to_num_(0.0, math.inf, -math.inf) if min(squares) < 0 else push  # 0 / 0 where intervals touch

    def largest_epsilon(self, levels: Levels) -> float:
        """The value that epsilon must stay strictly below: gap^2/4 for (22), gap^4/16 for (19), over the smallest gap.

        At that value neighbouring feasible intervals touch, constraint and derivative both vanish at the midpoint, and
        the push is 0/0 (the paper's Theorems 2 and 3 print "<=").
        """
        return self.cap(min(levels.gaps))

    def check_epsilon(self, epsilon: float, levels: Levels, merged: bool = False, when: str = "") -> float:
        """Return epsilon, or raise ValueError saying what is allowed; `merged` lets neighbouring intervals touch.
        when: words in front, e.g. at which index of a schedule."""
        largest = self.largest_epsilon(levels)
        if not (epsilon > 0 and math.isfinite(epsilon)):
            raise ValueError(f"{when}epsilon={epsilon}: it must be positive; allowed is 0 < epsilon < {largest:g}")
        if epsilon >= largest and not merged:
            raise ValueError(
                f"{when}epsilon={epsilon:g} is not below {largest:g}, the largest legal value of {self.name} ({self.equation}) for "
                f"levels with smallest gap {min(levels.gaps):g}: the feasible intervals around neighbouring levels would "
                f"merge. Allowed is 0 < epsilon < {largest:g}; ASkew accepts it with merged=True and leaves such gaps unconstrained"
            )
        return epsilon

    def feasible_intervals(self, levels: Levels, epsilon: float) -> list[tuple[float, float]]:
        """The feasible set {w : constraint >= 0} as disjoint closed intervals, in closed form.

        One interval per level while epsilon is below `largest_epsilon`; intervals that touch or overlap are merged.
        """
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


def pieces(w: Tensor, levels: Levels, epsilon: float) -> Tensor:
    """The smooth constraints f_1 .. f_(K+1) whose minimum is phi (paper, section 5): shape (K + 1, *w.shape).

    f_1 = eps - (q_1 - w),  f_j = eps - (q_(j-1) - w)(w - q_j) for j = 2..K,  f_(K+1) = eps - (w - q_K).

    >>> w, levels = torch.tensor([-2.0, 0.25, 1.25]), Levels.binary()
    >>> torch.allclose(pieces(w, levels, epsilon=0.5).amin(0), PHI.value(w, levels, epsilon=0.5))
    True
    """
    q = levels.values
    middle = [(w - a) * (w - b) + epsilon for a, b in zip(q, q[1:], strict=False)]
    return torch.stack([w + (epsilon - q[0]), *middle, (epsilon + q[-1]) - w])


def pieces_derivative(w: Tensor, levels: Levels) -> Tensor:
    """Derivatives of the pieces f_j, shape (K + 1, *w.shape); they do not depend on epsilon.

    >>> pieces_derivative(torch.tensor([0.25]), Levels.binary())[:, 0].tolist()
    [1.0, 0.5, -1.0]
    """
    q = levels.values
    one = torch.ones_like(w)
    return torch.stack([one, *[2 * w - (a + b) for a, b in zip(q, q[1:], strict=False)], -one])
