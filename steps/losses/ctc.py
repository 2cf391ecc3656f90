"""Connectionist temporal classification."""

import torch
from torch.nn import functional


def ctc_loss_sum(
    log_probs: torch.Tensor, lengths: torch.Tensor, tokens: torch.Tensor, token_lengths: torch.Tensor
) -> torch.Tensor:
    """Negative log-likelihood of the transcripts, summed over the batch. Unit 0 is the blank.

    Args:    log_probs (N, T, V) float32; lengths (N,) int64 encoder frames; tokens (N, U) int64; token_lengths (N,) int64.
    Returns: scalar, nats; infinite when a transcript does not fit its utterance (such utterances are dropped on loading).
    Source:  Graves, Fernandez, Gomez, Schmidhuber, ICML 2006, section 4.

    Under torch.use_deterministic_algorithms it is computed on the CPU: torch has no deterministic gradient of it on CUDA.
    """
    if log_probs.is_cuda and torch.are_deterministic_algorithms_enabled():
        on_cpu = (tensor.cpu() for tensor in (log_probs, lengths, tokens, token_lengths))
        return ctc_loss_sum(*on_cpu).to(log_probs.device)
    per_utterance = functional.ctc_loss(
        log_probs.transpose(0, 1), tokens, lengths, token_lengths, blank=0, reduction="none", zero_infinity=False
    )
    return per_utterance.sum()
