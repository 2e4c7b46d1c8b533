"""A matrix is kept in the smallest form that holds each of its numbers, and multiplied as float32 is."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kqv.native.library import library
from kqv.native.matrices import BLOCK, Form, Matrix, keep

pytestmark = pytest.mark.skipif(library() is None, reason="there is no C compiler here")


def had_back(matrix: Matrix) -> torch.Tensor:
    """The numbers that a form stands for, step by step: w = scale · q + offset."""
    if matrix.form in (Form.FLOAT32, Form.BFLOAT16):
        return matrix.numbers.float()
    blocks = matrix.rows * matrix.columns // BLOCK
    scale = matrix.scales[:, None]
    if matrix.form == Form.EIGHT_BITS:
        return (scale * matrix.numbers.view(blocks, BLOCK)).view(matrix.rows, matrix.columns)
    both = matrix.numbers.view(blocks, BLOCK // 2)
    q = torch.cat((both & 15, both >> 4), dim=1)
    return (scale * q + matrix.offsets[:blocks, None]).view(matrix.rows, matrix.columns)


def halves(*shape: int) -> torch.Tensor:
    """Scales as GGUF keeps them, some so small that float16 has no more precision for them."""
    return (torch.randn(*shape).abs() * 10.0 ** torch.randint(-7, 1, shape)).half().float()


def of_four_bits(rows: int, blocks: int) -> torch.Tensor:
    """Q4_1: the least and the greatest of a block are 15 steps apart."""
    q = torch.randint(0, 16, (rows, blocks, BLOCK)).float()
    q[..., 3], q[..., 7] = 0, 15
    return (halves(rows, blocks, 1) * q - halves(rows, blocks, 1)).flatten(1)


def around_zero(rows: int, blocks: int) -> torch.Tensor:
    """Q4_0: 8 steps to one side of zero, and perhaps fewer to the other."""
    q = torch.randint(-8, int(torch.randint(1, 8, ())), (rows, blocks, BLOCK)).float()
    q[..., 5] = -8
    return (halves(rows, blocks, 1) * torch.tensor([1.0, -1.0])[torch.randint(0, 2, (rows, blocks, 1))] * q).flatten(1)


def of_eight_bits(rows: int, blocks: int) -> torch.Tensor:
    """Q8_0."""
    q = torch.randint(-127, 128, (rows, blocks, BLOCK)).float()
    q[..., 2] = 127
    return (halves(rows, blocks, 1) * q).flatten(1)


def of_bfloat16(rows: int, blocks: int) -> torch.Tensor:
    return torch.randn(rows, blocks * BLOCK).bfloat16().float()


def of_float32(rows: int, blocks: int) -> torch.Tensor:
    return torch.randn(rows, blocks * BLOCK)


KINDS = {
    of_four_bits: Form.FOUR_BITS,
    around_zero: Form.FOUR_BITS,
    of_eight_bits: Form.EIGHT_BITS,
    of_bfloat16: Form.BFLOAT16,
    of_float32: Form.FLOAT32,
}


@given(kind=st.sampled_from(list(KINDS)), rows=st.integers(1, 11), blocks=st.integers(1, 19), seed=st.integers(0, 2**32))
def test_every_number_can_be_had_back_from_the_smallest_form(kind, rows: int, blocks: int, seed: int) -> None:
    torch.manual_seed(seed)
    weight = kind(rows, blocks)
    matrix = keep(weight)
    torch.testing.assert_close(had_back(matrix), weight, rtol=0, atol=0)
    assert matrix.form >= KINDS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_larger_matrix_takes_the_form_of_what_it_holds(kind) -> None:
    """Where a small one may by chance be of a smaller form still."""
    assert keep(kind(67, 13)).form == KINDS[kind]


NUMBERS = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.1, 1e-40, -1e-45, 6e-8, 3e38, float("inf"), float("-inf"), float("nan")])


@given(st.lists(NUMBERS, min_size=BLOCK, max_size=BLOCK))
def test_whatever_is_in_a_block_comes_back(numbers: list[float]) -> None:
    weight = torch.tensor([numbers])
    torch.testing.assert_close(had_back(keep(weight)), weight, rtol=0, atol=0, equal_nan=True)


def test_equal_numbers_are_their_offset() -> None:
    assert keep(torch.full((3, 2 * BLOCK), 0.1)).form == Form.FOUR_BITS
    assert keep(torch.zeros(3, BLOCK)).form == Form.FOUR_BITS


@pytest.mark.parametrize("kind", [of_four_bits, of_eight_bits, of_bfloat16])
def test_one_number_off_the_grid_is_enough_to_keep_all_as_they_are(kind) -> None:
    weight = kind(67, 13)
    weight[59, 400] += 1e-3 * weight.abs().max() * torch.rand(())
    matrix = keep(weight)
    assert matrix.form == Form.FLOAT32
    assert matrix.numbers.data_ptr() == weight.data_ptr()


def test_bfloat16_is_not_copied() -> None:
    weight = torch.randn(7, 53, dtype=torch.bfloat16)
    matrix = keep(weight)
    assert matrix.form == Form.BFLOAT16
    assert matrix.numbers.data_ptr() == weight.data_ptr()


def assert_multiplies(weight: torch.Tensor, bias: torch.Tensor | None, count: int) -> None:
    """Within the rounding of a sum of so many float32 numbers, measured at 1.2 units of the last place of Σ|w·x| at most."""
    x = torch.randn(count, weight.shape[1])
    found = keep(weight, bias).times(x)
    expected = x.double() @ weight.double().mT + (0 if bias is None else bias.double())
    scale = x.double().abs() @ weight.double().abs().mT + (0 if bias is None else bias.double().abs())
    assert ((found - expected).abs() / scale.clamp(min=1e-30)).max() < 4 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 11])
@pytest.mark.parametrize("kind", KINDS)
def test_products_are_those_of_the_same_numbers(kind, count: int) -> None:
    for rows, blocks in ((1, 1), (67, 18), (257, 8)):
        assert_multiplies(kind(rows, blocks), torch.randn(rows) if rows > 1 else None, count)


@pytest.mark.parametrize("columns", [1, 7, 31, 33, 53, 101])
def test_rows_of_any_length(columns: int) -> None:
    for weight in (torch.randn(13, columns), torch.randn(13, columns).bfloat16().float()):
        for count in (1, 3, 6):
            assert_multiplies(weight, None, count)
