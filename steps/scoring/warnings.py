"""What a reader must know before the numbers: faults that the doctor found in trainings, teaching that hurt, words that cannot come
out, one speaker."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steps.core.cli import UserError
from steps.core.config import read_yaml
from steps.core.outdir import sha256_file
from steps.core.tables import SHOWN, counted
from steps.scoring.results import Comparison, ResultRow, TestSet
from steps.scoring.sources import read_json

DIAGNOSIS = "diagnosis.json"
# where run.sh has a teacher store what it says
LABELS = "labels/labels.json"


def find_warnings(
    exp: str | Path, rows: Sequence[ResultRow], comparisons: Sequence[Comparison], sets: Sequence[TestSet]
) -> list[dict[str, str]]:
    """Warnings of a report, the gravest first.

    Returns: list of {"level": "warning" or "note", "text": a sentence or two}; empty when nothing is wrong.
    """
    models = list(dict.fromkeys(row.model for row in rows))
    found = [{"level": "warning", "text": text} for text in teaching(rows, comparisons, read_teachers(exp, models))]
    findings = read_findings(exp, models)
    for level in ("warning", "note"):
        found += [{"level": level, "text": summary(texts)} for (of, _), texts in findings.items() if of == level]
    found += [{"level": "note", "text": text} for text in unspelled(exp, rows)]
    for one in sets:
        if one.speakers == 1:
            text = f"{one.name} has one speaker: its error rates say nothing about anybody else."
            found.append({"level": "note", "text": text})
    return found


def unspelled(exp: str | Path, rows: Sequence[ResultRow]) -> list[str]:
    """Which models have an lm column in which not all can come out that comes out in those of the others."""
    lacking: dict[tuple[bool, tuple[str, ...]], list[str]] = {}
    for model in dict.fromkeys(row.model for row in rows if "lm" in row.scores):
        path = Path(exp) / model / "export" / "graph.json"
        facts = read_json(path) if path.is_file() else {}
        words = facts.get("not_spelled", [])
        if not isinstance(words, list):
            raise UserError(f"{path}: not what steps.make_graph writes; export the model again")
        if words:
            lacking.setdefault((facts.get("unit") == "token", tuple(map(str, words))), []).append(model)
    return [
        f"{', '.join(models)}: never in the lm column: {counted(len(words), 'token' if of_tokens else 'word')} "
        f"{'that the language model does not know' if of_tokens else 'of the language model that cannot be spelled in tokens'}: "
        f"{' '.join(words[:SHOWN])}{' ...' if len(words) > SHOWN else ''}."
        for (of_tokens, words), models in lacking.items()
    ]


def summary(texts: Mapping[str, Sequence[str]]) -> str:
    """One finding of several models, in the words of the first. Args: texts: {its text, numbers included: models}."""
    (text, names), *others = texts.items()
    rest = [name for _, more in others for name in more]
    return f"{', '.join(names)}: {text}" + (f" The same, with other numbers: {', '.join(rest)}." if rest else "")


def transcript_notes(paths: Sequence[str | Path]) -> list[dict[str, str]]:
    """What is known of transcripts that a recogniser wrote for the training. Args: paths: of local/filter_transcripts.py."""
    found = []
    for path in paths:
        facts = read_json(path)
        text = (
            f"{facts['set']}: {facts['kept']} of {facts['transcripts']} transcripts of a recogniser passed the filter"
        )
        if "errors" in facts:
            every, kept = facts["errors"]["all"], facts["errors"]["kept"]
            rate = "cer" if "cer" in every else "wer"
            text += f"; as measured here, they have {every[rate]:.2f} % {rate.upper()}, those that passed {kept[rate]:.2f} %"
        found.append({"level": "note", "text": f"{text}."})
    return found


def read_findings(exp: str | Path, models: Sequence[str]) -> dict[tuple[str, str], dict[str, list[str]]]:
    """What the doctor wrote into the model folders. Returns: {(level, kind): {text: models}}; those without a diagnosis are left out.

    Raises: UserError for another file of that name.
    """
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for model in models:
        path = Path(exp) / model / DIAGNOSIS
        findings = read_json(path).get("findings") if path.is_file() else []
        if not isinstance(findings, list) or not all(isinstance(one, dict) for one in findings):
            raise UserError(f"{path}: not what steps.diagnose writes; run it again")
        for one in findings:
            level, text = "warning" if one.get("serious", True) else "note", str(one.get("text"))
            found.setdefault((level, str(one.get("kind", text))), {}).setdefault(text, []).append(model)
    return found


def read_teachers(exp: str | Path, models: Sequence[str]) -> dict[str, list[str | None]]:
    """Who taught each student: reported models, by their weights or by the labels stored in their folders (store_teaching).

    Returns: {model: names}, empty lists for those trained alone; None stands for a teacher that is not reported.
    """
    names = {read_json(Path(exp) / model / "model.json").get("weights_sha256"): model for model in models}
    names |= {sha256_file(path): model for model in models if (path := Path(exp) / model / LABELS).is_file()}
    teachers: dict[str, list[str | None]] = {}
    for model in models:
        path = Path(exp) / model / "conf.yaml"
        settings: Mapping[str, Any] = read_yaml(path) if path.is_file() else {}
        if settings.get("step") == "distill_student":
            taught_by = settings.get("teacher")
            known = taught_by if isinstance(taught_by, list) else []
            teachers[model] = [names.get(one) if isinstance(one, str) else None for one in known]
    return teachers


def teaching(
    rows: Sequence[ResultRow], comparisons: Sequence[Comparison], teachers: Mapping[str, Sequence[str | None]]
) -> list[str]:
    """Teachers that are worse than those they teach, and teaching that costs errors beyond chance, greedy."""
    scores = {(row.model, row.set): row.scores["greedy"] for row in rows}
    lines = []
    for (model, name), score in scores.items():
        for teacher in filter(None, teachers.get(model, [])):
            rivals = [model, *(b for b, names in teachers.items() if not names)]
            beaten = [r for r in rivals if scores[teacher, name].interval.low > scores[r, name].wer_percent]
            if beaten:
                rates = " and ".join(f"{r} ({scores[r, name].wer_percent:.1f} %)" for r in beaten)
                lines.append(
                    f"{teacher} makes more errors on {name} ({scores[teacher, name].wer_percent:.1f} % {score.rate}) than "
                    f"{rates}: it has nothing to teach. Mend its training first."
                )
    for item in comparisons:
        d = item.difference
        if item.kind == "greedy" and teachers.get(item.a) and teachers.get(item.b) == [] and d.low > 0:
            lines.append(
                f"Teaching hurt: {item.a} makes {d.percent:.1f} points more errors on {item.set} [{d.low:.1f}, {d.high:.1f}] "
                f"than {item.b}, which had no teacher."
            )
    return list(dict.fromkeys(lines))
