"""Put the results of a GPU check together: results.json, and results.md with the tables for people.

    python3 -m tests.gpu.report --work /tmp/gpu-check --out results

Reads what the sections left in --work: <section>.json, and sections.tsv with name, what became of it, and seconds. Standard
library only, so that it works wherever the check began.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

SPEED = ["teacher", "small_conformer", "large_conformer", "deterministic", "on_the_fly"]
# Seconds of audio a second, of small_conformer as conf/ has it, in bfloat16 on an H100.
GOAL, GOAL_FRAMES = 10_000, 36_000
KEEPS_UP = 0.95
# What each section left, by its name.
Results = dict[str, Any]


def read_json(path: Path) -> Any:
    """The content of a JSON file, or None."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def table(titles: list[str], rows: list) -> str:
    """A Markdown table, its first column text and the others numbers. Args: rows: lists; None becomes a dash."""
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)]]
    lines += [["-" if cell is None else str(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(value: float | None, form: str) -> str | None:
    """A number in a format, None as it is."""
    return None if value is None else format(value, form)


def speeds(results: Results) -> list[dict[str, Any]]:
    """Rows that were measured, of all sections."""
    rows = [row for name in SPEED for row in results.get(name) or []]
    return [row for row in rows if "audio_s_per_s" in row]


def speed_table(results: Results) -> list[str]:
    """How fast trainings run."""
    titles = [
        "settings",
        "parameters M",
        "precision",
        "features",
        "loader workers",
        "batch frames",
        "audio s/s",
        "ms/update",
    ]
    titles += ["waits for the loader", "padding", "memory GB", "TFLOP/s", "of bf16 peak"]
    cells = [
        [
            row["model"] + (", deterministic" if row["deterministic"] else ""), f"{row['parameters'] / 1e6:.2f}",
            row["precision"], row["source"], row["loader_workers"], row["max_batch_frames"],
            f"{row['audio_s_per_s']:,.0f}", f"{row['ms_per_update']:.1f}", f"{row['waiting_share']:.0%}",
            f"{row['padding_share']:.1%}", shown(row["memory_gb"], ".1f"), f"{row['tflops']:.2f}",
            shown(row["bf16_peak_share"], ".1%"),
        ]
        for row in speeds(results)
    ]  # fmt: skip
    failed = [row for name in SPEED for row in results.get(name) or [] if "error" in row]
    lines = [f"failed: {row['model']} {row['source']} {row['loop']}: {row['error'][:300]}" for row in failed]
    return [table(titles, cells), *lines]


def goal(results: Results) -> list[str]:
    """The goal and what was reached, and whether features on the fly keep up with that. Returns: lines."""
    own = [row for row in speeds(results) if row["model"] == "small_conformer" and not row["deterministic"]]
    own = [row for row in own if row["precision"] == "bf16" and row["max_batch_frames"] == GOAL_FRAMES]
    best = max((row["audio_s_per_s"] for row in own if row["source"] == "ark"), default=None)
    reached = "not measured here" if best is None else f"here {best:,.0f}"
    lines = [f"Goal: {GOAL:,} s of audio a second of small_conformer in bf16 on an H100; {reached}."]
    for row in results.get("on_the_fly") or []:
        if "features_audio_s_per_s_per_core" in row:
            lines.append(
                f"One core computes features of {row['features_audio_s_per_s_per_core']:,.0f} s of audio a second."
            )
    for row in own:
        if best and row["source"] == "on_the_fly":
            share = row["audio_s_per_s"] / best
            verdict = "keep up" if share >= KEEPS_UP else "do not keep up"
            lines.append(
                f"On the fly, {row['loader_workers']} workers {verdict}: {share:.0%} of the speed with stored features."
            )
    return lines


def limits(found: dict[str, Any]) -> list[str]:
    """Where the time of an update goes. Returns: lines."""
    spent = found.get("cpu_ms", {})
    lines = [
        f"An update of {found['model']} with {found['loader_workers']} loader workers takes {sum(spent.values()):.2f} ms:"
    ]
    lines.append(table(["part of the loop", "ms"], [[name, f"{ms:.2f}"] for name, ms in spent.items()]))
    if "gpu_busy_ms" in found:
        lines.append(
            f"GPU busy for {found['gpu_busy_ms']:.2f} ms, with {found['launched_per_update']:.0f} kernels and copies:"
        )
    for key, title in (("kernels", "on the GPU"), ("driver_calls", "calls of the driver, slower for being watched")):
        rows = [[f"`{name}`", f"{count:.1f}", f"{ms:.3f}"] for name, (count, ms) in found.get(key, {}).items()]
        lines += [table([title, "times", "ms"], rows)] if rows else []
    if "waits_per_update" in found:
        lines.append(table(["the CPU waits for the GPU at", "times"], list(found["waits_per_update"].items())))
    return lines + [f"failed: {error}" for error in found.get("errors", [])]


def machine(card: dict[str, Any]) -> list[str]:
    """Card, processor, versions. Returns: lines."""
    lines = []
    if "card" in card:
        peak = f"{card['peak_flops'] / 1e12:.0f} TFLOP/s" if card["peak_flops"] else "not listed in tests/gpu/card.py"
        lines.append(
            f"{card['card']}, {card['memory_gb']:.0f} GB; bf16 peak by its data sheet: {peak}; a large product reaches "
            f"{card['measured_bf16_tflops']:.0f} TFLOP/s, a large copy {card['measured_gb_per_s']:,.0f} GB/s."
        )
    versions = ", ".join(f"{key} {card[key]}" for key in ("python", "torch", "cuda", "cudnn") if card.get(key))
    return [
        *lines,
        f"{card['cores']} cores of {card['processor']}; {versions}; commit {card['commit']}, {card['date']}.",
    ]


def page(results: Results, title: str) -> str:
    """The whole report as Markdown."""
    blocks = [f"# GPU check{title and f': {title}'}", *(machine(results["card"]) if results.get("card") else [])]
    blocks.append(table(["section", "became", "s"], results["sections"]))
    blocks += [f"Tests: {results['tests']}"] if results.get("tests") else []
    if speeds(results):
        blocks += ["## Throughput of training", *speed_table(results), *goal(results)]
    for found in results.get("limits") or []:
        blocks += ["## What limits it", *limits(found)]
    if kills := results.get("kills"):
        blocks += [
            "## Kills",
            f"{kills['kills']} kills in deterministic mode, {kills['files']} files of every run identical.",
        ]
        kinds = [(kind, kills[kind]) for kind in ("teacher", "student")]
        blocks += [
            f"{kind}: after updates {facts['killed_after_updates']} of {facts['updates']}" for kind, facts in kinds
        ]
    return "\n\n".join(blocks) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--title", default="", metavar="TEXT", help="added to the title")
    args = parser.parse_args()
    sections = [line.split("\t") for line in (args.work / "sections.tsv").read_text().splitlines()]
    results = {path.stem: read_json(path) for path in sorted(args.work.glob("*.json"))} | {"sections": sections}
    log = args.work / "tests.log"
    results["tests"] = log.read_text().strip().rpartition("\n")[2] if log.is_file() else None
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    text = page(results, args.title)
    (args.out / "results.md").write_text(text)
    print(text)


if __name__ == "__main__":
    sys.exit(main())
