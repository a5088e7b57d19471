"""The book's plotly vocabulary: one colour and dash per method everywhere, a text alternative on every figure.

Works with plotly 5.24 (Colab) and newer. In the book, sliders and menus become native controls (book/_static/figures.js).
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup, escape
from plotly.subplots import make_subplots

from .methods import LINES
from .statistics import Summary, compare

if TYPE_CHECKING:
    from IPython.display import HTML

METHODS = (
    LINES  # name -> (colour, dash); the colours keep a contrast of at least 3 to 1 on the light and on the dark page
)
PRINTED = "#c2408f"  # the paper's own numbers
NEUTRAL = "#7a7a7a"  # floors, levels, reference lines


def line(method: str, **extra) -> dict:
    """The method's line style, e.g. go.Scatter(line=line("ASkewSGD")). Raises KeyError for an unknown method."""
    colour, dash = METHODS[method]
    return {"color": colour, "dash": dash, "width": 2, **extra}


def faded(colour: str, opacity: float = 0.2) -> str:
    """The colour "#rrggbb" as a transparent fill."""
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r},{g},{b},{opacity})"


def rounded(values, digits: int = 4) -> list:
    """Numbers as (nested) lists rounded to `digits` significant digits: a quarter of the page weight of full ones."""
    a = np.asarray(values, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = np.where((a == 0) | ~np.isfinite(a), 0, np.floor(np.log10(np.abs(a))))
    power = 10.0 ** (digits - 1 - exponent)
    a = np.where(np.isfinite(a), np.round(a * power) / power, np.nan)
    return np.vectorize(lambda v: None if np.isnan(v) else float(f"{v:.{digits}g}"), otypes=[object])(a).tolist()


def plain(values, digits: int = 4) -> list | None:
    """Numbers rounded as by `rounded`; anything else, such as words on an axis or whole numbers, as a list; None as it is."""
    if values is None:
        return None
    if np.asarray(values).dtype.kind in "iu":
        return np.asarray(values).tolist()
    a = values if hasattr(values, "dtype") else np.asarray(values, dtype=object)
    try:
        return rounded(a, digits)
    except (TypeError, ValueError):
        return list(values)


# Traces


def curve(
    x: Iterable | None,
    y: Iterable,
    name: str = "",
    colour: str | None = None,
    *,
    method: str | None = None,
    dash: str = "solid",
    width: float = 2,
    digits: int = 4,
    **extra,
) -> go.Scatter:
    """A line through the points (x, y), their numbers rounded to `digits` significant digits (None among them breaks it).

    x: None for 0, 1, 2, ... method: takes colour, dash and, where there is no other, name from METHODS. Without a name it stays out of the legend.
    extra: further properties of go.Scatter.
    """
    look = line(method, width=width) if method else {"color": colour or NEUTRAL, "dash": dash, "width": width}
    known = {"name": name or method} if name or method else {"showlegend": False}
    return go.Scatter(x=plain(x, digits), y=plain(y, digits), **{"mode": "lines", "line": look} | known | extra)


def points(
    x: Iterable,
    y: Iterable,
    name: str = "",
    colour: str | Sequence[str] | None = None,
    *,
    method: str | None = None,
    size: float | Sequence[float] = 8,
    symbol: str | Sequence[str] = "circle",
    digits: int = 4,
    marker: Mapping = {},  # noqa: B006  read only
    **extra,
) -> go.Scatter:
    """Markers at (x, y); as `curve` otherwise. marker: further properties of the marker."""
    colour = METHODS[method][0] if method else colour or NEUTRAL
    known = {"name": name or method} if name or method else {"showlegend": False}
    look = {"color": colour, "size": size, "symbol": symbol, **marker}
    return go.Scatter(x=plain(x, digits), y=plain(y, digits), **{"mode": "markers", "marker": look} | known | extra)


def diamonds(x: Iterable, y: Iterable, name: str = "printed in the paper", size: float = 10, **extra) -> go.Scatter:
    """Numbers that a source prints, with all their digits; as `points` otherwise."""
    look = {"size": size, "symbol": "diamond-open", "digits": 10, "marker": {"line": {"width": 2}}}
    return points(x, y, name, PRINTED, **look, **extra)


def words(x: Iterable, y: Iterable, text: Sequence[str], name: str = "", digits: int = 4, **extra) -> go.Scatter:
    """Words at (x, y), without an entry in the legend. extra: further properties of go.Scatter."""
    known = {"mode": "text", "text": list(text), "name": name, "showlegend": False}
    return go.Scatter(x=plain(x, digits), y=plain(y, digits), **known | extra)


def band(x: Sequence, low: Sequence, high: Sequence, colour: str, name: str, digits: int = 4, **extra) -> go.Scatter:
    """A shaded interval around a curve, as one closed trace."""
    x, low, high = plain(x, digits), plain(low, digits), plain(high, digits)
    return go.Scatter(
        x=x + x[::-1],
        y=high + low[::-1],
        mode="lines",
        fill="toself",
        fillcolor=faded(colour),
        line={"width": 0},
        hoverinfo="skip",
        name=name,
        **{"showlegend": False} | extra,
    )


def rectangles(boxes: Sequence[Sequence[float]], colour: str, name: str, opacity: float = 0.2, **extra) -> go.Scatter:
    """Filled boxes (left, right, bottom, top) as one trace."""
    x = [value for a, b, _, _ in boxes for value in (a, b, b, a, a, None)]
    y = [value for _, _, c, d in boxes for value in (c, c, d, d, c, None)]
    look = {"fill": "toself", "fillcolor": faded(colour, opacity), "line": {"width": 0}, "hoverinfo": "skip"}
    return curve(x, y, name, **look | extra)


def area(polygons: Iterable, colour: str, name: str = "", opacity: float = 0.2, **extra) -> go.Scatter:
    """Filled polygons, each (N, 2), with their outlines as one trace; an inner one of the opposite direction is a hole."""
    closed = [np.concatenate([p, p[:1], [[np.nan] * 2]]) for p in map(np.asarray, polygons) if len(p)]
    x, y = np.concatenate(closed)[:-1].T if closed else ((), ())
    look = {"fill": "toself", "fillcolor": faded(colour, opacity), "hoverinfo": "skip"}
    return curve(x, y, name, colour, **look | extra)


def arrow(
    start: Sequence[float], vector: Sequence[float], name: str, colour: str, head: float = 0.07, **extra
) -> go.Scatter:
    """An arrow, shaft and head, as one line in a plane of equal units; a very short one is a point."""
    start, vector = np.asarray(start), np.asarray(vector)
    tip, length = start + vector, np.linalg.norm(vector)
    corners = [start, start]
    if length >= 1e-3:
        along = vector / length * min(head, length / 2)
        across = np.array([-along[1], along[0]]) / 2
        corners = [start, tip, tip - along + across, tip - along - across, tip]
    return curve(*np.transpose(corners), name, colour, **extra)


def segments(
    ends: Sequence[Sequence[Sequence[float]]], name: str = "", colour: str | None = None, **extra
) -> go.Scatter:
    """Straight lines from (x, y) to (x, y), a pair of points for each, as one trace; as `curve` otherwise."""
    x, y = ([value for a, b in ends for value in (a[i], b[i], None)] for i in (0, 1))
    return curve(x, y, name, colour, **{"hoverinfo": "skip"} | extra)


def fan(x: Sequence, runs, name: str, colour: str, share: float = 0.8, digits: int = 3, **extra) -> list[go.Scatter]:
    """The central `share` of the runs (S, T) as a band, and their median over it. Two traces; extra: of both."""
    a = np.asarray(runs, dtype=float)
    low, middle, high = np.quantile(a, [(1 - share) / 2, 0.5, (1 + share) / 2], axis=0)
    shaded = band(x, low, high, colour, f"{name}, {share:.0%} of runs", digits, **extra)
    return [shaded, curve(x, middle, name, colour, width=2.5, digits=digits, **extra)]


def bounded(x: Sequence, y: Sequence, bound: Sequence, name: str, colour: str, word: str = "measured", at: str = "k"):
    """A curve and, dotted in its colour and without an entry in the legend, its bound. Two traces; word and at: on hover."""
    words = " %{y:.2g} at " + at + " = %{x}<extra></extra>"
    both = {"digits": 3, "legendgroup": name}
    dotted = {"dash": "dot", "width": 1.5, "showlegend": False, "hovertemplate": "bound" + words}
    solid = curve(x, y, name, colour, width=2.5, hovertemplate=word + words, **both)
    return [solid, curve(x, bound, name, colour, **both | dotted)]


def average(x: Sequence, runs, method: str, shaded: Mapping = {}, **extra) -> list[go.Scatter]:  # noqa: B006  read only
    """The central 95 % of the runs (T, S) of a method as a band, and their mean. Two traces that the legend shows and hides
    together; extra: of both, `shaded`: of the band alone."""
    a = np.asarray(runs, dtype=float)
    low, high = np.quantile(a, [0.025, 0.975], axis=1)
    both = {"legendgroup": method, **extra}
    words = f"{method}<br>step %{{x}}: %{{y:.4f}}<extra></extra>"
    mean = curve(x, a.mean(1), method=method, **{"hovertemplate": words} | both)
    return [band(x, low, high, METHODS[method][0], method, 3, **both | dict(shaded)), mean]


def weights(x: Sequence, path, method: str, width: float = 1.2) -> list[go.Scatter]:
    """The weights (T, d) of one run against x (T,), each a thin line in the method's colour."""
    words = [f"w<sub>{i}</sub> %{{y:.3f}}<extra></extra>" for i in range(1, len(path[0]) + 1)]
    look = {"colour": METHODS[method][0], "width": width, "digits": 3}
    lines = zip(np.asarray(path).T, words, strict=True)
    return [curve(x, w, f"weight {i}", hovertemplate=word, **look) for i, (w, word) in enumerate(lines, start=1)]


def bars(
    x: Sequence,
    y: Sequence,
    name: str = "",
    colour: str | None = None,
    *,
    method: str | None = None,
    digits: int = 4,
    **extra,
) -> go.Bar:
    """Bars of heights y at x; name, colour, method and digits as for `curve`. extra: further properties of go.Bar, such as
    orientation="h" for bars of lengths x at y."""
    known = {"name": name or method} if name or method else {"showlegend": False}
    colour = METHODS[method][0] if method else colour or NEUTRAL
    return go.Bar(x=plain(x, digits), y=plain(y, digits), **{"marker": {"color": colour}} | known | extra)


def histogram(values, edges, name: str = "", colour: str | None = None, **extra) -> go.Bar:
    """How many of the values lie between neighbouring edges, as `bars`; those outside are not counted."""
    edges = np.asarray(edges)
    counts, _ = np.histogram(np.asarray(values), edges)
    return bars((edges[1:] + edges[:-1]) / 2, counts, name, colour, **extra)


def whiskers(middle, low, high, colour: str | None = NEUTRAL) -> dict:
    """Error bars from low to high around middle, each (N,), e.g. curve(error_y=whiskers(...)); None: in the trace's colour."""
    middle, low, high = (np.asarray(v, dtype=float) for v in (middle, low, high))
    return {"array": rounded(high - middle, 3), "arrayminus": rounded(middle - low, 3), "color": colour}


def wins(values: Mapping[str, Sequence[float]]) -> go.Heatmap:
    """Share of seeds on which the row has the smaller value than the column, paired by seed; ties and losses on hover.

    values: name -> one number per seed."""
    names = list(values)
    pairs = [[None if a == b else compare(values[a], values[b]) for b in names] for a in names]
    return go.Heatmap(
        x=names,
        y=names,
        z=[[None if p is None else round(p.wins, 3) for p in row] for row in pairs],
        text=[["" if p is None else str(p) for p in row] for row in pairs],
        zmin=0,
        zmax=1,
        colorscale="Blues",
        hovertemplate="%{y} against %{x}<br>%{text}<extra></extra>",
        colorbar={"thickness": 12},
    )


def heat(z, x: Sequence | None = None, y: Sequence | None = None, digits: int = 3, **extra) -> go.Heatmap:
    """A heat map of z (rows: y, columns: x)."""
    axes = {key: plain(v, digits) for key, v in (("x", x), ("y", y)) if v is not None}
    return go.Heatmap(z=rounded(z, digits), **axes, **extra)


def regions(z, x: Sequence, y: Sequence, kinds: Mapping[str, str], title: str = "", **extra) -> go.Heatmap:
    """A map of classes: z (rows: y, columns: x) holds their numbers, kinds: name -> colour, explained below the map."""
    n = len(kinds)
    scale = [[edge / n, colour] for i, colour in enumerate(kinds.values()) for edge in (i, i + 1)]
    bar = {"tickvals": list(range(n)), "ticktext": list(kinds), "tickangle": 0, "thickness": 14}
    place = {"orientation": "h", "y": -0.18, "yanchor": "top", "title": {"text": title, "side": "top"}}
    return heat(z, x, y, colorscale=scale, zmin=-0.5, zmax=n - 0.5, colorbar=bar | place, **extra)


def contours(
    loss: Callable, x: Sequence[float], y: Sequence[float], count: int = 15, digits: int = 3, **extra
) -> go.Contour:
    """Level curves of `loss` (a function of an array (..., 2) of points) over the grid of x and y, as thin grey lines."""
    grid = np.stack(np.meshgrid(np.asarray(x), np.asarray(y)), axis=-1)
    return go.Contour(
        x=rounded(x),
        y=rounded(y),
        z=rounded(np.asarray(loss(grid), dtype=float), digits),
        ncontours=count,
        contours={"coloring": "lines"},
        colorscale=[[0, NEUTRAL], [1, NEUTRAL]],
        line={"width": 1},
        opacity=0.6,
        showscale=False,
        **{"hovertemplate": "loss %{z:.3f}<extra></extra>", "name": "loss", **extra},
    )


def zeros(z, x: Sequence, y: Sequence, name: str, colour: str, dash: str = "solid", **extra) -> go.Contour:
    """The line on which a function is 0, such as a decision boundary; z (rows: y, columns: x) are its values on the grid."""
    return go.Contour(
        x=rounded(x),
        y=rounded(y),
        z=rounded(z, 2),
        contours={"start": 0, "end": 0, "size": 1, "coloring": "lines"},
        colorscale=[[0, colour], [1, colour]],
        line={"width": 3, "dash": dash},
        showscale=False,
        name=name,
        **{"hovertemplate": name + ": f = %{z}<extra></extra>", **extra},
    )


def intervals(measured: Mapping[str, Summary], printed: Mapping[str, float] = {}) -> list[go.Scatter]:  # noqa: B006
    """One row per method: mean and central 95 % of the seeds, and a diamond at the number the paper prints. Two traces."""
    names = list(measured)
    middle = [measured[m].mean for m in names]
    bar = whiskers(middle, *zip(*(measured[m].central for m in names), strict=True))
    ours = points(
        middle, names, colour=[METHODS[m][0] for m in names], size=9, name="measured",
        error_x=bar, hovertemplate="%{y}: %{x:.4f}<extra></extra>", showlegend=False, marker={"symbol": None},
    )  # fmt: skip
    rows = [m for m in names if m in printed]
    words = "%{y}: printed %{x}<extra></extra>"
    theirs = diamonds([printed[m] for m in rows], rows, hovertemplate=words)
    return [ours, theirs]


# Figures


def figure(
    alt: str,
    data: Iterable | Mapping[str, Iterable] = (),
    columns: int | None = None,
    subplots: Mapping = {},  # noqa: B006  read only
    **layout,
) -> go.Figure:
    """A figure with the text alternative that every figure of the book must carry, and the book's plain look.

    data: traces; or for panels beside each other title -> traces, in rows of `columns` panels (default: one row); panel
    number k = 1, 2, ... has the axes xaxis, yaxis; xaxis2, yaxis2; and so on. subplots: further arguments of make_subplots.
    """
    look = {
        "template": "none",
        "margin": {"l": 60, "r": 20, "t": 40, "b": 50},
        "height": 420,
        "hovermode": "closest",
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
    }
    if isinstance(data, Mapping):
        columns = columns or len(data)
        titles = [title.strip() for title in data]
        fig = make_subplots(-(-len(data) // columns), columns, subplot_titles=titles, **subplots)
        for k, traces in enumerate(data.values(), start=1):
            fig.add_traces([on(trace, k) for trace in traces])
    else:
        fig = go.Figure(data=list(data))
    fig.update_layout({**look, **layout, "meta": {"alt": alt}})
    if "title" in layout:
        fig.update_layout(title={"y": 0.98, "yanchor": "top"}, margin_t=80)
    fig.update_xaxes(showgrid=True, zeroline=False, automargin=True)
    fig.update_yaxes(showgrid=True, zeroline=False, automargin=True)
    return fig


def on(trace, panel: int):
    """The trace, drawn in panel number 1, 2, ... of a figure with panels."""
    number = "" if panel == 1 else str(panel)
    return trace.update(xaxis=f"x{number}", yaxis=f"y{number}")


def decades(title: str, dtick: float = 1, **extra) -> dict:
    """A logarithmic axis with its ticks at powers of ten."""
    return {"title": title, "type": "log", "exponentformat": "power", "dtick": dtick, **extra}


def plane(x: Sequence[float], y: Sequence[float] | None = None, square: bool = True) -> dict[str, dict]:
    """Layout of a plane of two weights seen from x[0] to x[1] and y[0] to y[1] (default: x): figure(alt, data, **plane(...)).
    square: a unit is as long on either axis."""
    first, second = (
        {"title": f"<i>w</i><sub>{i}</sub>", "range": plain(r, 3)} for i, r in ((1, x), (2, x if y is None else y))
    )
    if square:
        first, second = first | {"constrain": "domain"}, second | {"constrain": "domain", "scaleanchor": "x"}
    return {"xaxis": first, "yaxis": second}


def rule(fig: go.Figure, x: float | None = None, y: float | None = None, text: str = "", **extra) -> go.Figure:
    """A thin dotted reference line at x or at y, with a word beside it. extra: line (its properties), row, col, and
    annotation_... as for plotly's add_vline and add_hline."""
    look = {"color": NEUTRAL, "dash": "dot", "width": 1} | extra.pop("line", {})
    words = {"annotation_text": text} if text else {}
    if x is not None:
        return fig.add_vline(x=x, line=look, **words, **extra)
    return fig.add_hline(y=y, line=look, **words, **extra)


# Views


def switch(
    fig: go.Figure, name: str, views: Mapping[str, Iterable | tuple[Iterable, Mapping]], active: int | str = 0
) -> go.Figure:
    """A menu that shows one of several sets of traces: label -> traces, or (traces, changes of the layout).

    The traces are added to the figure; what it has already stays. A view without traces changes the layout alone. A trace
    whose `visible` is "legendonly" is so whenever its view is chosen. Several menus stand beside each other.
    """
    labels = list(views)
    active = labels.index(active) if isinstance(active, str) else active
    split = {label: view if isinstance(view, tuple) else (view, {}) for label, view in views.items()}
    first, owners, shown = len(fig.data), [], []
    for label, (traces, _) in split.items():
        for trace in traces:
            owners.append(label)
            shown.append(True if trace.visible is None else trace.visible)
            fig.add_trace(trace.update(visible=shown[-1] if label == labels[active] else False))
    where = list(range(first, first + len(owners)))
    options = {}
    for label, (_, layout) in split.items():
        mask = [see if owner == label else False for owner, see in zip(owners, shown, strict=True)]
        options[label] = ({"visible": mask}, dict(layout), where) if where else ({}, dict(layout))
    fig.update_layout({k: v for k, v in split[labels[active]][1].items()})
    return add_menu(fig, name, options, active)


def scrub(
    fig: go.Figure, prefix: str, frames: Mapping[str, Sequence], active: int = 0, redraw: bool = False
) -> go.Figure:
    """A slider over `frames`: label -> traces, as many in each. The active ones are added to the figure; a frame keeps of
    its traces what differs between frames. redraw: for heat maps."""
    first, labels = len(fig.data), list(frames)
    made = {label: [trace.to_plotly_json() for trace in traces] for label, traces in frames.items()}
    fig.add_traces(frames[labels[active]])
    count = len(made[labels[0]])
    changing = [
        {
            k
            for label in labels
            for k in made[label][i]
            if any(made[label][i].get(k) != made[o][i].get(k) for o in labels)
        }
        for i in range(count)
    ]
    slim = {
        label: [{"type": t["type"]} | {k: t[k] for k in changing[i] if k in t} for i, t in enumerate(traces)]
        for label, traces in made.items()
    }
    return add_slider(fig, slim, prefix, active, redraw, range(first, first + count))


def swap(
    fig: go.Figure, name: str, views: Mapping[str, Sequence | tuple[Sequence, Mapping]], active: int | str = 0
) -> go.Figure:
    """A menu over states of the same traces: label -> traces, as many in each, or (traces, changes of the layout). The active
    ones are added to the figure; an option changes of its traces what differs between the states. For sets of traces that
    have little in common: `switch`."""
    labels, first = list(views), len(fig.data)
    active = labels.index(active) if isinstance(active, str) else active
    split = {label: view if isinstance(view, tuple) else (view, {}) for label, view in views.items()}
    changes = _changes([traces for traces, _ in split.values()])
    traces, layout = split[labels[active]]
    fig.add_traces(traces).update_layout(dict(layout))
    where = list(range(first, len(fig.data)))
    options = {
        label: (change, dict(own), where) for change, (label, (_, own)) in zip(changes, split.items(), strict=True)
    }
    return add_menu(fig, name, options, active)


def _changes(states: Sequence[Sequence]) -> list[dict[str, list]]:
    """For each state of some traces: property -> its values in all of them, for the properties that differ between states."""
    made = [[trace.to_plotly_json() for trace in traces] for traces in states]
    keys = sorted({key for traces in made for trace in traces for key in trace})
    columns = {
        key: [[trace.get(key, True if key == "visible" else None) for trace in traces] for traces in made]
        for key in keys
    }
    differing = [key for key, values in columns.items() if any(value != values[0] for value in values)]
    return [{key: columns[key][i] for key in differing} for i in range(len(states))]


def cross(
    fig: go.Figure,
    menus: Mapping[str, Mapping],
    draw: Callable[..., Sequence],
    layouts: Mapping[str, Mapping] = {},  # noqa: B006  read only
    active: tuple[int, int] = (0, 0),
) -> go.Figure:
    """Two menus: the first chooses among sets of traces as `switch` does, the second what they show as `swap` does.

    menus: name -> (label -> value), the two in their order. draw: the traces for a value of each, as many whatever the
    second. layouts: label of either menu -> changes of the layout. active: the option of each at the start.
    """
    (one, rows), (two, columns) = menus.items()
    states = [[draw(row, column) for row in rows.values()] for column in columns.values()]
    changes = _changes([[trace for traces in state for trace in traces] for state in states])
    first = len(fig.data)
    switch(fig, one, {k: (t, layouts.get(k, {})) for k, t in zip(rows, states[active[1]], strict=True)}, active[0])
    where = list(range(first, len(fig.data)))
    options = {k: (change, dict(layouts.get(k, {})), where) for k, change in zip(columns, changes, strict=True)}
    fig.update_layout(dict(layouts.get(list(columns)[active[1]], {})))
    return add_menu(fig, two, options, active[1])


def choose(
    fig: go.Figure, name: str, views: Mapping[str, Sequence[str] | tuple[Sequence[str], Mapping]], active: int = 0
) -> go.Figure:
    """A menu over traces that the figure has already, such as those of a slider: label -> the `meta` of traces to show, or
    (these, changes of the layout).

    Of the traces whose `meta` some view names the others are hidden. `switch` for sets of traces that share none.
    """
    split = {label: view if isinstance(view, tuple) else (view, {}) for label, view in views.items()}
    named = set().union(*(shown for shown, _ in split.values()))
    own = {i: trace.meta for i, trace in enumerate(fig.data) if trace.meta in named}
    masks = {label: [meta in shown for meta in own.values()] for label, (shown, _) in split.items()}
    for i, see in zip(own, list(masks.values())[active], strict=True):
        fig.data[i].visible = see
    options = {label: ({"visible": mask}, dict(split[label][1]), list(own)) for label, mask in masks.items()}
    return add_menu(fig, name, options, active)


def add_slider(
    fig: go.Figure,
    frames: Mapping[str, Sequence],
    prefix: str,
    active: int = 0,
    redraw: bool = False,
    traces: Sequence[int] | None = None,
) -> go.Figure:
    """Scrub through `frames` (label -> traces that replace `traces`, by default the first ones); `redraw` for heatmaps.

    The figure's own traces should already show frame number `active`; `scrub` sees to that.
    """
    fig.frames = [
        go.Frame(name=label, data=list(data), traces=list(traces) if traces is not None else list(range(len(data))))
        for label, data in frames.items()
    ]
    how = {"mode": "immediate", "frame": {"duration": 0, "redraw": redraw}, "transition": {"duration": 0}}
    steps = [{"method": "animate", "label": label, "args": [[label], how]} for label in frames]
    fig.update_layout(
        sliders=[{"active": active, "steps": steps, "currentvalue": {"prefix": prefix + " "}, "pad": {"t": 45}}]
    )
    return fig


def add_menu(fig: go.Figure, name: str, options: Mapping[str, tuple], active: int = 0) -> go.Figure:
    """A choice: label -> (changes of the traces, changes of the layout), and the numbers of the traces where not all are
    meant. Several menus stand beside each other. `switch` shows one of several sets of traces."""
    menus = list(fig.layout.updatemenus or ())
    buttons = [{"label": label, "method": "update", "args": list(change)} for label, change in options.items()]
    menus.append(
        {"name": name, "buttons": buttons, "active": active, "x": 0.33 * len(menus), "y": 1.3, "xanchor": "left"}
    )
    fig.update_layout(updatemenus=menus, margin_t=110)  # room for plotly's own menus; the book has native ones
    return fig


# Tables


def vector(values: Iterable[float], spec: str = "g") -> str:
    """ "(1, -1)": the numbers in one format, and no minus before a zero."""
    return "(" + ", ".join(format(value + 0.0, spec) for value in values) + ")"


def link(words: str, page: str, label: str = "") -> Markup:
    """Words that lead to a place of the book from a cell of `table`, which may stand beside others (+). page: its name without
    an ending; label: of the section, as it is in the page's address."""
    return Markup('<a href="{}">{}</a>').format(f"{page}.html#{label}".rstrip("#"), words)


def table(
    header: Sequence[str], rows: Iterable[Sequence], caption: str, formats: Sequence[str] = (), folded: bool = False
) -> HTML:
    """A plain accessible table; cells are escaped but for what is markup already (`link`).

    formats: a format specification for each column, such as ".3f", for what is not a string already. folded: only the caption
    is seen until a reader opens it.
    """
    from IPython.display import HTML  # here, so that the package works without IPython

    if formats:
        rows = [[v if isinstance(v, str) else format(v, f) for v, f in zip(r, formats, strict=True)] for r in rows]

    def seen_words(value) -> str:
        return value.striptags() if isinstance(value, Markup) else str(value)

    def words(value) -> bool:  # they may wrap and stand at the left, numbers do neither
        return not re.match(r"\W*(\d|$)", seen_words(value))

    def data_cell(value) -> str:
        kind = "words long" if len(seen_words(value)) > 60 else "words"
        return f'<td class="{kind}">{escape(value)}</td>' if words(value) else f"<td>{escape(value)}</td>"

    rows = list(rows)
    wordy = [2 * sum(map(words, column)) > len(rows) for column in zip(*rows, strict=True)] or [False] * len(header)
    head = "".join(
        f'<th scope="col"{" class=words" if wide else ""}>{escape(h)}</th>'
        for h, wide in zip(header, wordy, strict=True)
    )
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(map(data_cell, row[1:])) + "</tr>" for row in rows
    )
    seen = "" if folded else f"<caption>{escape(caption)}</caption>"
    whole = (
        f'<div class="table-wrap" tabindex="0" role="region" aria-label="{html.escape(caption, quote=True)}">'
        f'<table class="data">{seen}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )
    return HTML(f"<details><summary>{escape(caption)}</summary>{whole}</details>" if folded else whole)
