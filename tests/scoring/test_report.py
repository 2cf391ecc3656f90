"""The report: its pages, tables and pictures, on made-up score folders."""

import importlib.metadata
import json
import re
from dataclasses import replace

import pytest

from steps import report as program
from steps.core.decodings import KINDS
from steps.core.outdir import write_json
from steps.score import score
from steps.scoring.collect import collect_rows
from steps.scoring.compare import compare, parent_pairs
from steps.scoring.markdown import comparison_table, markdown_table, result_table
from steps.scoring.plot import plot_wer_bytes
from steps.scoring.versions import read_runtimes
from tests.scoring.made_up import EVIL, MODELS, UTTERANCES, make_model, make_noise


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


def test_what_the_speed_of_transducers_includes_is_said_where_there_are_any(tmp_path, monkeypatch):
    make_model(tmp_path, "teacher", wrong=2, size=9000)
    make_model(tmp_path, "student", wrong=9, parent="teacher", head="transducer")
    make_model(tmp_path, "untimed", wrong=9, head="transducer")
    speed = {"rtf": 0.001, "rtf_with_features": 0.002, "macs_per_second": 7e6, "load_s": 0.1, "peak_memory_bytes": 9e7}
    speed |= {
        "latency_ms": {"p50": 5.0, "p90": 6.0, "p99": 7.0},
        "model_memory_bytes": 4e6,
        "rtf_spread": 0.0002,
        "all_threads_wall_rtf": 0.0015,
    }
    speed |= {"ratios": {"teacher": {"times_faster": 2.0, "low": 1.9, "high": 2.1}}}
    (tmp_path / "b.json").write_text(json.dumps({"models": dict.fromkeys(("teacher", "student"), speed)}))
    command = ["report", "--exp", str(tmp_path), "--sets", "test", "--out", str(tmp_path / "report")]
    command += ["--benchmark", str(tmp_path / "b.json"), "--models"]
    # below the main table, that of latencies, and that of ratios
    for models, times in ((("teacher", "student"), 3), (("teacher", "untimed"), 0)):
        monkeypatch.setattr("sys.argv", [*command, *models])
        program.main()
        for name in ("report.md", "RESULTS.md", "report.html"):
            assert (tmp_path / "report" / name).read_text().count("Times of transducers include greedy search") == times
        for model in models:
            card = (tmp_path / "report" / "cards" / f"{model}.md").read_text()
            assert ("both with greedy search" in card) == (model == "student")


def test_picture_is_the_same_for_the_same_numbers(exp):
    rows = collect_rows(exp, MODELS, ["test"])
    files = [exp / f"{name}.{kind}" for name in ("a", "b") for kind in ("svg", "png")]
    plot_wer_bytes(rows, "title", *files[:2])
    plot_wer_bytes(rows, "title", *files[2:])
    assert files[0].read_bytes() == files[2].read_bytes()
    assert files[1].read_bytes() == files[3].read_bytes()
    assert all(f">{model}<" in files[0].read_text() for model in MODELS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_decoding_is_in_the_picture(exp, kind):
    rows = collect_rows(exp, MODELS, ["test"])
    greedy = rows[0].scores["greedy"]
    rows = [replace(row, scores={"greedy": greedy, kind: greedy}, bytes_with_lm=9000) for row in rows]
    plot_wer_bytes(rows, "title", exp / "a.svg", exp / "a.png")
    assert f">{kind}<" in (exp / "a.svg").read_text()


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


def test_a_model_that_is_no_longer_reported_leaves_no_card_behind(exp, monkeypatch):
    regressions = exp / "report/regressions"
    assert {"teacher.md", "student.md"} <= write_report(exp, monkeypatch, "teacher", "student").keys()
    assert {path.name.split("_")[0] for path in regressions.iterdir()} == {"student"}
    files = write_report(exp, monkeypatch, "teacher")
    assert "teacher.md" in files and "student.md" not in files and not [*regressions.iterdir()]


@pytest.mark.parametrize("wrong", [9, 10])
def test_what_a_set_can_show_is_not_judged_by_the_models_that_differ_most(exp, monkeypatch, wrong):
    """Equal models, whose interval is narrow, and others whose errors spread."""
    make_model(exp, "equal", wrong=wrong, parent="student")
    files = write_report(exp, monkeypatch, "teacher", "student", "equal")
    told = "four of five such sets" in files["report.md"], "four of five such sets" in files["report.html"]
    assert told == (wrong != 9, wrong != 9)


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


def test_versions_are_those_that_decoded(exp, monkeypatch):
    runtimes = {"_onnx": {"onnxruntime": "1.2.3", "numpy": "0.1"}, "": {"torch": "0.9", "numpy": "0.1"}}
    for name in ("teacher", "student"):
        for suffix, runtime in runtimes.items():
            write_json(exp / name / f"decode_test{suffix}/decode.json", {"runtime": runtime})
    found = json.loads(write_report(exp, monkeypatch, "teacher", "student")["results.json"])
    assert (found["versions"]["onnxruntime"], found["versions"]["torch"]) == ("1.2.3", "0.9")
    # nothing was decoded by it, whether it is installed or not; numpy is the report's own
    assert "sherpa-onnx" not in found["versions"] and found["versions"]["numpy"] == importlib.metadata.version("numpy")
    assert not [one for one in found["warnings"] if "versions of" in one["text"]]
    write_json(exp / "student/decode_test_onnx/decode.json", {"runtime": {"onnxruntime": "1.4.0"}})
    found = json.loads(write_report(exp, monkeypatch, "teacher", "student")["results.json"])
    assert found["versions"]["onnxruntime"] == "1.2.3 and 1.4.0"
    (note,) = [one for one in found["warnings"] if "versions of" in one["text"]]
    assert note["level"] == "note" and "of onnxruntime are behind" in note["text"]
    assert "1.2.3 (teacher), 1.4.0 (student)" in note["text"]


def test_the_version_that_timed_and_those_of_chunks_are_told(tmp_path):
    folders = {"a": ["decode_test_onnx", "decode_test_chunk_160"], "b": ["decode_test_onnx"]}
    for model, names in folders.items():
        for name in names:
            version = "1.4.0" if "chunk" in name else "1.2.3"
            write_json(tmp_path / model / name / "decode.json", {"runtime": {"onnxruntime": version}})
    benchmark = {"host": {"versions": {"onnxruntime": "1.5.0", "torch": "2.0"}}}
    ran = read_runtimes(tmp_path, ["a", "b"], ["test"], benchmark)
    assert ran == {"onnxruntime": {"1.2.3": ["a", "b"], "1.4.0": ["a"], "1.5.0": ["the benchmark"]}}
    # files of other versions tell nothing, as those that are not there
    write_json(tmp_path / "b/decode_test_onnx/decode.json", {"runtime": "onnxruntime"})
    assert read_runtimes(tmp_path, ["b", "c"], ["test"], {"host": "a processor"}) == {}
