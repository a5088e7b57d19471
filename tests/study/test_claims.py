"""The claims file: every numbered item has a row, and evidence that exists; tests/book/test_claim_pages.py looks at the pages."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from conftest import ROOT
from numbered import BAMSPROD_METHODS, NUMBERED, NUMBERED_BAMSPROD, ROWS, SECTION_OF, label_file
from study import algebra, claims, results
from study.claims import VERDICTS
from study.tasks import original_moons

NUMBERS = [row for row in ROWS.values() if "results" in row]


@pytest.mark.parametrize("name", NUMBERED)
def test_every_numbered_item_has_a_row(name):
    assert ROWS[name]["item"] == NUMBERED[name]


def test_everything_that_bamsprod_numbers_has_a_row_and_its_tables_a_row_per_method():
    for name, item in NUMBERED_BAMSPROD.items():
        assert ROWS[name]["item"] == item and ROWS[name]["source"] == "BAMSProd"
    for table, best in ((1, 70.91), (2, 73.9)):
        values = {m: ROWS[f"bp-t{table}-{m}"]["value"] for m in BAMSPROD_METHODS}
        assert max(values.values()) == values["bamsprod"] == best


def test_a_row_that_cannot_be_decided_says_what_is_missing():
    """Those of BAMSProd's tables and figures, all but the autoencoder's."""
    rows = [row for name, row in ROWS.items() if name.startswith(("bp-t1-", "bp-t2-", "bp-fig-"))]
    assert len(rows) == 2 * len(BAMSPROD_METHODS) + 4
    open_ = [row for row in rows if row["verdict"] == "cannot be decided"]
    closed = {row["id"] for row in rows if row not in open_} - {
        "bp-fig-3",
        "bp-fig-4",
    }  # these two: test_adaptive_chapter.py
    assert closed == {"bp-fig-1", "bp-fig-2"}
    assert all(re.search("[Nn]ot stated", row["right"]) for row in open_)
    assert all(re.search("Needs (ImageNet|VOC). What .* suggests", row["right"]) for row in open_)
    assert not any("not run" in row["right"].lower() for row in rows)


def test_a_row_that_does_not_hold_says_why():
    silent = [name for name, row in ROWS.items() if row["verdict"] == "does not hold" and not row.get("why")]
    assert silent == []


@pytest.mark.parametrize("row", [r for r in ROWS.values() if r.get("test")], ids=lambda r: r["id"])
def test_the_test_that_a_row_names_exists(row):
    file, _, name = row["test"].partition("::")
    assert name, "name the test, not the file"
    name, _, case = name.removesuffix("]").partition("[")
    assert re.search(rf"^def {re.escape(name)}\(", (ROOT / file).read_text(encoding="utf-8"), re.M)
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
        ([ROW | {"section": "8"}], "no section '8'"),
        ([ROW | {"value": 0.5}], "neither in item nor in printed"),
        ([ROW | {"value": 0.5, "printed": "0.55"}], "neither in item nor in printed"),
        ([ROW | {"value": 0.5, "printed": "10.5"}], "neither in item nor in printed"),
        ([ROW | {"value": 0.5, "printed": "0.5", "results": "tables"}], "results is 'tables', wanted is"),
        ([ROW | {"value": 5, "item": "5", "results": {"task": "I", "bits": 1}}], "wanted is {name: an experiment"),
        ([ROW | {"results": {"name": "tables", "bits": 1}}], "results without value"),
        ([ROW, ROW], "more than one row"),
    ],
)
def test_bad_rows_say_what_is_wrong(tmp_path: Path, rows, words):
    file = tmp_path / "claims.yml"
    file.write_text(yaml.safe_dump(rows), encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        claims.claims(file)


def test_every_row_has_a_section_of_a_chapter_as_evidence():
    assert [name for name, row in ROWS.items() if label_file(row["see"]) is None] == []


@pytest.mark.parametrize("row", NUMBERS, ids=lambda row: row["id"])
def test_a_measured_number_has_one_stored_row_which_its_verdict_fits(row):
    stored, others = claims.measured(row), claims.readings(row)
    assert stored in others.values()
    assert claims.contradiction(row, stored, others.values()) is None


@pytest.mark.parametrize("row", [r for r in NUMBERS if "quantity" in r["results"]], ids=lambda row: row["id"])
def test_every_other_verdict_on_a_measured_number_is_noticed(row):
    stored, others = claims.measured(row), claims.readings(row)
    for verdict in set(claims.VERDICTS) - {row["verdict"]}:
        assert claims.contradiction(row | {"verdict": verdict}, stored, others.values())


def test_a_number_of_a_table_is_the_one_that_was_transcribed():
    """Its place too: the table, the method, the section. And every number of the paper's tables has a row."""
    rows = [r for r in ROWS.values() if "value" in r and r["source"] == "paper" and r["item"].startswith("Table ")]
    found = {tuple(r["item"].removeprefix("Table ").split(", ", 1)): r["value"] for r in rows}
    wanted = {(str(t), m): value for t in (1, 2, 3) for m, value in claims.printed(t).items()}
    assert found == wanted and len(rows) == len(wanted)
    for row in rows:
        assert row["section"] == "6" and row["item"].endswith(f", {row['results']['method']}")
    for row in ROWS.values():
        if row.get("results", {}).get("name") == "original_moons":
            assert row["value"] == original_moons.PRINTED[row["results"]["method"]]
            assert (row["source"], row["section"]) == ("Leconte et al.", "ASkewSGD paper")


def test_what_the_paper_numbers_is_in_its_section():
    assert {name: ROWS[name]["section"] for name in NUMBERED} == SECTION_OF


def test_a_transcribed_table_that_was_edited_is_refused(tmp_path, monkeypatch):
    shutil.copytree(results.DATA, tmp_path / "data", ignore=shutil.ignore_patterns("results"))
    monkeypatch.setattr(claims, "DATA", tmp_path / "data")
    for name in ("paper/tables.csv", "published.csv"):
        path = tmp_path / "data" / name
        assert len(claims.transcribed(name)) == len(path.read_text(encoding="utf-8").splitlines()) - 1
        path.write_bytes(path.read_bytes().replace(b"8", b"9", 1))
        with pytest.raises(results.DamagedResults, match=f"{name}: not as it was transcribed"):
            claims.transcribed(name)
        path.unlink()
        with pytest.raises(FileNotFoundError, match="comes with a clone"):
            claims.transcribed(name)


def test_every_file_of_data_is_held_by_a_checksum_or_by_rules():
    names = {p.relative_to(results.DATA).as_posix() for p in results.DATA.rglob("*") if p.is_file()}
    held = {line.split("  ")[1] for line in (results.DATA / "SHA256SUMS").read_text(encoding="utf-8").splitlines()}
    held |= {f"results/{p.stem}.{kind}" for p in (results.DATA / "results").glob("*.csv") for kind in ("csv", "json")}
    assert names - held == {"README.md", "SHA256SUMS", "paper/claims.yml"}


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
        (0.6, "cannot be decided", 256, "outside"),  # nothing is said to be missing
        (0.45, "cannot be decided", 256, "inside"),
        (0.45, "holds", 255, "255 seeds"),
    ],
)
def test_the_rule_for_measured_numbers(value, verdict, n, words):
    found = claims.contradiction({"value": value, "verdict": verdict}, STORED | {"n": n})
    assert (found is None) if words is None else words in found


def test_the_readings_of_a_number_tell_which_verdict_is_right():
    inside, outside = (
        STORED | {"n": 256, "quantity": "a"},
        {"n": 256, "central_low": 0, "central_high": 0.1, "quantity": "b"},
    )
    right = {"as printed": VERDICTS[0], "reading": VERDICTS[1], "no": VERDICTS[2], "open": VERDICTS[3]}
    cases = {"as printed": (inside, [inside]), "reading": (inside, [inside, outside]), "no": (outside, [outside])}
    for name, (row, others) in (cases | {"open": (outside, [inside, outside])}).items():
        for verdict in VERDICTS:
            claim = {"value": 0.45, "verdict": verdict} | ({"why": "Not said, not stated."} if name == "open" else {})
            assert (claims.contradiction(claim, row, others) is None) == (verdict == right[name]), (name, verdict)
    claim = {"value": 0.45, "verdict": "does not hold"}
    assert "another reading" in claims.contradiction(claim, outside, [inside, outside])
    assert "the stored row is that of 0.4" in claims.contradiction(claim, outside | {"printed": 0.4})


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
