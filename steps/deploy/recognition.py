"""From features to text with what `load_recogniser` returned: greedy search and, with a word list, lexicon search."""

import dataclasses
import time
from pathlib import Path

import numpy as np

from steps.core.cli import MissingInput, UserError, say
from steps.core.config import check
from steps.core.outdir import sha256_file, write_json
from steps.core.tables import write_table
from steps.data.tokenizer import Tokenizer
from steps.search import lexicon
from steps.search.greedy import greedy_search

SPECIAL = ("<blk>", "<unk>", "<eps>", "<blank>")


@dataclasses.dataclass
class DecodeConfig:
    """Settings of decoding (conf/decode.yaml)."""

    lexicon: bool = True  # also decode with the word list, when there is one
    word_score: float = 0.0  # nats added for each word in lexicon decoding; below 0 gives fewer words
    unit: str = "word"  # what error rates count: word (WER), char (CER, for scripts without blanks) or phone (PER)
    fold: dict = dataclasses.field(default_factory=dict)  # words that count as others when scored, such as {ix: ih}

    def __post_init__(self):
        check(self.unit in ("word", "char", "phone"), f"unit must be word, char or phone, not {self.unit!r}")
        pairs = [word for pair in self.fold.items() for word in pair]
        check(all(isinstance(w, str) and len(w.split()) == 1 for w in pairs), "fold: expected `word: word` pairs")


def is_exported(folder):
    """Whether this is an exported folder (model.onnx) and not a model folder (model.json).

    Raises: MissingInput when it is neither.
    """
    folder = Path(folder)
    if (folder / "model.onnx").is_file():
        return True
    if (folder / "model.json").is_file():
        return False
    raise MissingInput(f"{folder}: neither model.json nor model.onnx here; name a model folder or its export/")


def read_words(path):
    """Read a word list, one word per line; empty lines are skipped. Returns: list of words, each once.

    Raises: MissingInput; UserError listing lines that hold more than one word, or when no word is left.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise MissingInput(f"{path}: no such word list") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    bad = [str(number) for number, line in enumerate(lines, start=1) if len(line.split()) > 1]
    if bad:
        raise UserError(f"{path}: one word per line, please; more than one in line {', '.join(bad[:10])}")
    words = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not words:
        raise UserError(f"{path}: the word list is empty")
    return words


def open_lexicon(words_file, folder, recogniser, word_score=0.0):
    """Build the lexicon decoder for the words of a file.

    Args:   folder: what the recogniser was loaded from; a subword model needs tokenizer.model in it or in its parent.
            recogniser: has `.tokens` and `.blank_id`.   word_score: see DecodeConfig.
    Returns: LexiconDecoder.   Raises: MissingInput, UserError.
    """
    words, tokens = read_words(words_file), recogniser.tokens
    special_ids = {recogniser.blank_id, *(i for i, token in enumerate(tokens) if token in SPECIAL)}
    encode = None
    if not lexicon.has_single_characters(tokens, special_ids):
        encode = load_tokenizer(folder).encode
    try:
        return lexicon.LexiconDecoder(words, tokens, recogniser.blank_id, encode, special_ids, word_score)
    except ValueError as error:
        raise UserError(f"{words_file}: {error}") from None


def load_tokenizer(folder):
    """The tokenizer of a model folder, or of an exported folder in one. Raises: MissingInput."""
    for place in (Path(folder), Path(folder).parent):
        if (place / "tokenizer.model").is_file():
            return Tokenizer.load(place)
    raise MissingInput(f"{folder}: spelling words in tokens needs tokenizer.model here or one folder up")


def recognise(recogniser, features, name, decoder=None):
    """Decode one utterance.

    Args:   features: (T, D) float32.   name: for messages.   decoder: LexiconDecoder or None.
    Returns: (greedy text, lexicon text or None), words separated by single spaces.
    Raises:  UserError when a log-probability is not finite.
    """
    log_probs = np.asarray(recogniser.log_probs(features))  # (T', V)
    if not np.isfinite(log_probs).all():
        raise UserError(f"{name}: the model returned log-probabilities that are not finite")
    (ids,) = greedy_search(log_probs[None], [len(log_probs)], recogniser.blank_id)
    greedy = " ".join(recogniser.text(ids).split())
    return greedy, None if decoder is None else decoder.decode(log_probs)


def decode_all(recogniser, utterances, features, decoder=None, every_s=10.0):
    """Decode utterances one by one.

    Args:   features: Utterance -> (T, D) array.   every_s: seconds between progress lines.
    Returns: ({"greedy": {id: text}[, "lexicon": {id: text}]}, number of frames read).
    Raises:  UserError naming the utterance for features that do not fit or log-probabilities that are not finite.
    """
    hyps = {"greedy": {}} if decoder is None else {"greedy": {}, "lexicon": {}}
    frames, told_s = 0, time.monotonic()
    for number, utt in enumerate(utterances, start=1):
        feats = np.ascontiguousarray(features(utt), dtype=np.float32)
        if feats.ndim != 2 or feats.shape[1] != recogniser.features.dim:
            raise UserError(f"{utt.utt_id}: features {feats.shape}, the model wants (T, {recogniser.features.dim})")
        greedy, words = recognise(recogniser, feats, utt.utt_id, decoder)
        hyps["greedy"][utt.utt_id] = greedy
        if decoder is not None:
            hyps["lexicon"][utt.utt_id] = words
        frames += len(feats)
        if time.monotonic() - told_s >= every_s:
            told_s = time.monotonic()
            say(f"utterance {number}/{len(utterances)}")
    if len(hyps["greedy"]) != len(utterances):
        raise UserError(f"{len(utterances)} utterances in, {len(hyps['greedy'])} hypotheses out: an id is given twice")
    return hyps, frames


def write_hypotheses(out, hyps, facts):
    """Write one text file per kind and decode.json with their hashes last; a lexicon.txt of an earlier run does not stay."""
    if "lexicon" not in hyps:
        (out / "lexicon.txt").unlink(missing_ok=True)
    for kind, texts in hyps.items():
        write_table(out / f"{kind}.txt", texts)
    hashes = {kind: sha256_file(out / f"{kind}.txt") for kind in hyps}
    write_json(out / "decode.json", facts | {"hypotheses_sha256": hashes})
