"""Tasks I and II with two and four bits: what the page says of them."""

from __future__ import annotations

import math

import pytest
import torch

from quantized_training import PHI, PSI, Levels
from study.experiments import tables
from study.results import DATA, read
from study.tasks import logistic, moons
from study.tasks.ensembles import ANNEALING, methods, train


def test_the_paper_prints_one_bit_only():
    """Its tables as transcribed: no row names another number of bits."""
    printed = (DATA / "paper" / "tables.csv").read_text(encoding="utf-8")
    assert "bit" not in printed and {"1", "2", "3"} == {line.split(",")[0] for line in printed.splitlines()[1:]}


@pytest.mark.parametrize("name", tables.ASKEW)
@pytest.mark.parametrize("bits", [2, 4])
def test_a_legal_start_keeps_every_weight_at_its_first_level(name, bits):
    levels = Levels.for_bits(bits)
    e = logistic.draw(16)  # one of the first 512 seeds ends elsewhere
    path = train(methods(0.1, bits, tables.legal(levels))[name], e).latent
    assert (levels.nearest(path) == 0).all(), "a weight left the level 0 next to its initial value"
    assert logistic.loss(levels.nearest(path[-1]), e.z).tolist() == pytest.approx([math.log(2)] * 16, abs=1e-12)
    free = train(methods(0.1, bits)[name], e, record=False)
    assert (levels.nearest(free) == e.w_star).double().mean() > 0.9


@pytest.mark.parametrize(("constraint", "limit", "epoch"), [(PSI, 1 / 16, 22), (PHI, 1 / 4, 11)])
def test_the_printed_schedule_is_legal_only_late(constraint, limit, epoch):
    for bits in (2, 4):
        assert constraint.largest_epsilon(Levels.for_bits(bits)) == pytest.approx(limit)
    assert ANNEALING(epoch - 1) >= limit > ANNEALING(epoch)


@pytest.mark.parametrize(
    ("name", "bits", "fails"),
    [("ASkewSGD", 2, False), ("ASkewSGD", 4, True), ("Modified ASkewSGD", 2, True), ("Modified ASkewSGD", 4, True)],
)
def test_a_push_of_4_is_too_strong_for_levels_1_apart(name, bits, fails):
    """Task II with epsilon as stated: who ends worse than a network of zeros, with alpha = 4 and 0.1."""
    e, levels = moons.draw(64), Levels.for_bits(bits)
    found = train({alpha: methods(alpha, bits)[name] for alpha in (4.0, 0.1)}, e, record=False)
    worse = {a: (moons.loss(levels.nearest(w), e.x, e.y) > math.log(2)).double().mean() for a, w in found.items()}
    assert (worse[4.0] > 0.1) == fails and worse[0.1] < 0.05


def test_stored_tables_say_what_the_page_says_of_them():
    rows = {
        (r["task"], r["bits"], r["setting"], r["method"], r["quantity"]): r for r in read("tables")
    }  # fmt: skip
    assert all(r["n"] >= 256 for r in rows.values())
    quantised = "loss, quantised weights, whole set"
    for bits in (2, 4):
        for name in tables.ASKEW:
            r = rows["I", bits, tables.LEGAL, name, quantised]
            assert r["mean"] == pytest.approx(math.log(2), abs=1e-4), "one of 512 seeds ends elsewhere"
    floor = {bits: [r["loss"] for r in read("floors") if r["bits"] == bits] for bits in (2, 4)}
    for bits, values in floor.items():
        best = min(rows["II", bits, tables.STATED, m, quantised]["mean"] for m in logistic.METHODS)
        assert sum(values) / len(values) < best, "a method is below the floor on average: the search is wrong"


def test_wins_and_ties_are_of_the_same_seeds():
    found = tables.rows("II", 1, tables.STATED, seeds=8)
    alone = {r["method"]: r for r in found if r["quantity"] == "loss, quantised weights, whole set"}
    assert alone["Full precision"]["full_ties"] == 1 and alone["ASkewSGD"]["askew_ties"] == 1
    e = tables.moons.draw(8)
    trained = train({m: tables.moons.METHODS[m] for m in ("Full precision", "BinaryConnect")}, e, record=False)
    a, b = (tables.moons.loss(torch.sign(trained[m]), e.x, e.y) for m in ("BinaryConnect", "Full precision"))
    assert alone["BinaryConnect"]["full_wins"] == pytest.approx((a < b - 1e-9).double().mean().item())
    assert alone["BinaryConnect"]["mean"] == pytest.approx(a.mean().item())
