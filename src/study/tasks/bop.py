"""Bop (Helwegen et al., 2019), the rival among BAMSProd's that has no latent weights."""

import math

import torch
from torch import Tensor

from quantized_training.adaptive import BAMSProd
from quantized_training.arguments import number


class Bop(torch.optim.Optimizer):
    """Bop (Helwegen et al., arXiv 1906.02107), Algorithm 2: binary weights without latent ones.

        m_t = (1 - gamma) m_(t-1) + gamma g_t                       (5), m_0 = 0
        w_t = -w_(t-1) where |m_t| > tau and sign(m_t) = sign(w_(t-1))      Algorithm 2; (6) prints >=

    lr: gamma, the adaptivity rate, under the name that torch's schedulers decay. threshold: tau, in units of the gradient.
    Defaults: the paper's experiments. A weight only changes its sign: start from weights on the levels. Other parameters need
    an optimizer of their own. Raises ValueError for values outside their range, quantize=False and weights that are 0.
    >>> w = nn.Parameter(torch.tensor([1.0, -1.0]))
    >>> optimizer = Bop([w], lr=1.0, threshold=0.5)
    >>> w.grad = torch.tensor([1.0, -0.25])  # the second is below the threshold
    >>> optimizer.step(), w.tolist()
    (None, [-1.0, -1.0])
    """

    def __init__(self, params, lr: float = 1e-4, threshold: float = 1e-8) -> None:
        super().__init__(params, {"lr": lr, "threshold": threshold, "quantize": True})

    @staticmethod
    def _check(group: dict) -> None:
        if not 0 < number("lr", group["lr"], finite=False) <= 1:
            raise ValueError(f"lr={group['lr']!r}: allowed is 0 < lr <= 1, it is the rate gamma of an average")
        if not 0 <= number("threshold", group["threshold"], finite=False) < math.inf:
            raise ValueError(f"threshold={group['threshold']!r}: allowed is 0 <= threshold < inf")
        if not group["quantize"]:
            raise ValueError("quantize=False: Bop only flips signs; give such parameters an optimizer of their own")
        if any((p == 0).any() for p in group["params"]):
            raise ValueError("a weight is 0 and has no sign to flip; start from weights on the levels, e.g. -1 and 1")

    add_param_group = BAMSProd.add_param_group  # takes a group back that `_check` refuses
    step = BAMSProd.step  # refuses sparse gradients, and calls this for those of a group that have one:

    def _step(self, params: list[Tensor], group: dict) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p]["exp_avg"] = torch.zeros_like(p)
            m = self.state[p]["exp_avg"].lerp_(p.grad, group["lr"])
            p.copy_(torch.where(p.sign() * m > group["threshold"], -p, p))
