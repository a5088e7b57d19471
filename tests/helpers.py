"""Random inputs and the table of methods that several test files share."""

import torch
from hypothesis import strategies as st

from quantized_training import (
    PHI,
    PSI,
    SGDA,
    ASkew,
    BinaryConnect,
    FullPrecision,
    Geometric,
    KBitStraightThrough,
    Levels,
    Linear,
    ProxQuant,
    StraightThrough,
)
from study.theory import reference as ref

DTYPES = (torch.float32, torch.float64)
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


TERNARY = Levels.ternary()
INTEGERS = Levels.integers(2)

# name -> a fresh method; the levels are given where the method can take any
METHODS = {
    "full": lambda q=TERNARY, **k: FullPrecision(q),
    "binary_connect": lambda q=TERNARY, **k: BinaryConnect(q, **k),
    "binary_connect_nearest": lambda q=TERNARY, **k: BinaryConnect(q, stochastic=False),
    "straight_through": lambda q=TERNARY, **k: StraightThrough(q),
    "kbit": lambda q=None, **k: KBitStraightThrough(2),
    "prox_l1": lambda q=TERNARY, **k: ProxQuant(q, Linear(0.05), "l1"),
    "prox_l2": lambda q=TERNARY, **k: ProxQuant(q, Linear(0.05), "l2"),
    "prox_squared_l2": lambda q=TERNARY, **k: ProxQuant(q, Linear(0.05), "squared_l2"),
    "askew_psi": lambda q=TERNARY, **k: ASkew(q, PSI, alpha=0.5, epsilon=Geometric(0.05, 0.8)),
    "askew_phi": lambda q=TERNARY, **k: ASkew(q, PHI, alpha=0.5, epsilon=Geometric(0.2, 0.8)),
    "sgda": lambda q=TERNARY, **k: SGDA(q, epsilon=0.1, dual_lr=0.05, dual_max=2.0),
}
