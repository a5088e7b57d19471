"""python -m study.experiments make | check | list"""

from __future__ import annotations

import argparse
import os
import sys

from .. import results
from ..runner import check, make, need_devices
from . import choose, experiments


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m study.experiments",
        description="Make, or recompute and compare, the results stored in data/results.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, words in (
        ("make", "run experiments and store their tables; what an interrupted call finished is kept"),
        ("check", "recompute units of stored experiments and report what differs; exits with 1 if something does"),
        ("list", "the experiments, and what is stored of them"),
    ):
        command = commands.add_parser(name, help=words, description=words[0].upper() + words[1:] + ".")
        command.add_argument(
            "names",
            nargs="*",
            metavar="NAME",
            help="experiments; without a name all that need neither a GPU nor hours",
        )
        if name != "list":
            command.add_argument("--jobs", type=int, help="units at a time (default: all cores, on a GPU 1)")
        if name == "check":
            command.add_argument("--sample", type=int, default=1, help="units of each experiment (default: 1)")
            command.add_argument("--seed", type=int, default=0, help="which units are chosen (default: 0)")
            command.add_argument("--exact", action="store_true", help="every difference above a relative 1e-6 counts")
            command.add_argument("--all", action="store_true", help="every unit")
    options = parser.parse_args()
    listing = options.command == "list"
    if any(n is not None and n < 1 for n in (getattr(options, "jobs", None), getattr(options, "sample", None))):
        parser.error("--jobs and --sample must be at least 1")
    chosen = choose(options.names or list(experiments()) if listing else options.names)
    if not listing:
        need_devices(chosen)
        options.jobs = options.jobs or (1 if any(e.device != "cpu" for e in chosen.values()) else os.cpu_count())
    try:
        if listing:
            for name, e in chosen.items():
                stored = (
                    results.source(name) if (results.DATA / "results" / f"{name}.csv").exists() else "not stored yet"
                )
                gpu = "" if e.device == "cpu" else " on a GPU, run only by name"
                gpu += f", about {e.hours:g} hours of one core" if e.hours else ""
                print(f"{name}: {e.about}\n    {len(e.units)} units{gpu}; {stored}")
        elif options.command == "make":
            for path in make(chosen, options.jobs):
                print(path)
        else:
            units, drifts = check(chosen, None if options.all else options.sample, options.jobs, options.seed)
            counted = [drift for drift in drifts if drift.serious or options.exact]
            for drift in counted:
                print(drift)
            print(
                f"{units} units recomputed: {len(counted)} numbers drifted, {len(drifts) - len(counted)} more differ within the "
                "noise of the seeds (chaotic runs on another machine), all others are as stored."
            )
            return bool(counted)
    except (FileNotFoundError, ConnectionError, results.DamagedResults) as error:
        print(error, file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(f"{error}; pip install 'quantized-training[book]' has all that the experiments need", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        kept = " Finished units are kept: the same command goes on from here." if options.command == "make" else ""
        print(f"\nInterrupted.{kept}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
