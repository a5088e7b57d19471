"""The files of the built book, what is published of it, and the way it is built."""

from __future__ import annotations

import functools
import gzip
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag

import jupytext
import nbformat
import pytest
from bs4 import BeautifulSoup

from book_cache import fingerprint
from book_links import normalised
from build import notebooks, pages
from conftest import ROOT
from notebook_files import TITLE, set_up_cell
from publish import publish

PAGES = pages(ROOT / "_toc.yml")
OBJECT = re.compile(r"<IPython[.\w]+ object>|<[.\w]+ object at 0x\w+>")  # Python's words for one
NOTEBOOKS = [path.relative_to(ROOT).with_suffix("").as_posix() for path in notebooks(ROOT)]

# --- files of the book -------------------------------------------------------------------------------------------------


@functools.cache
def parsed(built_book: Path) -> dict[Path, BeautifulSoup]:
    files = [p for p in built_book.rglob("*.html") if "_static" not in p.parts]
    return {path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in files}


def test_no_page_shows_an_object_in_place_of_what_it_holds(built_book):
    found = [(path.name, m[0]) for path, soup in parsed(built_book).items() if (m := OBJECT.search(soup.get_text()))]
    assert found == []


def test_internal_links_and_files_exist(built_book):
    soups, broken = parsed(built_book), []
    anchors = {
        p: {e.get("id") for e in s.find_all(id=True)} | {e["name"] for e in s.find_all("a", {"name": True})}
        for p, s in soups.items()
    }
    for path, soup in soups.items():
        links = [e[a] for a in ("href", "src") for e in soup.find_all(**{a: True})]
        for link in links:
            if re.match(r"[a-z]+:|//", link):
                continue
            target, anchor = urldefrag(link)
            if "=" in anchor and (target or path.name) == "playground.html":
                continue  # a state of the playground
            file = (path.parent / unquote(target.split("?")[0])).resolve() if target.split("?")[0] else path
            if not file.exists() or (anchor and file in anchors and unquote(anchor) not in anchors[file]):
                broken.append(f"{path.relative_to(built_book)} -> {link}")
    assert len(soups) >= len(PAGES)
    assert broken == []


def test_folded_code_is_one_box_and_comes_after_what_its_fold_is_named_for(built_book):
    boxes = 0
    for path, page in parsed(built_book).items():
        for fold in page.select("div.cell > details.hide"):
            parts = [set(part.get("class", [])) for part in fold.find_all(True, recursive=False)[1:]]
            after, boxes = fold.parent.find_next_sibling(), boxes + 1
            if (
                "cell_input" in parts[0]
                and fold.find_next_sibling() is None
                and after
                and "cell" in after.get("class", ())
            ):
                assert not after.select_one(":scope > details.hide > .cell_input"), f"{path.name}: two boxes, {fold}"
            if any("cell_output" in part for part in parts):
                assert "cell_output" in parts[0] and "hide" in parts[-1], f"{path.name}: {fold.summary}"
                closed, opened = (fold.select_one(f"summary > .{c}").get_text() for c in ("collapsed", "expanded"))
                assert opened == closed.replace("Show the", "Hide the"), f"{path.name}: {fold.summary}"
    assert boxes > 100


@pytest.mark.parametrize("name", PAGES)
def test_page_is_light(built_book, name):
    page = (built_book / f"{name}.html").read_bytes()
    assert len(gzip.compress(page, 6)) < 300_000
    assert b"searchindex.js" not in page, "Sphinx's search belongs to no page: the book has its own"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_can_be_downloaded(built_book, name):
    path = built_book / f"{name}.html"
    links = [a["href"] for a in BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser").find_all("a", href=True)]
    downloads = {link for link in links if link.endswith(".ipynb") and not re.match("https?:", link)}
    assert len(downloads) == 1
    notebook = nbformat.read(path.parent / downloads.pop(), 4)
    nbformat.validate(notebook)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    original = [cell.source for cell in jupytext.read(ROOT / f"{name}.md").cells if cell.cell_type == "code"]
    assert [source.removeprefix(TITLE) for source in code[1:]] == original
    assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.parametrize("name", [name for name in NOTEBOOKS if name.startswith("notebooks/")])
def test_notebook_has_the_agreed_header(name):
    notebook = jupytext.read(ROOT / f"{name}.md")
    assert notebook.metadata.kernelspec == {
        "name": "python3",
        "language": "python",
        "display_name": "Python 3",
    }
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(cells) == 1 and 'profile = "quick"' in cells[0].source


# --- publishing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("git@github.com:acme/book.git", "https://github.com/acme/book"),
        ("https://github.com/acme/book.git\n", "https://github.com/acme/book"),
        ("https://user:secret@github.com/acme/book", "https://github.com/acme/book"),
        ("ssh://git@gitlab.com:22/acme/the.book.git", "https://gitlab.com/acme/the.book"),
        ("/srv/git/book", ""),
        ("https://example.org/acme/book", ""),
        ("", ""),
    ],
)
def test_repository_address(given, expected):
    assert normalised(given) == expected


def run_cell(code: str, folder: Path) -> str:
    """Run the set-up cell in `folder` without any installed package; returns where the package was found."""
    code += "\nimport importlib.util as u; print(u.find_spec('quantized_training').origin)"
    done = subprocess.run([sys.executable, "-E", "-S", "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_published_notebooks_find_the_package(tmp_path, monkeypatch):
    """In a clone, on Binder (the published tree), and on Colab (the notebook alone, the tree cloned from its address)."""
    monkeypatch.setenv("BOOK_REPOSITORY_URL", "https://github.com/acme/book")
    tree = tmp_path / "published"
    written = publish(ROOT, tree)
    assert [path.relative_to(tree).with_suffix("").as_posix() for path in written] == NOTEBOOKS
    cell = nbformat.read(written[0], 4).cells[0].source
    assert '"https://github.com/acme/book"' in cell and '"--branch", "notebooks"' in cell
    assert run_cell(cell, ROOT / "notebooks").startswith(str(ROOT / "src"))
    assert run_cell(cell, tree / "notebooks").startswith(str(tree / "src"))

    git = ["git", "-C", str(tree), "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q", "-b", "notebooks"], ["add", "-A"], ["commit", "-q", "-m", "notebooks"]):
        subprocess.run([*git, *command], check=True)
    (alone := tmp_path / "alone").mkdir()
    cell = set_up_cell(tree.as_uri()).source
    for _ in range(2):  # safe to run twice
        assert run_cell(cell, alone).startswith(str(alone / "published" / "src"))


def test_published_notebooks_with_proofs_fetch_the_solvers_that_are_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("BOOK_REPOSITORY_URL", "https://github.com/acme/book")
    first = {path.stem: nbformat.read(path, 4).cells[0].source for path in publish(ROOT, tmp_path / "published")}
    proofs = [name for name, cell in first.items() if "z3-solver" in cell]
    assert proofs == [
        "05_proof_walkthrough",
        "05b_corrected_theorem",
        "05d_beyond_the_theorem",
        "10_bamsprod_theory",
        "13_rounded_guarantee",
    ]

    commands, found = [], importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "z3" else found(name))
    monkeypatch.setattr(subprocess, "run", lambda command, **_: commands.append(command))
    monkeypatch.chdir(ROOT / "notebooks")
    exec(first["05_proof_walkthrough"], {})
    assert commands == [[sys.executable, "-m", "pip", "install", "--quiet", "z3-solver"]]


# --- building ----------------------------------------------------------------------------------------------------------

HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# Sample

"""


def cell(code: str) -> str:
    return f"```{{code-cell}} ipython3\n{code}\n```\n\n"


VALUE_CELL = cell("import sys\n\nsys.path.insert(0, '../src')\nimport tiny\n\nprint('value', tiny.VALUE)")
FIGURE_CODE = "import plotly.graph_objects as go\n\ngo.Figure(go.Scatter(y=[1, 2]), {})"
FIGURE_CELL = cell(FIGURE_CODE.format({"meta": {"alt": "Two points, rising."}}))
MUTE_FIGURE_CELL = cell(FIGURE_CODE.format({}))


class Project:
    """A book of one page and one notebook, built with the real book's own machinery."""

    def __init__(self, root: Path):
        self.root, self.html = root, root / "_build" / "html"
        for name in ("_ext", "_static"):
            shutil.copytree(ROOT / "book" / name, root / "book" / name)
        for name in ("_config.yml", "requirements.lock"):
            shutil.copyfile(ROOT / name, root / name)
        for name in ("src", "data", "notebooks"):
            (root / name).mkdir()
        (root / "book" / "references.bib").touch()
        (root / "book" / "index.md").write_text("# A small book\n", encoding="utf-8")
        (root / "_toc.yml").write_text(
            "format: jb-book\nroot: book/index\nchapters:\n- file: notebooks/01_sample\n", encoding="utf-8"
        )
        self.set_value(1)
        self.write(VALUE_CELL + FIGURE_CELL)

    def set_value(self, value: int):
        (self.root / "src" / "tiny.py").write_text(f"VALUE = {value}\n", encoding="utf-8")

    def write(self, cells: str):
        (self.root / "notebooks" / "01_sample.md").write_text(HEADER + cells, encoding="utf-8")

    def run(self, command: list[str], monkeypatch, url: str = "") -> subprocess.CompletedProcess:
        monkeypatch.setenv("BOOK_REPOSITORY_URL", url)
        return subprocess.run([sys.executable, *command], cwd=self.root, capture_output=True, text=True)

    def build(self, monkeypatch, url: str = "", *options: str):
        return self.run([str(ROOT / "book" / "build.py"), "--root", str(self.root), *options], monkeypatch, url)

    def unchanged(self, monkeypatch) -> str:
        """What is said of the notebooks; nothing is rendered, which takes most of a build's time."""
        done = self.build(monkeypatch, "", "--execute-only")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def plain_build(self, monkeypatch):
        """What a reader gets who knows Jupyter Book only."""
        return self.run(["-c", "from jupyter_book.cli.main import main; main()", "build", "."], monkeypatch)

    def page(self) -> str:
        return (self.html / "notebooks" / "01_sample.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return Project(tmp_path_factory.mktemp("project"))


def test_book_is_never_stale(project, monkeypatch):
    done = project.build(monkeypatch)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "value 1" in project.page()
    plain = project.plain_build(monkeypatch)  # finds what papermill executed
    assert plain.returncode == 0 and "Executing notebook" not in plain.stdout + plain.stderr
    assert "1 unchanged" in project.unchanged(monkeypatch)

    project.set_value(2)
    assert project.build(monkeypatch).returncode == 0
    assert "value 2" in project.page()
    project.set_value(3)
    assert project.plain_build(monkeypatch).returncode == 0
    assert "value 3" in project.page()
    assert len(list((project.root / "_build" / ".jupyter_cache").iterdir())) == 1, "old caches stay"


def test_a_page_with_an_old_time_is_not_stale(project, monkeypatch):
    """Its file, or one that it depends on, may be older by the clock than what was made of it: `cp -p`, `touch`, a restored copy."""
    page, claims = project.root / "notebooks" / "01_sample.md", project.root / "data" / "paper" / "claims.yml"
    claims.parent.mkdir()
    table = "\n(sample)=\n## Evidence\n\n:::{claims}\n:prefix: sam\n:::\n\n:::{claims}\n:::\n"
    for word in ("first", "second", "third"):
        if word != "third":
            project.write(f"In the {word} place.\n{table}")
        claims.write_text(CLAIM.replace("sample\n", f"{word} sample\n", 1), encoding="utf-8")
        for path in (page, claims):
            os.utime(path, (1e9, 1e9))
        done = project.build(monkeypatch)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"of a {word} sample" in project.page()
        assert ("In the first place" if word == "first" else "In the second place") in project.page()
    claims.unlink()
    project.write(VALUE_CELL + FIGURE_CELL)


#: Jupyter Book, killed while it writes the file that {name} writes: half of it is there.
KILLED = """
import io, os, signal, sys
from pathlib import Path
from sphinx.builders.html import StandaloneHTMLBuilder
from jupyter_book.cli.main import main

write, name = StandaloneHTMLBuilder.{name}, {file!r}

def killed(self, *arguments, **more):
    found = write(self, *arguments, **more)
    file = Path(self.outdir) / name
    if file.exists():
        file.write_bytes(file.read_bytes()[:200])
        os.kill(os.getpid(), signal.SIGKILL)
    return found

StandaloneHTMLBuilder.{name} = killed
sys.argv[1:] = ["build", "."]
main()
"""


@pytest.mark.parametrize(
    ("name", "file"),
    [("handle_page", "notebooks/01_sample.html"), ("dump_search_index", "searchindex.js")],
    ids=["a page", "the search index"],
)
def test_a_build_that_is_killed_leaves_nothing_to_the_next(project, monkeypatch, name, file):
    project.set_value(4)
    path, index = project.html / file, project.root / "book" / "index.md"
    path.unlink(missing_ok=True)
    done = project.run(["-c", KILLED.format(name=name, file=file)], monkeypatch)
    assert done.returncode == -9, done.stdout + done.stderr
    assert path.stat().st_size == 200
    index.write_text(
        "# A small book\n\nGoes on.\n", encoding="utf-8"
    )  # what is read again is not what was half written
    done = project.build(monkeypatch)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "value 4" in project.page() and project.page().rstrip().endswith("</html>")
    assert path.stat().st_size > 1000
    assert '"notebooks/01_sample"' in (project.html / "searchindex.js").read_text(encoding="utf-8")
    index.write_text("# A small book\n", encoding="utf-8")


def stored_notebooks(cache: Path) -> list[Path]:
    return list((cache / "executed").rglob("base.ipynb"))


def missing_folder(cache: Path):
    shutil.rmtree(cache / "executed")


def missing_notebook(cache: Path):
    for notebook in stored_notebooks(cache):
        notebook.unlink()


def half_notebook(cache: Path):
    for notebook in stored_notebooks(cache):
        notebook.write_bytes(notebook.read_bytes()[:200])


def missing_database(cache: Path):
    (cache / "global.db").unlink()


def empty_database(cache: Path):
    (cache / "global.db").write_bytes(b"")


def half_database(cache: Path):
    (cache / "global.db").write_bytes((cache / "global.db").read_bytes()[:5000])


DAMAGES = (missing_folder, missing_notebook, half_notebook, missing_database, empty_database, half_database)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_notebook_that_was_half_stored_runs_again(project, monkeypatch, damage):
    project.write(VALUE_CELL)
    project.unchanged(monkeypatch)
    (cache,) = (project.root / "_build" / ".jupyter_cache").iterdir()
    damage(cache)
    assert "1 notebooks, 0 unchanged" in project.unchanged(monkeypatch)
    assert "1 notebooks, 1 unchanged" in project.unchanged(monkeypatch)


def test_buttons_point_to_what_publishing_creates(project, monkeypatch):
    assert project.build(monkeypatch, "git@github.com:acme/book.git").returncode == 0
    for link in (
        "https://github.com/acme/book",
        "https://colab.research.google.com/github/acme/book/blob/notebooks/notebooks/01_sample.ipynb",
        "https://mybinder.org/v2/gh/acme/book/notebooks?urlpath=lab/tree/notebooks/01_sample.ipynb",
    ):
        assert f'href="{link}"' in project.page()
    assert 'href="https://github.com/acme/book/issues/new' in project.page()
    downloaded = nbformat.read(project.html / "_sources" / "notebooks" / "01_sample.ipynb", 4)
    assert "https://github.com/acme/book" in downloaded.cells[0].source

    assert project.build(monkeypatch, "").returncode == 0
    for word in ("github.com", "colab", "mybinder", "executablebooks"):
        assert word not in re.sub(r"<(script|style).*?</\1>", "", project.page(), flags=re.S)


def test_failing_cell_fails_the_build(project, monkeypatch):
    project.write(cell("1 / 0"))
    done = project.build(monkeypatch)
    assert done.returncode != 0
    assert "notebooks/01_sample.md failed" in done.stderr and "ZeroDivisionError: division by zero" in done.stderr
    assert "ZeroDivisionError" in (project.root / "_build" / "notebooks" / "01_sample.log").read_text(encoding="utf-8")
    plain = project.plain_build(monkeypatch)
    assert plain.returncode != 0
    assert "01_sample" in plain.stderr and "ZeroDivisionError" in plain.stdout + plain.stderr


def test_figure_without_words_fails_the_build_each_time(project, monkeypatch):
    project.write(MUTE_FIGURE_CELL)
    for _ in range(2):  # Sphinx alone would forget the warning of a page it has read
        done = project.build(monkeypatch)
        assert done.returncode != 0
        assert "no text alternative" in done.stdout + done.stderr


CLAIM = """- id: a
  item: Statement
  about: of a sample
  section: "1"
  printed: It is so.
  verdict: holds
  right: As printed.
  see: sample
"""


def test_page_that_hides_its_claims_fails_the_build(project, monkeypatch):
    path = project.root / "data" / "paper" / "claims.yml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(CLAIM, encoding="utf-8")
    project.write("(sample)=\n## Evidence\n\nNothing to see.\n")
    done = project.build(monkeypatch)
    assert done.returncode != 0
    assert "rows a name this page as their evidence" in done.stdout + done.stderr
    project.write("(sample)=\n## Evidence\n\n:::{claims}\n:prefix: sam\n:::\n\n:::{claims}\n:::\n")
    printed, right = "<b>So</b> it is, $0<a$, <img src=x>", "<script>stop()</script>"
    path.write_text(CLAIM.replace("It is so.", f"'{printed}'").replace("As printed.", f"'{right}'"), encoding="utf-8")
    done = project.build(monkeypatch)
    assert done.returncode == 0, done.stdout + done.stderr
    row = BeautifulSoup(project.page(), "html.parser").select_one("details.claim-row")
    assert "<b>So</b> it is" in row.get_text() and "<img src=x>" in row.get_text() and right in row.get_text()
    assert row.find(["b", "img", "script"]) is None, "HTML of the claims is obeyed"
    path.write_text(CLAIM.replace("about: of a sample", "about: '`code`'"), encoding="utf-8")
    assert "plain words" in project.build(monkeypatch).stderr
    path.unlink()


def test_claims_run_the_notebooks_again_that_read_them_and_no_others(project, monkeypatch):
    path = project.root / "data" / "paper" / "claims.yml"

    def set_claim(about: str):
        path.parent.mkdir(exist_ok=True)
        path.write_text(CLAIM.replace("of a sample", about), encoding="utf-8")

    set_claim("first")
    toc = project.root / "_toc.yml"
    before = toc.read_text(encoding="utf-8")
    toc.write_text(before + "- file: notebooks/02_reader\n", encoding="utf-8")
    project.write(VALUE_CELL)
    reader = cell(f"claims = lambda: open({str(path)!r}).read()\nprint(claims().split('section')[0])")
    (project.root / "notebooks" / "02_reader.md").write_text(HEADER + reader, encoding="utf-8")
    assert project.build(monkeypatch).returncode == 0
    page = project.html / "notebooks" / "02_reader.html"
    assert "about: first" in page.read_text(encoding="utf-8")
    assert "2 unchanged" in project.unchanged(monkeypatch)

    set_claim("second")
    done = project.build(monkeypatch)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 notebooks, 1 unchanged" in done.stdout
    assert "about: second" in page.read_text(encoding="utf-8")

    set_claim("third")
    plain = project.plain_build(monkeypatch)
    assert plain.returncode == 0, plain.stdout + plain.stderr
    assert "about: third" in page.read_text(encoding="utf-8")
    assert "01_sample: Executing notebook" not in (said := plain.stdout + plain.stderr)
    assert "Executing notebook" in said
    path.unlink()
    toc.write_text(before, encoding="utf-8")


@pytest.mark.parametrize("changed", ["src/tiny.py", "data/results/new.csv", "requirements.lock"])
def test_fingerprint_sees_a_change(project, changed):
    before = fingerprint(project.root)
    path = project.root / changed
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("# changed\n" + (path.read_text(encoding="utf-8") if path.exists() else ""), encoding="utf-8")
    assert fingerprint(project.root) != before


def test_fingerprint_ignores_leftovers(project):
    """What Python, editors and interrupted writings leave: a full disk must not make every notebook run again."""
    before = fingerprint(project.root)
    (claims := project.root / "data" / "paper" / "claims.yml").parent.mkdir(exist_ok=True)
    claims.write_text("- other", encoding="utf-8")
    for name in ("src/__pycache__", "src/tiny.egg-info"):
        (project.root / name).mkdir()
        (project.root / name / "leftover").write_text("x", encoding="utf-8")
    for name in (
        "data/results/.tables.csv.4711",
        "data/results/..tables.json.4711",
        "src/.tiny.py.swp",
        "src/tiny.py~",
    ):
        (project.root / name).parent.mkdir(exist_ok=True)
        (project.root / name).write_text("x", encoding="utf-8")
    (project.root / "src" / ".checkpoints").mkdir()
    (project.root / "src" / ".checkpoints" / "tiny.py").write_text("x", encoding="utf-8")
    assert fingerprint(project.root) == before
