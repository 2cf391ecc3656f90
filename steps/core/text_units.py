"""What texts are compared and counted in: words, or characters as readers see them."""

import unicodedata
from collections.abc import Mapping

# belong to the letter before them, as combining marks do
JOINERS = "\u200c\u200d"


def in_units(text: str, unit: str = "word", fold: Mapping[str, str] | None = None) -> str:
    """The text with a space between the units that are counted.

    Args: unit: word, phone (the same) or char: each character with its combining marks, spaces not counted.
          fold: word -> the word it counts as.
    """
    words = [(fold or {}).get(word, word) for word in text.split()]
    return " ".join(part for word in words for part in characters(word)) if unit == "char" else " ".join(words)


def characters(text: str) -> list[str]:
    """The characters of a text as readers see them; spaces are characters, too, and take no marks.

    Where marks were counted one by one, the vowel sign of one letter could be aligned with that of another, and scripts that
    write vowels as signs would have other rates than those that write them as letters.
    Source: extended grapheme clusters of Unicode 15.0 (UAX #29), without those of Hangul, emoji and prepended signs.
    """
    units: list[str] = []
    for char in text:
        joins = unicodedata.category(char)[0] == "M" or char in JOINERS
        if joins and units and units[-1] != " ":
            units[-1] += char
        else:
            units.append(char)
    return units
