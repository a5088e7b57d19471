"""The sentences of the sources that the scorecard checks itself."""

from itertools import permutations

import numpy as np
import pytest
import torch

from quantized_training import Levels
from quantized_training.results import printed
from quantized_training.tasks import logistic, moons


def test_levels_of_section_6():
    for bits in (2, 4):
        assert Levels.integers(bits).values == tuple(range(-(2 ** (bits - 1)), 2 ** (bits - 1)))
    with pytest.raises(ValueError, match="-1, 0"):
        Levels.integers(1)
    assert Levels.binary().values == (-1, 1)


def test_tables_hold_one_bit_rows_and_lack_a_method():
    assert len(printed(1)) == len(printed(2)) == 7 and len(printed(3)) == 6
    assert set(printed(1)) - set(printed(3)) == {"Straight-through"}
    assert not any("ProxQuant" in method or "bit" in method for table in (1, 2, 3) for method in printed(table))


def test_labels_of_task_1_have_the_stated_law():
    """y x'w* has the sign + with probability 1/(1 + exp(-|x'w*|)) given its size."""
    e = logistic.draw(1, n=100_000, batch=1000, epochs=1)
    margin = (e.z[0] @ e.w_star[0]).numpy()
    for low in (0.0, 0.5, 1.0, 2.0):
        near = (np.abs(margin) >= low) & (np.abs(margin) < low + 0.5)
        expected = (1 / (1 + np.exp(-np.abs(margin[near])))).mean()
        error = 4 * (0.25 / near.sum()) ** 0.5
        assert abs((margin[near] > 0).mean() - expected) < error


def test_networks_of_task_2():
    vectors = Levels.binary().vectors(9, torch.float64)
    assert vectors.shape == (512, 9)
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    outputs = moons.network(vectors, x)
    for order in permutations(range(3)):
        W, a = vectors[:, :6].reshape(-1, 3, 2)[:, list(order)], vectors[:, 6:][:, list(order)]
        exchanged = torch.cat([W.flatten(1), a], 1)
        assert torch.allclose(moons.network(exchanged, x), outputs)
        if order != (0, 1, 2):
            assert (exchanged != vectors).any(1).sum() > 0


def test_gradient_of_a_product_of_weights_is_not_lipschitz():
    """(w1 w2)^2 / 2: the gradient in w1 is w1 w2^2; its slope grows without bound."""
    slopes = [((1.0 + 1e-3) * b**2 - 1.0 * b**2) / 1e-3 for b in (1.0, 10.0, 100.0)]
    assert slopes == pytest.approx([1, 100, 10_000])
