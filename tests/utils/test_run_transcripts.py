"""run.sh with sets that have no transcripts: who writes them, what joins the training set, rounds."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from run_bench import RECIPE, ROOT, Bench


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_unlabelled_sets_are_transcribed_and_join_the_training_set(bench):
    (bench.recipe / "conf/transcripts.yaml").write_text("spell: true\n")
    for folder in ("whisper", "seed"):
        (bench.recipe / folder).mkdir()
        (bench.recipe / folder / "model.json").write_text("{}")
    bench.write_recipe(f"{RECIPE}unlabelled_sets=more\ntranscripts=transcripts.yaml\n")
    assert "transcribe_with" in bench.run(status=2)[1]
    for name, said in (("train", "train is train_set"), ("test", "test is train_set"), ("JOB", "JOB: JOB and")):
        options = ("--unlabelled-sets", f"more {name}", "--transcribe-with", str(bench.recipe / "whisper"))
        assert said in bench.run(*options, status=2)[1]
    (bench.recipe / "conf/base.yaml").write_text("readings: true  # as --agree\nmax_disagreement: .3\n")
    for line in ("readings: True", "max_disagreement: .3", "base: base.yaml\nreadings: false"):
        (bench.recipe / "conf/transcripts.yaml").write_text(f"{line}\n")
        assert (
            "name it with transcribe_check"
            in bench.run("--transcribe-with", str(bench.recipe / "whisper"), status=2)[1]
        )
    (bench.recipe / "conf/transcripts.yaml").write_text("base: base.yaml\nreadings: false\nmax_disagreement: null\n")
    bench.run("--transcribe-with", str(bench.recipe / "whisper"), "--dry-run")
    (bench.recipe / "conf/transcripts.yaml").write_text("spell: true\n")
    options = ("--transcribe-with", str(bench.recipe / "whisper"), "--transcribe-check", str(bench.recipe / "seed"))
    assert "transcribe_check: nothing compares what it hears" in bench.run(*options, status=2)[1]
    (bench.recipe / "conf/transcripts.yaml").write_text("max_disagreement: 0.5\n")
    ran, _ = bench.run(*options, "--stop-stage", "4")
    (leaks,) = [line for line in ran if "local/leaks.py" in line]
    labelled, _, unlabelled = leaks.partition(" --labelled ")[2].partition(" --unlabelled ")
    assert [Path(place).name for place in labelled.split(" /")] == ["train", "dev", "test", "other"]
    assert unlabelled.endswith("/more")
    (checked,) = [line for line in ran if "--text false" in line]
    assert checked.endswith("/more") and "/train" not in checked
    heard = [line.partition("steps.transcribe_data ")[2] for line in ran if "steps.transcribe_data" in line]
    who = sorted(("/whisper " in line, "/more " in line) for line in heard)
    assert who == [(False, False), (False, True), (True, False), (True, True)]
    filtered = [line for line in ran if "local/filter_transcripts.py" in line]
    assert sorted(("--truth" in line, "/more.with" in line) for line in filtered) == [(False, True), (True, False)]
    assert all("--agree" in line and "/conf/transcripts.yaml" in line for line in filtered)
    (joined,) = [line for line in ran if "/train_all " in line and "utils/combine_data_dir.py" in line]
    assert joined.endswith("/train /" + joined.rpartition(" /")[2]) and joined.endswith("/transcripts/more")
    trained = [line for line in ran if "steps.train_teacher" in line or "steps.distill_student" in line]
    assert len(trained) == 2 and all("/train_all_sp --dev" in line for line in trained)
    assert bench.run(*options, "--stop-stage", "4")[0] == []
    reported = [line for line in bench.run(*options)[0] if "steps.report" in line][-1]
    assert reported.count("--transcripts=") == 2 and "/transcripts/dev/transcripts.json" in reported
    ran, _ = bench.run(*options, "--labelled-copies", "3", "--stop-stage", "0")
    assert [line.endswith("--copies 3") for line in ran if "combine_data_dir.py" in line and "--parts" not in line] == [
        True
    ]
    assert "--labelled-copies is a whole number from 1" in bench.run(*options, "--labelled-copies", "0", status=2)[1]
    bench.run(*options, "--stop-stage", "4")
    (bench.recipe / "conf/transcripts.yaml").write_text("max_disagreement: 0.4\n")
    ran, _ = bench.run(*options, "--stop-stage", "4")
    assert not any("steps.transcribe_data" in line for line in ran)
    assert any("local/filter_transcripts.py" in line for line in ran)
    scp = next(bench.recipe.rglob("more/wav.scp"))
    scp.write_text("utt ./1.wav\n")
    bench.run(*options, "--stop-stage", "4")
    (scp.parent / "1.wav").write_text("another recording")
    heard = [line for line in bench.run(*options, "--stop-stage", "4")[0] if "steps.transcribe_data" in line]
    assert len(heard) == 2 and all("/more " in line for line in heard)


def test_a_command_or_a_word_list_transcribes(bench):
    bench.write_recipe(f"{RECIPE}unlabelled_sets=more\n")
    (bench.recipe / "whisper").mkdir()
    (bench.recipe / "whisper" / "model.json").write_text("{}")
    (bench.recipe / "known.txt").write_text("yes\n")
    model, words = (
        ("--transcribe-with", str(bench.recipe / "whisper")),
        ("--transcribe-words", str(bench.recipe / "known.txt")),
    )
    program = ("--transcribe-command", "python3 my_recogniser.py --beam 4")
    assert "give one of them" in bench.run(*model, *program, status=2)[1]
    for more in (words, ("--transcribe-language", "en")):
        assert "leave out transcribe_words and transcribe_language" in bench.run(*program, *more, status=2)[1]
    ran, _ = bench.run(*program, "--stop-stage", "0")
    heard = [line for line in ran if "steps.transcribe_data" in line]
    assert len(heard) == 2 and all(
        "--command python3 my_recogniser.py --beam 4 --data" in line and "--model" not in line for line in heard
    )
    (bench.recipe / "conf/mine.yaml").write_text("max_disagreement: 0.5\n")
    check = ("--transcribe-check", str(bench.recipe / "whisper"), "--transcripts", "mine.yaml")
    ran, _ = bench.run(*model, *words, *check, "--stop-stage", "0")
    heard = [line for line in ran if "steps.transcribe_data" in line]
    assert (
        sorted(("/known.txt" in line, ".with " in line) for line in heard) == [(False, False)] * 2 + [(True, True)] * 2
    )
    for alone in (program, model, words, ("--transcribe-language", "en"), ("--labelled-copies", "2")):
        assert "for unlabelled_sets, and there are none" in bench.run(*alone, "--unlabelled-sets", "", status=2)[1]
    mine = bench.folder / "JOB.py"
    mine.write_text("1\n")
    named = ("--transcribe-command", f"python3 {mine} JOB", "--stop-stage", "0")
    heard = [line for line in bench.run(*named)[0] if "steps.transcribe_data" in line]
    assert len(heard) == 2 and all(f"--command python3 {mine} JOB --data" in line for line in heard)
    assert bench.run(*named)[0] == []
    mine.write_text("2\n")
    assert sum("steps.transcribe_data" in line for line in bench.run(*named)[0]) == 2
    (bench.recipe / "known.txt").write_text("no\n")
    again = [line for line in bench.run(*model, *words, "--stop-stage", "0")[0] if "steps.transcribe_data" in line]
    assert len(again) == 2 and all("/known.txt" in line for line in again)


def test_sound_that_after_prepare_changed_is_heard_and_joined_again(bench):
    bench.write_recipe(f"{RECIPE}unlabelled_sets=more\nafter_prepare='utils/validate_it $data --level 1'\n")
    program = ("--transcribe-command", "python3 my_recogniser.py", "--stop-stage", "0")
    bench.run(*program)
    assert bench.run(*program)[0] == []
    ran, _ = bench.run(*program, "--after-prepare", "utils/validate_it $data --level 2")
    assert sum("steps.transcribe_data" in line for line in ran) == 2
    assert sum("/train_all " in line and "utils/combine_data_dir.py" in line for line in ran) == 1


def test_rounds_are_whole_runs_each_transcribed_by_the_one_before(bench, tmp_path):
    bench.write_recipe(f"{RECIPE}unlabelled_sets=more\n")
    (bench.recipe / "whisper").mkdir()
    (bench.recipe / "whisper" / "model.json").write_text("{}")
    options = ("--transcribe-with", str(bench.recipe / "whisper"), "--rounds", "2")
    place = tmp_path / "work"
    inside = ("--recipe", "an4_unlabelled", "--unlabelled-sets", "extra")
    assert "give --workdir DIR" in bench.run(*options, *inside, status=2)[1]
    options += ("--workdir", str(place), "--round-model", "small")
    assert "--stop-stage is 7 or later" in bench.run(*options, "--stop-stage", "5", status=2)[1]
    assert (
        "no model smal in the chain (did you mean small?)" in bench.run(*options, "--round-model", "smal", status=2)[1]
    )
    planned = bench.run(*options, "--dry-run")[1]
    assert f"would be transcribed by {place}/round1/exp/my recipe/small/export, which round 1 makes" in planned
    ran, said = bench.run(*options)
    assert "round 1 of 2" in said and "round 2 of 2" in said
    heard = [line.partition("steps.transcribe_data ")[2] for line in ran if "steps.transcribe_data" in line]
    by = [line.partition(" --data")[0].removeprefix("--model ") for line in heard]
    assert by == [str(bench.recipe / "whisper")] * 2 + [f"{place}/round1/exp/my recipe/small/export"] * 2
    assert sum("steps.report" in line for line in ran) == 2
    assert bench.run(*options)[0] == []
    bench.write_recipe(RECIPE)
    assert "--rounds is for recipes with unlabelled_sets" in bench.run(*options, status=2)[1]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_round_that_runs(bench, number, status):
    """And nothing of it goes on."""
    (bench.folder / "runner.py").write_text(
        f"import os, time\nopen('{bench.folder}/PID', 'w').write(str(os.getpid()))\ntime.sleep(50)\n"
    )
    bench.write_recipe(f"{RECIPE}unlabelled_sets=more\n")
    words = [ROOT / "run.sh", "--recipe", bench.recipe, "--cmd", f"{bench.folder}/runner.py", "--rounds", "2"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    program = ("--transcribe-command", "cat")
    with open(bench.folder / "said", "w") as said:
        process = subprocess.Popen([*words, *program], cwd=bench.folder, env=environment, stdout=said, stderr=said)
        pid = bench.folder / "PID"
        for _ in range(300):
            if pid.exists() and pid.read_text():
                break
            time.sleep(0.1)
        process.send_signal(number)
        assert process.wait(timeout=30) == status
    assert "the same command goes on from here" in (bench.folder / "said").read_text()
    assert (
        not Path(f"/proc/{pid.read_text()}").exists()
        or "State:\tZ" in Path(f"/proc/{pid.read_text()}/status").read_text()
    )
    assert not list(bench.recipe.glob("round2"))
