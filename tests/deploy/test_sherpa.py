"""sherpa-onnx reads exported folders as they are and says what onnxruntime says."""

import numpy as np
import pytest
import torch

from steps.core.cli import UserError
from steps.data.feature_config import FeatureConfig
from steps.data.features import compute_features
from steps.deploy.export import export_folder
from steps.deploy.runtimes import load_recogniser, sherpa
from steps.deploy.runtimes.sherpa import SherpaProcess, computes


@pytest.fixture
def exported(make, save, tmp_path):
    pytest.importorskip("sherpa_onnx")
    model = make("conformer")
    with torch.no_grad():  # letters, not only blanks
        model.output.bias[:3] = -100.0
    export_folder(save(tmp_path / "m", model), tmp_path / "m" / "export")
    return tmp_path / "m" / "export"


def test_texts_are_those_of_onnxruntime(exported):
    recogniser = load_recogniser(exported)
    random, texts = np.random.default_rng(0), []
    with SherpaProcess(exported) as process:
        for seconds in (0.5, 1.0, 2.3):
            samples = random.uniform(-0.2, 0.2, int(16000 * seconds)).astype(np.float32)
            feats = compute_features(torch.from_numpy(samples), recogniser.features).numpy()
            texts.append(process.recognise(samples, "u")["greedy"])
            assert texts[-1] == recogniser.recognise(feats, "u")["greedy"]
    assert all(texts)


def test_a_process_that_gives_up_is_told_with_its_last_words(exported):
    (exported / "tokens.txt").write_text("a 0\nb 1\n")
    with SherpaProcess(exported) as process, pytest.raises(UserError, match="sherpa-onnx gave up at utt-1: status"):
        process.recognise(np.zeros(16000, dtype=np.float32), "utt-1")


def test_features_it_cannot_compute_and_a_missing_package_are_told(exported, monkeypatch):
    assert computes(FeatureConfig(num_mel_bins=40, sample_rate_hz=8000))
    assert not computes(FeatureConfig(snip_edges=True)) and not computes(FeatureConfig(kind="mfcc"))
    (exported / "features.yaml").write_text("num_mel_bins: 20\nsnip_edges: true\n")
    with pytest.raises(UserError, match="computes no such features"):
        SherpaProcess(exported)
    monkeypatch.setattr(sherpa.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="requirements-sherpa.txt"):
        SherpaProcess(exported)
