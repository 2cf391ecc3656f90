"""Makes one wrong change at a time in a copy of the tree and runs the tests that should notice it.

    python3 -m tests.mutate                   # all of tests/mutants
    python3 -m tests.mutate --only average    # those with this in their name

A mutant is a patch in tests/mutants: `# tests:` and the pytest arguments that should fail with it, `# wrong:` and what the
change breaks, then hunks without line numbers, so that a patch survives code that moves within its file. The old lines of
a hunk must stand in the file exactly once.

First the same tests must pass without any change. `killed`: a test failed. `SURVIVED`: all passed. `NO VERDICT`: they
could not be run (the file does not even import, a fixture failed, over the time limit). Exit status 1 unless all are killed.
"""

import argparse
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOT_COPIED = {"data", "exp", "downloads"}  # of the top level: what runs leave there
LIMIT_S = 1200
# Processes are forked from one that has imported these, which otherwise takes longer than most tests.
CONTEXT = multiprocessing.get_context("forkserver")
LIBRARIES = ["torch", "torch.utils.tensorboard", "torchaudio.compliance.kaldi", "safetensors.torch", "scipy.stats"]
LIBRARIES += ["scipy.signal", "onnx", "onnxruntime", "sentencepiece", "soundfile", "kaldiio", "jiwer", "yaml", "pytest"]


@dataclass(frozen=True)
class Mutant:
    """One wrong change. tests: arguments of pytest.   edits: (file, old lines, new lines), each replaced once."""

    name: str
    tests: tuple[str, ...]
    wrong: str
    edits: tuple[tuple[str, str, str], ...]


def read_mutant(path: Path) -> Mutant:
    """Read a patch. Raises: ValueError naming the line that is no part of one."""
    heads, file = {"tests": "", "wrong": ""}, ""
    edits: list[tuple[str, list[str], list[str]]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        word, _, rest = line.removeprefix("# ").partition(": ")
        if not edits and line.startswith("# ") and word in heads:
            heads[word] = f"{heads[word]} {rest}".strip()
        elif line.startswith(("--- a/", "+++ b/")):
            file = line[6:]
        elif line.startswith("@@") and file:
            edits.append((file, [], []))
        elif edits and line[:1] in ("", " ", "-", "+"):
            _, old, new = edits[-1]
            for side, of_the_other in ((old, "+"), (new, "-")):
                if line[:1] != of_the_other:
                    side.append(f"{line[1:]}\n")
        else:
            raise ValueError(f"{path}:{number}: neither a head nor a line of a hunk: {line!r}")
    if not edits or not all(heads.values()):
        raise ValueError(f"{path}: needs `# tests:`, `# wrong:` and a hunk")
    joined = tuple((name, "".join(old), "".join(new)) for name, old, new in edits)
    return Mutant(path.stem, tuple(heads["tests"].split()), heads["wrong"], joined)


def mutated(root: Path, mutant: Mutant) -> dict[str, str]:
    """The files that a mutant changes, {name: text}. Raises: ValueError when a hunk does not fit at exactly one place."""
    texts: dict[str, str] = {}
    for file, old, new in mutant.edits:
        text = texts.get(file) or (root / file).read_text(encoding="utf-8")
        places = [match.start() for match in re.finditer(f"(?m)^{re.escape(old)}", text)] if old else []
        if len(places) != 1:
            raise ValueError(f"{mutant.name}: its old lines are {len(places)} times in {file}, not once:\n{old}")
        texts[file] = text[: places[0]] + new + text[places[0] + len(old) :]
    return texts


def copy_tree(root: Path, to: Path) -> None:
    """Copy what the tests need: everything but hidden files and what runs leave behind."""
    for path in root.iterdir():
        if path.name.startswith(".") or path.name in NOT_COPIED:
            continue
        if path.is_dir():
            shutil.copytree(path, to / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(path, to)


def _pytest_in(folder: str, tests: Sequence[str], log: str) -> None:
    """In a process of its own: run tests in a copy of the tree and exit with pytest's status."""
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)
    os.environ |= {"PYTHONPATH": folder, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    sys.path[:] = [folder, *(path for path in sys.path if path not in ("", str(ROOT)))]
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "steps")]:
        del sys.modules[name]  # those of the tree itself
    import pytest

    sys.exit(int(pytest.main(["-q", "-x", "--tb=line", "-p", "no:cacheprovider", *tests])))


def run_tests(root: Path, tests: Sequence[str], texts: dict[str, str] | None = None) -> tuple[int | None, str]:
    """Run tests in a copy of the tree. Args: texts: {file: text} to put into it.  Returns: pytest's status, its output."""
    with tempfile.TemporaryDirectory(prefix="mutant.") as temporary:
        folder, log = Path(temporary) / "tree", Path(temporary) / "log"
        folder.mkdir()
        copy_tree(root, folder)
        for file, text in (texts or {}).items():
            (folder / file).write_text(text, encoding="utf-8")
        process = CONTEXT.Process(target=_pytest_in, args=(str(folder), tests, str(log)))
        process.start()
        process.join(LIMIT_S)
        if process.is_alive():
            process.kill()
            process.join()
            return None, f"over {LIMIT_S} s"
        return process.exitcode, log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""


def judge(root: Path, mutant: Mutant) -> tuple[str, str]:
    """Run what should notice a mutant. Returns: killed, SURVIVED or NO VERDICT; the test that failed, or why there is none."""
    status, output = run_tests(root, mutant.tests, mutated(root, mutant))
    failed = re.search(r"^FAILED (\S+)", output, re.M)
    if status == 1 and failed:
        return "killed", failed[1]
    return ("SURVIVED", "") if status == 0 else ("NO VERDICT", "\n".join(output.strip().splitlines()[-5:]))


def read_all(folder: Path, only: str = "") -> list[Mutant]:
    """The mutants of a folder whose name holds `only`, by name."""
    return [read_mutant(path) for path in sorted(folder.glob("*.patch")) if only in path.stem]


def mutate(root: Path, mutants: Sequence[Mutant], jobs: int) -> int:
    """Judge all, print a line for each and the sum. Returns: how many were not killed; -1 when the tests fail unchanged."""
    began_s = time.monotonic()
    tests = sorted({test for mutant in mutants for test in mutant.tests})

    def one(mutant):
        start_s = time.monotonic()
        verdict, detail = judge(root, mutant)
        print(f"{verdict:10} {time.monotonic() - start_s:6.1f} s  {mutant.name}  {detail}", flush=True)
        return verdict == "killed"

    with ThreadPoolExecutor(jobs) as pool:
        shares = [tests[start::jobs] for start in range(min(jobs, len(tests)))]
        for status, output in pool.map(lambda share: run_tests(root, share), shares):
            if status != 0:
                print(output, "the tests fail without any change; mend them first", sep="\n")
                return -1
        print(f"without any change all pass, {time.monotonic() - began_s:.0f} s", flush=True)
        killed = sum(pool.map(one, mutants))
    print(f"{killed} of {len(mutants)} killed, {(time.monotonic() - began_s) / 60:.1f} min")
    return len(mutants) - killed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="only mutants with this in their name")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants at a time (default: one a processor)")
    args = parser.parse_args()
    try:
        mutants = read_all(ROOT / "tests/mutants", args.only)
        for mutant in mutants:
            mutated(ROOT, mutant)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if not mutants:
        parser.error(f"no mutant has {args.only!r} in its name")
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    CONTEXT.set_forkserver_preload(LIBRARIES)
    return 1 if mutate(ROOT, mutants, args.jobs) else 0


if __name__ == "__main__":
    sys.exit(main())
