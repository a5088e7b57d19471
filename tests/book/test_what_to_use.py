"""What the page on which method to use says in words, against the stored tables."""

import re
from pathlib import Path

import numpy as np
import pytest

from study import results
from study.vision import comparison, grid, sweep
from study.vision.grid import METHODS, PROFILES

PAGE = (Path(__file__).resolve().parents[2] / "notebooks" / "14_what_to_use.md").read_text(encoding="utf-8")
OPENER = re.search(r":class: opener\n(.*?)\n:::", PAGE, re.S)[1]
FOUND = comparison.searched(results.read("tuning") + results.read("tuning_second"), 1)
TOP = {name: 100 * comparison.best_setting(settings)[1] for name, settings in FOUND.items()}
SCORES = comparison.paired_seeds(comparison.finals(results.read("tuned_subset"), 1))
FULL, DETERMINISTIC = "Full precision", "BinaryConnect, deterministic"
RANKED = [name for name in SCORES if name != FULL]
FOUR = {"LSQ", "PARQ", DETERMINISTIC, "BinaryRelax"}


def gap(name: str, other: str) -> tuple[float, float, float]:
    return tuple(100 * x for x in comparison.difference(SCORES, other, name))


def spread(name: str) -> float:
    return np.ptp([100 * np.mean(list(seeds.values())) for seeds in FOUND[name].values()])


def test_the_final_runs_are_whole_and_paired():
    assert {len(x) for x in SCORES.values()} == {5} and len(SCORES) == 13
    searched = {row["seed"] for row in results.read("tuning")}
    assert not searched & set(SCORES[FULL]), "no seed of the search"


def test_the_opener_has_the_numbers_of_the_final_runs():
    numbers = re.findall(r"(\d+\.\d) \[(\d+\.\d), (\d+\.\d)\]", OPENER)
    said = [tuple(map(float, found)) for found in numbers]
    expected = [
        gap(DETERMINISTIC, FULL),
        gap("Modified ASkewSGD", DETERMINISTIC),
        gap("SGDA", DETERMINISTIC),
        gap("BinaryConnect", DETERMINISTIC),
    ]
    assert len(said) == 4
    for found, wanted in zip(said, expected, strict=True):
        assert found == pytest.approx(wanted, abs=0.051)


def test_four_methods_lead_and_the_seeds_do_not_tell_them_apart():
    assert set(RANKED[:4]) == FOUR
    assert set(comparison.undecided(SCORES, RANKED)) == FOUR
    for other in FOUR - {DETERMINISTIC}:
        low, high = gap(other, DETERMINISTIC)[1:]
        assert low < 0 < high
    chances = {(a, b): comparison.probability(SCORES, a, b) for a in FOUR for b in RANKED[4:]}
    assert all(p > (0.96 if a == "LSQ" else 0.99) for (a, _), p in chances.items())


def test_the_search_and_the_spread_of_settings():
    assert {len(settings) for settings in FOUND.values()} == {8}, "one budget"
    assert set(list(FOUND)[:4]) == FOUR
    assert list(FOUND)[4:7] == ["Modified ASkewSGD", "ASkewSGD", "Straight-through"]
    best = list(TOP.values())
    assert best[6] - best[7] > 5, "all others are far behind"
    among = best[0] - best[6]
    assert 6 < among < 7.5
    assert {name for name in list(FOUND)[:7] if spread(name) > among} == set(list(FOUND)[2:7])
    assert 9 <= spread(DETERMINISTIC) < 10 and 30 <= spread("ASkewSGD") < 31 and 3 <= spread("PARQ") < 4


def test_what_a_step_costs():
    for bits in (1, 2, 4):
        rows = [r for r in results.read("step_times") if r["bits"] == bits]
        base = {r["round"]: r["seconds"] for r in rows if r["method"] == FULL}
        for name in {r["method"] for r in rows}:
            ratio = np.median([r["seconds"] / base[r["round"]] for r in rows if r["method"] == name])
            assert ratio <= 1.25, (bits, name)


def test_coin_tosses_cost_eleven_points():
    assert 10.5 <= gap("BinaryConnect", DETERMINISTIC)[0] < 11.5


def test_with_four_bits_the_method_matters_less():
    stored = sweep.stored(PROFILES["subset"])
    ends = {
        bits: sorted(
            grid.at_end(stored, grid.cell(m, bits), "reestimated_accuracy").mean()
            for m in METHODS
            if m != "Full precision"
        )
        for bits in (1, 4)
    }
    assert len(ends[4]) == 6 and ends[4][-1] - ends[4][-4] < 6
    assert 29 < ends[1][-1] - ends[1][0] < 32


def test_the_page_is_short():
    prose = re.sub(r"```.*?```", "", PAGE, flags=re.S)
    tables = " ".join(re.findall(r'"([^"\n]*)"', PAGE))
    assert len(prose.split()) + len(tables.split()) < 1200
