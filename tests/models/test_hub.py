"""Models from a hub: what transformers computes, alone and in a batch, cut, rounded, exported and trained further."""

import json
import shutil

import pytest
import torch

from steps import import_model
from steps.compress.footprint import predict
from steps.compress.importance import magnitude, taylor
from steps.compress.lowrank import LowRankConfig, factorise, plan_ranks
from steps.compress.surgery import shrink
from steps.core.cli import UserError
from steps.data.tokenizer import Tokenizer
from steps.deploy.runtimes import load_recogniser
from steps.models.build import load_model
from steps.models.hub_convert import FAMILIES
from steps.models.hub_folder import HubFolder
from tests.models.hub_checks import check_smaller, check_text, noise, save
from tests.models.hub_folders import MODELS, make_folder

pytest.importorskip("transformers", reason="transformers is not installed: requirements-hub.txt")
# in the gate: one of each family, the group norm whose batches differ from single utterances in transformers, and the blank
# and the variance of samples that differ from the others', and the blocks at half the rate of the output
GATE = ("wav2vec2", "omniasr", "parakeet", "sew")
# has tests of its own: test_hub_whisper.py; LASR has more in test_hub_lasr.py
OTHER = ("whisper",)
# the others that are imported, pruned, rounded and exported in a slow test
SLOW = ("wav2vec2-large", "hubert", "wavlm", "wav2vec2-bert", "lasr", "sew-large")
LENGTHS = (117, 64, 31)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Function name -> (Hugging Face folder, our model folder), each made once."""
    root, done = tmp_path_factory.mktemp("hub"), {}

    def folders(name):
        if name not in done:
            source = make_folder(root / name / "hub", name)
            model, tokenizer, features, _ = import_model.import_folder(HubFolder(source), import_model.ImportConfig())
            done[name] = source, save(root / name / "ours", model, tokenizer, features)
        return done[name]

    return folders


def theirs(source, samples):
    """Log-probabilities of transformers for one utterance, in its own order of units. Args: samples (S,)."""
    import transformers

    extractor = transformers.AutoFeatureExtractor.from_pretrained(source, local_files_only=True)
    model = transformers.AutoModelForCTC.from_pretrained(
        source, local_files_only=True, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        heard = extractor(samples.numpy(), sampling_rate=16000, return_tensors="pt")
        return model(**heard).logits[0].log_softmax(dim=-1)


def check_like_transformers(source, ours):
    """Single utterances as transformers computes them, a batch as its single utterances."""
    model, feats = load_model(ours), noise(len(LENGTHS), max(LENGTHS), 160)
    # so quiet that it matters what is added to the variance
    feats[1] *= 0.02
    order = model.spec["origin"]["outputs"]
    with torch.no_grad():
        batch, lengths = model(feats, torch.tensor(LENGTHS))
        for row, frames in enumerate(LENGTHS):
            single, _ = model(feats[row : row + 1, :frames], torch.tensor([frames]))
            expected = theirs(source, feats[row, :frames].flatten())[: lengths[row], order]
            assert single.shape[1:] == expected.shape
            torch.testing.assert_close(single[0], expected, rtol=0, atol=1e-4)
            torch.testing.assert_close(batch[row, : lengths[row]], single[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", GATE)
def test_what_transformers_computes(made, name):
    source, ours = made(name)
    check_like_transformers(source, ours)
    check_text(ours)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name not in GATE + OTHER])
def test_what_transformers_computes_for_all(made, name):
    source, ours = made(name)
    check_like_transformers(source, ours)
    check_text(ours)


@pytest.mark.slow
@pytest.mark.parametrize("name", GATE + SLOW)
def test_everything_smaller(made, name, tmp_path):
    check_smaller(made(name)[1], tmp_path)


def test_every_family_has_a_test():
    import transformers

    kinds = {getattr(transformers, config)().model_type for config, _, _ in MODELS.values()}
    assert kinds == set(FAMILIES)


@pytest.mark.parametrize("name", GATE)
@pytest.mark.parametrize("low_rank", [False, True])
def test_a_removed_part_is_a_part_that_says_nothing(made, name, low_rank):
    """What reads the part is zeroed in the whole model; only norms over channels see that it is gone."""
    model = load_model(made(name)[1])
    if low_rank:
        model = factorise(model, plan_ranks(model, LowRankConfig(keep=0.9, layers=["blocks.*"]))[0])
    groups = [g for g in model.axis_groups() if g.kind in ("heads", "ff") or (g.kind == "conv" and name == "parakeet")]
    kept = {group.name: [i for i in range(group.size) if i % 3] for group in groups}
    small = shrink(model, kept)
    with torch.no_grad():
        for group in groups:
            gone = [i for i in range(group.size) if i not in kept[group.name]]
            for member in group.members:
                if member.axis == 1:
                    model.get_parameter(member.parameter)[:, member.rows(gone, group.size)] = 0.0
        heard = noise(1, 90, 160), torch.tensor([90])
        torch.testing.assert_close(small(*heard)[0], model(*heard)[0], rtol=0, atol=1e-4)
    assert predict(small.spec, macs=False).parameters < predict(model.spec, macs=False).parameters


def test_importance_and_cost_know_such_models(made):
    model = load_model(made("wav2vec2")[1])
    groups = {group.name: group.size for group in model.axis_groups()}
    feats, lengths = noise(1, 60, 160), torch.tensor([60])
    scores = taylor(model, [None], lambda net, _: net(feats, lengths)[0][0, :, 3].mean())
    for found in (scores, magnitude(model)):
        assert {name: len(score) for name, score in found.items()} == groups
        assert all((score > 0).any() for score in found.values())
    assert predict(model.spec).macs_per_second > 1e5


def test_units_are_spelt_as_the_model_spells_them(made):
    source, ours = made("wav2vec2")
    tokenizer, vocabulary = Tokenizer.load(ours), json.loads((source / "vocab.json").read_text())
    order = load_model(ours).spec["origin"]["outputs"]
    assert [order[i] for i in tokenizer.encode("abc d'")] == [vocabulary[c] for c in "abc|d'"]
    assert tokenizer.decode(tokenizer.encode("abc d'")) == "abc d'" and tokenizer.pieces[:2] == ["<blk>", "<unk>"]
    tokenizers = pytest.importorskip("tokenizers")
    for name, texts in (
        ("parakeet", ("abc ab c", "a b ba", "cab")),
        ("omniasr", ("ab a", "a bb\u200cc ab", "cab")),
        ("lasr", ("abc ab c", "a b ba", "cab bcab", "abcabc")),
    ):
        source, ours = made(name)
        whole, tokenizer = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json")), Tokenizer.load(ours)
        order = load_model(ours).spec["origin"]["outputs"]
        for text in texts:
            assert [order[i] for i in tokenizer.encode(text)] == whole.encode(text, add_special_tokens=False).ids
            assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_blank_that_is_not_the_padding_token_is_left_out(made):
    """OmniASR's blank is <s>: the text is what transformers writes, which leaves out other special tokens, too."""
    import transformers

    source, ours = made("omniasr")
    processor, samples = transformers.AutoProcessor.from_pretrained(source), noise(150, 160)
    heard = processor(samples.flatten().numpy(), sampling_rate=16000)
    ids = transformers.AutoModelForCTC.from_pretrained(source).eval().generate(**heard)
    text = load_recogniser(ours).recognise(samples.numpy(), "u")["greedy"]
    for special in ("<pad>", "</s>", "<unk>"):
        text = text.replace(special, "")
    assert text == processor.decode(ids, skip_special_tokens=True)[0].strip(" ") and (ids == 0).any()


def test_an_encoder_without_output_layer_says_nothing_yet(made, tmp_path):
    """Pretrained encoders have no output layer and no tokenizer; the encoder is compared, and ours, all the same."""
    import transformers

    source, ours = made("wav2vec2")
    transformers.Wav2Vec2Model.from_pretrained(source).save_pretrained(tmp_path / "bare", max_shard_size="40KB")
    shutil.copy(source / "preprocessor_config.json", tmp_path / "bare")
    model, tokenizer, features, _ = import_model.import_folder(
        HubFolder(tmp_path / "bare"), import_model.ImportConfig()
    )
    save(tmp_path / "ours", model, tokenizer, features)
    assert tokenizer.pieces == ["<blk>", "<unk>"] and len(list((tmp_path / "bare").glob("model-*.safetensors"))) > 1
    recogniser = load_recogniser(tmp_path / "ours")
    (tmp_path / "words.txt").write_text("ab\n")
    # a recipe decodes it like the others, with a word list, too
    assert recogniser.use_words(tmp_path / "words.txt", tmp_path / "ours") is None
    assert recogniser.recognise(noise(80, 160).numpy(), "u") == {"greedy": ""}
    heard = noise(1, 80, 160), torch.tensor([80])
    bare, whole = (load_model(folder).encode(*heard)[0][-1] for folder in (tmp_path / "ours", ours))
    # the same weights lie elsewhere in their files, and products may differ in the last bit with that
    torch.testing.assert_close(bare, whole, rtol=0, atol=1e-5)


def test_variants_of_omniasr_are_refused(made, tmp_path):
    source, _ = made("omniasr")
    for name, changes, said in (
        ("config", {"blank_token_id": 5}, "tokenizer.json: unit 5, the blank by config.json, is 'a'"),
        ("config", {"blank_token_id": 99}, "blank_token_id, the blank, is 99, but the model has 19 outputs"),
        ("config", {"audio_config": {"num_hidden_layers": 10**9}}, "num_hidden_layers 1000000000 does not fit"),
        ("config", {"audio_config": {"num_attention_heads": 0}}, "hidden_size 32 is no multiple of 0 heads"),
        ("config", {"audio_config": {"hidden_act": "mish"}}, "activation must be one of gelu"),
        ("config", {"audio_config": {"conv_stride": [4, 2, 2, 2, 2, 2, 2]}}, "strides multiply to 256 samples"),
        ("config", {"audio_config": {"model_type": "wav2vec2"}}, "model.safetensors: lacks model.audio_tower"),
        ("config", {"audio_config": {"num_conv_pos_embeddings": 15}}, "transformers cannot read the model"),
        ("processor_config", {"feature_extractor": {"feature_extractor_type": "Wav2Vec2FeatureExtractor"}},
         "transformers cannot hear with the model"),
    ):  # fmt: skip
        folder = tmp_path / said[:20]
        shutil.copytree(source, folder, dirs_exist_ok=True)
        path = folder / f"{name}.json"
        content = json.loads(path.read_text())
        for key, value in changes.items():
            content[key] = content[key] | value if isinstance(value, dict) else value
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match=said) as caught:
            import_model.import_folder(HubFolder(folder), import_model.ImportConfig())
        assert "\n" not in str(caught.value)


def test_a_model_that_computes_something_else_is_refused(made, monkeypatch, tmp_path):
    source, _ = made("wav2vec2")
    real = import_model.hub_state

    def other(*args):
        state = real(*args)
        return state | {"blocks.2.ff.up.bias": state["blocks.2.ff.up.bias"] + 0.5}

    monkeypatch.setattr(import_model, "hub_state", other)
    with pytest.raises(UserError, match="nats from what transformers computes"):
        import_model.import_folder(HubFolder(source), import_model.ImportConfig())
