"""Checks of arguments: each returns the value, or raises TypeError or ValueError that names the argument and what is allowed."""

import inspect
import math
import warnings
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor


def number(name: str, value: Any, low: float = -math.inf, strict: bool = False, finite: bool = True) -> float:
    """A real number, of Python, numpy or a tensor of one element; low: 0 for value >= 0, strict for value > 0.
    >>> number("alpha", math.nan, 0)
    Traceback (most recent call last):
    ValueError: alpha=nan: it must be a finite number, not negative
    """
    kind = "finite number" if finite else "number"
    words = f"a positive {kind}" if strict else f"a {kind}, not negative" if low == 0 else f"a {kind}"
    plain = value.item() if isinstance(value, Tensor) and value.numel() == 1 and not value.is_meta else value
    if isinstance(plain, bool) or not isinstance(plain, Real):
        raise TypeError(f"{name}={value!r}: it must be {words}")
    if (finite and not math.isfinite(plain)) or (low == 0 and not (plain > 0 if strict else plain >= 0)):
        raise ValueError(f"{name}={plain!r}: it must be {words}")
    return plain if type(plain) in (int, float) else int(plain) if isinstance(plain, Integral) else float(plain)


def _warn(text: str) -> None:
    """A UserWarning at the line that called torch or this package; Python says the same at one line once."""
    names = [f.frame.f_globals.get("__name__", "").split(".")[0] for f in inspect.stack(0)]
    user = next((i for i, name in enumerate(names) if name not in ("torch", __package__)), len(names))
    warnings.warn(text, stacklevel=user + 1)


def _integer(name: str, value: Any, low: int, high: int) -> int:
    """A whole number, low <= value <= high."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}={value!r}: it must be a whole number, allowed is {low} .. {high}")
    if not low <= value <= high:
        raise ValueError(f"{name}={value!r}: allowed is {low} .. {high}")
    return int(value)


def _instance(name: str, value: Any, kind: type, example: str) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {example}, got {value!r}")
    return value


def _real_weights(name: str, w: Tensor) -> Tensor:
    """A dense tensor of floating-point numbers, of 16 bits or more each."""
    _instance(name, w, Tensor, "a tensor of weights")
    if w.layout != torch.strided or not w.is_floating_point() or w.element_size() < 2:
        kind = f"of shape {tuple(w.shape)} is {'sparse' if w.layout != torch.strided else w.dtype}"
        raise TypeError(f"{name} {kind}: weights are dense floating-point numbers of 16 bits or more")
    return w
