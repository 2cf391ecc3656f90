"""--sizes auto: what is chosen for which corpus, how a time budget is kept, and that nobody's file is overwritten."""

import dataclasses
import json

import pytest
import yaml

from steps import choose_sizes as program
from steps.core.cli import UserError
from steps.core.config import ConfigError, from_dict, load_config, to_dict
from steps.core.copies import copy_prefix
from steps.core.datadir import Utterance, read_data_dir, write_data_dir
from steps.core.tables import write_table
from steps.models.build import build_model, new_spec
from steps.prune_model import PruneConfig
from steps.training.settings import TrainConfig
from steps.training.sizes import (
    LEAST_UPDATES,
    OVERHEAD,
    Facts,
    Line,
    Table,
    choose,
    parse_budget,
    settings,
    updates_per_epoch,
)
from tests.local.corpora import save, whistle

TABLE = load_config(Table, "conf/sizes.yaml")
PRUNE = {
    "method": "structured",
    "rounds": 1,
    "loop": {"epochs": 20, "save_every_s": 9.0},
    "augment": {"freq_width": 15},
}
CHAIN = [
    Line("teacher", "teacher", {}),
    Line("student", "student", {}),
    Line("taught", "student_kd", {}),
    Line("recover", "cut", PRUNE),
]

ONCE = {line.model: 1 for line in CHAIN}


def facts(minutes, utterance_s=5.0, speakers=9, copies=3, mel_bins=80, device="cpu", words=100):
    count = round(60 * minutes / utterance_s)
    return Facts(minutes / 60, speakers, words, [round(100 * utterance_s)] * (count * copies), mel_bins, device)


def slow(seconds):
    """Every net's update takes so long; records the sizes looked at."""
    looked = []

    def time_updates(files):
        looked.append(files["teacher.yaml"]["model"]["d_model"])
        return {"teacher": seconds, "student": seconds / 2, "teaching": seconds / 4}

    return time_updates, looked


@pytest.mark.parametrize("size", TABLE.sizes)
@pytest.mark.parametrize("amount", TABLE.amounts)
def test_all_of_the_table_is_valid_and_students_are_smaller(amount, size):
    files = settings(TABLE, TABLE.amounts[amount], size, facts(30), CHAIN, ONCE)
    assert sorted(files) == ["recover_cut.yaml", "student.yaml", "teacher.yaml", "tokenizer.yaml"]
    counts = []
    for name in ("teacher", "student"):
        config = from_dict(TrainConfig, files[f"{name}.yaml"], name)
        model = build_model(new_spec(config.type, config.model, 80, 30, name, name, config.head, config.normalisation))
        counts.append(sum(p.numel() for p in model.parameters()))
        assert config.end_spaces == TABLE.amounts[amount].end_spaces and config.optim.warmup == 0.1
    assert counts[1] < counts[0] / 2
    cut = from_dict(PruneConfig, files["recover_cut.yaml"], "cut")
    assert cut.method == "structured" and cut.loop.save_every_s == 9.0 and cut.end_spaces == config.end_spaces
    assert (
        cut.loop.max_batch_frames == config.loop.max_batch_frames
        and cut.augment.freq_width == config.augment.freq_width
    )


@pytest.mark.parametrize(
    ("minutes", "amount", "size"),
    [(3, "minutes", "medium"), (10, "minutes", "medium"), (10.1, "half_hours", "medium"), (90, "half_hours", "medium"),
     (180, "hours", "large"), (600, "hours", "large")],
)  # fmt: skip
def test_the_amount_of_speech_decides(minutes, amount, size):
    time_updates, looked = slow(0.1)
    choice = choose(TABLE, facts(minutes), CHAIN, None, time_updates)
    assert (choice.amount, choice.size, choice.share, choice.kept) == (amount, size, 1.0, True) and len(looked) == 1
    wanted = TABLE.amounts[amount].updates
    per_epoch = choice.updates["teacher"] / choice.epochs["teacher"]
    for model, role in (("teacher", "teacher"), ("student", "student"), ("student_kd", "student"), ("cut", "recover")):
        assert abs(choice.updates[model] - wanted[role]) <= per_epoch / 2 or choice.epochs[model] == 1
    assert choice.seconds["student_kd"] == pytest.approx(OVERHEAD * choice.updates["student"] * (0.05 + 0.025))
    assert choice.seconds["teacher"] == pytest.approx(OVERHEAD * choice.updates["teacher"] * 0.1)


def test_few_words_are_another_matter():
    few, more = (choose(TABLE, facts(3, words=words), CHAIN, None, slow(0.1)[0]) for words in (9, 10))
    assert (few.size, more.size) == ("small", "medium") and "yesno" in few.measured and "yesno" not in more.measured
    assert few.updates["student"] < 0.6 * more.updates["student"]
    assert [one.files["student.yaml"]["augment"]["vtlp"] for one in (few, more)] == [0.0, 0.1]
    # larger amounts make no difference
    assert choose(TABLE, facts(38, words=2), CHAIN, None, slow(0.1)[0]).size == "medium"


@pytest.mark.parametrize(("minutes", "utterance_s"), [(3, 5), (1, 2), (0.5, 0.4), (20, 5), (2, 30)])
def test_small_corpora_have_many_updates_an_epoch(minutes, utterance_s):
    corpus = facts(minutes, utterance_s, copies=1)
    loop = settings(TABLE, TABLE.amounts["half_hours"], "medium", corpus, CHAIN, ONCE)["student.yaml"]["loop"]
    found = updates_per_epoch(corpus.frames, loop["max_batch_frames"])
    assert found >= min(LEAST_UPDATES, len(corpus.frames)) and loop["max_batch_frames"] >= corpus.frames[0]


def test_a_budget_takes_updates_from_all_alike():
    time_updates, _ = slow(0.1)
    whole = choose(TABLE, facts(38), CHAIN, None, time_updates)
    total_s = sum(whole.seconds.values())
    half = choose(TABLE, facts(38), CHAIN, total_s / 2, time_updates)
    assert half.size == whole.size and half.kept and half.share == pytest.approx(0.5, rel=0.05)
    assert total_s / 2 * 0.8 < sum(half.seconds.values()) <= total_s / 2
    assert all(0.35 < half.updates[name] / whole.updates[name] < 0.65 for name in whole.updates)
    assert choose(TABLE, facts(38), CHAIN, 1.1 * total_s, time_updates).updates == whole.updates
    for share in (0.3, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95):
        found = choose(TABLE, facts(38), CHAIN, share * total_s, time_updates)
        assert found.kept and sum(found.seconds.values()) <= share * total_s


def test_what_whole_epochs_leave_of_a_budget_goes_to_those_that_lost_most():
    time_updates, _ = slow(0.1)
    whole = choose(TABLE, facts(180), CHAIN, None, time_updates)
    one = {name: whole.seconds[name] / whole.epochs[name] for name in whole.epochs}
    wanted = {name: 0.3 * count for name, count in whole.epochs.items()}
    down_s = sum(int(wanted[name]) * one[name] for name in wanted)
    found = choose(TABLE, facts(180), CHAIN, 0.3 * sum(whole.seconds.values()), time_updates)
    assert found.size == "large" and found.kept and found.epochs["student"] == found.epochs["student_kd"]
    # with this share all but the last epoch of one training fit
    assert sum(found.seconds.values()) > down_s and any(found.epochs[name] > wanted[name] for name in wanted)
    assert all(abs(found.epochs[name] - wanted[name]) < 1 for name in wanted)


def test_too_small_a_budget_takes_a_smaller_size_and_says_when_none_will_do():
    seconds = {128: 1.0, 64: 0.01}

    def time_updates(files):
        one = seconds[files["teacher.yaml"]["model"]["d_model"]]
        return {"teacher": one, "student": one, "teaching": 0.0}

    wanted_s = OVERHEAD * sum(
        TABLE.amounts["half_hours"].updates[r] for r in ("teacher", "student", "student", "recover")
    )
    least = TABLE.sizes["medium"].least_updates / TABLE.amounts["half_hours"].updates["teacher"]
    assert choose(TABLE, facts(38), CHAIN, 1.05 * least * wanted_s, time_updates).size == "medium"
    smaller = choose(TABLE, facts(38), CHAIN, 0.95 * least * wanted_s, time_updates)
    assert (smaller.size, smaller.kept, smaller.share) == ("small", True, 1.0)
    never = choose(TABLE, facts(38), CHAIN, 0.0001 * wanted_s, time_updates)
    assert (never.size, never.kept) == ("small", False)
    assert never.share == TABLE.sizes["small"].least_updates / TABLE.amounts["half_hours"].updates["teacher"]
    assert any("cannot be kept" in line for line in program.explain(never, 5.0))
    assert not any("cannot be kept" in line for line in program.explain(smaller, 5000.0))


def test_masks_fit_the_features_and_voices_are_stretched_where_there_are_few():
    amount = TABLE.amounts["half_hours"]

    def augment(**corpus):
        return settings(TABLE, amount, "medium", facts(38, **corpus), CHAIN, ONCE)["teacher.yaml"]["augment"]

    assert augment()["freq_width"] == 20 and augment(mel_bins=40)["freq_width"] == 10
    assert augment()["vtlp"] == 0.1 and "vtlp" not in augment(speakers=500)
    assert augment(mel_bins=None) == {"freq_masks": 0, "time_masks": 3, "time_width": 25, "masks_from": 0.2}
    # what is pruned has learnt already
    files = settings(TABLE, amount, "medium", facts(38), CHAIN, ONCE)
    late = {name: "masks_from" in found["augment"] for name, found in files.items() if "augment" in found}
    assert late == {name: not name.startswith("recover") for name in late} and len(late) > 2
    loops = [
        settings(TABLE, amount, "medium", facts(38, device=d), CHAIN, ONCE)["teacher.yaml"]["loop"]
        for d in ("cpu", "cuda")
    ]
    assert "loader_workers" not in loops[0] and loops[1]["loader_workers"] == 4


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200)])
def test_budgets(text, seconds):
    assert parse_budget(text) == seconds
    for bad in (text[:-1], "0m", f"-{text}", f"{text} ", "1.5h", "\u0663m", "m", ""):
        with pytest.raises(UserError, match="such as 30m"):
            parse_budget(bad)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"amounts": {"one": {"size": "huge"}}}, "no size huge"),
        ({"amounts": {"one": {"updates": {"teacher": 3}}}}, "updates must be of teacher, student, recover"),
        ({"amounts": {"one": {"up_to_minutes": 10}}}, "the last to null"),
        ({"amounts": {"one": {"few_words": {"below": 3}}}}, "few_words must have below, measured"),
        ({"sizes": {"small": {"techer": {}}}}, "did you mean 'teacher'"),
        ({"amounts": {"one": {"masks": {"teacher": {}}}}}, "masks must be of teacher and student"),
        ({"sizes": {"small": {"least_updates": 0, "teacher": {}, "student": {}}}}, "least_updates must be above 0"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(change, said):
    table = to_dict(TABLE)
    table["amounts"] = {"one": table["amounts"]["hours"] | change.get("amounts", {}).get("one", {})}
    table["sizes"] |= change.get("sizes", {})
    with pytest.raises(ConfigError, match=said):
        from_dict(Table, table, "sizes.yaml")


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Function (*options) -> exit of the program on a made-up corpus of three speakers, without a real update."""
    utts = []
    for speaker in range(3):
        for number in range(10):
            path, samples = tmp_path / f"{speaker}{number}.wav", whistle(["ADO"], speaker, 8000)
            save(path, samples, 8000)
            utts.append(
                Utterance(f"s{speaker}-{number}", f"s{speaker}", "ado", str(path), duration_s=len(samples) / 8000)
            )
    write_data_dir(tmp_path / "train", utts)
    write_table(tmp_path / "train/utt2num_frames", {utt.utt_id: "60" for utt in utts})
    (tmp_path / "prune.yaml").write_text(yaml.safe_dump(PRUNE))
    asked = []

    def run(*options):
        def timer(args):
            return lambda files: asked.append(files) or {"teacher": 0.1, "student": 0.05, "teaching": 0.02}

        monkeypatch.setattr(program, "Timer", timer)
        words = ["--data", tmp_path / "train", "--text", tmp_path / "train", "--features", "conf/features.yaml"]
        words += ["--line=teacher:big:", "--line=taught:small:", f"--line=recover:cut:{tmp_path}/prune.yaml"]
        words += ["--device", "cpu", "--out", tmp_path / "sizes", *options]
        monkeypatch.setattr("sys.argv", ["choose_sizes", *map(str, words)])
        program.main()
        return len(asked)

    return run


def test_files_are_shown_kept_and_completed(corpus, tmp_path, capsys):
    assert corpus() == 1
    said, folder = capsys.readouterr().out, tmp_path / "sizes"
    assert "3 speakers, 30 utterances" in said and "8000 Hz" in said and "features are made for 16000 Hz" in said
    assert "measured: recipe yesno" in said and "cannot be kept" not in said
    names = ["recover_cut.yaml", "student.yaml", "teacher.yaml", "tokenizer.yaml"]
    assert sorted(path.name for path in folder.glob("*.yaml")) == names
    for name in names:
        assert (folder / name).read_text() in said
    load_config(TrainConfig, folder / "teacher.yaml")
    # again: the user's file stays, a lost one is written as it was, no update is timed
    (folder / "student.yaml").write_text("type: rnn\n")
    old = (folder / "teacher.yaml").read_text()
    (folder / "teacher.yaml").unlink()
    assert corpus() == 1
    said = capsys.readouterr().out
    assert (folder / "student.yaml").read_text() == "type: rnn\n" and (folder / "teacher.yaml").read_text() == old
    assert "student.yaml was there and is used as it is" in said and "type: rnn" in said
    # another budget is no silent matter
    with pytest.raises(ConfigError, match=r"chosen for something else \(time budget s\); move .*sizes away"):
        corpus("--time-budget", "10m")
    assert json.loads((folder / "sizes.json").read_text())["request"]["time_budget_s"] is None


def test_a_budget_reaches_the_files(corpus, tmp_path, capsys):
    corpus("--time-budget", "60s")
    said = capsys.readouterr().out
    assert "the time budget leaves" in said and "not measured" in said
    loop = load_config(TrainConfig, tmp_path / "sizes/student.yaml").loop
    assert 1 <= loop.epochs < 1200 / updates_per_epoch([60] * 30, loop.max_batch_frames)


def test_copies_for_more_weight_are_no_more_speech(corpus, tmp_path, capsys):
    once = read_data_dir(tmp_path / "train")
    copies = [
        dataclasses.replace(utt, utt_id=copy_prefix(2) + utt.utt_id, speaker=copy_prefix(2) + utt.speaker)
        for utt in once
    ]
    write_data_dir(tmp_path / "train", [*copies, *once])
    write_table(tmp_path / "train/utt2num_frames", {utt.utt_id: "60" for utt in [*copies, *once]})
    corpus()
    assert "3 speakers, 30 utterances" in capsys.readouterr().out
    facts = json.loads((tmp_path / "sizes/sizes.json").read_text())["request"]["facts"]
    assert facts["speakers"] == 3
    assert facts["hours"] == pytest.approx(sum(utt.duration_s for utt in once) / 3600, abs=1e-4)


@pytest.mark.parametrize(
    "bad", ["teacher:big", "pupil:big:", "recover:cut:", "student:small:conf/student.yaml", "teacher::"]
)
def test_lines_that_are_none_are_refused(bad):
    with pytest.raises(UserError, match="is not ROLE:MODEL:YAML"):
        program.parse_line(bad)


def test_a_choice_survives_its_record():
    choice = choose(TABLE, facts(3), CHAIN, 60.0, slow(0.1)[0])
    assert json.loads(json.dumps(dataclasses.asdict(choice))) == dataclasses.asdict(choice)
