"""What counts as evidence for a step of a proof, and how a step fails.

A step is a small function that states one inequality, identity or counterexample and has it checked. It says which kind of
evidence it gives, and `check` refuses any other kind than the one announced:

    Z3       the negation of a statement about all real numbers (under stated assumptions) has no solution
    SYMPY    two expressions are the same, symbol by symbol
    EXACT    numbers (integers or fractions) at which a printed statement fails
    TESTED   random instances (hypothesis), none of which violates the statement; no proof
    PROSE    argued on the page; nothing is run

The keyword arguments of a step are the constants and signs of its statement, and each step names `mutants`, other values at
which it is false: a check that cannot tell a wrong statement from the right one is worth nothing, and a test tries them all.
"""

from __future__ import annotations

import html
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import sympy
import z3
from hypothesis import given, settings
from hypothesis.strategies import SearchStrategy

if TYPE_CHECKING:
    from IPython.display import HTML

Z3 = "proved by z3"
SYMPY = "identity by sympy"
EXACT = "exact counterexample"
TESTED = "tested on random instances"
PROSE = "argued in prose"
KINDS = (Z3, SYMPY, EXACT, TESTED, PROSE)


class Refuted(AssertionError):
    """The statement is false; the message holds numbers at which it fails."""


class Undecided(RuntimeError):
    """The solver gave up: nothing is proved and nothing is refuted."""


@dataclass(frozen=True)
class Step:
    """One step of a proof: its name, the item of the paper it belongs to, the statement, the kind of evidence."""

    name: str
    item: str
    statement: str
    kind: str
    run: Callable[..., None] | None  # None: argued in prose
    mutants: tuple[Mapping[str, object], ...]


@dataclass(frozen=True)
class Result:
    """A step that held: what was found, and in how many seconds."""

    step: Step
    found: str
    seconds: float


#: All steps by name, in the order of the proofs.
STEPS: dict[str, Step] = {}
#: Where it is a number, so many instances are drawn in each random search.
INSTANCES: int | None = None
_found: list[tuple[str, str]] = []  # (kind, what) of the step that runs


def step(item: str, kind: str, statement: str, *mutants: Mapping[str, object]) -> Callable:
    """Register the decorated function as a step; `mutants` are keyword arguments that make its statement false."""
    if kind not in KINDS[:-1]:
        raise ValueError(f"{kind!r} is not a kind of evidence that can be run; allowed are {KINDS[:-1]}")

    def register(run: Callable[..., None]) -> Callable[..., None]:
        _add(Step(run.__name__, item, statement, kind, run, mutants))
        return run

    return register


def prose(name: str, item: str, statement: str) -> None:
    """Register a step that no machine here can check; the page argues it."""
    _add(Step(name, item, statement, PROSE, None, ()))


def _add(new: Step) -> None:
    if new.name in STEPS:
        raise ValueError(f"there are two steps called {new.name!r}")
    STEPS[new.name] = new


def check(name: str, **mutant: object) -> Result:
    """Run one step, with its own constants or those of a mutant.

    Raises KeyError for an unknown name, Refuted where the statement is false, Undecided where the solver gives up, and
    TypeError where the step gives another kind of evidence than it announces.
    """
    if name not in STEPS:
        raise KeyError(f"no step {name!r}; `python -m study.algebra --list` shows all {len(STEPS)}")
    this = STEPS[name]
    if this.run is None:
        return Result(this, "", 0.0)
    _found.clear()
    start = time.perf_counter()
    this.run(**mutant)
    seconds = time.perf_counter() - start
    if {kind for kind, _ in _found} != {this.kind}:
        raise TypeError(f"step {name!r} announces {this.kind!r} and gave {_found}")
    return Result(this, "; ".join(dict.fromkeys(what for _, what in _found if what)), seconds)


def show(*names: str) -> HTML:
    """Run these steps now and list, for a notebook, what each states and which evidence was found; folded, under a line that
    counts the kinds of evidence."""
    from IPython.display import HTML  # here, so that the package works without IPython

    items, results = [], [check(name) for name in names]
    for result in results:
        this = result.step
        facts = [this.item, result.found, _time(result), f"<code>{this.name}</code>" if this.run else ""]
        facts[:2] = map(html.escape, facts[:2])
        items.append(
            f'<li><span class="evidence evidence-{KINDS.index(this.kind)}">{this.kind}</span> {_subscripts(this.statement)}'
            f'<span class="facts">{" · ".join(filter(None, facts))}</span></li>'
        )
    kinds = [result.step.kind for result in results]
    counts = [
        f'<span class="evidence evidence-{i}">{kinds.count(kind)} × {kind}</span>'
        for i, kind in enumerate(KINDS)
        if kind in kinds
    ]
    summary = f"Evidence: {' '.join(counts)}"
    return HTML(f'<details><summary>{summary}</summary><ul class="checks">{"".join(items)}</ul></details>')


def overview() -> HTML:
    """Run all steps now: one row each, in the order of the proofs, as a folded table for a notebook."""
    from ..figures import table

    results = [check(name) for name in STEPS]
    counts = [f"{sum(r.step.kind == kind for r in results)} {kind}" for kind in KINDS]
    return table(
        ["belongs to", "statement", "evidence", "found", "time", "name"],
        [(r.step.item, r.step.statement, r.step.kind, r.found, _time(r), r.step.name) for r in results],
        f"All {len(results)} steps, checked now: {', '.join(counts)}; {sum(r.seconds for r in results):.1f} s together",
        folded=True,
    )


def _subscripts(statement: str) -> str:
    return re.sub(r"_(\w)", r"<sub>\1</sub>", html.escape(statement))


def _time(result: Result) -> str:
    if result.step.run is None:
        return ""
    return f"{1000 * result.seconds:.0f} ms" if result.seconds < 1 else f"{result.seconds:.1f} s"


# --- The four kinds --------------------------------------------------------------------------------------------------


def prove(claim: z3.BoolRef, under: Iterable[z3.BoolRef] = (), seconds: float = 30.0) -> None:
    """Prove `claim` for all reals that satisfy `under`: the negation must be unsatisfiable, and `under` must not be.

    Raises Refuted with a counterexample, or when no reals satisfy `under` (everything would follow from it), and
    Undecided after `seconds`.
    """
    under = list(under)
    if _solve(under, seconds) is None:
        raise Refuted("the assumptions contradict each other: nothing is proved")
    if (model := _solve([*under, z3.Not(claim)], seconds)) is not None:
        raise Refuted(f"false at {model}")
    _found.append((Z3, ""))


def rational(number: int | float | Fraction) -> z3.RatNumRef:
    """The number as a constant of z3, exactly."""
    return z3.Q(*Fraction(number).as_integer_ratio())


def _solve(constraints: list[z3.BoolRef], seconds: float) -> z3.ModelRef | None:
    solver = z3.Solver()
    solver.set("timeout", int(1000 * seconds))
    solver.add(*constraints)
    answer = solver.check()
    if answer == z3.unknown:
        raise Undecided(f"z3 gave up after at most {seconds:g} s: {solver.reason_unknown()}")
    return solver.model() if answer == z3.sat else None


def identity(left: sympy.Expr, right: sympy.Expr | int = 0) -> None:
    """The two expressions are equal wherever both are defined. Raises Refuted with their difference."""
    difference = sympy.simplify(left - right)
    if difference != 0:
        raise Refuted(f"the two sides differ by {difference}")
    _found.append((SYMPY, ""))


def refute(holds: bool | sympy.Basic, **numbers: int | Fraction) -> None:
    """A printed statement fails at these numbers: `holds` is its truth value there. They are shown, and must be exact.

    Raises Refuted where it holds (then this is no counterexample), TypeError without numbers or for one that is not exact.
    """
    if not numbers:
        raise TypeError("a counterexample is made of numbers, and there are none")
    for name, value in numbers.items():
        if not isinstance(value, int | Fraction | sympy.Rational):
            raise TypeError(f"{name}={value!r} is not exact: a counterexample is made of integers and fractions")
    shown = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in numbers.items())
    if holds:
        raise Refuted(f"no counterexample, the statement holds: {shown}")
    _found.append((EXACT, shown))


def search(violation: Callable[..., float], tolerance: float, instances: int, **drawn: SearchStrategy) -> None:
    """Look for arguments, `drawn` by hypothesis, at which `violation` (left side minus right side) is above `tolerance`.

    tolerance: what rounding explains. The search is the same in every run. Raises Refuted with the simplest arguments found.
    """
    worst, tried = -math.inf, 0

    @settings(max_examples=INSTANCES or instances, derandomize=True, database=None, deadline=None, print_blob=False)
    @given(**drawn)
    def instance(**arguments: object) -> None:
        nonlocal worst, tried
        value = float(violation(**arguments))
        worst, tried = max(worst, value), tried + 1
        if not value <= tolerance:
            raise Refuted(f"violated by {value:.3g} at {arguments}")

    instance()
    _found.append((TESTED, f"{tried:,} random instances, largest left minus right {worst:.1e}"))
