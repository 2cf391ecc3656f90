"""How the words of a language model are spelled in the tokens of a model: as its tokenizer does, or as a lexicon file says."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from steps.core.cli import UserError
from steps.deploy.runtimes.ctc import SPECIAL, read_lines, spelling
from steps.search.lexicon import SPACE, try_to_spell

LONGEST_LINE = 10_000


@dataclass(frozen=True)
class Spellings:
    """Spellings of words. words: token ids of each, one way or several.   lacking: words that have none.

    space_id: the token between words, where there is one.   tokens: of the model, where the words are tokens.
    """

    words: dict[str, list[list[int]]]
    lacking: list[str]
    space_id: int | None
    tokens: list[str] | None = None


def spell(
    words: Iterable[str], folder: str | Path, tokens: list[str], blank_id: int, lexicon: str | Path | None = None
) -> Spellings:
    """Spell words in tokens.

    Args:   folder: a subword model needs tokenizer.model in it or in its parent.   lexicon: file of `word token token ...`
            lines; a word may come several times. Its words are spelled as it says and in no other way.
    Raises: MissingInput, UserError.
    """
    encode, special = spelling(folder, tokens, blank_id)
    space_id = tokens.index(SPACE) if encode is None and SPACE in tokens else None
    found = read_lexicon(lexicon, tokens, special) if lexicon else {}
    wanted = list(dict.fromkeys(words))
    own = try_to_spell((word for word in wanted if word not in found), tokens, encode, special)
    found |= {word: [ids] for word, ids in own.items()}
    trimmed = {word: [_trim(ids, space_id) for ids in found[word]] for word in wanted if word in found}
    good = {word: ways for word, ways in trimmed.items() if all(ways)}
    return Spellings(good, [word for word in wanted if word not in good], space_id)


def spell_tokens(words: Iterable[str], tokens: list[str], blank_id: int) -> Spellings:
    """As `spell`, of a language model whose words are tokens. lacking: tokens that it does not know, which never come out.

    Raises: ValueError when it is of other tokens: one of its own is none here, or it knows less than half of these.
    """
    special = {blank_id, *(i for i, token in enumerate(tokens) if token in SPECIAL)}
    ids, wanted = {token: i for i, token in enumerate(tokens) if i not in special}, set(words)
    if strange := sorted(wanted - set(ids)):
        raise ValueError(f"{strange[0]} is not among the tokens")
    lacking = [token for token in ids if token not in wanted]
    if 2 * len(lacking) > len(ids):
        raise ValueError(f"it knows {len(wanted)} of {len(ids)} tokens")
    space_id = ids.get(SPACE) if all(len(token) == 1 for token in ids) else None
    return Spellings({token: [[i]] for token, i in ids.items() if token in wanted}, lacking, space_id, tokens)


def _trim(ids: list[int], space_id: int | None) -> list[int]:
    """A spelling without spaces at its ends, which the graph has itself."""
    while ids and ids[-1] == space_id:
        ids = ids[:-1]
    while ids and ids[0] == space_id:
        ids = ids[1:]
    return ids


def read_lexicon(path: str | Path, tokens: list[str], special: set[int]) -> dict[str, list[list[int]]]:
    """Read a lexicon, `word token token ...` lines in the symbols of tokens.txt; U+2581 in front of one may be left out.

    Returns: token ids of each word, each way once.   Raises: MissingInput; UserError naming the line.
    """
    ids = {symbol: i for i, symbol in enumerate(tokens) if i not in special}
    ids |= {
        symbol[1:]: i for symbol, i in ids.items() if symbol.startswith(SPACE) and symbol[1:] and symbol[1:] not in ids
    }
    found: dict[str, list[list[int]]] = {}
    for number, line in enumerate(read_lines(path, "lexicon"), start=1):
        word, *symbols = line[:LONGEST_LINE].split() or [""]
        if not word:
            continue
        unknown = [symbol for symbol in symbols if symbol not in ids]
        if unknown or not symbols:
            what = f"{unknown[0]!r} is not in tokens.txt" if unknown else "a word without tokens"
            raise UserError(f"{path}:{number}: {what}; expected `word token token ...`")
        way = [ids[symbol] for symbol in symbols]
        if way not in found.setdefault(word, []):
            found[word].append(way)
    return found
