"""Error counts against a plain edit distance, pooling, and the lines people read."""

import random
import time

import jiwer
import pytest

from steps.core.cli import MissingInput, UserError
from steps.scoring.wer import (
    count_errors,
    count_utterances,
    format_accuracy_line,
    format_ser_line,
    format_wer_line,
    pool,
    read_hypotheses,
)


def edit_distance(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


def random_texts(seed, count=60):
    rng = random.Random(seed)
    return {f"u{i:02d}": " ".join(rng.choices(["a", "bb", "ccc", "d"], k=rng.randrange(7))) for i in range(count)}


def test_counts_are_edit_distances():
    refs, hyps = random_texts(1), random_texts(2)
    for unit, split in (("word", str.split), ("char", list)):
        for count in count_utterances(refs, hyps, unit):
            ref, hyp = split(refs[count.utt_id]), split(hyps[count.utt_id])
            assert count.errors == edit_distance(ref, hyp)
            assert count.reference_length == len(ref)
            assert count.insertions - count.deletions == len(hyp) - len(ref)


def test_pooled_by_counts():
    refs, hyps = random_texts(3), random_texts(4)
    counts = count_utterances(refs, hyps)
    total = count_errors(refs, hyps)
    assert total == pool(counts)
    assert total.errors == total.insertions + total.deletions + total.substitutions
    assert total.errors == sum(edit_distance(refs[u].split(), hyps[u].split()) for u in refs)
    assert total.sentence_errors == sum(refs[u].split() != hyps[u].split() for u in refs)
    assert total.sentences == len(refs)


def test_empty_texts_count():
    refs, hyps = {"a": "", "b": "x y", "c": ""}, {"a": "", "b": "", "c": "z"}
    total = count_errors(refs, hyps)
    assert (total.deletions, total.insertions, total.reference_length, total.sentence_errors) == (2, 1, 2, 2)
    assert count_errors({}, {}).sentences == 0


def test_character_rate_sees_word_boundaries_and_no_extra_blanks():
    assert count_errors({"a": "ab cd"}, {"a": "abcd"}, "char").deletions == 1
    assert count_errors({"a": " ab   cd "}, {"a": "ab cd"}, "char").errors == 0


def test_missing_and_extra_utterances_are_listed():
    with pytest.raises(UserError, match="1 utterance without a hypothesis: b; 1 utterance without a reference: c"):
        count_errors({"a": "x", "b": "x"}, {"a": "x", "c": "x"})


def test_lines_read_as_kaldi_writes_them():
    total = count_errors({"a": "one two three four", "b": "x"}, {"a": "one too three", "b": "x y"})
    assert format_wer_line(total) == "%WER 60.00 [ 3 / 5, 1 ins, 1 del, 1 sub ]"
    assert format_ser_line(total) == "%SER 100.00 [ 2 / 2 ]"


def test_hypotheses_may_be_empty_but_not_broken(tmp_path):
    path = tmp_path / "greedy.txt"
    path.write_text("a one  two\nb\nc \n")
    assert read_hypotheses(path) == {"a": "one two", "b": "", "c": ""}
    path.write_text("a one\na two\n")
    with pytest.raises(UserError, match=r"greedy.txt:2"):
        read_hypotheses(path)
    with pytest.raises(MissingInput):
        read_hypotheses(tmp_path / "none.txt")


def test_word_accuracy_does_not_count_insertions():
    counts = count_errors({"u": "a b c d"}, {"u": "a x y c d z"})
    assert (counts.insertions, counts.substitutions, counts.deletions) == (2, 1, 0)
    assert counts.word_accuracy_percent == 75
    assert format_accuracy_line(counts) == "%ACC 75.00 [ 3 / 4 ]"


def test_counting_costs_less_than_jiwer_and_says_the_same():
    rng = random.Random(9)
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(1, 8))) for _ in range(500)]
    refs = {str(i): " ".join(rng.choices(words, k=6)) for i in range(5000)}
    hyps = {u: " ".join(w if rng.random() > 0.1 else rng.choice(words) for w in t.split()) for u, t in refs.items()}
    ours, theirs = [], []
    for _ in range(5):  # in turns, so that both meet the same machine
        start = time.process_time()
        counts = count_errors(refs, hyps)
        middle = time.process_time()
        output = jiwer.process_words(list(refs.values()), list(hyps.values()))
        ours.append(middle - start)
        theirs.append(time.process_time() - middle)
    assert counts.errors == output.substitutions + output.deletions + output.insertions
    assert min(ours) < min(theirs)
