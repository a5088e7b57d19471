"""Task III: what the page says, recomputed from the stored tables with nothing but the csv module, and one cell written out."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from dataclasses import replace
from statistics import fmean

import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from quantized_training.results import DATA
from quantized_training.tasks import grid, networks, vision
from quantized_training.tasks.grid import PROFILES, Cell

ASKEW = ("ASkewSGD", "Modified ASkewSGD")


def table(name: str) -> list[dict[str, str]]:
    path = DATA / "results" / f"{name}.csv"
    if not path.exists():
        pytest.skip(f"{path.name} is not stored")
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def runs(name: str) -> dict[tuple[str, ...], list[dict[str, str]]]:
    """(method, bits, levels, quantise, seed) -> rows in the order of the epochs, of the runs with all epochs."""
    found = defaultdict(list)
    for row in table(f"task_3_{name}"):
        found[tuple(row[k] for k in ("method", "bits", "levels", "quantise", "seed"))].append(row)
    assert all([int(r["epoch"]) for r in rows] == list(range(1, len(rows) + 1)) for rows in found.values())
    return {k: rows for k, rows in found.items() if len(rows) == PROFILES[name].epochs}


def mean_at_end(found, quantity="quantised_accuracy", levels="scaled", quantise="all") -> dict[tuple[str, int], float]:
    values = defaultdict(list)
    for (method, bits, kind, place, _), rows in found.items():
        if (kind, place) == (levels, quantise):
            values[method, int(bits)].append(float(rows[-1][quantity]))
    return {k: fmean(v) for k, v in values.items()}


def start(rows: list[dict[str, str]]) -> int:
    """Index of the first epoch with a smaller epsilon."""
    return next(i for i, r in enumerate(rows) if float(r["epsilon"]) < float(rows[0]["epsilon"]))


both = pytest.mark.parametrize("name", ["cpu", "subset"])


@both
def test_stored_is_the_table(name):
    found = runs(name)
    records = grid.stored(PROFILES[name])
    assert len(records) == len(found)
    for cell, record in records.items():
        rows = found[tuple(map(str, cell.key.values()))]
        for column in ("latent_accuracy", "changed", "epsilon"):
            expected = [float(r[column]) for r in rows]
            assert [r[column] for r in record] == pytest.approx(expected, nan_ok=True)
    for quantity in ("quantised_accuracy", "reestimated_accuracy"):
        paths = grid.over_seeds(records, quantity)
        for (method, bits), mean in mean_at_end(found, quantity).items():
            assert paths[Cell(method, bits)][:, -1].mean() == pytest.approx(mean)


@both
def test_no_weight_changes_its_level_after_annealing_has_begun(name):
    checked = 0
    for (method, _, levels, _, _), rows in runs(name).items():
        if method in ASKEW and levels == "scaled":
            first = start(rows)
            assert all(float(r["changed"]) == 0 for r in rows[first:])
            assert any(float(r["changed"]) > 0 for r in rows[:first])
            checked += 1
    assert checked


@both
def test_more_bits_lose_less(name):
    end = mean_at_end(runs(name))
    for method in {m for m, _ in end} - {"Full precision"}:
        if (method, 1) in end and (method, 4) in end:
            assert end[method, 4] > end[method, 1], method


def test_cells_that_are_not_stored_are_not_found(tmp_path):
    assert grid.stored(PROFILES["cpu"], tmp_path) == {}
    assert grid.over_seeds({}, "loss") == {}


def test_over_seeds_pads_a_run_that_diverged():
    rows = [{"loss": 1.0}, {"loss": 2.0}]
    records = {Cell("SGDA", 1, seed=3): rows, Cell("SGDA", 1, seed=4): [{"loss": math.nan}]}
    (cell, paths), *others = grid.over_seeds(records, "loss").items()
    assert cell == Cell("SGDA", 1) and not others
    assert paths[0].tolist() == [1, 2] and all(map(math.isnan, paths[1]))


# One cell, written out


def test_a_cell_of_the_modified_askewsgd_written_out():
    """Scale of each layer, schedule of epsilon, velocity, momentum and cosine, on weights w with levels -s and s."""
    profile = replace(PROFILES["cpu"], epochs=4, batch=25, width=2)
    images = vision.load("digits").subset(100, 50)
    run = grid.train(profile, Cell("Modified ASkewSGD", 1), images)
    assert [r["epsilon"] for r in run.record] == pytest.approx([1, 1, 1, 0.88**25])

    torch.manual_seed(0)
    model, draws = networks.resnet20(10, 1, 2), torch.Generator().manual_seed(0)
    w = {n: p.detach().clone() for n, p in model.named_parameters()}
    scale = {n: float(p.abs().mean()) for n, p in w.items() if p.ndim > 1}  # the best fit by -s and s
    speed = {n: torch.zeros_like(p) for n, p in w.items()}
    mean, std = images.train_x.double().mean() / 255, images.train_x.double().std(correction=0) / 255
    x, y = ((images.train_x / 255 - mean) / std).float(), images.train_y
    for epoch in range(4):
        epsilon = 0.88 ** (25 * max(epoch - 2, 0))
        order = torch.randperm(100, generator=draws)
        for _ in range(3):
            torch.randint(2, (100,), generator=draws)
        for k in range(4):
            lr = 0.1 * (1 + math.cos(math.pi * (epoch + k / 4) / 4)) / 2
            i = order[25 * k : 25 * k + 25]
            leaves = {n: p.requires_grad_() for n, p in w.items()}
            loss = cross_entropy(functional_call(model, leaves, x[i]), y[i])
            gradients = dict(zip(w, torch.autograd.grad(loss, list(leaves.values())), strict=True))
            with torch.no_grad():
                for n, g in gradients.items():
                    velocity = -g
                    if n in scale:
                        s = scale[n]
                        v, inside = w[n] / s, w[n].abs() <= s
                        phi = torch.where(inside, epsilon - 1 + v * v, epsilon + 1 - v.abs())
                        slope = torch.where(inside, 2 * v, -v.sign())
                        push = (0.5 * phi.abs() / slope.abs()).clamp(max=1.0) * s
                        pushed = torch.where(slope > 0, torch.maximum(-g, push), torch.minimum(-g, -push))
                        velocity = torch.where(phi > 0, -g, pushed)
                    speed[n] = 0.9 * speed[n] + velocity
                    w[n] = w[n].detach() + lr * speed[n]
    caught = 0
    with run.optimizer.latent():
        for n, p in run.model.named_parameters():
            layer = n.removesuffix(networks.SCALED) + "weight" if n.endswith(networks.SCALED) else n
            found = p.detach() * scale.get(layer, 1.0)
            torch.testing.assert_close(found, w[layer].detach(), rtol=2e-3, atol=2e-4)
            caught += int((p.abs() < 1).sum()) if layer in scale else 0
    assert caught > 100, "no weight is between the levels: the constraint was not tested"
