"""The result in words: the sentences on top of the report, and a card for every model that ships."""

from steps.scoring.compare import compressed_pairs
from steps.scoring.details import factor, interval_text, number
from steps.scoring.escape import code_block, markdown
from steps.scoring.markdown import speaker_lines
from steps.scoring.plot import pareto_front
from steps.scoring.results import UNITS, ResultRow, Results, rate_of
from steps.scoring.story import about, size
from steps.scoring.streaming import card_lines


def summary_sentences(results: Results, set_name: str) -> list[str]:
    """What to know about one test set, in three to five sentences."""
    rows = [row for row in results.rows if row.set == set_name]
    best = min(rows, key=lambda row: (row.scores["greedy"].wer_percent, row.bytes_shipped))
    small = min(rows, key=lambda row: (row.bytes_shipped, row.scores["greedy"].wer_percent))
    front = pareto_front([(row.bytes_shipped, row.scores["greedy"].wer_percent) for row in rows])
    names = [r.model for r in sorted(rows, key=lambda row: row.bytes_shipped)
             if (r.bytes_shipped, r.scores["greedy"].wer_percent) in front]  # fmt: skip
    sentences = [f"{set_name}: {best.model} makes the fewest errors, {rate(best)}, and ships {size(best)}."]
    sentences += speaker_lines(results, set_name)
    if small.model != best.model:
        times = best.bytes_shipped / small.bytes_shipped
        faster = ""
        if best.rtf_with_features and small.rtf_with_features:
            share = 100 * small.rtf_with_features / best.rtf_with_features
            faster = f" and takes {share:.0f} % of its computing time, features included"
        sentences.append(
            f"{small.model} ships {size(small)}, {times:{'.0f' if times >= 10 else '.1f'}} times less{faster}, with {rate(small)}."
        )
    sentences.append(f"No other model beats these in both errors and size: {', '.join(names)}.")
    found = [item for item in results.comparisons if item.set == set_name and item.kind == "greedy"]
    parents = compressed_pairs(rows)
    worse = [item.a for item in found if (item.a, item.b) in parents and item.difference.low > 0]
    if any((item.a, item.b) in parents for item in found):
        shown = (
            f"a loss against their parent is shown for {', '.join(worse)}"
            if worse
            else "no loss against a parent is shown"
        )
        power = [info.smallest_detectable for info in results.sets if info.name == set_name]
        few = "would be found in fewer than four of five such sets"
        limit = f"; one below {power[0]:.1f} points {few}" if power and power[0] else ""
        sentences.append(f"Of the compressed models, {shown}{limit}.")
    return sentences


def rate(row: ResultRow) -> str:
    """`17.6 % WER [13.1, 22.6]`, greedy."""
    score = row.scores["greedy"]
    return f"{score.wer_percent:.1f} % {score.rate} [{score.interval.low:.1f}, {score.interval.high:.1f}]"


def model_card(results: Results, model: str) -> str:
    """A card for one exported model, as Markdown."""
    rows = [row for row in results.rows if row.model == model]
    row = rows[0]
    kind = f"weights of {row.quantization_bits:g} bits" if row.quantization_bits else "float32"
    made_of = f", made of {markdown(row.parent)}" if row.parent else ""
    lines = [
        f"# {markdown(model)}\n",
        f"A speech recogniser of recipe {markdown(results.recipe)}, {kind}{made_of}.\n",
        *size_lines(row, results.device),
        "",
    ]
    for one in rows:
        lines += [f"## On {markdown(one.set)}\n", *set_lines(results, one), ""]
    lines += [
        "## Use and limits\n",
        *(f"- {title}: {markdown(text)}" for title, text in about(results) if title != "In noise"),
        "",
    ]
    facts = [("commit", row.commit), ("seed", row.seed), ("on", row.device)]
    made = ", ".join(f"{name} {value}" for name, value in facts if value is not None)
    lines += ["## Made by\n", code_block(row.command or "(not recorded)")]
    lines.append(markdown(f"{made[:1].upper()}{made[1:]}{'. ' if made else ''}Measured {results.date}."))
    return "\n".join(lines) + "\n"


def size_lines(row: ResultRow, device: str | None) -> list[str]:
    """What a model takes: bytes, parameters, time, memory; and its rates on dev."""
    lines = [
        f"- ships {row.bytes_shipped:,} bytes: the files that its SHA256SUMS lists"
        + (f"; {row.bytes_with_lm:,} bytes with its language model" if row.bytes_with_lm else ""),
        f"- {row.parameters:,} parameters, {row.nonzero_parameters:,} of them not zero",
        f"- {number(row.macs_per_second, 1e6, 1)} million multiply-accumulates per second of audio",
    ]
    measured = row.benchmark or {}
    if measured.get("latency_ms"):
        latency = ", ".join(f"{name} {value:.1f} ms" for name, value in measured["latency_ms"].items())
        lines += [
            f"- real-time factor {factor(row.rtf)} on one thread of {markdown(device)}, {factor(row.rtf_with_features)} with features"
            + (", both with greedy search" if row.head == "transducer" else ""),
            f"- latency {latency}; opens in {measured['load_s']:.3f} s; {measured['peak_memory_bytes'] / 1e6:.0f} MB at most",
        ]
    if row.dev_wer_percent is not None:
        rates = f"{row.dev_wer_percent:.2f} % WER"
        rates += f", {row.dev_cer_percent:.2f} % CER" if row.dev_cer_percent is not None else ""
        lines.append(f"- dev, greedy, by torch before export: {rates}; dev serves to choose settings, so it is no test")
    return lines


def set_lines(results: Results, row: ResultRow) -> list[str]:
    """What a model makes of one test set: every decoding, against its parent, in chunks, in noise, by other runtimes."""
    lines = [
        f"- {name}: {score.wer_percent:.2f} % {score.rate} ({score.errors} / {score.words}), 95 % interval "
        f"{score.interval.low:.2f} to {score.interval.high:.2f}; {score.word_accuracy_percent:.2f} % of {UNITS[score.rate]} right"
        for name, score in row.scores.items()
    ]
    lines += [f"- {markdown(line)}" for line in speaker_lines(results, row.set)]
    lines += [
        f"- {item.kind}, against {markdown(item.b)}: {interval_text(item.difference).strip()} points"
        for item in results.comparisons
        if (item.a, item.b, item.set) == (row.model, row.parent, row.set)
    ]
    live = [one for one in results.streaming if (one.model, one.set) == (row.model, row.set)]
    lines += [f"- {line}" for line in card_lines(live)]
    lines += [f"- greedy with noise at {n.snr_db} dB: {n.interval.percent:.2f} % {rate_of([row])}" for n in row.noise]
    return lines + [
        f"- {a.a} and {a.b}, {a.kind}: {len(a.differences)} of {a.utterances} texts differ" for a in row.agreement
    ]
