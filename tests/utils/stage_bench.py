"""A small experiment for the tests of utils/stage.py."""

import subprocess
import sys
from pathlib import Path

UTILS = Path(__file__).resolve().parents[2] / "utils"
STAGE = [sys.executable, "-I", "-S", str(UTILS / "stage.py"), "--exp", "exp/x", "--cmd", str(UTILS / "run.py")]


class Bench:
    """A folder with a corpus, settings and a plan of three tasks: prepare -> train -> score."""

    def __init__(self, folder):
        self.folder = folder
        self.write("corpus/a.txt", "speech")
        self.write("conf/train.yaml", "base: base.yaml\nsteps: 100\n# a remark\n")
        self.write("conf/base.yaml", "layers: 2\n")
        self.seed = "0"

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def plan(self):
        prepare = ["sh", "-c", "mkdir -p data; cat corpus/a.txt > data/wav.scp; echo prepare >> ran"]
        train = ["sh", "-c", "ls exp/x/model > seen; echo m > exp/x/model/model.json; echo train >> ran"]
        score = ["sh", "-c", "cat exp/x/model/model.json > exp/x/score; echo score >> ran"]
        return [
            *["::", "0", "prepare", "--needs", "corpus", "--makes", "data/wav.scp", "--", *prepare],
            *["::", "3", "model", "--needs", "data/wav.scp", "--conf", "conf/train.yaml"],
            *["--makes", "exp/x/model/model.json", "--replaces", "exp/x/model", "--log", "exp/x/model/train.log"],
            *["--runner", "--num-threads 2", "--", *train, "--seed", self.seed],
            *["::", "8", "score", "--needs", "exp/x/model/model.json", "--makes", "exp/x/score", "--", *score],
        ]

    def start(self, *options, plan=None):
        words = [*STAGE, *options, *(plan or self.plan())]
        return subprocess.Popen(words, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *options, plan=None, status=0):
        """Run and return (names of the tasks that ran, everything printed)."""
        (self.folder / "ran").unlink(missing_ok=True)
        process = self.start(*options, plan=plan)
        printed = "".join(process.communicate(timeout=30))
        assert process.returncode == status, printed
        ran = self.folder / "ran"
        return ran.read_text().split() if ran.exists() else [], printed
