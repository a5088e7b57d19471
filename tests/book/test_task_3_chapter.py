"""Task III: what the page says, recomputed from the stored tables with nothing but the csv module, and one cell written out."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from dataclasses import replace
from statistics import fmean, stdev

import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from quantized_training import layers
from study.datasets import image_sets
from study.results import DATA
from study.vision import grid, networks, sweep
from study.vision.grid import PROFILES, Cell
from study.vision.on_device import evaluate, predict

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
    records = sweep.stored(PROFILES[name])
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
def test_hardly_any_weight_changes_its_level_after_annealing_has_begun(name):
    """None with one bit; with more at most five in a thousand in an epoch."""
    checked = 0
    for (method, bits, *_), rows in runs(name).items():
        if method in ASKEW:
            changed = [float(r["changed"]) for r in rows]
            assert max(changed[start(rows) :]) <= (0 if bits == "1" else 5e-3)
            assert changed[0] > 1e-5
            checked += 1
    assert checked


@both
def test_more_bits_lose_less(name):
    end = mean_at_end(runs(name))
    for method in {m for m, _ in end} - {"Full precision"}:
        if (method, 1) in end and (method, 4) in end:
            assert end[method, 4] > end[method, 1], method


def annealed_runs():
    """(constraint, levels, start) -> rows over the epochs of the settings with alpha, clip and fall of the grid."""
    found = defaultdict(list)
    for r in table("annealing"):
        start = int(r["start"])
        usual = math.isclose(float(r["ratio"]), 0.88 ** (50 / (20 - start)), rel_tol=1e-6)
        if usual and float(r["alpha"]) == 0.5 and float(r["clip"]) == 1:
            found[r["constraint"], r["levels"], start].append(r)
    assert found and all(len(rows) == 20 for rows in found.values())
    return found


@pytest.mark.parametrize("constraint", ["psi", "phi"])
def test_latent_accuracy_collapses_on_raw_levels_alone_and_rounded_accuracy_rises(constraint):
    """What the claim on the drop rests on: the first annealed epoch after eleven without a constraint between the levels."""
    found, drop = annealed_runs(), {}
    for levels in ("raw", "scaled"):
        rows = found[constraint, levels, 10]
        first = start(rows)
        before, after, last = (rows[i] for i in (first - 1, first, -1))
        drop[levels] = float(before["latent_accuracy"]) - float(after["latent_accuracy"])
        assert first == 11 and float(last["mean"]) > float(before["mean"]) + 0.1
        assert float(last["latent_accuracy"]) > float(after["latent_accuracy"]) - 0.05
    assert drop["raw"] > 0.5 and drop["scaled"] < 0.1


@pytest.mark.parametrize("constraint", ["psi", "phi"])
def test_too_early_and_too_late_both_cost(constraint):
    """Of four starts the second is the best, whatever alpha is; after the last the weights end far from the levels."""
    last = defaultdict(dict)
    for r in table("annealing"):
        usual = float(r["ratio"]) == pytest.approx(0.88 ** (50 / (20 - int(r["start"]))), rel=1e-6)
        if (
            r["constraint"] == constraint
            and r["levels"] == "scaled"
            and usual
            and r["clip"] == "1"
            and r["epoch"] == "20"
        ):
            last[float(r["alpha"])][int(r["start"])] = {k: float(r[k]) for k in ("mean", "distance")}
    assert set(last) == {0.1, 0.5, 2.0} and all(set(rows) == {0, 5, 10, 15} for rows in last.values())
    for rows in last.values():
        assert max(rows, key=lambda s: rows[s]["mean"]) == 5
        assert rows[15]["distance"] > 2 * rows[5]["distance"]


@pytest.mark.parametrize("constraint", ["psi", "phi"])
def test_the_printed_schedule_ends_far_behind_a_later_start(constraint):
    ends = {}
    for r in table("annealing"):
        if r["constraint"] == constraint and r["levels"] == "scaled" and r["alpha"] == "0.5" and r["epoch"] == "20":
            ends[int(r["start"]), round(float(r["ratio"]), 3)] = float(r["mean"])
    assert ends[0, 0.88] < ends[5, round(0.88 ** (50 / 15), 3)] - 0.3


def test_free_for_half_of_the_epochs_and_then_fast_is_the_best_of_all_settings():
    """Rounded; and the weights are closest to the levels. Where annealing starts after sixteen, the same speed does not suffice."""
    last = defaultdict(dict)
    for r in table("annealing"):
        if r["levels"] == "scaled" and r["epoch"] == "20":
            key = tuple(round(float(r[k]), 2) for k in ("start", "ratio", "alpha", "clip"))
            last[r["constraint"]][key] = float(r["mean"]), float(r["distance"])
    assert set(last) == {"phi", "psi"}
    for rows in last.values():
        fast = 10, 0.28, 0.5, 1
        assert max(rows, key=lambda key: rows[key][0]) == fast
        assert min(rows, key=lambda key: rows[key][1]) == fast
        assert rows[15, 0.28, 0.5, 1][0] < rows[fast][0] - 0.3
        assert rows[15, 0.28, 0.5, 1][1] > 0.1 > 0.02 > rows[fast][1]


def test_winners_of_the_grid():
    """By the mean of the rounded and re-estimated networks; paired t intervals of the difference to the best, written out."""
    t = 4.302652729911275  # the 97.5 % point of Student's t with two degrees of freedom
    best, level = {}, {}
    for name in ("subset", "cpu"):
        ends = defaultdict(dict)
        for (method, bits, kind, place, seed), rows in runs(name).items():
            if (kind, place) == ("scaled", "all") and method != "Full precision":
                ends[bits][method, seed] = float(rows[-1]["reestimated_accuracy"])
        for bits, found in ends.items():
            methods = {m for m, _ in found}
            first = max(methods, key=lambda m: sum(found[m, s] for s in "012"))
            best[name, bits], level[name, bits] = first, set()
            for m in methods - {first}:
                d = [found[first, s] - found[m, s] for s in "012"]
                if fmean(d) < t * stdev(d) / math.sqrt(3):
                    level[name, bits].add(m)
    assert best.pop(("subset", "1")) == "Modified ASkewSGD"
    assert set(best.values()) == {"Straight-through"} and len(best) == 5
    assert level["subset", "1"] == {"Straight-through", "ASkewSGD"}


def test_most_of_the_collapse_is_the_running_statistics():
    profile, images, scores = replace(PROFILES["cpu"], epochs=4), image_sets.load("digits"), {}
    moments = images.mean, images.std
    run = grid.train(profile, Cell("Modified ASkewSGD", 1, "raw"), images)
    with run.optimizer.latent():
        scores["stale"] = evaluate(run.model, images.test_x, images.test_y, *moments)[1]
        run.model.train()
        for module in run.model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = None  # torch's plain average
        with torch.no_grad():
            for part in images.train_x[:640].split(64):
                predict(run.model, part, *moments)
        scores["anew"] = evaluate(run.model, images.test_x, images.test_y, *moments)[1]
    before, after = (r["latent_accuracy"] for r in run.record[-2:])
    assert after == pytest.approx(scores["stale"], abs=0.01)
    assert before - after > 0.5 and scores["anew"] - after > (before - after) / 2


def test_integer_levels_need_a_scale():
    found = runs("cpu")
    ends = {kind: mean_at_end(found, "reestimated_accuracy", kind) for kind in grid.LEVELS}
    compared = [k for k in ends["raw"] if k[1] in (2, 4) and k in ends["scaled"]]
    if not compared:
        pytest.skip("no cell on raw levels is stored")
    assert all(ends["scaled"][k] > ends["raw"][k] for k in compared)
    assert all(ends["raw"][k] < 0.15 and ends["scaled"][k] > 0.9 for k in compared if k[0] in ASKEW)


@both
def test_reestimation_repairs_what_rounding_changed(name):
    """With one bit some methods gain more than ten points, and none loses as many as two."""
    found = runs(name)
    rounded, anew = mean_at_end(found), mean_at_end(found, "reestimated_accuracy")
    gains = [anew[k] - rounded[k] for k in rounded if k[1] == 1]
    assert max(gains) > 0.1 and min(gains) > -0.02


def test_cells_that_are_not_stored_are_not_found(tmp_path):
    assert sweep.stored(PROFILES["cpu"], tmp_path) == {}
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
    images = image_sets.load("digits").subset(100, 50)
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
            layer = n.removesuffix(layers.SCALED) + "weight" if n.endswith(layers.SCALED) else n
            found = p.detach() * scale.get(layer, 1.0)
            torch.testing.assert_close(found, w[layer].detach(), rtol=2e-3, atol=2e-4)
            caught += int((p.abs() < 1).sum()) if layer in scale else 0
    assert caught > 100, "no weight is between the levels: the constraint was not tested"
