"""Lexicon decoding: beam search over CTC log-probabilities that can only put out words of a list, all equally likely."""

import dataclasses
import importlib.util

import numpy as np

SPACE = "\u2581"
UNAVAILABLE = "flashlight-text is not installed (it has no wheel for Python 3.13 and later)"


@dataclasses.dataclass
class LexiconConfig:
    """Settings of the beam search."""

    beam_size: int = 100  # hypotheses kept after each frame, >= 1
    beam_size_token: int = 50  # best tokens tried in each frame, >= 1; more than there are means all
    beam_threshold: float = 50.0  # nats; hypotheses this far below the best are dropped, > 0
    word_score: float = 0.0  # nats added for each word; below 0 gives fewer words
    log_add: bool = False  # add the probabilities of alignments that meet, instead of keeping the best one

    def __post_init__(self):
        if self.beam_size < 1 or self.beam_size_token < 1:
            raise ValueError("beam_size and beam_size_token must be at least 1")
        if not self.beam_threshold > 0:
            raise ValueError("beam_threshold must be above 0")


def is_available():
    """Whether the package behind `LexiconDecoder` is installed; nothing is imported."""
    return importlib.util.find_spec("flashlight") is not None


def has_single_characters(pieces, special_ids=(0, 1)):
    """Whether every piece is one character, so that any word is spelled by its characters."""
    return all(len(piece) == 1 for i, piece in enumerate(pieces) if i not in special_ids)


def spell_words(words, pieces, encode=None, special_ids=(0, 1)):
    """Spell each word in token ids.

    Args:   words: words, none twice.   pieces: text of each token id, U+2581 standing for a space.
            encode: text -> token ids, with its own word boundaries; None: character by character, a space at the end.
            special_ids: ids no word may use (blank, unknown).
    Returns: list of lists of ids, in the order of `words`.
    Raises:  ValueError listing the words that cannot be spelled.
    """
    ids = {piece: i for i, piece in enumerate(pieces) if i not in special_ids}
    spellings, bad = [], []
    for word in words:
        spelling = [ids.get(char) for char in word + SPACE] if encode is None else list(encode(word))
        good = all(i is not None and i not in special_ids for i in spelling)
        if good and "".join(pieces[i] for i in spelling).replace(SPACE, "") == word:
            spellings.append(spelling)
        else:
            bad.append(word)
    if bad:
        more = f" and {len(bad) - 20} more" if len(bad) > 20 else ""
        raise ValueError(f"{len(bad)} of {len(words)} words cannot be spelled with the tokens: {' '.join(bad[:20])}{more}")
    return spellings


class LexiconDecoder:
    """Viterbi beam search over the words of a list (flashlight-text; no language model).

    Args:   words: the words that may come out; repeats are ignored.   pieces: text of each token id.
            blank_id: index of the CTC blank.   encode, special_ids: see `spell_words`.   config: LexiconConfig.
    Raises: ValueError when the list is empty or a word cannot be spelled; ImportError when `is_available()` is False.
    Source: Collobert, Puhrsch, Synnaeve 2016 (arXiv:1609.03193), section 3.3, as built in flashlight-text.
    """

    def __init__(self, words, pieces, blank_id=0, encode=None, special_ids=(0, 1), config=None):
        from flashlight.lib.text import decoder as flashlight

        self.config = config or LexiconConfig()
        self.words = list(dict.fromkeys(words))
        self.num_tokens = len(pieces)
        # Between words a trained character model may repeat the space; subword models have nothing there but blanks.
        self.space_id = list(pieces).index(SPACE) if encode is None and SPACE in pieces else None
        if not self.words:
            raise ValueError("the word list is empty")
        trie = flashlight.Trie(self.num_tokens, blank_id)
        spellings = spell_words(self.words, pieces, encode, special_ids)
        for label, spelling in enumerate(spellings):
            trie.insert(spelling, label, 0.0)
        self._language_model = flashlight.ZeroLM()
        between = blank_id if self.space_id is None else self.space_id
        options = flashlight.LexiconDecoderOptions(
            beam_size=self.config.beam_size,
            beam_size_token=min(self.config.beam_size_token, self.num_tokens),
            beam_threshold=self.config.beam_threshold,
            lm_weight=0.0,
            word_score=self.config.word_score,
            unk_score=-float("inf"),
            sil_score=0.0,
            log_add=self.config.log_add,
            criterion_type=flashlight.CriterionType.CTC,
        )
        self._decoder = flashlight.LexiconDecoder(
            options, trie, self._language_model, between, blank_id, -1, [], False
        )

    def decode(self, log_probs):
        """The most likely word sequence of one utterance.

        Args:   log_probs: (T, V) float, natural log.
        Returns: words joined by single spaces; "" when silence is the most likely.
        Raises:  ValueError when the shape does not fit the tokens.
        """
        log_probs = np.asarray(log_probs, dtype=np.float32)
        if log_probs.ndim != 2 or log_probs.shape[1] != self.num_tokens:
            raise ValueError(f"expected (T, {self.num_tokens}) log-probabilities, not {log_probs.shape}")
        if len(log_probs) == 0:
            return ""
        if self.space_id is not None:
            log_probs = np.concatenate([log_probs, self._space_frame()])
        log_probs = np.ascontiguousarray(log_probs)
        best = self._decoder.decode(log_probs.ctypes.data, *log_probs.shape)[0]
        return " ".join(self.words[label] for label in best.words if label >= 0)

    def _space_frame(self):
        """(1, V): one frame that is surely a space, so that the last word can end."""
        frame = np.full((1, self.num_tokens), -1e4, dtype=np.float32)
        frame[0, self.space_id] = 0.0
        return frame
