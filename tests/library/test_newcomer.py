"""What a new method costs: one file and one row of `study.methods`; every test of the common harness then runs on it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HARNESS = [ROOT / "tests" / name for name in ("library/test_methods.py", "library/test_optimizer.py")]
HARNESS.append(ROOT / "tests" / "study" / "vision" / "test_training.py")
NAME = "Damped"

METHOD = '''
from quantized_training import Method


class Damped(Method):
    """A throw-away method: half of the gradient, and a pull towards the nearest level."""

    elementwise = True

    def descent(self, grad, w, levels, state, out=None):
        return grad / 2 + 0.1 * (w - levels.nearest(w))
'''
ROW = """
from damped import Damped
from study import methods
from study.theory import reference as ref

methods.METHODS["Damped"] = methods.Row(
    "Damped",
    ("#5566aa", "dash"),
    tested=Damped,
    step=lambda w, G, Q, lr, method, state: w - lr * (G / 2 + 0.1 * (w - ref.nearest(w, Q))),
)
"""


def run(folder: Path, *options: str, row: str = ROW) -> subprocess.CompletedProcess:
    """pytest with the newcomer in the table, as if its row were written there."""
    (folder / "damped.py").write_text(METHOD, encoding="utf-8")
    (folder / "damped_row.py").write_text(row, encoding="utf-8")
    path = os.pathsep.join([str(folder), str(ROOT / "tests"), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    plain = ["-q", "-o", "addopts=", "-p", "no:cacheprovider", "-p", "damped_row"]
    command = [sys.executable, "-m", "pytest", *plain, *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": path})


@pytest.fixture(scope="module")
def collected(tmp_path_factory) -> list[str]:
    done = run(tmp_path_factory.mktemp("newcomer"), "--collect-only", *map(str, HARNESS))
    return [line for line in done.stdout.splitlines() if "::" in line]


def test_every_test_of_the_table_is_collected_for_it(collected):
    like = [test for test in collected if "Full precision" in test]
    assert {test.split("::")[0].rsplit("/")[-1] for test in like} == {path.name for path in HARNESS}
    assert len({test.split("[")[0] for test in like}) >= 10
    assert {test.replace("Full precision", NAME) for test in like} <= set(collected)


def test_it_passes_all_of_them(collected, tmp_path):
    done = run(tmp_path, "-k", NAME, *map(str, HARNESS))
    count = sum(NAME in test for test in collected)
    assert done.returncode == 0 and f"{count} passed" in done.stdout, done.stdout[-3000:]


def test_a_row_whose_reference_says_something_else_fails(tmp_path):
    wrong = ROW.replace("G / 2", "G / 3")
    assert wrong != ROW
    done = run(tmp_path, "-k", NAME, str(HARNESS[1]), row=wrong)
    assert "1 failed" in done.stdout and "test_trajectory_is_the_reference" in done.stdout
