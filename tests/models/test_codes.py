"""Codes of 1 to 8 bits: packing is lossless and as small as it says, and what codes stand for lies on the grid."""

import itertools

import pytest
import torch

from steps.models.codes import CodeFormat, Codes, describe_formats, describe_packed, is_packed, read_formats

FORMATS = [CodeFormat(bits, "symmetric") for bits in range(2, 9)] + [CodeFormat(bits, "half") for bits in range(1, 8)]
FORMATS.append(CodeFormat(2, "ternary"))


def draw(format, rows=5, columns=13, seed=0):
    """Codes that use every level of the format where there is room."""
    random = torch.Generator().manual_seed(seed)
    levels = torch.arange(-format.largest, format.largest + 1, format.code_step)
    codes = levels[torch.randint(len(levels), (rows, columns), generator=random)]
    shape = (rows,) if format.group is None else (rows, format.groups(columns))
    return Codes(codes.to(torch.int8), torch.rand(shape, generator=random) + 0.1, format)


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("columns", [1, 7, 8, 13])
def test_packing_loses_nothing_and_takes_the_bytes_it_counts(format, columns):
    coded = draw(format, columns=columns)
    packed = coded.pack()
    assert packed.dtype == torch.uint8 and packed.numel() == format.code_bytes(5, columns)
    in_a_row = -(-columns // 5) if format.grid == "ternary" else -(-columns * format.bits // 8)
    assert format.code_bytes(5, columns) == 5 * in_a_row
    again = Codes.unpack(packed, coded.scales, format, columns)
    assert torch.equal(again.codes, coded.codes) and again.codes.dtype == torch.int8
    assert coded.size_bytes() == packed.numel() + 4 * 5


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_the_grid_is_symmetric_evenly_spaced_and_wastes_no_half_level(format):
    values = (torch.arange(-format.largest, format.largest + 1, format.code_step)).to(torch.int8)
    stood_for = Codes(values[None], torch.ones(1), format).dequantized()[0]
    assert len(values) == 2**format.bits - (format.grid != "half")
    torch.testing.assert_close(stood_for, -stood_for.flip(0))
    torch.testing.assert_close(stood_for.diff(), torch.ones(len(values) - 1))
    assert (0.0 in stood_for.tolist()) == (format.grid != "half")


def test_two_bits_of_the_half_grid_by_hand():
    coded = Codes(torch.tensor([[-3, -1, 1, 3]], dtype=torch.int8), torch.tensor([2.0]), CodeFormat(2, "half"))
    assert coded.dequantized().tolist() == [[-3.0, -1.0, 1.0, 3.0]]
    assert coded.pack().tolist() == [[0b11100100]]


def test_five_ternary_codes_in_a_byte_by_hand():
    coded = Codes(torch.tensor([[1, -1, 0, 0, 1, 1]], dtype=torch.int8), torch.tensor([2.0]), CodeFormat(2, "ternary"))
    assert coded.dequantized().tolist() == [[2.0, -2.0, 0.0, 0.0, 2.0, 2.0]]
    assert coded.pack().tolist() == [[2 + 0 * 3 + 1 * 9 + 1 * 27 + 2 * 81, 2]]


@pytest.mark.parametrize(("bits", "grid", "byte"), [(8, "symmetric", 255), (4, "symmetric", 0xF0), (2, "ternary", 255)])
def test_bytes_that_are_no_code_are_refused(bits, grid, byte):
    packed = torch.tensor([[byte]], dtype=torch.uint8)
    format = CodeFormat(bits, grid)
    with pytest.raises(ValueError, match=f"a code above {format.largest}"):
        Codes.unpack(packed, torch.ones(1), format, {8: 1, 4: 2, 2: 5}[bits])


def test_a_group_has_a_scale_of_its_own():
    format = CodeFormat(4, group=4)
    coded = draw(format, rows=3, columns=10)
    assert coded.scales.shape == (3, 3)
    dense = coded.dequantized()
    for row, column in itertools.product(range(3), range(10)):
        assert dense[row, column] == coded.codes[row, column] * coded.scales[row, column // 4]


def test_bytes_of_another_size_are_refused():
    coded = draw(CodeFormat(3))
    with pytest.raises(ValueError, match="bytes of codes for 5 x 14"):
        Codes.unpack(coded.pack()[:, :-1], coded.scales, coded.format, 14)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"bits": 0}, "bits must be 1 to 8"),
        ({"bits": 9}, "bits must be 1 to 8"),
        ({"bits": 7.0}, "bits must be 1 to 8"),
        ({"bits": 4, "grid": "log"}, "grid must be"),
        ({"bits": 1}, "2 bits or more"),
        ({"bits": 8, "grid": "half"}, "7 bits or fewer"),
        ({"bits": 3, "grid": "ternary"}, "ternary has bits 2"),
        ({"group": 0}, "group must be 1 or more"),
    ],
)
def test_formats_that_are_none_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        CodeFormat(**fields)


def test_model_json_says_the_format_of_each_layer():
    formats = {"a": CodeFormat(7), "b": CodeFormat(2, "half", 32)}
    for described in (describe_formats(formats), describe_packed(formats, "float16")):
        assert read_formats(described) == formats
    assert is_packed(described) and not is_packed(describe_formats(formats)) and not is_packed(None)
    for wrong in ({"packed": 1}, {"rest": "float8"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            read_formats(described | wrong)


def test_what_version_0_1_wrote_is_read():
    assert read_formats({"bits": 7, "layers": ["a", "b"]}) == {"a": CodeFormat(7), "b": CodeFormat(7)}
    with pytest.raises(ValueError, match="bits must be 8 or 7, not 4"):
        read_formats({"bits": 4, "layers": ["a"]})
