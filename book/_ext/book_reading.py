"""What helps a reader along: chapters carry their numbers, openers say how long a page takes, words explain themselves.

The number of a chapter is that of its file, "5b" of 05b_corrected_theorem, wherever its title is shown. An opener is an
admonition of the class `opener`. What explains itself stands in book/terms.yml; `:::{terms}` lists the words (notation page).
"""

from __future__ import annotations

import functools
import html
import re
from pathlib import Path

import yaml
from bs4 import BeautifulSoup
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

FILE = Path(__file__).resolve().parents[1] / "terms.yml"
HOME = "book/notation"
PACE = 230  # words a minute, in book/look.py, too
CHAPTER = re.compile(r"notebooks/0*(\d+[a-z]?)_")
MINUTES = "{{minutes}}"  # what stands for them until the page is whole, with the outputs of its code
#: Where no hint is put: what has a look or a link of its own, or opens (the title of a dropdown).
CLOSED = (nodes.title, nodes.reference, nodes.literal, nodes.term, nodes.caption, nodes.rubric, nodes.strong)


@functools.cache
def known() -> dict:
    """What book/terms.yml says; nothing in a project without it."""
    nothing = {"terms": {}, "symbols": {}, "other": []}
    return yaml.safe_load(FILE.read_text(encoding="utf-8")) if FILE.exists() else nothing


def anchor(term: str) -> str:
    return f"term-{term.replace(' ', '-')}"


class explained(nodes.Inline, nodes.TextElement):
    """A word or symbol with its meaning, a link to the notation. Attributes: meaning, place (an anchor there)."""


def _visit_hint(writer, node) -> None:
    to = writer.builder.get_relative_uri(writer.builder.current_docname, HOME)
    meaning = html.escape(node["meaning"])
    label = f' aria-label="{meaning}"' if isinstance(node[0], nodes.math) else ""  # a formula is no text
    writer.body.append(f'<a class="hint" href="{to}#{node["place"]}" data-meaning="{meaning}"{label}>')


def _depart_hint(writer, node) -> None:
    writer.body.append("</a>")


class TermsDirective(SphinxDirective):
    def run(self):
        self.env.note_dependency(str(FILE))
        found = nodes.definition_list()
        for term, about in known()["terms"].items():
            meaning = nodes.definition("", nodes.paragraph("", about["meaning"]))
            found += nodes.definition_list_item("", nodes.term("", term, ids=[anchor(term)]), meaning)
        return [found]


def _number(app, doctree) -> None:
    """Before Sphinx collects the titles."""
    chapter = CHAPTER.match(app.env.docname)
    title = next(iter(doctree.findall(nodes.title)), None)
    if chapter and title:
        title.insert(0, nodes.Text(f"{chapter[1]}. "))


def visible_words(body: str) -> int:
    """Words of a page's HTML that are read with all folds closed; a formula counts as one."""
    page = BeautifulSoup(body, "html.parser")
    for node in page.select(
        "script, style, noscript, .headerlink, .sr-only, summary .expanded, details > :not(summary), .dropdown > :not(.admonition-title)"
    ):
        node.decompose()
    for formula in page.select(".math"):
        formula.string = "x"
    return len(page.get_text(" ").split())


def _place_for_minutes(app, doctree) -> None:
    for opener in doctree.findall(nodes.admonition):
        if "opener" in opener["classes"]:
            opener += nodes.paragraph("", "", nodes.strong("", "Time."), nodes.Text(f" {MINUTES}"))


def _minutes(app, page, template, context, doctree) -> None:
    if MINUTES in context.get("body", ""):
        minutes = max(1, round(visible_words(context["body"]) / PACE))
        words = f"About {minutes} minutes of reading." if minutes > 1 else "About a minute of reading."
        context["body"] = context["body"].replace(MINUTES, words)


def _open_texts(node: nodes.Node):
    """Texts and formulas of paragraphs and lists, in their order, that may get a hint."""
    for child in node.children:
        if isinstance(child, nodes.math) or (isinstance(child, nodes.Text) and isinstance(node, nodes.TextElement)):
            yield child
        elif not isinstance(child, CLOSED) and not getattr(child, "tagname", "").startswith(
            ("pending", "dropdown_title")
        ):
            if not isinstance(child, nodes.table | nodes.literal_block | nodes.raw | nodes.math_block):
                yield from _open_texts(child)


def _hints(app, doctree, docname: str) -> None:
    """The first of each word and symbol on a chapter's page, the landing page and the playground."""
    if not docname.startswith(("notebooks/", "book/index", "book/playground")) or not known()["terms"]:
        return
    terms = {form: term for term, about in known()["terms"].items() for form in about["forms"]}
    form_of = re.compile(rf"\b({'|'.join(map(re.escape, terms))})\b", re.IGNORECASE)
    symbols = {} if docname in known()["other"] else dict(known()["symbols"])
    left = set(terms.values())
    for text in list(_open_texts(doctree)):
        if isinstance(text, nodes.math):
            if meaning := symbols.pop(text.astext().strip(), None):
                text.replace_self(explained("", "", text.deepcopy(), meaning=meaning, place="notation"))
            continue
        pieces, rest = [], text.astext()
        while word := next((m for m in form_of.finditer(rest) if terms[m[0].lower()] in left), None):
            term = terms[word[0].lower()]
            left.discard(term)
            meaning = known()["terms"][term]["meaning"]
            pieces += [nodes.Text(rest[: word.start()]), explained("", word[0], meaning=meaning, place=anchor(term))]
            rest = rest[word.end() :]
        if pieces:
            text.parent.replace(text, [*pieces, nodes.Text(rest)])


def setup(app) -> dict:
    app.add_node(explained, html=(_visit_hint, _depart_hint))
    app.add_directive("terms", TermsDirective)
    app.connect("doctree-read", _number, priority=100)
    app.connect("doctree-read", _place_for_minutes, priority=100)
    app.connect("html-page-context", _minutes)
    app.connect("doctree-resolved", _hints)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "env_version": 2}
