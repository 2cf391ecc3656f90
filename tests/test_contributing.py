"""CONTRIBUTING.md tells the truth: a toy of every kind is added in just the places it names, and the rest works with it."""

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from steps import decode
from steps.core.config import save_config
from steps.core.datadir import Utterance, write_data_dir
from steps.data.batches import Batch
from steps.data.feature_config import FeatureConfig
from steps.deploy import graphs, runtimes
from steps.deploy.export import export_folder
from steps.deploy.graphs.ctc import CtcGraphs
from steps.deploy.runtimes import Runtime, load_recogniser
from steps.models import encoder, heads
from steps.models.axes import AxisGroup, Member
from steps.models.build import build_model, load_model, new_spec, save_model
from steps.models.conformer import fill_blocks
from steps.models.heads.ctc import CtcConfig, CtcHead
from steps.models.subsampling import Conv2dSubsampling
from steps.training.distill_config import DistillConfig
from steps.training.loop import LoopConfig, Trainer
from steps.training.objectives import DistillObjective, TranscriptObjective
from steps.training.optim import OptimConfig
from steps.training.teachers import check_fit
from steps.training.teaching import Taught

ROOT = Path(__file__).resolve().parents[1]
TOKENS = ["<blk>", "<unk>", "\u2581", *"abcd"]
FEATURES = FeatureConfig(num_mel_bins=20)
DNN = {"d_model": 16, "context": 3, "num_blocks": 2, "block": {"units": 24}}


@dataclass
class ToyBlockConfig:
    units: int = 16


@dataclass
class ToyConfig:
    d_model: int = 16
    dropout: float = 0.0
    num_blocks: int = 2
    block: ToyBlockConfig | None = None
    blocks: list[ToyBlockConfig] = field(default_factory=list)

    def __post_init__(self):
        fill_blocks(self, ToyBlockConfig)


class ToyBlock(nn.Module):
    """Two Linears on each frame alone."""

    look_ahead = 0

    def __init__(self, config, block):
        super().__init__()
        self.up, self.down = nn.Linear(config.d_model, block.units), nn.Linear(block.units, config.d_model)

    def forward(self, x, context):
        return x + self.down(self.up(x).tanh()).masked_fill(context.is_pad.unsqueeze(-1), 0.0)

    def axis_groups(self):
        members = (Member("up.weight", 0), Member("up.bias", 0), Member("down.weight", 1))
        return [AxisGroup("units", "units", self.up.out_features, ("units",), members)]


class ToyHead(CtcHead):
    """CTC whose layers have names of their own."""

    name = "toy"

    def layers(self, d_model, vocab_size, sizes):
        return {"units": nn.Linear(d_model, vocab_size)}

    def classify(self, model, hidden):
        return model.units(hidden).float().log_softmax(dim=-1)


def make(kind="dnn", sizes=DNN, head="ctc", seed=0):
    torch.manual_seed(seed)
    return build_model(new_spec(kind, sizes, FEATURES.dim, len(TOKENS), "test", head=head)).eval()


def save(folder, model):
    """Write a model folder. Returns: it."""
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(b"not read")
    (folder / "tokens.txt").write_text("".join(f"{token} {i}\n" for i, token in enumerate(TOKENS)), encoding="utf-8")
    save_config(folder / "features.yaml", FEATURES)
    save_model(folder, model, {name: folder / name for name in ("tokenizer.model", "tokens.txt", "features.yaml")})
    return folder


@pytest.fixture
def batch():
    random = torch.Generator().manual_seed(1)
    feats = torch.randn(2, 60, FEATURES.dim, generator=random)
    return Batch(["a", "b"], feats, torch.tensor([60, 45]), torch.tensor([[3, 4, 4], [5, 6, 0]]), torch.tensor([3, 2]))


def train(model, objective, batch, out, updates=20):
    """A few updates of the one loop. Returns: losses by term, one list each."""
    loop, optim = LoopConfig(epochs=1), OptimConfig(peak_lr=1e-2)
    stop, cpu = SimpleNamespace(poll=lambda: 0), torch.device("cpu")
    trainer = Trainer(model, objective, None, None, None, loop, optim, None, out, 0, cpu, stop)
    seen = {}
    trainer.monitor.update = lambda step, epoch, done, sums, *rest: [
        seen.setdefault(k, []).append(v) for k, v in sums.items()
    ]
    for _ in range(updates):
        trainer.update([batch], progress=0.3)
    return seen


def check_whole(folder, model):
    """A model trains elsewhere; here: it is saved, loaded, exported, and the export says what the model says."""
    save(folder, model.eval())
    assert load_model(folder).spec["type"] == model.kind
    export_folder(folder, folder / "export")
    feats = np.random.default_rng(0).standard_normal((80, FEATURES.dim)).astype(np.float32)
    texts = [load_recogniser(place).recognise(feats, "u") for place in (folder, folder / "export")]
    assert texts[0] == texts[1]


def test_an_architecture(monkeypatch, batch, tmp_path):
    def frontend(config, feature_dim):
        return Conv2dSubsampling(feature_dim, [4, 4], config.d_model)

    monkeypatch.setitem(encoder.KINDS, "toy", encoder.Kind(ToyConfig, ToyBlock, frontend))
    model = make("toy", {"d_model": 16, "num_blocks": 2})
    assert model.look_ahead() == 3 and {group.kind for group in model.axis_groups()} == {"subsampling", "units"}
    losses = train(model, TranscriptObjective(CtcConfig(), model), batch, tmp_path / "t")["ctc"]
    assert losses[-1] < 0.7 * losses[0]
    check_whole(tmp_path / "m", model)


def test_a_head(monkeypatch, batch, tmp_path):
    monkeypatch.setitem(heads.HEADS, "toy", ToyHead())
    monkeypatch.setitem(graphs.GRAPHS, "toy", CtcGraphs())
    model = make(head="toy")
    assert model.spec["head"] == "toy" and "units.weight" in model.state_dict()
    losses = train(model, TranscriptObjective(CtcConfig(), model), batch, tmp_path / "t")["ctc"]
    assert losses[-1] < 0.7 * losses[0]
    check_whole(tmp_path / "m", model)


def test_a_loss(batch, tmp_path):
    def confidence_sum(log_probs):
        """Negative entropy, summed over frames."""
        return (log_probs.exp() * log_probs).sum()

    class Confident(TranscriptObjective):
        def forward(self, model, batch, lesson=None, share=None):
            hidden, _ = model.encode(batch.feats, batch.lengths)
            return super().forward(model, batch) | {"toy": 0.1 * confidence_sum(model.classify(hidden[-1]))}

    model = make()
    seen = train(model, Confident(CtcConfig(), model), batch, tmp_path / "t", updates=5)
    assert set(seen) == {"ctc", "toy"} and all(value < 0 for value in seen["toy"])


def test_a_teacher(batch, tmp_path):
    class Oracle:
        """Is sure of one unit."""

        name, features, vocabulary, frame_shift_ms, depth, width = "oracle", FEATURES, TOKENS, 40.0, 0, 0

        def teach(self, feats, lengths):
            student = make()
            frames = int(student.output_lengths(torch.tensor([feats.shape[1]])))
            log_probs = torch.full((len(feats), frames, len(TOKENS)), -9.0)
            log_probs[:, :, 5] = 0.0
            return Taught(log_probs.log_softmax(dim=-1), student.output_lengths(lengths), [])

    student = make()
    check_fit(Oracle(), TOKENS, FEATURES)
    objective = DistillObjective(DistillConfig(kl_weight=1.0), student, [Oracle()], CtcConfig())
    train(student, objective, batch, tmp_path / "t", updates=40)
    log_probs, lengths = student.eval()(batch.feats, batch.lengths)
    assert (log_probs[0, : lengths[0]].argmax(dim=-1) == 5).all()


PROGRAM = '''
"""Halve the output layer."""
import sys
from pathlib import Path
from steps.core.cli import add_common, make_parser, run_main
from steps.models.build import CARRIED, load_model, save_model


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--model", required=True)
    add_common(parser, config=True, out="model folder to write")
    args = parser.parse_args()
    model = load_model(args.model)
    model.output.weight.data.mul_(0.5)
    save_model(args.out, model, {name: Path(args.model) / name for name in CARRIED}, parent=args.model)


if __name__ == "__main__":
    sys.exit(run_main(main))
'''
RECIPE = """
prepare="true"
test_sets="test"
teachers=
chain="
big   -    train_teacher  teacher.yaml
small big  halve_model    toy.yaml
"
"""


def test_a_compression_step(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("run.sh", "utils", "conf"):
        (tree / name).symlink_to(ROOT / name)
    (tree / "utils").unlink()
    for folder in ("steps", "utils"):
        (tree / folder).mkdir()
        for path in (ROOT / folder).iterdir():
            (tree / folder / path.name).symlink_to(path)
    (tree / "run.sh").unlink()
    (tree / "run.sh").write_bytes((ROOT / "run.sh").read_bytes())
    (tree / "run.sh").chmod(0o755)
    (tree / "steps/halve_model.py").write_text(PROGRAM)
    table = (ROOT / "utils/chain.sh").read_text()
    (tree / "utils/chain.sh").unlink()
    (tree / "utils/chain.sh").write_text(
        table.replace("\nquantize_model", "\nhalve_model 6 never model\nquantize_model")
    )
    recipe = tree / "recipes/toy"
    recipe.mkdir(parents=True)
    (recipe / "recipe.sh").write_text(RECIPE)
    (recipe / "toy.yaml").write_text("{}\n")
    done = subprocess.run(["./run.sh", "--recipe", "toy", "--dry-run"], cwd=tree, capture_output=True, text=True)
    assert "stage 6 small: would run" in done.stdout, done.stdout + done.stderr
    command = "steps.halve_model --model exp/toy/big --config recipes/toy/toy.yaml --out exp/toy/small"
    assert command in done.stdout
    save(tmp_path / "m", make())
    words = [
        "-m",
        "steps.halve_model",
        "--model",
        tmp_path / "m",
        "--config",
        recipe / "toy.yaml",
        "--out",
        tmp_path / "s",
    ]
    subprocess.run([sys.executable, *map(str, words)], cwd=tree, check=True, capture_output=True)
    small, big = load_model(tmp_path / "s"), load_model(tmp_path / "m")
    assert torch.equal(small.output.weight, big.output.weight / 2) and small.spec["parent"]["name"] == "m"
    export_folder(tmp_path / "s", tmp_path / "s/export")


def test_a_runtime(monkeypatch, tmp_path):
    class Parrot:
        """Says how many frames it was given."""

        hears, kinds, features = "features", ("greedy",), FEATURES

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def recognise(self, heard, name):
            return {"greedy": f"{len(heard)} frames"}

        def use_words(self, words_file, folder, word_score=0.0):
            return None

    row = Runtime(("numpy",), reads="export", open=lambda folder, device, threads, prefix: Parrot())
    monkeypatch.setitem(runtimes.RUNTIMES, "parrot", row)
    save(tmp_path / "m", make())
    export_folder(tmp_path / "m", tmp_path / "m/export")
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    write_data_dir(tmp_path / "data", [Utterance("s-1", "s", "a", str(tmp_path / "a.wav"), duration_s=1.0)])
    words = ["decode", "--model", tmp_path / "m/export", "--data", tmp_path / "data", "--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", [*map(str, words), "--runtime", "parrot", "--device", "cpu"])
    decode.main()
    assert (tmp_path / "out/greedy.txt").read_text() == "s-1 100 frames\n"


READER = '''
"""Read a folder of files called WORD.wav."""
import sys
from pathlib import Path

sys.path.insert(0, {root!r})

from steps.core.cli import add_common, make_parser, run_main
from steps.core.datadir import Utterance, write_data_dir


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--corpus-dir", required=True, type=Path)
    add_common(parser, out="folder of the data sets")
    args = parser.parse_args()
    for name in ("train", "dev", "test"):
        paths = sorted((args.corpus_dir / name).glob("*.wav"))
        utterances = [Utterance(f"{{name}}-{{p.stem}}", name, p.stem, str(p), duration_s=1.0) for p in paths]
        write_data_dir(Path(args.out) / name, utterances)


if __name__ == "__main__":
    sys.exit(run_main(main))
'''


def test_a_corpus(tmp_path):
    recipe = tmp_path / "words"
    recipe.mkdir()
    (recipe / "prepare.py").write_text(READER.format(root=str(ROOT)))
    for name in ("train", "dev", "test"):
        (tmp_path / "corpus" / name).mkdir(parents=True)
        soundfile.write(tmp_path / f"corpus/{name}/yes.wav", np.zeros(16000), 16000)
    (recipe / "recipe.sh").write_text(
        'prepare="python3 $recipe_dir/prepare.py --corpus-dir \\$corpus_dir"\ntest_sets=test\n'
        'teachers=\nchain="big - train_teacher teacher.yaml"\n'
    )
    words = ["./run.sh", "--recipe", str(recipe), "--corpus-dir", str(tmp_path / "corpus"), "--stop-stage", "0"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (recipe / "data/words/test/text").read_text() == "test-yes yes\n"


def test_the_page_names_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = {
        word.strip("`.,;:()")
        for word in text.split()
        if word.strip("`.,;:()").startswith(("steps/", "utils/", "tests/", "local/"))
    }
    real = {name for name in named if "NAME" not in name and "VERB" not in name}
    assert len(real) > 10 and [name for name in real if not (ROOT / name).exists()] == []
