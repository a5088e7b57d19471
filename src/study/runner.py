"""The runs that are too long for a page: what they consist of, how they are made, resumed and checked.

    python -m study.experiments make            all of them (`make results`)
    python -m study.experiments check           some units of each, recomputed (`make check-results`)

An experiment is a list of units that do not depend on each other, each a function without arguments that returns rows. A
unit is deterministic and runs on one thread, so that the results depend neither on how many run at a time nor on an
interruption in between: what a finished unit found is kept, and a second call goes on with the others.

An experiment of many hours has a `version`. Its table grows: a unit is in it as soon as it has finished, with a digest of
what its rows depend on, and other code does not make it run again.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from quantized_training.files import write_whole

from . import results
from .results import Row, stored


def _nothing(*arguments: str) -> str:
    return ""


@dataclass(frozen=True)
class Experiment:
    """name: of its table in data/results. about: a sentence. units: key -> function that returns rows, the same columns
    everywhere; functions of a module (or partials of them), because they run in other processes. device: "cuda" where they
    need a GPU: such an experiment runs only where it is named, and so does one with a `version`. hours: of one core.

    version: of an experiment whose table grows, to be changed by whoever changes what a unit computes. depends: key -> what
    else a unit's rows depend on, in words (a setting that another table decided). note: what belongs beside every number,
    asked for when a table is written."""

    name: str
    about: str
    units: Mapping[str, Callable[[], Sequence[Row]]]
    device: str = "cpu"
    version: str = ""
    hours: float = 0.0
    depends: Callable[[str], str] = field(default=_nothing, repr=False)
    note: Callable[[], str] = field(default=_nothing, repr=False)

    def digest(self, key: str) -> str:
        """Twelve hexadecimal digits that change with all that the unit's rows depend on."""
        return hashlib.sha256(repr((self.name, self.version, key, self.depends(key))).encode()).hexdigest()[:12]


_scratch: Path | None = None


def scratch() -> Path | None:
    """A file of the running unit, for a checkpoint from which it goes on: removed when its rows are stored. None where
    nothing is to be kept."""
    return _scratch


def _run(
    units: Mapping[str, Callable[[], Sequence[Row]]], name: str, key: str, about: dict[str, str], file: Path | None
) -> tuple[str, str, list[dict[str, str]]]:
    """One unit, in a process of its own: its rows as they will be stored."""
    import torch

    global _scratch
    torch.set_num_threads(1)
    _scratch = file
    try:
        rows = units[key]()
    finally:
        _scratch = None
    return name, key, [about | {name: stored(value) for name, value in row.items()} for row in rows]


def run(
    work: Sequence[tuple[Experiment, str]], jobs: int, label: str, scratches: Path | None = None
) -> Iterator[tuple[str, str, list[dict[str, str]]]]:
    """The units as they finish: (experiment, key, rows), with a progress bar. scratches: folder of `scratch`."""
    from joblib import Parallel, delayed
    from tqdm import tqdm

    def call(e: Experiment, key: str):
        about = {"unit": key} | ({"settings": e.digest(key)} if e.version else {})
        return delayed(_run)({key: e.units[key]}, e.name, key, about, _file(e, key, scratches))

    done = Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1, pre_dispatch=jobs)(
        call(e, key) for e, key in work
    )
    yield from tqdm(done, total=len(work), unit="unit", desc=label, disable=not work)


def _file(e: Experiment, key: str, scratches: Path | None) -> Path | None:
    if scratches is None or not e.version:
        return None
    return scratches / e.name / f"{_slug(key)}_{e.digest(key)}.pt"


# Tables that grow


@contextmanager
def _locked(name: str, kept: Path) -> Iterator[None]:
    """Alone with the table: two calls may write to one."""
    from filelock import FileLock

    (kept / name).mkdir(parents=True, exist_ok=True)
    with FileLock(kept / name / "lock"):
        yield


def grown(e: Experiment, folder: Path | None = None) -> dict[str, list[dict[str, str]]]:
    """The units of a growing table that are what they would be now: key -> rows. Raises as `results.read`."""
    folder = folder or results.DATA / "results"
    results.finish(e.name, folder)
    if not (folder / f"{e.name}.csv").exists():
        return {}
    found: dict[str, list[dict[str, str]]] = {}
    for row in results.read_text(e.name, folder):
        found.setdefault(row["unit"], []).append(row)
    return {key: found[key] for key in e.units if key in found and found[key][0]["settings"] == e.digest(key)}


def _grow(e: Experiment, key: str, rows: list[dict[str, str]], state: str, folder: Path | None, kept: Path) -> Path:
    """Put a unit into the table; units that the experiment does not have any more, or not with these digests, leave it."""
    with _locked(e.name, kept):
        there = grown(e, folder) | {key: rows}
        old = results.provenance(e.name, folder)["code"] if len(there) > 1 else ""
        codes = old if state in old else f"{old}; {state}" if old else state
        about = ". ".join(filter(None, (e.about, e.note()))) + f" ({len(there)} of {len(e.units)} units)"
        table = [row for k in e.units if k in there for row in there[k]]
        return results.write(
            e.name, table, about, f"make results ONLY={e.name}", codes, folder, results.hardware(e.device)
        )


def grow(e: Experiment, jobs: int = 1, folder: Path | None = None, kept: Path | None = None) -> Path | None:
    """Run the units of a growing table that are missing there, in the experiment's order; returns the table's path."""
    kept, state, path = kept or results.DATA.parent / "_build" / "results", results.code(), None
    with _locked(e.name, kept):
        there = grown(e, folder)
    if there:
        print(f"{e.name}: {len(there)} of {len(e.units)} units are stored.", flush=True)
    for key in there:  # a call killed right after it had stored a unit leaves this
        _file(e, key, kept).unlink(missing_ok=True)
    for _, key, rows in run([(e, key) for key in e.units if key not in there], jobs, e.name, kept):
        path = _grow(e, key, rows, state, folder, kept)
        _file(e, key, kept).unlink(missing_ok=True)
    return path


def make(
    chosen: Mapping[str, Experiment], jobs: int = 1, folder: Path | None = None, kept: Path | None = None
) -> list[Path]:
    """Run the experiments and store their tables; returns their paths.

    kept: where finished units wait for the others (default _build/results); those of the same code are not run again. When
    a table is stored its units are removed from there. folder: default data/results. Raises OSError, before anything runs, where
    one of them cannot be written to.
    """
    results.need_writable(folder or results.DATA / "results", kept or results.DATA.parent / "_build" / "results")
    grew = [path for e in chosen.values() if e.version and (path := grow(e, jobs, folder, kept))]
    chosen = {name: e for name, e in chosen.items() if not e.version}
    state = results.code()
    kept = (kept or results.DATA.parent / "_build" / "results") / state
    files = {(e.name, key): kept / e.name / f"{_slug(key)}.json" for e in chosen.values() for key in e.units}
    rows = {}
    for place, file in files.items():
        if (found := _load(file)) is not None:
            rows[place] = found
    if rows:
        print(f"{len(rows)} of {len(files)} units were finished before.", flush=True)
    todo = [(e, key) for e in chosen.values() for key in e.units if (e.name, key) not in rows]
    written = []

    def store_if_complete(e: Experiment) -> None:
        if all((e.name, key) in rows for key in e.units):
            table = [row for key in e.units for row in rows[e.name, key]]
            made_on = results.hardware(e.device)
            written.append(results.write(e.name, table, e.about, f"make results ONLY={e.name}", state, folder, made_on))
            for key in e.units:
                files[e.name, key].unlink(missing_ok=True)

    waiting = {e.name for e, _ in todo}
    for e in chosen.values():
        if e.name not in waiting:
            store_if_complete(e)
    for name, key, found in run(todo, jobs, "results"):
        files[name, key].parent.mkdir(parents=True, exist_ok=True)
        write_whole(files[name, key], json.dumps(found).encode())
        rows[name, key] = found
        store_if_complete(chosen[name])
    return grew + written


def _slug(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _load(file: Path) -> list[dict[str, str]] | None:
    """A unit that was kept; None where there is none or it cannot be read, so that it runs again."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class Drift:
    """A stored number that a new run does not give."""

    experiment: str
    unit: str
    row: int
    column: str
    stored: str
    now: str
    errors: float  # the difference in standard errors; inf where the row has none

    @property
    def serious(self) -> bool:
        """Beyond what other rounding errors can do to a mean over seeds whose single runs are chaotic."""
        return self.errors > 5

    def __str__(self) -> str:
        size = f" ({self.errors:.2g} standard errors)" if math.isfinite(self.errors) else ""
        return (
            f"{self.experiment}: {self.unit}, row {self.row}, {self.column}: stored {self.stored}, now {self.now}{size}"
        )


def compare(
    experiment: str, unit: str, old: Sequence[Mapping[str, str]], new: Sequence[Mapping[str, str]]
) -> list[Drift]:
    """Differences between stored and new rows of a unit; numbers that agree to a relative 1e-6 are the same, and so are times.

    Rows with other words (a method, a quantity) belong together whatever their order is.
    """
    if len(old) != len(new) or any(a.keys() != b.keys() for a, b in zip(old, new, strict=False)):
        return [Drift(experiment, unit, 0, "rows", str(len(old)), f"{len(new)}, or other columns", math.inf)]
    found, order = [], sorted(range(len(old)), key=lambda i: _words(old[i]))
    for i, b in zip(order, sorted(new, key=_words), strict=True):
        a = old[i]
        for column in a:
            if column != "seconds" and not _same(a[column], b[column]):
                found.append(Drift(experiment, unit, i, column, a[column], b[column], _errors(a, column, b[column])))
    return found


def _words(row: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(column, value) for column, value in row.items() if not _is_number(value)]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _same(a: str, b: str) -> bool:
    try:
        x, y = float(a), float(b)
    except ValueError:
        return a == b
    return math.isclose(x, y, rel_tol=1e-6, abs_tol=1e-9) or (math.isnan(x) and math.isnan(y))


def _errors(row: Mapping[str, str], column: str, now: str) -> float:
    """Standard errors of a mean; those of an outer quantile are 2.7 times as large (normal law), of a share at most 1/2;
    of one seed's value it is the standard deviation. inf where the row has none, or a number is none any more (NaN, inf)."""
    wide = 2.7 if column in ("sd", "central_low", "central_high") else 1.0
    share = column.endswith(("_wins", "_ties"))
    try:
        n = 1.0 if column.startswith("seed ") else float(row["n"])
        sd = 0.5 if share else float(row.get("sd", 0.5))
        errors = abs(float(row[column]) - float(now)) / (wide * sd / n**0.5)
    except (KeyError, ValueError, ZeroDivisionError):
        return math.inf
    return errors if math.isfinite(float(row[column])) and math.isfinite(errors) else math.inf


def check(
    chosen: Mapping[str, Experiment], sample: int | None = 1, jobs: int = 1, seed: int = 0, folder: Path | None = None
) -> tuple[int, list[Drift]]:
    """Recompute `sample` units of each experiment (None: all) and compare: how many were run, and what differs.

    Raises as `results.read` does, and DamagedResults where a table lacks units that its experiment has.
    """
    tables: dict[tuple[str, str], list[dict[str, str]]] = {}
    for name, e in chosen.items():
        if e.version:  # what is there so far
            tables |= {(name, key): rows for key, rows in grown(e, folder).items()}
            continue
        for row in results.read_text(name, folder):
            tables.setdefault((name, row["unit"]), []).append(row)
        if other := {key for n, key in tables if n == name} ^ set(e.units):
            raise results.DamagedResults(
                f"{name}: the stored table and the experiment differ in the units {sorted(other)[:5]}; "
                f"`make results ONLY={name}` writes it anew"
            )
    choose = random.Random(seed)
    work = [
        (e, key)
        for e in chosen.values()
        for there in [[key for key in e.units if (e.name, key) in tables]]
        for key in (there if sample is None else choose.sample(there, min(sample, len(there))))
    ]
    drifts = []
    for name, key, found in run(work, jobs, "checking"):
        drifts += compare(name, key, tables[name, key], found)
    return len(work), drifts


def need_devices(chosen: Mapping[str, Experiment]) -> None:
    """Exits, saying what is missing, where an experiment needs a GPU and torch finds none."""
    import torch

    if (wanting := [e.name for e in chosen.values() if e.device != "cpu"]) and not torch.cuda.is_available():
        sys.exit(f"{', '.join(wanting)}: this needs a GPU, and torch finds none here")
