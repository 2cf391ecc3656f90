"""The gate: what passes, what fails, and the sentence it says."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from steps import gate as program
from steps.core.cli import run_main
from steps.core.datadir import Utterance
from steps.core.exports import model_hashes
from steps.core.outdir import sha256_file
from steps.deploy.recognition import write_hypotheses
from steps.score import score
from steps.scoring.wer import read_hypotheses


@pytest.fixture(scope="module")
def exp(tmp_path_factory):
    """The models of `make_exp`, 40 speakers."""
    root = tmp_path_factory.mktemp("exp")
    make_exp(root)
    return root


def make_exp(root, speakers=40):
    """A parent without errors in speakers of 5 utterances of 8 words, and models with more and more errors."""
    text = "one two three four five six seven eight"
    utterances = [Utterance(f"s{s:02d}-{u}", f"s{s:02d}", text, "x.wav") for s in range(speakers) for u in range(5)]
    wrong_of = {"parent": 0, "same": 0, "near": 2, "far": min(60, len(utterances))}
    rng = np.random.default_rng(0)
    for name, wrong in wrong_of.items():
        folder = root / name / "decode_test_onnx"
        folder.mkdir(parents=True)
        spoilt = set(rng.choice(len(utterances), wrong, replace=False).tolist())
        texts = (text.replace("one", "won") if i in spoilt else text for i in range(len(utterances)))
        (root / name / "model.json").write_text(json.dumps({"parent": {"name": "parent"}}))
        (root / name / "export").mkdir()
        for file in ("model.onnx", "tokens.txt", "features.yaml"):
            (root / name / "export" / file).write_bytes(name[:1].encode() * 100)
        (root / name / "export/HLG.fst").write_bytes(b"x" * 50)
        sums = [f"{sha256_file(path)}  {path.name}\n" for path in sorted((root / name / "export").iterdir())]
        (root / name / "export/SHA256SUMS").write_text("".join(sums))
        hyps = {utt.utt_id: said for utt, said in zip(utterances, texts, strict=True)}
        kinds = ("greedy", "lm") if wrong == 0 else ("greedy",)
        write_hypotheses(folder, dict.fromkeys(kinds, hyps), {"files": model_hashes(root / name / "export")})
        for kind in kinds:
            score(folder, kind, utterances, "test")
    speeds = {"models": {"same": {"rtf_with_features": 0.01, "files": model_hashes(root / "same/export")}}}
    (root / "benchmark.json").write_text(json.dumps(speeds))


@pytest.fixture
def gate(exp, monkeypatch, capsys):
    """Function (model, *options) -> (exit status, what was said)."""

    def run(model, *options, exp=exp):
        monkeypatch.setattr(sys, "argv", ["gate", "--exp", str(exp), "--model", model, *map(str, options)])
        capsys.readouterr()
        try:
            status = run_main(program.main)
        except SystemExit as stop:
            status = stop.code
        out, err = capsys.readouterr()
        return status, out + err

    return run


def test_what_is_shown_to_be_within_the_limit_passes(gate):
    status, said = gate("same", "--max-wer-increase", 0.3)
    assert status == 0 and "same passes: WER +0.00 points against parent" in said
    assert gate("near", "--max-wer-increase", 1)[0] == 0


def test_the_rate_has_the_name_of_what_is_counted(gate, tmp_path):
    make_exp(tmp_path)
    text = "one two three four five six seven eight"
    utterances = [Utterance(f"s{s:02d}-{u}", f"s{s:02d}", text, "x.wav") for s in range(40) for u in range(5)]
    for name in ("parent", "same"):
        folder = tmp_path / name / "decode_test_onnx"
        facts = json.loads((folder / "decode.json").read_text())
        (folder / "decode.json").write_text(json.dumps(facts | {"settings": {"unit": "char"}}))
        score(folder, "greedy", utterances, "test")
    assert "same passes: CER +0.00 points" in gate("same", "--max-wer-increase", 0.3, exp=tmp_path)[1]


def test_what_is_not_shown_fails_unless_told_otherwise(gate):
    status, said = gate("near", "--max-wer-increase", 0.15)
    assert status == 1 and "is possible at 95 %" in said and "too small to show" in said
    assert gate("near", "--max-wer-increase", 0.15, "--unsure", "pass")[0] == 0


def test_what_is_shown_to_be_worse_fails_in_any_case(gate):
    status, said = gate("far", "--max-wer-increase", 0.3, "--unsure", "pass")
    assert status == 1 and "more than the +0.3 allowed" in said


def test_a_stricter_alpha_is_stricter(gate):
    limits = [
        gate("near", "--max-wer-increase", 9, "--alpha", a)[1].split("at most ")[1].split()[0] for a in (0.2, 0.01)
    ]
    assert float(limits[0]) < float(limits[1])


def test_bytes_and_speed_count_too(gate):
    options = ("--max-wer-increase", 1)
    assert gate("same", *options, "--max-bytes", 300, "--max-rtf", 0.01)[0] == 0
    # a language model counts where it is used
    assert gate("same", *options, "--kind", "lm", "--max-bytes", 350)[0] == 0
    assert gate("same", *options, "--kind", "lm", "--max-bytes", 349)[0] != 0
    status, said = gate("same", *options, "--max-bytes", 299, "--max-rtf", 0.009)
    assert status == 1 and "300 bytes (at most 299)" in said and "real-time factor 0.01000" in said
    status, said = gate("near", *options, "--max-rtf", 1)
    assert status == 1 and "near was not measured" in said


@pytest.mark.parametrize("speakers", [1, 2, 4, 5])
def test_few_speakers_are_warned_of_whatever_the_verdict(gate, tmp_path, speakers):
    make_exp(tmp_path, speakers)
    named = "1 speaker" if speakers == 1 else f"{speakers} speakers"
    for model, limit, status in (("same", 50, 0), ("far", 0, 1)):
        found, said = gate(model, "--max-wer-increase", limit, exp=tmp_path)
        assert found == status and said.count(f"\nwarning: {named}: ") == said.count("warning") == (speakers < 5)
    found, said = gate("same", "--max-wer-increase", 50, "--max-bytes", 1, exp=tmp_path)
    assert found == 1 and said.count("warning") == (speakers < 5)


def test_mistakes_are_told(gate):
    assert gate("same", "--max-wer-increase", 1, "--set", "dev")[0] == 5
    for alpha in ("0.5", "0", "-0.1", "x", "nan", "inf"):
        assert gate("same", "--max-wer-increase", 1, "--alpha", alpha)[0] == 2
    for limit in ("nan", "inf", "-inf", "x"):
        assert gate("same", "--max-wer-increase", limit)[0] == 2
    for option, values in (("--max-bytes", ("0", "-1", "1.5")), ("--max-rtf", ("nan", "0", "-1", "inf"))):
        for value in values:
            assert gate("same", "--max-wer-increase", 1, f"{option}={value}")[0] == 2, (option, value)


@pytest.fixture
def own(exp, tmp_path):
    """A copy of the models, to be damaged."""
    return Path(shutil.copytree(exp, tmp_path / "exp"))


def one_line(result, *words):
    """Refused with status 1 in one line without a traceback, which has these words."""
    status, said = result
    lines = [line for line in said.splitlines() if not line.startswith(("# ", "warning"))]
    assert status == 1 and len(lines) == 1 and "Traceback" not in said, said
    assert all(word in lines[0] for word in words), said


def test_a_model_is_no_baseline_of_its_own(gate, own):
    one_line(gate("parent", "--max-wer-increase", 1), "parent is the baseline itself")
    (own / "link").symlink_to("same")
    one_line(gate("link", "--max-wer-increase", 1, "--baseline", "same", exp=own), "is the baseline itself")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_sets_too_small_to_show_anything_are_refused(gate, own, count):
    for name in ("same", "parent", "far"):
        shrink(own / name, count)
    for model in ("same", "far"):
        one_line(gate(model, "--max-wer-increase", 100, "--unsure", "pass", exp=own), "nothing can be shown at 95 %")


def shrink(model, count):
    folder = model / "decode_test_onnx"
    score_file = json.loads((folder / "score_greedy.json").read_text())
    ids = score_file["utterances"]["ids"][:count]
    refs = dict(zip(ids, score_file["utterances"]["references"], strict=False))
    utterances = [Utterance(utt_id, utt_id.split("-")[0], refs[utt_id], "x.wav") for utt_id in ids]
    hyps = read_hypotheses(folder / "greedy.txt")
    write_hypotheses(folder, {"greedy": {i: hyps[i] for i in ids}}, {"files": model_hashes(model / "export")})
    score(folder, "greedy", utterances, "test")


def test_an_alpha_beyond_the_bootstrap_is_refused(gate):
    one_line(gate("near", "--max-wer-increase", 100, "--alpha", "1e-17"), "nothing can be shown")


def damage(path, change):
    """Change the JSON object in a file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def set_row(name, index, value):
    return lambda content: content["utterances"][name].__setitem__(index, value)


GREEDY, SCORE, DECODE = "greedy.txt", "score_greedy.json", "decode.json"


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("../export/model.onnx", lambda path: path.write_bytes(b"garbage"), "of another model.onnx than"),
        ("../export/tokens.txt", lambda path: path.write_bytes(b"garbage"), "of another tokens.txt than"),
        (GREEDY, lambda path: path.write_text("s00-0 x\n"), "run steps.score again"),
        (DECODE, lambda path: path.write_text("{"), "not valid JSON"),
        (DECODE, lambda path: path.write_text("[]"), "expected a JSON object"),
        (DECODE, lambda path: damage(path, lambda c: c.pop("files")), "run steps.decode again"),
        (DECODE, lambda path: damage(path, lambda c: c.update(files=[])), "run steps.decode again"),
        (DECODE, lambda path: damage(path, lambda c: c.pop("hypotheses_sha256")), "run steps.decode again"),
        (SCORE, lambda path: path.write_text("null"), "expected a JSON object"),
        (SCORE, lambda path: path.write_text('{"a": NaN}'), "NaN is no number"),
        (SCORE, lambda path: damage(path, lambda c: c.update(utterances=[])), "run steps.score again"),
        (SCORE, lambda path: damage(path, lambda c: c["utterances"].update(ids=None)), "columns of unequal length"),
        (SCORE, lambda path: damage(path, lambda c: c["utterances"]["errors"].pop()), "columns of unequal length"),
        (SCORE, lambda path: damage(path, set_row("ids", 1, "s00-0")), "ids, speakers or references"),
        (SCORE, lambda path: damage(path, set_row("speakers", 1, 5)), "ids, speakers or references"),
        (SCORE, lambda path: damage(path, set_row("errors", 0, -1)), "counts that are none"),
        (SCORE, lambda path: damage(path, set_row("errors", 0, True)), "counts that are none"),
        (SCORE, lambda path: damage(path, set_row("errors", 0, 1)), "errors that are not the sum of their kinds"),
        (SCORE, lambda path: damage(path, set_row("words", 0, 80)), "counts of words that are not those"),
        (SCORE, lambda path: damage(path, lambda c: c["words"].update(errors=3)), "words that do not add up"),
        (SCORE, lambda path: damage(path, lambda c: c.update(chars=7)), "chars that do not add up"),
        (SCORE, lambda path: damage(path, lambda c: c.update(rate="CER")), "other units or words to fold"),
        (SCORE, lambda path: damage(path, lambda c: c.update(set="dev")), "not scored alike"),
        ("../model.json", lambda path: path.write_text('{"parent": "parent"}'), "names no parent"),
        ("../model.json", lambda path: path.write_text('{"parent": {"name": 5}}'), "names no parent"),
    ],
)
def test_what_cannot_be_vouched_for_is_refused(gate, own, name, change, said):
    change(own / "same/decode_test_onnx" / name)
    one_line(gate("same", "--max-wer-increase", 100, exp=own), said)


def test_scores_with_other_errors_than_the_texts_are_refused(gate, own):
    """All sums are right, but the errors of `far` are those of `same`."""
    far, same = (own / name / "decode_test_onnx" / SCORE for name in ("far", "same"))
    sha256 = json.loads(far.read_text())["hypotheses_sha256"]
    far.write_text(json.dumps(json.loads(same.read_text()) | {"hypotheses_sha256": sha256}))
    one_line(gate("far", "--max-wer-increase", 1, exp=own), "has other errors than greedy.txt")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["models"]["same"].update(rtf_with_features=-0.5), "is -0.5"),
        (lambda c: c["models"]["same"].update(rtf_with_features=0), "is 0"),
        (lambda c: c["models"]["same"].update(rtf_with_features="0.01"), "is '0.01'"),
        (lambda c: c["models"]["same"].update(rtf_with_features=True), "is True"),
        (lambda c: c["models"]["same"].pop("rtf_with_features"), "is None"),
        (lambda c: c["models"]["same"].pop("files"), "run steps.benchmark again"),
        (lambda c: c["models"]["same"]["files"].update({"model.onnx": "0"}), "of another model.onnx than"),
        (lambda c: c.update(models=[1]), "was not measured"),
        (lambda c: c.update(models={"same": 5}), "was not measured"),
    ],
)
def test_speeds_that_cannot_be_vouched_for_are_refused(gate, own, change, said):
    damage(own / "benchmark.json", change)
    one_line(gate("same", "--max-wer-increase", 100, "--max-rtf", 1, exp=own), said)
    (own / "benchmark.json").write_text('{"models": {"same": {"rtf_with_features": 1e999}}}')
    one_line(gate("same", "--max-wer-increase", 100, "--max-rtf", 1, exp=own))
