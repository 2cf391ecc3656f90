"""ARPA files: read back as written, others' files as they come, and whatever is wrong named by its line."""

import bz2
import gzip
import lzma
import random

import pytest

from steps.core.cli import MissingInput, UserError
from steps.lm.arpa import read_arpa, write_arpa
from steps.lm.estimate import count_ngrams, estimate
from steps.lm.ngram import NEVER
from steps.lm.prune import prune
from steps.train_lm import read_text

GOOD = """\
Some words about \\data\\ and how it was made.

\\data\\
ngram 1=4
ngram  2 = 2

\\1-grams:
-99 <s> -0.3
-0.5\t</s>
-0.6   a\t 0.1
-0.4   b

\\2-grams:
-0.2 <s> a
-0.1 a b

\\end\\
"""


def test_a_model_reads_back_as_it_was_written(tmp_path):
    sentences = [line.split() for line in ("a b c", "a b", "b é a b", "c", "a b c d")]
    model = estimate(count_ngrams(sentences, 3), [1, 1, 1], ["never"])
    for number, one in enumerate((model, prune(model, 1e-2))):
        path = tmp_path / f"{number}.arpa"
        write_arpa(path, one)
        back = read_arpa(path)
        for own, there in zip(one.probs, back.probs, strict=True):
            assert own.keys() == there.keys() and all(abs(p - there[gram]) < 1e-6 for gram, p in own.items())
        assert all(abs(back.backoffs.get(gram, 0.0) - weight) < 1e-6 for gram, weight in one.backoffs.items())
        content = path.read_bytes()
        write_arpa(path, back)
        assert path.read_bytes() == content


def test_files_of_others_are_read_as_they_come(tmp_path):
    (tmp_path / "a").write_text(GOOD)
    model = read_arpa(tmp_path / "a")
    assert model.probs[1] == {("<s>", "a"): -0.2, ("a", "b"): -0.1}
    assert model.backoffs == {("<s>",): -0.3, ("a",): 0.1} and model.probs[0]["<s>",] == NEVER
    assert model.log10_prob("a", ("x", "a")) == pytest.approx(0.1 - 0.6)
    with pytest.raises(MissingInput, match="no such language model"):
        read_arpa(tmp_path / "b")


BAD = {
    "cut off": (GOOD.replace("\\end\\", ""), "expected 2 2-grams"),
    "too few": (GOOD.replace("ngram 1=4", "ngram 1=5"), ":13: expected a number"),
    "too many": (GOOD.replace("ngram 1=4", "ngram 1=3"), ":11: expected 3 1-grams"),
    "an order left out": (GOOD.replace("ngram  2 = 2", "ngram 3=2"), ":5: expected `ngram 2=N`"),
    "no header": ("a\n" * 20_000, "lines and no"),
    "empty": ("", "no \\\\data"),
    "no n-grams": ("\\data\\\n\\1-grams:\n", "expected `ngram 1=N`"),
    "more than memory": (GOOD.replace("ngram 1=4", "ngram 1=999999999999"), ":4: over 20,000,000 n-grams"),
    "a long line": ("\\data\\\nngram 1=" + "1" * 30_000, "longer than"),
    "above one": (GOOD.replace("-0.4 ", "0.4 "), ":11: a log10 probability above 0"),
    "not a number": (GOOD.replace("-0.4 ", "nan "), ":11: a log10 probability"),
    "an endless weight": (GOOD.replace("0.1\n", "inf\n"), ":10: a log10 probability above 0, or a weight"),
    "a word twice": (GOOD.replace(" b\n", " a\n", 1), ":11: an n-gram that was there"),
    "a new word": (GOOD.replace("a b", "a c"), ":15: an n-gram whose beginning or last word"),
    "a new beginning": (GOOD.replace("a b", "c a"), ":15: an n-gram whose beginning"),
    "words missing": (GOOD.replace("a b", "a"), ":15: expected 2 words"),
    "a blank within": (GOOD.replace("   b", "   b\u00a0c"), ":11: expected 1 word"),
    "the end within": (GOOD.replace("a b", "</s> a"), ":15: <s> or </s> in the middle"),
    "no end": (GOOD.replace("</s>", "c"), "not among the 1-grams"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_named(tmp_path, name):
    content, message = BAD[name]
    (tmp_path / "a").write_text(content)
    with pytest.raises(UserError, match=message):
        read_arpa(tmp_path / "a")


@pytest.mark.parametrize(
    "pack, remedy", [(gzip.compress, "gunzip"), (bz2.compress, "bunzip2"), (lzma.compress, "unxz")]
)
def test_what_unpacks_a_compressed_file_is_told(tmp_path, pack, remedy):
    (tmp_path / "a.arpa").write_bytes(pack(GOOD.encode()))
    for read in (read_arpa, lambda path: list(read_text(path))):
        with pytest.raises(UserError, match=rf"a.arpa: compressed by \w+; unpack it with {remedy} "):
            read(tmp_path / "a.arpa")


def test_a_binary_of_kenlm_is_named(tmp_path):
    (tmp_path / "a").write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0" + bytes(100))
    with pytest.raises(UserError, match="a binary file of KenLM; name the ARPA file"):
        read_arpa(tmp_path / "a")


def test_whatever_bytes_it_holds_it_is_refused_in_words_or_sound(tmp_path):
    rng, refused = random.Random(0), 0
    for _ in range(150):
        content = bytearray(GOOD.encode())
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(content))
            content[at : at + rng.randrange(3)] = bytes(
                rng.choice(b" \n\\-1a.\xff\x00") for _ in range(rng.randrange(3))
            )
        (tmp_path / "a").write_bytes(content)
        try:
            model = read_arpa(tmp_path / "a")
        except UserError:
            refused += 1
        else:
            assert all(NEVER <= p <= 0 for grams in model.probs for p in grams.values())
    assert 30 < refused < 150
