"""The live figure of the constraints (book/_static/constraint.js): its maths against the package, its controls in a browser."""

from __future__ import annotations

import json
import random

import plotly.graph_objects as go
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe

from book_figures import placeholder
from conftest import ROOT
from quantized_training import PHI, PSI, Levels
from study import figures

STATIC = ROOT / "book" / "_static"
CONSTRAINTS = {"psi": PSI, "phi": PHI}


def draw_levels(rng: random.Random) -> Levels:
    gaps = [rng.uniform(0.05, 3) for _ in range(rng.randint(1, 6))]
    start = rng.uniform(-4, 4)
    return Levels(tuple(start + sum(gaps[:i]) for i in range(len(gaps) + 1)))


def live_figure() -> go.Figure:
    """Three empty traces: everything that is drawn comes from the browser."""
    traces = [go.Scatter(x=[0, 1], y=[0, 1]) for _ in range(3)]
    fig = figures.figure("A live figure of the constraint, for the tests", traces, title="Live")
    fig.layout.meta = {
        **fig.layout.meta,
        "live": {"kind": "constraint", "levels": [1, 3, 4, 7], "epsilon": 0.03, "constraint": "psi"},
    }
    return fig


@pytest.fixture(scope="module")
def page(chromium, tmp_path_factory):
    """A page with one live figure, drawn by the book's own scripts, without the rest of the book."""
    html = placeholder(json.loads(live_figure().to_json()), "A live figure of the constraint")
    scripts = "".join(
        f'<script src="{file.as_uri()}"></script>' for file in (STATIC / "constraint.js", STATIC / "figures.js")
    )
    style = f'<link rel="stylesheet" href="{(STATIC / "custom.css").as_uri()}">'
    file = tmp_path_factory.mktemp("live") / "live.html"
    file.write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>t</title>{style}{scripts}</head><body><main>{html}</main></body></html>',
        encoding="utf-8",
    )
    page = chromium.new_page(viewport={"width": 900, "height": 900})
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.goto(file.as_uri())
    page.wait_for_selector(".plotly-figure[data-drawn]")
    yield page
    assert page.faults == []
    page.close()


def test_a_title_keeps_its_formats_and_all_else_is_words():
    title = 'λ<sub>1</sub> < <i>x</i> &lt; 2 & <script>stop()</script><img src="x">'
    html = placeholder({"data": [], "layout": {"title": {"text": title}}}, "Words")
    shown = "λ<sub>1</sub> &lt; <i>x</i> &lt; 2 &amp; &lt;script&gt;stop()&lt;/script&gt;&lt;img src=&quot;x&quot;&gt;"
    assert f'<b class="figure-title">{shown}</b>' in html


@pytest.fixture
def figure(page):
    """The drawn figure with its controls in their first state."""
    page.reload()
    page.wait_for_selector(".plotly-figure[data-drawn]")
    return Live(page)


class Live:
    def __init__(self, page):
        self.page = page
        self.text = page.get_by_label("Levels", exact=True)
        self.range = page.get_by_role("slider", name="Tolerance")
        self.select = page.get_by_label("Constraint", exact=True)
        self.error = page.locator(".figure-error")
        self.answer = page.locator(".figure-answer")

    def settle(self):
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def drawn(self) -> list[dict]:
        self.settle()
        return self.page.evaluate(
            "document.querySelector('.js-plotly-plot').data.map(({x, y}) => ({x: [...x], y: [...y]}))"
        )

    def edges(self) -> list[float]:
        return self.drawn()[2]["x"]


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_values_caps_and_intervals_are_those_of_the_package(page, name):
    rng = random.Random(0)
    constraint, cases = CONSTRAINTS[name], []
    for _ in range(60):
        levels = draw_levels(rng)
        eps = constraint.largest_epsilon(levels) * rng.uniform(1e-4, 0.999)
        points = [rng.uniform(levels.hull[0] - 2, levels.hull[1] + 2) for _ in range(30)]
        cases.append((levels, eps, points + list(levels.values) + list(levels.midpoints)))
    answers = page.evaluate(
        """([name, cases]) => cases.map(([levels, eps, points]) => {
             const { CONSTRAINTS, cap, feasibleIntervals } = window.quantizedTraining;
             return [points.map(w => CONSTRAINTS[name].value(w, levels, eps)), cap(name, levels), feasibleIntervals(name, levels, eps)];
           })""",
        [name, [(levels.values, eps, points) for levels, eps, points in cases]],
    )
    for (levels, eps, points), (values, cap, intervals) in zip(cases, answers, strict=True):
        expected = constraint.value(torch.tensor(points, dtype=torch.float64), levels, eps).tolist()
        assert values == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert cap == pytest.approx(constraint.largest_epsilon(levels), rel=1e-12)
        flat = [edge for interval in constraint.feasible_intervals(levels, eps) for edge in interval]
        assert [edge for interval in intervals for edge in interval] == pytest.approx(flat, rel=1e-12)


def test_merged_intervals_are_those_of_the_package(page):
    found = page.evaluate("window.quantizedTraining.feasibleIntervals('phi', [0, 1, 4], 0.5)")
    assert [tuple(i) for i in found] == [pytest.approx(i) for i in PHI.feasible_intervals(Levels((0, 1, 4)), 0.5)]


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("1, 3, 4, 7", [1, 3, 4, 7]),
        (" 7 3;1,4 ", [1, 3, 4, 7]),
        ("{-1, 1}", [-1, 1]),
        ("−1 0.5 1e1 0.5", [-1, 0.5, 10]),
    ],
)
def test_levels_are_read(page, text, levels):
    assert page.evaluate("text => window.quantizedTraining.parseLevels(text)", text) == {"levels": levels}


BAD = {
    "": "at least two different numbers",
    "3": "at least two different numbers",
    "2, 2, 2": "at least two different numbers",
    "1, two": "“two” is not a finite number",
    "1, Infinity": "“Infinity” is not a finite number",
    "NaN 1": "“NaN” is not a finite number",
    "0, 1e7": "between -1000000 and 1000000",
    "0, 0.0001": "closer than 0.001",
    ",".join(map(str, range(40))): "at most 32",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_levels_say_what_is_wrong_and_keep_the_drawing(figure, text):
    figure.text.fill("-1, 0, 2")
    good = figure.drawn()
    figure.text.fill(text)
    assert BAD[text] in figure.error.text_content()
    assert figure.text.get_attribute("aria-invalid") == "true"
    assert figure.text.get_attribute("aria-describedby") == figure.error.get_attribute("id")
    assert figure.drawn() == good
    figure.text.fill("-1, 0, 3")
    assert figure.error.text_content() == "" and figure.text.get_attribute("aria-invalid") == "false"
    assert figure.drawn() != good


def test_the_first_state_is_figure_1(figure):
    assert [round(x, 4) for x in figure.edges()] == [0.8268, 1.0907, 2.9093, 3.2229, 3.7771, 4.0589, 6.9411, 7.1732]
    assert (
        figure.answer.text_content()
        == "Feasible: 0.8268 to 1.0907; 2.9093 to 3.2229; 3.7771 to 4.0589; 6.9411 to 7.1732"
    )
    assert figure.answer.get_attribute("aria-live") == "polite"


def test_typed_levels_are_drawn_at_the_same_share_of_the_cap(figure):
    figure.text.fill("-1, 1")
    expected = PSI.feasible_intervals(Levels.binary(), 0.48)
    assert figure.edges() == pytest.approx([edge for interval in expected for edge in interval])
    curve = figure.drawn()[1]
    at = torch.tensor(curve["x"], dtype=torch.float64)
    assert curve["y"] == pytest.approx(PSI.value(at, Levels.binary(), 0.48).tolist(), abs=1e-12)


def test_range_and_select_answer(figure):
    first = figure.edges()
    figure.range.press("End")
    figure.settle()
    wide = figure.edges()
    assert wide[0] < first[0] and wide[-1] > first[-1]
    words = figure.range.get_attribute("aria-valuetext")
    assert words == "0.06219 of at most 0.0625" == figure.range.locator("xpath=../output").text_content()
    curve = figure.drawn()[1]["y"]
    figure.select.select_option("phi")
    assert figure.edges() == pytest.approx(wide)  # the same feasible set, another function
    assert figure.drawn()[1]["y"] != curve
    assert figure.range.get_attribute("aria-valuetext") == "0.2494 of at most 0.25"


def test_controls_are_labelled_and_pass_axe(figure):
    for control in (figure.text, figure.range, figure.select):
        assert control.evaluate("c => c.labels[0].textContent.trim().length > 3")
    found = Axe().run(figure.page, context=".figure-controls").response["violations"]
    assert [v["id"] for v in found] == []
