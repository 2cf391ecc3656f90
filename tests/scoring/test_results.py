"""The results schema: numbers in the table are the numbers in the folders, on made-up score folders."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from steps import report as program
from steps.core.cli import MissingInput, UserError
from steps.core.datadir import Utterance
from steps.core.exports import model_hashes
from steps.core.outdir import sha256_file
from steps.deploy.recognition import write_hypotheses
from steps.score import score
from steps.scoring import results as schema
from steps.scoring.collect import collect_rows
from steps.scoring.compare import compare, compare_in_noise, ledgers, parent_pairs, parse_pairs, read_both
from steps.scoring.ledger import format_ledger
from steps.scoring.markdown import comparison_cells, comparison_table, markdown_table, result_cells, result_table
from steps.scoring.plot import pareto_front, plot_wer_bytes
from steps.scoring.wer import read_hypotheses

ROOT = Path(__file__).resolve().parents[2]
UTTERANCES = [
    Utterance(f"s{s}-u{u}", f"s{s}", " ".join(["one", "two", "three"][: 1 + (s + u) % 3]), "x.wav")
    for s in range(6)
    for u in range(4)
]


def make_model(exp, name, wrong=0, parent=None, size=1000, sets=("test",), lexicon=False, utts=UTTERANCES, **spec):
    """A finished model folder whose first `wrong` utterances are misrecognised; torch has one text more wrong."""
    export = exp / name / "export"
    export.mkdir(parents=True)
    for file, length in (("model.onnx", size), ("tokens.txt", 20), ("features.yaml", 30)):
        (export / file).write_bytes(b"x" * length)
    sums = [f"{sha256_file(path)}  {path.name}\n" for path in sorted(export.iterdir())]
    (export / "SHA256SUMS").write_text("".join(sums))
    content = {"parameters": 500, "nonzero_parameters": 400, "sparsity": None, "quantization": None}
    content |= {"parent": parent and {"name": parent}, **spec}
    (exp / name / "model.json").write_text(json.dumps(content))
    for set_name in sets:
        for suffix, more in (("_onnx", 0), ("", 1)):
            folder = exp / name / f"decode_{set_name}{suffix}"
            folder.mkdir()
            texts = [(u.utt_id, "bad" if i < wrong + more else u.text) for i, u in enumerate(utts)]
            for kind in ("greedy", "lexicon") if lexicon else ("greedy",):
                (folder / f"{kind}.txt").write_text("".join(f"{utt_id} {text}\n" for utt_id, text in texts))
                score(folder, kind, utts, set_name)


@pytest.fixture
def exp(tmp_path):
    make_model(tmp_path, "teacher", wrong=2, size=9000, lexicon=True)
    make_model(tmp_path, "student", wrong=9, parent="teacher", lexicon=True)
    make_model(tmp_path, "student_int8", wrong=10, parent="student", size=400, quantization={"bits": 8})
    return tmp_path


EVIL = "<img src=x>[y](z)|`"
MODELS = ["teacher", "student", "student_int8"]


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
        noise = {"words": [1] * 8, "speakers": list("aabbccdd"), "levels": [], "files": model_hashes(export)}
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


def make_noise(exp, name, more):
    """Noise scores: `more` errors in every utterance of the first three speakers."""
    folder = exp / name / "decode_test_noise"
    folder.mkdir()
    words = [len(u.text.split()) for u in UTTERANCES]
    errors = [more * (u.speaker in ("s0", "s1", "s2")) for u in UTTERANCES]
    content = {"ids": [u.utt_id for u in UTTERANCES], "speakers": [u.speaker for u in UTTERANCES], "seed": 0}
    content |= {"words": words, "levels": [{"snr_db": 10, "errors": errors}]}
    (folder / "noise.json").write_text(json.dumps(content))


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


def test_the_page_stands_alone_and_shows_data_as_text(exp, monkeypatch):
    make_noise(exp, "teacher", 0)
    make_noise(exp, "student", 1)
    (exp / "student" / "conf.yaml").write_text("name: <script>alert(1)</script>\n")
    command = ["report", "--exp", str(exp), "--models", *MODELS, "--sets", "test", "--out", str(exp / "report")]
    (exp / "student" / "run.json").write_text(json.dumps(dict.fromkeys(("commit", "command", "device"), f"\n# {EVIL}")))
    monkeypatch.setattr("sys.argv", [*command, "--recipe", f"<b>x{EVIL}"])
    program.main()
    for name in ("report.md", "RESULTS.md", "cards/student.md"):
        text = (exp / "report" / name).read_text()
        lines = [re.sub(r"\\.", "", line) for line in text.splitlines() if not line.startswith("    ")]
        bad = [line for line in lines if re.search(r"<b|<img|\]\(z|`", line) or line.startswith(f"# {EVIL}")]
        assert not bad and "&lt;b>x&lt;img src=x>[y]\\(z)\\|\\`" in text, name
    page = (exp / "report" / "report.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and "<b>x" not in page
    assert not re.search(r"""(src|href)=["'](?!#)|url\((?!#)|@import""", page), "nothing is fetched"
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", page)) <= set(ids)
    assert page.count("<figure>") == page.count("<svg") >= 1 and "currentColor" in page
    for title in ("In noise", "Texts of the runtimes", "Regressions", "Settings and versions"):
        assert f">{title}<" in page
    card = (exp / "report" / "cards" / "student.md").read_text()
    assert "made of teacher" in card and "at 10 dB" in card
    assert "REF:" in (exp / "report" / "regressions" / "student_test_greedy.txt").read_text()


def test_the_front_holds_what_nothing_beats():
    assert pareto_front([(1, 5), (2, 3), (3, 4), (2, 6), (4, 1), (1, 5)]) == [(1, 5), (2, 3), (4, 1)]


def test_tables_line_up(exp):
    rows = collect_rows(exp, MODELS, ["test"])
    for text in (result_table(rows), comparison_table(compare(exp, parent_pairs(rows), ["test"]))):
        lines = text.splitlines()
        assert len({len(line) for line in lines}) == 1
        assert len({tuple(i for i, char in enumerate(line) if char == "|") for line in lines}) == 1
        assert len(lines[0]) < 160
    greedy = rows[1].scores["greedy"]
    assert f"{greedy.wer_percent:.2f} ({greedy.errors}/{greedy.words})" in result_table(rows)
    assert markdown_table(["a", "b"], [["x|y", 1]]).count("\\|") == 1


def test_picture_is_the_same_for_the_same_numbers(exp):
    rows = collect_rows(exp, MODELS, ["test"])
    files = [exp / f"{name}.{kind}" for name in ("a", "b") for kind in ("svg", "png")]
    plot_wer_bytes(rows, "title", *files[:2])
    plot_wer_bytes(rows, "title", *files[2:])
    assert files[0].read_bytes() == files[2].read_bytes()
    assert files[1].read_bytes() == files[3].read_bytes()
    assert all(f">{model}<" in files[0].read_text() for model in MODELS)


def test_program_writes_every_file(exp, monkeypatch, capsys):
    make_model(exp, "tiny", wrong=4, sets=("test", "dev"))
    out = exp / "report"
    command = ["report", "--exp", str(exp), "--models", "tiny", "--sets", "test", "dev", "--out", str(out)]
    monkeypatch.setattr("sys.argv", command)
    program.main()
    results = json.loads((out / "results.json").read_text())
    assert {"recipe", "commit", "date", "command", "seed", "device", "versions", "rows"} <= set(results)
    assert [(row["model"], row["set"]) for row in results["rows"]] == [("tiny", "test"), ("tiny", "dev")]
    page = (out / "report.md").read_text()
    assert page.count("torch - onnxruntime") == 2 and "1 of 24" in page and "wer_bytes_dev.svg" in page
    assert (out / "wer_bytes_dev.svg").is_file() and (out / "wer_bytes_test.png").is_file()
    assert "## Where the rows come from" in (out / "RESULTS.md").read_text()
    assert "| tiny " in capsys.readouterr().out


def write_report(exp, monkeypatch, *models):
    """Run the program. Returns: {file name: text} of what it wrote, cards included."""
    out = exp / "report"
    command = ["report", "--exp", str(exp), "--models", *models, "--sets", "test", "--out", str(out)]
    monkeypatch.setattr("sys.argv", command)
    program.main()
    paths = [*out.glob("*.md"), *out.glob("*.html"), *out.glob("*.json"), *out.glob("cards/*.md")]
    return {path.name: path.read_text() for path in paths}


@pytest.mark.parametrize("speakers", [1, 2, 4, 5])
def test_few_speakers_are_told_once_and_nothing_is_simulated(tmp_path, monkeypatch, capsys, speakers):
    utts = UTTERANCES[: 4 * speakers]
    make_model(tmp_path, "solo", utts=utts)
    make_model(tmp_path, "small", wrong=1, parent="solo", utts=utts)
    files = write_report(tmp_path, monkeypatch, "solo", "small")
    files["output"] = capsys.readouterr().out
    few, named = speakers < 5, "1 speaker" if speakers == 1 else f"{speakers} speakers"
    said = f"{named}: the intervals cover {'this voice' if speakers == 1 else 'these voices'} only, not new ones"
    for name in ("report.md", "RESULTS.md", "report.html", "solo.md", "small.md", "output"):
        assert files[name].count(said) == files[name].count("utils/fold_data_dir.py") == few, name
    for name in ("report.md", "RESULTS.md", "report.html"):
        assert f"{4 * speakers} utterances of {named}, " in files[name]
        assert ("held the truth" in files[name]) == (not few), name
        assert not re.search(r"\b1 (speakers|utterances|words)\b", files[name])
    (info,) = json.loads(files["results.json"])["sets"]
    assert info["speakers"] == speakers and info["simulated"] == (0 if few else 1000)
    assert (info["coverage_percent"] is None) == few
    scored = (tmp_path / "solo/decode_test_onnx/wer_greedy").read_text()
    assert scored.count(said) == few


def test_dev_rates_of_the_training_stand_beside_the_tests(exp, monkeypatch):
    (exp / "teacher" / "run.json").write_text(json.dumps({"dev_wer": 12.345, "dev_cer": 6.789, "seconds": 750}))
    (exp / "student" / "run.json").write_text(json.dumps({"seed": 0}))
    files = write_report(exp, monkeypatch, *MODELS)
    found = [(row["dev_wer_percent"], row["dev_cer_percent"]) for row in json.loads(files["results.json"])["rows"]]
    assert found == [(12.345, 6.789), (None, None), (None, None)]
    for name in ("report.md", "RESULTS.md"):
        section = files[name].split("### Dev, greedy\n")[1].split("###")[0]
        assert re.search(r"\| teacher +\| 12.3[45] \| 6.79 \|", section) and "before export" in section
        assert "student" not in section, "it was not measured"
    assert ">Dev, greedy<" in files["report.html"] and ">6.79<" in files["report.html"]
    origins = files["RESULTS.md"].split("## Where the rows come from\n")[1]
    assert re.search(r"\| teacher +\|[^|]+\|[^|]+\|[^|]+\| +12\.5 \|", origins), "minutes of training"
    assert re.search(r"\| student +\|[^|]+\|[^|]+\|[^|]+\| +- \|", origins) and "Minutes: " in origins
    assert ">12.5<" in files["report.html"]
    assert "% WER, 6.79 % CER; dev serves" in files["teacher.md"] and "dev, greedy" not in files["student.md"]
    (exp / "teacher" / "run.json").write_text(json.dumps({"dev_wer": 12.345}))
    older = write_report(exp, monkeypatch, *MODELS)
    assert "| 12.3" in older["report.md"] and "CER;" not in older["teacher.md"], "older trainings wrote no CER"
    (exp / "teacher" / "run.json").unlink()
    assert "Dev, greedy" not in "".join(write_report(exp, monkeypatch, *MODELS).values())


def test_equal_texts_of_both_kinds_are_told(exp, monkeypatch):
    sentence = "Greedy and lexicon texts are equal"
    files = write_report(exp, monkeypatch, "teacher", "student")
    assert all(files[name].count(sentence) == 1 for name in ("report.md", "RESULTS.md", "report.html"))
    assert sentence not in write_report(exp, monkeypatch, *MODELS)["report.md"], "one model has no lexicon text"
    folder = exp / "student" / "decode_test_onnx"
    texts = (folder / "lexicon.txt").read_text().replace(" bad\n", " sad\n", 1)  # another text, as many errors
    (folder / "lexicon.txt").write_text(texts)
    score(folder, "lexicon", UTTERANCES, "test")
    files = write_report(exp, monkeypatch, "teacher", "student")
    assert [row["lexicon_differs"] for row in json.loads(files["results.json"])["rows"]] == [0, 1]
    assert not any(sentence in text for text in files.values())


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
