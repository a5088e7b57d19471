"""What the page on which method to use says in words, against the stored tables."""

import re
from pathlib import Path

import numpy as np

from study import results
from study.vision import comparison, grid, sweep
from study.vision.grid import METHODS, PROFILES

PAGE = (Path(__file__).resolve().parents[2] / "notebooks" / "14_what_to_use.md").read_text(encoding="utf-8")
FOUND = comparison.searched(results.read("tuning") + results.read("tuning_second"), 1)
TOP = {name: 100 * comparison.best_setting(settings)[1] for name, settings in FOUND.items()}


def spread(name: str) -> float:
    return np.ptp([100 * np.mean(list(seeds.values())) for seeds in FOUND[name].values()])


def test_the_first_seven_and_the_spread_of_settings():
    assert {len(settings) for settings in FOUND.values()} == {8}, "one budget"
    assert list(FOUND)[:4] == ["BinaryRelax", "PARQ", "LSQ", "BinaryConnect, deterministic"]
    assert list(FOUND)[4:7] == ["Modified ASkewSGD", "ASkewSGD", "Straight-through"]
    best = list(TOP.values())
    assert best[0] - best[3] < 3 and best[4] - best[6] < 3, "neither order is decided"
    assert best[6] - best[7] > 5, "all others are far behind"
    among = best[0] - best[6]
    assert 6 < among < 7.5
    assert {name for name in list(FOUND)[:7] if spread(name) > among} == set(list(FOUND)[2:7])
    assert (
        9 <= spread("BinaryConnect, deterministic") < 10 and 30 <= spread("ASkewSGD") < 31 and 3 <= spread("PARQ") < 4
    )


def test_coin_tosses_cost_ten_points():
    assert 10 <= TOP["BinaryConnect, deterministic"] - TOP["BinaryConnect"] < 11.5


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
