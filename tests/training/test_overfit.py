"""The first check of any recogniser: a fresh model of each architecture learns a few utterances without an error."""

from types import SimpleNamespace

import pytest
import torch

from steps.core.config import load_config
from steps.data.cmvn import read_cmvn
from steps.data.dataset import SpeechDataset
from steps.data.feature_config import FeatureConfig
from steps.data.tokenizer import Tokenizer
from steps.models.build import build_model, new_spec
from steps.models.heads.ctc import CtcConfig
from steps.models.heads.transducer import TransducerConfig
from steps.training.loop import LoopConfig, Trainer
from steps.training.objectives import TranscriptObjective
from steps.training.optim import OptimConfig

CONVOLUTIONS = {"subsampling_channels": [4, 8], "num_blocks": 1, "d_model": 32, "dropout": 0.0}
SIZES = {
    "conformer": CONVOLUTIONS
    | {"head_dim": 8, "kernel_size": 5, "block": {"heads": 4, "ff1": 48, "ff2": 48, "conv_channels": 32}},
    "rnn": CONVOLUTIONS | {"block": {"cells_forward": 24, "cells_backward": 24}},
    "dnn": {"d_model": 48, "dropout": 0.0, "context": 5, "num_blocks": 2, "block": {"units": 64, "splice": 1}},
}


STREAMING = {
    "conformer": SIZES["conformer"] | {"streaming": {"chunk_ms": 320, "left_chunks": 4}},
    "rnn": CONVOLUTIONS | {"block": {"cells_forward": 48, "cells_backward": 0}, "streaming": {"chunk_ms": 320}},
    "dnn": SIZES["dnn"] | {"context": 3, "streaming": {"chunk_ms": 320}},
}
CASES = [("conformer", "ctc", False), ("rnn", "ctc", False), ("dnn", "ctc", True), ("dnn", "transducer", False)]
# a transducer's encoder needs more cells than that of CTC
WIDE = CONVOLUTIONS | {"block": {"cells_forward": 48, "cells_backward": 48}}
SLOW = [("conformer", "transducer", SIZES["conformer"]), ("rnn", "transducer", WIDE)]
SLOW += [(kind, head, sizes) for kind, sizes in STREAMING.items() for head in ("ctc", "transducer")]


@pytest.mark.parametrize(("kind", "head", "end_spaces"), CASES)
def test_a_fresh_model_learns_eight_utterances_by_heart(corpus, tmp_path, kind, head, end_spaces):
    learn_by_heart(corpus, tmp_path, kind, head, SIZES[kind], 60, end_spaces)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "head", "sizes"), SLOW, ids=[f"{kind}-{head}-{'streaming' in sizes}" for kind, head, sizes in SLOW]
)
def test_transducers_and_streaming_models_do_so_too(corpus, tmp_path, kind, head, sizes):
    learn_by_heart(corpus, tmp_path, kind, head, sizes, 120)


def learn_by_heart(corpus, tmp_path, kind, head, sizes, epochs, end_spaces=False):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer, features = Tokenizer.load(corpus.tokenizer), load_config(FeatureConfig, corpus.features)
    data = SpeechDataset(corpus.train, tokenizer, features, end_spaces=end_spaces).sample(8)
    model = build_model(new_spec(kind, sizes, features.dim, tokenizer.vocab_size, "test", head=head))
    cmvn = read_cmvn(corpus.train / "cmvn.json", features.dim)
    model.set_cmvn_(cmvn["mean"], cmvn["std"])
    loop = LoopConfig(epochs=epochs, max_batch_frames=300, average_last=5, dev_every=1000, save_every_s=1000.0)
    optim, never = OptimConfig(peak_lr=6e-3), SimpleNamespace(poll=lambda: 0)
    settings = {"ctc": CtcConfig, "transducer": TransducerConfig}[head]()
    trainer = Trainer(model, TranscriptObjective(settings, model), data, data, tokenizer, loop, optim, None,
                      tmp_path, 0, torch.device("cpu"), never)  # fmt: skip
    dev = trainer.train()
    assert len(data) == 8 and dev["wer"] == 0.0, dev["example"]
