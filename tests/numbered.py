"""What the papers number, and where the book shows it; for the tests of the claims and of their pages."""

import re
from pathlib import Path

from conftest import ROOT
from study import claims

ROWS = {row["id"]: row for row in claims.claims()}
SOURCES = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "notebooks").glob("*.md"))}

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

#: Where, in the order of the paper.
SECTION_OF = {
    name: section
    for section, names in {
        "2": [f"eq-{n}" for n in range(1, 7)],
        "3.1": ["eq-7", "eq-8", "eq-p1"],
        "3.2": ["def-1", "def-2", "def-3", *(f"ass-{n}" for n in range(1, 5)), "thm-1", "eq-p2"]
        + [f"eq-{n}" for n in range(9, 19)],
        "3.3": ["def-4", "eq-19", "eq-20", "eq-21"],
        "4": ["alg-1", "eq-22", "def-5", "ass-5", "ass-6", "ass-7a", "ass-7b", "ass-8", "thm-2", "thm-3"],
        "5": ["def-6", "def-7", "def-8", "lem-1", "alg-2", "ass-9", "thm-4"],
        "A": ["def-9", "def-10", "lem-2", "lem-3", "thm-5", *(f"eq-{n}" for n in range(23, 27))],
        "B": [*(f"lem-{n}" for n in range(4, 9)), *(f"clm-{n}" for n in range(1, 9))],
    }.items()
    for name in names
}

#: What BAMSProd numbers.
NUMBERED_BAMSPROD = {
    "bp-eq-1": "Equation (1)",
    "bp-alg-1": "Algorithm 1",
    "bp-cor-4": "Corollary 4",
    **{f"bp-thm-{n}": f"Theorem {n}" for n in range(1, 5)},
    **{f"bp-fig-{n}": f"Figure {n}" for n in range(1, 5)},
}
BAMSPROD_METHODS = ("sgd", "adam", "amsgrad", "adabound", "amsbound", "bop", "bamsprod")


def label_file(label: str) -> Path | None:
    return next((p for p, text in SOURCES.items() if re.search(rf"^\({re.escape(label)}\)=$", text, re.M)), None)
