"""MyST Markdown as the plain Markdown that Jupyter, Colab and Binder show: text and pictures instead of roles and directives.

Labels go, references become links or text, verdicts words, citations author and year, boxes quotations. What only the book can
show (tables of verdicts, the bibliography) becomes a sentence with a link, where the book's address is known.
"""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path, PurePosixPath

import yaml
from pybtex.database import parse_string

LABEL = re.compile(r"^\(([\w:.-]+)\)=\s*$")
HEADING = re.compile(r"^#+\s+(.*?)\s*$")
FENCE = re.compile(r"^(\s*)(`{3,}|~{3,}|:{3,})\s*(?:\{([\w:-]+)\})?\s*(.*?)\s*$")
OPTION = re.compile(r"^\s*:([\w-]+):\s*(.*?)\s*$")
#: What stands in a line, the first that fits: a role, a code span, a formula, a link whose words may hold formulas.
PIECE = re.compile(
    r"\{(?P<role>[\w:-]+)\}(?P<tick>`+)(?P<body>.+?)(?P=tick)"
    r"|(?P<code>(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`))"
    r"|(?P<math>\$\$.+?\$\$|(?<!\\)\$[^$]+?(?<!\\)\$)"
    r"|(?P<image>!?)\[(?P<words>(?:\$[^$]*\$|`[^`]*`|[^\[\]])*)\]\((?P<target>[^()\s]+)\)",
    re.DOTALL,
)


def pages_url(repository: str) -> str:
    """Where GitHub Pages puts the book of a repository (BOOK_PAGES_URL says it where it is another place); "" if unknown."""
    if given := os.environ.get("BOOK_PAGES_URL"):
        return given.rstrip("/")
    match = re.fullmatch(r"https://github\.com/([^/]+)/([^/]+)", repository)
    if not match:
        return ""
    host = f"{match[1].lower()}.github.io"
    return f"https://{host}" if match[2].lower() == host else f"https://{host}/{match[2]}"


def listed(root: Path) -> list[Path]:
    """The pages that _toc.yml names."""
    names = re.findall(
        r"^\s*-?\s*(?:root|file):\s*(\S+)", (root / "_toc.yml").read_text(encoding="utf-8"), re.MULTILINE
    )
    return [path for name in names if (path := root / f"{name}.md").exists()]


class Book:
    """What a page may refer to: the labels of all pages, the claims, the references; url: where the book is published."""

    def __init__(self, root: Path, url: str = ""):
        self.root, self.url = root, url
        self.labels: dict[str, tuple[str, str]] = {}  # label -> (page, title of the section or "")
        self.titles: dict[str, str] = {}
        self.notebooks: set[str] = set()
        for path in listed(root):
            self._read(path)

    def _read(self, path: Path) -> None:
        page, text = path.relative_to(self.root).with_suffix("").as_posix(), path.read_text(encoding="utf-8")
        if "kernelspec:" in text.split("\n---", 1)[0]:
            self.notebooks.add(page)
        lines, fence = text.splitlines(), ""
        for number, line in enumerate(lines):
            mark = FENCE.match(line)
            if mark and mark[2][0] != ":":
                fence = "" if fence and mark[2].startswith(fence) else fence or mark[2]
            if fence:
                continue
            if label := LABEL.match(line):
                after = next((text for text in lines[number + 1 :] if text and not LABEL.match(text)), "")
                heading = HEADING.match(after)
                self.labels[label[1]] = page, heading[1] if heading else ""
            elif (heading := HEADING.match(line)) and page not in self.titles:
                self.titles[page] = heading[1]
            elif (option := OPTION.match(line)) and option[1] == "label":
                self.labels[option[2]] = page, ""

    @functools.cached_property
    def claims(self) -> dict[str, dict]:
        path = self.root / "data" / "paper" / "claims.yml"
        rows = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else []
        return {row["id"]: row for row in rows}

    @functools.cached_property
    def references(self) -> dict[str, tuple[str, str]]:
        """Key -> authors and year."""
        path = self.root / "book" / "references.bib"
        found = {}
        for key, entry in parse_string(path.read_text(encoding="utf-8"), "bibtex").entries.items():
            people = [" ".join(p.prelast_names + p.last_names).strip("{}") for p in entry.persons.get("author", [])]
            who = " and ".join(people) if len(people) < 3 else f"{people[0]} et al."
            found[key] = who or key, entry.fields.get("year", "")
        return found

    def published(self, page: str, anchor: str = "") -> str:
        """The address of a page of the published book, "" where it is not known."""
        return f"{self.url}/{page}.html{anchor and '#' + anchor}" if self.url else ""


def linked(text: str, target: str) -> str:
    return f"[{text}]({target})" if target else text


class Page:
    """One page (its name, such as notebooks/01_foundations) in plain Markdown."""

    def __init__(self, book: Book, name: str):
        self.book, self.name = book, name

    def plain(self, text: str) -> str:
        """A Markdown cell without MyST's syntax."""
        return re.sub(r"\n{3,}", "\n\n", self._blocks(text.splitlines())).strip()

    def _blocks(self, lines: list[str], quoted: bool = False) -> str:
        """The text of some lines: what stands in fences is set apart, the rest goes through `_line`. quoted: a formula stays
        on one line, for the sign of a quotation would become a part of it."""
        parts, free, number = [], [], 0

        def finish() -> None:
            text = self._inline("\n".join(free), quoted)
            parts.append(text)
            free.clear()

        while number < len(lines):
            line = lines[number]
            mark = FENCE.match(line)
            if mark and (mark[3] or mark[2][0] != ":"):
                end = number + 1
                while end < len(lines) and not self._closes(lines[end], mark):
                    end += 1
                finish()
                inner = lines[number + 1 : end]
                parts.append(self._directive(mark, inner) if mark[3] else "\n".join(lines[number : end + 1]))
                number = end
            elif not (LABEL.match(line) or line.startswith("% ")):
                free.append(line)
            number += 1
        finish()
        return "\n".join(parts)

    @staticmethod
    def _closes(line: str, mark: re.Match) -> bool:
        rest = line.strip()
        return len(rest) >= len(mark[2]) and set(rest) == {mark[2][0]}

    def _directive(self, mark: re.Match, inner: list[str]) -> str:
        name, title, options = mark[3], mark[4], {}
        while inner and (option := OPTION.match(inner[0])):
            options[option[1]] = option[2]
            inner = inner[1:]
        if name == "claims":
            return self._sentence("The table of the verdicts stands", options)
        if name == "bibliography":
            return self._sentence("The list of references stands", options)
        if name == "math":
            return "\n".join(["$$", *inner, "$$"])
        if name in ("image", "figure"):
            return f"![{options.get('alt', '')}]({title})"
        if name.startswith("prf:"):
            kind = name.removeprefix("prf:").capitalize()
            title = f"{kind} ({title})" if title else kind
        elif not title:
            title = name.capitalize()
        body = self._blocks(inner, quoted=True).strip()
        lines = [f"**{self._inline(title, True)}**", "", *body.splitlines()]
        return "\n".join(["", *(f"> {line}".rstrip() for line in lines), ""])

    def _sentence(self, words: str, options: dict[str, str]) -> str:
        where = linked("on this page of the book", self.book.published(self.name))
        return (
            f"\n*{words} {where}.*\n"
            if self.book.url
            else f"\n*{words} on this page of the book, built by* `make book`.\n"
        )

    def _inline(self, text: str, quoted: bool) -> str:
        def replace(piece: re.Match) -> str:
            if piece["role"]:
                return self._role(piece["role"], " ".join(piece["body"].split()))
            if piece["code"]:
                return piece["code"]
            if piece["math"]:
                return " ".join(piece["math"].split()) if quoted else piece["math"]
            return self._link(piece["image"], self._inline(piece["words"], quoted), piece["target"])

        return PIECE.sub(replace, text)

    def _role(self, role: str, body: str) -> str:
        explicit = re.fullmatch(r"(.*?)\s*<([^<>]+)>", body)
        words, target = explicit.groups() if explicit else ("", body)
        if role == "claim":
            row = self.book.claims[body]
            text = f"{row['item']}: {row['verdict']}"
            return f"({linked(text, self.book.published('book/errata', f'claim-{body}'))})"
        if role in ("ref", "eq", "numref", "prf:ref"):
            page, title = self.book.labels[target]
            words = words or self._inline(title, False) or target
            return linked(words, self._place(page, target))
        if role == "doc":
            page = self._resolve(target)
            return linked(words or self.book.titles.get(page, target), self._place(page))
        if role == "cite" or role.startswith("cite:"):
            return self._cite([key.strip() for key in body.split(",")], textual=role == "cite:t")
        if role == "math":
            return f"${body}$"
        if role in ("sub", "sup"):
            return f"<{role}>{body}</{role}>"
        return f"`{words or body}`" if role in ("code", "file", "command", "kbd") else words or body

    def _cite(self, keys: list[str], textual: bool) -> str:
        found = [self.book.references[key] for key in keys]
        if textual:
            return ", ".join(f"{who} ({year})" if year else who for who, year in found)
        return "(" + "; ".join(f"{who}, {year}" if year else who for who, year in found) + ")"

    def _link(self, image: str, words: str, target: str) -> str:
        file, _, anchor = target.partition("#")
        if image or re.match(r"[a-z]+:", target) or not (file.endswith(".md") or target.startswith("#")):
            return f"{image}[{words}]({target})"
        page = self._resolve(file.removesuffix(".md")) if file else self.name
        if not file and anchor in self.book.labels:
            page = self.book.labels[anchor][0]
        return linked(words or self.book.titles.get(page, file), self._place(page, anchor))

    def _resolve(self, target: str) -> str:
        return PurePosixPath(os.path.normpath(PurePosixPath(self.name).parent / target)).as_posix()

    def _place(self, page: str, label: str = "") -> str:
        """What a link from here to a page, or to a label on it, leads to; "" for nowhere: then it is text alone.

        Jupyter names the sections of the notebook that is open by their titles; a label that stands before anything else has
        no place there. A notebook is a file beside this one; the other pages are in the published book only.
        """
        if page == self.name:
            title = self.book.labels.get(label, ("", ""))[1]
            return "" if not title or re.search(r"[^\w ,.:;?!'′–-]", title) else "#" + re.sub(r"\s", "-", title)
        if page in self.book.notebooks:
            return os.path.relpath(f"{page}.ipynb", PurePosixPath(self.name).parent).replace(os.sep, "/")
        return self.book.published(page, label)
