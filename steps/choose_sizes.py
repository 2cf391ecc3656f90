"""Choose sizes of models, updates, masks, batches and units for a corpus, from a table, and write them as settings files.

    python3 -m steps.choose_sizes --data data/mine/train_sp --text data/mine/train --features conf/features.yaml \\
        --line teacher:teacher: --line student:student: --time-budget 30m --out exp/mine/sizes

`./run.sh --sizes auto` runs it after the features. A few real updates are timed. A time budget is for all trainings of the chain,
one after the other; where the table's updates do not fit, fewer are planned. Files that are there are kept, whoever wrote them;
summary.txt shows everything.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import yaml

from steps.core.cli import UserError, add_common, make_parser, run_main, say
from steps.core.config import ConfigError, load_config, read_yaml, to_dict
from steps.core.copies import is_copy
from steps.core.datacheck import audio_info
from steps.core.datadir import Utterance, read_data_dir
from steps.core.outdir import write_json, write_text
from steps.core.tables import counted, read_table
from steps.data.feature_config import FeatureConfig
from steps.data.statistics import summarise
from steps.scoring.sources import read_json
from steps.training.distributed import choose_device
from steps.training.sizes import ROLES, Choice, Facts, Line, Table, choose, parse_budget
from steps.training.timing import Timer

# Sound files that are opened for their rate.
OPENED = 20


def main() -> None:
    args = parse_args()
    table, features = load_config(Table, args.config), load_config(FeatureConfig, args.features)
    lines = [parse_line(text) for text in args.line]
    spoken = read_data_dir(args.text, check_audio=False)
    # copies for more weight are no more speech
    ids = {utt.utt_id for utt in spoken}
    spoken = [utt for utt in spoken if not is_copy(utt.utt_id, ids)]
    facts = look(args, spoken, features)
    budget_s = parse_budget(args.time_budget) if args.time_budget else None
    request = {
        "table": to_dict(table),
        "lines": [dataclasses.asdict(line) for line in lines],
        "time_budget_s": budget_s,
    }
    request |= {"facts": dataclasses.asdict(facts) | {"frames": [len(facts.frames), sum(facts.frames)]}}
    out = Path(args.out)
    record = recall(out / "sizes.json", request)
    if record is None:
        record = {"request": request, **dataclasses.asdict(choose(table, facts, lines, budget_s, Timer(args)))}
        write_json(out / "sizes.json", record)
    choice = Choice(**{key: value for key, value in record.items() if key != "request"})
    kept = [name for name, content in choice.files.items() if not write_new(out / name, content, choice)]
    heads = describe(spoken, facts, features) + explain(choice, budget_s)
    heads += [f"{out / name} was there and is used as it is" for name in kept]
    shown = "".join(f"\n{out / name}:\n{(out / name).read_text(encoding='utf-8')}" for name in choice.files)
    write_text(out / "summary.txt", "".join(f"{line}\n" for line in heads) + shown)
    say((out / "summary.txt").read_text(encoding="utf-8"))


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="training data folder with features, copies included"
    )
    parser.add_argument("--text", required=True, metavar="DIR", help="the same without copies at other speeds")
    parser.add_argument(
        "--features", required=True, metavar="YAML", help="feature settings the data was extracted with"
    )
    text = "a model that the chain trains: teacher, student, taught or recover; its name; settings that recover starts from"
    parser.add_argument("--line", required=True, action="append", metavar="ROLE:MODEL:YAML", help=text)
    parser.add_argument("--time-budget", metavar="TIME", help="for all trainings together, such as 30m (default: none)")
    add_common(parser, config="conf/sizes.yaml", out="folder of the settings files", seed=True, device=True)
    return parser.parse_args()


def parse_line(text: str) -> Line:
    """`student:student_kd:` or `recover:pruned:conf/prune.yaml`. Raises: UserError, ConfigError."""
    parts = text.split(":", 2)
    if len(parts) != 3 or parts[0] not in ROLES or not parts[1] or (parts[0] == "recover") != bool(parts[2]):
        raise UserError(f"--line: {text!r} is not ROLE:MODEL:YAML; roles: {', '.join(ROLES)}; only recover has a YAML")
    return Line(parts[0], parts[1], read_yaml(parts[2]) if parts[2] else {})


def look(args: argparse.Namespace, spoken: list[Utterance], features: FeatureConfig) -> Facts:
    """What is known of the corpus."""
    if missing := [utt.utt_id for utt in spoken if utt.duration_s is None]:
        raise UserError(f"{args.text}/utt2dur: no duration of {missing[0]}; stage 0 writes it")
    frames = [int(number) for number in read_table(Path(args.data) / "utt2num_frames").values()]
    stats = summarise(args.text, spoken, [])
    bins = features.num_mel_bins if features.kind == "fbank" else None
    device = choose_device(args.device).type
    return Facts(round(stats["hours"], 4), stats["speakers"], stats["distinct_words"], frames, bins, device)


def recall(path: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    """The choice that was made before, or None. Raises: ConfigError when it was for another request."""
    if not path.is_file():
        return None
    record = read_json(path)
    there = record.get("request", {})
    if changed := sorted(key for key in request if request[key] != there.get(key)):
        what = ", ".join(name.replace("_", " ") for name in changed)
        remedy = f"move {path.parent} away to choose anew, or go on without --sizes auto and with the files in it"
        raise ConfigError(f"{path}: was chosen for something else ({what}); {remedy}")
    return record


def write_new(path: Path, content: dict[str, Any], choice: Choice) -> bool:
    """Write a settings file unless there is one. Returns: whether it was written."""
    if path.exists():
        return False
    share = f"{100 * choice.share:.0f} % of the updates"
    head = f"# Chosen by --sizes auto: amount {choice.amount}, size {choice.size}, {share} in the table. Yours to change.\n"
    nested = any(isinstance(value, dict) for value in content.values())
    style = {"sort_keys": False, "allow_unicode": True, "default_flow_style": None if nested else False, "width": 120}
    write_text(path, head + yaml.safe_dump(content, **style))
    return True


def describe(spoken: list[Utterance], facts: Facts, features: FeatureConfig) -> list[str]:
    """What the corpus is, in sentences."""
    stats = summarise(facts.device, spoken, [])
    _, low, middle, high, _ = stats["spread"]["seconds"]
    rates = sorted({audio_info(utt.audio)[1] for utt in spoken[:: -(-len(spoken) // OPENED)]})
    lines = [
        f"{facts.hours:.2f} h of speech by {counted(facts.speakers, 'speaker')}, {counted(len(spoken), 'utterance')} of {middle:.1f} s "
        f"({low:.1f} to {high:.1f}), {counted(stats['distinct_words'], 'different word')}, "
        f"{counted(len(stats['characters']), 'character')}, {' and '.join(map(str, rates))} Hz, trained on {facts.device}",
    ]
    if rates[-1] < features.sample_rate_hz:
        lines.append(
            f"warning: features are made for {features.sample_rate_hz} Hz: set sample_rate_hz and num_mel_bins in features.yaml"
        )
    return lines


def explain(choice: Choice, budget_s: float | None) -> list[str]:
    """What was chosen, how long it takes, and whether a budget is kept, in sentences."""
    total_s = sum(choice.seconds.values())
    lines = [f"amount {choice.amount} of the table, size {choice.size}; measured: {choice.measured or 'nothing'}"]
    for name, took_s in choice.seconds.items():
        what = f"{choice.updates[name]:,} updates in {counted(choice.epochs[name], 'epoch')}"
        lines.append(f"  {name}: {what}, about {minutes(took_s)}")
    lines.append(f"  together about {minutes(total_s)}, if updates go on to take as long as those that were timed")
    if choice.share < 1:
        lines.append(
            f"the time budget leaves {100 * choice.share:.0f} % of the updates in the table; what that costs was not measured"
        )
    if budget_s is not None and not choice.kept:
        lines.append(
            f"warning: the time budget of {minutes(budget_s)} cannot be kept, not with the smallest size and fewest updates"
        )
    return lines


def minutes(seconds: float) -> str:
    """`12.5 min`."""
    return f"{seconds / 60:.1f} min"


if __name__ == "__main__":
    sys.exit(run_main(main))
