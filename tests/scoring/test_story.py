"""The sentences on top of a report: what ships, against what, and only what was measured."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from steps import report
from steps.core.cli import MissingInput, UserError
from steps.core.outdir import write_json
from steps.score import score
from steps.scoring import plot
from steps.scoring.collect import collect_rows
from steps.scoring.results import TrainingSet
from steps.scoring.story import cost_sentence, describe_training, hours_text, ratio, reference_of
from tests.scoring.made_up import UTTERANCES, make_model, make_noise

MODELS = ["teacher", "student", "student_cut", "student_int8"]


@pytest.fixture
def exp(tmp_path):
    """teacher taught student, which was cut and rounded."""
    make_model(tmp_path, "teacher", wrong=1, size=99_950, lexicon=True, weights_sha256="t")
    make_model(tmp_path, "student", wrong=2, size=40_000, lexicon=True, weights_sha256="s")
    make_model(tmp_path, "student_cut", wrong=3, size=30_000, parent="student", lexicon=True, weights_sha256="c")
    make_model(tmp_path, "student_int8", wrong=16, size=9_950, parent="student_cut", lexicon=True, weights_sha256="i")
    (tmp_path / "student/conf.yaml").write_text("step: distill_student\nteacher: [t]\n")
    return tmp_path


def write(exp, monkeypatch, *options, models=MODELS):
    """Run the program, without its pictures. Returns: content of results.json."""
    monkeypatch.setattr(report, "plot_wer_bytes", lambda *args: None)
    monkeypatch.setattr("steps.scoring.page.figure", lambda *args: "")
    words = ["report", "--exp", exp, "--models", *models, "--sets", "test", "--out", exp / "report", *options]
    monkeypatch.setattr("sys.argv", list(map(str, words)))
    report.main()
    return json.loads((exp / "report/results.json").read_text())


def quoted(exp):
    """The first quoted line of the report."""
    lines = (exp / "report/report.md").read_text().splitlines()
    return next(line for line in lines if line.startswith("> ")).removeprefix("> **Result**: ")


def test_what_ships_is_compared_with_what_it_was_made_of_in_the_end(exp):
    rows = collect_rows(exp, MODELS, ["test"])
    teachers = {"student": ["teacher"]}
    assert [reference_of(model, rows, teachers) for model in MODELS] == [None, "teacher", "teacher", "teacher"]
    assert reference_of("student_int8", rows, {}) == "student"
    assert reference_of("student", rows, {"student": ["teacher"], "teacher": ["student"]}) == "teacher", "no circles"


def test_a_model_from_a_hub_that_says_nothing_is_no_reference(tmp_path, monkeypatch):
    """What was fine-tuned is what got smaller; that fine-tuning lost or gained is no matter of compression."""
    hub = ["big", "head", "tuned", "short", "short_int8"]
    steps = ["import_model", "train_teacher", "train_teacher", "prune_model", "quantize_model"]
    wrong = [6, 0, 2, 24, 24]
    for name, parent, step, errors in zip(hub, [None, *hub], steps, wrong, strict=False):
        make_model(tmp_path, name, wrong=errors, parent=parent, step=step)
        make_noise(tmp_path, name, 0)
    found = write(tmp_path, monkeypatch, models=hub)
    assert (found["ships"], found["reference"]) == ("short_int8", "tuned")
    assert quoted(tmp_path).startswith("short_int8 ships in 1 kB, as small as tuned (1 kB).")
    rows = collect_rows(tmp_path, hub, ["test"])
    assert [reference_of(model, rows, {}) for model in hub] == [None, "big", "head", "tuned", "tuned"]
    assert reference_of("student", [*rows, replace(rows[0], model="student")], {"student": ["tuned"]}) == "tuned"
    # tuned makes more errors than head, beyond chance or not
    assert [(one["a"], one["b"]) for one in found["noise_comparisons"]] == [("short", "tuned"), ("short_int8", "short")]
    page = (tmp_path / "report/report.html").read_text()
    assert "Of the compressed models, a loss against their parent is shown for short." in page


def test_three_sentences_of_measured_numbers(exp, monkeypatch, capsys):
    speeds = {"teacher": (0.003, 0.004), "student_int8": (0.0002, 0.0012)}
    models = {name: {"rtf": own, "rtf_with_features": whole} for name, (own, whole) in speeds.items()}
    (exp / "b.json").write_text(json.dumps({"models": models, "host": {"cpu": "a chip"}}))
    found = write(exp, monkeypatch, "--benchmark", exp / "b.json")
    assert (found["ships"], found["reference"]) == ("student_int8", "teacher")
    size, speed, cost = (text + "." for text in quoted(exp).removesuffix(".").split(". "))
    assert size == "student_int8 ships in 10 kB, 10 times smaller than teacher (100 kB)."
    assert speed == (
        "A second of speech takes 1.2 ms of one thread of a chip, features included: 3.3 times faster than teacher (4.0 ms)."
    )
    scores = {row["model"]: row["scores"]["greedy"] for row in found["rows"]}
    own, base = scores["student_int8"], scores["teacher"]
    (difference,) = [
        c["difference"]
        for c in found["comparisons"]
        if (c["a"], c["b"], c["kind"]) == ("student_int8", "teacher", "greedy")
    ]
    assert difference["percent"] == pytest.approx(own["wer_percent"] - base["wer_percent"]) and difference["low"] > 0
    assert cost.startswith(
        f"On test {own['wer_percent']:.1f} % of the words come out wrong, greedy (teacher {base['wer_percent']:.1f} %: "
        f"{difference['percent']:+.1f} points [{difference['low']:+.1f}, {difference['high']:+.1f}], beyond chance); "
    )
    assert " with the lexicon (teacher " in cost
    assert size in capsys.readouterr().out and size in (exp / "report/report.html").read_text()


def test_what_was_not_measured_is_not_told(exp, monkeypatch):
    found = write(exp, monkeypatch, models=["student"])
    assert found["reference"] is None and found["training"] is None
    size, speed, cost = quoted(exp).split(". ")
    assert size == "student ships in 40 kB" and speed == "Its speed was not measured"
    assert "(" not in cost and "points" not in cost
    page = (exp / "report/report.md").read_text()
    assert "- Trained on" not in page and "- In noise" not in page and "- Not measured: other languages" in page
    write(exp, monkeypatch, "--ships", "student")
    assert quoted(exp).startswith("student ships in 40 kB, 2.5 times smaller than teacher (100 kB).")
    with pytest.raises(SystemExit):
        write(exp, monkeypatch, "--ships", "studnet")


def test_what_a_language_model_weighs_is_told_with_its_rate(exp):
    """In the sentence, and along the axes: its own bytes, and no time, which was measured of greedy search."""
    (row,) = collect_rows(exp, ["student"], ["test"])
    row = replace(
        row, scores=row.scores | {"lm": row.scores["lexicon"]}, bytes_with_lm=1_703_000, rtf_with_features=0.004
    )
    results = SimpleNamespace(rows=[row], ships="student", reference=None, comparisons=[])
    sentence = cost_sentence(results, "test")
    assert sentence.endswith("with the language model, which makes 1,703 kB in all.") and sentence.count("kB") == 1
    assert [plot.BYTES.value(row, kind) for kind in ("greedy", "lexicon", "lm")] == [0.04005, 0.04005, 1.703]
    assert [plot.SPEED.value(row, kind) for kind in ("greedy", "lexicon", "lm")] == [0.004, None, None]
    for axis, kinds in ((plot.BYTES, ["greedy", "lexicon", "lm"]), (plot.SPEED, ["greedy"])):
        (axes,) = plot.wer_figure([row], axis, "title").axes
        assert [text.get_text() for text in axes.get_legend().get_texts()] == kinds
        low, high = axes.get_xlim()
        assert all(low < axis.value(row, kind) < high for kind in kinds)


def test_ratios_in_words():
    assert ratio(19.7, "smaller", "larger") == "20 times smaller than"
    assert ratio(0.5, "smaller", "larger") == "2.0 times larger than"
    assert ratio(1.04, "faster", "slower") == "as fast as" and ratio(0.96, "smaller", "larger") == "as small as"
    assert [hours_text(hours) for hours in (0.05, 0.826, 12.3)] == ["3.0 minutes", "0.83 hours", "12 hours"]


def test_training_set_noise_and_speakers_are_told(exp, tmp_path, monkeypatch):
    train = tmp_path / "data/train"
    train.mkdir(parents=True)
    (train / "utt2spk").write_text("a-1 a\na-2 a\nb-1 b\n")
    assert describe_training(train) == TrainingSet("train", 3, 2, None)
    (train / "utt2dur").write_text("a-1 1800\na-2 1800\nb-1 720\n")
    once = describe_training(train)
    # twice for more weight; a name of somebody's own that looks like it
    (train / "utt2spk").write_text("a-1 a\na-2 a\ncopy2-a-1 copy2-a\ncopy2-a-2 copy2-a\ncopy2-b-1 copy2-b\n")
    (train / "utt2dur").write_text("a-1 1800\na-2 1800\ncopy2-a-1 1800\ncopy2-a-2 1800\ncopy2-b-1 720\n")
    assert describe_training(train) == once
    (train / "utt2spk").write_text("a-1 a\na-2 a\nb-1 b\n")
    (train / "utt2dur").write_text("a-1 1800\na-2 1800\nb-1 720\n")
    make_noise(exp, "student_int8", 1)
    found = write(exp, monkeypatch, "--train", train)
    assert found["training"] == {
        "name": "train",
        "utterances": 3,
        "speakers": 2,
        "hours": pytest.approx(1.2),
        "treated": {},
    }
    for name in ("report.md", "RESULTS.md", "cards/student.md"):
        assert "- Trained on: train: 1.20 hours of 2 speakers, 3 utterances" in (exp / "report" / name).read_text()
    assert "wrong with noise so far below the speech: 25 % at 10 dB (test)" in (exp / "report/report.md").read_text()
    (train.parent / "sound.json").write_text('{"trim": true, "denoise": 0.8}')
    write(exp, monkeypatch, "--train", train)
    for name in ("report.md", "RESULTS.md", "cards/student.md", "report.html"):
        text = (exp / "report" / name).read_text()
        assert "the recordings of all sets were trimmed (silence at both ends) and denoised beforehand" in text, name
    (train / "utt2dur").write_text("a-1 long\na-2 1800\nb-1 720\n")
    with pytest.raises(UserError, match="train/utt2dur: .*long"):
        describe_training(train)
    with pytest.raises(MissingInput, match="utt2spk"):
        describe_training(tmp_path / "data/none")


def test_speakers_stand_in_order_of_their_errors_and_add_up(exp, monkeypatch):
    found = write(exp, monkeypatch)
    errors = {row["model"]: row["scores"]["greedy"]["errors"] for row in found["rows"]}
    assert len(found["speakers"]) == 6 and sum(one["words"] for one in found["speakers"]) == 48
    assert sum(one["utterances"] for one in found["speakers"]) == len(UTTERANCES)
    for model in MODELS:
        assert sum(one["errors"][model]["greedy"] for one in found["speakers"]) == errors[model]
    rates = [one["errors"]["student_int8"]["greedy"] / one["words"] for one in found["speakers"]]
    assert rates == sorted(rates, reverse=True) and rates[0] > rates[-1]
    section = (exp / "report/report.md").read_text().split("### Speakers\n")[1].split("###")[0]
    assert "| student_int8, greedy % | teacher, greedy % |" in section and section.count("\n| s") == 7
    monkeypatch.setattr("steps.scoring.speakers.MOST_SPEAKERS", 2)
    assert len(write(exp, monkeypatch)["speakers"]) == 2
    assert "Shown: 2 of 6 speakers" in (exp / "report/report.md").read_text()


def test_where_characters_or_phones_are_counted_nothing_is_called_a_word(tmp_path, monkeypatch):
    """All texts and tables say what the rate counts; WER stands only where blanks part words, in the rates of dev."""
    exp = tmp_path / "exp"
    for name, wrong in (("teacher", 2), ("student", 5)):
        make_model(exp, name, wrong)
        make_noise(exp, name, 1)
        for suffix in ("", "_onnx"):
            folder = exp / name / f"decode_test{suffix}"
            write_json(folder / "decode.json", {"settings": {"unit": "char"}})
            score(folder, "greedy", UTTERANCES, "test")
    write(exp, monkeypatch, models=["teacher", "student"])
    card, page = (exp / "report/cards/student.md").read_text(), (exp / "report/report.md").read_text()
    assert "% of characters right" in card and "greedy with noise at 10 dB: " in card
    assert [line for line in card.splitlines() if "WER" in line or "words" in line] == []
    assert " characters |" in page and "| greedy CER |" in page and "CER with blanks" in page
    assert "(errors / characters)" in page and "![CER against bytes" in page
    assert [line for line in page.splitlines() if "WER" in line or "word" in line and "Lexicon" not in line] == []
    html = (exp / "report/report.html").read_text()
    assert "makes the fewest errors, " in html and "word error" not in html
