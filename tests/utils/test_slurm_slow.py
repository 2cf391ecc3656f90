"""utils/slurm.py when time runs out, nodes die, controllers forget and others are more urgent: a minute or more each."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runner_bench import wait_until

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
TEACHER = """
type: conformer
model: {{d_model: 16, head_dim: 8, kernel_size: 3, subsampling_channels: [4, 4], num_blocks: 1,
        block: {{heads: 2, ff1: 16, ff2: 16, conv_channels: 16}}}}
loop: {{epochs: {epochs}, max_batch_frames: 700, average_last: 2, dev_every: 100}}
"""
EPOCHS = 1200


def test_the_time_limit_is_told_in_words(submit):
    start_s = time.monotonic()
    result = submit("--time", "1", "x.log", "sleep", "400", timeout=300)
    print("seconds until a limit of one minute was told:", time.monotonic() - start_s)
    assert result.returncode == 1
    assert "time limit reached (give --time)" in result.stderr


def kill_node(slurm, node):
    """End the daemon of a node and everything that runs on it, at once."""
    slurm.daemons.pop(node).kill()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                environment = (folder / "environ").read_bytes().split(b"\0")
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            ours = f"SLURM_CONF={slurm.environment['SLURM_CONF']}".encode() in environment
            if ours and (f"SLURMD_NODENAME={node}".encode() in environment or command.startswith(b"slurmstepd: [")):
                os.kill(int(folder.name), signal.SIGKILL)


def test_tasks_of_a_dead_node_are_run_again(start, slurm, tmp_path):
    script = "echo $SLURMD_NODENAME > on.JOB.$SLURM_RESTART_COUNT; while ! test -f go; do sleep 0.2; done"
    process = start("JOB=1:3", "x.JOB.log", "bash", "-c", script)
    wait_until(lambda: len(list(tmp_path.glob("on.*"))) == 3)
    time.sleep(1)
    nodes = {path.read_text().strip() for path in tmp_path.glob("on.*")}
    dead = min(nodes)
    start_s = time.monotonic()
    kill_node(slurm, dead)
    (tmp_path / "go").touch()
    try:
        _, errors = process.communicate(timeout=300)
        print("seconds from the death of a node to the end of its tasks elsewhere:", time.monotonic() - start_s)
        assert process.returncode == 0, errors
        assert len(list(tmp_path.glob("on.*.1"))) >= 1, "was run again"
    finally:
        slurm.start_node(dead)
        slurm.wait_for(lambda: slurm.node_states().get(dead) == "idle", 60, "the node to come back")


def test_a_preempted_job_saves_and_goes_on(start, submit, slurm, tmp_path):
    script = (
        "trap 'touch saved.JOB; exit 75' TERM; echo x >> ran.JOB; test $(wc -l < ran.JOB) = 1 || exit 0;"
        " while :; do sleep 0.1; done"
    )
    process = start("--num-threads", "4", "JOB=1:2", "x.JOB.log", "bash", "-c", script)
    wait_until(lambda: len(list(tmp_path.glob("ran.*"))) == 2)
    assert submit("--partition", "urgent", "--num-threads", "4", "JOB=1:2", "y.JOB.log", "sleep", "3").returncode == 0
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert len(list(tmp_path.glob("saved.*"))) == 2
    assert [(tmp_path / f"ran.{i}").read_text() for i in (1, 2)] == ["x\nx\n"] * 2


def prepare_corpus(folder):
    conf = ROOT / "tests/recipes/tiny/conf"
    for words in (
        ["tests/recipes/tiny/prepare.py", "--out", folder],
        ["utils/subset_data_dir.py", "--first", 24, folder / "train", folder / "small"],
        *(
            [*command, folder / name]
            for name in ("small", "dev")
            for command in (
                ["-m", "steps.extract_features", "--config", conf / "features.yaml", "--shard", 1, "--num-shards", 1]
                + ["--out", folder / name / "feats", "--data"],
                ["-m", "steps.combine_features", "--feats", folder / name / "feats", "--num-shards", 1]
                + ["--cmvn", folder / name / "cmvn.json", "--data"],
            )
        ),
        ["-m", "steps.train_tokenizer", "--data", folder / "train", "--config", conf / "tokenizer.yaml"]
        + ["--out", folder / "tokenizer"],
    ):
        subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, check=True, capture_output=True)
    return conf / "features.yaml"


def test_a_training_cut_by_a_one_minute_limit_ends_with_the_same_model(slurm, tmp_path):
    """With as many epochs as this machine does not do in a minute."""
    features = prepare_corpus(tmp_path)
    command = ["python3", "-m", "steps.train_teacher", "--data", tmp_path / "small", "--dev", tmp_path / "dev"]
    command += ["--tokenizer", tmp_path / "tokenizer", "--features", features, "--config", tmp_path / "teacher.yaml"]
    command += ["--device", "cpu", "--num-threads", "1", "--out"]
    path = f"{Path(sys.executable).parent}:{slurm.environment['PATH']}"
    options = {"cwd": ROOT, "env": {**slurm.environment, "PATH": path, "PYTHONPATH": str(ROOT)}, "timeout": 1500}
    limited = [sys.executable, "utils/slurm.py", "--time", "1", "--max-restarts", "90", "--mem", "4G"]
    for epochs in (EPOCHS, 3 * EPOCHS, 9 * EPOCHS):
        (tmp_path / "teacher.yaml").write_text(TEACHER.format(epochs=epochs))
        cut, log = tmp_path / f"cut{epochs}", tmp_path / f"cut{epochs}.log"
        seconds = time.monotonic()
        done = subprocess.run([*map(str, [*limited, log, *command, cut])], **options)
        assert done.returncode == 0, log.read_text()
        starts = log.read_text().count("# Started")
        print(f"{epochs} epochs: {starts} starts, {time.monotonic() - seconds:.0f} s with a limit of one minute")
        if starts >= 2:
            break
    assert starts >= 2
    words = [sys.executable, "utils/run.py", tmp_path / "whole.log", *command, tmp_path / "whole"]
    assert subprocess.run([*map(str, words)], **options).returncode == 0
    for name in ("model.safetensors", "model.json"):
        assert (cut / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_a_forgetful_controller_loses_is_named_and_only_that_is_run_again(start, submit, slurm, tmp_path):
    words = ["--max-jobs-run", "1", "JOB=1:2", "x.JOB.log", "bash", "-c"]
    words += ["echo JOB >> ran; while ! test -f go; do sleep 0.2; done"]
    process = start(*words)
    wait_until((tmp_path / "ran").exists)
    slurm.stop("slurmctld", signal.SIGKILL)
    (tmp_path / "go").touch()
    wait_until(lambda: list((tmp_path / "q").glob("*/done.1")))
    with open(slurm.top / "slurm.conf", "a") as file:
        file.write("FirstJobId=5000\n")  # a node refuses a job whose number it has run before
    slurm.start_controller("-c")
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 1
    assert "1 of 2 jobs failed: JOB 2: LOST" in errors
    assert submit(*words).returncode == 0
    assert (tmp_path / "ran").read_text().split() == ["1", "2"]
