"""utils/slurm.py on a throwaway Slurm: the same command line as run.py, and what happens when things go wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runner_bench import body, wait_until

ROOT = Path(__file__).resolve().parents[2]


def job_ids(slurm, state="all"):
    return slurm.call("squeue", "--noheader", "--array", f"--states={state}", "--format=%i").split()


def test_twenty_trivial_tasks_return_soon(submit, tmp_path):
    seconds = []
    for name in ("a", "b", "c"):
        start_s = time.monotonic()
        result = submit("--max-jobs-run", "8", "JOB=1:20", f"{name}.JOB.log", "echo", "it is JOB")
        seconds.append(time.monotonic() - start_s)
        assert result.returncode == 0, result.stderr
        assert [body(tmp_path / f"{name}.{i}.log") for i in range(1, 21)] == [[f"it is {i}"] for i in range(1, 21)]
    print("seconds from submission to return:", seconds)
    assert min(seconds) < 10  # 2.5 on an idle machine; CI machines are shared


def test_words_arrive_exactly_and_operators_act(submit, tmp_path):
    words = ["a  b", "it's", '"', "$HOME", "`id`", "*", "a|b", "x;y", "\\", "ä", "", "-n", "a\nb", "#"]
    program = "import json, sys; open('got.json', 'w').write(json.dumps(sys.argv[1:]))"
    command = [
        sys.executable,
        "-c",
        program,
        *words,
        "&&",
        "echo",
        "b a",
        "|",
        "tr",
        " ",
        "\\n",
        "|",
        "sort",
        ">",
        "out",
    ]
    assert submit("x.log", *command).returncode == 0
    assert json.loads((tmp_path / "got.json").read_text()) == words
    assert (tmp_path / "out").read_text() == "a\nb\n"
    assert not (tmp_path / "q").exists(), "nothing stays of a single job that went well"


def test_a_failing_task_is_named_and_picked(submit, tmp_path):
    words = [
        "JOB=1:4",
        "log/x.JOB.log",
        "bash",
        "-c",
        "echo JOB >> ran; test -f good || { echo bad JOB; test JOB != 3; }",
    ]
    result = submit(*words)
    assert result.returncode == 1
    first, *rest = result.stderr.splitlines()
    assert first == "slurm.py: 1 of 4 jobs failed: JOB 3: status 1 (log/x.3.log)"
    assert rest == ["    bad 3"]
    (tmp_path / "good").touch()
    assert submit("--pick", "failed", *words).returncode == 0
    assert sorted((tmp_path / "ran").read_text().split()) == ["1", "2", "3", "3", "4"]
    local = [sys.executable, ROOT / "utils/run.py", "--pick", "failed", *words]
    assert subprocess.run(local, cwd=tmp_path).returncode == 0
    assert len((tmp_path / "ran").read_text().split()) == 5, "both runners keep one account of what is done"


def test_jobs_of_earlier_work_that_write_the_same_files_are_cancelled(start, submit, slurm, tmp_path):
    """Its waiter was killed; then settings changed, which moves a model folder aside, or another number of jobs was given."""
    long = ["bash", "-c", "touch on.JOB; sleep 100"]
    first = start("--mark", "a", "JOB=1:2", "log/x.JOB.log", *long)
    second = start("--mark", "a", "model/train.log", *long)
    wait_until(lambda: len(list(tmp_path.glob("on.*"))) == 3)
    for process in (first, second):
        process.kill()
    (tmp_path / "model").rename(tmp_path / "model.old-1")
    for words in (["--mark", "a", "JOB=1:1", "log/x.JOB.log"], ["--mark", "b", "model/train.log"]):
        result = submit(*words, "true")
        assert result.returncode == 0 and "earlier work that would write the same files" in result.stderr
    # the last job has told us that it is over, and Slurm may still be completing it
    wait_until(lambda: job_ids(slurm, "running,pending,completing") == [])


def test_a_killed_task_may_have_run_out_of_memory(submit):
    assert "status 137, killed; out of memory?" in submit("x.log", "bash", "-c", "kill -9 $$").stderr


@pytest.mark.slow  # .ci/run spends two minutes on clusters at most
def test_more_memory_than_asked_for_is_told(submit):
    program = "import time; x = b'x' * 400_000_000; time.sleep(30)"
    result = submit("--mem", "50M", "x.log", sys.executable, "-c", program)
    assert result.returncode == 1 and "out of memory (give --mem)" in result.stderr


@pytest.mark.slow  # Slurm holds a requeued job for some ten seconds
def test_status_75_is_run_again_by_slurm_and_its_log_goes_on(submit, tmp_path):
    result = submit("x.log", "bash", "-c", "echo turn >> turns; test $(wc -l < turns) = 2 || exit 75")
    assert result.returncode == 0, result.stderr
    log = (tmp_path / "x.log").read_text()
    assert "restart 0" in log and "restart 1" in log and "restart 2" not in log


def test_status_75_is_a_failure_once_no_restarts_are_left(submit):
    result = submit("--max-restarts", "0", "x.log", "bash", "-c", "exit 75")
    assert result.returncode == 1 and "run again" in result.stderr


def test_where_requeue_is_off_the_waiter_submits_again(submit, slurm, tmp_path):
    fake = tmp_path / "bin/scontrol"
    fake.parent.mkdir()
    fake.write_text(
        "#!/bin/bash\n[[ $1 != requeue ]] || { echo 'Requested operation is presently disabled' >&2; exit 1; }\n"
    )
    fake.chmod(0o755)
    path = f"{fake.parent}:{slurm.environment['PATH']}"
    script = "echo turn >> turns; test $(wc -l < turns) = 3 || exit 75"
    result = submit("JOB=4:4", "x.JOB.log", "bash", "-c", script, PATH=path)
    assert result.returncode == 0, result.stderr
    assert "restart 2" in (tmp_path / "x.4.log").read_text()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_lets_jobs_save_and_cancels_them(start, slurm, tmp_path, number, status):
    script = "trap 'sleep 0.5; touch saved.JOB; exit 75' TERM; touch on.JOB; while :; do sleep 0.05; done"
    process = start("JOB=1:2", "x.JOB.log", "bash", "-c", script)
    wait_until(lambda: len(list(tmp_path.glob("on.*"))) == 2)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status and "cancelled" in errors
    assert len(list(tmp_path.glob("saved.*"))) == 2
    assert job_ids(slurm, "running,pending,completing") == []


def test_a_killed_waiter_and_a_hung_up_one_are_taken_over(start, submit, slurm, tmp_path):
    words = ["JOB=1:3", "x.JOB.log", "bash", "-c", "echo JOB >> ran; while ! test -f go; do sleep 0.1; done"]
    first = start(*words)
    wait_until(lambda: (tmp_path / "ran").exists() and len((tmp_path / "ran").read_text().split()) == 3)
    first.kill()
    first.wait()
    second = start(*words)
    assert "takes up job" in second.stderr.readline()
    second.send_signal(signal.SIGHUP)
    _, errors = second.communicate(timeout=30)
    assert "the jobs go on" in errors
    (tmp_path / "go").touch()
    assert submit(*words).returncode == 0
    assert sorted((tmp_path / "ran").read_text().split()) == ["1", "2", "3"], "nothing ran twice"


def test_a_waiter_killed_between_submission_and_note_finds_the_job_by_its_name(start, submit, slurm, tmp_path):
    words = ["x.log", "bash", "-c", "echo x >> ran; while ! test -f go; do sleep 0.1; done"]
    first = start(*words)
    wait_until((tmp_path / "ran").exists)
    first.kill()
    first.wait()
    (note,) = (tmp_path / "q").glob("*/submission.json")
    facts = json.loads(note.read_text())
    facts["pieces"][0]["id"] = None
    note.write_text(json.dumps(facts))
    (tmp_path / "go").touch()
    assert submit(*words).returncode == 0
    assert (tmp_path / "ran").read_text() == "x\n"


@pytest.mark.slow  # held, too
def test_requeued_by_hand_the_second_run_counts(start, slurm, tmp_path):
    script = "echo x >> ran; test $(wc -l < ran) = 2 || sleep 60"
    process = start("x.log", "bash", "-c", script)
    wait_until((tmp_path / "ran").exists)
    (job,) = job_ids(slurm, "running")
    slurm.call("scontrol", "requeue", job)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert (tmp_path / "ran").read_text() == "x\nx\n"


def test_cancelled_from_outside_is_told_so(start, slurm, tmp_path):
    process = start("JOB=1:2", "x.JOB.log", "bash", "-c", "touch on.JOB; test JOB = 1 || sleep 60")
    wait_until((tmp_path / "on.2").exists)
    wait_until(lambda: len(job_ids(slurm, "running")) == 1)
    slurm.call("scancel", *job_ids(slurm, "running"))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "1 of 2 jobs failed: JOB 2: cancelled" in errors


@pytest.mark.slow  # for the two minutes
def test_a_drained_node_is_no_failure_and_all_drained_is_told_once(start, submit, slurm):
    try:
        slurm.call("scontrol", "update", "nodename=n1", "state=drain", "reason=test")
        assert submit("JOB=1:3", "x.JOB.log", "true").returncode == 0
        slurm.call("scontrol", "update", "nodename=n2", "state=drain", "reason=test")
        process = start("y.log", "true")
        line = process.stderr.readline()
        assert "job waits: " in line and "rain" in line.lower()
    finally:
        for node in ("n1", "n2"):
            slurm.call("scontrol", "update", f"nodename={node}", "state=resume")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and errors == ""


def test_the_controller_may_be_away_while_submitting_and_waiting(start, slurm, tmp_path):
    slurm.stop("slurmctld")
    process = start("x.log", "bash", "-c", "touch on; while ! test -f go; do sleep 0.1; done")
    time.sleep(1)
    slurm.start_controller()
    wait_until((tmp_path / "on").exists, 90)
    slurm.stop("slurmctld")
    (tmp_path / "go").touch()
    time.sleep(1)
    slurm.start_controller()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def test_submitted_from_inside_a_job(submit, slurm, tmp_path):
    words = [sys.executable, str(ROOT / "utils/slurm.py"), "JOB=1:2", "inner.JOB.log", "printenv", "RUN_STOP_FILE"]
    result = submit("--mem", "200M", "--num-threads", "2", "outer.log", *words)
    assert result.returncode == 0, (tmp_path / "outer.log").read_text()
    assert "stop.2" in body(tmp_path / "inner.2.log")[0]


def test_a_job_knows_its_deadline_and_usr1_makes_its_stop_file(start, slurm, tmp_path):
    script = "echo $(($RUN_DEADLINE - $(date +%s))) > left; while ! test -f $RUN_STOP_FILE; do sleep 0.1; done; exit 0"
    process = start("--time", "4", "x.log", "bash", "-c", script)
    wait_until(lambda: (tmp_path / "left").exists() and (tmp_path / "left").read_text())
    assert 170 < int((tmp_path / "left").read_text()) < 182, "a quarter of the limit before its end"
    (job,) = job_ids(slurm, "running")
    slurm.call("scancel", "--batch", "--signal=USR1", job)
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_a_range_beyond_the_largest_array_is_cut(submit, tmp_path):
    result = submit("--max-jobs-run", "1", "JOB=999:1003", "x.JOB.log", "echo", "JOB")
    assert result.returncode == 0, result.stderr
    assert [body(tmp_path / f"x.{i}.log") for i in range(999, 1004)] == [[str(i)] for i in range(999, 1004)]


def test_several_nodes_are_one_job(submit, slurm, tmp_path):
    (tmp_path / "where.py").write_text(
        "import os; open('r' + os.environ['RANK'], 'w').write(os.environ['SLURMD_NODENAME'])"
    )
    words = ["--nodes", "2", "--processes", "2", "--mem", "2G", "x.log", "python3", "-m", "where"]
    late = tmp_path / "bin/python3"  # on the first node, which the others wait for
    late.parent.mkdir()
    late.write_text(f'#!/bin/sh\n[ "$SLURM_NODEID" != 0 ] || sleep 4\nexec {sys.executable} "$@"\n')
    late.chmod(0o755)
    result = submit(*words, PYTHONPATH=str(tmp_path), PATH=f"{late.parent}:{slurm.environment['PATH']}")
    assert result.returncode == 0, (tmp_path / "x.log").read_text()
    assert [(tmp_path / f"r{rank}").read_text() for rank in range(4)] == ["n1", "n1", "n2", "n2"]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--color", "red", "x.log", "true"], "no line for --color red"),
        (["--config", "nowhere.conf", "x.log", "true"], "nowhere.conf"),
        (["JOB=1:2", "x.log", "true"], "needs JOB in its name"),
        (["--processes", "2", "x.log", "true"], "python3 -m"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(submit, words, what):
    result = submit(*words)
    assert result.returncode == 2 and what in result.stderr and result.stderr.count("\n") == 1


def test_what_slurm_refuses_is_status_3(submit):
    result = submit("--partition", "nowhere", "x.log", "true")
    assert result.returncode == 3 and "invalid partition" in result.stderr.lower()


def test_a_thousand_tasks_cost_the_submitter_little(start, slurm, tmp_path):
    process = start("JOB=1:1000", "log/x.JOB.log", "sleep", "100")
    wait_until(lambda: list((tmp_path / "log/q").glob("*/submission.json")) if (tmp_path / "log/q").exists() else False)
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    seconds = usage.ru_utime + usage.ru_stime
    print("CPU seconds of submitting and watching 1,000 tasks:", seconds)
    assert seconds < 2
