"""The results schema: numbers in the table are the numbers in the folders, on made-up score folders."""

import dataclasses
import json
from pathlib import Path

import pytest

from steps.core.cli import MissingInput, UserError
from steps.core.exports import model_hashes
from steps.core.outdir import sha256_file, write_json
from steps.core.tables import small_number
from steps.deploy.recognition import write_hypotheses
from steps.score import score
from steps.scoring import results as schema
from steps.scoring.collect import BENCHMARK_KEYS, collect_rows
from steps.scoring.compare import (
    compare,
    compare_in_noise,
    describe_set,
    ledgers,
    parent_pairs,
    parse_pairs,
    read_both,
)
from steps.scoring.ledger import format_ledger
from steps.scoring.markdown import comparison_cells, result_cells
from steps.scoring.plot import pareto_front
from steps.scoring.significance import few_speakers
from steps.scoring.sources import parent_of, read_score
from steps.scoring.wer import read_hypotheses
from tests.scoring.made_up import MODELS, UTTERANCES, make_model, make_noise

ROOT = Path(__file__).resolve().parents[2]


def test_rows_hold_what_the_folders_hold(exp):
    benchmark = {"models": {"teacher": {"rtf": 0.01, "rtf_with_features": 0.02, "macs_per_second": 7e6}}}
    teacher, student, int8 = collect_rows(exp, MODELS, ["test"], benchmark)
    assert (teacher.bytes_shipped, teacher.bytes_onnx) == (9050, 9000)
    assert (teacher.rtf, teacher.macs_per_second, student.rtf, student.macs_per_second) == (0.01, 7e6, None, None)
    assert (student.parent, int8.quantization_bits, teacher.parent) == ("teacher", 8, None)
    assert set(student.scores) == {"greedy", "lexicon"} and set(int8.scores) == {"greedy"}
    assert [(a.a, a.kind, len(a.differences)) for a in student.agreement] == [
        ("torch", "greedy", 1), ("torch", "lexicon", 1)
    ]  # fmt: skip
    assert student.agreement[0].differences == [{"id": UTTERANCES[9].utt_id, "a": "bad", "b": UTTERANCES[9].text}]
    greedy = student.scores["greedy"]
    assert greedy.errors == greedy.insertions + greedy.deletions + greedy.substitutions
    assert greedy.words == sum(len(utt.text.split()) for utt in UTTERANCES)
    assert greedy.interval.low <= greedy.wer_percent <= greedy.interval.high
    assert greedy.errors < student.torch_scores["greedy"].errors


def test_real_time_factors_have_two_digits_at_least(exp):
    speeds = {"teacher": (0.01234, 0.02), "student": (0.000098, 0.00213), "student_int8": (0.0000441, 0.00096)}
    benchmark = {"models": {name: dict(zip(BENCHMARK_KEYS, speed, strict=False)) for name, speed in speeds.items()}}
    header, rows = result_cells(collect_rows(exp, MODELS, ["test"], benchmark))
    shown = [[row[header.index(title)] for title in ("RTF", "RTF+feat")] for row in rows]
    assert shown == [["0.0123", "0.0200"], ["0.000098", "0.0021"], ["0.000044", "0.00096"]]
    assert (small_number(0.0, 4), small_number(-0.00012, 4)) == ("0.0000", "-0.00012")
    for value in (1.37**number for number in range(-60, 20)):
        text = small_number(value, 4)
        assert float(text) == pytest.approx(value, rel=0.05)
        # and no more digits than it takes
        decimals = text.split(".")[1]
        assert len(decimals) == 4 or len(decimals.lstrip("0")) == 2


def test_codes_are_weighed_against_the_float_export_of_the_same_net(exp):
    rows = collect_rows(exp, MODELS, ["test"], {})
    header, cells = result_cells(rows)
    assert "x smaller" in header
    smaller = {row[0]: row[header.index("x smaller")] for row in cells}
    teacher, student, int8 = rows
    assert smaller == {
        "teacher": "-",
        "student": "-",
        "student_int8": f"{student.bytes_shipped / int8.bytes_shipped:.1f}",
    }
    # of another size, in codes itself, or not reported
    for others in (
        [dataclasses.replace(student, parameters=1)],
        [dataclasses.replace(student, quantization_bits=4, parent=None)],
        [],
    ):
        assert "x smaller" not in result_cells([teacher, *others, int8])[0]


def test_a_language_model_has_a_column_and_its_bytes_stand_in_no_other(exp):
    export = exp / "student" / "export"
    for name, size in (("HLG.fst", 5000), ("words.txt", 300)):
        (export / name).write_bytes(b"x" * size)
        with open(export / "SHA256SUMS", "a") as sums:
            sums.write(f"{sha256_file(export / name)}  {name}\n")
    folder = exp / "student" / "decode_test_onnx"
    (folder / "lm.txt").write_text((folder / "greedy.txt").read_text().replace(" bad", " one", 3))
    score(folder, "lm", UTTERANCES, "test")
    teacher, student, _ = collect_rows(exp, MODELS, ["test"])
    assert (student.bytes_shipped, student.bytes_with_lm, teacher.bytes_with_lm) == (1050, 6350, None)
    assert set(student.scores) == {"greedy", "lexicon", "lm"} and set(teacher.scores) == {"greedy", "lexicon"}
    assert student.scores["greedy"].errors == student.scores["lexicon"].errors > student.scores["lm"].errors
    header, rows = result_cells([teacher, student])
    cells = dict(zip(header, rows[1], strict=True))
    assert (cells["size kB"], cells["kB with lm"]) == ("1.1", "6.3")
    assert cells["lm WER"].startswith(f"{student.scores['lm'].wer_percent:.2f} (")
    assert "kB with lm" not in result_cells([teacher])[0]
    assert "lm" in comparison_cells(compare(exp, [("student", "student")], ["test"], 0))[0]


def test_every_missing_file_is_listed(exp):
    (exp / "student" / "export" / "model.onnx").unlink()
    (exp / "teacher" / "decode_test_onnx" / "score_greedy.json").unlink()
    with pytest.raises(MissingInput, match="(?s)2 files.*export/model.onnx.*score_greedy.json"):
        collect_rows(exp, MODELS, ["test"])


def test_scores_of_other_hypotheses_are_refused(exp):
    path = exp / "teacher" / "decode_test_onnx" / "greedy.txt"
    path.write_text(path.read_text().replace("one", "two"))
    with pytest.raises(UserError, match="run steps.score again"):
        collect_rows(exp, MODELS, ["test"])


def test_results_of_other_files_are_refused_and_those_of_older_versions_are_told(exp, capsys):
    """Every kind of result tells what it ran; when that file is another now, its numbers are no longer of this model."""
    assert collect_rows(exp, MODELS, ["test"])
    said = capsys.readouterr().out
    assert said == "3 results of an older version do not record which files they ran; decode and benchmark anew\n"
    benchmark = {"models": {}}
    for name in MODELS:
        export = exp / name / "export"
        benchmark["models"][name] = {"files": model_hashes(export)}
        for suffix, ran in (("_onnx", export), ("", exp / name)):
            folder = exp / name / f"decode_test{suffix}"
            hyps = {
                path.stem: read_hypotheses(path)
                for path in (folder / "greedy.txt", folder / "lexicon.txt")
                if path.exists()
            }
            write_hypotheses(folder, hyps, {"files": model_hashes(ran)})
        (exp / name / "decode_test_noise").mkdir()
        noise = {"set": "test", "ids": list("abcdefgh"), "words": [1] * 8, "speakers": list("aabbccdd"), "levels": []}
        noise["files"] = model_hashes(export)
        (exp / name / "decode_test_noise/noise.json").write_text(json.dumps(noise))
    assert collect_rows(exp, MODELS, ["test"], benchmark) and capsys.readouterr().out == ""
    model = exp / "student/export/model.onnx"
    content = model.read_bytes()
    model.write_bytes(b"garbage")
    with pytest.raises(
        UserError, match="decode_test_onnx/decode.json: of another model.onnx than .*; run steps.decode again"
    ):
        collect_rows(exp, MODELS, ["test"], benchmark)
    model.write_bytes(content)
    for name, change, said in (
        ("decode_test/decode.json", {"files": {"model.json": "0"}}, "of another model.json than"),
        ("decode_test/decode.json", {"hypotheses_sha256": {"greedy": "0"}}, "greedy.txt is not the one"),
        ("decode_test_noise/noise.json", {"files": {"model.onnx": "0"}}, "run steps.stress again"),
        ("decode_test_noise/noise.json", {"set": "dev"}, "of set 'dev', not test; run steps.stress again"),
        ("decode_test_noise/noise.json", {"words": [1]}, "has columns of unequal length"),
        ("decode_test_noise/noise.json", {"levels": [{"snr_db": 5}]}, "has columns of unequal length"),
        ("decode_test_noise/noise.json", {"words": [-1] * 8}, "has counts that are none"),
        ("decode_test_noise/noise.json", {"levels": None}, "has no levels of noise"),
        ("decode_test/decode.json", {"settings": None}, "settings are None"),
    ):
        path = exp / "student" / name
        before = path.read_text()
        path.write_text(json.dumps(json.loads(before) | change))
        with pytest.raises(UserError, match=said):
            collect_rows(exp, MODELS, ["test"], benchmark)
        path.write_text(before)
    benchmark["models"]["teacher"]["files"]["tokens.txt"] = "0"
    with pytest.raises(UserError, match="benchmark.json: of another tokens.txt than .*; run steps.benchmark again"):
        collect_rows(exp, MODELS, ["test"], benchmark)


def test_an_export_of_another_model_is_refused(exp):
    """Whichever of the two was made again: decodings of both may tell what they ran and be right."""
    model = exp / "student"
    (model / "model.safetensors").write_text("weights")
    write_json(model / "export/export.json", {"files": model_hashes(model)})
    assert collect_rows(exp, MODELS, ["test"])
    (model / "model.safetensors").write_text("others")
    with pytest.raises(UserError, match="export.json: of another model.safetensors than .*; run steps.export_model ag"):
        collect_rows(exp, MODELS, ["test"])
    write_json(model / "export/export.json", {})
    with pytest.raises(UserError, match="export.json: does not record which file of .*/student was run; run steps.exp"):
        collect_rows(exp, MODELS, ["test"])
    # of a model whose weights were removed nothing can be told
    (model / "model.safetensors").unlink()
    assert collect_rows(exp, MODELS, ["test"])


def test_a_parent_that_was_made_again_is_no_parent(exp):
    """Its size and its errors are not those of what the model was made of."""
    path = exp / "student_int8/model.json"
    spec = json.loads(path.read_text())
    write_json(path, spec | {"parent": {"name": "student", "weights_sha256": "a"}})
    parent = json.loads((exp / "student/model.json").read_text())
    for now in (None, "a"):
        write_json(exp / "student/model.json", parent | ({"weights_sha256": now} if now else {}))
        assert parent_of(exp, "student_int8") == "student"
    write_json(exp / "student/model.json", parent | {"weights_sha256": "b"})
    with pytest.raises(
        UserError, match="student_int8 was made of another student than there is now; make student_int8"
    ):
        collect_rows(exp, MODELS, ["test"])


def test_coverage_is_not_simulated_where_there_are_more_errors_than_words(exp):
    rows = collect_rows(exp, MODELS, ["test"])
    path = exp / "teacher/decode_test_onnx/score_greedy.json"
    content = json.loads(path.read_text())
    counted = content["utterances"]
    for extra in (0, 1):
        more = counted["words"][0] + extra - counted["errors"][0]
        for row, pooled in (("errors", "errors"), ("insertions", "insertions")):
            counted[row][0] += more
            content["words"][pooled] += more
        write_json(path, content)
        coverage = describe_set(exp, "test", rows, []).coverage_percent
        assert (coverage is None) == bool(extra) or few_speakers(len(set(counted["speakers"])))


def test_scores_in_other_units_than_decoded_are_refused(exp):
    folder = exp / "teacher/decode_test_onnx"
    write_json(folder / "decode.json", {"settings": {"unit": "word", "fold": {}}})
    read_score(folder, "greedy")
    for settings in ({"unit": "char"}, {"fold": {"one": "two"}}):
        write_json(folder / "decode.json", {"settings": settings})
        with pytest.raises(UserError, match="other units or words to fold since then; run steps.score again"):
            read_score(folder, "greedy")


def test_comparisons_are_paired(exp):
    rows = collect_rows(exp, MODELS, ["test"])
    pairs = parent_pairs(rows)
    assert pairs == [("student", "teacher"), ("student_int8", "student")]
    found = compare(exp, pairs, ["test"])
    assert [(c.a, c.b, c.kind) for c in found] == [
        ("student", "teacher", "greedy"), ("student", "teacher", "lexicon"), ("student_int8", "student", "greedy")
    ]  # fmt: skip
    by_model = {row.model: row.scores["greedy"].wer_percent for row in rows}
    assert found[0].difference.percent == pytest.approx(by_model["student"] - by_model["teacher"])
    assert found[0].difference.over == "speakers"


def test_different_test_sets_are_not_compared(exp, tmp_path):
    make_model(exp, "other", sets=("dev",))
    content = json.loads((exp / "other" / "decode_dev_onnx" / "score_greedy.json").read_text())
    content["utterances"]["ids"][0] = "s0-new"
    (exp / "other" / "decode_dev_onnx" / "score_greedy.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="not scored on the same utterances"):
        read_both(exp / "other" / "decode_dev_onnx", exp / "teacher" / "decode_test_onnx", "greedy")


def test_ledgers_say_what_got_worse(exp):
    first, *_ = ledgers(exp, [("student", "teacher")], ["test"])
    assert (first.worse, first.better, first.other_text) == (7, 0, 0)
    more = sum(change.more for change in first.changes)
    rows = {r.model: r.scores["greedy"].errors for r in collect_rows(exp, MODELS, ["test"])}
    assert more == rows["student"] - rows["teacher"] == sum(first.by_type.values())
    for split in (first.by_speaker, first.by_length):
        assert sum(row["errors"] - row["parent_errors"] for row in split) == more
        assert sum(row["worse"] for row in split) == first.worse
    assert [c.more for c in first.changes] == sorted((c.more for c in first.changes), reverse=True)
    text = format_ledger(first)
    assert text.count("REF:") == 2 * 7 and "student against teacher on test, greedy" in text


def test_noise_is_compared_with_the_parent_and_with_silence(exp):
    make_noise(exp, "teacher", 0)
    make_noise(exp, "student", 1)
    (found,) = compare_in_noise(exp, [("student", "teacher"), ("student_int8", "student")], ["test"])
    (clean, *_) = compare(exp, [("student", "teacher")], ["test"])
    words = sum(len(u.text.split()) for u in UTTERANCES)
    assert found.difference.percent == pytest.approx(100 * 12 / words)
    assert found.extra.percent == pytest.approx(found.difference.percent - clean.difference.percent)
    teacher, student, int8 = collect_rows(exp, MODELS, ["test"])
    assert (student.noise[0].snr_db, student.noise[0].errors, int8.noise) == (10, 12, [])


def test_the_front_holds_what_nothing_beats():
    assert pareto_front([(1, 5), (2, 3), (3, 4), (2, 6), (4, 1), (1, 5)]) == [(1, 5), (2, 3), (4, 1)]


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*/results.json")), ids=lambda path: path.parent.name)
def test_older_results_are_readable(path):
    content = json.loads(path.read_text())
    assert content["rows"] and all(schema.ResultRow(**row).model for row in content["rows"])
    assert content["sets"] and all(schema.TestSet(**info).words for info in content["sets"])


def test_pairs_are_checked():
    assert parse_pairs("a:b,b:c", ["a", "b", "c"]) == [("a", "b"), ("b", "c")]
    for text, what in (("a", "A:B"), ("a:studnet", "did you mean 'student'")):
        with pytest.raises(UserError, match=what):
            parse_pairs(text, ["a", "student"])


def test_rows_are_plain_data(exp):
    (row,) = collect_rows(exp, ["student"], ["test"])
    assert json.loads(json.dumps(dataclasses.asdict(row)))["scores"]["greedy"]["interval"]["groups"] == 6


@pytest.mark.parametrize("suffix", ["", "_onnx"])
def test_one_table_counts_one_kind_of_unit(exp, suffix):
    folder = exp / "student" / f"decode_test{suffix}"
    write_json(folder / "decode.json", {"settings": {"unit": "char"}})
    for kind in ("greedy", "lexicon"):
        score(folder, kind, UTTERANCES, "test")
    # neither the student's parent nor its child is reported
    with pytest.raises(UserError, match=r"not scored alike \((WER|CER) of .* (CER|WER) of .*score both again"):
        collect_rows(exp, ["student"] if suffix == "" else ["student_int8", "student"], ["test"])


def test_one_table_is_of_the_same_utterances(exp):
    make_model(exp, "orphan", utts=UTTERANCES[:-1])
    with pytest.raises(UserError, match="teacher/decode_test_onnx and .*orphan/decode_test_onnx: not scored alike"):
        collect_rows(exp, ["teacher", "orphan"], ["test"])


@pytest.mark.parametrize(
    ("kind", "one", "two", "what"),
    [
        ("lexicon", {"words": {"count": 3, "sha256": "a"}}, {"words": {"count": 3, "sha256": "b"}}, "word lists"),
        ("lexicon", {"settings": {"word_score": 0.0}}, {"settings": {"word_score": 5.0}}, "word_score"),
        ("one_of", {"labels": {"count": 2, "sha256": "a"}}, {"labels": {"count": 2, "sha256": "b"}}, "lists of labels"),
        ("beam", {"beam": 4}, {"beam": 8}, "widths of the beam"),
    ],
)
def test_models_decoded_with_different_settings_are_not_compared(exp, kind, one, two, what):
    folders = [exp / name / "decode_test_onnx" for name in ("student", "teacher")]
    for folder in (*folders, exp / "student_int8/decode_test_onnx"):
        (folder / f"{kind}.txt").write_bytes((folder / "greedy.txt").read_bytes())
        score(folder, kind, UTTERANCES, "test")
    everything = lambda: (read_both(*folders, kind), collect_rows(exp, MODELS, ["test"]))  # noqa: E731
    write_json(folders[0] / "decode.json", one)
    # the other one tells nothing of it, as those of older versions
    assert everything()
    write_json(folders[1] / "decode.json", two)
    message = f"{kind}: decoded with different {what}; decode both again"
    with pytest.raises(UserError, match=message):
        read_both(*folders, kind)
    with pytest.raises(UserError, match=message):
        # whatever is the parent of what, and though the first of them tells nothing
        collect_rows(exp, ["student_int8", "student", "teacher"], ["test"])
    # it is no matter of the other kinds
    assert read_both(*folders, "greedy")
    write_json(folders[1] / "decode.json", one)
    assert everything()
