"""The Malayalam Speech Corpus: votes, spellings, and sets that share neither speakers nor sentences."""

import os
from collections import Counter

import pytest

from local.own_sentences import families, split
from local.text import TextConfig, normalise
from steps.core.datadir import Utterance
from tests.local import corpora
from tests.local.readers import good, refused, sizes

OPTIONS = ("--options", "recipes/msc/conf/prepare.yaml")
ML = TextConfig(language="ml", unicode="NFC", punctuation="remove", keep="")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return corpora.msc(tmp_path_factory.mktemp("msc"))


def test_sets_have_speakers_and_sentences_of_their_own(corpus, tmp_path):
    sets, said = good("msc", tmp_path, "--corpus-dir", corpus, *OPTIONS)
    assert sizes(sets) == {"train": (110, 5), "test": (120, 4), "dev": (30, 3)}
    texts = {name: {utt.text for utt in utts} for name, utts in sets.items()}
    assert {name: len(found) for name, found in texts.items()} == {"train": 80, "test": 60, "dev": 30}
    assert not texts["train"] & texts["test"] and not texts["dev"] & (texts["train"] | texts["test"])
    # that of speaker seven is a sentence of test
    assert "1 recording left out: of a sentence of one set, by a speaker of another" in said
    assert "test: 60 sentences" in said and "3 recordings with fewer than 1 vote left out" in said
    assert f"left out: {corpus}/audio/damaged.webm: not a readable sound file" in said
    utt = next(utt for utt in sets["test"] if utt.utt_id == "two-rtwo0")
    assert utt.audio == str(corpus / "audio/two0.webm") and "." not in utt.text


def test_votes(corpus, tmp_path):
    _, said = good("msc", tmp_path, "--corpus-dir", corpus, "--min-votes", "-2", *OPTIONS)
    # both without a vote are of a test sentence, by a speaker of train
    assert "1 recording with fewer than -2 votes left out" in said and "3 recordings left out: of a sentence" in said


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("\t-3\n", "\tmany\n", "vote is 'many', expected a whole number or default"),
        ("audio/one0.webm", "audio/../one0.webm", "no sound file audio/../one0.webm"),
        ("audio/one0.webm", "/etc/passwd", "no sound file audio//etc/passwd"),
        ("\ts005\tone", "\tsXXX\tone", "no sentence sXXX in sentences.tsv"),
        ("\tvote\n", "\tpoints\n", "speech.tsv:1: no column vote"),
    ],
)
def test_bad_tables_are_refused_with_their_line(corpus, tmp_path, old, new, line):
    for name in ("sentences.tsv", "audio"):
        os.symlink(corpus / name, tmp_path / name)
    text = (corpus / "speech.tsv").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "speech.tsv").write_text(text.replace(old, new), encoding="utf-8")
    said = refused("msc", tmp_path, "--corpus-dir", tmp_path)
    assert line in said and "speech.tsv:" in said


def test_many_unreadable_files_are_refused(corpus, tmp_path):
    for name in ("sentences.tsv", "speech.tsv"):
        os.symlink(corpus / name, tmp_path / name)
    (tmp_path / "audio").mkdir()
    for number, path in enumerate(sorted((corpus / "audio").iterdir())):
        if number % 40:
            os.symlink(path, tmp_path / "audio" / path.name)
        else:
            (tmp_path / "audio" / path.name).write_bytes(b"no sound")
    assert "audio/damaged.webm: not a readable sound file" in refused("msc", tmp_path, "--corpus-dir", tmp_path)
    assert "no speech.tsv here" in refused("msc", tmp_path / "b", "--corpus-dir", corpus / "audio")


@pytest.mark.parametrize(
    ("written", "text"),
    [
        # chillus: n, l of letter, virama, joiner
        ("\u0d28\u0d4d\u200d \u0d32\u0d4d\u200d", "\u0d7b \u0d7d"),
        # au as NFC composes it from two signs; and as one sign
        ("\u0d15\u0d46\u0d57 \u0d15\u0d4c", "\u0d15\u0d57 \u0d15\u0d57"),
        # half u at the end of a word, also before a mark and with a joiner; within a word the signs are left
        ("\u0d24\u0d41\u0d4d\u200c. \u0d24\u0d41\u0d4d", "\u0d24\u0d4d \u0d24\u0d4d"),
        ("\u0d24\u0d41\u0d4d\u0d24", "\u0d24\u0d41\u0d4d\u0d24"),
        ("\u0d2f\u0d4d\u200c\u0d15\u0d4d\u0d15", "\u0d2f\u0d4d\u0d15\u0d4d\u0d15"),
    ],
)
def test_malayalam_has_one_spelling_of_what_sounds_alike(written, text):
    assert normalise(written, ML) == text


def test_variants_are_one_sentence_also_by_way_of_others():
    texts = {"a": "abcdefghij", "c": "abcdefghxy", "b": "abcdefghiy", "d": "abc def ghij", "e": "klmnopqrst"}
    assert families(texts) == dict.fromkeys("abcd", "a") | {"e": "e"}
    # c is nearer to b than the limit, and to a than twice that
    assert families({"a": "abcdefghij", "m": "abcdevwxyj", "z": "abcdefgxyj"}) == dict.fromkeys("amz", "a")


def read(speaker, *keys):
    return [(key, Utterance(f"{speaker}-{n}-{key}", speaker, key, "x.wav")) for n, key in enumerate(keys)]


def test_a_split_depends_on_nothing_but_who_read_what():
    keys = [f"k{number:02d}" for number in range(99)]
    found = read("big", *keys) + read("a", *keys[:10]) + read("b", *keys[:10]) + read("c", *keys[10:54])
    found += read("d", *keys[54:60], *keys[:4]) + read("e", *keys[60:65])
    # what most have read, and with it they, belong to train
    found += [row for speaker in ("x", "y", "z", "w") for row in read(speaker, *keys[89:])]
    sets = split(found)
    owners = {name: {utt.speaker for _, utt in rows} for name, rows in sets.items()}
    assert owners == {"train": {"big", *"wxyz"}, "test": {"a", "b", "c", "d"}, "dev": {"e"}}
    assert split(found[::-1]) == {name: rows[::-1] for name, rows in sets.items()}
    sentences = {name: {key for key, _ in rows} for name, rows in sets.items()}
    assert sentences["test"] & sentences["train"] == sentences["test"] & sentences["dev"] == set()
    # who reads as much as the limit is one of the others; one more, and trains
    assert Counter(name for name, rows in split(read("s", *keys[:61])).items() for _ in rows) == {"train": 61}
    assert not split(read("s", *keys[:60]))["train"]


@pytest.mark.slow
def test_the_corpus_itself(tmp_path):
    folder = os.environ.get("MSC_DIR") or pytest.skip("MSC_DIR is not set: needs the Malayalam Speech Corpus")
    sets, said = good("msc", tmp_path, "--corpus-dir", folder, *OPTIONS)
    assert sizes(sets) == {"train": (1018, 38), "dev": (59, 12), "test": (161, 32)}
    assert "train: 361 sentences" in said and "dev: 58 sentences" in said and "test: 60 sentences" in said
