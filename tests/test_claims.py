"""The claims file: every numbered item has a row, a badge on a page, and evidence that exists."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
import yaml
from bs4 import BeautifulSoup

import book_claims
from conftest import ROOT
from quantized_training import algebra

ROWS = {row["id"]: row for row in book_claims.claims()}
SOURCES = {path: path.read_text() for path in sorted((ROOT / "notebooks").glob("*.md"))}

#: What the paper numbers in its sections 2 to 5 and its appendices.
NUMBERED = {
    **{f"eq-{n}": f"Equation ({n})" for n in range(1, 27)},
    **{f"eq-p{n}": f"Problem (P{n})" for n in (1, 2)},
    **{f"def-{n}": f"Definition {n}" for n in range(1, 11)},
    **{f"ass-{n}": f"Assumption {n}" for n in (1, 2, 3, 4, 5, 6, 8, 9)},
    **{f"ass-7{n}": f"Assumption 7({n})" for n in "ab"},
    **{f"thm-{n}": f"Theorem {n}" for n in range(1, 6)},
    **{f"lem-{n}": f"Lemma {n}" for n in range(1, 9)},
    **{f"clm-{n}": f"Claim {n}" for n in range(1, 9)},
    **{f"alg-{n}": f"Algorithm {n}" for n in (1, 2)},
}


@functools.cache
def badges(page: Path) -> set[str]:
    return {badge.get_text() for badge in BeautifulSoup(page.read_text(), "html.parser").select("span.claim")}


@pytest.mark.parametrize("name", NUMBERED)
def test_every_numbered_item_has_a_row_and_a_badge_on_a_page(built_book, name):
    assert ROWS[name]["item"] == NUMBERED[name]
    path = next(p for p, text in SOURCES.items() if re.search(rf"^\({re.escape(ROWS[name]['see'])}\)=$", text, re.M))
    assert f"{NUMBERED[name]}: {ROWS[name]['verdict']}" in badges(built_book / "notebooks" / f"{path.stem}.html")


def test_errata_page_has_every_row_in_full(built_book):
    page = BeautifulSoup((built_book / "book" / "errata.html").read_text(), "html.parser")
    rows = page.select("div.claim-row")
    assert len(rows) == len(ROWS)
    for row in rows:
        words = row.get_text()
        assert all(label in words for label in ("As printed:", "Right is:", "Checked in:"))
        assert row.select_one("a[href*='notebooks/']"), "no link to what shows it"
    assert {f"claim-{name}" for name in ROWS} <= {e["id"] for e in page.find_all(id=True)}


def test_a_row_that_does_not_hold_says_why():
    silent = [name for name, row in ROWS.items() if row["verdict"] == "does not hold" and not row.get("why")]
    assert silent == []


@pytest.mark.parametrize("row", [r for r in ROWS.values() if r.get("test")], ids=lambda r: r["id"])
def test_the_test_that_a_row_names_exists(row):
    file, _, name = row["test"].partition("::")
    assert name, "name the test, not the file"
    name, _, case = name.removesuffix("]").partition("[")
    assert re.search(rf"^def {re.escape(name)}\(", (ROOT / file).read_text(), re.M)
    assert not case or case in algebra.STEPS, f"there is no step {case!r}"


ROW = {
    "id": "x", "item": "X", "about": "x", "section": "2", "printed": "x", "verdict": "holds", "right": "x", "see": "x",
}  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([ROW | {"verdict": "true"}], "is not one of"),
        ([{k: v for k, v in ROW.items() if k != "right"}], r"lacks \['right'\]"),
        ([ROW | {"colour": "red"}], "unknown fields"),
        ([ROW | {"about": "$x$"}], "plain words"),
        ([ROW, ROW], "more than one row"),
    ],
)
def test_bad_rows_say_what_is_wrong(tmp_path: Path, rows, words):
    file = tmp_path / "claims.yml"
    file.write_text(yaml.safe_dump(rows))
    with pytest.raises(ValueError, match=words):
        book_claims.claims(file)


def test_errata_can_be_filtered_by_verdict(built_book, chromium, site):
    page = chromium.new_page()
    page.goto(f"{site}book/errata.html")
    for number, verdict in enumerate(book_claims.VERDICTS):
        page.select_option("#claims-filter", str(number))
        wanted = sum(row["verdict"] == verdict for row in ROWS.values())
        assert page.locator(".claim-row:visible").count() == wanted
        assert page.locator(".claims-filter output").text_content() == f"{wanted} of {len(ROWS)}"
    page.close()
