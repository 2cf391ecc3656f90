"""SenseVoice and TeleSpeech, made up in the layouts that sherpa-onnx opens: the same text by it and here; wrong metadata is refused."""

import numpy as np
import onnx
import pytest
import soundfile
from onnx import TensorProto, helper, numpy_helper

from steps.core.cli import UserError
from steps.data.foreign_features import ForeignFeatures
from steps.deploy.foreign import ForeignCtc
from steps.deploy.runtimes import load_recogniser
from steps.deploy.sense_voice import SenseVoice
from tests.deploy.test_foreign import net, save

UNITS = [f"\u2581{a}{b}" for a in "bdgk" for b in "aeio"] + list("mnsz")
WINDOW, SHIFT, DIM = 7, 6, 80
RNG = np.random.default_rng(0)
META = {
    "model_type": "sense_voice_ctc", "lfr_window_size": WINDOW, "lfr_window_shift": SHIFT, "normalize_samples": 0,
    "neg_mean": ",".join(f"{value:.4f}" for value in RNG.normal(-11, 1, WINDOW * DIM)),
    "inv_stddev": ",".join(f"{value:.4f}" for value in RNG.uniform(0.1, 0.4, WINDOW * DIM)), "version": "1",
    "vocab_size": 24, "comment": "made up", "lang_auto": 0, "lang_zh": 3, "lang_en": 4, "lang_yue": 7, "lang_ja": 11,
    "lang_ko": 12, "with_itn": 14, "without_itn": 15,
}  # fmt: skip


def sense_voice(meta):
    """The answers to four prompts, `bi`, `s`, `n`, `m` where it is asked for any language and words as spoken, then a Linear on each
    stacked frame, as logits. Returns: ModelProto."""
    units, numbers = len(UNITS) + 4, {"axis": [1], "event": [21], "feeling": [22]}
    constants = {name: np.array(values, np.int64) for name, values in numbers.items()}
    # each of four units listens to one of the frames
    heard = np.zeros((WINDOW, DIM, units), np.float32)
    heard[[0, 1, 3, 6], :, [5, 6, 8, 20]] = 0.1
    constants |= {"w": heard.reshape(-1, units), "one": np.array([6], np.int32)}
    constants |= {"answers": 90 * np.eye(units, dtype=np.float32), "back": np.array([8], np.int32)}
    nodes = [
        helper.make_node("Add", ["language", "one"], ["first"]),
        helper.make_node("Add", ["text_norm", "back"], ["last"]),
        helper.make_node("Cast", ["first"], ["first64"], to=TensorProto.INT64),
        helper.make_node("Cast", ["last"], ["last64"], to=TensorProto.INT64),
        helper.make_node("Concat", ["first64", "event", "feeling", "last64"], ["asked"], axis=0),
        helper.make_node("Gather", ["answers", "asked"], ["told"]),
        helper.make_node("Unsqueeze", ["told", "batch"], ["prompts"]),
        helper.make_node("MatMul", ["x", "w"], ["heard"]),
        helper.make_node("Concat", ["prompts", "heard"], ["logits"], axis=1),
    ]
    constants["batch"] = np.array([0], np.int64)
    values = {"x_length": ["N"], "language": ["N"], "text_norm": ["N"]}
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "T", WINDOW * DIM])]
    inputs += [helper.make_tensor_value_info(name, TensorProto.INT32, shape) for name, shape in values.items()]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", "U", units])]
    initial = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "ctc", inputs, outputs, initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {name: str(value) for name, value in meta.items()})
    return model


def made(folder, meta=META):
    folder.mkdir()
    onnx.save(sense_voice(meta), folder / "model.onnx")
    tokens = ["<unk>", "<s>", "</s>", *UNITS, "<|en|>"]
    (folder / "tokens.txt").write_text("".join(f"{token} {i}\n" for i, token in enumerate(tokens)))
    return folder


def recordings(tmp_path):
    """Noise that becomes louder and softer, loudest at its end. Yields: float32 samples."""
    for index in range(12):
        rng = np.random.default_rng(index)
        loud = np.repeat(rng.uniform(0.001, 0.1, 12), 800 + 97 * index)
        loud[-1300:] *= 4
        soundfile.write(tmp_path / "a.wav", loud * rng.normal(size=len(loud)), 16000)
        yield soundfile.read(tmp_path / "a.wav", dtype="float32")[0]


def check_same_text(theirs, folder, tmp_path):
    texts = set()
    with load_recogniser(folder) as ours:
        for samples in recordings(tmp_path):
            stream = theirs.create_stream()
            stream.accept_waveform(16000, samples)
            theirs.decode_stream(stream)
            text = " ".join(stream.result.text.split())
            assert ours.recognise(samples, "a")["greedy"] == text
            texts.add(text)
    assert len(texts) > 4 and all(len(text) > 8 for text in texts)


def test_sense_voice_as_sherpa_onnx_hears_it(tmp_path):
    sherpa_onnx = pytest.importorskip("sherpa_onnx")
    folder = made(tmp_path / "m")
    theirs = sherpa_onnx.OfflineRecognizer.from_sense_voice(str(folder / "model.onnx"), str(folder / "tokens.txt"))
    check_same_text(theirs, folder, tmp_path)


def test_telespeech_as_sherpa_onnx_hears_it(tmp_path):
    sherpa_onnx = pytest.importorskip("sherpa_onnx")
    folder = tmp_path / "m"
    model, _ = net("plain", {"model_type": "telespeech_ctc"}, len(UNITS) + 1, dim=40)
    model.graph.output[0].name = "turned"
    model.graph.node.append(helper.make_node("Transpose", ["logprobs"], ["turned"], perm=[1, 0, 2]))
    save(folder, "plain", tokens=["<blk>", *UNITS], model=model)
    theirs = sherpa_onnx.OfflineRecognizer.from_telespeech_ctc(str(folder / "ctc.onnx"), str(folder / "tokens.txt"))
    check_same_text(theirs, folder, tmp_path)


def test_frames_heard_as_one_stand_around_every_sixth():
    heard = SenseVoice({name: str(value) for name, value in META.items()}, "m")
    heard.offset, heard.scale = np.zeros(WINDOW * DIM, np.float32), np.ones(WINDOW * DIM, np.float32)
    feats = np.arange(8, dtype=np.float32)[:, None].repeat(DIM, axis=1)
    expected = [[0, 0, 0, 0, 1, 2, 3], [3, 4, 5, 6, 7, 7, 7]]
    assert heard.stack(feats).reshape(2, WINDOW, DIM)[:, :, 0].tolist() == expected
    assert heard.stack(feats[:1]).shape == (1, WINDOW * DIM)


def test_sense_voice_is_known_by_its_metadata(tmp_path):
    model = ForeignCtc(made(tmp_path / "m"))
    assert model.features == ForeignFeatures(window="hamming", high_freq_hz=0.0, snip_edges=True, sample_scale=32768.0)
    assert model.stride == SHIFT and model.vocabulary[:3] == ["<blk>", "<unk>", UNITS[0]]
    # neither the prompts nor the marks of beginning and end
    assert model.log_probs(np.zeros((60, DIM), np.float32)).shape == (10, len(UNITS) + 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lang_auto": None}, "a sense_voice_ctc without lang_auto in its metadata"),
        ({"without_itn": "-3"}, "without_itn in its metadata is '-3', not a number"),
        ({"lfr_window_shift": "0"}, "7 frames heard as one, every 0: at most 16 are read here"),
        ({"lfr_window_size": "999999"}, "999999 frames heard as one"),
        ({"neg_mean": "1,2,x"}, "neg_mean in its metadata is no list of numbers"),
        ({"inv_stddev": "1,nan"}, "inv_stddev in its metadata is no list of numbers"),
        ({"inv_stddev": "1,2"}, "neg_mean and inv_stddev in its metadata do not fit 7 frames"),
    ],
)
def test_metadata_that_is_missing_or_wrong_is_named(change, message):
    with pytest.raises(UserError, match=message):
        SenseVoice({k: str(v) for k, v in (META | change).items() if v is not None}, "m")
