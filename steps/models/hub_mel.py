"""Log-mel energies computed from samples within the model, and the front ends of wav2vec2-bert and Parakeet.

Windows and mel filters are tensors of the model, taken from the feature extractor that the model came with.
"""

import contextlib
import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from steps.core.config import check
from steps.models.axes import AxisGroup
from steps.models.context import padding_mask
from steps.models.hub_wave import masked_moments

if TYPE_CHECKING:
    from steps.models.hub import HubConfig

# samples: 25 ms and 10 ms at the one rate these models have
WINDOW, SHIFT, FFT = 400, 160, 512
PREEMPHASIS = 0.97
# Kaldi's scale of samples
SCALE = 2.0**15
# least energy, Kaldi's and LASR's
FLOORS = {"seamless": 1.192092955078125e-07, "lasr": 1e-5}
# added to energies and deviations by NeMo
GUARD, EPSILON = 2.0**-24, 1e-5


@functools.lru_cache(maxsize=2)
def fourier(size: int = FFT) -> np.ndarray:
    """Rows of the discrete Fourier transform, the real parts, then the imaginary ones. Returns: (size + 2, WINDOW) float64."""
    angles = 2 * np.pi * np.outer(np.arange(size // 2 + 1), np.arange(WINDOW)) / size
    return np.concatenate([np.cos(angles), np.sin(angles)])


@functools.lru_cache(maxsize=1)
def emphasis() -> np.ndarray:
    """Kaldi's map of one frame: its mean taken off, then each sample less 0.97 of the one before. Returns: (WINDOW, WINDOW)."""
    centred = np.eye(WINDOW) - 1.0 / WINDOW
    filtered = np.eye(WINDOW) - PREEMPHASIS * np.eye(WINDOW, k=-1)
    filtered[0, 0] = 1 - PREEMPHASIS
    return filtered @ centred


def full_precision(device_type: str) -> contextlib.AbstractContextManager:
    """Products in float32 whatever the training multiplies in: energies span many orders of magnitude."""
    known = torch.amp.is_autocast_available(device_type)
    return torch.autocast(device_type, enabled=False) if known else contextlib.nullcontext()


class LogMel(nn.Module):
    """Log-mel energies; but for `lasr` normalised: each bin has mean 0 and variance 1 over its utterance.

    seamless: Kaldi's frames, whole ones only (SeamlessM4TFeatureExtractor).   parakeet: NeMo's, centred, zeros beyond either
    end (ParakeetFeatureExtractor).   lasr: whole frames, as they are (LasrFeatureExtractor). All of transformers 5.
    """

    def __init__(self, kind: str, bins: int):
        super().__init__()
        self.kind = kind
        self.register_buffer("window", torch.zeros(WINDOW))
        self.register_buffer("filters", torch.zeros(FFT // 2 + 1, bins))

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        """Frames for so many stretches of 10 ms. Args: lengths (N,) int64.  Returns: (N,) int64."""
        return lengths if self.kind == "parakeet" else (lengths - 2).clamp(min=0)

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Args: features (N, T, SHIFT) samples, zeros on padding; lengths (N,) int64.  Returns: (N, T', bins), zeros on padding."""
        with full_precision(features.device.type):
            energies = self.energies(features.float(), lengths)
        lengths = self.output_lengths(lengths)
        is_pad = padding_mask(lengths, energies.shape[1])
        if self.kind == "lasr":
            return energies.masked_fill(is_pad.unsqueeze(-1), 0.0)
        mean, variance = masked_moments(energies, is_pad, lengths, less=1)
        if self.kind == "parakeet":
            normed = (energies - mean) / (variance.sqrt() + EPSILON)
        else:
            normed = (energies - mean) / (variance + 1e-7).sqrt()
        return normed.masked_fill(is_pad.unsqueeze(-1), 0.0)

    def energies(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Log-mel energies of every frame. Args, Returns: as for `forward`, not normalised."""
        samples = features.flatten(1)
        if self.kind == "parakeet":
            emphasised = samples - PREEMPHASIS * functional.pad(samples, (1, -1))
            emphasised = emphasised.masked_fill(padding_mask(lengths * SHIFT, samples.shape[1]), 0.0)
            samples = functional.pad(emphasised, (WINDOW // 2, WINDOW // 2 - SHIFT))
        rows = self.window * torch.as_tensor(fourier(), dtype=torch.float32, device=samples.device)
        if self.kind == "seamless":
            rows = rows @ torch.as_tensor(SCALE * emphasis(), dtype=torch.float32, device=samples.device)
        # (N, 2 * (FFT / 2 + 1), T')
        parts = functional.conv1d(samples.unsqueeze(1), rows.unsqueeze(1), stride=SHIFT)
        real, imaginary = parts.chunk(2, dim=1)
        power = (real.square() + imaginary.square()).transpose(1, 2) @ self.filters
        return (power + GUARD).log() if self.kind == "parakeet" else power.clamp(min=FLOORS[self.kind]).log()


class MelFrontend(nn.Module):
    """Log-mel energies to frames of the model width.

    seamless: pairs of frames, LayerNorm, Linear (Barrault et al. 2023, arXiv:2312.05187).   parakeet: convolutions of stride 2,
    depthwise from the second on, then a Linear (Rekesh et al. 2023, arXiv:2305.05084).
    """

    look_ahead = math.inf

    def __init__(self, config: "HubConfig", feature_dim: int):
        super().__init__()
        mel, width = config.mel, config.d_model
        assert mel is not None, "hub_frontend chose it for this"
        check(feature_dim == SHIFT, f"a log-mel front end hears {SHIFT} samples a frame (16 kHz), not {feature_dim}")
        self.kind, self.scale = mel.kind, mel.scale
        self.mel = LogMel(mel.kind, mel.bins)
        if mel.kind == "seamless":
            self.stride = 2
            self.project_norm = nn.LayerNorm(2 * mel.bins, config.norm_eps)
            self.linear = nn.Linear(2 * mel.bins, width)
            return
        self.stride = 2**mel.layers
        self.convs = nn.ModuleList([nn.Conv2d(1, mel.channels, 3, stride=2, padding=1)])
        self.pointwise = nn.ModuleList()
        for _ in range(mel.layers - 1):
            self.convs.append(nn.Conv2d(mel.channels, mel.channels, 3, stride=2, padding=1, groups=mel.channels))
            self.pointwise.append(nn.Conv2d(mel.channels, mel.channels, 1))
        self.linear = nn.Linear(mel.channels * (mel.bins // self.stride), width)

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        """Output frames for feature frames. Args: lengths (N,) int64.  Returns: (N,) int64."""
        lengths = self.mel.output_lengths(lengths)
        if self.kind == "seamless":
            return lengths // 2
        for _ in self.convs:
            lengths = (lengths + 1) // 2
        return lengths

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Args: features (N, T, SHIFT) samples, zeros on padding; lengths (N,) int64.  Returns: (N, T', d_model)."""
        x, lengths = self.mel(features, lengths), self.mel.output_lengths(lengths)
        if self.kind == "seamless":
            frames = x.shape[1] // 2
            return self.linear(self.project_norm(x[:, : 2 * frames].reshape(x.shape[0], frames, -1)))
        maps = x.unsqueeze(1)
        for index, conv in enumerate(self.convs):
            maps, lengths = conv(maps), (lengths + 1) // 2
            hole = padding_mask(lengths, maps.shape[2])[:, None, :, None]
            if index:
                maps = self.pointwise[index - 1](maps.masked_fill(hole, 0.0))
            maps = functional.relu(maps).masked_fill(hole, 0.0)
        return self.linear(maps.transpose(1, 2).flatten(2)) * self.scale

    def axis_groups(self) -> list[AxisGroup]:
        """Nothing here can be removed."""
        return []


def mel_tensors(kind: str, extractor: Any) -> dict[str, torch.Tensor]:
    """Window and filters of a feature extractor, which become part of the model. Args: kind: see MelConfig."""
    filters = torch.as_tensor(extractor.mel_filters).float()
    if kind in ("parakeet", "lasr"):
        window = torch.hann_window(WINDOW, periodic=False)
        filters = filters.T.contiguous() if kind == "parakeet" else filters
    else:
        window = torch.hann_window(WINDOW) if kind == "whisper" else torch.as_tensor(extractor.window).float()
    return {"frontend.mel.window": window, "frontend.mel.filters": filters}
