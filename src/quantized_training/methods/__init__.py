"""One file per method of the four-question table; the maths stands beside each class as a pure function."""

from .askew import ASkew, skewed_velocity
from .base import FullPrecision, Method
from .binary_connect import BinaryConnect, DebiasedBinaryConnect, round_stochastic
from .prox_quant import ProxQuant, prox_l1, prox_l2, prox_squared_l2
from .sgda import SGDA
from .straight_through import KBitStraightThrough, StraightThrough, straight_through_mask
