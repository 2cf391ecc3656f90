"""Tiny models of every kind, with random weights, norms and statistics."""

import pytest
import torch

from steps.models.build import build_model, new_spec

SIZES = {
    "conformer": {
        "d_model": 32,
        "head_dim": 8,
        "kernel_size": 5,
        "conv_norm": "batch",
        "subsampling_channels": [8, 16],
        "num_blocks": 2,
        "block": {"heads": 4, "ff1": 48, "ff2": 32, "conv_channels": 24},
    },
    "rnn": {
        "d_model": 24,
        "subsampling_channels": [8, 8],
        "num_blocks": 2,
        "block": {"cells_forward": 24, "cells_backward": 16},
    },
    "dnn": {"d_model": 24, "context": 3, "num_blocks": 3, "block": {"units": 40}},
}


@pytest.fixture
def make():
    """Function (kind, **changed sizes) -> a tiny AsrModel in eval mode; the same weights at every call."""

    def make_model(kind, **changes):
        torch.manual_seed(1)
        model = build_model(new_spec(kind, SIZES[kind] | changes, 20, 11, "test"))
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if "norm" in name and tensor.is_floating_point():
                    tensor.uniform_(0.5, 1.5)
        model.set_cmvn_(torch.randn(20), torch.rand(20) + 0.5)
        return model.eval()

    return make_model


@pytest.fixture
def batches():
    """Three batches (feats, lengths, targets) for `loss_fn`."""
    random = torch.Generator().manual_seed(2)
    lengths = torch.tensor([60, 41])
    return [
        (torch.randn(2, 60, 20, generator=random), lengths, torch.randint(1, 11, (2, 5), generator=random))
        for _ in range(3)
    ]


@pytest.fixture
def loss_fn():
    """CTC loss of a batch, nats per utterance."""

    def ctc(model, batch):
        feats, lengths, targets = batch
        log_probs, out_lengths = model(feats, lengths)
        sizes = torch.full((len(targets),), targets.shape[1])
        return torch.nn.functional.ctc_loss(log_probs.transpose(0, 1), targets, out_lengths, sizes)

    return ctc
