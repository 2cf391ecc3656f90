"""Markers in transcripts: the usual ones are found, ordinary text is not taken for one, and each setting does what it says."""

import pytest

from local.markers import find_markers
from local.preparation import PreparationConfig, prepare_sets
from local.text import TextConfig, normalise
from steps.core.cli import UserError
from steps.core.config import ConfigError, from_dict
from steps.core.datadir import Utterance

MARKERS = """
    <UNK> <unk> <noise> <NO_SPEECH> <laughter> [noise] [laughter-yes] [[unclear]] {laugh} {breath} ((unclear)) (())
    (laughs) (noise) (inaudible) (...) (??) ++um++ +laugh+ %hesitation %uh @reject@ @laugh *coughs* **uh** #noise# &-uh
    &=laughs xxx ignore_time_segment_in_scoring 【音楽】 (笑) （笑） ［noise］ ♪
"""
TEXTS = [
    "the cat (who was black) sat", "a < b and c > d", "C++ is fine", "1 + 2 + 3 = 6", "100 % sure, 5% of it", "me@mail.org",
    "AT&T and R & B", "Super Bowl XXX", "!Kung people", "#1 of 5", "5 * 3 * 2", "well-known, it's “so”", ":-) ;-)", "¿qué?",
    "sh ix h# q", "2001: (1968)", "[", "no ] such [", "e.g. a/b", "他说你好", "किताब", "a_b",
]  # fmt: skip


@pytest.mark.parametrize(
    "marker", [*MARKERS.split(), "[background noise]", "<no speech>", "(background noise)", "(speaking in Welsh)"]
)
def test_usual_markers_are_found_wherever_they_stand(marker):
    for text in (marker, f"HELLO {marker} WORLD", f"{marker} hello {marker}"):
        assert set(find_markers(text, TextConfig())) == {marker}


@pytest.mark.parametrize("text", TEXTS)
def test_ordinary_text_has_no_markers(text):
    assert find_markers(text, TextConfig()) == []
    assert normalise(text, TextConfig()) == text


TEXT = "HELLO <UNK> [noise] WORLD %hesitation (once)"


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"markers": "drop"}, "hello world once"),
        ({"markers": "keep"}, "hello <UNK> [noise] world %hesitation once"),
        ({"markers": "drop", "map": {"%hesitation": "Uh!"}}, "hello world uh once"),
        ({"markers": "drop", "map": {"[noise]": "<noise>"}}, "hello <noise> world once"),
        ({"map": {"<UNK>": "", "[noise]": "", "%hesitation": "", "WORLD": "globe"}}, "hello globe once"),
    ],
)
def test_what_becomes_of_them(tmp_path, settings, wanted):
    config = TextConfig(case="lower", punctuation="remove", **settings)
    assert normalise(TEXT, config) == wanted
    utts = [Utterance("a-1", "a", TEXT, "a.wav", duration_s=1.0)]
    assert [utt.text for utt in prepare_sets({"test": utts}, PreparationConfig(text=config), tmp_path)["test"]] == [
        wanted
    ]


def utterances():
    texts = {"a": "yes [noise] no", "b": "<UNK> yes [noise]", "c": "no (really)", "d": "[noise]"}
    return [Utterance(f"s-{name}", "s", text, f"{name}.wav", duration_s=1.0) for name, text in texts.items()]


def test_they_are_counted_and_refused_unless_something_is_said():
    with pytest.raises(UserError) as refused:
        prepare_sets({"train": utterances(), "dev": utterances()[2:3]}, PreparationConfig(), None)
    told = str(refused.value)
    assert "4 times: [noise] 3, <UNK> 1; the first in train/s-a: yes [noise] no" in told
    assert "text: {markers: drop}" in told and len(told.splitlines()) == 1


def test_utterances_are_dropped_in_every_set_and_listed(tmp_path, capsys):
    config = PreparationConfig(text=TextConfig(markers="drop", map={"<UNK>": None, "mhm": ""}))
    kept = prepare_sets({"train": utterances(), "test": utterances()}, config, tmp_path)
    for name in ("train", "test"):
        assert [(utt.utt_id, utt.text) for utt in kept[name]] == [("s-a", "yes no"), ("s-c", "no (really)")]
    rows = [line.split("\t") for line in (tmp_path / "dropped.tsv").read_text().splitlines()]
    assert rows[:2] == [["train", "s-b", "holds <UNK>"], ["train", "s-d", "empty transcript"]] and len(rows) == 4
    said = capsys.readouterr().out
    assert "markers in transcripts, drop: [noise] 6\n" in said and "markers in transcripts, by map: <UNK> 2\n" in said
    assert "map names what is in no transcript: mhm\n" in said
    assert "words in round brackets, 2 times, such as (really): taken as spoken\n" in said
    config = PreparationConfig(text=TextConfig(markers="drop_utterance"))
    assert [utt.utt_id for utt in prepare_sets({"train": utterances()}, config, tmp_path)["train"]] == ["s-c"]


@pytest.mark.parametrize("text", [{"markers": "yes"}, {"map": {"<UNK>": 3}}, {"map": {" ": "x"}}])
def test_faulty_settings_are_refused(text):
    with pytest.raises(ConfigError, match="markers must be|map: "):
        from_dict(PreparationConfig, {"text": text}, "prepare.yaml")
