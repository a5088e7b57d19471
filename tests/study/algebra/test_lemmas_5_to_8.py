"""Lemmas 5 to 8 against the package: the formulas of the steps of the proof, and the exact limit of Lemma 8's measure."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from helpers import tensor
from quantized_training import PHI, PSI, Levels
from quantized_training.methods import skewed_velocity
from study.algebra.lemmas_6_to_8 import EDGE, LEVELS, TOLERANCE, rule

UNEVEN = Levels((-1, 0.5, 1, 4))


@pytest.mark.parametrize("gap", range(3))
@pytest.mark.parametrize("side", [-1, 1])
def test_push_of_the_package_is_the_formula_of_lemma_5(gap, side):
    eps, middle, delta = 0.05, UNEVEN.midpoints[gap], UNEVEN.gaps[gap]
    c = math.sqrt(delta**2 - 4 * eps)
    d = c / 2 * torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    w = middle + side * (c / 2 - d)
    phi, psi = PHI.push(w, UNEVEN, eps), PSI.push(w, UNEVEN, eps**2)
    expected = side * d * (c - d) / (c - 2 * d)
    torch.testing.assert_close(phi, expected, rtol=1e-9, atol=0)
    X = d * (c - d)
    torch.testing.assert_close(psi, expected * (2 * eps + X) / (2 * (eps + X)), rtol=1e-9, atol=0)


def test_push_beyond_the_hull():
    d = torch.linspace(0.01, 3, 50, dtype=torch.float64)
    for sign, edge in ((-1, 4.05), (1, -1.05)):
        w = edge - sign * d
        torch.testing.assert_close(PHI.push(w, UNEVEN, 0.05), sign * d, rtol=1e-12, atol=0)
        expected = sign * d * (0.1 + d) / (2 * (0.05 + d))
        torch.testing.assert_close(PSI.push(w, UNEVEN, 0.05**2), expected, rtol=1e-12, atol=0)


def test_exact_rule_is_the_rule_of_the_package():
    for w, G in itertools.product(
        [Fraction(k, 16) for k in range(-40, 41) if k], [Fraction(k, 4) for k in range(-12, 13)]
    ):
        exact, _ = rule(G, w)
        v = skewed_velocity(tensor([float(G)]), tensor([float(w)]), Levels(LEVELS), float(TOLERANCE), 1.0, PHI)
        assert math.isclose(v.item(), exact, rel_tol=1e-12, abs_tol=1e-12)


@pytest.mark.parametrize("amplitude", [3, 5])
def test_measure_is_its_limit_and_what_the_balance_leaves(amplitude):
    """All noise paths of a few steps, exactly: measure = s²(m + ps)/(m + s) + terms in the drift and in the pushes."""
    s, first, T, w0 = Fraction(2), 50, 8, EDGE - Fraction(1, 100)
    m, p = (amplitude - s) / 2, Fraction(1, 2)
    gamma = [Fraction(1, first + k) for k in range(T)]
    total, measure, R, R2, end = sum(gamma), Fraction(0), Fraction(0), Fraction(0), Fraction(0)
    for path in itertools.product((-amplitude, amplitude), repeat=T):
        w = w0
        for step, noise in zip(gamma, path, strict=True):
            v, pushed = rule(-s + noise, w)
            measure += step * (v**2 if pushed else s**2)
            r = max(w - EDGE, Fraction(0))
            R, R2 = R + step * r, R2 + step * r**2
            w += step * v
        end += w
    measure, R, R2, end = (x / 2**T for x in (measure, R, R2, end))
    delta, R, R2 = (end - w0) / total, R / total, R2 / total
    left = s**2 * (m + p * s) / (m + s) + s**2 * (1 - p) * (delta + (1 - p) * R) / (m + s) + (1 - p) * R2
    assert measure / total == left
    assert R > 0


@pytest.mark.parametrize(("s", "amplitude"), [(2, 3), (2, 4), (1, 2), (1, 4), (3, 4)])
def test_measure_tends_to_its_exact_limit(s, amplitude):
    """The limit chain, in units of the step size: the stationary distribution on a long lattice."""
    size = 400
    place = np.arange(-size, size + 1)
    chain = np.zeros((2 * size + 1, 2 * size + 1))
    down = np.clip(np.arange(2 * size + 1) - (amplitude - s), 0, 2 * size)
    stays = np.where(place < 0, np.clip(np.arange(2 * size + 1) + amplitude + s, 0, 2 * size), np.arange(2 * size + 1))
    chain[np.arange(2 * size + 1), down] += 0.5
    chain[np.arange(2 * size + 1), stays] += 0.5
    system = np.vstack([chain.T - np.eye(2 * size + 1), np.ones(2 * size + 1)])
    stationary = np.linalg.lstsq(system, np.r_[np.zeros(2 * size + 1), 1.0], rcond=None)[0]
    inside = stationary[place < 0].sum()
    assert math.isclose(s**2 * (inside + (1 - inside) / 2), s**2 * amplitude / (amplitude + s), rel_tol=1e-6)
