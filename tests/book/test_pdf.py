"""The book as one PDF: pages and figures are in it, no figure is blank, and the contents name the right sheets.

A few pages stand for all: `make pdf` takes minutes for the whole book, and itself stops at a blank figure.
"""

from __future__ import annotations

import re

import pytest
import yaml

import pdf
from build import pages
from conftest import ROOT

NAMES = pages(ROOT / "_toc.yml")[:4:3] + pages(ROOT / "_toc.yml")[-2:]


@pytest.fixture(scope="module")
def book(built_book):
    """The pages, printed."""
    settings = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    chapters = pdf.parts(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))
    return pdf.make(built_book, NAMES, settings, chapters)


def test_every_page_and_figure_is_there(book, built_book):
    printed, text = book
    where = pdf.sheets(printed)
    assert printed.startswith(b"%PDF") and {pdf.target(name) for name in NAMES} <= set(where)
    wanted = sum((built_book / f"{n}.html").read_text(encoding="utf-8").count('class="plotly-figure"') for n in NAMES)
    figures = re.findall(r'<figure class="plotly-figure" id="([^"]+)"', text)
    assert len(figures) == wanted > 5 and set(figures) <= set(where)


def test_contents_name_the_sheets_on_which_things_stand(book):
    printed, text = book
    where = pdf.sheets(printed)
    lines = re.findall(r'<li><a href="#([^"]+)">.*?</a> <span class="page-number">(\d*)</span></li>', text)
    assert len(lines) > len(NAMES)
    assert {name: number for name, number in lines} == {name: str(where[name]) for name, _ in lines}
    starts = [where[pdf.target(name)] for name in NAMES]
    assert starts == sorted(starts) and len(set(starts)) == len(starts)


def test_a_blank_or_dark_figure_is_found(chromium, site):
    page = chromium.new_page(viewport={"width": pdf.WIDTH, "height": 960}, color_scheme="light")
    page.goto(f"{site}{NAMES[1]}.html")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_function(pdf.READY, timeout=pdf.PATIENCE)
    assert pdf.blank(page) == []
    first, second = (figure.get_attribute("id") for figure in page.query_selector_all(".plotly-figure")[:2])
    page.evaluate("id => document.getElementById(id).querySelectorAll('.main-svg').forEach(svg => svg.remove())", first)
    page.evaluate("id => (document.getElementById(id).style.background = '#111')", second)
    assert pdf.blank(page) == [first, second]
    page.close()
