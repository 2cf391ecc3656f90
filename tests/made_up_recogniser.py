"""A made-up recogniser that reads the tokens off the features, and what is around it."""

import sys
from pathlib import Path
from types import SimpleNamespace

import kaldiio
import numpy as np
import pytest
import soundfile

from steps import decode
from steps.core.config import save_config
from steps.core.datadir import Utterance, write_data_dir
from steps.data.feature_config import FeatureConfig
from steps.data.tokenizer import train_tokenizer
from steps.deploy.recognition import DecodeConfig
from steps.deploy.runtimes.ctc import CtcRecogniser
from steps.models.build import build_model, new_spec, save_model

TOKENS = ["<blk>", "<unk>", "\u2581", *"ABCDE"]


TEXTS = {"s1-a": "AB CAD", "s1-b": "CAD", "s2-a": "BAD DAB", "s2-b": "A BED"}


RATE = 16000


ROOT = Path(__file__).resolve().parents[1]


class FakeRecogniser(CtcRecogniser):
    """One token per four frames: the one whose id is the largest bin of the first of them."""

    def __init__(self):
        super().__init__(SimpleNamespace(feature_dim=80, vocab_size=len(TOKENS)), FeatureConfig(), TOKENS, "m")

    def log_probs(self, features):
        best = features[::4, : len(TOKENS)].argmax(axis=1)
        log_probs = np.full((len(best), len(TOKENS)), np.log(0.1 / (len(TOKENS) - 1)), dtype=np.float32)
        log_probs[np.arange(len(best)), best] = np.log(0.9)
        return log_probs


def features_of(text):
    """(T, 80) features that `FakeRecogniser` reads as `text`."""
    ids = [0]
    for char in text.replace(" ", "\u2581"):
        ids += [TOKENS.index(char), 0]
    return np.repeat(np.eye(80, dtype=np.float32)[ids], 4, axis=0)


@pytest.fixture
def setup(tmp_path, monkeypatch):
    """A data folder with features, a word list, settings, and an exported folder with the made-up recogniser."""
    data, model = tmp_path / "data" / "test", tmp_path / "exp" / "m" / "export"
    model.mkdir(parents=True)
    (model / "model.onnx").write_bytes(b"x")
    audio = tmp_path / "a.wav"
    soundfile.write(audio, np.sin(np.arange(RATE // 2)) * 0.1, RATE)
    write_data_dir(data, [Utterance(u, u[:2], text, str(audio), duration_s=0.5) for u, text in TEXTS.items()])
    spoken = TEXTS | {"s2-a": "BAE DAB"}
    kaldiio.save_ark(str(data / "f.ark"), {u: features_of(t) for u, t in spoken.items()}, scp=str(data / "feats.scp"))
    (tmp_path / "words.txt").write_text("AB\nCAD\nBAD\nDAB\nA\nBED\n")
    save_config(tmp_path / "decode.yaml", DecodeConfig())
    monkeypatch.setattr(decode, "load_recogniser", lambda *args, **kwargs: FakeRecogniser())
    return SimpleNamespace(root=tmp_path, data=data, model=model, out=tmp_path / "exp" / "m" / "decode_test_onnx")


def run(monkeypatch, program, *args):
    monkeypatch.setattr(sys, "argv", ["program", *map(str, args)])
    program.main()


def run_decode(monkeypatch, setup, *more):
    args = ["--model", setup.model, "--data", setup.data, "--config", setup.root / "decode.yaml", "--out", setup.out]
    run(monkeypatch, decode, *args, *more)


def make_model_folder(folder, kind, vocab_size=None):
    """A finished model folder of a tiny untrained network with a real tokenizer."""
    folder.mkdir()
    tokenizer = train_tokenizer(list(TEXTS.values()) * 5, kind, vocab_size)
    tokenizer.save(folder)
    save_config(folder / "features.yaml", FeatureConfig())
    sizes = {"d_model": 24, "context": 3, "num_blocks": 2, "block": {"units": 40}}
    model = build_model(new_spec("dnn", sizes, 80, tokenizer.vocab_size, "test"))
    save_model(folder, model, {name: folder / name for name in ("tokenizer.model", "tokens.txt", "features.yaml")})
