"""The machine-checked steps: each holds, each of its mutants is refuted, and no kind of evidence passes for another."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import pytest
import sympy
import z3
from hypothesis import strategies as st

from study import algebra
from study.algebra import evidence
from study.algebra.__main__ import main

RUNNABLE = [name for name, step in algebra.STEPS.items() if step.run]


@pytest.mark.parametrize("name", RUNNABLE)
def test_step_holds(name):
    assert algebra.check(name).found is not None


@pytest.mark.parametrize(
    ("name", "mutant"), [(name, mutant) for name in RUNNABLE for mutant in algebra.STEPS[name].mutants]
)
def test_mutant_is_refuted(name, mutant):
    with pytest.raises(algebra.Refuted) as refuted:
        algebra.check(name, **mutant)
    assert "contradict" not in str(refuted.value)  # refuted by numbers, not for want of any


def test_every_step_that_runs_has_a_mutant():
    assert [name for name in RUNNABLE if not algebra.STEPS[name].mutants] == []


def test_nothing_follows_from_a_contradiction():
    x = z3.Real("x")
    with pytest.raises(algebra.Refuted, match="contradict"):
        evidence.prove(x > 5, [x > 0, x < 0])


def test_a_solver_that_gives_up_is_not_a_proof():
    n = z3.Ints("a b c d")
    with pytest.raises(algebra.Undecided, match="gave up"):
        evidence.prove(z3.Sum([x * x * x for x in n]) != 114 * n[0] * n[1] + 7, seconds=0.001)


def test_a_counterexample_is_exact():
    with pytest.raises(TypeError, match="not exact"):
        evidence.refute(False, w=0.1)
    with pytest.raises(algebra.Refuted, match="w 1/3"):
        evidence.refute(True, w=Fraction(1, 3))
    with pytest.raises(TypeError, match="there are none"):
        evidence.refute(False)


def test_a_false_property_is_refuted_with_its_simplest_instance():
    with pytest.raises(algebra.Refuted, match=r"'n': 11\b"):
        evidence.search(lambda n: n - 10.0, 0, 200, n=st.integers(0, 1000))


@pytest.mark.parametrize("kind", [algebra.Z3, algebra.EXACT, algebra.TESTED])
def test_one_kind_of_evidence_is_not_another(kind, monkeypatch):
    x = sympy.Symbol("x")
    wrong = algebra.Step("wrong", "-", "-", kind, lambda: evidence.identity(x, x), ())
    monkeypatch.setitem(algebra.STEPS, "wrong", wrong)
    with pytest.raises(TypeError, match="announces"):
        algebra.check("wrong")


def test_registering():
    with pytest.raises(ValueError, match="not a kind"):
        evidence.step("Lemma 5", "obvious", "x = x")
    with pytest.raises(ValueError, match="two steps"):
        evidence.prose(RUNNABLE[0], "Lemma 5", "x = x")


def test_steps_can_be_run_by_name():
    command = [sys.executable, "-m", "study.algebra", "distance_is_summable"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "proved by z3" in done.stdout and "[1/1]" in done.stdout


def test_without_z3_the_error_says_what_to_install():
    code = "import sys; sys.modules['z3'] = None; import study.algebra"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "the checks of the proofs need z3: pip install 'quantized-training[proofs]'" in done.stderr


def test_steps_can_be_listed_and_unknown_names_are_refused(capsys):
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == list(algebra.STEPS)
    with pytest.raises(SystemExit, match="2"):
        main(["no_such_step"])
    error = capsys.readouterr().err
    assert "no_such_step" in error and "--list" in error


def test_a_random_search_can_draw_more(monkeypatch, capsys):
    monkeypatch.setattr(evidence, "INSTANCES", None)
    assert main(["--instances", "7", "slopes_near_a_vertex"]) == 0
    assert "7 random instances" in capsys.readouterr().out


def test_a_step_that_fails_is_reported(monkeypatch, capsys):
    x = z3.Real("x")
    false = algebra.Step("false", "-", "-", algebra.Z3, lambda: evidence.prove(x > 0), ())
    monkeypatch.setitem(algebra.STEPS, "false", false)
    assert main(["false", "distance_is_summable"]) == 1
    shown = capsys.readouterr().out
    assert "FAILED (Refuted): false at" in shown and "1 of 2 steps failed" in shown
    assert "distance_is_summable" in shown
