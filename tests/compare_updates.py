"""How long an update takes, beside another implementation, in turns within one process and on one thread.

    python3 -m tests.compare_updates --config recipes/an4/conf/teacher.yaml
    python3 -m tests.compare_updates --config conf/small_conformer.yaml --against ../slim-asr-before
    python3 -m tests.compare_updates --config conf/small_conformer.yaml --against-config /tmp/bf16.yaml

Ours is a whole update of `Trainer` as the settings say: criterion, gradient, clipping, optimizer. By default it stands beside
`torchaudio.models.Conformer` of the same sizes behind our front end, with CTC on its last block alone, clipping and fused AdamW,
which is less to do than our settings ask for. --against takes another checkout of this repository, --against-config other settings.
Times are CPU seconds of the process. Reported: the median of each side and of the ratios of neighbouring updates, with quartiles; and
the ratio of the fastest tenths, which other work on the machine disturbs least.
"""

import importlib
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import torch
import torchaudio

from steps.core.cli import make_parser, run_main, say

# as of AN4: log-mel bins, letters, frames and letters of an utterance of 3 s
FEATURE_DIM, VOCAB, FRAMES, TOKENS = 80, 28, 300, 18
# different ones, in turns
BATCHES = 4


def load_tree(root):
    """Import `steps` of a checkout, whatever was imported before; its modules stay usable. Returns: namespace of what is needed."""
    for name in [name for name in sys.modules if name == "steps" or name.startswith("steps.")]:
        del sys.modules[name]
    sys.path.insert(0, str(root))
    try:
        names = ["core.config", "models.build", "models.subsampling"]
        names += [f"training.{part}" for part in ("setup", "loop", "objectives")]
        return SimpleNamespace(**{n.split(".")[1]: importlib.import_module(f"steps.{n}") for n in names})
    finally:
        sys.path.pop(0)


def make_batch(tree, seconds, seed):
    """A batch of equal utterances. Args: seconds: of audio in all.  Returns: Batch."""
    rng = torch.Generator().manual_seed(seed)
    count = max(1, round(seconds * 100 / FRAMES))
    feats = torch.randn(count, FRAMES, FEATURE_DIM, generator=rng)
    tokens = torch.randint(1, VOCAB, (count, TOKENS), generator=rng)
    lengths = torch.full((count,), FRAMES)
    # by way of the loop: older checkouts define it elsewhere
    return tree.loop.Batch([f"u{i}" for i in range(count)], feats, lengths, tokens, torch.full((count,), TOKENS), 1.0)


def ours(tree, config_path, seconds):
    """An update of the training that `config_path` describes. Returns: function (number of the update), its model."""
    config = tree.config.load_config(tree.setup.TrainConfig, config_path)
    torch.manual_seed(0)
    model = tree.build.build_model(
        tree.build.new_spec(config.type, config.model, FEATURE_DIM, VOCAB, "train_teacher", str(config_path))
    )
    objective = tree.objectives.TranscriptObjective(getattr(config, model.head.name), model)
    trainer = tree.loop.Trainer(
        model, objective, None, None, None, config.loop, config.optim, None,
        tempfile.gettempdir(), 0, torch.device("cpu"), None,
    )  # fmt: skip
    batches = [make_batch(tree, seconds, number) for number in range(BATCHES)]
    return lambda number: trainer.update([batches[number % BATCHES]], progress=0.5), model


class TorchaudioCtc(torch.nn.Module):
    """torchaudio's Conformer between our front end and an output layer. Args: frontend: module.  config: a ConformerConfig."""

    def __init__(self, frontend, config):
        super().__init__()
        block = config.blocks[0]
        self.frontend = frontend
        self.encoder = torchaudio.models.Conformer(
            config.d_model, block.heads, block.ff1, len(config.blocks), config.kernel_size, config.dropout
        )
        self.output = torch.nn.Linear(config.d_model, VOCAB)

    def forward(self, feats, lengths):
        """Args: feats (N, T, D); lengths (N,) int64.  Returns: log-probabilities (N, T', V), lengths (N,)."""
        hidden, lengths = self.encoder(self.frontend(feats), self.frontend.output_lengths(lengths))
        return self.output(hidden).log_softmax(dim=-1), lengths


def theirs(tree, config_path, seconds):
    """An update of torchaudio's Conformer of the same sizes. Returns: function (number of the update), its model."""
    config = tree.config.load_config(tree.setup.TrainConfig, config_path)
    sizes = tree.config.from_dict(tree.build.KINDS["conformer"].config, config.model, str(config_path))
    torch.manual_seed(0)
    frontend = tree.subsampling.Conv2dSubsampling(FEATURE_DIM, sizes.subsampling_channels, sizes.d_model)
    model = TorchaudioCtc(frontend, sizes)
    batches = [make_batch(tree, seconds, number) for number in range(BATCHES)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.optim.peak_lr, weight_decay=0.01, fused=True)

    def update(number):
        batch = batches[number % BATCHES]
        log_probs, lengths = model.train()(batch.feats, batch.lengths)
        loss = torch.nn.functional.ctc_loss(
            log_probs.transpose(0, 1), batch.tokens, lengths, batch.token_lengths, reduction="sum"
        )
        (loss / lengths.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm).item()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return update, model


def time_in_turns(sides, updates):
    """CPU seconds of each update of each side. Args: sides: functions (number).  Returns: (updates, sides) list of lists."""
    rows = []
    for number in range(updates + 5):
        row = []
        for side in sides:
            began = time.process_time()
            side(number)
            row.append(time.process_time() - began)
        rows.append(row)
    return rows[5:]


def report(names, models, rows):
    """Say what was measured. Args: names, models: of both sides.   rows: of `time_in_turns`."""
    for name, model, times in zip(names, models, zip(*rows, strict=True), strict=True):
        size = sum(p.numel() for p in model.parameters())
        say(f"{name}: {size:,} parameters, {1000 * statistics.median(times):.1f} ms per update")
    low, middle, high = statistics.quantiles([own / other for own, other in rows], n=4)
    own, other = (statistics.quantiles(times, n=10)[0] for times in zip(*rows, strict=True))
    say(f"{names[0]} to {names[1]}: {middle:.3f} ({low:.3f} to {high:.3f}); fastest tenths: {own / other:.3f}")


def main():
    """Build both sides, time them, report."""
    parser = make_parser(__doc__)
    parser.add_argument("--config", required=True, metavar="YAML", help="settings of train_teacher")
    parser.add_argument("--against", default="torchaudio", metavar="DIR", help="another checkout (default: torchaudio)")
    parser.add_argument("--against-config", metavar="YAML", help="other settings of this checkout instead")
    parser.add_argument("--seconds", type=float, default=24.0, help="of audio per update (default: 24)")
    parser.add_argument("--updates", type=int, default=40, help="to time on each side (default: 40)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    here = load_tree(Path(__file__).resolve().parents[1])
    if args.against_config:
        name, (other, other_model) = args.against_config, ours(here, args.against_config, args.seconds)
    elif args.against == "torchaudio":
        name, (other, other_model) = args.against, theirs(here, args.config, args.seconds)
    else:
        name = args.against
        other, other_model = ours(load_tree(Path(args.against).resolve()), args.config, args.seconds)
    own, own_model = ours(here, args.config, args.seconds)
    rows = time_in_turns((own, other), args.updates)
    report((args.config, name), (own_model, other_model), rows)


if __name__ == "__main__":
    sys.exit(run_main(main))
