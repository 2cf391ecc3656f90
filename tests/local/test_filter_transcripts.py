"""Transcripts of a recogniser in the student's form; what is likely wrong goes, counted by reason; their errors are measured."""

import json
import sys

import numpy as np
import pytest
import soundfile

from local import filter_transcripts as program
from local.filter_transcripts import PseudoLabelConfig, heard_forms, spelled, written
from local.text import TextConfig
from steps.core.cli import MissingInput, UserError
from steps.core.config import ConfigError, from_dict
from steps.core.datadir import Utterance, read_data_dir, write_data_dir

UPPER = TextConfig(language="en", case="upper", punctuation="remove", keep="")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("CZDZW8.", "C Z D Z W 8."),
        ("Enter 624", "Enter 624"),
        ("NO I am b2b, OK", "N O I am b 2 b, O K"),
        ("No. Yes", "No. Yes"),
        ("the 21st, 3RD and MP3", "the 21st, 3RD and M P 3"),
        ("H-O-W", "H-O-W"),
        ("ÄÖ മലയാളം 日本", "Ä Ö മലയാളം 日本"),
    ],
)
def test_words_in_capitals_are_spelled(text, wanted):
    assert spelled(text) == wanted


def test_the_reading_nearest_to_the_second_recogniser_is_taken():
    config = PseudoLabelConfig(text=UPPER, spell=True, readings=True)
    assert (
        written("Erase OTH 50, 5156", config, "ERASE O T FIFTY FIFTY ONE SIX")
        == "ERASE O T H FIFTY FIFTY ONE FIFTY SIX"
    )
    assert written("Erase OTH 50", config, "A R O T H FIVE OH") == "ERASE O T H FIVE ZERO"
    assert written("50", config, None) == written("50", config, "") == "FIVE ZERO"


def test_numbers_are_not_cut_in_pieces():
    config = PseudoLabelConfig(text=UPPER, spell=True, readings=True)
    for text, heard in (
        ("1,000 dollars", "ONE THOUSAND DOLLARS"),
        ("3.5 miles", "THREE POINT FIVE MILES"),
        ("May 21st", "MAY TWENTY FIRST"),
        ("50,5156", "FIFTY FIFTY ONE FIFTY SIX"),
    ):
        assert written(text, config, heard) == heard


@pytest.mark.parametrize(
    "settings",
    [
        {"readings": True},
        {"readings": True, "text": {"language": "en", "numbers": True}},
        {"max_loop": 1},
        {"max_disagreement": -0.1},
        {"filter": {"sets": ["dev"]}},
        {"min_dbfs": 0},
        {"unit": "phone"},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings):
    with pytest.raises(ConfigError):
        from_dict(PseudoLabelConfig, settings, "labels.yaml")


HEARD = {
    "s-1": "Yes, 21.", "s-2": "no no no no no", "s-3": "yes maybe", "s-4": "nope", "s-5": "yes no", "s-6": "[BLANK_AUDIO]",
}  # fmt: skip
OTHER = {"s-1": "YES TWENTY ONE", "s-2": "NO", "s-3": "YES MAYBE", "s-4": "NO", "s-5": "NO NO NO"}
TRUTH = {
    "s-1": "YES TWENTY ONE",
    "s-2": "NO",
    "s-3": "YES",
    "s-4": "NO",
    "s-5": "YES YES",
    "s-6": "NO NO",
    "s-7": "YES",
}


@pytest.fixture
def folder(tmp_path):
    for name, texts in (("heard", HEARD), ("truth", TRUTH)):
        write_data_dir(tmp_path / name, [Utterance(i, "s", t, "x.wav", duration_s=1.5) for i, t in texts.items()])
    for path in (tmp_path / "x.wav", tmp_path / "words.txt"):
        path.write_text("YES\nNO\nTWENTY\nONE\nNOPE\n")
    for name in ("heard", "truth"):
        scp = tmp_path / name / "wav.scp"
        scp.write_text(scp.read_text().replace(" x.wav", f" {tmp_path}/x.wav"))
    (tmp_path / "other").write_text("".join(f"{i} {t}\n" for i, t in OTHER.items()))
    (tmp_path / "labels.yaml").write_text(
        "text: {language: en, case: upper, punctuation: remove, markers: drop}\nreadings: true\nmax_disagreement: 0.6\n"
    )
    return tmp_path


def run(monkeypatch, folder, *options):
    argv = [
        "filter",
        "--data",
        folder / "heard",
        "--out",
        folder / "out",
        "--options",
        folder / "labels.yaml",
        *options,
    ]
    monkeypatch.setattr(sys, "argv", list(map(str, argv)))
    program.main()


def test_what_is_dropped_is_listed_with_its_reason_and_the_errors_are_counted(monkeypatch, folder, capsys):
    run(monkeypatch, folder, "--agree", folder / "other", "--words", folder / "words.txt", "--truth", folder / "truth")
    assert {utt.utt_id: utt.text for utt in read_data_dir(folder / "out")} == {"s-1": "YES TWENTY ONE"}
    assert (folder / "out/dropped.tsv").read_text().splitlines() == [
        "s-2\twords over and over\tNO NO NO NO NO",
        "s-3\tword outside the list: MAYBE\tYES MAYBE",
        "s-4\ttwo recognisers disagree\tNOPE",
        "s-5\ttwo recognisers disagree\tYES NO",
        "s-6\tempty transcript\t",
    ]
    assert "kept 1 of 6 transcripts" in capsys.readouterr().out
    labels = json.loads((folder / "out/transcripts.json").read_text())
    assert (labels["set"], labels["transcripts"], labels["kept"]) == ("out", 6, 1)
    assert labels["dropped"] == {
        "two recognisers disagree": 2, "words over and over": 1, "word outside the list": 1, "empty transcript": 1
    }  # fmt: skip
    quality = labels["errors"]
    # 0 + 4 + 1 + 1 + 1 + 2 errors, and one for s-7, in which nothing was heard at all
    assert quality["all"] == {"utterances": 7, "words": 11, "errors": 10, "wer": 90.91}
    assert quality["kept"] == {"utterances": 1, "words": 3, "errors": 0, "wer": 0.0}


def test_what_nobody_heard_or_nobody_can_read_is_dropped_with_its_reason(monkeypatch, folder):
    (folder / "heard/dropped.tsv").write_text("s-1\tstale\ns-7\tnothing recognised\n")
    text = folder / "heard/text"
    text.write_text(text.read_text().replace("s-3 yes maybe", "s-3 the 1990s"))
    run(monkeypatch, folder, "--agree", folder / "other", "--truth", folder / "truth")
    rows = (folder / "out/dropped.tsv").read_text().splitlines()
    assert "s-7\tnothing recognised\t" in rows and "s-3\tnumber that cannot be read: 1990s\t" in "\n".join(rows)
    assert not any("stale" in row for row in rows)
    labels = json.loads((folder / "out/transcripts.json").read_text())
    assert labels["transcripts"] == 7 == labels["kept"] + sum(labels["dropped"].values())
    assert labels["dropped"]["nothing recognised"] == labels["dropped"]["number that cannot be read"] == 1
    assert labels["errors"]["all"]["utterances"] == 7
    (folder / "heard/dropped.tsv").write_text("s-7 nothing recognised\n")
    with pytest.raises(UserError, match=r"heard/dropped.tsv:1: expected an utterance, a tab and a reason"):
        run(monkeypatch, folder, "--agree", folder / "other")


def test_two_recognisers_that_write_the_same_agree(monkeypatch, folder):
    texts = {
        "s-1": "CZDZW8.",
        "s-2": "fifty one 8",
        "s-3": "May 21st, NBC",
        "s-4": "yes",
        "s-5": "no way",
        "s-6": "OK",
    }
    other = "".join(f"{utt_id} {text}\n" for utt_id, text in texts.items())
    for path in (folder / "heard/text", folder / "other"):
        path.write_text(other)
    options = "text: {language: en, case: upper, punctuation: remove}\nfilter: {min_chars_per_s: null}\n"
    (folder / "labels.yaml").write_text(f"{options}spell: true\nreadings: true\nmax_disagreement: 0\n")
    run(monkeypatch, folder, "--agree", folder / "other")
    assert [utt.utt_id for utt in read_data_dir(folder / "out")] == list(texts)
    # the same from one that writes capitals and no digits
    (folder / "other").write_text(
        "s-1 C Z D Z W EIGHT\ns-2 FIFTY ONE EIGHT\ns-3 MAY TWENTY FIRST N B C\ns-4 THOUSAND\ns-6 O K\n"
    )
    run(monkeypatch, folder, "--agree", folder / "other")
    found = {utt.utt_id: utt.text for utt in read_data_dir(folder / "out")}
    assert list(found) == ["s-1", "s-2", "s-3", "s-6"] and found["s-2"] == "FIFTY ONE EIGHT"


def test_two_that_write_digits_do_not_say_how_these_are_read(monkeypatch, folder):
    for path in (folder / "heard/text", folder / "other"):
        path.write_text("s-1 in 1995 he left\ns-2 he left\ns-3 we had 25 and 8\ns-4 a\ns-5 b\ns-6 c\n")
    options = "text: {language: en}\nfilter: {min_chars_per_s: null}\nreadings: true\nmax_disagreement: 0.3\n"
    (folder / "labels.yaml").write_text(options)
    run(monkeypatch, folder, "--agree", folder / "other")
    assert [utt.utt_id for utt in read_data_dir(folder / "out")] == ["s-2", "s-4", "s-5", "s-6"]
    assert (folder / "out/dropped.tsv").read_text().count("two recognisers disagree") == 2


def test_words_of_a_recogniser_that_writes_capitals_only_are_no_letters():
    config = PseudoLabelConfig(text=UPPER, spell=True, readings=True)
    others = {"s-1": "ERASE FIFTY", "s-2": "NO"}
    assert heard_forms(others, ["Erase 50", "No"], config)("s-1") == "ERASE FIFTY"
    assert heard_forms(others, ["ERASE 50", "NO"], config)("s-2") == "N O"
    assert heard_forms(others | {"s-3": "no"}, ["No"], config)("s-2") == "N O"
    assert heard_forms(others, ["No"], config)("s-4") is None
    assert heard_forms({"s-1": "मैं NBC"}, ["x"], config)("s-1") == "मैं N B C"


def test_characters_are_compared_and_counted_where_words_have_no_blanks(monkeypatch, folder, capsys):
    heard, other = "今天天气非常好我们去公园散步", "今天天气非常好我们去公园散步吧"
    for path, text in ((folder / "heard/text", heard), (folder / "truth/text", other), (folder / "other", other)):
        path.write_text("".join(f"s-{number} {text}\n" for number in range(1, 8 if path.parent.name == "truth" else 7)))
    (folder / "labels.yaml").write_text("max_disagreement: 0.3\n")
    with pytest.raises(UserError, match="two recognisers disagree: 6"):
        run(monkeypatch, folder, "--agree", folder / "other")
    (folder / "labels.yaml").write_text("max_disagreement: 0.3\nunit: char\n")
    run(monkeypatch, folder, "--agree", folder / "other", "--truth", folder / "truth")
    labels = json.loads((folder / "out/transcripts.json").read_text())
    assert labels["errors"]["kept"] == {"utterances": 6, "characters": 90, "errors": 6, "cer": 6.67}
    said = capsys.readouterr().out
    assert "kept: 6.67 % CER (6/90)" in said and "WER" not in said


def test_a_word_list_may_begin_with_a_byte_order_mark(monkeypatch, folder):
    (folder / "labels.yaml").write_text("text: {case: upper, punctuation: remove, markers: drop}\n")
    (folder / "words.txt").write_bytes(b"\xef\xbb\xbfNOPE\r\nYES MAYBE\n")
    run(monkeypatch, folder, "--words", folder / "words.txt")
    assert [utt.utt_id for utt in read_data_dir(folder / "out")] == ["s-3", "s-4"]
    with pytest.raises(MissingInput, match="nowhere: no such word list"):
        run(monkeypatch, folder, "--words", folder / "nowhere")


def test_what_the_second_recogniser_lacks_is_dropped(monkeypatch, folder):
    other = folder / "other"
    other.write_text("".join(line for line in other.read_text().splitlines(True) if not line.startswith("s-1")))
    run(monkeypatch, folder, "--agree", other)
    assert [utt.utt_id for utt in read_data_dir(folder / "out")] == ["s-3"]
    assert "s-1\tnot in --agree\tYES TWO ONE\n" in (folder / "out/dropped.tsv").read_text()


@pytest.mark.parametrize(
    ("policy", "stays", "reason"),
    [
        ("{markers: drop_utterance}", {}, "holds [BLANK_AUDIO]"),
        ("{markers: drop, map: {maybe: null}}", {}, "holds maybe"),
        ("{markers: keep}", {"s-3": "yes maybe", "s-6": "[BLANK_AUDIO]"}, None),
        ("{markers: keep, map: {'[BLANK_AUDIO]': hush}}", {"s-3": "yes maybe", "s-6": "hush"}, None),
    ],
)
def test_markers_are_dealt_with_as_in_other_transcripts(monkeypatch, folder, policy, stays, reason):
    (folder / "labels.yaml").write_text(f"text: {policy}\nspell: true\n")
    run(monkeypatch, folder)
    texts = {utt.utt_id: utt.text for utt in read_data_dir(folder / "out")}
    assert "s-4" in texts and {key: texts[key] for key in stays} == stays
    if reason:
        assert f"\t{reason}\t" in (folder / "out/dropped.tsv").read_text()
        assert ("s-3" if "maybe" in reason else "s-6") not in texts


def test_markers_that_nothing_is_said_about_are_refused(monkeypatch, folder):
    (folder / "labels.yaml").write_text("max_loop: null\n")
    with pytest.raises(UserError, match=r"what is no word, 1 time: \[BLANK_AUDIO\] 1"):
        run(monkeypatch, folder)


def test_markers_in_capitals_are_not_spelled():
    config = PseudoLabelConfig(text=TextConfig(markers="drop", map={"NIL": None}), spell=True)
    assert written("(MUSIC) NBC READ(2) NIL *COUGHS*", config) == "N B C R E A D"


def test_a_second_recogniser_is_asked_for(monkeypatch, folder):
    with pytest.raises(UserError, match="name it with --agree"):
        run(monkeypatch, folder)


def test_what_the_recogniser_was_not_sure_of_is_dropped(monkeypatch, folder):
    (folder / "labels.yaml").write_text("min_confidence: 0.6\nmax_loop: null\ntext: {markers: keep}\n")
    with pytest.raises(MissingInput, match="utt2confidence: no such file; this recogniser does not say how sure it is"):
        run(monkeypatch, folder)
    sure = {"s-1": "0.6000", "s-2": "0.5999", "s-3": "1.0000", "s-4": "0.1", "s-5": "0.9", "s-6": "0.0"}
    (folder / "heard/utt2confidence").write_text("".join(f"{i} {value}\n" for i, value in sure.items()))
    run(monkeypatch, folder)
    assert [utt.utt_id for utt in read_data_dir(folder / "out")] == ["s-1", "s-3", "s-5"]
    assert "s-4\tthe recogniser was not sure\t" in (folder / "out/dropped.tsv").read_text()
    (folder / "heard/utt2confidence").write_text("s-1 1.5\n")
    with pytest.raises(UserError, match="'1.5' is no number from 0 to 1"):
        run(monkeypatch, folder)


def test_lengths_are_measured_where_nothing_tells_them(monkeypatch, tmp_path):
    soundfile.write(tmp_path / "x.wav", np.full(16000, 0.01), 16000)
    audio = str(tmp_path / "x.wav")
    write_data_dir(
        tmp_path / "heard", [Utterance("s-1", "s", "yes", audio), Utterance("s-2", "s", "no", audio, 0.75, 1.0)]
    )
    assert not (tmp_path / "heard/utt2dur").exists()
    (tmp_path / "labels.yaml").write_text("filter: {min_s: 0.5}\n")
    run(monkeypatch, tmp_path)
    assert [(utt.utt_id, utt.duration_s) for utt in read_data_dir(tmp_path / "out")] == [("s-1", 1.0)]
    assert "s-2\ttoo short" in (tmp_path / "out/dropped.tsv").read_text()


def test_what_was_heard_in_silence_is_dropped(monkeypatch, tmp_path):
    sound = np.full(16000, 0.01) * np.resize([1, -1], 16000)
    sound[8000:] *= 0.1
    soundfile.write(tmp_path / "x.wav", sound, 16000, subtype="FLOAT")
    limits = {"s-1": (0.0, 0.5), "s-2": (0.5, 1.0), "s-3": (0.0, 1.0)}
    audio = str(tmp_path / "x.wav")
    utterances = [Utterance(i, "s", "thank you", audio, *place, 0.5) for i, place in limits.items()]
    write_data_dir(tmp_path / "heard", utterances)
    for limit, stays in ((-39, []), (-41, ["s-1"]), (-44, ["s-1", "s-3"]), (-61, ["s-1", "s-2", "s-3"])):
        (tmp_path / "labels.yaml").write_text(f"min_dbfs: {limit}\n")
        if not stays:
            with pytest.raises(UserError, match=r"all of 3 transcripts are dropped \(silence: 3\)"):
                run(monkeypatch, tmp_path)
            continue
        run(monkeypatch, tmp_path)
        assert [utt.utt_id for utt in read_data_dir(tmp_path / "out")] == stays


def test_the_truth_is_that_of_the_same_utterances(monkeypatch, folder):
    for path in (folder / "truth").iterdir():
        path.write_text(path.read_text().replace("s-3", "s-33"))
    with pytest.raises(UserError, match="has no transcript of s-3;"):
        run(monkeypatch, folder, "--agree", folder / "other", "--truth", folder / "truth")


def test_a_number_that_cannot_be_said_drops_its_own_transcript_alone(monkeypatch, folder):
    """Nobody can write it in words for a recogniser."""
    (folder / "labels.yaml").write_text("text: {language: tr, numbers: true, case: upper, markers: drop}\n")
    text = folder / "heard/text"
    text.write_text(text.read_text().replace("s-3 yes maybe", "s-3 saat 5.1"))
    run(monkeypatch, folder)
    rows = (folder / "out/dropped.tsv").read_text().splitlines()
    assert any(row.startswith("s-3\tnumber that cannot be read: numbers: true: num2words is wrong") for row in rows)
    (folder / "labels.yaml").write_text("text: {language: xx, numbers: true, markers: drop}\n")
    with pytest.raises(UserError, match="no language 'xx'"):
        run(monkeypatch, folder)


def test_a_second_recogniser_that_nothing_compares_with_is_refused(monkeypatch, folder):
    (folder / "labels.yaml").write_text("spell: true\n")
    with pytest.raises(UserError, match="nothing compares with it; set max_disagreement or readings in"):
        run(monkeypatch, folder, "--agree", folder / "other")


def test_an_utterance_without_length_is_named(monkeypatch, tmp_path):
    soundfile.write(tmp_path / "x.wav", [0.1] * 16000, 16000)
    utt = Utterance("s-1", "s", "yes", str(tmp_path / "x.wav"), start_s=1.0)
    with pytest.raises(UserError, match=r"x.wav: ends at 1 s, where s-1 begins"):
        program.with_duration(utt)
