"""Training examples and batches, from extracted features or straight from audio, the same numbers either way."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from steps.core.cli import MissingInput, UserError, say
from steps.core.datadir import read_data_dir, read_table
from steps.data.archives import check_feature_settings, load_feature_matrix, read_feats_scp
from steps.data.augment import augment_wave, spec_augment, utterance_rng, warp_frequency
from steps.data.features import utterance_features
from steps.data.wave_augment import WaveAugment


@dataclass
class Batch:
    """Padded examples. feats (N, T, D) float32; lengths, token_lengths (N,) int64; tokens (N, U) int64; weight 0: adds nothing;
    clean (N, T, D) float32, feats before augmentation, where the objective asks for them."""

    utt_ids: list
    feats: torch.Tensor
    lengths: torch.Tensor
    tokens: torch.Tensor
    token_lengths: torch.Tensor
    weight: float = 1.0
    clean: torch.Tensor | None = None

    def to(self, device):
        """The same batch on another device."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items()})


class SpeechDataset:
    """The utterances of one data folder.

    Args: data_dir: with feats.scp and utt2num_frames when source is `ark`.   tokenizer: Tokenizer.
          feature_config: FeatureConfig; with `ark` the files must have its dimension.
          source: `ark` (stage 1's files) or `on_the_fly` (computed from wav.scp when read; needs utt2dur).
          output_lengths: encoder frames for feature frames, to drop utterances too short for CTC; None: keep all.
    Attributes: utterances (sorted by id), num_frames (feature frames of each), dropped (ids too short for their transcript),
          unknown (characters the tokenizer lacks, counted).
    """

    def __init__(self, data_dir, tokenizer, feature_config, source="ark", output_lengths=None):
        self.folder, self.feature_config = Path(data_dir), feature_config
        self.utterances = read_data_dir(data_dir, check_audio=source != "ark")
        self.where = None
        if source == "ark":
            check_feature_settings(self.folder, feature_config, "--features")
            self.where = read_feats_scp(self.folder / "feats.scp")
        self.num_frames = self._count_frames()
        self.tokens = [tokenizer.encode(utt.text) for utt in self.utterances]
        self.unknown = tokenizer.unknown_characters(utt.text for utt in self.utterances)
        self.dropped = []
        if output_lengths is not None:
            self._drop_short(output_lengths)

    def _count_frames(self):
        if self.where is None:
            if any(utt.duration_s is None for utt in self.utterances):
                raise MissingInput(
                    f"{self.folder}/utt2dur: needed to plan batches on the fly; utils/validate_data_dir.py tells more"
                )
            return [count_frames(utt.duration_s, self.feature_config) for utt in self.utterances]
        counts = read_table(self.folder / "utt2num_frames")
        missing = [utt.utt_id for utt in self.utterances if utt.utt_id not in self.where or utt.utt_id not in counts]
        if missing:
            raise UserError(
                f"{self.folder}/feats.scp: {len(missing)} utterances have no features, e.g. {missing[0]}; run stage 1 again"
            )
        return [int(counts[utt.utt_id]) for utt in self.utterances]

    def _drop_short(self, output_lengths):
        room = output_lengths(torch.tensor(self.num_frames)).tolist()
        fits = [frames >= frames_needed(tokens) > 0 for frames, tokens in zip(room, self.tokens, strict=True)]
        self.dropped = [utt.utt_id for utt, fit in zip(self.utterances, fits, strict=True) if not fit]
        for name in ("utterances", "num_frames", "tokens"):
            setattr(self, name, [item for item, fit in zip(getattr(self, name), fits, strict=True) if fit])
        if not self.utterances:
            raise UserError(f"{self.folder}: no utterance is long enough for its transcript; nothing to train on")

    def __len__(self):
        return len(self.utterances)

    @property
    def hours(self):
        """Length of the kept utterances."""
        return sum(self.num_frames) * self.feature_config.frame_shift_ms / 3.6e6

    def features(self, index, change=None):
        """Features of one utterance. Args: change: of its samples, on the fly only. Returns: (T, D) float32 array."""
        utt = self.utterances[index]
        if self.where is None:
            return utterance_features(utt, self.feature_config, change).numpy()
        feats = load_feature_matrix(self.where[utt.utt_id])
        if feats.shape != (self.num_frames[index], self.feature_config.dim):
            raise UserError(
                f"{self.folder}/feats.scp: {utt.utt_id} has shape {feats.shape}, expected "
                f"({self.num_frames[index]}, {self.feature_config.dim}); run stage 1 again"
            )
        return feats


def count_frames(duration_s, config):
    """Frames that compute_features makes of so much audio. Args: config: FeatureConfig.  Returns: int, at least 1."""
    rate = config.sample_rate_hz
    samples = round(duration_s * rate)
    shift, window = (int(rate * ms / 1000) for ms in (config.frame_shift_ms, config.frame_length_ms))
    frames = 1 + (samples - window) // shift if config.snip_edges else (samples + shift // 2) // shift
    return max(1, frames)


def frames_needed(tokens):
    """Least encoder frames CTC can spell the tokens in: one each and a blank between repeats."""
    return len(tokens) + sum(a == b for a, b in zip(tokens, tokens[1:], strict=False))


def report_dataset(name, dataset):
    """Say what was read, and what was left out and why."""
    say(f"{name}: {len(dataset)} utterances, {dataset.hours:.2f} h from {dataset.folder}")
    if dataset.dropped:
        shown = ", ".join(dataset.dropped[:5]) + (", ..." if len(dataset.dropped) > 5 else "")
        say(f"{name}: left out {len(dataset.dropped)} utterances with no room for their transcript: {shown}")
    if dataset.unknown:
        shown = ", ".join(f"{char!r} {count} times" for char, count in dataset.unknown.most_common(10))
        say(f"{name}: {dataset.unknown.total()} characters are not in the tokenizer and count as <unk>: {shown}")


def plan_batches(num_frames, max_frames, seed, epoch):
    """Group utterances of like length into batches and shuffle these: a pure function of its arguments.

    Args:    num_frames: feature frames of each utterance.   max_frames: padded frames per batch, at most (a longer utterance
             makes a batch of its own).   seed, epoch: integers >= 0.
    Returns: list of lists of indices; every utterance exactly once.
    """
    rng = np.random.default_rng([seed, epoch])
    jittered = np.asarray(num_frames) * rng.uniform(0.9, 1.1, len(num_frames))
    batches, longest = [[]], 0
    for index in np.argsort(jittered, kind="stable").tolist():
        longest = max(longest, num_frames[index])
        if batches[-1] and longest * (len(batches[-1]) + 1) > max_frames:
            batches.append([])
            longest = num_frames[index]
        batches[-1].append(index)
    return [batches[i] for i in rng.permutation(len(batches))]


class BatchLoader:
    """The batches of one epoch, made when asked for, so that a DataLoader's workers can share the work.

    Args: dataset: SpeechDataset.   batches: list of (indices, weight).   augment: SpecAugmentConfig or None.
          fill: (D,) float32, what a masked bin holds.   seed, epoch: of the augmentation.   clean: fill in Batch.clean, too.
    """

    def __init__(self, dataset, batches, augment, fill, seed, epoch, clean=False):
        self.dataset, self.batches, self.augment = dataset, batches, augment
        self.fill, self.seed, self.epoch, self.clean = fill, seed, epoch, clean
        wave = augment and augment.wave
        self.wave = WaveAugment(wave, dataset.feature_config.sample_rate_hz) if wave else None

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, position):
        """Read, augment and pad the batch at this position of the plan. Returns: Batch."""
        indices, weight = self.batches[position]
        read = self.clean or self.wave is None
        untouched = [self.dataset.features(index) if read else None for index in indices]
        rows = [torch.tensor(self.augmented(index, feats)) for index, feats in zip(indices, untouched, strict=True)]
        tokens = [torch.tensor(self.dataset.tokens[index], dtype=torch.int64) for index in indices]
        pad = torch.nn.utils.rnn.pad_sequence
        return Batch(
            utt_ids=[self.dataset.utterances[index].utt_id for index in indices],
            feats=pad(rows, batch_first=True),
            lengths=torch.tensor([len(row) for row in rows]),
            tokens=pad(tokens, batch_first=True),
            token_lengths=torch.tensor([len(row) for row in tokens]),
            weight=weight,
            clean=pad([torch.tensor(feats) for feats in untouched], batch_first=True) if self.clean else None,
        )

    def augmented(self, index, feats):
        """Features (T, D) of this utterance as the model gets them in this epoch. Args: feats: as they are (not read with wave)."""
        if self.augment is None:
            return feats
        place = (self.seed, self.epoch, self.dataset.utterances[index].utt_id)
        if self.wave is not None:
            feats = self.dataset.features(index, lambda samples: augment_wave(samples, self.wave, *place))
        rng = utterance_rng(*place)
        if self.augment.vtlp:
            factor = rng.uniform(1 - self.augment.vtlp, 1 + self.augment.vtlp)
            feats = warp_frequency(feats, factor, self.dataset.feature_config.centres_hz)
        return spec_augment(feats, self.augment, self.fill, rng)
