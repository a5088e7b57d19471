"""The runs that are too long for a page, one module each: what they consist of. `study.runner` makes, resumes and checks them.

python -m study.experiments make            all of them (`make results`)
python -m study.experiments check           some units of each, recomputed (`make check-results`)
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Sequence

from ..runner import Experiment


def experiments() -> dict[str, Experiment]:
    """Every experiment by name: the EXPERIMENT of each module of this package."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    found = [importlib.import_module(f"{__name__}.{name}").EXPERIMENT for name in names]
    return {e.name: e for e in found}


def choose(names: Sequence[str]) -> dict[str, Experiment]:
    """The named experiments, without a name all that need no GPU and whose table does not grow; exits with what there is where a name is unknown."""
    known = experiments()
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"no experiment {', '.join(unknown)}; there are {', '.join(known)}")
    return {n: known[n] for n in names or known if names or known[n].device == "cpu" and not known[n].version}
