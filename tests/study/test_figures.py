"""The plotly vocabulary: rounding, styles, sliders and menus as the book's browser side expects them, tables."""

import json
import re

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from study import figures as fg
from study.statistics import summarise


def test_rounding_keeps_the_significant_digits_and_the_shape():
    assert fg.rounded([[1.23456, 0.0], [-1.23456e-9, 98765.4]]) == [[1.235, 0.0], [-1.235e-09, 98770.0]]
    assert fg.rounded(torch.tensor([0.123456]), 2) == [0.12]
    assert fg.rounded([float("nan"), 1.0]) == [None, 1.0]
    x = np.random.default_rng(0).normal(size=500) * 10.0 ** np.arange(-5, 5).repeat(50)
    assert np.allclose(fg.rounded(x, 4), x, rtol=5.1e-4, atol=0)


def _luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("background", ["#ffffff", "#14181e"])
@pytest.mark.parametrize("colour", sorted({c for c, _ in fg.METHODS.values()} | {fg.PRINTED, fg.NEUTRAL}))
def test_colours_can_be_told_from_both_pages(colour, background):
    light, dark = sorted((_luminance(colour), _luminance(background)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 3  # WCAG 1.4.11, graphical objects


def test_no_two_methods_look_alike():
    assert len(set(fg.METHODS.values())) == len(fg.METHODS)
    with pytest.raises(KeyError):
        fg.line("no such method")


def test_slider_and_menu_as_the_browser_side_reads_them():
    fig = fg.figure("what is seen", [go.Scatter(y=[0, 1])])
    fg.add_slider(fig, {"a": [go.Scatter(y=[0, 1])], "b": [go.Scatter(y=[1, 0])]}, "state", active=1)
    fg.add_menu(fig, "Which", {"one": ({"visible": [True]}, {}), "two": ({"visible": [False]}, {})})
    layout = fig.to_dict()["layout"]
    assert layout["meta"] == {"alt": "what is seen"}
    (slider,), (menu,) = layout["sliders"], layout["updatemenus"]
    assert [s["args"][0] for s in slider["steps"]] == [["a"], ["b"]] == [[f.name] for f in fig.frames]
    assert slider["active"] == 1
    assert slider["steps"][0]["args"][1]["frame"]["redraw"] is False
    assert menu["name"] == "Which"
    assert [b["label"] for b in menu["buttons"]] == ["one", "two"]
    assert menu["buttons"][1]["args"] == [{"visible": [False]}, {}]


def test_intervals_show_the_central_95_percent_and_the_printed_number():
    values = np.linspace(0, 1, 1001)
    measured, printed = fg.intervals(
        {"ASkewSGD": summarise(values), "Full precision": summarise(values)}, {"ASkewSGD": 0.7}
    )
    assert list(measured.y) == ["ASkewSGD", "Full precision"]
    assert measured.x[0] == pytest.approx(0.5)
    assert measured.error_x.array[0] == pytest.approx(0.475)
    assert measured.error_x.arrayminus[0] == pytest.approx(0.475)
    assert (list(printed.x), list(printed.y)) == ([0.7], ["ASkewSGD"])


def test_tables_escape_their_cells():
    markup = fg.table(["a", "b"], [["x < y", 1]], 'of "things"').data
    assert "x &lt; y" in markup
    assert '<th scope="row">' in markup
    assert 'aria-label="of &quot;things&quot;"' in markup
    assert len(re.findall("<tr>", markup)) == 2


def test_a_cell_of_a_table_may_lead_somewhere():
    markup = fg.table(["a", "b"], [["x", fg.link("1 < 2", "09_task_3_vision", "vi-grid") + " & more"]], "c").data
    cell = '<td><a href="09_task_3_vision.html#vi-grid">1 &lt; 2</a> &amp; more</td>'
    assert cell in markup, "it is a number as far as the look is concerned"
    assert fg.link("x", "y") == '<a href="y.html">x</a>'


def test_boxes_and_lines_break_between_their_pieces():
    boxes = fg.rectangles([(0, 1, 2, 3), (4, 5, 6, 7)], "#2f7fd1", "box")
    assert list(boxes.x) == [0, 1, 1, 0, 0, None, 4, 5, 5, 4, 4, None]
    assert list(boxes.y) == [2, 2, 3, 3, 2, None, 6, 6, 7, 7, 6, None]
    lines = fg.segments([((0, 1), (2, 3)), ((4, 5), (6, 7))], "lines")
    assert (list(lines.x), list(lines.y)) == ([0, 2, None, 4, 6, None], [1, 3, None, 5, 7, None])


def test_swap_changes_what_differs_of_its_own_traces():
    fig = fg.figure("x", [fg.curve([0, 1], [9, 9], "fixed")])
    fg.swap(
        fig, "State", {s: [fg.curve([0, 1], [i, 1], "a"), fg.curve([0, 1], [2, 2], s)] for i, s in enumerate("uv")}, "v"
    )
    assert [trace.name for trace in fig.data] == ["fixed", "a", "v"]
    first, second = (b["args"] for b in json.loads(fig.to_json())["layout"]["updatemenus"][0]["buttons"])
    assert first == [{"name": ["a", "u"], "y": [[0, 1], [2, 2]]}, {}, [1, 2]]
    assert second == [{"name": ["a", "v"], "y": [[1, 1], [2, 2]]}, {}, [1, 2]]


def test_whole_numbers_are_not_rounded():
    assert fg.plain(range(12345, 12347)) == [12345, 12346]
    assert fg.plain(torch.tensor([123456])) == [123456]
    assert fg.plain([123456, None, 0.5]) == [123500, None, 0.5]


def test_cross_switches_with_the_first_menu_and_changes_the_traces_with_the_second():
    def draw(run, power):
        return [fg.curve([0, 1], [run**power, 2], f"run {run}", visible="legendonly" if run == 3 else None)]

    fig = fg.cross(
        fg.figure("x", [fg.curve([0, 1], [9, 9], "fixed")]),
        {"Run": {"two": 2, "three": 3}, "Power": {"once": 1, "squared": 2}},
        draw,
        {"squared": {"yaxis.title.text": "square"}},
        active=(1, 1),
    )
    assert [list(trace.y) for trace in fig.data] == [[9, 9], [4, 2], [9, 2]]
    assert [trace.visible for trace in fig.data] == [None, False, "legendonly"]
    assert fig.layout.yaxis.title.text == "square"
    run, power = json.loads(fig.to_json())["layout"]["updatemenus"]
    assert (run["name"], run["active"], power["name"], power["active"]) == ("Run", 1, "Power", 1)
    assert [b["args"] for b in run["buttons"]] == [
        [{"visible": [True, False]}, {}, [1, 2]],
        [{"visible": [False, "legendonly"]}, {}, [1, 2]],
    ]
    assert [b["args"] for b in power["buttons"]] == [
        [{"y": [[2, 2], [3, 2]]}, {}, [1, 2]],
        [{"y": [[4, 2], [9, 2]]}, {"yaxis.title.text": "square"}, [1, 2]],
    ]


def test_the_columns_of_a_table_have_their_formats_and_strings_stay():
    shown = fg.table(["n", "value"], [("one", 1 / 3), (2, "none")], "c", ["", ".2f"]).data
    assert ">0.33<" in shown and ">none<" in shown and ">2<" in shown


def test_a_folded_table_shows_its_caption_once_and_the_rest_on_demand():
    plain, folded = (fg.table(["a"], [[1]], "x < y", folded=f).data for f in (False, True))
    assert folded.startswith("<details><summary>x &lt; y</summary>") and folded.endswith("</details>")
    assert "<caption>" in plain and "<caption>" not in folded
    assert folded.split("<thead>")[1].removesuffix("</details>") == plain.split("<thead>")[1]


def test_a_plane_of_two_weights_has_equal_units_unless_told():
    layout = fg.figure("a", [], **fg.plane([-1, 2], [0, 1])).layout
    assert (layout.xaxis.range, layout.yaxis.range, layout.yaxis.scaleanchor) == ((-1, 2), (0, 1), "x")
    assert fg.figure("a", [], **fg.plane([-1, 2], square=False)).layout.yaxis.scaleanchor is None


def test_a_menu_over_traces_that_are_there_already():
    fig = fg.figure("x", [fg.curve([0], [0]), *[fg.points([0], [i], meta="ab"[i % 2]) for i in range(3)]])
    fg.choose(fig, "Which", {"both": "ab", "one": "b"}, active=1)
    assert [trace.visible for trace in fig.data] == [None, False, True, False]
    args = [b["args"] for b in json.loads(fig.to_json())["layout"]["updatemenus"][0]["buttons"]]
    assert args == [
        [{"visible": [True, True, True]}, {}, [1, 2, 3]],
        [{"visible": [False, True, False]}, {}, [1, 2, 3]],
    ]


def test_a_bound_is_dotted_in_the_colour_of_its_curve():
    measured, bound = fg.bounded([1, 2], [3, 4], [5, 6], "law", "#2f7fd1", at="T")
    assert (measured.line.color, measured.line.dash) == (bound.line.color, "solid") and bound.line.dash == "dot"
    assert bound.showlegend is False and bound.hovertemplate.startswith("bound %{y:.2g} at T")


def test_words_stand_at_their_points_and_a_curve_without_x_counts_its_points():
    words = fg.words([1, 2], [0.5, 0.123456], ["a", "b"])
    assert (words.mode, words.text, words.y, words.showlegend) == ("text", ("a", "b"), (0.5, 0.1235), False)
    assert fg.curve(None, [3, 4]).x is None


def test_an_average_is_the_mean_within_the_central_95_percent():
    shaded, mean = fg.average([0, 1], np.stack([np.arange(1001), np.zeros(1001)]), "ASkewSGD", {"visible": False})
    assert list(mean.y) == [500, 0]
    assert list(shaded.y) == [975, 0, 0, 25]
    assert (shaded.legendgroup, shaded.visible, mean.visible) == (mean.legendgroup, False, None)


def test_a_histogram_counts_between_its_edges():
    bar = fg.histogram(torch.tensor([0.1, 0.2, 1.5, 9.0]), [0, 1, 2], "losses")
    assert (list(bar.x), list(bar.y), bar.name) == ([0.5, 1.5], [2, 1], "losses")


def test_whiskers_reach_from_low_to_high():
    assert fg.whiskers([1.0], [0.5], [3.0]) == {"array": [2.0], "arrayminus": [0.5], "color": fg.NEUTRAL}


def test_wins_are_paired_and_the_row_has_the_smaller_value():
    heat = fg.wins({"a": [1, 2, 3, 4], "b": [2, 2, 5, 1]})
    assert [list(row) for row in heat.z] == [[None, 0.5], [0.25, None]]
    assert heat.text[0][1].startswith("wins 50.0%") and heat.text[0][0] == ""


def test_vectors_have_no_minus_zero():
    assert fg.vector([1, -1.5]) == "(1, -1.5)"
    assert fg.vector(torch.tensor([-0.0, 0.12345]), ".3f") == "(0.000, 0.123)"


def test_the_weights_of_a_run_are_one_line_each():
    one, two = fg.weights([0, 1, 2], torch.tensor([[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]), "SGDA")
    assert (list(one.y), list(two.y), two.name) == ([1, 2, 3], [4, 5, 6], "weight 2")
    assert one.line.color == fg.METHODS["SGDA"][0]


def test_classes_have_their_colours_in_equal_parts_of_the_scale():
    shown = fg.regions([[0, 1], [1, 1]], [0, 1], [0, 1], {"no": "#000000", "yes": "#ffffff"})
    assert [tuple(c) for c in shown.colorscale] == [(0, "#000000"), (0.5, "#000000"), (0.5, "#ffffff"), (1, "#ffffff")]
    assert (shown.zmin, shown.zmax, list(shown.colorbar.ticktext)) == (-0.5, 1.5, ["no", "yes"])


def test_areas_are_closed_and_arrows_end_at_their_tip():
    area = fg.area([[(0, 0), (1, 0), (0, 1)], [(5, 5), (6, 5), (5, 6)]], "#000000", "a")
    assert area.x == (0, 1, 0, 0, None, 5, 6, 5, 5) and area.fill == "toself"
    assert len(fg.area([np.empty((0, 2))], "#000000").x) == 0
    arrow = fg.arrow([1, 1], [2, 0], "v", "#000000", head=0.5)
    assert (arrow.x[0], arrow.y[0]) == (1, 1) and (arrow.x[1], arrow.y[1]) == (3, 1) == (arrow.x[-1], arrow.y[-1])
    assert sorted(arrow.x[2:4]) == [2.5, 2.5] and sorted(arrow.y[2:4]) == [0.75, 1.25]
    assert fg.arrow([1, 1], [0, 0], "v", "#000000").x == (1, 1)


def test_printed_numbers_keep_their_digits_and_zeros_have_one_colour():
    assert list(fg.diamonds([0.123456], ["a"]).x) == [0.123456]
    line = fg.zeros([[-1, 1.234], [1, 2]], [0, 1], [0, 1], "boundary", "#2f7fd1")
    assert (line.contours.start, line.contours.end) == (0, 0) and line.z[0][1] == 1.2
    assert {colour for _, colour in line.colorscale} == {"#2f7fd1"}
