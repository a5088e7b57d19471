"""Statistics against textbook values, and the transcription of the paper's tables."""

import math
import re

import numpy as np
import pytest
from scipy import stats

from study import results
from study.claims import printed
from study.figures import METHODS
from study.speed import bench
from study.statistics import Summary, compare, paired, percent, plus_minus, share, spread, summarise


def test_summary_against_scipy():
    x = np.random.default_rng(0).normal(3, 2, 400)
    s = summarise(x)
    interval = stats.ttest_1samp(x, 0).confidence_interval(0.95)
    assert (s.n, s.mean, s.sd) == (400, pytest.approx(x.mean()), pytest.approx(x.std(ddof=1)))
    assert s.confidence == pytest.approx((interval.low, interval.high))
    assert s.central == pytest.approx(tuple(np.percentile(x, [2.5, 97.5])))
    assert s.z(s.mean + 2 * s.sd) == pytest.approx(2)
    assert s.covers(3)
    assert not s.covers(20)


def test_summary_of_equal_values():
    s = summarise([2.0, 2.0])
    assert s.z(2.0) == 0
    assert s.z(3.0) == math.inf
    assert s.z(1.0) == -math.inf


@pytest.mark.parametrize("bad", [[1.0], [1.0, math.nan], []])
def test_summary_needs_two_finite_values(bad):
    with pytest.raises(ValueError, match="at least two finite values"):
        summarise(bad)


def test_comparison_counts_wins_ties_and_losses():
    c = compare([1, 2, 3, 4], [2, 2, 3.5, 1])
    assert (c.wins, c.ties, c.losses) == (0.5, 0.25, 0.25)
    assert c.confidence == pytest.approx((0.1500, 0.8500), abs=1e-4)  # Wilson's interval for 2 of 4
    assert str(c) == "wins 50.0% (15.0%–85.0%), ties 25.0%, losses 25.0%"
    with pytest.raises(ValueError, match="same seeds"):
        compare([1, 2], [1, 2, 3])


def test_a_run_that_diverged_never_wins():
    """NaN against a number loses, on either side; against NaN or inf it is a tie, as inf against inf is."""
    nan, inf = math.nan, math.inf
    c = compare([nan, 1, nan, inf, nan, 1], [1, nan, nan, nan, inf, 2])
    assert (c.wins, c.ties, c.losses) == pytest.approx((2 / 6, 3 / 6, 1 / 6))
    for other in (nan, inf):
        assert compare([1, 1], [other, other]) == compare([1, 1], [2, 2])


@pytest.mark.parametrize("none", [compare, lambda *a: share(a[0])], ids=["compare", "share"])
def test_no_seeds_are_refused(none):
    with pytest.raises(ValueError, match="no seeds"):
        none([], [])


def test_what_is_neither_true_nor_false_has_no_share():
    assert share([1, 0])[0] == share(np.array([1.0, 0.0]))[0] == 0.5
    for bad in ([1.0, math.nan], [0.5], [2]):
        with pytest.raises(ValueError, match="neither true nor false"):
            share(bad)


def test_nan_is_no_number_of_standard_deviations_above_the_mean():
    assert math.isnan(summarise([2.0, 2.0]).z(math.nan)) and math.isnan(summarise([1.0, 2.0]).z(math.nan))


def test_share_is_wilsons_interval():
    p, (low, high) = share([True] * 256)
    z2 = stats.norm.ppf(0.975) ** 2
    assert p == high == 1
    assert low == pytest.approx(256 / (256 + z2))
    assert percent([True, False] * 2) == "50.0% (15.0%–85.0%)"


def test_the_printed_tables():
    assert {t: len(printed(t)) for t in (1, 2, 3)} == {1: 7, 2: 7, 3: 6}
    assert printed(1)["SGDA (ε = 0.01)"] == 0.5172
    assert printed(2)["Straight-through"] == 0.7597
    assert printed(3)["BinaryConnect"] == 0.3811
    for table in (1, 2, 3):
        assert set(printed(table)) <= set(METHODS)
    with pytest.raises(KeyError, match="no table 4"):
        printed(4)


def test_the_bench_prints_ratios_and_that_the_numbers_agree(capsys):
    bench.main(
        [
            "--only",
            "seeds",
            "--seeds",
            "3",
            "--singles",
            "2",
            "--repeats",
            "1",
            "--dtype",
            "float64",
            "--methods",
            "SGDA (ε = 0.01)",
            "BinaryConnect",
        ]
    )
    lines = [line for line in capsys.readouterr().out.splitlines() if "max |dw|" in line]
    assert len(lines) == 6, "stochastic BinaryConnect draws for each layer of Task II"
    for line in lines:
        assert float(line.split()[-1]) < 1e-10
        assert re.search(r" \d+x \(\d+-\d+\) ", line)


def test_the_bench_refuses_more_singles_than_seeds(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--seeds", "2", "--singles", "3"])
    assert "allowed is 1 to --seeds 2" in capsys.readouterr().err


def test_plus_minus_in_words():
    assert plus_minus([1.0, 2.0, 3.0], 1) == "2.0 ± 1.0"
    assert plus_minus([2.0], 2) == "2.00"
    assert plus_minus(np.array([]), none="not run") == "not run" and plus_minus(None) == "–"
    assert plus_minus({"mean": 0.25, "sd": 0.125}, 3) == "0.250 ± 0.125"


def test_a_summary_comes_back_from_its_stored_row():
    x = np.random.default_rng(1).normal(size=50)
    assert Summary.of(spread(x)) == summarise(x)


def test_rows_are_selected_by_their_columns():
    rows = [{"task": "I", "bits": 1, "mean": 0.5}, {"task": "I", "bits": 2, "mean": 0.4}]
    assert results.select(rows, task="I", bits=2) == rows[1:]
    assert results.select(rows, task="II") == []
    with pytest.raises(KeyError):
        results.select(rows, seed=0)


def test_paired_differences_against_scipy():
    a, b = np.random.default_rng(2).uniform(1, 2, (2, 30))
    for values, found in ((a - b, paired(a, b)), (np.log(a / b), np.log(paired(a, b, ratio=True)))):
        interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert found == pytest.approx((values.mean(), interval.low, interval.high))
    assert np.isnan(paired([1.0, np.inf], [1.0, 1.0])).all()


def test_the_data_are_those_of_the_clone_or_of_the_working_directory_never_of_the_environment(tmp_path):
    clone, environment = tmp_path / "clone", tmp_path / "lib"
    (clone / "data" / "paper").mkdir(parents=True)
    (clone / "data" / "paper" / "claims.yml").write_text("", encoding="utf-8")
    (environment / "data").mkdir(parents=True)  # another package's
    found = results.data_folder
    assert found(clone / "src", tmp_path) == clone / "data"
    assert found(environment / "site-packages", clone / "notebooks") == clone / "data"
    assert found(environment / "site-packages", tmp_path) == tmp_path / "data"
