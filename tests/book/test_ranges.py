"""Axes stay put while controls change what a figure shows."""

from __future__ import annotations

import json
import re

import pytest

from book_ranges import fix, parts

FIGURE = re.compile(
    r'<figure class="plotly-figure" id="([^"]+)".*?<script type="application/json">(.*?)</script>', re.S
)


def line(x, y, **extra) -> dict:
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, **extra}


def menu(*options: tuple[dict, dict]) -> dict:
    return {"active": 0, "buttons": [{"method": "update", "label": "", "args": list(option)} for option in options]}


def fixed(data, menus=(), frames=(), **axes) -> dict:
    layout = {"xaxis": {}, "yaxis": {}, **axes, "updatemenus": list(menus)}
    return fix({"data": data, "layout": layout, "frames": list(frames)})["layout"]


def ranges(layout: dict, number: int = 0) -> list:
    """The range of the y axis at the start, and in each option of a menu."""
    return [layout["yaxis"].get("range")] + [
        parts(option)[1].get("yaxis.range") for option in layout["updatemenus"][number]["buttons"]
    ]


def test_a_figure_without_controls_is_left_alone():
    assert fixed([line([0, 1], [2, 3])]) == {"xaxis": {}, "yaxis": {}, "updatemenus": []}


def test_one_range_holds_every_view():
    layout = fixed([line([0, 10], [2, 4])], [menu(({"y": [[2, 4]]}, {}), ({"y": [[1, 2]]}, {}))])
    assert layout["xaxis"]["range"] == [0, 10]  # lines go to both ends
    assert ranges(layout) == [pytest.approx([0.85, 4.15]), None, None]


def test_every_frame_and_every_combination_counts():
    data = [line([0, 1], [0, 0]), line([0, 1], [0, 0], visible=False)]
    seen = menu(({"visible": [True, False]}, {}), ({"visible": [False, True]}, {}))
    values = menu(({"y": [[0, 2], [0, 4]]}, {}), ({"y": [[0, 3], [0, 8]]}, {}))
    assert fixed(data, [seen, values])["yaxis"]["range"] == pytest.approx([-0.4, 8.4])
    frames = [{"traces": [1], "data": [{"y": [-20, 0]}]}, {"traces": [0], "data": [{"y": [0, 5]}]}]
    assert fixed(data, [], frames)["yaxis"]["range"] == pytest.approx([-0.25, 5.25])  # the second is hidden throughout
    assert fixed(data, [seen], frames)["yaxis"]["range"] == pytest.approx([-21.25, 6.25])


def test_what_measures_something_else_has_its_own_range_and_what_measures_the_same_shares_it():
    options = [
        ({"y": [[0, 1]]}, {"yaxis.title.text": "loss"}),
        ({"y": [[0, 100]]}, {"yaxis.title.text": "%"}),
        ({"y": [[0, 2]]}, {"yaxis.title.text": "loss"}),
    ]
    layout = fixed([line([0, 1], [0, 1])], [menu(*options)], yaxis={"title": {"text": "loss"}})
    assert ranges(layout) == [pytest.approx(r) for r in ([-0.1, 2.1], [-0.1, 2.1], [-5, 105], [-0.1, 2.1])]
    assert parts(layout["updatemenus"][0]["buttons"][1])[1]["yaxis.title.text"] == "%"


def test_a_view_does_not_shrink_to_nothing():
    layout = fixed([line([0, 1], [0, 1])], [menu(({"y": [[0, 1]]}, {}), ({"y": [[0, 1000]]}, {}))])
    assert ranges(layout) == [pytest.approx(r) for r in ([-0.05, 1.05], [-0.05, 1.05], [-50, 1050])]


@pytest.mark.parametrize(
    ("trace", "axis", "expected"),
    [
        ({"type": "bar", "x": [1, 2], "y": [5, 10]}, {}, [0, 10.5]),
        ({"type": "scatter", "mode": "markers", "x": [0, 1], "y": [1, 100]}, {"type": "log"}, [-0.1, 2.1]),
        ({"type": "scatter", "mode": "markers", "x": [0, 1], "y": [0, 100]}, {"type": "log"}, [1, 3]),
        ({"type": "scatter", "x": [0, 1], "y": [1, 2]}, {"autorange": "reversed"}, [2.05, 0.95]),
        ({"type": "scatter", "x": [0, 1], "y": [1, 2], "error_y": {"array": [1, 2]}}, {}, [-0.2, 4.2]),
        ({"type": "heatmap", "y": [1, 2, 3], "z": [[0], [1], [2]]}, {}, [0.5, 3.5]),
        ({"type": "heatmap", "z": [[0], [1], [2]]}, {}, [-0.5, 2.5]),
        ({"type": "scatter", "x": [0, 1], "y": ["a", "b"]}, {}, None),
        ({"type": "scatter", "x": [0, 1], "y": [3, 3]}, {}, [1.5, 4.5]),
        ({"type": "scatter", "x": [0, 1], "y": [3, 5]}, {"rangemode": "tozero"}, [0, 5.25]),
    ],
    ids=[
        "bars",
        "decades",
        "zero has no logarithm",
        "reversed",
        "error bars",
        "cells",
        "rows",
        "names",
        "one value",
        "from zero",
    ],
)
def test_what_a_trace_covers(trace, axis, expected):
    found = fixed([trace], [menu(({"opacity": 1}, {}), ({"opacity": 0.5}, {}))], yaxis=dict(axis))["yaxis"]
    assert found.get("range") == (expected and pytest.approx(expected))


def test_what_keeps_a_margin_keeps_it_and_nothing_else_does():
    cells = {"type": "heatmap", "x": [0, 1, 2], "y": [0, 1, 2], "z": [[0] * 3] * 3}
    for mark, expected in ((1, [-0.5, 2.5]), (2.5, [-0.5, 2.65])):
        marks = {"type": "scatter", "mode": "markers", "x": [mark], "y": [1]}
        layout = fixed([cells, marks], [menu(({"visible": [True, True]}, {}), ({"visible": [True, False]}, {}))])
        assert layout["xaxis"]["range"] == pytest.approx(expected)


def test_what_the_figure_says_itself_is_kept():
    views = [menu(({"y": [[0, 1]]}, {"yaxis.range": [0, 7]}), ({"y": [[0, 2]]}, {"yaxis.range": [0, 9]}))]
    assert ranges(fixed([line([0, 1], [0, 1])], views)) == [None, [0, 7], [0, 9]]
    assert fixed([line([0, 1], [0, 1])], views, xaxis={"range": [-5, 5]})["xaxis"] == {"range": [-5, 5]}


# The book


def counted(trace: dict, letter: str) -> bool:
    """Are there numbers along this axis, and no names? Without values of its own, points are numbered."""
    values = trace.get(letter)
    return values is None or (len(values) > 0 and not any(isinstance(value, str) for value in values))


def moved(figure: dict) -> set[str]:
    """Axes of numbers along which a menu, a slider or a frame changes what is drawn."""
    layout, found = figure["layout"], set()

    def note(traces, keys) -> None:
        for trace in traces:
            for letter in "xy":
                along = {letter, "visible"} | (set() if "z" in trace else {f"error_{letter}"})
                if along & set(keys) and counted(trace, letter):
                    found.add((trace.get(f"{letter}axis") or letter).replace(letter, f"{letter}axis"))

    for control in (*layout.get("updatemenus", ()), *layout.get("sliders", ())):
        for option in control.get("buttons") or control["steps"]:
            if option["method"] != "animate":
                change, _, which = parts(option)
                note([figure["data"][i] for i in (range(len(figure["data"])) if which is None else which)], change)
    for frame in figure["frames"]:
        for i, change in zip(frame["traces"], frame["data"], strict=True):
            note([figure["data"][i] | change], change)
    return found


def stays(axis: str, layout: dict) -> bool:
    """Has it a range, or one in every option of a menu, or is it tied to one that has?"""
    own = layout.get(axis, {})
    if own.get("matches"):
        return stays(re.sub("^[xy]", r"\g<0>axis", own["matches"]), layout)
    said = [[parts(o)[1] for o in menu["buttons"]] for menu in layout.get("updatemenus", ())]
    loose = own.get("autorange", False) or any(
        change.get(f"{axis}.autorange") for changes in said for change in changes
    )
    every = any(all(f"{axis}.range" in change for change in changes) for changes in said)
    return not loose and ("range" in own or every)


def test_no_axis_of_the_book_moves_with_a_control(built_book):
    seen, loose = 0, []
    for page in sorted(built_book.rglob("*.html")):
        for name, text in FIGURE.findall(page.read_text(encoding="utf-8")):
            figure = json.loads(text)
            axes = moved(figure)
            seen += bool(axes)
            loose += [f"{page.stem}#{name}: {axis}" for axis in sorted(axes) if not stays(axis, figure["layout"])]
    assert seen > 50
    assert loose == []
