"""Small repairs of Jupyter Book and its theme, and MathJax from this machine instead of a foreign host."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from docutils import nodes

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


def setup(app) -> dict:
    # Jupyter Book always sets it, although the extension that reads it is not used here.
    app.add_config_value("comments_config", {}, "html")
    app.connect("doctree-read", _keep_tags)
    app.connect("html-page-context", _current_roles)
    app.connect("build-finished", _copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
