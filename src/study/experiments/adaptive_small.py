"""The profile `small` of `adaptive_large`."""

from .adaptive_large import SMALL as EXPERIMENT

__all__ = ["EXPERIMENT"]
