#!/usr/bin/env python
"""Check (or, with --write, restore) the normal form of the Markdown notebooks.

A notebook is in its normal form when a round trip through jupytext leaves it as it is and ruff has nothing to say
about its code cells.
"""

from __future__ import annotations

import argparse
import difflib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import jupytext

ROOT = Path(__file__).resolve().parents[1]
RUFF = [sys.executable, "-m", "ruff"]


def normal_form(source: Path, folder: Path) -> tuple[str, str]:
    """The notebook's text in its normal form, and what ruff cannot correct by itself."""
    notebook = jupytext.read(source)
    ipynb = folder / f"{source.stem}.ipynb"
    jupytext.write(notebook, ipynb)
    config = ["--config", str(ROOT / "pyproject.toml"), "--quiet"]
    check = subprocess.run([*RUFF, "check", "--fix", *config, ipynb], capture_output=True, text=True, encoding="utf-8")
    subprocess.run([*RUFF, "format", *config, ipynb], check=True)
    formatted = jupytext.read(ipynb)
    _, header, body = jupytext.writes(formatted, fmt="md:myst").split("---\n", 2)
    # Without jupytext's own version, whose every update would change every notebook.
    header = re.sub(r" +(jupytext|format)_version: .*\n", "", header)
    return f"---\n{header}---\n{body}".rstrip() + "\n", check.stdout + check.stderr


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--write", action="store_true", help="correct the files instead of only naming them")
    options = parser.parse_args()
    if missing := [str(path) for path in options.files if not path.is_file()]:
        parser.error(f"no such file: {', '.join(missing)}")
    wrong = False
    with tempfile.TemporaryDirectory() as folder:
        for source in options.files:
            before = source.read_text(encoding="utf-8")
            after, complaints = normal_form(source, Path(folder))
            if complaints:
                wrong = True
                print(complaints.replace(str(Path(folder) / f"{source.stem}.ipynb"), str(source)))
            if before != after and options.write:
                source.write_text(after, encoding="utf-8")
                print(f"{source}: corrected")
            elif before != after:
                wrong = True
                print(f"{source}: not in its normal form; `make format` changes it to")
                print("\n".join(difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=1)))
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
