"""The claims on the built pages: a badge for every numbered item, every row in full, and filters that work."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from numbered import NUMBERED, NUMBERED_BAMSPROD, ROWS, label_file
from study import claims


@functools.cache
def badges(page: Path) -> set[str]:
    return {
        badge.get_text()
        for badge in BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").select("span.claim")
    }


@pytest.mark.parametrize("name", [*NUMBERED, *NUMBERED_BAMSPROD])
def test_every_numbered_item_has_a_badge_on_a_page(built_book, name):
    stem = "10_bamsprod_theory" if name in NUMBERED_BAMSPROD else label_file(ROWS[name]["see"]).stem
    item = (NUMBERED | NUMBERED_BAMSPROD)[name]
    assert f"{item}: {ROWS[name]['verdict']}" in badges(built_book / "notebooks" / f"{stem}.html")


def test_errata_page_has_every_row_in_full(built_book):
    page = BeautifulSoup((built_book / "book" / "errata.html").read_text(encoding="utf-8"), "html.parser")
    rows = page.select("div.claim-row")
    assert len(rows) == len(ROWS)
    for row in rows:
        words = row.get_text()
        assert all(label in words for label in ("As printed:", "Right is:", "Checked in:"))
        assert row.select_one("a[href*='notebooks/']"), "no link to what shows it"
    assert {f"claim-{name}" for name in ROWS} <= {e["id"] for e in page.find_all(id=True)}


def test_scorecard_lists_every_claim_and_can_be_filtered(built_book, chromium, site):
    page = chromium.new_page(viewport={"width": 390, "height": 844})
    page.goto(f"{site}notebooks/12_scorecard.html")
    lines = page.locator(".claim-line")
    assert lines.count() == len(ROWS)
    for link in ("td:first-child a[href*='errata.html#claim-']", "td:last-child a[href*='#']"):
        assert page.locator(f".claim-line {link}").count() == len(ROWS)

    def shown() -> int:
        n = page.locator(".claim-line:visible").count()
        assert page.locator(".claims-filter output").text_content() == f"{n} of {len(ROWS)}"
        return n

    page.locator("#claims-verdict").focus()  # the keyboard is enough
    page.keyboard.press("ArrowDown")
    assert shown() == sum(row["verdict"] == claims.VERDICTS[0] for row in ROWS.values())
    page.select_option("#claims-verdict", "")
    page.select_option("#claims-part", "part-paper")
    assert shown() == sum(row["source"] == "paper" for row in ROWS.values())
    page.select_option("#claims-part", "part-paper-3-2")
    assert shown() == sum((row["source"], row["section"]) == ("paper", "3.2") for row in ROWS.values())
    page.select_option("#claims-part", "")
    page.locator("#claims-words").fill("equation 26")
    assert shown() == 1
    assert "Equation (26)" in page.locator(".claim-line:visible").text_content()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_errata_can_be_filtered_by_verdict(built_book, chromium, site):
    page = chromium.new_page()
    page.goto(f"{site}book/errata.html")
    for number, verdict in enumerate(claims.VERDICTS):
        page.select_option("#claims-filter", f"claim-row-{number}")
        wanted = sum(row["verdict"] == verdict for row in ROWS.values())
        assert page.locator(".claim-row:visible").count() == wanted
        assert page.locator(".claims-filter output").text_content() == f"{wanted} of {len(ROWS)}"
    page.close()
