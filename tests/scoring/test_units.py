"""What error rates count: words, characters with their marks, folded phones; any script survives to the files."""

import json

import pytest

from steps import score
from steps.core.config import ConfigError, from_dict
from steps.core.datadir import Utterance, write_data_dir
from steps.core.outdir import write_json
from steps.core.tables import write_table
from steps.deploy.recognition import DecodeConfig
from steps.scoring.wer import in_units


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("而对楼市", ["而", "对", "楼", "市"]),
        ("ab c", ["a", "b", "c"]),
        ("हिन्दी", ["हि", "न्", "दी"]),
        ("e\u0301a", ["e\u0301", "a"]),
        ("שָׁלוֹם", ["שָׁ", "ל", "וֹ", "ם"]),
        ("می\u200cخ", ["م", "ی\u200c", "خ"]),
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


def scored(tmp_path, monkeypatch, texts, hyps, **settings):
    utts = [Utterance(f"s{i}-{i}", f"s{i}", text, "x.wav", duration_s=1.0) for i, text in enumerate(texts)]
    write_data_dir(tmp_path / "test", utts)
    write_table(tmp_path / "decode/greedy.txt", {utt.utt_id: hyp for utt, hyp in zip(utts, hyps, strict=True)})
    write_json(tmp_path / "decode/decode.json", {"settings": settings})
    monkeypatch.setattr("sys.argv", ["score", "--decode", str(tmp_path / "decode"), "--data", str(tmp_path / "test")])
    score.main()
    return json.loads((tmp_path / "decode/score_greedy.json").read_text(encoding="utf-8"))


def test_characters_are_the_headline(tmp_path, monkeypatch, capsys):
    content = scored(tmp_path, monkeypatch, ["而对楼市", "成交"], ["而对市", "成交"], unit="char")
    assert (content["rate"], content["words"]["errors"], content["words"]["reference_length"]) == ("CER", 1, 6)
    assert "%CER 16.67 [ 1 / 6, 0 ins, 1 del, 0 sub ]" in capsys.readouterr().out
    assert (tmp_path / "decode/errors_greedy.txt").read_text(encoding="utf-8").startswith("%CER")


def test_phones_are_folded_in_both(tmp_path, monkeypatch):
    content = scored(tmp_path, monkeypatch, ["ao ix t"], ["aa ih d"], unit="phone", fold={"ao": "aa", "ix": "ih"})
    assert (content["rate"], content["words"]["errors"], content["words"]["reference_length"]) == ("PER", 1, 3)


@pytest.mark.parametrize(
    "text", ["مرحبا بكُم", "שָׁלוֹם עולם", "हिन्दी भाषा", "من می\u200cخواهم", "ภาษาไทย ดี", "Tiếng Việt"]
)
def test_any_script_survives_to_the_errors_file(tmp_path, monkeypatch, text):
    content = scored(tmp_path, monkeypatch, [text], [text.split()[0]])
    errors = (tmp_path / "decode/errors_greedy.txt").read_text(encoding="utf-8")
    assert all(word in errors for word in text.split()) and content["words"]["errors"] == len(text.split()) - 1
