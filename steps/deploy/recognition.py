"""Decoding of data folders with whatever `load_recogniser` returned."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from steps.core.cli import UserError, say
from steps.core.config import check
from steps.core.datadir import Utterance
from steps.core.decodings import KINDS
from steps.core.outdir import sha256_file, write_json
from steps.core.sound import read_sound
from steps.core.tables import SHOWN, counted, write_table
from steps.data.archives import check_feature_settings, load_feature_matrix, read_feats_scp
from steps.data.feature_config import FeatureConfig
from steps.deploy.pieces import LONGEST_S, cut_features, cut_samples
from steps.deploy.runtimes import Recogniser

# between lines of progress
REPORT_EVERY_S = 10.0


@dataclasses.dataclass
class DecodeConfig:
    """Settings of decoding (conf/decode.yaml).

    lexicon: also decode with the word list, when there is one.   word_score: nats added for each word in lexicon decoding;
    below 0 gives fewer words.   unit: what error rates count: word (WER), char (CER, for scripts without spaces) or phone
    (PER).   fold: words that count as others when scored, such as {ix: ih}.   cer: the rate of characters stands beside that
    of words, with intervals.   beam: also decode transducers by modified beam search with so many paths; 0: greedy only.
    """

    lexicon: bool = True
    word_score: float = 0.0
    unit: str = "word"
    fold: dict = dataclasses.field(default_factory=dict)
    cer: bool = False
    beam: int = 0

    def __post_init__(self) -> None:
        check(0 <= self.beam <= 100, "beam must be 0 to 100")
        check(self.unit in ("word", "char", "phone"), f"unit must be word, char or phone, not {self.unit!r}")
        check(not self.cer or self.unit == "word", f"cer: true is for unit: word, not {self.unit}")
        pairs = [word for pair in self.fold.items() for word in pair]
        check(all(isinstance(w, str) and len(w.split()) == 1 for w in pairs), "fold: expected `word: word` pairs")


def open_inputs(
    recogniser: Recogniser, data_dir: str | Path, utterances: list[Utterance], model_dir: str | Path
) -> Callable[[Utterance], Iterator[np.ndarray]]:
    """What the recogniser hears of each utterance of a data folder, in pieces: features from feats.scp, or from the audio.

    Samples always come from the audio, so that feats.scp may hold what other models of the chain hear.

    Args:   model_dir: the folder the recogniser was opened from, for messages.
    Raises: UserError for features made with other settings, or listing utterances that feats.scp lacks.
    """
    config, scp = recogniser.features, Path(data_dir) / "feats.scp"
    if recogniser.hears == "audio" or config.kind == "samples" or not scp.is_file():
        return lambda utt: hear(recogniser, utt)
    table = read_feats_scp(scp)
    check_feature_settings(data_dir, table.values(), config, Path(model_dir) / "features.yaml")
    missing = [utt.utt_id for utt in utterances if utt.utt_id not in table]
    if missing:
        some = " ".join(missing[:10])
        raise UserError(f"{scp}: {counted(len(missing), 'utterance')} missing: {some}; extract features again")
    return lambda utt: iter(cut_features(load_feature_matrix(table[utt.utt_id]), config))


def hear(
    recogniser: Recogniser, utt: Utterance, channel: int | str | None = None, damaged: bool = False, cut: bool = True
) -> Iterator[np.ndarray]:
    """What a recogniser hears of an utterance's audio, in pieces of at most LONGEST_S; none where it fills no frame.

    Args:   channel, damaged: see steps.core.sound.read_sound.   cut: False: in one piece, however long it is.
    Yields: float32 arrays, (S,) samples or (T, D) features.   Raises: UserError naming the file.
    """
    config = recogniser.features
    whole, rate_hz = read_sound(utt.audio, utt.start_s, utt.end_s, channel, damaged)
    if (rate_hz, utt.speed, config.level_dbfs) != (config.sample_rate_hz, 1.0, None):
        # here, because it loads torch
        from steps.data.features import fitted

        # the level is that of the whole, not of each piece, as in stored features
        whole, config = fitted(whole, rate_hz, utt, config), dataclasses.replace(config, level_dbfs=None)
    for piece in cut_samples(whole, config.sample_rate_hz) if cut else [whole]:
        if len(piece) >= config.frame_samples:
            yield piece if recogniser.hears == "audio" else features_of(piece, config)


def features_of(piece: np.ndarray, config: FeatureConfig) -> np.ndarray:
    """`piece_features`, which loads torch."""
    from steps.data.features import piece_features

    return piece_features(piece, config)


def recognise_pieces(
    recogniser: Recogniser, pieces: Iterable[np.ndarray], name: str, sure: list[float] | None = None
) -> tuple[dict[str, str], float]:
    """Recognise an utterance piece by piece.

    Args:    pieces: from `hear`.   name: for messages.   sure: what a recogniser says of each token is put behind it.
    Returns: texts by kind of decoding, empty without a piece; seconds of sound.
    Raises:  UserError; also for a second piece of what should be one label.
    """
    texts: dict[str, list[str]] = {kind: [] for kind in recogniser.kinds}
    seconds = 0.0
    for piece in pieces:
        if seconds and "one_of" in texts:
            what = f"longer than {LONGEST_S:g} s, so it is heard in pieces"
            raise UserError(
                f"{name}: {what}; recordings that are one label each are shorter: leave --labels out, or cut it"
            )
        heard = np.ascontiguousarray(piece, dtype=np.float32)
        for kind, text in recogniser.recognise(heard, name).items():
            texts[kind].append(text)
        if sure is not None:
            sure += getattr(recogniser, "sure", [])
        seconds += seconds_of(heard, recogniser.hears, recogniser.features)
    return {kind: " ".join(filter(None, parts)) for kind, parts in texts.items()}, seconds


def seconds_of(heard: np.ndarray, hears: str, features: FeatureConfig) -> float:
    """Length in seconds of what a recogniser was given."""
    return len(heard) / features.sample_rate_hz if hears == "audio" else len(heard) * features.frame_shift_ms / 1000


def decode_all(
    recogniser: Recogniser,
    utterances: Iterable[Utterance],
    inputs: Callable[[Utterance], Iterable[np.ndarray]],
    confidences: dict[str, float] | None = None,
) -> tuple[dict[str, dict[str, str]], float]:
    """Decode utterances one by one.

    Args:    inputs: from `open_inputs`.
             confidences: gets the geometric mean of the probabilities of each utterance's greedy tokens, from recognisers that
             tell them: their `sure` holds the log-probabilities of what they last recognised.
    Returns: texts by kind of decoding and utterance, {"greedy": {id: text}[, "lexicon": {id: text}], ...}; seconds of audio.
    Raises:  UserError naming the utterance that cannot be decoded.
    """
    utterances = list(utterances)
    hyps: dict[str, dict[str, str]] = {kind: {} for kind in recogniser.kinds}
    empty: list[str] = []
    seconds, reported_s = 0.0, time.monotonic()
    for number, utt in enumerate(utterances, start=1):
        sure: list[float] = []
        texts, length_s = recognise_pieces(recogniser, inputs(utt), utt.utt_id, sure)
        if confidences is not None and sure:
            confidences[utt.utt_id] = math.exp(sum(sure) / len(sure))
        for kind, text in texts.items():
            hyps[kind][utt.utt_id] = text
        seconds += length_s
        if not length_s:
            empty.append(utt.utt_id)
        if time.monotonic() - reported_s >= REPORT_EVERY_S:
            reported_s = time.monotonic()
            say(f"utterance {number}/{len(utterances)}")
    if len(hyps["greedy"]) != len(utterances):
        raise UserError(
            f"{counted(len(utterances), 'utterance')} in, {len(hyps['greedy'])} hypotheses out: an id occurs twice"
        )
    if empty:
        say(
            f"{counted(len(empty), 'utterance')} shorter than one frame, recognised as empty: {' '.join(empty[:SHOWN])}"
        )
    return hyps, seconds


def write_hypotheses(out: Path, hyps: dict[str, dict[str, str]], facts: dict) -> None:
    """Write one text file per kind, and decode.json with their hashes last; those of other kinds, left by an earlier run, go."""
    for kind in set(KINDS) - set(hyps):
        (out / f"{kind}.txt").unlink(missing_ok=True)
    for kind, texts in hyps.items():
        write_table(out / f"{kind}.txt", texts)
    hashes = {kind: sha256_file(out / f"{kind}.txt") for kind in hyps}
    write_json(out / "decode.json", facts | {"hypotheses_sha256": hashes})
