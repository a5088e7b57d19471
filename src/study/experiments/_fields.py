"""The figure of the tuned methods wherever they were compared: every seed, means, intervals."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from .. import figures as fg
from ..statistics import summarise
from ..vision.comparison import FIELDS, FULL_PRECISION, Scores


def draw(alt: str, title: str, fields: Mapping[str, Scores], rounded: Mapping[int, float]) -> go.Figure:
    """A row per method; a menu over the fields, if there are several. rounded: full precision's scores with its weights rounded,
    in the first of the fields."""
    fig = fg.figure(alt, title=title, height=520, margin={"l": 190})
    views = {where: _view(where, scores, {} if i else rounded) for i, (where, scores) in enumerate(fields.items())}
    if len(views) > 1:
        return fg.swap(fig, "Where", views)
    ((traces, layout),) = views.values()
    return fig.add_traces(traces).update_layout(layout)


def _view(where: str, scores: Scores, rounded: Mapping[int, float]) -> tuple[list[go.Scatter], dict]:
    """Each seed, then means with intervals; and the axes."""
    field, step = FIELDS[where], 5 if FIELDS[where].more else 0.1
    named = {"Full precision, not rounded": scores[FULL_PRECISION]}
    named |= {name: row for name, row in scores.items() if name != FULL_PRECISION}
    named |= {"Full precision, rounded": rounded} if rounded else {}
    runs = {name: [field.factor * x for x in row.values()] for name, row in named.items()}
    found = [summarise(x) for x in runs.values()]
    middle, low, high = np.array([(s.mean, *s.confidence) for s in found]).T
    names = [name for name, x in runs.items() for _ in x]
    words = [f"{name}, seed {s}: {x:.4g}" for name in runs for s, x in zip(named[name], runs[name], strict=True)]
    every = [x for row in runs.values() for x in row]
    look = {"colour": fg.NEUTRAL, "symbol": "circle-open", "size": 7}
    traces = [
        fg.points(every, names, text=words, hoverinfo="text", **look),
        fg.points(
            middle, list(runs), colour="#c8571b", symbol="diamond", size=5, error_x=fg.whiskers(middle, low, high, None)
        ),
    ]
    ends = [(min(every) // step - 1) * step, (max(every) // step + 1) * step]
    order = {"categoryorder": "array", "categoryarray": list(runs)[::-1]}
    return traces, {"xaxis": {"title": field.words, "range": ends}, "yaxis": order}
