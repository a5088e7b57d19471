"""From a notebook in Markdown to the .ipynb file that readers download, or open on Colab and Binder."""

from __future__ import annotations

from pathlib import Path

import jupytext
import nbformat

SET_UP = """\
# Set-up: finds the package beside this notebook (clone, Binder), or installed, or fetches it (Colab).
# {promise} Can be run twice.
import importlib.util
import pathlib
import subprocess
import sys

here = pathlib.Path.cwd()
root = next((p for p in (here, *here.parents) if (p / "src" / "quantized_training").is_dir()), None)
if root is None and importlib.util.find_spec("quantized_training") is None:
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
    if not root.exists():
        address = "{url}"
        subprocess.run(["git", "clone", "--depth", "1", "--branch", "notebooks", address, str(root)], check=True)"""
NO_FETCH = (
    'raise ModuleNotFoundError("Open this notebook inside a clone of its repository, or install quantized-training.")'
)


def set_up_cell(url: str, proofs: bool = False) -> nbformat.NotebookNode:
    """The first cell: makes `import quantized_training` work wherever the notebook was opened; `proofs`: and the solvers."""
    fetch = FETCH.format(name=url.rsplit("/", 1)[-1], url=url) if url else NO_FETCH
    promise = f"Installs {' and '.join(PROOFS.values())} where they are missing." if proofs else "Installs nothing."
    code = SET_UP.format(fetch=fetch, promise=promise) + (INSTALL.format(packages=PROOFS) if proofs else "")
    return nbformat.v4.new_code_cell(code, id="set-up", metadata={"tags": ["set-up"]})


def write_notebook(source: str | Path, target: Path, url: str) -> None:
    """Convert the Markdown notebook `source` to `target` (.ipynb), with the set-up cell in front, without outputs."""
    notebook = jupytext.read(source)
    notebook.metadata.pop("jupytext", None)  # the .md file is not beside the .ipynb any more
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # jupytext draws them at random, and each build would differ
    proofs = any("algebra" in cell.source for cell in notebook.cells if cell.cell_type == "code")
    notebook.cells.insert(0, set_up_cell(url, proofs))
    nbformat.validate(notebook)
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)
