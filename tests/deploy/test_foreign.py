"""CTC models that others exported, made up in their layouts: recognised, brought to our units, teachers; the rest is refused."""

import numpy as np
import onnx
import pytest
import soundfile
import torch
from onnx import TensorProto, helper, numpy_helper

from steps.core.cli import MissingInput, UserError
from steps.core.config import ConfigError, from_dict
from steps.core.datadir import Utterance
from steps.data.feature_config import FeatureConfig
from steps.data.features import compute_features
from steps.data.foreign_features import ForeignFeatures, foreign_features, slaney_fbank
from steps.data.tokenizer import join_pieces
from steps.deploy.foreign import ForeignCtc, is_byte_bpe
from steps.deploy.recognition import decode_all, open_inputs
from steps.deploy.runtimes import load_recogniser
from steps.label_data import Hearing
from steps.training.teachers import ForeignTeacher, check_fit, identity, open_teacher
from tests.deploy.test_screen import branch, endless_loop

TOKENS = {
    "icefall": ["<blk>", "<sos/eos>", "<unk>", "\u2581a", "b", "#0", "#1"],
    "nemo": ["<unk>", "\u2581a", "b", "<blk>"],
    "wenet": ["<blank>", "<unk>", "\u2581a", "b", "<sos/eos>"],
    "plain": ["\u2581a", "b", "<pad>"],
}
OURS = ["<blk>", "<unk>", "\u2581a", "b"]


def net(kind, meta, units, stride=4, dim=80):
    """Every `stride`-th frame, a Linear, perhaps a softmax: logits for wenet. Returns: ModelProto, its matrix (dim, units)."""
    weights = np.random.default_rng(units).normal(size=(dim, units)).astype(np.float32) / 40
    turned, lengths = kind == "nemo", kind != "plain"
    shape = ["N", dim, "T"] if turned else ["N", "T", dim if kind != "wenet" else "D"]
    inputs = [helper.make_tensor_value_info("audio_signal", TensorProto.FLOAT, shape)]
    outputs = [
        helper.make_tensor_value_info("logprobs", TensorProto.FLOAT, ["N", "U", units if kind != "icefall" else "V"])
    ]
    nodes = [helper.make_node("Transpose", ["audio_signal"], ["x"], perm=[0, 2, 1])] if turned else []
    nodes += [helper.make_node("Slice", ["x" if turned else "audio_signal", "start", "end", "axis", "step"], ["y"])]
    nodes += [helper.make_node("MatMul", ["y", "w"], ["logits"])]
    nodes += [helper.make_node("Identity" if kind == "wenet" else "LogSoftmax", ["logits"], ["logprobs"])]
    if lengths:
        integer = TensorProto.INT32 if kind == "wenet" else TensorProto.INT64
        inputs.append(helper.make_tensor_value_info("length", integer, ["N"]))
    if kind == "icefall":
        outputs.append(helper.make_tensor_value_info("frames", TensorProto.INT64, ["N"]))
        nodes += [helper.make_node("Div", ["length", "step"], ["frames"])]
    numbers = {"start": [0], "end": [1 << 30], "axis": [1], "step": [stride]}
    constants = [numpy_helper.from_array(np.array(values, np.int64), name) for name, values in numbers.items()]
    graph = helper.make_graph(nodes, "ctc", inputs, outputs, [*constants, numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, meta)
    return model, weights


META = {
    "icefall": {"model_type": "zipformer2_ctc", "version": "1", "model_author": "k2-fsa"},
    "nemo": {"model_type": "EncDecCTCModelBPE", "normalize_type": "per_feature", "subsampling_factor": "8"},
    "wenet": {"model_type": "wenet_ctc", "subsampling_factor": "4"},
    "plain": {},
}


def save(folder, kind, stride=4, meta=None, tokens=None, model=None):
    folder.mkdir(exist_ok=True)
    tokens = tokens or TOKENS[kind]
    units = sum(not token.startswith("#") for token in tokens)
    made, weights = net(kind, META[kind] if meta is None else meta, units, stride)
    onnx.save(model or made, folder / "ctc.onnx")
    (folder / "tokens.txt").write_text("".join(f"{token} {i}\n" for i, token in enumerate(tokens)))
    return weights


@pytest.mark.parametrize(
    ("kind", "stride", "features"),
    [
        ("icefall", 4, FeatureConfig()),
        (
            "nemo",
            8,
            ForeignFeatures(mel="slaney", window="hanning", low_freq_hz=0, high_freq_hz=0, normalise="per_feature"),
        ),
        ("wenet", 4, ForeignFeatures(sample_scale=32768.0)),
    ],
)
def test_kinds_that_are_known_need_no_description(tmp_path, kind, stride, features):
    weights = save(tmp_path / "m", kind, stride)
    teacher = open_teacher(tmp_path / "m")
    assert isinstance(teacher, ForeignTeacher) and teacher.vocabulary == OURS and teacher.frame_shift_ms == 10 * stride
    assert teacher.features == features and type(teacher.features) is type(features)
    feats, lengths = torch.randn(2, 80, 80), torch.tensor([80, 48])
    said = teacher.teach(feats, lengths)
    assert said.lengths.tolist() == [80 // stride, 48 // stride]
    units = [token for token in TOKENS[kind] if not token.startswith("#")]
    order = [
        next(i for i, token in enumerate(units) if token in names)
        for names in (["<blk>", "<blank>"], *map(list, zip(OURS[1:])))
    ]
    logits = torch.from_numpy(feats[1, :48:stride].numpy() @ weights)
    expected = logits[:, order].log_softmax(dim=-1)
    torch.testing.assert_close(said.log_probs[1, : 48 // stride], expected, rtol=1e-4, atol=1e-4)
    if kind == "icefall":
        check_fit(teacher, OURS, FeatureConfig())
    else:
        with pytest.raises(UserError, match="m: hears other features.*steps.label_data --teacher"):
            check_fit(teacher, OURS, FeatureConfig())


def test_other_kinds_are_described(tmp_path):
    save(tmp_path / "m", "plain", 2)
    with pytest.raises(MissingInput, match="features.yaml: no such file, and model_type '' is none of zipformer2_ctc"):
        ForeignCtc(tmp_path / "m")
    (tmp_path / "m/features.yaml").write_text("num_mel_bins: 80\nlow_freq_hz: 60\n")
    model = ForeignCtc(tmp_path / "m")
    assert model.features == FeatureConfig(low_freq_hz=60) and model.stride == 2 and model.vocabulary == OURS
    # it has no <unk>
    assert (model.log_probs(np.zeros((10, 80), np.float32))[:, 1] <= -1000).all()


def test_the_identity_is_that_of_all_files(tmp_path):
    seen = set()
    for meta, tokens, text in ((None, None, ""), ({"model_type": "zipformer2_ctc"}, None, ""), (None, ["<blk>", "<unk>", "a"], ""),
                               (None, None, "low_freq_hz: 30\n")):  # fmt: skip
        save(tmp_path / "m", "icefall", meta=meta, tokens=tokens)
        (tmp_path / "m/features.yaml").write_text(text)
        seen.add(identity(tmp_path / "m"))
    assert len(seen) == 4


@pytest.mark.parametrize(("kind", "name"), [("icefall", "model.onnx"), ("nemo", "ctc.onnx"), ("wenet", "ctc.onnx")])
def test_it_writes_what_it_hears(tmp_path, kind, name):
    """With its own features, whatever stands in feats.scp, and with the words of its own units."""
    save(tmp_path / "m", kind)
    (tmp_path / "m/ctc.onnx").rename(tmp_path / "m" / name)
    (tmp_path / "feats.scp").write_text("u nowhere.ark:5\n")
    soundfile.write(tmp_path / "u.wav", np.random.default_rng(0).normal(size=12345) * 0.1, 16000)
    utt = Utterance("u", "u", "", str(tmp_path / "u.wav"))
    with load_recogniser(tmp_path / "m") as recogniser:
        inputs = open_inputs(recogniser, tmp_path, [utt], tmp_path / "m")
        hyps, seconds = decode_all(recogniser, [utt], inputs)
        said = recogniser.log_probs(next(inputs(utt)))
        assert recogniser.use_words("words.txt", tmp_path / "m") is None
    teacher = ForeignCtc(tmp_path / "m")
    np.testing.assert_array_equal(said, teacher.log_probs(Hearing(tmp_path / "none", teacher.features)(utt).numpy()))
    best = said.argmax(axis=1)
    ids = [unit for unit, before in zip(best, [0, *best], strict=False) if unit != before]
    assert ids and hyps == {"greedy": {"u": " ".join(join_pieces(OURS, ids, 0).split())}}
    assert seconds == pytest.approx(12345 / 16000)


def test_what_is_no_such_model_is_refused(tmp_path):
    folder = tmp_path / "m"
    save(folder, "icefall", tokens=TOKENS["icefall"][:4])
    (folder / "tokens.txt").write_text("<blk> 0\na 1\n")
    with pytest.raises(UserError, match="m: the model has 4 outputs, tokens.txt 2 tokens"):
        ForeignCtc(folder)
    save(folder, "icefall")
    (folder / "features.yaml").write_text("num_mel_bins: 40\n")
    with pytest.raises(UserError, match="ctc.onnx: wants 80 features, features.yaml gives 40"):
        ForeignCtc(folder)
    (folder / "features.yaml").unlink()
    save(folder, "icefall", stride=50)
    with pytest.raises(UserError, match="m: 8 frames of 400, 16 of 800: no CTC model"):
        ForeignCtc(folder)
    model, _ = net("icefall", META["icefall"], 5)
    model.graph.input.add().CopyFrom(helper.make_tensor_value_info("cache", TensorProto.FLOAT, ["N", 4, 4]))
    save(folder, "icefall", model=model)
    with pytest.raises(UserError, match="ctc.onnx: not an offline CTC model of whole utterances.*cache"):
        ForeignCtc(folder)
    save(folder, "icefall")
    onnx.save(model, folder / "second.onnx")
    with pytest.raises(UserError, match="expected one .onnx file, found ctc.onnx, second.onnx"):
        ForeignCtc(folder)
    (folder / "second.onnx").unlink()
    save(folder, "nemo", meta=META["nemo"] | {"normalize_type": "odd"})
    with pytest.raises(UserError, match="normalize_type 'odd' is not known; say it in .*features.yaml"):
        ForeignCtc(folder)


def test_symbols_that_are_bytes_are_refused(tmp_path):
    """A tenth of the pieces of a byte-level model of Chinese, and the letters of languages that have some of them, too."""
    assert is_byte_bpe(["<blk>", "<unk>", "\u2581", *map(chr, range(0x121, 0x162)), "\u018c\u014b\u0163", "a"])
    for letters in (
        "\u0190\u0186\u014a\u0189",
        "\u0101\u010d\u0113\u0123\u012b",
        "abc",
        "".join(map(chr, range(0xE0, 0x180))),
    ):
        assert not is_byte_bpe(["<blk>", "\u2581", *letters, *letters.lower()])
    save(tmp_path / "m", "icefall", tokens=["<blk>", *map(chr, range(0x121, 0x162)), "\u018c"])
    with pytest.raises(UserError, match="tokens.txt: byte-level BPE, whose symbols are bytes.*--command"):
        ForeignCtc(tmp_path / "m")


def test_branches_are_opened_loops_are_not(tmp_path):
    save(tmp_path / "m", "icefall", model=endless_loop())
    with pytest.raises(UserError, match="ctc.onnx: holds a graph within the graph, which could run for ever"):
        ForeignCtc(tmp_path / "m")
    loop = branch()
    (node,) = [node for node in loop.graph.node if node.op_type == "If"]
    inside = next(attribute.g for attribute in node.attribute if attribute.name == "then_branch")
    inside.node.extend(node for node in endless_loop().graph.node if node.op_type == "Loop")
    save(tmp_path / "m", "icefall", model=loop)
    with pytest.raises(UserError, match="ctc.onnx: holds a graph within the graph"):
        ForeignCtc(tmp_path / "m")
    # only 4 features: opened, then refused for what it is
    save(tmp_path / "m", "icefall", model=branch())
    with pytest.raises(UserError, match="model_type '' is none of"):
        ForeignCtc(tmp_path / "m")
    for name in ("Scan", "Iffy"):
        other = branch()
        next(node for node in other.graph.node if node.op_type == "If").op_type = name
        save(tmp_path / "m", "icefall", model=other)
        with pytest.raises(UserError, match="holds a graph within the graph"):
            ForeignCtc(tmp_path / "m")


def test_features_of_16_bit_numbers_and_normalised_ones():
    samples = torch.randn(8000) * 0.1
    plain = compute_features(samples, FeatureConfig())
    scaled = foreign_features(samples, ForeignFeatures(sample_scale=32768.0))
    torch.testing.assert_close(scaled, plain + 2 * np.log(32768), rtol=1e-3, atol=1e-3)
    each = foreign_features(samples, ForeignFeatures(normalise="per_feature"))
    torch.testing.assert_close(each.mean(0), torch.zeros(80), atol=1e-4, rtol=0)
    torch.testing.assert_close(each.std(0, correction=0), torch.ones(80), atol=1e-3, rtol=0)
    every = foreign_features(samples, ForeignFeatures(normalise="all_features"))
    assert abs(float(every.mean())) < 1e-4 and float(each.mean(0).abs().max()) < float(every.mean(0).abs().max())


@pytest.mark.parametrize("settings", [{"sample_scale": 32768.0}, {"mel": "slaney", "window": "hanning"}])
def test_a_level_that_would_not_be_kept_is_refused(settings):
    with pytest.raises(ConfigError, match="level_dbfs goes with neither"):
        from_dict(ForeignFeatures, settings | {"level_dbfs": -25.0}, "features.yaml")


def test_slaney_filters_are_those_of_sherpa_onnx():
    knf = pytest.importorskip("kaldi_native_fbank")
    samples = torch.randn(8123, generator=torch.Generator().manual_seed(0)) * 0.1
    options = knf.FbankOptions()
    options.frame_opts.dither, options.frame_opts.snip_edges = 0, False
    options.frame_opts.remove_dc_offset, options.frame_opts.window_type = False, "hann"
    options.mel_opts.num_bins, options.mel_opts.low_freq, options.mel_opts.high_freq = 80, 0, 0
    options.mel_opts.is_librosa = True
    engine = knf.OnlineFbank(options)
    engine.accept_waveform(16000, samples.tolist())
    engine.input_finished()
    theirs = np.stack([engine.get_frame(i) for i in range(engine.num_frames_ready)])
    config = ForeignFeatures(mel="slaney", window="hanning", low_freq_hz=0, high_freq_hz=0)
    ours = slaney_fbank(samples, config).numpy()
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
