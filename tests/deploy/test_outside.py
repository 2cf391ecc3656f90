"""Recognisers from elsewhere: a tiny one made by transformers transcribes; folders with code or pickles are refused."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from steps.core.cli import UserError
from steps.core.exports import folder_kind, is_exported, model_hashes
from steps.deploy.runtimes import load_recogniser, outside, runtime_of

WORDS = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(29))]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A Moonshine of two small layers with random weights, as its users have it on disk."""
    transformers = pytest.importorskip("transformers")
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "encoder_num_hidden_layers": 1, "decoder_num_hidden_layers": 1}
    heads = {f"{side}_num_{kind}_heads": 2 for side in ("encoder", "decoder") for kind in ("attention", "key_value")}
    config = transformers.MoonshineConfig(
        vocab_size=len(WORDS), bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, **sizes, **heads
    )
    model = transformers.MoonshineForConditionalGeneration(config)
    with torch.no_grad():
        # so that it says words, not only that it has ended
        model.get_output_embeddings().weight[:3] = 0.0
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    extractor = transformers.Wav2Vec2FeatureExtractor(sampling_rate=16000, do_normalize=False)
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "hub")


def test_it_writes_what_transformers_generates(folder, monkeypatch):
    import torch
    from transformers import AutoProcessor, MoonshineForConditionalGeneration

    monkeypatch.setattr(outside, "MOST_TOKENS", 8)
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 16000).astype(np.float32)
    model = MoonshineForConditionalGeneration.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor(samples, sampling_rate=16000, return_tensors="pt", return_attention_mask=True)
    with torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    wanted = processor.batch_decode(ids, skip_special_tokens=True)[0]
    assert folder_kind(folder) == "hub" and runtime_of(folder) == "transformers"
    with load_recogniser(folder) as recogniser:
        assert recogniser.hears == "audio" and recogniser.features.sample_rate_hz == 16000
        assert recogniser.recognise(samples, "u") == {"greedy": " ".join(wanted.split())}
    assert wanted.split()
    assert "model.safetensors" in model_hashes(folder)


def test_weights_in_half_precision_are_run_in_float32(folder, monkeypatch):
    """As those of Whisper large are stored; what their feature extractor computes is float32."""
    import torch
    from transformers import MoonshineForConditionalGeneration

    monkeypatch.setattr(outside, "MOST_TOKENS", 8)
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 16000).astype(np.float32)
    MoonshineForConditionalGeneration.from_pretrained(folder).half().save_pretrained(folder)
    with load_recogniser(folder) as recogniser:
        assert recogniser.model.dtype == torch.float32
        recogniser.recognise(samples, "u")


def _code(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))


def _pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _not_json(folder):
    (folder / "config.json").write_text("{")


def _no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


def _no_recogniser(folder):
    (folder / "config.json").write_text('{"model_type": "bert"}')


def _ctc(folder):
    (folder / "config.json").write_text('{"model_type": "wavlm"}')


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_code, "auto_map asks for code of its own"),
        (_pickle, "pickled weights are not opened; save it with save_pretrained"),
        (_not_json, "config.json: not valid JSON"),
        (_no_tokenizer, "does not read it as a speech recogniser"),
        (_no_recogniser, "does not read it as a speech recogniser"),
        (_ctc, "wavlm has CTC models; name the folder that steps.import_model makes of it"),
    ],
)
def test_what_cannot_be_opened_is_refused_in_one_line(folder, spoil, said):
    spoil(folder)
    with pytest.raises(UserError, match=said) as caught:
        load_recogniser(folder)
    assert "\n" not in str(caught.value)


def test_a_converted_whisper_needs_its_tokenizer(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.bin").write_bytes(b"")
    assert runtime_of(tmp_path) == "faster-whisper"
    with pytest.raises(UserError, match="tokenizer.json: no such file"):
        load_recogniser(tmp_path)


class Whisper:
    """Draws a text at random wherever it is allowed to, as faster-whisper does with what it is not sure of."""

    def __init__(self, *_, **__):
        self.drawn = 0

    def transcribe(self, samples, temperature=(0.0, 0.2, 1.0), **options):
        assert options["beam_size"] == 1
        self.drawn += np.any(np.array(temperature) > 0)
        return [SimpleNamespace(text=f" text {self.drawn}", avg_logprob=-2.0, tokens=[1, 2])], None


def test_a_converted_whisper_draws_nothing(tmp_path, monkeypatch):
    module = pytest.importorskip("faster_whisper", reason="faster-whisper is not installed: requirements-whisper.txt")
    monkeypatch.setattr(module, "WhisperModel", Whisper)
    (tmp_path / "tokenizer.json").write_text("{}")
    writer = outside.CTranslateWriter(tmp_path)
    assert [writer.recognise(np.zeros(160, np.float32), "u") for _ in range(2)] == [{"greedy": "text 0"}] * 2
    assert writer.sure == [-2.0, -2.0]


def test_it_is_no_model_folder(folder):
    with pytest.raises(UserError, match="only transcribes.*steps.import_model"):
        is_exported(folder)
    with pytest.raises(UserError, match="onnxruntime reads exported folders only"):
        runtime_of(folder, "onnxruntime")
