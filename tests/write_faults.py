"""Let writing fail in every way, then look: no later run loads a bad file or takes something half-made for done.

    python3 -m tests.write_faults --cases 1000 --seed 0

Each case writes version 2 of something (a checkpoint, a model folder, features, stage marks, scores, a report) over
version 1 or over nothing, in a process of its own in which one write, fsync or rename fails, is cut short or is the last
thing done. Whatever is read afterwards must be version 1 or 2, whole, or be refused in words; writing again without a
fault must give version 2 and leave nothing else. Prints the count of bad loads; status 1 when there is one.
"""

import argparse
import itertools
import os
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import torch

from steps.core.cli import UserError
from tests import faults
from tests.write_fault_targets import TARGETS, BadLoad

FINE, TOLD, BROKEN = 0, 1, 2  # how a writer ended: well, with an error that names a file, otherwise


def in_child(function, log):
    """Run a function in a forked process. Returns: its exit status, negative: minus the signal that ended it."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    status = BROKEN
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        function()
        status = FINE
    except OSError as error:
        status = TOLD if error.filename else BROKEN
        traceback.print_exc()
    except UserError:
        status = TOLD
        traceback.print_exc()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def count_operations(target, folder):
    """How many writes, fsyncs and renames writing version 2 over version 1 takes."""
    target.write(folder, 1)

    def run():
        fault = faults.Fault("none", "error", 0)
        counts = Counter()
        fault.due = lambda operation: counts.update([operation]) or False
        faults.install(fault)
        target.write(folder, 2)
        (folder / "counts").write_text(" ".join(str(counts[name]) for name in faults.OPERATIONS))

    if in_child(run, folder / "log") != FINE:
        raise BadLoad(f"{target.name}: cannot be written without a fault\n{(folder / 'log').read_text()}")
    return dict(zip(faults.OPERATIONS, map(int, (folder / "counts").read_text().split()), strict=True))


def all_cases(draw, counts):
    """Every fault at every place, over version 1 and over nothing, in a drawn order, again and again. Yields: tuples."""
    cases = [
        (operation, kind, number, has_old)
        for operation in faults.OPERATIONS
        for kind in faults.KINDS
        if operation == "write" or kind != "short"
        for number in range(1, counts[operation] + 1)
        for has_old in (True, False)
    ]
    draw.shuffle(cases)
    return itertools.cycle(cases)


def run_case(target, fault, has_old, folder):
    """One case. Raises: BadLoad."""
    if has_old:
        target.write(folder / "it", 1)

    def run():
        faults.install(fault)
        target.write(folder / "it", 2)
        os._exit(10 if fault.fired else FINE)

    status = in_child(run, folder / "log")
    if status == BROKEN:
        raise BadLoad(f"an error that names no file\n{(folder / 'log').read_text()}")
    if status == 10 and fault.kind != "short":
        raise BadLoad("the error was passed over in silence")
    found = target.read(folder / "it")
    if found not in (None, 1, 2) or (found is None and has_old and target.keeps_old):
        raise BadLoad(f"read back: {found}")
    if status in (FINE, 10) and found != 2:
        raise BadLoad(f"ended well, but reads back as {found}")
    target.write(folder / "it", 2)
    if target.read(folder / "it") != 2:
        raise BadLoad("writing again did not mend it")
    if litter := [path.name for path in (folder / "it").rglob(".*.tmp")]:
        raise BadLoad(f"left behind: {litter}")


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000, metavar="N", help="cases in all (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of faults and places (default: 0)")
    parser.add_argument("--only", metavar="NAME", choices=[target.name for target in TARGETS], help="one writer alone")
    options = parser.parse_args(words)
    torch.set_num_threads(1)  # threads do not survive a fork
    draw, bad, done = random.Random(options.seed), [], Counter()
    targets = [target for target in TARGETS if options.only in (None, target.name)]
    with tempfile.TemporaryDirectory(prefix="write-faults-") as temp:
        cases = {}
        for target in targets:
            (Path(temp) / target.name).mkdir()
            cases[target.name] = all_cases(draw, count_operations(target, Path(temp) / target.name))
        for number in range(options.cases):
            target, folder = targets[number % len(targets)], Path(temp) / "case"
            folder.mkdir()
            *where, has_old = next(cases[target.name])
            fault = faults.Fault(*where)
            try:
                run_case(target, fault, has_old, folder)
            except (BadLoad, UserError, OSError) as error:
                bad.append(f"case {number}: {target.name}, {fault.kind} at {fault.operation} {fault.number}: {error}")
                print(bad[-1], flush=True)
            done[target.name] += 1
            shutil.rmtree(folder)
    print(f"{sum(done.values())} cases ({', '.join(f'{name} {n}' for name, n in done.items())}), {len(bad)} bad loads")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
