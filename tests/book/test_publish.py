"""The notebooks as they are published: text and pictures for who reads them on Colab, Binder or in JupyterLab."""

from __future__ import annotations

import re
import subprocess
import sys
from types import SimpleNamespace

import jupytext
import nbformat
import pytest
import yaml
from docutils import nodes

from book_links import _hide_parameters
from build import notebooks
from conftest import ROOT
from notebook_files import TITLE, set_up_cell, write_notebook
from plain_markdown import Book, Page, pages_url

SOURCES = notebooks(ROOT)
NAMES = [path.stem for path in SOURCES]
URL = "https://github.com/acme/book"
#: What only MyST knows.
RAW = {
    "a label": r"^\s*>?\s*\([\w:.-]+\)=\s*$",
    "a role": r"\{[\w:-]+\}`",
    "a directive": r"^[\s>]*(:{3,}|[`~]{3,}\s*\{)",
    "a link to a source": r"\]\([^)\s]*\.md(#[^)]*)?\)",
    "a comment": r"^% ",
}
DRAWS = re.compile(r"\bgo\.Figure\(|\bmake_subplots\(|\bfigure\(|\btable\(")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Name -> the notebook as it is published."""
    folder, found = tmp_path_factory.mktemp("published"), {}
    for source in SOURCES:
        write_notebook(source, folder / f"{source.stem}.ipynb", URL, ROOT)
        found[source.stem] = nbformat.read(folder / f"{source.stem}.ipynb", 4)
    return found


def code(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("name", NAMES)
def test_text_is_plain_markdown(published, name):
    left = [
        f"{what}: {found[0].strip()}"
        for cell in published[name].cells
        if cell.cell_type == "markdown"
        for what, pattern in RAW.items()
        for found in re.finditer(pattern, re.sub(r"(```|~~~)(?!\s*\{).*?\1", "", cell.source, flags=re.DOTALL), re.M)
    ]
    assert left == []


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_what_the_branch_has(published, name):
    """A notebook beside it, a section of its own, or an address."""
    text = "\n\n".join(cell.source for cell in published[name].cells if cell.cell_type == "markdown")
    titles = {f"#{title.replace(' ', '-')}" for title in re.findall(r"^#+ (.*?)\s*$", text, re.MULTILINE)}
    links = re.findall(r"(?<!\\)\]\(([^()\s]+)\)", re.sub(r"\$[^$]*\$", "", text))
    folder = next(path.parent for path in SOURCES if path.stem == name)
    for link in links:
        if link.endswith(".ipynb"):
            assert (folder / link).with_suffix(".md").exists(), link
        else:
            assert link in titles or link.startswith("https://"), link


@pytest.mark.parametrize("name", NAMES)
def test_figures_and_tables_come_before_their_code(published, name):
    cells = code(published[name])
    folded = [cell for cell in cells if cell.metadata.get("jupyter", {}).get("source_hidden")]
    assert all(cell.metadata["cellView"] == "form" and cell.source.startswith("# @title ") for cell in folded)
    assert cells[0] in folded  # the set-up
    assert [cell.source for cell in cells if DRAWS.search(cell.source) and cell not in folded] == []
    for cell in cells[1:]:
        compile(cell.source, name, "exec")


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_code_is_that_of_the_source(published, source):
    found = [cell.source.removeprefix(TITLE) for cell in code(published[source.stem])]
    assert found[1:] == [cell.source for cell in code(jupytext.read(source))]
    wanted = source.parent.name == "notebooks"
    parameters = [cell for cell in code(published[source.stem]) if "parameters" in cell.metadata.get("tags", [])]
    assert len(parameters) == wanted


def test_parameters_are_not_on_the_page():
    doctree = nodes.section("", nodes.paragraph("", "before"))
    doctree += nodes.container("", nodes.paragraph("", 'profile = "quick"'), classes=["cell", "tag_parameters"])
    doctree += nodes.container("", nodes.paragraph("", "drawn"), classes=["cell", "tag_hide-input"])
    _hide_parameters(None, doctree)
    assert doctree.astext().split() == ["before", "drawn"]


@pytest.mark.parametrize("name", [path.stem for path in SOURCES if path.parent.name == "notebooks"])
def test_no_page_shows_its_parameters(built_book, name):
    page = (built_book / "notebooks" / f"{name}.html").read_text(encoding="utf-8")
    assert "tag_hide-input" in page and "tag_parameters" not in page


# --- the conversion, on a book of its own ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("book")
    for name in ("book", "notebooks", "data/paper"):
        (root / name).mkdir(parents=True)
    head = "---\nkernelspec:\n  name: python3\n---\n"
    files = {
        "_toc.yml": "root: book/words\nchapters:\n- file: notebooks/a\n- file: notebooks/b\n",
        "book/words.md": "# Words\n\n(wo-cell)=\n## Cells\n",
        "notebooks/a.md": f"{head}# First\n\n(a-end)=\n## The end\n\n(a-w)=\n## About $w$\n\n(eq-3)=\n$$x$$\n",
        "notebooks/b.md": f"{head}# Second\n\n(b-one)=\n## One\n",
        "data/paper/claims.yml": "- {id: eq-3, item: Equation (3), verdict: holds}\n",
        "book/references.bib": "@misc{one, author = {Ay, A. and {Bee}, B.}, year = {2020}}\n"
        "@misc{many, author = {Ay, A. and Bee, B. and Cee, C.}, year = {2021}}\n@misc{old, author = {Dee, D.}}\n",
    }
    for name, text in files.items():
        (root / name).write_text(text, encoding="utf-8")
    return lambda url="": Page(Book(root, url), "notebooks/a")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("(a-end)=\n## The end\n\nText.", "## The end\n\nText."),
        ("It holds. {claim}`eq-3` More.", "It holds. (Equation (3): holds) More."),
        ("by {ref}`(3) <eq-3>`, see {ref}`a-end`", "by (3), see [The end](#The-end)"),
        ("{ref}`b-one`, {ref}`that <b-one>`, {ref}`wo-cell`", "[One](b.ipynb), [that](b.ipynb), Cells"),
        ("{ref}`a-w` has a formula", "About $w$ has a formula"),
        ("{cite}`one,many` {cite:p}`old` {cite:t}`one`", "(Ay and Bee, 2020; Ay et al., 2021) (Dee) Ay and Bee (2020)"),
        ("[x](b.md), [](b.md#b-one), [w](../book/words.md)", "[x](b.ipynb), [Second](b.ipynb), w"),
        ("[end](#a-end) [out](https://example.org/a.md)", "[end](#The-end) [out](https://example.org/a.md)"),
        ("`{ref}` stays, $[x](b.md)$ too", "`{ref}` stays, $[x](b.md)$ too"),
        ("{math}`x^2` and {sub}`2`, {other}`word`", "$x^2$ and <sub>2</sub>, word"),
        (":::{admonition} On {ref}`(3) <eq-3>`\n:class: tip\n\n- a\n:::", "> **On (3)**\n>\n> - a"),
        (":::{dropdown} Proof\n$$\nx\n$$\nend $a\nb$\n:::", "> **Proof**\n>\n> $$ x $$\n> end $a b$"),
        (":::{prf:theorem} 3, new\n:label: t\n:nonumber:\n\nIt is.\n:::", "> **Theorem (3, new)**\n>\n> It is."),
        ("::::{note}\na\n:::{tip}\nb\n:::\n::::", "> **Note**\n>\n> a\n>\n> > **Tip**\n> >\n> > b"),
        ("```python\n:::{x}\n{ref}`y`\n```", "```python\n:::{x}\n{ref}`y`\n```"),
        (
            ":::{claims}\n:prefix: a-\n:::",
            "*The table of the verdicts stands on this page of the book, built by* `make book`.",
        ),
        ("% unseen\nseen", "seen"),
    ],
)
def test_myst_becomes_markdown(page, given, wanted):
    assert page().plain(given) == wanted


def test_with_an_address_the_book_is_linked(page):
    plain = page("https://acme.github.io/book").plain
    assert plain("{claim}`eq-3`") == "([Equation (3): holds](https://acme.github.io/book/book/errata.html#claim-eq-3))"
    assert plain("{ref}`wo-cell`") == "[Cells](https://acme.github.io/book/book/words.html#wo-cell)"
    assert plain(":::{claims}\n:::") == (
        "*The table of the verdicts stands [on this page of the book](https://acme.github.io/book/notebooks/a.html).*"
    )


def test_unknown_names_are_not_passed_over(page):
    for text in ("{ref}`nowhere`", "{claim}`none`", "{cite}`nobody`"):
        with pytest.raises(KeyError):
            page().plain(text)


def test_address_of_the_pages(monkeypatch):
    monkeypatch.delenv("BOOK_PAGES_URL", raising=False)
    assert pages_url("https://github.com/Acme/book") == "https://acme.github.io/book"
    assert pages_url("https://github.com/acme/acme.github.io") == "https://acme.github.io"
    assert pages_url("https://gitlab.com/acme/book") == pages_url("") == ""
    monkeypatch.setenv("BOOK_PAGES_URL", "https://example.org/")
    assert pages_url("") == "https://example.org"


# --- the set-up cell ---------------------------------------------------------------------------------------------------


def run(code: str, folder) -> SimpleNamespace:
    return subprocess.run(
        [sys.executable, "-E", "-S", "-c", code], cwd=folder, capture_output=True, text=True, encoding="utf-8"
    )


def test_a_clone_that_bears_the_packages_name_is_not_the_package(tmp_path):
    """After a restart on Colab: the clone lies in the working directory, and Python takes it for a namespace package."""
    clone = tmp_path / "quantized_training"
    for name in ("quantized_training", "study"):
        (clone / "src" / name).mkdir(parents=True)
        (clone / "src" / name / "__init__.py").write_text("", encoding="utf-8")
    cell = set_up_cell("https://github.com/acme/quantized_training").source
    look = "\nimport quantized_training, study; print(quantized_training.__file__, study.__file__)"
    for before in ("", "import quantized_training\n"):  # as well when a cell was run before the set-up
        done = run(before + cell + look, tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == [str(clone / "src" / n / "__init__.py") for n in ("quantized_training", "study")]


def test_a_folder_with_one_of_the_packages_is_not_enough(tmp_path):
    (tmp_path / "src" / "quantized_training").mkdir(parents=True)
    (tmp_path / "src" / "quantized_training" / "__init__.py").write_text("", encoding="utf-8")
    done = run(set_up_cell("").source, tmp_path)
    assert done.returncode != 0 and "Open this notebook inside a clone" in done.stderr


def test_a_missing_branch_is_said_in_a_sentence(tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path / "remote")], check=True)
    done = run(set_up_cell((tmp_path / "remote").as_uri()).source, tmp_path)
    assert done.returncode != 0 and "CalledProcessError" not in done.stderr
    assert "That branch appears when the book is published" in done.stderr.splitlines()[-1] + done.stderr


# --- what is said to who asks for something impossible -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--jobs", "0"], "--jobs 0 (make: JOBS): at least one"), (["--root", "wrong"], "--root wrong: no book there")],
)
def test_the_build_names_the_option_that_is_wrong(tmp_path, options, words):
    command = [sys.executable, str(ROOT / "book" / "build.py"), *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr


def test_make_names_the_python_that_is_wrong():
    command = ["make", "-C", str(ROOT), "-B", "PYTHON=nonsense", "setup"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode != 0 and "There is no nonsense here" in done.stdout


def test_only_the_job_that_pushes_may_write_or_has_a_token():
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        text = path.read_text(encoding="utf-8")
        workflow = yaml.safe_load(text)
        assert workflow["permissions"] == {"contents": "read"}
        for name, job in workflow["jobs"].items():
            pushes = any("git push" in step.get("run", "") for step in job["steps"])
            assert (job.get("permissions", {}).get("contents") == "write") == pushes, name
            # a job that runs what the repository says (make, Python, packages) has no token, and leaves none to what it runs
            assert bool(re.search(r"github\.token|secrets\.", str(job))) == pushes, name
            for step in job["steps"]:
                if step.get("uses", "").startswith("actions/checkout@"):
                    assert step["with"]["persist-credentials"] is False and not pushes, name


def test_actions_are_pinned():
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for used in re.findall(r"uses: (.*)", path.read_text(encoding="utf-8")):
            assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used), used
