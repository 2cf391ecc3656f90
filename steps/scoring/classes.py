"""Recognition as classification, for recipes whose transcripts are commands or single words: each text is a class."""

import collections
from collections.abc import Mapping
from typing import Any

# stands for every hypothesis that is no class, the empty one included
OTHER = ""


def classification(refs: Mapping[str, str], hyps: Mapping[str, str]) -> dict[str, Any]:
    """Accuracy, precision, recall, F1 and the confusion matrix; the classes are the texts of the references.

    Args:    refs, hyps: utterance id -> text.
    Returns: dict ready for JSON: "accuracy", "macro_precision", "macro_recall", "macro_f1" in percent (the plain mean
             over classes); "classes": {text: {"precision", "recall", "f1", "support", "predicted"}};
             "confusions": {reference: {hypothesis: count}}, where "" is any text that is no class. The precision of a
             class that was never recognised is 0.
    """
    pairs = collections.Counter((" ".join(ref.split()), " ".join(hyps[utt_id].split())) for utt_id, ref in refs.items())
    names = sorted({ref for ref, _ in pairs})
    known = set(names)
    confusions: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in names}
    for (ref, hyp), count in pairs.items():
        confusions[ref][hyp if hyp in known else OTHER] += count
    predicted: collections.Counter[str] = sum(confusions.values(), collections.Counter())
    rows = {name: _class_row(confusions[name][name], confusions[name].total(), predicted[name]) for name in names}
    right = sum(confusions[name][name] for name in names)
    macro = {f"macro_{key}": _mean([row[key] for row in rows.values()]) for key in ("precision", "recall", "f1")}
    return {
        "accuracy": 100.0 * right / max(len(refs), 1),
        **macro,
        "classes": rows,
        "confusions": {name: {hyp: found[hyp] for hyp in sorted(found)} for name, found in confusions.items()},
    }


def _class_row(right, support, predicted):
    precision, recall = right / predicted if predicted else 0.0, right / support
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    rates = {"precision": 100 * precision, "recall": 100 * recall, "f1": 100 * f1}
    return {**rates, "support": support, "predicted": predicted}


def _mean(values):
    return sum(values) / len(values) if values else 0.0


def format_classes(result: Mapping[str, Any], most: int = 50) -> str:
    """Text of the classes file: the overall figures, a row per class, the most frequent confusions."""
    heads = ("accuracy", "macro_precision", "macro_recall", "macro_f1")
    lines = ["  ".join(f"{head.replace('_', ' ')} {result[head]:.2f} %" for head in heads), ""]
    width = max(map(len, result["classes"]), default=5)
    lines.append(f"{'class':{width}}  precision  recall      F1  support  predicted")
    for name, row in result["classes"].items():
        rates = f"{row['precision']:9.2f}  {row['recall']:6.2f}  {row['f1']:6.2f}"
        lines.append(f"{name:{width}}  {rates}  {row['support']:7d}  {row['predicted']:9d}")
    wrong = [
        (-count, ref, hyp) for ref, found in result["confusions"].items() for hyp, count in found.items() if hyp != ref
    ]
    lines += ["", "count  reference -> hypothesis"]
    lines += [f"{-count:5d}  {ref} -> {hyp or '(no class)'}" for count, ref, hyp in sorted(wrong)[:most]]
    return "\n".join(lines) + "\n"
