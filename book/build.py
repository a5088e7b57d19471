#!/usr/bin/env python
"""Build the book: execute the notebooks that changed, then render the pages to _build/html.

Notebooks run in parallel through papermill, each with a log and its time. Their outputs go into the book's cache, so a
notebook runs again only when its code, the package, the data or the locked versions changed. `jupyter-book build .`
alone gives the same pages: it executes, one by one, what the cache lacks.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import jupytext
import nbformat
import yaml
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from myst_nb.core.read import read_myst_markdown_notebook
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "_ext"))
from book_cache import prepared_cache  # noqa: E402

PROFILES = ("quick", "paper", "gpu")
INJECTED = "injected-parameters"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  python book/build.py                    what changed, two notebooks at a time\n"
        "  python book/build.py --jobs 4           four at a time, the cores shared between them\n"
        "  python book/build.py --profile paper    the paper's full settings (slow)\n"
        "  python book/build.py --force            execute everything anew\n",
    )
    parser.add_argument(
        "--jobs", type=int, default=2, metavar="N", help="notebooks executed at the same time (default: 2)"
    )
    parser.add_argument(
        "--profile",
        choices=PROFILES,
        default="quick",
        help="size of the computations: quick (minutes, the default), paper, or gpu",
    )
    parser.add_argument("--force", action="store_true", help="execute all notebooks, whatever the cache holds")
    parser.add_argument("--execute-only", action="store_true", help="do not render the pages")
    parser.add_argument(
        "--root",
        type=Path,
        default=HERE.parent,
        metavar="FOLDER",
        help="with _config.yml and _toc.yml (default: this book's)",
    )
    options = parser.parse_args()
    if options.jobs < 1:
        parser.error(f"--jobs {options.jobs} (make: JOBS): at least one notebook is executed at a time")
    if missing := [name for name in ("_config.yml", "_toc.yml") if not (options.root / name).is_file()]:
        parser.error(f"--root {options.root}: no book there, {' and '.join(missing)} missing")
    return options


def pages(toc: Path) -> list[str]:
    """All files named in the table of contents, in reading order."""

    def walk(node):
        for key, value in node.items():
            if key in ("root", "file"):
                yield value
            elif isinstance(value, list):
                for item in value:
                    yield from walk(item)

    return list(walk(yaml.safe_load(toc.read_text(encoding="utf-8"))))


def notebooks(root: Path) -> list[Path]:
    files = [root / f"{page}.md" for page in pages(root / "_toc.yml")]
    return [f for f in files if f.exists() and "kernelspec:" in f.read_text(encoding="utf-8").split("\n---", 1)[0]]


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


class Run:
    """One notebook: its source as MyST-NB reads it, and its execution by papermill in a process of its own."""

    def __init__(self, source: Path, folder: Path, profile: str):
        self.source, self.profile = source, profile
        self.name = source.stem
        self.notebook = read_myst_markdown_notebook(source.read_text(encoding="utf-8"), path=source)
        self.input, self.output = folder / f"{self.name}.ipynb", folder / f"{self.name}.executed.ipynb"
        self.log = folder / f"{self.name}.log"
        self.seconds = 0.0

    def execute(self, threads: int) -> bool:
        """Run all cells; True when none failed. What the kernel prints and the times of the cells go to the log."""
        started = time.monotonic()
        jupytext.write(jupytext.read(self.source), self.input)
        self.output.unlink(missing_ok=True)
        command = [sys.executable, "-m", "papermill", self.input, self.output, "--cwd", self.source.parent]
        command += ["--log-output", "--no-progress-bar", "--kernel", "python3"]
        if self.profile != "quick":  # quick is what the notebooks say themselves
            command += ["--parameters", "profile", self.profile]
        limits = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
        environment = dict.fromkeys(limits, str(threads)) | os.environ
        environment |= {"PLOTLY_RENDERER": "plotly_mimetype", "JUPYTER_PREFER_ENV_PATH": "1"}
        with self.log.open("w", encoding="utf-8") as log:
            done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        self.seconds = time.monotonic() - started
        return done.returncode == 0

    def cells_done(self) -> int:
        return self.log.read_text(encoding="utf-8", errors="replace").count("Ending Cell") if self.log.exists() else 0

    def failure(self) -> str:
        """The traceback of the cell that failed, or the end of the log where the kernel itself died."""
        if self.output.exists():
            for cell in code_cells(nbformat.read(self.output, 4)):
                for output in cell.outputs:
                    if output.output_type == "error":
                        trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(output.traceback))
                        return f"{trace}\n\nin the cell\n\n{cell.source}"
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:])

    def store(self, cache) -> None:
        """Put the outputs into the cache under the source notebook's own cells: the cache knows cells by their hash."""
        executed = [
            cell for cell in code_cells(nbformat.read(self.output, 4)) if INJECTED not in cell.metadata.get("tags", [])
        ]
        cells = code_cells(self.notebook)
        if [cell.source for cell in cells] != [cell.source for cell in executed]:
            raise SystemExit(f"{self.name}: jupytext and MyST-NB read different code cells; check the cells' fences.")
        for number, (cell, done) in enumerate(zip(cells, executed, strict=True), start=1):
            cell.outputs, cell.execution_count = done.outputs, number
        bundle = CacheBundleIn(self.notebook, str(self.source), data={"execution_seconds": self.seconds})
        cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


def is_cached(cache, notebook) -> bool:
    try:
        cache.match_cache_notebook(notebook)
    except KeyError:
        return False
    return True


def execute(root: Path, build: Path, jobs: int, profile: str, force: bool) -> bool:
    """Execute what the cache lacks. True when everything ran."""
    folder = build / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    cache = get_cache(prepared_cache(root, build))
    runs = [Run(source, folder, profile) for source in notebooks(root)]
    todo = [run for run in runs if force or not is_cached(cache, run.notebook)]
    print(f"{len(runs)} notebooks, {len(runs) - len(todo)} unchanged since their last run.", flush=True)
    if not todo:
        return True

    failed = []
    threads = max(1, (os.cpu_count() or 1) // min(jobs, len(todo)))
    total = sum(len(run.notebook.cells) for run in todo)
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=total, unit="cell", desc="executing") as bar:
        for run in todo:
            run.log.unlink(missing_ok=True)
        # the experiments at the end of the book take longest: they start first
        waiting = {pool.submit(run.execute, threads): run for run in reversed(todo)}
        while waiting:
            done, _ = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                run = waiting.pop(future)
                log = os.path.relpath(run.log)
                if future.result():
                    run.store(cache)
                    bar.write(f"  {run.name}: {run.seconds:.1f} s, log in {log}")
                else:
                    failed.append(run)
                    bar.write(f"  {run.name}: FAILED after {run.seconds:.1f} s, log in {log}")
            bar.update(min(total, sum(run.cells_done() for run in todo)) - bar.n)
    for run in failed:
        print(f"\n{run.source.relative_to(root)} failed:\n\n{run.failure()}\n", file=sys.stderr)
    return not failed


def render(root: Path, build: Path) -> bool:
    """Make the pages; every warning is an error."""
    toc, last = root / "_toc.yml", build / "toc.yml"
    if last.exists() and last.read_text(encoding="utf-8") != toc.read_text(
        encoding="utf-8"
    ):  # pages of removed chapters would stay
        shutil.rmtree(build / "html", ignore_errors=True)
        shutil.rmtree(build / ".doctrees", ignore_errors=True)
    jupyter_book = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    command = [*jupyter_book, "build", str(root), "-W", "-n", "--keep-going", "-q"]
    done = subprocess.run(command, cwd=root)
    if done.returncode != 0:
        # Sphinx remembers pages it has read, warnings or not: without this the next build would find nothing to say.
        shutil.rmtree(build / ".doctrees", ignore_errors=True)
        print("\nThe pages could not be built: see the warnings above.", file=sys.stderr)
        return False
    last.write_text(toc.read_text(encoding="utf-8"), encoding="utf-8")
    return True


def main() -> int:
    options = arguments()
    os.environ["BOOK_PROFILE"] = options.profile
    root, started = options.root.resolve(), time.monotonic()
    build = root / "_build"
    if not execute(root, build, options.jobs, options.profile, options.force):
        return 1
    if not options.execute_only:
        if not render(root, build):
            return 1
        print(f"The book is ready: {os.path.relpath(build / 'html' / 'index.html')}")
    print(f"{time.monotonic() - started:.0f} s in all.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
