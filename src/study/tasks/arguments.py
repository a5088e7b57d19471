"""Arguments of the study's functions and command lines that have the wrong kind are named, with what is allowed."""

from __future__ import annotations

import argparse
import operator
from collections.abc import Callable, Iterable


def integer(name: str, value: object, least: int) -> int:
    """An integer, numpy's too, as Python's own. Raises ValueError for anything else, True and False among it."""
    try:
        if not isinstance(value, bool) and (number := operator.index(value)) >= least:
            return number
    except TypeError:
        pass
    raise ValueError(f"{name}={value!r}: allowed are integers from {least}")


def seeds(given: int | Iterable[int]) -> list[int]:
    """0, 1, ... for a number of seeds, else those given. Raises ValueError where there is none, or one that is no integer."""
    if not isinstance(given, Iterable) or isinstance(given, str):
        return list(range(integer("seeds", given, 1)))
    if not (found := [integer("seeds", seed, 0) for seed in given]):
        raise ValueError("seeds: there is none")
    return found


def integer_from(least: int) -> Callable[[str], int]:
    """For `type` of an argument: integers from `least` on."""

    def integer(text: str) -> int:
        try:
            if (number := int(text)) >= least:
                return number
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are integers from {least}")

    return integer
