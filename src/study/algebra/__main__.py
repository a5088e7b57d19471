"""Run the checks of the proofs, all of them or by name."""

from __future__ import annotations

import argparse
import difflib
import sys

from . import STEPS, Refuted, Undecided, check, evidence


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0 when all steps held, 1 when one failed, 2 for an unknown name."""
    parser = argparse.ArgumentParser(prog="python -m study.algebra", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help="steps to check; without names all of them")
    parser.add_argument("--list", action="store_true", help="list the steps instead of checking them")
    parser.add_argument("--instances", type=int, help="how many each random search draws (default: as the step says)")
    options = parser.parse_args(arguments)
    evidence.INSTANCES = options.instances
    if unknown := [name for name in options.names if name not in STEPS]:
        near = {close for name in unknown for close in difflib.get_close_matches(name, STEPS, 3)}
        near |= {step for name in unknown for step in STEPS if name in step}
        parser.error(
            f"no step called {', '.join(unknown)}; --list shows all {len(STEPS)}"
            + (f", among them {', '.join(sorted(near))}" if near else "")
        )
    names = options.names or list(STEPS)
    failed = 0
    for number, name in enumerate(names, 1):
        this = STEPS[name]
        if options.list:
            print(f"{name:36} {this.item:24} {this.kind:26} {this.statement}")
            continue
        print(f"[{number:{len(str(len(names)))}}/{len(names)}] {name:36} ", end="", flush=True)
        try:
            result = check(name)
        except (Refuted, Undecided) as error:
            failed += 1
            print(f"FAILED ({type(error).__name__}): {error}")
        else:
            print(f"{this.kind:26} {result.seconds:6.2f} s  {result.found}")
    if failed:
        print(f"{failed} of {len(names)} steps failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
