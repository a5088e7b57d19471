#!/usr/bin/env python
"""Write what the branch `notebooks` holds: the notebooks as .ipynb, and all they need to run on Colab and Binder.

The address of the repository goes into each notebook's set-up cell; it is found as for the book's buttons
(BOOK_REPOSITORY_URL, GitHub's variables, or the git remote).
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "_ext"))
from book_links import repository_url  # noqa: E402
from build import notebooks  # noqa: E402
from notebook_files import write_notebook  # noqa: E402

COPIED = ("src", "data", "environment.yml", "requirements.lock", "_toc.yml", "LICENSE", "README.md")


def publish(root: Path, target: Path) -> list[Path]:
    """Fill the folder `target`; returns the notebooks written."""
    url = repository_url(root)
    written = []
    for source in notebooks(root):
        written.append(target / source.relative_to(root).with_suffix(".ipynb"))
        write_notebook(source, written[-1], url, root)
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*")
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, target / name, ignore=skip)
        elif (root / name).exists():
            shutil.copyfile(root / name, target / name)
    return written


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, help="folder to fill; must not exist yet")
    target = parser.parse_args().target
    if target.exists():
        parser.error(f"{target} exists already")
    for path in publish(HERE.parent, target):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
