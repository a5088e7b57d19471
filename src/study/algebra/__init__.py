"""The steps of the proofs in section 4 and Appendix B, of the corrected theorem, of
BAMSProd's theory, and of the guarantee for the rounded network, each checked by a machine.

`show` and `check` run steps by name, `STEPS` holds them all; on the command line: `python -m study.algebra --help`.
"""

try:
    from .evidence import (
        EXACT,
        KINDS,
        PROSE,
        STEPS,
        SYMPY,
        TESTED,
        Z3,
        Refuted,
        Result,
        Step,
        Undecided,
        check,
        overview,
        show,
    )
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"the checks of the proofs need {error.name}: pip install 'quantized-training[proofs]'", name=error.name
    ) from error

# Importing a module registers its steps, in the order of the proofs.
from . import theorem_3  # isort: split

from . import lemma_4, lemma_5, lemmas_6_to_8, theorem_3_corrected  # isort: split

from . import freeze, kinks, rate  # isort: split

from . import bamsprod  # isort: split

from . import rounded

__all__ = [
    "EXACT", "KINDS", "PROSE", "STEPS", "SYMPY", "TESTED", "Z3", "Refuted", "Result", "Step", "Undecided",
    "check", "overview", "show",
    "bamsprod", "freeze", "kinks", "lemma_4", "lemma_5", "lemmas_6_to_8", "rate", "rounded", "theorem_3",
    "theorem_3_corrected",
]  # fmt: skip
