"""python -m study task3: the grid of Task III, what is missing of it run and stored."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from quantized_training import layers

from . import results
from .statistics import plus_minus
from .tasks.arguments import integer_from
from .vision import grid, sweep
from .vision.distributed import distributed, place
from .vision.grid import Cell, Profile
from .vision.sweep import slug

METHODS = {slug(name): name for name in (*grid.METHODS, *grid.MORE)}
PLACES = {slug(name): name for name in layers.QUANTIZE}
ABOUT = """\
Task III: train image classifiers, methods x bits x levels x layers x seeds, and store one row per epoch in
data/results/task_3_PROFILE.csv. Cells that are stored are not run again. Ctrl-C, and the same command goes on.

profiles:
  cpu     scikit-learn's digits and a narrow ResNet-20; a few seconds a cell
  subset  10,000 images of CIFAR-10 and the same network on every second pixel; about two minutes a cell
  gpu     all of CIFAR-10 and a ResNet-18 on a GPU; not measured yet
"""


def device(text: str) -> str:
    try:
        return str(torch.device(text))
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are cpu, cuda, cuda:0, cuda:1 and so on") from None


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m study",
        description="Experiments of this package.",
        epilog="python -m study task3 --help has its options.",
    )
    task3 = made.add_subparsers(dest="task", required=True, metavar="{task3}").add_parser(
        "task3",
        help="train image classifiers with every method",
        description=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    task3.set_defaults(error=task3.error)

    def add(name: str, words: str, **settings) -> None:
        task3.add_argument(name, help=words, **settings)

    def names(choices: dict[str, str]) -> dict:
        return {"nargs": "+", "type": slug, "choices": choices, "metavar": "NAME"}

    add("--profile", "images, network and protocol (default: cpu)", choices=grid.PROFILES, default="cpu")
    shown = [s for s, name in METHODS.items() if name in grid.METHODS]
    more = [s for s in METHODS if s not in shown]
    words = f"of {', '.join(shown)} (default: all of these), {', '.join(more)}"
    add("--method", words, default=shown, **names(METHODS))
    bits = (*grid.BITS, grid.FULL)
    add("--bits", f"default: all; {grid.FULL}: full precision", nargs="+", type=int, choices=bits, default=bits)
    add("--levels", "default: scaled, layer by layer", nargs="+", choices=grid.LEVELS, default=grid.LEVELS[:1])
    add("--quantise", f"which layers: of {', '.join(PLACES)} (default: all)", default=["all"], **names(PLACES))
    add("--seeds", "default: those of the profile", nargs="+", type=integer_from(0), metavar="SEED")
    add("--data", "read the images from here instead of downloading them", type=Path, metavar="FOLDER")
    add("--jobs", "cells at a time (default: all cores; 1 on a GPU)", type=integer_from(1), metavar="N")
    add("--dask", "run the cells on the workers of this Dask cluster, e.g. tcp://host:8786", metavar="ADDRESS")
    add("--device", "e.g. cuda:1 (default: that of the profile)", type=device)
    add("--list", "say what is stored and what is missing, run nothing", action="store_true")
    folder = results.DATA / "results"
    add("--results", "where the table is (default: data/results)", type=Path, metavar="FOLDER", default=folder)
    return made


def lines(profile: Profile, cells: Sequence[Cell], folder: Path) -> list[tuple[str, ...]]:
    """What is stored, a line for all seeds: accuracies after the last epoch as mean ± standard deviation, and the seeds
    of each state. Raises as `sweep.read`."""
    there, groups = sweep.read(profile, folder), {}
    states = {cell: sweep.state_of(profile, cell, there) for cell in cells}
    for cell in cells:
        groups.setdefault((cell.method, cell.bits, cell.levels, cell.quantise), []).append(cell)
    found = [("method", "bits", "levels", "layers", "latent, %", "quantised, %", "seeds")]
    for about, group in groups.items():
        last = [there[sweep.key(cell)][-1] for cell in group if states[cell] == sweep.STORED]
        scores = []
        for kind in ("latent_accuracy", "quantised_accuracy"):
            x = [100 * float(row[kind]) for row in last]
            scores.append(plus_minus(x, 2, none="-"))
        seeds = [(state, [str(c.seed) for c in group if states[c] == state]) for state in sweep.STATES]
        words = "; ".join(f"{len(which)} {state}: {' '.join(which)}" for state, which in seeds if which)
        found.append((*map(str, about), *scores, words))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    profile, folder = grid.PROFILES[options.profile], options.results
    kind = torch.device(options.device or profile.device).type
    methods, places = [METHODS[s] for s in options.method], [PLACES[s] for s in options.quantise]
    cells = grid.cells(profile, methods, options.bits, options.levels, places, options.seeds)
    if not cells:
        options.error(
            f"no cell: full precision has bits {grid.FULL}, the other methods {', '.join(map(str, grid.BITS))}"
        )
    if options.list and folder != results.DATA / "results" and not folder.is_dir():
        options.error(f"--results {folder}: there is no such folder")
    if options.dask and options.jobs:
        options.error("--jobs and --dask: a cluster's workers say how many cells run at a time")
    if kind == "cuda" and not (options.list or options.dask or torch.cuda.is_available()):
        options.error("torch finds no GPU here; --device cpu runs the same without one, --list says what is stored")
    if kind != profile.device:  # other numbers, so another digest of the settings
        profile = replace(profile, device=kind)
    try:
        with distributed(kind):
            rank, processes = place()
            if processes > 1 and (options.dask or (options.jobs or 1) > 1 or ":" in (options.device or "")):
                options.error(
                    "under torchrun all processes train one cell, each on its own GPU: no --jobs, --dask, cuda:1"
                )
            jobs = options.jobs or (os.cpu_count() if kind == "cpu" and processes == 1 else 1)
            if not options.list:
                sweep.sweep(profile, cells, data=options.data, jobs=jobs, dask=options.dask, device=options.device,
                            folder=folder)  # fmt: skip
            if rank == 0:
                results.show(lines(profile, cells, folder))
                if (path := folder / f"{sweep.table(profile)}.csv").exists():
                    print(
                        results.provenance(sweep.table(profile), folder, sweep.base_command(profile))["about"],
                        path,
                        sep="\n",
                    )
    except (OSError, ValueError) as error:  # no data, no connection, a table or checkpoint that is damaged
        print(error, file=sys.stderr)
        return 1
    except ImportError as error:
        print(f"{error}; pip install 'quantized-training[book,cluster]' has all that a sweep needs", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. What is finished is kept: the same command goes on from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
