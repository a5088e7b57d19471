"""Small repairs of Jupyter Book and its theme, and MathJax from this machine instead of a foreign host."""

from __future__ import annotations

import re
import shutil
from importlib.util import find_spec
from pathlib import Path

from docutils import nodes
from myst_nb.sphinx_ import HideCodeCellNode

BOOK_PDF = "quantised-training-reproduced.pdf"  # written by book/pdf.py into the folder of pages
# The theme's icon font is enough: the script that would draw the same icons again weighs 1.5 MB. Sphinx's search is for a
# search as one types, which is off, and holds up every page with 270 kB; the page `search` has the book's own.
UNUSED = re.compile(
    r"\s*<script[^>]*(?:scripts/fontawesome|_static/searchtools|_static/language_data|[\"/]searchindex)\.js[^>]*></script>"
)
NO_PDF = "<!-- the book as one PDF: make pdf -->"

# In pieces: all in one script, with a menu for each formula that a reader would have to pass by keyboard, weighs twice as
# much and takes too long to read at once. The folders hold fonts and TeX extensions, which are loaded when asked for.
MATHJAX = ("core", "input/tex", "output/chtml", "a11y/assistive-mml")
NO_MATHS = re.compile(r"\s*<script(?:[^>]*_static/mathjax/[^>]*>|>window\.MathJax = [^<]*)</script>")
# The theme measures every listing when a page has been loaded, also in closed folds, and each of these is laid out for it.
MEASURED, SHOWN = "forEach(e=>{e.tabIndex=", "forEach(e=>{if(e.checkVisibility())e.tabIndex="


def _copy_mathjax(app, exception) -> None:
    if exception or app.builder.format != "html":
        return
    package = Path(find_spec("sphinx-mathjax-offline").origin).parent
    source, target = package / "static" / "mathjax", Path(app.outdir) / "_static" / "mathjax"
    for name in ("startup", *MATHJAX):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / f"{name}.js", target / f"{name}.js")
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, dirs_exist_ok=True)


def _keep_tags(app, doctree) -> None:
    """Sphinx wraps an equation of several lines into `split`, where MathJax refuses the \\tag with its number."""
    for equation in doctree.findall(nodes.math_block):
        text = equation.astext()
        if r"\tag" in text and r"\\" in text and not equation.get("nowrap"):
            equation["nowrap"] = True
            equation.children = [nodes.Text(rf"\[{text}\]")]


def _code_in_one_box(app, doctree) -> None:
    """Neighbouring cells of folded code are one box before what they make. A cell that is folded whole shows what it made first,
    its code in a fold of its own below, and keeps its name when it is open."""
    folded = [n for n in doctree.findall(nodes.container) if n.get("hide_mode") in ("input", "all")]
    for cell in folded:
        following = next(iter(cell.parent[cell.parent.index(cell) + 1 :]), None)
        elements = [child.get("nb_element") for child in cell]
        if cell["hide_mode"] == "all":
            if len(elements) > 1 and elements[0] == "cell_code_source":
                show, code = cell["prompt_show"], app.config.nb_code_prompt_show
                inner = HideCodeCellNode("", cell[0], prompt_show=code, prompt_hide=cell["prompt_hide"])
                name = {"prompt_show": show, "prompt_hide": show.replace("Show the", "Hide the")}
                outer = HideCodeCellNode("", *cell[1:], inner, **name)
                inner["classes"], outer["classes"] = ["above-input"], ["above-input"]
                cell.children = []
                cell += outer
                del cell["hide_mode"]
        elif elements == ["cell_code_source"] and following in folded and len(following):
            if following[0].get("nb_element") == "cell_code_source":
                following[0][:0] = cell[0].children
                cell.parent.remove(cell)


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
    theme = folder / "_static" / "scripts" / "pydata-sphinx-theme.js"
    theme.write_text(theme.read_text(encoding="utf-8").replace(MEASURED, SHOWN), encoding="utf-8")
    for page in folder.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        used = UNUSED.sub("", text)
        if 'class="math' not in used:  # Sphinx asks for MathJax wherever a formula was read, shown or not
            used = NO_MATHS.sub("", used)
        if used != text:
            page.write_text(used, encoding="utf-8")


def setup(app) -> dict:
    # Jupyter Book always sets it, although the extension that reads it is not used here.
    app.add_config_value("comments_config", {}, "html")
    app.connect("doctree-read", _keep_tags)
    app.connect("doctree-read", _code_in_one_box)
    app.connect("html-page-context", _current_roles)
    app.connect("html-page-context", _offer_pdf, priority=600)  # after the theme makes the buttons
    app.connect("build-finished", _copy_mathjax)
    app.connect("build-finished", _drop_unused_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
