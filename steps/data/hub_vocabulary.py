"""The vocabulary of a Hugging Face folder as a tokenizer of ours: blank first, <unk> second, the others in their order.

Read are vocab.json (characters, `|` as space), tokenizer.json (BPE or unigram pieces) and tokenizer.model (SentencePiece),
with json and SentencePiece alone. A SentencePiece model of the same units is written, so that the folder spells text, too.
"""

import importlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steps.core.cli import MissingInput, UserError
from steps.core.datacheck import CONTROL
from steps.core.jsonfile import read_json
from steps.core.limits import read_limited, show
from steps.data.tokenizer import BLANK, SPACE, UNKNOWN, Tokenizer

# of tokenizer.json and the like
LARGEST_BYTES = 64 << 20
# what names the blank in config.json, of most models
PAD = "pad_token_id"
# halves of a character, which no file can hold; the joiners of many scripts, not printable either, are text
NO_TEXT = re.compile(rf"{CONTROL.pattern}|[\ud800-\udfff]")
UNUSED = "<unused{}>"


@dataclass
class Units:
    """What the files of a tokenizer say.

    pieces: text of each id, spaces as U+2581.   special: ids that no text is spelt with.   kind: char, bpe or unigram.
    scores: of ids, the higher the earlier or the likelier; others come last.   pad, unknown: text of those two tokens.
    leads: whether a space goes before the first word, where pieces begin with one.   path: the file, for messages.
    """

    pieces: dict[int, str]
    kind: str
    path: Path
    special: set[int] = field(default_factory=set)
    scores: dict[int, float] = field(default_factory=dict)
    pad: str | None = None
    unknown: str | None = None
    leads: bool = True


@dataclass(frozen=True)
class HubVocabulary:
    """order: for each of our outputs the model's own id, None for an <unk> that it lacks.   tokenizer: of the same units."""

    order: list[int | None]
    tokenizer: Tokenizer


def read_vocabulary(folder: str | Path, outputs: int, blank_id: int, key: str = PAD) -> HubVocabulary:
    """Read the vocabulary of a CTC model.

    Args:   outputs: width of its output layer.   blank_id: which of them is the blank.   key: what names it in config.json;
            PAD: it is the padding token; any other key: it may be another token that no text is spelt with.
    Raises: MissingInput without a tokenizer; UserError when it does not fit the outputs.
    """
    units = read_units(Path(folder))
    path, pieces = units.path, units.pieces
    if beyond := [i for i in pieces if not 0 <= i < outputs and i not in units.special]:
        raise UserError(
            f"{path}: has a unit {max(beyond)}, but the model {outputs} outputs; take the tokenizer it came with"
        )
    if not 0 <= blank_id < outputs:
        raise UserError(f"{folder}/config.json: {key}, the blank, is {blank_id}, but the model has {outputs} outputs")
    apart = key != PAD and blank_id in units.special
    if units.pad is not None and pieces.get(blank_id, units.pad) != units.pad and not apart:
        what = f"{show(pieces[blank_id])}, not the padding token {show(units.pad)}"
        raise UserError(
            f"{path}: unit {blank_id}, the blank by config.json, is {what}; take the tokenizer it came with"
        )
    names = [pieces.get(i, UNUSED.format(i)) for i in range(outputs)]
    unknown = next((i for i in range(outputs) if names[i] in (units.unknown, UNKNOWN) and i != blank_id), None)
    rest = [i for i in range(outputs) if i not in (blank_id, unknown)]
    _check_names(path, [names[i] for i in rest])
    special = units.special | {i for i in rest if i not in pieces}
    rows = [(names[i], units.scores.get(i, _last(units, i)), i in special) for i in rest]
    try:
        tokenizer = Tokenizer(spelling_model(rows, units.kind, units.leads), str(path))
    except UserError as error:
        raise UserError(f"{path}: its units cannot be used ({error})") from None
    return HubVocabulary([blank_id, unknown, *rest], tokenizer)


def no_vocabulary(outputs: int) -> HubVocabulary:
    """Of an encoder without an output layer: blank and <unk> alone. Args: outputs: that its library would make up."""
    return HubVocabulary([*range(outputs)], Tokenizer(spelling_model([], "char")))


def _last(units: Units, index: int) -> float:
    """A score below all others, the lower the later."""
    return min(units.scores.values(), default=0.0) - 1.0 - index


def _check_names(path, names):
    seen: set[str] = {BLANK, UNKNOWN}
    for name in names:
        if not name or any(map(str.isspace, name)) or NO_TEXT.search(name):
            raise UserError(f"{path}: the unit {show(name)} is empty or has white space or control characters")
        if name in seen:
            raise UserError(f"{path}: the unit {show(name)} is there twice; all texts must differ")
        seen.add(name)


def read_units(folder: Path) -> Units:
    """The units of the first tokenizer file there is. Raises: MissingInput, UserError."""
    readers: tuple[tuple[str, Callable[[Path], Units]], ...] = (
        ("tokenizer.json", _from_tokenizers), ("vocab.json", _from_characters), ("tokenizer.model", _from_sentencepiece),
    )  # fmt: skip
    for name, read in readers:
        if (folder / name).is_file():
            return read(folder / name)
    raise MissingInput(f"{folder}: no {', '.join(name for name, _ in readers)}; copy the tokenizer of the model here")


def _settings(folder: Path) -> dict[str, str]:
    """Texts of the tokens that have names, and the tokenizer's class; tokenizer_config.json goes before special_tokens_map.json."""
    plain: dict[str, str] = {}
    for path in (folder / "tokenizer_config.json", folder / "special_tokens_map.json"):
        found = read_json(path, LARGEST_BYTES) if path.is_file() else {}
        for name in ("pad_token", "unk_token", "word_delimiter_token", "tokenizer_class"):
            value = found.get(name)
            value = value.get("content") if isinstance(value, dict) else value
            if isinstance(value, str):
                plain.setdefault(name, value)
    return plain


def _numbered(path: Path, table: Mapping[Any, Any]) -> dict[int, str]:
    """{id: text} of a mapping from text to id."""
    pieces: dict[int, str] = {}
    for text, index in table.items():
        if not isinstance(text, str) or type(index) is not int or not 0 <= index < 2**31:
            raise UserError(
                f"{path}: {show(text)}: {show(index)}: expected a text and its number; copy the tokenizer again"
            )
        if index in pieces:
            raise UserError(
                f"{path}: {show(pieces[index])} and {show(text)} have the same number; copy the tokenizer again"
            )
        pieces[index] = text
    return pieces


def _from_characters(path: Path) -> Units:
    """vocab.json: characters, a word delimiter and a few tokens in angle or square brackets."""
    named, table = _settings(path.parent), read_json(path, LARGEST_BYTES)
    if "Phoneme" in named.get("tokenizer_class", ""):
        raise UserError(f"{path}: a tokenizer of phonemes needs its own phonemiser; such models cannot be imported")
    if table and all(isinstance(value, dict) for value in table.values()):
        languages = ", ".join(map(str, list(table)[:5]))
        what = f"has vocabularies of several languages ({languages}, ...), the weights one output layer"
        remedy = "load the model of one by transformers (target_lang=...), save it, and keep that part of vocab.json"
        raise UserError(f"{path}: {what}; {remedy}")
    pieces, space = _numbered(path, table), named.get("word_delimiter_token", "|")
    pieces = {i: SPACE if text in (space, " ") else text for i, text in pieces.items()}
    bracketed = {i for i, text in pieces.items() if len(text) > 2 and text[0] + text[-1] in ("<>", "[]")}
    kind = "char" if all(len(text) == 1 for i, text in pieces.items() if i not in bracketed) else "unigram"
    scores = dict.fromkeys(pieces.keys() - bracketed, -1.0)
    unknown = named.get("unk_token", "<unk>")
    return Units(pieces, kind, path, bracketed, scores, named.get("pad_token", "<pad>"), unknown)


def _from_tokenizers(path: Path) -> Units:
    """tokenizer.json, of the library `tokenizers`."""
    whole, named = read_json(path, LARGEST_BYTES), _settings(path.parent)
    model = whole.get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    levels = json.dumps([whole.get(name) for name in ("pre_tokenizer", "decoder")])
    if kind not in ("BPE", "Unigram") or "ByteLevel" in levels:
        what = "byte-level BPE" if "ByteLevel" in levels else show(kind)
        raise UserError(f"{path}: units of the kind {what} cannot be imported, only BPE and Unigram pieces")
    assert isinstance(model, dict)
    vocabulary: Any = model.get("vocab")
    merges, added = model.get("merges") or [], whole.get("added_tokens") or []
    fits = isinstance(vocabulary, dict if kind == "BPE" else list) and isinstance(merges, list)
    if not fits or not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise UserError(f"{path}: vocab, merges or added_tokens are not what they should be; copy the tokenizer again")
    if kind == "BPE":
        pieces = _numbered(path, vocabulary)
        ranks = {"".join(_pair(path, pair)): -float(rank) for rank, pair in enumerate(merges)}
        scores = {i: ranks[text] for i, text in pieces.items() if text in ranks}
    else:
        if not all(map(_is_scored, vocabulary)):
            raise UserError(f"{path}: expected pairs of a piece and its score; copy the tokenizer again")
        pieces = _numbered(path, {row[0]: i for i, row in enumerate(vocabulary)})
        scores = {i: float(row[1]) for i, row in enumerate(vocabulary)}
    special = set()
    for token in added:
        # a list is no key
        text = token.get("content") if isinstance(token.get("content"), str) else None
        pieces |= _numbered(path, {text: token.get("id")})
        special.add(token["id"])
    unknown = model.get("unk_token") or named.get("unk_token")
    unknown = pieces.get(model["unk_id"]) if type(model.get("unk_id")) is int else unknown
    # where U+2581 does not stand for a space, none is put before the first word
    leads = not any(" " in text for i, text in pieces.items() if i not in special)
    pieces = {i: text.replace(" ", SPACE) for i, text in pieces.items()}
    return Units(pieces, kind.lower(), path, special, scores, named.get("pad_token"), unknown, leads)


def _is_scored(row: object) -> bool:
    """Whether this is a piece and its score."""
    return isinstance(row, list) and len(row) == 2 and isinstance(row[0], str) and type(row[1]) in (int, float)


def _pair(path: Path, pair: object) -> list[str]:
    """Both parts of a merge, which older files write with a blank between them."""
    parts = pair.split(" ") if isinstance(pair, str) else pair
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
        raise UserError(f"{path}: {show(pair)} is no merge of two pieces; copy the tokenizer again")
    return parts


def _from_sentencepiece(path: Path) -> Units:
    """tokenizer.model: pieces in SentencePiece's own order."""
    from google.protobuf.message import DecodeError

    model = _empty_model()
    try:
        model.ParseFromString(read_limited(path, LARGEST_BYTES, "SentencePiece model"))
    except DecodeError:
        raise UserError(f"{path}: not a SentencePiece model; copy the tokenizer again") from None
    kinds = {1: "unigram", 2: "bpe", 4: "char"}
    if model.trainer_spec.model_type not in kinds or not model.pieces:
        raise UserError(f"{path}: not a SentencePiece model of characters, BPE or unigram pieces")
    pieces = {i: piece.piece for i, piece in enumerate(model.pieces)}
    special = {i for i, piece in enumerate(model.pieces) if piece.type != 1}
    scores = {i: piece.score for i, piece in enumerate(model.pieces)}
    unknown = next((piece.piece for piece in model.pieces if piece.type == 2), None)
    return Units(pieces, kinds[model.trainer_spec.model_type], path, special, scores, None, unknown)


def _empty_model() -> Any:
    """A SentencePiece model, as protobuf's message."""
    # here, because other readers do without protobuf
    return importlib.import_module("sentencepiece.sentencepiece_model_pb2").ModelProto()


def spelling_model(rows: list[tuple[str, float, bool]], kind: str, leads: bool = True) -> bytes:
    """A SentencePiece model of given pieces behind <unk>.

    Args: rows: text, score and whether no text is spelt with it, of every piece.   kind: char, bpe or unigram.
          leads: see Units.
    """
    model = _empty_model()
    normal, unknown, control = 1, 2, 3
    model.pieces.add(piece=UNKNOWN, score=0.0, type=unknown)
    for text, score, special in rows:
        model.pieces.add(piece=text, score=score, type=control if special else normal)
    model.trainer_spec.model_type = {"unigram": 1, "bpe": 2, "char": 4}[kind]
    model.trainer_spec.vocab_size = len(model.pieces)
    model.trainer_spec.unk_id = 0
    for name in ("bos_id", "eos_id", "pad_id"):
        setattr(model.trainer_spec, name, -1)
    model.normalizer_spec.name = "identity"
    # characters: a space is a unit between words; pieces: it leads every word
    begun = any(len(text) > 1 and text.startswith(SPACE) for text, _, special in rows if not special)
    model.normalizer_spec.add_dummy_prefix = leads and begun
    return model.SerializeToString()
