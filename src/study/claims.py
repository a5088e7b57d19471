"""The claims of the sources, the numbers they print, and how they are held against stored results."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from .results import DATA, DamagedResults, Row, Value, read, row, select


def transcribed(name: str) -> list[dict[str, str]]:
    """The rows of a table that was typed off a source: "paper/tables.csv" or "published.csv", in the repository's folder data.

    Raises FileNotFoundError in an installed copy of the package alone, DamagedResults where the file is not the one that
    data/SHA256SUMS names.
    """
    path, sums = DATA / name, DATA / "SHA256SUMS"
    for file in (path, sums):
        if not file.exists():
            raise FileNotFoundError(f"{file}: it comes with a clone of the repository, not with the package")
    content = path.read_bytes()
    if f"{hashlib.sha256(content).hexdigest()}  {name}" not in sums.read_text(encoding="utf-8").splitlines():
        raise DamagedResults(
            f"{path}: not as it was transcribed (its checksum is not the one in {sums.name}). Was it corrected by its source? "
            "Then, in the folder data: sha256sum paper/tables.csv published.csv > SHA256SUMS"
        )
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


def printed(table: int) -> dict[str, float]:
    """Method -> number of one of the paper's tables (1: loss of Task I, 2: distance of Task I, 3: loss of Task II).

    Raises as `transcribed`, and KeyError for another table.
    """
    values = {r["method"]: float(r["value"]) for r in transcribed("paper/tables.csv") if r["table"] == str(table)}
    if not values:
        raise KeyError(f"no table {table}: transcribed are tables 1, 2 and 3")
    return values


VERDICTS = ("holds", "holds under a stated reading", "does not hold", "cannot be decided")
SOURCES = ("paper", "report", "BAMSProd", "Leconte et al.")
#: The sources' own sections that have claims, in their order; letters are appendices.
SECTIONS = {
    "paper": ("Abstract", "1", "2", "3.1", "3.2", "3.3", "4", "5", "6", "7", "A", "B"),
    "report": ("1", "3.1", "3.2", "3.4"),
    "BAMSProd": ("Abstract", "1", "3", "4", "5", "6", "7", "question"),
    "Leconte et al.": ("ASkewSGD paper",),
}
#: Fields of a claim; the head of data/paper/claims.yml explains them.
REQUIRED = {"id", "item", "about", "section", "printed", "verdict", "right", "see"}
OPTIONAL = {"source", "why", "test", "value", "quantity", "results"}


def claims(path: Path | None = None) -> list[dict]:
    """The rows of data/paper/claims.yml in their order, each with a `source`; needs pyyaml.

    Raises FileNotFoundError in an installed copy of the package alone, ValueError for a row that breaks the rules of the
    file's head.
    """
    import yaml

    path = path or DATA / "paper" / "claims.yml"
    if not path.exists():
        raise FileNotFoundError(f"{path}: the claims come with a clone of the repository, not with the package")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the former is ten times faster
    rows = yaml.load(path.read_text(encoding="utf-8"), loader)
    for claim in rows:
        try:
            _check_claim(claim)
        except ValueError as error:
            raise ValueError(f"{path.name}: {claim.get('id', claim)}: {error}") from None
    ids = [claim["id"] for claim in rows]
    if double := {i for i in ids if ids.count(i) > 1}:
        raise ValueError(f"{path.name}: more than one row for {sorted(double)}")
    return [{"source": SOURCES[0]} | claim for claim in rows]


def _check_claim(claim: Mapping) -> None:
    if missing := REQUIRED - claim.keys():
        raise ValueError(f"lacks {sorted(missing)}")
    if unknown := claim.keys() - REQUIRED - OPTIONAL:
        raise ValueError(f"has unknown fields {sorted(unknown)}")
    for field in claim.keys() - {"value", "results"}:
        if not isinstance(claim[field], str) or not claim[field].strip():
            raise ValueError(f"{field} is {claim[field]!r}, wanted is a text (quote numbers)")
    if claim["verdict"] not in VERDICTS:
        raise ValueError(f"verdict {claim['verdict']!r} is not one of {VERDICTS}")
    if claim.get("source", SOURCES[0]) not in SOURCES:
        raise ValueError(f"source {claim['source']!r} is not one of {SOURCES}")
    if any(c in claim.get(field, "") for field in ("item", "about", "quantity") for c in "$`"):
        raise ValueError("item, about and quantity are plain words, without formulas or code")
    if claim["section"] not in SECTIONS[claim.get("source", SOURCES[0])]:
        raise ValueError(f"the source has no section {claim['section']!r}")
    if "value" in claim:
        value = claim["value"]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"value is {value!r}, wanted is the printed number")
        if not re.search(rf"(?<![\d.]){re.escape(repr(value))}0*(?![.\d]*\d)", f"{claim['item']} {claim['printed']}"):
            raise ValueError(f"value is {value!r}, which is neither in item nor in printed")
    if "results" in claim:
        selector = claim["results"]
        if not isinstance(selector, dict) or not isinstance(selector.get("name"), str) or len(selector) < 2:
            raise ValueError(
                f"results is {selector!r}, wanted is {{name: an experiment, column: value, ...}}, selecting one stored row"
            )
        if "value" not in claim:
            raise ValueError("results without value: which printed number is measured?")


def measured(claim: Mapping, folder: Path | None = None) -> dict[str, Value] | None:
    """The stored row that measures the printed number of a claim, None where the claim names none. Raises as `row` does."""
    if "results" not in claim:
        return None
    where = dict(claim["results"])
    return row(where.pop("name"), folder, **where)


def inside(value: float, stored_row: Row) -> bool:
    """Whether a printed number lies in the central 95 % of the seeds of a stored row, give or take half a unit of its last digit.

    Where seeds fall into groups that says little: a row may have the columns `printed` and `near`, the share of seeds close to
    the printed number, and a number that no seed comes near is outside.
    """
    if "printed" in stored_row and float(stored_row["near"]) == 0:
        return False
    decimals = len(repr(value).partition(".")[2]) if isinstance(value, float) and "e" not in repr(value) else 0
    half = 0.5 * 10.0**-decimals
    return float(stored_row["central_low"]) - half <= value <= float(stored_row["central_high"]) + half


def readings(claim: Mapping, folder: Path | None = None) -> dict[str, Row]:
    """The stored rows of the runs that measure a claim's number, by what is read off them: losses with losses, distances with
    distances; empty where the claim names none. Raises as `row`."""
    if "results" not in claim:
        return {}
    where = dict(claim["results"])
    name, column = where.pop("name"), "score" if "score" in where else "quantity"
    own = where.pop(column)

    def kind(quantity: str) -> str:  # "loss, " of "loss, latent weights, test set", "" of "latent weights, test set"
        return re.split("(?:latent|quantised) weights", quantity)[0] if column == "quantity" else ""

    rows = select(read(name, folder), **where)
    return {r[column]: r for r in rows if kind(r[column]) == kind(own)}


def contradiction(claim: Mapping, stored_row: Row, others: Iterable[Row] = ()) -> str | None:
    """What is wrong with a verdict on a printed number, given the stored row that the claim names; None if nothing is.

    The rule: a number holds (under the reading that the row measures, or as printed) when it lies in the central 95 % of at
    least 256 seeds (see `inside`). One that lies outside does not hold; where the words say "not stated" it cannot be decided.
    others: the rows of the other readings (see `readings`): a number holds as printed when it lies inside in all of them, and
    does not hold when it lies outside in all.
    """
    value, verdict, others = claim["value"], claim["verdict"], list(others)
    if stored_row.get("printed", value) != value:
        return f"its value is {value}, the stored row is that of {stored_row['printed']}"
    if (n := int(stored_row["n"])) < 256:
        return f"rests on {n} seeds, wanted are at least 256"
    elsewhere = [inside(value, other) for other in others]
    if inside(value, stored_row):
        where, allowed = "inside", VERDICTS[:2]
        if others and not all(elsewhere):
            where, allowed = "inside, but not in every reading,", VERDICTS[1:2]
        elif others and "quantity" in stored_row:  # a score leaves other readings open: of the unit, of the step size
            where, allowed = "inside, and so in every reading,", VERDICTS[:1]
    elif "not stated" in f"{claim.get('right')} {claim.get('why')}":
        where, allowed = "outside, with something not stated,", VERDICTS[3:]
    else:
        where, allowed = "outside", VERDICTS[2:3]
        if any(elsewhere):
            where, allowed = "outside, but inside in another reading (name that one),", ()
    if verdict in allowed:
        return None
    return (
        f"{verdict}, but {value} lies {where} the central 95 % of the seeds, {stored_row['central_low']} to "
        f"{stored_row['central_high']}"
    )
