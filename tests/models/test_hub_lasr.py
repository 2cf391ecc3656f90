"""LASR: what it hears, sound of any length, what is refused, and codes of 4 bits; the rest is in test_hub.py."""

import json
import shutil

import pytest
import torch

from steps import import_model
from steps.compress.footprint import predict
from steps.compress.quantize_config import QuantizeConfig
from steps.compress.quantizer import quantize_model
from steps.compress.surgery import shrink
from steps.core.cli import UserError
from steps.deploy.export import export_folder
from steps.deploy.runtimes import load_recogniser
from steps.models.build import CARRIED, load_model, save_model
from steps.models.hub_folder import HubFolder
from steps.models.hub_mel import LogMel, mel_tensors
from tests.models.hub_checks import noise, save
from tests.models.hub_folders import make_folder

transformers = pytest.importorskip("transformers", reason="transformers is not installed: requirements-hub.txt")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("lasr") / "hub", "lasr")


@pytest.fixture(scope="module")
def made(source):
    """A function that imports, once: what `import_folder` returns."""
    done = []

    def imported():
        if not done:
            done.append(import_model.import_folder(HubFolder(source), import_model.ImportConfig()))
        return done[0]

    return imported


@pytest.fixture(scope="module")
def ours(made, tmp_path_factory):
    """A function that saves what was imported: our folder."""
    root = tmp_path_factory.mktemp("ours")
    return lambda: root / "lasr" if (root / "lasr").exists() else _saved(root / "lasr", made())


def _saved(out, imported):
    out.mkdir()
    return save(out, *imported[:3])


def test_energies_are_those_of_the_feature_extractor():
    extractor = transformers.LasrFeatureExtractor()
    mel = LogMel("lasr", 128)
    mel.load_state_dict({name.rpartition(".")[2]: value for name, value in mel_tensors("lasr", extractor).items()})
    # float32, where theirs computes in float64
    tone = 0.3 * torch.sin(torch.arange(40 * 160) * 0.3)
    for samples in (tone, noise(40 * 160), 1e-3 * noise(40 * 160), torch.zeros(40 * 160)):
        heard = extractor(samples.numpy(), sampling_rate=16000, return_tensors="pt")["input_features"]
        energies = mel(samples.view(1, 40, 160), torch.tensor([40]))
        assert energies.shape == heard.shape == (1, 38, 128)
        torch.testing.assert_close(energies, heard, rtol=0, atol=1e-3)


@torch.no_grad()
def test_a_batch_gives_what_its_utterances_give_alone(made):
    model, _, _, difference = made()
    lengths = (90, 41, 15, 14)
    feats = noise(len(lengths), max(lengths), 160)
    batch, counts = model(feats, torch.tensor(lengths))
    assert difference < 1e-4 and counts.tolist() == [19, 7, 1, 0] and batch.shape[1] == 19
    for row, (frames, count) in enumerate(zip(lengths, counts.tolist(), strict=True)):
        single, own = model(feats[row : row + 1, :frames], torch.tensor([frames]))
        assert own.tolist() == [count] and single.shape[1] == max(count, 1)
        torch.testing.assert_close(batch[row, :count], single[0, :count], rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_removed_part_is_a_part_that_says_nothing(made):
    """Heads, widths, channels of convolutions over time and over mel frames."""
    model, _, _, _ = made()
    whole, groups = model, model.axis_groups()
    assert {group.kind for group in groups} == {"heads", "ff", "conv", "subsampling"}
    kept = {group.name: [i for i in range(group.size) if i % 3] for group in groups}
    small, heard = shrink(whole, kept), (noise(1, 90, 160), torch.tensor([90]))
    state = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    for group in groups:
        gone = [i for i in range(group.size) if i not in kept[group.name]]
        for member in (member for member in group.members if member.axis == 1):
            state[member.parameter][:, member.rows(gone, group.size)] = 0.0
    said = torch.func.functional_call(whole, state, heard)[0]
    torch.testing.assert_close(small(*heard)[0], said, rtol=0, atol=1e-4)
    assert (said - whole(*heard)[0]).abs().max() > 0.1
    assert predict(small.spec).macs_per_second < predict(whole.spec).macs_per_second


def test_the_text_has_no_special_tokens(source, ours):
    """What transformers writes with `skip_special_tokens`."""
    processor = transformers.LasrProcessor.from_pretrained(source)
    model, samples = transformers.LasrForCTC.from_pretrained(source).eval(), noise(150, 160, seed=0)
    heard = processor(samples.flatten().numpy(), sampling_rate=16000)
    with torch.no_grad():
        ids = model(**heard).logits.argmax(dim=-1)[0]
    assert processor.tokenizer.convert_tokens_to_ids("<extra_id_0>") in ids and (ids == 0).any()
    text = load_recogniser(ours()).recognise(samples.numpy(), "u")["greedy"]
    assert text and text == processor.tokenizer.decode(ids.tolist(), skip_special_tokens=True)


def test_the_exported_file_takes_sound_of_any_length(ours, tmp_path):
    export_folder(ours(), tmp_path / "export")
    torch_one, shipped = load_recogniser(ours()), load_recogniser(tmp_path / "export")
    for frames in (1, 7, 14, 15, 16, 19, 150):
        heard = noise(frames, 160, seed=frames).numpy()
        text = torch_one.recognise(heard, "u")["greedy"]
        assert shipped.recognise(heard, "u")["greedy"] == text and (frames >= 15 or not text)
    assert text
    with pytest.raises(UserError, match="what this model hears depends on its level"):
        export_folder(ours(), tmp_path / "samples", "samples")


@pytest.mark.slow
def test_codes_of_4_bits_are_in_the_exported_file(ours, tmp_path):
    small = quantize_model(load_model(ours()), QuantizeConfig(bits=4))
    save_model(tmp_path / "int4", small, {name: ours() / name for name in CARRIED}, parent=ours())
    report = export_folder(tmp_path / "int4", tmp_path / "int4/export")
    assert report.integer_layers == len(small.spec["quantization"]["layers"]) and report.snr_db > 20


def test_variants_are_refused(source, tmp_path):
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0}
    encoder, features = "config.json: encoder_config", r"preprocessor_config.json \(or processor_config.json\)"
    for name, change, said in (
        ("config", {"rope_parameters": rope}, f"{encoder}: rope_parameters: rope_type 'linear' cannot be imported"),
        ("config", {"num_key_value_heads": 2}, f"{encoder}: num_key_value_heads 2 cannot be imported, only 4"),
        ("config", {"subsampling_conv_kernel_size": 3}, f"{encoder}: subsampling_conv_kernel_size 3 cannot"),
        ("config", {"subsampling_conv_stride": 4}, f"{encoder}: subsampling_conv_stride 4 cannot"),
        ("config", {"feed_forward_residual_weights": [1.0]}, "config.json: ff_residual and conv_residual must be two"),
        ("config", {"hidden_act": "mish"}, "config.json: activation must be one of"),
        ("config", {"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000 does not fit"),
        ("preprocessor_config", {"hop_length": 128}, f"{features}: hop_length 128 cannot be imported, only 160"),
        ("preprocessor_config", {"win_length": 320}, f"{features}: win_length 320 cannot"),
        ("preprocessor_config", {"n_fft": 1024}, f"{features}: n_fft 1024 cannot"),
        ("preprocessor_config", {"sampling_rate": 8000}, f"{features}: sampling_rate 8000 cannot"),
        ("preprocessor_config", {"feature_size": 80}, f"{features}: feature_size 80 cannot be imported, only 40"),
        ("preprocessor_config", {"feature_extractor_type": "ParakeetFeatureExtractor"},
         f"{features}: feature_extractor_type ParakeetFeatureExtractor cannot"),
    ):  # fmt: skip
        folder = tmp_path / "hub"
        shutil.copytree(source, folder, dirs_exist_ok=True)
        path = folder / f"{name}.json"
        content = json.loads(path.read_text())
        (content["encoder_config"] if name == "config" else content).update(change)
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match=said) as caught:
            import_model.import_folder(HubFolder(folder), import_model.ImportConfig())
        assert "\n" not in str(caught.value)
