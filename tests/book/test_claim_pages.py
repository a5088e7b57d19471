"""The claims on the built pages: a badge for every numbered item, every row in full, and filters that work."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

import book_claims
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
    if len({row["source"] for row in ROWS.values() if row["item"] == item}) > 1:  # then it is said whose it is
        item = f"{'BAMSProd' if name in NUMBERED_BAMSPROD else 'The paper'}’s {item}"
    assert f"{item}: {ROWS[name]['verdict']}" in badges(built_book / "notebooks" / f"{stem}.html")


def test_badges_of_the_same_words_lead_to_the_same_row(built_book):
    rows: dict[str, set] = {}
    for page in built_book.rglob("*.html"):
        for link in BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").select("span.claim a"):
            words = link.get_text().rsplit(": ", 1)[0]
            if not words.endswith(("…”", '…"')):  # a quotation's first words
                rows.setdefault(words, set()).add(link["href"].rsplit("#", 1)[-1])
    assert len(rows) > 100
    assert {words: found for words, found in rows.items() if len(found) > 1} == {}


def test_errata_page_has_every_row_in_full(built_book):
    page = BeautifulSoup((built_book / "book" / "errata.html").read_text(encoding="utf-8"), "html.parser")
    rows = page.select("details.claim-row")
    assert len(rows) == len(ROWS)
    for row in rows:
        words = row.get_text()
        assert all(label in words for label in ("As printed:", "Right is:", "Checked in:"))
        assert words.count("As printed:") == 1 and "Printed number:" not in words
        assert row.select_one("a[href*='notebooks/']"), "no link to what shows it"
    assert {f"claim-{name}" for name in ROWS} <= {e["id"] for e in page.find_all(id=True)}


@functools.cache
def full_rows(built_book: Path) -> dict[str, str]:
    page = BeautifulSoup((built_book / "book" / "errata.html").read_text(encoding="utf-8"), "html.parser")
    return {name: page.find(id=f"claim-{name}").find_parent("details").get_text() for name in ROWS}


def test_every_row_says_how_it_is_repeated(built_book):
    for name, words in full_rows(built_book).items():
        commands = words.split("To repeat:")[1]
        assert f"pytest {ROWS[name].get('test')};" in commands or "test" not in ROWS[name], name
        assert ("make results ONLY=" in commands) == ("results" in ROWS[name]), name
        assert "make book" in commands, name


def test_a_measured_row_shows_the_interval_that_its_verdict_goes_by(built_book):
    shown = re.compile(
        r"Measured: .*: mean ([\d.]+); central 95 % of (\d+) seeds ([\d.]+) to ([\d.]+), the printed number (in|out)side"
    )
    measured = [name for name, row in ROWS.items() if "results" in row]
    assert len(measured) > 20
    for name in measured:
        row, words = claims.measured(ROWS[name]), full_rows(built_book)[name]
        *numbers, side = shown.search(words).groups()
        wanted = [row["mean"], row["n"], row["central_low"], row["central_high"]]
        assert [float(x) for x in numbers] == pytest.approx(wanted, abs=5e-5), name
        assert (side == "in") == (ROWS[name]["verdict"] in claims.VERDICTS[:2]), name


@pytest.mark.parametrize(
    ("value", "extra", "words"),
    [
        (0.45, {}, "seeds 0.4004 to 0.5000, the printed number inside; the mean is known to ±0.0100"),
        (0.6, {}, "the printed number outside;"),
        (0.45, {"printed": 0.45, "near": 0}, "outside, between two groups of seeds;"),
        (0.4, {}, "inside to its last digit;"),  # stands for 0.35 to 0.45
    ],
)
def test_words_on_a_measured_number(value, extra, words):
    found = {"n": 256, "mean": 0.42, "low": 0.41, "high": 0.43, "central_low": 0.4004, "central_high": 0.5} | extra
    assert words in book_claims.in_words({"value": value, "results": {"quantity": "loss"}}, found)


def test_rows_on_the_papers_figures_say_what_was_looked_at(built_book):
    for number in range(1, 9):
        assert "the copy of the paper at hand holds no pictures" in full_rows(built_book)[f"fig-{number}"]


def test_the_rows_are_closed_and_can_be_filtered_and_opened(built_book, chromium, site):
    page = chromium.new_page(viewport={"width": 390, "height": 844})
    page.goto(f"{site}book/errata.html")
    rows = page.locator(".claim-row")
    assert rows.count() == len(ROWS) and page.locator(".claim-row[open]").count() == 0

    def shown() -> int:
        n = page.locator(".claim-row:visible").count()
        assert page.locator(".claims-filter output").text_content() == f"{n} of {len(ROWS)}"
        return n

    page.locator("#claims-verdict").focus()  # the keyboard is enough
    page.keyboard.press("ArrowDown")
    assert shown() == sum(row["verdict"] == claims.VERDICTS[0] for row in ROWS.values())
    for number, verdict in enumerate(claims.VERDICTS):
        page.select_option("#claims-verdict", f"verdict-{number}")
        assert shown() == sum(row["verdict"] == verdict for row in ROWS.values())
    page.select_option("#claims-verdict", "")
    page.select_option("#claims-part", "part-paper")
    assert shown() == sum(row["source"] == "paper" for row in ROWS.values())
    page.select_option("#claims-part", "part-paper-3-2")
    assert shown() == sum((row["source"], row["section"]) == ("paper", "3.2") for row in ROWS.values())
    page.select_option("#claims-part", "")
    page.locator("#claims-words").fill("equation 26")
    assert shown() == 1
    row = page.locator(".claim-row:visible")
    assert "Equation (26)" in row.text_content() and not row.get_by_text("As printed:").is_visible()
    row.locator("summary").focus()
    page.keyboard.press("Enter")
    assert row.get_by_text("As printed:").is_visible()
    page.locator("#claims-words").fill("no row says this")
    assert shown() == 0
    page.get_by_role("button", name="Show all").click()
    assert shown() == len(ROWS) and not page.get_by_role("button", name="Show all").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_a_badge_leads_to_its_open_row_and_a_printer_opens_all(built_book, chromium, site):
    page = chromium.new_page()
    page.goto(f"{site}notebooks/05_proof_walkthrough.html")
    page.locator("span.claim a", has_text="Theorem 3:").first.click()
    page.wait_for_url("**/errata.html#claim-thm-3")
    assert page.locator(".claim-row[open]").count() == 1
    assert "Theorem 3" in page.locator(".claim-row[open] summary").text_content()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".claim-row[open]").count() == len(ROWS)
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator(".claim-row[open]").count() == 1
    page.close()


def test_the_scorecard_opens_with_ten_verdicts(built_book):
    page = BeautifulSoup((built_book / "notebooks" / "12_scorecard.html").read_text(encoding="utf-8"), "html.parser")
    (first, *_) = page.select("article ol")
    lines = first.find_all("li", recursive=False)
    assert len(lines) == 10
    for line in lines:
        assert line.select_one("span.claim a[href*='errata.html#claim-']"), line.get_text()
