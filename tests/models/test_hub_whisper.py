"""Whisper's encoder: what transformers computes of the utterance alone, from either kind of folder, under an output layer."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from steps import import_model
from steps.core.cli import UserError
from steps.data.hub_vocabulary import spelling_model
from steps.data.tokenizer import Tokenizer
from steps.models.build import build_model
from steps.models.hub_ctranslate import LAYERS, PARTS
from tests.models.hub_checks import check_smaller, check_text, noise, save
from tests.models.hub_folders import make_folder, write_ctranslate

transformers = pytest.importorskip("transformers", reason="transformers is not installed: requirements-hub.txt")
# odd and even ones
LENGTHS = (118, 65, 30)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("whisper") / "hub", "whisper")


@pytest.fixture(scope="module")
def imported(source):
    return import_folder(source)


@pytest.fixture(scope="module")
def ours(imported, tmp_path_factory):
    """Our folder, with an output layer of a few units as a training would put on it."""
    model, _, features, _ = imported
    tokenizer = Tokenizer(spelling_model([(text, -1.0, False) for text in "\u2581abcdefg"], "char"))
    whole = build_model(model.spec | {"vocab_size": tokenizer.vocab_size})
    shapes = {name: whole.get_parameter(name).shape for name in ("output.weight", "output.bias")}
    head = {name: noise(*shape, seed=len(shape)) * 3 for name, shape in shapes.items()}
    whole.load_state_dict(model.state_dict() | head)
    return save(tmp_path_factory.mktemp("ours") / "whisper", whole.eval(), tokenizer, features)


def import_folder(folder):
    return import_model.import_folder(import_model.open_folder(folder), import_model.ImportConfig())


def theirs(source, samples):
    """States of transformers' encoder: Whisper's features of 30 s, cropped to the sound, and as many positions."""
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(source)
    encoder = transformers.WhisperModel.from_pretrained(source).encoder.eval()
    frames = len(samples) // 320
    encoder.config.max_source_positions = frames
    encoder.embed_positions = torch.nn.Embedding.from_pretrained(encoder.embed_positions.weight[:frames])
    heard = extractor(samples.numpy(), sampling_rate=16000, return_tensors="pt").input_features
    return encoder(heard[..., : 2 * frames]).last_hidden_state[0]


@torch.no_grad()
def test_states_are_those_of_transformers_alone_and_in_a_batch(source, imported):
    model, tokenizer, _, _ = imported
    feats = noise(len(LENGTHS), max(LENGTHS), 160)
    # the loudest is the very end, which only frames behind the last one hear whole; what is quiet beside it is cut off
    feats[1, LENGTHS[1] - 1, -40:] *= 50
    feats[1, :30] *= 1e-5
    hidden, lengths = model.encode(feats, torch.tensor(LENGTHS))
    batch = model.norm(hidden[-1])
    assert lengths.tolist() == [59, 32, 15] and tokenizer.pieces == ["<blk>", "<unk>"]
    for row, frames in enumerate(LENGTHS):
        single = model.norm(model.encode(feats[row : row + 1, :frames], torch.tensor([frames]))[0][-1])[0]
        torch.testing.assert_close(single, theirs(source, feats[row, :frames].flatten()), rtol=0, atol=1e-4)
        torch.testing.assert_close(batch[row, : lengths[row]], single, rtol=0, atol=1e-4)


def test_the_exported_file_writes_the_same(ours):
    check_text(ours)


@pytest.mark.slow
def test_everything_smaller(ours, tmp_path):
    check_smaller(ours, tmp_path)


def ctranslate_arrays(source):
    """The encoder as CTranslate2 names it."""
    tensors = {name: t.numpy() for name, t in load_file(source / "model.safetensors").items() if "encoder." in name}
    tensors = {name.partition("encoder.")[2]: tensor for name, tensor in tensors.items() if "decoder" not in name}
    arrays = {"encoder/num_heads": np.array(4, np.int16)}
    arrays["encoder/position_encodings/encodings"] = tensors.pop("embed_positions.weight")
    parts = {"layer_norm": {new: old for old, new in PARTS.items()}}
    places = {new: old for old, new in LAYERS.items()}
    for block in range(3):
        own = f"layers.{block}.self_attn"
        query, value = (tensors.pop(f"{own}.{letter}_proj.bias") for letter in "qv")
        joined = {
            "weight": np.concatenate([tensors.pop(f"{own}.{letter}_proj.weight") for letter in "qkv"]),
            "bias": np.concatenate([query, 0 * query, value]),
        }
        arrays |= {f"encoder/layer_{block}/self_attention/linear_0/{part}": array for part, array in joined.items()}
    for name, array in tensors.items():
        path, _, part = name.rpartition(".")
        _, block, inner = path.split(".", 2) if path.startswith("layers.") else (None, None, path)
        place = places.get(inner, inner)
        part = parts["layer_norm"].get(part, part) if place.endswith("layer_norm") else part
        arrays[f"encoder/{place}/{part}" if block is None else f"encoder/layer_{block}/{place}/{part}"] = array
    return arrays


def test_a_folder_of_ctranslate2_holds_the_same_encoder(source, imported, tmp_path):
    arrays = ctranslate_arrays(source)
    model, _, _, _ = import_folder(write_ctranslate(tmp_path / "float", arrays))
    assert model.spec["model"] == imported[0].spec["model"] | {"dropout": 0.0}
    for name, tensor in imported[0].state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    name = "encoder/layer_1/ffn/linear_0/weight"
    scale = 127 / np.abs(arrays[name]).max(axis=1)
    codes = {name: np.rint(arrays[name] * scale[:, None]).astype(np.int8), f"{name}_scale": scale.astype(np.float32)}
    rounded, _, _, _ = import_folder(write_ctranslate(tmp_path / "int8", arrays | codes))
    error = (rounded.blocks[1].ff.up.weight - model.blocks[1].ff.up.weight).abs()
    assert error.max() > 0 and (error <= 0.51 / torch.from_numpy(scale)[:, None]).all()


@pytest.mark.parametrize(
    ("place", "change"),
    [
        ("layer_0/self_attention/linear_0/weight", lambda array: array[:1]),
        ("layer_0/self_attention/linear_0/bias", lambda array: array[:1].reshape(())),
        ("layer_1/ffn/linear_0/weight", lambda array: np.array(1, np.int8)),
    ],
)
def test_arrays_of_odd_shapes_are_one_line(source, tmp_path, place, change):
    arrays, name = ctranslate_arrays(source), f"encoder/{place}"
    arrays[name] = change(arrays[name])
    if arrays[name].dtype == np.int8:
        arrays[f"{name}_scale"] = np.ones(1, np.float32)
    with pytest.raises(UserError):
        import_folder(write_ctranslate(tmp_path, arrays))


def test_a_damaged_folder_of_ctranslate2_is_refused(source, tmp_path):
    arrays = ctranslate_arrays(source)
    write_ctranslate(tmp_path, arrays)
    whole = (tmp_path / "model.bin").read_bytes()
    for cut in (19, 25, 40, 120, len(whole) // 2):
        (tmp_path / "model.bin").write_bytes(whole[:cut])
        with pytest.raises(UserError, match="model.bin: not a Whisper model of CTranslate2, or a damaged one"):
            import_folder(tmp_path)
    name = "encoder/conv1/weight"
    for wrong, said in (
        ({name: arrays[name][0]}, "holds no encoder/conv1/weight of 3 axes"),
        ({name: arrays[name].view(np.int16)}, "do not fit|size mismatch"),
        ({name: np.ones((1, 4096, 3), np.float32)}, "4096 mel bins are more than any model has"),
        ({"encoder/num_heads": np.array(5, np.int16)}, "no multiple of 5 heads"),
        ({"encoder/layer_9/ffn/linear_0/weight": np.ones((4, 4), np.float32)}, "cannot read the model"),
        ({"encoder/position_encodings/encodings": np.ones((1500, 32), np.float32)}, "no sinusoids"),
    ):
        with pytest.raises(UserError, match=said):
            import_folder(write_ctranslate(tmp_path, arrays | wrong))


def test_variants_are_refused(source, tmp_path):
    for name, key, value, said in (
        ("preprocessor_config.json", "hop_length", 128, "features of other windows"),
        ("preprocessor_config.json", "feature_size", 10**9, "feature_size: 1000000000 is more than any model has"),
        ("preprocessor_config.json", "chunk_length", 10**6, "chunk_length: 1000000 is more"),
        ("config.json", "encoder_layers", 10**9, "encoder_layers 1000000000 does not fit"),
        ("config.json", "encoder_attention_heads", 5, "no multiple of 5 heads"),
        ("config.json", "max_source_positions", 1400, "size mismatch"),
    ):
        folder = tmp_path / f"{key}"
        folder.mkdir()
        for file in source.iterdir():
            (folder / file.name).symlink_to(file)
        content = json.loads((source / name).read_text()) | {key: value}
        (folder / name).unlink()
        (folder / name).write_text(json.dumps(content))
        with pytest.raises(UserError, match=said):
            import_folder(folder)
    tensors = load_file(source / "model.safetensors")
    tensors["model.encoder.embed_positions.weight"][3, 3] += 0.1
    folder = tmp_path / "learned"
    folder.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).symlink_to(source / name)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="positions of this Whisper model are no sinusoids"):
        import_folder(folder)
