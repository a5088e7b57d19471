"""The maps of the experiment "sensitivity": what becomes of the seeds over a grid of two settings, in panels side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from .. import figures as fg
from ..results import Row, select
from .sensitivity import STATES

COLOURS = ("#7f1d1d", "#e07b39", "#b06ab3", "#d9c25f", "#7fb3d5", "#2e8b57")  # of STATES
#: What is coloured beside the state: label -> (column of the stored rows, range, title).
VALUES = {
    "quantised loss": ("mean", 0, 0.5, "quantised loss above the floor"),
    "latent loss": ("latent", 0, 0.5, "latent loss above the floor (0.5 and more alike)"),
    "share at the optimum": ("optimum", 0, 1, "share of seeds whose rounded weights are optimal"),
    "feasible weights": ("feasible", 0, 1, "share of weights within 0.25 of a level"),
    "last sign change": ("last_change", 0, 25, "epoch of the last sign change, mean"),
}
COLUMNS = (*STATES, *(column for column, *_ in VALUES.values()))
HOVER = ", ".join(f"{state} %{{customdata[{i}]:.0%}}" for i, state in enumerate(STATES)) + (
    "<br>above the floor: quantised %{customdata[6]:.3f}, latent %{customdata[7]:.3f}"
    "<br>at the optimum %{customdata[8]:.0%}; feasible %{customdata[9]:.0%}; last sign change: epoch %{customdata[10]:.1f}"
)


@dataclass(frozen=True)
class Map:
    """Which rows, by the values of columns; the columns across and up, with a word for each; a setting (x, y) to mark in
    every panel."""

    where: Mapping
    x: str
    x_title: str
    y: str
    y_title: str
    marked: Sequence[tuple[float, float]] = ()


def lay_out(rows: Sequence[Row], x: str, y: str) -> tuple[list[float], list[float], list[list[Row]]]:
    """Values of the columns x and y, increasing, and the rows with one line per value of y. Raises KeyError where a combination
    is missing."""
    xs, ys = (sorted({row[column] for row in rows}) for column in (x, y))
    at = {(row[x], row[y]): row for row in rows}
    return xs, ys, [[at[a, b] for a in xs] for b in ys]


def majority(row: Row) -> int:
    """The state of most seeds as an index of `STATES`; the worst of several."""
    return max(range(len(STATES)), key=lambda i: row[STATES[i]])


def draw(
    alt: str,
    stored: Sequence[Row],
    panels: Mapping[str, Mapping],
    maps: Mapping[str, Map],
    across: str,
    title: str,
    start: str = "state of most seeds",
    menu: str = "Map",
    rows: int = 2,
    height: int = 680,
) -> go.Figure:
    """A menu over `maps`, if there are several, and one over what is coloured, at first `start`.

    panels: title -> columns of its rows, in so many `rows`; across: the word below the lowest panels.
    """
    columns = len(panels) // rows
    spacing = {"shared_xaxes": True, "shared_yaxes": True, "horizontal_spacing": 0.04, "vertical_spacing": 0.1}
    margin = {"l": 75, "t": 40, "b": 130, "r": 10, "autoexpand": False}  # else all is laid out twice
    look = {"height": height, "margin": margin, "showlegend": False}
    fig = fg.figure(alt, dict.fromkeys(panels, ()), columns, spacing, title=title, **look)
    fig.update_annotations(font_size=11)  # the titles of the panels, narrow on a phone
    fig.update_xaxes(showgrid=False)
    fig.update_yaxes(showgrid=False)
    fig.update_xaxes(title_text=across, row=rows)

    found = {label: [select(stored, **{**where, **m.where}) for where in panels.values()] for label, m in maps.items()}
    coloured = {"state of most seeds": majority} | {
        label: lambda row, column=column: row[column] for label, (column, *_) in VALUES.items()
    }
    layouts = {label: _ticks(fig, found[label][0], m, rows, columns) for label, m in maps.items()}
    layouts |= {label: {"coloraxis": _coloraxis(label)} for label in coloured}

    def traces(label: str, value: Callable[[Row], float]) -> list:
        marks = maps[label].marked or [None] * len(panels)
        each = (_panel(r, maps[label], mark, value) for r, mark in zip(found[label], marks, strict=True))
        return [fg.on(trace, k) for k, panel in enumerate(each, start=1) for trace in panel]

    begin = list(coloured).index(start)
    if len(maps) > 1:
        menus = {menu: {label: label for label in maps}, "Coloured": coloured}
        return fg.cross(fig, menus, traces, layouts, active=(0, begin))
    (only,) = maps
    fig.update_layout(layouts[only])
    return fg.swap(fig, "Coloured", {k: (traces(only, value), layouts[k]) for k, value in coloured.items()}, begin)


def _panel(rows: Sequence[Row], m: Map, mark: tuple[float, float] | None, value: Callable[[Row], float]) -> list:
    """A field for each setting, and the mark."""
    xs, ys, lines = lay_out(rows, m.x, m.y)
    at = [mark] if mark else []
    fields = fg.heat(
        [[value(row) for row in line] for line in lines],
        customdata=[[fg.plain([row[c] for c in COLUMNS], 3) for row in line] for line in lines],
        text=[[f"{m.x_title} {a:g}, {m.y_title} {b:g}" for a in xs] for b in ys],
        hovertemplate="%{text}<br>" + HOVER + "<extra></extra>",
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
    )
    look = {"colour": "white", "size": 13, "symbol": "diamond-open", "marker": {"line": {"width": 3, "color": "white"}}}
    diamond = fg.points([xs.index(a) for a, _ in at], [ys.index(b) for _, b in at], hoverinfo="skip", **look)
    return [fields, diamond]


def _ticks(fig: go.Figure, rows: Sequence[Row], m: Map, lines: int, columns: int) -> dict:
    """Puts the values of x below the fields; returns the changes of the layout that put those of y beside them."""
    xs, ys, _ = lay_out(rows, m.x, m.y)
    fig.update_xaxes(tickvals=list(range(len(xs))), ticktext=[f"{a:g}" for a in xs])
    fig.update_yaxes(tickvals=list(range(len(ys))))
    first = ["yaxis" if line == 0 else f"yaxis{line * columns + 1}" for line in range(lines)]
    words = {"ticktext": [f"{b:g}" for b in ys], "title.text": m.y_title}
    return {f"{axis}.{key}": value for axis in first for key, value in words.items()}


def _coloraxis(label: str) -> dict:
    steps = [[(i + k) / len(COLOURS), colour] for i, colour in enumerate(COLOURS) for k in (0, 1)]
    _, low, high, title = VALUES.get(label, ("", -0.5, len(STATES) - 0.5, ""))
    bar = {"orientation": "h", "y": -0.13, "yanchor": "top", "thickness": 12, "tickfont": {"size": 10}}
    bar |= {"title": {"text": title, "side": "bottom"}, "tickvals": None, "ticktext": None}
    if label not in VALUES:
        bar |= {"tickvals": list(range(len(STATES))), "ticktext": list(STATES)}
    return {"cmin": low, "cmax": high, "colorscale": "Viridis" if label in VALUES else steps, "colorbar": bar}
