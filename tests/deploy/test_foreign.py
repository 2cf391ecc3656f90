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
from steps.deploy.screen import is_foreign
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


def hearing_samples(units, lengths=True):
    """A model of samples: of each 320 of them a row, a Linear, a softmax; and how many rows. Returns: ModelProto, matrix."""
    weights = np.random.default_rng(units).normal(size=(320, units)).astype(np.float32)
    inputs = [helper.make_tensor_value_info("waveform", TensorProto.FLOAT, ["batch", "samples"])]
    outputs = [helper.make_tensor_value_info("log_probs", TensorProto.FLOAT, ["batch", "time", units])]
    nodes = [
        helper.make_node("Reshape", ["waveform", "shape"], ["rows"]),
        helper.make_node("MatMul", ["rows", "w"], ["logits"]),
        helper.make_node("LogSoftmax", ["logits"], ["log_probs"]),
    ]
    if lengths:
        inputs.append(helper.make_tensor_value_info("waveform_lengths", TensorProto.INT64, ["batch"]))
        outputs.append(helper.make_tensor_value_info("out_lengths", TensorProto.INT64, ["batch"]))
        nodes.append(helper.make_node("Div", ["waveform_lengths", "width"], ["out_lengths"]))
    constants = {"shape": np.array([1, -1, 320], np.int64), "width": np.array([320], np.int64), "w": weights}
    graph = helper.make_graph(
        nodes, "ctc", inputs, outputs, [numpy_helper.from_array(value, name) for name, value in constants.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), weights


@pytest.mark.parametrize("lengths", [True, False])
@pytest.mark.parametrize("normalise", ["none", "all_features"])
def test_models_that_hear_samples(tmp_path, lengths, normalise):
    """As wav2vec 2.0's exports do; the file may be called as ours are."""
    model, weights = hearing_samples(3, lengths)
    save(tmp_path / "m", "plain", model=model)
    (tmp_path / "m/ctc.onnx").rename(tmp_path / "m/model.onnx")
    with pytest.raises(MissingInput, match="kind: samples for a model that hears samples"):
        ForeignCtc(tmp_path / "m")
    (tmp_path / "m/features.yaml").write_text("num_mel_bins: 80\n")
    with pytest.raises(
        UserError, match="model.onnx: hears samples, not features; say `kind: samples` in features.yaml"
    ):
        ForeignCtc(tmp_path / "m")
    (tmp_path / "m/features.yaml").write_text(f"kind: samples\nnormalise: {normalise}\n")
    teacher = open_teacher(tmp_path / "m")
    assert teacher.frame_shift_ms == 20 and teacher.vocabulary == OURS
    samples = (np.random.default_rng(1).normal(size=6450) * 0.1 + 0.05).astype(np.float32)
    soundfile.write(tmp_path / "u.wav", samples, 16000, subtype="FLOAT")
    utt = Utterance("u", "u", "", str(tmp_path / "u.wav"))
    heard = Hearing(tmp_path / "none", teacher.features)(utt)
    said = teacher.teach(heard[None], torch.tensor([len(heard)]))
    assert heard.shape == (40, 160) and said.lengths.tolist() == [20]
    # what fills no frame of 10 ms is left out
    whole = samples[:6400]
    if normalise != "none":
        whole = (whole - whole.mean()) / whole.std()
    expected = torch.from_numpy(whole.reshape(20, 320) @ weights)[:, [2, 0, 1]].log_softmax(dim=-1)
    torch.testing.assert_close(said.log_probs[0][:, [0, 2, 3]], expected, rtol=1e-3, atol=1e-3)
    with load_recogniser(tmp_path / "m") as recogniser:
        np.testing.assert_array_equal(recogniser.log_probs(samples), said.log_probs[0].numpy())


def test_samples_have_no_bins(tmp_path):
    save(tmp_path / "m", "plain", model=hearing_samples(3)[0])
    (tmp_path / "m/features.yaml").write_text("kind: samples\nnormalise: per_feature\n")
    with pytest.raises(UserError, match="per_feature is of bins, which kind: samples has none of; use all_features"):
        ForeignCtc(tmp_path / "m")
    (tmp_path / "m/features.yaml").write_text("kind: samples\nmel: slaney\nwindow: hanning\n")
    with pytest.raises(UserError, match="kind samples has no window"):
        ForeignCtc(tmp_path / "m")
    save(tmp_path / "n", "plain")
    (tmp_path / "n/features.yaml").write_text("kind: samples\n")
    with pytest.raises(UserError, match="ctc.onnx: not an offline CTC model of whole utterances"):
        ForeignCtc(tmp_path / "n")


def test_a_file_called_as_ours_is_not_taken_for_ours(tmp_path):
    """Features by lengths as ours, but the blank last: read as ours it would write blanks as letters."""
    save(tmp_path / "m", "icefall", meta={}, tokens=["\u2581a", "b", "<pad>"])
    (tmp_path / "m/ctc.onnx").rename(tmp_path / "m/model.onnx")
    (tmp_path / "m/features.yaml").write_text("num_mel_bins: 80\n")
    with load_recogniser(tmp_path / "m") as recogniser:
        assert type(recogniser).__name__ == "ForeignRecogniser" and recogniser.foreign.vocabulary == OURS


def samples_with(outputs, nodes, beside=(), constants=None, size=TensorProto.FLOAT, width="samples"):
    """A model of samples whose nodes make "out" of "waveform" and the matrix "w" (320, 3); what more it takes stands in `beside`."""
    weights = np.random.default_rng(3).normal(size=(320, 3)).astype(np.float32)
    arrays = {"shape": np.array([1, -1, 320], np.int64), "w": weights} | (constants or {})
    made = [
        helper.make_node("Cast", ["waveform"], ["single"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["single", "shape"], ["rows"]),
        helper.make_node("MatMul", ["rows", "w"], ["logits"]),
        *nodes,
    ]
    inputs = [helper.make_tensor_value_info("waveform", size, ["batch", width])]
    inputs += [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in beside]
    tensors = [numpy_helper.from_array(value, name) for name, value in arrays.items()]
    values = [helper.make_tensor_value_info(*output) for output in outputs]
    graph = helper.make_graph(made, "ctc", inputs, values, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), weights


OUT = [("out", TensorProto.FLOAT, ["batch", "time", 3])]
MASK = ("attention_mask", TensorProto.INT64, ["batch", "samples"])


def as_given(*nodes, **other):
    return samples_with(OUT, nodes or [helper.make_node("LogSoftmax", ["logits"], ["out"])], **other)


def masked():
    """Every sum of the mask is added to the logits: with a mask of ones, its length."""
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["mask"], ["mean"], keepdims=1),
        helper.make_node("Mul", ["logits", "mean"], ["out"]),
    ]
    return as_given(*nodes, beside=[MASK])


def half():
    nodes = [helper.make_node("Cast", ["logits"], ["out"], to=TensorProto.FLOAT16)]
    return samples_with([("out", TensorProto.FLOAT16, ["batch", "time", 3])], nodes, size=TensorProto.FLOAT16)


def time_first():
    nodes = [helper.make_node("Transpose", ["logits"], ["out"], perm=[1, 0, 2])]
    return samples_with([("out", TensorProto.FLOAT, ["time", "batch", 3])], nodes)


def no_lengths():
    """A second output of one number that is no length."""
    nodes = [
        helper.make_node("LogSoftmax", ["logits"], ["out"]),
        helper.make_node("Identity", ["nan"], ["score"]),
    ]
    score = ("score", TensorProto.FLOAT, [1])
    return samples_with([*OUT, score], nodes, constants={"nan": np.array([np.nan], np.float32)})


def underflowing():
    """The log of a softmax in which what is unlikely is 0."""
    nodes = [
        helper.make_node("Mul", ["logits", "much"], ["loud"]),
        helper.make_node("Softmax", ["loud"], ["probabilities"]),
        helper.make_node("Log", ["probabilities"], ["out"]),
    ]
    return as_given(*nodes, constants={"much": np.array([1e4], np.float32)})


@pytest.mark.parametrize(
    ("made", "factor"),
    [
        (as_given, 1),
        (lambda: as_given(helper.make_node("Softmax", ["logits"], ["out"])), 1),
        (masked, 1),
        (half, 1),
        (time_first, 1),
        (no_lengths, 1),
        (underflowing, 1e4),
    ],
)
def test_what_exports_of_others_take_and_give(tmp_path, made, factor):
    model, weights = made()
    save(tmp_path / "m", "plain", model=model)
    (tmp_path / "m/features.yaml").write_text("kind: samples\n")
    foreign = ForeignCtc(tmp_path / "m")
    samples = (np.random.default_rng(1).normal(size=(16, 160)) * 0.1).astype(np.float32)
    expected = torch.from_numpy(samples.reshape(8, 320) @ weights * factor)[:, [2, 0, 1]].log_softmax(dim=-1)
    said = foreign.log_probs(samples)[:, [0, 2, 3]]
    np.testing.assert_allclose(np.exp(said), expected.exp(), atol=5e-3)
    assert foreign.stride == 2 and said.argmax(axis=1).tolist() == expected.argmax(dim=1).tolist()


def test_an_utterance_shorter_than_a_model_needs_says_nothing(tmp_path):
    """Here no whole row of 320 samples fits in what a model of whole rows takes."""
    save(tmp_path / "m", "plain", model=as_given()[0])
    (tmp_path / "m/features.yaml").write_text("kind: samples\n")
    foreign = ForeignCtc(tmp_path / "m")
    assert foreign.log_probs(np.zeros((3, 160), np.float32)).shape == (0, 4)
    with pytest.raises(UserError, match="m: does not run on features"):
        foreign.log_probs(np.zeros((31, 160), np.float32))
    with load_recogniser(tmp_path / "m") as recogniser:
        assert recogniser.recognise(np.zeros(480, np.float32), "u") == {"greedy": ""}
        with pytest.raises(UserError, match="^u: .*m: does not run on features"):
            recogniser.recognise(np.zeros(31 * 160, np.float32), "u")


def test_other_lengths_and_rates_are_refused(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m/features.yaml").write_text("kind: samples\n")
    save(tmp_path / "m", "plain", model=as_given(width=64000)[0])
    with pytest.raises(
        UserError, match="ctc.onnx: takes inputs of length 64000 alone; export it with a length of any size"
    ):
        ForeignCtc(tmp_path / "m")
    sixteen_ms = {"shape": np.array([1, -1, 256], np.int64), "w": np.ones((256, 3), np.float32)}
    save(tmp_path / "m", "plain", model=as_given(constants=sixteen_ms)[0])
    with pytest.raises(UserError, match="m: 250 frames of 400, 500 of 800: no CTC model with a frame for each 1 to 16"):
        ForeignCtc(tmp_path / "m")
    save(tmp_path / "m", "plain", model=as_given()[0])
    (tmp_path / "m/tokens.txt").unlink()
    with pytest.raises(
        MissingInput, match="tokens.txt: no such file; one line `symbol id` for each output, <blk> the blank"
    ):
        ForeignCtc(tmp_path / "m")


def test_an_export_of_ours_teaches_without_its_list_of_files(tmp_path):
    """And is known by the names of what goes in and out, whatever the file is called."""
    model, _ = net("icefall", {}, 4)
    for value, name in zip(
        (*model.graph.input, *model.graph.output), ("x", "x_lens", "log_probs", "log_probs_lens"), strict=True
    ):
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [name if own == value.name else own for own in names]
        value.name = name
    folder = tmp_path / "m"
    save(folder, "icefall", model=model, tokens=OURS)
    (folder / "features.yaml").write_text("num_mel_bins: 80\n")
    assert is_foreign(folder)
    (folder / "ctc.onnx").rename(folder / "model.onnx")
    assert not is_foreign(folder)
    model.graph.output[1].name = model.graph.node[-1].output[0] = "frames"
    onnx.save(model, folder / "model.onnx")
    assert is_foreign(folder)
    for content in (b"", b"\xff\xff"):
        (folder / "model.onnx").write_bytes(content)
        assert is_foreign(folder)


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
