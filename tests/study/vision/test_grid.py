"""Task III's grid: which cells there are, the settings of each method, stored rows."""

from __future__ import annotations

import csv
import math
from dataclasses import replace

import pytest
import torch

from conftest import ROOT
from quantized_training import PHI, PSI, SGDA, ASkew, Levels, layers
from study.results import DATA
from study.vision import grid, sweep
from study.vision.grid import METHODS, PROFILES, Cell, cells, settings

CPU = PROFILES["cpu"]


def test_codebooks_are_those_of_section_6():
    assert Levels.for_bits(1).values == (-1, 1)
    assert Levels.for_bits(2).values == (-2, -1, 0, 1)
    assert Levels.for_bits(4).values == tuple(range(-8, 8))


@pytest.mark.parametrize("name", ["cpu", "subset"])
def test_the_settings_of_every_stored_cell_are_those_of_today(name):
    """A renamed attribute of a method, of `Cell` or of `Profile` would turn what is stored into "other settings"."""
    stored = sweep.read(PROFILES[name], DATA / "results")
    assert len(stored) > 50
    for (method, bits, levels, quantise, seed), rows in stored.items():
        cell = Cell(method, int(bits), levels, quantise, int(seed))
        assert {row["settings"] for row in rows} == {settings(PROFILES[name], cell)}, cell


def test_cells_of_a_grid():
    found = cells(CPU)
    assert len(found) == len(set(found)) == CPU.seeds * (6 * 3 + 1)
    assert [c.seed for c in found] == sorted(c.seed for c in found)
    assert sum(c.method == "Full precision" for c in found) == CPU.seeds
    both = cells(CPU, levels=grid.LEVELS, quantise=layers.QUANTIZE, seeds=[7])
    assert len(both) == 6 * 3 * 2 * 3 + 1 and {c.seed for c in both} == {7}
    assert cells(CPU, bits=(2,), methods=("Full precision",)) == []


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"method": "Adam"}, "method='Adam': allowed are 'Full precision'"),
        ({"bits": 3}, "bits=3 for ASkewSGD: allowed is 1, 2, 4"),
        ({"bits": 32}, "bits=32 for ASkewSGD"),
        ({"method": "Full precision"}, "bits=1 for Full precision: allowed is 32 alone"),
        ({"levels": "both"}, "allowed are 'scaled', 'raw'"),
        ({"quantise": "some"}, "allowed are 'all'"),
    ],
)
def test_cells_that_do_not_exist_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        Cell(**({"method": "ASkewSGD", "bits": 1} | wrong))


@pytest.mark.parametrize("name, constraint", [("ASkewSGD", PSI), ("Modified ASkewSGD", PHI)])
@pytest.mark.parametrize("bits", grid.BITS)
@pytest.mark.parametrize("epochs", [7, 20, 40])
def test_annealing_falls_by_a_fixed_factor_over_the_second_half(name, constraint, bits, epochs):
    method = METHODS[name](Levels.for_bits(bits), epochs, 0)
    assert isinstance(method, ASkew) and method.constraint is constraint
    gap = 2 if bits == 1 else 1
    largest = gap**4 / 16 if constraint is PSI else gap**2 / 4
    seen = []
    for _ in range(epochs):
        seen.append(method.epsilon)
        method.check(Levels.for_bits(bits), CPU.lr)  # legal from the first to the last epoch
        method.anneal()
    half = epochs // 2
    assert seen[: half + 1] == [largest] * (half + 1)
    ratios = [b / a for a, b in zip(seen[half:], seen[half + 1 :], strict=False)]
    assert ratios == pytest.approx([0.88 ** (50 / (epochs - half))] * len(ratios))
    assert method.epsilon == pytest.approx(largest * 0.88**50)


def test_tolerance_of_sgda_is_in_proportion_to_the_gaps():
    for bits, largest in ((1, 1.0), (2, 0.25), (4, 0.25)):
        method = METHODS["SGDA"](Levels.for_bits(bits), 20, 0)
        assert isinstance(method, SGDA) and method.epsilon == pytest.approx(0.05 * largest)


def test_settings_change_with_all_that_a_cell_depends_on(monkeypatch):
    cell = Cell("BinaryConnect", 2)
    same = settings(CPU, cell)
    assert same == settings(replace(CPU, seeds=99), cell)  # how many others there are does not matter
    others = [
        replace(CPU, **{k: v}) for k, v in (("lr", 0.2), ("epochs", 21), ("width", 4), ("stride", 2), ("train", 100))
    ]
    found = [settings(p, cell) for p in others]
    found += [settings(CPU, replace(cell, **{k: v})) for k, v in (("bits", 4), ("levels", "raw"), ("seed", 1))]
    monkeypatch.setitem(METHODS, "BinaryConnect", METHODS["Straight-through"])
    assert len({same, settings(CPU, cell), *found}) == 10


def test_scaled_levels_do_not_change_the_network_at_the_start():
    x, made = torch.randn(4, 1, 8, 8), {}
    for levels in grid.LEVELS:
        torch.manual_seed(3)
        made[levels] = grid.network(CPU, 10, 1, Cell("ASkewSGD", 2, levels)).eval()
    torch.testing.assert_close(made["raw"](x), made["scaled"](x))
    parameters = {levels: dict(m.named_parameters()) for levels, m in made.items()}
    assert any(layers.SCALED in name for name in parameters["scaled"])
    nearest = {
        levels: torch.cat([Levels.for_bits(2).nearest(p).flatten() for p in named.values() if p.ndim > 1])
        for levels, named in parameters.items()
    }
    assert (nearest["raw"] == 0).double().mean() > 0.9  # why a scale is needed where 0 is a level
    assert (nearest["scaled"] == 0).double().mean() < 0.5


def stored(profile: str) -> list[dict[str, str]]:
    with open(ROOT / "data" / "results" / f"task_3_{profile}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_stored_cell_is_what_a_run_gives():
    """Another processor adds up in another order, and after some hundred steps a run is another one of its kind."""
    cell, threads = Cell("Modified ASkewSGD", 1, seed=1), torch.get_num_threads()
    torch.set_num_threads(1)
    now = grid.run(CPU, cell, grid.images(CPU))
    torch.set_num_threads(threads)
    wanted = {k: str(v) for k, v in cell.key.items()} | {"settings": settings(CPU, cell)}
    then = [row for row in stored("cpu") if all(row[k] == v for k, v in wanted.items())]
    assert len(then) == len(now) == CPU.epochs
    assert float(then[0]["loss"]) == pytest.approx(now[0]["loss"], rel=0.02)
    for a, b in zip(then, now, strict=True):
        assert float(a["epsilon"]) == pytest.approx(b["epsilon"], rel=1e-9)
        assert float(a["distance"]) == pytest.approx(b["distance"], abs=0.02)
    for column in ("latent_accuracy", "quantised_accuracy", "reestimated_accuracy"):
        assert float(then[-1][column]) == pytest.approx(now[-1][column], abs=0.08)  # 29 of 360 images


@pytest.mark.parametrize("profile", ["cpu", "subset"])
def test_stored_cells_are_whole_and_of_these_settings(profile):
    protocol, found = PROFILES[profile], {}
    for row in stored(profile):
        cell = Cell(row["method"], int(row["bits"]), row["levels"], row["quantise"], int(row["seed"]))
        assert row["settings"] == settings(protocol, cell)
        found.setdefault(cell, []).append(row)
    for rows in found.values():
        assert [int(r["epoch"]) for r in rows] == list(range(1, len(rows) + 1))
        assert len(rows) == protocol.epochs or math.isnan(float(rows[-1]["loss"]))
    assert set(cells(protocol)) <= set(found)  # the grid that the book shows


def test_the_end_of_every_seed_of_a_cell():
    def rows(*accuracies):
        return [{"quantised_accuracy": x} for x in accuracies]

    records = {
        Cell("SGDA", 1, seed=0): rows(0.1, 0.5),
        Cell("SGDA", 1, seed=1): rows(0.2, 0.25),
        Cell("SGDA", 2): rows(0.9),
    }
    assert grid.at_end(records, Cell("SGDA", 1)).tolist() == [50, 25]
    assert grid.at_end(records, grid.cell("SGDA", 2)).tolist() == [90]
    assert not len(grid.at_end(records, grid.cell("SGDA", 1, levels="raw")))
    assert grid.cell("Full precision", 2, levels="raw") == Cell("Full precision", grid.FULL)


def test_when_epsilon_falls():
    assert grid.first_annealed([1.0, 1.0, 0.9, 0.8]) == 2
    with pytest.raises(ValueError, match="never"):
        grid.first_annealed([1.0, 1.0])
