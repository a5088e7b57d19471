"""The claims file (data/paper/claims.yml) on the pages: a badge where an item is treated, and tables of verdicts.

    {claim}`eq-13`            "Equation (13): holds", linked to its row on the errata page

    :::{claims}               the rows whose label `see` starts with the prefix, in short form
    :prefix: mj-
    :::

Without a prefix the directive shows every row by source and section, as one line that opens (printed, right, why, evidence), below
a filter (book/_static/claims.js): the errata page, on which every badge has its target. With the option `counts` it says how
many rows have which verdict.

A page that is the evidence of a row (has its label `see`) must show the row, by its badge or in such a table: the build warns.
"""

from __future__ import annotations

import functools
import html
import re
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

from study.claims import SECTIONS, SOURCES, VERDICTS, inside, measured
from study.claims import claims as read_claims
from study.results import provenance

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "data" / "paper" / "claims.yml"
STORED = ROOT / "data" / "results"
NAMES = {"paper": "Paper", "report": "Internship report"}
FIGURES_JUDGED_BY = "caption and text; the copy of the paper at hand holds no pictures."
LOG = logging.getLogger(__name__)


@functools.cache  # a page may carry dozens of badges
def claims() -> list[dict]:
    return read_claims(FILE)


def anchor_of(row: dict) -> str:
    return f"claim-{row['id']}"


def _brief(item: str) -> str:
    """A badge stands after the sentence in question: of a long quotation a few words are enough."""
    quoted = re.fullmatch(r"([“\"])((?:\S+ ){2}[^\s…”\"]+) [^”\"]+([”\"])", item)
    return f"{quoted[1]}{quoted[2]} …{quoted[3]}" if quoted and len(item) > 30 else item


@functools.cache
def _ambiguous() -> frozenset[str]:
    """Items that stand in two sources, such as Theorem 4."""
    sources: dict[str, set] = {}
    for row in claims():
        sources.setdefault(row["item"], set()).add(row["source"])
    return frozenset(item for item, found in sources.items() if len(found) > 1)


def _label(row: dict) -> str:
    """The item, with its source where another has one of the same name."""
    if row["item"] not in _ambiguous():
        return row["item"]
    return ("The paper's " if row["source"] == SOURCES[0] else f"{_name(row['source'])}'s ") + row["item"]


def _link(label: str, text: nodes.Node | None, docname: str) -> nodes.Node:
    """What {ref}`label` would give; with `text`, that instead of the title of the section."""
    link = addnodes.pending_xref(
        "", refdomain="std", reftype="ref", reftarget=label, refexplicit=text is not None, refdoc=docname, refwarn=True
    )
    link += text if text is not None else nodes.inline(label, label, classes=["xref", "std", "std-ref"])
    return link


def _badge(verdict: str, content: nodes.Node | None = None) -> nodes.inline:
    """Around the link, not inside: Sphinx makes the text of a resolved link anew."""
    return nodes.inline("", "", content or nodes.Text(verdict), classes=["claim", f"claim-{VERDICTS.index(verdict)}"])


def _shown(env) -> dict[str, set[str]]:
    """Page -> what it shows: ids of rows (badges), and prefixes of labels ending in "*" (tables)."""
    if not hasattr(env, "book_claims_shown"):
        env.book_claims_shown = {}
    return env.book_claims_shown


class claim_row(nodes.General, nodes.Element):
    """`details`, closed until a reader, a link to it or a printer opens it."""


class claim_title(nodes.General, nodes.TextElement):
    """Its `summary`."""


def _opening(tag: str, stop: str = ""):
    return lambda writer, node: writer.body.append(writer.starttag(node, tag, stop))


def _closing(tag: str):
    return lambda writer, node: writer.body.append(f"</{tag}>\n")


class ClaimRole(SphinxRole):
    def run(self):
        self.env.note_dependency(str(FILE))
        row = next((row for row in claims() if row["id"] == self.text), None)
        if row is None:
            message = self.inliner.reporter.error(f"no row {self.text!r} in {FILE.name}", line=self.lineno)
            return [self.inliner.problematic(self.rawtext, self.rawtext, message)], [message]
        _shown(self.env).setdefault(self.env.docname, set()).add(self.text)
        text = nodes.inline("", f"{_brief(_label(row))}: {row['verdict']}")
        return [_badge(row["verdict"], _link(anchor_of(row), text, self.env.docname))], []


class ClaimsDirective(SphinxDirective):
    option_spec = {"prefix": str, "counts": directives.flag}

    def run(self):
        self.env.note_dependency(str(FILE))
        rows = claims()
        if "counts" in self.options:
            plural = ("hold as printed", "after a repair or for one reading", "do not hold", "cannot be decided")
            numbers = ", ".join(f"**{n}** {words}" for n, words in zip(_counts(rows), plural, strict=True))
            own = [row for row in rows if row["source"] == SOURCES[0]]
            first = " / ".join(map(str, _counts(own)))
            return self._text(f"Of {len(rows)} statements, {numbers}; of the paper's own {len(own)}: {first}.")
        prefix = self.options.get("prefix", "")
        _shown(self.env).setdefault(self.env.docname, set()).add(f"{prefix}*")
        if prefix:
            return [self._short([row for row in rows if row["see"].startswith(prefix)])]
        result: list[nodes.Node] = [nodes.raw("", _filters(rows), format="html")]
        for source, section in _parts(rows):
            own = "" if source == SOURCES[0] else f"{_name(source)}, "
            title = own + _section(section)
            part = nodes.container("", nodes.rubric("", title[0].upper() + title[1:]), classes=["claims-part"])
            part += [self._full(row) for row in rows if (row["source"], row["section"]) == (source, section)]
            result.append(part)
        return result

    def _text(self, markdown: str) -> list[nodes.Node]:
        """What a field says, in MyST; HTML in it is shown, not obeyed."""
        holder = nodes.container()
        self.state.nested_parse(StringList(markdown.strip().splitlines(), FILE.name), 0, holder)
        for tag in list(holder.findall(nodes.raw)):
            words = nodes.Text(tag.astext())
            tag.replace_self(words if isinstance(tag.parent, nodes.TextElement) else nodes.paragraph("", "", words))
        return holder.children

    def _item(self, row: dict, source: bool = False) -> nodes.paragraph:
        item = nodes.paragraph("", "", _link(anchor_of(row), nodes.inline("", _label(row)), self.env.docname))
        item += nodes.Text(f", {row['about']}" + f" ({_name(row['source'])})" * source)
        return item

    def _short(self, rows: list[dict]) -> nodes.table:
        """A table: item, verdict, what is right, and where on the page."""
        lines, mixed = [], len({row["source"] for row in rows}) > 1
        for row in rows:
            place = nodes.paragraph("", "", _link(row["see"], None, self.env.docname))
            verdict = nodes.paragraph("", "", _badge(row["verdict"]))
            item = self._item(row, mixed and row["source"] != SOURCES[0])
            lines.append(([item], [verdict], self._text(row["right"]), [place]))
        widths = {"item": 18, "verdict": 14, "what is right": 48, "shown in": 20}
        return _tabular(widths, lines, [[]] * len(rows), ["claims"])

    def _full(self, row: dict) -> nodes.Element:
        """One row of the errata: as printed, what is right, why, and what checks it."""
        target = nodes.target("", "", ids=[anchor_of(row)], names=[anchor_of(row)])
        self.state.document.note_explicit_target(target)
        title = claim_title("", "", target, nodes.strong("", _label(row)), nodes.Text(f", {row['about']} "))
        title += _badge(row["verdict"])
        kinds = [f"verdict-{VERDICTS.index(row['verdict'])}", *_classes(row["source"], row["section"])]
        box = claim_row("", title, classes=["claim-row", *kinds])
        for name, field in (("As printed", "printed"), ("Right is", "right"), ("Because", "why")):
            if row.get(field):
                content = self._text(row[field])
                content[0].insert(0, nodes.emphasis("", f"{name}: "))
                box += content
        if row["source"] == SOURCES[0] and row["item"].startswith("Figure "):
            box += nodes.paragraph("", "", nodes.emphasis("", "Judged by: "), nodes.Text(FIGURES_JUDGED_BY))
        if measured := _measured(row, self.env):
            box += nodes.paragraph("", "", nodes.emphasis("", "Measured: "), nodes.Text(measured))
        box += nodes.paragraph("", "", nodes.emphasis("", "Checked in: "), _link(row["see"], None, self.env.docname))
        again = nodes.paragraph("", "", nodes.emphasis("", "To repeat: "))
        for command, words in repeats(row):
            again += [nodes.literal("", command), nodes.Text(words)]
        box += again
        return box


def _tabular(widths: dict[str, int], lines: list, kinds: list[list[str]], classes: list[str]) -> nodes.table:
    """A docutils table: column title -> width, the cells of each line, and the classes of each line."""
    table = nodes.table(classes=classes)
    group = nodes.tgroup("", *[nodes.colspec(colwidth=w) for w in widths.values()], cols=len(widths))
    head = nodes.row("", *[nodes.entry("", nodes.paragraph("", title)) for title in widths])
    body = nodes.tbody()
    for cells, kind in zip(lines, kinds, strict=True):
        body += nodes.row("", *[nodes.entry("", *cell) for cell in cells], classes=kind)
    group += [nodes.thead("", head), body]
    table += group
    return table


def _measured(row: dict, env) -> str:
    """What the stored row says that a claim names, by the interval that its verdict goes by."""
    if "results" not in row:
        return ""
    env.note_dependency(str(STORED / f"{row['results']['name']}.csv"))
    return in_words(row, measured(row, STORED))


def in_words(row: dict, found: dict) -> str:
    """Mean, the central 95 % of the seeds and on which side of its ends the printed number lies, and how well the mean is known."""
    low, high, value = found["central_low"], found["central_high"], row["value"]
    side = "inside" if inside(value, found) else "outside"
    if side == "outside" and low <= value <= high:
        side += ", between two groups of seeds"
    elif side == "inside" and not low <= value <= high:
        side += " to its last digit"
    return (
        f"{row['results'].get('quantity') or row.get('quantity', row['about'])}: mean {found['mean']:.4f}; central 95 % of {found['n']} seeds "
        f"{low:.4f} to {high:.4f}, the printed number {side}; the mean is known to ±{(found['high'] - found['low']) / 2:.4f}"
    )


def repeats(row: dict) -> list[tuple[str, str]]:
    """The commands that check a row again, each with the words after it."""
    found = [(f"pytest {row['test']}", "; ")] if row.get("test") else []
    if "results" in row:
        found.append((provenance(row["results"]["name"], STORED)["command"], "; "))
    return [*found, ("make book", ", which executes that page.")]


def _parts(rows: list[dict]) -> list[tuple[str, str]]:
    """(source, section) of the rows in the sources' own order: abstract, sections, appendices."""
    parts = {(row["source"], row["section"]) for row in rows}
    return sorted(parts, key=lambda p: (SOURCES.index(p[0]), SECTIONS[p[0]].index(p[1])))


def _section(section: str) -> str:
    if section[0].isdigit():
        return f"section {section}"
    return f"appendix {section}" if len(section) == 1 else section


def _name(source: str) -> str:
    return NAMES.get(source, source)


def _classes(source: str, section: str) -> list[str]:
    source, section = (re.sub(r"[^a-z0-9]+", "-", words.lower()) for words in (source, section))
    return [f"part-{source}", f"part-{source}-{section}"]


def _counts(rows: list[dict]) -> list[int]:
    return [sum(row["verdict"] == verdict for row in rows) for verdict in VERDICTS]


def _option(value: str, words: str) -> str:
    return f'<option value="{html.escape(value)}">{html.escape(words)}</option>'


def _filters(rows: list[dict]) -> str:
    """The controls above the rows: verdict, source and section, words."""
    verdicts = "".join(
        _option(f"verdict-{i}", f"{v} ({n})") for i, (v, n) in enumerate(zip(VERDICTS, _counts(rows), strict=True))
    )
    groups = ""
    for source in SOURCES:
        sections = [section for s, section in _parts(rows) if s == source]
        if sections:
            count = sum(row["source"] == source for row in rows)
            inner = _option(_classes(source, "")[0], f"{_name(source)}: all ({count})")
            for section in sections:
                own = [row for row in rows if (row["source"], row["section"]) == (source, section)]
                inner += _option(_classes(source, section)[1], f"{_name(source)}, {_section(section)} ({len(own)})")
            groups += f'<optgroup label="{html.escape(_name(source))}">{inner}</optgroup>'
    return (
        '<div class="claims-filter figure-controls" data-rows=".claim-row">'
        '<span class="figure-control"><label for="claims-verdict">Verdict</label>'
        f'<select id="claims-verdict">{_option("", "any")}{verdicts}</select></span>'
        '<span class="figure-control"><label for="claims-part">Source</label>'
        f'<select id="claims-part">{_option("", "any")}{groups}</select></span>'
        '<span class="figure-control figure-text"><label for="claims-words">Words</label>'
        '<input type="text" id="claims-words" autocomplete="off" spellcheck="false"></span>'
        '<output for="claims-verdict claims-part claims-words"></output>'
        '<button type="button" hidden>Show all</button></div>'
    )


def _check(app, env) -> None:
    """A page with rows shows them."""
    if not FILE.exists():
        return
    pages = {label: page for label, (page, _) in env.get_domain("std").anonlabels.items()}
    silent: dict[str, list[str]] = {}
    for row in claims():
        page = pages.get(row["see"].lower())  # a label that does not exist: the link of the errata warns
        if page is None:
            continue
        shown = _shown(env).get(page, set())
        if row["id"] not in shown and not any(s[-1] == "*" and row["see"].startswith(s[:-1]) for s in shown):
            silent.setdefault(page, []).append(row["id"])
    for page, ids in silent.items():
        LOG.warning(
            f"{FILE.name}: rows {', '.join(ids)} name this page as their evidence, but it shows neither their badge nor a "
            "table of claims with them",
            location=page,
        )


def _purge(app, env, docname: str) -> None:
    _shown(env).pop(docname, None)


def _merge(app, env, docnames, other) -> None:
    _shown(env).update({name: _shown(other)[name] for name in docnames if name in _shown(other)})


def setup(app) -> dict:
    app.add_node(claim_row, html=(_opening("details", "\n"), _closing("details")))
    app.add_node(claim_title, html=(_opening("summary"), _closing("summary")))
    app.add_role("claim", ClaimRole())
    app.add_directive("claims", ClaimsDirective)
    app.connect("env-purge-doc", _purge)
    app.connect("env-merge-info", _merge)
    app.connect("env-check-consistency", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "env_version": 2}
