"""How fast the built pages show their first figure, and what they weigh: `make look`.

Seconds depend on the machine and on what else it does, so that no test holds them. Each page is opened as a reader does,
at its first figure and without the developer tools, which double the time; of several attempts the fastest counts.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import http.server
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "book" / "_ext")]

import browser  # noqa: E402  (tests/browser.py)
from build import pages  # noqa: E402

FIRST = re.compile(r'class="plotly-figure" id="([^"]+)"')
AIM = 2000  # milliseconds


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the pages and counts what it sends."""

    protocol_version = "HTTP/1.1"
    requests = 0
    sent = 0

    def do_GET(self) -> None:
        Handler.requests += 1
        super().do_GET()

    def send_header(self, keyword: str, value: str) -> None:
        if keyword == "Content-Length":
            Handler.sent += int(value)
        super().send_header(keyword, value)

    def log_message(self, *args) -> None:
        pass


def opened(chromium: str, address: str) -> int | None:
    """Milliseconds from opening the page to its first drawn figure; None where there is none."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [chromium, "--headless", f"--user-data-dir={folder}", *browser.FLAGS, "--dump-dom", address]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120)
    times = [int(t) for t in re.findall(r'data-drawn="(\d+)"', done.stdout)]
    return min(times, default=None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--attempts", type=int, default=3)
    parser.add_argument("only", nargs="*", metavar="PAGE", help="e.g. notebooks/04_askewsgd; default: all")
    args = parser.parse_args()
    html = ROOT / "_build" / "html"
    with sync_playwright() as playwright:
        found, name = browser.launch(playwright)
        chromium = name if Path(name).exists() else playwright.chromium.executable_path
        found.close()
    handler, slow = functools.partial(Handler, directory=str(html)), 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"{'page':34} {'first figure':>12} {'page, gzip':>11} {'all':>8} {'requests':>8}")
        for page in args.only or pages(ROOT / "_toc.yml"):
            content = (html / f"{page}.html").read_bytes()
            first = FIRST.search(content.decode("utf-8"))
            address = f"http://127.0.0.1:{server.server_port}/{page}.html" + (f"#{first[1]}" if first else "")
            times = []
            for _ in range(args.attempts if first else 1):
                Handler.requests = Handler.sent = 0
                times.append(opened(chromium, address))
            best = min((t for t in times if t is not None), default=None)
            late = best is None or best > AIM
            slow += bool(first and late)
            shown = (
                "none" if not first else "not drawn" if best is None else f"{best / 1000:.2f} s{' !' if late else ''}"
            )
            size = f"{len(gzip.compress(content, 6)) / 1000:.0f} kB"
            print(f"{page:34} {shown:>12} {size:>11} {Handler.sent / 1e6:>5.1f} MB {Handler.requests:>8}", flush=True)
        server.shutdown()
    if slow:
        print(f"{slow} pages need more than {AIM / 1000:g} s (!) on this machine, or drew nothing.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
