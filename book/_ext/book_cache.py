"""Keep the book's outputs in step with the code that made them.

jupyter-cache recognises a notebook by its code cells alone, so a changed `src/` would go on showing old outputs. Here
the cache folder is named after everything else that the outputs depend on; book/build.py uses the same name.

One file is not part of that name, because it is edited often and few notebooks read it: data/paper/claims.yml. A notebook that
calls `claims()` is dropped from the cache when that file has changed.

Sphinx recognises a changed page by the clock alone, and takes what an interrupted build left for whole. Here a page is known by
its content and that of the files it depends on, and after a build that did not finish every page is made anew.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

from filelock import FileLock, Timeout
from jupyter_cache import get_cache
from jupyter_cache.cache.db import NbCacheRecord
from sqlalchemy.exc import SQLAlchemyError

INPUTS = ("src", "data", "requirements.lock")  # what the notebooks' outputs depend on
LOOK = ("book/_ext", "book/_static")  # what every page depends on
IGNORED = ("__pycache__", ".egg-info")
UNFINISHED = "unfinished"  # there while the pages are made, and after a build that was killed
CLAIMS, READS_CLAIMS = "data/paper/claims.yml", "claims()"


def fingerprint(root: Path, inputs: tuple[str, ...] = INPUTS) -> str:
    """A short hash of the files and folders `inputs` and of the version of Python. Hidden files do not count, nor editors'
    copies (`name~`): among them is what an interrupted writing leaves."""
    digest = hashlib.sha256("{}.{}".format(*sys.version_info).encode())
    for name in inputs:
        base = root / name
        for path in sorted(base.rglob("*")) if base.is_dir() else [base]:
            relative = path.relative_to(root).as_posix()
            aside = "/." in f"/{relative}" or relative.endswith("~") or any(part in relative for part in IGNORED)
            if path.is_file() and relative != CLAIMS and not aside:
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


def forget_damaged(folder: Path) -> None:
    """Drop from the cache `folder` what a build that was killed left half written: every later one would stumble over it."""
    if not folder.exists():
        return
    try:
        cache = get_cache(folder)
        records = cache.list_cache_records()
    except (RuntimeError, SQLAlchemyError):
        shutil.rmtree(folder)
        return
    whole = set()
    for record in records:
        try:
            cache.get_cache_bundle(record.pk)
            whole.add(record.hashkey)
        except (KeyError, ValueError):
            NbCacheRecord.remove_records([record.pk], cache.db)
    for executed in (folder / "executed").glob("*"):
        if executed.name not in whole:
            shutil.rmtree(executed)


def prepared_cache(root: Path, build: Path) -> Path:
    """The cache of this state, with all that may be used and nothing else."""
    current = cache_folder(root, build)
    remove_old_caches(current)
    forget_damaged(current)
    forget_claims(root, current)
    return current


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


def _begin(app) -> None:
    """One build at a time. What one that did not finish has read or executed for the pages is not used: any of it may be half a
    file; without it every page is written."""
    build = Path(app.outdir).parent
    app.book_lock = FileLock(build / "pages.lock")
    try:
        app.book_lock.acquire(timeout=0)
    except Timeout:
        print("Another build of this book is running: this one waits for it.", file=sys.stderr, flush=True)
        app.book_lock.acquire()
    unfinished = build / UNFINISHED
    if unfinished.exists():
        shutil.rmtree(app.doctreedir, ignore_errors=True)
        shutil.rmtree(build / "jupyter_execute", ignore_errors=True)
        Path(app.doctreedir).mkdir(parents=True)
    unfinished.touch()


def _finish(app, exception) -> None:
    if exception is None:
        (Path(app.outdir).parent / UNFINISHED).unlink()
    app.book_lock.release()


def _content(env, docname: str) -> str:
    """A hash of a page's source and of the files it depends on."""
    digest = hashlib.sha256()
    for path in (env.doc2path(docname), *sorted(os.path.join(env.srcdir, name) for name in env.dependencies[docname])):
        digest.update(Path(path).read_bytes() if os.path.isfile(path) else b"\0")
    return digest.hexdigest()


def _other_content(app, env, added, changed, removed) -> list[str]:
    """The pages that Sphinx takes for unchanged, because the clock says so, and that are not those it read."""
    known = getattr(env, "book_contents", {})
    return [page for page in env.found_docs - added - changed if known.get(page) != _content(env, page)]


def _remember_content(app, env) -> None:
    # Who changes a page while it is read does so later than its time of reading: that Sphinx notices by itself.
    env.book_contents = {page: _content(env, page) for page in env.found_docs}


def _configure(app, config) -> None:
    _begin(app)
    current = prepared_cache(Path(app.srcdir), Path(app.outdir).parent)
    config.nb_execution_cache_path = str(current)
    config.book_fingerprint = current.name + fingerprint(Path(app.srcdir), LOOK)
    # Notebooks executed by Sphinx itself: figures leave as plotly's own mime type, the kernel is this Python's.
    os.environ.setdefault("PLOTLY_RENDERER", "plotly_mimetype")
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    if profile() != "quick":
        config.html_theme_options["announcement"] = f"These pages were computed with profile = {profile()!r}."


def setup(app) -> dict:
    app.add_config_value("book_fingerprint", "", "env")  # "env": pages are read again when it changes
    app.connect("config-inited", _configure)
    app.connect("source-read", _depend_on_claims)
    app.connect("env-get-outdated", _other_content)
    app.connect("env-updated", _remember_content)
    app.connect("build-finished", _finish, priority=900)  # after what others write at the end
    return {"parallel_read_safe": True, "parallel_write_safe": True}
