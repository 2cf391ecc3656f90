"""steps.decode and combine_decodes around a made-up recogniser that reads the tokens off the features."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from steps import combine_decodes, decode, score
from steps.core.cli import MissingInput, UserError
from steps.core.config import load_config, save_config, to_dict
from steps.core.datadir import Utterance
from steps.core.outdir import sha256_file
from steps.core.tables import read_table
from steps.data.feature_config import FeatureConfig
from steps.data.features import utterance_features
from steps.deploy.export import export_folder
from steps.deploy.recognition import DecodeConfig
from steps.deploy.runtimes import load_recogniser
from steps.deploy.runtimes.ctc import open_lexicon, read_words
from steps.search.lexicon import LexiconDecoder
from tests.made_up_recogniser import (
    RATE,
    ROOT,
    TEXTS,
    TOKENS,
    FakeRecogniser,
    features_of,
    make_model_folder,
    run,
    run_decode,
)
from tests.made_up_recogniser import setup as setup  # a fixture


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
    # a part of another folder has its feats.scp, not its feats
    there.rename(Path(read_table(setup.data / "feats.scp")["s1-a"].rpartition("/")[0]) / "features.yaml")
    with pytest.raises(UserError, match=r"differ \(low_freq_hz 64.0 and 20.0\)"):
        run_decode(monkeypatch, setup)
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


def test_units_of_a_hub_that_cannot_spell_a_word_cost_its_model_that_column_only(setup, monkeypatch, capsys):
    """A chain begins with such a model, such as one of capitals; others would end at the last stages."""
    words, labels = setup.root / "words.txt", setup.root / "labels.txt"
    for path in (words, labels):
        path.write_text("AB\nQUIZ\n")
    options = ("--words", words, "--labels", labels)
    with pytest.raises(UserError, match="words.txt: 1 of 2 words cannot be spelled .* QUIZ"):
        run_decode(monkeypatch, setup, *options)
    (setup.model.parent / "model.json").write_text('{"step": "import_model", "origin": {}}')
    run_decode(monkeypatch, setup, *options, "--graph", setup.model)
    said = capsys.readouterr().out
    assert all(
        f"warning: no {kind} column of a model with units of its own" in said for kind in ("lexicon", "one_of", "lm")
    )
    assert [path.name for path in setup.out.glob("*.txt")] == ["greedy.txt"]
    facts = json.loads((setup.out / "decode.json").read_text())
    assert facts["words"] is None and facts["labels"] is None and "graph" not in facts
    with pytest.raises(MissingInput, match="no_list"):
        run_decode(monkeypatch, setup, "--words", setup.root / "no_list")
    words.write_text("AB\nCAD\n")
    run_decode(monkeypatch, setup, "--words", words)
    assert (setup.out / "lexicon.txt").is_file()


def test_word_lists_are_checked(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("\ufeffAB\r\n\nAB\n CAD \n", encoding="utf-8")
    assert read_words(path) == ["AB", "CAD"]
    for content, what in (("A B\n", "line 1"), ("\n", "empty")):
        path.write_text(content)
        with pytest.raises(UserError, match=what):
            read_words(path)
    path.write_text("AB\nXYZ\n")
    with pytest.raises(UserError, match="words.txt: 1 of 2 words.*XYZ"):
        open_lexicon(LexiconDecoder, path, tmp_path, TOKENS, 0)
    path.write_text("AB\n")
    with pytest.raises(MissingInput, match="tokenizer.model"):
        open_lexicon(LexiconDecoder, path, tmp_path, ["<blk>", "<unk>", "\u2581AB"], 0)


def test_utterances_too_short_for_the_network_are_empty():
    recogniser = FakeRecogniser()
    recogniser.log_probs = lambda features: np.zeros((0, len(TOKENS)), dtype=np.float32)
    assert recogniser.recognise(np.zeros((1, 80), dtype=np.float32), "u") == {"greedy": ""}


def test_subword_models_spell_with_their_tokenizer(tmp_path):
    make_model_folder(tmp_path / "m", "bpe", 12)
    (tmp_path / "words.txt").write_text("AB\nCAD\nDAB\n")
    recogniser = load_recogniser(tmp_path / "m")
    assert recogniser.use_words(tmp_path / "words.txt", tmp_path / "m")["count"] == 3
    features = np.random.default_rng(0).normal(size=(400, 80)).astype(np.float32)
    text = recogniser.recognise(features, "u")["lexicon"]
    assert text and set(text.split()) <= {"AB", "CAD", "DAB"}


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
