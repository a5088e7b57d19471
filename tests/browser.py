"""The Chromium of the page tests: find one on this machine, or install one. Run by `make browser`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Browser, Error, Playwright, sync_playwright

# Nothing in the background asks other hosts; no GPU and no sandbox are needed for our own pages on this machine.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
ADVICE = (
    "No browser for the page tests. Install Chromium or Google Chrome (Debian, Ubuntu: sudo apt-get install chromium; "
    "macOS: brew install --cask google-chrome), or set BOOK_BROWSER to the path of one."
)


def candidates() -> list[str | None]:
    """Paths of installed browsers, then None: the one that playwright itself has downloaded."""
    if os.environ.get("BOOK_BROWSER"):
        return [os.environ["BOOK_BROWSER"]]
    found = [shutil.which(name) for name in NAMES] + [path for path in MAC if Path(path).exists()]
    return [path for path in found if path] + [None]


def launch(playwright: Playwright) -> tuple[Browser, str]:
    """The first browser that really starts (Ubuntu's `chromium-browser` may be an empty shell), and its name."""
    for path in candidates():
        try:
            return playwright.chromium.launch(executable_path=path, args=FLAGS), path or "playwright's own"
        except Error:
            continue
    raise RuntimeError(ADVICE)


def find() -> str | None:
    """The name of a browser that starts, or None."""
    with sync_playwright() as playwright:
        try:
            browser, name = launch(playwright)
        except RuntimeError:
            return None
        browser.close()
        return name


def attempts() -> list[list[str]]:
    """Commands that may install one, in order."""
    commands = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    if shutil.which("apt-get") and os.geteuid() == 0:
        commands += [["apt-get", "update", "-q"], ["apt-get", "install", "-y", "-q", "chromium"]]
    return commands


def main() -> int:
    name = find()
    for command in [] if name else attempts():
        print("No browser for the page tests yet; running:", " ".join(command), flush=True)
        subprocess.run(command)
        if name := find():
            break
    print(f"Browser for the page tests: {name}" if name else ADVICE)
    return 0 if name else 1


if __name__ == "__main__":
    sys.exit(main())
