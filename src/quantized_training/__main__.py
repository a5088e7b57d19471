"""python -m quantized_training task3: the grid of Task III."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from . import results
from .tasks import grid, networks, sweep
from .tasks.grid import Cell, Profile
from .tasks.sweep import slug

METHODS = {slug(name): name for name in grid.METHODS}
PLACES = {slug(name): name for name in networks.QUANTISE}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m quantized_training", description="Experiments of this package.")
    task3 = made.add_subparsers(dest="task", required=True).add_parser(
        "task3",
        help="train image classifiers with every method",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Task III: train image classifiers, methods x bits x levels x layers x seeds, and store one row per epoch in\n"
            "data/results/task_3_PROFILE.csv. What is stored is not run again; an interrupted call goes on.\n\n"
            "profiles:\n"
            "  cpu     scikit-learn's digits and a narrow ResNet-20; a few seconds a cell\n"
            "  subset  4,000 images of CIFAR-10 and the same network; about two minutes a cell\n"
            "  gpu     all of CIFAR-10 and a ResNet-18 on a GPU; not measured yet"
        ),
    )
    add = task3.add_argument
    add("--profile", choices=grid.PROFILES, default="cpu", help="images, network and protocol (default: cpu)")
    add("--method", nargs="+", type=slug, choices=METHODS, default=list(METHODS), help="default: all")
    add("--bits", nargs="+", type=int, choices=(*grid.BITS, grid.FULL), default=[*grid.BITS, grid.FULL],
        help=f"default: all; {grid.FULL} stands for full precision")  # fmt: skip
    add("--levels", nargs="+", choices=grid.LEVELS, default=grid.LEVELS[:1], help="default: scaled for each layer")
    add("--quantise", nargs="+", type=slug, choices=PLACES, default=["all"], help="which layers (default: all)")
    add("--seeds", nargs="+", type=int, metavar="SEED", help="default: those of the profile")
    add("--data", type=Path, metavar="FOLDER", help="read the images from here instead of downloading them")
    add("--jobs", type=int, metavar="N", help="cells at a time (default: all cores; on a GPU 1)")
    add("--dask", metavar="ADDRESS", help="run the cells on the workers of this Dask cluster, e.g. tcp://host:8786")
    add("--device", help="e.g. cuda:1 (default: that of the profile)")
    add("--list", action="store_true", help="what is stored and what is missing; runs nothing")
    add("--results", type=Path, metavar="FOLDER", default=results.DATA / "results",
        help="of the table (default: data/results)")  # fmt: skip
    return made


def summary(profile: Profile, cells: Sequence[Cell], folder: Path) -> str:
    """Accuracies after the last epoch of the stored cells, mean ± standard deviation over seeds."""
    there, groups = sweep.read(profile, folder), {}
    for cell, state in sweep.states(profile, cells, folder).items():
        if state in (sweep.STORED, sweep.DIVERGED):
            row = there[tuple(map(str, cell.key.values()))][-1]
            groups.setdefault(tuple(cell.key.values())[:-1], []).append(row)
    lines = [("method", "bits", "levels", "layers", "latent", "quantised", "seeds")]
    for (method, bits, levels, place), rows in groups.items():
        columns = [[100 * float(row[f"{kind}_accuracy"]) for row in rows] for kind in ("latent", "quantised")]
        words = [
            f"{statistics.fmean(x):.2f}" + (f" ± {statistics.stdev(x):.2f}" if len(x) > 1 else "") for x in columns
        ]
        lines.append((method, str(bits), levels, place, *words, str(len(rows))))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(w.ljust(n) for w, n in zip(line, widths, strict=True)).rstrip() for line in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    made = parser()
    options = made.parse_args(arguments)
    profile = grid.PROFILES[options.profile]
    methods, places = ([names[s] for s in given] for names, given in
                       ((METHODS, options.method), (PLACES, options.quantise)))  # fmt: skip
    cells = grid.cells(profile, methods, options.bits, options.levels, places, options.seeds)
    jobs = options.jobs or (os.cpu_count() if torch.device(options.device or profile.device).type == "cpu" else 1)
    try:
        sweep.sweep(profile, cells, data=options.data, jobs=jobs, dask=options.dask, device=options.device,
                    folder=options.results)  # fmt: skip
    except KeyboardInterrupt:
        print("\nInterrupted. Finished cells are stored: the same command goes on from here.", file=sys.stderr)
        return 130
    print(summary(profile, cells, options.results))
    print(options.results / f"{sweep.table(profile)}.csv")
    return 0


if __name__ == "__main__":
    sys.exit(main())
