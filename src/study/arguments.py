"""What the command lines of the study have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable


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
