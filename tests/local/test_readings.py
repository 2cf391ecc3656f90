"""How numbers are said: every way that people do, and none for what means another thing than its pieces."""

import pytest

from local.readings import MOST_READINGS, all_readings, readings_of, unreadable
from steps.core.cli import UserError


def test_numbers_are_read_in_every_way_that_people_do():
    assert readings_of("624", "en") == [
        "six two four", "six hundred and twenty four", "six hundred twenty four", "six twenty four"
    ]  # fmt: skip
    assert "fifty one fifty six" in readings_of("5156", "en")
    assert readings_of("7", "en") == ["seven"]
    assert readings_of("1234567", "en") == ["one two three four five six seven"]
    assert "nine eleven and one" in list(all_readings("911 and 1", "en"))
    many = list(all_readings(" ".join(["5156"] * 12), "en"))
    assert len(many) <= MOST_READINGS and len(set(many)) == len(many)
    assert all(text.endswith("five one five six") for text in many)


@pytest.mark.parametrize(
    ("language", "number", "first"),
    [
        ("en", "1,000", "one thousand"),
        ("en", "1,000,000", "one million"),
        ("en", "1,00,000", "one hundred thousand"),
        ("en", "3.50", "three point five zero"),
        ("en", "1,000.5", "one thousand point five"),
        ("en", "21st", "twenty first"),
        ("en", "1,101ST", "one thousand one hundred and first"),
        ("de", "1.000", "eintausend"),
        ("de", "3,5", "drei Komma fünf"),
    ],
)
def test_marks_within_a_number_belong_to_it(language, number, first):
    ways = readings_of(number, language)
    assert ways[0] == first and len(set(ways)) == len(ways)
    assert unreadable(f"x {number}, y.", language) == ""


def test_grouped_thousands_are_read_as_those_without_marks():
    assert set(readings_of("51,156", "en")) == set(readings_of("51156", "en"))
    assert list(all_readings("12\u202f345", "fr")) == list(all_readings("12.345", "fr"))
    assert set(all_readings("12\u202f345", "fr")) == set(all_readings("12345", "fr"))
    assert next(all_readings("1\u202f000\u202f000", "fr")) == "un million"
    assert "four ninety nine" in readings_of("4.99", "en")


def test_a_comma_between_numbers_is_a_pause():
    assert "fifty , fifty one fifty six" in list(all_readings("50,5156", "en"))
    assert list(all_readings("1,2,3", "de")) == ["eins , zwei , drei"]


@pytest.mark.parametrize(
    ("language", "text", "what"),
    [
        ("en", "in the 1990s", "1990s"),
        ("en", "the 80's", "80's"),
        ("en", "it costs $5.", "$5."),
        ("en", "50 % off", "50 %"),
        ("en", "5km away", "5km"),
        ("en", "1/2", "1/2"),
        ("en", "version 1.2.3", "1.2.3"),
        ("en", "1,000,5", "1,000,5"),
        ("en", "3.1415926535897932", "3.1415926535897932"),
        ("en", "3.5th", "3.5th"),
        ("de", "7.30 Uhr", "7.30"),
        ("de", "5th", "5th"),
        ("fr", "le 1er mai", "1er"),
        ("es", "1º", "1º"),
        ("en", "2½ cups", "½"),
        ("en", "x²", "²"),
        ("en", "\u22125 degrees", "\u22125 d"),
        # num2words says other decimals than it is given
        ("tr", "5,1", "5,1"),
    ],
)
def test_what_cannot_be_read_is_named(language, text, what):
    assert unreadable(text, language) == what


def test_letters_beside_digits_that_are_said_on_their_own():
    for text in ("b2b", "3D", "MP3", "10am", "7:30", "call 911.", "5-year plan", "21st-century", "5年"):
        assert unreadable(text, "en") == ""


def test_a_language_without_numbers_is_an_error():
    for number in ("5", "1,5"):
        with pytest.raises(UserError, match="no language 'xx'"):
            readings_of(number, "xx")


def test_hostile_texts_take_no_time():
    for text in ("1," * 2000, "1.1" * 2000, "1a" * 2000, "1," * 2000 + "a"):
        unreadable(text, "en")
        next(all_readings(text, "en"))
