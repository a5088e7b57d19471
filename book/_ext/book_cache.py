"""Keep the book's outputs in step with the code that made them.

jupyter-cache recognises a notebook by its code cells alone, so a changed `src/` would go on showing old outputs. Here
the cache folder is named after everything else that the outputs depend on; book/build.py uses the same name.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

INPUTS = ("src", "data", "requirements.lock")  # what the notebooks' outputs depend on
LOOK = ("book/_ext", "book/_static")  # what every page depends on
IGNORED = ("__pycache__", ".egg-info", ".ipynb_checkpoints", ".DS_Store")


def fingerprint(root: Path, inputs: tuple[str, ...] = INPUTS) -> str:
    """A short hash of the files and folders `inputs` and of the version of Python."""
    digest = hashlib.sha256("{}.{}".format(*sys.version_info).encode())
    for name in inputs:
        base = root / name
        for path in sorted(base.rglob("*")) if base.is_dir() else [base]:
            relative = path.relative_to(root).as_posix()
            if path.is_file() and not any(part in relative for part in IGNORED):
                digest.update(f"\0{relative}\0{path.stat().st_size}\0".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def profile() -> str:
    """The parameters the notebooks run with: quick (what the notebooks say themselves), paper or gpu."""
    return os.environ.get("BOOK_PROFILE", "quick")


def cache_folder(root: Path, build: Path) -> Path:
    """Where the executed notebooks of this state of the repository lie."""
    return build / ".jupyter_cache" / f"{fingerprint(root)}-{profile()}"


def remove_old_caches(current: Path) -> None:
    """Remove the caches of other states; those of other profiles of this state took long to make and stay."""
    state = current.name.split("-")[0]
    for folder in current.parent.glob("*"):
        if folder.is_dir() and folder.name.split("-")[0] != state:
            shutil.rmtree(folder)


def _configure(app, config) -> None:
    current = cache_folder(Path(app.srcdir), Path(app.outdir).parent)
    config.nb_execution_cache_path = str(current)
    config.book_fingerprint = current.name + fingerprint(Path(app.srcdir), LOOK)
    remove_old_caches(current)
    # Notebooks executed by Sphinx itself: figures leave as plotly's own mime type, the kernel is this Python's.
    os.environ.setdefault("PLOTLY_RENDERER", "plotly_mimetype")
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    if profile() != "quick":
        config.html_theme_options["announcement"] = f"These pages were computed with profile = {profile()!r}."


def setup(app) -> dict:
    app.add_config_value("book_fingerprint", "", "env")  # "env": pages are read again when it changes
    app.connect("config-inited", _configure)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
