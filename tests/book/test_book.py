"""The built book in a real browser, its files, and the way it is built."""

from __future__ import annotations

import gzip
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag

import jupytext
import nbformat
import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup

import browser
from book_cache import fingerprint
from book_links import normalised
from build import notebooks, pages
from conftest import ROOT
from notebook_files import TITLE, set_up_cell
from publish import publish

PAGES = pages(ROOT / "_toc.yml")
NOTEBOOKS = [path.relative_to(ROOT).with_suffix("").as_posix() for path in notebooks(ROOT)]
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
WCAG = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}}
FIGURE = ".plotly-figure"

# --- pages in the browser ----------------------------------------------------------------------------------------------


class Visit:
    """A page in a window of its own, with what it complained about and what it asked others for."""

    def __init__(self, chromium, site: str, name: str, theme: str = "light", size: dict = WIDE):
        self.name, self.errors, self.foreign = name, [], []
        self.context = chromium.new_context(viewport=size, color_scheme=theme, reduced_motion="reduce")
        self.context.route(lambda url: not url.startswith(site), self._refuse)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("response", lambda r: r.status >= 400 and self.errors.append(f"{r.status} {r.url}"))
        self.page.goto(f"{site}{name}.html")

    def _refuse(self, route):
        self.foreign.append(route.request.url)
        route.abort()

    def draw_all(self) -> list:
        """Bring every figure to the screen; returns their elements once all are drawn."""
        for figure in self.page.query_selector_all(FIGURE):
            figure.scroll_into_view_if_needed()
        self.page.wait_for_function(f"!document.querySelector('{FIGURE}:not([data-drawn])')", timeout=20_000)
        self.page.wait_for_function("!window.MathJax?.startup || MathJax.startup.promise.then(() => true)")
        return self.page.query_selector_all(FIGURE)

    def close(self):
        self.context.close()


@pytest.fixture(scope="module", params=[(name, theme) for name in PAGES for theme in ("light", "dark")], ids="-".join)
def visit(request, chromium, site):
    name, theme = request.param
    visit = Visit(chromium, site, name, theme)
    visit.theme = theme
    visit.figures = visit.draw_all()
    yield visit
    visit.close()


@pytest.fixture
def opened(chromium, site):
    """Opens further pages; closes them after the test."""
    visits = []

    def open_page(name, *args, **kwargs) -> Visit:
        visits.append(Visit(chromium, site, name, *args, **kwargs))
        return visits[-1]

    yield open_page
    for visit in visits:
        visit.close()


def source(name: str) -> str:
    return (ROOT / f"{name}.md").read_text()


def test_page_is_quiet_and_asks_nobody_else(visit):
    visit.page.wait_for_load_state("networkidle")
    assert visit.errors == []
    assert visit.foreign == []
    assert visit.page.evaluate("document.documentElement.dataset.theme") == visit.theme


def test_every_figure_drew_what_its_data_say(visit):
    for figure in visit.figures:
        given = json.loads(figure.query_selector("script").text_content())
        drawn = figure.query_selector(".js-plotly-plot").evaluate(
            """plot => ({traces: plot._fullData.length, frames: (plot._transitionData._frames ?? []).length,
                         marks: plot.querySelectorAll('.mlayer path, .mlayer image, .slice, canvas').length})"""
        )
        assert drawn["traces"] == len(given["data"]) > 0
        assert drawn["frames"] == len(given["frames"])
        assert drawn["marks"] > 0
        box = figure.query_selector(".main-svg").bounding_box()
        assert box["width"] > 250 and box["height"] > 100


def test_every_figure_has_words(visit):
    for figure in visit.figures:
        caption = figure.query_selector(f"#{figure.get_attribute('aria-labelledby')} .figure-alt")
        assert len(caption.text_content().strip()) > 20
        assert figure.query_selector(".figure-plot").get_attribute("aria-hidden") == "true"
        ids = figure.evaluate("f => [...f.querySelectorAll('[id]')].map(e => e.id)")
        page_ids = visit.page.evaluate("[...document.querySelectorAll('figure [id]')].map(e => e.id)")
        assert all(page_ids.count(i) == 1 for i in ids if i.startswith("figure-"))


CONTRAST = """figure => {
  const numbers = colour => { const c = document.createElement('canvas').getContext('2d');
    c.fillStyle = colour; c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data].slice(0, 3); };
  const luminance = colour => numbers(colour).map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const page = luminance(getComputedStyle(document.body).backgroundColor);
  return [...figure.querySelectorAll('.xtick text, .ytick text, .xtitle, .ytitle, .legendtext, .annotation-text')].map(text => {
    const own = luminance(getComputedStyle(text).fill);
    return [text.textContent, (Math.max(own, page) + 0.05) / (Math.min(own, page) + 0.05)]; });
}"""


def test_figure_text_is_readable_in_the_theme(visit):
    for figure in visit.figures:
        pale = [text for text, ratio in figure.evaluate(CONTRAST) if ratio < 4.5]
        assert pale == []


def test_page_is_accessible(visit):
    found = Axe().run(visit.page, options=WCAG).response["violations"]
    report = [f"{v['id']}: {v['help']}: {[node['html'][:200] for node in v['nodes']]}" for v in found]
    assert report == []


def test_equations_carry_the_papers_numbers(visit):
    tags = [tag.strip("$").replace(r"\star", "⋆") for tag in re.findall(r"\\tag\{([^}]+)\}", source(visit.name))]
    shown = visit.page.evaluate("[...document.querySelectorAll('mjx-assistive-mml')].map(m => m.textContent).join(' ')")
    assert [tag for tag in tags if f"({tag})" not in shown] == []
    assert visit.page.query_selector("mjx-merror, [data-mjx-error]") is None


SNAPSHOT = """plot => JSON.stringify([plot._fullData.map(t => [t.x, t.y, t.z, t.visible, t.text, t.marker, t.line, t.fillcolor]),
  plot.layout.shapes, plot.layout.annotations, plot.layout.xaxis?.type, plot.layout.yaxis?.type, plot.layout.xaxis?.range,
  plot.layout.yaxis?.range, plot.layout.title, plot.layout.xaxis?.title, plot.layout.yaxis?.title])"""

# Where the points of a figure are on the screen: a few of each trace that says something when pointed at.
POINTS = """plot => plot._fullData.filter(t => t.visible === true && t.hoverinfo !== 'skip' && t.xaxis).flatMap(t => {
  const xa = plot._fullLayout[t.xaxis.replace('x', 'xaxis')], ya = plot._fullLayout[t.yaxis.replace('y', 'yaxis')];
  const box = plot.getBoundingClientRect();
  if (t.z) return [[box.x + xa._offset + xa._length / 3, box.y + ya._offset + ya._length / 3]];
  const n = Math.max(t.x?.length ?? 0, t.y?.length ?? 0), at = (values, i) => values?.length ? values[i % values.length] : i;
  return [0.5, 0.25, 0.75, 0, 1].map(f => Math.min(n - 1, Math.floor(f * n)))
    .map(i => [box.x + xa._offset + xa.d2p(at(t.x, i)), box.y + ya._offset + ya.d2p(at(t.y, i))])
    .filter(([x, y]) => x >= box.x + xa._offset && x <= box.x + xa._offset + xa._length
                     && y >= box.y + ya._offset && y <= box.y + ya._offset + ya._length);
})"""


def changes(page, plot, act) -> bool:
    """Does the drawing change when `act` is done?"""
    before = plot.evaluate(SNAPSHOT)
    act()
    for _ in range(40):
        if plot.evaluate(SNAPSHOT) != before:
            return True
        page.wait_for_timeout(50)
    return False


def test_every_figure_answers(opened, subtests):
    for name in PAGES:
        visit = opened(name)
        for number, figure in enumerate(visit.draw_all()):
            with subtests.test(page=name, figure=number):
                figure.scroll_into_view_if_needed()
                plot, controls = figure.query_selector(".js-plotly-plot"), False
                for slider in figure.query_selector_all("input[type=range]"):
                    controls = True
                    assert slider.evaluate("s => s.labels[0].textContent.trim().length > 0")
                    key = "End" if slider.input_value() != slider.get_attribute("max") else "Home"
                    assert changes(visit.page, plot, lambda s=slider, k=key: s.press(k)), "the slider does nothing"
                    shown = slider.evaluate("s => s.parentElement.querySelector('output').textContent")
                    assert slider.get_attribute("aria-valuetext") == shown != ""
                for menu in figure.query_selector_all("select"):
                    controls = True
                    assert menu.evaluate("s => s.labels[0].textContent.trim().length > 0")
                    size = menu.evaluate("s => s.options.length")
                    other = (menu.evaluate("s => s.selectedIndex") + size - 1) % size
                    act = lambda m=menu, o=other: m.select_option(index=o)  # noqa: E731
                    assert changes(visit.page, plot, act), "the menu does nothing"
                if not controls:
                    points = plot.evaluate(POINTS)
                    assert any(hovers(visit.page, plot, *point) for point in points), "no label under the mouse"
        assert visit.errors == []
        visit.close()


def hovers(page, plot, x: float, y: float) -> bool:
    page.mouse.move(5, 5)
    page.mouse.move(x - 2, y)
    page.mouse.move(x, y)
    for _ in range(10):
        if plot.query_selector(".hoverlayer .hovertext, .hoverlayer .legend"):
            return True
        page.wait_for_timeout(50)
    return False


def test_play_runs_only_when_asked_and_can_be_paused(opened):
    for name in PAGES:
        visit = opened(name)
        visit.draw_all()
        slider = visit.page.query_selector(f"{FIGURE} input[type=range]")
        if slider is None:
            continue
        start = slider.input_value()
        visit.page.wait_for_timeout(300)
        assert slider.input_value() == start, "motion must not start by itself"
        play = slider.evaluate_handle("s => s.parentElement.querySelector('button')").as_element()
        slider.press("Home")
        play.focus()
        visit.page.keyboard.press("Enter")
        visit.page.wait_for_function("s => Number(s.value) >= 2", arg=slider, timeout=10_000)
        assert play.text_content() == "Pause"
        play.click()
        assert play.text_content() == "Play"
        visit.page.wait_for_timeout(200)  # a step that was under way may still end
        stopped = slider.input_value()
        visit.page.wait_for_timeout(500)
        assert slider.input_value() == stopped
        return
    pytest.fail("no figure of the book has a slider")


def test_figures_follow_the_theme_switch(opened):
    for name in PAGES:
        visit = opened(name)
        if figures := visit.draw_all():
            for theme in ("dark", "light"):
                visit.page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
                visit.page.wait_for_timeout(700)
                assert [t for t, ratio in figures[0].evaluate(CONTRAST) if ratio < 4.5] == []
            assert visit.errors == []
            return
    pytest.fail("the book has no figure")


@pytest.mark.parametrize("name", PAGES)
def test_narrow_screen_does_not_scroll_sideways(opened, name):
    visit = opened(name, size=NARROW)
    figures = visit.draw_all()
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
    for figure in figures:
        assert figure.query_selector(".main-svg").bounding_box()["width"] <= figure.bounding_box()["width"] + 1
    assert visit.errors == []


@pytest.mark.parametrize("name", PAGES)
def test_first_figure_is_drawn_within_two_seconds(built_book, site, chromium, tmp_path, name):
    """Opened as a reader does, without the developer tools that playwright attaches: they double the time."""
    figure = BeautifulSoup((built_book / f"{name}.html").read_text(), "html.parser").select_one(FIGURE)
    if figure is None:
        return
    address, times = f"{site}{name}.html#{figure['aria-labelledby']}", []
    for attempt in range(4):  # the machine may be busy with something else: the best of four
        folder = tmp_path / str(attempt)
        command = [
            chromium.path,
            "--headless",
            f"--user-data-dir={folder}",
            *browser.FLAGS,
            "--dump-dom",
            address,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        times += [int(t) for t in re.findall(r'data-drawn="(\d+)"', done.stdout)[:1]]
        if times and min(times) < 2000:
            return
    pytest.fail(f"drawn after {times} ms")


def test_search_finds_a_page_by_its_title(opened):
    title = re.search(r"^# (.+)$", source(NOTEBOOKS[0]), re.M)[1]
    word = max(re.findall(r"[A-Za-z]+", title), key=len)
    visit = opened(f"search.html?q={word}#")
    visit.page.wait_for_selector(f"#search-results li a[href*='{NOTEBOOKS[0]}']")


# --- files of the book -------------------------------------------------------------------------------------------------


def parsed(built_book: Path) -> dict[Path, BeautifulSoup]:
    files = [p for p in built_book.rglob("*.html") if "_static" not in p.parts]
    return {path: BeautifulSoup(path.read_text(), "html.parser") for path in files}


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
            file = (path.parent / unquote(target.split("?")[0])).resolve() if target.split("?")[0] else path
            if not file.exists() or (anchor and file in anchors and unquote(anchor) not in anchors[file]):
                broken.append(f"{path.relative_to(built_book)} -> {link}")
    assert len(soups) >= len(PAGES)
    assert broken == []


@pytest.mark.parametrize("name", PAGES)
def test_page_is_light(built_book, name):
    assert len(gzip.compress((built_book / f"{name}.html").read_bytes(), 6)) < 300_000


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_can_be_downloaded(built_book, name):
    path = built_book / f"{name}.html"
    links = [a["href"] for a in BeautifulSoup(path.read_text(), "html.parser").find_all("a", href=True)]
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
    assert proofs == ["05_proof_walkthrough", "05b_corrected_theorem", "10_bamsprod_theory"]

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
        (root / "book" / "index.md").write_text("# A small book\n")
        (root / "_toc.yml").write_text("format: jb-book\nroot: book/index\nchapters:\n- file: notebooks/01_sample\n")
        self.set_value(1)
        self.write(VALUE_CELL + FIGURE_CELL)

    def set_value(self, value: int):
        (self.root / "src" / "tiny.py").write_text(f"VALUE = {value}\n")

    def write(self, cells: str):
        (self.root / "notebooks" / "01_sample.md").write_text(HEADER + cells)

    def run(self, command: list[str], monkeypatch, url: str = "") -> subprocess.CompletedProcess:
        monkeypatch.setenv("BOOK_REPOSITORY_URL", url)
        return subprocess.run([sys.executable, *command], cwd=self.root, capture_output=True, text=True)

    def build(self, monkeypatch, url: str = ""):
        return self.run([str(ROOT / "book" / "build.py"), "--root", str(self.root)], monkeypatch, url)

    def plain_build(self, monkeypatch):
        """What a reader gets who knows Jupyter Book only."""
        return self.run(["-c", "from jupyter_book.cli.main import main; main()", "build", "."], monkeypatch)

    def page(self) -> str:
        return (self.html / "notebooks" / "01_sample.html").read_text()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return Project(tmp_path_factory.mktemp("project"))


def test_book_is_never_stale(project, monkeypatch):
    done = project.build(monkeypatch)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "value 1" in project.page()
    plain = project.plain_build(monkeypatch)  # finds what papermill executed
    assert plain.returncode == 0 and "Executing notebook" not in plain.stdout + plain.stderr
    assert "1 unchanged" in project.build(monkeypatch).stdout

    project.set_value(2)
    assert project.build(monkeypatch).returncode == 0
    assert "value 2" in project.page()
    project.set_value(3)
    assert project.plain_build(monkeypatch).returncode == 0
    assert "value 3" in project.page()
    assert len(list((project.root / "_build" / ".jupyter_cache").iterdir())) == 1, "old caches stay"


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
    assert "ZeroDivisionError" in (project.root / "_build" / "notebooks" / "01_sample.log").read_text()
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
    path.write_text(CLAIM)
    project.write("(sample)=\n## Evidence\n\nNothing to see.\n")
    done = project.build(monkeypatch)
    assert done.returncode != 0
    assert "rows a name this page as their evidence" in done.stdout + done.stderr
    project.write("(sample)=\n## Evidence\n\n:::{claims}\n:prefix: sam\n:::\n\n:::{claims}\n:::\n")
    done = project.build(monkeypatch)
    assert done.returncode == 0, done.stdout + done.stderr
    path.write_text(CLAIM.replace("about: of a sample", "about: '`code`'"))
    assert "plain words" in project.build(monkeypatch).stderr
    path.unlink()


def test_claims_run_the_notebooks_again_that_read_them_and_no_others(project, monkeypatch):
    path = project.root / "data" / "paper" / "claims.yml"

    def set_claim(about: str):
        path.parent.mkdir(exist_ok=True)
        path.write_text(CLAIM.replace("of a sample", about))

    set_claim("first")
    toc = project.root / "_toc.yml"
    before = toc.read_text()
    toc.write_text(before + "- file: notebooks/02_reader\n")
    project.write(VALUE_CELL)
    reader = cell(f"claims = lambda: open({str(path)!r}).read()\nprint(claims().split('section')[0])")
    (project.root / "notebooks" / "02_reader.md").write_text(HEADER + reader)
    assert project.build(monkeypatch).returncode == 0
    page = project.html / "notebooks" / "02_reader.html"
    assert "about: first" in page.read_text()
    assert "2 unchanged" in project.build(monkeypatch).stdout

    set_claim("second")
    done = project.build(monkeypatch)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 notebooks, 1 unchanged" in done.stdout
    assert "about: second" in page.read_text()

    set_claim("third")
    plain = project.plain_build(monkeypatch)
    assert plain.returncode == 0, plain.stdout + plain.stderr
    assert "about: third" in page.read_text()
    assert "01_sample: Executing notebook" not in (said := plain.stdout + plain.stderr)
    assert "Executing notebook" in said
    path.unlink()
    toc.write_text(before)


@pytest.mark.parametrize("changed", ["src/tiny.py", "data/results/new.csv", "requirements.lock"])
def test_fingerprint_sees_a_change(project, changed):
    before = fingerprint(project.root)
    path = project.root / changed
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("# changed\n" + (path.read_text() if path.exists() else ""))
    assert fingerprint(project.root) != before


def test_fingerprint_ignores_leftovers(project):
    before = fingerprint(project.root)
    (claims := project.root / "data" / "paper" / "claims.yml").parent.mkdir(exist_ok=True)
    claims.write_text("- other")
    for name in ("src/__pycache__", "src/tiny.egg-info"):
        (project.root / name).mkdir()
        (project.root / name / "leftover").write_text("x")
    assert fingerprint(project.root) == before
