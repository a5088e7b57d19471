"""Turn plotly's own notebook output into a light placeholder that book/_static/figures.js draws in the reader's browser."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import plotly
from docutils import nodes
from myst_nb.core import render

MIME = "application/vnd.plotly.v1+json"
FIGURE_CLASS = "plotly-figure"
HEIGHT = 450  # plotly's own default


class PlotlyFigure:
    """A MyST-NB mime renderer: a figure element with the figure's JSON and its text alternative."""

    mime_priority_overrides = [("html", MIME, 1)]

    @staticmethod
    def handle_mime(renderer, data, inline):
        if data.mime_type != MIME or inline:
            return None
        layout = data.content["layout"]
        alt = (layout.get("meta") or {}).get("alt", "").strip() if isinstance(layout.get("meta"), dict) else ""
        if not alt:
            renderer.logger.warning(
                'a figure has no text alternative: set fig.layout.meta = {"alt": "..."}',
                subtype="figure_alt",
                line=data.line,
            )
        name = f"figure-cell-{data.cell_index}-{data.output_index or 0}"
        return [nodes.raw("", placeholder(data.content, alt, name), format="html")]


def placeholder(figure: dict, alt: str, name: str) -> str:
    """The HTML of one figure. A plotly title becomes a real caption, which wraps and can be read aloud."""
    layout = dict(figure["layout"])
    title = layout.pop("title", None)
    title = (title.get("text") if isinstance(title, dict) else title) or ""
    payload = {"data": figure["data"], "layout": layout, "frames": figure.get("frames", [])}
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    height = int(layout.get("height") or HEIGHT)
    caption = f'<span class="figure-title">{_few_tags(title)}</span> ' if title else ""
    return (
        f'<figure class="{FIGURE_CLASS}" role="group" aria-labelledby="{name}">'
        f'<figcaption id="{name}">{caption}<span class="figure-alt">{html.escape(alt)}</span></figcaption>'
        f'<div class="figure-plot" aria-hidden="true" style="min-height:{height}px"></div>'
        f'<script type="application/json">{text}</script>'
        f"<noscript><p>This interactive figure needs JavaScript. {html.escape(alt)}</p></noscript>"
        "</figure>"
    )


def _few_tags(title: str) -> str:
    """A plotly title as HTML: of its tags those that plotly knows and that need no attributes, all else as words."""
    return re.sub(r"&lt;(/?(?:b|i|em|sub|sup|br)/?)&gt;", r"<\1>", html.escape(html.unescape(title)))


def _add_plotly(app, config) -> None:
    """One local plotly.js for the whole book, from the installed package: the version that made the figures."""
    config.html_static_path.append(str(Path(plotly.__file__).parent / "package_data" / "plotly.min.js"))


def _load_plotly(app, page, template, context, doctree) -> None:
    """Only pages with figures load it; they do so at once, for the first figure should not wait for the page."""
    if doctree is not None and any(FIGURE_CLASS in raw.astext() for raw in doctree.findall(nodes.raw)):
        app.add_js_file("plotly.min.js", loading_method="async")


def setup(app) -> dict:
    # MyST-NB finds mime renderers by entry points only. An entry point would make every book built with this Python
    # depend on this one, so the class is added to the list that MyST-NB keeps of them.
    renderers = render.load_mime_renders()
    if PlotlyFigure not in renderers:
        renderers.append(PlotlyFigure)
    app.connect("config-inited", _add_plotly)
    app.connect("html-page-context", _load_plotly)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
