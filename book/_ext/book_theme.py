"""Small repairs of Jupyter Book and its theme, and MathJax from this machine instead of a foreign host."""

from __future__ import annotations

import re
import shutil
from importlib.util import find_spec
from pathlib import Path

from docutils import nodes

BOOK_PDF = "quantised-training-reproduced.pdf"  # written by book/pdf.py into the folder of pages
# The theme's icon font is enough: the script that would draw the same icons again weighs 1.5 MB. Sphinx's search is for a
# search as one types, which is off, and holds up every page with 270 kB; the page `search` has the book's own.
UNUSED = re.compile(
    r"\s*<script[^>]*(?:scripts/fontawesome|_static/searchtools|_static/language_data|[\"/]searchindex)\.js[^>]*></script>"
)
NO_PDF = "<!-- the book as one PDF: make pdf -->"

# What tex-chtml.js may ask for: fonts, TeX extensions, and its menu with the speech engine.
MATHJAX = ("tex-chtml.js", "output/chtml", "input/tex", "ui", "a11y", "sre")


def _copy_mathjax(app, exception) -> None:
    if exception or app.builder.format != "html":
        return
    package = Path(find_spec("sphinx-mathjax-offline").origin).parent
    source, target = package / "static" / "mathjax", Path(app.outdir) / "_static" / "mathjax"
    if target.exists():
        return
    for name in MATHJAX:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (source / name).is_dir() else shutil.copyfile
        copy(source / name, target / name)


def _keep_tags(app, doctree) -> None:
    """Sphinx wraps an equation of several lines into `split`, where MathJax refuses the \\tag with its number."""
    for equation in doctree.findall(nodes.math_block):
        text = equation.astext()
        if r"\tag" in text and r"\\" in text and not equation.get("nowrap"):
            equation["nowrap"] = True
            equation.children = [nodes.Text(rf"\[{text}\]")]


def _current_roles(app, page, template, context, doctree) -> None:
    """docutils marks references with a role that ARIA has given up; inside their role="list" they are list items."""
    if "body" in context:
        context["body"] = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')


def _pdf_link(to_root: str) -> str:
    return f'<p class="book-pdf"><a href="{to_root}{BOOK_PDF}">The whole book as one PDF</a></p>'


def _offer_pdf(app, page, template, context, doctree) -> None:
    """The footer links the PDF of the book where there is one; the download button prints the page that is open."""
    there = (Path(app.outdir) / BOOK_PDF).exists()
    context["theme_extra_footer"] = _pdf_link("../" * page.count("/")) if there else NO_PDF
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []):
            if button.get("label") == "download-pdf-button":
                button["text"] = "this page (.pdf)"


def link_pdf(folder: Path) -> None:
    """Pages that were made before the PDF link it, too."""
    for page in folder.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        if NO_PDF in text:
            link = _pdf_link("../" * (len(page.relative_to(folder).parts) - 1))
            page.write_text(text.replace(NO_PDF, link), encoding="utf-8")


def _drop_unused_scripts(app, exception) -> None:
    if exception or app.builder.format != "html":
        return
    folder = Path(app.outdir)
    for file in (folder / "_static" / "scripts").glob("fontawesome.js*"):
        file.unlink()
    for page in folder.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        if UNUSED.search(text):
            page.write_text(UNUSED.sub("", text), encoding="utf-8")


def setup(app) -> dict:
    # Jupyter Book always sets it, although the extension that reads it is not used here.
    app.add_config_value("comments_config", {}, "html")
    app.connect("doctree-read", _keep_tags)
    app.connect("html-page-context", _current_roles)
    app.connect("html-page-context", _offer_pdf, priority=600)  # after the theme makes the buttons
    app.connect("build-finished", _copy_mathjax)
    app.connect("build-finished", _drop_unused_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
