"""utils/stage.py: what is skipped, what is redone and why, statuses, locks, and what happens to older models."""

import fcntl
import json
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from stage_bench import STAGE, UTILS


def test_a_second_run_does_nothing_and_says_so(bench):
    assert bench.run()[0] == ["prepare", "train", "score"]
    ran, printed = bench.run()
    assert ran == []
    names = ["0 prepare", "3 model", "8 score"]
    assert printed.splitlines() == [f"stage {name}: up to date; --force to redo" for name in names]


def test_the_mark_records_command_and_time(bench):
    bench.run()
    mark = json.loads((bench.folder / "exp/x/.stages/03_model.done").read_text())
    assert "--seed 0" in mark["commands"][0] and mark["finished"] and mark["seconds"] >= 0
    assert not list((bench.folder / "exp/x/.stages").glob("*.started"))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("conf/train.yaml", "base: base.yaml\nsteps: 200\n", "-steps: 100; +steps: 200"),
        ("conf/base.yaml", "layers: 3\n", "-layers: 2; +layers: 3"),
    ],
)
def test_changed_settings_are_named_and_what_follows_is_redone(bench, name, text, said):
    bench.run()
    bench.write(name, text)
    _, planned = bench.run("--dry-run")
    ran, printed = bench.run()
    assert ran == ["train", "score"]
    assert said in printed and said in planned and "exp/x/model/model.json was made anew" in printed
    assert planned.count("would run") == 2


def test_a_remark_or_a_touch_changes_nothing(bench):
    bench.run()
    bench.write("conf/train.yaml", "# another remark\nbase: base.yaml\n\nsteps: 100\n")
    assert bench.run()[0] == []


def test_a_changed_option_is_named(bench):
    bench.run()
    bench.seed = "1"
    ran, printed = bench.run()
    assert ran == ["train", "score"] and "--seed 0 -> 1" in printed


def test_a_changed_corpus_redoes_everything(bench):
    bench.run()
    bench.write("corpus/b.txt", "more")
    ran, printed = bench.run()
    assert ran == ["prepare", "train", "score"] and "corpus changed" in printed


def test_job_counts_runner_and_place_are_no_reason(bench):
    plan = [word.replace("echo prepare", "echo {nj} >> nj; echo prepare") for word in bench.plan()]
    bench.run("--nj", "2", plan=plan)
    assert bench.run("--nj", "3", "--cmd", f"{UTILS}/run.py --mem 4G", plan=plan)[0] == []
    moved = bench.folder.with_name(bench.folder.name + "-moved")
    bench.folder.rename(moved)
    bench.folder = moved
    assert bench.run("--nj", "3", plan=plan)[0] == []


def test_absolute_paths_below_the_work_folder_may_move(bench):
    def plan():
        return [word.replace("data/wav.scp", f"{bench.folder}/data/wav.scp") for word in bench.plan()]

    bench.run("--workdir", str(bench.folder), plan=plan())
    moved = bench.folder.with_name(bench.folder.name + "-moved")
    bench.folder.rename(moved)
    bench.folder = moved
    assert bench.run("--workdir", str(bench.folder), plan=plan())[0] == []


def test_a_replaced_model_is_moved_and_never_deleted(bench):
    bench.run()
    bench.seed = "1"
    _, printed = bench.run()
    assert (bench.folder / "exp/x/model.old-1/model.json").exists() and "moved to exp/x/model.old-1" in printed
    assert "model.json" not in (bench.folder / "seen").read_text()
    assert bench.run("--force", "--stage", "3", "--stop-stage", "3")[0] == ["train"]
    assert (bench.folder / "exp/x/model.old-2/model.json").exists()
    assert (bench.folder / "exp/x/model.old-1/model.json").exists()


def test_what_follows_a_forced_stage_is_redone(bench):
    bench.run()
    assert bench.run("--force", "--stage", "3", "--stop-stage", "3")[0] == ["train"]
    assert bench.run()[0] == ["score"]


def test_a_lost_output_is_made_again_without_redoing_the_rest(bench):
    bench.run()
    (bench.folder / "data/wav.scp").unlink()
    ran, printed = bench.run()
    assert ran == ["prepare"] and "data/wav.scp is gone" in printed


def test_a_missing_input_names_the_stage_that_makes_it(bench):
    ran, printed = bench.run("--stage", "8", status=5)
    assert ran == []
    assert printed == (
        "run.sh: stage 8 (score): needs exp/x/model/model.json, which is not there; stage 3 (model) makes it\n"
    )
    (bench.folder / "conf/train.yaml").unlink()
    ran, printed = bench.run(status=5)
    assert ran == [] and "conf/train.yaml" in printed and "no stage makes it" in printed


def test_a_missing_output_is_status_6_and_leaves_no_done_mark(bench):
    plan = ["::", "2", "tokenizer", "--makes", "tokens.txt", "--", "true"]
    _, printed = bench.run(plan=plan, status=6)
    assert "did not make tokens.txt" in printed
    assert not list((bench.folder / "exp/x/.stages").glob("*.done"))


def test_a_failed_task_stops_the_run_and_shows_the_log_once(bench):
    plan = [word.replace("echo m >", "echo the reason; exit 4; echo m >") for word in bench.plan()]
    ran, printed = bench.run(plan=plan, status=1)
    assert ran == ["prepare"] and printed.count("the reason") == 1
    assert "exp/x/model/train.log" in printed and "stage 3 (model) failed" in printed


def test_an_interrupted_task_resumes_only_with_the_same_settings(bench):
    def plan():
        return [word.replace("ls exp/x/model >", "touch exp/x/model/checkpoint; exit 1; ls >") for word in bench.plan()]

    bench.run(plan=plan(), status=1)
    bench.run(plan=plan(), status=1)
    assert (bench.folder / "exp/x/model/checkpoint").exists()
    assert not (bench.folder / "exp/x/model.old-1").exists()
    bench.seed = "1"
    _, printed = bench.run(plan=plan(), status=1)
    assert (bench.folder / "exp/x/model.old-1/checkpoint").exists()
    assert "--seed 0 -> 1" in printed


def test_a_folder_without_a_mark_is_moved_aside(bench):
    bench.write("exp/x/model/model.json", "by hand")
    bench.run()
    assert (bench.folder / "exp/x/model.old-1/model.json").read_text() == "by hand"


def test_dry_run_writes_nothing(bench):
    before = sorted(bench.folder.rglob("*"))
    ran, printed = bench.run("--dry-run")
    assert ran == [] and printed.count("would run") == 3 and "--num-threads 2" in printed
    assert sorted(bench.folder.rglob("*")) == before


def wait_for(path):
    end = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < end, f"waited too long for {path}"
        time.sleep(0.02)


def test_a_second_run_on_the_experiment_is_told_who_holds_it(bench):
    first = bench.start(plan=["::", "0", "prepare", "--", "sh", "-c", "touch on; sleep 20"])
    wait_for(bench.folder / "on")
    _, printed = bench.run(status=4)
    assert f"process {first.pid} on " in printed
    first.send_signal(signal.SIGINT)
    assert "interrupted" in first.communicate(timeout=10)[1]
    assert first.returncode == 130
    bench.run()


def test_jobs_end_when_the_run_is_killed(bench):
    first = bench.start(plan=["::", "0", "prepare", "--", "sh", "-c", "echo $$ > pid.new; mv pid.new pid; sleep 20"])
    wait_for(bench.folder / "pid")
    job = Path("/proc") / (bench.folder / "pid").read_text().strip()
    first.kill()
    first.communicate()
    end = time.monotonic() + 5
    while job.exists() and "Z" not in (job / "stat").read_text().split()[2]:
        assert time.monotonic() < end, "the job is still there"
        time.sleep(0.02)
    bench.run()


def test_the_lock_of_a_killed_run_is_waited_for_and_taken(bench):
    ended = subprocess.Popen(["true"])
    ended.wait()
    lock = bench.folder / "exp/x/.lock"
    bench.write("exp/x/.lock", f"process {ended.pid} on {socket.gethostname()} since 2026-01-01 00:00:00\n")
    with open(lock) as job:  # one of its jobs takes a moment to end
        fcntl.flock(job, fcntl.LOCK_EX)
        run = bench.start()
        time.sleep(0.5)
        assert run.poll() is None
    run.communicate(timeout=10)
    assert run.returncode == 0


def test_experiments_that_share_data_run_side_by_side(bench):
    bench.run("--stop-stage", "0")
    other = [word.replace("exp/x", "exp/y") for word in bench.plan()]
    words = [word.replace("exp/x", "exp/y") for word in STAGE]
    second = subprocess.Popen([*words, "--stage", "3", *other], cwd=bench.folder)
    bench.run("--stage", "3")
    assert second.wait(30) == 0
    assert (bench.folder / "exp/x/score").read_text() == (bench.folder / "exp/y/score").read_text() == "m\n"


def test_settings_that_no_result_depends_on_may_change(bench):
    bench.write("conf/train.yaml", "base: base.yaml\nloop: {epochs: 3, save_every_s: 2}\n")
    bench.run()
    bench.write("conf/train.yaml", "base: base.yaml\nloop: {loader_workers: 2, epochs: 3}\n")
    assert bench.run()[0] == []
    bench.write("conf/train.yaml", "base: base.yaml\nloop: {loader_workers: 2, epochs: 4}\n")
    assert bench.run()[0] == ["train", "score"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": 1, "generation": 0, "fingerprint": {}}', "null"])
def test_a_damaged_mark_counts_as_none_and_the_model_is_kept(bench, text):
    bench.run()
    (bench.folder / "exp/x/.stages/03_model.done").write_text(text)
    assert bench.run()[0][:1] == ["train"]
    assert (bench.folder / "exp/x/model.old-1/model.json").exists()


def test_parallel_tasks_overlap_and_all_end_before_a_failure_stops_the_run(bench):
    def meet(me, other):
        script = f"touch {me}; for i in $(seq 100); do test -e {other} && break; sleep 0.05; done; test -e {other}"
        return ["::", "7", me, "--parallel", "--makes", me, "--", "sh", "-c", script]

    later = ["::", "8", "later", "--needs", "one", "--", "sh", "-c", "echo later >> ran"]
    assert bench.run("--nj", "2", plan=[*meet("one", "two"), *meet("two", "one"), *later])[0] == ["later"]
    fails = ["::", "7", "fails", "--parallel", "--", "false"]
    slow = ["::", "7", "slow", "--parallel", "--makes", "slow", "--", "sh", "-c", "sleep 0.5; touch slow"]
    ran, printed = bench.run("--nj", "2", plan=[*fails, *slow, *later], status=1)
    assert ran == [] and "stage 7 (fails) failed" in printed and (bench.folder / "slow").exists()


@pytest.mark.parametrize(("limit", "most"), [("1", 1), ("2", 2)])
def test_no_more_parallel_tasks_than_the_plan_allows(bench, limit, most):
    script = "touch in.$0; sleep 0.3; ls in.* | wc -l >> seen; sleep 0.1; rm in.$0"
    plan = [["::", "5", name, "--parallel", limit, "--", "sh", "-c", script, name] for name in ("a", "b", "c")]
    bench.run("--nj", "8", plan=sum(plan, []))
    assert max(map(int, (bench.folder / "seen").read_text().split())) == most


def test_an_array_runs_every_job_and_takes_up_only_the_failed_ones(bench):
    words = ["JOB=1:{nj}", "sh", "-c", "echo JOB >> ran; test -e good || test JOB != 2"]
    plan = ["::", "1", "features", "--makes", "total", "--", *words, ":then:", "touch", "total"]
    assert sorted(bench.run("--nj", "3", plan=plan, status=1)[0]) == ["1", "2", "3"]
    (bench.folder / "good").touch()
    assert bench.run("--nj", "3", plan=plan)[0] == ["2"]


def test_an_array_never_takes_up_jobs_of_other_inputs(bench):
    """Stopped before the array began, with statuses of the last time still there: all its jobs are to run."""
    first = ["sh", "-c", "test -e good || exit 1", ":then:"]
    words = ["JOB=1:{nj}", "sh", "-c", "echo JOB >> ran", ":then:", "touch", "total"]
    plan = ["::", "1", "features", "--needs", "corpus", "--makes", "total", "--", *first, *words]
    (bench.folder / "good").touch()
    assert sorted(bench.run("--nj", "2", plan=plan)[0]) == ["1", "2"]
    bench.write("corpus/b.txt", "more")
    (bench.folder / "good").unlink()
    assert bench.run("--nj", "2", plan=plan, status=1)[0] == []
    (bench.folder / "good").touch()
    assert sorted(bench.run("--nj", "2", plan=plan)[0]) == ["1", "2"]
    (bench.folder / "total").unlink()
    assert sorted(bench.run("--nj", "2", plan=plan)[0]) == ["1", "2"]


@pytest.mark.parametrize("text", ["steps: 100\n", "steps: 200\n"], ids=["same settings", "other settings"])
def test_jobs_of_another_count_are_never_taken_for_done(bench, text):
    """Three jobs, one fails; two jobs write over what these made; three again: all of them are to run."""
    words = ["JOB=1:{nj}", "sh", "-c", "cp conf/train.yaml out.JOB; echo JOB >> ran; test -e good || test JOB != 2"]
    plan = [
        "::",
        "1",
        "features",
        "--conf",
        "conf/train.yaml",
        "--makes",
        "total",
        "--",
        *words,
        ":then:",
        "touch",
        "total",
    ]
    bench.run("--nj", "3", plan=plan, status=1)
    bench.write("conf/train.yaml", f"base: base.yaml\n{text}")
    bench.run("--nj", "2", plan=plan, status=1)
    (bench.folder / "good").touch()
    assert sorted(bench.run("--nj", "3", plan=plan)[0]) == ["1", "2", "3"]
    assert {path.read_text() for path in bench.folder.glob("out.*")} == {f"base: base.yaml\n{text}"}


def test_in_names_of_folders_what_stands_for_numbers_is_text(bench):
    folder = "JOB_1 R&D/{nj}"
    words = ["JOB=1:{nj}", "sh", "-c", 'mkdir -p "$0"; echo JOB of {nj} > "$0/x.JOB"', folder]
    last = ["sh", "-c", 'cat "$0"/x.* > "$0/total"', folder]
    plan = ["::", "1", "features", "--makes", f"{folder}/total", "--", *words, ":then:", *last]
    for options in ([], ["--exp", f"{folder}/exp"]):
        bench.run("--nj", "2", *options, "--verbatim", "", folder, plan=plan)
        assert (bench.folder / folder / "total").read_text() == "1 of 2\n2 of 2\n"
        assert sorted(path.name for path in bench.folder.iterdir()) == ["JOB_1 R&D", "conf", "corpus", "exp"]
        (bench.folder / folder / "total").unlink()
    assert len(list((bench.folder / folder / "exp/log").glob("01_features.JOB2.log"))) == 0
    assert len(list((bench.folder / folder / "exp/log").glob("01_features.[12].log"))) == 2


def test_a_need_can_be_a_whole_task(bench):
    plan = [
        *["::", "0", "extra", "--needs", "corpus", "--", "sh", "-c", "echo extra >> ran"],
        *["::", "1", "uses", "--needs", "@extra", "--", "sh", "-c", "echo uses >> ran"],
    ]
    assert "needs @extra" in bench.run("--stage", "1", plan=plan, status=5)[1]
    assert bench.run(plan=plan)[0] == ["extra", "uses"]
    assert bench.run(plan=plan)[0] == []
    bench.write("corpus/b.txt", "more")
    assert bench.run(plan=plan)[0] == ["extra", "uses"]


@pytest.mark.parametrize(
    "plan",
    [
        ["::", "x", "name", "--", "true"],
        ["::", "1", "name"],
        ["::", "1", "name", "--"],
        ["::", "1", "name", "stray", "--", "true"],
        ["::", "1", "name", "--", "true", "::", "2", "name", "--", "true"],
    ],
)
def test_a_broken_plan_is_one_line(bench, plan):
    assert bench.run(plan=plan, status=2)[1].count("\n") == 1


def test_the_report_is_shown_when_its_stage_was_looked_at(bench):
    page = "# t\n\n> **Warning**: w\n\nwords\n## x\n| a |\n| b |\n\n| c |\n\n| d |\n## y\n| e |\n"
    plan = ["::", "9", "report", "--makes", "r.md", "--", "sh", "-c", "printf '%s' \"$0\" > r.md", page]
    assert bench.run("--show", "r.md", plan=plan)[1].endswith(
        "report: r.md\n\n> **Warning**: w\n\n## x\n| a |\n| b |\n| c |\n\n## y\n| e |\n"
    )
    plan[-1] = page.partition("## y")[0]
    assert bench.run("--show", "r.md", plan=plan)[1].endswith("report: r.md\n\n> **Warning**: w\n| a |\n| b |\n| c |\n")
    assert "report:" not in bench.run("--show", "r.md", "--stop-stage", "8", plan=plan)[1]


def test_warnings_in_logs_of_good_tasks_are_shown_each_once(bench):
    """Stage 0 warns of sound that is treated before training only, stage 1 of its rate, trainings of what the doctor finds."""
    words = ["JOB=1:2", "sh", "-c", "echo 'note: sound of 8000 Hz'; echo 'warning: JOB'; echo 'a warning: no'"]
    plan = ["::", "1", "features", "--", *words, ":then:", "echo", "warning: 3"]
    report = ["::", "9", "report", "--makes", "r.md", "--", "sh", "-c", "echo 'warning: shown already' | tee r.md"]
    printed = bench.run("--show", "r.md", plan=[*plan, *report])[1]
    shown = [line for line in printed.splitlines() if line.startswith("    ")]
    assert shown == ["    note: sound of 8000 Hz", "    warning: 1", "    warning: 2", "    warning: 3"]
    assert "warning" not in bench.run("--stop-stage", "8", plan=plan)[1], "nothing ran"
