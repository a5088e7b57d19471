"""Turn plotly's own notebook output into a light placeholder that book/_static/figures.js draws in the reader's browser."""

from __future__ import annotations

import copy
import html
import json
import re

from docutils import nodes
from myst_nb.core import render

from book_ranges import fix

MIME = "application/vnd.plotly.v1+json"
FIGURE_CLASS = "plotly-figure"
HEIGHT = 450  # plotly's own default
NUMBER, NAME = "@figure-number@", "@figure-name@"  # known when the whole page has been read


class PlotlyFigure:
    """A MyST-NB mime renderer: a figure element with the figure's JSON, its caption and its text alternative."""

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
        node = nodes.raw("", placeholder(data.content, alt), format="html")
        node["figure"] = caption(data.content["layout"], alt)
        return [node]


def caption(layout: dict, alt: str) -> str:
    """What stands under a figure's number: its title, else the first sentence of its text alternative, as HTML."""
    title = layout.get("title")
    title = (title.get("text") if isinstance(title, dict) else title) or ""
    return _few_tags(title) or html.escape(re.split(r"(?<=[.!?])\s", alt, maxsplit=1)[0])


def placeholder(figure: dict, alt: str) -> str:
    """The HTML of one figure. A plotly title becomes part of a real caption, which wraps and can be read aloud."""
    layout = {key: value for key, value in figure["layout"].items() if key != "title"}
    payload = fix(copy.deepcopy({"data": figure["data"], "layout": layout, "frames": figure.get("frames", [])}))
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    height = int(layout.get("height") or HEIGHT)
    tag = "b" if figure["layout"].get("title") else "span"
    return (
        f'<figure class="{FIGURE_CLASS}" id="{NAME}" role="group" aria-labelledby="{NAME}-caption">'
        f'<figcaption id="{NAME}-caption"><a class="figure-number" href="#{NAME}">Figure {NUMBER}</a> '
        f'<{tag} class="figure-title">{caption(figure["layout"], alt)}</{tag}> '
        f'<span class="figure-alt">{html.escape(alt)}</span></figcaption>'
        f'<div class="figure-plot" aria-hidden="true" style="min-height:{height}px"></div>'
        f'<script type="application/json">{text}</script>'
        f"<noscript><p>This interactive figure needs JavaScript. {html.escape(alt)}</p></noscript>"
        "</figure>"
    )


def _few_tags(title: str) -> str:
    """A plotly title as HTML: of its tags those that plotly knows and that need no attributes, all else as words."""
    return re.sub(r"&lt;(/?(?:b|i|em|sub|sup|br)/?)&gt;", r"<\1>", html.escape(html.unescape(title)))


def chapter(docname: str) -> str:
    """ "8c." for notebooks/08c_sensitivity; "" for a page without a number."""
    found = re.match(r"0*(\d+[a-z]?)_", docname.rsplit("/", 1)[-1])
    return f"{found[1]}." if found else ""


def address(title: str) -> str:
    """The figure's address on its page, from its caption's first words: it stays when figures are added before it."""
    words = re.sub(r"<[^>]*>", "", html.unescape(title)).lower()
    return "fig-" + "-".join(re.findall(r"[a-z0-9]+", words)[:6])


def _number(app, doctree) -> None:
    """Number the figures of a page in their order, and give each an address of its own."""
    taken: dict[str, int] = {}
    figures = [node for node in doctree.findall(nodes.raw) if "figure" in node]
    for count, node in enumerate(figures, start=1):
        name = address(node["figure"])
        taken[name] = taken.get(name, 0) + 1
        name += f"-{taken[name]}" * (taken[name] > 1)
        text = node.astext().replace(NAME, name).replace(NUMBER, f"{chapter(app.env.docname)}{count}", 1)
        node.children = [nodes.Text(text)]


def setup(app) -> dict:
    # MyST-NB finds mime renderers by entry points only. An entry point would make every book built with this Python
    # depend on this one, so the class is added to the list that MyST-NB keeps of them.
    renderers = render.load_mime_renders()
    if PlotlyFigure not in renderers:
        renderers.append(PlotlyFigure)
    app.connect("doctree-read", _number)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
