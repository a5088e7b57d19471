"""The claims file: every numbered item has a row, a badge on a page, and evidence that exists."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
import yaml
from bs4 import BeautifulSoup

from conftest import ROOT
from study import algebra, claims, results

ROWS = {row["id"]: row for row in claims.claims()}
NUMBERS = [row for row in ROWS.values() if "results" in row]
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


def label_file(label: str) -> Path | None:
    return next((p for p, text in SOURCES.items() if re.search(rf"^\({re.escape(label)}\)=$", text, re.M)), None)


#: What BAMSProd numbers.
NUMBERED_BAMSPROD = {
    "bp-eq-1": "Equation (1)",
    "bp-alg-1": "Algorithm 1",
    "bp-cor-4": "Corollary 4",
    **{f"bp-thm-{n}": f"Theorem {n}" for n in range(1, 5)},
    **{f"bp-fig-{n}": f"Figure {n}" for n in range(1, 5)},
}
BAMSPROD_METHODS = ("sgd", "adam", "amsgrad", "adabound", "amsbound", "bop", "bamsprod")


@functools.cache
def badges(page: Path) -> set[str]:
    return {badge.get_text() for badge in BeautifulSoup(page.read_text(), "html.parser").select("span.claim")}


@pytest.mark.parametrize("name", NUMBERED)
def test_every_numbered_item_has_a_row_and_a_badge_on_a_page(built_book, name):
    assert ROWS[name]["item"] == NUMBERED[name]
    path = label_file(ROWS[name]["see"])
    assert f"{NUMBERED[name]}: {ROWS[name]['verdict']}" in badges(built_book / "notebooks" / f"{path.stem}.html")


def test_everything_that_bamsprod_numbers_has_a_row_and_its_tables_a_row_per_method(built_book):
    shown = badges(built_book / "notebooks" / "10_bamsprod_theory.html")
    for name, item in NUMBERED_BAMSPROD.items():
        assert ROWS[name]["item"] == item and ROWS[name]["source"] == "BAMSProd"
        assert f"{item}: {ROWS[name]['verdict']}" in shown
    for table, best in ((1, 70.91), (2, 73.9)):
        values = {m: ROWS[f"bp-t{table}-{m}"]["value"] for m in BAMSPROD_METHODS}
        assert max(values.values()) == values["bamsprod"] == best


def test_a_row_that_cannot_be_decided_says_what_is_missing():
    """Those of BAMSProd's tables and figures, all but the autoencoder's."""
    rows = [row for name, row in ROWS.items() if name.startswith(("bp-t1-", "bp-t2-", "bp-fig-"))]
    assert len(rows) == 2 * len(BAMSPROD_METHODS) + 4
    open_ = [row for row in rows if row["verdict"] == "cannot be decided"]
    assert {row["id"] for row in rows if row not in open_} == {"bp-fig-2"}
    assert all("Not stated" in row["right"] and re.search("[Nn]ot run", row["right"]) for row in open_)


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
        ([ROW | {"section": 2}], "section is 2, wanted is a text"),
        ([ROW | {"see": " "}], "see is ' ', wanted is a text"),
        ([ROW | {"source": "hearsay"}], "source 'hearsay' is not one of"),
        ([ROW | {"value": "0.5"}], "value is '0.5', wanted is the printed number"),
        ([ROW | {"value": 0.5, "results": "tables"}], "results is 'tables', wanted is"),
        ([ROW | {"value": 0.5, "results": {"task": "I", "bits": 1}}], "wanted is {name: an experiment"),
        ([ROW | {"results": {"name": "tables", "bits": 1}}], "results without value"),
        ([ROW, ROW], "more than one row"),
    ],
)
def test_bad_rows_say_what_is_wrong(tmp_path: Path, rows, words):
    file = tmp_path / "claims.yml"
    file.write_text(yaml.safe_dump(rows))
    with pytest.raises(ValueError, match=words):
        claims.claims(file)


def test_every_row_has_a_section_of_a_chapter_as_evidence():
    assert [name for name, row in ROWS.items() if label_file(row["see"]) is None] == []


@pytest.mark.parametrize("row", NUMBERS, ids=lambda row: row["id"])
def test_a_measured_number_has_one_stored_row_which_its_verdict_fits(row):
    assert claims.contradiction(row, claims.measured(row)) is None


STORED = {"n": 256, "central_low": 0.4004, "central_high": 0.5}


@pytest.mark.parametrize(
    ("value", "verdict", "n", "words"),
    [
        (0.45, "holds", 256, None),
        (0.4, "holds", 256, None),  # one digit: stands for 0.35 to 0.45
        (0.4003, "holds", 256, "outside"),
        (0.40035, "holds under a stated reading", 256, "outside"),
        (0.45, "does not hold", 256, "inside"),
        (0.6, "does not hold", 256, None),
        (0.6, "cannot be decided", 256, None),
        (0.45, "holds", 255, "255 seeds"),
    ],
)
def test_the_rule_for_measured_numbers(value, verdict, n, words):
    found = claims.contradiction({"value": value, "verdict": verdict}, STORED | {"n": n})
    assert (found is None) if words is None else words in found


def test_a_number_between_two_groups_of_seeds_is_outside():
    assert claims.inside(0.45, STORED | {"printed": 0.45, "near": 0.01})
    assert not claims.inside(0.45, STORED | {"printed": 0.45, "near": 0})
    assert claims.inside(0.45, STORED | {"near": 0})  # near something else


def test_a_diverged_experiment_contains_no_number():
    assert not claims.inside(0.45, {"central_low": float("nan"), "central_high": float("nan")})


def test_measured_reads_the_stored_row_that_a_claim_names(tmp_path):
    rows = [{"method": m, "n": 300, "mean": x} for m, x in (("A", 0.5), ("B", 0.25))]
    results.write("pair", rows, "two rows", "make results ONLY=pair", "code", tmp_path)
    assert claims.measured(ROW, tmp_path) is None
    claim = ROW | {"value": 0.3, "results": {"name": "pair", "method": "B"}}
    assert claims.measured(claim, tmp_path) == rows[1]
    with pytest.raises(KeyError, match="2 rows"):
        claims.measured(claim | {"results": {"name": "pair", "n": 300}}, tmp_path)


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
