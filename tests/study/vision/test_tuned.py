"""The comparison under one budget: what is held out, six settings each, what is chosen, that cells resume and are stored."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from study import experiments, results, runner
from study.datasets import image_sets
from study.experiments import _tuned
from study.vision import checkpoints, on_device, tuned
from study.vision.tuned import METHODS, Protocol, Setting

TINY = Protocol("tiny", "digits", 100, 50, 0, 2, 1, 2, 20)


@pytest.fixture(scope="module")
def digits() -> image_sets.Images:
    return image_sets.load("digits").subset(100, 50)


def test_what_is_held_out_is_trained_on_nowhere(digits):
    marked = replace(digits, train_inexact=torch.tensor([0, 99]))
    part = tuned.split(marked, 20)
    assert len(part.train_y) == 80 and torch.bincount(part.test_y).tolist() == [2] * 10
    assert torch.bincount(part.train_y).tolist() == [8] * 10
    rows = {tuple(x.flatten().tolist()) for x in part.test_x}
    assert rows.isdisjoint(tuple(x.flatten().tolist()) for x in part.train_x)
    both = torch.cat([part.train_x, part.test_x]).flatten(1)
    assert torch.equal(both.sum(0), digits.train_x.flatten(1).sum(0)), "an image is lost, or a test image is in it"
    assert len(part.train_inexact) + len(part.test_inexact) == 2
    for c in range(10):
        last = (digits.train_y == c).nonzero()[-2:, 0]
        assert torch.equal(part.test_x[part.test_y == c], digits.train_x[last])
    for wrong in (0, 25, 100):
        with pytest.raises(ValueError, match="allowed are multiples of 10 below 100"):
            tuned.split(digits, wrong)


def test_no_method_has_more_settings_than_another():
    assert len(METHODS) >= 12 and {len(kind.settings) for kind in METHODS.values()} == {6}
    assert all(len(set(map(str, kind.settings))) == 6 for kind in METHODS.values())
    e = experiments.experiments()["tuning"]
    assert len(e.units) == 6 * len(METHODS) * 2
    seeds = [key.rpartition(" ")[2] for key in e.units]
    assert seeds == sorted(seeds), "the first seed of all before the second of any"
    two = experiments.experiments()["tuning_two_bits"]
    assert len(two.units) == 6 * sum(2 in kind.bits for kind in METHODS.values())


def test_the_digests_of_stored_units_stay():
    """Whoever changes what a unit computes changes the version; otherwise a table of many hours would be run again."""
    e = experiments.experiments()["tuning"]
    key = "BinaryConnect, deterministic, 1 bits, lr 0.063, seed 0"
    assert e.version == "1" and e.digest(key) == "ad70a3a6f5a7"


def killed_after(write):
    def last(*arguments):
        write(*arguments)
        raise KeyboardInterrupt

    return last


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_runs_and_goes_on_from_its_checkpoint(method, digits, tmp_path, monkeypatch):
    kind = METHODS[method]
    for bits in kind.bits[:2]:
        whole = tuned.train(TINY, method, bits, kind.settings[1], 0, data=digits)
        file = tmp_path / f"{bits}.pt"
        with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
            m.setattr(checkpoints, "write", killed_after(checkpoints.write))
            tuned.train(TINY, method, bits, kind.settings[1], 0, file, data=digits)
        again = tuned.train(TINY, method, bits, kind.settings[1], 0, file, data=digits)
        for a, b in zip(whole, again, strict=True):
            for name in a:
                if name not in ("seconds", "utilisation"):
                    assert a[name] == b[name] or (math.isnan(a[name]) and math.isnan(b[name])), name


def test_weight_decay_is_a_setting_of_full_precision(digits):
    found = [
        tuned.train(TINY, "Full precision", 32, Setting(0.1, (("weight_decay", d),)), 0, data=digits)[-1]["loss"]
        for d in (0.0, 0.1, 0.1)
    ]
    assert found[0] != found[1] == found[2]


def test_bfloat16_only_where_the_processor_multiplies_it(monkeypatch):
    monkeypatch.setattr(tuned, "multiplies_bfloat16", lambda: True)
    assert [tuned.PROTOCOLS[n].precision for n in ("cifar", "subset")] == ["bfloat16", "float32"]
    monkeypatch.setattr(tuned, "multiplies_bfloat16", lambda: False)
    assert tuned.PROTOCOLS["cifar"].precision == "float32"
    model, x = torch.nn.Conv2d(1, 1, 1), torch.randint(0, 256, (1, 1, 2, 2), dtype=torch.uint8)
    seen = []
    model.register_forward_hook(lambda module, args, y: seen.append(y.dtype))
    mean, std = torch.zeros(1), torch.ones(1)
    on_device.predict(model, x, mean, std)
    with on_device.half():
        on_device.predict(model, x, mean, std)
        with on_device.half(False):
            on_device.predict(model, x, mean, std)
    on_device.predict(model, x, mean, std)
    assert seen == [torch.float32, torch.bfloat16, torch.float32, torch.float32]


@pytest.mark.parametrize("method", list(METHODS))
def test_one_step_of_resnet18(method, digits):
    """The protocol for a GPU, here: a batch, one epoch, narrow."""
    short = replace(tuned.PROTOCOLS["gpu"], device="cpu", half=False, width=4, epochs=1, batch=100)
    (row,) = tuned.train(short, method, METHODS[method].bits[0], METHODS[method].settings[0], 0, data=digits)
    assert math.isfinite(row["loss"]) and row["seconds"] > 0


# What is chosen


def rows(method: str, scores: dict[int, list[float]], bits: int = 1) -> list[dict]:
    settings = METHODS[method].settings
    return [
        {"method": method, "bits": bits, "setting": str(settings[k]), "seed": seed, _tuned.SCORE: x}
        for seed, values in scores.items()
        for k, x in enumerate(values)
    ]


def test_the_best_mean_over_the_seeds_that_all_settings_have():
    one, two = [0.1, 0.2, 0.3, 0.6, 0.5, 0.4], [0.9, 0.2, 0.3, 0.1]
    settings = METHODS["SGDA"].settings
    assert _tuned.best(rows("SGDA", {0: one}), "SGDA", 1) == settings[3]
    assert _tuned.best(rows("SGDA", {0: one, 1: two}), "SGDA", 1) == settings[3], "the second seed is not finished"
    assert _tuned.best(rows("SGDA", {0: one, 1: [*two, 0.5, 0.2]}), "SGDA", 1) == settings[0]
    assert _tuned.best(rows("SGDA", {0: [math.nan] * 5 + [0.1]}), "SGDA", 1) == settings[5]
    with pytest.raises(ValueError, match="not every setting has been run"):
        _tuned.best(rows("SGDA", {0: two}), "SGDA", 1)
    with pytest.raises(ValueError, match="every setting diverged"):
        _tuned.best(rows("SGDA", {0: [math.nan] * 6}), "SGDA", 1)


def test_full_precision_is_chosen_by_what_it_is():
    """Not by its rounded weights."""
    both = rows("Full precision", {0: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}, 32)
    table = [row | {"latent_accuracy": 1 - row[_tuned.SCORE]} for row in both]
    assert _tuned.best(table, "Full precision", 32) == METHODS["Full precision"].settings[0]


def test_the_ranking_is_by_the_best_setting_and_needs_both_rounds(monkeypatch):
    first = []
    for i, (method, kind) in enumerate(METHODS.items()):
        if 1 in kind.bits:
            first += rows(method, {0: [i / 20] * 5 + [math.nan]})
    expected = [m for m, kind in METHODS.items() if 1 in kind.bits][::-1]
    tables = {"tuning": first, "tuning_second": []}
    monkeypatch.setattr(_tuned, "table", tables.__getitem__)
    assert _tuned.finished("tuning", 1) == [], "the second round is missing"

    def again(method: str, x: float) -> list[dict]:
        places = ({"setting": str(_tuned.second(method, 1, k)), _tuned.SCORE: x} for k in (0, 1))
        return [{"method": method, "bits": 1, "seed": 0} | place for place in places]

    tables["tuning_second"] = [row for m in expected for row in again(m, 0.0)]
    assert _tuned.finished("tuning", 1) == expected
    assert _tuned.chosen("LSQ", 1) == METHODS["LSQ"].settings[0]
    better = [row for m in expected for row in again(m, 0.99 if m == "BinaryConnect" else 0.0)]
    tables["tuning_second"] = better
    assert _tuned.finished("tuning", 1)[0] == "BinaryConnect"
    assert _tuned.chosen("BinaryConnect", 1) == _tuned.second("BinaryConnect", 1, 0)
    tables["tuning"] = first[:-1]
    assert _tuned.finished("tuning", 1) == []
    tables["tuning"] = []
    assert _tuned.finished("tuning", 1) == []


def test_the_second_round_goes_beyond_an_edge_and_else_halfway_to_the_better_neighbour():
    def second(method: str, x: list[float]) -> list[str]:
        return [str(s) for s in tuned.second_round(method, dict(zip(METHODS[method].settings, x, strict=True)))]

    nan = math.nan  # lr 0.03, 0.03, 0.1, 0.1, 0.3, 0.3 and the two values of the constant in turn
    assert second("SGDA", [9, 0, 0, 0, 0, 0]) == ["lr 0.009, dual_max 0.02", "lr 0.03, dual_max 0.004"]
    assert second("SGDA", [0, 0, 0, 9, 0, 1]) == ["lr 0.17, dual_max 0.1", "lr 0.1, dual_max 0.5"]
    assert second("SGDA", [0, 2, 0, 9, 0, 1]) == ["lr 0.055, dual_max 0.1", "lr 0.1, dual_max 0.5"]
    assert second("SGDA", [0, 2, 0, 9, 0, nan]) == ["lr 0.055, dual_max 0.1", "lr 0.1, dual_max 0.5"]
    assert second("ASkewSGD", [0, 0, 0, 0, 0, 9]) == ["lr 0.9, begin 0.75", "lr 0.3, begin 0.875"]
    assert second("BinaryRelax", [0, 0, 0, 0, 9, 0]) == ["lr 0.9, end 0.75", "lr 0.3, end 0.5"]
    assert second("Straight-through", [0, 0, 9, 0, 0, 0]) == ["lr 0.04", "lr 0.1"]
    assert second("Straight-through", [0, 0, 0, 0, 0, 9]) == ["lr 0.63", "lr 2.5"]
    assert second("BayesBiNN", [0, 0, 0, 0, 9, 0]) == [
        "lr 0.1, rate 0.1, temperature 1e-10",
        "lr 0.1, rate 0.01, temperature 0.01",
    ]
    for method, kind in METHODS.items():
        for k in range(6):
            two = tuned.second_round(method, {s: float(i == k) for i, s in enumerate(kind.settings)})
            assert len({*map(str, two), *map(str, kind.settings)}) == 8, "two new ones for every method"
    with pytest.raises(ValueError, match="every setting diverged"):
        second("SGDA", [nan] * 6)


def test_final_runs_are_stored_with_the_setting_and_run_again_with_another(tmp_path, monkeypatch, digits):
    monkeypatch.setattr(results, "DATA", tmp_path / "data")
    monkeypatch.setitem(tuned.PROTOCOLS, "tiny", TINY)
    monkeypatch.setattr(tuned, "images", lambda protocol: digits)
    first, other = METHODS["LSQ"].settings[:2]
    for picked in (first, other):
        e = _tuned.runs("x", "for the tests", "tiny", [("LSQ", 1, 10)], 0, setting=lambda m, b, s=picked: s)
        assert runner.grow(e) and runner.grow(e) is None
        found = results.read("x")
        assert [r["epoch"] for r in found] == [1, 2] and {r["setting"] for r in found} == {str(picked)}
        assert {r["precision"] for r in found} == {"float32"} and {r["seed"] for r in found} == {10}
