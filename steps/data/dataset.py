"""Training examples, from extracted features or straight from audio, the same numbers either way."""

import copy
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from steps.core.cli import MissingInput, UserError, say
from steps.core.datadir import Utterance
from steps.core.tables import counted
from steps.data.archives import check_feature_settings, load_feature_matrix
from steps.data.feature_config import FeatureConfig
from steps.data.features import utterance_features
from steps.data.index import count_tokens, open_index

if TYPE_CHECKING:
    from steps.data.tokenizer import Tokenizer

# Utterances looked at together, so that little memory is needed.
CHUNK = 100_000
# Utterances whose features' settings are looked up, evenly taken.
PLACES = 1000


class SpeechDataset:
    """The utterances of one data folder.

    Args: data_dir: with feats.scp and utt2num_frames when source is `ark`.   tokenizer: Tokenizer.
          feature_config: FeatureConfig; with `ark` the files must have its dimension.
          source: `ark` (stage 1's files) or `on_the_fly` (computed from wav.scp when read; needs utt2dur).
          output_lengths, frames_needed: encoder frames for feature frames, and those that a transcript needs (of its tokens
          and of how many of these repeat the one before), to drop utterances too short to be learnt; None: keep all.
          end_spaces: a space before and behind every transcript, for a tokenizer that has one.
    Attributes: num_frames ((N,) int array, feature frames of each), dropped (ids too short for their transcript), left_out (a
          data set of them, or None), unknown (characters the tokenizer lacks, counted); utterance, tokens, features by number.
    """

    def __init__(
        self,
        data_dir: str | Path,
        tokenizer: "Tokenizer",
        feature_config: FeatureConfig,
        source: str = "ark",
        output_lengths: Callable[[torch.Tensor], torch.Tensor] | None = None,
        frames_needed: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
        end_spaces: bool = False,
    ):
        self.folder, self.feature_config, self.tokenizer = Path(data_dir), feature_config, tokenizer
        self.ends = end_tokens(tokenizer) if end_spaces else []
        self.index = open_index(data_dir, check_audio=source != "ark")
        self.stored = source == "ark"
        self.num_frames = self._count_frames()
        if self.stored:
            check_feature_settings(self.folder, self._some_places(), feature_config, "--features")
        # Numbers of the kept utterances in the index; None: all.
        self.rows: np.ndarray | None = None
        self.dropped: list[str] = []
        self.left_out: SpeechDataset | None = None
        self.unknown: Counter[str]
        tokens, repeats, self.unknown = count_tokens(self.index, tokenizer)
        self.fit = (output_lengths, frames_needed)
        if output_lengths is not None:
            assert frames_needed is not None
            self._drop_short(tokens, frames_needed(tokens + 2 * len(self.ends), repeats), output_lengths)

    def _count_frames(self):
        if self.stored:
            for name in ("feats.scp", "utt2num_frames"):
                if name not in self.index:
                    raise MissingInput(f"{self.folder / name}: no such file")
            return self.index.arrays["utt2num_frames"]
        if "utt2dur" not in self.index:
            raise MissingInput(
                f"{self.folder}/utt2dur: needed to plan batches on the fly; utils/validate_data_dir.py tells more"
            )
        return count_frames(self.index.arrays["utt2dur"], self.feature_config)

    def _some_places(self):
        rows = np.linspace(0, len(self.num_frames) - 1, min(len(self.num_frames), PLACES)).round().astype(int)
        return [self.index.value("feats.scp", row, self.index.row("utt2spk", row)[0]) for row in rows.tolist()]

    def _drop_short(self, tokens, needed, output_lengths):
        # By number of feature frames.
        room = output_lengths(torch.arange(int(self.num_frames.max()) + 1)).numpy()
        fits = np.concatenate(
            [
                (room[self.num_frames[start : start + CHUNK]] >= needed[start : start + CHUNK])
                & (tokens[start : start + CHUNK] > 0)
                for start in range(0, len(needed), CHUNK)
            ]
        )
        if not fits.any():
            raise UserError(f"{self.folder}: no utterance is long enough for its transcript; nothing to train on")
        if not fits.all():
            left = np.flatnonzero(~fits).astype(np.int32)
            self.dropped = [self.index.row("utt2spk", number)[0] for number in left]
            self.left_out = self._part(left, self.num_frames[left])
            self.rows = np.flatnonzero(fits).astype(np.int32)
            self.num_frames = self.num_frames[self.rows]

    def sample(self, count: int) -> "SpeechDataset":
        """A data set of at most `count` of its utterances, evenly spaced."""
        chosen = np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(np.int32)
        return self._part(chosen if self.rows is None else self.rows[chosen], self.num_frames[chosen])

    def _part(self, rows, num_frames):
        part = copy.copy(self)
        part.rows, part.num_frames, part.dropped, part.left_out = rows, num_frames, [], None
        return part

    def _row(self, index):
        return int(index if self.rows is None else self.rows[index])

    def utterance(self, index: int) -> Utterance:
        """The Utterance of this number."""
        return self.index.utterance(self._row(index))

    def utt_id(self, index: int) -> str:
        """Its id."""
        return self.index.row("utt2spk", self._row(index))[0]

    def text(self, index: int) -> str:
        """Its transcript."""
        return self.index.text(self._row(index))

    def tokens(self, index: int) -> list[int]:
        """Token ids of its transcript. Returns: list of int."""
        return [*self.ends, *self.tokenizer.encode(self.text(index)), *self.ends]

    def __len__(self):
        return len(self.num_frames)

    @property
    def hours(self) -> float:
        """Length of the kept utterances."""
        return int(self.num_frames.sum(dtype=np.int64)) * self.feature_config.frame_shift_ms / 3.6e6

    def features(self, index: int, change: Callable[[np.ndarray], np.ndarray] | None = None) -> np.ndarray:
        """Features of one utterance. Args: change: of its samples, on the fly only. Returns: (T, D) float32 array."""
        utt_id = self.utt_id(index)
        if not self.stored:
            feats = utterance_features(self.utterance(index), self.feature_config, change).numpy()
            planned = int(self.num_frames[index])
            if len(feats) < planned and self._holds(index, planned) and not self._holds(index, len(feats)):
                stated, real = (frames * self.feature_config.frame_shift_ms / 1000 for frames in (planned, len(feats)))
                raise UserError(
                    f"{self.folder}/utt2dur: {utt_id} has {real:.2f} s of sound, not {stated:.2f}, which is too short for its "
                    "transcript; make utt2dur again"
                )
            return feats
        feats = load_feature_matrix(self.index.value("feats.scp", self._row(index), utt_id))
        if feats.shape != (self.num_frames[index], self.feature_config.dim):
            raise UserError(
                f"{self.folder}/feats.scp: {utt_id} has shape {feats.shape}, expected "
                f"({self.num_frames[index]}, {self.feature_config.dim}); run stage 1 again"
            )
        return feats

    def _holds(self, index, frames):
        """Whether so many feature frames are enough for the transcript of an utterance."""
        output_lengths, frames_needed = self.fit
        if output_lengths is None:
            return True
        ids = self.tokenizer.encode(self.text(index))
        repeats = sum(a == b for a, b in pairwise(ids))
        needed = frames_needed(np.array([len(ids) + 2 * len(self.ends)]), np.array([repeats]))
        return bool(output_lengths(torch.tensor([frames])).numpy()[0] >= needed[0])


def end_tokens(tokenizer: "Tokenizer") -> list[int]:
    """The space that stands before and behind a transcript. Raises: UserError for a tokenizer without one."""
    if tokenizer.space_id is None:
        raise UserError(
            "end_spaces: true needs a tokenizer with a space of its own: kind char, and transcripts of several words"
        )
    return [tokenizer.space_id]


def count_frames(duration_s: np.ndarray, config: FeatureConfig) -> np.ndarray:
    """Frames that compute_features makes of so much audio.

    Args: duration_s: array of seconds.   config: FeatureConfig.   Returns: int32 array, each at least 1.
    """
    rate = config.sample_rate_hz
    samples = np.rint(np.asarray(duration_s) * rate).astype(np.int64)
    if config.kind == "samples":
        return np.maximum(1, samples // config.dim).astype(np.int32)
    shift, window = (int(rate * ms / 1000) for ms in (config.frame_shift_ms, config.frame_length_ms))
    frames = 1 + (samples - window) // shift if config.snip_edges else (samples + shift // 2) // shift
    return np.maximum(1, frames).astype(np.int32)


def report_dataset(name: str, dataset: SpeechDataset) -> None:
    """Say what was read, and what was left out and why."""
    say(f"{name}: {counted(len(dataset), 'utterance')}, {dataset.hours:.2f} h from {dataset.folder}")
    if dataset.dropped:
        shown = ", ".join(dataset.dropped[:5]) + (", ..." if len(dataset.dropped) > 5 else "")
        lost = "losses leave out" if name == "dev" else "left out"
        say(f"{name}: {lost} {counted(len(dataset.dropped), 'utterance')} with no room for their transcript: {shown}")
    if dataset.unknown:
        shown = ", ".join(f"{char!r} {count} times" for char, count in dataset.unknown.most_common(10))
        say(f"{name}: {dataset.unknown.total()} characters are not in the tokenizer and count as <unk>: {shown}")
