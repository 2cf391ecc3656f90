"""Recordings that are one label of a closed list each: decode, score, report and transcribe choose among the labels."""

import io
import json

import numpy as np
import pytest
import soundfile

from steps import combine_decodes, report, score, transcribe
from steps.core.cli import MissingInput, UserError
from steps.deploy.export import export_folder
from steps.deploy.recognition import recognise_pieces
from steps.deploy.runtimes import load_recogniser
from steps.score import score as score_one
from tests.made_up_recogniser import FakeRecogniser, make_model_folder, run, run_decode
from tests.made_up_recogniser import setup as setup  # a fixture
from tests.scoring.made_up import UTTERANCES, make_model

LABELS = "AB CAD\nCAD\n\nBAD  DAB\nA BED\nABE\nCAD\n"


def test_decode_chooses_among_the_labels(setup, monkeypatch):
    labels = setup.root / "labels.txt"
    labels.write_text(LABELS)
    run_decode(monkeypatch, setup, "--labels", labels)
    whole = (setup.out / "one_of.txt").read_text()
    assert whole == "s1-a AB CAD\ns1-b CAD\ns2-a BAD DAB\ns2-b A BED\n"
    assert "s2-a BAE DAB" in (setup.out / "greedy.txt").read_text() and not (setup.out / "lexicon.txt").exists()
    facts = json.loads((setup.out / "decode.json").read_text())
    assert facts["labels"]["count"] == 5 and set(facts["hypotheses_sha256"]) == {"greedy", "one_of"}
    run(monkeypatch, score, "--decode", setup.out, "--data", setup.data, "--classes", "true")
    content = json.loads((setup.out / "score_one_of.json").read_text())
    assert content["words"]["errors"] == 0 and content["classification"]["accuracy"] == 100
    for shard in (1, 2):
        run_decode(monkeypatch, setup, "--labels", labels, "--shard", shard, "--num-shards", 2)
    run(monkeypatch, combine_decodes, "--data", setup.data, "--decode", setup.out, "--num-shards", 2)
    assert (setup.out / "one_of.txt").read_text() == whole
    run_decode(monkeypatch, setup)
    run(monkeypatch, score, "--decode", setup.out, "--data", setup.data)
    assert not (setup.out / "one_of.txt").exists() and not (setup.out / "score_one_of.json").exists()


def test_lists_that_cannot_be_used_are_refused_with_their_name(tmp_path):
    recogniser, path = FakeRecogniser(), tmp_path / "labels.txt"
    for content, what in ("AB\nXY Z\n", "labels.txt: 1 of 2 labels cannot be spelled .*: XY Z"), ("\n", "is empty"):
        path.write_text(content)
        with pytest.raises(UserError, match=what):
            recogniser.use_labels(path, tmp_path)
    with pytest.raises(MissingInput, match="none.txt: no such list of labels"):
        recogniser.use_labels(tmp_path / "none.txt", tmp_path)
    assert recogniser.kinds == ("greedy",)


def test_what_is_heard_in_pieces_is_no_single_label(tmp_path):
    recogniser = FakeRecogniser()
    (tmp_path / "labels.txt").write_text("AB\n")
    recogniser.use_labels(tmp_path / "labels.txt", tmp_path)
    piece = np.zeros((400, 80), np.float32)
    assert recognise_pieces(recogniser, [piece], "u")[0]["one_of"] == "AB"
    with pytest.raises(UserError, match="u: longer than 30 s"):
        recognise_pieces(recogniser, [piece, piece], "u")


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_model_and_export_choose_the_same_label(tmp_path, monkeypatch, kind):
    make_model_folder(tmp_path / "m", kind, 12 if kind == "bpe" else None)
    export_folder(tmp_path / "m", tmp_path / "m/export")
    (tmp_path / "labels.txt").write_text("AB\nCAD DAB\nBED\n")
    (tmp_path / "others.txt").write_text("xy\n")
    for number in range(3):
        sound = np.random.default_rng(number).uniform(-0.3, 0.3, (number + 1) * 8000)
        soundfile.write(tmp_path / f"{number}.wav", sound, 16000)
    paths = [str(tmp_path / f"{number}.wav") for number in range(3)]
    found = []
    for folder in (tmp_path / "m", tmp_path / "m/export"):
        results = io.StringIO()
        words = ["transcribe", str(folder), *paths, "--labels", str(tmp_path / "labels.txt")]
        monkeypatch.setattr("sys.argv", words)
        transcribe.main(results)
        found.append([line.split("\t")[1] for line in results.getvalue().splitlines()])
        with pytest.raises(UserError, match="others.txt: 1 of 1 labels"):
            load_recogniser(folder).use_labels(tmp_path / "others.txt", folder)
    assert found[0] == found[1] and len(found[0]) == 3 and set(found[0]) <= {"AB", "CAD DAB", "BED"}
    monkeypatch.setattr("sys.argv", [*words, "--words", str(tmp_path / "labels.txt")])
    with pytest.raises(SystemExit):
        transcribe.main(io.StringIO())


def test_a_recogniser_that_cannot_use_a_list_is_not_silently_free(tmp_path, monkeypatch):
    class Writer(FakeRecogniser):
        def use_labels(self, labels_file, folder):
            return None

    monkeypatch.setattr(transcribe, "load_recogniser", lambda *args, **kwargs: Writer())
    monkeypatch.setattr("sys.argv", ["transcribe", "m", "a.wav", "--labels", "labels.txt"])
    with pytest.raises(UserError, match="m: cannot be limited to a list of labels; leave out --labels"):
        transcribe.main(io.StringIO())


def test_the_report_has_a_column_of_its_own(tmp_path, monkeypatch):
    make_model(tmp_path, "small", wrong=5)
    folder = tmp_path / "small/decode_test_onnx"
    (folder / "one_of.txt").write_text(
        "".join(f"{u.utt_id} {u.text if i else 'bad'}\n" for i, u in enumerate(UTTERANCES))
    )
    score_one(folder, "one_of", UTTERANCES, "test")
    words = ["report", "--exp", tmp_path, "--models", "small", "--sets", "test", "--out", tmp_path / "out"]
    monkeypatch.setattr("sys.argv", list(map(str, words)))
    monkeypatch.setattr("steps.scoring.page.figure", lambda *args: "")
    report.main()
    page = (tmp_path / "out/report.md").read_text()
    assert " one_of WER |" in page and " 2.08 (1/48) |" in page and "one label of a closed list" in page
    assert "2.1 % as one of the labels" in page and "lexicon" not in page.split("## test")[1].split("- WER: ")[0]
    (row,) = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    assert set(row["scores"]) == {"greedy", "one_of"} and row["lexicon_differs"] is None
    assert ">one_of<" in (tmp_path / "out/wer_bytes_test.svg").read_text()
