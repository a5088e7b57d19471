"""python -m study.experiments make | check | list | sign"""

from __future__ import annotations

import argparse
import os
import sys

from .. import results
from ..runner import check, make, need_devices
from ..tasks.arguments import integer_from
from . import choose, experiments

NO_HOURS = "all that need neither a GPU nor hours"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m study.experiments",
        description="Make, or recompute and compare, the results stored in data/results.",
        epilog="python -m study.experiments COMMAND --help has the options of a command.",
    )
    commands = made.add_subparsers(dest="command", required=True, metavar="{make,check,list,sign}")
    for name, words, unnamed in (
        ("make", "run experiments and store their tables; what an interrupted call finished is kept", NO_HOURS),
        (
            "check",
            "recompute units of stored experiments and say what differs; exits with 1 if something does",
            NO_HOURS,
        ),
        ("list", "the experiments, and what is stored of them", "all"),
        ("sign", "give stored records of older versions a checksum of their own; what they say stays", "all stored"),
    ):
        command = commands.add_parser(name, help=words, description=words[0].upper() + words[1:] + ".")
        command.add_argument("names", nargs="*", metavar="NAME", help=f"experiments (default: {unnamed})")
        if name in ("make", "check"):
            words = "units at a time (default: all cores, on a GPU 1)"
            command.add_argument("--jobs", type=integer_from(1), metavar="N", help=words)
        if name == "check":
            words = "units of each experiment (default: 1)"
            command.add_argument("--sample", type=integer_from(1), metavar="N", default=1, help=words)
            command.add_argument("--seed", type=integer_from(0), default=0, help="which units are chosen (default: 0)")
            command.add_argument("--exact", action="store_true", help="every difference above a relative 1e-6 counts")
            command.add_argument("--all", action="store_true", help="every unit")
    return made


def main() -> int:
    options = parser().parse_args()
    try:
        if options.command == "sign":
            tables = sorted(path.stem for path in (results.DATA / "results").glob("*.csv"))
            if unknown := [name for name in options.names if name not in tables]:
                sys.exit(f"nothing is stored of {', '.join(unknown)}; stored are {', '.join(tables)}")
            for name in options.names or tables:
                print(f"{name}: {'signed' if results.sign(name) else 'was signed before'}")
            return 0
        listing = options.command == "list"
        chosen = choose(options.names or list(experiments()) if listing else options.names)
        if listing:
            for name, e in chosen.items():
                there = (results.DATA / "results" / f"{name}.csv").exists()
                gpu = "" if e.device == "cpu" else " on a GPU, run only by name"
                gpu += f", about {e.hours:g} hours of one core" if e.hours else ""
                print(
                    f"{name}: {e.about}\n    {len(e.units)} units{gpu}; {results.source(name) if there else 'not stored yet'}"
                )
            return 0
        need_devices(chosen)
        jobs = options.jobs or (1 if any(e.device != "cpu" for e in chosen.values()) else os.cpu_count())
        if options.command == "make":
            for path in make(chosen, jobs):
                print(path)
            return 0
        units, drifts = check(chosen, None if options.all else options.sample, jobs, options.seed)
        counted = [drift for drift in drifts if drift.serious or options.exact]
        for drift in counted:
            print(drift)
        print(
            f"{units} units recomputed: {len(counted)} numbers drifted, {len(drifts) - len(counted)} more differ within the "
            "noise of the seeds (chaotic runs on another machine), all others are as stored."
        )
        return int(bool(counted))
    except (
        OSError,
        results.DamagedResults,
    ) as error:  # nothing stored, no connection, a folder that is not to be written to
        print(error, file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(f"{error}; pip install 'quantized-training[book]' has all that the experiments need", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        kept = " Finished units are kept: the same command goes on from here." if options.command == "make" else ""
        print(f"\nInterrupted.{kept}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
