"""The ways in which people say what is written in digits: 51, 1,000, 3.5, 21st.

What means one thing is not cut in pieces: `1990s` and `$5` cannot be read, and `unreadable` says so.
"""

import itertools
import re
import unicodedata
from collections.abc import Iterator

from local.text import APART, COMMA_GROUPS, LONGEST_NUMBER, ORDINAL, in_words, ordinal_in_words
from steps.core.cli import UserError

# Combinations of readings that are compared.
MOST_READINGS = 256
NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:(?:st|nd|rd|th)(?!\w))?", re.IGNORECASE)
ENDING = re.compile(r"['\u2019]?([^\W\d_]+)")
MERIDIEM = ("am", "pm")
# Signs that are words when the number beside them is said, as those of currencies are.
SAID = "%‰°ºª/#№+=×÷±−<>≤≥~≈^*&"
# Longer runs of digits are said one by one.
LONGEST_RUN = 6


def all_readings(text: str, language: str, most: int = MOST_READINGS) -> Iterator[str]:
    """The text with every number in words, in all combinations of readings.

    Args: most: number of combinations; where there would be more, later numbers keep their first reading.
    """
    text = _joined(text, language)
    runs = [readings_of(number, language) or [number] for number in NUMBER.findall(text)]
    count = 1
    for place, ways in enumerate(runs):
        if count * len(ways) > most:
            runs[place:] = [later[:1] for later in runs[place:]]
            break
        count *= len(ways)
    parts = NUMBER.split(text)
    for chosen in itertools.product(*runs):
        pieces = itertools.zip_longest(parts, chosen, fillvalue="")
        yield " ".join(" ".join(f"{part} {way}" for part, way in pieces).split())


def unreadable(text: str, language: str) -> str:
    """The first number of a text that cannot be read, with what belongs to it; empty where all can."""
    text = _joined(text, language)
    for match in NUMBER.finditer(text):
        start, end = match.span()
        around = text[max(0, start - 2) : start].rstrip()[-1:], text[end : end + 2].lstrip()[:1]
        if any(char in SAID or unicodedata.category(char) == "Sc" for char in "".join(around)):
            return " ".join(text[max(0, start - 2) : end + 2].split())
        ending = ENDING.match(text, end)
        goes_on = ending and ending[1][0].islower() and ending[1] not in MERIDIEM
        if goes_on and not text[start - 1 : start].isalpha():
            return match[0] + ending[0]
        if not readings_of(match[0], language):
            return match[0]
    # fractions, powers and numbers in circles
    return next((char for char in text if unicodedata.category(char) == "No"), "")


def readings_of(number: str, language: str) -> list[str]:
    """Ways in which people say a number, each once; none for what cannot be read.

    A run of digits: one by one, as a number, in pairs from the left or the right. With grouped thousands: as a number first.
    Decimals: with the point, or each side as a number. English ordinals: as such.

    Args: number: as NUMBER finds it.   Raises: UserError for a language that num2words lacks.
    """
    plain = _without_groups(number, language)
    if ordinal := ORDINAL.fullmatch(plain):
        known = language[:2] == "en" and len(ordinal[1]) <= LONGEST_NUMBER
        return _plain_words(ordinal_in_words(plain)) if known else []
    if plain.isdigit():
        ways = _run(plain, language)
        return ways if plain == number else list(dict.fromkeys(_number(plain, language) + ways))
    sides = plain.split(_separators(language)[1])
    if len(sides) != 2 or not all(map(str.isdigit, sides)) or len("".join(sides)) > LONGEST_NUMBER:
        return []
    apart = " ".join(_number(side, language)[0] for side in sides)
    try:
        return list(dict.fromkeys([*_number(plain, language), apart]))
    except UserError:
        return []


def _run(digits, language):
    ways = [" ".join(in_words(digit, language) for digit in digits)]
    if len(digits) <= LONGEST_RUN:
        ways += _number(digits, language)
        first = len(digits) % 2
        pairs = [digits[:first]] * bool(first) + [digits[i : i + 2] for i in range(first, len(digits), 2)]
        ways.append(" ".join(in_words(pair, language).replace("-", " ") for pair in pairs if pair))
    return list(dict.fromkeys(ways))


def _number(number, language):
    return _plain_words(in_words(number, language))


def _plain_words(words):
    """Words of num2words without its punctuation, with and without `and`."""
    words = words.replace("-", " ").replace(",", "")
    return list(dict.fromkeys([words, words.replace(" and ", " ")]))


def _joined(text, language):
    """The text with numbers in one piece: no blanks between thousands; one behind a comma that separates two numbers (50,51)."""
    group = _separators(language)[0]
    # the mark says that it is one number, which bare digits do not; one that begins with 0 is none
    text = APART.sub(lambda match: ("" if match[0][0] == "0" else group).join(match[0].split()), text)
    return NUMBER.sub(lambda match: _listed(match[0], language), text)


def _listed(number, language):
    items = _without_groups(number, language).split(",")
    is_decimal = len(items) == 2 and _separators(language)[1] == ","
    # 000 is what is left of a number, none of a list
    parts_of_one = any(len(item) > 1 and item.startswith("0") for item in items[1:])
    is_list = len(items) > 1 and not (is_decimal or parts_of_one or "." in number)
    return number.replace(",", ", ") if is_list else number


def _without_groups(number, language):
    """The number without the marks between its thousands, or its lakhs and crores, if they stand where they should."""
    group, point = _separators(language)
    thousands, lakhs = rf"[1-9]\d{{0,2}}(\{group}\d{{3}})+", rf"[1-9]\d?(\{group}\d\d)+\{group}\d{{3}}"
    grouped = re.fullmatch(rf"({thousands}|{lakhs})(\{point}\d+)?[a-z]*", number, re.IGNORECASE)
    return number.replace(group, "") if grouped else number


def _separators(language):
    """What stands between thousands, and the decimal point."""
    return (",", ".") if language[:2] in COMMA_GROUPS else (".", ",")
