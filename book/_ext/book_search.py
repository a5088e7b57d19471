"""Search: an index of what a reader looks for (sections, equations, figures, checked statements), ranked in the browser.

Sphinx's own index ranks pages by how many of their words match. Here each section, numbered equation, figure and statement of
the claims file is an entry of its own with a title, so that "Theorem 3" finds the section that treats it. book/search.yml adds
words that a page is looked for by but does not say. book/_static/search.js ranks and shows.
"""

from __future__ import annotations

import functools
import html
import json
import re
import textwrap
import unicodedata
from collections.abc import Callable
from pathlib import Path

import yaml
from docutils import nodes
from sphinx import addnodes

from book_claims import FILE as CLAIMS
from book_claims import anchor_of, claim_row, claims
from book_figures import NAME
from book_reading import MINUTES

FILE = "search-index.js"
KEYWORDS = Path(__file__).resolve().parents[1] / "search.yml"
NAMES = "varepsilon varphi nabla le ge ne ell in pm infty to cdot times sum prime approx star dots".split()
TEX = dict(zip(NAMES, "εφ∇≤≥≠ℓ∈±∞→·×Σ′≈*…", strict=True))
TEX |= {name: name for name in ("min", "max", "inf", "sup", "lim", "log", "exp", "arg", "sign", "clip", "prox")}
GREEK = "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi chi psi omega".split()
TEX |= {name: unicodedata.lookup(f"GREEK SMALL LETTER {name.replace('lambda', 'lamda')}") for name in GREEK}
TEX |= {name.capitalize(): TEX[name].upper() for name in GREEK}
LONGEST = 80  # characters of a figure's title


def plain(tex: str) -> str:
    """TeX as a snippet can show it: symbols for their names, no commands and braces, no index that has nothing to stand at."""
    tex = re.sub(r"\\[td]?frac(?:\{([^{}]*)\}\{([^{}]*)\}|(\d) ?(\w))", r"\1\3/\2\4", re.sub(r"\\[,;:!]", " ", tex))
    tex = re.sub(r"\\(?:text|mathrm|operatorname|mathbb|mathcal|hat|bar|tilde|widehat)\b|\^\\top|[{}$&]", "", tex)
    tex = re.sub(r"\\([a-zA-Z]+)", lambda m: TEX.get(m[1], " "), tex).replace("\\", "")
    tex = re.sub(r"(?<![^\s(,])\s*[_^]+|[_^]+(?![^\s_^,.;:)=<>≤≥\]|])", "", tex)
    return re.sub(r"\s+", " ", tex).strip()


def words(node: nodes.Node, resolve: Callable[[addnodes.pending_xref], nodes.Node | None] = lambda link: None) -> str:
    """The text of a node without code, figures, TeX and rows of claims. resolve: what a link is that has no words of its own."""
    if isinstance(node, nodes.Text):
        return node.astext()
    if isinstance(node, nodes.math):
        return plain(node.astext())
    if isinstance(node, nodes.raw | nodes.literal_block | nodes.math_block | nodes.comment | nodes.section | claim_row):
        return ""
    if isinstance(node, addnodes.pending_xref) and not node.get("refexplicit"):
        node = resolve(node) or nodes.inline()
    joined = "" if isinstance(node, nodes.TextElement) else " "
    return joined.join(words(child, resolve) for child in node.children)


def entries(docname: str, doctree: nodes.document, resolve: Callable = lambda link: None) -> list[dict]:
    """kind, title, address and text of what a page offers."""
    url, text_of = f"{docname}.html", functools.partial(words, resolve=resolve)
    page = text_of(next(doctree.findall(nodes.title))).strip()
    found = []
    for section in doctree.findall(nodes.section):
        if not isinstance(section[0], nodes.title):
            continue  # a proof or theorem, without a title of its own
        title = text_of(section[0]).strip()
        top = section.parent is doctree
        text = " ".join(text_of(child) for child in section.children[1:])
        address = url if top else f"{url}#{section['ids'][0]}"
        found.append({"kind": "page" if top else "section", "title": title, "url": address, "text": text})
    for block in doctree.findall(nodes.math_block):
        for tag in re.findall(r"\\tag\{\$?([^}$]+)\$?\}", block.astext()):
            where = next((i for i in [*block["ids"], *block.parent["ids"]] if i.startswith(("eq-", "equation-"))), None)
            if where:
                earlier = block.parent[: block.parent.index(block)]
                before = next((text_of(n) for n in reversed(earlier) if isinstance(n, nodes.paragraph)), "")
                title = f"Equation ({plain(tag)})"
                found.append({"kind": "equation", "title": title, "url": f"{url}#{where}", "text": before})
    for figure in (node for node in doctree.findall(nodes.raw) if "figure" in node):
        name = re.search(r'id="([^"]+)"', figure.astext())[1]
        number = re.search(r">(Figure [\w.]+)<", figure.astext())[1]
        alt = re.search(r'class="figure-alt">(.*?)</span>', figure.astext(), re.S)[1]
        assert name != NAME
        title = textwrap.shorten(html.unescape(re.sub("<[^>]+>", "", figure["figure"])), LONGEST, placeholder=" …")
        said = {"title": f"{number}: {title}", "url": f"{url}#{name}", "text": html.unescape(alt)}
        found.append({"kind": "figure"} | said)
    for entry in found:
        entry["page"] = page
        entry["text"] = " ".join(entry["text"].replace(f"Time. {MINUTES}", "").split())
    return found


def rows(doctree: nodes.document, resolve: Callable) -> dict[str, str]:
    """Anchor -> what a row of claims says on a page, without its heading, place and commands."""
    found = doctree.findall(claim_row)
    return {row[0][0]["ids"][0]: " ".join(words(child, resolve) for child in row[1:-2]) for row in found}


def statements(env, said: dict[str, str]) -> list[dict]:
    """The rows of the claims file, at the section that treats them. said: see `rows`."""
    labels = env.get_domain("std").anonlabels
    found = []
    for row in claims() if CLAIMS.exists() else ():
        if (label := labels.get(row["see"].lower())) is None:
            continue
        docname, anchor = label
        url = f"{docname}.html#{anchor}" if anchor else f"{docname}.html"
        own = "" if row["source"] == "paper" else f" ({row['source']})"
        text = " ".join(f"{row['about']}. {said.get(anchor_of(row), '')}".split())
        title = f"{row['item']}{own}: {row['verdict']}"
        found.append(
            {"kind": "statement", "title": title, "url": url, "page": env.titles[docname].astext(), "text": text}
        )
    return found


def _write(app, exception) -> None:
    if exception or app.builder.format != "html":
        return
    index, said = [], {}

    def resolve(link: addnodes.pending_xref) -> nodes.Node | None:
        domain, shown = app.env.domains.get(link.get("refdomain")), link[0].deepcopy() if len(link) else nodes.inline()
        place = app.env, link["refdoc"], app.builder, link["reftype"], link["reftarget"]
        return domain.resolve_xref(*place, link, shown) if domain else None

    for name in sorted(app.env.found_docs):
        doctree = app.env.get_doctree(name)
        index += entries(name, doctree, resolve)
        said |= rows(doctree, resolve)
    index += statements(app.env, said)
    extra = yaml.safe_load(KEYWORDS.read_text(encoding="utf-8")) if KEYWORDS.exists() else {}
    pages = {entry["url"]: entry for entry in index if entry["kind"] in ("page", "section")}
    for url, keywords in extra.items():
        if url in pages:
            pages[url]["keywords"] = keywords
    text = json.dumps(index, ensure_ascii=False, separators=(",", ":"))
    (Path(app.outdir) / FILE).write_text(f"window.searchIndex={text};\n", encoding="utf-8")


def setup(app) -> dict:
    app.connect("build-finished", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
