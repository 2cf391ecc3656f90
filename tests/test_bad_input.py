"""Bad input: every kind of file a user hands in, in every way it can be wrong, with the line that is said about it.

Each case copies a small sound world, harms it, and runs a program: one error with the words expected, an exit status
other than 0, no traceback (it would come through as an exception), and nothing half-made at --out.
"""

import contextlib
import io
import json
import os
import re
import shutil
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import kaldiio
import numpy as np
import onnx
import pytest
import safetensors.torch
import soundfile
import torch
from safetensors.torch import load_file, save_file

from local import prepare_an4
from steps import (
    combine_features,
    decode,
    distill_student,
    export_model,
    extract_features,
    import_model,
    label_data,
    quantize_model,
    score,
    train_teacher,
    train_tokenizer,
    transcribe,
)
from steps.core.checkpoint import save_checkpoint
from steps.core.cli import run_main
from steps.core.datadir import Utterance, write_data_dir
from steps.core.outdir import sha256_file
from steps.data.tokenizer import Tokenizer
from steps.models.build import build_model, new_spec, save_model

TEXTS = ["ab ba", "ba b", "a", "abba"]
TRAIN = "loop: {epochs: 1, max_batch_frames: 400, dev_every: 1, average_last: 1}\naugment: null\ntype: dnn\nmodel:\n"
TRAIN += "  {d_model: 16, context: 1, num_blocks: 1, block: {units: 16}}\n"


def run(program, *words):
    """Run a program in this process. Returns: (exit status, what it wrote to stderr)."""
    told = io.StringIO()
    with mock.patch.object(sys, "argv", [program.__name__, *map(str, words)]), contextlib.redirect_stderr(told):
        try:
            status = run_main(program.main)
        except SystemExit as stop:  # of argparse
            status = stop.code
    return status, told.getvalue()


def places(root):
    """The files of a world, by name."""
    names = {"data": "data", "tokens": "tokenizer", "model": "model", "export": "model/export", "out": "out"}
    names["labels"] = "labels"
    paths = {name: root / path for name, path in names.items()}
    conf = {
        name: root / "conf" / f"{name}.yaml"
        for name in ("features", "tokenizer", "train", "quantize", "decode", "label")
    }
    return SimpleNamespace(root=root, wav=root / "wav/0.wav", conf=SimpleNamespace(**conf), **paths)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A small world in which everything is right: data with features, tokenizer, settings, model, export."""
    w = places(tmp_path_factory.mktemp("sound"))
    (w.root / "wav").mkdir()
    (w.root / "conf").mkdir()
    texts = {
        "features": "num_mel_bins: 16\n",
        "tokenizer": "kind: char\n",
        "train": TRAIN,
        "quantize": "",
        "decode": "",
        "label": "",
    }
    for name, text in texts.items():
        (w.root / "conf" / f"{name}.yaml").write_text(text)
    for number in range(len(TEXTS)):
        samples = np.random.default_rng(number).normal(size=16000) * 0.1
        soundfile.write(w.root / f"wav/{number}.wav", samples.clip(-1, 1), 16000)
    rows = [Utterance(f"s-{n}", "s", text, str(w.root / f"wav/{n}.wav")) for n, text in enumerate(TEXTS)]
    write_data_dir(w.data, rows)
    for program in (extract, combine, tokenize):
        status, told = run(*program(w))
        assert status == 0, told
    torch.manual_seed(0)
    sizes = {"d_model": 16, "context": 1, "num_blocks": 1, "block": {"units": 16}}
    model = build_model(new_spec("dnn", sizes, 16, Tokenizer.load(w.tokens).vocab_size, "test"))
    carried = {name: w.tokens / name for name in ("tokenizer.model", "tokens.txt")}
    save_model(w.model, model, carried | {"features.yaml": w.conf.features})
    for words in ([export_model, "--model", w.model, "--out", w.export], label(w)):
        status, told = run(*words)
        assert status == 0, told
    return w


@pytest.fixture
def world(sound, tmp_path):
    """A copy to harm."""
    w = places(tmp_path / "world")
    shutil.copytree(sound.root, w.root)
    for path in (w.data / "wav.scp", w.data / "feats.scp"):
        path.write_text(path.read_text().replace(str(sound.root), str(w.root)))
    return w


def extract(w):
    return [extract_features, "--data", w.data, "--config", w.conf.features, "--out", w.data / "feats"]


def combine(w):
    return [combine_features, "--data", w.data, "--feats", w.data / "feats", "--cmvn", w.data / "cmvn.json"]


def tokenize(w):
    return [train_tokenizer, "--data", w.data, "--config", w.conf.tokenizer, "--out", w.tokens]


def train(w, program=train_teacher, **more):
    words = [program, "--data", w.data, "--dev", w.data, "--tokenizer", w.tokens, "--features", w.conf.features]
    words += ["--config", w.conf.train, "--out", w.out, "--device", "cpu", "--num-threads", "1"]
    return [*words, *(word for name, value in more.items() for word in (f"--{name}", value))]


def distill(w):
    return train(w, distill_student, teacher=w.model)


def distill_export(w):
    return train(w, distill_student, teacher=w.export)


def distill_stored(w):
    return train(w, distill_student, teacher=w.labels)


def label(w):
    words = [label_data, "--teacher", w.model, "--data", w.data, "--config", w.conf.label, "--out", w.labels]
    return [*words, "--device", "cpu", "--num-threads", "1"]


def recognise(w, folder="export"):
    words = [decode, "--model", getattr(w, folder), "--data", w.data, "--config", w.conf.decode, "--out", w.out]
    return [*words, "--device", "cpu", "--num-threads", "1"]


def recognise_torch(w):
    return recognise(w, "model")


def quantize(w):
    return [quantize_model, "--model", w.model, "--config", w.conf.quantize, "--out", w.out]


def export(w):
    return [export_model, "--model", w.model, "--out", w.out]


def import_hub(w):
    return [import_model, "--hub", w.root / "hub", "--config", w.conf.quantize, "--out", w.out]


def say_what(w):
    return [transcribe, w.export, w.wav]


def unpack(w):
    return [prepare_an4, "--corpus-dir", w.root / "an4.tar.gz", "--out", w.out]


def put(name, content):
    """Harm: another content of a file."""

    def harm(w):
        path = w.root / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return harm


def hub(**changes):
    """Harm: a Hugging Face folder with these changes to its config.json and, by name, to its files; None: without it."""
    settings = {"model_type": "wav2vec2", "vocab_size": 4, "pad_token_id": 0, "num_hidden_layers": 1, "hidden_size": 16}
    settings |= {"num_attention_heads": 2, "intermediate_size": 16, "conv_dim": [8] * 7}
    vocabulary = json.dumps({"<pad>": 0, "<unk>": 1, "|": 2, "a": 3})
    files = {"preprocessor_config": '{"feature_extractor_type": "Wav2Vec2FeatureExtractor"}', "vocab": vocabulary}
    files |= {name: changes.pop(name) for name in ("config", "tokenizer", *files) if name in changes}
    others = changes.pop("files", {"model.safetensors": safetensors.torch.save({"lm_head.bias": torch.zeros(4)})})

    def harm(w):
        (w.root / "hub").mkdir()
        content = {"config.json": json.dumps(settings | changes)}
        content |= {f"{name}.json": text for name, text in files.items() if text is not None} | others
        for name, text in content.items():
            put(f"hub/{name}", text)(w)

    return harm


def unsummed(harm):
    """Harm to an exported folder that has no SHA256SUMS."""

    def both(w):
        (w.root / "model/export/SHA256SUMS").unlink()
        harm(w)

    return both


def cut(name, keep=0.5):
    """Harm: only the first part of a file is there."""

    def harm(w):
        content = (w.root / name).read_bytes()
        (w.root / name).write_bytes(content[: int(len(content) * keep)])

    return harm


def gone(name):
    return lambda w: (w.root / name).unlink()


def folder(name):
    """Harm: a folder where a file should be."""

    def harm(w):
        (w.root / name).unlink()
        (w.root / name).mkdir()

    return harm


def line(name, number, text):
    """Harm: another line of a text file."""

    def harm(w):
        lines = (w.root / name).read_text().splitlines()
        lines[number] = text
        (w.root / name).write_text("".join(f"{row}\n" for row in lines))

    return harm


def audio(samples, rate=16000, subtype="FLOAT"):
    return lambda w: soundfile.write(w.wav, np.asarray(samples, dtype="float32"), rate, subtype=subtype)


def matrix(rows, utt=1):
    """Harm: another matrix in the archive of one utterance."""

    def harm(w):
        ark = w.data / "other.ark"
        kaldiio.save_ark(str(ark), {f"s-{utt}": np.asarray(rows, dtype="float32")})
        line("data/feats.scp", utt, f"s-{utt} {ark}:{len(f's-{utt} ')}")(w)
        line("data/feats/feats.1.scp", utt, f"s-{utt} {ark}:{len(f's-{utt} ')}")(w)

    return harm


def spec(**changes):
    """Harm: other entries in model.json."""

    def harm(w):
        path = w.model / "model.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return harm


def graph(change):
    """Harm: another graph in the exported file. Args: change: function that alters an onnx.GraphProto."""

    def harm(w):
        model = onnx.load(w.export / "model.onnx")
        change(model.graph)
        onnx.save(model, w.export / "model.onnx")

    return harm


def doubles(output):
    """The same output of a graph, of another type and name."""
    shape = [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim]
    return onnx.helper.make_tensor_value_info("doubled", onnx.TensorProto.DOUBLE, shape)


def anchors(depth):
    """A YAML list that takes 10 ** depth values when its aliases are written out."""
    text = f"&a0 [{', '.join('x' * 10)}]"
    for level in range(1, depth):
        text = f"&a{level} [{text}{f', *a{level - 1}' * 9}]"
    return text


def odd_id(utt):
    """Harm: another id in place of s-0, in all tables."""

    def harm(w):
        for name in ("wav.scp", "text", "utt2spk"):
            line(f"data/{name}", 0, (w.data / name).read_text().splitlines()[0].replace("s-0", utt, 1))(w)
        put("data/spk2utt", f"s {utt} s-1 s-2 s-3\n")(w)

    return harm


def blocks(listed):
    """Harm: other blocks in model.json."""
    sizes = {"d_model": 16, "context": 1, "dropout": 0.1, "blocks": listed}
    return lambda w: spec(model=sizes)(w)


def weights(change):
    """Harm: other weights, with the right checksum."""

    def harm(w):
        path = w.model / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)
        spec(weights_sha256=sha256_file(path))(w)

    return harm


def other_tokenizer(w):
    """The data and its tokenizer have another letter than the teacher knows."""
    line("data/text", 0, "s-0 abc")(w)
    assert run(*tokenize(w))[0] == 0


def checkpoint(state):
    return lambda w: save_checkpoint(w.out / "checkpoints", 1, state)


def damaged_checkpoint(w):
    checkpoint({"seed": 0})(w)
    (path,) = (w.out / "checkpoints").iterdir()
    path.write_bytes(path.read_bytes()[:-5])


def evil_tar(name, **facts):
    """Harm: an archive with one member of this name."""

    def harm(w):
        with tarfile.open(w.root / "an4.tar.gz", "w:gz") as tar:
            member = tarfile.TarInfo(name)
            for key, value in facts.items():
                setattr(member, key, value)
            member.size = 0 if facts else 4
            tar.addfile(member, io.BytesIO(b"evil"))

    return harm


NAN, INF = float("nan"), float("inf")
CASES = [  # name, harm, program, words of the message
    # data folders
    ("data: no wav.scp", gone("data/wav.scp"), extract, "data/wav.scp: no such file"),
    ("data: empty wav.scp", put("data/wav.scp", ""), extract, "wav.scp: the file is empty"),
    ("data: a folder as wav.scp", folder("data/wav.scp"), extract, "wav.scp: Is a directory"),
    ("data: cut line", cut("data/utt2spk", 0.6), extract, "utt2spk: the last line does not end"),
    ("data: pipe", line("data/wav.scp", 0, "s-0 touch pwned |"), extract, "a command is not run here"),
    ("data: leading pipe", line("data/wav.scp", 0, "s-0 | touch pwned"), extract, "a command is not run here"),
    ("data: missing sound", line("data/wav.scp", 0, "s-0 nowhere.wav"), extract, "no such sound file: nowhere.wav"),
    ("data: id twice", line("data/text", 1, "s-0 b"), tokenize, "text:2: id 's-0' is there twice"),
    ("data: negative length", put("data/utt2dur", "s-0 -1\ns-1 1\ns-2 1\ns-3 1\n"), extract, "number above 0, not '-1'"),
    ("data: length nan", put("data/utt2dur", "s-0 nan\ns-1 1\ns-2 1\ns-3 1\n"), extract, "number above 0, not 'nan'"),
    ("data: speed 1e8", put("data/utt2speed", "s-0 1e8\ns-1 1\ns-2 1\ns-3 1\n"), extract, "a factor from 0.1 to 10"),
    ("data: id with an escape", odd_id("s-\x1b[2J0"), tokenize, r"utt2spk:1: control character .* '\\x1b' in an id"),
    ("data: id with a line separator", odd_id("s-\u20280"), extract, r"utt2spk:1: .*white space '\\u2028' in an id"),
    ("data: speaker with a bell", lambda w: (line("data/utt2spk", 0, "s-0 s\x07")(w), (w.data / "spk2utt").unlink()),
     extract, r"utt2spk:1: .*'\\x07' in an id"),
    ("data: speed inf", put("data/utt2speed", "s-0 inf\ns-1 1\ns-2 1\ns-3 1\n"), extract, "above 0, not 'inf'"),
    ("data: reversed", put("data/segments", "s-0 s-0 0.9 0.1\ns-1 s-1 0 1\ns-2 s-2 0 1\ns-3 s-3 0 1\n"), extract,
     "not after its start"),
    ("data: beyond its sound", put("data/segments", "s-0 s-0 0 9\ns-1 s-1 0 1\ns-2 s-2 0 1\ns-3 s-3 0 1\n"), extract,
     "has 1.00 s; 0.0 s to 9.0 s was asked for"),
    ("data: frames disagree", line("data/utt2num_frames", 1, "s-1 90"), train, r"expected \(90, 16\)"),
    ("data: no frames", line("data/utt2num_frames", 1, "s-1 0"), train, "whole number above 0, not '0'"),
    # audio
    ("audio: empty file", put("wav/0.wav", ""), extract, "not a readable sound file"),
    ("audio: no samples", audio([]), extract, "the sound file has 0.00 s"),
    ("audio: text", put("wav/0.wav", "hello"), extract, "not a readable sound file"),
    ("audio: cut", cut("wav/0.wav", 0.01), extract, "utterance s-0|less than one frame|sound file"),
    ("audio: a folder", folder("wav/0.wav"), extract, "no such sound file"),
    ("audio: nan", audio([NAN] * 16000), extract, "samples are not finite"),
    ("audio: inf", audio([INF] * 16000), extract, "samples are not finite"),
    ("audio: not scaled", audio([30000.0] * 16000), extract, r"not scaled to \[-1, 1\]"),
    ("audio: a rate of no use", audio([0.1] * 16000, 999_983), extract, "999983 Hz is no usual rate"),
    ("audio: under a frame", audio([0.1] * 100), extract, r"(?s)filter: \{min_s: .*less than one frame"),
    ("audio: transcribe text", put("wav/0.wav", "hello"), say_what, "not a readable sound file"),
    # text
    ("text: empty transcript", line("data/text", 0, "s-0"), tokenize, "the transcript of 's-0' is empty"),
    ("text: latin-1", put("data/text", "s-0 ä\n".encode("latin-1")), tokenize, "not UTF-8 text"),
    ("text: byte order mark", put("data/text", b"\xef\xbb\xbfs-0 a\n"), tokenize, "byte order mark"),
    ("text: DOS", put("data/text", "s-0 a\r\ns-1 a\r\n"), tokenize, "DOS line ends"),
    ("text: zero byte", line("data/text", 0, "s-0 a\0b"), tokenize, "control character"),
    ("text: line separator", line("data/text", 0, "s-0 a\u2028b"), tokenize, "white space other than"),
    ("text: symbol of ours", line("data/text", 0, "s-0 <blk>"), tokenize, "a token with a meaning of its own"),
    ("text: hypotheses of others", put("hyps/greedy.txt", "x-9 a\n"),
     lambda w: [score, "--decode", w.root / "hyps", "--data", w.data], "greedy.txt: .*x-9|s-0"),
    # YAML
    ("yaml: missing", gone("conf/features.yaml"), extract, "features.yaml: no such settings file"),
    ("yaml: a folder", folder("conf/features.yaml"), extract, "features.yaml: Is a directory"),
    ("yaml: no mapping", put("conf/features.yaml", "- 1\n"), extract, "expected a mapping"),
    ("yaml: broken", put("conf/features.yaml", "a: [1\n"), extract, "features.yaml: not valid YAML"),
    ("yaml: key twice", put("conf/features.yaml", "kind: fbank\nkind: mfcc\n"), extract, "'kind' given twice"),
    ("yaml: unknown key", put("conf/features.yaml", "num_mel_bin: 16\n"), extract, "did you mean 'num_mel_bins'"),
    ("yaml: object", put("conf/features.yaml", "kind: !!python/object/apply:os.mkdir [pwned]\n"), extract, "not valid YAML"),
    ("yaml: aliases", put("conf/features.yaml", "a: &a [1, 1]\nb: &b [*a, *a]\nkind: *b\n"), extract, "unknown key"),
    ("yaml: anchor bomb", put("conf/features.yaml", f"kind: {anchors(9)}\n"), extract, "more than 50,000 values"),
    ("yaml: bomb in the base", lambda w: (put("conf/b.yaml", f"kind: {anchors(9)}\n")(w),
     put("conf/features.yaml", "base: b.yaml\n")(w)), extract, "b.yaml: not valid YAML: more than 50,000 values"),
    ("yaml: long list", put("conf/features.yaml", f"kind: [{'1, ' * 300}]\n"), extract, r"not \[1, 1, 1, 1, 1, 1, \.\.\.\]$"),
    ("yaml: anchor within itself", put("conf/features.yaml", "kind: &a [*a]\n"), extract, "an anchor that holds itself"),
    ("yaml: 300 kB", put("conf/features.yaml", "#" * 300_000), extract, "more than 262,144 bytes, which no settings"),
    ("yaml: 400 digits", put("conf/features.yaml", f"frame_length_ms: {'9' * 400}\n"), extract, "a number of 400 digits"),
    ("yaml: base 60", put("conf/features.yaml", f"frame_length_ms: 1{':1' * 400}.5\n"), extract, "a number of 803 digits"),
    ("yaml: 30 digits", put("conf/features.yaml", f"frame_length_ms: {'9' * 30}\n"), extract, "more than 63 bits"),
    ("yaml: rate 1e12", put("conf/features.yaml", "sample_rate_hz: 1000000000000\n"), extract, "192000 or less"),
    ("yaml: window of years", put("conf/features.yaml", "frame_length_ms: 1.0e+12\n"), extract, "must be 1 to 1000"),
    ("yaml: odd int", put("conf/features.yaml", "num_mel_bins: !!int ''\n"), extract, "not valid YAML"),
    ("yaml: odd bool", put("conf/features.yaml", "snip_edges: !!bool maybe\n"), extract, "not valid YAML"),
    ("yaml: odd date", put("conf/features.yaml", "kind: !!timestamp now\n"), extract, "not valid YAML"),
    ("yaml: a billion blocks", put("conf/train.yaml", TRAIN.replace("num_blocks: 1", "num_blocks: 1000000000")), train,
     "num_blocks must be 1 to 1000"),
    ("yaml: deep", put("conf/features.yaml", "[" * 5000), extract, "not valid YAML"),
    ("yaml: not a number", put("conf/features.yaml", "num_mel_bins: many\n"), extract, "expected int, not 'many'"),
    ("yaml: nan", put("conf/features.yaml", "frame_length_ms: .nan\n"), extract, "not a finite number"),
    ("yaml: inf", put("conf/features.yaml", "high_freq_hz: .inf\n"), extract, "not a finite number"),
    ("yaml: negative", put("conf/features.yaml", "num_mel_bins: -4\n"), extract, "must be 4 or more"),
    ("yaml: huge", put("conf/features.yaml", "num_mel_bins: 100000000\n"), extract, "num_mel_bins must be"),
    ("yaml: latin-1", put("conf/features.yaml", "# ä\n".encode("latin-1")), extract, "not UTF-8 text"),
    ("yaml: control character", put("conf/features.yaml", "kind: \x01\n"), extract, "not valid YAML"),
    ("yaml: base of a base", put("conf/features.yaml", "base: features.yaml\n"), extract, "only one level is allowed"),
    ("yaml: no base", put("conf/features.yaml", "base: nowhere.yaml\n"), extract, "nowhere.yaml: no such settings file"),
    ("yaml: epochs 0", put("conf/train.yaml", TRAIN.replace("epochs: 1", "epochs: 0")), train, "epochs must be at least 1"),
    ("yaml: size 0", put("conf/train.yaml", TRAIN.replace("units: 16", "units: 0")), train, "units"),
    ("yaml: unknown model", put("conf/train.yaml", "type: gru\n"), train, "unknown type 'gru'"),
    # features on disk
    ("ark: cut", cut("data/feats/feats.1.ark", 0.5), train, "damaged feature file|no Kaldi matrix starts here"),
    ("ark: random", put("data/feats/feats.1.ark", bytes(range(256)) * 200), train, "no Kaldi matrix starts here"),
    ("ark: gone", gone("data/feats/feats.1.ark"), train, "no such feature file"),
    ("ark: nan", matrix([[NAN] * 16] * 100), train, "not a matrix of finite numbers"),
    ("ark: inf", matrix([[INF] * 16] * 100), combine, "not a matrix of finite numbers"),
    ("ark: other dimension", matrix([[0.0] * 8] * 100), train, r"has shape \(100, 8\), expected \(100, 16\)"),
    ("ark: mixed dimensions", matrix([[0.0] * 8] * 100), combine, r"has shape \(100, 8\), expected \(100, 16\)"),
    ("ark: other length", matrix([[0.0] * 16] * 90), combine, r"expected \(100, 16\)"),
    ("scp: pipe", line("data/feats.scp", 0, "s-0 touch pwned |"), train, "commands and ranges in feats.scp are not run"),
    ("scp: range", line("data/feats.scp", 0, "s-0 feats.ark:5[0:3]"), train, "commands and ranges"),
    ("scp: far beyond the end", line("data/feats.scp", 0, "s-0 /dev/null:99"), train, "no Kaldi matrix starts here"),
    ("scp: offset of 30 digits", line("data/feats.scp", 0, f"s-0 /dev/null:{'9' * 30}"), train, "/dev/null:9999"),
    ("cmvn: cut", cut("data/cmvn.json"), train, "not a file of mean and std"),
    ("cmvn: nan", put("data/cmvn.json", json.dumps({"mean": [NAN] * 16, "std": [1.0] * 16})), train, "must be finite"),
    ("cmvn: other size", put("data/cmvn.json", json.dumps({"mean": [0.0], "std": [1.0]})), train, "has 1 bins"),
    ("cmvn: zero deviation", put("data/cmvn.json", json.dumps({"mean": [0.0] * 16, "std": [0.0] * 16})), train, "> 0"),
    # tokenizers
    ("tokenizer: cut", cut("tokenizer/tokenizer.model"), train, "tokenizer.model|tokens.txt: does not belong"),
    ("tokenizer: empty", put("tokenizer/tokenizer.model", ""), train, "tokenizer.model"),
    ("tokenizer: random", put("tokenizer/tokenizer.model", b"\xff\x00" * 50), train, "not a SentencePiece model"),
    ("tokenizer: other tokens", line("tokenizer/tokens.txt", 2, "z 2"), train, "does not belong to tokenizer.model"),
    ("tokenizer: gone", gone("tokenizer/tokenizer.model"), train, "no such tokenizer; stage 2"),
    ("tokenizer: teacher knows other letters", other_tokenizer, distill, "its units differ from the student.s; take them over"),
    # model folders
    # models from a hub
    ("hub: another folder", lambda w: (w.root / "hub").mkdir(), import_hub, "hub/config.json: no such file; name the folder"),
    ("hub: no JSON", hub(config="{"), import_hub, "config.json: not valid JSON"),
    ("hub: a list", hub(config="[1]"), import_hub, "config.json: expected a JSON object"),
    ("hub: deep JSON", hub(config="[" * 200_000), import_hub, "config.json: not valid JSON"),
    ("hub: 5 MB of JSON", hub(config=" " * 5_000_000), import_hub, "more than 4,194,304 bytes"),
    ("hub: no CTC", hub(model_type="bert"), import_hub, "model_type 'bert' cannot be imported; known: wav2vec2, hubert"),
    ("hub: code of its own", hub(auto_map={"AutoModelForCTC": "evil.Evil"}), import_hub, "code of its own, which is never run"),
    ("hub: code to hear with", hub(preprocessor_config='{"auto_map": {}}'), import_hub, "preprocessor_config.json: auto_map"),
    ("hub: no weights", hub(files={}), import_hub, "model.safetensors: no such file; copy the weights"),
    ("hub: pickled weights", hub(files={"pytorch_model.bin": b"\x80\x02cos\nmkdir\n."}), import_hub,
     r"pytorch_model.bin: pickled weights can hold programs and are not read; .*save_pretrained\(NEW\)"),
    ("hub: parts elsewhere", hub(files={"model.safetensors.index.json": '{"weight_map": {"a": "../model/model.safetensors"}}'}),
     import_hub, "its weight_map names no files in this folder"),
    ("hub: a part less", hub(files={"model.safetensors.index.json": '{"weight_map": {"a": "a-1.safetensors"}}'}),
     import_hub, "a-1.safetensors: no such file"),
    ("hub: cut weights", hub(files={"model.safetensors": b"\x08"}), import_hub, "hub/model.safetensors: "),
    ("hub: a billion layers", hub(num_hidden_layers=10**9), import_hub, "num_hidden_layers 1000000000 does not fit 1 tensors"),
    ("hub: huge layers", hub(hidden_size=2**20), import_hub, "describes [0-9,]+ parameters, the weights hold 4"),
    ("hub: layers without end", hub(conv_dim=[8] * 100_000), import_hub, "layers is incorrect"),
    ("hub: weights of another model", hub(), import_hub, "lacks .*; copy the weights|do not fit"),
    ("hub: pickled weights of today", hub(files={"model.bin": b"\x80\x02cos\nmkdir\n."}), import_hub, "model.bin: pickled weights"),
    ("hub: a cut model.bin of CTranslate2", hub(files={"model.bin": b"\x06\0\0\0\x0c\0WhisperSpec\0\3"}), import_hub,
     "model.bin: not a Whisper model of CTranslate2, or a damaged one"),
    ("hub: a billion layers of Whisper", hub(model_type="whisper", encoder_layers=10**9), import_hub,
     "encoder_layers 1000000000 does not fit 1 tensors"),
    ("hub: a billion mel bins", hub(preprocessor_config='{"feature_size": 1000000000}'), import_hub,
     "preprocessor_config.json: feature_size: 1000000000 is more than any model has"),
    ("hub: the ears of another", hub(preprocessor_config='{"feature_extractor_type": "WhisperFeatureExtractor"}'), import_hub,
     "config.json and preprocessor_config.json do not belong together"),
    ("hub: no sample rate", hub(preprocessor_config='{"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 0}'),
     import_hub, "preprocessor_config.json: sample_rate_hz must be 8000 or more, not 0"),
    ("hub: nothing to hear with", hub(preprocessor_config=None), import_hub, "transformers cannot read its settings"),
    ("hub: no tokenizer", hub(vocab=None), import_hub, "no tokenizer.json, vocab.json, tokenizer.model; copy the tokenizer"),
    ("hub: more units than outputs", hub(vocab='{"<pad>": 0, "b": 4}'), import_hub, "vocab.json: has a unit 4, but the model 4"),
    ("hub: another blank", hub(pad_token_id=3), import_hub, "vocab.json: unit 3, the blank by config.json, is 'a'"),
    ("hub: no blank", hub(pad_token_id=9), import_hub, "the blank, is 9, but the model has 4 outputs"),
    ("hub: a unit twice", hub(vocab='{"<pad>": 0, "|": 1, " ": 2}'), import_hub, "'\u2581' is there twice"),
    ("hub: a unit with a line end", hub(vocab='{"<pad>": 0, "a\\n": 1}'), import_hub, "white space or control characters"),
    ("hub: units of two languages", hub(vocab='{"deu": {"<pad>": 0}, "eng": {"<pad>": 0}}'), import_hub,
     "languages .deu, eng, ...., the weights one output layer; load the model of one by transformers"),
    ("hub: numbers that are none", hub(vocab='{"<pad>": 0, "a": 1.5}'), import_hub, "expected a text and its number"),
    ("hub: bytes as units", hub(tokenizer='{"model": {"type": "BPE"}, "decoder": {"type": "ByteLevel"}}'), import_hub,
     "byte-level BPE cannot be imported"),
    ("hub: merges of one", hub(tokenizer='{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a"]]}}'), import_hub,
     "is no merge of two pieces"),
    ("model: no model.json", gone("model/model.json"), quantize, "not a .finished. model folder"),
    ("model: cut weights", cut("model/model.safetensors"), quantize, "does not match model.json"),
    ("model: nan weights", weights(lambda t: t["output.bias"].fill_(NAN)), quantize, "output.bias: contains values that are not finite"),
    ("model: inf weights", weights(lambda t: t["output.bias"].fill_(INF)), distill, "output.bias: contains values that are not finite"),
    ("model: a tensor less", weights(lambda t: t.pop("output.bias")), export, "tensors do not fit model.json"),
    ("model: no safetensors", lambda w: (put("model/model.safetensors", "x")(w),
     spec(weights_sha256=sha256_file(w.model / "model.safetensors"))(w)), export, "tensors do not fit"),
    ("model: cut features", cut("model/features.yaml"), recognise_torch, "features.yaml: content does not match"),
    ("model: other tokens", line("model/tokens.txt", 2, "z 2"), recognise_torch, "tokens.txt: content does not match"),
    ("model: other features", put("conf/features.yaml", "num_mel_bins: 16\nwindow: hanning\n"), distill, "hears other features"),
    ("model: huge", spec(vocab_size=10**12), export, r"output.bias is F32 \[5\], not F32 \[1000000000000\]"),
    ("model: beyond numbers", spec(vocab_size=10**30), export, "does not describe a model"),
    ("model: 5e6 units", blocks([{"units": 5_000_000}]), export, r"not F32 \[16, 5000000\]"),
    ("model: 50,000 blocks", blocks([{"units": 16}] * 50_000), export, "tensors for 50000 blocks"),
    ("model: doubles", weights(lambda t: t.update({"norm.bias": t["norm.bias"].double()})), export, "norm.bias is F64"),
    ("model: negative", spec(vocab_size=-3), export, "does not describe a model"),
    ("model: size as text", spec(feature_dim="16"), export, "does not describe a model"),
    ("model: no bits", spec(quantization={"layers": []}), export, "does not describe a model"),
    ("model: nine bits", spec(quantization={"bits": 9, "layers": []}), export, "bits must be 8 or 7, not 9"),
    ("model: list for spec", put("model/model.json", "[]"), export, "not a model description"),
    ("model: deep JSON", put("model/model.json", "[" * 100000), export, "not valid JSON"),
    # checkpoints
    ("checkpoint: cut", damaged_checkpoint, train, "no checkpoint is whole"),
    ("checkpoint: of something else", checkpoint({"seed": 0}), train, "belongs to another training"),
    # ONNX
    ("onnx: cut", cut("model/export/model.onnx"), recognise, "model.onnx: not the file that SHA256SUMS names"),
    ("onnx: cut, no sums", unsummed(cut("model/export/model.onnx")), recognise, "no ONNX graph, or damaged"),
    ("onnx: empty", unsummed(put("model/export/model.onnx", "")), recognise, "model.onnx: the file is empty"),
    ("onnx: random", unsummed(put("model/export/model.onnx", bytes(range(256)) * 9)), recognise, "no ONNX graph, or damaged"),
    ("onnx: unknown operator", unsummed(graph(lambda g: setattr(g.node[0], "op_type", "Nonsense"))), recognise, "onnxruntime cannot load"),
    ("onnx: loop", unsummed(graph(lambda g: g.node.add(op_type="Loop").attribute.add(name="body", type=5).g.node.add())),
     recognise, "a graph within the graph, which could run for ever"),
    ("onnx: doubles out", unsummed(graph(lambda g: (g.node.add(op_type="Cast", input=["log_probs"], output=["doubled"])
     .attribute.add(name="to", type=2, i=11), g.output[0].CopyFrom(doubles(g.output[0]))))), recognise, "not an offline CTC model"),
    ("onnx: sums cut", cut("model/export/SHA256SUMS"), recognise, "SHA256SUMS"),
    ("onnx: fewer tokens", unsummed(cut("model/export/tokens.txt", 0.7)), recognise, "tokens.txt"),
    ("onnx: other features", unsummed(put("model/export/features.yaml", "num_mel_bins: 8\n")), recognise, "features"),
    # stored labels, and others' models
    ("labels: cut", cut("labels/labels.1.1.bin"), distill_stored, "labels.1.1.bin: not the file that labels.json names; run"),
    ("labels: no list", put("labels/labels.json", "[]"), distill_stored, "labels.json: not a list of labels of format 1"),
    ("labels: no JSON", put("labels/labels.json", "{"), distill_stored, "labels.json: not valid JSON"),
    ("labels: not there", gone("labels/labels.1.1.bin"), distill_stored, "labels.1.1.bin: not the file that labels.json names"),
    ("labels: of other lengths", line("data/utt2num_frames", 1, "s-1 900"), distill_stored, "s-1 has 9.00 s, its labels are of"),
    ("labels: keep nothing", put("conf/label.yaml", "keep: 0\n"), label, "keep must be at least 1"),
    ("labels: no such layer", put("conf/label.yaml", "hidden_layers: [1]\n"), label, "hidden_layers: there is no block 1"),
    ("teacher: no such folder", gone("model/model.json"), label, "neither model.json nor SHA256SUMS"),
    ("teacher: tokens of another", lambda w: (gone("model/export/SHA256SUMS")(w), put("model/export/tokens.txt",
     "<blk> 0\na 1\n")(w)), distill_export, r"the model has \d outputs, tokens.txt 2 tokens"),
    ("teacher: states alone, and nobody to speak", put("conf/train.yaml", TRAIN + "distill: {hidden_weight: 1, hidden_only: true}\n"),
     distill, "hidden_only: the last of several teachers shows its states; name another, too"),
    ("teacher: more blocks than it has", put("conf/train.yaml", "type: dnn\ninherit: {count: 2}\n"), distill,
     "inherit: count: 2 blocks, but .*model has 1"),
    ("teacher: nobody to inherit from", put("conf/train.yaml", "type: dnn\ninherit: {count: 1}\n"),
     lambda w: train(w, distill_student), "inherit: from nothing; name the model folder with --init"),
    ("teacher: another sample rate", put("conf/features.yaml", "num_mel_bins: 16\nsample_rate_hz: 8000\n"), distill,
     "hears other features .*sample_rate_hz 16000, not 8000"),
    ("teacher: two models", lambda w: [damage(w) for damage in (gone("model/export/SHA256SUMS"),
     put("model/export/tokens.txt", "a 0\n"), put("model/export/b.onnx", ""))], distill_export,
     "expected one .onnx file, found b.onnx, model.onnx"),
    ("teacher: units of nobody", put("tokenizer/tokens.txt", "a 0\n"),
     lambda w: [train_tokenizer, "--data", w.data, "--from", w.tokens, "--out", w.out], "tokens.txt: "),
    # archives
    ("tar: cut", put("an4.tar.gz", b"\x1f\x8b\x08\x00cut"), unpack, "an4.tar.gz"),
    ("tar: text", put("an4.tar.gz", "hello"), unpack, "an4.tar.gz"),
    ("tar: out of its folder", evil_tar("../../evil"), unpack, "an4.tar.gz"),
    ("tar: absolute", evil_tar("/tmp/evil-member"), unpack, "an4"),
    ("tar: link out", evil_tar("an4", type=tarfile.SYMTYPE, linkname="../.."), unpack, "an4"),
    # command lines
    ("option: unknown", lambda w: None, lambda w: [*extract(w), "--shards", "3"], "unrecognized arguments"),
    ("option: short form", lambda w: None, lambda w: [*extract(w), "--num", "3"], "unrecognized arguments"),
    ("option: shard 0", lambda w: None, lambda w: [*extract(w), "--shard", "0"], "expected a whole number from 1 on"),
    ("option: shard 3 of 2", lambda w: None, lambda w: [*extract(w), "--shard", "3", "--num-shards", "2"], "--shard must be 1 to 2"),
    ("option: seed -1", lambda w: None, lambda w: train(w, seed="-1"), "expected a whole number from 0"),
    ("option: threads 0", lambda w: None, lambda w: [*train(w), "--num-threads", "0"], "expected a whole number from 1"),
    ("option: device", lambda w: None, lambda w: [*train(w), "--device", "gpu"], "expected auto, cpu, cuda"),
    ("labels: a letter that the model lacks", put("labels.txt", "ab\nZZ\n"),
     lambda w: [*say_what(w), "--labels", w.root / "labels.txt"], "labels.txt: 1 of 2 labels cannot be spelled .* ZZ"),
    ("option: word score nan", put("words.txt", "ab\n"),
     lambda w: [*say_what(w), "--words", w.root / "words.txt", "--word-score", "nan"], "finite"),
    ("option: no such model", lambda w: None, lambda w: [transcribe, w.root / "nothing", w.wav], "neither model.json nor SHA256SUMS"),
]  # fmt: skip


def state_of(root):
    """Size and time of every file that was there, to see that inputs stay as they are."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("harm", "program", "words"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_bad_input_is_told(world, monkeypatch, harm, program, words):
    harm(world)
    monkeypatch.chdir(world.root)
    before = state_of(world.root)
    status, told = run(*program(world))
    assert status in (1, 2, 5), told
    assert "error: " in told and "Traceback" not in told
    assert re.search(words, told), told
    finished = [
        world.out / name for name in ("model.json", "model.onnx", "greedy.txt", "decode.json", "score_greedy.json")
    ]
    assert not any(path.exists() for path in finished)
    assert not list(world.root.rglob(".*.tmp")) and not (world.root / "pwned").exists()
    changed = {path for path, state in state_of(world.root).items() if before.get(path, state) != state}
    assert not {path for path in changed if "feats" not in path.name}, "an input was changed"


def test_every_kind_of_input_is_in_the_catalogue():
    kinds = {case[0].split(":")[0] for case in CASES}
    wanted = "data audio text yaml ark scp cmvn tokenizer hub model checkpoint onnx labels teacher tar option"
    assert kinds == set(wanted.split()) and len(CASES) > 100


def test_the_sound_world_is_sound(world):
    """Else every case above would pass for another reason."""
    for program in (extract, combine, tokenize, train, recognise, say_what):
        status, told = run(*program(world))
        assert status == 0, told
    shutil.rmtree(world.out)
    for program in (distill, recognise_torch):
        assert run(*program(world))[0] == 0


def test_unknown_characters_and_short_utterances_are_counted(world, capsys):
    line("data/text", 1, "s-1 zab z")(world)
    line("data/text", 2, "s-2 " + "ab" * 200)(world)
    assert run(*train(world))[0] == 0
    said = capsys.readouterr().out
    assert "2 characters are not in the tokenizer and count as <unk>: 'z' 2 times" in said
    assert "left out 1 utterance with no room for their transcript: s-2" in said
    assert "train: 3 utterances" in said


def test_a_checkpoint_that_would_run_code_is_refused(world, monkeypatch):
    class Evil:
        def __reduce__(self):
            return os.mkdir, ("pwned",)

    monkeypatch.chdir(world.root)
    checkpoint({"seed": Evil()})(world)
    status, told = run(*train(world))
    assert status == 1 and "no checkpoint is whole" in told
    assert not Path("pwned").exists()
