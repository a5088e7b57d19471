"""Which way imports point, in the library and in the study: from what builds on it to what is built on, never back."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "src"

#: Each module or folder may import from the rows above its own, and inside its folder.
LIBRARY = (
    ("arguments", "files"),
    ("levels", "schedules"),
    ("constraints", "scales"),
    ("methods", "layers", "packing"),
    ("progress", "transaction"),
    ("adaptive", "checkpoint"),
    ("optimizer",),
    ("finished",),
    ("__init__", "__main__"),
)
#: What a function imports that cannot do without, and that says what to install.
OPTIONAL = {"finished": {"safetensors"}}
STUDY = (
    ("__init__",),
    ("theory",),
    ("methods",),
    ("results", "statistics"),
    ("claims", "runner", "figures", "datasets"),
    ("algebra", "tasks"),
    ("vision",),
    ("experiments", "speed"),
    ("__main__",),
)


def modules(package: str) -> dict[str, Path]:
    """Dotted name inside the package -> file."""
    root = SOURCES / package
    return {".".join(p.relative_to(root).with_suffix("").parts): p for p in sorted(root.rglob("*.py"))}


def imported(package: str, name: str, path: Path) -> Iterator[str]:
    """The absolute dotted names that a module imports anywhere in its text, lazily too; a.b.c for `from a.b import c`."""
    here = [package, *name.split(".")]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(here[: len(here) - node.level]) if node.level else ""
            yield from (".".join(filter(None, (start, node.module, alias.name))) for alias in node.names)


def rank(table: tuple, name: str) -> int:
    top = name.split(".")[0]
    found = [i for i, row in enumerate(table) if top in row]
    assert len(found) == 1, f"{top} has no place in the order of this test: say which"
    return found[0]


def target(package: str, dotted: str) -> str:
    """The module of the package that an import leads to."""
    parts = dotted.split(".")[1:]
    known = modules(package)
    while parts:
        for candidate in (".".join(parts), ".".join([*parts, "__init__"])):
            if candidate in known:
                return candidate
        parts.pop()
    return "__init__"


def edges(package: str) -> dict[str, set[str]]:
    found = {}
    for name, path in modules(package).items():
        mine = [x for x in imported(package, name, path) if x.split(".")[0] == package]
        found[name] = {target(package, x) for x in mine} - {name}
    return found


@pytest.mark.parametrize(("package", "table"), [("quantized_training", LIBRARY), ("study", STUDY)])
def test_no_import_points_upwards(package, table):
    wrong = [
        f"{name} imports {other}"
        for name, others in edges(package).items()
        for other in others
        if name.split(".")[0] != other.split(".")[0] and rank(table, other) >= rank(table, name)
    ]
    assert wrong == []


@pytest.mark.parametrize("package", ["quantized_training", "study"])
def test_no_modules_import_each_other_in_a_circle(package):
    """A folder's __init__ and its members apart: Python imports the former first."""
    left = {n: {o for o in others if not o.endswith("__init__")} for n, others in edges(package).items()}
    left = {n: o for n, o in left.items() if not n.endswith("__init__")}
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    assert left == {}


def test_the_library_imports_torch_and_the_standard_library_alone():
    for name, path in modules("quantized_training").items():
        tops = {x.split(".")[0] for x in imported("quantized_training", name, path)}
        assert tops - OPTIONAL.get(name, set()) <= {"torch", "quantized_training", *sys.stdlib_module_names}, name
        if name != "__main__":  # it forwards the old command to the study, by name
            assert "study." not in path.read_text(encoding="utf-8"), name


def test_the_study_does_not_need_the_tests_or_the_book():
    for name, path in modules("study").items():
        tops = {x.split(".")[0] for x in imported("study", name, path)}
        assert tops.isdisjoint({"sphinx", "jupytext", "pytest", "helpers", "conftest", "build", "book_cache"}), name


def test_upward_imports_would_be_noticed(tmp_path):
    for text, expected in (
        ("from ..tasks import moons", "study.tasks.moons"),
        ("def f():\n    from ..runner import make", "study.runner.make"),
        ("import study.vision.grid as g", "study.vision.grid"),
        ("from . import flow", "study.theory.flow"),
    ):
        file = tmp_path / "made.py"
        file.write_text(text, encoding="utf-8")
        assert list(imported("study", "theory.made", file)) == [expected]
    assert target("study", "study.tasks.moons") == "tasks.moons" and target("study", "study.tasks") == "tasks.__init__"
    assert target("study", "study.runner.make") == "runner"


def test_the_root_of_the_study_stays_small():
    assert len([name for name in modules("study") if "." not in name]) <= 8
