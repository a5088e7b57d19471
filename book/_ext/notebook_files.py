"""From a notebook in Markdown to the .ipynb file that readers download, or open on Colab and Binder."""

from __future__ import annotations

import re
from pathlib import Path

import jupytext
import nbformat

from plain_markdown import Book, Page, pages_url

SET_UP = """\
# @title Set-up: run this cell first
# Finds the packages beside this notebook (clone, Binder), or installed, or fetches them (Colab).
# {promise} Can be run twice.
import importlib.util
import pathlib
import subprocess
import sys

PACKAGES = ("quantized_training", "study")


def in_folder(folder):
    return all((folder / "src" / name / "__init__.py").is_file() for name in PACKAGES)


def installed():  # a folder that only bears the name, such as a clone, has no origin
    return all((spec := importlib.util.find_spec(name)) and spec.origin for name in PACKAGES)


for name in PACKAGES:  # forget an import that took such a folder for the package
    if name in sys.modules and not getattr(sys.modules[name], "__file__", None):
        del sys.modules[name]
here = pathlib.Path.cwd()
root = next((folder for folder in (here, *here.parents) if in_folder(folder)), None)
if root is None and not installed():
    {fetch}
if root is not None and str(root / "src") not in sys.path:
    sys.path.insert(0, str(root / "src"))
"""
INSTALL = """\
for module, package in {packages}.items():
    if importlib.util.find_spec(module) is None:
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)
"""
#: What notebooks with machine-checked steps import and Colab lacks: module -> package (pyproject's extra `proofs`).
PROOFS = {"z3": "z3-solver", "hypothesis": "hypothesis"}
FETCH = """\
root = here / "{name}"
    if not in_folder(root):
        address = "{url}"
        clone = ["git", "clone", "--depth", "1", "--branch", "notebooks", address, str(root)]
        said = subprocess.run(clone, capture_output=True, text=True)
        if said.returncode:
            raise ModuleNotFoundError(
                f"The packages could not be fetched from the branch `notebooks` of {{address}}. That branch appears when "
                f"the book is published (README, Publish); git said: {{said.stderr.strip()}}"
            )"""
NO_FETCH = (
    'raise ModuleNotFoundError("Open this notebook inside a clone of its repository, or install quantized-training.")'
)
#: Tags of cells whose code the book does not show at once.
FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
#: What a cell calls that shows a figure or a table: readers came for that, not for the code.
DRAWS = re.compile(r"\bgo\.Figure\(|\bmake_subplots\(|\bfigure\(|\btable\(")
TITLE = "# @title Show the code\n"


def set_up_cell(url: str, proofs: bool = False) -> nbformat.NotebookNode:
    """The first cell: makes both packages importable wherever the notebook was opened; `proofs`: and the solvers."""
    fetch = FETCH.format(name=url.rsplit("/", 1)[-1], url=url) if url else NO_FETCH
    promise = f"Installs {' and '.join(PROOFS.values())} where they are missing." if proofs else "Installs nothing."
    code = SET_UP.format(fetch=fetch, promise=promise) + (INSTALL.format(packages=PROOFS) if proofs else "")
    cell = nbformat.v4.new_code_cell(code, id="set-up", metadata={"tags": ["set-up"]})
    _fold(cell)
    return cell


def _fold(cell: nbformat.NotebookNode) -> None:
    """Fold the code: JupyterLab by `source_hidden`, Colab as a form, which takes its title from the first line."""
    cell.metadata["jupyter"] = {"source_hidden": True}
    cell.metadata["cellView"] = "form"
    if not cell.source.startswith("# @title"):
        cell["source"] = TITLE + cell.source


def write_notebook(source: str | Path, target: Path, url: str, root: Path) -> None:
    """Convert the Markdown notebook `source` of the book in `root` to `target` (.ipynb): the set-up cell in front, the text in
    plain Markdown, the code folded that the book folds, without outputs. url: address of the repository, or ""."""
    notebook = jupytext.read(source)
    notebook.metadata.pop("jupytext", None)  # the .md file is not beside the .ipynb any more
    proofs = any("algebra" in cell.source for cell in notebook.cells if cell.cell_type == "code")
    page = Page(
        Book(root, pages_url(url)), Path(source).resolve().relative_to(root.resolve()).with_suffix("").as_posix()
    )
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # jupytext draws them at random, and each build would differ
        if cell.cell_type == "markdown":
            cell["source"] = page.plain(cell.source)
        elif FOLDED & {*cell.metadata.get("tags", [])} or DRAWS.search(cell.source):
            _fold(cell)
    notebook.cells = [cell for cell in notebook.cells if cell.source or cell.cell_type == "code"]
    notebook.cells.insert(0, set_up_cell(url, proofs))
    nbformat.validate(notebook)
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)
