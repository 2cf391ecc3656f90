"""A recipe of its own for run.sh, with a stand-in runner that only makes the files of each program."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

RECIPE = """
prepare='prepare_it --corpus-dir $corpus_dir --seed $seed --jobs $nj'
test_sets="test other"
lexicon=true
teachers=big
chain="
big      -     train_teacher    big.yaml
# a remark
small    big   distill_student  small.yaml
cut      big   prune_model      small.yaml
cut_int8 cut   quantize_model   small.yaml
"
"""

RUNNER = """
import os, sys
words = sys.argv[1:]
open("RAN", "a").write(" ".join(words) + "\\n")
option = lambda name: words[words.index(name) + 1]
def make(folder, *names):
    for name in names:
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "w").write("| table |\\n")
known = ("steps.", "utils/perturb", "utils/validate", "utils/combine", "local/filter", "local/leaks", "prepare_it")
program = next(word for word in words if word.startswith(known))
if program == "prepare_it":
    names = [f"{s}/{f}" for s in ("train", "dev", "test", "other", "more") for f in ("wav.scp", "text")]
    make(option("--out"), "words.txt", *names)
elif program == "local/filter_transcripts.py":
    make(option("--out"), "text", "wav.scp", "transcripts.json")
elif program == "steps.cut_recordings":
    make(option("--out"), "text", "wav.scp")
elif program == "utils/combine_data_dir.py":
    make(words[words.index(program) + 1], "text", "wav.scp")
elif program == "steps.combine_features":
    make(option("--data"), "feats.scp", "utt2num_frames", "cmvn.json")
elif program == "steps.train_tokenizer":
    make(option("--out"), "tokenizer.model", "tokens.txt")
elif program == "steps.choose_sizes":
    make(option("--out"), "tokenizer.yaml", "teacher.yaml", "student.yaml", "recover_cut.yaml", "summary.txt")
elif program == "steps.train_lm":
    make(option("--out"), "lm.arpa")
elif program in ("steps.train_teacher", "steps.distill_student", "steps.prune_model", "steps.quantize_model"):
    make(option("--out"), "model.json", "model.safetensors")
elif program == "steps.combine_labels":
    make(option("--labels"), "labels.json")
elif program == "steps.export_model":
    make(option("--out"), "SHA256SUMS", "model.onnx", "tokens.txt", "features.yaml")
elif program == "steps.decode":
    make(option("--out"), "greedy.txt")
elif program == "steps.stress":
    make(option("--out"), "noise.json")
elif program == "steps.score":
    make(option("--decode"), "score_greedy.json")
elif program == "steps.benchmark":
    make(os.path.dirname(option("--out")), "benchmark.json")
elif program == "steps.report":
    make(option("--out"), "report.html", "report.md", "RESULTS.md", "results.json")
"""


class Bench:
    """A recipe of its own, outside the repository, and a runner that only pretends."""

    def __init__(self, folder, name="my recipe"):
        self.folder, self.recipe = folder, folder / name
        (self.recipe / "conf").mkdir(parents=True)
        for name in ("big", "small", "features", "tokenizer", "decode"):
            (self.recipe / f"conf/{name}.yaml").write_text(f"name: {name}\n")
        self.write_recipe(RECIPE)
        (folder / "runner.py").write_text(RUNNER.replace('"RAN"', repr(str(folder / "RAN"))))
        (folder / "corpus").mkdir()

    def write_recipe(self, text):
        (self.recipe / "recipe.sh").write_text(text)

    def run(self, *options, status=0):
        """Run run.sh; returns (command lines given to the runner, everything printed)."""
        (self.folder / "RAN").unlink(missing_ok=True)
        words = ["--recipe", str(self.recipe), "--cmd", f"{self.folder}/runner.py", *options]
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        pipes = {"capture_output": True, "text": True, "timeout": 60}
        done = subprocess.run([ROOT / "run.sh", *words], cwd=self.folder, env=environment, **pipes)
        assert done.returncode == status, done.stdout + done.stderr
        ran = self.folder / "RAN"
        return ran.read_text().splitlines() if ran.exists() else [], done.stdout + done.stderr
