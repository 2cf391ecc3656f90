"""The gate: what passes, what fails, and the sentence it says."""

import json
import sys

import numpy as np
import pytest

from steps import gate as program
from steps.core.cli import run_main
from steps.core.datadir import Utterance
from steps.core.outdir import sha256_file
from steps.score import score


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
        lines = [f"{utt.utt_id} {said}\n" for utt, said in zip(utterances, texts, strict=True)]
        (folder / "greedy.txt").write_text("".join(lines))
        score(folder, "greedy", utterances, "test")
        (root / name / "model.json").write_text(json.dumps({"parent": {"name": "parent"}}))
        (root / name / "export").mkdir()
        for file in ("model.onnx", "tokens.txt", "features.yaml"):
            (root / name / "export" / file).write_bytes(b"x" * 100)
        sums = [f"{sha256_file(path)}  {path.name}\n" for path in sorted((root / name / "export").iterdir())]
        (root / name / "export/SHA256SUMS").write_text("".join(sums))
    speeds = {"models": {"same": {"rtf_with_features": 0.01}}}
    (root / "benchmark.json").write_text(json.dumps(speeds))


@pytest.fixture
def gate(exp, monkeypatch, capsys):
    """Function (model, *options) -> (exit status, what was said)."""

    def run(model, *options, exp=exp):
        monkeypatch.setattr(sys, "argv", ["gate", "--exp", str(exp), "--model", model, *map(str, options)])
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
    for alpha in ("0.5", "0", "x", "nan"):
        assert gate("same", "--max-wer-increase", 1, "--alpha", alpha)[0] == 2
