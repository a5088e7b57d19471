"""Train neural networks whose weights may only take a few values: `QuantizedOptimizer` puts a method around any torch optimizer.
Equation numbers in the docstrings are those of Wong & Wai, "On the Robustness of Quantization Algorithms during the Training
Phase of Deep Neural Networks"."""

# fmt: off
# isort: off
from . import packing
from .adaptive import BAMSProd
from .constraints import PHI, PSI, Constraint, late_annealing
from .finished import export, finish
from .layers import groups, reestimate_batch_norm, scale_layers
from .levels import Levels
from .methods import ASkew, BinaryConnect, DebiasedBinaryConnect, FullPrecision, KBitStraightThrough
from .methods import SGDA, Method, ProxQuant, StraightThrough
from .optimizer import QuantizedOptimizer
from .schedules import Constant, Cosine, Geometric, Harmonic, Linear

__version__ = "0.1.0"

__all__ = [
    "PHI", "PSI", "SGDA", "ASkew", "BAMSProd", "BinaryConnect", "Constant", "Constraint", "Cosine",
    "DebiasedBinaryConnect", "FullPrecision", "Geometric", "Harmonic", "KBitStraightThrough", "Levels", "Linear",
    "Method", "ProxQuant", "QuantizedOptimizer", "StraightThrough", "export", "finish", "groups", "late_annealing", "packing",
    "reestimate_batch_norm", "scale_layers",
]
# fmt: on
