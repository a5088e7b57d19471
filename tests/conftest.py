"""The built book and a browser, for the tests that need them."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "book"), str(ROOT / "book" / "_ext")]
# Tests run side by side, one thread each; set before torch and numpy are imported, here and in the processes of tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Some tests run their own file in a process of its own, which has to find tests/helpers.py, too.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "tests"), os.environ.get("PYTHONPATH")]))

import browser  # noqa: E402  (tests/browser.py)

# Hypothesis' limits in seconds (an example's, and that of drawing the first ten) say how busy the machine is.
settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="session")
def built_book(tmp_path_factory) -> Path:
    """The folder of pages, up to date; takes seconds where `make book` has just run. Built once for all workers."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with FileLock(shared / "book.lock"):
        if not (shared / "book-is-built").exists():
            command = [sys.executable, str(ROOT / "book" / "build.py")]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                pytest.fail(f"the book cannot be built: {done.stderr[-3000:]}", pytrace=False)
            (shared / "book-is-built").touch()
    return ROOT / "_build" / "html"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a local server of a folder, ending in a slash."""
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="session")
def site(built_book):
    """The address of a local server of the pages, ending in a slash."""
    with served(built_book) as address:
        yield address


@pytest.fixture(scope="module")  # its event loop would be in the way of other modules' tests
def chromium():
    with sync_playwright() as playwright:
        chromium, name = browser.launch(playwright)
        chromium.path = name if Path(name).exists() else playwright.chromium.executable_path
        yield chromium
        chromium.close()
