"""The library needs torch and nothing else: it is imported and trained where nothing else can be found."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "src" / "quantized_training"
SNIPPET = re.search(r"<!-- snippet -->\n```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)[1]

BLOCKADE = """
import sys


class Blind:
    '''Finds what `finder` finds, where it is allowed; all else is not there.'''

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ALLOWED or name.startswith("_sysconfigdata"):  # the latter is named by system
            return self.finder.find_spec(name, path, target)


sys.meta_path[:] = map(Blind, sys.meta_path)
import warnings

warnings.filterwarnings("ignore", "Failed to initialize NumPy")
"""


def what_torch_brings() -> set[str]:
    """The top-level modules of torch and of all that its wheel declares as needed, directly or not."""
    distributions, waiting = set(), ["torch"]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name not in distributions:
            distributions.add(name)
            try:
                needed = metadata.requires(name) or []
            except metadata.PackageNotFoundError:  # needed on another system
                continue
            waiting += [re.match(r"[\w.-]+", r)[0] for r in needed if "extra ==" not in r]
    found = metadata.packages_distributions().items()
    return {module for module, owners in found if distributions & {re.sub(r"[-_.]+", "-", o).lower() for o in owners}}


def run(code: str, tmp_path: Path) -> subprocess.CompletedProcess:
    allowed = {*sys.stdlib_module_names, *what_torch_brings(), "quantized_training"}
    (tmp_path / "alone.py").write_text(f"ALLOWED = {sorted(allowed)!r}\n{BLOCKADE}\n{code}", encoding="utf-8")
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(LIBRARY.parent)!r}); import alone"]
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)


def test_what_torch_brings_is_little():
    """Not numpy: torch uses it where it is there. Were this set wrong, the tests below would prove nothing."""
    brought = what_torch_brings()
    assert {"torch", "sympy", "jinja2"} <= brought
    others = "numpy scipy plotly sklearn pandas IPython tqdm joblib pooch yaml z3 hypothesis PIL study pytest".split()
    assert brought.isdisjoint(others)


def test_the_blockade_stops_what_is_installed(tmp_path):
    for name in ("numpy", "scipy", "plotly", "study"):
        done = run(f"import {name}", tmp_path)
        assert done.returncode == 1 and f"No module named '{name}'" in done.stderr


def test_every_module_is_imported_with_torch_alone(tmp_path):
    modules = [
        ".".join(path.relative_to(LIBRARY.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted(LIBRARY.rglob("*.py"))
        if path.stem != "__main__"
    ]
    assert len(modules) > 12
    done = run("\n".join(f"import {name}" for name in modules) + "\nprint('numpy' in sys.modules)", tmp_path)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


def test_the_snippet_of_readme_trains_and_a_model_is_packed_with_torch_alone(tmp_path):
    packed = """
from quantized_training import packing
with optimizer.quantized():
    packing.save("model.qt", model, optimizer.param_groups)
    state = packing.load("model.qt")
    print(all(torch.equal(v, state[k]) for k, v in model.state_dict().items()))
"""
    done = run("import torch\ntorch.manual_seed(0)\n" + SNIPPET + packed, tmp_path)
    assert done.returncode == 0, done.stderr
    accuracy, same = done.stdout.splitlines()
    assert float(re.search(r": (0\.\d+|1\.0+);", accuracy)[1]) > 0.9 and same == "True"  # chance is 0.5
