"""Which of the tuned methods beats which, against numbers worked out by hand and scipy's paired test."""

import math

import numpy as np
import pytest
from scipy import stats

from study.vision import comparison
from study.vision.grid import FULL


def row(method, seed, score, bits=1, epoch=2, precision="bfloat16"):
    of = "latent_accuracy" if bits == FULL else "reestimated_accuracy"
    scores = dict.fromkeys(("latent_accuracy", "quantised_accuracy", "reestimated_accuracy"), 0.01) | {of: score}
    return {"method": method, "bits": bits, "seed": seed, "epoch": epoch, "precision": precision} | scores


TABLE = [
    row("A", 1, 0.2, epoch=1),
    row("A", 1, 0.5),
    row("A", 2, 0.6),
    row("B", 1, 0.7),
    row("B", 2, 0.6),
    row("B", 1, 0.9, bits=2),
    row("Full precision", 1, 0.4, FULL),
    row("Full precision", 1, 0.3, FULL, precision="float32"),
]


def test_the_last_epoch_of_each_run_the_best_method_first_behind_full_precision():
    found = comparison.finals(TABLE, 1)
    assert list(found) == ["Full precision", "B", "A"]
    assert found == {"A": {1: 0.5, 2: 0.6}, "B": {1: 0.7, 2: 0.6}, "Full precision": {1: 0.4}}
    assert comparison.finals(TABLE[::-1], 1) == found, "the order of rows does not matter"
    assert comparison.finals(TABLE, 1, precision="float32") == {"Full precision": {1: 0.3}}
    assert comparison.finals(TABLE, 2) == {"Full precision": {1: 0.4}, "B": {1: 0.9}}
    assert comparison.finals(TABLE, 1, "quantised_accuracy")["A"] == {1: 0.01, 2: 0.01}


def test_the_probability_is_that_of_the_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, 0.02, 6), rng.normal(0.49, 0.02, 6)
    scores = {"a": dict(enumerate(a)), "b": dict(enumerate(b)) | {9: 0.1}}
    expected = stats.ttest_rel(a, b, alternative="greater").pvalue
    assert comparison.probability(scores, "a", "b") == pytest.approx(1 - expected)
    assert comparison.probability(scores, "b", "a") == pytest.approx(expected)
    low, high = stats.ttest_rel(a, b).confidence_interval()
    assert comparison.difference(scores, "a", "b")[1:] == pytest.approx((low, high))
    assert math.isnan(comparison.probability({"a": {1: 0.5}, "b": {1: 0.4}}, "a", "b"))
    assert comparison.probability({"a": {1: 0.5, 2: 0.5}, "b": {1: 0.5, 2: 0.5}}, "a", "b") == 0.5


def test_what_the_seeds_do_not_tell_from_the_best():
    scores = {
        "best": {1: 0.60, 2: 0.62, 3: 0.61},
        "as good": {1: 0.61, 2: 0.60, 3: 0.605},
        "worse": {1: 0.50, 2: 0.52, 3: 0.511},
    }
    assert comparison.undecided(scores, list(scores)) == ["best", "as good"]


def test_a_search_by_method_and_setting_the_best_first():
    table = [row(m, s, x) | {"setting": k} for m, k, s, x in (
        ("A", "lr 1", 0, 0.2), ("A", "lr 1", 1, 0.4), ("A", "lr 2", 0, 0.5), ("A", "lr 2", 1, math.nan),
        ("B", "lr 1", 0, 0.35), ("B", "lr 1", 1, 0.33),
    )]  # fmt: skip
    found = comparison.searched([*table, row("C", 0, 0.9, 2) | {"setting": ""}], 1)
    assert list(found) == ["B", "A"] and found["A"]["lr 1"] == {0: 0.2, 1: 0.4}
    assert comparison.best_setting(found["A"]) == ("lr 1", pytest.approx(0.3)), "what diverged is not chosen"
    full = [row("Full precision", 0, 0.7, FULL) | {"setting": "lr 1"}]
    assert comparison.searched(full, FULL) == {"Full precision": {"lr 1": {0: 0.7}}}


def test_a_table_that_grows_is_judged_by_the_seeds_that_all_have():
    scores = {"a": {1: 0.1, 2: 0.2, 3: 0.3}, "b": {3: 0.5, 1: 0.4}}
    assert comparison.paired_seeds(scores) == {"a": {1: 0.1, 3: 0.3}, "b": {1: 0.4, 3: 0.5}}


def character(method, seed, number, latent, quantised):
    return {
        "method": method,
        "bits": 2,
        "seed": seed,
        "round": number,
        "latent_bits": latent,
        "quantised_bits": quantised,
    }


def test_where_the_methods_were_compared(monkeypatch):
    images = [row(m, s, 0.5, 2) for m in "AB" for s in (1, 2, 3)] + [row("A", s, 0.5, 4) for s in (1, 2)]
    images += [row("Full precision", s, 0.9, FULL) for s in (1, 2, 3, 4)]
    text = [character("A", s, n, 1.0, 3.0 - n) for s in (1, 2, 3) for n in (1, 2)]
    text += [character("Full precision", s, n, 0.5, 9.0) for s in (1, 2, 3) for n in (1, 2)]
    monkeypatch.setattr(comparison, "rows", {"tuned_subset": images, "characters": text, "cifar": []}.get)
    found = comparison.compared()
    assert list(found) == ["two bits", "three levels, a transformer"], "four bits have two seeds, one bit has none"
    assert found["two bits"] == {"Full precision": dict.fromkeys((1, 2, 3), 0.9)} | {
        m: dict.fromkeys((1, 2, 3), 0.5) for m in "AB"
    }
    assert found["three levels, a transformer"] == {
        "Full precision": dict.fromkeys((1, 2, 3), -0.5),
        "A": dict.fromkeys((1, 2, 3), -1.0),
    }, "the last round; full precision is not rounded"
    assert "four bits" in comparison.compared(2)


def test_a_table_that_is_not_whole_waits(monkeypatch):
    some = [row(m, s, 0.5) for m in "AB" for s in (1, 2, 3) if (m, s) != ("B", 3)]
    some += [row("Full precision", s, 0.9, FULL) for s in (1, 2, 3)]
    monkeypatch.setattr(comparison, "rows", lambda name: some if name == "cifar" else [])
    assert comparison.compared() == {} and list(comparison.compared(2)) == ["one bit, all of CIFAR-10"]


def test_what_the_scores_of_a_field_say_in_words():
    full, best = {1: 0.9, 2: 0.9, 3: 0.9}, {1: 0.80, 2: 0.82, 3: 0.81}
    scores = {"Full precision": full, "A": best, "B": {1: 0.81, 2: 0.80, 3: 0.805}, "C": dict.fromkeys(best, 0.5)}
    low, high = (100 * x for x in stats.ttest_1samp([0.1, 0.08, 0.09], 0).confidence_interval())
    said = comparison.verdict("two bits", scores)
    assert said == (
        f"**Two bits**, 3 seeds: A is 9.0 [{low:.1f}, {high:.1f}] points behind full precision, not told apart from B."
    )
    text = {"Full precision": {1: -2.0, 2: -2.1}, "A": {1: -2.3, 2: -2.4}, comparison.DETERMINISTIC: {1: -2.6, 2: -2.7}}
    said = comparison.verdict("three levels, a transformer", text)
    assert said == (
        "**Three levels, a transformer**, 2 seeds: A is 0.300 [0.300, 0.300] bits per character behind full precision; "
        "BinaryConnect, deterministic is 0.600 [0.600, 0.600] bits per character behind."
    )
