"""Codebooks: rounding against the written-out reference, exactness in every precision, bad input."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import DTYPES, level_sets, levels_and_weights, tensor, uneven_level_sets, weights
from quantized_training import Levels
from study.theory import reference as ref

SETTINGS = settings(deadline=None, max_examples=80)


@SETTINGS
@given(levels_and_weights(), st.sampled_from(DTYPES))
def test_nearest_is_the_reference_and_rounds_midpoints_up(case, dtype):
    levels, w = case
    w = tensor(w, dtype)
    got = levels.nearest(w)
    assert got.dtype == dtype
    assert got.tolist() == [ref.nearest(x, levels.values) for x in w.tolist()]
    assert levels.cell(w).tolist() == [levels.values.index(q) for q in got.tolist()]


@SETTINGS
@given(uneven_level_sets(), st.data(), st.sampled_from(DTYPES))
def test_rounded_weights_are_exactly_the_levels_in_the_dtype_of_the_weights(levels, data, dtype):
    w = tensor(data.draw(weights(levels, width=64)), dtype)
    far = torch.stack([(w - m).abs() > 1e-5 for m in levels.midpoints]).all(0)  # a tie is not exact here
    got = levels.nearest(w)[far]
    assert torch.equal(got, tensor([ref.nearest(x, levels.values) for x in w[far].tolist()], dtype))
    assert torch.equal(levels.nearest(tensor(levels.values, dtype)), tensor(levels.values, dtype))


@pytest.mark.parametrize("values", [(-0.1, 0.1), (-0.1, 0.3, 0.7)])
def test_float64_levels_are_not_rounded_to_float32(values):
    w = tensor([-5.0, 5.0])
    assert Levels(values).nearest(w).tolist() == [values[0], values[-1]]


def test_binary_rounding_is_equation_1():
    w = [-2.0, -1.0, -1e-30, -0.0, 0.0, 1e-30, 0.5, 3.0]
    assert Levels.binary().nearest(tensor(w)).tolist() == [ref.sign(x) for x in w] == [-1, -1, -1, 1, 1, 1, 1, 1]


@SETTINGS
@given(levels_and_weights(), st.sampled_from(DTYPES))
def test_gap_index_and_clip(case, dtype):
    levels, w = case
    w = tensor(w, dtype)
    assert levels.gap(w).tolist() == [sum(q <= x for q in levels.values) for x in w.tolist()]
    assert levels.clip(w).tolist() == [ref.clip(x, levels.values) for x in w.tolist()]


@SETTINGS
@given(level_sets())
def test_gaps_and_midpoints(levels):
    assert len(levels.gaps) == len(levels.midpoints) == len(levels.values) - 1
    for a, b, gap, midpoint in zip(levels.values, levels.values[1:], levels.gaps, levels.midpoints, strict=False):
        assert gap == b - a and midpoint - a == b - midpoint
    assert levels.hull == (min(levels.values), max(levels.values))


def test_named_codebooks():
    assert Levels.binary().values == (-1, 1)
    assert Levels.ternary().values == (-1, 0, 1)
    assert Levels.integers(2).values == (-2, -1, 0, 1)
    assert Levels.integers(4).values == tuple(range(-8, 8))  # "{-8, -7, ..., 7} for 4-bit precision"
    assert Levels.ternary().scaled(0.5).values == (-0.5, 0, 0.5)
    assert Levels((-1, 1)) == Levels.binary() and hash(Levels((-1, 1))) == hash(Levels.binary())


def test_shape_is_kept():
    for levels in (Levels.binary(), Levels.integers(3)):
        assert levels.nearest(torch.zeros(2, 3, 4)).shape == (2, 3, 4)
        assert levels.nearest(torch.zeros(())).shape == ()


def test_changing_what_tensor_returns_does_not_change_the_codebook():
    levels = Levels((-3.0, 0.25, 2.0))
    levels.tensor(torch.zeros(1)).zero_()
    assert levels.nearest(torch.tensor([2.0])).item() == 2.0
    assert levels.tensor(torch.zeros(1)).tolist() == [-3.0, 0.25, 2.0]


def test_first_use_in_inference_mode_does_not_spoil_autograd():
    levels = Levels((-3.0, 0.125, 2.0))  # used nowhere else: the tensors are made inside
    with torch.inference_mode():
        levels.nearest(torch.zeros(2))
    x = torch.ones(3, requires_grad=True)
    (levels.tensor(x) * x).sum().backward()
    assert x.grad.tolist() == [-3.0, 0.125, 2.0]


@pytest.mark.parametrize(
    "values, words",
    [
        ((1.0,), "at least two"),
        ((), "at least two"),
        ((1.0, -1.0), "not sorted.*strictly increasing"),
        ((-1.0, 0.0, 0.0, 1.0), "repeat.*strictly increasing"),
        ((-1.0, math.nan), "finite"),
        ((-math.inf, 1.0), "finite"),
    ],
)
def test_bad_levels_say_what_is_wrong(values, words):
    with pytest.raises(ValueError, match=words):
        Levels(values)


def test_bad_bits_and_factor_say_what_is_allowed():
    with pytest.raises(ValueError, match=r"bits=1.*2, 3.*Levels.binary\(\)"):
        Levels.integers(1)
    for factor in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="positive"):
            Levels.binary().scaled(factor)


@pytest.mark.parametrize("levels, n", [(Levels.binary(), 1), (Levels.binary(), 5), (Levels((-3.0, 0.25, 2.0)), 3)])
def test_vectors_are_all_products_of_levels(levels, n):
    got = levels.vectors(n, dtype=torch.float64)
    assert got.dtype == torch.float64 and levels.vectors(n).dtype == torch.get_default_dtype()
    assert [tuple(v) for v in got.tolist()] == list(itertools.product(levels.values, repeat=n))


def test_float64_vectors_are_not_rounded_to_float32():
    assert Levels((-0.1, 0.1)).vectors(1, dtype=torch.float64).flatten().tolist() == [-0.1, 0.1]


@pytest.mark.parametrize(
    "levels, n, words",
    [
        (Levels.binary(), 23, r"2\^23 vectors.*K\^n <= 2\^22"),
        (Levels.integers(4), 11_000_000, r"16\^11000000 vectors"),
        (Levels.binary(), 0, "there must be a weight.*n >= 1"),
        (Levels.binary(), -2, "n >= 1"),
    ],
)
def test_too_many_vectors_say_what_is_allowed(levels, n, words):
    with pytest.raises(ValueError, match=words):
        levels.vectors(n)


@pytest.mark.parametrize("levels", [Levels.binary(), Levels.integers(2)])
def test_rounding_can_be_compiled_whole(levels):
    w = torch.tensor([-3.0, -0.5, 0.25, 0.5, 7.0])
    compiled = torch.compile(levels.nearest, fullgraph=True, backend="eager")
    assert torch.equal(compiled(w), levels.nearest(w))
