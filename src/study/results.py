"""Stored results: runs too long for a page, in data/results/NAME.csv, one row per measured thing, with NAME.json, which says
what made it and holds the checksums of the table and of itself. `python -m study.experiments` makes and checks them.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from quantized_training.files import write_whole

SOURCES = Path(__file__).resolve().parents[1]  # of the library and of the study


def data_folder(sources: Path, start: Path) -> Path:
    """The repository's folder `data`: beside `sources` in a clone, else (an installed study) in the nearest folder from `start`
    upwards. Where there is none, `start`/data: what is read there is missing, and its reader says so; nothing is ever looked
    for, or written, among the installed packages."""
    folders = (folder / "data" for folder in (sources.parent, start, *start.parents))
    return next((folder for folder in folders if (folder / "paper" / "claims.yml").is_file()), start / "data")


DATA = data_folder(SOURCES, Path.cwd())

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
    write_whole(folder / f".{name}.json", _sealed(record))
    write_whole(folder / f"{name}.csv", text.encode())
    finish(name, folder)
    return folder / f"{name}.csv"


def _seal(record: Mapping) -> str:
    """The checksum of a record: of all that it says, the checksum of its table included."""
    said = {key: value for key, value in record.items() if key != "seal"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _sealed(record: Mapping) -> bytes:
    return (json.dumps(record | {"seal": _seal(record)}, indent=1, ensure_ascii=False) + "\n").encode()


def sign(name: str, folder: Path | None = None) -> bool:
    """Give a record of an older version, whose checksum is that of the table alone, one of its own; True where it had none.
    What it says stays. Raises as `provenance`."""
    found = provenance(name, folder)
    if "seal" not in found:
        write_whole(_folder(folder) / f"{name}.json", _sealed(found))
    return "seal" not in found


def finish(name: str, folder: Path | None = None) -> None:
    """The last step of `write`, for what was interrupted before it: move the JSON to its place if the table has been moved."""
    table, beside = _folder(folder) / f"{name}.csv", _folder(folder) / f".{name}.json"
    if beside.exists() and table.exists():
        if json.loads(beside.read_bytes())["sha256"] == hashlib.sha256(table.read_bytes()).hexdigest():
            os.replace(beside, table.with_suffix(".json"))


def need_writable(*folders: Path) -> None:
    """Raises OSError, naming it, where a folder cannot be written to or made: to be asked before hours of work, not after."""
    for folder in folders:
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            raise OSError(f"{folder}: results cannot be stored there ({error.strerror}); nothing was run") from error


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


def code() -> str:
    """Checksum of the source of the library and of the study; hidden files (an editor's copies) are no part of it."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.rglob("*.py")):
        if "/." not in (name := f"/{path.relative_to(SOURCES).as_posix()}"):
            digest.update(f"\0{name[1:]}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def provenance(name: str, folder: Path | None = None, command: str = "") -> dict:
    """What made a stored result. Raises FileNotFoundError where there is none, DamagedResults where it cannot be trusted.

    command: what makes it, for the words of an error; by default that of its record, or `make results`.
    """
    table, record = (_folder(folder) / f"{name}.{kind}" for kind in ("csv", "json"))
    command = command or _command(record) or f"make results ONLY={name}"
    again = f"remove both files, and `{command}` makes them anew"  # finished parts are not overwritten everywhere
    for path in (table, record):
        if not path.exists():
            raise FileNotFoundError(
                f"{path}: no such result (looked for in a clone of the repository, from the working directory upwards); {again}"
            )
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
    if found.get("seal", _seal(found)) != _seal(found):  # records of older versions have none: see `sign`
        raise DamagedResults(
            f"{record}: not what the experiment wrote (it does not have its own checksum): edited; {again}"
        )
    if hashlib.sha256(table.read_bytes()).hexdigest() != expected:
        raise DamagedResults(
            f"{table}: not what the experiment wrote (its checksum is not the one in {record.name}): it was edited, cut short, "
            f"or left by an interrupted writing; {again}"
        )
    return found


def _command(record: Path) -> str:
    """The command that a record names, "" where it cannot be read."""
    try:
        return str(json.loads(record.read_text(encoding="utf-8"))["command"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def read(name: str, folder: Path | None = None) -> list[dict[str, Value]]:
    """The rows of a stored result, with numbers as int or float. Raises as `provenance` does."""
    return [{key: _typed(value) for key, value in row.items()} for row in read_text(name, folder)]


def read_text(name: str, folder: Path | None = None, command: str = "") -> list[dict[str, str]]:
    """The rows of a stored result as they are written. Raises as `provenance` does."""
    provenance(name, folder, command)
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
    found = select(rows, **where)
    if len(found) != 1:
        raise KeyError(f"{name}: {len(found)} rows with {where}, wanted is one")
    return found[0]


def select(rows: Iterable[Row], **where: Value) -> list[Row]:
    """The rows whose columns have these values, in their order. Raises KeyError for an unknown column."""
    return [r for r in rows if all(r[key] == value for key, value in where.items())]


def source(name: str, folder: Path | None = None) -> str:
    """One line for the caption of what is made of a stored result: seeds, command, versions, hardware."""
    p = provenance(name, folder)
    seeds = " to ".join(str(s) for s in sorted({*p["seeds"][:1], *p["seeds"][-1:]}))
    return (
        f"{seeds + ' seeds; ' if seeds else ''}stored by `{p['command']}`, Python {p['versions']['python']}, torch "
        f"{p['versions']['torch']}, {p['hardware']}, commit {p['commit'][:7]}"
    )


def show(table: Sequence[Sequence[str]]) -> None:
    """Print rows of equally many words in columns that are as wide as their longest word."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip())
