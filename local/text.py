"""Bringing transcripts into one form: Unicode, case, punctuation, numbers, and what single languages need besides.

What a language needs stands in HOOKS, one small function each: add yours there.
"""

import functools
import re
import unicodedata
from dataclasses import dataclass, field, replace

from local.markers import POLICIES, take_apart
from steps.core.cli import UserError
from steps.core.config import check

# Invisible characters without a sound: byte order mark, zero width space, soft hyphen, word joiner, direction marks, variation
# selectors, tags; and joiners that follow no letter, as in emoji. Behind a letter or its mark the joiners U+200C and U+200D stay:
# they change letters in Persian and Indic scripts.
INVISIBLE = dict.fromkeys(
    [*map(ord, "\ufeff\u200b\u00ad\u061c\u200e\u200f\u2060"), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
    + [*range(0xFE00, 0xFE10), *range(0xE0000, 0xE0080), *range(0xE0100, 0xE01F0)]
)
JOINERS = re.compile("(^|.)([\u200c\u200d]+)", re.DOTALL)
HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u3040-\u30ff"
COMMA_GROUPS = ("en", "zh", "ja", "ko", "he", "th", "hi")  # languages that write 1,000.5; the others write 1.000,5
# letters that a virama and a joiner make chillus, consonants without a vowel, and these as letters of their own
CHILLUS = dict(zip("\u0d23\u0d28\u0d30\u0d32\u0d33\u0d15", "\u0d7a\u0d7b\u0d7c\u0d7d\u0d7e\u0d7f", strict=True))
CHILLU = re.compile(f"([{''.join(CHILLUS)}])\u0d4d\u200d")
HALF_U = re.compile("\u0d41\u0d4d(?![\u0d00-\u0d7f])")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
# thousands set apart by a blank at which no line ends, or a thin one, as French and others write them
APART = re.compile("(?<![\\d.,])\\d{1,3}(?:[\u00a0\u2009\u202f]\\d{3})+(?!\\d)")
# Languages with i and dotless i, whose capitals are other ones than elsewhere.
DOTLESS = ("tr", "az")
# Longer runs of digits are said one by one, as those that begin with 0; num2words takes forever with some.
LONGEST_NUMBER = 12
# read in English alone, which has no genders and cases
ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)(?!\w)", re.IGNORECASE)
GROUPED_ORDINAL = re.compile(
    rf"(?<!\d)(?<!\d[.,])(?:\d{{1,3}}(?:,\d{{3}}){{1,3}}|\d{{1,{LONGEST_NUMBER}}})(?:st|nd|rd|th)(?!\w)", re.IGNORECASE
)
# Languages in which num2words says other decimals than it is given (5.1 as five comma nine).
NO_DECIMALS = ("ar", "tr")


@dataclass(frozen=True)
class TextConfig:
    """How transcripts are normalised; the defaults change nothing but white space."""

    language: str = ""  # code such as en, tr, zh-CN: of HOOKS, and of numbers in words
    unicode: str = ""  # NFC or NFKC; empty: as it is
    case: str = "keep"  # keep, lower or upper
    punctuation: str = "keep"  # keep, or remove: punctuation marks and symbols
    keep: str = "'"  # characters that removing spares
    numbers: bool = False  # digits become words of the language, by num2words
    markers: str = "refuse"  # <UNK>, [noise] and the like (local/markers.py): refuse, drop, drop_utterance or keep
    map: dict = field(default_factory=dict)  # marker -> what is written for it, "": nothing, null: drop the utterance

    def __post_init__(self):
        check(self.unicode in ("", "NFC", "NFKC"), f"unicode must be NFC or NFKC, not {self.unicode!r}")
        check(self.case in ("keep", "lower", "upper"), f"case must be keep, lower or upper, not {self.case!r}")
        check(self.punctuation in ("keep", "remove"), f"punctuation must be keep or remove, not {self.punctuation!r}")
        check(self.language or not self.numbers, "numbers: true needs a language")
        known = not self.language or re.fullmatch(r"[a-z]{2,3}([-_][A-Za-z0-9]+)*", self.language)
        check(known, f"language must be a code such as en, tr or zh-CN, not {self.language!r}")
        check(self.markers in POLICIES, f"markers must be one of {', '.join(POLICIES)}, not {self.markers!r}")
        for marker, text in self.map.items():
            good = marker.strip() and (text is None or isinstance(text, str))
            check(good, f"map: {marker!r}: expected a text or null, not {text!r}")


def chinese(text):
    """Full-width letters to plain ones; no blanks between characters."""
    return re.sub(rf"(?<=[{HAN}])\s+(?=[{HAN}])", "", unicodedata.normalize("NFKC", text))


def arabic(text):
    """Without tatweel, which only stretches a line."""
    return text.replace("\u0640", "")


def malayalam(text):
    """One spelling of what sounds alike: chillus as single letters, modern au and half u, no joiners left.

    Source: The Unicode Standard 16.0, section 12.9: table of chillus; U+0D57 stands for au in modern spelling; a word that ends
    in half u ends in U+0D4D today, in U+0D41 U+0D4D before.
    """
    text = CHILLU.sub(lambda match: CHILLUS[match[1]], text).replace("\u200c", "").replace("\u200d", "")
    return HALF_U.sub("\u0d4d", text.replace("\u0d4c", "\u0d57"))


HOOKS = {
    "zh": chinese,
    "ja": chinese,
    "ar": arabic,
    "fa": arabic,
    "ur": arabic,
    "ml": malayalam,
}


def normalise(text, config):
    """Bring one transcript into form. Args: config: TextConfig. Returns: str, perhaps empty; markers that stay are as written."""
    parts = [part if stays else _normalise(part, config) for part, stays in take_apart(text, config)]
    return " ".join(" ".join(parts).split())


def in_case(text, config):
    """The text in the case that is wanted. Of DOTLESS languages capital I is that of dotless i, not of i."""
    if config.case != "keep" and _code(config.language) in DOTLESS:
        capitals = {"I": "ı", "İ": "i"}
        pairs = capitals if config.case == "lower" else {small: capital for capital, small in capitals.items()}
        text = text.replace("I\u0307", "İ").translate(str.maketrans(pairs))
    return {"keep": text, "lower": text.lower(), "upper": text.upper()}[config.case]


def loses_dotless(text, config):
    """Whether changing the case makes one letter of i and dotless i, as nothing says that the language has both."""
    return config.case != "keep" and _code(config.language) not in DOTLESS and not {"ı", "İ"}.isdisjoint(text)


def _code(language):
    """The language of a code that also names a country or a script: zh of zh-CN."""
    return re.split("[-_]", language)[0]


def _without_joiners(match):
    return match[0] if unicodedata.category(match[1] or " ")[0] in "LM" else match[1]


def _normalise(text, config):
    if replace(config, markers="refuse", map={}) != TextConfig():
        text = text.translate(INVISIBLE).replace("\u2019", "'").replace("\u02bc", "'")
        text = JOINERS.sub(_without_joiners, text)
    if config.numbers:
        # NFKC, and the hooks that use it, make ordinary blanks of these
        text = APART.sub(lambda match: "".join(match[0].split()), text)
    if config.unicode:
        text = unicodedata.normalize(config.unicode, text)
    if hook := HOOKS.get(_code(config.language)):
        text = hook(text)
    if config.numbers:
        if _code(config.language) == "en":
            text = GROUPED_ORDINAL.sub(lambda match: f" {ordinal_in_words(match[0].replace(',', ''))} ", text)
        text = NUMBER.sub(lambda match: f" {in_words(match[0], config.language)} ", text)
    text = in_case(text, config)
    if config.punctuation == "remove":
        text = "".join(" " if _is_punctuation(char, config.keep) else char for char in text)
    return text


def _is_punctuation(char, keep):
    """Whether removing takes a character: marks, symbols, and what encloses the one before it (a key around a digit)."""
    category = unicodedata.category(char)
    return (category[0] in "PS" or category == "Me") and char not in keep


def _decimal(number, say):
    """Words of a decimal number. Args: number: such as 3.50.   say: number -> words, which loses zeros at the end.

    Where decimals are said digit by digit, 3.50 is 3.501 without its last word; others (Polish: fifty hundredths) stay.
    """
    if number.endswith("0"):
        begun = say(float(f"{number}1")).removesuffix(say(1)).rstrip()
        if begun.endswith(say(0)):
            return begun
    return say(float(number))


def ordinal_in_words(ordinal: str) -> str:
    """An English ordinal of at most LONGEST_NUMBER digits as words. Args: ordinal: such as 21st."""
    from num2words import num2words  # see in_words

    return num2words(int(ordinal[:-2]), to="ordinal", lang="en")


class Unsayable(UserError):
    """A number that num2words cannot say."""


def in_words(number, language):
    """Digits as words. Args: number: such as 25 or 3.5. Raises: Unsayable; UserError for a language that num2words lacks."""
    from num2words import num2words  # only here: slow to import, and seldom wanted

    group, point = (",", ".") if language[:2] in COMMA_GROUPS else (".", ",")
    if re.fullmatch(rf"\d{{1,3}}(\{group}\d{{3}})+(\{point}\d+)?", number):
        number = number.replace(group, "")
    plain = number.replace(",", ".")
    if plain.count(".") > 1:  # a date or a version: part by part
        return " ".join(in_words(part, language) for part in plain.split("."))
    if len(plain) > 1 and plain.isdigit() and (int(plain[0]) == 0 or len(plain) > LONGEST_NUMBER):
        return " ".join(in_words(digit, language) for digit in plain)
    remedy = "write it in words, or leave numbers out"
    if "." in plain and _code(language) in NO_DECIMALS:
        raise Unsayable(f"numbers: true: num2words is wrong about decimals in {language!r}, such as {number}; {remedy}")
    say = functools.partial(num2words, lang=language)
    try:
        return _decimal(plain, say) if "." in plain else say(int(plain))
    except NotImplementedError:
        raise UserError(f"numbers: true: num2words has no language {language!r}; leave numbers out") from None
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise Unsayable(f"numbers: true: num2words cannot say {number} in {language!r} ({error}); {remedy}") from None
