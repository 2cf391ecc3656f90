"""Others' CTC models that hear samples, in the layouts that exports have, and what tells them from ours."""

import numpy as np
import onnx
import pytest
import soundfile
import torch
from onnx import TensorProto, helper, numpy_helper

from steps.core.cli import MissingInput, UserError
from steps.core.datadir import Utterance
from steps.deploy.foreign import ForeignCtc
from steps.deploy.runtimes import load_recogniser
from steps.deploy.screen import is_foreign
from steps.label_data import Hearing
from steps.training.teachers import open_teacher
from tests.deploy.test_foreign import OURS, net, save


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


def with_lengths():
    """Samples and how many there are go in, posteriors and how many rows come out."""
    nodes = [
        helper.make_node("LogSoftmax", ["logits"], ["out"]),
        helper.make_node("Div", ["waveform_lengths", "width"], ["out_lengths"]),
    ]
    counts = ("out_lengths", TensorProto.INT64, ["batch"])
    beside = [("waveform_lengths", TensorProto.INT64, ["batch"])]
    return samples_with([*OUT, counts], nodes, beside, {"width": np.array([320], np.int64)})


@pytest.mark.parametrize("lengths", [True, False])
@pytest.mark.parametrize("normalise", ["none", "all_features"])
def test_models_that_hear_samples(tmp_path, lengths, normalise):
    """As wav2vec 2.0's exports do; the file may be called as ours are."""
    model, weights = with_lengths() if lengths else as_given()
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
    save(tmp_path / "m", "plain", model=with_lengths()[0])
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


def test_an_utterance_shorter_than_a_model_needs_says_nothing(tmp_path, capfd):
    """Here no whole row of 320 samples fits in what a model of whole rows takes. Nor does onnxruntime say anything."""
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
    assert "onnxruntime" not in capfd.readouterr().err


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
