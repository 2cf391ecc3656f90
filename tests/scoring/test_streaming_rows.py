"""Models in chunks in the report: the numbers of the folders, beside whole utterances; nothing for models that do not stream."""

import json
import sys

import pytest

from steps import report as program
from steps.core.cli import MissingInput, UserError
from steps.core.exports import model_hashes
from steps.core.outdir import write_json
from steps.deploy.recognition import write_hypotheses
from steps.score import score
from steps.scoring.streaming import card_lines, collect_streaming, streaming_cells, streaming_note
from tests.scoring.made_up import UTTERANCES, make_model

MEASURED = {
    "chunk_ms": 320, "look_ahead_ms": 310, "cache_bytes": 41234, "rtf": {"mean": 0.0034, "p95": 0.0051},
    "last_word_ms": {"p50": -120.4, "p95": 301.2}, "last_word_told_ms": {"p50": -130.0, "p95": 4.0},
}  # fmt: skip


def in_chunks(exp, model, chunk_ms, wrong, timed=True):
    """What the stages leave of a model in chunks: an export, its decoding, and measurements."""
    export, folder = exp / model / f"export_chunk_{chunk_ms}", exp / model / f"decode_test_chunk_{chunk_ms}"
    export.mkdir()
    (export / "model.onnx").write_text(f"chunks of {chunk_ms}")
    files = model_hashes(export)
    if chunk_ms:
        own = {"chunk_ms": chunk_ms, "look_ahead_ms": chunk_ms - 10}
        write_json(folder / "streaming.json", {"files": files} | MEASURED | own)
    texts = {utt.utt_id: "bad" if i < wrong else utt.text for i, utt in enumerate(UTTERANCES)}
    write_hypotheses(folder, {"greedy": texts}, {"files": files})
    score(folder, "greedy", UTTERANCES, "test")
    if chunk_ms and timed:
        delays = {"files": model_hashes(exp / model), "reference": "teacher", "out_ms": {"p50": 162.4, "p95": 321.9}}
        delays |= {"reference_files": model_hashes(exp / "teacher"), "of": len(UTTERANCES)}
        write_json(exp / model / f"delays_test_chunk_{chunk_ms}.json", delays)


@pytest.fixture
def exp(tmp_path):
    make_model(tmp_path, "teacher", wrong=2, size=9000)
    make_model(tmp_path, "student", wrong=9, parent="teacher")
    for chunk_ms, wrong in ((640, 5), (0, 4), (160, 8)):
        in_chunks(tmp_path, "student", chunk_ms, wrong)
    return tmp_path


def report(exp, monkeypatch, *models):
    words = ["report", "--exp", exp, "--models", *models, "--sets", "test", "--out", exp / "report"]
    monkeypatch.setattr(sys, "argv", [*map(str, words)])
    program.main()
    return {
        name: (exp / "report" / name).read_text() for name in ("report.md", "report.html", "RESULTS.md", "results.json")
    }


def test_rows_are_the_folders_by_length_whole_utterances_first(exp):
    rows = collect_streaming(exp, ["teacher", "student"], ["test"])
    assert [(row.model, row.chunk_ms) for row in rows] == [("student", 0), ("student", 160), ("student", 640)]
    whole, short, long = rows
    assert (whole.measured, whole.delays, whole.more_errors_percent) == (None, None, None)
    assert (
        short.more_errors_percent == pytest.approx(100 * (short.score.errors / whole.score.errors - 1))
        and short.score.errors > long.score.errors
    )
    assert (
        short.measured["look_ahead_ms"] == 150
        and "files" not in short.measured
        and short.delays["out_ms"]["p95"] == 321.9
    )
    header, table = streaming_cells(rows)
    cells = [dict(zip(header, row, strict=True)) for row in table]
    assert [row["in chunks of"] for row in cells] == ["student, whole", "student, 160 ms", "student, 640 ms"]
    assert cells[0]["word out ms"] == cells[0]["RTF"] == cells[0]["more errors"] == "-"
    assert (cells[1]["word out ms"], cells[1]["last word ms"]) == ("162 / 322", "-120 / 301")
    assert (cells[1]["RTF"], cells[1]["cache kB"], cells[1]["look-ahead ms"]) == ("0.0034 / 0.0051", "41.2", "150")
    assert cells[1]["greedy WER"].startswith(f"{short.score.wer_percent:.2f} ({short.score.errors}/")
    assert cells[1]["more errors"] == f"{short.more_errors_percent:+.0f} %" and cells[1]["more errors"].startswith("+")
    assert "where teacher has it by forced" in streaming_note(rows) and len(card_lines(rows)) == 2


def test_what_was_decoded_and_not_scored_is_told(exp):
    (exp / "student/decode_test_chunk_160/score_greedy.json").unlink()
    with pytest.raises(MissingInput, match="decode_test_chunk_160: was decoded, not scored; run steps.score"):
        collect_streaming(exp, ["student"], ["test"])


def test_what_was_not_timed_has_no_column(exp):
    for path in (exp / "student").glob("delays_*"):
        path.unlink()
    rows = collect_streaming(exp, ["student"], ["test"])
    assert "word out ms" not in streaming_cells(rows)[0] and "a model of whole utterances has it" in streaming_note(
        rows
    )
    # nothing was right, or nothing was said
    in_chunks(exp, "student", 320, 4)
    path = exp / "student/delays_test_chunk_320.json"
    path.write_text(path.read_text().replace("162.4", "null").replace("321.9", "null"))
    assert "word out ms" not in streaming_cells(collect_streaming(exp, ["student"], ["test"]))[0]


def test_measurements_of_other_files_are_refused(exp):
    rows = lambda: collect_streaming(exp, ["student"], ["test"])  # noqa: E731
    delays, measured = exp / "student/delays_test_chunk_160.json", exp / "student/decode_test_chunk_160/streaming.json"
    for path in (delays, measured):
        before = json.loads(path.read_text())
        write_json(path, before | {"files": dict.fromkeys(before["files"], "0")})
        with pytest.raises(UserError, match=f"{path.name}: of another .* run steps"):
            rows()
        write_json(path, before)
    assert rows()
    measured.unlink()
    with pytest.raises(MissingInput, match="streaming.json: no such file"):
        rows()


def test_delays_against_another_reference_or_on_other_data_are_refused(exp):
    rows = lambda: collect_streaming(exp, ["student"], ["test"])  # noqa: E731
    path, spec = exp / "student/delays_test_chunk_160.json", exp / "teacher/model.json"
    before, delays = spec.read_bytes(), json.loads(path.read_text())
    assert "reference_files" not in rows()[1].delays
    spec.write_text(json.dumps({"trained": "again"}))
    with pytest.raises(UserError, match="_160.json: of another model.json than .*/teacher has now; run steps.time_wor"):
        rows()
    # the delays of an older version do not tell; a reference may lie elsewhere
    write_json(path, {name: value for name, value in delays.items() if name != "reference_files"})
    spec.unlink()
    assert rows()
    spec.write_bytes(before)
    write_json(path, delays | {"of": len(UTTERANCES) - 1})
    with pytest.raises(UserError, match="_160.json: of 23 utterances, not the 24 that are scored; run steps.time_wor"):
        rows()


def test_of_what_the_delays_are_is_said(exp):
    """They are not of the exported files, as the other columns."""
    note = streaming_note(collect_streaming(exp, ["student"], ["test"]))
    assert "all columns but one" in note and "Word out, of the model in torch, without silence" in note


def test_the_report_has_table_and_plot_of_models_that_stream(exp, monkeypatch):
    found = report(exp, monkeypatch, "teacher", "student")
    for name in ("report.md", "report.html", "RESULTS.md"):
        assert all(text in found[name] for text in ("While it is spoken", "student, 160 ms", "162 / 322")), name
    assert (
        "(wer_chunks_test.svg)" in found["report.md"]
        and "against the length of the chunks, test" in found["report.html"]
    )
    assert (exp / "report/wer_chunks_test.png").is_file()
    assert "dashed: whole utterances" in (exp / "report/wer_chunks_test.svg").read_text()
    assert [row["chunk_ms"] for row in json.loads(found["results.json"])["streaming"]] == [0, 160, 640]
    assert "in chunks of 160 ms: " in (exp / "report/cards/student.md").read_text()


def test_nothing_is_said_of_models_that_do_not_stream(exp, monkeypatch):
    found = report(exp, monkeypatch, "teacher")
    assert json.loads(found["results.json"])["streaming"] == []
    assert not any(
        "chunk" in found[name] or "spoken" in found[name] for name in ("report.md", "report.html", "RESULTS.md")
    )
    assert (
        not list((exp / "report").glob("wer_chunks*")) and "chunk" not in (exp / "report/cards/teacher.md").read_text()
    )
