"""What stands around a figure: number, legend, data, paper; and the part of plotly.js that draws it."""

from __future__ import annotations

import ast
import csv
import json
import re

import jupytext
import pytest
from plotly.offline import get_plotlyjs_version

from book_figures import address, caption, chapter
from build import code_cells, notebooks
from conftest import ROOT

BUNDLE = ROOT / "book" / "_static" / f"plotly-{get_plotlyjs_version()}.min.js"
DATA = re.compile(r'<script type="application/json">(.*?)</script>')
CHAPTER = "notebooks/07_task_1_logistic"  # a figure with a legend and a menu
PATIENCE = 60_000


def test_the_pages_draw_with_the_plotly_that_made_the_figures():
    """After another version was locked: `make plotly`."""
    assert [*BUNDLE.parent.glob("plotly*.js")] == [BUNDLE]
    assert f"plotly.js {get_plotlyjs_version()}" in BUNDLE.read_text(encoding="utf-8")[:200]
    assert BUNDLE.name in (BUNDLE.parent / "figures.js").read_text(encoding="utf-8")


def test_every_trace_of_the_book_is_in_the_bundle(built_book):
    there = set(re.findall(r"src/traces/(\w+)", (ROOT / "book" / "plotly.js").read_text(encoding="utf-8")))
    used = set()
    for page in built_book.rglob("*.html"):
        for figure in map(json.loads, DATA.findall(page.read_text(encoding="utf-8"))):
            used |= {trace.get("type", "scatter") for trace in figure["data"]}
            used |= {trace.get("type", "scatter") for frame in figure["frames"] for trace in frame["data"]}
    assert used == there


@pytest.mark.parametrize(
    ("layout", "alt", "shown"),
    [
        ({"title": {"text": "Loss <i>w</i>"}}, "A curve. It falls.", "Loss <i>w</i>"),
        ({"title": "Loss"}, "A curve. It falls.", "Loss"),
        ({}, "At 0.3 a < b holds. It falls.", "At 0.3 a &lt; b holds."),
        ({"title": {"x": 0.1}}, "One sentence", "One sentence"),
    ],
)
def test_caption_is_the_title_or_the_first_sentence(layout, alt, shown):
    assert caption(layout, alt) == shown


def untitled(code: str) -> list[str]:
    """The calls of figure(...) that name no title of their own, as source."""
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    made = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "figure"]
    return [ast.unparse(call) for call in made if "title" not in {keyword.arg for keyword in call.keywords}]


def test_a_figure_without_a_title_is_found():
    assert untitled('fg.figure("A curve.", title="It falls")\nfg.table(["a"])') == []
    bare = "fig = figures.figure('A curve.', (), yaxis_title='loss', **AXES)"
    assert untitled(f"def draw():\n    {bare}\n") == [bare.removeprefix("fig = ")]


@pytest.mark.parametrize("source", notebooks(ROOT), ids=lambda source: source.stem)
def test_every_figure_says_its_point(source):
    """Else its caption is the first sentence of the text alternative, which says what is drawn."""
    found = [call for cell in code_cells(jupytext.read(source)) for call in untitled(cell.source)]
    assert not found, "\n".join(found)


def test_every_figure_that_the_study_draws_says_its_point():
    found = [
        call for path in (ROOT / "src" / "study").rglob("*.py") for call in untitled(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def test_numbers_and_addresses():
    assert [chapter(f"notebooks/{n}") for n in ("07_task_1", "08c_sensitivity", "12_score")] == ["7.", "8c.", "12."]
    assert chapter("book/index") == ""
    assert address("Norm of <i>w</i><sub>1</sub> &amp; more, in six words or so") == "fig-norm-of-w1-more-in-six"


def test_figures_are_numbered_in_order_and_have_addresses_of_their_own(built_book):
    for source in notebooks(ROOT):
        name = source.relative_to(ROOT).with_suffix("").as_posix()
        page = (built_book / f"{name}.html").read_text(encoding="utf-8")
        numbers = re.findall(r'<a class="figure-number" href="#([^"]+)">Figure ([\w.]+)</a>', page)
        assert [n for _, n in numbers] == [f"{chapter(name)}{k}" for k in range(1, len(numbers) + 1)]
        assert len({a for a, _ in numbers}) == len(numbers)


@pytest.fixture(scope="module")
def page(chromium, site):
    page = chromium.new_page(viewport={"width": 1280, "height": 900}, reduced_motion="reduce", accept_downloads=True)
    page.goto(f"{site}{CHAPTER}.html")
    figure = page.query_selector(".plotly-figure:has(script)")
    figure.scroll_into_view_if_needed()
    page.wait_for_selector(".plotly-figure[data-drawn]", timeout=PATIENCE)
    yield page
    page.close()


SHOWN = "f => f.querySelector('.js-plotly-plot')._fullData.filter(t => t.visible === true).map(t => t.name)"


def with_menu(page):
    """A drawn figure with a menu and a legend of several entries."""
    for figure in page.query_selector_all(".plotly-figure"):
        figure.scroll_into_view_if_needed()
        page.wait_for_function("f => f.dataset.drawn", arg=figure, timeout=PATIENCE)
        if figure.query_selector("select") and len(figure.query_selector_all(".figure-legend button")) > 2:
            return figure
    raise AssertionError("no figure with a menu and a legend")


def test_a_legend_is_one_tab_stop_and_keeps_what_the_reader_chose(page):
    figure = with_menu(page)
    buttons = figure.query_selector_all(".figure-legend button")
    assert [b.get_attribute("tabindex") for b in buttons].count("0") == 1
    buttons[0].focus()
    page.keyboard.press("ArrowRight")
    name = page.evaluate("document.activeElement.textContent")
    assert name == buttons[1].text_content() and name in figure.evaluate(SHOWN)
    page.keyboard.press("Enter")
    page.wait_for_function("f => f.querySelectorAll('.figure-legend button')[1].ariaPressed === 'false'", arg=figure)
    assert name not in figure.evaluate(SHOWN)
    assert page.evaluate("document.activeElement.textContent") == name  # the focus stays
    menu = figure.query_selector("select")
    before = figure.evaluate("f => JSON.stringify([...f.querySelector('.js-plotly-plot')._fullData].map(t => t.y))")
    menu.select_option(index=1)
    page.wait_for_function(
        "([f, b]) => JSON.stringify([...f.querySelector('.js-plotly-plot')._fullData].map(t => t.y)) !== b || "
        "f.querySelector('select').selectedIndex === 1",
        arg=[figure, before],
    )
    page.wait_for_timeout(500)
    assert name not in figure.evaluate(SHOWN)


RANGES = "f => ['x', 'y'].flatMap(a => f.querySelector('.js-plotly-plot')._fullLayout[`${a}axis`].range)"


def test_a_zoom_can_be_undone(page):
    figure = with_menu(page)
    figure.scroll_into_view_if_needed()
    whole, button = figure.evaluate(RANGES), figure.query_selector(".figure-whole")
    box = figure.query_selector(".nsewdrag").bounding_box()
    assert not button.is_visible()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.7 * box["height"], steps=4)
    page.mouse.up()
    button.wait_for_element_state("visible")
    assert figure.evaluate(RANGES) != whole
    button.click()
    button.wait_for_element_state("hidden")
    assert figure.evaluate(RANGES) == pytest.approx(whole)


def test_the_data_of_a_figure_can_be_read_and_saved(page):
    figure = with_menu(page)
    figure.query_selector("summary").click()
    assert len(figure.query_selector_all(".figure-table tbody tr")) > 5
    assert figure.query_selector(".figure-alt").text_content() in figure.query_selector(".figure-behind").text_content()
    with page.expect_download() as download:
        figure.query_selector("text=CSV").click()
    with open(download.value.path(), encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    assert head[0] == "curve" and {len(row) for row in rows} == {4}
    assert {row[0] for row in rows} <= set(figure.evaluate(SHOWN))
    assert all(is_number(row[2]) for row in rows)
    with page.expect_download() as download:
        figure.query_selector("text=PNG").click()
    assert download.value.path().read_bytes()[:4] == b"\x89PNG"


def is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?(e[-+]?\d+)?", text) is not None


def test_paper_shows_every_figure_in_light_colours(chromium, site):
    """Also those that nobody has scrolled to, on a dark screen; afterwards the screen is dark again."""
    page = chromium.new_page(viewport={"width": 1280, "height": 900}, color_scheme="dark")
    page.goto(f"{site}{CHAPTER}.html")
    assert page.query_selector(".plotly-figure:not([data-drawn])")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    drawn = page.evaluate(
        """[...document.querySelectorAll('.plotly-figure')].map(f => [f.querySelectorAll('.mlayer path, .mlayer image').length,
             getComputedStyle(f.querySelector('.xtick text')).fill])"""
    )
    assert len(drawn) > 5
    for marks, colour in drawn:
        assert marks > 0 and max(map(int, re.findall(r"\d+", colour)[:3])) < 90, (marks, colour)
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.close()
