"""What is said about the tables of `adaptive_large`, on made-up tables whose answers are known."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest

from helpers import real_data
from study import results
from study.experiments import _ranking as rk
from study.experiments import adaptive_large as large
from study.experiments import adaptive_vae_mnist as mnist
from study.tasks import binary
from study.tasks.binary_optimizers import OPTIMIZERS

NOISE = {1: -0.004, 2: 0.0, 3: 0.004}  # what the seeds do to all runs alike
SMALL = large.PROFILES["small"]


def runs(task: str, means: dict[str, float], own=lambda name, seed: 0.0, loss=None) -> list[dict]:
    """Rows of all runs of a network: scores that rise to their mean, plus the seed's and the run's own noise."""
    made, epochs = [], SMALL[task].epochs
    for seed in NOISE:
        for name, end in means.items():
            about = {"unit": f"{task}, {name}, seed {seed}", "task": task, "optimiser": name, "seed": seed}
            for epoch in range(1, epochs + 1):
                score = end + NOISE[seed] + own(name, seed) if epoch == epochs else 0.0
                made.append(about | {"epoch": epoch, "score": score, "loss": loss(name, epoch) if loss else 1.0})
    return made


def level(value: float = 0.5, full: float = 0.6, **others: float) -> dict[str, float]:
    known = {"SGD": "SGD(M)"}
    return dict.fromkeys(OPTIMIZERS, value) | {large.FULL: full} | {known.get(k, k): v for k, v in others.items()}


def wobble(name: str, seed: int) -> float:
    """Noise of a run's own, which is 0 in the mean over the seeds."""
    return 0.003 * (list(permutations((-1, 0, 1))) * 2)[large.NAMES.index(name)][seed - 1]


def said(task: str, means: dict[str, float], own=wobble) -> str:
    return rk.conclusion(task, rk.finals(runs(task, means, own), task))


def test_scores_are_those_after_the_last_epoch_in_per_cent():
    scores = rk.finals(runs("ResNet-34", level()), "ResNet-34")
    assert set(scores) == set(large.NAMES) and scores["Bop"] == pytest.approx({1: 49.6, 2: 50.0, 3: 50.4})
    assert rk.finals(runs("LSTM", level(100)), "LSTM")["Bop"] == pytest.approx({1: 99.996, 2: 100, 3: 100.004})
    assert not rk.finals(runs("LSTM", level()), "detector")


@pytest.mark.parametrize("task", ["ResNet-34", "MobileNetV2", "detector"])
def test_a_winner_by_construction_is_named(task):
    ours = said(task, level(BAMSProd=0.55))
    assert ours.startswith("**BAMSProd leads** with 5") and "BAMSProd is better than" in ours
    assert "worse than" not in ours.split("Full")[0] and "not told" not in ours
    assert all(name in ours for name in OPTIMIZERS)
    other = said(task, level(Bop=0.55))
    assert other.startswith("Bop has the best mean, 5") and "**behind it**" in other and "worse than Bop" in other
    assert "leads" not in other


def test_of_perplexities_the_smaller_is_better():
    assert said("LSTM", level(150, 90, Adam=120), lambda name, seed: 0.0).startswith("Adam has the best mean, 120.0")
    won = said("LSTM", level(150, 90, BAMSProd=120), lambda name, seed: wobble(name, seed))
    assert won.startswith("**BAMSProd leads** with 120.0, 30.0 [") and "30.0 [30.0, 30.0] in perplexity better" in won
    assert "Full precision, 90.0, is 30.0 [30.0, 30.0] in perplexity better than the best of them." in won


def test_ties_are_not_told_apart():
    words = said("ResNet-34", level())
    assert "leads" not in words and "**behind it**" not in words
    assert "not told from" in words
    assert "better than" not in words.split("Full")[0].replace("points better than", "")
    same = said("ResNet-34", level(full=0.5), lambda name, seed: 0.0)
    assert "Full precision, 50.0 %, is not told from the best of them." in same


def test_pairing_by_seed_is_used():
    """A gain far below what the seeds do to all runs alike."""
    scores = rk.finals(runs("ResNet-34", level(BAMSProd=0.502), lambda name, seed: 0.02 * seed), "ResNet-34")
    assert rk.lead("ResNet-34", scores) == pytest.approx((0.2, 0.2, 0.2), abs=1e-9)
    assert rk.conclusion("ResNet-34", scores).startswith("**BAMSProd leads**")


def test_verdicts_follow_the_intervals():
    holds, fails, open_ = "holds under a stated reading", "does not hold", "cannot be decided"
    assert [rk.verdict(g) for g in ((0.2, 0.1, 0.3), (-2, -3, -1), (0.2, -0.1, 0.5), (math.nan,) * 3)] == [
        holds, fails, open_, open_,
    ]  # fmt: skip
    assert [rk.verdict((1.0, low, high), 3.3) for low, high in ((0.1, 1.9), (-0.5, 2.5), (-2.0, 4.0))] == [
        holds, fails, open_,
    ]  # fmt: skip
    fast, slow, wide, gone = (1.3, 1.1, 1.5), (1.0, 0.9, 1.1), (1.2, 0.8, 1.8), (math.nan,) * 3
    assert rk.verdict_on_speed({"a": fast, "b": gone}) == holds
    assert rk.verdict_on_speed({"a": fast, "b": slow, "c": wide}) == fails
    assert rk.verdict_on_speed({"a": fast, "b": wide}) == rk.verdict_on_speed({"a": gone}) == open_


def test_a_gain_is_the_t_interval():
    x, y = np.array([50.0, 51.0, 49.0]), np.array([49.0, 50.5, 46.0])
    scores = {"BAMSProd": dict(enumerate(x)), "Bop": dict(enumerate(y))}
    half = 4.302653 * np.std(x - y, ddof=1) / math.sqrt(3)
    assert rk.gain("detector", scores, "BAMSProd", "Bop") == pytest.approx((1.5, 1.5 - half, 1.5 + half), rel=1e-6)
    assert rk.gain("LSTM", scores, "Bop", "BAMSProd") == pytest.approx((1.5, 1.5 - half, 1.5 + half), rel=1e-6)
    assert rk.interval("detector", (-1.0, -2.04, -0.04), "+") == "−1.0 [−2.0, +0.0] mAP"


def test_a_run_that_diverged_is_said_and_wins_nothing():
    diverged = lambda name, seed: math.nan if (name, seed) == ("Adam", 2) else wobble(name, seed)  # noqa: E731
    words = said("ResNet-34", level(Adam=0.9, BAMSProd=0.6), diverged)
    assert words.startswith("**BAMSProd leads**") and "With Adam a run diverged." in words
    ours = lambda name, seed: math.nan if name == "BAMSProd" else wobble(name, seed)  # noqa: E731
    words = said("ResNet-34", level(Adam=0.9), ours)
    assert words.startswith("Adam has the best mean, 90") and "With BAMSProd a run diverged." in words
    assert math.isnan(rk.lead("ResNet-34", rk.finals(runs("ResNet-34", level(), ours), "ResNet-34"))[0])
    alone = lambda name, seed: wobble(name, seed) if name in ("Bop", large.FULL) else math.nan  # noqa: E731
    assert said("ResNet-34", level(), alone).startswith("Bop alone did not diverge")
    perplexities = lambda name, seed: math.inf if name == "Bop" else 0.0  # noqa: E731
    assert "With Bop a run diverged." in said("LSTM", level(100, 90), perplexities)


@pytest.mark.parametrize("task, none, some", [("ResNet-34", 0.11, 0.3), ("LSTM", 630, 300), ("detector", 0.02, 0.2)])
def test_full_precision_tells_size_from_binary_weights(task, none, some):
    words = said(task, level(none, some))
    assert "With no optimiser" in words and "not its size but the binary weights are the cause" in words
    words = said(task, level(none, none))
    assert "too small, or trained too briefly" in words and "cause" not in words
    assert f"{'SGD(M)'} learned nothing." in said(task, level(some, some, SGD=none))


def test_a_headline_counts_whom_the_best_is_told_apart_from():
    def headline(task, means, own=wobble):
        return rk.headline(task, rk.finals(runs(task, means, own), task))

    won = "{}: {} has the best mean, told apart from {} others".format
    assert headline("ResNet-34", level(Bop=0.55)) == won("ResNet-34", "Bop", "6 of 6")
    assert headline("LSTM", level(150, 90, Adam=120, Bop=120.001)) == won("LSTM", "Adam", "5 of 6")
    gone = lambda name, seed: math.nan if name == "SGD(M)" else wobble(name, seed)  # noqa: E731
    assert headline("ResNet-34", level(BAMSProd=0.55), gone) == won("ResNet-34", "BAMSProd", "5 of 5")
    none = "LSTM: no optimiser learned anything"
    assert headline("LSTM", level(630, 90)) == headline("LSTM", level(), lambda name, seed: math.nan) == none


def test_networks_are_finished_when_all_their_runs_are_there():
    rows = [{"unit": key} for key in large.SMALL.units]
    assert rk.finished(large.SMALL, rows) == list(SMALL) and rk.to_do(large.SMALL, rows) == ""
    short = [r for r in rows if r["unit"] not in ("LSTM, Bop, seed 3", f"detector, {large.FLOAT32}, seed 1")]
    assert rk.finished(large.SMALL, short) == ["ResNet-34", "MobileNetV2"]
    line = rk.to_do(large.SMALL, short)
    assert line == f"{len(short)} of {len(rows)} runs are stored so far; `make results ONLY=adaptive_small` goes on."
    assert rk.to_do(large.SMALL, []) == "`make results ONLY=adaptive_small` makes it." and not rk.finished(
        large.SMALL, []
    )


def test_epochs_to_a_loss_that_all_reach():
    """Losses that fall by a factor each epoch: epochs to a level are known."""
    rates = level(1.0) | {"BAMSProd": 2.0, "Bop": 0.5}
    rows = runs("ResNet-34", level(), loss=lambda name, epoch: math.exp(-0.1 * rates[name] * (epoch - 0.5)))
    reached, found = rk.to_a_loss(rows, "ResNet-34")
    assert reached == pytest.approx(math.exp(-0.05 * 5.5)) and set(found) == set(OPTIMIZERS) - {"BAMSProd"}
    assert found["Adam"] == pytest.approx((2.0,) * 3) and found["Bop"] == pytest.approx((4.0,) * 3)
    assert "Bop 4.00 [4.00, 4.00]" in rk.speed(rows, "ResNet-34")
    for r in rows:
        if (r["optimiser"], r["seed"], r["epoch"]) == ("Bop", 2, 6):
            r["loss"] = math.nan
    reached, found = rk.to_a_loss(rows, "ResNet-34")
    assert reached == pytest.approx(math.exp(-0.05 * 5.5)) and math.isnan(found["Bop"][0])
    assert "Bop no number" in rk.speed(rows, "ResNet-34")


def tuning(task: str, scores: dict[str, list[float]]) -> list[dict]:
    return [
        {"task": task, "optimiser": name, "setting": str(setting), "score": score, "epoch": 1}
        for name in large.NAMES
        for setting, score in zip(large.settings(name), scores.get(name, [0.1, 0.3, 0.2, 0.1]), strict=True)
    ]


def test_edges_of_the_search():
    inside = tuning("ResNet-34", {})
    assert rk.at_edge(inside, "ResNet-34") == {} and "on ResNet-34: none." in rk.edges(inside, ["ResNet-34"])
    ends = {"Adam": [0.1, 0.2, 0.3, 0.4], "SGD(M)": [0.4, math.nan, math.nan, math.nan], "Bop": [0.1, 0.2, 0.3, 0.4]}
    rows = tuning("ResNet-34", ends) + tuning(
        "LSTM", dict.fromkeys(large.NAMES, [9.0, 7.0, 8.0, 9.0]) | {"BAMSProd": [9.0, 8.0, 7.0, 6.0]}
    )
    assert rk.at_edge(rows, "ResNet-34") == {"Adam": "highest", "SGD(M)": "lowest"}
    words = rk.edges(rows, ["ResNet-34", "LSTM"])
    assert "on ResNet-34: SGD(M) (lowest), Adam (highest); LSTM: BAMSProd (highest)" in words and "none" not in words


def test_the_rows_of_the_claims_get_their_words():
    scores = rk.finals(runs("detector", level(BAMSProd=0.55), lambda name, seed: 0.0), "detector")
    assert rk.against("detector", scores, "Bop") == "Bop 50.0 mAP, gain of BAMSProd over it +5.0 [+5.0, +5.0] mAP"
    assert rk.against("detector", scores, "BAMSProd").startswith(
        "BAMSProd 55.0 mAP, its gain over SGD(M), the best other, +5"
    )


def test_bfloat16_beside_float32():
    scores = {large.FULL: {1: 50.5, 2: 52.0, 3: 51.0}, large.FLOAT32: {1: 50.0}}
    assert rk.precisions("ResNet-34", scores) == "ResNet-34 +0.5 points (the seeds range over 1.5)"


def test_images_that_are_not_exact_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "DATA", tmp_path)
    note = "Nets. cifar-10: all files differ from the published ones; 91 of the 60,000 images are not exact (73 training) (3 of 8 units)"
    for name, about in (("a", note), ("b", "Nets. (3 of 8 units)")):
        results.write(name, [{"x": 1}], about, "x", "x", tmp_path / "results")
    assert rk.inexact("a") == "In the copy of CIFAR-10 that was used 91 of the 60,000 images are not exact."
    assert rk.inexact("b") == ""


# The autoencoder


def autoencoder(ends: dict[tuple, float]) -> list[dict]:
    """ends: (b1, b2, correction, part) -> nats; those that are missing end at 150."""
    made = []
    for b1, b2, correction in ((b1, b2, c) for b1 in (0.8, 0.9) for b2 in (0.99, 0.999) for c in (False, True)):
        for part in (mnist.COMMON_RATE, mnist.OWN_RATE):
            end = ends.get((b1, b2, correction, part), 150.0)
            seeds = {
                f"seed {s}": "" if s > 107 else end + 0.1 * math.sin(s * s + 40 * b1 * (1 + b2))
                for s in range(100, 120)
            }
            about = {"unit": mnist.key("BAMSProd", b1, b2, correction), "part": part}
            updates = {s: x and (300.0 if b2 == 0.999 and not correction else 200.0) for s, x in seeds.items()}
            made += [about | {"quantity": "final score"} | seeds, about | {"quantity": "updates to 165"} | updates]
    return made


def test_the_decay_factors_conclusion_on_known_numbers():
    words = mnist.conclusion(autoencoder({(0.9, 0.999, False, mnist.COMMON_RATE): 170.0}))
    assert words.startswith("At rates of their own 8 of the 8 networks of BAMSProd end below the 199.5 nats")
    without, with_it = words.split("Without bias correction")[1].split("With bias correction")
    assert "at the common rate, the larger β₂ needs 1.50 [1.50, 1.50] times the updates to 165 nats" in without
    assert "and ends 20.0 [20.0, 20.0] nats higher; at its own it ends level, and" in without
    assert "needs 1.00 [1.00, 1.00] times" in with_it and with_it.count(" level") == 3
    words = mnist.conclusion(
        autoencoder({(0.8, 0.999, True, mnist.OWN_RATE): 140.0, (0.9, 0.99, True, mnist.OWN_RATE): 205.0})
    )
    assert "7 of the 8" in words and "in place of 0.9 10.0 [" in words.split("With bias correction")[1]
    assert "nats lower" in words
    assert "with a run that diverged" in mnist.conclusion(autoencoder({(0.9, 0.99, True, mnist.OWN_RATE): math.nan}))


def test_keys_of_the_autoencoder_are_those_of_its_units():
    assert mnist.key("BAMSProd", 0.8, 0.99, True) in mnist.EXPERIMENT.units and len(mnist.EXPERIMENT.units) == 16
    assert {"beta1 0.8", "beta2 0.99"} <= set(mnist.key("Adam", 0.8, 0.99, False).split(", "))


def test_the_mean_digit_of_the_images_that_were_run():
    with real_data():
        (x, _), _, (test, _) = binary.mnist()
    p = x[0].double().mean(0).clamp(1e-6, 1 - 1e-6)
    t = test[0].double()
    on_test = -(t * p.log() + (1 - t) * (1 - p).log()).sum(1).mean().item()
    assert (binary.mean_digit((x, x)), on_test) == pytest.approx(mnist.MEAN_DIGIT, abs=0.05)
