"""The claims file (book/claims.yml) on the pages: a badge where an item is treated, and tables of verdicts.

    {claim}`eq-13`            "Equation (13): holds", linked to its row on the errata page

    :::{claims}               the rows whose label `see` starts with the prefix, in short form
    :prefix: mj-
    :::

Without a prefix the directive shows every row in full, by section of the paper: the errata page. With the option `counts`
it says how many rows have which verdict.
"""

from __future__ import annotations

import functools
from pathlib import Path

import yaml
from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective, SphinxRole

FILE = Path(__file__).resolve().parents[1] / "claims.yml"
VERDICTS = ("holds", "holds under a stated reading", "does not hold", "cannot be decided")
FIELDS = {"id", "item", "about", "section", "printed", "verdict", "right", "why", "see", "test"}
OPTIONAL = {"why", "test"}


@functools.cache  # a page may carry dozens of badges
def claims(file: Path = FILE) -> list[dict[str, str]]:
    """The rows of the claims file, in its order; raises ValueError for a row that lacks something."""
    rows = yaml.safe_load(file.read_text())
    for row in rows:
        if missing := FIELDS - OPTIONAL - row.keys():
            raise ValueError(f"{file.name}: {row.get('id', row)} lacks {sorted(missing)}")
        if unknown := row.keys() - FIELDS:
            raise ValueError(f"{file.name}: {row['id']} has unknown fields {sorted(unknown)}")
        if row["verdict"] not in VERDICTS:
            raise ValueError(f"{file.name}: {row['id']}: verdict {row['verdict']!r} is not one of {VERDICTS}")
        if any("$" in row[field] or "`" in row[field] for field in ("item", "about")):
            raise ValueError(f"{file.name}: {row['id']}: item and about are plain words, without formulas or code")
    ids = [row["id"] for row in rows]
    if double := {i for i in ids if ids.count(i) > 1}:
        raise ValueError(f"{file.name}: more than one row for {sorted(double)}")
    return rows


def _anchor(row: dict) -> str:
    return f"claim-{row['id']}"


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


class ClaimRole(SphinxRole):
    def run(self):
        self.env.note_dependency(str(FILE))
        row = next((row for row in claims() if row["id"] == self.text), None)
        if row is None:
            message = self.inliner.reporter.error(f"no row {self.text!r} in {FILE.name}", line=self.lineno)
            return [self.inliner.problematic(self.rawtext, self.rawtext, message)], [message]
        text = nodes.inline("", f"{row['item']}: {row['verdict']}")
        return [_badge(row["verdict"], _link(_anchor(row), text, self.env.docname))], []


class ClaimsDirective(SphinxDirective):
    option_spec = {"prefix": str, "counts": directives.flag}

    def run(self):
        self.env.note_dependency(str(FILE))
        rows = claims()
        if "counts" in self.options:
            plural = ("hold", "hold under a stated reading", "do not hold", "cannot be decided")
            numbers = ", ".join(f"**{n}** {words}" for n, words in zip(_counts(rows), plural, strict=True))
            return self._text(f"Of {len(rows)} statements checked so far: {numbers}.")
        if prefix := self.options.get("prefix"):
            return [self._short([row for row in rows if row["see"].startswith(prefix)])]
        result: list[nodes.Node] = [nodes.raw("", _filter(rows), format="html")]
        # the sections of the paper, its appendices, and then other sources
        order = sorted({row["section"] for row in rows}, key=lambda s: (0 if s[0].isdigit() else min(len(s), 2), s))
        for section in order:
            kind = "Section " if section[0].isdigit() else "Appendix " if len(section) == 1 else ""
            result.append(nodes.rubric("", kind + section))
            result += [self._full(row) for row in rows if row["section"] == section]
        return result

    def _text(self, markdown: str) -> list[nodes.Node]:
        holder = nodes.container()
        self.state.nested_parse(StringList(markdown.strip().splitlines(), FILE.name), 0, holder)
        return holder.children

    def _short(self, rows: list[dict]) -> nodes.table:
        """A table: item, verdict, what is right, and where on the page."""
        table = nodes.table(classes=["claims"])
        group = nodes.tgroup("", *[nodes.colspec(colwidth=w) for w in (18, 14, 48, 20)], cols=4)
        titles = ("item", "verdict", "what is right", "shown in")
        head = nodes.row("", *[nodes.entry("", nodes.paragraph("", title)) for title in titles])
        body = nodes.tbody()
        for row in rows:
            item = nodes.paragraph("", "", _link(_anchor(row), nodes.inline("", row["item"]), self.env.docname))
            item += nodes.Text(f", {row['about']}")
            place = nodes.paragraph("", "", _link(row["see"], None, self.env.docname))
            cells = ([item], [nodes.paragraph("", "", _badge(row["verdict"]))], self._text(row["right"]), [place])
            body += nodes.row("", *[nodes.entry("", *cell) for cell in cells])
        group += [nodes.thead("", head), body]
        table += group
        return table

    def _full(self, row: dict) -> nodes.container:
        """One row of the errata: as printed, what is right, why, and what checks it."""
        target = nodes.target("", "", ids=[_anchor(row)], names=[_anchor(row)])
        self.state.document.note_explicit_target(target)
        title = nodes.paragraph("", "", nodes.strong("", row["item"]), nodes.Text(f", {row['about']} "))
        title += _badge(row["verdict"])
        box = nodes.container("", target, title, classes=["claim-row", f"claim-row-{VERDICTS.index(row['verdict'])}"])
        for name, field in (("As printed", "printed"), ("Right is", "right"), ("Because", "why")):
            if row.get(field):
                content = self._text(row[field])
                content[0].insert(0, nodes.emphasis("", f"{name}: "))
                box += content
        checked = nodes.paragraph("", "", nodes.emphasis("", "Checked in: "), _link(row["see"], None, self.env.docname))
        if row.get("test"):
            checked += [nodes.Text("; "), nodes.literal("", row["test"])]
        box += checked
        return box


def _counts(rows: list[dict]) -> list[int]:
    return [sum(row["verdict"] == verdict for row in rows) for verdict in VERDICTS]


def _filter(rows: list[dict]) -> str:
    options = "".join(
        f'<option value="{i}">what {v} ({n})</option>'
        for i, (v, n) in enumerate(zip(VERDICTS, _counts(rows), strict=True))
    )
    return (
        '<p class="claims-filter"><label for="claims-filter">Show</label> <select id="claims-filter">'
        f'<option value="">all items ({len(rows)})</option>{options}</select> <output for="claims-filter"></output></p>'
    )


def setup(app) -> dict:
    app.add_role("claim", ClaimRole())
    app.add_directive("claims", ClaimsDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
