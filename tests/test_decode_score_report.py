"""decode -> score -> report, and transcribe, around a made-up recogniser that reads the tokens off the features."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import kaldiio
import numpy as np
import pytest
import soundfile

from steps import combine_decodes, decode, score, transcribe
from steps.core.cli import MissingInput, UserError
from steps.core.config import load_config, save_config, to_dict
from steps.core.datadir import Utterance, write_data_dir
from steps.core.outdir import sha256_file
from steps.data.feature_config import FeatureConfig
from steps.data.features import utterance_features
from steps.data.tokenizer import train_tokenizer
from steps.deploy.export import export_folder
from steps.deploy.recognition import DecodeConfig
from steps.deploy.runtimes import load_recogniser
from steps.deploy.runtimes.ctc import CtcRecogniser, open_lexicon, read_words
from steps.models.build import build_model, new_spec, save_model

TOKENS = ["<blk>", "<unk>", "\u2581", *"ABCDE"]
TEXTS = {"s1-a": "AB CAD", "s1-b": "CAD", "s2-a": "BAD DAB", "s2-b": "A BED"}
RATE = 16000
ROOT = Path(__file__).resolve().parents[1]


class FakeRecogniser(CtcRecogniser):
    """One token per four frames: the one whose id is the largest bin of the first of them."""

    def __init__(self):
        super().__init__(SimpleNamespace(feature_dim=80, vocab_size=len(TOKENS)), FeatureConfig(), TOKENS, "m")

    def log_probs(self, features):
        best = features[::4, : len(TOKENS)].argmax(axis=1)
        log_probs = np.full((len(best), len(TOKENS)), np.log(0.1 / (len(TOKENS) - 1)), dtype=np.float32)
        log_probs[np.arange(len(best)), best] = np.log(0.9)
        return log_probs


def features_of(text):
    """(T, 80) features that `FakeRecogniser` reads as `text`."""
    ids = [0]
    for char in text.replace(" ", "\u2581"):
        ids += [TOKENS.index(char), 0]
    return np.repeat(np.eye(80, dtype=np.float32)[ids], 4, axis=0)


@pytest.fixture
def setup(tmp_path, monkeypatch):
    """A data folder with features, a word list, settings, and an exported folder with the made-up recogniser."""
    data, model = tmp_path / "data" / "test", tmp_path / "exp" / "m" / "export"
    model.mkdir(parents=True)
    (model / "model.onnx").write_bytes(b"x")
    audio = tmp_path / "a.wav"
    soundfile.write(audio, np.sin(np.arange(RATE // 2)) * 0.1, RATE)
    write_data_dir(data, [Utterance(u, u[:2], text, str(audio), duration_s=0.5) for u, text in TEXTS.items()])
    spoken = TEXTS | {"s2-a": "BAE DAB"}
    kaldiio.save_ark(str(data / "f.ark"), {u: features_of(t) for u, t in spoken.items()}, scp=str(data / "feats.scp"))
    (tmp_path / "words.txt").write_text("AB\nCAD\nBAD\nDAB\nA\nBED\n")
    save_config(tmp_path / "decode.yaml", DecodeConfig())
    monkeypatch.setattr(decode, "load_recogniser", lambda *args, **kwargs: FakeRecogniser())
    return SimpleNamespace(root=tmp_path, data=data, model=model, out=tmp_path / "exp" / "m" / "decode_test_onnx")


def run(monkeypatch, program, *args):
    monkeypatch.setattr(sys, "argv", ["program", *map(str, args)])
    program.main()


def run_decode(monkeypatch, setup, *more):
    args = ["--model", setup.model, "--data", setup.data, "--config", setup.root / "decode.yaml", "--out", setup.out]
    run(monkeypatch, decode, *args, *more)


def test_decode_writes_what_was_spoken(setup, monkeypatch):
    run_decode(monkeypatch, setup, "--words", setup.root / "words.txt")
    assert (setup.out / "greedy.txt").read_text() == "s1-a AB CAD\ns1-b CAD\ns2-a BAE DAB\ns2-b A BED\n"
    words = [line.split()[1:] for line in (setup.out / "lexicon.txt").read_text().splitlines()]
    assert set(sum(words, [])) <= set((setup.root / "words.txt").read_text().split())
    assert words[0] == ["AB", "CAD"] and words[3] == ["A", "BED"]
    facts = json.loads((setup.out / "decode.json").read_text())
    assert facts["utterances"] == 4 and facts["words"]["count"] == 6 and "onnxruntime" in facts["runtime"]
    assert facts["files"] == {"model.onnx": sha256_file(setup.model / "model.onnx")}
    kinds = ("greedy", "lexicon")
    assert facts["hypotheses_sha256"] == {kind: sha256_file(setup.out / f"{kind}.txt") for kind in kinds}


def test_parts_that_ran_different_files_are_not_put_together(setup, monkeypatch):
    for shard in (1, 2):
        (setup.model / "model.onnx").write_bytes(b"x" * shard)
        run_decode(monkeypatch, setup, "--shard", shard, "--num-shards", 2)
    with pytest.raises(UserError, match="part.2/decode.json: files differs from that of part.1"):
        run(monkeypatch, combine_decodes, "--data", setup.data, "--decode", setup.out, "--num-shards", 2)


def test_another_runtime_is_counted_in_the_units_of_the_settings_too(setup, monkeypatch):
    (setup.root / "decode.yaml").write_text("unit: char\n")
    run_decode(monkeypatch, setup, "--runtime", "sherpa-onnx")
    facts = json.loads((setup.out / "decode.json").read_text())
    assert facts["settings"]["unit"] == "char" and set(facts["files"]) == {"model.onnx"}
    run(monkeypatch, score, "--decode", setup.out, "--data", setup.data)
    assert json.loads((setup.out / "score_greedy.json").read_text())["rate"] == "CER"


def test_decode_takes_the_settings_of_conf_unless_told_otherwise(setup, monkeypatch):
    words = ["--model", setup.model, "--data", setup.data, "--words", setup.root / "words.txt", "--out", setup.out]
    run(monkeypatch, decode, *words)
    there = json.loads((setup.out / "decode.json").read_text())["settings"]
    assert (
        there == to_dict(load_config(DecodeConfig, ROOT / "conf/decode.yaml")) and (setup.out / "lexicon.txt").exists()
    )
    (setup.root / "decode.yaml").write_text("{lexicon: false, unit: char}\n")
    run(monkeypatch, decode, *words, "--config", setup.root / "decode.yaml")
    assert json.loads((setup.out / "decode.json").read_text())["settings"]["unit"] == "char"
    assert not (setup.out / "lexicon.txt").exists()


def test_decode_again_gives_the_same_bytes_and_drops_an_old_lexicon_column(setup, monkeypatch):
    run_decode(monkeypatch, setup, "--words", setup.root / "words.txt")
    before = {path.name: path.read_bytes() for path in setup.out.iterdir()}
    run_decode(monkeypatch, setup, "--words", setup.root / "words.txt")
    assert {path.name: path.read_bytes() for path in setup.out.iterdir()} == before
    run_decode(monkeypatch, setup)
    assert not (setup.out / "lexicon.txt").exists() and (setup.out / "greedy.txt").read_bytes() == before["greedy.txt"]


@pytest.mark.parametrize("parts", [2, 3, 6])  # 6: of four utterances, so that some parts are empty
def test_parts_put_together_are_the_bytes_of_decoding_at_once(setup, monkeypatch, parts):
    run_decode(monkeypatch, setup, "--words", setup.root / "words.txt")
    names = ("greedy.txt", "lexicon.txt", "decode.json")
    whole = {name: (setup.out / name).read_bytes() for name in names}
    for name in names:
        (setup.out / name).unlink()
    shards = ["--words", setup.root / "words.txt", "--num-shards", parts]
    for shard in range(1, parts + 1):
        run_decode(monkeypatch, setup, *shards, "--shard", shard)
    (setup.out / "part.9").mkdir()  # an earlier run had more
    combine = ["--data", setup.data, "--decode", setup.out, "--num-shards", parts]
    run(monkeypatch, combine_decodes, *combine)
    assert {name: (setup.out / name).read_bytes() for name in names} == whole
    assert not (setup.out / "part.9").exists()


def test_parts_that_do_not_fit_together_are_refused(setup, monkeypatch):
    combine = ["--data", setup.data, "--decode", setup.out, "--num-shards", 2]
    run_decode(monkeypatch, setup, "--num-shards", 2, "--shard", 1)
    with pytest.raises(MissingInput, match=r"part\.2/decode\.json: no such file"):
        run(monkeypatch, combine_decodes, *combine)
    (setup.root / "decode.yaml").write_text("{word_score: 1.0}\n")
    run_decode(monkeypatch, setup, "--num-shards", 2, "--shard", 2)
    with pytest.raises(UserError, match=r"part\.2/decode\.json: settings differs from that of part\.1; run steps"):
        run(monkeypatch, combine_decodes, *combine)
    save_config(setup.root / "decode.yaml", DecodeConfig())
    run_decode(monkeypatch, setup, "--num-shards", 2, "--shard", 2)
    (setup.out / "part.2/greedy.txt").write_text("s1-a AB\ns2-b A BED\n")
    with pytest.raises(UserError) as error:
        run(monkeypatch, combine_decodes, *combine)
    assert "part.2/greedy.txt:1: id 's1-a' is in an earlier part, too" in str(error.value)
    assert "id 's2-a' is missing" in str(error.value) and not (setup.out / "greedy.txt").exists()
    with pytest.raises(SystemExit):
        run_decode(monkeypatch, setup, "--num-shards", 2, "--shard", 3)


def test_decode_reads_audio_when_there_are_no_features(setup, monkeypatch):
    (setup.data / "feats.scp").unlink()
    seen = []
    monkeypatch.setattr(FakeRecogniser, "log_probs", lambda self, f: seen.append(f) or np.log(np.full((2, 8), 0.125)))
    run_decode(monkeypatch, setup)
    utt = Utterance("u", "s", "", str(setup.root / "a.wav"))
    np.testing.assert_array_equal(seen[0], utterance_features(utt, FeatureConfig()).numpy())
    assert len(seen) == len(TEXTS)


def test_broken_log_probs_name_the_utterance():
    class Broken(FakeRecogniser):
        def log_probs(self, features):
            return super().log_probs(features) + np.float32("nan")

    utts = [Utterance("s1-a", "s1", "", "x")]
    with pytest.raises(UserError, match="s1-a.*not finite"):
        decode.decode_all(Broken(), utts, lambda utt: [features_of("AB")])
    with pytest.raises(UserError, match=r"s1-a.*\(4, 40\).*80"):
        decode.decode_all(FakeRecogniser(), utts, lambda utt: [np.zeros((4, 40))])
    with pytest.raises(UserError, match="2 utterances in, 1 hypotheses out"):
        decode.decode_all(FakeRecogniser(), utts * 2, lambda utt: [features_of("AB")])


def test_missing_features_are_listed(setup, monkeypatch):
    scp = setup.data / "feats.scp"
    scp.write_text("".join(scp.read_text().splitlines(keepends=True)[:3]))
    with pytest.raises(UserError, match="s2-b"):
        run_decode(monkeypatch, setup)


def test_features_of_other_settings_are_refused(setup, monkeypatch):
    there = setup.data / "feats" / "features.yaml"
    save_config(there, FeatureConfig())
    run_decode(monkeypatch, setup)
    save_config(there, FeatureConfig(low_freq_hz=64.0))
    before = {path: path.read_bytes() for path in setup.out.iterdir()}
    both = f"{there} and {setup.model}/features.yaml differ (low_freq_hz 64.0 and 20.0)"
    with pytest.raises(UserError, match=re.escape(both)):
        run_decode(monkeypatch, setup)
    assert {path: path.read_bytes() for path in setup.out.iterdir()} == before
    (setup.data / "feats.scp").unlink()
    run_decode(monkeypatch, setup)  # from audio: those features are not read


def test_an_exported_folder_is_decoded_from_features_without_torch(setup):
    make_model_folder(setup.root / "m", "char")
    export_folder(setup.root / "m", setup.root / "m" / "export")
    code = "import sys; from steps import decode; decode.main(); sys.exit('torch' in sys.modules)"
    args = ["--model", setup.root / "m/export", "--data", setup.data, "--words", setup.root / "words.txt"]
    args += ["--config", setup.root / "decode.yaml", "--out", setup.out]
    root = Path(decode.__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    assert len((setup.out / "lexicon.txt").read_text().splitlines()) == len(TEXTS)


def test_a_folder_without_a_model_is_told(setup, monkeypatch):
    (setup.model / "model.onnx").unlink()
    with pytest.raises(MissingInput, match="neither model.json nor SHA256SUMS"):
        run_decode(monkeypatch, setup)


def test_word_lists_are_checked(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("AB\n\nAB\n CAD \n")
    assert read_words(path) == ["AB", "CAD"]
    for content, what in (("A B\n", "line 1"), ("\n", "empty")):
        path.write_text(content)
        with pytest.raises(UserError, match=what):
            read_words(path)
    path.write_text("AB\nXYZ\n")
    with pytest.raises(UserError, match="words.txt: 1 of 2 words.*XYZ"):
        open_lexicon(path, tmp_path, TOKENS, 0)
    path.write_text("AB\n")
    with pytest.raises(MissingInput, match="tokenizer.model"):
        open_lexicon(path, tmp_path, ["<blk>", "<unk>", "\u2581AB"], 0)


def test_score_writes_all_four_files_per_kind(setup, monkeypatch):
    run_decode(monkeypatch, setup, "--words", setup.root / "words.txt")
    run(monkeypatch, score, "--decode", setup.out, "--data", setup.data)
    lines = (setup.out / "wer_greedy").read_text().splitlines()
    assert lines[0] == "%WER 14.29 [ 1 / 7, 0 ins, 0 del, 1 sub ]"
    assert lines[1].startswith("%CER ") and lines[2] == "%SER 25.00 [ 1 / 4 ]"
    assert lines[3] == "%ACC 85.71 [ 6 / 7 ]" and lines[4].startswith("95 % interval of WER: ")
    assert "S  BAD -> BAE" in (setup.out / "errors_greedy.txt").read_text()
    assert (setup.out / "per_spk_greedy").read_text().splitlines()[-1].startswith("all")
    content = json.loads((setup.out / "score_greedy.json").read_text())
    columns = content["utterances"]
    assert columns["ids"] == sorted(TEXTS) and sum(columns["errors"]) == content["words"]["errors"] == 1
    assert {len(column) for column in columns.values()} == {4}
    assert (setup.out / "score_lexicon.json").is_file()
    (setup.out / "lexicon.txt").unlink()
    run(monkeypatch, score, "--decode", setup.out, "--data", setup.data)
    assert not (setup.out / "score_lexicon.json").exists()


def test_transcripts_as_classes(setup, monkeypatch):
    run_decode(monkeypatch, setup)
    run(monkeypatch, score, "--decode", setup.out, "--data", setup.data, "--classes", "true")
    found = json.loads((setup.out / "score_greedy.json").read_text())["classification"]
    assert found["accuracy"] == 75 and len(found["classes"]) == 4 and found["confusions"]["BAD DAB"] == {"": 1}
    assert "accuracy 75.00 %" in (setup.out / "classes_greedy").read_text()
    run(monkeypatch, score, "--decode", setup.out, "--data", setup.data)
    assert not (setup.out / "classes_greedy").exists()


def test_score_refuses_hypotheses_of_other_utterances(setup, monkeypatch):
    with pytest.raises(MissingInput, match="run steps.decode"):
        run(monkeypatch, score, "--decode", setup.out, "--data", setup.data)
    run_decode(monkeypatch, setup)
    path = setup.out / "greedy.txt"
    path.write_text(path.read_text().replace("s2-b", "s3-b"))
    with pytest.raises(UserError, match="greedy.txt.*s2-b.*s3-b"):
        run(monkeypatch, score, "--decode", setup.out, "--data", setup.data)


def test_transcribe_goes_on_after_a_bad_file(tmp_path, capsys):
    good, bad, short = tmp_path / "a b.flac", tmp_path / "notes.txt", tmp_path / "short.wav"
    soundfile.write(good, np.sin(np.arange(44100)) * 0.1, 44100)
    soundfile.write(short, np.zeros(10), RATE)
    bad.write_text("no audio")
    results = io.StringIO()
    paths = [str(path) for path in (bad, good, tmp_path / "none.wav", short, good)]
    assert transcribe.transcribe(FakeRecogniser(), paths, results) == 3
    lines = results.getvalue().splitlines()
    assert [line.split("\t")[0] for line in lines] == [str(good)] * 2 and lines[0] == lines[1]
    told = capsys.readouterr().err
    assert all(name in told for name in ("notes.txt", "none.wav", "short.wav"))


def test_any_sample_rate_is_brought_to_the_models(tmp_path):
    """Two seconds stay two seconds, whatever the file's rate."""
    frames = []
    recogniser = FakeRecogniser()
    recogniser.log_probs = lambda features: frames.append(len(features)) or np.log(np.full((1, 8), 0.125))
    for rate in (8000, 16000, 44100, 48000):
        soundfile.write(tmp_path / "a.wav", np.sin(np.arange(2 * rate)) * 0.1, rate)
        transcribe.transcribe(recogniser, [str(tmp_path / "a.wav")], io.StringIO())
    assert frames == [200] * 4


def test_transcribe_takes_the_channel_it_is_told_and_no_damaged_file_unasked(tmp_path, capsys):
    heard, recogniser, path = [], FakeRecogniser(), tmp_path / "a.wav"
    recogniser.log_probs = lambda features: heard.append(features.copy()) or np.log(np.full((1, 8), 0.125))
    sound = 0.1 * np.sin(np.arange(2 * RATE))
    soundfile.write(path, np.stack([np.zeros_like(sound), sound], axis=1), RATE)
    assert transcribe.transcribe(recogniser, [str(path)], io.StringIO()) == 1 and not heard
    assert "2 channels" in capsys.readouterr().err
    assert transcribe.transcribe(recogniser, [str(path)], io.StringIO(), channel=2) == 0
    soundfile.write(path, sound, RATE)
    assert transcribe.transcribe(recogniser, [str(path)], io.StringIO()) == 0
    assert np.array_equal(heard[0], heard[1])
    path.write_bytes(path.read_bytes()[:RATE])
    assert transcribe.transcribe(recogniser, [str(path)], io.StringIO()) == 1
    assert "cut short or damaged" in capsys.readouterr().err
    assert transcribe.transcribe(recogniser, [str(path)], io.StringIO(), damaged=True) == 0


def test_utterances_too_short_for_the_network_are_empty():
    recogniser = FakeRecogniser()
    recogniser.log_probs = lambda features: np.zeros((0, len(TOKENS)), dtype=np.float32)
    assert recogniser.recognise(np.zeros((1, 80), dtype=np.float32), "u") == {"greedy": ""}


def make_model_folder(folder, kind, vocab_size=None):
    """A finished model folder of a tiny untrained network with a real tokenizer."""
    folder.mkdir()
    tokenizer = train_tokenizer(list(TEXTS.values()) * 5, kind, vocab_size)
    tokenizer.save(folder)
    save_config(folder / "features.yaml", FeatureConfig())
    sizes = {"d_model": 24, "context": 3, "num_blocks": 2, "block": {"units": 40}}
    model = build_model(new_spec("dnn", sizes, 80, tokenizer.vocab_size, "test"))
    save_model(folder, model, {name: folder / name for name in ("tokenizer.model", "tokens.txt", "features.yaml")})


def test_subword_models_spell_with_their_tokenizer(tmp_path):
    make_model_folder(tmp_path / "m", "bpe", 12)
    (tmp_path / "words.txt").write_text("AB\nCAD\nDAB\n")
    recogniser = load_recogniser(tmp_path / "m")
    assert recogniser.use_words(tmp_path / "words.txt", tmp_path / "m")["count"] == 3
    features = np.random.default_rng(0).normal(size=(400, 80)).astype(np.float32)
    text = recogniser.recognise(features, "u")["lexicon"]
    assert text and set(text.split()) <= {"AB", "CAD", "DAB"}


def test_transcribe_prints_results_and_nothing_else(tmp_path):
    make_model_folder(tmp_path / "m", "char")
    (tmp_path / "words.txt").write_text("AB\nCAD\n")
    soundfile.write(tmp_path / "a.flac", np.random.default_rng(0).uniform(-0.3, 0.3, 3 * 8000), 8000)
    (tmp_path / "b.wav").write_text("no audio")
    command = [sys.executable, "-m", "steps.transcribe", tmp_path / "m", tmp_path / "a.flac", tmp_path / "b.wav"]
    command += ["--words", tmp_path / "words.txt", "--channel", "1", "--damaged", "refuse"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(decode.__file__).resolve().parents[1])
    assert done.returncode == 1, done.stderr
    (line,) = done.stdout.splitlines()
    path, _, text = line.partition("\t")
    assert path == str(tmp_path / "a.flac") and set(text.split()) <= {"AB", "CAD"}
    assert "b.wav: not a readable sound file" in done.stderr and "1 of 2 files" in done.stderr


def test_long_sound_is_recognised_in_pieces_and_joined(monkeypatch, tmp_path):
    """With pauses: every piece is heard once, in order, and the texts are joined."""
    samples = np.random.default_rng(0).standard_normal(33 * RATE) * 0.1
    for second in (6, 12, 19, 26):
        samples[second * RATE : second * RATE + RATE // 2] *= 1e-3
    soundfile.write(tmp_path / "long.wav", samples, RATE)
    heard = []
    recogniser = FakeRecogniser()
    said = iter(["AB", "", "CAD", "BED"] + ["A"] * 9)
    monkeypatch.setattr(recogniser, "recognise", lambda feats, name: heard.append(len(feats)) or {"greedy": next(said)})
    results = io.StringIO()
    assert transcribe.transcribe(recogniser, [str(tmp_path / "long.wav")], results) == 0
    assert max(heard) <= 800 and abs(sum(heard) - 3300) < 5 * len(heard) and len(heard) == 5
    assert results.getvalue().split("\t")[1] == "AB CAD BED A\n"


def test_a_splinter_does_not_end_a_decoding(setup, monkeypatch, capsys):
    (setup.data / "feats.scp").unlink()
    soundfile.write(setup.root / "splinter.wav", np.zeros(100), RATE)
    wavs = (setup.data / "wav.scp").read_text().splitlines()
    wavs[1] = f"{wavs[1].split()[0]} {setup.root / 'splinter.wav'}"
    (setup.data / "wav.scp").write_text("\n".join(wavs) + "\n")
    durations = (setup.data / "utt2dur").read_text().splitlines()
    durations[1] = f"{durations[1].split()[0]} 0.00625"
    (setup.data / "utt2dur").write_text("\n".join(durations) + "\n")
    run_decode(monkeypatch, setup)
    lines = (setup.out / "greedy.txt").read_text().splitlines()
    assert len(lines) == len(TEXTS) and lines[1].rstrip() == "s1-b"
    assert "1 utterance shorter than one frame, recognised as empty: s1-b" in capsys.readouterr().out
