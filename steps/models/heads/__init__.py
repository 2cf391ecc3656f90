"""Heads: what turns the encoder's hidden states into units of text, and what training needs for that, behind one interface.

A head holds no tensors: its layers belong to the model, beside the encoder's, under names that the head chooses. `model.json`
names the head; its graphs (steps/deploy/graphs) and its decoding are found by that name.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from steps.models.axes import AxisGroup
from steps.models.heads.ctc import CtcHead
from steps.models.heads.transducer import TransducerHead

if TYPE_CHECKING:
    from steps.models.asr_model import AsrModel


class Head(Protocol):
    """The interface of a head.

    name: as in model.json; also the section of the training settings that `loss_terms` receives.
    sizes: dataclass of its own sizes, `head_sizes` in the settings.   frame_wise: whether what `classify` returns are the
    posteriors; otherwise some of its layers learn from transcripts alone.   training_only: names of layers that recognise
    nothing, and do not ship.
    """

    name: str
    sizes: type
    frame_wise: bool
    training_only: Sequence[str]

    def layers(self, d_model: int, vocab_size: int, sizes: Any) -> dict[str, nn.Module]:
        """Its layers by name, with fresh weights; the names must differ from the encoder's."""

    def classify(self, model: "AsrModel", hidden: torch.Tensor) -> torch.Tensor:
        """Its output for every frame of a block's output. Args: hidden (N, T', d_model).  Returns: (N, T', ...)."""

    def posteriors(self, model: "AsrModel", hidden: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of units for every frame of a block's output, blank 0: what frame-wise distillation needs.

        Args: hidden (N, T', d_model).   Returns: (N, T', V) float32.
        """

    def has_posteriors(self, model: "AsrModel") -> bool:
        """Whether this model has them."""

    def probe(self, model: "AsrModel", outputs: torch.Tensor) -> torch.Tensor:
        """Run every layer that recognises and that `classify` does not run, once a frame, as search does at most: what is counted,
        and compared. Args: outputs: of `classify`.  Returns: (N, T', V) log-probabilities.
        """

    def loss_sum(self, model: "AsrModel", outputs: torch.Tensor, lengths: torch.Tensor, batch: Any) -> torch.Tensor:
        """Negative log-likelihood of the transcripts. Args: batch: with `tokens`, `token_lengths`.  Returns: scalar, nats."""

    def loss_terms(
        self, model: "AsrModel", hidden: list[torch.Tensor], outputs: torch.Tensor, lengths: torch.Tensor, batch: Any,
        settings: Any
    ) -> dict[str, torch.Tensor]:  # fmt: skip
        """What training minimises. Args: hidden: from `encode`; settings: its own section.  Returns: sums by name, nats."""

    def check_settings(self, model: "AsrModel", settings: Any) -> None:
        """Raise UserError when the settings of the loss do not fit the model."""

    def best_tokens(self, model: "AsrModel", outputs: torch.Tensor, lengths: torch.Tensor) -> list[list[int]]:
        """Token ids of each utterance by greedy search."""

    def frames_needed(self, lengths: Any, repeats: Any) -> Any:
        """Least encoder frames for transcripts. Args: arrays: numbers of tokens, and of tokens equal to the one before."""

    def axis_groups(self, model: "AsrModel") -> list[AxisGroup]:
        """Its prunable axes, of section head_sizes."""


HEADS: dict[str, Head] = {head.name: head for head in (CtcHead(), TransducerHead())}
DEFAULT = "ctc"
