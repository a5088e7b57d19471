"""The written-out equations themselves: against numbers that the paper prints or that follow by hand."""

import math
from fractions import Fraction

import pytest

from study.theory import reference as ref

Q = (-1.0, 1.0)
FIGURE_1 = (1.0, 3.0, 4.0, 7.0)


def test_equation_1_and_its_generalisation_agree():
    for i in range(-40, 41):
        assert ref.sign(i / 10) == ref.nearest(i / 10, Q)
    assert [ref.nearest(w, FIGURE_1) for w in (-5, 1.99, 2, 3.5, 5.49, 5.5, 99)] == [1, 1, 3, 4, 4, 7, 7]


def test_equation_4_in_exact_fractions():
    """E[w_b] = 2 sigma(w) - 1 = w for |w| <= 1, Var = 1 - w^2."""
    for i in range(-8, 9):
        w = Fraction(i, 8)
        p = max(Fraction(0), min((w + 1) / 2, Fraction(1)))
        assert ref.hard_sigmoid(float(w)) == ref.probability_up(float(w), -1.0, 1.0) == float(p)
        mean = sum(Fraction(ref.binarize(float(w), u / 16)) for u in range(16)) / 16
        assert mean == w and 1 - mean**2 == 4 * p * (1 - p)
    assert ref.hard_sigmoid(-3) == 0 and ref.hard_sigmoid(3) == 1


def test_equation_3_is_the_derivative_of_the_hard_tanh_and_not_of_the_clipped_relu():
    def slope(function, w):
        return (function(w + 1e-7) - function(w - 1e-7)) / 2e-7

    def clipped_relu(w):
        return min(max(w, 0.0), 1.0)

    for w in (-1.5, -0.5, 0.3, 0.9, 1.2):
        assert ref.mask(w, Q) == pytest.approx(slope(lambda x: ref.clip(x, Q), w))
    assert ref.mask(-0.5, Q) == 1 and slope(clipped_relu, -0.5) == 0


@pytest.mark.parametrize("k", [1, 2, 3, 4, 8])
def test_equation_5_as_printed_misses_the_interval_of_section_6(k):
    printed = {ref.kbit_printed(i / 4096, k) for i in range(4097)}
    repaired = {ref.kbit(i / 4096, k) for i in range(4097)}
    assert printed == set(range(-(2 ** (k - 1)) + 1, 2 ** (k - 1) + 1))
    assert repaired == set(range(-(2 ** (k - 1)), 2 ** (k - 1)))


def test_equation_6_minimises_over_a_grid():
    grid = [i / 500 for i in range(-1500, 1501)]
    for norm, power in (("l1", 1), ("l2", 1), ("squared_l2", 2)):  # for one weight "l2" is "l1"
        for w in (-1.7, -0.3, 0.0, 0.21, 0.5, 0.98, 1.4):
            for lam in (0.05, 0.4, 2.0):
                x = ref.prox_quant_step(w, 0.0, Q, 1.0, lam, norm)

                def objective(x, w=w, lam=lam, power=power):
                    return 0.5 * (x - w) ** 2 + lam * min(abs(x - q) ** power for q in Q)

                assert objective(x) <= min(map(objective, grid)) + 1e-12


def test_figure_1_edges_are_zeros_of_psi():
    for edge in (0.8268, 1.0907, 2.9093, 3.2229, 3.7771, 4.0589, 6.9411, 7.1732):
        assert abs(ref.psi(edge, FIGURE_1, 0.03)) < 1e-3
    assert all(ref.psi(q, FIGURE_1, 0.03) == 0.03 for q in FIGURE_1)


def test_derivatives_by_central_differences():
    h = 1e-6
    for g, dg in ((ref.psi, ref.psi_prime), (ref.phi, ref.phi_prime)):
        for i in range(-20, 95):
            w = i / 10 + 0.03
            numeric = (g(w + h, FIGURE_1, 0.03) - g(w - h, FIGURE_1, 0.03)) / (2 * h)
            assert dg(w, FIGURE_1) == pytest.approx(numeric, abs=1e-6)


def test_phi_is_the_smallest_piece_and_at_most_one_piece_is_negative():
    for i in range(-200, 1000):
        w = i / 100
        pieces = ref.f(w, FIGURE_1, 0.2)
        assert ref.phi(w, FIGURE_1, 0.2) == pytest.approx(min(pieces), abs=1e-12)
        assert sum(x < 0 for x in pieces) <= 1
        h = 1e-6
        numeric = [
            (a - b) / (2 * h) for a, b in zip(ref.f(w + h, FIGURE_1, 0.2), ref.f(w - h, FIGURE_1, 0.2), strict=True)
        ]
        assert ref.f_prime(w, FIGURE_1) == pytest.approx(numeric, abs=1e-6)


def test_printed_and_repaired_velocity_differ_only_on_the_edges():
    for g, dg, eps in ((ref.psi, ref.psi_prime, 0.5625), (ref.phi, ref.phi_prime, 0.75)):
        for i in range(-24, 25):
            w = i / 8
            for G in (-2.0, -0.1, 0.1, 2.0):
                if dg(w, Q) == 0 and g(w, Q, eps) <= 0:
                    continue  # the midpoint: 0 in the denominator
                same = ref.velocity(G, w, Q, eps, 0.4, g, dg) == pytest.approx(
                    ref.velocity_printed(G, w, Q, eps, 0.4, g, dg)
                )
                if abs(w) in (0.5, 1.75):
                    assert g(w, Q, eps) == 0
                    inwards = -dg(w, Q) * G > 0
                    assert same != inwards
                else:
                    assert same


def test_velocity_at_a_midpoint_and_where_intervals_touch():
    args = (0.1, ref.phi, ref.phi_prime)
    assert ref.velocity(5.0, 0.0, Q, 0.2, *args, 0.5) == 0.5
    assert ref.velocity(-5.0, 0.0, Q, 0.2, *args, 0.5) == 5.0
    assert ref.velocity(5.0, 0.0, Q, 1.0, *args, 0.5) == -5.0
    assert ref.velocity(0.0, 0.0, Q, 0.2, *args) == math.inf


def test_algorithm_2_by_hand():
    """Q = {-1, 1}, w = 1/2, eps = 1/4: f = (7/4, -1/2, 3/4), f' = (1, 1, -1)."""
    assert ref.f(0.5, Q, 0.25) == [1.75, -0.5, 0.75] and ref.f_prime(0.5, Q) == [1, 1, -1]
    w, lam = ref.sgda_step(0.5, [1.0, 2.0, 0.5], 4.0, Q, 0.5, 0.1, 0.25, 2.0)
    assert w == 0.5 - 0.5 * (4.0 - (1 + 2 - 0.5))
    assert lam == pytest.approx([1 - 0.175, 2.0, 0.5 - 0.075])  # the second would be 2.05: projected on [0, 2]
