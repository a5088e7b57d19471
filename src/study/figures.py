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

if TYPE_CHECKING:
    from IPython.display import HTML

    from .statistics import Summary

#: name -> (colour, dash). The colours keep a contrast of at least 3 to 1 on the light and on the dark page.
METHODS: dict[str, tuple[str, str]] = {
    "Full precision": ("#7a7a7a", "solid"),
    "BinaryConnect": ("#c8571b", "solid"),
    "BinaryConnect (deterministic)": ("#c8571b", "dot"),
    "Straight-through": ("#b3871a", "solid"),
    "k-bit straight-through": ("#b3871a", "dot"),
    "ProxQuant (L1)": ("#2e8b57", "solid"),
    "ProxQuant (L2)": ("#2e8b57", "dash"),
    "ProxQuant (squared L2)": ("#2e8b57", "dot"),
    "ASkewSGD": ("#2f7fd1", "solid"),
    "Modified ASkewSGD": ("#8a63d2", "solid"),
    "SGDA (ε = 0.01)": ("#d1495b", "solid"),
    "SGDA (ε = 0.5)": ("#d1495b", "dash"),
    "SGDA": ("#d1495b", "dot"),
    "Muehlebach–Jordan": ("#128c7e", "solid"),
    "Projected gradient": ("#128c7e", "dash"),
    "SGD": ("#7a7a7a", "dashdot"),
    "SGD(M)": ("#7a7a7a", "dash"),
    "Bop": ("#8a63d2", "dash"),
    "AdaGrad": ("#b3871a", "dash"),
    "Adam": ("#d24a43", "solid"),
    "AMSGrad": ("#c8571b", "dash"),
    "AdaBound": ("#2e8b57", "longdash"),
    "AMSBound": ("#128c7e", "dot"),
    "BAMSProd": ("#3a7bd5", "solid"),
}
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


def figure(alt: str, data: Iterable = (), **layout) -> go.Figure:
    """A figure with the text alternative that every figure of the book must carry, and the book's plain look."""
    look = {
        "template": "none",
        "margin": {"l": 60, "r": 20, "t": 40, "b": 50},
        "height": 420,
        "hovermode": "closest",
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
    }
    fig = go.Figure(data=list(data), layout={**look, **layout, "meta": {"alt": alt}})
    if "title" in layout:
        fig.update_layout(title={"y": 0.98, "yanchor": "top"}, margin_t=80)
    fig.update_xaxes(showgrid=True, zeroline=False, automargin=True)
    fig.update_yaxes(showgrid=True, zeroline=False, automargin=True)
    return fig


def band(x: Sequence, low: Sequence, high: Sequence, colour: str, name: str, **extra) -> go.Scatter:
    """A shaded interval around a curve, as one closed trace."""
    x, low, high = list(x), list(low), list(high)
    return go.Scatter(
        x=x + x[::-1],
        y=high + low[::-1],
        mode="lines",
        fill="toself",
        fillcolor=faded(colour),
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        name=name,
        **extra,
    )


def contours(loss: Callable, x: Sequence[float], y: Sequence[float], count: int = 15, **extra) -> go.Contour:
    """Level curves of `loss` (a function of an array (..., 2) of points) over the grid of x and y, as thin grey lines."""
    grid = np.stack(np.meshgrid(np.asarray(x), np.asarray(y)), axis=-1)
    return go.Contour(
        x=rounded(x),
        y=rounded(y),
        z=rounded(np.asarray(loss(grid), dtype=float), 3),
        ncontours=count,
        contours={"coloring": "lines"},
        colorscale=[[0, NEUTRAL], [1, NEUTRAL]],
        line={"width": 1},
        opacity=0.6,
        showscale=False,
        **{"hovertemplate": "loss %{z:.3f}<extra></extra>", "name": "loss", **extra},
    )


def add_slider(
    fig: go.Figure,
    frames: Mapping[str, Sequence],
    prefix: str,
    active: int = 0,
    redraw: bool = False,
    traces: Sequence[int] | None = None,
) -> go.Figure:
    """Scrub through `frames` (label -> traces that replace `traces`, by default the first ones); `redraw` for heatmaps.

    The figure's own traces should already show frame number `active`.
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


def add_menu(fig: go.Figure, name: str, options: Mapping[str, tuple[dict, dict]], active: int = 0) -> go.Figure:
    """A choice: label -> (changes of the traces, changes of the layout). Several menus stand beside each other."""
    menus = list(fig.layout.updatemenus or ())
    buttons = [{"label": label, "method": "update", "args": list(change)} for label, change in options.items()]
    menus.append(
        {"name": name, "buttons": buttons, "active": active, "x": 0.33 * len(menus), "y": 1.3, "xanchor": "left"}
    )
    fig.update_layout(updatemenus=menus, margin_t=110)  # room for plotly's own menus; the book has native ones
    return fig


def add_intervals(
    fig: go.Figure,
    measured: Mapping[str, Summary],
    printed: Mapping[str, float],
    visible: bool = True,
    **where,
) -> go.Figure:
    """One row per method: mean and central 95 % of the seeds, and a diamond at the number the paper prints. Two traces.

    where: row and col of a figure with subplots.
    """
    names = list(measured)
    mean = [measured[m].mean for m in names]
    bar = {
        "array": rounded([measured[m].central[1] - measured[m].mean for m in names], 3),
        "arrayminus": rounded([measured[m].mean - measured[m].central[0] for m in names], 3),
        "color": NEUTRAL,
    }
    fig.add_trace(
        go.Scatter(
            x=rounded(mean), y=names, mode="markers", name="measured", visible=visible, error_x=bar,
            marker={"size": 9, "color": [METHODS[m][0] for m in names]},
            hovertemplate="%{y}: %{x:.4f}<extra></extra>", showlegend=False,
        ),
        **where,
    )  # fmt: skip
    rows = [m for m in names if m in printed]
    fig.add_trace(
        go.Scatter(
            x=[printed[m] for m in rows], y=rows, mode="markers", name="printed in the paper", visible=visible,
            marker={"size": 10, "symbol": "diamond-open", "color": PRINTED, "line": {"width": 2}},
            hovertemplate="%{y}: printed %{x}<extra></extra>",
        ),
        **where,
    )  # fmt: skip
    return fig


def table(header: Sequence[str], rows: Iterable[Sequence], caption: str) -> HTML:
    """A plain accessible table; cells are escaped."""
    from IPython.display import HTML  # here, so that the package works without IPython

    def cell(value) -> str:
        return html.escape(str(value))

    def data_cell(value) -> str:
        words = not re.match(r"\W*(\d|$)", str(value))  # words may wrap, numbers do not
        kind = "words long" if len(str(value)) > 60 else "words"
        return f'<td class="{kind}">{cell(value)}</td>' if words else f"<td>{cell(value)}</td>"

    head = "".join(f'<th scope="col">{cell(h)}</th>' for h in header)
    body = "".join(
        f'<tr><th scope="row">{cell(row[0])}</th>' + "".join(map(data_cell, row[1:])) + "</tr>" for row in rows
    )
    return HTML(
        f'<div class="table-wrap" tabindex="0" role="region" aria-label="{html.escape(caption, quote=True)}">'
        f'<table class="data"><caption>{html.escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
