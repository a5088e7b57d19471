"""The claims of the sources, the numbers they print, and how they are held against stored results."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from .results import DATA, Row, Value, row


def printed(table: int) -> dict[str, float]:
    """Method -> number of one of the paper's tables (1: loss of Task I, 2: distance of Task I, 3: loss of Task II).

    Reads data/paper/tables.csv of the repository: works in a clone, not in an installed copy of the package alone (then
    FileNotFoundError). Raises KeyError for another table.
    """
    path = DATA / "paper" / "tables.csv"
    if not path.exists():
        raise FileNotFoundError(f"{path}: the paper's tables come with a clone of the repository, not with the package")
    with open(path, newline="", encoding="utf-8") as file:
        values = {row["method"]: float(row["value"]) for row in csv.DictReader(file) if row["table"] == str(table)}
    if not values:
        raise KeyError(f"no table {table}: transcribed are tables 1, 2 and 3")
    return values


VERDICTS = ("holds", "holds under a stated reading", "does not hold", "cannot be decided")
SOURCES = ("paper", "report", "BAMSProd", "Leconte et al.")
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
    if "value" in claim and (isinstance(claim["value"], bool) or not isinstance(claim["value"], int | float)):
        raise ValueError(f"value is {claim['value']!r}, wanted is the printed number")
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


def contradiction(claim: Mapping, stored_row: Row) -> str | None:
    """What is wrong with a verdict on a printed number, given the stored row that the claim names; None if nothing is.

    The rule: a number holds (as printed, or under the reading that the row measures) when it lies in the central 95 % of
    at least 256 seeds (see `inside`), and does not hold when it lies outside.
    """
    if claim["verdict"] == VERDICTS[3]:
        return None
    if (n := int(stored_row["n"])) < 256:
        return f"rests on {n} seeds, wanted are at least 256"
    if inside(claim["value"], stored_row) != (claim["verdict"] != VERDICTS[2]):
        where = "inside" if inside(claim["value"], stored_row) else "outside"
        return (
            f"{claim['verdict']}, but {claim['value']} lies {where} the central 95 % of the seeds, "
            f"{stored_row['central_low']} to {stored_row['central_high']}"
        )
    return None
