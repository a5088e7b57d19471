"""The trainer's modules (book/_static/trainer) as one script on the pages that have a trainer.

Browsers load modules from servers only; one ordinary script works for a book that is opened from a folder, too.
"""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes

FOLDER = Path(__file__).resolve().parents[1] / "_static" / "trainer"
MODULES = ("random", "methods", "tasks", "run", "draw", "python", "view")  # each after those that it imports
MARK = 'class="trainer"'


def bundle(folder: Path = FOLDER) -> str:
    """The modules one after the other in one scope, without their imports and exports; their names must differ."""
    texts = [(folder / f"{name}.js").read_text(encoding="utf-8") for name in MODULES]
    texts = [re.sub(r"^import [^;]*;\n", "", text, flags=re.M) for text in texts]
    texts = [re.sub(r"^import \* as .*\n", "", text, flags=re.M) for text in texts]
    return '(() => {\n"use strict";\n' + "\n".join(re.sub(r"^export ", "", t, flags=re.M) for t in texts) + "})();\n"


def _add_script(app, config) -> None:
    folder = Path(app.outdir).parent / "trainer"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trainer.js").write_text(bundle(), encoding="utf-8")
    config.html_static_path.append(str(folder))


def _load_script(app, page, template, context, doctree) -> None:
    if doctree is not None and any(MARK in raw.astext() for raw in doctree.findall(nodes.raw)):
        app.add_js_file("trainer.js", loading_method="async", fetchpriority="high")


def setup(app) -> dict:
    app.connect("config-inited", _add_script)
    app.connect("html-page-context", _load_script)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
