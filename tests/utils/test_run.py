"""utils/run.py: quoting, JOB, logs, failures, restarts, signals, and nothing left running."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from runner_bench import body, wait_until

RUN = [sys.executable, "-I", "-S", str(Path(__file__).resolve().parents[2] / "utils" / "run.py")]


@pytest.fixture
def run(tmp_path):
    def call(*words, **options):
        return subprocess.run([*RUN, *words], cwd=tmp_path, capture_output=True, text=True, timeout=30, **options)

    return call


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter when it ends between open and read
        return False


def test_progress_is_what_a_job_says_not_what_the_runner_wrote_around_it(tmp_path):
    """Behind the head of a log, `#` was shown; behind the end of a program, that it is done."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import jobs, os; progress = jobs.Progress(jobs.Work(sys.argv[2:]), 2)\n"
    code += "for text in ('# Started\\n#\\n', '# Started\\n#\\nstep 5\\n# done in 2.0 s\\n'):\n"
    code += "    open('x.1.log', 'w').write(text); progress.next_s = 0; progress.show(1, [1])"
    words = [sys.executable, "-c", code, str(Path(RUN[-1]).parent), "JOB=1:2", "x.JOB.log", "true"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == "    0/2 done, 1 running\n    0/2 done, 1 running: step 5\n"


def test_words_arrive_exactly(run, tmp_path):
    words = ["a  b", "it's", '"', "$HOME", "`id`", "*", "a|b", "x;y", "\\", "ä", "", "-n", "a\nb", "#"]
    program = "import json, sys; open('got.json', 'w').write(json.dumps(sys.argv[1:]))"
    assert run("x.log", sys.executable, "-c", program, *words).returncode == 0
    assert json.loads((tmp_path / "got.json").read_text()) == words


def test_whole_operator_words_act_and_pipelines_fail_honestly(run, tmp_path):
    words = ["echo", "b a", "|", "tr", " ", "\\n", "|", "sort", ">", "out", "&&", "echo", "then"]
    assert run("x.log", *words).returncode == 0
    assert (tmp_path / "out").read_text() == "a\nb\n"
    assert body(tmp_path / "x.log") == ["then"]
    assert run("x.log", "false", "|", "cat").returncode == 1


def test_job_is_replaced_only_where_no_letter_or_digit_touches_it(run, tmp_path):
    words = ["echo", "JOB", "x.JOB.ark", "/JOBS/", "JOB1", "a_JOB", "{JOB}"]
    assert run("JOB=2:3", "log/x.JOB.log", *words).returncode == 0
    assert body(tmp_path / "log/x.3.log") == ["3 x.3.ark /JOBS/ JOB1 a_3 {3}"]
    assert sorted(path.name for path in (tmp_path / "log").glob("*.log")) == ["x.2.log", "x.3.log"]
    assert run("x.log", "echo", "JOB").returncode == 0
    assert body(tmp_path / "x.log") == ["JOB"]


@pytest.mark.parametrize("limit", [["JOB=1:4", "-tc", "1"], ["-tc", "1", "JOB=1:4"], ["JOB=1:4", "--max-jobs-run=1"]])
def test_run_pl_takes_its_limit_and_other_options_on_both_sides_of_the_range(run, tmp_path, limit):
    script = "mkdir on && sleep 0.02 && rmdir on"
    assert run(*limit, "--mem", "1G", "x.JOB.log", "bash", "-c", script).returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        ["JOB=1:2", "x.log", "true"],
        ["JOB=3:2", "x.JOB.log", "true"],
        ["JOB=a", "x.JOB.log", "true"],
        ["LMWT=7:", "x.LMWT.log", "true"],
        ["lmwt=3:2", "x.lmwt.log", "true"],
        ["-tc", "x.log", "true"],
        ["-pe", "smp", "x.log", "true"],
        ["x.log"],
        ["--num-threads", "two", "x.log", "true"],
        ["--num-threads", "²", "x.log", "true"],
        ["JOB=1:2000000", "x.JOB.log", "true"],
        ["JOB=1:99999999999", "x.JOB.log", "true"],
        ["--pick", "some", "x.log", "true"],
        ["--nodes", "2", "x.log", "true"],
        ["--mem"],
    ],
)
def test_wrong_use_is_one_line_and_status_2(run, words):
    result = run(*words)
    assert result.returncode == 2
    assert result.stderr.startswith("run.py: ") and result.stderr.count("\n") == 1


def test_cluster_options_are_ignored_and_threads_are_set(run, tmp_path):
    words = ["--mem", "4G", "--time=2:00:00", "--site-option", "v", "--num-threads", "3", "x.log", "printenv"]
    assert run(*words, "OMP_NUM_THREADS").returncode == 0
    assert body(tmp_path / "x.log") == ["3"]


def test_failures_are_counted_and_named_with_the_end_of_the_first_log(run):
    script = "echo line JOB; if [ $((JOB % 2)) = 0 ]; then echo bad JOB; exit 7; fi"
    result = run("--max-jobs-run", "4", "JOB=1:14", "log/x.JOB.log", "bash", "-c", script)
    assert result.returncode == 1
    first, *rest = result.stderr.splitlines()
    assert first.startswith("run.py: 7 of 14 jobs failed: JOB 2: status 7 (log/x.2.log), JOB 4: ")
    assert first.endswith("and 2 more") and first.count("JOB") == 5
    assert [line.strip() for line in rest] == ["line 2", "bad 2"]


def test_reasons_in_words(run):
    assert "command not found" in run("x.log", "no-such-program-here").stderr
    assert "out of memory?" in run("x.log", "bash", "-c", "kill -9 $$").stderr


def test_pick_failed_runs_only_what_lacks_a_good_status(run, tmp_path):
    words = ["JOB=1:4", "log/x.JOB.log", "bash", "-c", "echo JOB >> ran; test -f good || test JOB != 3"]
    assert run(*words).returncode == 1
    (tmp_path / "good").touch()
    assert run("--pick", "failed", *words).returncode == 0
    assert sorted((tmp_path / "ran").read_text().split()) == ["1", "2", "3", "3", "4"]
    (tmp_path / "ran").unlink()
    assert run("--pick", "failed", *words).returncode == 0
    assert not (tmp_path / "ran").exists()
    assert run("--pick", "failed", *words, "other").returncode == 0
    assert len((tmp_path / "ran").read_text().split()) == 4


def test_a_good_status_counts_only_for_the_last_work_under_this_log_and_mark(run, tmp_path):
    def ran(*words):
        (tmp_path / "ran").unlink(missing_ok=True)
        assert run("--pick", "failed", *words, "log/x.JOB.log", "bash", "-c", "echo JOB >> ran").returncode == 0
        return len((tmp_path / "ran").read_text().split()) if (tmp_path / "ran").exists() else 0

    assert [ran("JOB=1:4"), ran("JOB=1:4")] == [4, 0]
    assert [ran("JOB=1:3"), ran("JOB=1:4")] == [3, 4]
    assert [ran("--mark", "a", "JOB=1:4"), ran("--mark", "a", "JOB=1:4"), ran("JOB=1:4")] == [4, 0, 4]
    other = ["--pick", "failed", "JOB=1:4", "log/y.JOB.log", "bash", "-c", "echo JOB >> ran"]
    assert run(*other).returncode == 0 and ran("JOB=1:4") == 0, "another log is of other work"


def test_the_number_may_have_another_name(run, tmp_path):
    assert run("PART=2:2", "log/PART.log", "echo", "PART", "JOB", "PARTS").returncode == 0
    assert body(tmp_path / "log/2.log") == ["2 JOB PARTS"]
    assert run("lmwt=7:8", "score_lmwt.log", "echo", "lmwt", "LMWT").returncode == 0
    assert [body(tmp_path / f"score_{n}.log") for n in (7, 8)] == [["7 LMWT"], ["8 LMWT"]]
    assert (
        "1 of 2 jobs failed: LMWT 8: status 1 (x.8.log)"
        in run("LMWT=7:8", "x.LMWT.log", "test", "LMWT", "=", "7").stderr
    )
    assert run("a=b.log", "true").returncode == 0 and (tmp_path / "a=b.log").exists(), "a log with a dot is a log"


def test_fail_fast_starts_nothing_more(run, tmp_path):
    words = ["JOB=1:9", "log/x.JOB.log", "bash", "-c", "touch JOB.ran; exit 1"]
    assert run("--fail-fast", "--max-jobs-run", "1", *words).returncode == 1
    assert len(list(tmp_path.glob("*.ran"))) == 1


def test_status_75_is_run_again_and_its_log_goes_on(run, tmp_path):
    script = "echo turn >> turns; test $(wc -l < turns) = 3 || exit 75"
    assert run("x.log", "bash", "-c", script).returncode == 0
    log = (tmp_path / "x.log").read_text()
    assert [f"restart {count}" in log for count in range(4)] == [True, True, True, False]
    result = run("--max-restarts", "2", "x.log", "bash", "-c", "echo x >> again; exit 75")
    assert result.returncode == 1 and "run again" in result.stderr
    assert (tmp_path / "again").read_text().count("x") == 3


def test_at_most_max_jobs_run_at_once(run, tmp_path):
    script = "mkdir on.JOB; ls -d on.* | wc -l; sleep 0.1; rmdir on.JOB"
    assert run("--max-jobs-run", "2", "JOB=1:6", "log/x.JOB.log", "bash", "-c", script).returncode == 0
    counts = [int(body(path)[0]) for path in (tmp_path / "log").glob("x.*.log")]
    assert max(counts) == 2


def test_gpus_are_handed_out_without_overlap(run, tmp_path):
    script = "echo $CUDA_VISIBLE_DEVICES; sleep 0.2"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "4,5,6"}
    words = ["--gpu", "1", "--max-jobs-run", "8", "JOB=1:3", "log/x.JOB.log", "bash", "-c", script]
    assert run(*words, env=environment).returncode == 0
    assert sorted(body(path)[0] for path in (tmp_path / "log").glob("x.*.log")) == ["4", "5", "6"]
    assert run("--gpu", "4", "x.log", "true", env=environment).returncode == 2
    assert run("--gpu", "1", "x.log", "true", env={**environment, "CUDA_VISIBLE_DEVICES": ""}).returncode == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_passed_on_waited_for_and_not_restarted(tmp_path, number, status):
    script = "trap 'sleep 0.3; echo saved; exit 75' INT TERM; echo $$ > pid; while :; do sleep 0.05; done"
    process = subprocess.Popen([*RUN, "x.log", "bash", "-c", script], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    process.send_signal(number)
    process.send_signal(number)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == status and "interrupted" in errors
    assert body(tmp_path / "x.log")[-1] == "saved"


def test_an_interrupted_pipeline_lets_its_programs_finish(tmp_path):
    saver = "trap 'sleep 0.3; echo saved > state; exit 75' TERM; touch ready; while :; do sleep 0.05; done"
    process = subprocess.Popen([*RUN, "x.log", "bash", "-c", saver, "|", "cat", "&&", "touch", "later"], cwd=tmp_path)
    wait_until((tmp_path / "ready").exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 143
    assert (tmp_path / "state").exists() and not (tmp_path / "later").exists()


def test_no_orphans_when_the_runner_is_killed(tmp_path):
    script = "sleep 60 & echo $! $$ > pids.JOB.new; mv pids.JOB.new pids.JOB; wait"
    words = ["--max-jobs-run", "2", "JOB=1:2", "log/x.JOB.log", "bash", "-c", script, "|", "cat"]
    process = subprocess.Popen([*RUN, *words], cwd=tmp_path)
    wait_until(lambda: (tmp_path / "pids.1").exists() and (tmp_path / "pids.2").exists())
    pids = [int(pid) for index in (1, 2) for pid in (tmp_path / f"pids.{index}").read_text().split()]
    assert all(is_running(pid) for pid in pids)
    process.kill()
    process.wait()
    wait_until(lambda: not any(is_running(pid) for pid in pids), 5)


def test_what_a_job_leaves_behind_is_ended(run, tmp_path):
    assert run("x.log", "bash", "-c", "sleep 60 & echo $! > pid").returncode == 0
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not is_running(pid), 5)
