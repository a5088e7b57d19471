"""The built book in a real browser.

Loading and drawing a page takes most of the time, so that each is opened twice for all its tests: light on a wide
screen, and dark on a narrow one that is widened after the narrow page was looked at.
"""

from __future__ import annotations

import gzip
import json
import re

import pytest
from axe_playwright_python.sync_playwright import Axe

from build import notebooks, pages
from conftest import ROOT

PAGES = pages(ROOT / "_toc.yml")
FIRST_NOTEBOOK = notebooks(ROOT)[0].relative_to(ROOT).with_suffix("").as_posix()
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
ZOOMED, TABLET = {"width": 640, "height": 450}, {"width": 768, "height": 1024}  # a wide screen at 200 %; a tablet
CUT = (ROOT / "book" / "cut.js").read_text(encoding="utf-8").split("*/", 1)[1]
# What passes is not described, which takes a third of the time. Only an experimental rule, which does not run, needs the
# style sheets that axe would load again, from wrong addresses.
WCAG = {
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]},
    "resultTypes": ["violations"],
    "preload": False,
}
FIGURE = ".plotly-figure"
PATIENCE = 60_000  # milliseconds after which something is said not to happen, also on a busy machine

#: Notes what there was when the first figure had been drawn.
FIRST = """new MutationObserver((_, observer) => {
  const drawn = [...document.querySelectorAll('.plotly-figure[data-drawn]')];
  if (!drawn.length) return;
  observer.disconnect();
  window.firstDrawn = { names: drawn.map(f => f.id), time: Number(drawn[0].dataset.drawn),
                        maths: document.querySelectorAll('mjx-container').length };
}).observe(document, { subtree: true, childList: true, attributeFilter: ['data-drawn'] })"""


class Visit:
    """A page in a window of its own, with what it complained about and what it asked others for."""

    def __init__(self, chromium, site: str, name: str, theme: str = "light", size: dict = WIDE):
        self.name, self.theme, self.errors, self.foreign = name, theme, [], []
        self.context = chromium.new_context(viewport=size, color_scheme=theme, reduced_motion="reduce")
        self.context.route(lambda url: not url.startswith(site), self._refuse)
        self.context.add_init_script(FIRST)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("response", lambda r: r.status >= 400 and self.errors.append(f"{r.status} {r.url}"))
        self.page.goto(f"{site}{name}")

    def _refuse(self, route):
        self.foreign.append(route.request.url)
        route.abort()

    def draw_all(self) -> list:
        """Bring every figure to the screen; returns their elements once all are drawn."""
        for figure in self.page.query_selector_all(FIGURE):
            figure.scroll_into_view_if_needed()
        self.page.wait_for_function(f"!document.querySelector('{FIGURE}:not([data-drawn])')", timeout=PATIENCE)
        self.page.wait_for_function(
            "!window.MathJax?.startup || MathJax.startup.promise.then(() => true)", timeout=PATIENCE
        )
        return self.page.query_selector_all(FIGURE)

    def resize(self, size: dict) -> list:
        """Change the window; returns what is cut when everything has been fitted to it."""
        self.page.set_viewport_size(size)
        self.page.wait_for_function(FITTED, timeout=PATIENCE)
        self.page.wait_for_function(FILLED, timeout=PATIENCE)
        return self.page.evaluate(CUT)

    def close(self):
        self.context.close()


WIDTHS = """[document.documentElement.scrollWidth, [...document.querySelectorAll('.plotly-figure')].map(figure =>
  [figure.querySelector('.main-svg').getBoundingClientRect().width, figure.getBoundingClientRect().width])]"""
FITTED = "Number(document.documentElement.dataset.fitted) === document.querySelector('.bd-article').clientWidth"
FILLED = """() => [...document.querySelectorAll('.plotly-figure')].every(figure =>
  figure.querySelector('.main-svg').clientWidth > 0.9 * figure.querySelector('.figure-plot').clientWidth)"""


@pytest.fixture(scope="module", params=[(name, theme) for name in PAGES for theme in ("light", "dark")], ids="-".join)
def visit(request, chromium, site, built_book):
    name, theme = request.param
    first = re.search(
        r'class="plotly-figure" id="([^"]+)"',
        (built_book / f"{name}.html").read_text(encoding="utf-8"),
    )
    address = f"{name}.html#{first[1]}" if first else f"{name}.html"
    visit = Visit(chromium, site, address, theme, WIDE if theme == "light" else NARROW)
    visit.name, visit.first = name, first and first[1]
    visit.figures = visit.draw_all()
    if theme == "dark":
        visit.cut = {390: visit.resize(NARROW)}
        visit.narrow = visit.page.evaluate(WIDTHS)
        visit.cut |= {size["width"]: visit.resize(size) for size in (ZOOMED, TABLET)}
        visit.resize(WIDE)
    else:
        visit.cut = {1280: visit.resize(WIDE)}
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
    return (ROOT / f"{name}.md").read_text(encoding="utf-8")


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
        caption = figure.query_selector(f"#{figure.get_attribute('aria-labelledby')}")
        assert len(caption.query_selector(".figure-alt").text_content().strip()) > 20
        number, title = (caption.query_selector(f".figure-{part}") for part in ("number", "title"))
        assert re.fullmatch(r"Figure (\d+[a-z]?\.)?\d+", number.inner_text()) and len(title.inner_text()) > 5
        assert number.get_attribute("href") == f"#{figure.get_attribute('id')}"
        assert figure.query_selector(".figure-plot").get_attribute("aria-hidden") == "true"
        ids = figure.evaluate("f => [...f.querySelectorAll('[id]')].map(e => e.id)")
        page_ids = visit.page.evaluate("[...document.querySelectorAll('figure [id]')].map(e => e.id)")
        assert all(page_ids.count(i) == 1 for i in ids if i.startswith("fig"))


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
    tags = [
        tag.strip("$").replace(r"\star", "⋆").replace(r"\triangle", "△")
        for tag in re.findall(r"\\tag\{([^}]+)\}", source(visit.name))
    ]
    shown = visit.page.evaluate("[...document.querySelectorAll('mjx-assistive-mml')].map(m => m.textContent).join(' ')")
    assert [tag for tag in tags if f"({tag})" not in shown] == []
    assert visit.page.query_selector("mjx-merror, [data-mjx-error]") is None


def test_the_figure_that_the_address_points_to_is_drawn_first(visit):
    """Before the others, and before the maths, which waits for it, though not longer than two seconds."""
    if visit.first:
        found = visit.page.evaluate("firstDrawn")
        assert found["names"] == [visit.first]
        assert found["maths"] == 0 or found["time"] > 2000


LOADED = """[performance.getEntriesByType('navigation'), performance.getEntriesByType('resource')].flat()
  .map(e => [e.name, e.encodedBodySize, e.renderBlockingStatus === 'blocking'])"""


def test_little_is_loaded_before_the_first_figure(visit):
    """In bytes and requests, which no clock changes; `make look` tells the seconds. The server does not compress."""
    loaded = visit.page.evaluate(LOADED)
    (_, page, _), *others = loaded
    assert page < 1_200_000 and len(others) <= 45
    assert sum(size for _, size, _ in others) < (5_400_000 if visit.figures else 3_300_000)
    blocking = [size for _, size, blocks in others if blocks]
    assert 0 < len(blocking) <= 28 and sum(blocking) < 950_000
    assert sum("plotly" in name for name, *_ in others) == bool(visit.figures)


def test_formulas_are_typeset_in_pieces_and_only_where_there_are_any(visit):
    formulas = visit.page.locator(".bd-article .math").count()
    scripts = {name.rsplit("/", 1)[-1]: size for name, size, _ in visit.page.evaluate(LOADED) if "/mathjax/" in name}
    scripts = {name.split("?")[0]: size for name, size in scripts.items() if ".js" in name}
    assert bool(scripts) == bool(formulas)
    if formulas:
        assert {"startup.js", "core.js", "tex.js", "chtml.js", "assistive-mml.js"} <= set(scripts)
        assert max(scripts.values()) < 250_000  # a script is read in one go
        assert visit.page.locator(".bd-article .math:not(:has(mjx-container))").count() == 0


def test_the_landing_page_is_light(opened, built_book):
    """What it loads, compressed as servers do."""
    visit = opened("book/index.html")
    visit.page.wait_for_selector(".trainer[data-ready]", timeout=PATIENCE)
    visit.page.wait_for_load_state("networkidle")
    total = 0
    for name, *_ in visit.page.evaluate(LOADED):
        content = (built_book / re.sub(r"^https?://[^/]+/|[?#].*$", "", name)).read_bytes()
        total += len(content) if name.endswith(".woff2") else len(gzip.compress(content, 9))
    assert 100_000 < total < 600_000


def test_plotly_comes_with_the_first_figure_that_is_near(opened):
    visit = opened("notebooks/05b_corrected_theorem.html", size=NARROW)
    visit.page.wait_for_function(FITTED, timeout=PATIENCE)
    loaded = "performance.getEntriesByType('resource').some(({ name }) => name.includes('plotly'))"
    assert visit.page.locator(FIGURE).first.bounding_box()["y"] > 1.8 * NARROW["height"]
    assert not visit.page.evaluate(loaded)
    visit.page.locator(FIGURE).first.scroll_into_view_if_needed()
    visit.page.wait_for_selector(f"{FIGURE}[data-drawn]", timeout=PATIENCE)
    assert visit.page.evaluate(loaded)


def test_narrow_screen_does_not_scroll_sideways(visit):
    if visit.theme == "dark":  # it was opened on a narrow screen
        width, figures = visit.narrow
        assert width <= NARROW["width"] and len(figures) == len(visit.figures)
        assert all(plot <= figure + 1 for plot, figure in figures)


def test_nothing_is_cut(visit):
    """Every element at 1280, 768 and 390 pixels and at a zoom of 200 %: book/cut.js."""
    assert visit.cut == {width: [] for width in visit.cut}


def test_figures_follow_the_theme_switch(visit):
    if visit.theme == "light" and visit.figures:
        for theme in ("dark", "light"):
            visit.page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
            for _ in range(PATIENCE // 50):
                if not (pale := [t for t, ratio in visit.figures[0].evaluate(CONTRAST) if ratio < 4.5]):
                    break
                visit.page.wait_for_timeout(50)
            assert pale == []
        assert visit.errors == []


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
    for _ in range(PATIENCE // 50):
        if plot.evaluate(SNAPSHOT) != before:
            return True
        page.wait_for_timeout(50)
    return False


def hovers(page, plot, x: float, y: float, patience: int) -> bool:
    """Is there a label `patience` milliseconds after the mouse has come?"""
    page.mouse.move(5, 5)
    page.mouse.move(x - 2, y)
    page.mouse.move(x, y)
    for _ in range(patience // 50):
        if plot.query_selector(".hoverlayer .hovertext, .hoverlayer .legend"):
            return True
        page.wait_for_timeout(50)
    return False


def test_every_figure_answers(visit, subtests):
    """Its sliders, its menus, or the mouse; the last test of a page, which it leaves changed."""
    if visit.theme == "dark":
        return
    for number, figure in enumerate(visit.figures):
        with subtests.test(figure=number):
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
                tries = [(point, patience) for patience in (500, 5000) for point in points]
                assert any(hovers(visit.page, plot, *point, patience) for point, patience in tries), "no label"
    assert visit.errors == []


def test_play_runs_only_when_asked_and_can_be_paused(opened, built_book):
    name = next(name for name in PAGES if '"frames":[{' in (built_book / f"{name}.html").read_text(encoding="utf-8"))
    visit = opened(f"{name}.html")
    visit.draw_all()
    slider = visit.page.query_selector(f"{FIGURE} input[type=range]")
    start = slider.input_value()
    visit.page.wait_for_timeout(300)
    assert slider.input_value() == start, "motion must not start by itself"
    play = slider.evaluate_handle("s => s.parentElement.querySelector('button:not(.nudge)')").as_element()
    slider.press("Home")
    play.focus()
    visit.page.keyboard.press("Enter")
    visit.page.wait_for_function("s => Number(s.value) >= 2", arg=slider, timeout=PATIENCE)
    assert play.text_content() == "Pause"
    play.click()
    assert play.text_content() == "Play"
    visit.page.wait_for_timeout(200)  # a step that was under way may still end
    stopped = slider.input_value()
    visit.page.wait_for_timeout(500)
    assert slider.input_value() == stopped
    visit.page.set_viewport_size(NARROW)  # with buttons for fingers
    for word, value in (("more", int(stopped) + 1), ("less", int(stopped))):
        slider.evaluate_handle("s => s.parentElement").as_element().query_selector(f"[aria-label$={word}]").click()
        assert int(slider.input_value()) == value


def test_search_finds_a_page_by_its_title(opened):
    title = re.search(r"^# (.+)$", source(FIRST_NOTEBOOK), re.M)[1]
    word = max(re.findall(r"[A-Za-z]+", title), key=len)
    visit = opened(f"search.html?q={word}")
    visit.page.wait_for_selector(f"#search-results li a[href*='{FIRST_NOTEBOOK}']")
