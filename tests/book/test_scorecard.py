"""The sentences of the sources that the scorecard checks itself."""

import numpy as np
import pytest

from study.claims import VERDICTS, claims, printed
from study.tasks import logistic


def test_tables_hold_one_bit_rows_and_lack_a_method():
    assert len(printed(1)) == len(printed(2)) == 7 and len(printed(3)) == 6
    assert set(printed(1)) - set(printed(3)) == {"Straight-through"}
    assert not any("ProxQuant" in method or "bit" in method for table in (1, 2, 3) for method in printed(table))


def test_the_answer_of_the_opener():
    """Most statements that can be decided hold, but two in three of these after a repair or for one reading."""
    holds, reading, fails, _ = (sum(row["verdict"] == v for row in claims()) for v in VERDICTS)
    assert holds + reading > fails and round(3 * reading / (holds + reading)) == 2


def test_labels_of_task_1_have_the_stated_law():
    """y x'w* has the sign + with probability 1/(1 + exp(-|x'w*|)) given its size."""
    e = logistic.draw(1, n=100_000, batch=1000, epochs=1)
    margin = (e.z[0] @ e.w_star[0]).numpy()
    for low in (0.0, 0.5, 1.0, 2.0):
        near = (np.abs(margin) >= low) & (np.abs(margin) < low + 0.5)
        expected = (1 / (1 + np.exp(-np.abs(margin[near])))).mean()
        error = 4 * (0.25 / near.sum()) ** 0.5
        assert abs((margin[near] > 0).mean() - expected) < error


def test_gradient_of_a_product_of_weights_is_not_lipschitz():
    """(w1 w2)^2 / 2: the gradient in w1 is w1 w2^2; its slope grows without bound."""
    slopes = [((1.0 + 1e-3) * b**2 - 1.0 * b**2) / 1e-3 for b in (1.0, 10.0, 100.0)]
    assert slopes == pytest.approx([1, 100, 10_000])
