"""Streaming transducers: the export is the model, sound may come in any pieces, and sherpa-onnx says the same."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from steps import decode
from steps.compress.lowrank import factorise
from steps.compress.quantize_config import QuantizeConfig
from steps.compress.quantizer import quantize_model
from steps.compress.surgery import shrink
from steps.core.cli import UserError
from steps.core.datadir import write_data_dir
from steps.core.exports import read_sums
from steps.data.feature_config import FeatureConfig
from steps.data.features import compute_features
from steps.deploy.export import export_folder
from steps.deploy.graphs import graphs_of
from steps.deploy.macs import count_macs
from steps.deploy.runtimes import frame_recogniser, load_recogniser
from steps.deploy.runtimes.sherpa import SherpaProcess
from steps.deploy.runtimes.streaming_transducer import StreamingTransducer, StreamingTransducerRecogniser
from steps.deploy.runtimes.transducer import TransducerRecogniser
from steps.deploy.screen import metadata, streams
from steps.search.transducer import check_finite
from steps.training.teachers import ExportTeacher
from tests.deploy.conftest import DIM, TOKENS, make_model, save_folder
from tests.deploy.streams import (
    AHEAD,
    FEATURES,
    ONE_WAY,
    SPLICED,
    fed_in_pieces,
    noise,
    talkative,
    transducer,
    utterance,
)


def pruned():
    kept = {"blocks.0.convolution.channels": [0, 3, 4, 7], "blocks.1.attention.heads": [1]}
    return shrink(transducer(), kept | {"joiner": [*range(40)], "predictor": [*range(0, 96, 3)]})


VARIANTS = {
    "conformer": transducer,
    "ahead": lambda: transducer(**AHEAD),
    "batch-norm": lambda: transducer(conv_norm="batch"),
    "pruned": pruned,
    "low-rank": lambda: factorise(transducer(), {"blocks.0.attention.qkv": 5, "encoder_to_joiner": 8, "predictor": 8}),
    "sliding": lambda: transducer(**AHEAD, normalisation="sliding"),
    "rnn": lambda: make_model("rnn", head="transducer", **ONE_WAY),
    "dnn": lambda: make_model("dnn", head="transducer", **SPLICED),
}


def opened(model):
    """The model's graphs in onnxruntime, compared with torch. Returns: recogniser, difference, SNR."""
    head = graphs_of(model)
    contents = {name: graph.SerializeToString() for name, graph in head.build(model).items()}
    recogniser = head.open(contents, FEATURES, TOKENS, "m")
    return recogniser, *head.compare(model, recogniser)


@pytest.mark.parametrize(
    "variant",
    [name if name in ("pruned", "rnn", "sliding") else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS],
)
def test_chunks_in_onnxruntime_are_the_models_masked_forward_pass(variant):
    model = VARIANTS[variant]()
    recogniser, difference, _ = opened(model)
    kept = sum(int(np.prod(size)) for own in model.state_sizes() for size in own.values())
    assert [state.shape for state in recogniser.network.first_states(3)] == [(1, 3, kept), (1, 3, 1)]
    assert difference < 1e-5


@pytest.mark.parametrize(
    ("variant", "bits"),
    [("conformer", 8), pytest.param("rnn", 8, marks=pytest.mark.slow), pytest.param("low-rank", 4, marks=pytest.mark.slow)],
)  # fmt: skip
def test_codes_stream_too(variant, bits):
    model = quantize_model(VARIANTS[variant](), QuantizeConfig(bits=bits))
    _, _, snr_db = opened(model)
    assert snr_db > 20


@pytest.fixture
def folder(transducer_export):
    return transducer_export


def contents_of(folder):
    """The ONNX files of an export by name."""
    return {name: (folder / name).read_bytes() for name in read_sums(folder) if name.endswith(".onnx")}


@pytest.mark.parametrize("state", ["new_h", "new_c"])
def test_an_encoder_that_forgets_is_refused(folder, state):
    model = load_recogniser(folder.parent).model.model
    head, graph = graphs_of(model), onnx.load(folder / "encoder.onnx")
    (node,) = [node for node in graph.graph.node if state in node.output]
    node.output[0] = "unused"
    graph.graph.node.append(onnx.helper.make_node("Identity", [state.removeprefix("new_")], [state]))
    contents = contents_of(folder)
    head.compare(model, head.open(contents, FEATURES, TOKENS, "m"))
    with pytest.raises(UserError, match="nats from the model"):
        head.compare(model, head.open(contents | {"encoder.onnx": graph.SerializeToString()}, FEATURES, TOKENS, "m"))


def test_any_split_of_the_sound_gives_the_same_numbers_and_text(folder, tmp_path):
    recogniser, sound = load_recogniser(folder), noise(20000)
    assert isinstance(recogniser, StreamingTransducerRecogniser)
    recogniser.use_beam(4)
    (tmp_path / "words.txt").write_text("ab\n")
    recogniser.use_words(tmp_path / "words.txt", folder, word_score=1.0)
    said = recogniser.recognise(sound, "u")
    assert len(set(said["greedy"])) > 3 and set(said) == {"greedy", "lexicon", "beam"}
    assert set(said["lexicon"].split()) == {"ab"}
    streams_ = []
    for seed in range(6):
        stream, shown = fed_in_pieces(recogniser, sound, seed)
        streams_.append(stream.encoded)
        assert stream.text == said["greedy"] and all(said["greedy"].startswith(text) for text in shown)
    assert all(np.array_equal(streams_[0], other) for other in streams_)
    assert {kind: said[kind] for kind in ("lexicon", "beam")} == recogniser.searched(streams_[0])


def test_it_hears_what_torch_hears_and_to_the_end(folder):
    """Every frame of a sound is in, and is what torch's masked forward pass gives of the same sound with silence behind it."""
    recogniser, model = load_recogniser(folder), load_recogniser(folder.parent).model.model
    for samples in (1, 100, 3040, 3041, 20320):
        stream = recogniser.stream()
        stream.accept(noise(samples))
        stream.finish()
        whole = torch.cat([torch.from_numpy(noise(samples)), torch.zeros(160 * recogniser.network.width)])
        feats = compute_features(whole, FEATURES)
        with torch.no_grad():
            expected, lengths = model(feats[None], torch.tensor([len(feats)]))
        frames = len(stream.encoded)
        # a last chunk of silence may be computed in one and not in the other
        assert 4 * frames >= samples / 160 - 3 and lengths[0] - frames <= 4 and frames % 4 == 0
        np.testing.assert_allclose(stream.encoded, expected[0, :frames].numpy(), atol=2e-4)
        (ids,) = model.head.best_tokens(model, expected[:, :frames], torch.tensor([frames]))
        assert recogniser.recognise(noise(samples), "u")["greedy"] == recogniser.words(ids) == stream.text
    assert len(ids) > 10


def test_sherpa_says_the_same(folder):
    pytest.importorskip("sherpa_onnx")
    recogniser, texts = load_recogniser(folder), []
    with SherpaProcess(folder) as process:
        for number, samples in enumerate((1, 400, 3040, 37000, 30001)):
            sound = noise(samples, seed=number)
            texts.append(process.recognise(sound, "u")["greedy"])
            assert texts[-1] == recogniser.recognise(sound, "u")["greedy"]
    assert len(set("".join(texts))) > 4 and len(texts[-1]) > 10


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["pruned", "ahead", "rnn", "sliding"])
def test_sherpa_keeps_the_states_of_blocks_that_differ(variant, tmp_path):
    pytest.importorskip("sherpa_onnx")
    place = save_folder(tmp_path / "m", talkative(VARIANTS[variant]()), FEATURES)
    export_folder(place, place / "export")
    with SherpaProcess(place / "export") as process:
        sound = noise(20000)
        expected = load_recogniser(place / "export").recognise(sound, "u")["greedy"]
        assert process.recognise(sound, "u")["greedy"] == expected and len(expected) > 5


TOGETHER = """
import sys, numpy, sherpa_onnx
names = {name: f"{sys.argv[1]}/{name}.onnx" for name in ("encoder", "decoder", "joiner")}
recogniser = sherpa_onnx.OnlineRecognizer.from_transducer(
    tokens=f"{sys.argv[1]}/tokens.txt", feature_dim=20, decoding_method=sys.argv[3], max_active_paths=4, **names)
streams = []
for name, sound in numpy.load(sys.argv[2]).items():
    streams.append(recogniser.create_stream())
    streams[-1].accept_waveform(16000, sound)
    if name != "arr_0":
        ready = [stream for stream in streams if recogniser.is_ready(stream)]
        recogniser.decode_streams(ready)
for stream in streams:
    stream.input_finished()
while ready := [stream for stream in streams if recogniser.is_ready(stream)]:
    recogniser.decode_streams(ready)
print(*("|" + recogniser.get_result(stream) + "|" for stream in streams), sep="\\n")
"""


@pytest.mark.parametrize("method", [pytest.param("greedy_search", marks=pytest.mark.slow), "modified_beam_search"])
def test_sherpa_says_the_same_of_streams_in_one_batch_and_its_beam_is_ours(folder, tmp_path, method):
    pytest.importorskip("sherpa_onnx")
    recogniser, sounds = load_recogniser(folder), [noise(samples, seed=samples) for samples in (30000, 9000, 20000)]
    recogniser.use_beam(4)
    silence = np.zeros(160 * recogniser.network.width, np.float32)
    np.savez(tmp_path / "sounds.npz", *(np.concatenate([sound, silence]) for sound in sounds))
    words = [sys.executable, "-c", TOGETHER, str(folder), str(tmp_path / "sounds.npz"), method]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()
    texts = [recogniser.recognise(sound, "u") for sound in sounds]
    kind = "greedy" if method == "greedy_search" else "beam"
    assert [" ".join(line.strip("|").split()) for line in said] == [text[kind] for text in texts]
    assert any(text["greedy"] != text["beam"] for text in texts)


def test_programs_use_it_like_any_export(folder, tmp_path):
    write_data_dir(tmp_path / "data", [utterance(folder)])
    (tmp_path / "decode.yaml").write_text("beam: 4\n")

    def decoded(place, *options):
        with pytest.MonkeyPatch.context() as patch:
            words = ["--model", place, "--data", tmp_path / "data", "--out", tmp_path / "out", *options]
            patch.setattr(sys, "argv", ["program", *map(str, words)])
            decode.main()
        return (tmp_path / "out/greedy.txt").read_text().split(maxsplit=1)[1].strip()

    text = load_recogniser(folder).recognise(noise(16000), "u")["greedy"]
    assert decoded(folder, "--config", tmp_path / "decode.yaml") == text and (tmp_path / "out/beam.txt").is_file()
    # without the silence behind, in chunks of the model's own, and of another length
    said = [decoded(folder.parent, *options) for options in ((), ("--chunk-ms", 40))]
    assert text.startswith(said[0][:-2]) and said[0] != said[1]
    assert json.loads((tmp_path / "out/decode.json").read_text())["chunk_ms"] == 40
    assert 5e5 < count_macs(folder, 2.0) < 2e6


def test_what_ships_is_listed_and_explained(folder):
    files = [name for name in read_sums(folder) if name.endswith(".onnx")]
    assert sorted(files) == ["decoder.onnx", "encoder.onnx", "joiner.onnx"] and streams(folder)
    facts, page = metadata(folder / "encoder.onnx"), (folder / "README.md").read_text()
    assert (facts["T"], facts["decode_chunk_len"], facts["model_type"]) == ("19", "16", "lstm")
    assert "Look-ahead: 150 ms" in page and "19 more frames of digital silence, 190 ms" in page
    assert "OnlineRecognizer.from_transducer" in page and "OfflineRecognizer" not in page and "x_lens" not in page
    assert f"h (1, N, {facts['d_model']}) and c (1, N, 1)" in page and "at first -1, 0;" in page


def test_what_it_cannot_do_is_one_line(folder, tmp_path, monkeypatch):
    for use in (frame_recogniser, ExportTeacher):
        with pytest.raises(UserError, match="no frame-wise posteriors of features come from it"):
            use(folder)
    recogniser = load_recogniser(folder)
    with pytest.raises(UserError, match="u: a streaming model hears samples"):
        recogniser.recognise(np.zeros((50, DIM), np.float32), "u")
    with pytest.raises(UserError, match="u: the model returned scores that are not finite"):
        recogniser.recognise(np.full(8000, np.nan, np.float32), "u")
    assert recogniser.use_labels("l", folder) is recogniser.use_graph(folder) is None
    (tmp_path / "words.txt").write_text("ab\n")
    recogniser.use_words(tmp_path / "words.txt", folder)
    monkeypatch.setattr(recogniser.lexicon, "decode", lambda *_: check_finite(np.array([[np.nan]])))
    with pytest.raises(UserError, match="u: the model returned scores that are not finite"):
        recogniser.recognise(noise(8000), "u")


@pytest.mark.slow
def test_features_that_need_the_whole_sound_are_refused_before_anything_is_written(tmp_path):
    loud = save_folder(tmp_path / "m", transducer(), FeatureConfig(num_mel_bins=DIM, level_dbfs=-25.0))
    with pytest.raises(UserError, match="features with level_dbfs are not computed while sound arrives"):
        export_folder(loud, tmp_path / "out")
    assert not (tmp_path / "out/SHA256SUMS").exists()


@pytest.mark.slow
def test_a_folder_is_exported_with_other_chunks(folder, tmp_path):
    export_folder(folder.parent, tmp_path / "out", chunk_ms=320)
    assert metadata(tmp_path / "out/encoder.onnx")["T"] == "35"
    export_folder(folder.parent, tmp_path / "out", chunk_ms=0)
    whole = load_recogniser(tmp_path / "out")
    assert not streams(tmp_path / "out") and type(whole) is TransducerRecogniser and whole.hears == "features"


def test_files_that_say_nonsense_about_themselves_are_refused(folder):
    contents = contents_of(folder)
    wrong = {"T": ("99999999999", "-3", "20"), "decode_chunk_len": ("0", "20"), "model_type": ("zipformer2",)}
    for key, value in ((key, value) for key, values in wrong.items() for value in values):
        graph = onnx.load_from_string(contents["encoder.onnx"])
        (entry,) = [entry for entry in graph.metadata_props if entry.key == key]
        entry.value = value
        with pytest.raises(UserError, match="the graphs: not a streaming transducer"):
            StreamingTransducer(contents | {"encoder.onnx": graph.SerializeToString()})
    with pytest.raises(UserError, match="not part of a transducer"):
        StreamingTransducer(contents | {"encoder.onnx": contents["joiner.onnx"]})


@pytest.mark.slow
def test_it_is_opened_without_torch(folder):
    code = "import sys; from steps.deploy.runtimes import load_recogniser; load_recogniser(sys.argv[1]).stream(); "
    words = [sys.executable, "-c", code + "sys.exit('torch' in sys.modules)", str(folder)]
    assert subprocess.run(words).returncode == 0
