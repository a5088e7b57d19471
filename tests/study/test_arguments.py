"""The command lines: what is asked for wrongly is named, with what is allowed, before anything runs."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from conftest import ROOT
from quantized_training import Levels
from study import __main__ as study
from study import results
from study.algebra import __main__ as algebra
from study.experiments import __main__ as experiments
from study.speed import bench
from study.tasks import logistic, moons, original_moons
from study.vision import networks
from study.vision.grid import Cell
from study.vision.rivals import BayesBiNN, FrozenProxQuant

DRAWS = (logistic.draw, moons.draw, original_moons.draw)
ONE = Levels.binary()
BAYES = {"images": 1, "rate": 1.0, "temperature": 1.0, "start": 1.0, "seed": 0}
MAINS = {"study": study.main, "algebra": algebra.main, "bench": bench.main}


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("study", "required: {task3}"),
        ("study task4", "'task4' (choose from"),
        ("study task3 --seeds 1.5", "'1.5': allowed are integers from 0"),
        ("study task3 --list --results /nowhere/at/all", "/nowhere/at/all: there is no such folder"),
        ("experiments", "required: {make,check,list,sign}"),
        ("experiments mak", "'mak' (choose from"),
        ("experiments make tabels", "no experiment tabels; there are adaptive_digits"),
        ("experiments make tables --jobs 0", "--jobs: '0': allowed are integers from 1"),
        ("experiments check --sample none", "--sample: 'none': allowed are integers from 1"),
        ("experiments check --seed -3", "--seed: '-3': allowed are integers from 0"),
        ("experiments list --jobs 2", "unrecognized arguments: --jobs"),
        ("experiments sign tabels", "nothing is stored of tabels; stored are adaptive_digits"),
        ("algebra lemma_9", "no step called lemma_9; --list shows all"),
        ("bench --threads 0", "--threads: '0': allowed are integers from 1"),
        ("bench --repeats -1", "--repeats: '-1': allowed are integers from 1"),
        ("bench --seeds 2 --singles 3", "--singles 3: allowed is 1 to --seeds 2"),
        ("bench --tasks III", "'III' (choose from"),
    ],
)
def test_what_is_wrong_is_named(command, words, monkeypatch, capsys):
    name, *arguments = command.split()
    monkeypatch.setattr(sys, "argv", [f"python -m study.{name}", *arguments])
    monkeypatch.setattr(results, "write", lambda *_: pytest.fail("something was stored"))
    with pytest.raises(SystemExit) as stopped:
        experiments.main() if name == "experiments" else MAINS[name](arguments)
    said = capsys.readouterr().err + str(stopped.value.code)
    assert stopped.value.code not in (0, None) and words in said, said


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("build.py --jobs two", "--jobs: invalid int value: 'two'"),
        ("build.py --profile fast", "'fast' (choose from"),
        ("build.py notebooks/01_foundations.md", "unrecognized arguments"),
        ("notebook_style.py nothing.md", "no such file: nothing.md"),
        ("publish.py .", "exists already"),
    ],
)
def test_the_tools_of_the_book_name_it_too(command, words, tmp_path):
    name, *arguments = command.split()
    call = [sys.executable, str(ROOT / "book" / name), *arguments]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr


def test_a_step_that_was_nearly_named_is_offered(capsys):
    with pytest.raises(SystemExit):
        algebra.main(["harmonic_square"])
    assert "among them harmonic_squares" in capsys.readouterr().err


SMALL = {"width": 2, "classes": 2}
WRONG = [
    *((draw, {"seeds": bad}, "seeds") for draw in DRAWS for bad in ("3", None, 2.5, 0, -1, True, [], ["0"], [1.0])),
    *((Cell, {"method": "ASkewSGD", "bits": bad}, "bits") for bad in ("1", None, 3, 1.0, True)),
    *((Cell, {"method": "ASkewSGD", "bits": 1, "seed": bad}, "seed") for bad in ("1", None, -1, 0.0)),
    *((networks.resnet20, SMALL | {name: bad}, name) for name in ("classes", "width") for bad in ("2", 0, 2.0, True)),
    *((FrozenProxQuant, {"levels": ONE, "slope": 0.1, "freeze": bad}, "freeze") for bad in (0, "2", None, 2.5)),
    *((FrozenProxQuant, {"levels": ONE, "slope": bad, "freeze": 2}, "slope") for bad in (0, "0.1", None, math.nan)),
    *((BayesBiNN, BAYES | {name: bad}, name) for name in BAYES for bad in ("1", None, math.nan, -1)),
]


@pytest.mark.parametrize(("call", "given", "name"), WRONG)
def test_an_argument_of_the_wrong_kind_is_named(call, given, name):
    given = {"levels": ONE} | given if call is BayesBiNN else given
    with pytest.raises((TypeError, ValueError), match=f"^{name}(=|:)"):
        call(**given)


def test_numpys_integers_are_integers():
    cell = Cell("ASkewSGD", np.int64(1), seed=np.int32(0))
    assert repr(cell) == repr(Cell("ASkewSGD", 1, seed=0)), "another digest"
    assert networks.resnet20(**{name: np.int64(value) for name, value in SMALL.items()})
    for draw in DRAWS:
        few, same = (draw(seeds=n, epochs=1) for n in (np.int64(2), [np.int64(0), 1]))
        assert torch.equal(few.initial, same.initial) and len(few.initial) == 2
