"""The tuning of `adaptive_small`, a table of its own because what is tested depends on it."""

from .adaptive_large import TUNING as EXPERIMENT

__all__ = ["EXPERIMENT"]
