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
