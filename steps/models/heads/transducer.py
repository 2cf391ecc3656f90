"""Transducer: what was emitted last and what is heard decide together on the next unit or the blank, unit 0.

The predictor has no state: it sees the last two units only (Ghodsi, Liu, Apfel, Cabrera, Weinstein, ICASSP 2020). Its
embedding is a Linear of one-hot vectors, so that every compression step and the export treat it as any other matrix.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from steps.core.cli import UserError
from steps.core.config import LATER, check
from steps.losses.transducer import collapsed, first_of_range, lattice, transducer_loss_sum
from steps.models.axes import AxisGroup, Member
from steps.models.heads.ctc import CtcConfig, ctc_terms, inner_places
from steps.search.transducer import MOST_CONTEXT, greedy_search

if TYPE_CHECKING:
    from steps.models.asr_model import AsrModel

UNKNOWN_ID = 1
# layers of the other two files of an export
PREDICTOR_LAYERS, JOINER_LAYERS = ("embedding", "predictor", "predictor_to_joiner"), ("output",)


@dataclass
class TransducerSizes:
    """embedding, predictor, joiner: widths.  context: how many of the last units the predictor sees.  ctc: whether a CTC layer
    stands beside, on the same encoder, for training; it does not ship."""

    embedding: int = 32
    predictor: int = 96
    joiner: int = 96
    context: int = 2
    ctc: bool = True

    def __post_init__(self):
        check(min(self.embedding, self.predictor, self.joiner) >= 1, "widths must be at least 1")
        check(1 <= self.context <= MOST_CONTEXT, f"context must be 1 to {MOST_CONTEXT}")


@dataclass
class TransducerConfig(CtcConfig):
    """How a transducer is trained.

    ctc_weight: share of CTC in the loss, 0..1; its intermediate_weight and intermediate_blocks are as in the section ctc.
    delay_penalty: nats a frame that make units come earlier; 0: off.
    prune_range: nodes of the lattice that are computed at each frame, about where the CTC layer expects the transcript to be;
    0: all.
    """

    ctc_weight: float = 0.3
    delay_penalty: float = 0.0
    prune_range: int = field(default=0, metadata=LATER)

    def __post_init__(self):
        super().__post_init__()
        check(0 <= self.ctc_weight < 1, "ctc_weight must be in [0, 1)")
        check(self.delay_penalty >= 0, "delay_penalty must be >= 0")
        check(self.ctc_weight or not self.intermediate_weight, "intermediate_weight needs a ctc_weight above 0")
        check(self.prune_range == 0 or self.prune_range >= 2, "prune_range must be 0, or at least 2")
        check(self.ctc_weight or not self.prune_range, "prune_range needs a ctc_weight above 0")


class TransducerHead:
    """Layers: `norm`, `encoder_to_joiner` of the frames; `embedding`, `predictor`, `predictor_to_joiner` of the last units;
    `output` of their sum's tanh; `ctc_output`."""

    name, frame_wise = "transducer", False
    sizes: type = TransducerSizes
    training_only: Sequence[str] = ("ctc_output",)

    def layers(self, d_model: int, vocab_size: int, sizes: TransducerSizes) -> dict[str, nn.Module]:
        """See Head."""
        layers: dict[str, nn.Module] = {
            "norm": nn.LayerNorm(d_model),
            "encoder_to_joiner": nn.Linear(d_model, sizes.joiner),
            "embedding": nn.Linear(vocab_size, sizes.embedding, bias=False),
            "predictor": nn.Linear(sizes.context * sizes.embedding, sizes.predictor),
            "predictor_to_joiner": nn.Linear(sizes.predictor, sizes.joiner, bias=False),
            "output": nn.Linear(sizes.joiner, vocab_size),
        }
        return layers | ({"ctc_output": nn.Linear(d_model, vocab_size)} if sizes.ctc else {})

    def classify(self, model: "AsrModel", hidden: torch.Tensor) -> torch.Tensor:
        """The joiner's share of a frame. Args: hidden (N, T', d_model).  Returns: (N, T', J) float32."""
        return model.encoder_to_joiner(model.norm(hidden)).float()

    def predict(self, model: "AsrModel", last: torch.Tensor) -> torch.Tensor:
        """The joiner's share of the last units. Args: last (..., context) int64, -1: none.  Returns: (..., J)."""
        # an id of -1 has no one in its vector
        one_hot = last.unsqueeze(-1) == torch.arange(model.vocab_size, device=last.device)
        embedded = model.embedding(one_hot.to(model.feature_mean.dtype)).flatten(-2)
        return model.predictor_to_joiner(model.predictor(embedded).relu())

    def join(self, model: "AsrModel", encoded: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        """Scores of all units. Args: (..., J) each, broadcastable.  Returns: (..., V), unnormalised."""
        return model.output((encoded + predicted).tanh())

    def last_units(self, model: "AsrModel", tokens: torch.Tensor) -> torch.Tensor:
        """What the predictor sees before each unit of a transcript and behind its end.

        Args: tokens (N, U) int64.   Returns: (N, U + 1, context) int64.
        """
        context = model.head_sizes.context
        before = tokens.new_full((len(tokens), context), -1)
        before[:, -1] = 0
        return torch.cat([before, tokens], dim=1).unfold(1, context, 1)

    def posteriors(self, model: "AsrModel", hidden: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the CTC layer. Args: hidden (N, T', d_model).  Returns: (N, T', V) float32."""
        return model.ctc_output(model.norm(hidden)).float().log_softmax(dim=-1)

    def has_posteriors(self, model: "AsrModel") -> bool:
        """Where the CTC layer is there."""
        return model.head_sizes.ctc

    def probe(self, model: "AsrModel", outputs: torch.Tensor) -> torch.Tensor:
        """See Head: the scores of every frame, after units that differ from frame to frame. Returns: (N, T', V) log-probabilities."""
        steps = torch.arange(outputs.shape[1], device=outputs.device).unsqueeze(1)
        last = (steps + torch.arange(model.head_sizes.context, device=outputs.device)) % model.vocab_size
        return self.join(model, outputs, self.predict(model, last)).float().log_softmax(dim=-1)

    def loss_sum(
        self,
        model: "AsrModel",
        outputs: torch.Tensor,
        lengths: torch.Tensor,
        batch: Any,
        delay_penalty: float = 0.0,
        prune_range: int = 0,
        log_probs: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The transducer's loss alone.

        Args:    outputs (N, T', J), of `classify`.   prune_range: see TransducerConfig; log_probs: for it, (N, T', V) of `posteriors`.
        Returns: scalar, nats.
        """
        predicted = self.predict(model, self.last_units(model, batch.tokens))
        first, width = None, min(prune_range, predicted.shape[1])
        if log_probs is not None and 0 < width < predicted.shape[1]:
            first = first_of_range(log_probs, lengths, batch.tokens, batch.token_lengths, width)
        parts = (outputs, predicted, lengths, batch.tokens, batch.token_lengths)
        return transducer_loss_sum(*parts, functools.partial(self.join, model), delay_penalty, first, width)

    def collapsed(self, model: "AsrModel", outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        """What lattice distillation compares. Args: outputs (N, T', J), of `classify`.  Returns: (N, T', U + 1, 3)."""
        predicted = self.predict(model, self.last_units(model, batch.tokens))
        arcs = lattice(outputs, predicted, batch.tokens, functools.partial(self.join, model))
        return collapsed(*arcs, batch.token_lengths)

    def loss_terms(
        self, model: "AsrModel", hidden: list[torch.Tensor], outputs: torch.Tensor, lengths: torch.Tensor, batch: Any,
        settings: TransducerConfig
    ) -> dict[str, torch.Tensor]:  # fmt: skip
        """`transducer`, `ctc` and, with intermediate CTC, `inner`. Returns: dict of scalars, nats."""
        weight = settings.ctc_weight
        log_probs = self.posteriors(model, hidden[-1]) if weight else None
        penalty, nodes = settings.delay_penalty, settings.prune_range
        loss = self.loss_sum(model, outputs, lengths, batch, penalty, nodes, log_probs)
        terms = {"transducer": (1 - weight) * loss}
        if log_probs is not None:
            beside = ctc_terms(model, hidden, log_probs, lengths, batch, settings)
            terms |= {name: weight * value for name, value in beside.items()}
        return terms

    def check_settings(self, model: "AsrModel", settings: TransducerConfig) -> None:
        """Raise UserError when CTC is to be trained without a layer, or its layer not at all."""
        if bool(settings.ctc_weight) != self.has_posteriors(model):
            raise UserError(
                f"transducer: ctc_weight {settings.ctc_weight:g}, but the model has {'a' if settings.ctc_weight == 0 else 'no'} "
                "CTC layer; ctc_weight: 0 and head_sizes: {ctc: false} go together"
            )
        if settings.intermediate_weight:
            inner_places(model, settings.intermediate_blocks, self.name)

    @torch.no_grad()
    def best_tokens(self, model: "AsrModel", outputs: torch.Tensor, lengths: torch.Tensor) -> list[list[int]]:
        """Greedy search, one unit a frame at most; the unknown unit is never emitted."""
        device = outputs.device

        def predict(last: np.ndarray) -> np.ndarray:
            return self.predict(model, torch.from_numpy(last).to(device)).float().cpu().numpy()

        def join(encoded: np.ndarray, said: np.ndarray) -> np.ndarray:
            shares = (torch.from_numpy(share).to(device) for share in (encoded, said))
            return self.join(model, *shares).float().cpu().numpy()

        heard, counts = outputs.float().cpu().numpy(), lengths.cpu().numpy()
        return greedy_search(heard, counts, predict, join, model.head_sizes.context, [UNKNOWN_ID])

    def frames_needed(self, lengths: Any, repeats: Any) -> Any:
        """As for CTC, which is mostly trained beside: a frame for each token, one more between two equal ones."""
        return lengths + repeats

    def axis_groups(self, model: "AsrModel") -> list[AxisGroup]:
        """Widths of embedding, predictor and joiner, all of kind units."""
        sizes: TransducerSizes = model.head_sizes
        members: Mapping[str, tuple[Member, ...]] = {
            "embedding": (Member("embedding.weight", 0), Member("predictor.weight", 1, chunks=sizes.context)),
            "predictor": (
                Member("predictor.weight", 0),
                Member("predictor.bias", 0),
                Member("predictor_to_joiner.weight", 1),
            ),
            "joiner": (
                Member("encoder_to_joiner.weight", 0),
                Member("encoder_to_joiner.bias", 0),
                Member("predictor_to_joiner.weight", 0),
                Member("output.weight", 1),
            ),
        }
        return [
            AxisGroup(name, "units", getattr(sizes, name), (name,), own, section="head_sizes")
            for name, own in members.items()
        ]
