"""steps.score on what a made-up recogniser said."""

import json

import pytest

from steps import score
from steps.core.cli import MissingInput, UserError
from tests.made_up_recogniser import TEXTS, run, run_decode
from tests.made_up_recogniser import setup as setup  # a fixture


def test_score_writes_all_four_files_per_kind(setup, monkeypatch):
    run_decode(monkeypatch, setup, "--words", setup.root / "words.txt")
    run(monkeypatch, score, "--decode", setup.out, "--data", setup.data)
    lines = (setup.out / "wer_greedy").read_text().splitlines()
    assert lines[0] == "%WER 14.29 [ 1 / 7, 0 ins, 0 del, 1 sub ]"
    assert lines[1].startswith("%CER ") and lines[2] == "%SER 25.00 [ 1 / 4 ]"
    assert lines[3] == "%ACC 85.71 [ 6 / 7 ]" and lines[4].startswith("95 % interval of WER: ")
    assert "S  BAD -> BAE" in (setup.out / "errors_greedy.txt").read_text()
    assert (setup.out / "per_spk_greedy").read_text().splitlines()[-1].startswith("all")
    content = json.loads((setup.out / "score_greedy.json").read_text())
    columns = content["utterances"]
    assert columns["ids"] == sorted(TEXTS) and sum(columns["errors"]) == content["words"]["errors"] == 1
    assert {len(column) for column in columns.values()} == {4}
    assert (setup.out / "score_lexicon.json").is_file()
    (setup.out / "lexicon.txt").unlink()
    run(monkeypatch, score, "--decode", setup.out, "--data", setup.data)
    assert not (setup.out / "score_lexicon.json").exists()


def test_transcripts_as_classes(setup, monkeypatch):
    run_decode(monkeypatch, setup)
    run(monkeypatch, score, "--decode", setup.out, "--data", setup.data, "--classes", "true")
    found = json.loads((setup.out / "score_greedy.json").read_text())["classification"]
    assert found["accuracy"] == 75 and len(found["classes"]) == 4 and found["confusions"]["BAD DAB"] == {"": 1}
    assert "accuracy 75.00 %" in (setup.out / "classes_greedy").read_text()
    run(monkeypatch, score, "--decode", setup.out, "--data", setup.data)
    assert not (setup.out / "classes_greedy").exists()


def test_score_refuses_hypotheses_of_other_utterances(setup, monkeypatch):
    with pytest.raises(MissingInput, match="greedy.txt, .*, beam.txt is here; run steps.decode first"):
        run(monkeypatch, score, "--decode", setup.out, "--data", setup.data)
    run_decode(monkeypatch, setup)
    path = setup.out / "greedy.txt"
    path.write_text(path.read_text().replace("s2-b", "s3-b"))
    with pytest.raises(UserError, match="greedy.txt.*s2-b.*s3-b"):
        run(monkeypatch, score, "--decode", setup.out, "--data", setup.data)
