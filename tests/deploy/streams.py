"""Tiny models that stream and emit letters, and sounds for them."""

import numpy as np
import soundfile
import torch

from steps.compress.lowrank import factorise
from steps.compress.surgery import shrink
from steps.core.datadir import Utterance
from steps.data.feature_config import FeatureConfig
from steps.data.features import compute_features
from tests.deploy.conftest import DIM, make_model

FEATURES = FeatureConfig(num_mel_bins=DIM)
CHUNKS = {"streaming": {"chunk_ms": 160, "left_chunks": 2}}
AHEAD = {"streaming": {"chunk_ms": 160, "left_chunks": 2, "ahead_ms": 80}}
SPLICED = {"streaming": {"chunk_ms": 160}, "block": {"units": 40, "splice": 2}}
ONE_WAY = {"streaming": {"chunk_ms": 160}, "block": {"cells_forward": 24, "cells_backward": 0}}


def conformer(**changes):
    return make_model("conformer", **(CHUNKS | changes))


def pruned():
    return shrink(conformer(), {"blocks.0.convolution.channels": [0, 3, 4, 7], "blocks.1.attention.heads": [1]})


VARIANTS = {
    "conformer": conformer,
    "ahead": lambda: conformer(**AHEAD),
    "batch-norm": lambda: conformer(conv_norm="batch"),
    "pruned": pruned,
    "low-rank": lambda: factorise(
        make_model("conformer", **CHUNKS), {"blocks.0.attention.qkv": 5, "frontend.linear": 9}
    ),
    "sliding": lambda: conformer(**AHEAD, normalisation="sliding"),
    "rnn": lambda: make_model("rnn", **ONE_WAY),
    "rnn-sliding": lambda: make_model("rnn", **ONE_WAY, normalisation="sliding"),
    "dnn": lambda: make_model("dnn", **SPLICED),
}


def noise(samples, seed=0):
    """Sound with something to recognise: whistles of a tenth of a second, and noise."""
    random = np.random.default_rng(seed)
    tones = random.uniform(100, 7000, samples // 1600 + 1) * 2 * np.pi / 16000
    sound = 0.3 * np.sin(np.cumsum(np.repeat(tones, 1600)[:samples])) + random.normal(0, 0.01, samples)
    return sound.astype(np.float32)


@torch.no_grad()
def emits_letters(model):
    """The model with an output layer that prefers no letter, and letters to blanks."""
    feats = compute_features(torch.from_numpy(noise(32000, seed=9)), FEATURES)
    hidden = model.norm(model.encode(feats[None], torch.tensor([len(feats)]))[0][-1])
    model.output.weight *= 20
    model.output.bias.copy_(-(hidden @ model.output.weight.T).mean(dim=(0, 1)))
    model.output.bias[:3] -= 100.0
    return model


def utterance(folder):
    """A second of sound in a file."""
    soundfile.write(folder.parent / "a.wav", noise(16000), 16000, "FLOAT")
    return Utterance("s-a", "s", "a", str(folder.parent / "a.wav"), duration_s=1.0)


def transducer(**changes):
    """A streaming Conformer with a transducer's head."""
    return make_model("conformer", head="transducer", **(CHUNKS | changes))


@torch.no_grad()
def talkative(model):
    """The model with an output layer that prefers no letter to another, and the blank in about half of the frames."""
    feats = compute_features(torch.from_numpy(noise(32000, seed=9)), FEATURES)
    model.output.weight *= 20
    model.output.bias.zero_()
    outputs, _ = model(feats[None], torch.tensor([len(feats)]))
    last = torch.arange(2 * outputs.shape[1]).view(-1, 2) % model.vocab_size
    scores = model.head.join(model, outputs, model.head.predict(model, last))
    model.output.bias.copy_(-scores.mean(dim=(0, 1)))
    model.output.bias[1:3] -= 100.0
    scores = scores + model.output.bias
    model.output.bias[0] += (scores.amax(dim=-1) - scores[..., 0]).median()
    return model


def fed_in_pieces(recogniser, sound, seed):
    """A sound in pieces of random lengths. Args: seed: 0 to 5, of longer and longer ones.  Returns: stream; texts on the way."""
    random, stream, start = np.random.default_rng(seed), recogniser.stream(), 0
    longest, shown = (1, 7, 200, 3000, 9000, 20000)[seed], []
    while start < len(sound):
        step = max(int(random.integers(0, longest + 1)), 1 if longest > 1 else 37)
        stream.accept(sound[start : start + step])
        start += step
        shown.append(stream.text if longest > 200 else "")
    stream.finish()
    return stream, shown
