"""Search: an index of what a reader looks for (sections, equations, figures, checked statements), ranked in the browser.

Sphinx's own index ranks pages by how many of their words match. Here each section, numbered equation, figure and statement of
the claims file is an entry of its own with a title, so that "Theorem 3" finds the section that treats it. book/search.yml adds
words that a page is looked for by but does not say. book/_static/search.js ranks and shows.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml
from docutils import nodes

from book_claims import FILE as CLAIMS
from book_claims import claims
from book_figures import NAME

FILE = "search-index.js"
KEYWORDS = Path(__file__).resolve().parents[1] / "search.yml"
TEX = {
    r"\varepsilon": "ε",
    r"\epsilon": "ε",
    r"\psi": "ψ",
    r"\varphi": "φ",
    r"\alpha": "α",
    r"\beta": "β",
    r"\gamma": "γ",
}
TEX |= {r"\lambda": "λ", r"\eta": "η", r"\nabla": "∇", r"\le": "≤", r"\ge": "≥", r"\ell": "ℓ", r"\in": "∈", r"\pm": "±"}


def plain(tex: str) -> str:
    """TeX as a snippet can show it: symbols for their names, no commands and braces."""
    tex = re.sub(r"\\(?:text|mathrm|operatorname|mathbb|mathcal|hat|bar)\b", "", tex)
    tex = re.sub(r"\\[a-zA-Z]+", lambda m: TEX.get(m[0], " "), tex)
    return re.sub(r"\s+", " ", re.sub(r"[{}$\\&]|\^\\top", "", tex)).strip()


def words(node: nodes.Node) -> str:
    """The text of a node without code, figures and TeX."""
    if isinstance(node, nodes.Text):
        return node.astext()
    if isinstance(node, nodes.math):
        return plain(node.astext())
    if isinstance(node, nodes.raw | nodes.literal_block | nodes.math_block | nodes.comment | nodes.section):
        return ""
    joined = "" if isinstance(node, nodes.TextElement) else " "
    return joined.join(words(child) for child in node.children)


def entries(docname: str, doctree: nodes.document) -> list[dict]:
    """kind, title, address and text of what a page offers."""
    url = f"{docname}.html"
    page = words(next(doctree.findall(nodes.title))).strip()
    found = []
    for section in doctree.findall(nodes.section):
        if not isinstance(section[0], nodes.title):
            continue  # a proof or theorem, without a title of its own
        title = words(section[0]).strip()
        top = section.parent is doctree
        text = " ".join(words(child) for child in section.children[1:])
        address = url if top else f"{url}#{section['ids'][0]}"
        found.append({"kind": "page" if top else "section", "title": title, "url": address, "text": text})
    for block in doctree.findall(nodes.math_block):
        for tag in re.findall(r"\\tag\{\$?([^}$]+)\$?\}", block.astext()):
            where = next((i for i in [*block["ids"], *block.parent["ids"]] if i.startswith(("eq-", "equation-"))), None)
            if where:
                earlier = block.parent[: block.parent.index(block)]
                before = next((words(n) for n in reversed(earlier) if isinstance(n, nodes.paragraph)), "")
                title = f"Equation ({plain(tag)})"
                found.append({"kind": "equation", "title": title, "url": f"{url}#{where}", "text": before})
    for figure in (node for node in doctree.findall(nodes.raw) if "figure" in node):
        name = re.search(r'id="([^"]+)"', figure.astext())[1]
        number = re.search(r">(Figure [\w.]+)<", figure.astext())[1]
        alt = re.search(r'class="figure-alt">(.*?)</span>', figure.astext(), re.S)[1]
        assert name != NAME
        title = f"{number}: {re.sub('<[^>]+>', '', figure['figure'])}"
        found.append({"kind": "figure", "title": title, "url": f"{url}#{name}", "text": alt})
    for entry in found:
        entry["page"] = page
        entry["text"] = re.sub(r"\s+", " ", entry["text"]).strip()
    return found


def statements(env) -> list[dict]:
    """The rows of the claims file, at the section that treats them."""
    labels = env.get_domain("std").anonlabels
    found = []
    for row in claims() if CLAIMS.exists() else ():
        if (label := labels.get(row["see"].lower())) is None:
            continue
        docname, anchor = label
        url = f"{docname}.html#{anchor}" if anchor else f"{docname}.html"
        own = "" if row["source"] == "paper" else f" ({row['source']})"
        text = f"{row['about']}. {plain(row.get('right', ''))}"
        title = f"{row['item']}{own}: {row['verdict']}"
        found.append(
            {"kind": "statement", "title": title, "url": url, "page": env.titles[docname].astext(), "text": text}
        )
    return found


def _write(app, exception) -> None:
    if exception or app.builder.format != "html":
        return
    index = [entry for name in sorted(app.env.found_docs) for entry in entries(name, app.env.get_doctree(name))]
    index += statements(app.env)
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
