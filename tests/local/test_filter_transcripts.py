"""Transcripts of a recogniser in the student's form; what is likely wrong goes, counted by reason; their errors are measured."""

import json
import sys

import numpy as np
import pytest
import soundfile

from local import filter_transcripts as program
from local.filter_transcripts import PseudoLabelConfig, all_readings, disagreement, loops, readings_of, spelled, written
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
        ("H-O-W", "H-O-W"),
        ("ÄÖ മലയാളം 日本", "Ä Ö മലയാളം 日本"),
    ],
)
def test_words_in_capitals_are_spelled(text, wanted):
    assert spelled(text) == wanted


def test_numbers_are_read_in_every_way_that_people_do():
    assert readings_of("624", "en") == [
        "six two four", "six hundred and twenty four", "six hundred twenty four", "six twenty four"
    ]  # fmt: skip
    assert "fifty one fifty six" in readings_of("5156", "en")
    assert readings_of("7", "en") == ["seven"]
    assert readings_of("1234567", "en") == ["one two three four five six seven"]
    assert "nine eleven and one" in list(all_readings("911 and 1", "en"))
    many = list(all_readings(" ".join(["5156"] * 12), "en"))
    assert len(many) <= program.MOST_READINGS and len(set(many)) == len(many)
    assert all(text.endswith("five one five six") for text in many)


def test_the_reading_nearest_to_the_second_recogniser_is_taken():
    config = PseudoLabelConfig(text=UPPER, spell=True, readings=True)
    assert (
        written("Erase OTH 50, 5156", config, "ERASE O T FIFTY FIFTY ONE SIX")
        == "ERASE O T H FIFTY FIFTY ONE FIFTY SIX"
    )
    assert written("Erase OTH 50", config, "A R O T H FIVE OH") == "ERASE O T H FIVE ZERO"
    assert written("50", config, None) == written("50", config, "") == "FIVE ZERO"


def test_loops_of_one_to_four_words():
    assert loops("a b c " * 5, 5) and loops("x a a a a a y", 5) and loops("go a b c d a b c d", 2)
    assert not loops("a b c " * 4, 5) and not loops("a a a a b", 5) and not loops("", 2)
    assert not loops("a b c d e a b c d e", 2)


def test_disagreement_is_per_word():
    assert disagreement("a b c d", "a x c") == 0.5
    assert disagreement("a", "a b c") == 2.0
    assert disagreement("", "a") == 1.0


@pytest.mark.parametrize(
    "settings",
    [
        {"readings": True},
        {"readings": True, "text": {"language": "en", "numbers": True}},
        {"max_loop": 1},
        {"max_disagreement": -0.1},
        {"filter": {"sets": ["dev"]}},
        {"min_dbfs": 0},
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
