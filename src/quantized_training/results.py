"""The claims of the sources, the numbers they print, the statistics with which ours are put beside them, and stored results.

Stored results are runs too long for a page: data/results/NAME.csv, one row per measured thing, with NAME.json, which says
what made it and holds the checksum of the table. `python -m quantized_training.experiments` makes and checks them.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from scipy import stats

from .files import write_whole

DATA = Path(__file__).resolve().parents[2] / "data"


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


@dataclass(frozen=True)
class Summary:
    """Mean over seeds with its 95 % confidence interval, the standard deviation and the central 95 % of the seeds."""

    n: int
    mean: float
    sd: float
    confidence: tuple[float, float]
    central: tuple[float, float]

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.sd:.4f}"

    def z(self, value: float) -> float:
        """How many standard deviations a number lies above the mean; inf where all seeds agree on another number."""
        if self.sd == 0:
            return 0.0 if value == self.mean else float(np.copysign(np.inf, value - self.mean))
        return (value - self.mean) / self.sd

    def covers(self, value: float) -> bool:
        """Whether a number lies within the central 95 % of the seeds; says little where the seeds fall into two groups."""
        return self.central[0] <= value <= self.central[1]


def summarise(values) -> Summary:
    """Statistics of one number per seed, (S,). Raises ValueError for fewer than two seeds or values that are not finite."""
    x = np.asarray(values, dtype=float).ravel()
    if len(x) < 2 or not np.isfinite(x).all():
        raise ValueError(
            f"need at least two finite values, got {len(x)} of which {int(np.isfinite(x).sum())} are finite"
        )
    sd = float(x.std(ddof=1))
    half = float(stats.t.ppf(0.975, len(x) - 1)) * sd / len(x) ** 0.5
    low, high = np.quantile(x, [0.025, 0.975])
    mean = float(x.mean())
    return Summary(len(x), mean, sd, (mean - half, mean + half), (float(low), float(high)))


@dataclass(frozen=True)
class Comparison:
    """Paired comparison over seeds where smaller is better: shares of wins, ties and losses of A against B."""

    wins: float
    ties: float
    losses: float
    confidence: tuple[float, float]  # 95 % Wilson interval of `wins`


def compare(a, b, tolerance: float = 1e-9) -> Comparison:
    """P(A beats B) from one number per seed each, (S,); differences up to `tolerance` are ties.

    Raises ValueError when the two do not belong to the same seeds.
    """
    a, b = np.asarray(a, dtype=float).ravel(), np.asarray(b, dtype=float).ravel()
    if a.shape != b.shape:
        raise ValueError(f"a paired comparison needs the same seeds on both sides, got {len(a)} and {len(b)} values")
    wins, losses = int((a < b - tolerance).sum()), int((a > b + tolerance).sum())
    interval = stats.binomtest(wins, len(a)).proportion_ci(method="wilson")
    return Comparison(wins / len(a), 1 - (wins + losses) / len(a), losses / len(a), (interval.low, interval.high))


def share(successes) -> tuple[float, tuple[float, float]]:
    """Share of true entries, with its 95 % Wilson interval."""
    x = np.asarray(successes, dtype=bool).ravel()
    interval = stats.binomtest(int(x.sum()), len(x)).proportion_ci(method="wilson")
    return float(x.mean()), (interval.low, interval.high)


def spread(values) -> dict[str, float]:
    """`summarise` as columns of a stored row; nan beside n where a value is not finite (a run that diverged)."""
    x = np.asarray(values, dtype=float).ravel()
    if not np.isfinite(x).all():
        return dict.fromkeys(("n", "mean", "sd", "low", "high", "central_low", "central_high"), math.nan) | {
            "n": len(x)
        }
    s = summarise(x)
    return {
        "n": s.n, "mean": s.mean, "sd": s.sd, "low": s.confidence[0], "high": s.confidence[1],
        "central_low": s.central[0], "central_high": s.central[1],
    }  # fmt: skip


Value = str | int | float
Row = Mapping[str, Value]


class DamagedResults(ValueError):
    """A stored result that is not what its experiment wrote."""


def _folder(folder: Path | None) -> Path:
    return folder or DATA / "results"


def write(
    name: str, rows: Sequence[Row], about: str, command: str, code: str, folder: Path | None = None, made_on: str = ""
) -> Path:
    """Store the rows of an experiment as NAME.csv and NAME.json; returns the path of the former.

    Each file is written beside its place and then moved there, so neither is ever seen half written; a table that was moved
    without its JSON does not match it: `read` says so, `finish` moves the JSON. code: checksum of the package that made the rows; made_on: the
    hardware, by default this CPU. Raises ValueError for no rows, for rows with different columns, and for values that are not text or numbers.
    """
    if not rows:
        raise ValueError(f"{name}: no rows to store")
    columns = list(rows[0])
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    table.writerow(columns)
    for row in rows:
        if list(row) != columns:
            raise ValueError(f"{name}: a row has the columns {list(row)}, the first one {columns}")
        table.writerow([stored(value) for value in row.values()])
    text = buffer.getvalue()
    seeds = sorted({int(row["n"]) for row in rows if "n" in row})
    record = {
        "about": about,
        "command": command,
        "seeds": seeds,
        "rows": len(rows),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "commit": _commit(),
        "code": code,
        "versions": _versions(),
        "hardware": made_on or hardware(),
    }
    folder = _folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f".{name}.json", (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())
    write_whole(folder / f"{name}.csv", text.encode())
    finish(name, folder)
    return folder / f"{name}.csv"


def finish(name: str, folder: Path | None = None) -> None:
    """The last step of `write`, for what was interrupted before it: move the JSON to its place if the table has been moved."""
    table, beside = _folder(folder) / f"{name}.csv", _folder(folder) / f".{name}.json"
    if beside.exists() and table.exists():
        if json.loads(beside.read_bytes())["sha256"] == hashlib.sha256(table.read_bytes()).hexdigest():
            os.replace(beside, table.with_suffix(".json"))


def stored(value: Value) -> str:
    """A value as the table holds it: numbers with ten significant digits. Raises ValueError for anything else than these."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{value!r}: stored are texts, int and float")
    return format(value, ".10g") if isinstance(value, float) else str(value)


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=DATA.parent, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (" with changes" if git("status", "--porcelain", "src") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("torch", "numpy", "scipy", "scikit-learn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def hardware(device: str = "cpu") -> str:
    """The class of the machine, e.g. "CPU, x86_64, 2 cores"; for a GPU its name instead of "CPU"."""
    kind = "CPU"
    if device.startswith("cuda"):
        import torch

        kind = torch.cuda.get_device_name(device)
    return f"{kind}, {platform.machine()}, {os.cpu_count()} cores"


def provenance(name: str, folder: Path | None = None) -> dict:
    """What made a stored result. Raises FileNotFoundError where there is none, DamagedResults where it cannot be trusted."""
    table, record = (_folder(folder) / f"{name}.{kind}" for kind in ("csv", "json"))
    again = f"`make results ONLY={name}` writes it anew"
    if name.startswith("task_3_"):  # where finished cells are, which are not overwritten
        profile = name.removeprefix("task_3_")
        again = f"remove both files, and `python -m quantized_training task3 --profile {profile}` makes them anew"
    for path in (table, record):
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such result; {again}")
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        expected = found["sha256"]
        (
            {found[key] for key in ("about", "command", "commit", "hardware", "code")},
            [*found["seeds"]],
            {**found["versions"]},
        )
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise DamagedResults(f"{record}: damaged ({type(error).__name__}: {error}); {again}") from None
    if hashlib.sha256(table.read_bytes()).hexdigest() != expected:
        raise DamagedResults(
            f"{table}: not what the experiment wrote (its checksum is not the one in {record.name}): it was edited, cut short, "
            f"or left by an interrupted writing; {again}"
        )
    return found


def read(name: str, folder: Path | None = None) -> list[dict[str, Value]]:
    """The rows of a stored result, with numbers as int or float. Raises as `provenance` does."""
    return [{key: _typed(value) for key, value in row.items()} for row in read_text(name, folder)]


def read_text(name: str, folder: Path | None = None) -> list[dict[str, str]]:
    """The rows of a stored result as they are written. Raises as `provenance` does."""
    provenance(name, folder)
    with open(_folder(folder) / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _typed(text: str) -> Value:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def row(name: str, folder: Path | None = None, **where: Value) -> dict[str, Value]:
    """The only row of a stored result whose columns have these values. Raises KeyError where it is not exactly one."""
    rows = read(name, folder)
    if unknown := where.keys() - rows[0].keys():
        raise KeyError(f"{name} has no column {', '.join(sorted(unknown))}; it has {', '.join(rows[0])}")
    found = [r for r in rows if all(r[key] == value for key, value in where.items())]
    if len(found) != 1:
        raise KeyError(f"{name}: {len(found)} rows with {where}, wanted is one")
    return found[0]


def source(name: str, folder: Path | None = None) -> str:
    """One line for the caption of what is made of a stored result: seeds, command, versions, hardware."""
    p = provenance(name, folder)
    seeds = " to ".join(str(s) for s in sorted({*p["seeds"][:1], *p["seeds"][-1:]}))
    return (
        f"{seeds + ' seeds; ' if seeds else ''}stored by `{p['command']}`, Python {p['versions']['python']}, torch "
        f"{p['versions']['torch']}, {p['hardware']}, commit {p['commit'][:7]}"
    )


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
