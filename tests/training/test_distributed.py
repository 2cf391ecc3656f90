"""Training in several processes: torchrun under the job runners, on a CPU through gloo."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from steps.training import distributed, loop
from steps.training.monitor import Monitor

ROOT = Path(__file__).resolve().parents[2]
RUN = [sys.executable, "-I", "-S", str(ROOT / "utils/run.py")]
TEACHER = """
type: conformer
model: {d_model: 16, head_dim: 8, kernel_size: 3, subsampling_channels: [4, 4], num_blocks: 1,
        block: {heads: 2, ff1: 16, ff2: 16, conv_channels: 16}}
loop: {epochs: %d, max_batch_frames: 700, average_last: 1, dev_every: 1000}
"""


def environment():
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": python_path, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def curve(corpus, out, processes, *options):
    """Run curve.py. Returns: CompletedProcess."""
    command = ["python3", "-m", "tests.training.curve", "--train", corpus.train, "--dev", corpus.dev]
    command += ["--tokenizer", corpus.tokenizer, "--features", corpus.features, "--out", out, *options]
    words = [*RUN, "--processes", processes, "--max-restarts", 0, out / "train.log", *command]
    out.mkdir(parents=True, exist_ok=True)
    return subprocess.run([*map(str, words)], cwd=ROOT, capture_output=True, text=True, env=environment(), timeout=120)


def read(out, rank=0, number=0):
    return json.loads((out / f"curve.{rank}.{number}").read_text())


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory):
    """The same training: one process that adds up two batches an update; two processes with one batch each."""
    folder = tmp_path_factory.mktemp("curves")
    for name, processes, options in (("one", 1, ["--accumulate", 2]), ("two", 2, [])):
        done = curve(corpus, folder / name, processes, "--epochs", 3, "--stop-at", -1, *options)
        assert done.returncode == 0, (folder / name / "train.log").read_text()
    return folder


def test_two_processes_have_the_loss_curve_of_one_that_accumulates(runs):
    one, two = read(runs / "one"), read(runs / "two")
    assert len(one["losses"]) == len(two["losses"]) > 6
    worst = max(abs(a - b) / a for a, b in zip(one["losses"], two["losses"], strict=True))
    print("largest relative difference of the loss:", worst)
    assert worst < 1e-5
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-3, abs=1e-4)
    assert two["weights"] == read(runs / "two", rank=1)["weights"], "all processes hold the same model"


def test_every_utterance_is_taken_once_an_epoch_whatever_the_number_of_processes(runs):
    one = read(runs / "one")["seen"]
    two = read(runs / "two")["seen"] + read(runs / "two", rank=1)["seen"]
    assert len(one) % 3 == 0 and all(one.count(utt) == 3 for utt in one)
    assert sorted(one) == sorted(two)


def test_a_training_goes_on_with_another_number_of_processes(corpus, runs, tmp_path):
    """Stopped in the middle of an epoch with 2 processes, gone on with 1: the same utterances, and the same curve."""
    first = curve(corpus, tmp_path / "x", 2, "--epochs", 3, "--stop-at", 4)
    assert first.returncode == 1, "no train_state.json is written by Trainer itself, so this counts as failed"
    assert curve(corpus, tmp_path / "x", 1, "--epochs", 3, "--stop-at", -1, "--accumulate", 2).returncode == 0
    parts = [read(tmp_path / "x", 0, 0), read(tmp_path / "x", 0, 1)]
    whole = read(runs / "one")
    assert parts[0]["losses"] + parts[1]["losses"] == pytest.approx(whole["losses"], rel=1e-5)
    seen = parts[0]["seen"] + parts[1]["seen"] + read(tmp_path / "x", 1, 0)["seen"]
    assert sorted(seen) == sorted(whole["seen"])


@pytest.mark.slow
def test_an_uneven_change_of_processes_leaves_out_and_repeats_nothing(corpus, runs, tmp_path):
    first = curve(corpus, tmp_path / "x", 1, "--epochs", 2, "--stop-at", 1)
    assert first.returncode == 1 and "saved" in first.stderr
    assert curve(corpus, tmp_path / "x", 2, "--epochs", 2, "--stop-at", -1).returncode == 0
    seen = [utt for rank, number in ((0, 0), (0, 1), (1, 0)) for utt in read(tmp_path / "x", rank, number)["seen"]]
    once = sorted(set(read(runs / "one")["seen"]))
    assert sorted(seen) == sorted(once * 2)


def teacher_command(corpus, out, epochs, seed=0):
    config = out.parent / "teacher.yaml"
    config.write_text(TEACHER % epochs)
    words = ["python3", "-m", "steps.train_teacher", "--data", corpus.train, "--dev", corpus.dev, "--out", out]
    words += ["--tokenizer", corpus.tokenizer, "--features", corpus.features, "--config", config]
    return [*map(str, words), "--device", "cpu", "--num-threads", "1", "--seed", str(seed)]


def wait_for_text(path, text, process, limit_s=90):
    end_s = time.monotonic() + limit_s
    while not path.exists() or text not in path.read_text():
        assert process.poll() is None and time.monotonic() < end_s, path.exists() and path.read_text()
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_lets_all_processes_save_at_one_step_and_the_same_command_goes_on(corpus, tmp_path, number, status):
    log = tmp_path / "train.log"
    command = [*RUN, "--processes", "2", str(log), *teacher_command(corpus, tmp_path / "model", 100_000)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)
    wait_for_text(log, "on cpu", process)  # the line before the first step
    time.sleep(2)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == status
    text = log.read_text()
    state = json.loads((tmp_path / "model/train_state.json").read_text())
    assert state["step"] > 0 and not state["finished"]
    assert f"saved at step {state['step']}" in text
    assert f"status {130 if number == signal.SIGINT else 75} " in text.splitlines()[-1]
    assert "Traceback" not in text


def test_a_deadline_is_status_75_and_the_next_start_goes_on_to_the_end(corpus, tmp_path):
    log = tmp_path / "train.log"
    command = [*RUN, "--processes", "2", str(log), *teacher_command(corpus, tmp_path / "model", 10)]
    late = {**environment(), "RUN_DEADLINE": "1"}
    first = [*RUN, "--max-restarts", "0", *command[len(RUN) :]]
    done = subprocess.run(first, cwd=ROOT, env=late, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "saved its state but did not finish in 0 restarts" in done.stderr
    alone = [*RUN, str(log), *teacher_command(corpus, tmp_path / "model", 10)]
    assert subprocess.run(alone, cwd=ROOT, env=environment(), timeout=120).returncode == 0
    assert "resumed at step 1 " in log.read_text()
    assert (tmp_path / "model/model.json").exists() and not (tmp_path / "model/train_state.json").exists()


@pytest.mark.slow
def test_a_users_mistake_is_one_line_though_two_processes_met_it(corpus, tmp_path):
    command = teacher_command(corpus, tmp_path / "model", 1)
    command[command.index("--data") + 1] = str(tmp_path / "nowhere")
    words = [*RUN, "--processes", "2", str(tmp_path / "train.log"), *command]
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    first, *rest = done.stderr.strip().splitlines()
    assert first.startswith("run.py: job: status 1 ")
    assert "nowhere" in rest[-1] and "Traceback" not in done.stderr
    assert (tmp_path / "train.log").read_text().count("error:") == 1


@pytest.mark.slow
def test_no_orphans_when_the_runner_is_killed(corpus, tmp_path):
    log = tmp_path / "train.log"
    command = [*RUN, "--processes", "2", str(log), *teacher_command(corpus, tmp_path / "model", 100_000)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment())
    wait_for_text(log, "step ", process)
    process.kill()
    process.wait()
    end_s = time.monotonic() + 10
    while any(str(tmp_path) in line for line in running_commands()):
        assert time.monotonic() < end_s, "orphans"
        time.sleep(0.1)


def running_commands():
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                yield (folder / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue


@pytest.mark.gpu
def test_one_gpu_under_torchrun(corpus, tmp_path):
    words = teacher_command(corpus, tmp_path / "model", 2)
    words[words.index("cpu")] = "cuda"
    launch = [sys.executable, str(ROOT / "utils/launch.py"), "--processes", "1", *words]
    assert subprocess.run(launch, cwd=ROOT, env=environment(), timeout=300).returncode == 0


@pytest.mark.parametrize("rank", [0, 1])
def test_a_checkpoint_is_due_once_an_interval_in_every_process(rank, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(loop, "save_checkpoint", lambda *args: saved.append(args))
    for name, answer in (("rank", rank), ("world_size", 2), ("barrier", None)):
        monkeypatch.setattr(distributed, name, lambda answer=answer: answer)
    monkeypatch.setattr(distributed, "max_over_processes", lambda values, device: values)
    trainer = SimpleNamespace(
        loop=loop.LoopConfig(save_every_s=60.0), monitor=Monitor(tmp_path, 1), stop=SimpleNamespace(poll=lambda: 0),
        device="cpu", checkpoints=tmp_path, step=1, state_dict=dict,
    )  # fmt: skip
    for late_s in (61.0, 0.0, 0.0, 61.0):
        trainer.monitor.saved_s -= late_s
        loop.Trainer.save_if_due(trainer)
        assert trainer.monitor.seconds_since_save() < 60
    assert len(saved) == (2 if rank == 0 else 0)


# what torch waits by default becomes a second
IMPATIENT = """
import datetime, os, sys, time
from torch.distributed import distributed_c10d
distributed_c10d._get_default_timeout = lambda backend: datetime.timedelta(seconds=1)
from steps.core.cli import run_main
from steps.training import distributed
distributed.start("cpu", 1)
"""


def both(code):
    """Run the code in two processes that train together. Returns: (status, standard error) of each."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(one.getsockname()[1])}
    words, options = [sys.executable, "-c", IMPATIENT + code], {"cwd": ROOT, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(words, env=environment() | place | {"RANK": rank}, **options) for rank in "01"]
    errors = [process.communicate(timeout=60)[1] for process in started]
    return [(process.returncode, text) for process, text in zip(started, errors, strict=True)]


def test_processes_wait_for_the_first_however_long_it_works_alone():
    work = "with distributed.first_process_first():\n    time.sleep(3 * (distributed.rank() == 0))\n"
    assert [status for status, _ in both(work)] == [0, 0]


def test_a_killed_process_is_one_line_of_the_others():
    work = "if distributed.rank() == 1: os.kill(os.getpid(), 9)\n"
    calls = ["sum_over_processes([1], 'cpu')", "max_over_processes([1], 'cpu')", "from_first_process([1], 'cpu')"]
    calls += ["sum_gradients_([distributed.nn.Parameter(distributed.torch.ones(1))])", "barrier()"]
    work += "".join(f"if not run_main(lambda: distributed.{call}): sys.exit(2)\n" for call in calls)
    (status, said), (killed, _) = both(work)
    assert (status, killed) == (0, -signal.SIGKILL)
    lines = said.strip().splitlines()
    assert len(lines) == len(calls) and all("another process of this training has ended" in line for line in lines)
