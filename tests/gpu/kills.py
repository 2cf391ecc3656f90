"""Kill trainings with -9 at points spread over them, run the same command again, compare with undisturbed ones.

    python3 -m tests.gpu.kills --device cuda --kills 8 --workdir /tmp/gpu-kills --out /tmp/kills.json

Two trainings in deterministic mode: a Conformer with Muon, intermediate CTC and bfloat16, and a small one that it teaches.
Half of the kills hit each; a run is killed twice and then let finish. Every file that ships must be the same to the byte.
Prints `N kills, identical` (status 0), or what differs (status 1).
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.kill_resume import Failure, digests, end_session, leftovers

ROOT = Path(__file__).resolve().parents[2]
HANGS_S, HANGS_QUICK_S = 90.0, 600.0
KILLS_OF_A_RUN = 2
SIZES = """
model: {d_model: 64, head_dim: 16, kernel_size: 7, subsampling_channels: [8, 16], num_blocks: 3,
        block: {heads: 4, ff1: 128, ff2: 128, conv_channels: 64}}
augment: {vtlp: 0.1}
"""
LOOP = """
loop: {{epochs: 4, max_batch_frames: {frames}, accumulate: 2, average_last: 2, dev_every: 2, save_every_s: 0,
        deterministic: true, loader_workers: 1}}
"""
TEACHER = SIZES + "ctc: {intermediate_weight: 0.3}\noptim: {optimizer: muon, peak_lr: 5.0e-3}\n"
STUDENT = SIZES + "distill: {kl_weight: 0.7, frames: window, intermediate_weight: 0.3, hidden_weight: 0.1}\n"


class Training:
    """One training program on the made-up corpus. Args: kind: teacher or student.   workdir, device, quick: options."""

    def __init__(self, kind, text, options):
        self.workdir, self.kind, self.device = options.workdir, kind, options.device
        self.conf, self.sessions, self.is_over = self.workdir / f"{kind}.yaml", [], False
        self.hangs_s = HANGS_QUICK_S if options.quick else HANGS_S
        self.conf.write_text(text + LOOP.format(frames=300 if options.quick else 4000))

    def start(self, out):
        """Start the program. Returns: Popen, a session of its own; its output goes to <out>.log."""
        if self.is_over:
            raise Failure("it was asked to stop")
        corpus = self.workdir / "corpus"
        words = [sys.executable, "-m", "steps.train_teacher" if self.kind == "teacher" else "steps.distill_student"]
        words += ["--data", corpus / "train", "--dev", corpus / "dev", "--tokenizer", corpus / "tokenizer"]
        words += ["--features", "conf/features.yaml", "--config", self.conf]
        words += ["--device", self.device, "--num-threads", "1"]
        words += ["--teacher", self.workdir / "teacher"] if self.kind == "student" else []
        with open(f"{out}.log", "ab") as log:
            process = subprocess.Popen(
                [*map(str, words), "--out", str(out)], cwd=ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        self.sessions.append(process.pid)
        return process

    def to_the_end(self, out):
        """Run it undisturbed. Raises: Failure."""
        process = self.start(out)
        try:
            status = process.wait(self.hangs_s)
        except subprocess.TimeoutExpired:
            raise Failure(f"{out}: not done after {self.hangs_s:.0f} s") from None
        finally:
            end_session(process.pid)
        if status:
            raise Failure(f"{out}: status {status}\n{Path(f'{out}.log').read_text()[-1500:]}")

    def kill_at(self, out, step, delay_s):
        """Run it and kill it once it has saved update `step` or a later one. Returns: updates saved by then."""
        step = max(step, newest(out) + 1)
        process, end_s = self.start(out), time.monotonic() + self.hangs_s
        try:
            while newest(out) < step:
                if process.poll() is not None or time.monotonic() > end_s:
                    raise Failure(
                        f"{out}: it ended, or hung, before update {step}\n{Path(f'{out}.log').read_text()[-1500:]}"
                    )
                time.sleep(0.002)
            time.sleep(delay_s)
            if process.poll() is not None:
                raise Failure(f"{out}: was done before it could be killed after update {step}")
        finally:
            end_session(process.pid)
            process.wait()
        return newest(out)


def newest(out: Path) -> int:
    """Updates that the newest checkpoint of a training holds, 0 without one."""
    return max((int(path.name.split("-")[1]) for path in Path(out).glob("checkpoints/step-*.pt")), default=0)


def plan_kills(kills: int, steps: int, draw: random.Random) -> list[list[tuple[int, float]]]:
    """Spread kills over a training and deal them to runs. Returns: list of runs, each a list of (update, delay in s), rising."""
    # Not in the last tenth: from there it may be over before the kill comes.
    edges = [1 + index * 0.9 * (steps - 1) / kills for index in range(kills + 1)]
    points = [
        (int(draw.uniform(low, high)), draw.uniform(0.0, 0.02)) for low, high in zip(edges, edges[1:], strict=False)
    ]
    runs = -(-kills // KILLS_OF_A_RUN)
    return [points[number::runs] for number in range(runs)]


def disturbed(training: Training, number: int, points: list[tuple[int, float]]) -> list[int]:
    """One run with its kills, compared with the undisturbed one. Returns: list of updates it was killed after."""
    out = training.workdir / f"{training.kind}-{number}"
    killed = [training.kill_at(out, step, delay_s) for step, delay_s in points]
    training.to_the_end(out)
    resumed = Path(f"{out}.log").read_text().count("resumed at step")
    if resumed != len(points):
        raise Failure(f"{out}: killed {len(points)} times, resumed {resumed} times")
    expected, found = digests(training.workdir / training.kind), digests(out)
    differ = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    if differ or "model.safetensors" not in found:
        raise Failure(f"{out}: killed after updates {killed}: {', '.join(differ) or 'no model'} differ")
    if litter := leftovers(out):
        raise Failure(f"{out}: left behind: {', '.join(map(str, litter))}")
    return killed


def all_kills(options: argparse.Namespace) -> dict[str, Any]:
    """Make the undisturbed trainings and the disturbed ones. Returns: dict of facts.  Raises: Failure."""
    size = ["--utterances", "24", "--longest", "2"] if options.quick else ["--utterances", "160"]
    make = [sys.executable, "-m", "tests.gpu.corpus", "--out", options.workdir / "corpus", "--recordings", "40"]
    subprocess.run([*map(str, make), *size], cwd=ROOT, check=True)
    shares = {"teacher": options.kills - options.kills // 2, "student": options.kills // 2}
    trainings = [Training(kind, text, options) for kind, text in (("teacher", TEACHER), ("student", STUDENT))]
    draw, facts, runs = random.Random(options.seed), {}, {}
    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            for training in trainings:
                training.to_the_end(training.workdir / training.kind)
                steps = json.loads((training.workdir / training.kind / "run.json").read_text())["steps"]
                facts[training.kind] = {"updates": steps}
                plan = plan_kills(shares[training.kind], steps, draw)
                runs[training.kind] = [pool.submit(disturbed, training, *run) for run in enumerate(plan)]
            for kind, futures in runs.items():
                facts[kind]["killed_after_updates"] = [future.result() for future in futures]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for training in trainings:
                training.is_over = True
                for session in training.sessions:
                    end_session(session)
    facts["kills"] = sum(len(run) for kind in runs for run in facts[kind]["killed_after_updates"])
    facts["files"] = len(digests(options.workdir / "teacher"))
    return facts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", required=True)
    parser.add_argument("--kills", type=int, default=8, metavar="N", help="in all (default: 8)")
    parser.add_argument(
        "--jobs", type=int, default=max(1, (os.cpu_count() or 1) // 4), metavar="N", help="runs at a time"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the points (default: 0)")
    parser.add_argument("--quick", action="store_true", help="small batches")
    parser.add_argument("--workdir", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="JSON")
    options = parser.parse_args()
    if options.kills < 2:
        parser.error("--kills must be 2 or more")
    options.workdir = options.workdir.resolve()
    options.workdir.mkdir(parents=True, exist_ok=True)
    try:
        facts = all_kills(options)
    except Failure as failure:
        print(f"NOT as promised: {failure}", flush=True)
        return 1
    options.out.write_text(json.dumps(facts))
    print(f"{facts['kills']} kills, identical: {facts}", flush=True)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
