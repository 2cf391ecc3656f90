"""Several runs as one table: seeds are averaged, folds are pooled."""

import json
import shutil
import sys

import pytest

from steps import summarise as program
from steps.core.cli import MissingInput, UserError
from steps.core.datadir import Utterance
from steps.core.exports import model_hashes
from steps.core.outdir import write_json
from steps.deploy.recognition import write_hypotheses
from steps.score import score
from steps.scoring.wer import read_hypotheses


def make_run(root, name, wrong, prefix="s", speakers=6):
    """A run with a parent and its child: `wrong` errors and twice as many, in speakers of 4 one-word utterances each."""
    utterances = [Utterance(f"{prefix}{s}-{u}", f"{prefix}{s}", "yes", "x") for s in range(speakers) for u in range(4)]
    for model, count in (("parent", wrong), ("child", 2 * wrong)):
        folder = root / name / model / "decode_test_onnx"
        folder.mkdir(parents=True)
        lines = [f"{utt.utt_id} {'no' if i < count else 'yes'}\n" for i, utt in enumerate(utterances)]
        (folder / "greedy.txt").write_text("".join(lines))
        score(folder, "greedy", utterances, "test")
        spec = {"parent": {"name": "parent"} if model == "child" else None}
        (root / name / model / "model.json").write_text(json.dumps(spec))
    return root / name


def decoded(folder, **facts):
    """Let a decoding of a made-up run tell what it ran: an exported folder that is its own."""
    model = folder.parent / "export"
    model.mkdir()
    (model / "model.onnx").write_text(str(model))
    hyps = {path.stem: read_hypotheses(path) for path in folder.glob("*.txt") if not path.name.startswith("errors")}
    write_hypotheses(folder, hyps, {"files": model_hashes(model)} | facts)


def run(monkeypatch, out, how, *runs, options=()):
    words = ["summarise", "--runs", *runs, "--as", how, "--set", "test", "--out", out, *options]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    program.main()
    return json.loads((out / "summary.json").read_text())


def test_seeds_are_averaged(tmp_path, monkeypatch):
    runs = [make_run(tmp_path, f"r{wrong}", wrong) for wrong in (2, 3, 4)]
    found = run(monkeypatch, tmp_path / "out", "seeds", *runs, options=["--compare", "parent:child"])["kinds"]["greedy"]
    assert found["models"]["parent"]["spread"]["mean"] == pytest.approx(100 * 3 / 24)
    assert found["models"]["parent"]["interval"]["groups"] == 6
    difference, other_way = found["differences"]
    assert (other_way["a"], other_way["relative_percent"]) == ("parent", pytest.approx(-50))
    assert (difference["a"], difference["b"]) == ("child", "parent")
    assert difference["spread"]["values"] == pytest.approx([100 * wrong / 24 for wrong in (2, 3, 4)])
    assert "| child - parent" in (tmp_path / "out" / "summary.md").read_text()


@pytest.mark.parametrize("how", ["seeds", "folds"])
def test_characters_are_summed_up_where_they_are_wanted(tmp_path, monkeypatch, how):
    runs = [
        make_run(tmp_path, f"c{i}", wrong, prefix=f"c{i if how == 'folds' else ''}-s") for i, wrong in enumerate((2, 3))
    ]
    assert run(monkeypatch, tmp_path / "out", how, *runs)["characters"] == {}
    assert "CER" not in (tmp_path / "out/summary.md").read_text()
    for folder in tmp_path.glob("c*/*/decode_test_onnx"):
        write_json(folder / "decode.json", {"settings": {"cer": True}})
        ids = [line.split()[0] for line in (folder / "greedy.txt").read_text().splitlines()]
        score(folder, "greedy", [Utterance(one, one.rpartition("-")[0], "yes", "x") for one in ids], "test")
    found = run(monkeypatch, tmp_path / "out", how, *runs)["characters"]["greedy"]
    # `no` for `yes`: three errors in three characters
    assert found["models"]["parent"]["interval"]["percent"] == pytest.approx(100 * 5 / 48)
    assert found["differences"][0]["interval"]["percent"] == pytest.approx(100 * 5 / 48)
    page = (tmp_path / "out/summary.md").read_text()
    assert page.index("## greedy, characters") < page.index("| CER") < page.index("## greedy\n") < page.index("| WER")


def test_what_was_moved_aside_is_no_model(tmp_path, monkeypatch):
    runs = [make_run(tmp_path, f"m{wrong}", wrong) for wrong in (2, 3)]
    for folder in runs:
        shutil.copytree(folder / "child", folder / "child.old-1")
    assert set(run(monkeypatch, tmp_path / "out", "seeds", *runs)["kinds"]["greedy"]["models"]) == {"parent", "child"}


def test_a_pair_counts_where_both_have_the_kind(tmp_path, monkeypatch):
    """A transducer and a CTC model have kinds of decoding that the other lacks."""
    runs = [make_run(tmp_path, f"k{wrong}", wrong) for wrong in (2, 3)]
    for folder in runs:
        place = folder / "parent/decode_test_onnx"
        shutil.copy(place / "greedy.txt", place / "lexicon.txt")
        ids = [line.split()[0] for line in (place / "lexicon.txt").read_text().splitlines()]
        score(place, "lexicon", [Utterance(one, one.rpartition("-")[0], "yes", "x") for one in ids], "test")
    pair = ["--compare", "parent:child"]
    kinds = run(monkeypatch, tmp_path / "out", "seeds", *runs, options=pair)["kinds"]
    assert len(kinds["greedy"]["differences"]) == 2 and kinds["lexicon"]["differences"] == []
    with pytest.raises(UserError, match="'nobody' is not among the models"):
        run(monkeypatch, tmp_path / "out", "seeds", *runs, options=["--compare", "parent:nobody"])


@pytest.mark.parametrize(
    ("settings", "said"), [({"word_score": 1.0}, "word_score"), ({"fold": {"a": "b"}}, "words to fold")]
)
def test_folds_are_decoded_with_the_same_settings(tmp_path, monkeypatch, settings, said):
    """But with lists of their own."""
    runs = [make_run(tmp_path, f"f{i}", 2, prefix=f"f{i}-s") for i in (1, 2)]
    for number, folder in enumerate(runs):
        for place in folder.glob("*/decode_test_onnx"):
            (place / "greedy.txt").rename(place / "lexicon.txt")
            (place / "score_greedy.json").unlink()
            ids = [line.split()[0] for line in (place / "lexicon.txt").read_text().splitlines()]
            for own in ({}, settings) if number else ({},):
                write_json(
                    place / "decode.json",
                    {"words": {"count": number}, "settings": {"word_score": 0.0, "fold": {}, **own}},
                )
                score(place, "lexicon", [Utterance(one, one.rpartition("-")[0], "yes", "x") for one in ids], "test")
    with pytest.raises(UserError, match=f"lexicon: decoded with different {said}; decode both again"):
        run(monkeypatch, tmp_path / "out", "folds", *runs)
    for place in runs[1].glob("*/decode_test_onnx"):
        write_json(place / "decode.json", {"words": {"count": 1}, "settings": {"word_score": 0.0, "fold": {}}})
        ids = [line.split()[0] for line in (place / "lexicon.txt").read_text().splitlines()]
        score(place, "lexicon", [Utterance(one, one.rpartition("-")[0], "yes", "x") for one in ids], "test")
    assert run(monkeypatch, tmp_path / "out", "folds", *runs)["kinds"]["lexicon"]


def test_folds_are_pooled(tmp_path, monkeypatch):
    runs = [make_run(tmp_path, f"f{i}", wrong, prefix=f"f{i}-s") for i, wrong in enumerate((2, 3, 4))]
    found = run(monkeypatch, tmp_path / "out", "folds", *runs)["kinds"]["greedy"]
    assert found["models"]["parent"]["interval"]["percent"] == pytest.approx(100 * 9 / 72)
    assert found["models"]["parent"]["interval"]["groups"] == 18
    assert found["differences"][0]["interval"]["percent"] == pytest.approx(100 * 9 / 72)
    with pytest.raises(UserError, match="not scored on the same utterances"):
        run(monkeypatch, tmp_path / "out", "seeds", *runs)


@pytest.mark.parametrize(("speakers", "over"), [(1, "12 utterances"), (2, "6 speakers")])
def test_what_intervals_are_over_is_named(tmp_path, monkeypatch, speakers, over):
    runs = [make_run(tmp_path, f"f{i}", 1, prefix=f"f{i}-s", speakers=speakers) for i in range(3)]
    run(monkeypatch, tmp_path / "out", "folds", *runs)
    page = (tmp_path / "out" / "summary.md").read_text()
    assert page.count(f"| {over} |") == 2 and f"Intervals are over the {over.split()[1]} of all folds" in page
    assert ("speakers of all" in page) == ("speakers" in over)
    assert ("cover these voices only" in page) == (3 * speakers < 5)


def test_runs_without_a_common_model_are_refused(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    one = make_run(tmp_path, "r", 1)
    with pytest.raises(UserError, match="no model has scores on test in all of"):
        run(monkeypatch, tmp_path / "out", "seeds", one, tmp_path / "empty")
    with pytest.raises(MissingInput, match="--runs: .*/nowhere: no such folder"):
        run(monkeypatch, tmp_path / "out", "seeds", one, tmp_path / "nowhere")


@pytest.mark.parametrize("turned", [False, True])
def test_runs_whose_models_have_other_parents_are_refused(tmp_path, monkeypatch, turned):
    runs = [make_run(tmp_path, f"r{wrong}", wrong) for wrong in (2, 3)]
    (runs[1] / "child/model.json").write_text(json.dumps({"parent": {"name": "stranger"}}))
    with pytest.raises(UserError, match="child: made of .*(parent|stranger) in .*; give runs of one chain"):
        run(monkeypatch, tmp_path / "out", "seeds", *(reversed(runs) if turned else runs))


def test_words_and_characters_do_not_go_into_one_number(tmp_path, monkeypatch):
    runs = [make_run(tmp_path, f"f{i}", 1, prefix=f"f{i}-s") for i in range(2)]
    for folder in runs[1].glob("*/decode_test_onnx"):
        write_json(folder / "decode.json", {"settings": {"unit": "char"}})
        ids = [line.split()[0] for line in (folder / "greedy.txt").read_text().splitlines()]
        score(folder, "greedy", [Utterance(one, one.rpartition("-")[0], "yes", "x") for one in ids], "test")
    with pytest.raises(UserError, match="greedy: CER in .*, WER in .*; decode and score all runs with one `unit`"):
        run(monkeypatch, tmp_path / "out", "folds", *runs)


@pytest.mark.parametrize("content", [{"models": {}}, {"rows": [{"name": "parent"}, None]}])
def test_a_report_of_another_version_does_not_matter(tmp_path, monkeypatch, content):
    runs = [make_run(tmp_path, f"r{wrong}", wrong) for wrong in (2, 3)]
    (runs[0] / "report").mkdir()
    (runs[0] / "report/results.json").write_text(json.dumps(content))
    assert list(run(monkeypatch, tmp_path / "out", "seeds", *runs)["kinds"]["greedy"]["models"]) == ["child", "parent"]


def test_models_stand_as_in_the_report(tmp_path, monkeypatch):
    runs = [make_run(tmp_path, f"r{wrong}", wrong) for wrong in (2, 3)]
    (runs[0] / "report").mkdir()
    (runs[0] / "report/results.json").write_text(json.dumps({"rows": [{"model": "parent"}, {"model": "child"}]}))
    assert list(run(monkeypatch, tmp_path / "out", "seeds", *runs)["kinds"]["greedy"]["models"]) == ["parent", "child"]


@pytest.mark.parametrize("how", ["seeds", "folds"])
def test_decodings_of_another_export_are_refused(tmp_path, monkeypatch, how):
    runs = [make_run(tmp_path, f"r{i}", 2, prefix=f"r{i if how == 'folds' else ''}-s") for i in range(2)]
    for folder in tmp_path.glob("r*/*/decode_test_onnx"):
        decoded(folder)
    assert run(monkeypatch, tmp_path / "out", how, *runs)
    (runs[1] / "child/export/model.onnx").write_text("trained again")
    with pytest.raises(UserError, match="r1/child/decode_test_onnx/decode.json: of another model.onnx than .*again"):
        run(monkeypatch, tmp_path / "out", how, *runs)
    # of a run whose exports were removed nothing can be told
    shutil.rmtree(runs[1] / "child/export")
    assert run(monkeypatch, tmp_path / "out", how, *runs)


def test_one_run_is_not_two_seeds(tmp_path, monkeypatch):
    runs = [make_run(tmp_path, f"r{i}", 2) for i in range(3)]
    for number, folder in enumerate(runs):
        for model in ("parent", "child"):
            spec = json.loads((folder / model / "model.json").read_text())
            # an imported parent has the same weights in every run
            spec["weights_sha256"] = "of a hub" if model == "parent" else f"seed {number}"
            write_json(folder / model / "model.json", spec)
    assert run(monkeypatch, tmp_path / "out", "seeds", *runs)
    copy = shutil.copytree(runs[1], tmp_path / "copy")
    with pytest.raises(UserError, match="r1 and .*copy: the same weights in every model; one run is not two seeds"):
        run(monkeypatch, tmp_path / "out", "seeds", *runs, copy)


@pytest.mark.parametrize("change", ["references", "speakers", "settings"])
def test_seeds_are_decoded_and_scored_alike(tmp_path, monkeypatch, change):
    runs = [make_run(tmp_path, f"r{i}", 2 + i) for i in range(2)]
    for number, folder in enumerate(sorted(tmp_path.glob("r*/*/decode_test_onnx"))):
        other = number > 1
        ids = [line.split()[0] for line in (folder / "greedy.txt").read_text().splitlines()]
        text = "no" if other and change == "references" else "yes"
        speaker = (lambda one: one) if other and change == "speakers" else (lambda one: one.rpartition("-")[0])
        (folder / "lexicon.txt").write_bytes((folder / "greedy.txt").read_bytes())
        decoded(folder, settings={"word_score": 5.0 if other and change == "settings" else 0.0})
        for kind in ("greedy", "lexicon"):
            score(folder, kind, [Utterance(one, speaker(one), text, "x") for one in ids], "test")
    message = "not scored on the same utterances" if change != "settings" else "decoded with different word_score"
    with pytest.raises(UserError, match=f"r0/.* and .*r1/.*: .*{message}"):
        run(monkeypatch, tmp_path / "out", "seeds", *runs)
