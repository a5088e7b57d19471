"""Random inputs and the methods of the common tests, that several test files share."""

import contextlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st

from quantized_training import PHI, PSI, Levels
from study import methods
from study.theory import reference as ref

DTYPES = (torch.float32, torch.float64)


@contextlib.contextmanager
def real_data() -> Iterator[str]:
    """The folder that QT_DATA names; the test is skipped where there is none, or where what is read does not lie in it."""
    if not os.environ.get("QT_DATA"):
        pytest.skip("QT_DATA names no folder with real data")
    try:
        yield os.environ["QT_DATA"]
    except FileNotFoundError as error:
        pytest.skip(str(error))


CONSTRAINTS = {"psi": (PSI, ref.psi, ref.psi_prime), "phi": (PHI, ref.phi, ref.phi_prime)}


def level_sets(max_levels: int = 6):
    """Levels on a grid of eighths: exact in float32, so that ties mean the same in every precision."""
    return st.builds(
        lambda start, gaps: Levels(tuple((start + sum(gaps[:i])) / 8 for i in range(len(gaps) + 1))),
        st.integers(-32, 32),
        st.lists(st.integers(2, 24), min_size=1, max_size=max_levels - 1),
    )


def uneven_level_sets():
    """Levels that are no round numbers."""
    return st.builds(
        lambda start, gaps: Levels(tuple(start + sum(gaps[:i]) for i in range(len(gaps) + 1))),
        st.floats(-4, 4, allow_subnormal=False),
        st.lists(st.floats(0.2, 3), min_size=1, max_size=5),
    )


def weights(levels: Levels, reach: float = 2.0, width: int = 32):
    """A list of weights: drawn ones within `reach` of the hull, each level, midpoint and quarter point."""
    low, high = levels.hull
    special = [*levels.values, *levels.midpoints]
    special += [a + (b - a) / 4 for a, b in zip(levels.values, levels.values[1:], strict=False)]
    return st.lists(
        st.floats(low - reach, high + reach, width=width, allow_subnormal=False), min_size=1, max_size=12
    ).map(lambda drawn: special + drawn)


@st.composite
def levels_and_weights(draw, reach: float = 2.0):
    levels = draw(level_sets())
    return levels, draw(weights(levels, reach))


def tensor(values, dtype=torch.float64) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)


def quantisation_error(w: torch.Tensor) -> float:
    """||w - alpha* sign(w)|| / ||w|| with alpha* = mean |w|, as it is written; 0 for zeros."""
    w = w.detach().double()
    return float((w - w.abs().mean() * w.sign()).norm() / w.norm()) if w.any() else 0.0


TERNARY = Levels.ternary()
INTEGERS = Levels.integers(2)

# name -> a fresh method with ternary levels (k-bit: its own) and the table's settings for tests
METHODS = {name: partial(row.tested, TERNARY) for name, row in methods.METHODS.items() if row.tested}


@contextlib.contextmanager
def killed_before_the_checkpoint_goes(monkeypatch):
    """What runs inside is killed when it has stored its rows, and is about to remove the checkpoint."""
    real = Path.unlink

    def killed(path, **options):
        if path.suffix == ".pt":
            raise KeyboardInterrupt
        real(path, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", killed)
        yield
