"""The steps of the proofs in section 4 and Appendix B, and of the corrected theorem, each checked by a machine.

`show` and `check` run steps by name, `STEPS` holds them all; on the command line: `python -m quantized_training.algebra --help`.
"""

# In the order of the proofs; importing a module registers its steps.
from . import lemma_5, lemmas_6_to_8, theorem  # noqa: F401, E402, I001
from .evidence import EXACT, KINDS, PROSE, STEPS, SYMPY, TESTED, Z3, Refuted, Result, Step, Undecided, check, show

__all__ = [
    "EXACT", "KINDS", "PROSE", "STEPS", "SYMPY", "TESTED", "Z3", "Refuted", "Result", "Step", "Undecided", "check", "show",
]  # fmt: skip
