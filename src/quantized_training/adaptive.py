"""BAMSProd (Liu et al., 2020), to be used alone or as the base of `QuantizedOptimizer`; AMSBound (Luo et al., 2019) without bias
correction is a setting of it."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .arguments import _instance, number
from .methods.base import _chunks, _local
from .schedules import Falling, Rising, as_schedule
from .transaction import _whole

LOWER, UPPER = Rising(1e-3), Falling(1e-3)


class BAMSProd(torch.optim.Optimizer):
    """BAMSProd (Liu et al., arXiv 2009.13799), Algorithm 1, with what it leaves open filled in; (*) marks our choices.
    For each parameter tensor, t = 1, 2, ... being the steps in which it had a gradient g_t, from zeros:
        m_t  = beta1 m_(t-1) + (1 - beta1) g_t              (*) beta1 constant, as in the paper's experiments
        v_t  = beta2 v_(t-1) + (1 - beta2) g_t^2
        v^_t = max(v_t, v^_(t-1))                           (*) no bias correction, the algorithm has none
        c_t  = max(c_(t-1), mean(v^_t) max(rho_t, least_error))                 (*), see below; `target` replaces it
        v~_t = clip(v^_t, c_t lower(t), c_t upper(t))
        w_(t+1) = clip(w_t - eta_t m_t / (sqrt(v~_t) + eps), -box, box)         (*) eps, as in Adam; no box by default
        eta_t = lr / sqrt(t)                                (*) sqrt_decay=False: lr, to be scheduled from outside
    (*) w is latent and its rounding the caller's. (*) Printed for c_t is L D sum_(t<=T) sqrt(||w_t - alpha*||^2_H), which needs
    weights to come. Here mean(v^) is the squared Lipschitz factor as measured, and rho_t the mean over w_1 .. w_t of
    ||w - alpha* sign(w)|| / ||w||, alpha* = mean |w|. `least_error` keeps c_t away from 0.
    lower(t) should rise from 0 to 1 and upper(t) fall from infinity to 1, neither lower(t) nor t upper(t) decreasing (Theorem 4),
    as in AdaBound's pair, the default. lower = upper = 1: SGD with an averaged gradient and step eta_t / sqrt(c_t). target =
    (lr / a)^2, eps = 0, lower and upper the squares of gamma t / (gamma t + 1) and its inverse: AMSBound with final step a.
    Groups with quantize=False are AMSGrad without bias correction. Units: lr has those of a weight, eps of a gradient, target
    of its square. lower, upper: callables of t, or numbers; they do not travel in the state_dict; all else may differ between
    groups. ensemble: the first dimension of every parameter counts independent runs, each with bounds of its own. state[p] has
    m, v and v^ under torch's names for AMSGrad, and a number per run: "error" (rho), "target" (c). Raises ValueError for values
    outside their range, and at a step where 0 <= lower(t) <= upper(t) fails. A gradient that is not finite spoils its own
    weight and, where the bounds are measured, its tensor.
    >>> w = nn.Parameter(torch.tensor([0.25, -0.5]))
    >>> base = BAMSProd([w], lr=0.5, betas=(0.0, 0.0), target=4.0, lower=1.0, upper=1.0, eps=0.0)
    >>> w.grad = torch.tensor([1.0, -2.0])
    >>> base.step(), w.tolist()  # SGD with step lr / sqrt(target)
    (None, [0.0, 0.0])
    """

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        lower: float | Callable[[int], float] = LOWER,
        upper: float | Callable[[int], float] = UPPER,
        target: float | None = None,
        least_error: float = 0.05,
        box: float = math.inf,
        sqrt_decay: bool = True,
        ensemble: bool = False,
    ) -> None:
        self.lower, self.upper = as_schedule(lower), as_schedule(upper)
        defaults = dict(lr=lr, betas=betas, eps=eps, target=target, least_error=least_error, box=box)
        super().__init__(params, defaults | dict(sqrt_decay=sqrt_decay, ensemble=ensemble, quantize=True))

    def add_param_group(self, param_group: dict) -> None:
        torch.optim.Optimizer.add_param_group(self, param_group)
        try:
            self._check(self.param_groups[-1])
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if any(p.grad.is_sparse for p in params):
                raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")
            if params:
                self._step(params, group)
        return loss

    def __getstate__(self) -> dict:
        return {**super().__getstate__(), "lower": self.lower, "upper": self.upper}

    @staticmethod
    def _check(group: dict) -> None:
        betas = group["betas"]
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise TypeError(f"betas={betas!r}: it must be two numbers, 0 <= beta < 1")
        if not all([0 <= number("a beta", beta, finite=False) < 1 for beta in betas]):
            raise ValueError(f"betas={betas!r}: allowed is 0 <= beta < 1 for both")
        for name, allowed, fits in (
            ("lr", "0 <= lr < inf", lambda x: 0 <= x < math.inf),
            ("eps", "0 <= eps < inf", lambda x: 0 <= x < math.inf),
            ("target", "None (measured) or 0 < target < inf", lambda x: 0 < x < math.inf),
            ("least_error", "0 < least_error <= 1", lambda x: 0 < x <= 1),
            ("box", "box > 0", lambda x: x > 0),
        ):
            measured = name == "target" and group[name] is None
            if not measured and not fits(number(name, group[name], finite=False)):
                raise ValueError(f"{name}={group[name]!r}: allowed is {allowed}")
        for name in ("ensemble", "sqrt_decay"):
            _instance(name, group[name], bool, "True or False")
        if group["ensemble"] and any(p.dim() == 0 for p in group["params"]):
            raise ValueError("ensemble=True needs parameters whose first dimension counts the runs, got a scalar")

    def bounds(self, target: float, t: int) -> tuple[float, float]:
        """(c_l, c_u) at step t for a limit `target`: the interval to which v^ is clipped, in units of gradient^2."""
        low, high = self.lower(t), self.upper(t)
        if not 0 <= low <= high:
            raise ValueError(f"lower({t})={low} and upper({t})={high}: allowed is 0 <= lower <= upper")
        return target * low, target * high if high < math.inf else math.inf

    def _states(self, params: list[Tensor], group: dict) -> list[dict]:
        for p in params:
            if not self.state[p]:
                runs = len(p) if group["ensemble"] else 1
                self.state[p].update(step=0, error=[0.0] * runs, target=[0.0] * runs)
                for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
                    self.state[p][name] = torch.zeros_like(p)
        return [self.state[p] for p in params]

    def _step(self, params: list[Tensor], group: dict) -> None:
        states, grads = self._states(params, group), [p.grad for p in params]
        mean, square, largest = ([s[name] for s in states] for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"))
        steps = [s["step"] + 1 for s in states]
        clip, measure = group["quantize"], group["quantize"] and group["target"] is None
        limits = [self.bounds(1.0, t) for t in steps] if clip else []  # may raise, so it comes before the first change
        for s, t in zip(states, steps, strict=True):
            s["step"] = t
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(mean, grads, 1 - beta1)
        torch._foreach_mul_(square, beta2)
        torch._foreach_addcmul_(square, grads, grads, 1 - beta2)
        torch._foreach_maximum_(largest, square)
        if measure:
            self._measure(params, largest, states, group)
        denominator = torch._foreach_sqrt(largest)
        if clip:
            for x, s, (low, high) in zip(denominator, states, limits, strict=True):
                runs = _runs(_local(x), group)
                for run, c in zip(runs, s["target"] if measure else [group["target"]] * len(runs), strict=True):
                    run.clamp_(math.sqrt(c * low), math.sqrt(c * high) if high < math.inf else high)
        torch._foreach_add_(denominator, group["eps"])
        etas = [-float(group["lr"]) / (math.sqrt(t) if group["sqrt_decay"] else 1) for t in steps]
        torch._foreach_addcdiv_(params, mean, denominator, etas)
        if group["box"] < math.inf:
            torch._foreach_clamp_min_(params, -group["box"])
            torch._foreach_clamp_max_(params, group["box"])

    @staticmethod
    def _measure(params: list[Tensor], largest: list[Tensor], states: list[dict], group: dict) -> None:
        """Update rho_t and c_t of every run, from w_t and v^_t, on the host."""
        weights = [x for p in params for x in _runs(p, group)]
        # In one piece, a float32 norm of millions of weights is off by a per cent on a processor.
        pieces = [[w] if hasattr(w, "to_local") else [x for (x,) in _chunks(w)] for w in weights]
        norms = [torch._foreach_norm([x for parts in pieces for x in parts], order) for order in (1, 2)]
        sums = [x.sum() for v in largest for x in _runs(v, group)]
        numbers = iter(torch.cat([_whole(torch.stack(x)) for x in (*norms, sums)]).tolist())
        absolute = [math.fsum(next(numbers) for _ in parts) for parts in pieces]
        squares = [math.fsum(next(numbers) ** 2 for _ in parts) for parts in pieces]
        runs = [(s, run) for s in states for run in range(len(s["target"]))]
        for (s, run), w, l1, l2, v in zip(runs, weights, absolute, squares, numbers, strict=True):
            n, before = max(w.numel(), 1), s["target"][run]
            left = 1 - l1 * l1 / (n * l2) if l2 != 0 else 0.0  # ||w - alpha* sign(w)||^2 / ||w||^2
            s["error"][run] += ((0.0 if left < 0 else math.sqrt(left)) - s["error"][run]) / s["step"]
            c = v / n * max(s["error"][run], group["least_error"])
            s["target"][run] = before if before >= c else c  # NaN gets through


def _runs(x: Tensor, group: dict) -> Sequence[Tensor]:
    return x.unbind(0) if group["ensemble"] else (x,)
