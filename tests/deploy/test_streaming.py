"""Streaming exports: the graph is the model, sound may come in any pieces, and sherpa-onnx says the same."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from steps import decode
from steps.compress.quantize_config import QuantizeConfig
from steps.compress.quantizer import quantize_model
from steps.core.cli import UserError
from steps.core.datadir import write_data_dir
from steps.core.outdir import write_text
from steps.data.feature_config import FeatureConfig
from steps.data.features import compute_features
from steps.deploy.export import export_folder
from steps.deploy.graphs import graphs_of
from steps.deploy.macs import count_macs
from steps.deploy.pieces import feed
from steps.deploy.runtimes import frame_recogniser, load_recogniser
from steps.deploy.runtimes.sherpa import SherpaProcess
from steps.deploy.runtimes.streaming import StreamingNetwork, StreamingRecogniser
from steps.deploy.screen import metadata, streams
from steps.lm.estimate import count_ngrams, estimate
from steps.lm.fst import write_fst
from steps.lm.graph import Weights, build_graph
from steps.make_graph import listen
from steps.stress import noisy_features
from steps.training.teachers import ExportTeacher
from tests.deploy.conftest import DIM, TOKENS, make_model, save_folder
from tests.deploy.streams import FEATURES, VARIANTS, conformer, emits_letters, fed_in_pieces, noise, utterance


@pytest.fixture
def folder(streaming_export):
    return streaming_export


def opened(model):
    """The model's graph in onnxruntime, compared with torch. Returns: recogniser, difference, SNR."""
    head = graphs_of(model)
    contents = {name: graph.SerializeToString() for name, graph in head.build(model).items()}
    recogniser = head.open(contents, FEATURES, TOKENS, "m")
    return recogniser, *head.compare(model, recogniser)


@pytest.mark.parametrize(
    "variant",
    [pytest.param(name, marks=pytest.mark.slow) if name in ("low-rank", "rnn-sliding") else name for name in VARIANTS],
)
def test_chunks_in_onnxruntime_are_the_models_masked_forward_pass(variant):
    model = VARIANTS[variant]()
    _, difference, _ = opened(model)
    assert difference < 1e-5


@pytest.mark.parametrize("bits", [8, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("variant", ["conformer", "rnn", pytest.param("dnn", marks=pytest.mark.slow)])
def test_codes_stream_too(variant, bits):
    _, _, snr_db = opened(quantize_model(VARIANTS[variant](), QuantizeConfig(bits=bits)))
    assert snr_db > 25


def test_a_graph_that_forgets_is_refused():
    model = conformer()
    head = graphs_of(model)
    graph = head.build(model)["model.onnx"]
    (node,) = [node for node in graph.graph.node if "new_cached_val1_1" in node.output]
    node.output[0] = "unused"
    (other,) = [node for node in graph.graph.node if "new_cached_val2_1" in node.output]
    other.output.append("x")
    del other.output[1:]
    graph.graph.node.append(type(node)(op_type="Identity", input=["cached_val1_1"], output=["new_cached_val1_1"]))
    recogniser = head.open({"model.onnx": graph.SerializeToString()}, FEATURES, TOKENS, "m")
    with pytest.raises(UserError, match="nats from the model"):
        head.compare(model, recogniser)


def test_any_split_of_the_sound_gives_the_same_numbers_and_text(folder):
    recogniser, sound = load_recogniser(folder), noise(20000)
    assert isinstance(recogniser, StreamingRecogniser)
    expected = recogniser.recognise(sound, "u")["greedy"]
    assert len(set(expected)) > 3
    streams_ = []
    for seed in range(6):
        stream, shown = fed_in_pieces(recogniser, sound, seed)
        streams_.append(stream.log_probs)
        assert stream.text == expected and all(expected.startswith(text) for text in shown)
    assert all(np.array_equal(streams_[0], other) for other in streams_)


def test_it_hears_what_torch_hears_and_to_the_end(folder):
    """Every frame of a sound is in, and is what torch's masked forward pass gives of the same sound with silence behind it."""
    recogniser, model = load_recogniser(folder), load_recogniser(folder.parent).model.model
    network = recogniser.network
    for samples in (1, 100, 400, 3040, 3041, 16000, 20320):
        stream = recogniser.stream()
        stream.accept(noise(samples))
        stream.finish()
        whole = torch.cat([torch.from_numpy(noise(samples)), torch.zeros(160 * network.width)])
        feats = compute_features(whole, FEATURES)
        with torch.no_grad():
            expected = model(feats[None], torch.tensor([len(feats)]))[0][0].numpy()
        frames = len(stream.log_probs)
        # a last chunk of silence may be computed in one and not in the other
        assert 4 * frames >= samples / 160 - 3 and len(expected) - frames <= 4 and frames % 4 == 0
        np.testing.assert_allclose(stream.log_probs, expected[:frames], atol=2e-4)
        assert recogniser.recognise(noise(samples), "u")["greedy"] == stream.text


def test_sherpa_says_the_same(folder):
    pytest.importorskip("sherpa_onnx")
    recogniser, texts = load_recogniser(folder), []
    with SherpaProcess(folder) as process:
        for number, samples in enumerate((20, 400, 3040, 16000, 37000)):
            sound = noise(samples, seed=number)
            texts.append(process.recognise(sound, "u")["greedy"])
            assert texts[-1] == recogniser.recognise(sound, "u")["greedy"]
    assert len(texts[-1]) > 10


@pytest.mark.parametrize(
    "variant",
    [
        "pruned",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("ahead", "rnn", "dnn", "sliding", "rnn-sliding")),
    ],
)
def test_sherpa_keeps_the_states_of_blocks_that_differ(variant, tmp_path):
    pytest.importorskip("sherpa_onnx")
    model = emits_letters(VARIANTS[variant]())
    place = save_folder(tmp_path / "m", model, FEATURES)
    export_folder(place, place / "export")
    with SherpaProcess(place / "export") as process:
        sound = noise(20000)
        expected = load_recogniser(place / "export").recognise(sound, "u")["greedy"]
        assert process.recognise(sound, "u")["greedy"] == expected and len(expected) > 5


def test_pieces_add_up():
    pieces = list(feed(np.arange(20001), 16000))
    assert [len(piece) for piece in pieces[:6]] == [160, 320, 800, 1600, 3200, 8000]
    assert np.array_equal(np.concatenate(pieces), np.arange(20001)) and list(feed(np.empty(0), 16000)) == []


def test_programs_use_it_like_any_export(folder, tmp_path):
    write_data_dir(tmp_path / "data", [utterance(folder)])

    def decoded(place, *options):
        with pytest.MonkeyPatch.context() as patch:
            words = ["--model", place, "--data", tmp_path / "data", "--out", tmp_path / "out", *options]
            patch.setattr(sys, "argv", ["program", *map(str, words)])
            decode.main()
        return (tmp_path / "out/greedy.txt").read_text().split(maxsplit=1)[1].strip()

    text = load_recogniser(folder).recognise(noise(16000), "u")["greedy"]
    assert decoded(folder) == text
    # without the silence behind, in chunks of the model's own, of another length, and whole
    said = [decoded(folder.parent, *options) for options in ((), ("--chunk-ms", 40), ("--chunk-ms", 0))]
    assert text.startswith(said[0][:-2]) and len(set(said)) == 3
    assert json.loads((tmp_path / "out/decode.json").read_text())["chunk_ms"] == 0
    with pytest.raises(UserError, match="--chunk-ms is for model folders; export the model again with --chunk-ms 40"):
        decoded(folder, "--chunk-ms", 40)
    assert 5e5 < count_macs(folder, 2.0) < 2e6
    page = (folder / "README.md").read_text()
    assert "Look-ahead: 150 ms" in page and "19 more frames of digital silence, 190 ms" in page
    assert "OnlineRecognizer.from_zipformer2_ctc" in page and "OfflineRecognizer" not in page and streams(folder)


def test_what_needs_posteriors_of_features_refuses_it(folder):
    for use in (frame_recogniser, ExportTeacher):
        with pytest.raises(
            UserError, match="no frame-wise posteriors of features come from it; name the model folder of a CTC model"
        ):
            use(folder)
    with pytest.raises(UserError, match="u: a streaming model hears samples"):
        load_recogniser(folder).recognise(np.zeros((50, DIM), np.float32), "u")
    (noisy,) = noisy_features(FEATURES, 5, 0, load_recogniser(folder).hears)(utterance(folder))
    assert noisy.shape == (16000,) and not np.allclose(noisy, noise(16000), atol=0.01)


def test_it_is_opened_without_torch(folder):
    code = "import sys; from steps.deploy.runtimes import load_recogniser; load_recogniser(sys.argv[1]).stream(); "
    assert (
        subprocess.run([sys.executable, "-c", code + "sys.exit('torch' in sys.modules)", str(folder)]).returncode == 0
    )


def test_a_folder_is_exported_with_other_chunks(folder, tmp_path):
    model = folder.parent
    export_folder(model, tmp_path / "long", chunk_ms=320)
    assert metadata(tmp_path / "long/model.onnx")["T"] == "35"
    export_folder(model, tmp_path / "whole", chunk_ms=0)
    assert not streams(tmp_path / "whole") and load_recogniser(tmp_path / "whole").hears == "features"
    with pytest.raises(UserError, match="m: a chunk is a multiple of 40 ms"):
        export_folder(model, tmp_path / "odd", chunk_ms=90)
    plain = save_folder(tmp_path / "plain", make_model("dnn"), FEATURES)
    with pytest.raises(UserError, match="plain: a dnn without `streaming` in its settings does not run in chunks"):
        export_folder(plain, tmp_path / "odd", chunk_ms=320)


@pytest.mark.slow
def test_they_are_refused_before_anything_is_written(tmp_path):
    place = save_folder(tmp_path / "m", conformer(), FeatureConfig(num_mel_bins=DIM, level_dbfs=-25.0))
    with pytest.raises(UserError, match="features with level_dbfs are not computed while sound arrives"):
        export_folder(place, tmp_path / "out")
    assert not (tmp_path / "out/SHA256SUMS").exists()


def test_a_file_that_says_nonsense_about_itself_is_refused():
    content = graphs_of(conformer()).build(conformer())["model.onnx"].SerializeToString()
    for key, value in (("T", "99999999999"), ("T", "-3"), ("T", "20"), ("decode_chunk_len", "0")):
        graph = onnx.load_from_string(content)
        (entry,) = [entry for entry in graph.metadata_props if entry.key == key]
        entry.value = value
        with pytest.raises(UserError, match="not a streaming CTC model"):
            StreamingNetwork(graph.SerializeToString())


def test_what_is_no_graph_says_nothing_about_itself(tmp_path):
    write_text(tmp_path / "model.onnx", "no graph")
    assert metadata(tmp_path / "model.onnx") == {} and not streams(tmp_path) and not streams(tmp_path / "nowhere")


def test_a_graph_weighs_what_a_stream_hears_and_its_weights_are_chosen_by_that(folder, tmp_path):
    pytest.importorskip("kaldi_decoder")
    sound, recogniser = noise(20000), load_recogniser(folder)
    words = {letter: [[number]] for number, letter in enumerate(recogniser.tokens) if len(letter) == 1 and number > 2}
    model = estimate(count_ngrams([], 1), [1], words)
    graph, names = build_graph(model, words, Weights(0.1, 2.0), space_id=2)
    (tmp_path / "HLG.fst").write_bytes(write_fst(graph))
    (tmp_path / "words.txt").write_text("".join(f"{name} {number}\n" for number, name in enumerate(names)))
    recogniser.use_graph(tmp_path)
    texts = recogniser.recognise(sound, "u")
    assert texts["lm"] and recogniser.graph.decode(listen(recogniser, sound)) == texts["lm"]
