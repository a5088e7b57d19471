"""Tables on a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def show(table: Sequence[Sequence[str]]) -> None:
    """Print rows of equally many words in columns that are as wide as their longest word."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip())
