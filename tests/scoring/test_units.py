"""What error rates count: words, characters with their marks, folded phones; any script survives to the files."""

import json

import pytest

from steps import score
from steps.core.config import ConfigError, from_dict
from steps.core.datadir import Utterance, read_data_dir, write_data_dir
from steps.core.outdir import write_json
from steps.core.tables import write_table
from steps.core.text_units import characters, in_units
from steps.deploy.recognition import DecodeConfig
from steps.scoring.compare import compare, ledgers
from steps.scoring.errors import format_alignment
from steps.scoring.wer import count_utterances


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("而对楼市", ["而", "对", "楼", "市"]),
        ("ab c", ["a", "b", "c"]),
        ("हिन्दी", ["हि", "न्", "दी"]),
        ("e\u0301a", ["e\u0301", "a"]),
        ("שָׁלוֹם", ["שָׁ", "ל", "וֹ", "ם"]),
        ("می\u200cخ", ["م", "ی\u200c", "خ"]),
        ("അവന്\u200d കണ്ടു", ["അ", "വ", "ന്\u200d", "ക", "ണ്", "ടു"]),
        ("ක්\u200dර", ["ක්\u200d", "ර"]),
        ("", []),
    ],
)
def test_characters_keep_their_marks(text, units):
    assert in_units(text, "char").split() == units
    assert "".join(units) == text.replace(" ", "")


def test_folding_is_by_word():
    assert in_units("ao  ix vcl b", "phone", {"ao": "aa", "ix": "ih", "vcl": "sil"}) == "aa ih sil b"


@pytest.mark.parametrize("bad", [{"unit": "letter"}, {"fold": {"a b": "c"}}, {"fold": {"a": 3}}])
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ConfigError):
        from_dict(DecodeConfig, bad, "decode.yaml")


def scored(tmp_path, monkeypatch, texts, hyps, decode="decode", **settings):
    utts = [Utterance(f"s{i}-{i}", f"s{i}", text, "x.wav", duration_s=1.0) for i, text in enumerate(texts)]
    write_data_dir(tmp_path / "test", utts)
    folder = tmp_path / decode
    write_table(folder / "greedy.txt", {utt.utt_id: hyp for utt, hyp in zip(utts, hyps, strict=True)})
    write_json(folder / "decode.json", {"settings": settings})
    monkeypatch.setattr("sys.argv", ["score", "--decode", str(folder), "--data", str(tmp_path / "test")])
    score.main()
    return json.loads((folder / "score_greedy.json").read_text(encoding="utf-8"))


def test_characters_are_the_headline(tmp_path, monkeypatch, capsys):
    content = scored(tmp_path, monkeypatch, ["而对楼市", "成交"], ["而对市", "成交"], unit="char")
    assert (content["rate"], content["words"]["errors"], content["words"]["reference_length"]) == ("CER", 1, 6)
    assert "%CER 16.67 [ 1 / 6, 0 ins, 1 del, 0 sub ]" in capsys.readouterr().out
    assert (tmp_path / "decode/errors_greedy.txt").read_text(encoding="utf-8").startswith("%CER")


def test_classes_are_named_as_they_are_written(tmp_path, monkeypatch):
    texts, hyps = ["开灯", "关 灯", "关灯"], ["开灯", "关灯", "开灯"]
    scored(tmp_path, monkeypatch, texts, hyps, unit="char")
    score.score(
        tmp_path / "decode", "greedy", read_data_dir(tmp_path / "test", check_audio=False), "test", classes=True
    )
    found = json.loads((tmp_path / "decode/score_greedy.json").read_text(encoding="utf-8"))["classification"]
    # blanks are not counted, so they make no classes
    assert set(found["classes"]) == {"开灯", "关灯"} and found["accuracy"] == pytest.approx(100 * 2 / 3)
    assert found["confusions"]["关灯"] == {"关灯": 1, "开灯": 1}


def test_phones_are_folded_in_both(tmp_path, monkeypatch):
    content = scored(tmp_path, monkeypatch, ["ao ix t"], ["aa ih d"], unit="phone", fold={"ao": "aa", "ix": "ih"})
    assert (content["rate"], content["words"]["errors"], content["words"]["reference_length"]) == ("PER", 1, 3)


@pytest.mark.parametrize(
    ("settings", "texts", "large", "small"),
    [
        ({"unit": "char"}, ["而对楼市", "成交", "成"], ["而对楼市", "成交", "成"], ["而对市", "成交", "城"]),
        (
            {"unit": "phone", "fold": {"ao": "aa"}},
            ["ao t", "d ao k", "t"],
            ["aa t", "d ao k", "t"],
            ["aa t", "d k", "d"],
        ),
    ],
    ids=["char", "fold"],
)
def test_models_are_compared_in_the_units_that_are_counted(tmp_path, monkeypatch, settings, texts, large, small):
    for name, hyps in (("large", large), ("small", small)):
        scored(tmp_path, monkeypatch, texts, hyps, f"{name}/decode_test_onnx", **settings)
    (found,) = compare(tmp_path, [("small", "large")], ["test"])
    (ledger,) = ledgers(tmp_path, [("small", "large")], ["test"])
    assert found.matched_pairs.segments == 2 and found.matched_pairs.mean == 1.0
    assert (ledger.worse, ledger.better, ledger.other_text) == (2, 0, 0)
    assert ledger.by_type == {"insertions": 0, "deletions": 1, "substitutions": 1}
    assert sum(change.more for change in ledger.changes) == 2


@pytest.mark.parametrize(
    "text", ["مرحبا بكُم", "שָׁלוֹם עולם", "हिन्दी भाषा", "من می\u200cخواهم", "ภาษาไทย ดี", "Tiếng Việt"]
)
def test_any_script_survives_to_the_errors_file(tmp_path, monkeypatch, text):
    content = scored(tmp_path, monkeypatch, [text], [text.split()[0]])
    errors = (tmp_path / "decode/errors_greedy.txt").read_text(encoding="utf-8")
    assert all(word in errors for word in text.split()) and content["words"]["errors"] == len(text.split()) - 1


def test_a_wrong_vowel_sign_is_one_wrong_character_of_those_a_reader_sees():
    # കിടാവ് has three characters in six signs; the hypothesis has another vowel sign, and the word in two parts
    ref, hyp = "\u0d15\u0d3f\u0d1f\u0d3e\u0d35\u0d4d", "\u0d15\u0d41\u0d1f\u0d3e \u0d35\u0d4d"
    assert characters(ref) == ["\u0d15\u0d3f", "\u0d1f\u0d3e", "\u0d35\u0d4d"]
    (count,) = count_utterances({"a": ref}, {"a": hyp}, "char")
    assert (count.reference_length, count.substitutions, count.insertions, count.deletions) == (3, 1, 1, 0)
    # a mark does not join the space before it
    assert characters("a \u0301b") == ["a", " ", "\u0301", "b"]


def test_the_rate_of_characters_has_an_interval_where_it_is_wanted(tmp_path, monkeypatch, capsys):
    texts = [f"{word} bb" for word in ("ab", "cd", "ef", "gh", "ij", "kl")]
    content = scored(
        tmp_path, monkeypatch, texts, [text.replace("b", "x", i) for i, text in enumerate(texts)], cer=True
    )
    # 0 + 1 + 2 + 2 + 2 + 2 letters of 30 are wrong
    assert content["cer_interval_95"]["percent"] == pytest.approx(30.0)
    assert content["cer_interval_95"]["low"] < 30.0 < content["cer_interval_95"]["high"]
    assert (
        "95 % interval of CER: " in (tmp_path / "decode/wer_greedy").read_text()
        and "%CER 30.00" in capsys.readouterr().out
    )
    assert scored(tmp_path, monkeypatch, texts, texts)["cer_interval_95"] is None
    with pytest.raises(ConfigError, match="cer: true is for unit: word"):
        from_dict(DecodeConfig, {"unit": "char", "cer": True}, "decode.yaml")


def test_marks_take_no_column(tmp_path):
    lines = format_alignment("\u0d15\u0d41 x", "\u0d15 x").splitlines()
    assert lines[:2] == ["REF: \u0d15\u0d41 x", "HYP: \u0d15 x"]
