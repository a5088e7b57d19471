"""What others show of a page: its description, preview picture and citation; and the page for an address that is not there.

Addresses are absolute where the published address is known (BOOK_PAGES_URL, set when publishing).
"""

from __future__ import annotations

import html
import os
import re
from pathlib import Path

import yaml
from docutils import nodes
from pybtex.plugin import register_plugin
from pybtex.style.formatting.unsrt import Style as Unsorted
from pybtex.style.labels import BaseLabelStyle

from book_search import words

PREVIEW = "_static/readme.png"
LONGEST = 200  # characters of a description


def description(doctree: nodes.document) -> str:
    """The page's first paragraphs, cut at a sentence where possible."""
    text = ""
    for paragraph in doctree.findall(nodes.paragraph):
        text = f"{text} {words(paragraph)}".strip()
        if len(text) > 80:
            break
    text = re.sub(r"\s+", " ", text).removeprefix("Question. ")  # of an opener
    if len(text) <= LONGEST:
        return text
    sentences = re.match(rf"(.{{60,{LONGEST - 1}}}[.!?])\s", text)
    return sentences[1] if sentences else text[: LONGEST - 2].rsplit(" ", 1)[0] + " …"


def tags(title: str, about: str, page: str, citation: dict, base: str) -> str:
    """The meta elements of one page."""
    address = f"{base}{page}.html"
    named = {
        "description": about,
        "twitter:card": "summary_large_image",
        "citation_title": f"{title}. {citation['title']}" if title != citation["title"] else title,
        "citation_publication_date": str(citation["date-released"]).replace("-", "/"),
        "citation_online_date": str(citation["date-released"]).replace("-", "/"),
        "citation_language": "en",
    }
    shared = {"og:title": title, "og:description": about, "og:type": "article", "og:site_name": citation["title"]}
    if base:
        shared |= {"og:url": address, "og:image": f"{base}{PREVIEW}"}
        named["citation_public_url"] = address
    else:
        shared["og:image"] = "../" * page.count("/") + PREVIEW
    lines = [("name", key, value) for key, value in named.items()]
    lines += [
        ("name", "citation_author", a.get("name") or f"{a['given-names']} {a['family-names']}")
        for a in citation["authors"]
    ]
    lines += [("property", key, value) for key, value in shared.items()]
    text = "".join(f'<meta {kind}="{key}" content="{html.escape(value)}" />\n' for kind, key, value in lines)
    return text + (f'<link rel="canonical" href="{html.escape(address)}" />\n' if base else "")


def _base() -> str:
    url = os.environ.get("BOOK_PAGES_URL", "")
    return url.rstrip("/") + "/" if url else ""


def _add_tags(app, page, template, context, doctree) -> None:
    if page == "404":  # served for addresses in any folder
        context["metatags"] = f'<base href="{html.escape(_base() or "/")}" />\n' + context.get("metatags", "")
    if doctree is None or page not in app.env.found_docs:
        return
    source = Path(app.srcdir) / "CITATION.cff"
    if not source.exists():
        return
    citation = yaml.safe_load(source.read_text(encoding="utf-8"))
    title = app.env.titles[page].astext()
    context["metatags"] = context.get("metatags", "") + tags(title, description(doctree), page, citation, _base())


def _missing_page(app):
    body = (
        "<h1>This page is not here</h1>"
        "<p>The address may have changed. Search, start from the "
        f'<a href="{app.config.root_doc}.html">first page</a>, or choose a chapter at the side.</p>'
        '<form class="missing-search" action="search.html"><label for="missing-words">Search this book</label> '
        '<input id="missing-words" type="search" name="q" /> <button type="submit">Search</button></form>'
    )
    yield "404", {"title": "Page not found", "body": body, "meta": {}, "toc": "", "display_toc": False}, "page.html"


class AuthorYear(BaseLabelStyle):
    """The label that citations show in the text: "Leconte et al., 2023"."""

    def format_labels(self, entries):
        for entry in entries:
            people = [" ".join([*p.prelast_names, *p.last_names]) for p in entry.persons.get("author", [])]
            many = f"{people[0]} et al." if len(people) > 2 else " and ".join(people)
            yield f"{many or entry.key}, {entry.fields.get('year', 'n.d.')}"


class Listed(Unsorted):
    default_label_style = AuthorYear
    default_sorting_style = "author_year_title"


def setup(app) -> dict:
    register_plugin("pybtex.style.formatting", "author_year", Listed, force=True)
    app.connect("html-page-context", _add_tags)
    app.connect("html-collect-pages", _missing_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
