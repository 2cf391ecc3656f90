"""LASR (`lasr_ctc` of transformers, as in MedASR): its front end, its settings, and where its tensors differ from ours.

Its blocks are Conformers (steps/models/hub.py) with weights on their residuals and rotary positions.
Source: transformers 5.24, models/lasr.
"""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from steps.core.cli import UserError
from steps.core.config import check
from steps.core.limits import show
from steps.models.axes import AxisGroup, Member
from steps.models.hub_mel import FFT, SHIFT, WINDOW, LogMel

if TYPE_CHECKING:
    from steps.models.hub import HubConfig

RATE_HZ = 16000
# of both convolutions
KERNEL, STRIDE = 5, 2
# mel frames that the first output frame hears
LEAST = KERNEL + STRIDE * (KERNEL - 1)


class LasrFrontend(nn.Module):
    """Log-mel energies, then Linear, two convolutions of stride 2 without padding, Linear; ReLU in between (LasrEncoderSubsampling)."""

    stride, look_ahead = STRIDE**2, math.inf

    def __init__(self, config: "HubConfig", feature_dim: int):
        super().__init__()
        mel = config.mel
        assert mel is not None, "hub_frontend chose it for this"
        check(feature_dim == SHIFT, f"a log-mel front end hears {SHIFT} samples a frame (16 kHz), not {feature_dim}")
        self.mel, widths = LogMel(mel.kind, mel.bins), mel.widths
        self.first = nn.Linear(mel.bins, widths[0])
        self.convs = nn.ModuleList(nn.Conv1d(widths[i], widths[i + 1], KERNEL, stride=STRIDE) for i in range(2))
        self.linear = nn.Linear(widths[2], config.d_model)

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        """Output frames without a frame of padding. Args: lengths (N,) int64 feature frames.  Returns: (N,) int64."""
        lengths = self.mel.output_lengths(lengths)
        for _ in self.convs:
            lengths = (torch.div(lengths - KERNEL, STRIDE, rounding_mode="floor") + 1).clamp(min=0)
        return lengths

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Args: features (N, T, SHIFT) samples, zeros on padding; lengths (N,) int64.  Returns: (N, T', d_model), T' at least 1."""
        x = self.mel(features, lengths)
        # what is too short for a frame gets one of padding; a tensor, so that exported files do this, too
        frames = torch.tensor(x.shape[1]).clamp(min=LEAST)
        x = functional.relu(self.first(functional.pad(x, (0, 0, 0, LEAST))[:, :frames])).transpose(1, 2)
        for conv in self.convs:
            x = functional.relu(conv(x))
        return self.linear(x.transpose(1, 2))

    def axis_groups(self) -> list[AxisGroup]:
        """The channels behind the first Linear and behind each convolution."""
        groups, names = [], ("first", "convs.0", "convs.1", "linear")
        for index, (name, reader) in enumerate(zip(names, names[1:], strict=False)):
            members = (Member(f"{name}.weight", 0), Member(f"{name}.bias", 0), Member(f"{reader}.weight", 1))
            size = self.get_parameter(f"{name}.bias").shape[0]
            groups.append(AxisGroup(name, "subsampling", size, ("mel", "widths", index), members))
        return groups


def lasr_blocks(body: Any) -> dict[str, Any]:
    """Settings of HubConfig that LASR's blocks have beside the usual ones. Args: body: encoder_config.  Raises: UserError."""
    rope, where = body.rope_parameters, "config.json: encoder_config"
    if not isinstance(rope, dict) or rope.get("rope_type") != "default":
        kind = rope.get("rope_type") if isinstance(rope, dict) else rope
        raise UserError(f"{where}: rope_parameters: rope_type {show(kind)} cannot be imported, only 'default'")
    for key, usual in (
        ("num_key_value_heads", body.num_attention_heads),
        ("subsampling_conv_kernel_size", KERNEL),
        ("subsampling_conv_stride", STRIDE),
    ):
        if getattr(body, key) != usual:
            raise UserError(f"{where}: {key} {show(getattr(body, key))} cannot be imported, only {usual}")
    return {
        "style": "conformer", "end_norm": True, "conv_norm": "none", "positions": "rotary_after",
        "theta": rope.get("rope_theta"), "kernel_size": body.conv_kernel_size + 1 - body.conv_kernel_size % 2,
        "attention_bias": body.attention_bias, "ff_bias": body.attention_bias, "conv_bias": body.convolution_bias,
        "ff_residual": body.feed_forward_residual_weights, "conv_residual": body.conv_residual_weights,
    }  # fmt: skip


def lasr_mel(body: Any, extractor: Any) -> dict[str, Any]:
    """Settings of MelConfig. Args: body: encoder_config; extractor: its feature extractor.  Raises: UserError for other features."""
    where = "preprocessor_config.json (or processor_config.json)"
    if (kind := type(extractor).__name__) != "LasrFeatureExtractor":
        raise UserError(f"{where}: feature_extractor_type {kind} cannot be imported, only LasrFeatureExtractor")
    sizes = {"sampling_rate": RATE_HZ, "n_fft": FFT, "win_length": WINDOW, "hop_length": SHIFT}
    for key, usual in (sizes | {"feature_size": body.num_mel_bins}).items():
        if (value := getattr(extractor, key)) != usual:
            raise UserError(f"{where}: {key} {show(value)} cannot be imported, only {usual}")
    widths = [body.hidden_size, body.hidden_size, body.subsampling_conv_channels]
    return {"kind": "lasr", "bins": body.num_mel_bins, "widths": widths}


def lasr_state_(state: dict[str, torch.Tensor]) -> None:
    """Give norms the biases that LASR's lack, and kernels an odd length. Args: state: tensors under our names.

    With `padding: same` torch puts the longer side of an even kernel behind its frame; ours has a tap of zeros in front.
    """
    for name in list(state):
        if name.endswith("norm.weight"):
            state.setdefault(f"{name.removesuffix('weight')}bias", torch.zeros_like(state[name]))
        elif name.endswith("depthwise.weight"):
            state[name] = functional.pad(state[name], (1 - state[name].shape[2] % 2, 0))
