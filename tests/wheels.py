"""Does every version of requirements.lock install on each system that README names?.

Asks the package index that pip is set up with for metadata only: a wheel that fits the system, and a Requires-Python that
admits the oldest Python named. `python tests/wheels.py FILE` checks another file.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"


def manylinux(glibc: int, machine: str) -> list[str]:
    """The tags of wheels that run with glibc 2.`glibc`; pip, asked for another system, does not know them itself."""
    old = [f"manylinux{year}_{machine}" for year in (2014, 2010, 1)]
    return [f"manylinux_2_{minor}_{machine}" for minor in range(glibc, 4, -1)] + old


#: README's systems: the oldest Python -> what a wheel may be built for. Debian 12 has Python 3.11.2; for arm64, z3 asks for
#: glibc 2.38 (Ubuntu 24.04 with 3.12.3, Debian 13 with 3.13.5).
SYSTEMS = [
    *(("Linux x86_64, glibc 2.28", python, manylinux(28, "x86_64")) for python in ("3.11.2", "3.12.0", "3.13.0")),
    *(("Linux arm64, glibc 2.38", python, manylinux(38, "aarch64")) for python in ("3.11.2", "3.13.0")),
    *(("macOS 14, arm64", python, ["macosx_14_0_arm64"]) for python in ("3.11.2", "3.13.0")),
]


def complaint(lock: Path, python: str, platforms: list[str]) -> str:
    """What pip says against installing the file there; "" for nothing."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--disable-pip-version-check", "--python-version", python, "--requirement", lock]
    for platform in platforms:
        command += ["--platform", platform]
    with tempfile.TemporaryDirectory() as folder:  # pip installs for another system only into a folder
        done = subprocess.run([*command, "--target", folder], capture_output=True, text=True)
    said = [
        line for line in done.stderr.splitlines() if line.startswith("ERROR") and "Ignored the following" not in line
    ]
    return ("\n".join(said) or done.stderr.strip()) if done.returncode else ""


def main(lock: Path = LOCK) -> int:
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda system: complaint(lock, *system[1:]), SYSTEMS))
    for (name, python, _), words in zip(SYSTEMS, found, strict=True):
        print(f"{name}, Python {python}: {words or 'every pinned version has a wheel'}")
    return int(any(found))


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
