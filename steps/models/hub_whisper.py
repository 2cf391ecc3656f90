"""Whisper's encoder (Radford et al. 2022, arXiv:2212.04356): its log-mel energies, its front end, and what it is read from.

Whisper hears 30 s, whatever is spoken in them; ours hears the utterance, with as many of its positions as there are frames.
"""

import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from steps.core.cli import UserError
from steps.core.config import check
from steps.models.axes import AxisGroup, Member
from steps.models.context import padding_mask
from steps.models.hub_mel import SHIFT, WINDOW, fourier, full_precision

if TYPE_CHECKING:
    from steps.models.hub import HubConfig

# least energy, and decades below the loudest that are told apart
FLOOR, DECADES = 1e-10, 8.0
# of a position, by half precision
ROUNDED = 1e-3


class WhisperMel(nn.Module):
    """Whisper's log-mel energies: in decades, down to 8 below the loudest of the utterance (WhisperFeatureExtractor).

    The sound is reflected at its beginning and followed by silence, as where Whisper fills up 30 s.
    """

    def __init__(self, bins: int):
        super().__init__()
        self.register_buffer("window", torch.zeros(WINDOW))
        self.register_buffer("filters", torch.zeros(WINDOW // 2 + 1, bins))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Args: features (N, T, SHIFT) samples, zeros on padding.  Returns: (N, T, bins)."""
        samples = functional.pad(features.float().flatten(1), (0, WINDOW))
        samples = torch.cat([samples[:, 1 : WINDOW // 2 + 1].flip(1), samples], dim=1)
        with full_precision(features.device.type):
            rows = self.window * torch.as_tensor(fourier(WINDOW), dtype=torch.float32, device=samples.device)
            # (N, WINDOW + 2, T + 2): two frames more hear the last samples, and one of them may be the loudest
            parts = functional.conv1d(samples.unsqueeze(1), rows.unsqueeze(1), stride=SHIFT)
            real, imaginary = parts.chunk(2, dim=1)
            energies = (real.square() + imaginary.square()).transpose(1, 2) @ self.filters
            # decades
            energies = energies.clamp(min=FLOOR).log() / math.log(10)
        energies = torch.maximum(energies, energies.amax(dim=(1, 2), keepdim=True) - DECADES)
        return (energies[:, : features.shape[1]] + 4.0) / 4.0


class WhisperFrontend(nn.Module):
    """Two convolutions over log-mel energies, the second of stride 2, and sinusoids that tell the order."""

    stride, look_ahead = 2, math.inf

    def __init__(self, config: "HubConfig", feature_dim: int):
        super().__init__()
        mel, width = config.mel, config.d_model
        assert mel is not None, "hub_frontend chose it for this"
        check(feature_dim == SHIFT, f"a log-mel front end hears {SHIFT} samples a frame (16 kHz), not {feature_dim}")
        check(width % 2 == 0, "d_model must be even")
        self.mel = WhisperMel(mel.bins)
        sizes = ((mel.bins, mel.channels, 1), (mel.channels, width, 2))
        self.convs = nn.ModuleList(nn.Conv1d(*row[:2], 3, stride=row[2], padding=1) for row in sizes)

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        """Output frames for feature frames. Args: lengths (N,) int64.  Returns: (N,) int64."""
        return lengths // 2

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Args: features (N, T, SHIFT) samples, zeros on padding; lengths (N,) int64.  Returns: (N, T', d_model)."""
        frames = 2 * (features.shape[1] // 2)
        hole = padding_mask(2 * (lengths // 2), frames).unsqueeze(1)
        # (N, C, T)
        x = self.mel(features)[:, :frames].transpose(1, 2).masked_fill(hole, 0.0)
        # the last frame of the second one ends with the last of the first
        for conv in self.convs:
            x = functional.gelu(conv(x))
        x = x.transpose(1, 2)
        return x + sinusoids(x.shape[1], x.shape[2], x.device).to(x.dtype)

    def axis_groups(self) -> list[AxisGroup]:
        """The channels between the convolutions."""
        members = (Member("convs.0.weight", 0), Member("convs.0.bias", 0), Member("convs.1.weight", 1))
        return [AxisGroup("convs.0", "subsampling", self.convs[0].out_channels, ("mel", "channels"), members)]


def sinusoids(frames: int, width: int, device: torch.device) -> torch.Tensor:
    """Sines, then cosines, of the time at width / 2 rates from 1 down to 1 / 10000. Returns: (frames, width) float32."""
    rates = torch.arange(width // 2, device=device, dtype=torch.float32) * (-math.log(10000) / (width // 2 - 1))
    angles = torch.arange(frames, device=device, dtype=torch.float32).unsqueeze(1) * rates.exp()
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def whisper_sizes(config: Any, extractor: Any) -> dict[str, Any]:
    """Settings of HubConfig, from those of transformers. Raises: UserError for a variant that cannot be imported."""
    fits = (extractor.n_fft, extractor.hop_length, getattr(extractor, "dither", 0.0)) == (WINDOW, SHIFT, 0.0)
    if not fits or extractor.feature_size != config.num_mel_bins:
        raise UserError("preprocessor_config.json: features of other windows or strides than usual cannot be imported")
    width, heads = config.d_model, config.encoder_attention_heads
    if type(heads) is not int or not 1 <= heads <= width or width % heads:
        raise UserError(f"config.json: d_model {width} is no multiple of {heads} heads")
    return {
        "style": "pre", "end_norm": True, "d_model": width, "head_dim": width // heads, "norm_eps": 1e-5,
        "activation": config.activation_function, "dropout": float(config.dropout), "num_blocks": config.encoder_layers,
        "block": {"heads": heads, "ff": config.encoder_ffn_dim},
        "mel": {"kind": "whisper", "bins": config.num_mel_bins, "channels": width},
    }  # fmt: skip


def open_encoder(config: Any, state: dict[str, torch.Tensor]) -> nn.Module:
    """The encoder of transformers, without its decoder, for a comparison with ours.

    Args:   config: WhisperConfig.   state: its tensors under the names they have in WhisperEncoder; positions are replaced by
            those computed here, as half precision has rounded them where it was used.
    Raises: UserError when the positions are no sinusoids.
    """
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    stored = state.get("embed_positions.weight", torch.empty(0))
    if stored.dim() == 2 and stored.shape[1] == config.d_model:
        positions = sinusoids(stored.shape[0], stored.shape[1], stored.device)
        if not float((stored - positions).abs().max()) <= ROUNDED:
            raise UserError("the positions of this Whisper model are no sinusoids; such a variant cannot be imported")
        state = state | {"embed_positions.weight": positions}
    config._attn_implementation = "eager"
    with torch.device("meta"):
        encoder = WhisperEncoder(config)
    encoder.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    return CroppedEncoder(encoder).eval()


class CroppedEncoder(nn.Module):
    """transformers' WhisperEncoder with the positions of what it hears, under an output layer of two units made up here."""

    base_model_prefix = "model"

    def __init__(self, encoder: Any):
        super().__init__()
        self.encoder = encoder
        torch.manual_seed(0)
        self.lm_head = nn.Linear(encoder.config.d_model, 2)

    def forward(self, input_features: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        """Args: input_features (1, bins, T) of 30 s; attention_mask (1, T), 1 where sound is.  Returns: logits (1, T', 2)."""
        frames, encoder = int(attention_mask.sum()) // 2, self.encoder
        encoder.config.max_source_positions = frames
        whole, encoder.embed_positions = (
            encoder.embed_positions, nn.Embedding.from_pretrained(encoder.embed_positions.weight[:frames])
        )  # fmt: skip
        states = encoder(input_features[..., : 2 * frames]).last_hidden_state
        encoder.embed_positions = whole
        return SimpleNamespace(logits=self.lm_head(states))
