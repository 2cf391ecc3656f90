"""The errors file and the table of speakers say what the counts say."""

import re

from steps.scoring.errors import align, format_errors, format_speakers
from steps.scoring.wer import count_utterances

REFS = {"b-1": "the cat sat", "a-1": "on the mat", "b-2": "all right", "a-2": ""}
HYPS = {"b-1": "the hat sat down", "a-1": "the mat", "b-2": "all right", "a-2": "um"}
SPEAKERS = {"b-1": "b", "b-2": "b", "a-1": "a", "a-2": "a"}


def test_alignment_gives_both_texts_back():
    for utt_id, ref in REFS.items():
        rows = align(ref, HYPS[utt_id])
        assert " ".join(row[1] for row in rows if row[1]) == ref
        assert " ".join(row[2] for row in rows if row[2]) == HYPS[utt_id]
        assert all((op == "") == (ref_word == hyp_word) for op, ref_word, hyp_word in rows)


def test_errors_file_keeps_order_and_lines_up():
    text = format_errors(REFS, HYPS, SPEAKERS, count_utterances(REFS, HYPS))
    assert text.startswith("%WER 50.00 [ 4 / 8, 2 ins, 1 del, 1 sub ]\n1 of 4 utterances right")
    assert re.findall(r"^(\S+) \(speaker (\w)\)", text, re.M) == [("b-1", "b"), ("a-1", "a"), ("a-2", "a")]
    ref, hyp, ops = re.search(r"REF: (.*)\nHYP: (.*)\nOP : (.*)\n", text).groups()
    for index, op in enumerate(ops):
        if op == "S":
            assert (ref[index:].split()[0], hyp[index:].split()[0]) == ("cat", "hat")
        if op == "I":
            assert (ref[index:].split()[0], hyp[index:].split()[0]) == ("***", "down")
    assert "    1  S  cat -> hat\n" in text
    assert "    1  D  on -> ***\n" in text


def test_speaker_rows_add_up():
    lines = [line.split() for line in format_speakers(count_utterances(REFS, HYPS), SPEAKERS).splitlines()]
    assert [line[0] for line in lines] == ["speaker", "a", "b", "all"]
    for column in range(1, 7):
        assert int(lines[1][column]) + int(lines[2][column]) == int(lines[3][column])
    assert lines[3][7] == "50.00"
