"""What a reader of the built pages meets, in numbers, as a table: `make look`.

first figure   seconds from opening the page at its first figure, without the developer tools, which double the time
slowed         the same at a fourth of the processor's speed
task           four times what the longest task of the page takes of the processor, in milliseconds
trainer        seconds from opening the page at a fourth of the speed until its trainer answers
page, all      kilobytes of the page compressed, megabytes of everything that was loaded, and requests
cut, bare      elements that are cut at 1280 or 390 pixels (book/cut.js); figures without number or caption
words, min     visible words with folded parts closed; minutes at 230 words a minute

Seconds depend on the machine and on what else it does, so that no test holds them; of several attempts the fastest counts. A
task's own time on the processor depends less on the rest, and is the time of a clock where the machine does nothing else.
What must stay 0 is held by tests/book/test_pages.py.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import http.server
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "book" / "_ext")]

import browser  # noqa: E402  (tests/browser.py)
from book_reading import PACE  # noqa: E402
from build import pages  # noqa: E402

FIRST = re.compile(r'class="plotly-figure" id="([^"]+)"')
AIM = 2000  # milliseconds
HELD, HOLD = "/picture-that-comes-late", 5  # seconds


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the pages and counts what it sends."""

    protocol_version = "HTTP/1.1"
    requests = 0
    sent = 0
    holding = False

    def do_GET(self) -> None:
        Handler.requests += 1
        if self.path == HELD:
            Handler.requests -= 1
            time.sleep(HOLD)
            self.send_error(404)
        elif Handler.holding and self.path.endswith(".html"):
            self._page_that_goes_on_loading()
        else:
            super().do_GET()

    def _page_that_goes_on_loading(self) -> None:
        """Chromium hands over the page when it has loaded, which is before its figure is drawn: a picture at its end is late."""
        content = Path(self.translate_path(self.path)).read_bytes()
        Handler.sent += len(content)
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(content + f'<img src="{HELD}" alt="">'.encode())
        self.close_connection = True

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
        Handler.holding = True
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120)
        Handler.holding = False
    times = [int(t) for t in re.findall(r'data-drawn="(\d+)"', done.stdout)]
    return min(times, default=None)


CUT = (ROOT / "book" / "cut.js").read_text(encoding="utf-8").split("*/", 1)[1]
FITTED = "Number(document.documentElement.dataset.fitted) === document.querySelector('.bd-article').clientWidth"
DRAWN = "!document.querySelector('.plotly-figure:not([data-drawn])')"
BARE = """[...document.querySelectorAll('.plotly-figure')]
  .filter((f) => !f.querySelector('.figure-number') || !f.querySelector('.figure-title')?.textContent.trim()).length"""
WORDS = "document.querySelector('.bd-article').innerText.split(/\\s+/).length"
PATIENCE = 120_000


def slow_page(chromium):
    """A page at a fourth of the processor's speed."""
    page = chromium.new_page(viewport={"width": 1280, "height": 800})
    page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": 4})
    return page


def answers(chromium, address: str) -> int:
    """Milliseconds until the trainer of a page answers, at a fourth of the processor's speed."""
    page = slow_page(chromium)
    page.goto(address)
    page.wait_for_selector(".trainer[data-ready]", timeout=PATIENCE)
    ready = page.evaluate("document.querySelector('.trainer').dataset.ready")
    page.close()
    return int(ready)


def slowed(chromium, address: str) -> int | None:
    """Milliseconds to the first figure of a page at a fourth of the processor's speed."""
    page = slow_page(chromium)
    page.goto(address)
    page.wait_for_function(READY, timeout=PATIENCE)
    first = page.evaluate("document.querySelector('.plotly-figure[data-drawn]')?.dataset.drawn")
    page.close()
    return int(first) if first else None


def longest_task(chromium, address: str) -> int:
    """Four times the milliseconds of processor time of a page's longest task, from opening it until its first figure is drawn
    and all is fitted, and a second more."""
    page = chromium.new_page(viewport={"width": 1280, "height": 800})
    chromium.start_tracing(
        page=page, categories=["devtools.timeline", "disabled-by-default-devtools.timeline", "toplevel"]
    )
    page.goto(address)
    page.wait_for_function(READY, timeout=PATIENCE)
    page.wait_for_timeout(1000)
    events = json.loads(chromium.stop_tracing())["traceEvents"]
    page.close()
    threads = {
        (e["pid"], e["tid"]) for e in events if e["name"] == "thread_name" and e["args"]["name"] == "CrRendererMain"
    }
    tasks = [e["tdur"] for e in events if e["name"] == "RunTask" and "tdur" in e and (e["pid"], e["tid"]) in threads]
    return round(4 * max(tasks) / 1000)


def measured(chromium, address: str) -> tuple[int, int, int]:
    """Cut elements, figures without number or caption, and words of a page."""
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    page.goto(address)
    cut = 0
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function(FITTED, timeout=PATIENCE)
        for figure in page.query_selector_all(".plotly-figure"):
            figure.scroll_into_view_if_needed()
        page.wait_for_function(DRAWN, timeout=PATIENCE)
        page.wait_for_timeout(300)
        cut += len(page.evaluate(CUT))
        if width == 1280:
            bare, words = page.evaluate(BARE), page.evaluate(WORDS)
    page.close()
    return cut, bare, words


READY = (
    f"{FITTED} && (!document.querySelector('.plotly-figure') || document.querySelector('.plotly-figure[data-drawn]'))"
)
HEAD = f"{'page':34} {'first':>7} {'slowed':>7} {'task':>6} {'trainer':>7} {'page':>7} {'all':>7} {'reqs':>4} {'cut':>4} {'bare':>4} {'words':>6} {'min':>4}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--attempts", type=int, default=3, metavar="N", help="openings of each page (default: 3)")
    parser.add_argument("only", nargs="*", metavar="PAGE", help="e.g. notebooks/04_askewsgd; default: all")
    args = parser.parse_args()
    html = ROOT / "_build" / "html"
    if args.attempts < 1:
        parser.error(f"--attempts {args.attempts}: at least one")
    if missing := [page for page in args.only or ["book/index"] if not (html / f"{page}.html").is_file()]:
        parser.error(f"{', '.join(missing)}: no such page in {html} (`make book` builds them)")
    handler, slow, total = functools.partial(Handler, directory=str(html)), 0, [0, 0, 0]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as playwright:
        chromium, name = browser.launch(playwright)
        program = name if Path(name).exists() else playwright.chromium.executable_path
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(HEAD)
        for page in args.only or pages(ROOT / "_toc.yml"):
            content = (html / f"{page}.html").read_bytes()
            first = FIRST.search(content.decode("utf-8"))
            address = f"http://127.0.0.1:{server.server_port}/{page}.html"
            whole, times = address + (f"#{first[1]}" if first else ""), []
            for _ in range(args.attempts if first else 1):
                Handler.requests = Handler.sent = 0
                times.append(opened(program, whole))
            requests, sent = Handler.requests, Handler.sent
            best = min((t for t in times if t is not None), default=None)
            late = bool(first) and (best is None or best > AIM)
            slow += late
            late_first = slowed(chromium, whole)
            task = min(longest_task(chromium, whole) for _ in range(args.attempts))
            trainer = None
            if 'class="trainer"' in content.decode("utf-8"):
                trainer = min(answers(chromium, address) for _ in range(args.attempts))
            numbers = measured(chromium, address)
            total = [a + b for a, b in zip(total, numbers, strict=True)]
            shown = "-" if not first else "none" if best is None else f"{best / 1000:.2f}{'!' if late else ''}"
            then = f"{late_first / 1000:.2f}" if late_first else "-"
            cut, bare, words = numbers
            print(
                f"{page:34} {shown:>7} {then:>7} {task:>6} {f'{trainer / 1000:.2f}' if trainer else '-':>7} {len(gzip.compress(content, 6)) / 1000:>4.0f} kB {sent / 1e6:>4.1f} MB "
                f"{requests:>4} {cut:>4} {bare:>4} {words:>6} {words / PACE:>4.0f}",
                flush=True,
            )
        chromium.close()
        server.shutdown()
    print(f"{'together':88} {total[0]:>4} {total[1]:>4} {total[2]:>6} {total[2] / PACE:>4.0f}")
    if slow:
        print(f"{slow} pages need more than {AIM / 1000:g} s (!) on this machine, or drew nothing.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
