"""Decoding of data folders with whatever `load_recogniser` returned."""

import dataclasses
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from steps.core.cli import UserError, say
from steps.core.config import check
from steps.core.datadir import Utterance
from steps.core.outdir import sha256_file, write_json
from steps.core.tables import write_table
from steps.data.archives import check_feature_settings, load_feature_matrix, read_feats_scp
from steps.data.feature_config import FeatureConfig
from steps.deploy.runtimes import Recogniser


@dataclasses.dataclass
class DecodeConfig:
    """Settings of decoding (conf/decode.yaml).

    lexicon: also decode with the word list, when there is one.   word_score: nats added for each word in lexicon decoding;
    below 0 gives fewer words.   unit: what error rates count: word (WER), char (CER, for scripts without spaces) or phone
    (PER).   fold: words that count as others when scored, such as {ix: ih}.
    """

    lexicon: bool = True
    word_score: float = 0.0
    unit: str = "word"
    fold: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self.unit in ("word", "char", "phone"), f"unit must be word, char or phone, not {self.unit!r}")
        pairs = [word for pair in self.fold.items() for word in pair]
        check(all(isinstance(w, str) and len(w.split()) == 1 for w in pairs), "fold: expected `word: word` pairs")


def open_inputs(
    recogniser: Recogniser, data_dir: str | Path, utterances: list[Utterance], model_dir: str | Path
) -> Callable[[Utterance], np.ndarray]:
    """What the recogniser hears of each utterance of a data folder: samples, or features from feats.scp or the audio.

    Args:   model_dir: the folder the recogniser was opened from, for messages.
    Raises: UserError for features made with other settings, or listing utterances that feats.scp lacks.
    """
    config = recogniser.features
    if recogniser.hears == "audio":
        # here, because it loads torch
        from steps.data.features import utterance_samples

        return lambda utt: utterance_samples(utt, config.sample_rate_hz).numpy()
    scp = Path(data_dir) / "feats.scp"
    if not scp.is_file():
        from steps.data.features import utterance_features

        return lambda utt: utterance_features(utt, config).numpy()
    check_feature_settings(data_dir, config, Path(model_dir) / "features.yaml")
    table = read_feats_scp(scp)
    missing = [utt.utt_id for utt in utterances if utt.utt_id not in table]
    if missing:
        some = " ".join(missing[:10])
        raise UserError(f"{scp}: {len(missing)} utterances are missing: {some}; extract features again")
    return lambda utt: load_feature_matrix(table[utt.utt_id])


def seconds_of(heard: np.ndarray, hears: str, features: FeatureConfig) -> float:
    """Length in seconds of what a recogniser was given."""
    return len(heard) / features.sample_rate_hz if hears == "audio" else len(heard) * features.frame_shift_ms / 1000


def decode_all(
    recogniser: Recogniser,
    utterances: Iterable[Utterance],
    inputs: Callable[[Utterance], np.ndarray],
    every_s: float = 10.0,
) -> tuple[dict[str, dict[str, str]], float]:
    """Decode utterances one by one.

    Args:    inputs: from `open_inputs`.   every_s: seconds between progress lines.
    Returns: texts by kind of decoding and utterance, {"greedy": {id: text}[, "lexicon": {id: text}]}; seconds of audio.
    Raises:  UserError naming the utterance that cannot be decoded.
    """
    utterances = list(utterances)
    hyps: dict[str, dict[str, str]] = {kind: {} for kind in recogniser.kinds}
    seconds, reported_s = 0.0, time.monotonic()
    for number, utt in enumerate(utterances, start=1):
        heard = np.ascontiguousarray(inputs(utt), dtype=np.float32)
        for kind, text in recogniser.recognise(heard, utt.utt_id).items():
            hyps[kind][utt.utt_id] = text
        seconds += seconds_of(heard, recogniser.hears, recogniser.features)
        if time.monotonic() - reported_s >= every_s:
            reported_s = time.monotonic()
            say(f"utterance {number}/{len(utterances)}")
    if len(hyps["greedy"]) != len(utterances):
        raise UserError(f"{len(utterances)} utterances in, {len(hyps['greedy'])} hypotheses out: an id occurs twice")
    return hyps, seconds


def write_hypotheses(out: Path, hyps: dict[str, dict[str, str]], facts: dict) -> None:
    """Write one text file per kind, and decode.json with their hashes last; a lexicon.txt left by an earlier run is removed."""
    if "lexicon" not in hyps:
        (out / "lexicon.txt").unlink(missing_ok=True)
    for kind, texts in hyps.items():
        write_table(out / f"{kind}.txt", texts)
    hashes = {kind: sha256_file(out / f"{kind}.txt") for kind in hyps}
    write_json(out / "decode.json", facts | {"hypotheses_sha256": hashes})
