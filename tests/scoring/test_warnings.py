"""Warnings of a report: what the doctor found, teachers that are worse, teaching that hurts; before any number."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from steps import report
from steps.core.cli import UserError
from steps.core.outdir import sha256_file
from steps.scoring.collect import collect_rows
from steps.scoring.compare import compare
from steps.scoring.story import reference_of
from steps.scoring.warnings import find_warnings, read_teachers, teaching, transcript_notes
from steps.training.doctor import SetFacts, TrainingFacts, diagnose
from tests.scoring.made_up import MODELS, UTTERANCES, make_model

BEFORE = Path(__file__).resolve().parents[1] / "training/yesno_before.json"


def make_chain(exp, teacher, student, taught, utts=UTTERANCES):
    """A teacher, and the same student alone and taught, each with so many utterances wrong."""
    make_model(exp, "teacher", wrong=teacher, utts=utts, weights_sha256="t")
    make_model(exp, "student", wrong=student, utts=utts, weights_sha256="s")
    make_model(exp, "student_kd", wrong=taught, utts=utts, weights_sha256="k")
    (exp / "teacher/conf.yaml").write_text("step: train_teacher\n")
    (exp / "student/conf.yaml").write_text("step: distill_student\nteacher: null\n")
    (exp / "student_kd/conf.yaml").write_text("step: distill_student\nteacher: [t]\n")
    return ["teacher", "student", "student_kd"]


def warnings_of(exp, models, sets=()):
    rows = collect_rows(exp, models, ["test"])
    return [one["text"] for one in find_warnings(exp, rows, compare(exp, [("student_kd", "student")], ["test"]), sets)]


def test_a_teacher_worse_than_its_student_and_teaching_that_hurt_are_warned_of(tmp_path):
    models = make_chain(tmp_path, 22, 1, 20)
    worse, hurt = warnings_of(tmp_path, models)
    assert worse.startswith("teacher makes more errors on test (") and "than student (" in worse
    assert hurt.startswith("Teaching hurt: student_kd makes ") and hurt.endswith("than student, which had no teacher.")
    assert read_teachers(tmp_path, models) == {"student": [], "student_kd": ["teacher"]}


def test_a_teacher_that_stored_what_it_says_is_known_by_its_labels(tmp_path):
    models = make_chain(tmp_path, 22, 1, 20)
    stored = tmp_path / "teacher/labels/labels.json"
    stored.parent.mkdir()
    stored.write_text("{}")
    (tmp_path / "student_kd/conf.yaml").write_text(f"step: distill_student\nteacher: [{sha256_file(stored)}]\n")
    assert read_teachers(tmp_path, models) == {"student": [], "student_kd": ["teacher"]}
    assert len(warnings_of(tmp_path, models)) == 2


def test_a_teacher_that_is_not_reported_is_a_teacher_nevertheless(tmp_path):
    models = make_chain(tmp_path, 2, 1, 20)
    (tmp_path / "student_kd/conf.yaml").write_text("step: distill_student\nteacher: [from elsewhere]\n")
    teachers = read_teachers(tmp_path, models)
    assert teachers == {"student": [], "student_kd": [None]}
    assert reference_of("student_kd", collect_rows(tmp_path, models, ["test"]), teachers) is None
    (hurt,) = warnings_of(tmp_path, models)
    assert hurt.startswith("Teaching hurt: student_kd makes ")
    # the other way round: who was taught from elsewhere did not learn alone
    turned = compare(tmp_path, [("student", "student_kd")], ["test"])
    assert (
        teaching(collect_rows(tmp_path, models, ["test"]), turned, {"student": ["teacher"], "student_kd": [None]}) == []
    )


@pytest.mark.parametrize("wrong", [(2, 9, 5), (4, 4, 4), (5, 4, 4), (3, 8, 9)])
def test_differences_within_chance_and_good_teaching_are_no_warning(tmp_path, wrong):
    assert warnings_of(tmp_path, make_chain(tmp_path, *wrong)) == []


def test_the_report_of_yesno_as_it_was_warns_in_its_first_lines(tmp_path, monkeypatch, capsys):
    one_man = [dataclasses.replace(utt, speaker="one") for utt in UTTERANCES]
    models = make_chain(tmp_path / "exp", 14, 10, 13, one_man)
    recorded = json.loads(BEFORE.read_text())
    recorded["rates_hz"] = {int(rate): count for rate, count in recorded["rates_hz"].items()}
    recorded["train"], recorded["dev"] = SetFacts(**recorded["train"]), SetFacts(**recorded["dev"])
    findings = [dataclasses.asdict(one) for one in diagnose(TrainingFacts(**recorded))]
    for model in ("teacher", "student"):
        (tmp_path / "exp" / model / "diagnosis.json").write_text(json.dumps({"findings": findings}))
    words = ["report", "--exp", tmp_path / "exp", "--models", *models, "--sets", "test", "--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", [*map(str, words), "--compare", "student_kd:student"])
    report.main()
    for name in ("report.md", "RESULTS.md"):
        lines = [line for line in (tmp_path / "out" / name).read_text().splitlines() if line][1:]
        quoted = [line for line in lines if line.startswith("> ")]
        assert lines[: len(quoted)] == quoted
        assert quoted.pop(0).startswith("> **Result**: student_kd ships in ")
        assert quoted[0].startswith("> **Warning**: teacher, student: 44 % WER on dev, 23 % on its own training set")
        assert "begin with the same word" in quoted[1] and "Only 824 updates" in quoted[2]
        assert quoted[3].startswith("> **Note**: teacher, student: train and dev have one speaker")
        assert quoted[4].startswith("> **Note**: test has one speaker")
    page = (tmp_path / "out/report.html").read_text()
    assert page.count('<p class="warning">') == 3
    assert page.count('<p class="hint">') == 2
    first = [
        page.index(text) for text in ('class="story"', '<p class="warning">teacher, student: 44 %', "<dl>", "<h2>")
    ]
    assert first == sorted(first)
    assert "warning: teacher, student: 44 % WER on dev" in capsys.readouterr().out
    kept = json.loads((tmp_path / "out/results.json").read_text())["warnings"]
    assert [one["level"] for one in kept] == ["warning"] * 3 + ["note"] * 2


def test_a_finding_of_many_models_is_said_once(tmp_path):
    models = make_chain(tmp_path, 4, 4, 4)
    texts = {"teacher": "9 % on dev.", "student": "8 % on dev.", "student_kd": "9 % on dev."}
    for model, text in texts.items():
        findings = [{"kind": "overfit", "text": text}, {"kind": "one_speaker", "text": "x", "serious": False}]
        (tmp_path / model / "diagnosis.json").write_text(json.dumps({"findings": findings}))
    said = warnings_of(tmp_path, models)
    assert said == [
        "teacher, student_kd: 9 % on dev. The same, with other numbers: student.", "teacher, student, student_kd: x"
    ]  # fmt: skip


def test_texts_of_a_diagnosis_are_escaped(tmp_path, monkeypatch):
    models = make_chain(tmp_path / "exp", 2, 9, 5)
    evil = {"findings": [{"text": "<img src=x>[y](z)"}]}
    (tmp_path / "exp/student/diagnosis.json").write_text(json.dumps(evil))
    words = ["report", "--exp", tmp_path / "exp", "--models", *models, "--sets", "test", "--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    report.main()
    assert "<img" not in (tmp_path / "out/report.html").read_text()
    assert "<img" not in (tmp_path / "out/report.md").read_text()


@pytest.mark.parametrize("content", [{}, {"findings": None}, {"findings": ["x"]}, {"findings": {"text": "x"}}])
def test_a_file_that_is_no_diagnosis_is_refused(tmp_path, content):
    make_model(tmp_path, "teacher")
    (tmp_path / "teacher/diagnosis.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"teacher/diagnosis.json: not what steps.diagnose writes; run it again"):
        find_warnings(tmp_path, collect_rows(tmp_path, ["teacher"], ["test"]), [], [])


def test_what_is_known_of_a_recognisers_transcripts_is_noted(tmp_path):
    extra, dev = tmp_path / "extra.json", tmp_path / "dev.json"
    extra.write_text(json.dumps({"set": "extra", "transcripts": 9, "kept": 7, "dropped": {"too long": 2}}))
    errors = {
        name: {"utterances": 3, "words": 8, "errors": 1, "wer": wer} for name, wer in (("all", 12.5), ("kept", 4.0))
    }
    dev.write_text(json.dumps({"set": "dev", "transcripts": 3, "kept": 2, "dropped": {}, "errors": errors}))
    first, second = transcript_notes([extra, dev])
    assert first["level"] == "note" and first["text"].startswith("extra: 7 of 9 transcripts")
    assert "12.50 % WER, those that passed 4.00 %" in second["text"] and "WER" not in first["text"]
    dev.write_text(dev.read_text().replace('"wer"', '"cer"'))
    assert "12.50 % CER, those that passed 4.00 %" in transcript_notes([dev])[0]["text"]


def test_words_that_cannot_come_out_are_told_where_there_is_a_language_model(exp):
    rows = [
        dataclasses.replace(row, scores=row.scores | {"lm": row.scores["greedy"]})
        for row in collect_rows(exp, MODELS, ["test"])
    ]
    for model in MODELS:
        lacking = [] if model == "teacher" else ["got", "to"]
        (exp / model / "export/graph.json").write_text(json.dumps({"not_spelled": lacking}))
    told = [one for one in find_warnings(exp, rows, [], []) if "lm column" in one["text"]]
    what = "never in the lm column: 2 words of the language model that cannot be spelled in tokens: got to."
    assert told == [{"level": "note", "text": f"student, student_int8: {what}"}]
    (exp / "student/export/graph.json").write_text(json.dumps({"unit": "token", "not_spelled": ["F"]}))
    told = [one["text"] for one in find_warnings(exp, rows, [], []) if "lm column" in one["text"]]
    assert told[0] == "student: never in the lm column: 1 token that the language model does not know: F."
    assert not any(
        "lm column" in one["text"] for one in find_warnings(exp, collect_rows(exp, MODELS, ["test"]), [], [])
    )
