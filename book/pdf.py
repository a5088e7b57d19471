#!/usr/bin/env python
"""One PDF of the whole book from its built pages, by the Chromium of the page tests: `make pdf`.

Every page is opened as a reader's browser opens it, at the width of the paper and in light colours; its figures are drawn,
its tables and formulas fitted; a figure that would be blank or dark stops it all. The articles go into one document behind a cover and a table of contents, their links into
links within it, and this is printed twice: the first time says on which sheet a chapter begins.
"""

from __future__ import annotations

import argparse
import functools
import html
import io
import re
import sys
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import yaml
from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "book" / "_ext"), str(ROOT / "book")]

import browser  # noqa: E402  (tests/browser.py)
from book_theme import BOOK_PDF, link_pdf  # noqa: E402
from look import Handler  # noqa: E402

WIDTH = 680  # pixels: A4 without its margins
PATIENCE = 300_000  # milliseconds; hundreds of sheets take their time
LEAST_INK, LEAST_WHITE = 0.003, 0.2  # of a figure's points: axes and a curve; the paper
PAPER = {"format": "A4", "print_background": True, "margin": dict(top="16mm", bottom="18mm", left="15mm", right="15mm")}
FOOT = (
    '<div style="width:100%; text-align:center; font:8pt sans-serif; color:#555"><span class="pageNumber"></span></div>'
)

READY = "document.documentElement.dataset.fitted && !document.querySelector('.plotly-figure:not([data-drawn])')"

#: The open page's article for the book: without what paper has no use for, every address made the page's own.
ARTICLE = r"""(page) => {
  const article = document.querySelector('.bd-article').cloneNode(true);
  article.querySelectorAll('.toctree-wrapper, script, noscript, .figure-data, .headerlink, .copybtn, .claims-filter, mjx-assistive-mml, '
    + 'details.hide, .tag_hide-input > .cell_input, .figure-range, .figure-choice').forEach((node) => node.remove());
  article.querySelectorAll('.figure-legend button[aria-pressed=false]').forEach((node) => node.remove());
  const live = [...document.querySelectorAll('.bd-article select')];
  article.querySelectorAll('select').forEach((select) => {
    const own = live.find(({ id }) => id === select.id);
    select.replaceWith(own?.selectedOptions[0]?.text ?? '');
  });
  article.querySelectorAll('details').forEach((node) => (node.open = true));
  const name = (other, id) => `${other.replace(/^.*\//, '').replace(/\.html$/, '')}--${id || 'top'}`;
  article.querySelectorAll('[id]').forEach((node) => { if (!node.closest('svg')) node.id = name(page, node.id); });
  article.querySelectorAll('a[href]').forEach((link) => {
    const to = new URL(link.getAttribute('href'), location.href);
    if (to.origin !== location.origin) return;
    if (/\.html$/.test(to.pathname)) link.setAttribute('href', '#' + name(to.pathname, decodeURIComponent(to.hash.slice(1))));
    else link.removeAttribute('href'); // a file of the site
  });
  const figures = [...article.querySelectorAll('.plotly-figure')].map((figure) =>
    [figure.id, figure.querySelector('.figure-number').textContent, figure.querySelector('.figure-title').innerHTML]);
  return { title: document.querySelector('.bd-article h1').firstChild.textContent, figures,
    body: `<section class="chapter" id="${name(page, '')}">${article.innerHTML}</section>`,
    styles: [...document.querySelectorAll('head > style')].map((style) => [...style.sheet.cssRules].map((rule) => rule.cssText).join('\n')),
    sheets: [...document.querySelectorAll('link[rel=stylesheet]')].map(({ href }) => href) };
}"""

STYLE = """
section.chapter, .book-contents { break-before: page; }
section.chapter h1 { margin-top: 0; }
.cover { height: 240mm; display: flex; flex-direction: column; justify-content: center; break-after: page; }
.cover h1 { font-size: 32pt; } .cover p { font-size: 13pt; }
.book-contents li { display: flex; gap: 0.5rem; } .book-contents li > a { flex: 1; color: inherit; text-decoration: none; }
.book-contents ul { list-style: none; padding: 0; }
.book-contents .figures { font-size: 0.85em; }
.book-contents .page-number { font-variant-numeric: tabular-nums; }
#print-main-content, #jb-print-docs-body { display: none; }
"""


def parts(toc: dict) -> list[tuple[str, list[str]]]:
    """(caption, its pages) in reading order; the landing page stands alone."""
    named = [(part["caption"], [chapter["file"] for chapter in part["chapters"]]) for part in toc["parts"]]
    return [("", [toc["root"]]), *named]


def target(page: str, name: str = "top") -> str:
    return f"{page.rsplit('/', 1)[-1]}--{name}"


def sheets(pdf: bytes) -> dict[str, int]:
    """Name of each destination in Chromium's PDF -> number of its sheet, from 1."""
    objects = {int(n): body for n, body in re.findall(rb"(?:^|\n)(\d+) 0 obj\n(.*?)\nendobj", pdf, re.S)}

    def leaves(number: int) -> list[int]:
        kids = re.search(rb"/Kids \[(.*?)\]", objects[number], re.S)
        return sum((leaves(int(k)) for k in re.findall(rb"(\d+) 0 R", kids[1])), []) if kids else [number]

    root = re.search(rb"/Type /Catalog.*?/Pages (\d+) 0 R", pdf, re.S) or re.search(rb"/Pages (\d+) 0 R", pdf)
    order = {number: sheet for sheet, number in enumerate(leaves(int(root[1])), start=1)}
    names = objects[int(re.search(rb"/Dests (\d+) 0 R", pdf)[1])]
    found = re.findall(rb"/([^\s/\[]+) \[(\d+) 0 R", names)
    decoded = ((re.sub(rb"#([0-9A-Fa-f]{2})", lambda m: bytes([int(m[1], 16)]), n).decode(), int(k)) for n, k in found)
    return {name: order[k] for name, k in decoded if k in order}


def contents(book: dict[str, dict], chapters: list[tuple[str, list[str]]], where: dict[str, int]) -> str:
    def line(address: str, words: str) -> str:
        return f'<li><a href="#{address}">{words}</a> <span class="page-number">{where.get(address, "")}</span></li>'

    listed = "".join(
        (f"<h3>{html.escape(caption)}</h3>" if caption else "")
        + "<ul>"
        + "".join(line(target(page), html.escape(book[page]["title"])) for page in pages if page in book)
        + "</ul>"
        for caption, pages in chapters
        if set(pages) & set(book)
    )
    figures = "".join(line(a, f"{n}. {title}") for page in book.values() for a, n, title in page["figures"])
    return (
        f'<nav class="book-contents"><h2>Contents</h2>{listed}</nav>'
        f'<nav class="book-contents"><h2>Figures</h2><ul class="figures">{figures}</ul></nav>'
    )


def ink(picture: bytes) -> tuple[float, float]:
    """Shares of a picture's points that are dark enough to be seen on paper, and that are white."""
    histogram = Image.open(io.BytesIO(picture)).convert("L").histogram()
    return sum(histogram[:200]) / sum(histogram), sum(histogram[250:]) / sum(histogram)


def blank(page) -> list[str]:
    """Addresses of the figures of an open page that show nothing, or are not in light colours."""
    found = []
    for figure in page.query_selector_all(".plotly-figure"):
        dark, white = ink(figure.query_selector(".figure-plot").screenshot())
        if dark < LEAST_INK or white < LEAST_WHITE:
            found.append(figure.get_attribute("id"))
    return found


def read(chromium, site: str, names: list[str]) -> dict[str, dict]:
    """Page -> what ARTICLE makes of it."""
    book = {}
    for name in names:
        page = chromium.new_page(viewport={"width": WIDTH, "height": 960}, color_scheme="light")
        page.goto(f"{site}{name}.html")
        page.emulate_media(media="print", color_scheme="light")
        page.wait_for_function("!window.MathJax?.startup || MathJax.startup.promise.then(() => true)", timeout=PATIENCE)
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.wait_for_function(READY, timeout=PATIENCE)
        if empty := blank(page):
            raise RuntimeError(f"{name}: blank or dark on paper: {', '.join(empty)}")
        book[name] = page.evaluate(ARTICLE, name)
        print(f"  {name}: {len(book[name]['figures'])} figures", flush=True)
        page.close()
    return book


def document(book: dict[str, dict], settings: dict, chapters: list, where: dict[str, int]) -> str:
    first = next(iter(book.values()))
    styles = dict.fromkeys(style for page in book.values() for style in page["styles"])
    links = "".join(f'<link rel="stylesheet" href="{html.escape(href)}">' for href in first["sheets"])
    head = f'<meta charset="utf-8"><title>{html.escape(settings["title"])}</title>{links}'
    cover = (
        f'<div class="cover"><h1>{html.escape(settings["title"])}</h1><p>{html.escape(settings["author"])}</p>'
        f"<p>{html.escape(str(settings['copyright']))}</p></div>"
    )
    body = "".join(page["body"] for page in book.values())
    return (
        f'<!doctype html><html lang="en" data-theme="light" data-mode="light"><head>{head}'
        f"{''.join(f'<style>{s}</style>' for s in styles)}<style>{STYLE}</style></head>"
        f'<body><main class="bd-main"><article class="bd-article">{cover}{contents(book, chapters, where)}{body}</article></main></body></html>'
    )


def printed(chromium, site: str, text: str) -> bytes:
    page = chromium.new_page(viewport={"width": WIDTH, "height": 960}, color_scheme="light")
    address = f"{site}book/{BOOK_PDF}.html"  # beside the pages, so that fonts and styles are found
    page.route(address, lambda route: route.fulfill(body=text, content_type="text/html"))
    page.goto(address, timeout=PATIENCE)
    page.evaluate("document.fonts.ready.then(() => true)")
    pdf = page.pdf(
        **PAPER,
        display_header_footer=True,
        header_template="<span></span>",
        footer_template=FOOT,
        outline=True,
        tagged=True,
    )
    page.close()
    return pdf


def make(folder: Path, names: list[str], settings: dict, chapters: list) -> tuple[bytes, str]:
    """The PDF and the document that was printed."""
    handler = functools.partial(Handler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as playwright:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        site = f"http://127.0.0.1:{server.server_port}/"
        chromium, _ = browser.launch(playwright)
        book = read(chromium, site, names)
        first = printed(chromium, site, document(book, settings, chapters, {}))
        text = document(book, settings, chapters, sheets(first))
        pdf = printed(chromium, site, text)
        chromium.close()
        server.shutdown()
    return pdf, text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("only", nargs="*", metavar="PAGE", help="e.g. notebooks/04_askewsgd; default: all")
    options = parser.parse_args()
    folder = ROOT / "_build" / "html"
    settings = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    chapters = parts(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))
    names = options.only or [page for _, pages in chapters for page in pages]
    pdf, _ = make(folder, names, settings, chapters)
    (folder / BOOK_PDF).write_bytes(pdf)
    link_pdf(folder)
    print(f"The book on paper: {folder.relative_to(ROOT) / BOOK_PDF}, {len(pdf) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
