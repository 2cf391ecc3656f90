"""Tables: each row comes out as its producer wrote it, or is named; what matters and is not used is named, too."""

import csv
import io

import pytest

from local.rows import read_rows, tell_unused, unescape
from steps.core.cli import UserError

SENTENCES = [
    "plain",
    'say "no" now',
    '"Yes," he said, "no"',
    '"All of it."',
    'an inch: 5"',
    '"open',
    'closed"',
    "it's, so",
]


def rows_of(path, text, needed=()):
    """Returns: the rows, and the problems as text."""
    path.write_text(text, encoding="utf-8")
    problems = []
    rows = [row for _, row in read_rows(path, problems, needed)]
    return rows, [str(problem).removeprefix(f"{path}:") for problem in problems]


def written(delimiter, **options):
    """Table of the sentences with their numbers, as Python's csv writes it (pandas has the same options)."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n", **options)
    writer.writerows([["sentence", "number"], *[[text, number] for number, text in enumerate(SENTENCES)]])
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("csv", {}),
        ("csv", {"quoting": csv.QUOTE_ALL}),
        ("tsv", {}),
        ("tsv", {"quoting": csv.QUOTE_ALL}),
        ("tsv", {"quoting": csv.QUOTE_NONE, "escapechar": '"'}),
        ("tsv", {"quoting": csv.QUOTE_NONE, "escapechar": "\\"}),
    ],
)
def test_sentences_come_back_from_the_ways_in_which_tables_are_written(tmp_path, name, options):
    rows, problems = rows_of(tmp_path / f"a.{name}", written("," if name == "csv" else "\t", **options))
    assert [row["sentence"] for row in rows] == SENTENCES and not problems
    assert [row["number"] for row in rows] == [str(number) for number in range(len(SENTENCES))]


def test_tsv_without_any_quoting_keeps_its_rows_and_marks(tmp_path):
    lines = ["sentence\tnumber", *[f"{text}\t{number}" for number, text in enumerate(SENTENCES)]]
    rows, problems = rows_of(tmp_path / "a.tsv", "\n".join(lines) + "\n")
    assert not problems and len(rows) == len(SENTENCES)
    for row, text in zip(rows, SENTENCES, strict=True):
        assert row["sentence"] == ("All of it." if text == '"All of it."' else text)


@pytest.mark.parametrize(("name", "mark"), [("csv", ","), ("tsv", "\t")])
def test_a_quotation_over_several_lines_swallows_no_row_in_silence(tmp_path, name, mark):
    lines = ["path,text", 'u1.wav,"Hello there', "u2.wav,she said goodbye", 'u3.wav,and he replied yes"', "u4.wav,hm"]
    rows, problems = rows_of(tmp_path / f"a.{name}", "\n".join(lines).replace(",", mark))
    assert len(rows) + len(problems) == 4
    if name == "tsv":
        assert [row["text"] for row in rows][:3] == ['"Hello there', "she said goodbye", 'and he replied yes"']
    else:
        assert problems[0].startswith("2: unexpected end of data; expected one row a line")
        assert [row["path"] for row in rows] == ["u2.wav", "u3.wav", "u4.wav"]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("tsv", "a\tb\nx\ty\tz\n1\t2\n", "2: 3 fields, expected 2"),
        ("csv", 'a,b\n"x"y,z\n1,2\n', "2: "),
        ("csv", "a,b\nx\n1,2\n", "2: 1 field, expected 2"),
        ("jsonl", '{"a": 1, "a": 2}\n{"a": 1}\n', "1: expected one JSON object a line, no key twice"),
        ("jsonl", '{"a": NaN}\n{"a": 1}\n', "1: expected one JSON object a line"),
        ("jsonl", '[{"a": 1}]\n{"a": 1}\n', "1: expected one JSON object a line"),
    ],
)
def test_rows_that_are_none_are_named_and_the_others_kept(tmp_path, name, text, problem):
    rows, problems = rows_of(tmp_path / f"a.{name}", text)
    assert len(rows) == 1 and len(problems) == 1 and problems[0].startswith(problem)


def test_only_line_feeds_end_lines(tmp_path):
    rows, problems = rows_of(tmp_path / "a.tsv", "\ufeffa\tb\r\nx\u2028y\tz\x0c\x85\r\n\r\n1\t2")
    assert rows == [{"a": "x\u2028y", "b": "z\x0c\x85"}, {"a": "1", "b": "2"}] and not problems


def test_headers_are_checked(tmp_path):
    with pytest.raises(UserError, match="a.tsv:1: two columns are called 'text'"):
        rows_of(tmp_path / "a.tsv", "text\ttext\nx\ty\n")
    with pytest.raises(UserError, match="a.csv:1: no column path; the columns are: a, b"):
        rows_of(tmp_path / "a.csv", "a,b\n", needed=("a", "path"))
    for name, head, separator in (
        ("csv", "path;text", "commas"),
        ("csv", "path\ttext", "commas"),
        ("tsv", "a,b", "tabs"),
    ):
        with pytest.raises(UserError, match=f":1: one column, .*; separate those of .{name} files by {separator}"):
            rows_of(tmp_path / f"a.{name}", f"{head}\nx\n", needed=("path",))


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ('""', ""),
        ('"', '"'),
        ('""""', '"'),
        ('""a""', '"a"'),
        ('"""a"""', '"a"'),
        ('\\"a\\" \\\\', '"a" \\'),
        ('""a" b', '""a" b'),
        ("C:\\x", "C:\\x"),
    ],
)
def test_fields(field, text):
    assert unescape(field) == text


def test_columns_that_matter_and_are_not_used_are_named_once(capsys):
    rows = [{"text": "a", "Channel": number, "locale": "", "lang": "sw", "split": "train"} for number in range(9)]
    tell_unused("t.csv", rows, ("text", "split"))
    assert capsys.readouterr().out == "t.csv: not used, though it may matter: Channel (0, 1, 2, ...); lang (sw)\n"
    tell_unused("t.csv", [{"text": "a", "locale": ""}], ("text",))
    assert capsys.readouterr().out == ""
