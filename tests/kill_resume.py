"""Kill the test recipe with -9 at seeded moments, start the same command again until it is done, compare what ships.

    python3 -m tests.kill_resume --kills 200 --runs 10 --seed 0 --workdir /tmp/kills

A kill waits for a file event or a log line of its phase (features, training, export; `writes`: a temporary file that
appears in any of them), then for a seeded delay. One half ends run.sh alone, and nothing it started may live one second
later; the other half ends all of its processes. Every finished run is compared, file by file, with an undisturbed one.
Prints `R/R runs, K kills, identical` (status 0), or what differs (status 1). Stopped, the same command goes on.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.watch import FileEvents

ROOT = Path(__file__).resolve().parents[1]
RECIPE = "tests/recipes/tiny"
MODELS = "teacher student_kd teacher_prune teacher_prune_int8 teacher_2bit"
PHASES = {"features": {1}, "training": {3, 4, 5}, "export": {7, 8}}  # name -> stages of run.sh
KINDS = [*PHASES, "writes"]
COMPARED = {
    "model.safetensors",
    "model.json",
    "conf.yaml",
    "features.yaml",
    "cmvn.json",
    "model.onnx",
    "tokens.txt",
    "SHA256SUMS",
}
COMPARED |= {"tokenizer.model", "greedy.txt", "lexicon.txt", "score_greedy.json", "score_lexicon.json"}
STARTED = re.compile(r"\.stages/(\d\d)_[^/]*\.started$")
ORPHANS_GONE_S = 1.0
HANGS_S = 600.0


class Failure(Exception):
    """What was promised does not hold."""


def chain_of(models):
    """Lines of the recipe's chain that make these models; of one whose parent is left out, an error."""
    lines = [line.split() for line in (ROOT / RECIPE / "recipe.sh").read_text().splitlines()]
    rows = {words[0]: words for words in lines if len(words) == 4 and words[3].endswith(".yaml")}
    rows["teacher_prune_int8"] = ["teacher_prune_int8", "teacher_prune", "quantize_model", "int8.yaml"]
    rows["teacher_2bit"] = ["teacher_2bit", "teacher", "quantize_model", "bits2.yaml"]
    return "\n".join(" ".join(rows[model]) for model in models.split())


def command_of(workdir, options):
    """The command a user would give, again and again."""
    first, last = options.stages.split("-")
    words = ["./run.sh", "--recipe", RECIPE, "--workdir", str(workdir), "--num-threads", "1", "--nj", str(options.nj)]
    words += ["--device", options.device, "--stage", first, "--stop-stage", last]
    # of what noise costs nothing is compared
    return [*words, "--compare", "", "--stress", "", "--chain", chain_of(options.models)]


def start(workdir, options):
    """Start run.sh in a session of its own; what it prints goes to <workdir>/run.log."""
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / "run.log", "ab") as log:
        return subprocess.Popen(
            command_of(workdir, options), cwd=ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip


def run_to_end(workdir, options):
    """Run the command without a disturbance. Raises: Failure when it does not end well."""
    process = start(workdir, options)
    try:
        status = process.wait()
    except BaseException:
        end_session(process.pid)
        raise
    if status != 0:
        raise Failure(f"{workdir}: status {status}\n{(workdir / 'run.log').read_text()[-2000:]}")


def living(session):
    """Processes of a session that have not ended and are not about to. Returns: list of process ids."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                fields = Path(entry.path, "stat").read_text().rsplit(")", 1)[1].split()
                # killed, its memory given back: it runs no more, though a busy machine may let it end later
                if not Path(entry.path, "cmdline").read_bytes():
                    continue
            except (OSError, IndexError):
                continue
            if int(fields[3]) == session and fields[0] not in "ZX":
                found.append(int(entry.name))
    return found


def end_session(session):
    """Kill every process of a session."""
    while pids := living(session):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def kill_alone(process):
    """Kill run.sh alone. Raises: Failure when something it started outlives it by more than a second."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    end_s = time.monotonic() + ORPHANS_GONE_S
    while orphans := living(process.pid):
        if time.monotonic() > end_s:
            names = [Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")[:200] for pid in orphans]
            end_session(process.pid)
            raise Failure(f"alive {ORPHANS_GONE_S} s after run.sh was killed: {names}")
        time.sleep(0.01)


def plan_kills(seed, number, count):
    """The kills of one run, in the order of the chain: list of dicts with kind, phase, skip, delay_s, alone."""
    draw = random.Random(f"{seed}/{number}")
    kills = []
    for index in range(count):
        kind = KINDS[(index + number) % len(KINDS)]
        is_write = kind == "writes"
        phase = draw.choice(list(PHASES)) if is_write else kind
        delay_s = draw.uniform(0.0, 0.004) if is_write else draw.uniform(0.0, 2.0)
        kills.append({"kind": kind, "phase": phase, "skip": draw.randrange(6), "delay_s": round(delay_s, 4)})
        kills[-1]["alone"] = draw.random() < 0.5
    draw.shuffle(kills)
    return sorted(kills, key=lambda kill: list(PHASES).index(kill["phase"]))


def wait_for_moment(process, events, now, kill):
    """Wait until the moment of a kill. Returns: False when its phase is over, or all is done, before it comes.

    Args: now: {"stage": the stage that was begun last}, kept up to date.
    """
    left, end_s = kill["skip"], time.monotonic() + HANGS_S
    while True:
        for path in events.next(0.2):
            if match := STARTED.search(path):
                now["stage"] = int(match[1])
            if now["stage"] > max(PHASES[kill["phase"]]):
                return False
            if now["stage"] in PHASES[kill["phase"]] and (kill["kind"] != "writes" or path.endswith(".tmp")):
                left -= 1
                if left < 0:
                    time.sleep(kill["delay_s"])
                    return process.poll() is None
        if process.poll() is not None:
            return False
        if time.monotonic() > end_s:
            raise Failure(f"nothing happened for {HANGS_S:.0f} s while waiting for {kill}")


def disturb(workdir, options, run, save):
    """Go through the kills of one run and then to its end. Args: run: its record; save: called after every kill."""
    while run["next"] < len(run["plan"]):
        process = start(workdir, options)
        events, now = FileEvents(workdir), {"stage": -1}
        try:
            while run["next"] < len(run["plan"]):
                if wait_for_moment(process, events, now, run["plan"][run["next"]]):
                    break
                if process.poll() not in (None, 0):
                    raise Failure(f"{workdir}: status {process.poll()}\n{(workdir / 'run.log').read_text()[-2000:]}")
                run["next"] += 1  # its phase was over
                save()
            if run["next"] == len(run["plan"]):
                process.wait()
                break
            kill = run["plan"][run["next"]]
            if kill["alone"]:
                kill_alone(process)
            else:
                end_session(process.pid)
                process.wait()
            kill["cut_writes"] = len(leftovers(workdir))
            run["killed"].append(kill)
            run["next"] += 1
            save()
        except BaseException:
            end_session(process.pid)
            raise
        finally:
            events.close()
    run_to_end(workdir, options)


def leftovers(workdir):
    """Temporary files of writers."""
    return [path for path in workdir.rglob(".*.tmp") if path.is_file()]


def digests(workdir):
    """SHA-256 of everything that is compared: path -> hex digest."""
    paths = [path for path in workdir.rglob("*") if path.name in COMPARED or path.name.endswith(".ark")]
    return {str(path.relative_to(workdir)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths)}


def check(workdir, options, expected):
    """Compare a finished run with the undisturbed one. Raises: Failure."""
    found = digests(workdir)
    differ = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    if differ:
        raise Failure(f"{workdir}: {len(differ)} of {len(expected)} files differ: {', '.join(differ[:10])}")
    litter = [*leftovers(workdir), *workdir.rglob("checkpoints"), *workdir.rglob("rounds"), *workdir.rglob("*.started")]
    if litter:
        raise Failure(f"{workdir}: left behind: {', '.join(map(str, litter[:10]))}")
    before = (workdir / "run.log").stat().st_size
    run_to_end(workdir, options)
    if b": running" in (workdir / "run.log").read_bytes()[before:]:
        raise Failure(f"{workdir}: a run after the last still found something to do")


def parse_args(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="kills in all (default: 20)")
    parser.add_argument("--runs", type=int, metavar="R", help="runs they are spread over, at least (default: N / 20)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of moments and kinds (default: 0)")
    parser.add_argument("--stages", default="0-8", metavar="A-B", help="stages of run.sh (default: 0-8)")
    parser.add_argument("--models", default=MODELS, metavar="NAMES", help=f"models of the chain (default: {MODELS})")
    parser.add_argument("--nj", type=int, default=2, metavar="N", help="jobs at a time (default: 2)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--workdir", type=Path, required=True, metavar="DIR", help="runs and progress go here")
    options = parser.parse_args(words)
    options.runs = options.runs or max(1, options.kills // 20)
    return options


def all_runs(options, state, save):
    """Make the undisturbed run and as many disturbed ones as are needed. Raises: Failure."""
    reference = options.workdir / "reference"
    if not state["reference"]:
        run_to_end(reference, options)
        state["reference"] = digests(reference)
        save()
    while True:
        killed = sum(len(run["killed"]) for run in state["runs"])
        unfinished = [run for run in state["runs"] if not run["done"]]
        if not unfinished:
            if killed >= options.kills and len(state["runs"]) >= options.runs:
                return
            number = len(state["runs"]) + 1
            count = -(-(options.kills - killed) // max(1, options.runs - number + 1))
            plan = plan_kills(options.seed, number, max(count, 1))
            state["runs"].append({"number": number, "plan": plan, "next": 0, "killed": [], "done": False})
            save()
            continue
        (run,) = unfinished
        workdir = options.workdir / f"run-{run['number']:02d}"
        disturb(workdir, options, run, save)
        check(workdir, options, state["reference"])
        run["done"] = True
        save()
        shutil.rmtree(workdir)
        print(f"run {run['number']}: {len(run['killed'])} kills, identical", flush=True)


def summary(state):
    """What was done, in two lines."""
    kills = [kill for run in state["runs"] for kill in run["killed"]]
    kinds = ", ".join(f"{sum(kill['kind'] == kind for kill in kills)} in {kind}" for kind in KINDS)
    alone, cut = sum(kill["alone"] for kill in kills), sum(bool(kill["cut_writes"]) for kill in kills)
    done = sum(run["done"] for run in state["runs"])
    head = f"{kinds}; {alone} of run.sh alone; {cut} cut a write; {len(state['reference'])} files compared"
    return f"{head}\n{done}/{len(state['runs'])} runs, {len(kills)} kills"


def main(words=None):
    options = parse_args(words)
    options.workdir = options.workdir.resolve()
    options.workdir.mkdir(parents=True, exist_ok=True)
    path = options.workdir / "state.json"
    state = json.loads(path.read_text()) if path.is_file() else {"reference": {}, "runs": []}

    def save():
        path.with_suffix(".tmp").write_text(json.dumps(state, indent=1))
        os.replace(path.with_suffix(".tmp"), path)

    try:
        all_runs(options, state, save)
    except Failure as failure:
        print(f"{summary(state)}, NOT as promised: {failure}", flush=True)
        return 1
    print(f"{summary(state)}, identical", flush=True)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
