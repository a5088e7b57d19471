"""Every public function and class of the library has an example in its docstring, and it gives what it says; its size."""

import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import quantized_training

FOLDER = Path(quantized_training.__file__).parent
MODULES = [
    importlib.import_module(info.name)
    for info in pkgutil.walk_packages(quantized_training.__path__, "quantized_training.")
    if not info.name.endswith("__main__")
]
PUBLIC = {
    f"{module.__name__.removeprefix('quantized_training.')}.{name}": (module, thing)
    for module in MODULES
    for name, thing in vars(module).items()
    if (inspect.isclass(thing) or inspect.isfunction(thing)) and thing.__module__ == module.__name__ and name[0] != "_"
}
#: What a reader has at hand; besides that an example sees the names of its own module.
GIVEN = (
    "import math, tempfile, torch\nfrom pathlib import Path\nfrom torch import nn\nfrom quantized_training import *\n"
)


def examples(module, name, thing) -> doctest.DocTest:
    names: dict = {}
    exec(GIVEN, names)
    return doctest.DocTestParser().get_doctest(thing.__doc__ or "", names | vars(module), name, module.__file__, 0)


@pytest.mark.parametrize("name", PUBLIC)
def test_the_example_in_the_docstring_is_true(name):
    test = examples(PUBLIC[name][0], name, PUBLIC[name][1])
    assert 1 <= len(test.examples), f"{name} has no example"
    said: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert result.failed == 0, "".join(said)
    assert any(example.want for example in test.examples), f"{name}: its example shows nothing"


def test_all_that_the_package_exports_is_among_them():
    exported = {name: getattr(quantized_training, name) for name in quantized_training.__all__}
    documented = {id(thing) for _, thing in PUBLIC.values()}
    rest = {name for name, thing in exported.items() if id(thing) not in documented}
    assert rest == {"PHI", "PSI", "packing"} and len(PUBLIC) > 40  # objects and a module
    assert sorted(quantized_training.__all__, key=str.lower) == sorted(set(quantized_training.__all__), key=str.lower)


def test_a_false_example_would_be_noticed():
    def wrong():
        """
        >>> Levels.binary().values
        (0.0, 1.0)
        """

    test = examples(MODULES[0], "wrong", wrong)
    assert doctest.DocTestRunner(verbose=False).run(test, out=lambda text: None).failed == 1


def test_the_library_can_be_read_in_an_evening():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FOLDER.rglob("*.py")}
    assert sum(lines.values()) <= 2840
    assert {path.name: n for path, n in lines.items() if n > 350} == {}
