"""Task III's sweep: the cells of a grid that are not stored yet, in this process, in several, on a cluster or under torchrun.

The rows of a finished cell go into data/results/task_3_PROFILE.csv at once, written by the process that called `sweep`; a
cell that was interrupted goes on from its checkpoint. On the CPU a cell runs on one thread, so the table depends neither on
how many run at a time nor on where. Under torchrun, inside `distributed.distributed()`, all processes train each cell together and
the first writes.
"""

from __future__ import annotations

import math
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path

import torch

from .. import results
from ..datasets import image_sets
from . import grid
from .distributed import place, wait
from .grid import Cell, Profile

Rows = list[dict[str, str]]
STATES = STORED, DIVERGED, CHANGED, MISSING = "stored", "diverged", "with other settings", "missing"
_ONE = threading.Lock()  # a run seeds torch's global generators: threads of a cluster's worker take turns


def slug(name: str) -> str:
    """A name as it is typed: in lower case, its words joined by dashes."""
    return re.sub(r"[\W_]+", "-", name.lower()).strip("-")


def table(profile: Profile) -> str:
    """The name of a profile's table in data/results."""
    return f"task_3_{profile.name}"


def base_command(profile: Profile) -> str:
    """The command that makes a profile's table, without options."""
    return f"python -m study task3 --profile {profile.name}"


def key(cell: Cell) -> tuple[str, ...]:
    """What its rows have in the columns of `Cell`."""
    return tuple(map(str, cell.key.values()))


def read(profile: Profile, folder: Path) -> dict[tuple[str, ...], Rows]:
    """The stored rows of each cell; nothing where there is no table. Raises as `results.read` does for a damaged one, also
    where one of its files is missing or the columns are others."""
    if not any((folder / f"{table(profile)}.{kind}").exists() for kind in ("csv", "json")):
        return {}
    found: dict[tuple[str, ...], Rows] = {}
    columns = [*Cell.__dataclass_fields__, "settings", *grid.RECORD]
    for row in results.read_text(table(profile), folder, base_command(profile)):
        if list(row) != columns:
            raise results.DamagedResults(f"{folder / table(profile)}.csv: the columns are not {', '.join(columns)}")
        found.setdefault(tuple(row[name] for name in Cell.__dataclass_fields__), []).append(row)
    return found


def state_of(profile: Profile, cell: Cell, there: dict[tuple[str, ...], Rows]) -> str:
    """What a table, as `read` gives it, holds of a cell: STORED, DIVERGED (its last row is NaN), CHANGED or MISSING."""
    rows = there.get(key(cell))
    if not rows:
        return MISSING
    if rows[-1]["settings"] != grid.settings(profile, cell):
        return CHANGED
    if math.isnan(float(rows[-1]["loss"])):
        return DIVERGED
    return STORED if int(rows[-1]["epoch"]) == profile.epochs else MISSING


def states(profile: Profile, cells: Sequence[Cell], folder: Path) -> dict[Cell, str]:
    """`state_of` each cell. Raises as `read`."""
    there = read(profile, folder)
    return {cell: state_of(profile, cell, there) for cell in cells}


def stored(profile: Profile, folder: Path | None = None) -> dict[Cell, list[dict[str, float]]]:
    """The record, one dict of `grid.RECORD` per epoch, of each cell in a profile's table that is STORED or DIVERGED, seed
    by seed; nothing where there is no table. folder: by default data/results. Raises as `read`."""
    there, found = read(profile, folder or results.DATA / "results"), {}
    for (method, bits, levels, quantise, seed), rows in there.items():
        cell = Cell(method, int(bits), levels, quantise, int(seed))
        if state_of(profile, cell, there) in (STORED, DIVERGED):
            found[cell] = [{column: float(row[column]) for column in grid.RECORD} for row in rows]
    return dict(sorted(found.items(), key=lambda item: item[0].seed))


def _kept(profile: Profile, kept: Path | None) -> Path:
    return (kept or results.DATA.parent / "_build" / "task_3") / profile.name


@contextmanager
def _locked(profile: Profile, kept: Path | None, folder: Path) -> Iterator[None]:
    """Alone with the table: two sweeps may write to one."""
    from filelock import FileLock

    _kept(profile, kept).mkdir(parents=True, exist_ok=True)
    with FileLock(_kept(profile, kept) / "lock"):
        results.finish(table(profile), folder)
        yield


def _checkpoint(profile: Profile, cell: Cell, state: str, kept: Path | None) -> Path:
    """Where a running cell is kept; not found again once the settings, the number of processes, or the package's code,
    `state`, have changed."""
    name = "_".join(map(slug, (*key(cell), grid.settings(profile, cell), str(place()[1]))))
    return _kept(profile, kept) / state / f"{name}.pt"


@lru_cache(maxsize=1)
def _images(profile: Profile, data: Path | None) -> image_sets.Images:
    return grid.images(profile, data, progress=place()[0] == 0)


def _run(
    profile: Profile, cell: Cell, data: Path | None, device: str, state: str, kept: Path | None, progress: bool
) -> tuple[Cell, Rows, str, str]:
    """One cell, maybe on another machine: its rows as they are stored, the note on its images, the hardware."""
    images, threads = _images(profile, data), torch.get_num_threads()
    with _ONE:
        if torch.device(device).type == "cpu":
            torch.set_num_threads(1)
        try:
            file = _checkpoint(profile, cell, state, kept)
            rows = grid.run(profile, cell, images, checkpoint=file, progress=progress, device=device)
        finally:
            torch.set_num_threads(threads)
    rows = [{name: results.stored(value) for name, value in row.items()} for row in rows]
    many = f"{place()[1]} × " if place()[1] > 1 else ""
    return cell, rows, images.note, many + results.hardware(device)


def _finished(
    profile: Profile, todo: Sequence[Cell], jobs: int, dask: str | None, *rest
) -> Iterator[tuple[Cell, Rows, str, str]]:
    """`_run` of each cell, as they finish.

    joblib 1.6 waits for ever where the workers of a cluster died under one cell more often than the scheduler allows (its
    `allowed-failures`, 3): interrupt it, and the same command goes on.
    """
    if jobs == 1 and not dask:
        yield from (_run(profile, cell, *rest) for cell in todo)
        return
    from joblib import Parallel, delayed, parallel_config

    with ExitStack() as stack:
        if dask:
            from distributed import Client

            stack.enter_context(parallel_config("dask", client=stack.enter_context(Client(dask))))
        parallel = Parallel(
            n_jobs=None if dask else jobs, return_as="generator_unordered", batch_size=1, pre_dispatch="all"
        )
        yield from parallel(delayed(_run)(profile, cell, *rest) for cell in todo)


def command(profile: Profile, found: dict[tuple[str, ...], Rows]) -> str:
    """The command that makes a whole table."""
    _, _, levels, quantise, seeds = (sorted(set(column)) for column in zip(*found, strict=True))
    words = [base_command(profile)]
    if levels != list(grid.LEVELS[:1]):
        words += ["--levels", *levels]
    if quantise != ["all"]:
        words += ["--quantise", *map(slug, quantise)]
    if any(int(seed) >= profile.seeds for seed in seeds):
        words += ["--seeds", *sorted(seeds, key=int)]
    if profile.device != grid.PROFILES.get(profile.name, profile).device:
        words += ["--device", profile.device]
    return " ".join(words)


def _joined(old: str, new: str) -> str:
    """What several calls said about one table, each thing once."""
    return old if new in old else f"{old}; {new}" if old else new


def _store(
    profile: Profile, cell: Cell, rows: Rows, note: str, hardware: str, state: str, folder: Path, kept: Path | None
) -> None:
    """Put the rows of a cell into the table, in place of those it has there; then its checkpoint is not needed any more."""
    with _locked(profile, kept, folder):
        found = read(profile, folder)
        old = results.provenance(table(profile), folder, base_command(profile)) if found else {}
        found[key(cell)] = rows
        about = old.get("about", f"Task III, profile {profile.name}: one row per epoch of each cell of the grid")
        results.write(
            table(profile),
            [row for k in sorted(found, key=lambda k: (k[0], int(k[1]), *k[2:4], int(k[4]))) for row in found[k]],
            _joined(about, note),
            command(profile, found),
            _joined(old.get("code", ""), state),
            folder,
            _joined(old.get("hardware", ""), hardware),
        )
    _checkpoint(profile, cell, state, kept).unlink(missing_ok=True)


def sweep(
    profile: Profile,
    cells: Sequence[Cell],
    *,
    data: Path | None = None,
    jobs: int = 1,
    dask: str | None = None,
    device: str | None = None,
    folder: Path | None = None,
    kept: Path | None = None,
    progress: bool = True,
) -> None:
    """Run the cells that are not stored, and store each when it has finished.

    data: folder of the images, as for `image_sets.load`. jobs: cells at a time. dask: address of a Dask cluster's scheduler, on
    whose workers the cells run instead. folder: of the table, by default data/results. kept: where running cells are kept,
    by default _build/task_3. progress: show bars. Under torchrun jobs must be 1. Raises as `read`, `image_sets.load` and
    `train_images` do, and OSError, before anything runs, where one of the folders cannot be written to.
    """
    from tqdm import tqdm

    folder, device = folder or results.DATA / "results", device or profile.device
    first = place()[0] == 0
    with _locked(profile, kept, folder):
        todo = [cell for cell, state in states(profile, cells, folder).items() if state in (CHANGED, MISSING)]
    wait()  # all have read the table before the first process writes to it
    state = results.code()  # the code now, before anybody changes a file
    for cell in set(cells) - set(todo) if first else ():  # a sweep killed right after it had stored a cell leaves this
        _checkpoint(profile, cell, state, kept).unlink(missing_ok=True)
    if not todo:
        return
    results.need_writable(folder, _kept(profile, kept))
    if not dask:
        _images(profile, data)  # downloaded once, and refused before anything runs
    jobs = min(jobs, len(todo))
    rest = (data, device, state, kept, progress and jobs == 1 and not dask and sys.stderr.isatty())
    with tqdm(total=len(todo), unit="cell", desc=table(profile), disable=not (first and progress)) as bar:
        for cell, rows, *about in _finished(profile, todo, jobs, dask, *rest):
            if first:
                _store(profile, cell, rows, *about, state, folder, kept)
            bar.set_postfix_str(f"{cell.method}, {cell.bits} bits: {float(rows[-1]['quantised_accuracy']):.2%}")
            bar.update()
