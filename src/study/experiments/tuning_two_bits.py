"""The search of `tuning` at two bits."""

from ._tuned import search

EXPERIMENT = search("tuning_two_bits", __doc__.removesuffix("."), "subset, held out", (2,), (0,), hours=3)
