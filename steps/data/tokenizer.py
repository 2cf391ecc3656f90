"""Text to token ids and back: SentencePiece characters, BPE or unigram pieces, with the CTC blank in front.

Ids: 0 `<blk>`, 1 `<unk>`, then the pieces. SentencePiece knows no blank: its ids are ours minus one, and `_SHIFT` is
the only place that says so. U+2581 in a piece stands for a space. Kind char: a space is a token of its own, between
words only. The other kinds: it leads every word, the first one too. Text is taken as it is: no case folding, no NFKC.
"""

import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import sentencepiece

from steps.core.cli import MissingInput, UserError
from steps.core.config import check
from steps.core.datacheck import CONTROL
from steps.core.outdir import atomic_file, write_text

BLANK, UNKNOWN, SPACE = "<blk>", "<unk>", "\u2581"
# no text: models from elsewhere may say where a text begins and ends
SILENT = re.compile(r"</?s>|<extra_id_\d+>")
KINDS = ("char", "bpe", "unigram", "word")
# Id here = id in SentencePiece + 1.
_SHIFT = 1


@dataclass(frozen=True)
class TokenizerConfig:
    """Settings of tokenizer training."""

    # char, bpe, unigram, or word: what stands between blanks, for phones.
    kind: str = "char"
    # bpe, unigram: size of the output layer, blank and unknown counted; char, word: from the text.
    vocab_size: int | None = None

    def __post_init__(self):
        check(self.kind in KINDS, f"kind must be one of {', '.join(KINDS)}, not {self.kind!r}")
        if self.kind in ("char", "word"):
            check(self.vocab_size is None, f"vocab_size follows from the text for kind {self.kind}; leave it out")
        else:
            check(self.vocab_size is not None, f"vocab_size must be given for kind {self.kind}")
            check(self.vocab_size >= 4, f"vocab_size must be 4 or more, not {self.vocab_size}")


class Tokenizer:
    """A trained tokenizer; make one with `Tokenizer.load` or `train_tokenizer`.

    Attributes: pieces: text of each id.   blank_id: 0.   unknown_id: 1.   vocab_size: number of ids, V.
    """

    blank_id, unknown_id = 0, 1

    def __init__(self, model_bytes: bytes, name: str = "tokenizer.model"):
        self._model_bytes = model_bytes
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model_bytes)
            own = [self._processor.id_to_piece(i) for i in range(self._processor.get_piece_size())]
        # a UnicodeDecodeError for pieces that are no text is a ValueError
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{name}: not a SentencePiece model ({error})") from None
        self.pieces = [BLANK, *own]
        if own[:1] != [UNKNOWN] or len(set(self.pieces)) != len(self.pieces):
            raise UserError(f"{name}: expected a SentencePiece model with <unk> as id 0 and without <blk>, <s>, </s>")

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read a tokenizer from a folder with tokenizer.model and tokens.txt, or from a model file.

        Raises: MissingInput; UserError when the two files disagree (a model file alone is taken as it is).
        """
        path = Path(path)
        model = path / "tokenizer.model" if path.is_dir() else path
        tokens = model.with_name("tokens.txt")
        if not model.is_file():
            raise MissingInput(f"{model}: no such tokenizer; stage 2 (steps.train_tokenizer) makes it")
        tokenizer = cls(model.read_bytes(), str(model))
        if not tokens.is_file() and path.is_dir():
            raise MissingInput(f"{tokens}: missing beside tokenizer.model")
        if tokens.is_file() and tokens.read_text(encoding="utf-8") != tokenizer.tokens_text():
            raise UserError(f"{tokens}: does not belong to {model.name} beside it; one of them was replaced")
        return tokenizer

    @property
    def vocab_size(self) -> int:
        return len(self.pieces)

    @property
    def space_id(self) -> int | None:
        """The id of a space that is a token of its own between words (kind char); None where there is no such token."""
        own = self.pieces[_SHIFT + 1 :]
        return self.pieces.index(SPACE) if SPACE in own and all(len(piece) == 1 for piece in own) else None

    def tokens_text(self) -> str:
        """The content of tokens.txt, `symbol id` lines, as sherpa-onnx reads it."""
        return "".join(f"{piece} {i}\n" for i, piece in enumerate(self.pieces))

    def encode(self, text: str) -> list[int]:
        """Turn text into ids; blanks at its ends do not count. Returns: list of int, none of them the blank."""
        return [i + _SHIFT for i in self._processor.encode(text)]

    def encode_all(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Turn many texts into ids at once. Returns: ids of each text (N,) int64; all ids, one text after the other, int32."""
        encoded = self._processor.encode(texts)
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        return lengths, np.fromiter(chain.from_iterable(encoded), np.int32, int(lengths.sum())) + _SHIFT

    @property
    def fingerprint(self) -> str:
        """Hex digest of the model: tokenizers with the same one encode alike."""
        return hashlib.sha256(self._model_bytes).hexdigest()

    def decode(self, ids: Iterable[int]) -> str:
        """Turn ids into text: pieces joined, what is no text left out. Returns: str without spaces at its ends."""
        return join_pieces(self.pieces, ids, self.blank_id)

    def unknown_characters(self, texts: Iterable[str]) -> Counter[str]:
        """Count the characters of `texts` that become `<unk>`, blanks between words among them. Returns: Counter of characters."""
        counts: Counter[str] = Counter()
        for text in texts:
            ids = self.encode(text)
            if self.unknown_id in ids:
                pieces = self._processor.encode(text, out_type=str)
                lacking = "".join(piece for i, piece in zip(ids, pieces, strict=True) if i == self.unknown_id)
                counts.update(lacking.replace(SPACE, " "))
        return counts

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.model and tokens.txt."""
        with atomic_file(Path(folder) / "tokenizer.model", "wb") as file:
            file.write(self._model_bytes)
        write_text(Path(folder) / "tokens.txt", self.tokens_text())


def join_pieces(pieces: Sequence[str], ids: Iterable[int], blank_id: int) -> str:
    """Text of token ids, without blanks and SILENT ones. Args: pieces: text of each id.  Returns: str without spaces at its ends."""
    spoken = [pieces[i] for i in ids if i != blank_id and not SILENT.fullmatch(pieces[i])]
    return "".join(spoken).replace(SPACE, " ").strip(" ")


def train_tokenizer(texts: Iterable[str], kind: str = "char", vocab_size: int | None = None) -> Tokenizer:
    """Train a tokenizer; the same texts in the same order give the same bytes.

    Args:   texts: transcripts.   kind, vocab_size: see TokenizerConfig.
    Raises: UserError for texts without a word, with U+2581, <unk> or <blk> in them, or that do not allow vocab_size.
    Source: Kudo, Richardson 2018 (arXiv:1808.06226); single characters are all kept (character coverage 1).
    """
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise UserError("there is no text to train a tokenizer on")
    for symbol in (SPACE, UNKNOWN, BLANK):
        if count := sum(symbol in text for text in texts):
            raise UserError(
                f"{count} transcripts contain {symbol!r}, a token with a meaning of its own; replace it there"
            )
    if kind == "word":
        vocab_size = _SHIFT + 1 + len({word for text in texts for word in text.split()})
    if kind == "char":
        vocab_size = _SHIFT + 1 + len(set("".join(texts)) - {" "}) + any(" " in text.strip() for text in texts)
    assert vocab_size is not None, "TokenizerConfig demands one for the other kinds"
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type=kind,
            vocab_size=vocab_size - _SHIFT,
            character_coverage=1.0,
            normalization_rule_name="identity",
            add_dummy_prefix=kind != "char",
            max_sentence_length=max(4192, *(len(text.encode()) + 1 for text in texts)),
            shuffle_input_sentence=False,
            num_threads=1,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(_explain(str(error), kind, vocab_size)) from None
    return Tokenizer(model.getvalue())


def _explain(message, kind, vocab_size):
    """Say what sizes are possible, from SentencePiece's own message."""
    if most := re.search(r"value <= (\d+)", message):
        most = int(most[1]) + _SHIFT
        return f"vocab_size {vocab_size} is too large for this text: {kind} allows {most} at most"
    if least := re.search(r"required_chars.*?(\d+) vs (\d+)", message):
        need = max(int(least[1]), int(least[2])) + _SHIFT
        return f"vocab_size {vocab_size} is too small for this text: its characters alone take {need}"
    return f"SentencePiece could not train a {kind} tokenizer of size {vocab_size}: {message}"


def read_tokens(path: str | Path) -> list[str]:
    """Read tokens.txt, one `symbol id` line per token, ids from 0 upwards. Returns: list of symbols, index = id.

    Raises: MissingInput; UserError naming the line that does not fit.
    """
    try:
        lines = Path(path).read_bytes().decode("utf-8").split("\n")
    except FileNotFoundError:
        raise MissingInput(f"{path}: no such file; make the folder again") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    if lines[-1] == "":
        lines.pop()
    tokens, seen = [], set()
    for number, line in enumerate(lines):
        symbol, _, index = line.rpartition(" ")
        if not symbol or index != str(number):
            raise UserError(f"{path}:{number + 1}: expected `symbol {number}`, not {line!r}")
        if control := CONTROL.search(symbol):
            raise UserError(f"{path}:{number + 1}: control character {control[0]!r} in a symbol")
        if symbol in seen:
            raise UserError(f"{path}:{number + 1}: symbol {symbol!r} is there twice")
        tokens.append(symbol)
        seen.add(symbol)
    return tokens
