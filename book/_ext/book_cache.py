"""Keep the book's outputs in step with the code that made them.

jupyter-cache recognises a notebook by its code cells alone, so a changed `src/` would go on showing old outputs. Here
the cache folder is named after everything else that the outputs depend on; book/build.py uses the same name.

One file is not part of that name, because it is edited often and few notebooks read it: data/paper/claims.yml. A notebook that
calls `claims()` is dropped from the cache when that file has changed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

from jupyter_cache import get_cache

INPUTS = ("src", "data", "requirements.lock")  # what the notebooks' outputs depend on
LOOK = ("book/_ext", "book/_static")  # what every page depends on
IGNORED = ("__pycache__", ".egg-info", ".ipynb_checkpoints", ".DS_Store")
CLAIMS, READS_CLAIMS = "data/paper/claims.yml", "claims()"


def fingerprint(root: Path, inputs: tuple[str, ...] = INPUTS) -> str:
    """A short hash of the files and folders `inputs` and of the version of Python."""
    digest = hashlib.sha256("{}.{}".format(*sys.version_info).encode())
    for name in inputs:
        base = root / name
        for path in sorted(base.rglob("*")) if base.is_dir() else [base]:
            relative = path.relative_to(root).as_posix()
            if path.is_file() and relative != CLAIMS and not any(part in relative for part in IGNORED):
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


def forget_claims(root: Path, folder: Path) -> None:
    """Drop the notebooks that read the claims from the cache `folder` when the claims are not those it was last used with."""
    path, note = root / CLAIMS, folder / "claims.sha256"
    now = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""
    if note.exists() and note.read_text(encoding="utf-8") == now:
        return
    if folder.exists():
        cache = get_cache(folder)
        for record in cache.list_cache_records():
            notebook = cache.get_cache_bundle(record.pk).nb
            if any(READS_CLAIMS in cell.source for cell in notebook.cells if cell.cell_type == "code"):
                cache.remove_cache(record.pk)
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(now, encoding="utf-8")


def _depend_on_claims(app, docname: str, source: list[str]) -> None:
    """Sphinx reads a notebook again, too, when the claims that it reads have changed."""
    if READS_CLAIMS in source[0]:
        app.env.note_dependency(str(Path(app.srcdir) / CLAIMS))


def _configure(app, config) -> None:
    current = cache_folder(Path(app.srcdir), Path(app.outdir).parent)
    forget_claims(Path(app.srcdir), current)
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
    app.connect("source-read", _depend_on_claims)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
