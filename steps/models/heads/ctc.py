"""Connectionist temporal classification: one Linear, log-probabilities for every frame; unit 0 is the blank."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from steps.core.cli import UserError
from steps.core.config import check
from steps.losses.ctc import ctc_loss_sum
from steps.models.axes import AxisGroup
from steps.search.greedy import greedy_search

if TYPE_CHECKING:
    from steps.models.asr_model import AsrModel

BLANK_ID = 0


@dataclass
class CtcConfig:
    """What training adds to plain CTC.

    intermediate_weight: share of the loss given to CTC on earlier blocks, through the model's own output layer, 0..1; 0: off.
    intermediate_blocks: which blocks, counted from 0; default: the middle one.
    """

    intermediate_weight: float = 0.0
    intermediate_blocks: list[int] | None = None

    def __post_init__(self):
        check(0 <= self.intermediate_weight < 1, "intermediate_weight must be in [0, 1)")
        blocks = self.intermediate_blocks
        check(blocks is None or blocks, "intermediate_blocks is empty; leave it out for the middle one")
        check(blocks is None or self.intermediate_weight, "intermediate_blocks needs an intermediate_weight above 0")


def inner_places(model: "AsrModel", blocks: list[int] | None, section: str) -> list[int]:
    """Positions of the outputs of earlier blocks in what `encode` returns.

    Args: blocks: counted from 0, or None for the middle one.   section: of the settings, named in the message.
    Raises: UserError when the model has no such block, or its output layer does not take what blocks give.
    """
    count = len(model.blocks)
    if model.widening is not None:
        raise UserError(
            f"{section}: intermediate blocks have fewer frames than the output here; set intermediate_weight to 0"
        )
    places = [block + 1 for block in blocks or [(count - 1) // 2]]
    if not all(1 <= place < count for place in places):
        raise UserError(
            f"{section}: intermediate blocks must lie before the last, and the model has {count}; set intermediate_weight to 0"
        )
    return places


def ctc_terms(
    model: "AsrModel", hidden: list[torch.Tensor], log_probs: torch.Tensor, lengths: torch.Tensor, batch: Any,
    settings: CtcConfig
) -> dict[str, torch.Tensor]:  # fmt: skip
    """`ctc`, and `inner` with intermediate CTC.

    Args:    hidden: from `encode`; log_probs (N, T', V): the head's posteriors of the last of them.   Returns: scalars, nats.
    Source:  Lee & Watanabe 2021 (arXiv:2102.03216), section 3, for intermediate CTC.
    """
    weight = settings.intermediate_weight
    transcripts = (lengths, batch.tokens, batch.token_lengths)
    terms = {"ctc": (1 - weight) * ctc_loss_sum(log_probs, *transcripts)}
    if weight:
        places = inner_places(model, settings.intermediate_blocks, model.head.name)
        for place in places:
            inner = ctc_loss_sum(model.head.posteriors(model, hidden[place]), *transcripts)
            terms["inner"] = terms.get("inner", 0.0) + weight / len(places) * inner
    return terms


@dataclass
class CtcSizes:
    """CTC has no sizes of its own."""


class CtcHead:
    """LayerNorm and a Linear to the units (Graves, Fernandez, Gomez, Schmidhuber, ICML 2006)."""

    name, frame_wise = "ctc", True
    sizes: type = CtcSizes
    training_only: Sequence[str] = ()

    def layers(self, d_model: int, vocab_size: int, sizes: CtcSizes) -> dict[str, nn.Module]:
        """`norm` and `output`, their names in every model folder so far."""
        return {"norm": nn.LayerNorm(d_model), "output": nn.Linear(d_model, vocab_size)}

    def classify(self, model: "AsrModel", hidden: torch.Tensor) -> torch.Tensor:
        """Log-probabilities. Args: hidden (N, T', d_model), of any block.  Returns: (N, T', V) float32."""
        return model.output(model.norm(hidden)).float().log_softmax(dim=-1)

    def posteriors(self, model: "AsrModel", hidden: torch.Tensor) -> torch.Tensor:
        """What `classify` returns."""
        return model.classify(hidden)

    def has_posteriors(self, model: "AsrModel") -> bool:
        """Always."""
        return True

    def probe(self, model: "AsrModel", outputs: torch.Tensor) -> torch.Tensor:
        """The log-probabilities as they are."""
        return outputs

    def loss_sum(self, model: "AsrModel", outputs: torch.Tensor, lengths: torch.Tensor, batch: Any) -> torch.Tensor:
        """CTC of the last block. Args: outputs (N, T', V); lengths (N,) int64.  Returns: scalar, nats."""
        return ctc_loss_sum(outputs, lengths, batch.tokens, batch.token_lengths)

    def loss_terms(
        self, model: "AsrModel", hidden: list[torch.Tensor], outputs: torch.Tensor, lengths: torch.Tensor, batch: Any,
        settings: CtcConfig
    ) -> dict[str, torch.Tensor]:  # fmt: skip
        """`ctc`, and `inner` with intermediate CTC. Args: settings: CtcConfig.  Returns: dict of scalars, nats."""
        return ctc_terms(model, hidden, outputs, lengths, batch, settings)

    def check_settings(self, model: "AsrModel", settings: CtcConfig) -> None:
        """Raise UserError when intermediate CTC names blocks that do not exist."""
        if settings.intermediate_weight:
            inner_places(model, settings.intermediate_blocks, self.name)

    def best_tokens(self, model: "AsrModel", outputs: torch.Tensor, lengths: torch.Tensor) -> list[list[int]]:
        """The best unit of each frame, repetitions and blanks removed. Returns: a list of ids for each utterance."""
        return greedy_search(outputs, lengths, BLANK_ID)

    def frames_needed(self, lengths: Any, repeats: Any) -> Any:
        """A frame for each token, and one for the blank between two equal ones."""
        return lengths + repeats

    def axis_groups(self, model: "AsrModel") -> list[AxisGroup]:
        """None: the tokenizer determines the units."""
        return []
